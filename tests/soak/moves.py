"""5,000 walks through the life of messages: all commands in any order, against a model."""

import sys
import traceback

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chaos import arguments
from tests.life import Walk
from tests.soak import Report

STEPS = 50


def main(args: list[str]) -> Report:
    """`moves [WALKS] [--seed N]`"""
    rounds, draw = arguments(args, 5_000)
    profile = settings(
        max_examples=rounds,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    try:
        run_state_machine_as_test(seed(draw.randrange(1 << 32))(Walk), settings=profile)
    except (AssertionError, ExceptionGroup) as error:
        traceback.print_exception(error, file=sys.stdout)
        return Report(rounds, 0, "a walk ended elsewhere than the model")
    return Report(rounds, rounds, "ok")

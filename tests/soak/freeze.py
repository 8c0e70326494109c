"""A process frozen with the head, a message, a key, a hot product: 30 times each, two ways."""

import httpx

from tests import chaos
from tests.proxy import Place
from tests.soak import Report


def main(args: list[str]) -> Report:
    """`freeze [FREEZES OF EACH KIND] [--seed N]`"""
    rounds, draw = chaos.arguments(args, 30)
    places = [Place.AFTER, Place.HALF]
    plan = [(what, places[n % 2]) for what in chaos.FREEZES for n in range(rounds)]
    draw.shuffle(plan)
    found: list[str] = []
    chaos.ANSWER_SECONDS = 5.0  # the machine is this run's alone
    with chaos.own_pair() as pair:
        for what, place in plan:
            try:
                chaos.FREEZES[what](pair, place)
            except (AssertionError, OSError, LookupError, httpx.HTTPError) as error:
                found.append(f"{what}, {place.value}: {chaos.reason(error)}")
    print("\n".join(found), flush=True)
    return Report(len(plan), len(plan) - len(found), "; ".join(found[:3]) or "ok")

"""A process frozen while it holds the head, a message or a key: 30 times each."""

import httpx

from tests import chaos
from tests.soak import Report


def main(args: list[str]) -> Report:
    """`freeze [FREEZES OF EACH KIND] [--seed N]`"""
    rounds, draw = chaos.arguments(args, 30)
    plan = [what for what in chaos.FREEZES for _ in range(rounds)]
    draw.shuffle(plan)
    found: list[str] = []
    with chaos.own_pair() as pair:
        for what in plan:
            try:
                chaos.FREEZES[what](pair)
            except (AssertionError, OSError, LookupError, httpx.HTTPError) as error:
                found.append(f"{what}: {error}")
    print("\n".join(found), flush=True)
    return Report(len(plan), len(plan) - len(found), "; ".join(found[:3]) or "ok")

"""1,000 sales of ten copies to 64 buyers, with everything that can happen to a purchase."""

import asyncio

from tests import sale
from tests.chaos import arguments
from tests.eye import LOOKS_A_SECOND
from tests.soak import Report

LANES = 24  # sales at a time


def main(args: list[str]) -> Report:
    """`scramble [ROUNDS] [--seed N]`"""
    rounds, draw = arguments(args, 1_000)
    with sale.own_premises() as place:
        assert place.eye is not None
        with place.eye() as eye:
            told = asyncio.run(sale.scramble(place, rounds, LANES, draw))
        sight = eye.sight
        found = [*told.wrong, *sight.wrong, *place.faults(), *sale.remembered(place, told)]
        happened = place.ledger.sql("SELECT type, count(*) FROM events GROUP BY type ORDER BY 1")
    print(", ".join(happened))
    print(f"{len(told.accepted)} purchases accepted, {len(told.sold)} sold")
    print(f"{sight.looks} looks, {sight.fewest} at least in a second, at {sight.levels} levels")
    if sight.fewest < LOOKS_A_SECOND:
        found.append(f"only {sight.fewest} looks in a second")
    print("\n".join(found), flush=True)
    return Report(rounds, told.rounds if not found else 0, "; ".join(found[:3]) or "ok")

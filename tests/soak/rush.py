"""600 buyers at one moment for 500 copies, over two processes: 50 times."""

import asyncio
import random

from tests import sale
from tests.chaos import arguments, reason
from tests.sale import Premises, Shop
from tests.soak import Report


async def run(place: Premises, rounds: int, draw: random.Random) -> list[str]:
    """What went wrong."""
    found: list[str] = []
    with Shop(place) as shop:
        crowd = shop.crowd(sale.BUYERS)
        for _ in range(rounds):
            try:
                await sale.rush(shop, crowd, draw)
            except (AssertionError, OSError, TimeoutError) as error:
                found.append(reason(error))
    return found


def main(args: list[str]) -> Report:
    """`rush [ROUNDS] [--seed N]`"""
    rounds, draw = arguments(args, 50)
    with sale.own_premises() as place:
        assert place.eye is not None
        with place.eye() as eye:
            found = asyncio.run(run(place, rounds, draw))
        found += [*eye.sight.wrong, *place.faults()]
    print(f"{eye.sight.looks} looks, {eye.sight.fewest} at least in a second")
    print("\n".join(found), flush=True)
    return Report(rounds, rounds - len(found), "; ".join(found[:3]) or "ok")

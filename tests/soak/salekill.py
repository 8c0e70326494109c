"""kill -9 of a process in the middle of a sale, 50 times; buyers ask again."""

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
        for _ in range(rounds):
            try:
                await sale.struck(shop, draw)
            except (AssertionError, OSError, TimeoutError) as error:
                found.append(reason(error))
    return found


def main(args: list[str]) -> Report:
    """`salekill [KILLS] [--seed N]`"""
    rounds, draw = arguments(args, 50)
    with sale.own_premises() as place:
        found = asyncio.run(run(place, rounds, draw))
    print("\n".join(found), flush=True)
    return Report(rounds, rounds - len(found), "; ".join(found[:3]) or "ok")

"""1,000 streams on the hot product of a sale, a fifth of them reconnecting meanwhile."""

import asyncio
import random

from tests import sale
from tests.chaos import arguments
from tests.sale import Premises, Shop, Watched
from tests.soak import Report


async def run(place: Premises, streams: int, draw: random.Random) -> Watched:
    with Shop(place) as shop:
        return await sale.watched(shop, streams, draw)


def main(args: list[str]) -> Report:
    """`watchers [STREAMS] [--seed N]`"""
    streams, draw = arguments(args, 1_000)
    with sale.own_premises() as place:
        found = asyncio.run(run(place, streams, draw))
        wrong = [*found.wrong, *place.faults()]
    print(f"{found.events} events came, {found.left_out} were left out as they may be")
    print("\n".join(wrong), flush=True)
    return Report(streams, streams - len(wrong), "; ".join(wrong[:3]) or "ok")

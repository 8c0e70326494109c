"""500 scrambles of tabs on the same carts over two writers, and 20 kills while carts are bought."""

import asyncio
import random

from tests import services, tabs
from tests.chaos import arguments, reason
from tests.house import House, running
from tests.soak import Report
from tests.test_writer import standing


async def scrambles(url: str, rounds: int, draw: random.Random) -> list[str]:
    async with standing(url) as stand:
        writers = [stand.writer, await stand.second()]
        found = [
            fault for _ in range(rounds) for fault in await tabs.scramble(stand.db, writers, draw)
        ]
        await stand.check()
        await stand.close()
    return found


async def kills(house: House, url: str, rounds: int, draw: random.Random) -> list[str]:
    found: list[str] = []
    with tabs.regulars(house, 8) as regulars:
        for _ in range(rounds):
            try:
                await tabs.struck(house, url, draw, regulars)
            except (AssertionError, ExceptionGroup, TimeoutError) as error:
                found.append(reason(error))
    return found


def main(args: list[str]) -> Report:
    """`carts [SCRAMBLES] [--seed N]`; for each 25 of them a kill."""
    rounds, draw = arguments(args, 500)
    with services.postgres() as cluster:
        found = asyncio.run(scrambles(cluster.url(cluster.create()), rounds, draw))
        url = cluster.url(cluster.create())
        with running(DATABASE_URL=url) as house:
            found += asyncio.run(kills(house, url, rounds // 25, draw))
    print("\n".join(found[:20]), flush=True)
    return Report(rounds, rounds if not found else 0, "; ".join(found[:3]) or "ok")

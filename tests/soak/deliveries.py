"""1,000,000 deliveries over 1,000 cut lines, 50 kills of a process and 50 of Redis."""

import asyncio

from tests import sale
from tests.chaos import arguments, reason
from tests.deliveries import Plan, besieged
from tests.soak import Report

DELIVERIES, RECONNECTS = 10_000, 10  # for each kill
STREAMS = 120


def main(args: list[str]) -> Report:
    """`deliveries [KILLS] [--seed N]`; half of the kills are Redis's."""
    rounds, draw = arguments(args, 100)
    kills = ["process", "redis"] * (rounds // 2) + ["process"] * (rounds % 2)
    draw.shuffle(kills)
    plan = Plan(DELIVERIES * rounds, RECONNECTS * rounds, STREAMS, kills)
    try:
        with sale.own_premises() as place:
            siege = asyncio.run(besieged(place, plan, draw))
    except (AssertionError, OSError) as error:
        return Report(plan.deliveries, 0, reason(error))
    found = siege.verdict
    print(f"{siege.kills} kills, {siege.reconnects} lines cut, {siege.connects} connects")
    print(f"{len(siege.traffic.accepted)} purchases, {found.left_out} events left out as they may")
    print("\n".join(found.wrong[:20]), flush=True)
    return Report(plan.deliveries, found.events, "; ".join(found.wrong[:3]) or "ok")

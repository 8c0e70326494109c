"""50 kills of a process and 20 of Redis while everybody works."""

from tests import chaos
from tests.chaos import Load
from tests.soak import Report


def main(args: list[str]) -> Report:
    """`crash [KILLS OF A PROCESS] [--seed N]`; of Redis two for each five."""
    rounds, draw = chaos.arguments(args, 50)
    plan = [*["process"] * rounds, *["redis"] * (rounds * 2 // 5)]
    draw.shuffle(plan)
    found: list[str] = []
    with chaos.own_pair() as pair, Load(pair.house, pair.ledger, draw) as load:
        for what in plan:
            victim = pair.redis if what == "redis" else pair.process(draw.randrange(2))
            chaos.killed(load, victim, draw)
            if pair.ledger.sql(chaos.DIFFERING) != ["0"]:
                found.append("the counts differ from the rows in one snapshot")
        found += load.finish()
        connects = sum(reader.connects for reader in load.readers)
        events = sum(len(reader.seqs) for reader in load.readers)
        print(f"{len(load.posted)} posts, {len(load.settled)} settled, {len(load.claimed)} claims")
        print(f"{events} events read over {connects} connects", flush=True)
    return Report(len(plan), len(plan) if not found else 0, "; ".join(found[:3]) or "ok")

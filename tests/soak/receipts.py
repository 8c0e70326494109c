"""Over 10,000 receipts used after the lease ran out, by 16 workers stopped and continued."""

from tests import chaos
from tests.soak import Report

WORKERS = 16


def main(args: list[str]) -> Report:
    """`receipts [ROUNDS] [--seed N]`: 800 receipts a round, each used twice when it is stale."""
    rounds, draw = chaos.arguments(args, 13)
    asked = rounds * WORKERS // 2 * chaos.LEASES
    with chaos.own_pair() as pair:
        found = chaos.stale(pair, WORKERS, rounds, draw)
    return Report(asked, asked - len(found), "; ".join(found[:3]) or "ok")

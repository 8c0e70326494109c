"""1,000 idempotency keys, each posted 32 times at once over two processes."""

from tests import chaos
from tests.soak import Report


def main(args: list[str]) -> Report:
    """`keys [KEYS] [--seed N]`"""
    rounds, draw = chaos.arguments(args, 1_000)
    keys = [f"{draw.randrange(1 << 64):x}" for _ in range(rounds)]
    with chaos.own_pair() as pair:
        found = chaos.posted_once(pair, keys)
    return Report(rounds, rounds - len(found), "; ".join(found[:3]) or "ok")

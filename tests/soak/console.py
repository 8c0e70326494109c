"""The console with 1,000,000 messages, 50 queues and 500 events a second: smooth and flat."""

import argparse
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests import console, sale
from tests.console import Size
from tests.house import running
from tests.ledger import Ledger
from tests.sale import Premises
from tests.soak import Report

IN_ALL = 515  # seconds, loading and end included
LEAST, MOST = 120, 360  # of traffic, unless another time is asked for
MESSAGES = 1_000_000


@contextmanager
def on_sqlite() -> Iterator[Premises]:
    with running() as house:
        yield Premises(house, Ledger.sqlite(house.servers[0]))


def counts(place: Premises) -> list[str]:
    """The counters against the rows."""
    counted, kept = place.ledger.counted(), place.ledger.kept()
    return [] if counted == kept else [f"counted {counted}, kept {kept}"]


def main(args: list[str]) -> Report:
    """`console [MESSAGES] [--seconds S] [--rate N] [--sqlite] [--seed N]`"""
    parser = argparse.ArgumentParser()
    parser.add_argument("messages", nargs="?", type=int, default=MESSAGES)
    parser.add_argument("--seconds", type=float, help="of traffic; else what is left of nine")
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args(args)
    print(f"seed {given.seed}", flush=True)
    began = time.monotonic()
    with on_sqlite() if given.sqlite else sale.own_premises() as place:
        took = console.furnish(place.house, Size(given.messages))
        print(f"{given.messages} messages written in {took:.0f} s", flush=True)
        left = min(MOST, max(LEAST, IN_ALL - (time.monotonic() - began)))
        seconds = left if given.seconds is None else given.seconds
        size = Size(
            given.messages,
            rate=given.rate,
            seconds=seconds,
            warm=min(60, seconds / 4),
            strict=seconds >= LEAST,
        )
        found = console.run(place.house, size, random.Random(given.seed))
        wrong = [*found.wrong, *counts(place)]
    print("\n".join(found.told))
    print(f"{found.pages} pages open, {found.visits} visits in {seconds:.0f} s")
    print("\n".join(wrong), flush=True)
    return Report(found.pages, found.pages if not wrong else 0, "; ".join(wrong[:3]) or "ok")

"""2,000 streams opened with a snapshot under full load: state and changes are the database."""

import asyncio

from tests import sale
from tests.chaos import arguments, reason
from tests.mirrors import mirrored
from tests.soak import Report


def main(args: list[str]) -> Report:
    """`snapshots [STREAMS] [--seed N]`"""
    streams, draw = arguments(args, 2_000)
    try:
        with sale.own_premises() as place:
            gallery = asyncio.run(mirrored(place, streams, draw))
    except (AssertionError, OSError) as error:
        return Report(streams, 0, reason(error))
    wrong = gallery.verdict.wrong
    truncated = sum(one.truncated for one in gallery.mirrors)
    print(f"{gallery.verdict.events} events to {streams} streams, {truncated} of them truncated")
    again = sum(one.shown > 1 for one in gallery.mirrors)
    print(f"{gallery.reconnects} lines cut, {again} streams in their snapshot, which came again")
    print(f"{len(gallery.traffic.accepted)} purchases")
    print("\n".join(wrong[:20]), flush=True)
    return Report(streams, streams if not wrong else 0, "; ".join(wrong[:3]) or "ok")

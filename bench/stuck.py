"""Readers that never read, among others that do: what the others notice."""

import sys
import time
from dataclasses import dataclass
from statistics import median

from bench import load, report, rivals
from bench.audience import Listeners
from bench.fanout import CALM, CALM_HEAD, SHORTEST, Field, Size, Step, calm_row, field

READERS, DEAF = 1_000, 1_000
DROP_SECONDS = 60  # after the last event, all that are stuck are gone
TIMES = 2  # what p99 may become


@dataclass(frozen=True, slots=True)
class Sample:
    """One round."""

    alone: Step
    beside: Step
    dropped: int  # of those that are stuck, at the end of the window

    @property
    def ratio(self) -> float:
        return self.beside.p99 / self.alone.p99


def sample(place: Field, seconds: float) -> Sample:
    """
    Raises:
        Lost: a reader missed something.
        load.Refused: one that is stuck was not dropped.
    """
    with place.stage(rivals.Ours.name, Size(READERS)) as stage:
        stage.step(CALM, SHORTEST)  # caches, statements, connections
        alone = stage.step(CALM, seconds)
        with stage.deaf(DEAF) as deaf:
            beside = stage.step(CALM, seconds)
            dropped = deaf.heard().deaf_closed
            _end(deaf)
    return Sample(alone, beside, dropped)


def _end(deaf: Listeners) -> None:
    deadline = time.monotonic() + DROP_SECONDS
    while (gone := deaf.heard().deaf_closed) < DEAF:
        if time.monotonic() > deadline:
            raise load.Refused(f"{gone} of {DEAF} readers that are stuck were dropped")
        time.sleep(0.1)


WORDS = f"""{READERS:,} readers of one topic with {CALM} events a second, each a purchase in a post
of its own, for {{seconds:g}} s; then the same for as long with {DEAF:,} more streams of that topic
that have a receive buffer of 4 KiB and never read. These first fill what the kernel and the service
hold for them, are then stuck, and are dropped when they have not moved for 20 s: the second row
begins when they are open and goes through all of that. Latencies are the readers', of all
deliveries, from the event's `time`, which is that of the transaction, to the read. Every reader
got every event. SQLite, one process; the server has a core, the clients the other. The target: at
most {TIMES} times the p99. Medians of {{rounds}} rounds."""


def run(rounds: int, seconds: float, *, write: bool) -> None:
    """
    Raises:
        services.Missing: nchan or a compiler is not here.
        Lost, load.Refused: see `sample`.
    """
    where = report.machine(["sqlite"])
    found: list[Sample] = []
    with field() as place:
        for _ in range(rounds):
            found.append(sample(place, seconds))
            print(found[-1], file=sys.stderr, flush=True)
    rows = [
        calm_row(f"{READERS:,}", [one.alone for one in found]),
        calm_row(f"{READERS:,} beside {DEAF:,} stuck", [one.beside for one in found]),
    ]
    ratio = median(one.ratio for one in found)
    dropped = median(one.dropped for one in found)
    said = (
        f"Beside those that are stuck p99 is **{ratio:.2f}** times what it is alone. "
        f"{dropped:,.0f} of them had been dropped at the end of that row."
    )
    table = report.table(("readers", *CALM_HEAD), rows)
    words = WORDS.format(seconds=seconds, rounds=rounds)
    report.publish("Stuck readers", where, words, table, said, write=write)

"""From the arrival of a purchase to the event in the browser of who follows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench import load, report, stand
from bench.followers import Sale, Told, follow
from bench.ingest import NAMES

P99_MS = 25  # what is promised
HEAD = (
    "round",
    "told",
    "p50 ms",
    "**p99 ms**",
    "max ms",
    "same process p50",
    "p99",
    "other process p50",
    "p99",
    "answer p50",
    "p99",
    "client late p99",
    "max ms",
    "client CPU",
    "service CPU",
)


@dataclass(frozen=True, slots=True)
class Amount:
    rate: float = 500  # purchases a second
    streams: int = 1_000
    seconds: float = 30
    warm: float = 5  # seconds before those


@dataclass(frozen=True, slots=True)
class Round:
    told: Told
    service: float  # shares of a core, of all processes of the service

    def numbers(self) -> list[float]:
        """The columns that follow `told`."""
        told, found = self.told, self.told.found
        return [
            *(told.every.p50, told.every.p99, told.every.most),
            *(told.same.p50, told.same.p99, told.other.p50, told.other.p99),
            *(found.p50, found.p99, found.late_p99, found.late_most),
            *(100 * found.busy, 100 * self.service),
        ]


def play(kind: str, amount: Amount) -> Round:
    """One round with fresh processes.

    Raises:
        load.Refused: not every purchase was accepted and told once.
        services.Missing: a database is not to be had.
    """
    most = str(amount.streams)
    settings = {
        "RATE_LIMITS": "off",
        "MAX_STREAMS_PER_PRINCIPAL": most,
        "MAX_STREAMS_PER_ADDRESS": most,
    }
    with stand.crew(kind, **settings) as crew:
        token = crew[0].account("crew", "producer", "viewer")
        sale = Sale(
            urls=[one.url for one in crew],
            post=f"{stand.API}/queues/{stand.QUEUE}/messages",
            events=f"{stand.API}/events",
            token=token,
            rate=amount.rate,
            seconds=amount.seconds,
            streams=amount.streams,
            warm=amount.warm,
        )
        before = _used(crew)
        told = follow(sale)
        service = (_used(crew) - before) / told.found.seconds
    check(told)
    return Round(told, service)


def _used(crew: Sequence[stand.Service]) -> float:
    return sum(load.cpu_seconds(one.pid) for one in crew)


def check(told: Told) -> None:
    """Raises load.Refused."""
    if set(told.found.statuses) != {"201"}:
        raise load.Refused(f"not every purchase was accepted: {told.found.statuses}")
    if told.missing or told.twice:
        raise load.Refused(f"{told.missing} purchases were not told, {told.twice} told twice")


def row(name: str, told: int, numbers: Sequence[float]) -> list[str]:
    texts = [f"{number:.1f}" for number in numbers[:-2]]
    texts[1] = f"**{texts[1]}**"
    return [name, f"{told:,}", *texts, *(f"{number:.0f} %" for number in numbers[-2:])]


def measure(kind: str, rounds: int, amount: Amount) -> str:
    found: list[Round] = []
    rows: list[list[str]] = []
    for number in range(rounds):
        found.append(play(kind, amount))
        rows.append(row(str(number + 1), found[-1].told.every.count, found[-1].numbers()))
    columns = zip(*(one.numbers() for one in found), strict=True)
    total = sum(one.told.every.count for one in found)
    rows.append(row("median", total, [median(column) for column in columns]))
    return f"### {NAMES[kind]}\n\n{report.table(HEAD, rows)}"


WORDS = f"""{{rate:g}} purchases a second for {{seconds:g}} s, posted **by the clock** whatever
became of those before them, each by one of {{streams:,}} customers who follow a stream of their
own. A latency counts from the moment at which the purchase was due until its `order.created` came
off the line of the customer's stream. With two processes half of the streams are open at the
other process than the one that was posted to. Every purchase was accepted and told exactly once.
The target: p99 at most {P99_MS} ms. `answer` is the answer to the post, `client late` how long
after the moment the client itself got to it, `CPU` shares of a core, with the
opening of the streams; databases and client run on
the same cores, and a client that is late or busy measures itself. Each round begins fresh
processes, and its first {{warm:g}} s do not count."""


def run(kinds: Sequence[str], rounds: int, amount: Amount, *, write: bool) -> None:
    where = report.machine(kinds)
    words = WORDS.format(
        rate=amount.rate, seconds=amount.seconds, streams=amount.streams, warm=amount.warm
    )
    tables = [measure(kind, rounds, amount) for kind in kinds]
    report.publish("Follow", where, words, *tables, write=write)

"""Streams on which nothing happens: what each costs in memory, and all of them in time."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from statistics import median
from urllib.parse import urlencode

from auth import Signer
from bench import load, report, stand
from bench.crowd import Client, Plan, State, request
from tests import services
from tests.memory import memory

BATCH = 1_000
HEARTBEAT_SECONDS = 15
KIB_EACH, BUSY_PERCENT = 32, 10  # what is promised
SECRET_KEY = "k" * 32
WAYS = {  # whose streams they are
    "bare": "a bare route that only waits",
    "customer": "a customer each, one token",
    "order": "an order each, one token",
    "ticket": "an order each, a ticket each",
}
HEAD = (
    "open streams",
    "**KiB each**, own memory",
    "shared in part (PSS)",
    "resident (RSS)",
    "MiB of the process",
    "**CPU, % of a core**",
    "client CPU",
)


@dataclass(frozen=True, slots=True)
class Amount:
    streams: int = 10_000
    seconds: float = 60
    warm: int = 100  # streams more, open before it is measured
    settle: float = 3  # seconds after the last one was opened


@dataclass(frozen=True, slots=True)
class Sample:
    """One round, or the medians of some."""

    uss: float  # KiB a stream above the process with the first ones; the same for the next two
    pss: float
    rss: float
    whole: float  # MiB that are the process's own, with all streams
    cpu: float  # share of a core
    client: float  # the same of who holds the other ends

    def row(self, name: str) -> list[str]:
        return [
            name,
            f"**{self.uss:.1f}**",
            f"{self.pss:.1f}",
            f"{self.rss:.1f}",
            f"{self.whole:.0f}",
            f"**{self.cpu * 100:.1f}**",
            f"{self.client * 100:.1f}",
        ]


def plan(service: stand.Service, way: str, amount: Amount) -> Plan:
    """Streams of the service, each of a topic that is its own."""
    count = amount.streams + amount.warm
    token = service.account("crew", "producer", "viewer")
    if way == "customer":
        asked = [{"topic": f"customer:c-{n}"} for n in range(count)]
    else:
        asked = [{"topic": f"order:{one}"} for one in _orders(service, token, count)]
    headers = [f"Authorization: Bearer {token}"]
    if way == "ticket":
        asked, headers = _tickets(service, asked), []
    path = f"{stand.API}/events?"
    requests = [request(path + urlencode(one), service.port, *headers) for one in asked]
    return Plan(service.port, requests, "event: hello\n", amount.warm)


def _orders(service: stand.Service, token: str, count: int) -> list[str]:
    """Ids of so many purchases that wait."""
    path = f"/queues/{stand.QUEUE}/messages/batch"
    found: list[str] = []
    while len(found) < count:
        batch = {"messages": [stand.PURCHASE] * min(BATCH, count - len(found))}
        found += [one["id"] for one in service.call(path, batch, token).json()["results"]]
    return found


def _tickets(service: stand.Service, asked: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The links that a shop would send: made here, as the service would."""
    signer = Signer(SECRET_KEY.encode(), service.settings["PUBLIC_URL"])
    ends = int((time.time() + 86_400) * 1000)
    topics = (one["topic"] for one in asked)
    made = (signer.issue_ticket("crew", 1, [one], ends, 16, signer.nonce(one)) for one in topics)
    return [{"ticket": one} for one in made]


@contextmanager
def opened(way: str, kind: str, amount: Amount) -> Iterator[tuple[services.Server, Plan]]:
    """A fresh process, and what is asked of it.

    Raises services.Missing.
    """
    if way == "bare":
        with stand.Bare() as bare:
            count = amount.streams + amount.warm
            yield bare, Plan(bare.port, [request("/wait", bare.port)] * count, "200", amount.warm)
        return
    most = str(amount.streams + amount.warm)
    settings = {
        "SECRET_KEY": SECRET_KEY,
        "RATE_LIMITS": "off",
        "MAX_STREAMS": most,
        "MAX_STREAMS_PER_PRINCIPAL": most,
        "MAX_STREAMS_PER_ADDRESS": most,
    }
    with (
        stand.databases(kind) as fresh,
        stand.Service(**fresh(), **settings) as service,
    ):
        yield service, plan(service, way, amount)


def sample(way: str, kind: str, amount: Amount) -> Sample:
    """Open all, let them be, and look.

    Raises:
        load.Refused: not all stayed open, or heard that they are.
        services.Missing: the database is not to be had.
    """
    with opened(way, kind, amount) as (target, asked), Client(asked) as client:
        time.sleep(amount.settle)
        before = memory(target.pid)
        client.open()
        time.sleep(amount.settle)
        first, used, began = client.look(), load.cpu_seconds(target.pid), time.monotonic()
        time.sleep(amount.seconds)
        cpu, seconds = load.cpu_seconds(target.pid) - used, time.monotonic() - began
        last, after = client.look(), memory(target.pid)
    beating = 0.0 if way == "bare" else seconds
    check(last, len(asked.requests), last.heartbeats - first.heartbeats, beating)
    then, now = astuple(before), astuple(after)
    uss, pss, rss = ((b - a) / 1024 / amount.streams for a, b in zip(then, now, strict=True))
    client_cpu = (last.cpu - first.cpu) / seconds
    return Sample(uss, pss, rss, after.uss / 2**20, cpu / seconds, client_cpu)


def check(state: State, streams: int, beats: int, seconds: float) -> None:
    """All are open, and heard `beats` in so many seconds. Raises load.Refused."""
    if state.open < streams:
        raise load.Refused(f"{state.closed} of {streams} streams ended")
    expected = streams * int(seconds / HEARTBEAT_SECONDS)
    if beats < expected * 0.9:
        raise load.Refused(f"{beats} heartbeats came of {expected}")


def middle(samples: Sequence[Sample]) -> Sample:
    columns = zip(*(astuple(one) for one in samples), strict=True)
    return Sample(*map(median, columns))


def measure(ways: Sequence[str], kind: str, rounds: int, amount: Amount) -> list[list[str]]:
    """Round after round of all, so that they meet the same machine; the medians."""
    found: dict[str, list[Sample]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, samples in found.items():
            samples.append(sample(way, kind, amount))
            print(way, samples[-1], file=sys.stderr, flush=True)
    return [
        middle(samples).row(f"{amount.streams:,}: {WAYS[way]}") for way, samples in found.items()
    ]


WORDS = f"""Streams on which nothing happens, {{seconds:g}} s long: heartbeats go on, one in
{HEARTBEAT_SECONDS} s for each, and came. The orders wait in a line that stands still, of which
each stream is told its place once. `KiB each` is what the process holds alone (USS) at the end of
that time above what it held with {{warm}} streams open, divided by the number of streams; the
kernel's sockets and buffers are in no column. CPU is the whole process, its looks at the database
included, and counts what the kernel did for it. The targets: at most {KIB_EACH} KiB each and less
than {BUSY_PERCENT} % of a core. Each round begins a process of its own, the rounds of the rows
alternate, and each number is the median of {{rounds}}. The rate limits are off: 600 streams a
minute would be theirs. The other ends are a process on the same cores."""


def run(ways: Sequence[str], kind: str, rounds: int, amount: Amount, *, write: bool) -> None:
    where = report.machine([kind])
    words = WORDS.format(seconds=amount.seconds, warm=amount.warm, rounds=rounds)
    rows = measure(ways, kind, rounds, amount)
    report.publish("Idle streams", where, words, report.table(HEAD, rows), write=write)

"""One event to thousands of streams: how many deliveries a second one core makes."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import median

from bench import load, report, rivals
from bench.audience import (
    CLIENT_CORE,
    SERVER_CORE,
    Fell,
    Listeners,
    Posts,
    Programs,
    on_core,
    programs,
)
from tests.sale import many_files

BURSTS = 100  # a second: what arrives more often comes together
STEP = 1.5
RISE = 1.1  # less than a tenth more is hardly more
MISSES = 2  # steps that bring hardly more: it is saturated
FLOOD = 3  # times what it delivers was due: so it is too
BUSY = 0.9  # of its core: a busier client is what is measured
WINDOW_EVENTS = 30  # at least so many events in a window, as long as it is
SHORTEST, LONGEST = 3.0, 8.0  # seconds of a window
SETTLE = 1.0  # seconds that it goes on before
DRAIN_SECONDS = 60
TIMES = 3  # nchan's deliveries, with one topic
MORE_MS = 5  # than nchan's p99
CALM = 50  # events a second of the latencies
HEAD = (
    "subscribers",
    "topics",
    "server",
    "events due /s",
    "**deliveries /s**",
    "MB /s",
    "p50 ms",
    "p99 ms",
    "server's core",
    "client's core",
)
CALM_HEAD = ("p50 ms", "**p99 ms**", "max ms", "server's core", "client's core")
NAMES = (rivals.Ours.name, rivals.Nchan.name, rivals.Plain.name)


class Lost(Exception):
    """What was delivered is not what was published, times the subscribers."""


@dataclass(frozen=True, slots=True)
class Size:
    """Who listens: all to the one topic, or each to his own."""

    subscribers: int
    topics: int = 1
    first: float = 60_000  # deliveries a second that the first step asks for

    @property
    def fan(self) -> int:
        """Deliveries of one event."""
        return self.subscribers // self.topics


CALM_SIZE = Size(1_000)
SIZES = {
    "1000": Size(1_000),
    "10000": Size(10_000),
    "1000x1000": Size(1_000, 1_000, first=1_000),
}


@dataclass(frozen=True, slots=True)
class Step:
    """A rate, and what came of it."""

    rate: float  # events a second that were due
    delivered: float  # a second
    bytes: float  # a second
    p50: float
    p99: float
    most: float
    server: float  # share of its core
    client: float

    @property
    def client_bound(self) -> bool:
        return self.client > BUSY

    def row(self, size: Size, name: str) -> list[str]:
        bound = " *client bound*" if self.client_bound else ""
        return [
            f"{size.subscribers:,}",
            f"{size.topics:,}",
            name,
            f"{self.rate:,.4g}" if self.rate < 1_000 else f"{self.rate:,.0f}",
            f"**{self.delivered:,.0f}**",
            f"{self.bytes / 1e6:,.0f}",
            f"{self.p50:,.1f}",
            f"{self.p99:,.1f}",
            f"{self.server:.0%}",
            f"{self.client:.0%}{bound}",
        ]


class Stage:
    """Someone who fans out, and who listens to him."""

    def __init__(
        self, rival: rivals.Rival, size: Size, listeners: Listeners, made: Programs
    ) -> None:
        self._rival, self._size, self._listeners, self._made = rival, size, listeners, made

    def step(self, rate: float, window: float = 0) -> Step:
        """Some seconds at a rate, until all of it is delivered.

        Raises:
            Lost: it never is.
            load.Refused: a post was.
        """
        events = math.ceil(rate / BURSTS)
        requests, copies = self._rival.posts(self._size.topics, events)
        window = window or min(LONGEST, max(SHORTEST, WINDOW_EVENTS / rate))
        posts = Posts(requests, rate / events, copies, SETTLE + window)
        ever = self._listeners.heard().ever
        with self._made.publisher(self._rival.port, posts) as publisher:
            time.sleep(SETTLE)
            before = self._used(publisher.cpu)
            self._listeners.mark()
            time.sleep(window)
            found = self._listeners.heard()
            after = self._used(publisher.cpu)
            said = publisher.result()
        if said.refused or said.answered < said.sent:
            raise load.Refused(f"{self._rival.name}: {said}")
        self._drain(ever + said.answered * events // copies * self._size.fan)
        server, client = ((b - a) / found.seconds for a, b in zip(before, after, strict=True))
        delivered, size = found.events / found.seconds, found.bytes / found.seconds
        return Step(rate, delivered, size, found.p50, found.p99, found.most, server, client)

    def deaf(self, count: int) -> AbstractContextManager[Listeners]:
        """As many more streams of the same, whose clients never read."""
        request = self._rival.request(self._size.topics)
        return self._made.listeners(self._rival.port, 0, request, deaf=count)

    def _used(self, publisher: float) -> tuple[float, float]:
        return load.cpu_seconds(self._rival.pid), self._listeners.cpu + publisher

    def _drain(self, expected: int) -> None:
        found = self._listeners.until_heard(expected, DRAIN_SECONDS)
        if found.ever != expected or found.closed:
            raise Lost(f"{self._rival.name}: {found}, and {expected} were due")

    def climb(self, rate: float) -> Step:
        """The most that it delivers: the rate rises until two steps in a row bring hardly more,
        or it closes its lines under what comes in.
        """
        best = step = self._said(rate)
        misses = 0
        while misses < MISSES and not step.client_bound and not self._flooded(step):
            rate *= STEP
            try:
                step = self._said(rate)
            except Fell as error:
                print(f"{self._rival.name} at {rate:.0f}/s: {error}", file=sys.stderr, flush=True)
                break
            misses = 0 if step.delivered > RISE * best.delivered else misses + 1
            best = max(best, step, key=lambda one: one.delivered)
        return best

    def _flooded(self, step: Step) -> bool:
        return step.delivered * FLOOD < step.rate * self._size.fan

    def _said(self, rate: float) -> Step:
        step = self.step(rate)
        print(self._rival.name, self._size, step, file=sys.stderr, flush=True)
        return step


@dataclass(frozen=True, slots=True)
class Field:
    """Where it takes place."""

    made: Programs
    event: bytes

    def server(self, name: str) -> AbstractContextManager[rivals.Rival]:
        """A fresh one."""
        servers: dict[str, Callable[[], AbstractContextManager[rivals.Rival]]] = {
            rivals.Ours.name: rivals.ours,
            rivals.Nchan.name: lambda: rivals.nchan(self.event),
            rivals.Plain.name: lambda: rivals.plain(self.event),
        }
        return servers[name]()

    @contextmanager
    def stage(self, name: str, size: Size) -> Iterator[Stage]:
        with self.server(name) as rival:
            request = rival.request(size.topics)
            with self.made.listeners(rival.port, size.subscribers, request) as listeners:
                yield Stage(rival, size, listeners, self.made)

    def best(self, name: str, size: Size, rate: float) -> Step:
        with self.stage(name, size) as stage:
            return stage.climb(rate)


@contextmanager
def field() -> Iterator[Field]:
    """
    Raises:
        services.Missing: nchan or a compiler is not here.
    """
    rivals.nginx_path()
    many_files()
    with on_core(CLIENT_CORE), programs() as made:
        with rivals.ours() as service:
            event = service.event()
        yield Field(made, event)


def compete(place: Field, size: Size, rounds: int) -> dict[str, list[Step]]:
    """The best step of each, round after round of all, so that they meet the same machine."""
    found: dict[str, list[Step]] = {name: [] for name in NAMES}
    for _ in range(rounds):
        for name, steps in found.items():
            if steps and name == rivals.Plain.name:
                continue  # once will do: it is far behind
            # Where it ended before is known: two steps below it the next round begins.
            rate = steps[-1].rate / STEP**2 if steps else size.first / size.fan
            steps.append(place.best(name, size, rate))
    return found


def middle(steps: Sequence[Step]) -> Step:
    return sorted(steps, key=lambda step: step.delivered)[len(steps) // 2]


def compared(size: Size, found: dict[str, list[Step]]) -> str:
    """One sentence: how many times nchan's."""
    pairs = zip(found[rivals.Ours.name], found[rivals.Nchan.name], strict=True)
    fair = [(ours, its) for ours, its in pairs if not (ours.client_bound or its.client_bound)]
    who = f"{size.subscribers:,} subscribers of {size.topics:,} topic{'s' * (size.topics > 1)}"
    if not fair:
        return f"- {who}: *client bound*, which does not count."
    ratio = median(ours.delivered / its.delivered for ours, its in fair)
    return f"- {who}: **{ratio:.2f}** times nchan's, the median of {len(fair)} rounds."


def deliveries(place: Field, sizes: Sequence[Size], rounds: int) -> str:
    rows, words = [], []
    for size in sizes:
        found = compete(place, size, rounds)
        rows += [middle(steps).row(size, name) for name, steps in found.items()]
        words.append(compared(size, found))
    return report.table(HEAD, rows) + "\n\n" + "\n".join(words)


def calm(place: Field, rounds: int, seconds: float) -> dict[str, list[Step]]:
    """Few events, each in a post of its own."""
    found: dict[str, list[Step]] = {name: [] for name in NAMES}
    for _ in range(rounds):
        for name, steps in found.items():
            with place.stage(name, CALM_SIZE) as stage:
                stage.step(CALM, SHORTEST)  # caches, statements, connections
                steps.append(stage.step(CALM, seconds))
            print(name, steps[-1], file=sys.stderr, flush=True)
    return found


def calm_row(name: str, steps: Sequence[Step]) -> list[str]:
    """The medians of some rounds."""
    return [
        name,
        f"{median(step.p50 for step in steps):.1f}",
        f"**{median(step.p99 for step in steps):.1f}**",
        f"{median(step.most for step in steps):.1f}",
        f"{median(step.server for step in steps):.0%}",
        f"{median(step.client for step in steps):.0%}",
    ]


WORDS = f"""One event goes to all subscribers of its topic. The server has core {SERVER_CORE}, all
its threads included; readers and publisher, two programs in C, have core {CLIENT_CORE}. Every
delivery is counted, and after each step what was delivered is compared with what was published
times the subscribers: a row in which anything is missing does not come about. An event is the same
CloudEvent of an `order.created` everywhere, of the same bytes but for its id; the blocks around it
have the same fields. The servers:

- **Filaviva**, one process, SQLite. Its events are purchases that it checks, stores durably and
  then tells; those that arrive together are one bulk post. What is due within 5 ms is one write.
- **nchan** in nginx, one worker, its memory store of {rivals.KEPT:,} messages a channel. Its events
  are stored nowhere else, posted one a request, pipelined over kept connections. Each is written
  to each subscriber by itself.
- **sse-starlette**, its plain generator with a queue for each subscriber, served with the options
  of the service. Its events are posted as nchan's are.

So Filaviva's core does more for each event, and less for each of its deliveries. Each round begins
a fresh server; the rounds alternate, and each row is the median of {{rounds}}. The rate limits are
off, and each stream's bounds are raised."""

DELIVERIES = f"""Events arrive by the clock, one by one up to {BURSTS} a second, above that in
{BURSTS} bursts a second of as many as it takes, whatever became of those before. The rate rises by
half each step until two in a row bring hardly more deliveries, or a third of what was due; the row
is the step with the most. Where `events due` are more than the deliveries divided by the fan-out,
they were too many and waited: Filaviva's to be stored, nchan's to be taken from the line. `core` is
the share of it that the server (its own process alone) and the clients took; a row whose client
took more than {BUSY:.0%} is *client bound* and does not count. With as many topics as subscribers a
delivery is an event, so that row measures how fast events come in. The target: with one topic
{TIMES} times nchan's deliveries."""

LATENCIES = f"""The servers and the event of the section above, with {CALM} events a second, each
in a post of its own, to {CALM_SIZE.subscribers:,} subscribers of one topic, for {{seconds:g}} s.
All deliveries count, from the event's `time` to the read of the client, by the same clock. nchan's
and sse-starlette's `time` is the moment at which the publisher sends it. Filaviva's is that of the
transaction: the commit and the disk come after it, so what is measured is more than the way from
the commit. All are cut to milliseconds, which adds half of one. A fresh server each round; medians
of {{rounds}} rounds. The target: a p99 of at most {MORE_MS} ms more than nchan's."""


def run(sizes: Sequence[str], rounds: int, *, write: bool) -> None:
    """
    Raises:
        services.Missing: nchan or a compiler is not here.
        Lost: a server did not deliver all.
        load.Refused: a post was refused.
    """
    where = report.machine(["sqlite"])
    words = WORDS.format(rounds=rounds)
    with field() as place:
        for title, some in _sections([SIZES[size] for size in sizes]):
            found = deliveries(place, some, rounds)
            report.publish(title, where, words, DELIVERIES, found, write=write)


def _sections(sizes: Sequence[Size]) -> Iterator[tuple[str, list[Size]]]:
    """All listen to one topic, or each to his own: these are numbers of different things."""
    for title, shared in (("Fan-out", True), ("Fan-out, a topic each", False)):
        if some := [size for size in sizes if (size.topics == 1) == shared]:
            yield title, some


def latency(rounds: int, seconds: float, *, write: bool) -> None:
    """Raises the same."""
    where = report.machine(["sqlite"])
    with field() as place:
        found = calm(place, rounds, seconds)
    pairs = zip(found[rivals.Ours.name], found[rivals.Nchan.name], strict=True)
    more = median(ours.p99 - its.p99 for ours, its in pairs)
    rows = [calm_row(name, steps) for name, steps in found.items()]
    said = f"Filaviva's p99 is nchan's **{more:+.1f} ms**; the target is at most +{MORE_MS}."
    words = LATENCIES.format(seconds=seconds, rounds=rounds)
    table = report.table(("server", *CALM_HEAD), rows)
    report.publish("Fan-out latency", where, words, table, said, write=write)

"""What it costs to tell thousands of people their place in a long line, while it moves."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode

import httpx

from bench import load, report, stand
from bench.ingest import NAMES

HEAD = ("open streams", "CPU, % of a core", "in the line, ms /s", "places told /s", "claims /s")
BATCH = 1_000
AT_ONCE = 50  # streams that are being opened
SPENT = re.compile(r"^filaviva_line_seconds_total (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Plan:
    pending: int = 100_000
    watchers: int = 5_000  # of orders at equal distances in the line
    claims: int = 50  # a second
    seconds: float = 20
    settle: float = 2  # seconds that claims go on before it is measured


@dataclass(frozen=True, slots=True)
class Sample:
    """What some seconds cost."""

    cpu: float  # share of a core that the service took
    line: float  # share of the time that it spent on places, its waiting included
    told: float  # places a second
    claimed: float  # messages a second

    def row(self, name: str) -> list[str]:
        cpu, line = f"{self.cpu * 100:.1f}", f"{self.line * 1000:.1f}"
        return [name, cpu, line, f"{self.told:.0f}", f"{self.claimed:.0f}"]


class Reader(asyncio.Protocol):
    """A stream that is read and counted."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.told = 0
        self.begun = asyncio.Event()  # hello came
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.told += data.count(b"event: position\n")
        if not self.begun.is_set() and b"event: hello\n" in data:
            self.begun.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True


class Bench:
    """A service with a long line, in which nobody has a priority."""

    def __init__(self, service: stand.Service, plan: Plan) -> None:
        self._service, self._plan = service, plan
        self._token = service.account("crew", "producer", "worker", "viewer")
        self._client = httpx.AsyncClient(
            base_url=service.url, headers={"Authorization": f"Bearer {self._token}"}, timeout=30
        )
        self.orders: list[str] = []  # in the line's order
        self._claimed = 0

    async def __aenter__(self) -> Self:
        await self._fill()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def _fill(self) -> None:
        path = f"{stand.API}/queues/{stand.QUEUE}/messages/batch"
        while len(self.orders) < self._plan.pending:
            count = min(BATCH, self._plan.pending - len(self.orders))
            answer = await self._client.post(path, json={"messages": [stand.PURCHASE] * count})
            self.orders += [one["id"] for one in answer.raise_for_status().json()["results"]]

    def watched(self) -> list[str]:
        """Orders that still wait, at equal distances."""
        waiting = self.orders[self._claimed :]
        step = max(1, len(waiting) // self._plan.watchers)
        return waiting[::step][: self._plan.watchers]

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        """Claims go on, by the clock."""
        task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _work(self) -> None:
        path = f"{stand.API}/queues/{stand.QUEUE}/claim"
        body = {"max": max(1, self._plan.claims // 10), "lease_seconds": 3_600}
        due = time.monotonic()
        while True:
            answer = await self._client.post(path, json=body)
            self._claimed += len(answer.raise_for_status().json()["messages"])
            due += body["max"] / self._plan.claims
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def sample(self, topics: Sequence[str], *, places: bool) -> Sample:
        """Some seconds with a stream open for each topic; `places`: all are told one first."""
        async with self._audience(topics) as readers:
            deadline = time.monotonic() + 120
            while places and not all(one.told for one in readers):
                if time.monotonic() > deadline:
                    raise load.Refused("not everybody was told his place")
                await asyncio.sleep(0.1)
            async with self._working():
                await asyncio.sleep(self._plan.settle)
                return await self._measure(readers)

    async def _measure(self, readers: Sequence[Reader]) -> Sample:
        before = await self._state(readers)
        began = time.monotonic()
        await asyncio.sleep(self._plan.seconds)
        after = await self._state(readers)
        seconds = time.monotonic() - began
        if any(one.closed for one in readers):
            raise load.Refused("a stream ended while it was measured")
        return Sample(*((b - a) / seconds for a, b in zip(before, after, strict=True)))

    async def _state(self, readers: Sequence[Reader]) -> tuple[float, float, int, int]:
        metrics = await self._client.get("/metrics")
        found = SPENT.search(metrics.raise_for_status().text)
        if found is None:
            raise load.Refused("the service does not say what it spent on places")
        told = sum(one.told for one in readers)
        return load.cpu_seconds(self._service.pid), float(found[1]), told, self._claimed

    @contextlib.asynccontextmanager
    async def _audience(self, topics: Sequence[str]) -> AsyncIterator[list[Reader]]:
        gate = asyncio.Semaphore(AT_ONCE)
        readers: list[Reader] = []
        try:
            async with asyncio.TaskGroup() as group:
                for topic in topics:
                    readers.append(Reader(self._request(topic)))
                    group.create_task(self._open(readers[-1], gate))
            yield readers
        finally:
            for one in readers:
                one.transport.abort()

    async def _open(self, reader: Reader, gate: asyncio.Semaphore) -> None:
        async with gate, asyncio.timeout(60):
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: reader, "127.0.0.1", self._service.port)
            await reader.begun.wait()

    def _request(self, topic: str) -> bytes:
        lines = [
            f"GET {stand.API}/events?{urlencode({'topic': topic})} HTTP/1.1",
            f"Host: 127.0.0.1:{self._service.port}",
            f"Authorization: Bearer {self._token}",
            "Accept: text/event-stream",
        ]
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


async def samples(service: stand.Service, plan: Plan) -> tuple[Sample, Sample, Sample]:
    """Without streams, with streams that have no place, and with those of orders in the line."""
    async with Bench(service, plan) as bench:
        alone = await bench.sample([], places=False)
        quiet = [f"customer:quiet-{n}" for n in range(plan.watchers)]
        idle = await bench.sample(quiet, places=False)
        told = await bench.sample([f"order:{one}" for one in bench.watched()], places=True)
    return alone, idle, told


def measure(kind: str, plan: Plan) -> str:
    count = str(plan.watchers + 100)
    settings = {
        "RATE_LIMITS": "off",
        "MAX_STREAMS_PER_PRINCIPAL": count,
        "MAX_STREAMS_PER_ADDRESS": count,
    }
    with ExitStack() as stack:
        fresh = stack.enter_context(stand.databases(kind))
        service = stack.enter_context(stand.Service(**fresh(), **settings))
        alone, idle, told = asyncio.run(samples(service, plan))
    rows = [
        alone.row("none"),
        idle.row(f"{plan.watchers:,} of quiet customers"),
        told.row(f"{plan.watchers:,} of orders in the line"),
    ]
    share = (told.cpu - idle.cpu) * 100
    words = f"Places cost **{share:.1f} %** of a core: the last row less the one above it."
    return f"### {NAMES[kind]}\n\n{report.table(HEAD, rows)}\n\n{words}"


WORDS = """{pending:,} pending messages in a queue, of which workers claim {claims} a second, for
{seconds:.0f} s a row. The orders that are followed stand at equal distances in the line: one in
{every} of the first 1,000 moves every second, the others are told once that they are behind. `in
the line` is the service's own clock, `filaviva_line_seconds_total`: it counts the waiting for the
database. The readers run on the same cores; the rate limits are off, 600 streams a minute would be
theirs."""


def run(kinds: Sequence[str], plan: Plan, *, write: bool) -> None:
    where = report.machine(kinds)
    words = WORDS.format(
        pending=plan.pending,
        claims=plan.claims,
        seconds=plan.seconds,
        every=max(1, plan.pending // plan.watchers),
    )
    tables = [measure(kind, plan) for kind in kinds]
    report.publish("Position", where, words, *tables, write=write)

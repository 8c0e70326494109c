"""Streams on one event loop, a thousand or more: each is judged while it is read.

An event is compared with what everybody else got of it, and at the end with the log. Kept
are its number, once for each stream, and hashes of its bytes, once for all.
"""

import asyncio
import contextlib
import json
import random
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlencode, urlsplit

from tests.house import API, House
from tests.ledger import Ledger
from tests.sse import CONTROL, Block, block_of

AT_ONCE = 50  # connects under way
AWAY = 0.2  # seconds; so long somebody is gone at most, whose line was cut
NEWER_MS = 100  # a `stock.changed` may be left out if another follows within it
EVENTS = (
    "SELECT seq, type, subject, coalesce(queue, ''), coalesce(from_queue, ''),"
    " coalesce(customer, ''), created_at, data FROM events ORDER BY seq"
)


class _Ear(asyncio.Protocol):
    """One connection: hands on each block as soon as it is whole, without its blank line."""

    def __init__(self, request: bytes, take: Callable[[bytes], None]) -> None:
        self._request, self._take = request, take
        self._raw = b""  # of the head, or of a chunk
        self._text = b""  # of a block
        self.head = b""
        self.heard = asyncio.Event()  # a block came, or it is over
        self.over = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._raw += data
        if not self.head and b"\r\n\r\n" in self._raw:
            self.head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        if self.welcome:
            self._text += self._body()
            self._take_apart()

    @property
    def welcome(self) -> bool:
        return self.head.startswith(b"HTTP/1.1 200")

    @property
    def refusal(self) -> str:
        return (self.head + b" " + self._raw).decode(errors="replace")[:1_000]

    def _body(self) -> bytes:
        """What came of the body, as far as its chunks are whole."""
        found: list[bytes] = []
        at = 0
        while (line := self._raw.find(b"\r\n", at)) >= 0:
            end = line + 2 + int(self._raw[at:line], 16)
            if len(self._raw) < end + 2:
                break
            found.append(self._raw[line + 2 : end])
            at = end + 2
        self._raw = self._raw[at:]
        return b"".join(found)

    def _take_apart(self) -> None:
        while self._text:
            first, newline, rest = self._text.partition(b"\n")
            if newline and first.startswith(b":"):
                self._text = rest  # a comment
                continue
            block, blank, rest = self._text.partition(b"\n\n")
            if not blank:
                return
            self._text = rest
            self._take(block)
            self.heard.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()
        self.heard.set()


class Book:
    """What was seen of each event; whoever gets it first writes it down."""

    def __init__(self) -> None:
        self.deliveries = 0
        self._seen: dict[int, tuple[int, int]] = {}  # hashes of the block, of its data

    def note(self, seq: int, block: bytes) -> str | None:
        """What is wrong with it: others got other bytes, or it is no event."""
        self.deliveries += 1
        seen = self._seen.get(seq)
        if seen is None:
            return self._first(seq, block)
        return None if seen[0] == hash(block) else f"other bytes of {seq} than another got"

    def _first(self, seq: int, block: bytes) -> str | None:
        found = block_of(block + b"\n\n")
        envelope = found.json
        data = (found.data or "").partition(',"data":')[2][:-1]
        self._seen[seq] = hash(block), hash(data)
        if (envelope["id"], envelope["type"]) != (found.id, found.event):
            return f"{found.id}, {found.event} is not what stands inside: {found.data}"
        return None

    def says(self, seq: int, data: str) -> bool:
        """Whether this data is what was told of an event; also if nobody was told."""
        return seq not in self._seen or self._seen[seq][1] == hash(data)


class Watcher:
    """Follows topics, over any number of reconnects to any process."""

    def __init__(
        self, house: House, topics: Iterable[str], role: str, book: Book, **query: str
    ) -> None:
        self.topics = frozenset(topics)
        self.coalesces = query.get("coalesce") == "latest"
        self.start: int | None = None  # the number it began after
        self.last = 0  # the number up to which it was told everything
        self.seqs = array("q")
        self.connects = 0
        self.wrong: list[str] = []
        self._urls = [server.url for server in house.servers]
        self._token = house.token(role)
        given = [("topic", topic) for topic in sorted(self.topics)]
        self._query = urlencode([*given, *query.items()])
        self._book = book
        self._cursor: str | None = None
        self._ear: _Ear | None = None

    async def follow(self, draw: random.Random, doors: asyncio.Semaphore) -> None:
        """Connects to some process, and again whenever the line is cut, until cancelled."""
        while True:
            with contextlib.suppress(OSError):
                async with doors:
                    await self._connect(draw.choice(self._urls))
                await self._stay()
            await asyncio.sleep(draw.uniform(0, AWAY))

    async def _connect(self, url: str) -> None:
        where = urlsplit(url)
        request = self._request(where.netloc)
        _, self._ear = await asyncio.get_running_loop().create_connection(
            lambda: _Ear(request, self._take), where.hostname or "", where.port or 80
        )
        await self._ear.heard.wait()

    def _request(self, netloc: str) -> bytes:
        lines = [
            f"GET {API}/events?{self._query} HTTP/1.1",
            f"Host: {netloc}",
            "Accept: text/event-stream",
            f"Authorization: Bearer {self._token}",
            *([] if self._cursor is None else [f"Last-Event-ID: {self._cursor}"]),
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    async def _stay(self) -> None:
        assert self._ear is not None
        await self._ear.over.wait()
        if self._ear.head and not self._ear.welcome:
            self.wrong.append(f"refused: {self._ear.refusal}")

    def hang_up(self) -> bool:
        """What came in whole counts. False if there is no line."""
        if self._ear is None or self._ear.over.is_set():
            return False
        self._ear.transport.abort()
        return True

    # --- what it hears ----------------------------------------------------------------

    def _take(self, block: bytes) -> None:
        lines = block.split(b"\n")
        named = len(lines) > 1 and lines[-2].startswith(b"event: ")
        if named and lines[-2][7:].decode() in CONTROL:
            self.told(block_of(block + b"\n\n"))
        elif named and len(lines) == 3 and lines[0].startswith(b"id: "):
            self._cursor = lines[0][4:].decode()
            self.got(number(self._cursor), block)
        else:
            self.wrong.append(f"no event: {block!r}")

    def told(self, block: Block) -> None:
        """A control frame."""
        if block.event in ("reset", "goodbye"):
            self.wrong.append(f"told {block.event}: {block.data}")
        if block.event == "hello":
            self.connects += 1
            if self._cursor not in (None, block.id):
                self.wrong.append(f"came back with {self._cursor}, goes on from {block.id}")
        if block.id is not None:
            self._cursor = block.id
            self.last = max(self.last, number(block.id))
            self.start = number(block.id) if self.start is None else self.start

    def got(self, seq: int, block: bytes) -> None:
        """An event."""
        if seq <= self.last:
            self.wrong.append(f"got {seq} after {self.last}")
        self.last = seq
        self.seqs.append(seq)
        fault = self._book.note(seq, block)
        if fault is not None:
            self.wrong.append(fault)


def number(cursor: str) -> int:
    return int(cursor.rpartition("-")[2])


class Audience:
    """Watchers who come back whenever their line is cut. A context manager: at its end they go."""

    def __init__(self, draw: random.Random) -> None:
        self.watchers: list[Watcher] = []
        self._draw = draw
        self._doors = asyncio.Semaphore(AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []

    def join(self, *watchers: Watcher) -> None:
        for one in watchers:
            self.watchers.append(one)
            self._tasks.append(asyncio.create_task(one.follow(self._draw, self._doors)))

    async def seated(self) -> bool:
        """Whether everybody was told where he begins."""
        return all(one.start is not None for one in self.watchers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for one in self.watchers:
            one.hang_up()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


async def restless(watchers: Sequence[Watcher], draw: random.Random, seconds: float) -> None:
    """One after the other hangs up, and so comes back at any process, for so long."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    for one in draw.sample(watchers, len(watchers)):
        if loop.time() > ends:
            return
        one.hang_up()
        await asyncio.sleep(draw.uniform(0, 2 * seconds / len(watchers)))


# --- judging --------------------------------------------------------------------------


class Log:
    """The events as the database has them, by topic."""

    def __init__(self, ledger: Ledger) -> None:
        self._data: dict[int, str] = {}
        self._topics: dict[str, list[int]] = {}
        self._of: dict[frozenset[str], list[int]] = {}
        self._replaceable: set[int] = set()
        self._newer: dict[int, int] = {}  # state of an order or a product → the next one
        self._newest: dict[str, tuple[int, int]] = {}  # such a state's subject → number, time
        for row in ledger.sql(EVENTS):
            self._read(*row.split("|", 7))

    def _read(
        self,
        seq: str,
        kind: str,
        subject: str,
        queue: str,
        left: str,
        customer: str,
        at: str,
        data: str,
    ) -> None:
        here = int(seq)
        self._data[here] = data
        for topic in _topics(subject, queue, left, customer):
            self._topics.setdefault(topic, []).append(here)
        if kind == "stock.changed" or kind.startswith("order."):
            before, when = self._newest.get(subject, (0, 0))
            self._newer[before] = here
            if kind == "stock.changed" and int(at) - when <= NEWER_MS:
                self._replaceable.add(before)
            self._newest[subject] = here, int(at)

    def of(self, topics: frozenset[str], after: int) -> list[int]:
        """The numbers of all events of these topics after one."""
        found = self._all(topics)
        return found[bisect_right(found, after) :]

    def last(self, topics: frozenset[str]) -> int:
        return max([0, *self._all(topics)[-1:]])

    def _all(self, topics: frozenset[str]) -> list[int]:
        if topics not in self._of:
            found = {seq for topic in topics for seq in self._topics.get(topic, ())}
            self._of[topics] = sorted(found)
        return self._of[topics]

    def may_miss(self, seq: int, got: set[int], *, coalesces: bool) -> bool:
        """Whether a newer state may stand for an event, and did."""
        newer = self._newer.get(seq)
        while coalesces and newer is not None and newer not in got:
            newer = self._newer.get(newer)
        return seq in self._replaceable or (coalesces and newer is not None)

    def faults(self, book: Book) -> list[str]:
        """What was told otherwise than it stands in the log."""
        return [f"{seq} is {data}" for seq, data in self._data.items() if not book.says(seq, data)]

    def available(self, sku: str) -> int:
        """What was told last of a product."""
        seq, _ = self._newest[f"stock:{sku}"]
        return json.loads(self._data[seq])["available"]


def _topics(subject: str, queue: str, left: str, customer: str) -> set[str]:
    """Whoever follows one of these gets the event."""
    match subject.partition(":")[0]:
        case "order":
            queues = {f"queue:{name}" for name in (queue, left) if name}
            return {subject, f"customer:{customer}", *queues}
        case "queue":
            return {subject, "queues"}
        case "stock":
            return {subject, "stock"}
        case _:
            return {subject}


@dataclass
class Verdict:
    """What came of it."""

    events: int = 0
    left_out: int = 0
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, watchers: Iterable[Watcher], log: Log, book: Book) -> "Verdict":
        """Each must have got what the log has of his topics: all, once, in order."""
        found = cls(wrong=log.faults(book))
        for one in watchers:
            found._add(one, log)
        return found

    def _add(self, one: Watcher, log: Log) -> None:
        self.events += len(one.seqs)
        self.wrong += one.wrong
        if one.start is None:
            self.wrong.append(f"{sorted(one.topics)} never began")
            return
        expected, got = log.of(one.topics, one.start), set(one.seqs)
        missing = [seq for seq in expected if seq not in got]
        lost = [s for s in missing if not log.may_miss(s, got, coalesces=one.coalesces)]
        unknown = got.difference(expected)
        self.left_out += len(missing)
        if lost:
            self.wrong.append(f"{sorted(one.topics)} missed {len(lost)}: {lost[:5]}")
        if unknown:
            self.wrong.append(f"{sorted(one.topics)} got {sorted(unknown)[:5]}, not of theirs")


async def all_have(watchers: Iterable[Watcher], log: Log) -> bool:
    """Whether everybody has the last event of his topics."""
    return all(one.last >= log.last(one.topics) for one in watchers)

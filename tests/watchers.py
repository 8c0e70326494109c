"""A thousand streams on one event loop: each keeps its bytes and is judged when it is over."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import urlencode, urlsplit

from tests.house import API, House
from tests.ledger import Ledger
from tests.sse import CONTROL, Block, block_of

OPEN_SECONDS = 30.0
AT_ONCE = 50  # connects under way
NEWER_MS = 100  # a `stock.changed` may be left out if another follows within it


class _Ear(asyncio.Protocol):
    """One connection: what it said, and whether it is over."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.raw = bytearray()
        self.open = asyncio.Event()  # it said hello, or ended
        self.over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.raw += data
        if not self.open.is_set() and b"event: hello" in self.raw:
            self.open.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        self.open.set()


class Watcher:
    """Follows topics, over any number of reconnects to any process."""

    def __init__(self, house: House, topics: Sequence[str], role: str) -> None:
        self._urls = [server.url for server in house.servers]
        self._token = house.token(role)
        self._query = urlencode([("topic", topic) for topic in topics])
        self._ear: _Ear | None = None
        self._cursor: str | None = None
        self.texts: list[bytes] = []  # of connections that are over, without their chunks
        self.resumed: list[str] = []  # cursors

    async def connect(self, process: int) -> None:
        """
        Raises:
            ConnectionError: it was refused; the text is the answer.
            TimeoutError: no answer.
        """
        where = urlsplit(self._urls[process % len(self._urls)])
        request = self._request(where.netloc)
        _, self._ear = await asyncio.get_running_loop().create_connection(
            lambda: _Ear(request), where.hostname or "", where.port or 80
        )
        async with asyncio.timeout(OPEN_SECONDS):
            await self._ear.open.wait()
        if self._ear.over or not self._ear.raw.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(bytes(self._ear.raw[:2_000]).decode(errors="replace"))

    def _request(self, netloc: str) -> bytes:
        lines = [
            f"GET {API}/events?{self._query} HTTP/1.1",
            f"Host: {netloc}",
            "Accept: text/event-stream",
            f"Authorization: Bearer {self._token}",
        ]
        if self._cursor is not None:
            lines.append(f"Last-Event-ID: {self._cursor}")
            self.resumed.append(self._cursor)
        return "\r\n".join([*lines, "", ""]).encode()

    def hang_up(self) -> None:
        """What came in whole stays; the next `connect` goes on after it."""
        if self._ear is None:
            return
        self._ear.transport.abort()
        text = _body(bytes(self._ear.raw))
        text = text[: text.rfind(b"\n\n") + 2]
        self.texts.append(text)
        for line in text.split(b"\n"):
            if line.startswith(b"id: "):
                self._cursor = line[4:].decode()
        self._ear = None

    def has(self, seq: int) -> bool:
        """Whether it got the event of this number lately; a little more may have come since."""
        if self._ear is None:
            return False
        tail = self._ear.raw[-16_384:]
        return b"-%d\n" % seq in tail


def _body(raw: bytes) -> bytes:
    """The body of an answer in chunks, as far as it came."""
    _, _, rest = raw.partition(b"\r\n\r\n")
    found: list[bytes] = []
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return b"".join(found)


@asynccontextmanager
async def audience(
    house: House, topics: Sequence[str], count: int, role: str
) -> AsyncIterator[list[Watcher]]:
    """So many watchers of the same topics, spread over the processes."""
    found = [Watcher(house, topics, role) for _ in range(count)]
    doors = asyncio.Semaphore(AT_ONCE)

    async def enter(number: int, one: Watcher) -> None:
        async with doors:
            await one.connect(number)

    try:
        await asyncio.gather(*(enter(number, one) for number, one in enumerate(found)))
        yield found
    finally:
        for one in found:
            one.hang_up()


async def restless(watchers: Sequence[Watcher], draw: random.Random, seconds: float) -> None:
    """One after the other hangs up and resumes, at any process, for so long."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    for one in draw.sample(watchers, len(watchers)):
        if loop.time() > ends:
            return
        one.hang_up()
        await asyncio.sleep(draw.uniform(0, 2 * seconds / len(watchers)))
        await one.connect(draw.randrange(2))


# --- judging --------------------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """An event as the log has it."""

    seq: int
    type: str
    at: int  # ms


def facts(ledger: Ledger, topic: str) -> list[Fact]:
    """The log of a topic of stock."""
    rows = ledger.sql(
        f"SELECT seq, type, created_at FROM events WHERE subject = '{topic}' ORDER BY seq"
    )
    split = (row.split("|") for row in rows)
    return [Fact(int(seq), kind, int(at)) for seq, kind, at in split]


@dataclass
class Judge:
    """Compares what watchers of one product got with the log."""

    log: list[Fact]
    available: int  # by the database
    _blocks: dict[bytes, Block] = field(default_factory=dict)
    _bytes: dict[int, bytes] = field(default_factory=dict)
    events: int = 0
    left_out: int = 0

    def faults(self, one: Watcher) -> list[str]:
        """What one watcher got too much, too little or wrong."""
        blocks = [self._block(raw) for text in one.texts for raw in _split(text)]
        hellos = [block.id for block in blocks if block.event == "hello"]
        got = [block for block in blocks if block.event not in CONTROL]
        seqs = [_seq(block) for block in got]
        self.events += len(got)
        found = [f"told {block.event}" for block in blocks if block.event in ("reset", "goodbye")]
        if hellos[1:] != one.resumed:
            found.append(f"resumed from {one.resumed}, went on from {hellos[1:]}")
        if any(a >= b for a, b in pairwise(seqs)):
            found.append(f"not in order, or twice: {seqs}")
        found += self._missing(int((hellos[0] or "").partition("-")[2]), set(seqs))
        if any(self._bytes.setdefault(_seq(block), block.raw) != block.raw for block in got):
            found.append("other bytes than another got")
        changed = [block for block in got if block.event == "stock.changed"]
        if not changed or changed[-1].json["data"]["available"] != self.available:
            found.append(f"the last number is not {self.available}")
        return found

    def _block(self, raw: bytes) -> Block:
        if raw not in self._blocks:
            self._blocks[raw] = block_of(raw)
        return self._blocks[raw]

    def _missing(self, start: int, got: set[int]) -> list[str]:
        expected = [fact for fact in self.log if fact.seq > start]
        missing = [fact for fact in expected if fact.seq not in got]
        self.left_out += len(missing)
        wrong = [fact.seq for fact in missing if not self._may_miss(fact)]
        unknown = got - {fact.seq for fact in expected}
        return [
            *([f"missed {wrong[:5]}"] if wrong else []),
            *([f"got {sorted(unknown)[:5]}, which are not in the log"] if unknown else []),
        ]

    def _may_miss(self, fact: Fact) -> bool:
        return fact.type == "stock.changed" and any(
            other.type == "stock.changed"
            and fact.seq < other.seq
            and other.at - fact.at <= NEWER_MS
            for other in self.log
        )


def _seq(block: Block) -> int:
    return int((block.id or "").partition("-")[2])


def _split(text: bytes) -> list[bytes]:
    """The blocks, without the comments between them."""
    blocks: list[bytes] = []
    for part in text.split(b"\n\n")[:-1]:
        lines = [line for line in part.split(b"\n") if not line.startswith(b":")]
        blocks.append(b"\n".join([*lines, b"", b""]))
    return blocks

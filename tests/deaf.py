"""Readers that hold a stream and never read it: what they cost, and what becomes of them."""

import contextlib
import random
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.house import API, House, running
from tests.ledger import Ledger
from tests.live import head, watch
from tests.memory import memory
from tests.services import until
from tests.sse import CONTROL, Block, Stream, block_of

RCVBUF = 4 * 1024
EACH = 256 * 1024  # bytes of the process's memory that one may cost
STALL_SECONDS = 20.0  # without progress
SLACK_SECONDS = 40.0  # until that is found out
CLOSE_SECONDS = 30.0  # a connection that is over may be asked again for so long
LOUD, CALM, OTHER = "c-loud", "c-calm", "c-other"  # customers
ITEM = {"sku": "disc-" + "x" * 59, "quantity": 1, "amount_cents": 990}
RING = 32 << 20  # bytes of events that a process has at hand
LARGE = 10_000  # bytes at least of the event of a hundred of those
OLD, RECENT, NEW = 120, 60, 60  # large orders: only in the log, at hand, after they came
SMALL, EVERY = 5, 200  # small orders: which come first, and of the calm customer
BATCH = 15  # what the process holds while it takes a post shall not count
OWN_FILES = 4  # connections of the test itself that may come and go
WAYS = ("live", "alone", "ring", "live", "snapshot", "alone", "ring", "live", "alone", "log")
GONE = {"05", "06"}  # of a socket: closed, and waits for nothing but the client's own end
_ended = re.compile(r'^filaviva_streams_ended_total\{reason="(\w+)"\} (\S+)$', re.MULTILINE)


class Deaf:
    """A connection that asks for a stream, and does not read."""

    def __init__(self, house: House, way: str, topics: Sequence[str], **query: str) -> None:
        self.way, self.topics = way, topics
        port = house.servers[0].port
        self._line = socket.socket()
        self._line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RCVBUF)
        self._line.connect(("127.0.0.1", port))
        self.port: int = self._line.getsockname()[1]
        asked = urlencode([*(("topic", topic) for topic in topics), *query.items()])
        lines = (
            f"GET {API}/events?{asked} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            f"Authorization: Bearer {house.token('viewer')}",
            "Accept: text/event-stream",
        )
        self._line.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())

    def sip(self) -> None:
        """Read a little."""
        self._line.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            self._line.recv(1_024)

    def blocks(self) -> list[Block]:
        """What came as far as its own buffer and is whole. Raises TimeoutError if it is open."""
        self._line.settimeout(30)
        raw = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while data := self._line.recv(65_536):
                raw += data
        return _blocks(bytes(raw))

    def close(self) -> None:
        self._line.close()


def _blocks(raw: bytes) -> list[Block]:
    """Of an answer in chunks that may break off anywhere."""
    text, rest = b"", raw.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size or b"0", 16)
        text, rest = text + rest[:length], rest[length + 2 :]
    parts = re.sub(rb"(?m)^:\n", b"", text).split(b"\n\n")
    return [block_of(part + b"\n\n") for part in parts[:-1]]


def seq(block: Block) -> int:
    return int((block.id or "").rpartition("-")[2])


# --- what there is to hear ------------------------------------------------------------


def purchases(customer: str, count: int, items: int) -> list[dict[str, Any]]:
    return [{"customer": customer, "items": [ITEM] * items}] * count


def post(house: House, messages: Sequence[dict[str, Any]], batch: int = BATCH) -> None:
    path = "/queues/orders/messages/batch"
    for at in range(0, len(messages), batch):
        part = {"messages": messages[at : at + batch]}
        answer = house.client("producer").post(path, json=part)
        assert answer.json()["accepted"] == len(part["messages"]), answer.text


def fill(house: House) -> str:
    """Orders that are in the log alone, and such that are at hand; the id between them."""
    post(house, purchases(CALM, EVERY, 1), EVERY)
    post(house, purchases(LOUD, OLD, 100))
    post(house, purchases(OTHER, RING // LARGE, 100), 250)
    between = head(house)
    post(house, purchases(LOUD, RECENT, 100))
    return between


def ask(house: House, number: int, between: str) -> Deaf:
    """One more: of events to come, among others or alone, of those at hand, of the log, or of
    the present state.
    """
    way = WAYS[number % len(WAYS)]
    own = [f"customer:{LOUD}", f"customer:own-{number}"]
    match way:
        case "live":
            return Deaf(house, way, own[:1])
        case "alone":
            return Deaf(house, way, own)
        case "ring":
            return Deaf(house, way, own, last_event_id=between)
        case "log":
            return Deaf(house, way, own, since="earliest")
        case _:
            return Deaf(house, way, [f"customer:{CALM}", own[1]], snapshot="1")


# --- what is seen of the process ------------------------------------------------------


def sockets(house: House, ports: set[int]) -> int:
    """How many of these clients' connections the kernel keeps for the service."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = ((int(r[1][9:], 16), int(r[2][9:], 16)) for r in rows if r[3] not in GONE)
    return sum(here == house.servers[0].port and there in ports for here, there in ends)


def files(house: House) -> int:
    return len(list(Path(f"/proc/{house.servers[0].pid}/fd").iterdir()))


def ended(house: House) -> tuple[int, int]:
    """Streams that were ended because they did not read, and because the log was too busy."""
    text = house.client("viewer").get(f"{house.url}/metrics").text
    found = {reason: int(float(count)) for reason, count in _ended.findall(text)}
    return found.get("slow", 0), found.get("overloaded", 0)


@dataclass
class Seen:
    """What became of them, and everything that is not as promised."""

    readers: int
    grown: int = 0  # bytes of the process's memory, at most
    first: float = 0  # seconds from when they came until one was dropped
    last: float = 0  # from the last event until all were
    refused: int = 0  # of those who asked for the log: told to come again
    resumed: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        each = self.grown / 1024 / self.readers
        return (
            f"{each:.0f} KiB each, the first dropped {self.first:.1f} s after it came, the last"
            f" {self.last:.1f} s after the last event; {self.refused} told to come again,"
            f" {self.resumed} resumed"
        )


class Trial:
    """Some readers who never read, one who reads slowly, and some who read."""

    def __init__(self, house: House, readers: int) -> None:
        self._house = house
        self._ledger = Ledger.sqlite(house.servers[0])
        self.seen = Seen(readers)
        self._deaf: list[Deaf] = []

    def run(self, draw: random.Random, resuming: int) -> Seen:
        """`resuming` of them come back at the end."""
        house, seen = self._house, self.seen
        between = fill(house)
        self._warm(between)
        with ExitStack() as stack:
            good = [stack.enter_context(watch(house, f"customer:{LOUD}")) for _ in range(2)]
            for stream in good:
                stream.first("hello")
            self._before, self._files = memory(house.servers[0].pid).uss, files(house)
            self._come(stack, between)
            self._tell(good)
            self._wait()
            self._look_for_rests()
            for one in draw.sample(self._deaf, resuming):
                self._resume(one)
            if any(stream.over or stream.named("goodbye") for stream in good):
                seen.wrong.append("a reader who reads was ended too")
        return seen

    def _warm(self, between: str) -> None:
        """What every reader needs once: the memory that counts is what each one adds."""
        topic = f"customer:{LOUD}"
        with watch(self._house, topic, since="earliest") as old:
            old.events(OLD + RECENT, 60)
        with watch(self._house, topic, cursor=between) as recent:
            recent.events(RECENT, 60)
        with watch(self._house, f"customer:{CALM}", snapshot="1") as stream:
            stream.first("snapshot")
        ended(self._house)

    def _come(self, stack: ExitStack, between: str) -> None:
        self._began = time.monotonic()
        for number in range(self.seen.readers + 1):
            one = ask(self._house, number, between)
            stack.callback(one.close)
            self._deaf.append(one)
            self._weigh()
        self._slow = self._deaf.pop()

    def _tell(self, good: Sequence[Stream]) -> None:
        post(self._house, purchases(LOUD, SMALL, 1))
        self._weigh()
        for _ in range(NEW // BATCH):
            post(self._house, purchases(LOUD, BATCH, 100))
            self._slow.sip()
            self._weigh()
        for stream in good:
            stream.events(SMALL + NEW, 60)

    def _weigh(self) -> None:
        grown = memory(self._house.servers[0].pid).uss - self._before
        self.seen.grown = max(self.seen.grown, grown)

    def _wait(self) -> None:
        """Until all were dropped, or long after they should have been."""
        seen, told = self.seen, time.monotonic()
        dropped = 0
        while dropped + seen.refused < seen.readers and seen.last < STALL_SECONDS + SLACK_SECONDS:
            time.sleep(0.2)
            self._slow.sip()
            self._weigh()
            (dropped, seen.refused), now = ended(self._house), time.monotonic()
            seen.last = now - told
            if dropped and not seen.first:
                seen.first = now - self._began
        if dropped + seen.refused != seen.readers or seen.refused > seen.readers // len(WAYS):
            seen.wrong.append(f"{dropped} were dropped and {seen.refused} told to come again")
        if seen.first < STALL_SECONDS:
            seen.wrong.append(f"one was dropped after {seen.first:.1f} s")
        if seen.grown > EACH * seen.readers:
            seen.wrong.append(f"memory grew by {seen.grown / 1024 / seen.readers:.0f} KiB each")

    def _look_for_rests(self) -> None:
        """Neither the process nor the kernel has anything left of them."""
        house, ports = self._house, {one.port for one in self._deaf}
        with contextlib.suppress(TimeoutError):
            until(lambda: not sockets(house, ports), CLOSE_SECONDS, "their sockets are gone")
        if left := sockets(house, ports):
            self.seen.wrong.append(f"{left} sockets are left")
        if (left := files(house) - self._files) > OWN_FILES:
            self.seen.wrong.append(f"{left} files are left")
        if not sockets(house, {self._slow.port}):
            self.seen.wrong.append("the reader who is slow was dropped too")

    def _resume(self, one: Deaf) -> None:
        """Nothing is missing between what it got at first and what it gets now."""
        blocks = one.blocks()
        ids = [block for block in blocks if block.id is not None]
        if not ids:  # it never got as far as a cursor: a snapshot whose last frame did not come
            return
        got = [seq(block) for block in blocks if block.event not in CONTROL]
        names = ", ".join(f"'{topic.partition(':')[2]}'" for topic in one.topics)
        rows = self._ledger.sql(
            f"SELECT seq FROM events WHERE customer IN ({names}) AND seq > {seq(ids[0])}"
            " ORDER BY seq"
        )
        missed = [int(row) for row in rows if int(row) > seq(ids[-1])]
        with watch(self._house, *one.topics, cursor=ids[-1].id) as stream:
            got += [seq(block) for block in stream.events(len(missed), 60)]
        if got != [int(row) for row in rows]:
            self.seen.wrong.append(f"{one.way}: got {len(got)} of {len(rows)}, or not in order")
        self.seen.resumed += 1


@contextmanager
def opened(readers: int) -> Iterator[House]:
    """A process that takes so many."""
    most = str(readers + 50)
    with running(MAX_STREAMS_PER_PRINCIPAL=most, MAX_STREAMS_PER_ADDRESS=most) as house:
        yield house


def tried(readers: int, draw: random.Random, resuming: int) -> Seen:
    with opened(readers) as house:
        return Trial(house, readers).run(draw, resuming)

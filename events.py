"""The event log: append, read since, look; and both ends of the Redis wire.

The log is the truth. Events are numbered without gaps in commit order, because the row
lock of `stream` is held from the number to the commit. What is stored is the inner data;
the CloudEvent's envelope is put around it here, byte for byte the same live and replayed.
"""

import asyncio
import contextlib
import hmac
import json
import secrets
import struct
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loguru import logger
from pydantic_core import to_json
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError

from database import Database, Dialect, Row, Session, as_array
from hub import Frame, Window, event_id
from instants import stamp
from models import Status

WINDOW = 20_000  # numbers of the log read at once
STREAM_ROWS = 250  # events of them for one stream: some of its writes
CHAPTER_WINDOWS = 20  # windows one page of the history may cost
PAYLOAD_BYTES = 1 << 20  # of one PUBLISH; beyond that only the head is told
WIRE_QUEUE = 1_000  # payloads that wait for Redis
WIRE_BYTES = 8 << 20  # of them
ANSWER_SECONDS = 1.5  # what Redis does not answer within it is given up
PAUSE_SECONDS = 0.25  # before trying again
BEAT_SECONDS = 1.0  # at least so often a process publishes something
ECHO_SECONDS = 2.0  # for what Redis took to come back
SILENCE_SECONDS = 3.0  # after it nobody can say that the channel is heard
POLL_SECONDS = 0.5
BEAT = b""  # says nothing but that it was said
SEAL_BYTES = 32
EXPECTED = (RedisError, OSError, ValueError)  # of a Redis that is away or lies
PUBLISHING, LISTENING, READING = "publishing to", "listening to", "reading the channel of"
STATUSES = tuple(status.value for status in Status)
_SPEAKER = struct.Struct("!8sQ")  # a process, and the number that it gives a payload


@dataclass(slots=True)
class Event:
    """A fact that is about to be written. `data` and `detail` are JSON texts."""

    type: str
    subject: str
    data: str
    message: str | None = None
    queue: str | None = None
    from_queue: str | None = None
    customer: str | None = None
    detail: str | None = None
    wakes: str | None = None  # the queue in which a message can now be claimed


@dataclass(slots=True)
class Counters:
    """What a transaction adds to the counts of its queues: queue id → status → n."""

    changes: dict[int, dict[str, int]] = field(default_factory=dict)

    def add(self, queue_id: int, status: str, n: int) -> None:
        if queue_id not in self.changes:
            self.changes[queue_id] = dict.fromkeys(STATUSES, 0)
        self.changes[queue_id][status] += n

    def columns(self) -> list[list[int]]:
        """Queue ids, then the six statuses: only queues where something changes."""
        rows = sorted((q, c) for q, c in self.changes.items() if any(c.values()))
        return [[q for q, _ in rows], *([c[s] for _, c in rows] for s in STATUSES)]


@dataclass(frozen=True, slots=True)
class Appended:
    """Where a transaction's events went: numbers `first` to `head`, all at the time `at`."""

    first: int
    head: int
    at: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Look:
    """The stream row: what every process reads once a second."""

    head: int
    epoch: str
    floor: int
    queues_version: int
    revocations_version: int
    home: str


# --- append ---------------------------------------------------------------------------

_COUNTED = ", ".join(f"{s} = c.{s} + d.{s}" for s in STATUSES)
_DELTAS = ", ".join(STATUSES)

APPEND_POSTGRES = f"""
WITH taken AS (
    UPDATE stream SET head = head + $1, at = greatest(at, {Dialect.POSTGRES.clock})
    WHERE queues_version = $2 RETURNING head, at, epoch
), logged AS (
    INSERT INTO events (seq, type, subject, data, message, queue, from_queue, customer,
        detail, batch, created_at)
    SELECT taken.head - $1 + e.n, e.type, e.subject, e.data, e.message, e.queue, e.from_queue,
        e.customer, e.detail, $3, taken.at
    FROM taken, unnest($4::text[], $5::text[], $6::text[], $7::uuid[], $8::text[], $9::text[],
        $10::text[], $11::text[]) WITH ORDINALITY
        AS e (type, subject, data, message, queue, from_queue, customer, detail, n)
), counted AS (
    UPDATE queue_counts c SET {_COUNTED}
    FROM taken, unnest($12::int[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[],
        $17::bigint[], $18::bigint[]) AS d (queue_id, {_DELTAS})
    WHERE c.queue_id = d.queue_id
)
SELECT head, at, epoch FROM taken"""

TAKE_SQLITE = f"""
UPDATE stream SET head = head + $1, at = max(at, {Dialect.SQLITE.clock})
WHERE queues_version = $2 RETURNING head, at, epoch"""

LOG_SQLITE = """
INSERT INTO events (seq, type, subject, data, message, queue, from_queue, customer, detail,
    batch, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

COUNT_SQLITE = (
    f"UPDATE queue_counts SET {', '.join(f'{s} = {s} + ?' for s in STATUSES)} WHERE queue_id = ?"
)


def _take_one(more: str = "") -> dict[Dialect, str]:
    return {
        dialect: f"""
UPDATE stream SET head = head + 1{more},
    at = {"greatest" if dialect is Dialect.POSTGRES else "max"}(at, {dialect.clock})
RETURNING head, at, epoch"""
        for dialect in Dialect
    }


TAKE_ONE = _take_one()
# Changing a queue takes the head first, whatever the version is, and raises it.
TAKE_FOR_QUEUES = _take_one(", queues_version = queues_version + 1")


def _columns(events: Sequence[Event]) -> list[list[str | None]]:
    """The event columns in the order of the statements."""
    return [
        [e.type for e in events],
        [e.subject for e in events],
        [e.data for e in events],
        [e.message for e in events],
        [e.queue for e in events],
        [e.from_queue for e in events],
        [e.customer for e in events],
        [e.detail for e in events],
    ]


def _appended(row: Row, n: int) -> Appended:
    return Appended(row["head"] - n + 1, row["head"], row["at"], row["epoch"])


async def append(
    session: Session,
    batch: str,
    events: Sequence[Event],
    counters: Counters,
    queues_version: int,
) -> Appended | None:
    """Take the head, write the events with its numbers, add to the counters.

    None if a queue was changed since `queues_version`: the caller rolls back and decides
    again. From here to the commit this transaction holds up every other writer.
    """
    n = len(events)
    if session.dialect is Dialect.POSTGRES:
        rows = await session.fetch(
            APPEND_POSTGRES, n, queues_version, batch, *_columns(events), *counters.columns()
        )
    else:
        rows = await session.fetch(TAKE_SQLITE, n, queues_version)
    if not rows:
        return None
    taken = _appended(rows[0], n)
    if session.dialect is Dialect.SQLITE:
        await _append_sqlite(session, batch, events, counters, taken)
    return taken


async def _append_sqlite(
    session: Session, batch: str, events: Sequence[Event], counters: Counters, taken: Appended
) -> None:
    logged = zip(*_columns(events), strict=True)
    if events:
        await session.executemany(
            LOG_SQLITE,
            [(seq, *row, batch, taken.at) for seq, row in enumerate(logged, taken.first)],
        )
    queues, *deltas = counters.columns()
    if queues:
        await session.executemany(COUNT_SQLITE, list(zip(*deltas, queues, strict=True)))


async def take_one(session: Session) -> Appended:
    """Take one number, whatever the queues are; the writers wait from here to the commit."""
    rows = await session.fetch(TAKE_ONE[session.dialect])
    return _appended(rows[0], 1)


async def take_for_queues(session: Session) -> Appended:
    """Take one number for a change of a queue: from here on its counters are exact."""
    rows = await session.fetch(TAKE_FOR_QUEUES[session.dialect])
    return _appended(rows[0], 1)


async def queues_version(session: Session) -> int:
    return (await session.fetch("SELECT queues_version FROM stream"))[0]["queues_version"]


async def lock_head(session: Session) -> None:
    """Wait until nobody is appending, and let nobody append until this transaction ends."""
    lock = " FOR UPDATE" if session.dialect is Dialect.POSTGRES else ""
    await session.fetch(f"SELECT head FROM stream{lock}")


async def batch_at(session: Session, seq: int) -> str | None:
    """Which transaction wrote an event; None if there is no such event."""
    rows = await session.fetch("SELECT batch FROM events WHERE seq = $1", seq)
    return str(rows[0]["batch"]) if rows else None


async def log_one(session: Session, taken: Appended, batch: str, event: Event) -> None:
    """Write the event whose number was taken by `take_one` or `take_for_queues`."""
    values = [column[0] for column in _columns([event])]
    if session.dialect is Dialect.SQLITE:
        await session.execute(LOG_SQLITE, taken.first, *values, batch, taken.at)
        return
    marks = ", ".join(f"${n}" for n in range(1, 12))
    await session.execute(
        LOG_SQLITE.split("VALUES")[0] + f"VALUES ({marks})", taken.first, *values, batch, taken.at
    )


# --- the envelope ---------------------------------------------------------------------


_SOURCES = {"stock": "/products/", "favourites": "/customers/"}


def envelope(epoch: str, seq: int, at: int, event: Event) -> str:
    """The CloudEvent 1.0 as one line of JSON."""
    kind, _, subject = event.subject.partition(":")
    source = f"/queues/{event.from_queue or event.queue}"
    if kind in _SOURCES:
        source = _SOURCES[kind] + subject
    return (
        f'{{"specversion":"1.0","id":"{epoch}-{seq}","source":"{source}",'
        f'"type":"{event.type}","subject":"{subject}","time":"{stamp(at)}","data":{event.data}}}'
    )


_ALL_OF = {"queue": ("queues",), "stock": ("stock",)}  # what is not about an order


def topics_of(event: Event) -> tuple[str, ...]:
    """Every topic whose readers get this event."""
    if event.message is None:
        return (event.subject, *_ALL_OF.get(event.subject.partition(":")[0], ()))
    topics = [event.subject, f"customer:{event.customer}", f"queue:{event.queue}"]
    if event.from_queue not in (None, event.queue):
        topics.append(f"queue:{event.from_queue}")
    return tuple(topics)


def frame(epoch: str, seq: int, at: int, event: Event) -> Frame:
    """The event as streams carry it: the same bytes for every reader."""
    text = f"id: {epoch}-{seq}\nevent: {event.type}\ndata: {envelope(epoch, seq, at, event)}\n\n"
    return Frame(seq, at, event.type, topics_of(event), event.wakes, text.encode())


def frames(appended: Appended, events: Iterable[Event]) -> list[Frame]:
    numbered = enumerate(events, appended.first)
    return [frame(appended.epoch, seq, appended.at, event) for seq, event in numbered]


def stored_event(row: Row) -> Event:
    """An event as it was read back."""
    return Event(
        type=row["type"],
        subject=row["subject"],
        data=row["data"],
        message=None if row["message"] is None else str(row["message"]),
        queue=row["queue"],
        from_queue=row["from_queue"],
        customer=row["customer"],
    )


# --- reading --------------------------------------------------------------------------

COLUMNS = "seq, type, subject, data, message, queue, from_queue, customer, created_at"


async def look(session: Session) -> Look:
    return look_of((await session.fetch("SELECT * FROM stream"))[0])


def look_of(row: Row) -> Look:
    """What a row of `stream` says."""
    return Look(
        row["head"],
        row["epoch"],
        row["floor"],
        row["queues_version"],
        row["revocations_version"],
        row["home"],
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Topics sorted by the column that finds their events."""

    orders: list[str]
    customers: list[str]
    queues: list[str]
    subjects: list[str]  # of events that are not about an order
    all_queues: bool
    all_stock: bool

    @classmethod
    def of(cls, topics: Iterable[str]) -> "Wanted":
        chosen = sorted(topics)
        named: dict[str, list[str]] = {"order": [], "customer": [], "queue": []}
        subjects: list[str] = []
        for topic in chosen:
            kind, colon, name = topic.partition(":")
            if kind in named:
                named[kind].append(name)
            elif colon:
                subjects.append(topic)
        return cls(
            named["order"],
            named["customer"],
            named["queue"],
            subjects,
            "queues" in chosen,
            "stock" in chosen,
        )

    @property
    def only_orders(self) -> bool:
        others = self.customers or self.queues or self.subjects
        return bool(self.orders) and not (others or self.all_queues or self.all_stock)


_MATCH = {
    Dialect.POSTGRES: "(message = ANY($4::uuid[]) OR customer = ANY($5::text[])"
    " OR queue = ANY($6::text[]) OR from_queue = ANY($6::text[])"
    " OR (message IS NULL AND (subject = ANY($7::text[])"
    " OR ($8::bool AND queue IS NOT NULL) OR ($9::bool AND subject LIKE 'stock:%'))))",
    Dialect.SQLITE: "(message IN (SELECT value FROM json_each($4))"
    " OR customer IN (SELECT value FROM json_each($5))"
    " OR queue IN (SELECT value FROM json_each($6))"
    " OR from_queue IN (SELECT value FROM json_each($6))"
    " OR (message IS NULL AND (subject IN (SELECT value FROM json_each($7))"
    " OR ($8 AND queue IS NOT NULL) OR ($9 AND subject LIKE 'stock:%'))))",
}
_RANGE = {
    Dialect.POSTGRES: f"SELECT {COLUMNS} FROM events WHERE seq > $1 AND seq <= $2",
    Dialect.SQLITE: f"SELECT {COLUMNS} FROM events WHERE seq > $1 AND seq <= $2",
}
_LIMIT = {Dialect.POSTGRES: " ORDER BY seq LIMIT $3", Dialect.SQLITE: " ORDER BY seq LIMIT $3"}
_BY_ORDER = {
    Dialect.POSTGRES: f"SELECT {COLUMNS} FROM events WHERE message = ANY($4::uuid[])"
    " AND seq > $1 AND seq <= $2",
    Dialect.SQLITE: f"SELECT {COLUMNS} FROM events"
    " WHERE message IN (SELECT value FROM json_each($4)) AND seq > $1 AND seq <= $2",
}


async def read_range(
    session: Session, after: int, upto: int, topics: Iterable[str] | None, limit: int
) -> Sequence[Row]:
    """The rows of (after, upto] that match the topics (all if None), in order."""
    dialect = session.dialect
    if topics is None:
        return await session.fetch(_RANGE[dialect] + _LIMIT[dialect], after, upto, limit)
    wanted = Wanted.of(topics)
    orders = as_array(dialect, wanted.orders)
    if wanted.only_orders:
        sql = _BY_ORDER[dialect] + _LIMIT[dialect]
        return await session.fetch(sql, after, upto, limit, orders)
    sql = f"{_RANGE[dialect]} AND {_MATCH[dialect]}{_LIMIT[dialect]}"
    return await session.fetch(
        sql,
        after,
        upto,
        limit,
        orders,
        as_array(dialect, wanted.customers),
        as_array(dialect, wanted.queues),
        as_array(dialect, wanted.subjects),
        wanted.all_queues,
        wanted.all_stock,
    )


async def read_window(database: Database, after: int, topics: frozenset[str] | None) -> Window:
    """The next window of the log after a number, with floor and head of the same instant."""
    most = WINDOW if topics is None else STREAM_ROWS
    async with database.snapshot() as session:
        now = await look(session)
        whole = topics is not None and Wanted.of(topics).only_orders
        upto = now.head if whole else min(after + WINDOW, now.head)
        rows = await read_range(session, after, upto, topics, most)
        if len(rows) == most:
            upto = rows[-1]["seq"]
        found = [frame(now.epoch, r["seq"], r["created_at"], stored_event(r)) for r in rows]
    return Window(now.epoch, now.head, now.floor, upto, found)


@dataclass(frozen=True, slots=True)
class Chapter:
    """A page of `/events/history`: CloudEvents as JSON texts."""

    items: list[str]
    reached: int  # numbers up to here were looked at
    look: Look


async def read_chapter(
    database: Database, after: int, topics: frozenset[str], limit: int
) -> Chapter:
    """The first `limit` events after a number, looking at 20 windows at most."""
    items: list[str] = []
    reached = after
    async with database.snapshot() as session:
        now = await look(session)
        for _ in range(CHAPTER_WINDOWS):
            if reached >= now.head or len(items) >= limit:
                break
            whole = Wanted.of(topics).only_orders
            upto = now.head if whole else min(reached + WINDOW, now.head)
            wanted = limit - len(items)
            rows = await read_range(session, reached, upto, topics, wanted)
            items += [envelope(now.epoch, r["seq"], r["created_at"], stored_event(r)) for r in rows]
            reached = rows[-1]["seq"] if len(rows) == wanted else upto
    return Chapter(items, reached, now)


async def first_since(session: Session, instant: int) -> int:
    """The cursor from which on all events at or after an instant follow."""
    sql = "SELECT min(seq) AS seq FROM events WHERE created_at >= $1"
    found = (await session.fetch(sql, instant))[0]["seq"]
    now = await look(session)
    return now.head if found is None else max(found - 1, now.floor)


async def history(session: Session, message: str, after: int, limit: int) -> Sequence[Row]:
    """The events of one order after a number, oldest first, with their details."""
    return await session.fetch(
        "SELECT seq, type, data, detail, created_at FROM events"
        " WHERE message = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        message,
        after,
        limit,
    )


async def recent(session: Session, message: str, most: int) -> Sequence[Row]:
    """The last events of one order, oldest first."""
    rows = await session.fetch(
        "SELECT seq, type, data, detail, created_at FROM events"
        " WHERE message = $1 ORDER BY seq DESC LIMIT $2",
        message,
        most,
    )
    return rows[::-1]


def history_item(epoch: str, row: Row, *, staff: bool) -> dict[str, Any]:
    """One step of an order's history; staff also see who, which worker, which error."""
    data: Mapping[str, Any] = json.loads(row["data"])
    item = {
        "id": event_id(epoch, row["seq"]),
        "type": row["type"],
        "time": stamp(row["created_at"]),
        **{
            name: data[name]
            for name in (
                "version",
                "queue",
                "previous_queue",
                "status",
                "previous_status",
                "reason",
            )
        },
    }
    if staff:
        detail = json.loads(row["detail"] or "{}")
        item |= {name: detail.get(name) for name in ("actor", "worker", "error", "result")}
    return item


async def prune(database: Database, before: int, step: int) -> None:
    """Move the floor past events older than an instant, then delete what nobody needs.

    An event goes when it is at or below the floor and its message is gone (or it never had
    one): a history lives as long as its order, and above the floor there are no holes.
    """
    async with database.read() as session:
        sql = "SELECT max(seq) AS seq FROM events WHERE created_at < $1"
        old = (await session.fetch(sql, before))[0]["seq"]
        floor = (await look(session)).floor
    if old is not None and old > floor:
        async with database.transaction() as session:
            await session.execute("UPDATE stream SET floor = $1 WHERE floor < $1", old)
    while await _sweep(database, step):
        continue


async def _sweep(database: Database, step: int) -> bool:
    """One stretch of numbers below the floor; whether there is more.

    The head's lock comes first: a message that is pruned at the same time either sees this
    floor and deletes its own events, or is gone before this looks.
    """
    async with database.transaction() as session:
        await session.execute("UPDATE stream SET head = head")
        row = (await session.fetch("SELECT floor, swept FROM stream"))[0]
        upto = min(row["floor"], row["swept"] + step)
        await session.execute(
            "DELETE FROM events WHERE seq > $1 AND seq <= $2 AND NOT EXISTS"
            " (SELECT 1 FROM messages m WHERE m.id = events.message)",
            row["swept"],
            upto,
        )
        await session.execute("UPDATE stream SET swept = $1", upto)
    return upto < row["floor"]


# --- which log is this ----------------------------------------------------------------


async def settle_home(database: Database) -> Look:
    """Make sure that the log's past is this database's past; a new epoch if it is not.

    A restored backup, a stale replica and a copied file all say `home` of another database:
    numbers that clients remember may mean other events now, so all cursors end.
    """
    async with database.read() as session:
        now, home = await look(session), await database.home(session)
    if now.epoch and now.home == home:
        return now
    return await new_epoch(database, now.epoch, home)


async def new_epoch(database: Database, old: str, home: str) -> Look:
    """Begin a new epoch, unless another process just did."""
    async with database.transaction() as session:
        await session.execute(
            "UPDATE stream SET epoch = $1, home = $2, floor = head WHERE epoch = $3",
            uuid.uuid4().hex[:8],
            home,
            old,
        )
        return await look(session)


# --- the wire -------------------------------------------------------------------------


def channel_of(epoch: str) -> str:
    return f"filaviva:{epoch}"


def encode(epoch: str, first: int, batch: Sequence[Frame]) -> bytes:
    """One payload: a line of JSON that says what follows, then the frames' bytes.

    A batch above 1 MiB is told by its head alone; the log has it.
    """
    size = sum(len(f.data) for f in batch)
    head: dict[str, Any] = {"epoch": epoch, "first": first, "head": first + len(batch) - 1}
    if size > PAYLOAD_BYTES:
        return to_json(head)
    head["frames"] = [[f.at, f.kind, f.topics, f.wakes, len(f.data)] for f in batch]
    return to_json(head) + b"\n" + b"".join(f.data for f in batch)


@dataclass(frozen=True, slots=True)
class Payload:
    """What came over the wire. `frames` is empty when only the head was told."""

    epoch: str
    first: int
    head: int
    frames: list[Frame]


def decode(payload: bytes) -> Payload:
    """
    Raises:
        ValueError: another version of this service made it.
    """
    line, _, blob = payload.partition(b"\n")
    try:
        head = json.loads(line)
        batch: list[Frame] = []
        start = 0
        for seq, said in enumerate(head.get("frames", ()), head["first"]):
            at, kind, topics, wakes, size = said
            data = blob[start : start + size]
            batch.append(Frame(seq, at, kind, tuple(topics), wakes, data))
            start += size
        if start != len(blob):
            raise ValueError("sizes and bytes differ")
        return Payload(head["epoch"], head["first"], head["head"], batch)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a payload of ours") from error


def seal(key: bytes, name: bytes, number: int, payload: bytes) -> bytes:
    """What goes through Redis: a seal, which process says it, the number it gives it, a payload.

    Whoever else can write into Redis could tell browsers of events that never were; without
    the key nobody is believed.
    """
    said = _SPEAKER.pack(name, number) + payload
    return hmac.digest(key, said, "sha256") + said


def unseal(key: bytes, data: bytes) -> tuple[bytes, int, bytes]:
    """Who says it, their number, the payload.

    Raises:
        ValueError: somebody else wrote into our channel.
    """
    found, said = data[:SEAL_BYTES], data[SEAL_BYTES:]
    if len(said) < _SPEAKER.size:
        raise ValueError("too short")
    if not hmac.compare_digest(found, hmac.digest(key, said, "sha256")):
        raise ValueError("not sealed with our key")
    name, number = _SPEAKER.unpack_from(said)
    return name, number, said[_SPEAKER.size :]


class Deaf(ConnectionError):
    """What we published did not come back: the subscription carries nothing."""


class Echo:
    """Whether a process hears itself, the one proof that its subscription carries anything.

    A line may die without a word, and a proxy may hold one to a server that nobody publishes
    at any more: both look open. So what Redis has taken is owed to us, and a confirmation
    when we subscribe; what is owed for too long will not come.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._said = 0  # the last number handed to Redis
        self._taken = 0  # the last that Redis says it took
        self._heard = 0
        self._owed_since: float | None = None
        self.subscribed = False

    def subscribe(self) -> None:
        self.subscribed = False
        self._owed_since = self._now()

    def confirm(self) -> None:
        """From here on; what was said before may have gone by."""
        self.subscribed = True
        self._heard = self._said
        self._owed_since = None

    def lose(self) -> None:
        self.subscribed = False
        self._owed_since = None

    def say(self) -> int:
        """The number of the next payload."""
        self._said += 1
        return self._said

    def take(self) -> None:
        """Redis has taken all that was said."""
        self._taken = self._said
        if self.subscribed and self._owed_since is None and self._taken > self._heard:
            self._owed_since = self._now()

    def hear(self, number: int) -> None:
        if number > self._heard:
            self._heard = number
            # Late but on its way is not lost: each one that comes gives the next its time.
            self._owed_since = self._now() if self._taken > number else None

    @property
    def overdue(self) -> bool:
        return self._owed_since is not None and self._now() - self._owed_since > ECHO_SECONDS


class Outbox:
    """What waits to be published, within a bound: when it is full the oldest goes."""

    def __init__(self, most: int = WIRE_QUEUE, most_bytes: int = WIRE_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, channel: str, payload: bytes) -> int:
        """How many had to go."""
        self._waiting.append((channel, payload))
        self._size += len(payload)
        gone = 0
        while len(self._waiting) > self._most or self._size > self._most_bytes:
            self._size -= len(self._waiting.popleft()[1])
            gone += 1
        return gone

    def take(self) -> list[tuple[str, bytes]]:
        """All of it."""
        taken = list(self._waiting)
        self._waiting.clear()
        self._size = 0
        return taken


@dataclass(slots=True)
class WireStats:
    """Plain numbers for the metrics, in payloads."""

    published: int = 0  # that Redis took
    dropped: int = 0  # that it did not take in time
    heard: int = 0  # of other processes
    garbage: int = 0  # that none of our processes made
    subscriptions: int = 0  # that were confirmed


class Wire:
    """Both ends of Redis. It carries what is committed already, and may lose any of it.

    `on_payload` is called with what another process published, `on_subscribed` whenever a
    subscription is confirmed: what was published before that moment is gone, so somebody has
    to look at the log. Once a second something is published, if only to be heard, so that an
    end that broke is known to be broken, and mended, also while nothing is sold.
    """

    def __init__(
        self,
        url: str,
        key: bytes,
        *,
        on_payload: Callable[[Payload], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        """`key` is what all processes share and nobody else has."""
        self._url = url
        self._key = key
        self._on_payload = on_payload
        self._on_subscribed = on_subscribed
        self._name = secrets.token_bytes(8)
        self._echo = Echo()
        self._outbox = Outbox()
        self._filled = asyncio.Event()
        self._epoch = ""
        self._moved = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._heard_at = time.monotonic()
        self._broken: set[str] = set()  # what was complained of
        self.publishing = False  # whether Redis took what was said last
        self.stats = WireStats()

    async def start(self, epoch: str) -> None:
        self._epoch = epoch
        self._tasks = [
            asyncio.create_task(self._keep(PUBLISHING, self._publish), name="wire-out"),
            asyncio.create_task(self._keep(LISTENING, self._listen), name="wire-in"),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """Payloads not yet taken by Redis."""
        return len(self._outbox)

    @property
    def silence(self) -> float:
        """Seconds since anything was heard."""
        return time.monotonic() - self._heard_at

    @property
    def hearing(self) -> bool:
        """Whether the subscription carries: we beat once a second, and hear that."""
        return self._echo.subscribed and self.silence < SILENCE_SECONDS

    @property
    def up(self) -> bool:
        return self.publishing and self.hearing

    def follow(self, epoch: str) -> None:
        """Move to the channel of a new epoch."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._moved.set()

    def publish(self, epoch: str, first: int, batch: Sequence[Frame]) -> None:
        """Hand over committed frames. Never waits; when Redis is slow the oldest go first."""
        payload = encode(epoch, first, batch)
        self.stats.dropped += self._outbox.put(channel_of(epoch), payload)
        self._filled.set()

    def _client(self) -> Redis:
        """One attempt each, soon given up: trying again is ours, and the log is quicker."""
        return Redis.from_url(
            self._url,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(ConstantBackoff(0), 0),
        )

    async def _keep(self, what: str, work: Callable[[Redis], Awaitable[None]]) -> None:
        """Begin again whenever it breaks, and a Redis that lies may break anything."""
        while True:
            try:
                async with contextlib.aclosing(self._client()) as client:
                    await work(client)
            except Exception as error:
                self._complain(what, error)
            await asyncio.sleep(PAUSE_SECONDS)

    def _complain(self, what: str, error: Exception) -> None:
        """Once, until it works again."""
        if what not in self._broken:
            self._broken.add(what)
            unheard_of = None if isinstance(error, EXPECTED) else error
            logger.opt(exception=unheard_of).warning(
                "{} Redis broke: {}", what, type(error).__name__
            )

    def _works(self, what: str) -> None:
        if what in self._broken:
            self._broken.discard(what)
            logger.info("{} Redis works again", what)

    # Out.

    async def _publish(self, client: Redis) -> None:
        try:
            # A beat first: what a server that hangs does not read stays in our memory.
            await self._send(client, [self._beat])
            while True:
                await self._send(client, await self._due())
        finally:
            self.publishing = False
            # What waited is old by now; each process finds it in the log within a second.
            self.stats.dropped += len(self._outbox.take())

    async def _due(self) -> list[tuple[str, bytes]]:
        """What waits, or after a second without anything a beat."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT_SECONDS):
                await self._filled.wait()
        self._filled.clear()
        return self._outbox.take() or [self._beat]

    @property
    def _beat(self) -> tuple[str, bytes]:
        return channel_of(self._epoch), BEAT

    async def _send(self, client: Redis, due: list[tuple[str, bytes]]) -> None:
        """All at once: behind a slow Redis they would wait for each other's answers."""
        payloads = sum(payload != BEAT for _, payload in due)
        try:
            async with asyncio.timeout(ANSWER_SECONDS), client.pipeline(transaction=False) as line:
                for channel, payload in due:
                    sealed = seal(self._key, self._name, self._echo.say(), payload)
                    line.publish(channel, sealed)
                await line.execute()
        except BaseException:
            self.stats.dropped += payloads
            raise
        self.stats.published += payloads
        self._echo.take()
        self.publishing = True
        self._works(PUBLISHING)

    # In.

    async def _listen(self, client: Redis) -> None:
        while True:
            async with contextlib.aclosing(client.pubsub()) as pubsub:
                await self._hear_out(pubsub)

    async def _hear_out(self, pubsub: PubSub) -> None:
        """One subscription, until the epoch changes.

        Raises:
            Deaf: nothing comes any more.
            RedisError, OSError: it broke.
        """
        self._moved.clear()
        self._echo.subscribe()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await pubsub.subscribe(channel_of(self._epoch))
            while not self._moved.is_set():
                message = await pubsub.get_message(timeout=POLL_SECONDS)
                if message is not None:
                    self._receive(message)
                if self._echo.overdue:
                    raise Deaf
        finally:
            self._echo.lose()

    def _receive(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._confirmed()
        elif message["type"] == "message":
            self._take_in(message["data"])

    def _confirmed(self) -> None:
        self._echo.confirm()
        self._heard_at = time.monotonic()
        self.stats.subscriptions += 1
        self._works(LISTENING)
        self._broken.discard(READING)
        self._on_subscribed()

    def _take_in(self, data: bytes) -> None:
        try:
            payload = self._news(data)
        except ValueError as error:
            self.stats.garbage += 1
            self._complain(READING, error)
            return
        if payload is not None:
            self.stats.heard += 1
            self._on_payload(payload)

    def _news(self, data: bytes) -> Payload | None:
        """What another process has published; None of a beat, and of our own voice."""
        name, number, payload = unseal(self._key, data)
        self._heard_at = time.monotonic()
        if name == self._name:
            self._echo.hear(number)
            return None
        return decode(payload) if payload != BEAT else None

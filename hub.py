"""Fan-out inside one process: from the numbered event log to everybody who listens.

The hub is fed with finished frames, from commits of this process and from the channel,
in any order, with doubles and holes. It passes them on strictly in sequence: what comes
too early waits, what is missing is read from the log. So a hole never reaches a stream.

A frame is encoded once. Subscribers of the same topics form a group; what is due for a
group within a tick is joined once, and each of its streams makes one write of those same
bytes. A stream holds a cursor, never a pile: while it writes or lags it is given nothing,
and afterwards it reads on from its cursor, out of the ring or, further back, the log.

Of some kinds of events only the newest counts. Where nothing else is due, a group gets
those at intervals, and of each subject the last one: a thousand streams that watch how a
shelf empties are written to ten times a second, not at every sale.

Everything runs on one event loop and nothing here is opened at import. Durations are in
seconds of the loop's clock, wall times in milliseconds since 1970 UTC.
"""

import asyncio
import contextvars
import json
import random
import re
import time
from bisect import bisect_right
from collections import deque
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeVar

from instants import stamp

# The comment line without a blank line after it: with one, some clients (fetch-event-source,
# httpx-sse) deliver an empty event.
HEARTBEAT: Final = b":\n"
RESOLUTION: Final = 0.25  # seconds; how exactly heartbeats, expiries and lifetimes are kept
FRAME_OVERHEAD: Final = 600  # bytes a frame costs in the ring beside its data: 510 measured
CACHED_PAGES: Final = 32  # shared among streams that catch up from the same place
ALARMS_A_TURN: Final = 500  # streams looked after before the loop gets a turn
WRITES_A_TURN: Final = 100  # the same for streams written to: some 1 ms
STALL_LOOKS: Final = 4  # at a line that is full, before its stream is given up
COALESCED_PAGES: Final = 16  # of events read to make one of those that count

T = TypeVar("T")
_seq = attrgetter("seq")
_unsafe = re.compile(r"[\r\n\0]")
_event_id = re.compile(r"([A-Za-z0-9_]{1,16})-(0|[1-9][0-9]{0,15})")


# --- what goes in ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """One event, finished: the same bytes for every reader, live and replayed."""

    seq: int
    at: int  # when it was committed
    kind: str  # the event's type, e.g. "order.processing"
    topics: tuple[str, ...]  # all it matches, e.g. ("order:…", "customer:c-7", "queue:picking")
    wakes: str | None  # the queue in which a message became claimable at once
    data: bytes  # the whole block, blank line included


@dataclass(frozen=True, slots=True)
class Window:
    """What one read of the log found, all of it in one snapshot."""

    epoch: str
    head: int
    floor: int  # cursors from here on can be resumed
    upto: int  # the numbers (after, upto] were looked at
    frames: list[Frame]  # those of them that match, in order


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The present state of some topics as of `seq`; only the last frame has an id."""

    epoch: str
    seq: int
    frames: Sequence[bytes]


# (after, topics) -> Window; topics None: every event. Raises whatever the database raises.
ReadLog = Callable[[int, frozenset[str] | None], Awaitable[Window]]
ReadSnapshot = Callable[[], Awaitable[Snapshot]]
ReadGreeting = Callable[[], Awaitable[Sequence[bytes]]]
ReadTopics = Callable[[], Awaitable[Collection[str]]]
Gone = Callable[[str], None]
State = Literal["opening", "live", "replaying", "full", "ending"]


@dataclass(frozen=True, slots=True)
class Facts:
    """One open stream, as it is at the moment."""

    number: int  # 1, 2, … in the order in which the hub's streams were opened
    owner: object  # whatever the caller knows it by
    topics: frozenset[str]
    opened_at: int
    cursor: int | None  # the last number it was given as an id; None while it opens
    lag: int  # numbers of the log behind the head that it has yet to look at
    unsent: int  # bytes that were written and have not reached the client
    state: State
    delivered: int  # events


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stream begins."""

    kind: Literal["now", "after", "reset", "snapshot"]
    epoch: str = ""  # of the cursor; kind "after"
    seq: int = 0
    reason: str = ""  # of the reset: pruned, epoch, unknown

    @classmethod
    def now(cls) -> "Start":
        return cls("now")

    @classmethod
    def after(cls, epoch: str, seq: int) -> "Start":
        return cls("after", epoch, seq)

    @classmethod
    def reset(cls, reason: str) -> "Start":
        return cls("reset", reason=reason)

    @classmethod
    def snapshot(cls) -> "Start":
        """With the present state; needs the `snapshot` of `Hub.subscribe`."""
        return cls("snapshot")

    @classmethod
    def resume(cls, text: str) -> "Start":
        """From the id a client sends back; what cannot be read is a reset."""
        found = parse_id(text)
        return cls.after(*found) if found else cls.reset("unknown")


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of the hub."""

    ring_bytes: int = 32 << 20
    ahead_frames: int = 10_000  # that wait for a missing number; the log has the rest
    ahead_bytes: int = 8 << 20
    tick_bytes: int = 256 << 10  # of one write; a tick with more is caught up in pages
    page_bytes: int = 64 << 10  # small, so that a thin line still ends a write in time
    notes_bytes: int = 256 << 10  # control frames kept for a stream that is busy
    unsent_bytes: int = 64 << 20  # of snapshots that were read; beyond it nobody gets a new one
    log_reads: int = 4  # replays that read the log at the same time
    tick: float = 0.005  # least time between two ticks, after one of many writes
    tick_a_write: float = 0.0001  # the same after one of few: ten times what a write takes
    supersede: float = 0.1  # within it an event may be replaced by a newer one, and is held
    gap: float = 0.005  # time a gap has to close by itself
    retry: float = 0.25  # after a read of the log failed
    read: float = 10  # a read of the log, the wait for its turn included
    heartbeat: float = 15
    stall: float = 20  # a write that takes longer ends its stream
    lifetime: tuple[float, float] = (600, 900)
    reconnect_ms: tuple[int, int] = (500, 5_000)


@dataclass(slots=True)
class Stats:
    """Plain numbers for the metrics."""

    streams: int = 0  # open now
    opened: int = 0
    delivered: int = 0  # events handed to streams
    left_out: int = 0  # events that a newer one replaced; once for all streams of a group
    resets: int = 0
    slow: int = 0  # streams ended because they did not read
    gaps: int = 0  # that did not close by themselves
    log_reads: int = 0
    log_errors: int = 0
    ahead_dropped: int = 0
    ring_bytes: int = 0


# --- what goes out: blocks of text/event-stream ---------------------------------------


def event_id(epoch: str, seq: int) -> str:
    return f"{epoch}-{seq}"


def parse_id(text: str) -> tuple[str, int] | None:
    """(epoch, seq) of an event's id, None if it is not one."""
    found = _event_id.fullmatch(text)
    return (found[1], int(found[2])) if found else None


def control(
    name: str, data: Mapping[str, object], cursor: str | None = None, retry: int | None = None
) -> bytes:
    """One control frame; `cursor` becomes its id, `retry` is in milliseconds.

    Raises ValueError where a line break would forge a field.
    """
    _refuse_breaks((name, cursor or ""))
    lines = [] if retry is None else [f"retry: {retry}"]
    lines += [] if cursor is None else [f"id: {cursor}"]
    body = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return "\n".join([*lines, f"event: {name}", f"data: {body}", "", ""]).encode()


def goodbye(reason: str, reconnect_ms: int | None) -> bytes:
    """The last frame. `retry:` too: an EventSource heeds nothing else."""
    return control("goodbye", {"reason": reason, "reconnect_ms": reconnect_ms}, retry=reconnect_ms)


def bookmark(epoch: str, seq: int, head: int) -> bytes:
    return control("bookmark", {"head": event_id(epoch, head)}, event_id(epoch, seq))


def _refuse_breaks(texts: Iterable[str]) -> None:
    for text in texts:
        if _unsafe.search(text):
            raise ValueError(f"line break or NUL in {text!r}")


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _ignore_end(_reason: str) -> None:
    """Nobody asked to be told."""


def _ignore(_error: Exception) -> None:
    """Failures of the log are counted in `Stats`; whoever wants to see them hands in more."""


# --- the ring -------------------------------------------------------------------------


class _Segment:
    """A run of the ring, by topic: a resume touches what matches and nothing else."""

    __slots__ = ("by_topic", "last", "size")

    def __init__(self) -> None:
        self.by_topic: dict[str, list[Frame]] = {}
        self.last = 0
        self.size = 0

    def append(self, frame: Frame, size: int) -> None:
        for topic in frame.topics:
            self.by_topic.setdefault(topic, []).append(frame)
        self.last = frame.seq
        self.size += size

    def after(self, topics: frozenset[str], seq: int) -> list[Frame]:
        lists = [found for topic in topics if (found := self.by_topic.get(topic))]
        tails = [found[bisect_right(found, seq, key=_seq) :] for found in lists]
        if len(tails) == 1:
            return tails[0]
        once = {frame.seq: frame for tail in tails for frame in tail}
        return [once[number] for number in sorted(once)]


class _Ring:
    """The newest frames. It is complete for every cursor from `floor` on.

    Kept in sixteen segments, so that making room is dropping one and not an edit of
    every topic's list.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.clear(0)

    def clear(self, head: int) -> None:
        self.floor = self.head = head
        self.size = 0
        self._segments: deque[_Segment] = deque()

    def append(self, frame: Frame) -> None:
        size = len(frame.data) + FRAME_OVERHEAD
        if not self._segments or self._segments[-1].size * 16 >= self.limit:
            self._segments.append(_Segment())
        self._segments[-1].append(frame, size)
        self.head = frame.seq
        self.size += size
        while self.size > self.limit:
            oldest = self._segments.popleft()
            self.floor, self.size = oldest.last, self.size - oldest.size

    def read(self, topics: frozenset[str], after: int, limit: int) -> tuple[list[Frame], int]:
        """Matching frames of about `limit` bytes, and the number up to which that is all."""
        found: list[Frame] = []
        for segment in self._segments:
            if segment.last <= after:
                continue
            for frame in segment.after(topics, after):
                if found and limit < len(frame.data):
                    return found, found[-1].seq
                found.append(frame)
                limit -= len(frame.data)
        return found, max(after, self.head)


class _Page(NamedTuple):
    upto: int  # whoever has this page has everything up to here
    frames: int
    last: int  # the last id in it
    data: bytes


def _pages(frames: Iterable[Frame], limit: int) -> Iterator[_Page]:
    """Frames joined to writes of at most `limit` bytes, or of one frame that is larger."""
    batch: list[Frame] = []
    size = 0
    for frame in frames:
        if batch and size + len(frame.data) > limit:
            yield _page(batch)
            batch, size = [], 0
        batch.append(frame)
        size += len(frame.data)
    if batch:
        yield _page(batch)


def _page(frames: list[Frame]) -> _Page:
    last = frames[-1].seq
    return _Page(last, len(frames), last, b"".join([frame.data for frame in frames]))


# --- one timer for all ----------------------------------------------------------------


class _Wheel:
    """When to look after which stream. A stream stands in one slot; moving it is O(1)."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Subscriber]] = {}
        self._next = 0  # the first slot that was not taken yet

    def begin(self, now: float) -> None:
        self._next = int(now / RESOLUTION)

    def put(self, subscriber: "Subscriber", when: float) -> None:
        self.drop(subscriber)
        slot = max(self._next, int(when / RESOLUTION) + 1)
        subscriber.slot = slot
        self._slots.setdefault(slot, set()).add(subscriber)

    def drop(self, subscriber: "Subscriber") -> None:
        if slot := self._slots.get(subscriber.slot):
            slot.discard(subscriber)

    def due(self, now: float) -> list["Subscriber"]:
        first, self._next = self._next, max(self._next, int(now / RESOLUTION) + 1)
        slots = [self._slots.pop(slot, ()) for slot in range(first, self._next)]
        return [subscriber for slot in slots for subscriber in slot]


# --- subscribers ----------------------------------------------------------------------


class _Batch(NamedTuple):
    """What is due for a group at a tick, joined once, on its way to the group's streams."""

    due: list[Frame]
    notes: bytes
    shared: bytes
    first: int  # number of the first event; beyond the head if there is none
    head: int
    at: float


class _Group:
    """All streams of the same topics, and what is due for them: at the next tick if it is
    `called` to it, else when its rest is over.
    """

    __slots__ = (
        "called",
        "due",
        "left_out",
        "members",
        "newest",
        "notes",
        "rests_until",
        "size",
        "sweep",
        "topics",
    )

    def __init__(self, topics: frozenset[str]) -> None:
        self.topics = topics
        self.members: set[Subscriber] = set()
        self.rests_until = 0.0  # what may be replaced is held until then; 0: it is not
        self.sweep: Iterator[bool] | None = None  # a batch that some streams do not have yet
        self.clear()

    def clear(self) -> None:
        self.due: dict[int, Frame] = {}  # in order of their numbers
        # What may be replaced, by kind and subject: its number, and when the oldest event was
        # committed in whose place it stands.
        self.newest: dict[tuple[str, str], tuple[int, int]] = {}
        self.notes: list[bytes] = []
        self.size = 0  # bytes in `due`
        self.called = False
        self.left_out = 0

    def add(self, frame: Frame) -> bool:
        """True if this calls the group. An event counts once, whatever topics match."""
        if frame.seq in self.due:
            return False
        self._append(frame)
        return self.call()

    def renew(self, frame: Frame, key: tuple[str, str], since: int) -> bool:
        """The same for an event that may replace one of the same key, if that stands for
        nothing that was committed before `since`.
        """
        if frame.seq in self.due:
            return False
        older, oldest = self.newest.get(key, (0, 0))
        if older and oldest >= since:
            self.size -= len(self.due.pop(older).data)
            self.left_out += 1
        else:
            oldest = frame.at
        self._append(frame)
        self.newest[key] = (frame.seq, oldest)
        return not self.rests_until and self.call()

    @property
    def is_quiet(self) -> bool:
        return not self.due and self.sweep is None

    def _append(self, frame: Frame) -> None:
        self.due[frame.seq] = frame
        self.size += len(frame.data)

    def note(self, data: bytes) -> bool:
        self.notes.append(data)
        return self.call()

    def call(self) -> bool:
        called, self.called = self.called, True
        return not called

    def take(self, head: int, now: float) -> _Batch:
        """What is due; nothing is, afterwards."""
        due, notes = list(self.due.values()), b"".join(self.notes)
        self.clear()
        shared = b"".join([*(frame.data for frame in due), notes])
        return _Batch(due, notes, shared, due[0].seq if due else head + 1, head, now)


class Outlet(Protocol):
    """The line to one client, after the head of its answer. Nothing here waits."""

    def serve(self, reader: "Subscriber") -> None:
        """From now on the reader is told: `room()` and `lost()`."""
        ...

    def write(self, data: bytes) -> bool:
        """False: that filled the line. Nothing more may be written until `room()` is called."""
        ...

    def unread(self) -> int:
        """Bytes that were written and have not reached the client."""
        ...

    def finish(self) -> None:
        """The answer is whole."""
        ...

    def cut(self) -> None:
        """The line ends here and now, whatever was written."""
        ...


class Subscriber:
    """One stream. Made by `Hub.subscribe`; `begin` gives it its line.

    It is *live*: the hub writes to its `line`, and it costs neither a task nor a timer. Or
    it is busy: its `task` reads what it missed. Or its line is full: nobody does anything
    until it has room. What goes by while it is busy or full sets `behind`, and it reads on
    from `cursor` before it is live again. Between the last look at the ring and being live
    there is no await: no event fits in between.
    """

    __slots__ = (
        "behind",  # events may have gone by since `cursor`
        "choose",
        "choosing",  # its topics are to be read again
        "coalesce",  # of what it missed, only the newest of each order is wanted
        "cursor",  # numbers up to here are given, or not of its topics
        "delivered",  # events
        "ending",  # (reason, reconnect_ms) once it shall end
        "ends_at",  # of the credential or the lifetime, loop time
        "ends_why",
        "expires_at",  # the same as wall clock, ms
        "full",  # the outlet takes nothing more for now
        "full_since",  # when `unread` was less than before
        "gone",  # what is called with the reason at its end
        "greet",  # control frames to begin with are due
        "greeting",
        "group",
        "hub",
        "line",  # the outlet while it is live, else None
        "notes",  # control frames that came while it was busy; None: none
        "number",
        "opened_at",  # wall clock, ms
        "outlet",  # None before it begins and after its end
        "owner",  # whatever the caller knows it by
        "parted",  # goodbye is said
        "reset",  # reason of a reset that is due
        "room_made",  # what its task waits for while the line is full
        "sent_at",  # of the last write
        "slot",  # of the wheel
        "snapshot",
        "snapshot_due",
        "start",
        "task",  # what it is busy with
        "told",  # last number the client got as an id
        "told_at",
        "unread",
    )

    def __init__(
        self,
        hub: "Hub",
        group: _Group,
        start: Start,
        owner: object,
        snapshot: ReadSnapshot | None,
        greeting: ReadGreeting | None,
        choose: ReadTopics | None,
        gone: Gone,
        *,
        coalesce: bool,
    ) -> None:
        self.hub, self.group, self.owner, self.gone = hub, group, owner, gone
        self.start: Start | None = start  # judged: None
        self.snapshot, self.greeting, self.choose = snapshot, greeting, choose
        self.choosing = choose is not None
        self.coalesce = coalesce
        self.number, self.opened_at, self.delivered = hub.stats.opened, hub.clock(), 0
        self.cursor = self.told = hub.head
        self.told_at = self.sent_at = hub.now()
        self.behind = True
        self.full = self.parted = False
        self.full_since = 0.0
        self.unread = 0
        self.room_made: asyncio.Future[None] | None = None
        self.line: Outlet | None = None
        self.outlet: Outlet | None = None
        self.task: asyncio.Task[None] | None = None
        self.ending: tuple[str, int | None] | None = None
        self.reset: str | None = None
        self.snapshot_due = start.kind == "snapshot" and snapshot is not None
        self.greet = greeting is not None
        self.notes: list[bytes] | None = None
        self.slot = 0

    def set_end(self, expires_at: int | None) -> None:
        """It ends with its credential or after a lifetime drawn at random."""
        hub = self.hub
        life = random.uniform(*hub.limits.lifetime)
        wall, now = hub.clock(), hub.now()
        self.ends_why, self.ends_at = "lifetime", now + life
        self.expires_at = wall + int(life * 1000)
        if expires_at is not None and expires_at <= self.expires_at:
            self.ends_why, self.ends_at = "expired", now + (expires_at - wall) / 1000
            self.expires_at = expires_at

    # What the line does to it.

    def begin(self, outlet: Outlet) -> None:
        """The line is there: from now on the hub writes to it, until its end."""
        if not self.hub.knows(self):  # it was forgotten meanwhile
            outlet.cut()
            return
        self.outlet = outlet
        outlet.serve(self)
        self._go_on()

    def room(self) -> None:
        """The line takes more again."""
        self.full = False
        if self.room_made is not None:
            made, self.room_made = self.room_made, None
            if not made.done():  # else its stream has left
                made.set_result(None)
        else:
            self._go_on()

    def lost(self) -> None:
        """The client has gone."""
        self._leave("gone")

    # What the hub does to it. Nothing here waits.

    def _offer(self, data: bytes, now: float) -> None:
        """Write, if it is live."""
        if self.line is None:
            return
        self.sent_at = now
        if not self.line.write(data):
            self._fill()

    def give(self, batch: _Batch) -> int:
        """A tick. Returns the number of events that it was given."""
        if self.line is None:
            self._miss(batch)
            return 0
        if self.cursor >= batch.first:  # it came between two ticks and has some of them
            return self._give_part(batch)
        self.cursor = batch.head
        self.sent_at = batch.at
        if batch.due:
            self.told, self.told_at = batch.due[-1].seq, batch.at
        if not self.line.write(batch.shared):
            self._fill()
        self.delivered += len(batch.due)
        return len(batch.due)

    def _give_part(self, batch: _Batch) -> int:
        fresh = [frame for frame in batch.due if frame.seq > self.cursor]
        self.cursor = max(self.cursor, batch.head)
        if fresh:
            self.told, self.told_at = fresh[-1].seq, batch.at
        if fresh or batch.notes:
            self._offer(b"".join([*(frame.data for frame in fresh), batch.notes]), batch.at)
        self.delivered += len(fresh)
        return len(fresh)

    def _miss(self, batch: _Batch) -> None:
        """Events are read later, control frames are kept."""
        if batch.due:
            self.behind = True
        if batch.notes:
            self.notes = [*(self.notes or ()), batch.notes]
            if sum(map(len, self.notes)) > self.hub.limits.notes_bytes:
                self.end("slow", self.hub.reconnect())

    def send_back(self, notes: bytes) -> None:
        """A tick is too large for one write: it reads the events page by page."""
        if notes:
            self.notes = [*(self.notes or ()), notes]
        self.behind = True
        self._go_on()

    def choose_again(self) -> None:
        """Its topics change: it goes no further than here before it knows them."""
        self.choosing = self.choose is not None
        self._go_on()

    def restart(self, reason: str) -> None:
        self.reset = reason
        self._go_on()

    def end(self, reason: str, reconnect_ms: int | None = None) -> None:
        """Says goodbye and leaves, as soon as the line takes it. The first reason stands."""
        if self.ending is None:
            self.ending = (reason, reconnect_ms)
            self._go_on()

    def look_after(self, now: float) -> float:
        """Heartbeat, bookmark, expiry or stall, whatever is due; returns when to come again."""
        limits = self.hub.limits
        if self.outlet is None:  # its request ended before it began
            self._leave("gone")
            return now
        if now >= self.ends_at:
            self.end(self.ends_why, None if self.ends_why == "expired" else self.hub.reconnect())
        if self.full:
            return self._look_at_line(now)
        if self.group.is_quiet:
            self._break_silence(now)
        again = max(self.sent_at, self.told_at) + limits.heartbeat
        return min(again if again > now else now + limits.heartbeat, max(self.ends_at, now))

    def _look_at_line(self, now: float) -> float:
        """A client that reads, however slowly, may go on; not so one that only holds a line."""
        limits = self.hub.limits
        unread = self.outlet.unread() if self.outlet else 0
        if unread < self.unread and self.ending is None:
            self.unread, self.full_since = unread, now
        if now < self.full_since + limits.stall:
            return self._next_look(now)
        self.drop("slow")
        return now

    def _next_look(self, now: float) -> float:
        """When to look at a full line, or to end by then if it has room again.

        Also when its end has passed and was not noticed: the timer then comes at its next turn,
        which may not be put off each time that the line fills.
        """
        again = now + self.hub.limits.stall / STALL_LOOKS
        return again if self.ending is not None else min(again, self.ends_at)

    def _break_silence(self, now: float) -> None:
        """A quiet stream's cursor follows the log, or a reconnect would read all of it again."""
        hub, silence = self.hub, self.hub.limits.heartbeat
        if self.line is None:
            return
        if self.told < hub.head and now - self.told_at >= silence:
            self.cursor = self.told = max(self.cursor, hub.head)
            self.told_at = now
            self._offer(bookmark(hub.epoch, self.told, hub.head), now)
        elif now - self.sent_at >= silence:
            self._offer(HEARTBEAT, now)

    # What can be seen of it.

    @property
    def lag(self) -> int:
        """Numbers of the log, of whatever topics, between what it has looked at and the head."""
        return max(0, self.hub.head - self.cursor) if self.behind else 0

    @property
    def state(self) -> State:
        if self.ending is not None:
            return "ending"
        if self.full:
            return "full"
        if self.line is not None:
            return "live"
        return "replaying" if self.start is None else "opening"

    def facts(self) -> Facts:
        return Facts(
            self.number,
            self.owner,
            self.group.topics,
            self.opened_at,
            self.told if self.start is None else None,
            self.lag,
            self.outlet.unread() if self.outlet else 0,
            self.state,
            self.delivered,
        )

    # From one state to the next.

    @property
    def _has_work(self) -> bool:
        return (
            self.behind
            or self.notes is not None
            or self.reset is not None
            or self.choosing
            or self.snapshot_due
            or self.greet
            or self.start is not None
        )

    def _go_on(self) -> None:
        """Do what is to be done next, if it can be done now."""
        if self.outlet is None or self.task is not None or self.full:
            return
        if self.ending is not None:
            self._part(self.outlet, *self.ending)
        elif self._has_work:
            self.line = None
            self.task = self.hub.spawn(self._work())
        else:
            self.line = self.outlet

    def _fill(self) -> None:
        """The line is full. How much of it the client takes is looked at now and then."""
        self.full, self.line = True, None
        self.full_since = self.hub.now()
        self.unread = self.outlet.unread() if self.outlet else 0
        self.hub.look_again_at(self, self._next_look(self.full_since))

    def _part(self, outlet: Outlet, reason: str, reconnect_ms: int | None) -> None:
        self.line = None
        if not self.parted:
            self.parted = True
            if not outlet.write(goodbye(reason, reconnect_ms)):
                self._fill()
                return
        self.outlet = None
        outlet.finish()
        self._leave(reason)

    def drop(self, reason: str) -> None:
        """Without a goodbye: its line takes none."""
        if self.outlet is not None:
            self.outlet.cut()
        self._leave(reason)

    def _leave(self, reason: str) -> None:
        if self.task is not None:
            self.task.cancel()
        self.line = self.outlet = None
        if self.hub.leave(self):
            self.hub.stats.slow += reason == "slow"
            self.gone(reason)

    # What it is busy with: one task, as long as it takes.

    async def _work(self) -> None:
        try:
            await self._serve()
        except Exception as error:
            self.hub.failed(error)
            self.task = None
            self.drop("broken")
            return
        finally:
            self.task = None
        self._go_on()

    async def _serve(self) -> None:
        if self.start is not None:
            await self._open(self.start)
        while self.ending is None:
            if self.full:  # what is read now would only wait
                await self._room()
            elif self.reset is not None:
                await self._tell_reset()
            elif self.choosing:
                await self._choose()
            elif self.snapshot_due:
                await self._tell_snapshot()
            elif self.greet:
                await self._tell_greeting()
            elif self.behind:
                await self._catch_up()
            elif self.notes is not None:
                await self._put_notes()
            else:
                return

    async def _open(self, start: Start) -> None:
        if self.ending is None:
            await self._judge(start)
        self.start = None
        if self.ending is None:
            await self._put(self._hello())

    async def _put(self, data: bytes) -> None:
        """Write, when the line takes it."""
        if self.full:
            await self._room()
        self.sent_at = self.hub.now()
        if self.outlet is not None and not self.outlet.write(data):
            self._fill()

    async def _room(self) -> None:
        self.room_made = self.hub.loop.create_future()
        await self.room_made

    async def _judge(self, start: Start) -> None:
        """Decides the cursor to go on from, or that a reset is due."""
        hub = self.hub
        beyond = start.epoch != hub.epoch or start.seq > hub.head
        # Another process may be ahead of this one: only the log can tell.
        if start.kind == "after" and beyond and await self._ask(hub.catch_up()) is None:
            return
        self.reset = self._objection(start)
        self.cursor = hub.head
        if start.kind == "after" and self.reset is None:
            self.cursor = start.seq
        self.told = self.cursor

    def _objection(self, start: Start) -> str | None:
        hub = self.hub
        if start.kind == "reset":
            return start.reason
        if start.kind != "after":
            return None
        if start.epoch != hub.epoch:
            return "epoch"
        if start.seq > hub.head:
            return "unknown"
        return "pruned" if start.seq < hub.floor else None

    def _hello(self) -> bytes:
        hub = self.hub
        data = {
            "epoch": hub.epoch,
            "head": event_id(hub.epoch, hub.head),
            "heartbeat_seconds": int(hub.limits.heartbeat),
            "expires_at": stamp(self.expires_at),
        }
        unsettled = self.reset is not None or self.snapshot_due
        at = None if unsettled else event_id(hub.epoch, self.cursor)
        return control("hello", data, at, hub.reconnect())

    async def _tell_reset(self) -> None:
        """The client shall refetch; it goes on from the head, or from a snapshot."""
        hub = self.hub
        head = event_id(hub.epoch, hub.head)
        data = {"reason": self.reset, "oldest": event_id(hub.epoch, hub.floor), "head": head}
        self.reset = None
        self.behind = True
        self.snapshot_due = self.snapshot is not None
        self.greet = self.greeting is not None
        self.choosing = self.choose is not None
        self._move(hub.head)
        hub.stats.resets += 1
        await self._put(control("reset", data, None if self.snapshot_due else head))

    async def _choose(self) -> None:
        """Read the topics as of now, and go on from the cursor with those."""
        self.choosing = False
        topics = await self._ask(self.hub.choose(self.choose)) if self.choose else None
        if topics is not None:
            self.hub.regroup(self, frozenset(topics))

    async def _tell_snapshot(self) -> None:
        hub = self.hub
        if hub.unsent > hub.limits.unsent_bytes:  # of readers that do not read
            self.end("overloaded", hub.reconnect())
            return
        found = await self._ask(self.snapshot()) if self.snapshot else None
        if found is None:
            return
        if found.epoch != hub.epoch:
            # The log began anew meanwhile: the hub finds out, tells all, and we come again.
            if await self._ask(hub.catch_up()) is not None and found.epoch != hub.epoch:
                self.restart("epoch")
            return
        if self.reset is not None:
            return
        self.snapshot_due = False
        self.behind = True
        self._move(found.seq)
        size = sum(map(len, found.frames))
        hub.unsent += size
        try:
            for frame in found.frames:
                await self._put(frame)
        finally:
            hub.unsent -= size

    async def _tell_greeting(self) -> None:
        self.greet = False
        self.notes = None  # older than what is read now
        frames = await self._ask(self.greeting()) if self.greeting else None
        for frame in frames or ():
            await self._put(frame)

    async def _put_notes(self) -> None:
        notes, self.notes = self.notes or [], None
        await self._put(b"".join(notes))

    def _move(self, seq: int) -> None:
        self.cursor = self.told = seq
        self.told_at = self.hub.now()

    async def _catch_up(self) -> None:
        """One page from the ring, or one window of the log; nothing left: it may wait."""
        page = self.hub.page(self.group, self.cursor, coalesce=self.coalesce)
        if page is None:
            await self._replay()
        elif page.frames == 0:
            self.cursor, self.behind = page.upto, False
        else:
            await self._put_page(page)
            self.cursor = page.upto

    async def _put_page(self, page: _Page) -> None:
        self.hub.stats.delivered += page.frames
        self.delivered += page.frames
        self.told, self.told_at = page.last, self.hub.now()
        await self._put(page.data)
        if self.notes is not None:
            await self._put_notes()
        await asyncio.sleep(0)  # a write that does not wait gives nobody else a turn

    async def _replay(self) -> None:
        hub, after, topics = self.hub, self.cursor, self.group.topics
        window = await self._ask(hub.read(after, topics))
        if window is None or self.reset is not None or self.choosing:
            return
        if window.epoch != hub.epoch:
            await self._ask(hub.catch_up())  # the reset comes with it
        elif after < window.floor:
            self.reset = "pruned"
        elif window.upto <= after:
            self._fail(LookupError(f"the log ends at {window.head}, expected more than {after}"))
        else:
            await self._put_window(window)

    async def _put_window(self, window: Window) -> None:
        topics, after = self.group.topics, self.cursor
        # Not beyond the hub: an event that changes the topics must be met there first.
        upto = min(window.upto, self.hub.head)
        # Matched again here: what a reader of the log gives too much must not leave the house.
        matching = [
            f for f in window.frames if after < f.seq <= upto and not topics.isdisjoint(f.topics)
        ]
        if self.coalesce:
            matching = self.hub.newest(matching)
        for page in _pages(matching, self.hub.limits.page_bytes):
            await self._put_page(page)
            if self.reset is not None or self.ending is not None:
                return
            self.cursor = page.upto
            if self.full:  # it is read again when there is room: nobody keeps it for so long
                return
        self._move(upto)
        await self._put(bookmark(window.epoch, upto, max(window.head, upto)))

    async def _ask(self, question: Awaitable[T]) -> T | None:
        """The answer, in time; otherwise None, and the stream ends so that it comes again.

        None too if it shall end meanwhile: who was revoked is shown nothing that was read since.
        """
        try:
            async with asyncio.timeout(self.hub.limits.read):
                answer = await question
                return answer if self.ending is None else None
        except Exception as error:
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        self.hub.failed(error)
        self.end("overloaded", self.hub.reconnect())


# --- workers that wait ----------------------------------------------------------------


class Waiter:
    """A place in the line of those who wait for a message of one queue."""

    __slots__ = ("_line", "_queue", "_woken")

    def __init__(self, line: "Waiters", queue: str) -> None:
        self._line, self._queue = line, queue
        self._woken = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """True if a message came since `Hub.waiting`, or since the last wait that was true."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        self._line.join(self._queue, self)
        return True

    def wake(self) -> None:
        self._woken.set()

    @property
    def is_woken(self) -> bool:
        return self._woken.is_set()


class Waiters:
    """Wakes as many waiters as there are messages, first come, first served."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[Waiter, None]] = {}

    @contextmanager
    def waiting(self, queue: str) -> Iterator[Waiter]:
        """Register first, then claim, then wait: a message in between is not missed."""
        waiter = Waiter(self, queue)
        self.join(queue, waiter)
        try:
            yield waiter
        finally:
            self._leave(queue, waiter)
            if waiter.is_woken:  # it did not use what it was woken for: the next one may
                self.wake(queue)

    def join(self, queue: str, waiter: Waiter) -> None:
        self._queues.setdefault(queue, {})[waiter] = None

    def wake(self, queue: str) -> None:
        """One message of this queue can be claimed."""
        if line := self._queues.get(queue):
            waiter = next(iter(line))
            self._leave(queue, waiter)
            waiter.wake()

    def wake_all(self) -> None:
        queues, self._queues = self._queues, {}
        for line in queues.values():
            for waiter in line:
                waiter.wake()

    def _leave(self, queue: str, waiter: Waiter) -> None:
        line = self._queues.get(queue, {})
        line.pop(waiter, None)
        if not line:
            self._queues.pop(queue, None)


# --- the hub --------------------------------------------------------------------------


@dataclass(slots=True)
class _Ahead:
    """Frames that came before their turn, within a bound."""

    limits: Limits
    frames: dict[int, Frame] = field(default_factory=dict[int, Frame])
    size: int = 0

    def keep(self, frame: Frame) -> bool:
        size = self.size + len(frame.data)
        if len(self.frames) >= self.limits.ahead_frames or size > self.limits.ahead_bytes:
            return False
        if frame.seq not in self.frames:
            self.frames[frame.seq] = frame
            self.size = size
        return True

    def pop(self, seq: int) -> Frame | None:
        frame = self.frames.pop(seq, None)
        if frame is not None:
            self.size -= len(frame.data)
        return frame

    def clear(self) -> None:
        self.frames.clear()
        self.size = 0


class Hub:
    """Topics, subscribers, ring, repair of gaps, heartbeats, and who waits for a message.

    Only the reader of gaps ever changes the epoch, and it reads one window after the
    other: an answer that was overtaken cannot bring an old epoch back.
    """

    def __init__(
        self,
        read_log: ReadLog,
        *,
        limits: Limits | None = None,
        superseded: frozenset[str] = frozenset(),
        states: frozenset[str] = frozenset(),
        regrouping: frozenset[str] = frozenset(),
        clock: Callable[[], int] = _wall_ms,
        on_error: Callable[[Exception], None] = _ignore,
    ) -> None:
        """`superseded` are the kinds of events of which only the newest of a subject counts;
        their first topic is the subject. `states` are those that tell the whole state of
        it, so that a stream that lags may want the newest alone. `regrouping` are those that
        change which topics their readers follow.
        """
        self.limits = limits or Limits()
        self.clock = clock
        self.stats = Stats()
        self.epoch = ""
        self.head = 0  # the last number that went out in sequence
        self.unsent = 0  # bytes of snapshots on their way
        self.floor = 0  # of the log, as far as known
        self._read_log, self._on_error = read_log, on_error
        self._superseded, self._states, self._regrouping = superseded, states, regrouping
        self._ring = _Ring(self.limits.ring_bytes)
        self._ahead = _Ahead(self.limits)
        self._pages: dict[tuple[_Group, int, bool], _Page] = {}
        self._subscribers: set[Subscriber] = set()
        self._groups: dict[frozenset[str], _Group] = {}
        self._topics: dict[str, set[_Group]] = {}
        self._touched: set[str] = set()
        self._listeners: list[Callable[[Frame], None]] = []
        self._waiters = Waiters()
        self._wheel = _Wheel()
        self._closing = False
        self._known = 0  # the highest number that was heard of
        self._look_due = False
        self._denied = ""  # an epoch that was heard of and is not the log's
        self._askers: list[asyncio.Future[int]] = []
        self._dirty: list[_Group] = []
        self._tick_handle: asyncio.Handle | None = None
        self._next_tick_at = 0.0
        self._resting: deque[tuple[float, _Group]] = deque()  # and until when, soonest first
        self._rest_handle: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # Opening and closing.

    def start(self, epoch: str, head: int, floor: int = 0) -> None:
        """Begins the live path after `head`.

        A head somewhat below the log's, followed by `await catch_up()`, fills the ring
        before the first streams come back after a restart.
        """
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self._context = contextvars.copy_context()
        self._wheel.begin(self.now())
        self._stir = asyncio.Event()
        self._turns = asyncio.Semaphore(self.limits.log_reads)
        self._settle(epoch, head, floor)
        keepers = (self._keep_up(), self._keep_time())
        self._tasks = [self.loop.create_task(keeper) for keeper in keepers]

    async def stop(self) -> None:
        """Ends what `start` began. Streams that cannot be told are cut off."""
        self.end_all("shutdown")
        for task in self._tasks:
            task.cancel()
        busy = [one.task for one in self._subscribers if one.task is not None]
        for one in list(self._subscribers):
            one.drop("shutdown")
        await asyncio.gather(*self._tasks, *busy, return_exceptions=True)
        self._answer(ConnectionError("the hub has stopped"))
        for handle in (self._tick_handle, self._rest_handle):
            if handle is not None:
                handle.cancel()

    @property
    def alive(self) -> bool:
        """False before `start`, after `stop`, and if a keeper broke."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    # Events come in.

    def feed(self, epoch: str, first: int, frames: Sequence[Frame]) -> None:
        """Frames numbered `first`, `first` + 1, …, in any order of calls, doubles welcome."""
        if epoch != self.epoch:
            self._hear_of(epoch)
            return
        for frame in frames[max(0, self.head + 1 - first) :]:
            if frame.seq == self.head + 1:
                self._take(frame)
            elif frame.seq > self.head and not self._ahead.keep(frame):
                self.stats.ahead_dropped += 1
        self._take_ahead()
        self._notice(first + len(frames) - 1)

    def listen(self, listener: Callable[[Frame], None]) -> None:
        """Every event from now on, in sequence. After a restart of the log `head` has jumped."""
        self._listeners.append(listener)

    def look(self, epoch: str, head: int, floor: int = 0) -> None:
        """What a look at the database, or a message that only says the head, has told."""
        if epoch != self.epoch:
            self._look_again()
            return
        self.floor = max(self.floor, floor)
        self._notice(head)

    async def catch_up(self) -> int:
        """Brings the hub to the log's head as of now or later, and returns the hub's.

        Raises what the reader of the log raises, and ConnectionError if the hub stops.
        """
        answer: asyncio.Future[int] = self.loop.create_future()
        self._askers.append(answer)
        self._look_again()
        return await answer

    def _hear_of(self, epoch: str) -> None:
        if epoch != self._denied:
            self._denied = epoch
            self._look_again()

    def _look_again(self) -> None:
        self._look_due = True
        self._stir.set()

    def _notice(self, head: int) -> None:
        self._known = max(self._known, head)
        if self.head < self._known:
            self._stir.set()

    def _take(self, frame: Frame) -> None:
        """The next frame in sequence, on its way to everybody."""
        self.head = frame.seq
        self._ring.append(frame)
        if self._ahead.frames:
            self._ahead.pop(frame.seq)
        for topic in frame.topics:
            for group in self._topics.get(topic, ()):
                if self._add(group, frame):
                    self._dirty.append(group)
        if "queues" in self._topics:
            self._touched.update(t[6:] for t in frame.topics if t.startswith("queue:"))
        if frame.wakes is not None:
            self._waiters.wake(frame.wakes)
        for listener in self._listeners:
            listener(frame)
        if frame.kind in self._regrouping:
            self._choose_again(frame)
        if self._dirty:
            self._plan_tick()

    def _choose_again(self, frame: Frame) -> None:
        """Before the next event is taken: nothing of a new topic may go by unseen."""
        for topic in frame.topics:
            for group in self._topics.get(topic, ()):
                self._flush_all(group)  # what was due goes by the topics it was due by
                for one in list(group.members):
                    one.choose_again()

    def _add(self, group: _Group, frame: Frame) -> bool:
        if frame.kind not in self._superseded:
            return group.add(frame)
        since = frame.at - int(self.limits.supersede * 1000)
        return group.renew(frame, (frame.kind, frame.topics[0]), since)

    def _take_ahead(self) -> None:
        while (frame := self._ahead.pop(self.head + 1)) is not None:
            self._take(frame)
        self.stats.ring_bytes = self._ring.size

    # Events go out.

    def _plan_tick(self) -> None:
        """The first event after a silence goes out at once; then ticks take a tenth of the
        time, or come once in 5 ms.
        """
        if self._tick_handle is not None:
            return
        due = self._next_tick_at
        if due <= self.now():
            self._tick_handle = self.loop.call_soon(self._tick)
        else:
            self._tick_handle = self.loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._tick_handle = None
        now = self.now()
        dirty, self._dirty = self._dirty, []
        writes = sum(len(group.members) for group in dirty)
        self._next_tick_at = now + min(self.limits.tick, writes * self.limits.tick_a_write)
        for group in dirty:
            if group.called and group.sweep is None:  # else it is done, or follows the sweep
                self._flush(group, now)

    def _flush(self, group: _Group, now: float) -> None:
        """Hands what is due to every stream that is live; the others read it later."""
        if group.newest:
            self._rest(group, now + self.limits.supersede)
        self.stats.left_out += group.left_out
        if group.size > self.limits.tick_bytes:
            notes = b"".join(group.notes)
            group.clear()
            for one in list(group.members):
                one.send_back(notes)
            return
        group.sweep = self._give(group, group.take(self.head, now))
        self._sweep(group)

    def _give(self, group: _Group, batch: _Batch) -> Iterator[bool]:
        """One write a stream, with a pause for others now and then."""
        for turn, one in enumerate(list(group.members), 1):
            self.stats.delivered += one.give(batch)
            if turn % WRITES_A_TURN == 0:
                yield True

    def _sweep(self, group: _Group) -> None:
        if group.sweep is None:
            return
        if next(group.sweep, False):
            self.loop.call_soon(self._sweep, group)
            return
        group.sweep = None
        if group.called:
            self._dirty.append(group)
            self._plan_tick()

    def _flush_all(self, group: _Group) -> None:
        """The same without a pause."""
        for _ in group.sweep or ():
            pass
        self._flush(group, self.now())
        for _ in group.sweep or ():
            pass
        group.sweep = None

    def _rest(self, group: _Group, until: float) -> None:
        group.rests_until = until
        self._resting.append((until, group))
        if self._rest_handle is None:
            self._rest_handle = self.loop.call_at(until, self._end_rests)

    def _end_rests(self) -> None:
        """What was held goes out, with all else that is due, and does not wait for the tick."""
        now = self.now()
        while self._resting and self._resting[0][0] <= now:
            until, group = self._resting.popleft()
            if group.rests_until == until:  # else a tick has begun another one since
                group.rests_until = 0.0
                if group.sweep is not None:
                    group.called = True
                elif group.due:
                    self._flush(group, now)
        self._rest_handle = None
        if self._resting:
            self._rest_handle = self.loop.call_at(self._resting[0][0], self._end_rests)

    def send(self, topic: str, data: bytes) -> None:
        """A control frame without id for all streams of a topic; it is not kept."""
        for group in self._topics.get(topic, ()):
            if group.note(data):
                self._dirty.append(group)
        if self._dirty:
            self._plan_tick()

    def page(self, group: _Group, after: int, *, coalesce: bool) -> _Page | None:
        """What follows a cursor, from the ring; None if that does not reach back so far."""
        if after < self._ring.floor:
            return None
        page = self._pages.get((group, after, coalesce))
        if page is None:
            page = self._read_ring(group.topics, after, coalesce=coalesce)
            if page.frames:
                self._remember((group, after, coalesce), page)
        return page

    def _read_ring(self, topics: frozenset[str], after: int, *, coalesce: bool) -> _Page:
        size = self.limits.page_bytes
        found, upto = self._ring.read(topics, after, size * COALESCED_PAGES if coalesce else size)
        if not found:
            return _Page(upto, 0, 0, b"")
        if coalesce:
            first, *more = _pages(self.newest(found), size)
            return first if more else first._replace(upto=upto)
        return _page(found)._replace(upto=upto)

    def newest(self, frames: list[Frame]) -> list[Frame]:
        """Without the states of a subject that a later one of them replaces."""
        last = {f.topics[0]: f.seq for f in frames if f.kind in self._states}
        return [f for f in frames if f.kind not in self._states or last[f.topics[0]] == f.seq]

    def _remember(self, key: tuple[_Group, int, bool], page: _Page) -> None:
        if len(self._pages) >= CACHED_PAGES:
            del self._pages[next(iter(self._pages))]
        self._pages[key] = page

    # Streams.

    def subscribe(
        self,
        topics: Collection[str],
        start: Start,
        *,
        gone: Gone = _ignore_end,
        owner: object = None,
        expires_at: int | None = None,
        snapshot: ReadSnapshot | None = None,
        greeting: ReadGreeting | None = None,
        choose: ReadTopics | None = None,
        coalesce: bool = False,
    ) -> Subscriber:
        """A new stream; `Subscriber.begin` has to follow, or it is forgotten by the timer.

        `gone` is called once, with the reason of the end: that of its goodbye, or `gone` (the
        client went), `slow` (it did not read and was cut off), `broken`. `expires_at` is the
        credential's end. `snapshot` reads the present state for a start with one and after
        each reset, `greeting` the control frames that follow hello and each reset. `choose`
        reads the topics that take the place of `topics`, after each of those too and whenever
        an event of `topics` changes them. With `coalesce` a stream that lags gets the newest
        state of each subject, not those before it.
        Raises ValueError for a topic with a line break or NUL.
        """
        _refuse_breaks(topics)
        group = self._join(frozenset(topics))
        self.stats.opened += 1
        one = Subscriber(
            self, group, start, owner, snapshot, greeting, choose, gone, coalesce=coalesce
        )
        one.set_end(expires_at)
        group.members.add(one)
        self._subscribers.add(one)
        self._wheel.put(one, min(self.now() + self.limits.heartbeat, one.ends_at))
        self.stats.streams = len(self._subscribers)
        if self._closing:
            one.end("shutdown", self.reconnect())
        return one

    def _join(self, topics: frozenset[str]) -> _Group:
        group = self._groups.get(topics)
        if group is None:
            group = self._groups[topics] = _Group(topics)
            for topic in topics:
                self._topics.setdefault(topic, set()).add(group)
        return group

    def regroup(self, one: Subscriber, topics: frozenset[str]) -> None:
        """Other topics for an open stream: it reads those on from its cursor."""
        _refuse_breaks(topics)
        self._ungroup(one)
        one.group = self._join(topics)
        one.group.members.add(one)
        one.behind = True

    def leave(self, one: Subscriber) -> bool:
        """Forgets a stream, at its end; whether it was one of ours still."""
        if one not in self._subscribers:
            return False
        self._subscribers.discard(one)
        self._wheel.drop(one)
        self.stats.streams = len(self._subscribers)
        self._ungroup(one)
        return True

    def knows(self, one: Subscriber) -> bool:
        """Whether it is one of ours still."""
        return one in self._subscribers

    def look_again_at(self, one: Subscriber, when: float) -> None:
        self._wheel.put(one, when)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that knows nothing of who fed us: a transaction must not be inherited."""
        return self.loop.create_task(work, context=self._context.copy())

    def _ungroup(self, one: Subscriber) -> None:
        group = one.group
        group.members.discard(one)
        if not group.members and self._groups.get(group.topics) is group:
            self._dissolve(group)

    def _dissolve(self, group: _Group) -> None:
        del self._groups[group.topics]
        for topic in group.topics:
            groups = self._topics[topic]
            groups.discard(group)
            if not groups:
                del self._topics[topic]

    def has_subscribers(self, topic: str) -> bool:
        return topic in self._topics

    def take_touched_queues(self) -> set[str]:
        """Queues that had events since the last call, while somebody follows `queues`."""
        touched, self._touched = self._touched, set()
        return touched

    def end_all(self, reason: str) -> None:
        """Ends every stream, and every one that still comes: the process goes down."""
        self._closing = True
        for one in list(self._subscribers):
            one.end(reason, self.reconnect())

    def end_where(
        self, predicate: Callable[[object], bool], reason: str, reconnect_ms: int | None = None
    ) -> int:
        """Ends the streams whose owner matches; returns how many."""
        found = [one for one in self._subscribers if predicate(one.owner)]
        for one in found:
            one.end(reason, reconnect_ms)
        return len(found)

    def end_number(self, number: int, reason: str) -> bool:
        """Ends one stream, to come back later; False if it is not open.

        One that reads nothing is cut off: it would not read a goodbye either.
        """
        one = next((one for one in self._subscribers if one.number == number), None)
        if one is None:
            return False
        if one.full:
            one.drop(reason)
        else:
            one.end(reason, self.reconnect())
        return True

    def streams(self, topics: Collection[str] = ()) -> list[Subscriber]:
        """Those that are open; with `topics`, those that follow any of them."""
        if not topics:
            return list(self._subscribers)
        groups = {group for topic in topics for group in self._topics.get(topic, ())}
        return [one for group in groups for one in group.members]

    def owners(self) -> set[object]:
        """Whose streams are open."""
        return {one.owner for one in self._subscribers}

    def reconnect(self) -> int:
        """Drawn for each stream, so that they do not all come back at once."""
        return random.randint(*self.limits.reconnect_ms)

    # Workers.

    def waiting(self, queue: str) -> AbstractContextManager[Waiter]:
        """A place in the line for messages of a queue: enter, claim, then wait."""
        return self._waiters.waiting(queue)

    # Reading the log.

    async def read(self, after: int, topics: frozenset[str]) -> Window:
        """A window for one stream. Only a few at a time, or a storm empties the pool."""
        async with self._turns:
            self.stats.log_reads += 1
            return await self._read_log(after, topics)

    async def choose(self, read: ReadTopics) -> Collection[str]:
        """The topics of one stream as of now: the same turns."""
        async with self._turns:
            return await read()

    def failed(self, error: Exception) -> None:
        self.stats.log_errors += 1
        self._on_error(error)

    async def _keep_up(self) -> None:
        while True:
            await self._stir.wait()
            self._stir.clear()
            if not self._look_due and not await self._gap_stays():
                continue
            try:
                await self._read_on()
            except Exception as error:  # the log is away: streams stay, and it is asked again
                self.failed(error)
                self._answer(error)
                await asyncio.sleep(self.limits.retry)
                self._notice(self._known)

    async def _gap_stays(self) -> bool:
        """True if a number is missing for longer than events need to overtake each other."""
        while (stuck := self.head) < self._known:
            await asyncio.sleep(self.limits.gap)
            if self._look_due or self.head == stuck:
                self.stats.gaps += 1
                return True
        return False

    async def _read_on(self) -> None:
        askers, self._askers = self._askers, []
        heard, self._known = self._known, self.head  # this read finds all that was heard of
        self._look_due = False
        try:
            while await self._read_window():
                pass
        except BaseException:
            self._askers += askers
            self._known = max(self._known, heard)
            raise
        for asker in askers:
            if not asker.done():
                asker.set_result(self.head)

    def _answer(self, error: Exception) -> None:
        askers, self._askers = self._askers, []
        for asker in askers:
            if not asker.done():
                asker.set_exception(error)

    async def _read_window(self) -> bool:
        """One window for everybody. True: there is more."""
        after = self.head
        self.stats.log_reads += 1
        async with asyncio.timeout(self.limits.read):
            window = await self._read_log(after, None)
        if window.epoch != self.epoch:
            self._restart(window, "epoch")
            return False
        self.floor = max(self.floor, window.floor)
        self._notice(window.head)
        for frame in window.frames:
            if frame.seq == self.head + 1:
                self._take(frame)
        self._take_ahead()
        if self.head < window.upto or after == self.head < window.head:
            # Pruned under a process that slept: nothing is skipped in silence.
            self._restart(window, "pruned")
        return self.head < window.head

    def _restart(self, window: Window, reason: str) -> None:
        """Goes on at the log's head; every stream is told that it missed something."""
        self._settle(window.epoch, window.head, window.floor)
        for group in self._groups.values():
            group.clear()
            group.sweep = None
        self._dirty = []
        for one in list(self._subscribers):
            one.restart(reason)
        self._waiters.wake_all()

    def _settle(self, epoch: str, head: int, floor: int) -> None:
        self.epoch, self.head, self.floor, self._known = epoch, head, floor, head
        self._ring.clear(head)
        self._ahead.clear()
        self._pages.clear()
        self.stats.ring_bytes = 0

    # Time.

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(RESOLUTION)
            for turn, one in enumerate(self._wheel.due(self.now()), 1):
                self._look_after(one)
                if turn % ALARMS_A_TURN == 0:
                    await asyncio.sleep(0)

    def _look_after(self, one: Subscriber) -> None:
        again = one.look_after(self.now())
        if one in self._subscribers:
            self._wheel.put(one, again)

"""Where an order stands in the line, and how long that may take.

A place is counted in claiming order among the messages of the queue that are due now. It is
exact up to 1,000; behind that it is only known that there are more, so that the longest line
costs no more than a short one. Whoever follows an order is told when its place changes, by
one reading a second of each queue that moved, however many follow.

How long it takes is a guess from the claims that this process saw in the last minute. Every
process sees the claims of all.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loguru import logger

import database
import metrics
import queues
from database import Database, Session
from hub import Frame, Hub, control
from models import Status
from moves import Message, message_shape, order_shape
from queues import FIRST, Front, Waiting

PULSE_SECONDS = 1.0  # between two looks at a queue, so between two frames of an order
PACE_SECONDS = 60
SWEEP = 15  # looks until orders that nobody follows any more are forgotten
ALL_OF = 200  # who follows so many in a queue is given its front whole
STEP = 1_000  # orders read at once


class Place(NamedTuple):
    """A place in the line, from 1; None while there is none."""

    position: int | None
    exact: bool | None


NOWHERE = Place(None, None)
FAR = Place(FIRST, False)


def place_of(order: Waiting, front: Front) -> Place:
    """Where a pending order stands; nowhere while it, or its whole queue, is not claimed."""
    position = front.places.get(order.id)
    if position is not None:
        return Place(position, True)
    return FAR if front.open and order.due(front.now) else NOWHERE


async def places(session: Session, found: Iterable[tuple[Message, str]]) -> dict[str, Place]:
    """The places of those orders that are pending, by id; one reading for each queue."""
    by_queue: dict[int, list[Waiting]] = {}
    for row, queue in found:
        if row.status is Status.PENDING:
            order = Waiting(row.id, row.queue_id, queue, row.available_at, row.expires_at)
            by_queue.setdefault(row.queue_id, []).append(order)
    known: dict[str, Place] = {}
    for queue_id, waiting in by_queue.items():
        front = await queues.front(session, queue_id, [order.id for order in waiting])
        known |= {order.id: place_of(order, front) for order in waiting}
    return known


class Pace:
    """How fast queues are claimed. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._claims: dict[str, deque[list[int]]] = {}  # queue → [second, claims in it]

    def count(self, queue: str) -> None:
        """One more claim."""
        claims = self._claims.setdefault(queue, deque(maxlen=PACE_SECONDS + 1))
        second = int(self._clock())
        if claims and claims[-1][0] == second:
            claims[-1][1] += 1
        else:
            claims.append([second, 1])

    def rate(self, queue: str) -> float:
        """Claims a second over the last minute, or since the process began; 0 if none."""
        now = self._clock()
        claims = self._claims.get(queue)
        while claims and claims[0][0] < now - PACE_SECONDS:
            claims.popleft()
        if not claims:
            self._claims.pop(queue, None)
            return 0.0
        seen = min(max(now - self._began, 1.0), PACE_SECONDS)
        return sum(count for _, count in claims) / seen


def shape_of(place: Place, rate: float) -> dict[str, Any]:
    """The three fields that tell a place. Beyond 1,000 the time is what it takes at least."""
    seconds = None
    if place.position is not None and rate:
        seconds = math.ceil(place.position / rate)
    return {"position": place.position, "position_exact": place.exact, "eta_seconds": seconds}


@dataclass(slots=True)
class _Followed:
    """The followed orders that wait in one queue."""

    queue: str
    names: set[str] = field(default_factory=set[str])
    due: float = math.inf  # when a delayed message comes into the line


class Line:
    """Tells those who follow an order where it stands.

    An order is followed from `greet` on. What is known of it is read anew after each of its
    events, and its queue's front after each event of the queue. A place that is not in the
    front follows from what is known of the order, which may be older than the front: so it is
    read once more before anybody is told. Whoever was claimed meanwhile is told by the event.
    """

    def __init__(self, db: Database, hub: Hub, clock: Callable[[], float] = time.monotonic) -> None:
        self._db, self._hub, self._clock = db, hub, clock
        self.pace = Pace(clock)
        self._orders: dict[str, Waiting | None] = {}  # None: not read yet, or not pending
        self._told: dict[str, Place] = {}  # since the last event of each
        self._lines: dict[int, _Followed] = {}  # by queue id
        self._unread: set[str] = set()
        self._moved: set[str] = set()  # queues that had events
        self._heard = hub.head
        self._looks = 0
        self._task: asyncio.Task[None] | None = None
        hub.listen(self._hear)

    # Opening and closing.

    def start(self) -> None:
        self._task = asyncio.create_task(self._work(), name="line")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except database.DRIVER_ERRORS as error:
                logger.warning("the line was not read: {}", type(error).__name__)
            except Exception:
                logger.exception("the line was not read")
            metrics.LINE_SECONDS.inc(time.monotonic() - began)
            await asyncio.sleep(PULSE_SECONDS)

    # For those who ask.

    async def shapes(
        self, session: Session, found: Sequence[tuple[Message, str]]
    ) -> list[dict[str, Any]]:
        """Orders with their places as of now, from rows of this session and their queues."""
        known = await places(session, found)
        return [
            order_shape(message_shape(row, queue))
            | shape_of(known.get(row.id, NOWHERE), self.pace.rate(queue))
            for row, queue in found
        ]

    # For those who follow.

    def greet(self, topics: Collection[str]) -> list[bytes]:
        """Follow the orders among some topics from now on; frames of what is known already."""
        names = [topic.removeprefix("order:") for topic in topics if topic.startswith("order:")]
        new = [name for name in names if name not in self._orders]
        self._orders |= dict.fromkeys(new)
        self._unread.update(new)
        return [self._frame(name, self._told[name]) for name in names if name in self._told]

    def _frame(self, name: str, place: Place) -> bytes:
        order = self._orders[name]
        rate = 0.0 if order is None else self.pace.rate(order.queue)
        return control("position", {"id": name, **shape_of(place, rate)})

    def _hear(self, frame: Frame) -> None:
        """Every event, in order: what it makes worth a look."""
        self._heard = frame.seq
        for topic in frame.topics:
            kind, _, name = topic.partition(":")
            if kind == "queue":
                self._moved.add(name)
                if frame.kind == "order.processing":
                    self.pace.count(name)
            elif kind == "order" and name in self._orders:
                self._doubt(name)

    def _doubt(self, name: str) -> None:
        self._told.pop(name, None)
        self._unread.add(name)

    async def look(self) -> None:
        """Tell every place that changed since the last look.

        Raises whatever the database raises; then the next look does it all.
        """
        self._looks += 1
        if self._looks % SWEEP == 0:
            self._sweep()
        if self._hub.head != self._heard:  # it went on without some of the events
            self._heard = self._hub.head
            for name in self._orders:
                self._doubt(name)
        unread, self._unread = self._unread, set()
        moved, self._moved = self._moved, set()
        try:
            await self._look(unread, moved)
        except BaseException:
            self._unread |= unread
            self._moved |= moved
            raise

    def _sweep(self) -> None:
        """Forget orders that nobody follows any more."""
        for name in [n for n in self._orders if not self._hub.has_subscribers(f"order:{n}")]:
            self._know(name, None)
            del self._orders[name]
            self._unread.discard(name)

    async def _look(self, unread: Collection[str], moved: Collection[str]) -> None:
        if not unread and not self._stale(unread, moved):
            return
        async with self._db.snapshot() as session:
            await self._read(session, unread)
            for queue_id in self._stale(unread, moved):
                await self._tell(session, queue_id, unread)

    def _stale(self, unread: Collection[str], moved: Collection[str]) -> list[int]:
        """Queues in which somebody's place may have changed."""
        now = self._clock()
        fresh = {order.queue_id for name in unread if (order := self._orders.get(name))}
        return [
            queue_id
            for queue_id, line in self._lines.items()
            if queue_id in fresh or line.queue in moved or line.due <= now
        ]

    async def _read(self, session: Session, names: Collection[str]) -> None:
        """What is known of some orders, anew."""
        wanted = list(names)
        for start in range(0, len(wanted), STEP):
            step = wanted[start : start + STEP]
            found = await queues.waiting(session, step)
            for name in step:
                self._know(name, found.get(name))

    def _know(self, name: str, order: Waiting | None) -> None:
        before = self._orders[name]
        if before is not None and (order is None or order.queue_id != before.queue_id):
            line = self._lines[before.queue_id]
            line.names.discard(name)
            if not line.names:
                del self._lines[before.queue_id]
        self._orders[name] = order
        if order is None:
            self._told.pop(name, None)
        else:
            self._lines.setdefault(order.queue_id, _Followed(order.queue)).names.add(name)

    async def _tell(self, session: Session, queue_id: int, read: Collection[str]) -> None:
        """One queue: its front is read, and whose place changed is told."""
        line = self._lines.get(queue_id)
        if line is None:  # those who waited there have gone on meanwhile
            return
        front = await queues.front(session, queue_id, few(line.names))
        due = await queues.next_due(session, queue_id, front.now)
        line.due = math.inf if due is None else self._clock() + (due - front.now) / 1000
        changed = self._changed(line, front)
        sure = {name: p for name, p in changed.items() if p.exact or name in read}
        self._send(sure)
        if doubtful := changed.keys() - sure:
            await self._read(session, doubtful)
            self._send(self._changed(line, front))

    def _changed(self, line: _Followed, front: Front) -> dict[str, Place]:
        found: dict[str, Place] = {}
        for name in line.names - self._unread:  # what had an event meanwhile is for the next look
            order = self._orders[name]
            assert order is not None
            place = place_of(order, front)
            if place != self._told.get(name):
                found[name] = place
        return found

    def _send(self, changed: Mapping[str, Place]) -> None:
        for name, place in changed.items():
            self._told[name] = place
            self._hub.send(f"order:{name}", self._frame(name, place))


def few(names: Collection[str]) -> Collection[str] | None:
    """These, if it is worth it to ask for no others; None: all."""
    return names if len(names) < ALL_OF else None

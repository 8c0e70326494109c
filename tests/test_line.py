"""The place in the line: what it is, who is told of it and when, and what that costs."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import database
import events
import hub as hubs
import moves
import orders
import queues
from database import Database, Dialect
from events import Appended, Event
from ids import new_id
from models import FINISHED, Status
from moves import Message
from orders import FAR, NOWHERE, Line, Pace, Place
from tests.answers import good
from tests.databases import opened
from tests.house import CUSTOMER, House
from tests.life import purchase
from tests.live import ticket, watch
from tests.sse import Stream
from writer import Writer

FEW = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ROW = Message(
    id="",
    queue_id=1,
    status=Status.PENDING,
    version=1,
    customer="c-7",
    items="[]",
    total_cents=None,
    currency="BRL",
    reference=None,
    idempotency_key=None,
    metadata="{}",
    priority=0,
    group=None,
    attempts=0,
    lost_leases=0,
    available_at=0,
    entered_at=0,
    expires_at=None,
    cancel_requested_at=None,
    lease_epoch=0,
    receipt=None,
    worker=None,
    lease_expires_at=None,
    last_error=None,
    result=None,
    reserved=None,
    until_claimed=False,
    created_at=0,
    updated_at=0,
    finished_at=None,
)


@pytest.fixture
async def db(blank: str) -> AsyncIterator[Database]:
    """An empty database with our schema, of each kind in turn."""
    async with opened(blank) as found:
        await events.settle_home(found)
        yield found


def by_hand(rows: Sequence[Message], now: int, first: int) -> dict[str, Place]:
    """The places of the pending ones in an open queue: sort, then count."""
    due = [row for row in rows if row.status is Status.PENDING and row.available_at <= now]
    line = sorted(
        (row for row in due if row.expires_at is None or row.expires_at > now),
        key=lambda row: (-row.priority, row.available_at, row.entered_at, row.id),
    )
    known = {row.id: NOWHERE for row in rows}
    known |= {row.id: Place(first, False) for row in line[first:]}
    return known | {row.id: Place(n, True) for n, row in enumerate(line[:first], 1)}


# --- a place --------------------------------------------------------------------------

SOON = st.integers(-3, 3).map(lambda n: n * 60_000)


@st.composite
def rows_of(draw: st.DrawFn) -> Message:
    """A row whose times are relative to now; many of them tie."""
    status = draw(st.sampled_from([*[Status.PENDING] * 6, Status.PROCESSING, Status.FAILED]))
    leased = status is Status.PROCESSING
    return replace(
        ROW,
        id=new_id(),
        status=status,
        priority=draw(st.sampled_from([0, 0, 5, 9])),
        available_at=draw(SOON),
        entered_at=draw(SOON),
        expires_at=draw(st.none() | SOON),
        receipt="r" if leased else None,
        lease_expires_at=0 if leased else None,
        finished_at=0 if status in FINISHED else None,
    )


@FEW
@given(rows=st.lists(rows_of(), max_size=12), first=st.sampled_from([1, 3, 1_000]))
async def test_a_place_is_counted_in_claiming_order(
    db: Database, monkeypatch: pytest.MonkeyPatch, rows: list[Message], first: int
) -> None:
    """Among the due ones by priority, then time, then arrival, then id: as a sort by hand says."""
    monkeypatch.setattr(queues, "FIRST", first)
    monkeypatch.setattr(orders, "FAR", Place(first, False))
    async with db.transaction() as session:
        now = await database.now(session)
        shifted = [
            replace(
                row,
                available_at=now + row.available_at,
                entered_at=now + row.entered_at,
                expires_at=None if row.expires_at is None else now + row.expires_at,
            )
            for row in rows
        ]
        await session.execute("DELETE FROM messages")
        if shifted:
            await queues.insert_rows(session, shifted)
    async with db.snapshot() as session:
        found = await orders.places(session, [(row, "orders") for row in shifted])
        front = await queues.front(session, 1)
        claimed = (
            []
            if session.dialect is Dialect.POSTGRES
            else await queues.probe(session, 1, front.now, first)
        )
    expected = by_hand(shifted, now, first)
    assert {row.id: found.get(row.id, NOWHERE) for row in shifted} == expected
    exact = {one: place.position for one, place in expected.items() if place.exact}
    assert front.places == exact
    if claimed:
        assert [row.id for row in claimed] == sorted(exact, key=lambda one: exact[one] or 0)


@pytest.mark.parametrize("count", [1_000, 1_001])
def test_a_thousand_places_are_counted(house: House, count: int) -> None:
    """The thousandth is exact; whoever is behind it learns that there are a thousand or more."""
    queue = house.queue()
    body = {"customer": CUSTOMER, "items": [{"sku": "disc-001", "quantity": 1}]}
    producer = house.client("producer")
    batch = producer.post(f"/queues/{queue}/messages/batch", json={"messages": [body] * 1_000})
    made = [result["id"] for result in good(batch)["results"]]
    made += [house.post(queue)["id"] for _ in range(count - 1_000)]
    last = good(house.client().get(f"/orders/{made[-1]}"))
    assert (last["position"], last["position_exact"]) == (1_000, count == 1_000)
    before = good(house.client().get(f"/orders/{made[998]}"))
    assert (before["position"], before["position_exact"]) == (999, True)
    (listed, *_) = good(house.client().get("/orders", params={"limit": 1}))["items"]
    assert listed == last


async def fill(db: Database, count: int) -> int:
    """So many pending messages of all priorities, half of them delayed; now."""
    async with db.transaction() as session:
        now = await database.now(session)
        rows = [
            replace(
                ROW,
                id=str(uuid.UUID(int=n)),
                priority=n % 10,
                available_at=now + (n - count if n % 20 < 10 else 60_000 + n),
                entered_at=now,
            )
            for n in range(count)
        ]
        await queues.insert_rows(session, rows)
    return now


def read_by(plan: dict[str, Any]) -> float:
    """How many entries of tables and indexes a plan that was carried out has read."""
    own = 0.0
    if "Relation Name" in plan:
        kept = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        own = kept * plan["Actual Loops"]
    return own + sum(read_by(one) for one in plan.get("Plans", ()))


async def test_a_long_line_costs_no_more(db: Database) -> None:
    """A front is read from a thousand entries of the index, whatever stands behind it."""
    now = await fill(db, 20_000)
    async with db.read() as session:
        if session.dialect is Dialect.POSTGRES:
            for sql, arguments, most in (
                (queues.PLACES, (1, now, 1_000), 1_000),
                (queues.PLACES_OF, (1, now, 1_000, [str(uuid.UUID(int=1))]), 1_000),
                (queues.NEXT_DUE, (1, now), 10),
            ):
                explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {sql[session.dialect]}"
                (row,) = await session.fetch(explain, *arguments)
                assert 0 < read_by(json.loads(row[0])[0]["Plan"]) <= most
            return
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1_000
            return 0

        line: Any = session
        await line.connection.set_progress_handler(count, 1_000)
        assert len((await queues.front(session, 1)).places) == 1_000
        await queues.next_due(session, 1, now)
        await line.connection.set_progress_handler(None, 0)
        assert 10_000 < steps < 150_000  # of its machine; all 20,000 rows are a million


# --- how fast it goes -----------------------------------------------------------------


def test_the_pace_is_that_of_the_last_minute() -> None:
    """Claims a second, over a minute or since the process began; none, and nothing is guessed."""
    now = 1_000.0
    pace = Pace(lambda: now)
    assert pace.rate("a") == 0
    for _ in range(30):
        now += 1
        pace.count("a")
        pace.count("a")
    pace.count("b")
    assert pace.rate("a") == pytest.approx(2)
    assert pace.rate("b") == pytest.approx(1 / 30)
    now += 30
    assert pace.rate("a") == pytest.approx(1)
    now += 60
    assert (pace.rate("a"), pace.rate("b")) == (0, 0)
    pace.count("a")
    assert pace.rate("a") == pytest.approx(1 / 60)


def test_the_time_is_rounded_up() -> None:
    """No rate or no place, no time; never a promise of zero seconds."""
    told = orders.shape_of(Place(3, True), 2.0)
    assert told == {"position": 3, "position_exact": True, "eta_seconds": 2}
    assert orders.shape_of(Place(1, True), 500.0)["eta_seconds"] == 1
    assert orders.shape_of(FAR, 0.5)["eta_seconds"] == 2_000
    assert orders.shape_of(FAR, 0.0)["eta_seconds"] is None
    assert set(orders.shape_of(NOWHERE, 1.0).values()) == {None}


# --- who is told ----------------------------------------------------------------------


class Ear:
    """In place of the hub: events as they are let through, and what readers then see."""

    def __init__(self) -> None:
        self.head = 0
        self.followed: set[str] = set()
        self.shown: dict[str, Place] = {}  # as a reader sees it: an event of its own ends it
        self.told: list[tuple[str, Place]] = []
        self._held: list[hubs.Frame] | None = None
        self._listener: Callable[[hubs.Frame], None] = lambda frame: None

    def listen(self, listener: Callable[[hubs.Frame], None]) -> None:
        self._listener = listener

    def has_subscribers(self, topic: str) -> bool:
        return topic.removeprefix("order:") in self.followed

    def hold(self) -> None:
        """Events come late from now on."""
        if self._held is None:
            self._held = []

    def let_go(self) -> None:
        held, self._held = self._held or [], None
        self.hear(held)

    def hear(self, frames: Sequence[hubs.Frame]) -> None:
        if self._held is not None:
            self._held += frames
            return
        for frame in frames:
            self.head = frame.seq
            self._listener(frame)
            self.shown.pop(frame.topics[0].removeprefix("order:"), None)

    def send(self, topic: str, data: bytes) -> None:
        name = topic.removeprefix("order:")
        kind, body = data.decode().removesuffix("\n\n").split("\n")
        told = json.loads(body.removeprefix("data: "))
        place = Place(told["position"], told["position_exact"])
        assert (kind, told["id"]) == ("event: position", name)
        assert self.shown.get(name) != place, "told twice"
        self.shown[name] = place
        self.told.append((name, place))


class Stage:
    """A writer on a database, a line, and between them an ear. Time passes when it is told to."""

    def __init__(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.db, self._monkeypatch = db, monkeypatch
        self.ear = Ear()
        self.passed = 0  # seconds that the line believes to have passed
        hub: Any = self.ear
        self.line = Line(db, hub, lambda: 1_000.0 + self.passed)
        self.writer = Writer(db, self.committed)
        self.made: list[str] = []
        self.leased: list[dict[str, Any]] = []
        self.names = [f"q-{new_id()}" for _ in range(2)]

    async def open(self) -> None:
        for name in self.names:
            plain = {"lease_seconds": 600, "max_attempts": 100, "backoff_seconds": 0}
            self.changed(await queues.create(self.db, name, plain, "admin"))
        await self.writer.start()

    def committed(self, appended: Appended, logged: Sequence[Event]) -> None:
        self.ear.hear(events.frames(appended, logged))

    def changed(self, change: queues.Change) -> None:
        self.writer.forget_queues()
        if change.appended is not None and change.event is not None:
            self.committed(change.appended, [change.event])

    def follow(self, name: str) -> list[bytes]:
        self.ear.followed.add(name)
        return self.line.greet([f"order:{name}", "queues", "customer:c-7"])

    # What can happen.

    async def post(self, queue: int = 0, priority: int = 0, delay: int = 0) -> str:
        wish = purchase(priority=priority, delay_seconds=delay)
        posted = await self.writer.do(moves.Enqueue(self.names[queue], wish, "shop"))
        self.made.append(posted.shape["id"])
        return self.made[-1]

    async def claim(self, queue: int = 0, most: int = 1) -> None:
        command = moves.Claim(self.names[queue], most, None, "w", "worker")
        self.leased += await self.writer.do(command)

    async def settle(self, verb: str) -> None:
        if not self.leased:
            return
        one = self.leased.pop(0)
        arguments = (one["id"], one["receipt"], "worker")
        other = next(name for name in self.names if name != one["queue"])
        await self.writer.do(
            {
                "ack": moves.Ack(*arguments),
                "forward": moves.Ack(*arguments, forward_to=other),
                "release": moves.Release(*arguments),
                "delay": moves.Nack(*arguments, error="later", delay_seconds=5_000),
            }[verb]
        )

    async def cancel(self, number: int) -> None:
        if self.made:
            await self.writer.do_many([moves.Cancel(self.made[number % len(self.made)], "shop")])

    async def pause(self, queue: int, on: bool) -> None:
        turn = queues.pause if on else queues.resume
        self.changed(await turn(self.db, self.names[queue], "admin"))

    def wait(self, seconds: int) -> None:
        """The line, and the clock that it reads, are so much later."""
        self.passed += seconds
        later = {
            dialect: sql.replace(dialect.clock, f"({dialect.clock} + {self.passed * 1000})")
            for dialect, sql in PRESENT.items()
        }
        self._monkeypatch.setattr(queues, "OPEN", later)

    # What must be seen.

    async def expected(self, first: int) -> dict[str, Place]:
        """Of the followed ones that are pending, by hand."""
        async with self.db.snapshot() as session:
            found = await session.fetch(f"SELECT {queues.COLUMNS} FROM messages")
            rows = [queues.read_message(row) for row in found]
            registry = await queues.load_registry(session)
            now = await database.now(session) + self.passed * 1000
        known: dict[str, Place] = {}
        for queue in registry.by_id.values():
            here = [row for row in rows if row.queue_id == queue.id]
            places = by_hand(here, now, first)
            known |= dict.fromkeys(places, NOWHERE) if queue.paused else places
        pending = {row.id for row in rows if row.status is Status.PENDING}
        return {name: known[name] for name in pending & self.ear.followed}

    async def close(self) -> None:
        await self.writer.stop()


PRESENT = queues.OPEN


@pytest.fixture
async def stage(db: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    found = Stage(db, monkeypatch)
    await found.open()
    yield found
    await found.close()


# Hours pass when it is said, so that it does not matter how long a step takes.
STEPS = st.one_of(
    st.tuples(st.just("post"), st.integers(0, 1), st.sampled_from([0, 0, 5]), st.just(0)),
    st.tuples(
        st.just("post"), st.just(0), st.sampled_from([0, 5]), st.sampled_from([5_000, 20_000])
    ),
    st.tuples(st.just("claim"), st.integers(0, 1), st.integers(1, 3)),
    st.tuples(st.just("settle"), st.sampled_from(["ack", "forward", "release", "delay"])),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("pause"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([6_000, 30_000])),
    st.tuples(st.just("hold")),
    st.tuples(st.just("look")),
)


@FEW
@given(steps=st.lists(STEPS, min_size=5, max_size=25))
async def test_who_follows_is_told_what_is_so(
    db: Database, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[Any, ...]]
) -> None:
    """After each look whoever is pending was told his place, nobody else, and nothing twice.

    Also when the events of what was done come later than it can be read.
    """
    monkeypatch.setattr(queues, "FIRST", 3)
    monkeypatch.setattr(orders, "FAR", Place(3, False))
    monkeypatch.setattr(queues, "OPEN", PRESENT)
    stage = Stage(db, monkeypatch)
    await stage.open()
    try:
        for name, *arguments in [*steps, ("look",)]:
            if name == "look":
                await look(stage)
            elif name == "hold":
                stage.ear.hold()
            elif (done := getattr(stage, name)(*arguments)) is not None:
                await done
            if name == "post" and len(stage.made) % 3:
                stage.follow(stage.made[-1])
    finally:
        await stage.close()


async def look(stage: Stage) -> None:
    before = len(stage.ear.told)
    await stage.line.look()
    now = await stage.expected(3)
    for name, place in stage.ear.told[before:]:
        assert now.get(name) == place  # even before the events were heard
    stage.ear.let_go()
    await stage.line.look()
    assert stage.ear.shown == now


async def test_whoever_was_claimed_meanwhile_is_told_by_the_event(stage: Stage) -> None:
    """The front may be newer than the events: a claimed order is not said to be far behind."""
    first, second = [await stage.post() for _ in range(2)]
    stage.follow(first)
    stage.follow(second)
    await stage.line.look()
    stage.ear.hold()
    await stage.claim()
    await stage.post()
    stage.line._moved.add(stage.names[0])  # as another event of the queue would
    stage.ear.told.clear()
    await stage.line.look()
    assert stage.ear.told == [(second, Place(1, True))]


async def test_an_event_during_a_look_comes_first(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before an order's event is not told after it."""
    name = await stage.post()
    stage.follow(name)
    plain = queues.front

    async def slow(session: Any, queue_id: int, ids: Any = None) -> queues.Front:
        found = await plain(session, queue_id, ids)
        await stage.claim()
        return found

    monkeypatch.setattr(queues, "front", slow)
    await stage.line.look()
    assert stage.ear.told == []
    await stage.line.look()
    assert stage.ear.told == []


async def test_whoever_comes_later_is_greeted(stage: Stage) -> None:
    """The first waits for the next look, the second is told at once; a claimed one by nobody."""
    name = await stage.post()
    assert stage.follow(name) == []
    await stage.line.look()
    (frame,) = stage.follow(name)
    assert b'"position":1,"position_exact":true,"eta_seconds":null' in frame
    await stage.claim()
    assert stage.follow(name) == []
    await stage.line.look()
    assert stage.follow(name) == []


async def test_nothing_is_read_for_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a reader, without an event, and after the last reader went: not one query."""
    name = await stage.post()
    await stage.line.look()
    stage.follow(name)
    await stage.line.look()
    fronts: list[int] = []
    plain = queues.front

    async def counted(session: Any, queue_id: int, ids: Any = None) -> queues.Front:
        fronts.append(queue_id)
        return await plain(session, queue_id, ids)

    monkeypatch.setattr(queues, "front", counted)
    await stage.post(queue=1)
    await stage.line.look()
    assert fronts == []
    await stage.post()
    await stage.line.look()
    assert len(fronts) == 1
    stage.ear.followed.clear()
    for _ in range(orders.SWEEP):
        await stage.line.look()
    await stage.post()
    await stage.line.look()
    assert len(fronts) == 1


async def test_many_readers_of_a_queue_cost_one_reading(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three hundred followed orders: one front, and every one of them is told."""
    wishes = [moves.Enqueue(stage.names[0], purchase(), "shop") for _ in range(300)]
    for posted in await stage.writer.do_many(wishes):
        stage.follow(posted.shape["id"])
    fronts: list[Collection[str] | None] = []
    plain = queues.front

    async def counted(
        session: Any, queue_id: int, ids: Collection[str] | None = None
    ) -> queues.Front:
        fronts.append(ids)
        return await plain(session, queue_id, ids)

    monkeypatch.setattr(queues, "front", counted)
    await stage.line.look()
    assert fronts == [None]
    assert sorted(place.position or 0 for _, place in stage.ear.told) == list(range(1, 301))


async def test_after_a_jump_of_the_log_all_is_read_again(stage: Stage) -> None:
    """Events that never came by are made up for."""
    first, second = [await stage.post() for _ in range(2)]
    for name in (first, second):
        stage.follow(name)
    await stage.line.look()
    stage.ear.hold()
    await stage.claim()
    stage.ear._held = None  # lost
    stage.ear.head += 5
    stage.ear.shown.clear()  # readers were told to begin anew
    await stage.line.look()
    assert stage.ear.shown == {second: Place(1, True)}
    await stage.line.look()


async def test_a_second_lies_between_two_looks(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So long at the most until somebody is told his place, and at the least between two frames."""
    seen = list[float | str]()

    async def look() -> None:
        seen.append("look")

    async def sleep(seconds: float) -> None:
        seen.append(seconds)
        if len(seen) == 6:
            raise asyncio.CancelledError

    monkeypatch.setattr(stage.line, "look", look)
    monkeypatch.setattr(orders, "asyncio", SimpleNamespace(sleep=sleep))
    with pytest.raises(asyncio.CancelledError):
        await stage.line._work()
    assert seen == ["look", 1.0] * 3


async def test_a_look_that_failed_is_made_up_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away for a moment: the next look tells what this one should have."""
    name = await stage.post()
    stage.follow(name)
    with monkeypatch.context() as away:
        away.setattr(stage.db, "snapshot", lambda: (_ for _ in ()).throw(ConnectionError()))
        with pytest.raises(ConnectionError):
            await stage.line.look()
    await stage.line.look()
    assert stage.ear.shown == {name: Place(1, True)}


# --- on a stream ----------------------------------------------------------------------

# One database is enough here: what differs between them was tested without a stream.
ON_SQLITE = pytest.mark.parametrize("house", ["sqlite"], indirect=True)


def told(stream: Stream, order: str | None = None) -> list[tuple[int | None, bool | None]]:
    frames = (block.json for block in stream.named("position"))
    mine = [one for one in frames if order in (None, one["id"])]
    return [(one["position"], one["position_exact"]) for one in mine]


def wait_told(
    stream: Stream, *places: tuple[int | None, bool | None], order: str | None = None
) -> None:
    stream.wait(lambda s: told(s, order) == list(places), 30, f"{places}")


@ON_SQLITE
def test_a_stream_is_told_its_place(house: House) -> None:
    """At first, then whenever it changed; by its claim the event says enough."""
    queue = house.queue()
    ahead, one, behind = (house.post(queue) for _ in range(3))
    mine, link = one["id"], one["tracking"]["ticket"]
    topics = [f"order:{order['id']}" for order in (one, behind)]
    with watch(house, *topics, role="customer") as stream:
        wait_told(stream, (2, True), order=mine)
        (first,) = (block for block in stream.named("position") if block.json["id"] == mine)
        assert first.id is None
        # A second reader, by the link in the order's mail, hears it with the greeting: at a look
        # it would have been told to both.
        with watch(house, role=None, ticket=link) as second:
            wait_told(second, (2, True))
        good(house.client("producer").post(f"/messages/{ahead['id']}/cancel"))
        wait_told(stream, (2, True), (1, True), order=mine)
        good(house.client().post(f"/queues/{queue}/pause"))
        wait_told(stream, (2, True), (1, True), (None, None), order=mine)
        house.post(queue, priority=9)
        good(house.client().post(f"/queues/{queue}/resume"))
        wait_told(stream, (2, True), (1, True), (None, None), (2, True), order=mine)
        stream.wait(lambda s: told(s, behind["id"])[-1:] == [(3, True)], 30, "the one behind")
        house.claim(queue, 2)
        stream.wait(lambda s: told(s, behind["id"])[-1:] == [(1, True)], 30, "the one behind")
        assert stream.named("order.processing")
        assert len(told(stream, mine)) == 4
        later = good(house.client("customer").get(f"/orders/{mine}"))
        assert (later["position"], later["position_exact"]) == (None, None)
        house.claim(queue, 1)


@ON_SQLITE
def test_the_estimate_follows_the_claims(house: House) -> None:
    """Nobody claims: no estimate. Somebody does: seconds, the same alone and on the stream."""
    queue = house.queue()
    made = [house.post(queue)["id"] for _ in range(9)]
    last = f"/orders/{made[-1]}"
    assert good(house.client().get(last))["eta_seconds"] is None
    with watch(house, f"order:{made[-1]}") as stream:
        wait_told(stream, (9, True))
        began = time.monotonic()
        house.claim(queue, 5)
        wait_told(stream, (9, True), (4, True))
        eta = stream.named("position")[-1].json["eta_seconds"]
        again = good(house.client().get(last))["eta_seconds"]
        # At the most five in a minute, at the least five in a second.
        assert 1 <= eta <= 48
        assert abs(again - eta) <= 2 + time.monotonic() - began


def test_every_process_tells_what_all_do(twins: House) -> None:
    """Claims and cancels of one process move the readers of the other."""
    queue = twins.queue()
    made = [twins.post(queue)["id"] for _ in range(4)]
    topics = [f"order:{name}" for name in made[2:]]
    with watch(twins, *topics, process=1) as stream:
        stream.wait(lambda s: {*told(s)} == {(3, True), (4, True)}, 30, "both places")
        twins.claim(queue, 1)
        good(twins.client("producer").post(f"/messages/{made[1]}/cancel"))
        stream.wait(lambda s: {(1, True), (2, True)} <= {*told(s)}, 30, "both moved")
        assert stream.named("position")[-1].json["eta_seconds"] is not None


@ON_SQLITE
def test_only_the_order_s_own_topic_tells_it(house: House) -> None:
    """A stream of a customer or a queue has no places: it would be told of thousands."""
    queue = house.queue()
    one = house.post(queue)["id"]
    with (
        watch(house, f"customer:{CUSTOMER}", f"queue:{queue}") as wide,
        watch(house, role=None, ticket=ticket(house, [f"order:{one}"])) as own,
    ):
        wait_told(own, (1, True))
        house.post(queue)
        wide.first("order.created")
        assert told(wide) == []

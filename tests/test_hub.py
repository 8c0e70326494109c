"""The live path inside one process. Time is the loop's own and jumps: no test waits."""

import asyncio
import json
import re
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub import (
    Frame,
    Hub,
    Limits,
    ReadGreeting,
    ReadSnapshot,
    ReadTopics,
    Snapshot,
    Start,
    Subscriber,
    Window,
    control,
    event_id,
    goodbye,
    parse_id,
)

T = TypeVar("T")
NOW = 1_795_284_000_000  # 2026-11-21T18:00:00Z
EPOCH = "k3f9a2c1"
SUPERSEDED = frozenset({"stock.changed"})


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer when nothing else is to do."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = 1_000.0

    def time(self) -> float:
        return self.moment

    def _run_once(self) -> None:
        ready: Any = getattr(self, "_ready")  # noqa: B009
        timers: Any = getattr(self, "_scheduled")  # noqa: B009
        if not ready and timers:
            self.moment = max(self.moment, timers[0].when())
        super()._run_once()  # type: ignore[misc]


def play(scene: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(scene)


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Turns of the loop until something holds; fails after a (jumping) deadline."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it never came"
        await asyncio.sleep(0.001)


async def turns(n: int = 10) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def frame(
    seq: int,
    *topics: str,
    epoch: str = EPOCH,
    wakes: str | None = None,
    size: int = 0,
    kind: str = "order.created",
    at: int = NOW,
) -> Frame:
    block = f"id: {epoch}-{seq}\nevent: {kind}\ndata: {'x' * size}{seq}\n\n"
    return Frame(seq, at, kind, topics or ("queue:a",), wakes, block.encode())


def parsed(text: str) -> list[dict[str, str]]:
    """The events a browser would see; comment lines are no part of them."""
    lines = re.sub(r"(?m)^:\n", "", text)
    blocks = [block for block in lines.split("\n\n") if block]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


def number(block: dict[str, str]) -> int:
    return int(block["id"].rpartition("-")[2])


@dataclass
class Log:
    """What the database would say."""

    epoch: str = EPOCH
    floor: int = 0
    frames: list[Frame] = field(default_factory=list[Frame])
    window: int = 20_000
    asked: list[tuple[int, frozenset[str] | None]] = field(
        default_factory=list[tuple[int, frozenset[str] | None]]
    )
    gate: Callable[[], Awaitable[object]] | None = None
    broken: bool = False
    base: int = 0  # number before the first of `frames`

    @property
    def head(self) -> int:
        return self.base + len(self.frames)

    def grow(
        self, n: int, *topics: str, size: int = 0, kind: str = "order.created", at: int = NOW
    ) -> list[Frame]:
        numbers = range(self.head + 1, self.head + 1 + n)
        new = [frame(s, *topics, epoch=self.epoch, size=size, kind=kind, at=at) for s in numbers]
        self.frames += new
        return new

    async def read(self, after: int, topics: frozenset[str] | None) -> Window:
        self.asked.append((after, topics))
        if self.gate is not None:
            await self.gate()
        await asyncio.sleep(0)
        if self.broken:
            raise ConnectionError("no database")
        upto = max(after, min(after + self.window, self.head))
        kept = self.frames[max(0, max(after, self.floor) - self.base) : max(0, upto - self.base)]
        found = [f for f in kept if topics is None or not topics.isdisjoint(f.topics)]
        return Window(self.epoch, self.head, self.floor, upto, found)


class Gate:
    """Open: the client reads."""

    def __init__(self, opened: Callable[[], None]) -> None:
        self._opened = opened
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._opened()

    def clear(self) -> None:
        self._is_set = False


class Client:
    """The line of one stream: what was written to it, and whether it is read."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.times: list[float] = []  # of the writes
        self.open = Gate(self._opened)
        self.is_full = self.is_whole = self.is_cut = False
        self.left = 0  # bytes that it has not read
        self.task: asyncio.Future[str] | None = None  # with the reason, at the end
        self.reader: Subscriber | None = None

    def serve(self, reader: Subscriber) -> None:
        self.reader = reader

    def write(self, data: bytes) -> bool:
        assert not self.is_full, "written to a line that is full"
        assert not self.is_whole, "written after the end"
        assert not self.is_cut, "written to a line that is cut"
        self.writes.append(data)
        self.times.append(asyncio.get_running_loop().time())
        self.is_full = not self.open.is_set()
        self.left = len(data) if self.is_full else 0
        return not self.is_full

    def unread(self) -> int:
        return self.left

    def finish(self) -> None:
        self.is_whole = True

    def cut(self) -> None:
        self.is_cut = True
        asyncio.get_running_loop().call_soon(self.hang_up)

    def hang_up(self) -> None:
        if self.reader is not None:
            self.reader.lost()

    def gone(self, reason: str) -> None:
        assert self.task is not None
        self.task.set_result(reason)

    def _opened(self) -> None:
        if self.is_full and self.reader is not None and not self.is_cut:
            self.is_full, self.left = False, 0
            asyncio.get_running_loop().call_soon(self.reader.room)

    @property
    def text(self) -> str:
        return b"".join(self.writes).decode()

    @property
    def blocks(self) -> list[dict[str, str]]:
        return parsed(self.text)

    @property
    def told(self) -> list[tuple[int, str]]:
        """Number and kind of every event."""
        return [(number(block), block["event"]) for block in self.blocks if "." in block["event"]]

    def named(self, name: str) -> list[dict[str, str]]:
        return [block for block in self.blocks if block["event"] == name]

    @property
    def events(self) -> list[int]:
        return [number(block) for block in self.named("order.created")]

    def data(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(block["data"]) for block in self.named(name)]

    async def ended(self) -> str:
        assert self.task is not None
        return await self.task


@dataclass
class Stage:
    hub: Hub
    log: Log
    clients: list[Client] = field(default_factory=list[Client])

    def join(
        self,
        start: Start | None = None,
        *topics: str,
        client: Client | None = None,
        owner: object = None,
        expires_at: int | None = None,
        snapshot: ReadSnapshot | None = None,
        greeting: ReadGreeting | None = None,
        choose: ReadTopics | None = None,
        coalesce: bool = False,
    ) -> Client:
        client = client or Client()
        client.task = asyncio.get_running_loop().create_future()
        one = self.hub.subscribe(
            topics or ("queue:a",),
            start or Start.now(),
            gone=client.gone,
            owner=owner,
            expires_at=expires_at,
            snapshot=snapshot,
            greeting=greeting,
            choose=choose,
            coalesce=coalesce,
        )
        one.begin(client)
        self.clients.append(client)
        return client

    def sell(self, *kinds: str, sku: str = "a") -> None:
        """Events of a SKU come by at once."""
        for kind in kinds:
            topics = (f"stock:{sku}", "stock")
            new = self.log.grow(1, *topics, kind=f"stock.{kind}", at=self.wall())
            self.hub.feed(self.log.epoch, new[0].seq, new)

    def wall(self) -> int:
        """The database's clock, ms."""
        return NOW + round(self.hub.now() * 1000)

    async def commit(self, n: int, *topics: str, size: int = 0) -> list[Frame]:
        """Events are written and come by at once; streams that began are live by then."""
        await turns()
        new = self.log.grow(n, *topics, size=size)
        self.hub.feed(self.log.epoch, new[0].seq, new)
        await asyncio.sleep(0.01)
        return new

    def look(self) -> None:
        self.hub.look(self.log.epoch, self.log.head, self.log.floor)


def look_after(client: Client, later: float) -> None:
    """The timer comes by, as it will so many seconds later."""
    assert client.reader is not None
    client.reader.look_after(asyncio.get_running_loop().time() + later)


Scene = Callable[[Stage], Coroutine[Any, Any, None]]


def on_stage(
    scene: Scene, log: Log | None = None, limits: Limits | None = None, ticks: float = 1
) -> None:
    """Plays a scene with a hub that begins at the log's head.

    `ticks` is the pause after a tick, for each of its writes: with 1 always the longest.
    """

    async def perform() -> None:
        shown = log or Log()
        hub = Hub(
            shown.read,
            limits=replace(limits or Limits(), tick_a_write=ticks),
            superseded=SUPERSEDED,
            states=frozenset({"order.created", "order.completed", "stock.changed"}),
            regrouping=frozenset({"mine.changed"}),
            clock=lambda: NOW,
        )
        hub.start(shown.epoch, shown.head, shown.floor)
        stage = Stage(hub, shown)
        try:
            await scene(stage)
            assert hub.alive
        finally:
            for client in stage.clients:
                client.hang_up()
            await hub.stop()
        assert hub.stats.streams == 0
        assert not hub.has_subscribers("queue:a")

    play(perform())


def grown(n: int, **settings: Any) -> Log:
    log = Log(**settings)
    log.grow(n)
    return log


# --- frames -----------------------------------------------------------------------------


def test_control_frames_are_exact() -> None:
    """A control frame is one block: fields, compact JSON, a blank line."""
    assert control("bookmark", {"head": "e-9"}, "e-9") == (
        b'id: e-9\nevent: bookmark\ndata: {"head":"e-9"}\n\n'
    )
    assert goodbye("shutdown", 3100) == (
        b'retry: 3100\nevent: goodbye\ndata: {"reason":"shutdown","reconnect_ms":3100}\n\n'
    )
    assert goodbye("expired", None) == (
        b'event: goodbye\ndata: {"reason":"expired","reconnect_ms":null}\n\n'
    )


@pytest.mark.parametrize("evil", ["a\nb", "a\rb", "a\0b"])
def test_nobody_forges_a_field(evil: str) -> None:
    """A line break in a name, an id or a topic is refused where it is made."""

    async def scene(stage: Stage) -> None:
        with pytest.raises(ValueError, match="line break"):
            stage.hub.subscribe([f"order:{evil}"], Start.now())

    on_stage(scene)
    with pytest.raises(ValueError, match="line break"):
        control(evil, {})
    with pytest.raises(ValueError, match="line break"):
        control("x", {}, evil)
    assert b"\\n" in control("x", {"a": "\n"})


@pytest.mark.parametrize(
    "text, found",
    [
        ("k3f9a2c1-1042", ("k3f9a2c1", 1042)),
        ("e-0", ("e", 0)),
        ("", None),
        ("-1", None),
        ("e-", None),
        ("e-1\n", None),
        ("e-01", None),
        ("e--1", None),
        ("e-٣", None),
        ("e-" + "9" * 17, None),
        ("é-1", None),
    ],
)
def test_ids_are_read_strictly(text: str, found: tuple[str, int] | None) -> None:
    """Only what the hub wrote itself is a cursor."""
    assert parse_id(text) == found
    if found:
        assert event_id(*found) == text


# --- hello, start and reset ---------------------------------------------------------------


def test_hello_comes_first_and_is_exact() -> None:
    """hello has retry, the cursor it goes on from, and when the stream ends."""

    async def scene(stage: Stage) -> None:
        client = stage.join(expires_at=NOW + 60_000)
        await turns()
        assert re.fullmatch(
            rb"retry: \d{3,4}\nid: k3f9a2c1-3\nevent: hello\n"
            rb'data: {"epoch":"k3f9a2c1","head":"k3f9a2c1-3","heartbeat_seconds":15,'
            rb'"expires_at":"2026-11-21T18:01:00.000Z"}\n\n',
            client.writes[0],
        )
        await stage.commit(1)
        assert client.events == [4]

    on_stage(scene, grown(3))


def test_hello_tells_the_lifetime_where_the_credential_lasts_longer() -> None:
    """expires_at is whichever ends first."""

    async def scene(stage: Stage) -> None:
        client = stage.join(expires_at=NOW + 86_400_000)
        await turns()
        assert client.data("hello")[0]["expires_at"] == "2026-11-21T18:11:40.250Z"

    on_stage(scene, limits=Limits(lifetime=(700.25, 700.25)))


def test_resumes_from_the_ring_without_the_log() -> None:
    """What the ring holds costs the database nothing."""

    async def scene(stage: Stage) -> None:
        await stage.commit(5)
        client = stage.join(Start.after(EPOCH, 2))
        await turns()
        assert client.named("hello")[0]["id"] == "k3f9a2c1-2"
        assert client.events == [3, 4, 5]
        await stage.commit(1)
        assert client.events == [3, 4, 5, 6]
        assert stage.log.asked == []

    on_stage(scene)


def test_two_thousand_resume_from_the_ring() -> None:
    """A storm of reconnects reads no database."""

    async def scene(stage: Stage) -> None:
        await stage.commit(50, "queue:a")
        clients = [stage.join(Start.resume(f"{EPOCH}-{n % 50}")) for n in range(2_000)]
        await until(lambda: all(50 in client.events for client in clients[-50:]))
        for n, client in enumerate(clients):
            assert client.events == list(range(n % 50 + 1, 51))
        assert stage.log.asked == []

    on_stage(scene)


def test_replays_from_the_log_in_windows() -> None:
    """Beyond the ring the log is read in windows, each followed by a bookmark, then live."""

    async def scene(stage: Stage) -> None:
        client = stage.join(Start.after(EPOCH, 1))
        await until(lambda: len(client.named("bookmark")) == 3)
        assert client.events == list(range(2, 11))
        assert [block["id"] for block in client.named("bookmark")] == [
            f"{EPOCH}-{n}" for n in (5, 9, 10)
        ]
        assert client.data("bookmark")[0] == {"head": "k3f9a2c1-10"}
        await stage.commit(1)
        assert client.events[-1] == 11
        assert [after for after, _ in stage.log.asked] == [1, 5, 9]

    on_stage(scene, grown(10, window=4))


def test_a_quiet_window_moves_the_cursor() -> None:
    """A replay that finds nothing still says how far it came, and shows nothing foreign."""

    async def scene(stage: Stage) -> None:
        client = stage.join(Start.after(EPOCH, 0), "order:none")
        await until(lambda: len(client.named("bookmark")) == 2)
        assert client.events == []

    on_stage(scene, grown(8, window=4))


def test_what_the_log_gives_too_much_is_not_shown() -> None:
    """Replayed events are matched against the topics once more."""

    async def scene(stage: Stage) -> None:
        log = stage.log

        async def careless(after: int, _topics: frozenset[str] | None) -> Window:
            return await log.read(after, None)

        hub = Hub(careless)
        hub.start(EPOCH, log.head)
        client = Stage(hub, log).join(Start.after(EPOCH, 0), "order:1")
        await until(lambda: bool(client.named("bookmark")))
        assert client.events == []
        await hub.stop()
        assert await client.ended() == "shutdown"

    on_stage(scene, grown(3))


@pytest.mark.parametrize(
    "start, reason",
    [
        (Start.after(EPOCH, 3), "pruned"),
        (Start.after("elsewhere", 9), "epoch"),
        (Start.after(EPOCH, 99), "unknown"),
        (Start.resume("rubbish"), "unknown"),
        (Start.reset("pruned"), "pruned"),
    ],
)
def test_reset_says_why_and_goes_on_from_the_head(start: Start, reason: str) -> None:
    """A cursor that cannot be resumed is told so at once, never silently short."""

    async def scene(stage: Stage) -> None:
        client = stage.join(start)
        await until(lambda: bool(client.named("reset")))
        assert "id" not in client.named("hello")[0]
        assert client.named("reset")[0]["id"] == "k3f9a2c1-9"
        assert client.data("reset") == [
            {"reason": reason, "oldest": "k3f9a2c1-4", "head": "k3f9a2c1-9"}
        ]
        await stage.commit(1)
        assert client.events == [10]
        assert stage.hub.stats.resets == 1

    on_stage(scene, grown(9, floor=4))


def test_a_cursor_at_the_floor_is_resumed() -> None:
    """The floor itself is still a good cursor."""

    async def scene(stage: Stage) -> None:
        client = stage.join(Start.after(EPOCH, 4))
        await until(lambda: client.events == [5, 6, 7, 8, 9])
        assert client.named("reset") == []

    on_stage(scene, grown(9, floor=4))


def test_a_cursor_ahead_of_this_process_is_no_mistake() -> None:
    """Another process was faster: the log judges the cursor, and the hub catches up."""

    async def scene(stage: Stage) -> None:
        stage.log.grow(5)
        client = stage.join(Start.after(EPOCH, 4))
        await until(lambda: client.events == [5])
        assert client.named("hello")[0]["id"] == "k3f9a2c1-4"
        assert stage.hub.head == 5

    on_stage(scene)


def test_a_cursor_of_an_epoch_this_process_has_not_seen() -> None:
    """Another process moved to the new epoch first: its cursors are good here too."""

    async def scene(stage: Stage) -> None:
        live = stage.join()
        await turns()
        stage.log.epoch, stage.log.frames = "new", []
        stage.log.grow(3)
        client = stage.join(Start.after("new", 3))
        await until(lambda: bool(client.named("hello")))
        assert client.named("hello")[0]["id"] == "new-3"
        await stage.commit(1)
        assert client.named("reset") == []
        assert client.events == [4]
        assert live.data("reset")[0]["reason"] == "epoch"

    on_stage(scene, grown(7))


def test_pruned_while_it_waits_for_its_turn() -> None:
    """The floor is read with each window: what went meanwhile is a reset, not a hole."""

    async def scene(stage: Stage) -> None:
        stage.log.floor = 6
        client = stage.join(Start.after(EPOCH, 2))
        await until(lambda: bool(client.named("reset")))
        assert client.data("reset")[0]["reason"] == "pruned"
        assert client.events == []

    on_stage(scene, grown(9))


def test_no_database_ends_a_replay_politely() -> None:
    """A stream that cannot be replayed says goodbye and may come again."""

    async def scene(stage: Stage) -> None:
        live = stage.join()
        await turns()
        stage.log.broken = True
        lost = stage.join(Start.after(EPOCH, 0))
        ahead = stage.join(Start.after(EPOCH, 99))
        assert await lost.ended() == "overloaded"
        assert await ahead.ended() == "overloaded"
        assert ahead.named("hello") == []
        assert lost.data("goodbye")[0]["reconnect_ms"] >= 500
        assert stage.hub.stats.log_errors >= 2
        stage.log.broken = False
        await stage.commit(1)
        assert live.events == [4]

    on_stage(scene, grown(3))


def test_a_read_that_never_answers_has_an_end() -> None:
    """Nothing waits for ever."""

    async def scene(stage: Stage) -> None:
        async def stuck() -> None:
            await asyncio.Event().wait()

        stage.log.gate = stuck
        clients = [stage.join(Start.after(EPOCH, 0)) for _ in range(9)]
        assert {await client.ended() for client in clients} == {"overloaded"}

    on_stage(scene, grown(3))


def test_few_replays_read_the_log_at_once() -> None:
    """A storm past the ring does not empty the pool of connections."""

    async def scene(stage: Stage) -> None:
        running = peak = 0

        async def busy() -> None:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0.01)
            running -= 1

        stage.log.gate = busy
        clients = [stage.join(Start.after(EPOCH, 0)) for _ in range(40)]
        await until(lambda: all(client.events == [1, 2, 3] for client in clients))
        assert peak == Limits().log_reads

    on_stage(scene, grown(3))


# --- snapshot and greeting ------------------------------------------------------------------


def shot(seq: int, epoch: str = EPOCH) -> Snapshot:
    frames = [control("snapshot", {"more": True}), control("snapshot", {}, event_id(epoch, seq))]
    return Snapshot(epoch, seq, frames)


def test_a_snapshot_then_all_that_follows_it() -> None:
    """The stream goes on exactly after the snapshot, even one ahead of this process."""

    async def scene(stage: Stage) -> None:
        async def read() -> Snapshot:
            return shot(5)

        client = stage.join(Start.snapshot(), snapshot=read)
        await until(lambda: len(client.named("snapshot")) == 2)
        assert "id" not in client.named("hello")[0]
        await stage.commit(4)
        assert client.events == [6, 7]
        assert [block["event"] for block in client.blocks[:3]] == ["hello", "snapshot", "snapshot"]

    on_stage(scene, grown(3))


def test_a_reset_is_followed_by_the_snapshot() -> None:
    """Where a snapshot follows, the reset itself moves no cursor."""

    async def scene(stage: Stage) -> None:
        async def read() -> Snapshot:
            return shot(stage.log.head, stage.log.epoch)

        client = stage.join(Start.reset("unknown"), snapshot=read)
        await until(lambda: len(client.named("snapshot")) == 2)
        assert "id" not in client.named("reset")[0]
        await stage.commit(1)
        assert client.events == [4]

    on_stage(scene, grown(3))


def test_a_snapshot_of_an_epoch_that_is_new_here() -> None:
    """A snapshot is never mixed with events of another epoch."""

    async def scene(stage: Stage) -> None:
        stage.log.epoch, stage.log.frames = "new", []
        stage.log.grow(2)

        async def read() -> Snapshot:
            return shot(stage.log.head, stage.log.epoch)

        client = stage.join(Start.snapshot(), snapshot=read)
        await until(lambda: len(client.named("snapshot")) == 2)
        await stage.commit(1)
        assert client.events == [3]
        assert client.named("snapshot")[-1]["id"] == "new-2"

    on_stage(scene, grown(3))


def test_a_greeting_follows_hello_and_each_reset() -> None:
    """What a topic says first comes after hello, and again when everything may be new."""

    async def scene(stage: Stage) -> None:
        async def read() -> list[bytes]:
            return [control("counts", {})]

        client = stage.join(greeting=read)
        await until(lambda: len(client.named("counts")) == 1)
        stage.log.epoch, stage.log.frames = "new", []
        stage.look()
        await until(lambda: len(client.named("counts")) == 2)
        order = [block["event"] for block in client.blocks]
        assert order == ["hello", "counts", "reset", "counts"]

    on_stage(scene)


def test_nothing_older_follows_the_greeting() -> None:
    """Control frames from before the greeting was read would put back old values."""

    async def scene(stage: Stage) -> None:
        async def read() -> list[bytes]:
            return [control("counts", {"n": 2})]

        client = Client()
        client.open.clear()
        stage.join(client=client, greeting=read)
        await turns()
        stage.hub.send("queue:a", control("counts", {"n": 1}))
        await asyncio.sleep(0.01)
        client.open.set()
        await asyncio.sleep(0.01)
        assert client.data("counts") == [{"n": 2}]

    on_stage(scene)


# --- the feed -------------------------------------------------------------------------------


def test_out_of_order_and_doubled_feeds_come_out_in_sequence() -> None:
    """Events go out once, in order, however they come in; a gap that closes reads nothing."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await turns()
        new = stage.log.grow(6)
        hub = stage.hub
        for first, upto in ((5, 6), (3, 4), (3, 6), (1, 2), (1, 6), (6, 6)):
            hub.feed(EPOCH, first, new[first - 1 : upto])
        await asyncio.sleep(1)
        assert client.events == [1, 2, 3, 4, 5, 6]
        assert hub.head == 6
        assert stage.log.asked == []

    on_stage(scene)


def test_a_gap_that_stays_is_read_from_the_log() -> None:
    """What was lost on the way is found in the log a few milliseconds later."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await turns()
        new = stage.log.grow(5)
        stage.hub.feed(EPOCH, 4, new[3:])
        await asyncio.sleep(0.05)
        assert client.events == [1, 2, 3, 4, 5]
        assert stage.log.asked == [(0, None)]
        assert stage.hub.stats.gaps == 1

    on_stage(scene)


def test_without_redis_the_look_finds_everything() -> None:
    """A look that is ahead reads the log, in as many windows as it takes."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await turns()
        stage.log.grow(10)
        stage.look()
        await until(lambda: client.events == list(range(1, 11)))
        assert [after for after, _ in stage.log.asked] == [0, 4, 8]

    on_stage(scene, Log(window=4))


def test_a_log_that_fails_is_asked_again() -> None:
    """While the database is away the live streams stay, and then miss nothing."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await turns()
        stage.log.grow(3)
        stage.log.broken = True
        stage.look()
        await asyncio.sleep(2)
        assert client.events == []
        assert 3 < len(stage.log.asked) < 12, "it hurries or it gives up"
        stage.log.broken = False
        await until(lambda: client.events == [1, 2, 3])

    on_stage(scene)


def test_what_waits_for_a_gap_is_bounded() -> None:
    """Frames too far ahead are dropped: the log has them."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await turns()
        new = stage.log.grow(50)
        stage.hub.feed(EPOCH, 2, new[1:])
        assert stage.hub.stats.ahead_dropped == 39
        await until(lambda: client.events == list(range(1, 51)))

    on_stage(scene, limits=Limits(ahead_frames=10))


def test_what_came_in_sequence_after_all_no_longer_waits() -> None:
    """Frames that were kept for later and then came again do not fill the bound."""

    async def scene(stage: Stage) -> None:
        for _ in range(30):
            new = stage.log.grow(3)
            stage.hub.feed(EPOCH, new[2].seq, new[2:])
            stage.hub.feed(EPOCH, new[0].seq, new)
        assert stage.hub.head == 90
        assert stage.hub.stats.ahead_dropped == 0

    on_stage(scene, limits=Limits(ahead_frames=10))


def test_a_log_that_cannot_be_read_on_is_told_not_retried_for_ever() -> None:
    """Where the log shows nothing although it says there is more, streams are told."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await turns()
        stage.log.grow(3)
        stage.log.window = 0
        stage.look()
        await until(lambda: bool(client.named("reset")))
        assert client.data("reset")[0]["head"] == "k3f9a2c1-3"

    on_stage(scene)


def test_a_number_that_does_not_exist_is_asked_for_once() -> None:
    """A wrong number on the channel does not make the hub read the log for ever."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        stage.hub.look(EPOCH, 10**15)
        await asyncio.sleep(5)
        assert len(stage.log.asked) == 1
        await stage.commit(1)
        assert client.events == [1]

    on_stage(scene)


def test_an_old_look_changes_nothing() -> None:
    """A look that was overtaken is ignored."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await stage.commit(3)
        stage.hub.look(EPOCH, 1)
        await asyncio.sleep(1)
        assert (stage.hub.head, client.named("reset"), stage.log.asked) == (3, [], [])

    on_stage(scene)


def test_a_new_epoch_resets_every_stream() -> None:
    """After a restore each stream is told, and goes on from the new head."""

    async def scene(stage: Stage) -> None:
        clients = [stage.join(), stage.join(Start.now(), "order:1")]
        await stage.commit(4)
        stage.log.epoch, stage.log.frames = "new", []
        stage.log.grow(2)
        stage.look()
        await until(lambda: all(client.named("reset") for client in clients))
        for client in clients:
            assert client.data("reset")[0] == {
                "reason": "epoch",
                "oldest": "new-0",
                "head": "new-2",
            }
            assert client.named("reset")[0]["id"] == "new-2"
        await stage.commit(1)
        assert clients[0].events == [1, 2, 3, 4, 3]
        assert (stage.hub.epoch, stage.hub.head) == ("new", 3)

    on_stage(scene)


def test_nothing_of_the_old_epoch_follows_the_reset() -> None:
    """What was due or waited when the log began anew is gone with the old numbers."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await turns()
        old = stage.log.grow(9)
        stage.hub.feed(EPOCH, 1, old[:1])
        await turns()
        stage.hub.feed(EPOCH, 2, old[1:2])  # due at the next tick
        stage.hub.feed(EPOCH, 6, old[5:])  # waits for 3 to 5
        stage.log.epoch, stage.log.frames = "new", []
        stage.log.grow(1)
        stage.look()
        await until(lambda: bool(client.named("reset")))
        await asyncio.sleep(1)
        assert client.events == [1]
        await stage.commit(4)
        assert [block.get("id") for block in client.blocks[2:]] == [f"new-{n}" for n in range(1, 6)]

    on_stage(scene)


def test_shared_pages_do_not_outlive_their_epoch() -> None:
    """The same number in another epoch is another event."""

    async def scene(stage: Stage) -> None:
        await stage.commit(2)
        stage.join(Start.after(EPOCH, 0))
        await turns()
        stage.log.epoch, stage.log.frames = "new", []
        stage.look()
        await until(lambda: stage.hub.epoch == "new")
        await stage.commit(2)
        client = stage.join(Start.after("new", 0))
        await turns()
        assert [block.get("id") for block in client.blocks] == ["new-0", "new-1", "new-2"]

    on_stage(scene)


def test_a_feed_of_another_epoch_is_ignored_and_looked_into() -> None:
    """Only the log says which epoch holds; rumours are asked about once."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await turns()
        for _ in range(5):
            stage.hub.feed("rumour", 1, [frame(1, epoch="rumour")])
            await asyncio.sleep(0.1)
        assert (client.events, client.named("reset")) == ([], [])
        assert len(stage.log.asked) == 1
        stage.log.epoch = "new"
        stage.hub.feed("new", 1, [frame(1, epoch="new")])
        await until(lambda: stage.hub.epoch == "new")

    on_stage(scene)


def test_a_process_that_slept_past_the_floor_says_so() -> None:
    """What was pruned before this process saw it is a reset, not a hole."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await turns()
        stage.log.grow(9)
        stage.log.floor = 5
        stage.look()
        await until(lambda: bool(client.named("reset")))
        assert client.data("reset")[0]["reason"] == "pruned"
        await stage.commit(1)
        assert client.events == [10]

    on_stage(scene)


def test_catch_up_fills_the_ring_before_the_first_stream() -> None:
    """After a restart the ring can be filled, so that a storm of reconnects reads nothing."""

    async def perform() -> None:
        log = grown(10)
        hub = Hub(log.read)
        hub.start(EPOCH, 2)
        assert await hub.catch_up() == 10
        reads = len(log.asked)
        stage = Stage(hub, log)
        client = stage.join(Start.after(EPOCH, 2))
        await until(lambda: client.events == list(range(3, 11)))
        assert len(log.asked) == reads
        await hub.stop()
        assert await client.ended() == "shutdown"

    play(perform())


# --- fan-out --------------------------------------------------------------------------------


def test_one_write_per_tick_of_the_same_bytes() -> None:
    """What is due within a tick is joined once for all streams of the same topics."""

    async def scene(stage: Stage) -> None:
        clients = [stage.join() for _ in range(100)]
        await turns()
        for seq, new in enumerate(stage.log.grow(5), 1):
            stage.hub.feed(EPOCH, seq, [new])
        await turns()
        assert {len(client.writes) for client in clients} == {2}
        assert {id(client.writes[1]) for client in clients} == {id(clients[0].writes[1])}
        assert clients[0].events == [1, 2, 3, 4, 5]
        assert stage.hub.stats.delivered == 500

    on_stage(scene)


def test_the_first_event_goes_out_at_once_then_every_five_milliseconds() -> None:
    """A silence ends without a delay; in a storm a stream writes at most once a tick."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        stage.hub.feed(EPOCH, 1, stage.log.grow(1))
        await turns()
        assert client.events == [1]
        assert asyncio.get_running_loop().time() == began
        before = len(client.writes)
        for _ in range(200):
            new = stage.log.grow(1)
            stage.hub.feed(EPOCH, new[0].seq, new)
            await asyncio.sleep(0.0005)
        await asyncio.sleep(0.01)
        assert client.events == list(range(1, 202))
        assert 15 <= len(client.writes) - before <= 22

    on_stage(scene)


def test_an_event_comes_once_however_many_topics_match() -> None:
    """Topics that overlap double nothing, live or replayed."""

    async def scene(stage: Stage) -> None:
        live = stage.join(Start.now(), "order:1", "queue:a", "customer:c")
        await turns()
        new = stage.log.grow(3, "order:1", "queue:a", "customer:c")
        new += stage.log.grow(1, "queue:a") + stage.log.grow(1, "order:2")
        stage.hub.feed(EPOCH, 1, new)
        await asyncio.sleep(0.01)
        back = stage.join(Start.after(EPOCH, 0), "order:1", "queue:a", "customer:c")
        await turns()
        assert live.events == back.events == [1, 2, 3, 4]

    on_stage(scene)


def test_few_writes_need_no_pause() -> None:
    """After a tick of few writes the next comes soon; after one of many in 5 ms."""

    async def scene(stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        alone = stage.join(None, "order:1")
        many = [stage.join(None, "queue:b") for _ in range(80)]
        await turns(20)
        began = loop.time()
        stage.hub.feed(EPOCH, 1, stage.log.grow(1, "order:1"))
        await turns()
        stage.hub.feed(EPOCH, 2, stage.log.grow(1, "order:1"))
        await until(lambda: alone.events == [1, 2])
        assert loop.time() - began <= 0.001
        stage.hub.feed(EPOCH, 3, stage.log.grow(1, "queue:b"))
        await until(lambda: all(one.events for one in many))
        began = loop.time()
        stage.hub.feed(EPOCH, 4, stage.log.grow(1, "order:1"))
        await until(lambda: alone.events == [1, 2, 4])
        assert 0.003 <= loop.time() - began <= 0.006

    on_stage(scene, ticks=0.0001)


def test_a_stream_that_joins_within_a_tick_gets_no_double() -> None:
    """A stream born between an event and its tick has it from the ring, and only there."""

    async def scene(stage: Stage) -> None:
        hub = stage.hub
        await stage.commit(1)
        hub.feed(EPOCH, 2, stage.log.grow(1))  # due at the next tick
        resumed = stage.join(Start.after(EPOCH, 0))
        fresh = stage.join()
        await turns()
        hub.feed(EPOCH, 3, stage.log.grow(1))
        await asyncio.sleep(0.02)
        assert resumed.events == [1, 2, 3]
        assert fresh.events == [3]

    on_stage(scene)


def test_a_large_tick_is_split() -> None:
    """No write is larger than its bound."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await turns()
        await stage.commit(40, size=100_000)
        await until(lambda: client.events == list(range(1, 41)))
        assert max(map(len, client.writes)) <= 256 << 10

    on_stage(scene)


def test_control_frames_reach_the_streams_of_a_topic() -> None:
    """Counts and positions go to whoever follows the topic, after the events before them."""

    async def scene(stage: Stage) -> None:
        client, other = stage.join(), stage.join(Start.now(), "queue:b")
        await turns()
        stage.hub.feed(EPOCH, 1, stage.log.grow(1))
        stage.hub.send("queue:a", control("counts", {}))
        stage.hub.send("queue:nobody", control("counts", {}))
        await asyncio.sleep(0.01)
        names = [block["event"] for block in client.blocks]
        assert names == ["hello", "order.created", "counts"]
        assert len(client.writes) == 2
        assert [block["event"] for block in other.blocks] == ["hello"]

    on_stage(scene)


def test_control_frames_for_a_busy_stream_are_kept_within_a_bound() -> None:
    """A stream that is busy gets them later; too many and it shall come again."""

    async def scene(stage: Stage) -> None:
        slow, dead = Client(), Client()
        for client in (slow, dead):
            client.open.clear()
            stage.join(client=client)
        await turns()
        stage.hub.send("queue:a", control("counts", {"n": "x" * 400}))
        await asyncio.sleep(0.01)
        slow.open.set()
        await until(lambda: len(slow.named("counts")) == 1)
        for _ in range(3):
            stage.hub.send("queue:a", control("counts", {"n": "x" * 400}))
            await asyncio.sleep(0.01)
        dead.open.set()
        assert await dead.ended() == "slow"
        assert dead.data("goodbye")[0]["reason"] == "slow"
        await until(lambda: len(slow.named("counts")) == 4)

    on_stage(scene, limits=Limits(notes_bytes=1_000))


def test_a_listener_hears_every_event_once_in_sequence() -> None:
    """Whatever order they come in; after a new epoch the head has jumped and nothing was heard."""

    async def scene(stage: Stage) -> None:
        heard: list[int] = []
        stage.hub.listen(lambda frame: heard.append(frame.seq))
        new = stage.log.grow(4)
        stage.hub.feed(EPOCH, 3, new[2:])
        assert heard == []
        stage.hub.feed(EPOCH, 1, new[:3])
        assert heard == [1, 2, 3, 4]
        stage.log.epoch = "another1"
        stage.log.grow(3)
        stage.hub.look("another1", 7)
        await until(lambda: stage.hub.head == 7)
        assert heard == [1, 2, 3, 4]

    on_stage(scene)


def test_touched_queues_are_remembered_while_somebody_cares() -> None:
    """The list of queues whose counts changed costs nothing when nobody follows them."""

    async def scene(stage: Stage) -> None:
        await stage.commit(1, "queue:a", "order:1")
        assert stage.hub.take_touched_queues() == set()
        assert not stage.hub.has_subscribers("queues")
        stage.join(Start.now(), "queues")
        assert stage.hub.has_subscribers("queues")
        await stage.commit(1, "queue:a", "order:1")
        await stage.commit(1, "queue:b", "queue:c")
        assert stage.hub.take_touched_queues() == {"a", "b", "c"}
        assert stage.hub.take_touched_queues() == set()

    on_stage(scene)


# --- what a newer one replaces --------------------------------------------------------------


def test_a_sale_is_told_ten_times_a_second() -> None:
    """The first change at once, then every 100 ms the newest; the last one is never missing."""

    async def scene(stage: Stage) -> None:
        clients = [stage.join(None, "stock:a") for _ in range(20)]
        await turns()
        now = asyncio.get_running_loop().time
        began = now()
        for _ in range(300):
            stage.sell("changed")
            await asyncio.sleep(0.003)
        await asyncio.sleep(1)
        one = clients[0]
        moments = [round(moment - began, 6) for moment in one.times[1:]]
        assert moments == [round(n / 10, 6) for n in range(10)]
        assert [seq for seq, _ in one.told] == [1, 34, 67, 100, 134, 167, 200, 234, 267, 300]
        assert all(client.writes[1:] == one.writes[1:] for client in clients)
        assert stage.hub.stats.left_out == 290

    on_stage(scene, limits=Limits(tick_bytes=500))


def test_a_change_after_a_rest_is_told_at_once() -> None:
    """Whoever was told nothing for 100 ms waits for nothing."""

    async def scene(stage: Stage) -> None:
        client = stage.join(None, "stock")
        for _ in range(5):
            await asyncio.sleep(0.101)
            stage.sell("changed")
            await turns()
            assert client.told[-1] == (stage.log.head, "stock.changed")
        assert stage.hub.stats.left_out == 0

    on_stage(scene)


def test_each_product_has_its_own_newest() -> None:
    """An older change goes only in favour of the same product."""

    async def scene(stage: Stage) -> None:
        client = stage.join(None, "stock")
        await turns()
        stage.sell("changed")
        await asyncio.sleep(0.01)
        for sku in "abacb":
            stage.sell("changed", sku=sku)
        await asyncio.sleep(0.1)
        assert [seq for seq, _ in client.told] == [1, 4, 5, 6]
        assert len(client.writes) == 3

    on_stage(scene)


def test_anything_else_takes_along_what_is_held() -> None:
    """In order of their numbers, at the next tick: nothing overtakes a change of stock."""

    async def scene(stage: Stage) -> None:
        client = stage.join(None, "stock:a", "order:1")
        await turns()
        stage.sell("changed")
        await asyncio.sleep(0.01)
        stage.sell("changed", "changed")
        await asyncio.sleep(0.01)
        assert len(client.told) == 1
        began = asyncio.get_running_loop().time()
        stage.sell("changed", "depleted")
        stage.hub.feed(EPOCH, 6, stage.log.grow(1, "order:1"))
        stage.sell("changed")
        await turns()
        assert asyncio.get_running_loop().time() == began
        rest = [(5, "stock.depleted"), (6, "order.created"), (7, "stock.changed")]
        assert client.told == [(1, "stock.changed"), *rest]
        stage.sell("changed")
        stage.hub.send("stock:a", control("counts", {}))
        await asyncio.sleep(0.01)
        assert [block["event"] for block in client.blocks][-2:] == ["stock.changed", "counts"]

    on_stage(scene)


def test_what_a_tick_took_along_begins_a_new_rest() -> None:
    """The 100 ms count from the last time a change was told, with whatever else."""

    async def scene(stage: Stage) -> None:
        client = stage.join(None, "stock:a", "order:1")
        await asyncio.sleep(1)
        now = asyncio.get_running_loop().time
        began = now()
        for kinds in (["changed"], ["changed", "low"], ["changed"], ["changed"]):
            stage.sell(*kinds)
            await asyncio.sleep(0.04)
        await asyncio.sleep(1)
        moments = [round(moment - began, 3) for moment in client.times[1:]]
        assert moments == [0.0, 0.04, 0.14]
        assert [seq for seq, _ in client.told] == [1, 2, 3, 5]

    on_stage(scene)


def test_the_end_of_a_rest_does_not_wait_for_the_tick() -> None:
    """100 ms are 100 ms, also where something else has just called for a tick."""

    async def scene(stage: Stage) -> None:
        stage.join(None, "queue:b")
        client = stage.join(None, "stock:a", "order:1")
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        stage.sell("changed")
        await turns()
        stage.sell("changed")
        await asyncio.sleep(0.098)
        for topic in ("queue:b", "order:1"):  # the second has to wait for the next tick
            new = stage.log.grow(1, topic)
            stage.hub.feed(EPOCH, new[0].seq, new)
            await turns()
        await asyncio.sleep(0.02)
        assert [seq for seq, _ in client.told] == [1, 2, 4]
        assert [round(moment - began, 3) for moment in client.times[1:]] == [0.0, 0.1]
        assert len(client.writes) == 3

    on_stage(scene)


def test_what_came_late_is_thinned_by_its_own_time() -> None:
    """Where a process was behind, a change goes only for one committed within 100 ms of it."""

    async def scene(stage: Stage) -> None:
        client = stage.join(None, "stock:a")
        await turns()
        new = [frame(n, "stock:a", kind="stock.changed", at=NOW + n * 30) for n in range(1, 31)]
        stage.log.frames += new
        stage.look()
        await asyncio.sleep(0.1)
        assert len(client.writes) == 2
        assert [seq for seq, _ in client.told] == [4, 8, 12, 16, 20, 24, 28, 30]

    on_stage(scene)


def test_a_stream_that_comes_while_something_is_held() -> None:
    """It has the past from the ring, whole, and of what is held only what came later."""

    async def scene(stage: Stage) -> None:
        stage.join(None, "stock:a")
        await turns()
        stage.sell("changed")
        await asyncio.sleep(0.01)
        stage.sell("changed", "changed")
        resumed = stage.join(Start.after(EPOCH, 0), "stock:a")
        fresh = stage.join(None, "stock:a")
        await asyncio.sleep(0.2)
        assert [seq for seq, _ in resumed.told] == [1, 2, 3]
        assert fresh.told == []
        stage.sell("changed")
        await asyncio.sleep(0.01)
        stage.sell("changed")
        again = stage.join(Start.after(EPOCH, 4), "stock:a")
        await turns()
        stage.sell("changed")
        await asyncio.sleep(0.2)
        assert [seq for seq, _ in resumed.told] == [1, 2, 3, 4, 6]
        assert [seq for seq, _ in fresh.told] == [4, 6]
        assert [seq for seq, _ in again.told] == [5, 6]

    on_stage(scene)


def test_a_busy_stream_reads_what_it_missed() -> None:
    """What was told while it wrote it reads later, from its cursor, whole."""

    async def scene(stage: Stage) -> None:
        client = stage.join(None, "stock:a")
        await turns()
        stage.sell("changed")
        await turns()
        client.open.clear()
        for _ in range(10):
            await asyncio.sleep(0.04)
            stage.sell("changed")
        client.open.set()
        await asyncio.sleep(0.2)
        seen = [seq for seq, _ in client.told]
        assert seen == sorted(set(seen))
        assert seen[-1] == 11

    on_stage(scene)


def test_a_goodbye_leaves_what_is_held_to_the_next_stream() -> None:
    """Its last id is before what was held, so nothing is missing where it goes on."""

    async def scene(stage: Stage) -> None:
        client = stage.join(None, "stock:a")
        await turns()
        stage.sell("changed")
        await asyncio.sleep(0.01)
        stage.sell("changed", "changed")
        assert stage.hub.end_where(lambda _: True, "lifetime", 1) == 1
        assert await client.ended() == "lifetime"
        await asyncio.sleep(0.2)
        ids = [block.get("id") for block in client.blocks]
        assert ids == [f"{EPOCH}-0", f"{EPOCH}-1", None]
        again = stage.join(Start.resume(f"{EPOCH}-1"), "stock:a")
        await turns()
        assert [seq for seq, _ in again.told] == [2, 3]

    on_stage(scene)


def test_no_bookmark_overtakes_what_is_held() -> None:
    """The cursor stays before an event that waits for its time."""

    async def scene(stage: Stage) -> None:
        client = stage.join(Start.now(), "stock:a")
        await turns()
        stage.sell("changed")
        await turns()
        stage.sell("changed", "changed")
        await stage.commit(5, "order:other")
        look_after(client, 20)
        await asyncio.sleep(0.2)
        assert [seq for seq, _ in client.told] == [1, 3]
        assert client.named("bookmark") == []
        await asyncio.sleep(40)
        assert [block["id"] for block in client.named("bookmark")] == [f"{EPOCH}-8"]

    on_stage(scene)


def test_what_is_held_does_not_outlive_its_epoch() -> None:
    """After the reset comes nothing of the log that is gone."""

    async def scene(stage: Stage) -> None:
        client = stage.join(None, "stock:a")
        await turns()
        stage.sell("changed")
        await asyncio.sleep(0.01)
        stage.sell("changed")
        stage.log.epoch, stage.log.frames = "e2", []
        stage.hub.look("e2", 0)
        await asyncio.sleep(0.3)
        stage.sell("changed")
        await asyncio.sleep(0.3)
        assert [block.get("id") for block in client.blocks] == [
            f"{EPOCH}-0",
            f"{EPOCH}-1",
            "e2-0",
            "e2-1",
        ]

    on_stage(scene)


# --- topics that change ---------------------------------------------------------------------


@dataclass
class Shelf:
    """What one stream follows: its own topic, and the stock of what was chosen so far."""

    chosen: set[str] = field(default_factory=set[str])
    asked: int = 0
    gate: Callable[[], Awaitable[object]] | None = None

    async def read(self) -> frozenset[str]:
        self.asked += 1
        found = frozenset({"mine", *(f"stock:{sku}" for sku in self.chosen)})
        if self.gate is not None:
            await self.gate()
        await asyncio.sleep(0)
        return found


def choose(stage: Stage, shelf: Shelf, sku: str, *, kept: bool = True) -> list[Frame]:
    """A change of what is chosen, committed but not yet seen by the hub."""
    (shelf.chosen.add if kept else shelf.chosen.discard)(sku)
    return stage.log.grow(1, "mine", kind="mine.changed")


def chooser(stage: Stage, shelf: Shelf, start: Start | None = None) -> Client:
    return stage.join(start, "mine", choose=shelf.read)


def seqs(client: Client) -> list[int]:
    return [seq for seq, _ in client.told]


def feed(stage: Stage, frames: list[Frame]) -> None:
    stage.hub.feed(stage.log.epoch, frames[0].seq, frames)


def test_topics_change_without_a_hole() -> None:
    """What follows the choice arrives, be it in the same turn; what is dropped stays away."""

    async def scene(stage: Stage) -> None:
        shelf = Shelf({"a"})
        client, other = chooser(stage, shelf), chooser(stage, Shelf({"z"}))
        await stage.commit(1, "stock:b")  # before it was chosen
        sold = stage.log.grow(1, "stock:a")
        feed(stage, [*sold, *choose(stage, shelf, "b"), *stage.log.grow(3, "stock:b")])
        await until(lambda: len(client.told) == 5)
        assert seqs(client) == [2, 3, 4, 5, 6]
        sold = stage.log.grow(1, "stock:a")
        feed(stage, [*sold, *choose(stage, shelf, "a", kept=False)])
        await until(lambda: len(client.told) == 7)
        await turns()
        await stage.commit(1, "stock:a")
        await stage.commit(1, "stock:b")
        assert seqs(client) == [2, 3, 4, 5, 6, 7, 8, 10]
        assert seqs(other) == [3, 8]

    on_stage(scene)


def test_a_change_while_the_topics_are_read_is_read_again() -> None:
    """The second of two choices comes while the first is looked up, and counts all the same."""

    async def scene(stage: Stage) -> None:
        door, shelf = asyncio.Event(), Shelf()
        client = chooser(stage, shelf)
        await until(lambda: shelf.asked == 1)
        await turns()
        shelf.gate = door.wait
        feed(stage, choose(stage, shelf, "a"))
        await until(lambda: shelf.asked == 2)
        feed(stage, [*choose(stage, shelf, "b"), *stage.log.grow(2, "stock:b")])
        shelf.gate = None
        door.set()
        await until(lambda: len(client.told) == 4)
        assert seqs(client) == [1, 2, 3, 4]

    on_stage(scene)


def test_a_replay_stops_where_the_hub_stands() -> None:
    """The log is ahead of the hub: a choice in it is met before what follows it is passed by."""

    async def scene(stage: Stage) -> None:
        shelf = Shelf()
        early = stage.log.grow(1, "mine")
        feed(stage, early)
        late = [*choose(stage, shelf, "a"), *stage.log.grow(5, "stock:a")]
        shelf.chosen.clear()  # as it was when the stream began
        client = chooser(stage, shelf, Start.after(EPOCH, 0))
        await until(lambda: seqs(client) == [1])
        shelf.chosen.add("a")
        feed(stage, late)
        await until(lambda: len(client.told) == 7)
        assert seqs(client) == [1, 2, 3, 4, 5, 6, 7]

    # Nothing is in the ring: the stream reads the log.
    on_stage(scene, limits=Limits(ring_bytes=0, gap=3600))


def test_a_replay_by_old_topics_is_read_again() -> None:
    """The choice comes while the log is read: what was read leaves out what it added."""

    async def scene(stage: Stage) -> None:
        door, shelf = asyncio.Event(), Shelf()
        feed(stage, stage.log.grow(1, "mine"))
        stage.log.gate = door.wait
        client = chooser(stage, shelf, Start.after(EPOCH, 0))
        await until(lambda: stage.log.asked != [])
        feed(stage, [*choose(stage, shelf, "a"), *stage.log.grow(5, "stock:a")])
        door.set()
        await until(lambda: 7 in seqs(client))
        assert seqs(client) == [1, 2, 3, 4, 5, 6, 7]

    on_stage(scene, limits=Limits(ring_bytes=0, gap=3600))


def test_after_a_reset_the_topics_are_read_anew() -> None:
    """In the hole that a reset tells of there may have been a choice."""

    async def scene(stage: Stage) -> None:
        shelf = Shelf()
        client = chooser(stage, shelf)
        await until(lambda: shelf.asked == 1)
        await turns()
        shelf.chosen.add("a")
        stage.log.epoch = "another"
        stage.look()
        await until(lambda: client.named("reset") != [])
        await until(lambda: shelf.asked == 2)
        await turns()
        await stage.commit(1, "stock:a")
        assert seqs(client) == [1]

    on_stage(scene)


# --- bounds ---------------------------------------------------------------------------------


def test_the_ring_is_bounded_in_bytes_and_honest_about_its_floor() -> None:
    """The ring forgets the oldest; whoever needs them reads the log and still gets all."""

    async def scene(stage: Stage) -> None:
        for _ in range(50):
            await stage.commit(20, size=400)
            assert stage.hub.stats.ring_bytes <= 100_000
        assert stage.hub.stats.ring_bytes > 80_000
        client = stage.join(Start.after(EPOCH, 990))
        await turns()
        assert client.events == list(range(991, 1_001))
        assert stage.log.asked == []
        client = stage.join(Start.after(EPOCH, 0))
        await until(lambda: client.events == list(range(1, 1_001)))
        assert len(stage.log.asked) == 1

    on_stage(scene, limits=Limits(ring_bytes=100_000))


def test_the_ring_knows_exactly_how_far_it_reaches_back() -> None:
    """From whatever number a stream resumes, ring and log together have no seam."""

    async def scene(stage: Stage) -> None:
        for _ in range(60):
            await stage.commit(1)
        clients = [stage.join(Start.after(EPOCH, n)) for n in range(60)]
        await until(lambda: all(60 in client.events for client in clients))
        for n, client in enumerate(clients):
            assert client.events == list(range(n + 1, 61))
        assert 30 < len(stage.log.asked) < 55

    on_stage(scene, limits=Limits(ring_bytes=10_000))


def test_a_frame_larger_than_the_ring_still_arrives() -> None:
    """The bound holds for what is kept, not for what is told."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await turns()
        await stage.commit(2, size=5_000)
        assert client.events == [1, 2]
        assert stage.hub.stats.ring_bytes == 0

    on_stage(scene, limits=Limits(ring_bytes=1_000))


def test_a_slow_reader_holds_a_cursor_and_misses_nothing() -> None:
    """While a write hangs nothing is piled up; afterwards the stream reads on."""

    async def scene(stage: Stage) -> None:
        slow, quick = Client(), Client()
        stage.join(client=slow)
        stage.join(client=quick)
        await stage.commit(1)
        slow.open.clear()
        for _ in range(30):
            await stage.commit(10)
        assert len(slow.writes) == 3
        assert quick.events == list(range(1, 302))
        slow.open.set()
        await until(lambda: slow.events == quick.events)
        await stage.commit(1)
        assert slow.events == list(range(1, 303))

    on_stage(scene)


def test_a_slow_reader_that_outlives_the_ring_reads_the_log() -> None:
    """Slower than the ring is long: the log fills in."""

    async def scene(stage: Stage) -> None:
        slow = Client()
        stage.join(client=slow)
        await stage.commit(1)
        slow.open.clear()
        await stage.commit(1)
        for _ in range(20):
            await stage.commit(10, size=200)
        slow.open.set()
        await until(lambda: slow.events == list(range(1, 203)))
        assert stage.log.asked

    on_stage(scene, limits=Limits(ring_bytes=20_000))


def test_a_reader_that_is_stuck_is_dropped() -> None:
    """Twenty seconds without an end of a write finish the stream, and only that one."""

    async def scene(stage: Stage) -> None:
        stuck, quick = Client(), Client()
        stage.join(client=stuck)
        stage.join(client=quick)
        await stage.commit(1)
        stuck.open.clear()
        await stage.commit(1)
        began = asyncio.get_running_loop().time()
        assert await stuck.ended() == "slow"
        assert 19 <= asyncio.get_running_loop().time() - began <= 21
        assert stage.hub.stats.slow == 1
        await stage.commit(1)
        assert quick.events == [1, 2, 3]

    on_stage(scene)


def test_a_long_replay_leaves_turns_to_others() -> None:
    """A reader as fast as memory does not hold the loop."""

    async def scene(stage: Stage) -> None:
        await stage.commit(40, size=60_000)
        client = stage.join(Start.after(EPOCH, 0))
        await turns(5)
        assert 0 < len(client.events) < 10
        await until(lambda: client.events == list(range(1, 41)))

    on_stage(scene)


def test_a_stuck_goodbye_has_an_end_too() -> None:
    """A drain does not wait for a reader that does not read."""

    async def scene(stage: Stage) -> None:
        stuck = stage.join()
        await turns()
        stuck.open.clear()
        stage.hub.end_all("shutdown")
        assert await stuck.ended() == "slow"

    on_stage(scene)


def test_a_client_that_hangs_up_is_forgotten_at_once() -> None:
    """Waiting, writing or stuck: the stream is gone, is told so once, and is no slow one."""

    async def scene(stage: Stage) -> None:
        waiting, stuck, reading = stage.join(), stage.join(), Client()
        await turns()
        stuck.open.clear()
        await stage.commit(1)
        stage.join(Start.after(EPOCH, 0), client=reading)
        for client in (waiting, stuck, reading):
            client.hang_up()
            stage.hub.feed(EPOCH, stage.hub.head + 1, stage.log.grow(1))
            assert await client.ended() == "gone"
            client.hang_up()
        assert stage.hub.stats.streams == 0
        assert stage.hub.stats.slow == 0

    on_stage(scene)


def test_what_falls_ends_its_stream_alone() -> None:
    """An error in one stream's work is told, cuts its line, and is nobody else's."""

    async def scene(stage: Stage) -> None:
        class Broken(Client):
            def write(self, data: bytes) -> bool:
                raise OSError("gone")

        broken, other = stage.join(client=Broken()), stage.join()
        assert await broken.ended() == "broken"
        assert broken.is_cut
        assert stage.hub.stats.log_errors == 1
        await stage.commit(1)
        assert other.events == [1]

    on_stage(scene)


def test_a_stream_that_never_begins_is_forgotten() -> None:
    """A request that ends between the door and the first byte leaves nothing behind."""

    async def scene(stage: Stage) -> None:
        ends: list[str] = []
        one = stage.hub.subscribe(["queue:a"], Start.now(), gone=ends.append)
        assert stage.hub.stats.streams == 1
        await asyncio.sleep(20)
        assert stage.hub.stats.streams == 0
        client = Client()
        one.begin(client)
        assert client.is_cut
        assert ends == ["gone"]

    on_stage(scene)


def test_a_reader_as_slow_as_it_likes_may_stay() -> None:
    """Progress counts, not speed; a line on which nothing moves for 20 s is cut."""

    async def scene(stage: Stage) -> None:
        slow = stage.join()
        await turns()
        slow.open.clear()
        await stage.commit(1, size=1_000)
        for _ in range(60):
            await asyncio.sleep(2)
            slow.left -= 10
        assert slow.task is not None
        assert not slow.task.done()
        began = asyncio.get_running_loop().time()
        assert await slow.ended() == "slow"
        assert 18 <= asyncio.get_running_loop().time() - began <= 26
        assert slow.is_cut

    on_stage(scene)


def test_the_hub_knows_how_each_stream_is_doing() -> None:
    """State, cursor, lag, what has not been read and what was given, at every step."""

    async def scene(stage: Stage) -> None:
        client = stage.join(owner="o")

        def facts() -> tuple[Any, ...]:
            (one,) = stage.hub.streams(["queue:a"])
            found = one.facts()
            assert (found.owner, found.topics) == ("o", {"queue:a"})
            return (found.state, found.cursor, found.lag, found.unsent > 0, found.delivered)

        assert facts() == ("opening", None, 0, False, 0)
        await stage.commit(2)
        assert facts() == ("live", 2, 0, False, 2)
        await stage.commit(3, "queue:b")
        assert facts() == ("live", 2, 0, False, 2), "nothing of its topics waits"
        client.open.clear()
        await stage.commit(1)
        assert facts() == ("full", 6, 0, True, 3)
        await stage.commit(4)
        assert facts() == ("full", 6, 4, True, 3)
        client.open.set()
        await turns(1)
        assert facts()[0] in ("replaying", "live")
        await until(lambda: facts() == ("live", 10, 0, False, 7))
        assert stage.hub.streams(["queue:b"]) == []
        assert len(stage.hub.streams(["queue:b", "queue:a"])) == len(stage.hub.streams()) == 1

    on_stage(scene)


def test_one_stream_is_ended_by_its_number() -> None:
    """With a goodbye and a time to come back; one that does not read is cut off at once."""

    async def scene(stage: Stage) -> None:
        calm, stuck, other = stage.join(), stage.join(), stage.join()
        await stage.commit(1)
        stuck.open.clear()
        await stage.commit(1)
        numbers = sorted(one.number for one in stage.hub.streams())
        assert stage.hub.end_number(numbers[0], "lifetime")
        assert await calm.ended() == "lifetime"
        assert calm.data("goodbye")[0]["reconnect_ms"] > 0
        assert stage.hub.end_number(numbers[1], "lifetime")
        assert await stuck.ended() == "lifetime"
        assert stuck.is_cut
        assert not stage.hub.end_number(numbers[0], "lifetime")
        assert [one.number for one in stage.hub.streams()] == numbers[2:]
        assert not other.is_whole

    on_stage(scene)


def test_a_stuck_reader_keeps_a_cursor_and_no_events() -> None:
    """What was read for it from the log is given up, and read again when it reads."""

    class Rows(list[Frame]):
        """A list that can be watched."""

    async def scene(stage: Stage) -> None:
        kept: list[weakref.ref[Rows]] = []

        async def read(after: int, topics: frozenset[str] | None) -> Window:
            found = await stage.log.read(after, topics)
            rows = Rows(found.frames)
            kept.append(weakref.ref(rows))
            return replace(found, frames=rows)

        hub = Hub(read, limits=Limits(page_bytes=1_000))
        hub.start(EPOCH, 100, 0)
        client = Client()
        Stage(hub, stage.log).join(Start.after(EPOCH, 0), client=client)
        client.open.clear()
        await turns(30)
        client.open.set()
        client.open.clear()
        await turns(30)
        assert client.events
        assert client.is_full
        assert [rows() for rows in kept] == [None] * len(kept)
        while len(client.events) < 100:
            client.open.set()
            client.open.clear()
            await turns(30)
        assert client.events == list(range(1, 101))
        client.open.set()
        client.hang_up()
        await hub.stop()

    on_stage(scene, Log(frames=[frame(seq, size=100) for seq in range(1, 101)]))


def test_readers_of_snapshots_cannot_use_up_the_memory() -> None:
    """Who does not read keeps a snapshot for a while; new ones wait until there is room."""

    async def scene(stage: Stage) -> None:
        async def snapshot() -> Snapshot:
            return Snapshot(EPOCH, 0, [control("snapshot", {"x": "y" * 1_000})] * 3)

        deaf = [Client() for _ in range(3)]
        for client in deaf:
            stage.join(Start.snapshot(), client=client, snapshot=snapshot)
            client.open.clear()
            await turns()
            client.open.set()
            client.open.clear()
            await turns()
        late = stage.join(Start.snapshot(), snapshot=snapshot)
        assert await late.ended() == "overloaded"
        assert {await client.ended() for client in deaf} == {"slow"}
        again = stage.join(Start.snapshot(), snapshot=snapshot)
        await turns()
        assert len(again.named("snapshot")) == 3
        assert stage.hub.unsent == 0

    on_stage(scene, limits=Limits(unsent_bytes=8_000))


def test_a_large_audience_leaves_turns_to_others() -> None:
    """Nobody waits for the last of ten thousand writes, and each stream gets each event once."""

    async def scene(stage: Stage) -> None:
        clients = [stage.join() for _ in range(1_600)]
        await turns(20)
        assert all(client.writes for client in clients)
        stage.hub.feed(EPOCH, 1, stage.log.grow(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        told = sum(bool(client.events) for client in clients)
        assert 0 < told < 1_600
        stage.hub.feed(EPOCH, 2, stage.log.grow(1))
        late = stage.join(Start.after(EPOCH, 0))
        for client in clients[::2]:
            client.open.clear()
        await asyncio.sleep(0.05)
        for client in clients[::2]:
            client.open.set()
        await asyncio.sleep(0.05)
        assert all(client.events == [1, 2] for client in [*clients, late])

    on_stage(scene)


# --- only the newest of each ----------------------------------------------------------------


def test_who_lags_may_have_the_newest_alone() -> None:
    """With coalesce a reader that lags gets the last state of each order, in order; others all."""

    async def scene(stage: Stage) -> None:
        brief, whole = stage.join(coalesce=True), stage.join()
        await turns()
        brief.open.clear()
        for kind in ("order.created", "queue.paused", "order.created", "order.completed"):
            for order in ("order:1", "order:2"):
                new = stage.log.grow(1, order, "queue:a", kind=kind)
                stage.hub.feed(EPOCH, new[0].seq, new)
                await asyncio.sleep(0.01)
        brief.open.set()
        await asyncio.sleep(0.1)
        assert [seq for seq, _ in whole.told] == list(range(1, 9))
        assert [seq for seq, _ in brief.told] == [1, 3, 4, 7, 8]
        again = stage.join(Start.after(EPOCH, 0), coalesce=True)
        await asyncio.sleep(0.1)
        assert [seq for seq, _ in again.told] == [3, 4, 7, 8]

    on_stage(scene)


@given(
    orders=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    ring=st.booleans(),
    size=st.sampled_from([1, 900]),
)
@settings(max_examples=60, deadline=None)
def test_the_newest_state_is_never_left_out(orders: list[int], ring: bool, size: int) -> None:
    """Whatever the pages, from the ring or the log: ids rise, and each subject's last is there."""

    async def scene(stage: Stage) -> None:
        for order in orders:
            new = stage.log.grow(1, f"order:{order}", "queue:a", size=size)
            if ring:
                stage.hub.feed(EPOCH, new[0].seq, new)
        if not ring:
            stage.look()
        await until(lambda: stage.hub.head == len(orders))
        client = stage.join(Start.after(EPOCH, 0), coalesce=True)
        await asyncio.sleep(1)
        last = {order: seq for seq, order in enumerate(orders, 1)}
        assert client.events == sorted(set(client.events))
        assert set(last.values()) <= set(client.events)

    limits = Limits(page_bytes=1_000, ring_bytes=32 << 20 if ring else 1)
    on_stage(scene, limits=limits)


# --- time -----------------------------------------------------------------------------------


def test_heartbeat_after_fifteen_seconds_of_silence() -> None:
    """Two bytes, every fifteen seconds, and never an event."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        await asyncio.sleep(14.9)
        assert len(client.writes) == 1
        await asyncio.sleep(0.8)
        assert client.writes[1:] == [b":\n"]
        await asyncio.sleep(15.5)
        assert client.writes[1:] == [b":\n", b":\n"]
        assert [block["event"] for block in client.blocks] == ["hello"]

    on_stage(scene)


def test_traffic_is_a_heartbeat() -> None:
    """Silence counts from the last byte."""

    async def scene(stage: Stage) -> None:
        client = stage.join()
        for _ in range(10):
            await asyncio.sleep(10)
            await stage.commit(1)
        assert b":\n" not in client.writes

    on_stage(scene)


def test_a_quiet_stream_gets_bookmarks() -> None:
    """Where only others' events pass, the cursor follows the log in place of a heartbeat."""

    async def scene(stage: Stage) -> None:
        client = stage.join(Start.now(), "order:quiet")
        await asyncio.sleep(1)
        await stage.commit(7, "order:other")
        await asyncio.sleep(15)
        assert client.named("bookmark") == [
            {"id": f"{EPOCH}-7", "event": "bookmark", "data": '{"head":"k3f9a2c1-7"}'}
        ]
        await asyncio.sleep(15.5)
        assert client.writes[-1] == b":\n"
        assert len(client.named("bookmark")) == 1

    on_stage(scene)


def test_a_resumed_quiet_stream_gets_its_bookmark_too() -> None:
    """A client that came back with an old cursor is moved on, though nothing new happens."""

    async def scene(stage: Stage) -> None:
        await stage.commit(7, "order:other")
        client = stage.join(Start.after(EPOCH, 2), "order:quiet")
        await asyncio.sleep(16)
        assert [block["id"] for block in client.named("bookmark")] == [f"{EPOCH}-7"]

    on_stage(scene)


def test_no_bookmark_overtakes_an_event() -> None:
    """Between an event and its tick the cursor stays where it is."""

    async def scene(stage: Stage) -> None:
        client = stage.join(Start.now(), "queue:a")
        await asyncio.sleep(14.9)
        await stage.commit(1, "order:other")
        stage.hub.send("queue:nobody", b"")
        await asyncio.sleep(0.09)
        stage.join(Start.now(), "order:other")
        await turns()
        stage.hub.feed(EPOCH, 2, stage.log.grow(1, "order:other"))
        await turns()
        stage.hub.feed(EPOCH, 3, stage.log.grow(1))
        look_after(client, 1)
        await asyncio.sleep(0.01)
        assert client.named("bookmark") == []
        assert client.events == [3]

    on_stage(scene)


def test_control_frames_do_not_keep_bookmarks_away() -> None:
    """A stream that is never silent but gets no ids still moves its cursor."""

    async def scene(stage: Stage) -> None:
        client = stage.join(Start.now(), "queues")
        await stage.commit(7, "order:other")
        for _ in range(40):
            stage.hub.send("queues", control("counts", {}))
            await asyncio.sleep(1)
        assert [block["id"] for block in client.named("bookmark")] == [f"{EPOCH}-7"]
        assert b":\n" not in client.writes

    on_stage(scene)


def test_the_stream_ends_with_its_credential() -> None:
    """goodbye expired has no time to come again: another credential is wanted first."""

    async def scene(stage: Stage) -> None:
        began = asyncio.get_running_loop().time()
        client = stage.join(expires_at=NOW + 40_000)
        assert await client.ended() == "expired"
        assert 40 <= asyncio.get_running_loop().time() - began <= 40.6
        assert client.data("goodbye") == [{"reason": "expired", "reconnect_ms": None}]
        assert "retry" not in client.named("goodbye")[0]

    on_stage(scene)


def test_a_line_that_was_full_ends_in_time_too() -> None:
    """A stream whose line had no room for a moment still ends with its credential."""

    async def scene(stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        began, client = loop.time(), Client()
        client.open.clear()
        stage.join(client=client, expires_at=NOW + 2_000)
        await turns()
        assert client.is_full
        client.open.set()
        assert await client.ended() == "expired"
        assert 2 <= loop.time() - began <= 2.6

    on_stage(scene)


def test_a_line_that_fills_at_the_end_ends_in_time_too() -> None:
    """So does one that fills between its end and the timer that looks for it."""

    async def scene(stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        began, client = loop.time(), Client()
        stage.join(client=client, expires_at=NOW + 2_000)
        await asyncio.sleep(2.1)
        client.open.clear()
        stage.hub.send("queue:a", control("counts", {}))
        await asyncio.sleep(0.01)
        assert client.is_full
        client.open.set()
        assert await client.ended() == "expired"
        assert 2 <= loop.time() - began <= 2.6

    on_stage(scene)


def test_a_line_that_fills_again_and_again_ends_in_time_too() -> None:
    """Even one that fills whenever the timer is due and late, as it is on a busy loop."""

    async def scene(stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        began, client = loop.time(), Client()
        loop.moment += 0.1
        stage.join(client=client, expires_at=NOW + 2_000)
        await turns()
        for _ in range(200):
            client.open.clear()
            stage.hub.send("queue:a", control("counts", {}))
            await asyncio.sleep(0.015)
            client.open.set()
            await asyncio.sleep(0.005)
        assert await client.ended() == "expired"
        assert 2 <= client.times[-1] - began <= 2.6

    on_stage(scene)


def test_a_full_line_at_its_end_is_looked_at_now_and_then() -> None:
    """A stuck reader whose credential has ended costs a look every few seconds, until it goes."""

    async def scene(stage: Stage) -> None:
        client = Client()
        stage.join(client=client, expires_at=NOW + 2_000)
        await asyncio.sleep(2.1)
        client.open.clear()
        stage.hub.send("queue:a", control("counts", {}))
        await asyncio.sleep(0.01)
        looks, unread = 0, client.unread

        def counted() -> int:
            nonlocal looks
            looks += 1
            return unread()

        client.unread = counted
        assert await client.ended() == "slow"
        assert 4 <= looks <= 6

    on_stage(scene)


def test_the_stream_ends_after_its_lifetime() -> None:
    """Streams end after ten to fifteen minutes, spread out, so that load can move."""

    async def scene(stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        clients = [stage.join() for _ in range(30)]
        ends: list[float] = []
        for client in clients:
            assert client.task is not None
            client.task.add_done_callback(lambda _: ends.append(loop.time() - began))
        assert {await client.ended() for client in clients} == {"lifetime"}
        assert min(ends) >= 600
        assert max(ends) <= 900.6
        assert max(ends) - min(ends) > 60
        assert all(client.data("goodbye")[0]["reconnect_ms"] for client in clients)

    on_stage(scene)


def test_a_drain_says_goodbye_to_all_and_to_who_comes_late() -> None:
    """Each stream is told when to come again, not all at the same moment."""

    async def scene(stage: Stage) -> None:
        clients = [stage.join() for _ in range(50)]
        await turns()
        stage.hub.end_all("shutdown")
        clients.append(stage.join())
        assert {await client.ended() for client in clients} == {"shutdown"}
        pauses = [client.data("goodbye")[0]["reconnect_ms"] for client in clients]
        assert len(set(pauses)) > 30
        assert 500 <= min(pauses) <= max(pauses) <= 5_000
        assert [block["event"] for block in clients[-1].blocks] == ["goodbye"]

    on_stage(scene)


def test_revoked_streams_end_and_the_others_stay() -> None:
    """A logout ends the streams of its owner, at once, and no others."""

    async def scene(stage: Stage) -> None:
        mine, other = stage.join(owner="me"), stage.join(owner="you")
        await turns()
        assert stage.hub.end_where(lambda owner: owner == "me", "revoked") == 1
        assert await mine.ended() == "revoked"
        assert mine.data("goodbye") == [{"reason": "revoked", "reconnect_ms": None}]
        await stage.commit(1)
        assert (mine.events, other.events) == ([], [1])

    on_stage(scene)


@pytest.mark.parametrize("what", ["events", "snapshot", "greeting"])
def test_what_is_read_when_a_stream_has_ended_is_not_shown(what: str) -> None:
    """Revoked while something is read for it: it gets its goodbye and nothing else."""

    async def scene(stage: Stage) -> None:
        answer = asyncio.Event()

        async def snapshot() -> Snapshot:
            await answer.wait()
            return shot(stage.log.head)

        async def greeting() -> list[bytes]:
            await answer.wait()
            return [control("counts", {})]

        stage.log.gate = answer.wait
        if what == "events":
            client = stage.join(Start.after(EPOCH, 0))
        elif what == "snapshot":
            client = stage.join(Start.snapshot(), snapshot=snapshot)
        else:
            client = stage.join(greeting=greeting)
        await turns()
        stage.hub.end_where(lambda _: True, "revoked")
        answer.set()
        assert await client.ended() == "revoked"
        assert [block["event"] for block in client.blocks] == ["hello", "goodbye"]
        assert stage.hub.stats.delivered == 0

    on_stage(scene, grown(3))


# --- workers that wait ----------------------------------------------------------------------


def test_as_many_waiters_wake_as_there_are_messages() -> None:
    """First come, first served; the others sleep on."""

    async def scene(stage: Stage) -> None:
        woken: list[int] = []

        async def worker(n: int) -> None:
            with stage.hub.waiting("a") as waiter:
                if await waiter.wait(20):
                    woken.append(n)

        tasks = [asyncio.create_task(worker(n)) for n in range(5)]
        await turns()
        new = [frame(1, wakes="a"), frame(2, wakes="b"), frame(3), frame(4, wakes="a")]
        stage.log.frames += new
        stage.hub.feed(EPOCH, 1, new)
        await turns()
        assert woken == [0, 1]
        await asyncio.gather(*tasks)
        assert woken == [0, 1]

    on_stage(scene)


def test_a_message_between_register_and_wait_is_not_missed() -> None:
    """The waiter registers before it claims, so nothing falls in between."""

    async def scene(stage: Stage) -> None:
        with stage.hub.waiting("a") as waiter:
            stage.hub.feed(EPOCH, 1, [frame(1, wakes="a")])
            assert await waiter.wait(1)
            assert not await waiter.wait(1)
            stage.hub.feed(EPOCH, 2, [frame(2, wakes="a")])
            assert await waiter.wait(1)

    on_stage(scene)


def test_a_wake_that_was_not_used_goes_to_the_next() -> None:
    """A worker that leaves with its claim, or hangs up, does not swallow a message."""

    async def scene(stage: Stage) -> None:
        with stage.hub.waiting("a") as second:
            pass
        with stage.hub.waiting("a") as first, stage.hub.waiting("a") as second:
            stage.hub.feed(EPOCH, 1, [frame(1, wakes="a")])
            assert first.is_woken
            assert not second.is_woken
        with stage.hub.waiting("a"):
            with stage.hub.waiting("a") as second:
                pass
            stage.hub.feed(EPOCH, 2, [frame(2, wakes="a")])
        line = [stage.hub.waiting("a"), stage.hub.waiting("a")]
        ahead, behind = (place.__enter__() for place in line)
        stage.hub.feed(EPOCH, 3, [frame(3, wakes="a")])
        line[0].__exit__(None, None, None)
        assert ahead.is_woken
        assert await behind.wait(1)
        line[1].__exit__(None, None, None)

    on_stage(scene)


# --- the property ---------------------------------------------------------------------------

TOPICS = ("queue:a", "order:1", "customer:c")
some_topics = st.sets(st.sampled_from(TOPICS), min_size=1).map(sorted)
steps = st.one_of(
    st.tuples(st.just("write"), st.lists(some_topics, min_size=1, max_size=6)),
    st.tuples(st.just("feed"), st.integers(0, 8), st.integers(1, 8)),
    st.tuples(st.just("look")),
    st.tuples(st.just("join"), some_topics, st.floats(0, 1)),
    st.tuples(st.just("block"), st.integers(0, 9)),
    st.tuples(st.just("unblock"), st.integers(0, 9)),
    st.tuples(st.just("pause"), st.integers(0, 12)),
    st.tuples(st.just("sleep"), st.sampled_from([0.001, 0.005, 0.02, 16.0])),
    st.tuples(st.just("restore")),
)


@dataclass
class Follower:
    """A stream and what it has to have seen when all is quiet."""

    client: Client
    topics: frozenset[str]
    after: int
    joined: float
    was_blocked: bool = False


class Play:
    """A log, a hub fed with whatever part of it, and streams that come and stall."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.followers: list[Follower] = []
        self.epochs: dict[str, list[Frame]] = {}
        self.fed: dict[tuple[str, int], float] = {}  # when the hub took what was sold

    async def step(self, step: tuple[Any, ...]) -> None:
        await getattr(self, step[0])(*step[1:])

    async def write(self, batch: list[list[str]]) -> None:
        for topics in batch:
            self.stage.log.grow(1, *topics)

    async def feed(self, back: int, count: int) -> None:
        """A slice near the end of the log: early, late, doubled or never."""
        log = self.stage.log
        first = max(0, len(log.frames) - back)
        self.stage.hub.feed(log.epoch, first + 1, log.frames[first : first + count])

    async def sell(self, events: list[tuple[str, str, str]]) -> None:
        """What is committed comes by at once, with what was missing before it."""
        log, hub = self.stage.log, self.stage.hub
        await self.keep(events)
        if hub.epoch == log.epoch:
            fresh = log.frames[hub.head :]
            hub.feed(log.epoch, fresh[0].seq, fresh)
            self.fed |= {(log.epoch, f.seq): hub.now() for f in fresh}
        else:
            self.stage.look()

    async def keep(self, events: list[tuple[str, str, str]]) -> None:
        """The hub hears of it only later."""
        for kind, *topics in events:
            self.stage.log.grow(1, *topics, kind=kind, at=self.stage.wall())

    async def look(self) -> None:
        self.stage.look()

    async def join(self, topics: list[str], share: float) -> None:
        after = int(self.stage.log.head * share)
        client = self.stage.join(Start.after(self.stage.log.epoch, after), *topics)
        joined = self.stage.hub.now()
        self.followers.append(Follower(client, frozenset(topics), after, joined))

    async def note(self, topic: str) -> None:
        self.stage.hub.send(topic, control("counts", {}))

    async def block(self, n: int) -> None:
        for follower in self.followers[n : n + 1]:
            follower.client.open.clear()
            follower.was_blocked = True

    async def unblock(self, n: int) -> None:
        for follower in self.followers[n : n + 1]:
            follower.client.open.set()

    async def pause(self, n: int) -> None:
        await turns(n)

    async def sleep(self, seconds: float) -> None:
        if seconds > 1:  # a stuck reader would be dropped, and rightly
            for follower in self.followers:
                follower.client.open.set()
        await asyncio.sleep(seconds)

    async def restore(self) -> None:
        """The log begins anew; from then on cursors of before are worth nothing."""
        log = self.stage.log
        self.epochs[log.epoch] = list(log.frames)
        log.epoch, log.frames = f"e{len(self.epochs)}", []

    async def finish(self) -> None:
        log, hub = self.stage.log, self.stage.hub
        for follower in self.followers:
            follower.client.open.set()
        self.stage.look()
        await until(lambda: (hub.epoch, hub.head) == (log.epoch, log.head))
        await asyncio.sleep(16)
        for follower in self.followers:
            assert follower.client.task is not None
            assert not follower.client.task.done()
            self.check(follower)

    def check(self, follower: Follower) -> None:
        """Exactly once, in order; no cursor ever stands beyond what was not given.

        Left out is only what a newer one replaces, in the same write.
        """
        assert all(follower.client.writes), "a write of nothing"
        position: tuple[str, int] | None = None
        for moment, write in zip(follower.client.times, follower.client.writes, strict=True):
            blocks = [block for block in parsed(write.decode()) if "id" in block]
            for place, block in enumerate(blocks):
                found = parse_id(block["id"])
                assert found is not None
                if block["event"] in ("hello", "reset"):
                    position = found
                    continue
                assert position is not None
                assert found[0] == position[0], "an epoch changed without a reset"
                passed = self.between(follower, position, found)
                if "." in block["event"]:
                    assert [f.seq for f in passed[-1:]] == [found[1]]
                    self.check_time(follower, position[0], passed, moment)
                    self.check_replaced(passed[:-1], blocks[place:])
                else:
                    assert passed == []
                position = found
        assert position is not None
        assert position[0] == self.stage.log.epoch
        assert self.between(follower, position, (position[0], self.stage.log.head)) == []

    def check_replaced(self, missing: list[Frame], rest: list[dict[str, str]]) -> None:
        """By one that was committed within 100 ms; `rest` is what follows in the same write."""
        log = self.stage.log
        for left_out in missing:
            assert left_out.kind == "stock.changed"
            epoch, _ = parse_id(rest[0]["id"]) or ("", 0)
            frames = log.frames if epoch == log.epoch else self.epochs[epoch]
            newer = [frames[number(b) - 1] for b in rest if b["event"] == "stock.changed"]
            newer = [f for f in newer if f.topics == left_out.topics]
            assert newer
            assert newer[0].at <= left_out.at + 100

    def check_time(
        self, follower: Follower, epoch: str, passed: list[Frame], moment: float
    ) -> None:
        """Given or replaced within 100 ms; what nothing can replace, within a tick."""
        for one in passed if not follower.was_blocked else ():
            if (fed := self.fed.get((epoch, one.seq))) is not None:
                patience = 0.1 if one.kind == "stock.changed" else 0.005
                assert moment <= max(fed, follower.joined) + patience + 1e-6

    def between(
        self, follower: Follower, after: tuple[str, int], upto: tuple[str, int]
    ) -> list[Frame]:
        log = self.stage.log
        frames = log.frames if after[0] == log.epoch else self.epochs[after[0]]
        assert upto[1] >= after[1], "a cursor went back"
        return [
            f
            for f in frames
            if after[1] < f.seq <= upto[1] and not follower.topics.isdisjoint(f.topics)
        ]


@settings(max_examples=400, deadline=None)
@given(
    plan=st.lists(steps, max_size=90),
    ring=st.sampled_from([700, 3_000, 8_000, 1 << 20]),
    window=st.integers(1, 6),
    tick_bytes=st.sampled_from([150, 1 << 18]),
)
def test_every_stream_gets_each_of_its_events_once_in_order(
    plan: list[tuple[Any, ...]], ring: int, window: int, tick_bytes: int
) -> None:
    """Whatever is late, doubled or lost on the way, and whoever stalls: no hole, no double."""

    async def scene(stage: Stage) -> None:
        acts = Play(stage)
        for step in plan:
            await acts.step(step)
        await acts.finish()

    limits = Limits(ring_bytes=ring, tick_bytes=tick_bytes, page_bytes=200, lifetime=(1e6, 1e6))
    on_stage(scene, Log(window=window), limits)


SOLD = (
    ("stock.changed", "stock:a", "stock"),
    ("stock.changed", "stock:b", "stock"),
    ("stock.low", "stock:a", "stock"),
    ("order.created", "order:1", "queue:a"),
)


def sold(verb: str) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(verb), st.lists(st.sampled_from(SOLD), min_size=1, max_size=4))


shoppers = st.sampled_from([["stock:a"], ["order:1", "stock"]])
sale_steps = st.one_of(
    *(sold("sell") for _ in range(6)),
    sold("keep"),
    *(st.tuples(st.just("sleep"), st.just(pause)) for pause in (0.001, 0.005, 0.02, 0.095, 16.0)),
    *(st.tuples(st.just("join"), shoppers, st.just(share)) for share in (0.0, 0.5, 1.0)),
    st.tuples(st.just("note"), st.sampled_from(["stock:a", "order:1"])),
    st.tuples(st.just("block"), st.integers(0, 9)),
    st.tuples(st.just("unblock"), st.integers(0, 9)),
    st.tuples(st.just("look")),
    st.tuples(st.just("restore")),
)


@settings(max_examples=100, deadline=None)
@given(
    plan=st.lists(sale_steps, min_size=20, max_size=60),  # without a least size they are short
    ring=st.sampled_from([3_000, 1 << 20]),
    tick_bytes=st.sampled_from([150, 1 << 18]),
)
def test_only_what_a_newer_one_replaces_is_ever_left_out(
    plan: list[tuple[Any, ...]], ring: int, tick_bytes: int
) -> None:
    """Every event in order, but for changes of stock whose newest follows in the same write;
    nothing is held longer than 100 ms, and what is not of that kind not at all.
    """

    async def scene(stage: Stage) -> None:
        acts = Play(stage)
        await acts.join(["stock:a"], 1)
        for step in plan:
            await acts.step(step)
        await acts.finish()

    limits = Limits(ring_bytes=ring, tick_bytes=tick_bytes, page_bytes=200, lifetime=(1e6, 1e6))
    on_stage(scene, limits=limits)

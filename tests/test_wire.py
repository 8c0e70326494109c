"""Redis that lies: whatever it does, nothing is missed, nobody waits, and it is mended soon."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from itertools import accumulate, count, cycle
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest

import buckets
import events
from auth import Signer
from buckets import Buckets
from events import Echo, Outbox, Payload, Wire
from hub import Frame
from tests import wires
from tests.house import SECRET_KEY
from tests.live import PUBLIC_URL, head
from tests.relay import Relay
from tests.services import Postgres, RedisServer, until
from tests.wires import BATCH, LIES, MENDED, PATIENCE, SMALL, Watch, Wires, watched

ANSWERED = 1.0  # seconds; far more than a post takes, and less than it takes to give Redis up
STALL = 10.0  # seconds that a busy machine may add to one thing, be it another's fault
KEY = Signer(SECRET_KEY.encode(), PUBLIC_URL).wire_key
NAME = b"\0" * 8
ERRORS = [
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-READONLY You can't write against a read only replica.\r\n",
    b"-MISCONF Errors writing to the AOF file\r\n",
    b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    b"-NOAUTH Authentication required.\r\n",
    b"-ERR max number of clients reached\r\n",
    b"-MOVED 3999 127.0.0.1:6381\r\n",
    b"$x\r\n",
    b"*100000\r\n" * 3,
    b"\xff\0HTTP/1.1 400 Bad Request\r\n\r\n",
    b":1\r\n" * 9,
    b"*-1\r\n",
    b"",
]


@pytest.fixture(scope="module")
def lying(postgres_server: Postgres, redis_server: RedisServer) -> Iterator[Wires]:
    with wires.wires(postgres_server, redis_server) as made:
        yield made


@pytest.fixture
def found(lying: Wires) -> Iterator[Wires]:
    """A Redis that does what it says, to begin with; others use it too."""
    lying.live()
    yield lying
    lying.asked.config_set("client-output-buffer-limit", "pubsub 32mb 8mb 60")


# --- two processes, and Redis between them --------------------------------------------


def endured(watch: Watch, end: Callable[[], None], posts: int = 2) -> None:
    """What is posted during a lie is shown in time, and after it all is as it was."""
    try:
        for turn in range(posts):
            watch.told(turn % 2)
    finally:
        end()
    assert watch.back() < MENDED + STALL
    assert max(watch.late) < MENDED + STALL
    assert median(watch.late) < MENDED
    # Two are posted during a lie, one at each process: who waits for Redis waits twice.
    assert sorted(watch.posting)[-2] < ANSWERED
    assert watch.whole()


@pytest.mark.parametrize("lie", LIES)
def test_a_redis_that_lies_is_found_out_and_mended(found: Wires, lie: str) -> None:
    """Hung, dead, a black hole, cut in a burst: all comes within 3 s, and soon at once again.

    Nobody who posts waits for it.
    """
    with watched(found) as watch:
        endured(watch, LIES[lie](watch))


def test_the_metrics_say_that_redis_hangs(found: Wires) -> None:
    """Both ends are down within seconds, what was dropped is counted; the process is ready."""
    read = found.metric("events_from_log_total")
    dropped = found.metric("redis_dropped_total", 0)
    with watched(found) as watch:
        found.redis.pause()
        try:
            watch.told()
            for name in ("redis_publishing", "redis_hearing", "redis_up"):
                until(lambda n=name: found.metric(n) == 0, PATIENCE, f"{name} is 0")
            until(
                lambda: found.metric("redis_silence_seconds") > events.SILENCE_SECONDS,
                PATIENCE,
                "it is silent",
            )
            until(
                lambda: found.metric("redis_dropped_total", 0) > dropped,
                PATIENCE,
                "what was dropped is counted",
            )
            assert found.metric("events_from_log_total") > read
            for path in ("/readyz", "/livez"):
                answer = found.house.client(process=1).get(found.house.servers[1].url + path)
                assert answer.status_code == 200
        finally:
            found.redis.resume()
        endured(watch, lambda: None, 0)


def test_a_subscription_that_is_silent_is_found_and_renewed(found: Wires) -> None:
    """It looks open and nothing comes: a process that does not hear itself subscribes again."""
    before = found.metric("redis_subscriptions_total")
    with watched(found) as watch:
        until(
            lambda: sum(line.subscribed for line in found.relays[1].lines) == 1,
            PATIENCE,
            "one subscription",
        )
        assert found.relays[1].strand(subscribers=True) == 1
        until(lambda: watch.told() and watch.instant(), PATIENCE, "it hears again")
        assert before < found.metric("redis_subscriptions_total") < before + 4
        assert max(watch.late) < MENDED + STALL
        assert median(watch.late) < MENDED
        assert watch.whole()


def test_a_slow_redis_is_no_redis(found: Wires) -> None:
    """Two seconds for each answer, or a few bytes at a time: the log is quicker."""
    with watched(found) as watch:
        for relay in found.relays:
            relay.delay = 2.0

        def end() -> None:
            for relay in found.relays:
                relay.delay = relay.rate = 0.0

        try:
            watch.told()
            for relay in found.relays:
                relay.delay, relay.rate = 0.0, 3_000.0
            watch.post(BATCH)
            watch.told()
        finally:
            end()
        endured(watch, end, 0)


def test_a_process_that_stood_still_in_a_burst(found: Wires) -> None:
    """Redis cuts off who does not read for a while; all of it is read from the log."""
    found.asked.config_set("client-output-buffer-limit", f"pubsub {SMALL} 0 0")
    frozen, before = found.house.servers[1], found.metric("redis_subscriptions_total")
    with watched(found) as watch:
        subscribers = found.subscribers()
        frozen.kill(signal.SIGSTOP)
        try:
            while found.subscribers() == subscribers:
                watch.post(BATCH)
                assert watch.posted < 50 * BATCH, "Redis does not cut anybody"
        finally:
            frozen.resume()
        assert watch.told() < MENDED + STALL
        assert watch.back() < MENDED + STALL
        assert watch.whole()
    assert found.metric("redis_subscriptions_total") > before


def test_one_end_alone_may_be_refused(found: Wires) -> None:
    """A user who may not publish still hears the others, and the metrics tell the ends apart."""
    with watched(found) as watch:
        found.asked.acl_setuser("default", enabled=True, commands=["-publish"])
        try:
            until(lambda: found.metric("redis_publishing", 0) == 0, PATIENCE, "publishing is down")
            assert found.metric("redis_up", 0) == 0
            watch.told()
        finally:
            found.asked.acl_setuser("default", enabled=True, commands=["+publish"])
        endured(watch, lambda: None, 0)


def test_another_password_and_an_empty_memory(found: Wires) -> None:
    """Redis comes back with a password we do not know, is flushed, and makes everybody wait."""
    with watched(found) as watch:
        found.asked.config_set("requirepass", "changed")
        found.asked.client_kill_filter(_type="pubsub")
        found.asked.client_kill_filter(_type="normal", skipme=True)
        try:
            watch.told()
        finally:
            found.asked.config_set("requirepass", "")
        found.asked.flushall()
        found.asked.client_pause(1_500)
        endured(watch, lambda: None)


def forgeries(found: Wires, seen: bytes) -> list[bytes]:
    """What somebody who can write into Redis, and has no key, may say on our channel."""
    epoch, _, number = head(found.house).partition("-")
    told = Frame(int(number) + 1, 1, "order.created", ("queues",), None, b"id: 1\ndata: false\n\n")
    false = events.encode(epoch, told.seq, [told])
    wrong = bytes([seen[-1] ^ 1])
    return [
        b"",
        b"\xff" * 100,
        b"{}",
        b"[" * 100_000,
        false,
        events.seal(b"another key", NAME, 1, false),
        b"\0" * 32 + NAME + b"\0" * 8 + false,
        seen[:-1] + wrong,
        seen[:-1],
        events.seal(KEY, NAME, 1, b'{"epoch":"another version"}'),
    ]


def test_nobody_else_is_believed(found: Wires) -> None:
    """What is not sealed with our key is counted and shown to nobody; a copy does no harm."""
    before = found.metric("redis_garbage_total")
    with watched(found) as watch, found.asked.pubsub(ignore_subscribe_messages=True) as ear:
        ear.subscribe(found.channel())
        seen = overheard(ear, watch)
        false = forgeries(found, seen)
        for data in [*false, seen, seen]:
            found.asked.publish(found.channel(), data)
        assert watch.back() < MENDED + STALL
        assert watch.whole()
        assert found.metric("redis_garbage_total") == before + len(false)


def overheard(ear: Any, watch: Watch) -> bytes:
    """A payload on a channel that is more than a beat."""

    def heard() -> bytes | None:
        watch.told()
        message = ear.get_message(timeout=0.1)
        return message["data"] if message and len(message["data"]) > 100 else None

    return until(heard, PATIENCE, "a payload") or b""


def test_another_epoch_costs_a_look_and_nothing_else(found: Wires) -> None:
    """A payload of a log that is not ours is no news of ours."""
    frame = Frame(1, 1, "order.created", ("queues",), None, b"data: old\n\n")
    with watched(found) as watch:
        payload = events.encode("0ldep0ch", 1, [frame])
        for number in range(1, 9):
            found.asked.publish(found.channel(), events.seal(KEY, NAME, number, payload))
        assert watch.back() < MENDED + STALL
        assert watch.whole()


# --- one wire, and a server that says anything ----------------------------------------


def test_no_answer_whatever_breaks_the_wire(redis_server: RedisServer) -> None:
    """Errors of every kind, and what is no Redis at all: it goes on trying, then it works."""
    heard: list[Payload] = []

    async def scene() -> None:
        answers, asked = cycle(ERRORS), 0

        async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            asked += 1
            writer.write(next(answers) * 3)
            await reader.read(65536)
            writer.close()

        server = await asyncio.start_server(lie, "127.0.0.1", 0)
        with Relay(server.sockets[0].getsockname()[1]) as relay:
            url = f"redis://127.0.0.1:{relay.port}/0"
            wire = Wire(url, KEY, on_payload=heard.append, on_subscribed=lambda: None)
            await wire.start("k3f9a2c1")
            await asyncly(lambda: asked > 2 * len(ERRORS))
            assert not wire.up
            relay.target = redis_server.port
            relay.cut()
            await asyncly(lambda: wire.up)
            await wire.stop()
        server.close()

    asyncio.run(scene())


async def asyncly(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - whatever it waits for happens elsewhere
            await asyncio.sleep(0.01)


def test_a_wire_ends_at_once_while_redis_hangs(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is told to stop does not wait for what does not answer."""
    monkeypatch.setattr(events, "ANSWER_SECONDS", 600.0)

    async def scene() -> None:
        url = redis_server.url
        wire = Wire(url, KEY, on_payload=lambda _: None, on_subscribed=lambda: None)
        await wire.start("k3f9a2c1")
        await asyncly(lambda: wire.up)
        redis_server.pause()
        wire.publish("k3f9a2c1", 1, [Frame(1, 1, "order.created", ("queues",), None, b"x")])
        await asyncly(lambda: not wire.waiting)
        async with asyncio.timeout(30):
            await wire.stop()

    try:
        asyncio.run(scene())
    finally:
        redis_server.resume()


def test_rate_limits_do_not_wait_for_a_slow_redis(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked on the event loop: after a few late answers it counts as absent, until quick."""
    each = 0.001  # seconds that an answer takes
    counters = Buckets(buckets.address(redis_server.url))
    moments = accumulate(each for _ in count())
    clock = SimpleNamespace(perf_counter=lambda: next(moments), time=time.time)
    monkeypatch.setattr(buckets, "time", clock)
    assert [counters.incr("slow", 3600) for _ in range(50)] == list(range(1, 51))
    each = 0.05
    with pytest.raises(TimeoutError, match="slow"):
        _ = [counters.incr("slow", 3600) for _ in range(8)]
    assert not counters.check()
    each = 0.001
    assert counters.check(), "it is quick again"
    assert counters.incr("slow", 3600) > 50
    counters.storage.close()


def test_rate_limits_survive_a_redis_that_forgot(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flushed, or started anew without our script: it counts on, from one."""
    clock = SimpleNamespace(perf_counter=lambda: 0.0, time=time.time)  # no answer is late
    monkeypatch.setattr(buckets, "time", clock)
    counters = Buckets(buckets.address(redis_server.url))
    counters.incr("forgotten", 3600)
    counters.storage.flushall()
    counters.storage.script_flush()
    assert counters.incr("forgotten", 3600) == 1
    counters.storage.close()


# --- its parts ------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_what_redis_took_is_owed() -> None:
    """Nothing is owed before Redis took it; what does not come back in time is overdue."""
    clock = Clock()
    echo = Echo(clock)
    echo.confirm()
    echo.say()
    clock.now += 100
    assert not echo.overdue
    echo.take()
    assert not echo.overdue
    clock.now += events.ECHO_SECONDS + 1
    assert echo.overdue
    echo.hear(1)
    assert not echo.overdue


def test_an_echo_before_the_answer_counts() -> None:
    """Redis may send a payload back before it says that it took it."""
    clock = Clock()
    echo = Echo(clock)
    echo.confirm()
    echo.hear(echo.say())
    echo.take()
    clock.now += 100
    assert not echo.overdue


def test_a_late_echo_gives_the_others_their_time() -> None:
    """Who lags is not deaf: only when nothing comes any more something is wrong."""
    clock = Clock()
    echo = Echo(clock)
    echo.confirm()
    for _ in range(10):
        echo.say()
    echo.take()
    for number in range(1, 10):
        clock.now += events.ECHO_SECONDS
        echo.hear(number)
        assert not echo.overdue
    clock.now += events.ECHO_SECONDS + 1
    echo.hear(3)
    assert echo.overdue


def test_a_new_subscription_owes_what_is_said_from_then_on() -> None:
    """What was said before it is gone; that it is confirmed at all is owed too."""
    clock = Clock()
    echo = Echo(clock)
    echo.subscribe()
    clock.now += events.ECHO_SECONDS + 1
    assert echo.overdue
    echo.say()
    echo.confirm()
    echo.take()
    clock.now += 100
    assert not echo.overdue
    echo.say()
    echo.take()
    clock.now += 100
    assert echo.overdue


def test_what_waits_for_redis_is_bounded() -> None:
    """In number and in bytes; the oldest goes, and is counted."""
    box = Outbox(most=3, most_bytes=100)
    assert [box.put("c", bytes([n]) * 10) for n in range(5)] == [0, 0, 0, 1, 1]
    assert box.put("c", b"x" * 85) == 2
    assert [payload[:1] for _, payload in box.take()] == [b"\x04", b"x"]
    assert len(box) == 0
    assert box.put("c", b"y" * 101) == 1
    assert box.take() == []


def test_only_our_own_seal_opens() -> None:
    """Who said it and which number stand under the seal too."""
    sealed = events.seal(KEY, b"process1", 7, b"payload")
    assert events.unseal(KEY, sealed) == (b"process1", 7, b"payload")
    for at in range(len(sealed)):
        wrong = bytearray(sealed)
        wrong[at] ^= 1
        with pytest.raises(ValueError, match="sealed"):
            events.unseal(KEY, bytes(wrong))
    with pytest.raises(ValueError, match="short"):
        events.unseal(KEY, sealed[:40])

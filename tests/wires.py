"""Two processes, and a Redis between them that lies: what it does, and how soon that is mended.

Each process reaches Redis through a `Relay` of its own. A purchase goes in at one process,
browsers wait at both.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from redis import Redis

from events import channel_of
from tests import services
from tests.house import House, running
from tests.live import head, watch
from tests.relay import Relay
from tests.services import Postgres, RedisServer, until
from tests.sse import Stream

MENDED = 3.0  # seconds; from a commit to the stream, and from the end of a lie to the live path
PATIENCE = 30.0  # to wait for what must come
SMALL = 256 << 10  # bytes that Redis keeps for a subscriber who does not read
BATCH = 200  # purchases in one call; some 160 KB of events


@dataclass
class Wires:
    """The house, its Redis, and the line of each process to it."""

    house: House
    redis: RedisServer
    relays: list[Relay]

    @cached_property
    def asked(self) -> "Redis":
        """A line of the test's own to Redis."""
        return Redis.from_url(self.redis.url)

    def metric(self, name: str, process: int = 1) -> float:
        url = f"{self.house.servers[process].url}/metrics"
        text = self.house.client(process=process).get(url).text
        [value] = re.findall(rf"^filaviva_{name} (\S+)$", text, re.MULTILINE)
        return float(value)

    def subscribers(self) -> int:
        """How many connections Redis holds a subscription for."""
        answer: Any = self.asked.client_list(_type="pubsub")
        return len(answer)

    def channel(self) -> str:
        return channel_of(head(self.house).partition("-")[0])

    def live(self) -> None:
        """Wait until both processes publish and hear."""
        for process in range(len(self.relays)):
            until(lambda p=process: self.metric("redis_up", p) == 1, PATIENCE, "both ends work")


@contextmanager
def wires(cluster: Postgres, redis: RedisServer) -> Iterator[Wires]:
    """Two processes on a database of their own."""
    with ExitStack() as stack:
        name = cluster.create()
        stack.callback(cluster.drop, name)
        relays = [stack.enter_context(Relay(redis.port)) for _ in range(2)]
        urls = [f"redis://127.0.0.1:{relay.port}/0" for relay in relays]
        each = [{"REDIS_URL": url} for url in urls]
        house = stack.enter_context(running(each=each, DATABASE_URL=cluster.url(name)))
        found = Wires(house, redis, relays)
        stack.callback(found.asked.close)
        house.token("producer")
        found.live()
        yield found


@contextmanager
def own_wires() -> Iterator[Wires]:
    """The same with servers of its own, as the long runs want it."""
    with (
        services.postgres() as cluster,
        services.redis() as redis,
        wires(cluster, redis) as found,
    ):
        yield found


@dataclass
class Watch:
    """A queue watched at both processes, and the times that its events took."""

    wires: Wires
    queue: str
    one: Stream
    two: Stream
    posted: int = 0
    late: list[float] = field(default_factory=list[float])  # from a post to both streams
    posting: list[float] = field(default_factory=list[float])  # what the posts themselves took

    def post(self, count: int = 1, process: int = 0) -> None:
        """Purchases at one process, in one call."""
        began = time.monotonic()
        body = {"messages": [{"customer": "c-1", "items": [{"sku": "disc-001", "quantity": 1}]}]}
        body["messages"] *= count
        client = self.wires.house.client("producer", process)
        answer = client.post(f"/queues/{self.queue}/messages/batch", json=body)
        assert answer.json()["accepted"] == count, answer.text
        self.posting.append(time.monotonic() - began)
        self.posted += count

    def told(self, process: int = 0) -> float:
        """Post, and wait until both streams have that and all before; the seconds."""
        began = time.monotonic()
        self.post(1, process)
        for stream in (self.one, self.two):
            stream.events(self.posted, PATIENCE)
        self.late.append(time.monotonic() - began)
        return self.late[-1]

    def instant(self) -> bool:
        """Whether what happens at one is shown at the other because Redis told of it."""
        before = self._read()
        self.told(0)
        self.told(1)
        return self._read() == before

    def _read(self) -> float:
        """Events that the processes had to look for in the log."""
        return sum(self.wires.metric("events_from_log_total", process) for process in (0, 1))

    def back(self) -> float:
        """Wait until events come at once again; the seconds."""
        began = time.monotonic()
        until(self.instant, PATIENCE, "Redis carries events again")
        return time.monotonic() - began

    def whole(self) -> bool:
        """Both have all that was posted, in order, once, and in the same bytes."""
        found = [int((block.id or "").partition("-")[2]) for block in self.one.facts]
        same = [block.raw for block in self.one.facts] == [block.raw for block in self.two.facts]
        return same and found == list(range(found[0], found[0] + self.posted))


@contextmanager
def watched(wires: Wires) -> Iterator[Watch]:
    """A fresh queue, watched at both processes from the same event on."""
    queue = wires.house.queue()
    until(lambda: head(wires.house, 1) == head(wires.house, 0), PATIENCE, "both know the queue")
    cursor = head(wires.house)
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(watch(wires.house, f"queue:{queue}", process=p, cursor=cursor))
            for p in (0, 1)
        )
        one.first("hello")
        two.first("hello")
        yield Watch(wires, queue, one, two)


# --- lies, each a beginning and an end ------------------------------------------------

Lie = Callable[[Watch], Callable[[], None]]


def stopped(watch: Watch) -> Callable[[], None]:
    """Redis hangs: its connections stay, and it answers nothing."""
    watch.wires.redis.pause()
    return watch.wires.redis.resume


def killed(watch: Watch) -> Callable[[], None]:
    watch.wires.redis.kill()
    return watch.wires.redis.start


def swallowed(watch: Watch) -> Callable[[], None]:
    """A black hole: connections are accepted, and nothing passes in any direction."""
    for relay in watch.wires.relays:
        relay.hold()

    def end() -> None:
        for relay in watch.wires.relays:
            relay.release()

    return end


def cut(watch: Watch) -> Callable[[], None]:
    """The second process does not read for a moment, and Redis cuts it off in a burst."""
    wires = watch.wires
    wires.asked.config_set("client-output-buffer-limit", f"pubsub {SMALL} 0 0")
    wires.relays[1].hold()
    subscribers = wires.subscribers()
    while wires.subscribers() == subscribers:
        watch.post(BATCH)
        assert watch.posted < 50 * BATCH, "Redis does not cut anybody"
    return wires.relays[1].release


LIES: dict[str, Lie] = {"stopped": stopped, "killed": killed, "swallowed": swallowed, "cut": cut}

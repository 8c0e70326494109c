"""What streams promise together: every event once, in order, whatever is cut or killed."""

import random
import time
from collections.abc import Iterator

import pytest

from bench.load import cpu_seconds
from tests import sale
from tests.deliveries import Plan, besieged
from tests.house import House, running
from tests.live import watch
from tests.mirrors import mirrored
from tests.sale import Premises
from tests.services import Postgres, RedisServer
from tests.sse import Stream

IDLE = 200
SILENCE = 15.0  # seconds until a heartbeat
BUSY = 0.1  # of a core, for so many streams in which nothing happens
OPEN = "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()"


class Idlers:
    """Streams in which nothing happens, on a process of their own."""

    def __init__(self, house: House, cluster: Postgres, name: str) -> None:
        self.house, self._cluster, self._name = house, cluster, name
        self.queue = house.queue()
        self.before = self.connections()
        self.streams = [watch(house, f"queue:{self.queue}") for _ in range(IDLE)]
        for stream in self.streams:
            stream.first("hello")
        self._since = time.monotonic(), self._worked()

    def connections(self) -> int:
        """To the database, by everybody but us."""
        return int(self._cluster.sql(OPEN.format(self._name), self._name))

    def busy(self) -> float:
        """The share of a core that the process took since all were open."""
        began, worked = self._since
        return (self._worked() - worked) / (time.monotonic() - began)

    def _worked(self) -> float:
        """Seconds of a core, of the process so far."""
        [server] = self.house.servers
        return cpu_seconds(server.pid)


@pytest.fixture(scope="module")
def idlers(postgres_server: Postgres) -> Iterator[Idlers]:
    """Open from the first test of this file on, so that the silence passes beside the others."""
    sale.many_files()
    name = postgres_server.create()
    with running(
        DATABASE_URL=postgres_server.url(name),
        MAX_STREAMS_PER_PRINCIPAL=sale.STREAMS,
        MAX_STREAMS_PER_ADDRESS=sale.STREAMS,
    ) as house:
        found = Idlers(house, postgres_server, name)
        yield found
        for stream in found.streams:
            stream.close()
    postgres_server.drop(name)


@pytest.fixture(scope="module")
def place(
    idlers: Idlers, postgres_server: Postgres, redis_server: RedisServer
) -> Iterator[Premises]:
    """Two processes of this file's own: they are killed."""
    with sale.premises(postgres_server, redis_server) as found:
        yield found


async def test_every_event_comes_once_and_in_order(place: Premises) -> None:
    """20,000 deliveries over 20 cut lines, two kills of a process, two of Redis: as in the log."""
    plan = Plan(20_000, 20, 60, ["process", "redis", "process", "redis"])
    siege = await besieged(place, plan, random.Random(7))
    assert siege.verdict.wrong == []
    assert siege.verdict.events >= plan.deliveries
    assert siege.reconnects >= plan.reconnects
    assert siege.connects > plan.streams + plan.reconnects, "no kill cut any stream"


async def test_a_snapshot_and_its_changes_are_the_database(place: Premises) -> None:
    """100 streams opened while everything changes: at the end each shows what is there."""
    gallery = await mirrored(place, 100, random.Random(7))
    assert gallery.verdict.wrong == []
    assert {one.kind for one in gallery.mirrors} >= {"order", "customer", "queue", "stock"}
    assert any(one.truncated for one in gallery.mirrors)
    assert gallery.reconnects > 5


def test_idle_streams_cost_next_to_nothing(idlers: Idlers) -> None:
    """200 silent streams get heartbeats, hold no connection to the database, and still follow."""

    def beats(stream: Stream) -> bool:
        return len(stream.comments) > 0

    for stream in idlers.streams:
        stream.wait(beats, SILENCE + 45, "a heartbeat")
    assert idlers.connections() < idlers.before + IDLE / 10, "beyond what the pool may have"
    assert idlers.busy() < BUSY
    for stream in idlers.streams:
        assert [block.event for block in stream.blocks] == ["hello"]
        assert set(stream.comments) == {b":\n"}
    posted = idlers.house.post(idlers.queue)
    for stream in idlers.streams:
        [event] = stream.events(1)
        assert event.json["subject"] == posted["id"]

"""What the benchmarks compare is comparable."""

import asyncio
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from bench import (
    audience,
    flashsale,
    follow,
    hot,
    idle,
    load,
    position,
    report,
    rivals,
    stand,
)
from bench.arrivals import Found, Plan, arrive, percentile
from bench.audience import Posts, Programs, Request
from bench.crowd import State
from tests import services
from tests.conftest import entered


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[httpx.Client, str, str]]:
    """A client with the service's address and its twin's route."""
    with stand.Service(SECRET_KEY="k" * 32) as service:
        token = service.account("shop", "producer")
        ours = f"{service.url}{stand.API}/queues/{stand.QUEUE}/messages"
        answer = service.call(f"/queues/{stand.QUEUE}/messages", stand.PURCHASE, token)
        with stand.Twin(answer.content, SECRET_KEY="k" * 32) as twin:
            twin.account("shop", "producer")
            twin.account("worker", "worker")
            headers = {"Authorization": f"Bearer {twin.token('shop')}"}
            with httpx.Client(headers=headers, timeout=60) as client:
                yield client, ours, f"{twin.url}{stand.API}/twin"


def test_the_twin_answers_as_the_service_does(pair: tuple[httpx.Client, str, str]) -> None:
    """The same status, headers and number of bytes: else the ratio would compare two things."""
    client, ours, its = pair
    real, twin = (client.post(url, json=stand.PURCHASE) for url in (ours, its))
    assert twin.status_code == real.status_code == 201
    assert list(twin.headers) == list(real.headers)
    assert len(twin.content) == len(real.content)
    assert re.sub(r"\d+", "9", twin.headers["ratelimit-policy"]) == '"write";q=9;w=9'


@pytest.mark.parametrize("body", [{}, {"customer": "c-7", "items": []}, {**stand.PURCHASE, "x": 1}])
def test_the_twin_checks_the_body_too(pair: tuple[httpx.Client, str, str], body: object) -> None:
    """What the service refuses, the twin refuses with the same problem."""
    client, ours, its = pair
    real, twin = (client.post(url, json=body).json() for url in (ours, its))
    assert twin | {"instance": ""} == real | {"instance": ""}
    assert twin["status"] == 422


def test_the_twin_checks_the_caller_too(pair: tuple[httpx.Client, str, str]) -> None:
    """Without a credential the twin is as closed as the service."""
    _, ours, its = pair
    answers = [httpx.post(url, json=stand.PURCHASE, timeout=60) for url in (ours, its)]
    assert [answer.status_code for answer in answers] == [401, 401]


def undisturbed(run: Callable[[], Found], good: Callable[[Found], bool]) -> Found:
    """What the first run found that no stall of this machine spoiled; else the third."""
    return next((found for _ in range(2) if good(found := run())), None) or run()


class Staller:
    """A service of one connection that answers at once, but for one answer."""

    def __init__(self, stall: int, seconds: float) -> None:
        self._stall, self._seconds = stall, seconds
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}/"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        line, _ = self._door.accept()
        with self._door, line:
            answered = 0
            while line.recv(4_096):
                answered += 1
                time.sleep(self._seconds if answered == self._stall else 0)
                line.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")


def test_a_stall_is_seen_by_all_that_were_due_meanwhile() -> None:
    """Open loop: whoever would have come while nothing moved counts, and from when he came."""

    def run() -> Found:
        here = Staller(stall=10, seconds=0.7)
        found = arrive(Plan([here.url], "t", ["{}"], rate=100, seconds=1, lines=1))
        here.thread.join(60)
        return found

    found = undisturbed(run, lambda found: found.late_p99 < found.most / 2)
    assert found.statuses == {"201": 100}
    assert found.most >= 690
    assert found.p50 >= 100  # 70 of 100 were due in the stall, half of them in its first half
    assert found.late_p99 < found.most / 2
    assert 0 < found.busy < 1


def test_what_is_never_answered_is_lost_not_forgotten() -> None:
    """A client that gives up counts what it gave up on, and how long it had waited."""
    plan = Plan([], "t", ["{}"], rate=100, seconds=0.05, lines=1, patience=0.2)
    found = undisturbed(
        lambda: arrive(replace(plan, urls=[Staller(stall=3, seconds=30).url])),
        lambda found: found.statuses.get("lost") == 3,
    )
    assert found.statuses == {"201": 2, "lost": 3}
    assert found.most >= 200


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """The least that is not exceeded by so many."""
    found = [percentile([4, 1, 3, 2], share) for share in (0.25, 0.5, 0.51, 0.99, 1)]
    assert found == [1, 2, 3, 4, 4]


@pytest.fixture(scope="module")
def shop() -> Iterator[flashsale.Shop]:
    with flashsale.opened("sqlite") as found:
        yield found


def test_a_sale_accepts_and_reserves_every_purchase(shop: flashsale.Shop) -> None:
    """One disc, posted by the clock: all accepted, all reserved, all in the table."""
    rate, accepted, failed, refused, *_ = shop.sell(20, 1)
    assert (rate, accepted, failed, refused) == ("20", "20", "0", "0")


def test_the_hot_and_the_other_purchase_differ_in_stock_alone(shop: flashsale.Shop) -> None:
    """The same bytes but for a SKU of the same length, of which one is counted."""
    service = shop.crew[0]
    targets = hot.sides(shop.crew)
    for sku in (hot.COUNTED, hot.UNCOUNTED):
        service.call(f"/queues/{stand.QUEUE}/messages", json.loads(targets[sku][0].body))
    assert service.look(f"/products/{hot.COUNTED}/stock")["reserved"] == 1
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        service.look(f"/products/{hot.UNCOUNTED}/stock")
    one, other = (targets[sku][0].body for sku in (hot.COUNTED, hot.UNCOUNTED))
    assert len(one) == len(other)
    assert one.replace(hot.COUNTED.encode(), hot.UNCOUNTED.encode()) == other


def test_places_are_told_while_the_line_moves(shop: flashsale.Shop) -> None:
    """Only who follows an order in the line is told, and the claims go on in every row."""
    plan = position.Plan(pending=1_000, watchers=10, seconds=2, settle=0)
    alone, idle, told = asyncio.run(position.samples(shop.crew[0], plan))
    assert (alone.told, idle.told) == (0, 0)
    assert told.told > 0
    assert told.line > idle.line
    assert min(one.claimed for one in (alone, idle, told)) > 0
    assert min(one.cpu for one in (alone, idle, told)) > 0


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    with ExitStack() as stack:
        yield entered(stack, audience.programs)


def test_every_delivery_is_counted(programs: Programs, shop: flashsale.Shop) -> None:
    """Five listeners to twenty purchases of the real service: a hundred, not one more or less."""
    service = rivals.Ours(shop.crew[0])
    with programs.listeners(service.port, 5, service.request(topics=1)) as listeners:
        requests, copies = service.posts(topics=1, events=2)
        posts = Posts(requests, rate=50, copies=copies, seconds=0.2)
        with programs.publisher(service.port, posts) as publisher:
            said = publisher.result()
        found = listeners.until_heard(100, 60)
    assert (said.sent, said.answered, said.refused) == (10, 10, 0)
    assert (found.open, found.closed, found.ever) == (5, 0, 100)
    assert 0 < found.p50 <= found.p99 <= found.most


class Dribbler:
    """Answers one connection; at `go` a stream in pieces of so many bytes, at `cut` it is cut."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self.go, self.cut = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        line, _ = self._door.accept()
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with self._door, line:
            line.recv(4_096)
            line.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            self.go.wait(60)
            for at in range(0, len(self._data), self._size):
                line.sendall(self._data[at : at + self._size])
            self.cut.wait(60)


@pytest.mark.parametrize("size", [1, 7, 33, 1_000])
def test_an_event_in_pieces_counts_once(programs: Programs, size: int) -> None:
    """However the reads cut it; and how late it is comes from its `time`."""
    late = datetime.now(UTC) - timedelta(seconds=5)
    stamp = f"{late:%Y-%m-%dT%H:%M:%S}.{late.microsecond // 1000:03}Z"
    event = f'id: 1\nevent: x\ndata: {{"id":"1","time":"{stamp}","data":{{}}}}\n\n'
    here = Dribbler(b":\n" + event.encode() * 9, size)
    with programs.listeners(here.port, 1, Request(["/"])) as listeners:
        here.go.set()
        found = listeners.until_heard(9, 60)
        here.cut.set()
    assert found.ever == found.events == 9
    assert 5_000 <= found.most < 60_000


def test_a_dropped_line_is_seen_by_who_never_reads(programs: Programs) -> None:
    """A stream that is cut while it is stuck counts, and not before."""
    here = Dribbler(b":\n" * 10_000, 1_000)
    with programs.listeners(here.port, 0, Request(["/"]), deaf=1) as listeners:
        here.go.set()
        assert listeners.heard().deaf_closed == 0
        here.cut.set()
        services.until(lambda: listeners.heard().deaf_closed, 60, "the drop")


def test_without_wrk_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has no wrk learns how to get it."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(load.NoWrk, match=re.escape("apt-get install wrk")):
        load.wrk_path()


def test_a_section_takes_the_place_of_its_predecessor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Measuring again replaces one section of docs/measured.md and leaves the others alone."""
    file = tmp_path / "measured.md"
    monkeypatch.setattr(report, "MEASURED", file)
    for title, text in [("One", "old"), ("Two", "kept"), ("One", "new")]:
        report.publish(title, text, write=True)
    assert file.read_text() == f"{report.HEAD}\n## One\n\nnew\n\n## Two\n\nkept\n"


def test_idle_streams_are_weighed_while_they_are_open() -> None:
    """Of the service and of the bare route: all stay open, and they are what is weighed."""
    amount = idle.Amount(streams=300, seconds=0.1, warm=30, settle=0.1)
    bare, ours = (idle.sample(way, "sqlite", amount) for way in ("bare", "ticket"))
    assert 5 < bare.uss < 100
    assert 2 < ours.uss < 100
    assert min(bare.whole, ours.whole) > 20


@pytest.mark.parametrize("state, beats", [(State(9, 1, 0, 0), 30), (State(10, 0, 0, 0), 26)])
def test_idle_streams_that_end_or_hear_nothing_count_for_nothing(state: State, beats: int) -> None:
    """What is measured is streams that are open, with their heartbeats."""
    idle.check(State(10, 0, 0, 0), 10, 30, 46)
    with pytest.raises(load.Refused):
        idle.check(state, 10, beats, 46)


def test_every_purchase_is_told_to_its_customer() -> None:
    """Each by the clock and once, on its own stream, and what lies before is left out."""
    amount = follow.Amount(rate=50, streams=10, seconds=1, warm=0.5)
    told = follow.play("sqlite", amount).told
    assert (told.every.count, told.same.count, told.other.count) == (50, 50, 0)
    assert 0 < told.every.p50 <= told.every.p99 <= told.every.most
    assert (told.missing, told.twice, told.found.statuses) == (0, 0, {"201": 75})
    for fault in ({"missing": 1}, {"twice": 1}):
        with pytest.raises(load.Refused):
            follow.check(replace(told, **fault))

"""Who is connected, to whichever process, and how to end one of them."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

import streams
from auth import Principal
from hub import Frame, Hub, Start, Window
from streams import Choice, Owner
from tests.answers import good, parameters, problem, stored
from tests.deaf import Deaf
from tests.house import House, running
from tests.live import head, ticket, watch
from tests.services import Postgres, until
from tests.sse import Stream

TOLD = 30.0  # seconds; until another process has told of its streams, on a slow machine


@pytest.fixture(scope="module")
def pair(postgres_server: Postgres) -> Iterator[House]:
    """Two processes on one PostgreSQL, without Redis."""
    name = postgres_server.create()
    url = postgres_server.url(name)
    with running(2, DATABASE_URL=url, MAX_STREAMS_PER_ADDRESS="1000") as found:
        yield found
    postgres_server.drop(name)


@pytest.fixture(params=["pair", "twins"])
def two(request: pytest.FixtureRequest) -> House:
    """Two processes, without and with Redis."""
    return request.getfixturevalue(request.param)


def listed(house: House, process: int = 0, **query: Any) -> dict[str, Any]:
    return good(house.client("viewer", process).get("/streams", params=query))


def whole(house: House, process: int = 0, **query: Any) -> dict[str, Any]:
    """The same, as soon as every process has told in time."""

    def found() -> dict[str, Any] | None:
        answer = listed(house, process, **query)
        return None if answer["incomplete"] else answer

    return until(found, TOLD, "every process has told") or {}


def only(house: House, topic: str, process: int = 0) -> dict[str, Any]:
    """The one stream of a topic, as soon as it is told of."""

    def found() -> list[dict[str, Any]]:
        items = listed(house, process, topic=topic)["items"]
        return items if len(items) == 1 else []

    return until(found, TOLD, f"one stream of {topic}")[0]


def end(house: House, stream: str) -> int:
    """The status of its end, once its process has answered in time."""

    def ended() -> int:
        status = house.client().delete(f"/streams/{stream}").status_code
        return 0 if status == 503 else status

    return until(ended, TOLD, "an answer")


def names(house: House) -> list[str]:
    """The processes' ids, in the order of the house's servers."""
    pids = {one["pid"]: one["id"] for one in good(house.client().get("/processes"))["items"]}
    return [pids[server.pid] for server in house.servers]


def grow_older(house: House, process: str, seconds: int) -> None:
    """As if so much more time had gone by since its last sign."""
    change = f"seen_at = seen_at - {seconds * 1000}"
    stored(house, f"UPDATE processes SET {change} WHERE id = '{process}'")


def post_many(house: House, queue: str, count: int) -> None:
    purchase = {"customer": "c-1", "items": [{"sku": "disc-001", "quantity": 1}] * 60}
    body = {"messages": [purchase] * count}
    assert good(house.client("producer").post(f"/queues/{queue}/messages/batch", json=body))


# --- one process ----------------------------------------------------------------------


def test_a_stream_is_told_with_whose_it_is_and_how_it_is_doing(house: House) -> None:
    """Account, kind, address, topics, since when, cursor and what it was given; no secret."""
    queue = house.queue()
    topic = f"queue:{queue}"
    text = ticket(house, [topic], role="admin")
    with watch(house, topic, role="worker") as bearer, Stream(house.url, ticket=text) as other:
        bearer.first("hello")
        other.first("hello")
        house.post(queue)
        cursor = bearer.events(1)[0].id
        other.events(1)
        answer = house.client("viewer").get("/streams", params={"topic": topic})
        second, first = good(answer)["items"]
        assert first.pop("id").startswith(first["process"] + "-")
        assert first.pop("connected_at") <= second["connected_at"]
        (process,) = names(house)
        assert first == {
            "process": process,
            "account": "worker",
            "kind": "bearer",
            "address": "127.0.0.1",
            "topics": [topic],
            "cursor": cursor,
            "lag": 0,
            "unsent_bytes": 0,
            "state": "live",
            "delivered": 1,
        }
        assert (second["account"], second["kind"]) == ("admin", "ticket")
        assert text not in answer.text
        assert house.token("worker") not in answer.text
        assert text not in str(stored(house, "SELECT * FROM processes"))


def test_the_public_has_no_account() -> None:
    """A stream without a credential is told as that."""

    async def scene() -> dict[str, Any]:
        hub = started()
        one = hub.subscribe(["stock"], Start.now(), owner=Owner(None, "192.0.2.7"))
        return streams.describe(one.facts(), "0000000000", hub.epoch)

    shape = asyncio.run(scene())
    assert (shape["account"], shape["kind"], shape["address"]) == (None, "public", "192.0.2.7")
    assert (shape["state"], shape["cursor"]) == ("opening", None)


def test_streams_are_found_by_topic_and_account(house: House) -> None:
    """Each filter narrows; a topic that comes twice takes either."""
    one, two, three = (f"queue:{house.queue()}" for _ in range(3))
    with ExitStack() as stack:
        for topics, role in (([one], "worker"), ([one, two], "viewer"), ([three], "worker")):
            stack.enter_context(watch(house, *topics, role=role)).first("hello")

        def found(**query: Any) -> list[tuple[str, list[str]]]:
            items = listed(house, **query)["items"]
            return [(item["account"], item["topics"]) for item in reversed(items)]

        assert found(topic=one) == [("worker", [one]), ("viewer", sorted([one, two]))]
        assert found(topic=[one, three], account="worker") == [
            ("worker", [one]),
            ("worker", [three]),
        ]
        assert found(topic=two, account="worker") == []
        assert found(topic="queue:nowhere") == []


def test_pages_tell_each_stream_once(house: House) -> None:
    """The newest first; what is opened meanwhile shifts nothing; a cursor keeps its filters."""
    topic = f"queue:{house.queue()}"
    with ExitStack() as stack:

        def another() -> None:
            stack.enter_context(watch(house, topic, role="viewer")).first("hello")

        for _ in range(5):
            another()
        expected = [one["id"] for one in listed(house, topic=topic)["items"]]
        assert expected == sorted(expected, key=lambda i: int(i.partition("-")[2]), reverse=True)
        page = answer = listed(house, topic=topic, limit=2)
        found = [one["id"] for one in page["items"]]
        while (cursor := answer["next_cursor"]) is not None:
            another()
            answer = listed(house, topic=topic, limit=2, cursor=cursor)
            found += [one["id"] for one in answer["items"]]
            assert answer["open"] >= 5
        assert found == expected
        for query in ({"sort": "lag", "topic": topic}, {}, {"topic": topic, "account": "viewer"}):
            params = {**query, "cursor": page["next_cursor"]}
            problem(house.client().get("/streams", params=params), 400, "bad_cursor")
        assert listed(house, topic=topic, sort="lag", limit=2)["next_cursor"] is None


def test_what_cannot_be_asked_is_refused(house: House) -> None:
    """Unknown orders and limits are 422; ids that are no stream's are 404."""
    client = house.client()
    assert parameters(client.get("/streams", params={"sort": "name"})) == ["sort"]
    assert parameters(client.get("/streams", params={"limit": 201})) == ["limit"]
    (process,) = names(house)
    for stream in ("x", f"{process}-0", f"{process}-999999999", "0000000000-1", f"{process}-1.0"):
        problem(client.delete(f"/streams/{stream}"), 404, "not_found")


def test_a_reader_that_is_stuck_shows_its_lag_and_can_be_cut_off(house: House) -> None:
    """Its line is full, it lags, it comes first; ended, it is gone at once."""
    queue = house.queue()
    topic = f"queue:{queue}"
    with watch(house, topic, role="viewer") as reader, closing(Deaf(house, "live", [topic])):
        reader.first("hello")
        until(lambda: len(listed(house, topic=topic)["items"]) == 2, 30, "both are there")
        stuck = listed(house, topic=topic)["items"][0]

        def lagging() -> dict[str, Any] | None:
            post_many(house, queue, 60)
            one = listed(house, topic=topic, sort="lag", limit=1)["items"][0]
            return one if one["lag"] else None

        first = until(lagging, 30, "a lag") or {}
        assert first["id"] == stuck["id"]
        assert first["state"] == "full"
        assert first["unsent_bytes"] > 0
        assert house.client().delete(f"/streams/{stuck['id']}").status_code == 204
        left = listed(house, topic=topic)["items"]
        assert [one["id"] for one in left] == [only(house, topic)["id"]] != [stuck["id"]]


def test_an_ended_stream_comes_back_without_a_hole(house: House) -> None:
    """Its goodbye says when to come again; there is no second end of it."""
    queue = house.queue()
    topic = f"queue:{queue}"
    with watch(house, topic) as stream:
        stream.first("hello")
        house.post(queue)
        cursor = stream.events(1)[0].id
        found = only(house, topic)["id"]
        assert house.client().delete(f"/streams/{found}").status_code == 204
        goodbye = stream.end().json
        assert goodbye["reason"] == "lifetime"
        assert 500 <= goodbye["reconnect_ms"] <= 5000
    problem(house.client().delete(f"/streams/{found}"), 404, "not_found")
    posted = house.post(queue)["id"]
    with watch(house, topic, cursor=cursor) as again:
        assert [one.json["subject"] for one in again.events(1)] == [posted]


def test_a_process_tells_of_itself(house: House) -> None:
    """Its host, its age, its head and how many streams it has, as of now."""
    topic = f"queue:{house.queue()}"
    with watch(house, topic) as stream:
        stream.first("hello")

        def steady() -> dict[str, Any] | None:
            """Leases of other tests may run out meanwhile, and their streams end."""
            before = head(house), listed(house)["open"]
            (one,) = good(house.client("viewer").get("/processes"))["items"]
            same = before == (one["head"], one["streams"]) == (head(house), one["streams"])
            return one if same else None

        one = until(steady, 30, "what it says") or {}
        assert one["streams"] >= 1
        assert (one["pid"], one["lag"]) == (house.servers[0].pid, 0)
        assert one["started_at"] < one["seen_at"]
        assert one["host"]


# --- two processes --------------------------------------------------------------------


def test_each_process_tells_of_all_streams(two: House) -> None:
    """Whoever is asked lists the streams of both, pages them, and counts them."""
    topic = f"queue:{two.queue()}"
    with watch(two, topic) as here, watch(two, topic, process=1, role="viewer") as there:
        here.first("hello")
        there.first("hello")
        first, second = names(two)
        for process in (0, 1):

            def all_told(process: int = process) -> bool:
                return len(listed(two, process, topic=topic)["items"]) == 2

            until(all_told, TOLD, "both are told")
            answer = whole(two, process, topic=topic, limit=1)
            found = {one["process"]: one["account"] for one in answer["items"]}
            rest = whole(two, process, topic=topic, limit=1, cursor=answer["next_cursor"])
            found |= {one["process"]: one["account"] for one in rest["items"]}
            assert found == {first: "admin", second: "viewer"}
            assert (rest["next_cursor"], rest["incomplete"], rest["truncated"]) == (None, [], [])
            assert rest["open"] >= 2
            account = whole(two, process, account="viewer", topic=topic)
            assert [one["process"] for one in account["items"]] == [second]


def test_what_is_sought_at_another_process_is_found_among_many(pair: House) -> None:
    """A filter looks at all of its streams, not at those that it would tell without one."""
    topic, name = f"queue:{pair.queue()}", names(pair)[1]
    tickets = [ticket(pair, ["queues"], max_streams=600)]
    with ExitStack() as stack:
        sought = stack.enter_context(watch(pair, topic, process=1, role="worker"))
        sought.first("hello")
        for _ in range(streams.MOST_LISTED + 10):
            stack.enter_context(Stream(pair.servers[1].url, ticket=tickets[0]))
        until(lambda: listed(pair)["truncated"] == [name], TOLD, "more than it tells")
        assert topic not in str(whole(pair, sort="lag", limit=200)["items"])
        found = only(pair, topic)
        assert found == {**only(pair, topic, process=1), "lag": 0}
        assert [one["id"] for one in whole(pair, account="worker")["items"]] == [found["id"]]
        assert whole(pair, topic=topic)["truncated"] == []
        assert whole(pair)["open"] > streams.MOST_LISTED


def test_a_stream_is_ended_across_processes(two: House) -> None:
    """It comes back at the other process with everything; an end of what is over is 404."""
    queue = two.queue()
    topic = f"queue:{queue}"
    until(lambda: two.client(process=1).get(f"/queues/{queue}").status_code == 200, 30, "known")
    with watch(two, topic, process=1) as stream:
        cursor = stream.first("hello").id
        found = only(two, topic)["id"]
        assert end(two, found) in (204, 404)  # 404: it was ended, and was late to say so
        assert stream.end().json["reason"] == "lifetime"
        cursor = stream.ids[-1] if stream.ids else cursor
    posted = [two.post(queue)["id"] for _ in range(3)]
    with watch(two, topic, cursor=cursor) as again:
        assert [one.json["subject"] for one in again.events(3)] == posted
    assert end(two, found) == 404


def test_nobody_is_listed_when_nobody_looks(pair: House) -> None:
    """Addresses stand in the database only while somebody asks for them."""
    with watch(pair, "queues", process=1) as stream:
        stream.first("hello")
        listed(pair)
        written = "SELECT count(*) FROM processes WHERE listing IS NOT NULL"
        until(lambda: stored(pair, written) != [(0,)], TOLD, "a listing")
        stored(pair, "UPDATE processes SET wanted = '{}'")
        until(lambda: stored(pair, written) == [(0,)], 30, "no listing")


def test_a_process_that_stops_is_gone_at_once(pair: House) -> None:
    """Who goes in order takes his row along."""

    def gone() -> bool:
        name = names(pair)[1]
        pair.servers[1].stop(60)
        try:
            found = good(pair.client().get("/processes"))["items"]
        finally:
            pair.servers[1].start()
        return name not in [one["id"] for one in found]

    assert any(gone() for _ in range(3)), "who meets a database that stalls leaves it"


def test_a_killed_process_is_gone(pair: House) -> None:
    """What it had is told as incomplete, then not at all; its streams cannot be ended."""
    victim, name = pair.servers[1], names(pair)[1]
    with watch(pair, "queues", process=1) as stream:
        stream.first("hello")
        found = only(pair, "queues")["id"]
        victim.kill()
    try:
        grow_older(pair, name, 10)
        began = time.monotonic()
        assert listed(pair)["incomplete"] == [name]
        assert time.monotonic() - began < 15, "not until it is gone"
        problem(pair.client().delete(f"/streams/{found}"), 503, "unavailable")

        def shown() -> list[str]:
            return [one["id"] for one in good(pair.client().get("/processes"))["items"]]

        assert name in shown()
        grow_older(pair, name, 20)
        until(lambda: name not in shown(), 30, "it is gone")
        answer = listed(pair)
        assert (answer["incomplete"], answer["items"]) == ([], [])
        problem(pair.client().delete(f"/streams/{found}"), 404, "not_found")
        grow_older(pair, name, 30)
        row = f"SELECT count(*) FROM processes WHERE id = '{name}'"
        until(lambda: stored(pair, row) == [(0,)], 30, "its row is deleted")
    finally:
        victim.start()


# --- bounds ---------------------------------------------------------------------------


def started() -> Hub:
    """A hub with a log of 1,000 events that nobody reads."""

    async def read(after: int, topics: frozenset[str] | None) -> Window:
        return Window("k3f9a2c1", 1_000, 0, 1_000, list[Frame]())

    hub = Hub(read)
    hub.start("k3f9a2c1", 1_000)
    return hub


async def told_by(hub: Hub) -> bytes:
    everything = Choice.wanted(Choice().wish)
    return await streams.listing(hub, "0000000000", everything, streams.LISTING_BYTES)


def principal(account: str) -> Principal:
    return Principal("bearer", account, frozenset(), None, frozenset(), 2**50, "f", "t", 1, 1, None)


async def longest_turn(work: Any) -> float:
    """The part of all its work for which something held the loop at a time."""
    turns, over = list[float](), False

    async def tick() -> None:
        before = time.thread_time()
        while not over:
            await asyncio.sleep(0)
            now = time.thread_time()
            turns.append(now - before)
            before = now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    await work
    over = True
    await ticking
    return max(turns) / sum(turns)


def test_a_listing_of_many_is_small_and_holds_nobody_up() -> None:
    """Of 12,000 streams 500 are told, those that lag most, in 256 KiB and in short turns."""

    async def scene() -> tuple[dict[str, Any], int, float]:
        hub = started()
        owner = Owner(principal("many"), "192.0.2.7")
        for number in range(12_000):
            one = hub.subscribe([f"queue:q-{number % 7}"], Start.now(), owner=owner)
            one.behind, one.cursor = True, 1_000 - (number % 600)
        text = await told_by(hub)
        turns = [await longest_turn(told_by(hub)) for _ in range(5)]
        return json.loads(text), len(text), min(turns)

    told, size, held = asyncio.run(scene())
    assert (told["count"], len(told["items"])) == (12_000, 500)
    lags = [one["lag"] for one in told["items"]]
    assert lags == sorted(lags, reverse=True)
    assert lags[0] == 599
    assert size < streams.LISTING_BYTES + 100
    assert held < 0.4


def test_a_listing_has_a_bound_in_bytes() -> None:
    """Streams of many long topics: as many as go into 256 KiB."""

    async def scene() -> bytes:
        hub = started()
        for number in range(200):
            topics = [f"order:{'x' * 90}{number:05d}{n:03d}" for n in range(80)]
            hub.subscribe(topics, Start.now(), owner=Owner(None, "192.0.2.7"))
        return await told_by(hub)

    text = asyncio.run(scene())
    told = json.loads(text)
    assert 0.9 * streams.LISTING_BYTES < len(text) < streams.LISTING_BYTES + 100
    assert len(told["items"]) < told["count"] == 200
    assert {len(one["topics"]) for one in told["items"]} == {streams.TOPICS_SHOWN}


def test_a_page_of_many_holds_nobody_up() -> None:
    """A filter over 12,000 streams gives others their turn."""

    async def scene() -> float:
        hub = started()
        for number in range(12_000):
            hub.subscribe(["queues"], Start.now(), owner=Owner(principal(f"a-{number}"), "::1"))
        choice = Choice(account="a-77")
        shapes, count = await streams.chosen(hub, "0000000000", choice, 51)
        assert (len(shapes), count) == (1, 1)
        return min(
            [await longest_turn(streams.chosen(hub, "0000000000", choice, 51)) for _ in range(5)]
        )

    assert asyncio.run(scene()) < 0.5

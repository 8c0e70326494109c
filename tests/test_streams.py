"""Streams as their readers see them: frames to the byte, resuming, topics, the history."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.answers import NOWHERE, parameters, problem, stored
from tests.house import CUSTOMER, SECRET_KEY, House, running
from tests.live import PUBLIC_URL, forged_ticket, head, ticket, travel, watch
from tests.services import Server, until
from tests.sse import Block, Stream

ID = re.compile(r"[A-Za-z0-9_]{1,16}-(0|[1-9][0-9]*)")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ORDER_DATA = [
    *("id", "reference", "customer", "queue", "previous_queue", "status", "previous_status"),
    *("reason", "version", "cancel_requested", "items", "total_cents", "currency"),
    *("available_at", "expires_at", "created_at", "updated_at", "finished_at"),
]


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def number(event_id: str | None) -> int:
    return int((event_id or "").partition("-")[2])


# --- frames ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def own() -> Iterator[House]:
    """A service whose log these tests may damage."""
    with running() as found:
        yield found


@pytest.fixture(scope="session")
def quiet(own: House) -> Iterator[tuple[Stream, Stream]]:
    """Two streams without events: in one house nothing happens at all, in the other it does.

    The first test opens them, since silence takes 15 s; the others need not wait for it.
    """
    with Server(SECRET_KEY=SECRET_KEY, PUBLIC_URL=PUBLIC_URL) as server:
        text = forged_ticket(["customer:c-1"], 3600, owner="admin")
        with Stream(server.url, ticket=text) as still, watch(own, "customer:c-nobody") as moved:
            still.first("hello")
            moved.first("hello")
            own.queue()
            yield still, moved


@pytest.mark.usefixtures("quiet")
def test_hello_is_the_first_frame(house: House) -> None:
    """A stream says at once how to come back, where it goes on from and when it ends."""
    topic = f"queue:{house.queue()}"
    before = head(house)
    with watch(house, topic) as stream:
        hello = stream.first("hello")
        assert stream.blocks == [hello]
        assert (
            hello.raw
            == (
                f"retry: {hello.retry}\nid: {hello.id}\nevent: hello\ndata: {hello.data}\n\n"
            ).encode()
        )
        assert list(hello.json) == ["epoch", "head", "heartbeat_seconds", "expires_at"]
        assert hello.id == hello.json["head"]
        # Leases of other tests may run out here.
        assert number(before) <= number(hello.id) <= number(head(house))
        assert hello.json["head"].startswith(f"{hello.json['epoch']}-")
        assert hello.json["heartbeat_seconds"] == 15
        assert TIME.fullmatch(hello.json["expires_at"])
        assert 500 <= (hello.retry or 0) <= 5_000


def test_no_proxy_keeps_a_stream_back(house: House) -> None:
    """The headers tell caches and proxies to pass everything on as it comes."""
    with watch(house, "queues") as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        assert "content-length" not in stream.headers
        assert "content-encoding" not in stream.headers


def test_an_event_is_one_cloud_event_on_one_line(house: House) -> None:
    """`id`, `event`, `data`, a blank line, and nothing else: the shape that clients rely on."""
    queue = house.queue()
    with watch(house, f"queue:{queue}") as stream:
        epoch = stream.first("hello").json["epoch"]
        posted = house.post(queue, reference="Nº 1042 — ☕")
        (block,) = stream.events(1)
    event = block.json
    assert block.raw == f"id: {block.id}\nevent: order.created\ndata: {block.data}\n\n".encode()
    assert block.data == compact(event)
    assert {**event, "data": None} == {
        "specversion": "1.0",
        "id": block.id,
        "source": f"/queues/{queue}",
        "type": "order.created",
        "subject": posted["id"],
        "time": event["time"],
        "data": None,
    }
    assert ID.fullmatch(block.id or "")
    assert (block.id or "").startswith(f"{epoch}-")
    assert TIME.fullmatch(event["time"])
    assert list(event["data"]) == ORDER_DATA
    shown = {name: posted[name] for name in ORDER_DATA if name in posted}
    assert event["data"] == {
        **shown,
        "previous_queue": None,
        "previous_status": None,
        "reason": None,
    }


def test_items_come_with_the_first_event_only(house: House) -> None:
    """Later events say what changed, and never what only staff may see."""
    queue = house.queue()
    with watch(house, f"queue:{queue}") as stream:
        stream.first("hello")
        house.post(queue, metadata={"note": "for staff"})
        (message,) = house.claim(queue)
        house.settle("nack", message, error="a secret of the shop", retry=False)
        created, processing, failed = stream.events(3)
    assert created.json["data"]["items"]
    assert processing.json["data"]["items"] is None
    assert processing.json["data"]["previous_status"] == "pending"
    assert processing.json["data"]["previous_queue"] == queue
    assert failed.json["data"]["status"] == "failed"
    for secret in (b"secret of the shop", b"for staff", message["receipt"].encode(), b"worker"):
        assert secret not in stream.raw


def test_replayed_bytes_equal_live_bytes(house: House) -> None:
    """Whoever comes late reads exactly what the others read, from memory or from the log."""
    queue = house.queue()
    with watch(house, f"queue:{queue}") as live:
        start = live.first("hello").id
        travel(house, queue)
        house.client().post(f"/queues/{queue}/pause")
        seen = live.events(4)
    with watch(house, f"queue:{queue}", cursor=start) as replayed:
        again = replayed.events(4)
    assert [block.raw for block in again] == [block.raw for block in seen]
    items = events_of(house, f"queue:{queue}", after=start)
    assert [compact(item) for item in items] == [block.data for block in seen]


def test_a_queue_tells_of_itself(house: House) -> None:
    """`queue.*` events carry the settings, and who changed them."""
    queue = house.queue()
    with watch(house, f"queue:{queue}") as stream:
        stream.first("hello")
        house.client().patch(f"/queues/{queue}", json={"lease_seconds": 5})
        (block,) = stream.events(1)
    event = block.json
    assert (event["type"], event["subject"], event["source"]) == (
        "queue.updated",
        queue,
        f"/queues/{queue}",
    )
    assert event["data"] == {
        "name": queue,
        "description": "",
        "lease_seconds": 5,
        "max_attempts": 10,
        "max_lost_leases": 5,
        "backoff_seconds": 1,
        "retention_days": 30,
        "paused": False,
        "version": 2,
        "actor": "admin",
    }


def test_of_quick_changes_of_a_stock_the_newest_is_enough(house: House) -> None:
    """A stream may leave out older ones and ends with the last; the history has them all."""
    sku = f"disc-{uuid4().hex}"
    versions: list[int] = []

    def thinned(stream: Stream) -> bool:
        for _ in range(20):
            answer = house.client().post(f"/products/{sku}/stock/receive", json={"quantity": 1})
            versions.append(answer.json()["version"])
        stream.wait(lambda one: told(one)[-1:] == versions[-1:], 30, "the newest")
        return len(told(stream)) < len(versions)

    def told(stream: Stream) -> list[int]:
        return [block.json["data"]["version"] for block in stream.named("stock.changed")]

    with watch(house, f"stock:{sku}") as stream:
        stream.first("hello")
        until(lambda: thinned(stream), 90, "two changes within 100 ms")
        assert told(stream) == sorted(told(stream))
    answer = house.client().get("/events/history", params={"topic": f"stock:{sku}", "limit": 200})
    changes = [item for item in answer.json()["items"] if item["type"] == "stock.changed"]
    assert [item["data"]["version"] for item in changes][:200] == versions[: len(changes)]


def test_head_answers_like_get_and_ends(house: House) -> None:
    """HEAD gives a stream's headers, its errors too, and holds nothing open."""
    client = house.client()
    answer = client.head("/events", params={"topic": "queues"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert client.head("/events", params={"topic": "nonsense"}).status_code == 422
    missing = client.head("/events", params={"topic": f"order:{NOWHERE}"})
    assert missing.status_code == 404
    assert client.head("/events/history", params={"topic": "queues"}).status_code == 200


# --- where to start -------------------------------------------------------------------


@pytest.mark.parametrize("way", ["header", "parameter"])
def test_resume_misses_nothing_and_repeats_nothing(house: House, way: str) -> None:
    """A reader that comes back gets each event once, in order, over many reconnects."""
    queue = house.queue()
    with watch(house, f"queue:{queue}") as stream:
        cursor = stream.first("hello").id
    got: list[str | None] = []
    for _ in range(3):
        travel(house, queue)
        header, parameter = (cursor, None) if way == "header" else (None, cursor)
        with watch(house, f"queue:{queue}", cursor=header, last_event_id=parameter) as stream:
            hello = stream.first("hello")
            assert hello.id == cursor
            blocks = stream.events(2)[:2]  # one stays behind each time
            got += [block.id for block in blocks]
            cursor = blocks[-1].id
    with watch(house, f"queue:{queue}", cursor=cursor) as stream:
        house.client().post(f"/queues/{queue}/pause")
        *rest, paused = stream.events(4)
        assert paused.event == "queue.paused"  # nothing came between
        got += [block.id for block in rest]
    numbers = [number(one) for one in got]
    assert len(numbers) == 9
    assert numbers == sorted(set(numbers))
    assert got == [item["id"] for item in events_of(house, f"queue:{queue}") if is_order(item)]


def test_the_header_beats_the_parameter_beats_since(house: House) -> None:
    """An EventSource sends its header by itself: it must win over what stands in its URL."""
    queue = house.queue()
    travel(house, queue)
    _, first, second, third = [item["id"] for item in events_of(house, f"queue:{queue}")]
    topic = f"queue:{queue}"
    with watch(house, topic, cursor=second, last_event_id=first, since="earliest") as stream:
        assert stream.first("hello").id == second
        assert [block.id for block in stream.events(1)] == [third]
    with watch(house, topic, last_event_id=first, since="now") as stream:
        assert [block.id for block in stream.events(2)] == [second, third]
    with watch(house, topic, cursor="", last_event_id=second) as stream:
        assert [block.id for block in stream.events(1)] == [third]


def test_since(house: House) -> None:
    """A stream begins at the oldest event, at a time, or now."""
    queue = house.queue()
    topic = f"queue:{queue}"
    house.post(queue)
    made, first = events_of(house, topic)
    until(lambda: travel_time(house) > first["time"], 30, "a later millisecond")
    house.post(queue)
    second = events_of(house, topic)[-1]
    everything = [made["id"], first["id"], second["id"]]
    with watch(house, topic, since="earliest") as stream:
        assert [block.id for block in stream.events(3)] == everything
    with watch(house, topic, since=second["time"]) as stream:
        assert [block.id for block in stream.events(1)] == [second["id"]]
    offset = first["time"].replace("Z", "+00:00")
    with watch(house, topic, since=offset) as stream:
        assert [block.id for block in stream.events(2)] == everything[1:]
    for start in ("now", "2999-01-01T00:00:00Z", None):
        with watch(house, topic, since=start) as stream:
            assert number(stream.first("hello").id) >= number(second["id"])
            fresh = house.post(queue)["id"]
            assert [block.json["subject"] for block in stream.events(1)] == [fresh]


def travel_time(house: House) -> str:
    """The service's own clock, as it stands in a fresh event."""
    queue = house.queue()
    return events_of(house, f"queue:{queue}")[0]["time"]


@pytest.mark.parametrize("start", ["yesterday", "2026-11-21", "1", "2026-11-21T18:00:00"])
def test_since_is_a_time_or_refused(house: House, start: str) -> None:
    """A `since` that cannot be read is 422, not everything or nothing."""
    for path in ("/events", "/events/history"):
        for topic in ("queues", f"order:{NOWHERE}"):
            answer = house.client().get(path, params={"topic": topic, "since": start})
            assert parameters(answer) == ["since"]


@pytest.mark.parametrize(
    "cursor", ["nonsense", "0", "a-b", "{epoch}-99999999", "{epoch}-01", "9" * 200, "é"]
)
@pytest.mark.parametrize("way", ["header", "parameter"])
def test_a_cursor_that_is_not_ours_is_a_reset(house: House, cursor: str, way: str) -> None:
    """A stream is never silently short: what cannot be resumed is told with `reset`."""
    queue = house.queue()
    now = head(house)
    sent = cursor.replace("{epoch}", now.partition("-")[0])
    header, parameter = (sent, None) if way == "header" else (None, sent)
    with watch(house, f"queue:{queue}", cursor=header, last_event_id=parameter) as stream:
        reset = stream.first("reset")
        hello = stream.blocks[0]
        assert (hello.event, hello.id) == ("hello", None)
        assert hello.retry is not None
        assert reset.json == {"reason": "unknown", "oldest": reset.json["oldest"], "head": reset.id}
        # Leases of other tests may run out here.
        assert number(now) <= number(reset.id) <= number(head(house))
        house.post(queue)
        (block,) = stream.events(1)
        assert number(block.id) > number(reset.id)


def test_a_cursor_of_another_epoch_is_a_reset(house: House) -> None:
    """Numbers of another log mean other events here."""
    with watch(house, "queues", cursor="0ther000-1") as stream:
        assert stream.first("reset").json["reason"] == "epoch"


# --- topics ---------------------------------------------------------------------------


def test_an_event_comes_once_however_many_topics_match(house: House) -> None:
    """Order, customer and queue all match, and the reader still gets one event."""
    queue = house.queue()
    start = head(house)
    order = house.post(queue, customer="c-once")["id"]
    topics = (f"order:{order}", "customer:c-once", f"queue:{queue}", f"queue:{queue}")
    with watch(house, *topics, cursor=start) as stream:
        stream.events(1)
        (message,) = house.claim(queue)
        house.settle("ack", message)
        house.client().post(f"/queues/{queue}/pause")
        assert [block.event for block in stream.events(4)] == [
            "order.created",
            "order.processing",
            "order.completed",
            "queue.paused",
        ]


def test_a_topic_carries_its_own_events_only(house: House) -> None:
    """Nobody sees another's order, customer or queue."""
    queue, other = house.queue(), house.queue()
    order = house.post(queue, customer="c-one")["id"]
    topics = (f"order:{order}", "customer:c-one", f"queue:{queue}")
    streams = [watch(house, topic) for topic in topics]
    for stream in streams:
        stream.first("hello")
    same = house.post(queue, customer="c-two")["id"]
    house.post(other, customer="c-three")
    mine = house.post(other, customer="c-one")["id"]
    assert [block.json["subject"] for block in streams[1].events(1)] == [mine]
    assert [block.json["subject"] for block in streams[2].events(1)] == [same]
    # Where it stands in the line may be told before: that is its own.
    house.client().post(f"/orders/{order}/cancel")
    assert [block.json["subject"] for block in streams[0].events(1)] == [order]
    assert [len(stream.facts) for stream in streams] == [1, 1, 1]
    for stream in streams:
        stream.close()


def test_a_forward_reaches_the_topics_of_both_queues(house: House) -> None:
    """Those who watch the queue that is left see it leave, the others see it come."""
    first, second = house.queue(), house.queue()
    with watch(house, f"queue:{first}") as left, watch(house, f"queue:{second}") as entered:
        left.first("hello")
        entered.first("hello")
        house.post(first)
        (message,) = house.claim(first)
        house.settle("ack", message, forward_to=second)
        forwarded = left.events(3)[2]
        assert [block.raw for block in entered.events(1)] == [forwarded.raw]
        assert forwarded.event == "order.forwarded"
        assert forwarded.json["source"] == f"/queues/{first}"
        assert forwarded.json["data"]["queue"] == second
        assert forwarded.json["data"]["previous_queue"] == first
        (message,) = house.claim(second)
        house.settle("ack", message)
        assert entered.events(3)[2].event == "order.completed"
        assert len(left.facts) == 3
    for queue, count in ((first, 3), (second, 3)):
        with watch(house, f"queue:{queue}", since="earliest") as replayed:
            house.client().post(f"/queues/{queue}/pause")
            *_, last = replayed.events(count + 2)  # and its own creation
            assert last.event == "queue.paused"


def counted(stream: Stream) -> list[str]:
    """The queues of all its `counts` so far."""
    return [one["name"] for block in stream.named("counts") for one in block.json["queues"]]


def test_queues_has_counts_and_no_orders(house: House) -> None:
    """`queues`: all counts after hello, then those that changed, at most once a second."""
    queue, quiet = house.queue(), house.queue()
    with watch(house, "queues") as stream:
        counts = stream.first("counts")
        assert stream.blocks[0].event == "hello"
        assert counts.id is counts.retry is None
        assert counts.raw == f"event: counts\ndata: {counts.data}\n\n".encode()
        assert number(counts.json["as_of"]) >= number(stream.blocks[0].id)
        every = house.client().get("/queues", params={"limit": 1000}).json()["items"]
        assert {queue, quiet, "orders"} <= {one["name"] for one in every}
        wanted = [one["name"] for one in every]
        stream.wait(lambda one: len(counted(one)) >= len(wanted), 30, "all queues")
        assert counted(stream)[: len(wanted)] == wanted
        before, began = len(stream.named("counts")), time.monotonic()
        for _ in range(20):
            house.post(queue)
        stream.wait(lambda one: pending(one, queue) == 20, 30, "20 pending")
        assert stream.facts == []
        later = stream.named("counts")[before:]
        told = {one["name"] for block in later for one in block.json["queues"]}
        assert queue in told
        assert quiet not in told
        assert len(later) - 1 <= time.monotonic() - began  # however late they are read
        house.client().post(f"/queues/{queue}/pause")
        (paused,) = stream.events(1)
        assert (paused.event, paused.json["data"]["paused"]) == ("queue.paused", True)


def pending(stream: Stream, queue: str) -> int | None:
    """What the last counts said of a queue."""
    found = [one for b in stream.named("counts") for one in b.json["queues"]]
    mine = [one for one in found if one["name"] == queue]
    return mine[-1]["counts"]["pending"] if mine else None


def test_counts_say_what_the_queue_says(house: House) -> None:
    """The counts of a stream are those of `GET /queues/{name}`, in the same shape."""
    queue = house.queue()
    house.post(queue)
    with watch(house, "queues") as stream:
        stream.first("counts")
        found = [one for b in stream.named("counts") for one in b.json["queues"]]
    shown = house.client().get(f"/queues/{queue}").json()
    (mine,) = [one for one in found if one["name"] == queue]
    fields = ("name", "paused", "counts", "oldest_pending_seconds")
    assert list(mine) == list(fields)
    assert {**mine, "oldest_pending_seconds": 0} == {
        **{name: shown[name] for name in fields},
        "oldest_pending_seconds": 0,
    }


@pytest.mark.parametrize(
    "topics",
    [
        ["nonsense"],
        ["order:1"],
        ["order:"],
        ["queue:Not A Name"],
        ["queues:all"],
        ["customer:\n"],
        ["queues", "x:y"],
        [f"customer:c-{n}" for n in range(65)],
        [],
    ],
    ids=lambda topics: f"{len(topics)}-{str(topics[-1:])[:12]}",
)
def test_malformed_topics_are_refused(house: House, topics: list[str]) -> None:
    """A topic that cannot be, too many of them or none: 422, before anything is looked up."""
    for path in ("/events", "/events/history"):
        answer = house.client().get(path, params={"topic": topics})
        assert parameters(answer)[0] == "topic"


def test_64_topics_are_followed(house: House) -> None:
    """As many as are promised; the last of them works."""
    topics = [f"customer:c-many-{n}" for n in range(64)]
    with watch(house, *topics) as stream:
        stream.first("hello")
        house.post(house.queue(), customer="c-many-63")
        stream.events(1)


def test_one_bad_topic_refuses_all(house: House) -> None:
    """A reader never gets less than it asked for without knowing."""
    queue = house.queue()
    order = house.post(queue)["id"]
    good = [f"order:{order}", f"queue:{queue}"]
    client = house.client()
    for bad in (f"order:{NOWHERE}", "queue:there-is-none"):
        problem(client.get("/events", params={"topic": [*good, bad]}), 404, "not_found")
        problem(client.get("/events/history", params={"topic": [bad, *good]}), 404, "not_found")
        refused = client.post("/events/tickets", json={"topics": [*good, bad]})
        problem(refused, 404, "not_found")
    problem(client.get("/events", params={"topic": [*good, "x:"]}), 422, "invalid")


@pytest.fixture(scope="module")
def order_of(house: House) -> dict[str, str]:
    """An order of the customer account's own, and one of somebody else."""
    queue = house.queue()
    mine, other = house.post(queue), house.post(queue, customer="c-other")
    return {"own": mine["id"], "foreign": other["id"], "queue": queue}


TABLE = {
    # topic → role → status; what each may follow
    "order:own": "customer 200 producer 200 worker 200 viewer 200 admin 200 nobody 401",
    "order:foreign": "customer 404 producer 200 worker 200 viewer 200 admin 200 nobody 401",
    "order:missing": "customer 404 producer 404 worker 404 viewer 404 admin 404 nobody 401",
    "customer:own": "customer 200 producer 200 worker 403 viewer 200 admin 200 nobody 401",
    "customer:foreign": "customer 404 producer 200 worker 403 viewer 200 admin 200 nobody 401",
    "queue": "customer 403 producer 200 worker 200 viewer 200 admin 200 nobody 401",
    "queues": "customer 403 producer 200 worker 200 viewer 200 admin 200 nobody 401",
}
CASES = [
    (topic, role, int(status))
    for topic, row in TABLE.items()
    for role, status in zip(row.split()[::2], row.split()[1::2], strict=True)
]


def spelt(topic: str, order_of: dict[str, str]) -> str:
    kind, _, which = topic.partition(":")
    if kind == "order":
        return f"order:{order_of.get(which, NOWHERE)}"
    if kind == "customer":
        return f"customer:{CUSTOMER if which == 'own' else 'c-other'}"
    return f"queue:{order_of['queue']}" if kind == "queue" else kind


@pytest.mark.parametrize("topic, role, status", CASES)
def test_who_may_follow_what(
    house: House, order_of: dict[str, str], topic: str, role: str, status: int
) -> None:
    """Each role follows its own topics; what a caller may not know of is not there."""
    client = house.client(None if role == "nobody" else role)
    asked = spelt(topic, order_of)
    paths = {"/events": client.head, "/events/history": client.get}
    for path, call in paths.items():
        assert call(path, params={"topic": asked}).status_code == status, path
    if role != "nobody":
        made = client.post("/events/tickets", json={"topics": [asked]})
        assert made.status_code == (201 if status == 200 else status)


def test_a_ticket_opens_what_it_names(house: House, order_of: dict[str, str]) -> None:
    """A ticket is worth its topics: all, if none is asked for, and nothing beyond them."""
    mine, queue = f"order:{order_of['own']}", f"queue:{order_of['queue']}"
    text = ticket(house, [mine, queue])
    nobody = house.client(None)

    def status(path: str, *topics: str) -> int:
        params = {"ticket": text, "topic": list(topics)}
        return nobody.get(path, params=params, headers={"Accept": "x/x"}).status_code

    assert status("/events/history") == status("/events/history", mine) == 200
    for topic in (f"order:{order_of['foreign']}", f"order:{NOWHERE}", f"customer:{CUSTOMER}"):
        for path in ("/events", "/events/history"):
            assert status(path, topic) == 404
            assert status(path, mine, topic) == 404
    with Stream(house.url, ticket=text) as stream:
        stream.first("hello")
        assert house.claim(order_of["queue"], most=2)
        assert {block.event for block in stream.events(2)} == {"order.processing"}


def test_a_customer_sees_what_follows_of_his_own(house: House) -> None:
    """Orders that are posted after the stream began reach their customer, and only his."""
    queue = house.queue()
    with watch(house, f"customer:{CUSTOMER}", role="customer") as stream:
        stream.first("hello")
        house.post(queue, customer="c-other")
        mine = house.post(queue)["id"]
        assert [block.json["subject"] for block in stream.events(1)] == [mine]


# --- the history ----------------------------------------------------------------------


def events_of(
    house: House, topic: str, after: str | None = None, limit: int = 200
) -> list[dict[str, Any]]:
    """All events of a topic, page by page, as a reader follows `next_cursor`."""
    found: list[dict[str, Any]] = []
    cursor = after
    for _ in range(100):
        params = {"topic": topic, "limit": limit} | ({"after": cursor} if cursor else {})
        page = house.client().get("/events/history", params=params).json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found
    raise AssertionError("the history has no end")


def is_order(item: dict[str, Any]) -> bool:
    return item["type"].startswith("order.")


@pytest.mark.parametrize("limit", [1, 2, 3, 200])
def test_the_history_has_every_event_in_pages(house: House, limit: int) -> None:
    """Whatever the page size: each event once, oldest first, the same as the stream's."""
    queue = house.queue()
    with watch(house, f"queue:{queue}") as stream:
        start = stream.first("hello").id
        travel(house, queue)
        house.post(house.queue())
        travel(house, queue)
        streamed = [block.json for block in stream.events(6)]
    assert events_of(house, f"queue:{queue}", start, limit) == streamed


def test_the_history_goes_on_from_its_head(house: House) -> None:
    """`next_cursor` null means up to `head`; `after=<head>` gives what came since."""
    queue = house.queue()
    client, params = house.client(), {"topic": f"queue:{queue}"}
    before = head(house)
    page = client.get("/events/history", params=params).json()
    assert list(page) == ["items", "next_cursor", "head"]
    assert page["next_cursor"] is None
    assert number(before) <= number(page["head"]) <= number(head(house))
    posted = house.post(queue)
    page = client.get("/events/history", params={**params, "after": page["head"]}).json()
    assert [item["subject"] for item in page["items"]] == [posted["id"]]
    with watch(house, f"queue:{queue}", cursor=page["head"]) as stream:
        assert stream.first("hello").id == page["head"]


def test_the_history_since_a_time(house: House) -> None:
    """`since` finds the same events as the stream's."""
    queue = house.queue()
    house.post(queue)
    last = events_of(house, f"queue:{queue}")[-1]
    params = {"topic": f"queue:{queue}", "since": last["time"]}
    items = house.client().get("/events/history", params=params).json()["items"]
    assert last in items


@pytest.mark.parametrize(
    "after", ["x", "", "0", "0ther-1", "{epoch}-99999999", "{epoch}-007", "9" * 200]
)
def test_a_bad_cursor_of_the_history_is_refused(house: House, after: str) -> None:
    """Where a stream can say `reset`, a page says 400."""
    sent = after.replace("{epoch}", head(house).partition("-")[0])
    params = {"topic": "queues", "after": sent}
    problem(house.client().get("/events/history", params=params), 400, "bad_cursor")


# --- what happens under it ------------------------------------------------------------


def test_silence_is_filled(quiet: tuple[Stream, Stream]) -> None:
    """After 15 s of silence: two bytes, or a bookmark that moves the cursor; nothing empty."""
    still, moved = quiet
    still.wait(lambda one: one.comments, 60, "a heartbeat")
    silence = still.raw.removeprefix(still.blocks[0].raw)
    # After ten minutes a stream may have had its goodbye: a slow machine comes here late.
    assert re.fullmatch(rb"(:\n)+(retry: \d+\nevent: goodbye\n.*)?", silence, re.DOTALL)
    bookmark = moved.first("bookmark", 60)
    assert bookmark.json == {"head": bookmark.id}
    assert number(bookmark.id) > number(moved.blocks[0].id)
    shape = f"id: {bookmark.id}\nevent: bookmark\ndata: {bookmark.data}\n\n"
    assert bookmark.raw == shape.encode()
    assert all(block.event and block.data for block in moved.blocks)
    pieces = [*(block.raw for block in moved.blocks), *moved.comments]
    assert len(moved.raw) == sum(map(len, pieces))


def test_counts_of_many_queues_come_in_frames_of_200(own: House) -> None:
    """However many queues there are, no frame grows beyond a bound."""
    for _ in range(205):
        own.queue()
    with watch(own, "queues") as stream:
        stream.wait(lambda one: len(one.named("counts")) > 1, 30, "a second frame")
        sizes = [len(block.json["queues"]) for block in stream.named("counts")]
    assert sizes[0] == 200
    assert sum(sizes) > 205


def test_what_was_pruned_is_a_reset(own: House) -> None:
    """Below the floor there may be holes: 410 with a place to go on from, or a reset."""
    queue = own.queue()
    travel(own, queue)
    old = events_of(own, f"queue:{queue}")[0]["id"]
    stored(own, "UPDATE stream SET floor = head")
    now = head(own)
    params = {"topic": f"queue:{queue}", "after": old}
    gone = problem(own.client().get("/events/history", params=params), 410, "cursor_gone")
    assert (gone["oldest"], gone["head"]) == (now, now)

    def told() -> Block | None:
        with watch(own, f"queue:{queue}", cursor=old) as stream:
            stream.wait(lambda one: len(one.blocks) > 1, 30, "something after hello")
            return stream.blocks[1] if stream.blocks[1].event == "reset" else None

    reset = until(told, 30, "a reset")
    assert reset is not None
    assert reset.json == {"reason": "pruned", "oldest": now, "head": now}
    with watch(own, f"queue:{queue}", since="earliest") as stream:
        assert stream.first("hello").id == now
        own.post(queue)
        stream.events(1)


@pytest.mark.parametrize("column", ["epoch", "home"])
def test_another_log_resets_open_streams(own: House, column: str) -> None:
    """After a restore no cursor can be trusted: every stream is told, and goes on."""
    queue = own.queue()
    old = head(own)
    with watch(own, f"queue:{queue}") as stream:
        stream.first("hello")
        stored(own, f"UPDATE stream SET {column} = '{uuid4().hex[:8]}'")
        reset = stream.first("reset")
        assert reset.json["reason"] == "epoch"
        assert (reset.id or "").partition("-")[0] != old.partition("-")[0]
        own.post(queue)
        (block,) = stream.events(1)
        assert number(block.id) == number(reset.id) + 1
    with watch(own, f"queue:{queue}", cursor=old) as stream:
        assert stream.first("reset").json["reason"] == "epoch"
    params = {"topic": f"queue:{queue}", "after": old}
    problem(own.client().get("/events/history", params=params), 400, "bad_cursor")


def test_a_replay_of_many_is_whole(own: House) -> None:
    """A thousand events in batches: live, from the ring and from the history the same."""
    queue = own.queue()
    item = {"sku": "disc-001", "quantity": 1}
    batch = {"messages": [{"customer": "c-1", "items": [item]}] * 500}
    with watch(own, f"queue:{queue}") as live:
        start = live.first("hello").id
        for _ in range(2):
            answer = own.client("producer").post(f"/queues/{queue}/messages/batch", json=batch)
            assert answer.json()["accepted"] == 500
        seen = live.events(1000, 60)
    numbers = [number(block.id) for block in seen]
    assert numbers == list(range(numbers[0], numbers[0] + 1000))
    with watch(own, f"queue:{queue}", cursor=start) as stream:
        assert [block.raw for block in stream.events(1000, 60)] == [block.raw for block in seen]
    assert [item["id"] for item in events_of(own, f"queue:{queue}", start)] == live.ids


def test_the_cookie_of_a_page_opens_a_stream(own: House) -> None:
    """An EventSource sends no headers: a page that is signed in follows by its cookie."""
    sign_in = {"username": "viewer", "password": "a-password-of-tests"}
    answer = httpx.post(f"{own.url}/api/v1/auth/session", json=sign_in, timeout=30)
    cookie = answer.headers["set-cookie"].partition(";")[0]
    with watch(own, "queues", role=None, headers={"Cookie": cookie}) as stream:
        stream.first("hello")

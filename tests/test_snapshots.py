"""`snapshot=1`: the present state of the topics as of a cursor, then every change after it."""

import threading
from typing import Any
from uuid import uuid4

from tests.answers import parameters
from tests.house import API, CUSTOMER, House
from tests.live import head, travel, watch
from tests.sse import Block, Stream


def receive(house: House, sku: str, quantity: int = 5) -> None:
    answer = house.client().post(f"/products/{sku}/stock/receive", json={"quantity": quantity})
    assert answer.status_code == 200, answer.text


def state(stream: Stream) -> tuple[dict[str, list[Any]], list[Block]]:
    """The items of each topic, and the frames they came in."""

    def is_whole(found: Stream) -> list[Block]:
        frames = found.named("snapshot")
        return frames if frames and frames[-1].id is not None else []

    frames = stream.wait(is_whole, 30, "the snapshot")
    items: dict[str, list[Any]] = {}
    for frame in frames:
        items.setdefault(frame.json["topic"], []).extend(frame.json["items"])
    return items, frames


def test_each_topic_shows_its_own_shape(house: House) -> None:
    """An order, a customer's orders, a queue, a product: each as its own route shows it."""
    queue, customer, sku = house.queue(), f"c-{uuid4().hex[:8]}", f"s-{uuid4().hex[:8]}"
    receive(house, sku)
    order = house.post(queue, customer=customer)["id"]
    other = house.post(queue, customer=customer)["id"]
    topics = [f"order:{order}", f"customer:{customer}", f"queue:{queue}", f"stock:{sku}"]
    with watch(house, *topics, snapshot=1) as stream:
        items, _ = state(stream)
    client = house.client("viewer")
    shown = client.get(f"/orders/{order}").json()
    assert shown["position"] == 1
    assert items[topics[0]] == [shown]
    assert [one["id"] for one in items[topics[1]]] == [other, order]
    assert items[topics[1]][1] == shown
    told = client.get(f"/queues/{queue}").json()
    assert {**items[topics[2]][0], "oldest_pending_seconds": None} == {
        **told,
        "oldest_pending_seconds": None,
    }
    assert items[topics[3]] == [house.client("customer").get(f"/products/{sku}/stock").json()]
    assert items[topics[3]][0]["on_hand"] is None


def test_only_the_last_frame_has_an_id(house: House) -> None:
    """A client that is cut off in the middle comes back to the whole snapshot."""
    queue, customer = house.queue(), f"c-{uuid4().hex[:8]}"
    for _ in range(60):
        house.post(queue, customer=customer)
    with watch(house, f"customer:{customer}", f"queue:{queue}", snapshot=1) as stream:
        _, frames = state(stream)
    assert stream.blocks[0].event == "hello"
    assert stream.blocks[0].id is None
    assert [frame.id for frame in frames[:-1]] == [None, None]
    assert frames[-1].id == frames[0].json["as_of"]
    assert [(len(one.json["items"]), one.json["more"]) for one in frames] == [
        (50, True),
        (10, False),
        (1, False),
    ]
    assert not any(one.json["truncated"] for one in frames)


def test_nothing_is_a_frame_too(house: House) -> None:
    """A topic without anything says so."""
    with watch(house, f"stock:{uuid4().hex}", snapshot=1) as stream:
        items, frames = state(stream)
    assert list(items.values()) == [[]]
    assert frames[0].id is not None


def test_a_customers_two_hundred_newest(house: House) -> None:
    """More than may be shown is said: `truncated`."""
    queue, customer = house.queue(), f"c-{uuid4().hex[:8]}"
    wish = {"customer": customer, "items": [{"sku": "s", "quantity": 1}]}
    body = {"messages": [wish] * 201}
    answer = house.client("producer").post(f"/queues/{queue}/messages/batch", json=body)
    assert answer.json()["accepted"] == 201
    with watch(house, f"customer:{customer}", snapshot=1) as stream:
        items, frames = state(stream)
    (found,) = items.values()
    ids = [one["id"] for one in found]
    assert len(ids) == 200
    assert ids == sorted(ids, reverse=True)
    assert all(frame.json["truncated"] for frame in frames)


def test_all_queues_and_all_stock(house: House) -> None:
    """`queues` shows every live queue by name, `stock` every product that is counted."""
    queue, sku = house.queue(), f"s-{uuid4().hex[:8]}"
    receive(house, sku)
    with watch(house, "queues", "stock", snapshot=1) as stream:
        items, _ = state(stream)
        stream.first("counts")
    assert {"orders", queue} <= {one["name"] for one in items["queues"]}
    assert sku in {one["sku"] for one in items["stock"]}


def test_a_cursor_beats_the_snapshot(house: House) -> None:
    """A browser comes back to the same address: it resumes, it does not begin again."""
    queue = house.queue()
    cursor = head(house)
    house.post(queue)
    with watch(house, f"queue:{queue}", cursor=cursor, snapshot=1) as stream:
        (event,) = stream.events(1)
    assert (event.event, stream.named("snapshot")) == ("order.created", [])


def test_after_a_reset_comes_the_snapshot(house: House) -> None:
    """A cursor that means nothing here: the reset moves nothing, the snapshot does."""
    queue = house.queue()
    with watch(house, f"queue:{queue}", cursor="not-a-cursor", snapshot=1) as stream:
        items, frames = state(stream)
    assert stream.first("reset").id is None
    assert items[f"queue:{queue}"][0]["name"] == queue
    assert frames[-1].id is not None


def test_a_snapshot_is_of_now(house: House) -> None:
    """With `since` it would contradict itself."""
    query = {"topic": "queues", "snapshot": "1", "since": "earliest"}
    assert parameters(house.client().get("/events", params=query)) == ["since"]


def test_a_snapshot_shows_his_own_only(house: House) -> None:
    """P10: what may not be followed is not shown either."""
    order = house.post(house.queue(), customer="c-another")["id"]
    answer = house.client("customer").get(
        f"{house.url}{API}/events", params={"topic": f"order:{order}", "snapshot": "1"}
    )
    assert answer.status_code == 404
    with watch(house, f"customer:{CUSTOMER}", role="customer", snapshot=1) as stream:
        items, _ = state(stream)
    assert {one["customer"] for one in items[f"customer:{CUSTOMER}"]} <= {CUSTOMER}


def test_snapshot_and_changes_are_the_database(house: House) -> None:
    """State plus every change after it equals what is there, with purchases all the while."""
    queue, customer = house.queue(), f"c-{uuid4().hex[:8]}"
    stop, turns = threading.Event(), threading.Semaphore(0)

    def work() -> None:
        while turns.acquire() and not stop.is_set():
            travel(house, queue, customer=customer)

    worker = threading.Thread(target=work)
    worker.start()
    streams: list[Stream] = []
    try:
        for _ in range(10):
            turns.release(8)
            streams.append(watch(house, f"customer:{customer}", snapshot=1))
            turns.release(2)  # however long that took: something comes after it
            streams[-1].events(3)
    finally:
        stop.set()
        turns.release()
        worker.join(60)
    last = house.post(queue, customer=customer)["id"]
    rows = house.client().get("/messages", params={"customer": customer, "limit": 200}).json()
    there = {one["id"]: (one["status"], one["version"]) for one in rows["items"]}
    for stream in streams:
        stream.wait(lambda one: one.facts[-1].json["subject"] == last, 30, "the last event")
        items, _ = state(stream)
        (orders,) = items.values()
        known = {one["id"]: (one["status"], one["version"]) for one in orders}
        for fact in stream.facts:
            data = fact.json["data"]
            assert data["version"] == known.get(data["id"], ("", 0))[1] + 1
            known[data["id"]] = (data["status"], data["version"])
        assert known == there
        stream.close()

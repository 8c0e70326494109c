"""Many at once over HTTP: results in order, each standing or falling alone."""

from typing import Any

import pytest

from tests.answers import NOWHERE, PROBLEM, good, pointers, problem
from tests.house import CUSTOMER, DISC, House

BODY: dict[str, Any] = {"customer": CUSTOMER, "items": [DISC]}
CALLS = {
    "ack": ("acks", {}),
    "nack": ("nacks", {"error": "x", "delay_seconds": 0}),
    "release": ("releases", {}),
    "extend": ("extends", {"lease_seconds": 60}),
}


def batch(house: House, queue: str, messages: Any) -> dict[str, Any]:
    path = f"/queues/{queue}/messages/batch"
    return good(house.client("producer").post(path, json={"messages": messages}))


def test_a_batch_posts_what_is_good_and_names_what_is_not(house: House) -> None:
    """Each item gets the status it would have got alone; accepted counts the successes."""
    queue = house.queue()
    wrong = [{}, 7, None, {**BODY, "priority": 10}, {**BODY, "expires_at": "2020-01-01T00:00:00Z"}]
    body = batch(house, queue, [BODY, *wrong, {**BODY, "reference": "last"}])
    assert body["accepted"] == 2
    results = body["results"]
    assert [one["status"] for one in results] == [201, 422, 422, 422, 422, 422, 201]
    assert all(one.keys() == {"status", "id", "problem"} for one in results)
    for one in results[1:6]:
        assert one["id"] is None
        assert one["problem"].keys() >= PROBLEM
        assert (one["problem"]["status"], one["problem"]["code"]) == (422, "invalid")
    assert results[4]["problem"]["errors"][0]["pointer"] == "#/priority"
    last = good(house.client().get(f"/messages/{results[6]['id']}"))
    assert last["reference"] == "last"
    assert good(house.client().get(f"/queues/{queue}"))["counts"]["pending"] == 2


def test_a_batch_keeps_its_order(house: House) -> None:
    """What was posted first is claimed first, also in a batch of a thousand."""
    queue = house.queue()
    body = batch(house, queue, [{**BODY, "reference": str(n)} for n in range(1_000)])
    assert body["accepted"] == 1_000
    ids = [one["id"] for one in body["results"]]
    assert ids == sorted(ids)
    claimed = house.claim(queue, 100)
    assert [one["reference"] for one in claimed] == [str(n) for n in range(100)]


@pytest.mark.parametrize(
    "body, pointer",
    [
        ({"messages": []}, "#/messages"),
        ({"messages": [BODY] * 1_001}, "#/messages"),
        ({"messages": {}}, "#/messages"),
        ({}, "#/messages"),
        ({"messages": [BODY], "dry": 1}, "#/dry"),
        ([BODY], "#"),
    ],
    ids=["none", "too many", "no list", "empty", "unknown", "bare"],
)
def test_a_wrong_envelope_refuses_the_whole(house: House, body: Any, pointer: str) -> None:
    """None, too many, or another envelope is 422 for all."""
    answer = house.client("producer").post("/queues/orders/messages/batch", json=body)
    assert pointers(answer) == [pointer]


def test_a_batch_into_nowhere(house: House) -> None:
    """An unknown queue is 404 for the whole, whatever is in it."""
    producer = house.client("producer")
    for messages in ([BODY], [BODY, {}], [{}]):
        answer = producer.post("/queues/nope/messages/batch", json={"messages": messages})
        problem(answer, 404, "not_found")


def test_an_item_has_a_bound_of_its_own(house: House) -> None:
    """An item above 64 KiB is 413 alone; a batch of 4 MiB is taken; beyond it is 413."""
    queue = house.queue()
    padding = "x" * 4_000
    large = {**BODY, "metadata": {str(n): padding for n in range(17)}}
    results = batch(house, queue, [large, BODY])["results"]
    assert [one["status"] for one in results] == [413, 201]
    assert results[0]["problem"]["code"] == "too_large"
    many = [{**BODY, "metadata": {"a": padding}}] * 980
    assert batch(house, queue, many)["accepted"] == 980
    path = f"/queues/{queue}/messages/batch"
    beyond = house.client("producer").post(path, json={"messages": [*many, *many[:60]]})
    problem(beyond, 413, "too_large")


@pytest.mark.parametrize("verb", CALLS)
def test_many_leases_at_once(house: House, verb: str) -> None:
    """ack, nack, release and extend take many: each result names its message."""
    queue = house.queue()
    batch(house, queue, [BODY] * 3)
    one, two, three = house.claim(queue, 3)
    name, more = CALLS[verb]
    items: list[Any] = [
        {"id": one["id"], "receipt": one["receipt"], **more},
        {"id": two["id"], "receipt": "stale", **more},
        {"id": NOWHERE, "receipt": "r", **more},
        {"id": "no id", "receipt": "r", **more},
        {"receipt": "r", **more},
        "nothing",
        {"id": three["id"], "receipt": three["receipt"], "unknown": 1, **more},
        {"id": three["id"], "receipt": three["receipt"], **more},
    ]
    body = good(house.client("worker").post(f"/messages/{verb}", json={name: items}))
    results = body["results"]
    assert [r["status"] for r in results] == [200, 409, 404, 404, 422, 422, 422, 200]
    assert body["accepted"] == 2
    names = [one["id"], two["id"], NOWHERE, "no id", None, None, three["id"], three["id"]]
    assert [r["id"] for r in results] == names
    assert results[1]["problem"]["code"] == "lease_lost"
    assert results[1]["problem"]["current"] == "processing"
    assert [r["problem"] is None for r in results] == [r["status"] == 200 for r in results]
    told = {"status", "id", "problem"}
    if verb == "extend":
        told |= {"lease_expires_at", "cancel_requested"}
        assert results[0]["lease_expires_at"] > one["lease_expires_at"]
        assert results[0]["cancel_requested"] is False
        assert (results[1]["lease_expires_at"], results[1]["cancel_requested"]) == (None, None)
    assert all(r.keys() == told for r in results)
    for wrong in ([], items * 200, {}):
        answer = house.client("worker").post(f"/messages/{verb}", json={name: wrong})
        assert pointers(answer) == [f"#/{name}"]


def test_the_same_receipt_twice_in_one_call(house: House) -> None:
    """The second copy gets the first answer, another verb's is refused: as one by one."""
    queue = house.queue()
    house.post(queue)
    [one] = house.claim(queue)
    ack = {"id": one["id"], "receipt": one["receipt"]}
    worker = house.client("worker")
    twice = good(worker.post("/messages/ack", json={"acks": [ack, ack]}))
    assert [r["status"] for r in twice["results"]] == [200, 200]
    again = good(worker.post("/messages/release", json={"releases": [ack]}))
    assert again["results"][0]["problem"]["current"] == "completed"


def test_an_ack_of_many_may_forward(house: House) -> None:
    """Items of a bulk ack have result and forward_to of their own."""
    queue, following = house.queue(), house.queue()
    batch(house, queue, [BODY] * 3)
    claimed = house.claim(queue, 3)
    targets = [following, None, "nope"]
    acks = [
        {"id": m["id"], "receipt": m["receipt"], "forward_to": target, "result": {"n": 1}}
        for m, target in zip(claimed, targets, strict=True)
    ]
    body = good(house.client("worker").post("/messages/ack", json={"acks": acks}))
    assert [r["status"] for r in body["results"]] == [200, 200, 422]
    assert body["results"][2]["problem"]["errors"][0]["pointer"] == "#/forward_to"
    assert [one["id"] for one in house.claim(following, 5)] == [claimed[0]["id"]]

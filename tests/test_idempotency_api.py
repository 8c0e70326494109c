"""Idempotency over HTTP: one purchase per key, however often and from wherever it comes."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.answers import good, pointers, problem
from tests.house import CUSTOMER, DISC, PASSWORD, House, settled

BODY: dict[str, Any] = {"customer": CUSTOMER, "items": [DISC]}


def post(
    house: House, queue: str, key: str | None = None, role: str = "producer", **changes: Any
) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    path = f"/queues/{queue}/messages"
    return house.client(role).post(path, json={**BODY, **changes}, headers=headers)


def replayed(answer: httpx.Response, first: httpx.Response) -> None:
    assert (answer.status_code, answer.content) == (200, first.content), answer.text
    assert answer.headers["idempotent-replayed"] == "true"
    assert answer.headers["location"] == first.headers["location"]


def test_the_same_key_again_answers_as_the_first_time(house: House) -> None:
    """A replay is 200, Idempotent-Replayed and the same bytes, tracking included."""
    queue = house.queue()
    first = post(house, queue, "order-1")
    assert good(first, 201)["idempotency_key"] == "order-1"
    assert "idempotent-replayed" not in first.headers
    replayed(post(house, queue, "order-1"), first)
    replayed(post(house, queue, '"order-1"'), first)
    replayed(post(house, queue, idempotency_key="order-1"), first)
    replayed(post(house, queue, "order-1", idempotency_key="order-1"), first)
    assert good(house.client().get(f"/queues/{queue}"))["counts"]["pending"] == 1


def test_a_replay_tells_the_first_answer_whatever_happened_since(house: House) -> None:
    """Claimed, failed, retried, forwarded or cancelled: the replay is still the first answer."""
    queue, other = house.queue(), house.queue()
    first = post(
        house, queue, "k", priority=3, metadata={"a": 1.5, "b": []}, reference="1", group="g",
        expires_at="2999-01-01T00:00:00+01:00",
    )  # fmt: skip
    again: dict[str, Any] = {
        "priority": 3,
        "metadata": {"b": [], "a": 1.5},
        "reference": "1",
        "group": "g",
        "expires_at": "2998-12-31T23:00:00.000Z",
    }
    [one] = house.claim(queue)
    replayed(post(house, queue, "k", **again), first)
    good(house.settle("nack", one, error="no", retry=False))
    replayed(post(house, queue, "k", **again), first)
    good(house.client().post(f"/messages/{one['id']}/retry"))
    [one] = house.claim(queue)
    good(house.settle("ack", one, forward_to=other, result=1))
    replayed(post(house, queue, "k", **again), first)
    good(house.client().post(f"/messages/{one['id']}/cancel"))
    replayed(post(house, queue, "k", **again), first)
    good(post(house, other, "k", **again), 201)


def test_defaults_filled_in_are_the_same_purchase(house: House) -> None:
    """Left-out fields, nulls and a different order of fields do not make another purchase."""
    queue = house.queue()
    first = post(house, queue, "k")
    spelled: dict[str, Any] = {
        "metadata": {},
        "priority": 0,
        "currency": "BRL",
        "delay_seconds": None,
        "items": [dict(reversed(DISC.items()))],
    }
    replayed(post(house, queue, "k", **spelled), first)


@pytest.mark.parametrize(
    "change",
    [
        {"customer": "c-x"},
        {"items": [DISC, DISC]},
        {"items": [{**DISC, "quantity": 3}]},
        {"currency": "EUR"},
        {"reference": "1"},
        {"priority": 1},
        {"group": "g"},
        {"delay_seconds": 1},
        {"expires_at": "2999-01-01T00:00:00Z"},
        {"metadata": {"a": None}},
    ],
    ids=str,
)
def test_another_purchase_under_the_key_is_refused(house: House, change: dict[str, Any]) -> None:
    """422 idempotency_key_reused for every field that differs, and nothing is posted."""
    queue = house.queue()
    first = post(house, queue, "k")
    problem(post(house, queue, "k", **change), 422, "idempotency_key_reused")
    assert good(house.client().get(f"/queues/{queue}"))["counts"]["pending"] == 1
    replayed(post(house, queue, "k"), first)


def test_a_key_belongs_to_account_and_queue(house: House) -> None:
    """The same key of another account, or for another queue, is another purchase."""
    queue, other = house.queue(), house.queue()
    ids = {
        good(post(house, queue, "k"), 201)["id"],
        good(post(house, other, "k"), 201)["id"],
        good(post(house, queue, "k", role="admin"), 201)["id"],
    }
    assert len(ids) == 3


def test_only_a_success_is_kept(house: House) -> None:
    """A key whose purchase was refused is free again."""
    queue = house.queue()
    late = post(house, queue, "k", expires_at="2020-01-01T00:00:00Z")
    assert pointers(late) == ["#/expires_at"]
    first = post(house, queue, "k")
    good(first, 201)
    replayed(post(house, queue, "k"), first)


@pytest.mark.parametrize("key", [b"", b'""', b"a b", b"k" * 256, b"\xe9"])
def test_a_header_that_is_no_key(house: House, key: bytes) -> None:
    """1 to 255 visible ASCII characters; else 400 bad_header, and nothing is posted."""
    path = "/queues/orders/messages"
    header = [(b"Idempotency-Key", key)]
    answer = house.client("producer").post(path, json=BODY, headers=header)
    assert problem(answer, 400, "bad_header")["errors"][0]["header"] == "Idempotency-Key"


def test_two_keys_that_differ(house: House) -> None:
    """Header and field that disagree are 422; two headers are 400; the longest key is fine."""
    queue = house.queue()
    assert pointers(post(house, queue, "a", idempotency_key="b")) == ["#/idempotency_key"]
    twice = house.client("producer").post(
        f"/queues/{queue}/messages",
        json=BODY,
        headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "a")],
    )
    problem(twice, 400, "bad_header")
    longest = "~" * 255
    first = post(house, queue, longest)
    good(first, 201)
    replayed(post(house, queue, longest), first)


def test_copies_at_once_are_one(house: House) -> None:
    """Twelve copies at the same moment make one message and twelve equal answers."""
    queue = house.queue()
    house.client("producer")
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: post(house, queue, "k"), range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] * 11 + [201]
    assert len({answer.content for answer in answers}) == 1
    assert good(house.client().get(f"/queues/{queue}"))["counts"]["pending"] == 1


def test_copies_at_once_in_two_processes_are_one(twins: House) -> None:
    """The same when the copies meet different processes."""
    queue = twins.queue()
    lines = [twins.client("producer", process) for process in (0, 1)]
    for round_ in range(10):
        headers = {"Idempotency-Key": f"k-{round_}"}

        def send(line: httpx.Client, headers: dict[str, str] = headers) -> httpx.Response:
            path = f"/queues/{queue}/messages"
            return settled(lambda: line.post(path, json=BODY, headers=headers))

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(send, lines * 3))
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
        assert len({answer.content for answer in answers}) == 1
    assert good(twins.client().get(f"/queues/{queue}"))["counts"]["pending"] == 10


def test_in_a_batch_each_has_a_key_of_its_own(house: House) -> None:
    """A batch replays item by item; the header there is 400; two copies inside are one."""
    queue = house.queue()
    path = f"/queues/{queue}/messages/batch"
    producer = house.client("producer")
    batch = {"messages": [{**BODY, "idempotency_key": key} for key in ("a", "b", "a")]}
    first = good(producer.post(path, json=batch))
    assert [one["status"] for one in first["results"]] == [201, 201, 200]
    assert first["results"][0]["id"] == first["results"][2]["id"]
    again = good(producer.post(path, json=batch))
    assert [one["status"] for one in again["results"]] == [200, 200, 200]
    assert [one["id"] for one in again["results"]] == [one["id"] for one in first["results"]]
    other = {**BODY, "idempotency_key": "a", "priority": 1}
    mixed = good(producer.post(path, json={"messages": [other, BODY]}))
    assert [one["status"] for one in mixed["results"]] == [422, 201]
    assert mixed["results"][0]["problem"]["code"] == "idempotency_key_reused"
    single = post(house, queue, "a")
    assert (single.status_code, single.json()["id"]) == (200, first["results"][0]["id"])
    header = producer.post(path, json=batch, headers={"Idempotency-Key": "z"})
    assert problem(header, 400, "bad_header")["errors"][0]["header"] == "Idempotency-Key"


def test_a_replay_after_a_new_sign_in(house: House) -> None:
    """The key is the account's, not the token's: a later sign-in finds the same answer."""
    queue = house.queue()
    first = post(house, queue, "k")
    form = {"username": "producer", "password": PASSWORD}
    token = good(house.client(None).post("/auth/token", data=form))["access_token"]
    again = house.client(None).post(
        f"/queues/{queue}/messages",
        json=BODY,
        headers={"Idempotency-Key": "k", "Authorization": f"Bearer {token}"},
    )
    replayed(again, first)

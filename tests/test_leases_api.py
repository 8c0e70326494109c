"""Leases over HTTP: claim, ack, nack, release, extend, forward, and what a receipt is worth."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.answers import NOWHERE, good, pointers, problem, stored
from tests.house import PASSWORD, House
from tests.services import until

VERBS: dict[str, dict[str, Any]] = {
    "ack": {},
    "nack": {"error": "no card"},
    "release": {},
    "extend": {"lease_seconds": 60},
}
LAST_ENDS = ("ack", "nack", "release")  # the calls that end a lease


def leased(house: House, **settings: Any) -> dict[str, Any]:
    """A claimed message in a queue of its own."""
    queue = house.queue(**settings)
    house.post(queue)
    [one] = house.claim(queue)
    return one


def reaped(house: House, number: int) -> list[dict[str, Any]]:
    """Messages, each in a queue of its own, whose leases ran out and that were taken back."""
    found = [leased(house, lease_seconds=1) for _ in range(number)]

    def back(one: dict[str, Any]) -> bool:
        return good(house.client().get(f"/messages/{one['id']}"))["status"] == "pending"

    until(lambda: all(map(back, found)), 60, "the leases ran out")
    return found


def waiting(
    house: House, pool: ThreadPoolExecutor, queue: str, worker: httpx.Client, **headers: str
) -> Future[httpx.Response]:
    """A claim that waits for 20 s; the one process has looked at it."""
    sent = threading.Event()

    def trace(step: str, _: Any) -> None:
        if step == "http11.send_request_body.complete":
            sent.set()

    def claim() -> httpx.Response:
        path, body, told = f"/queues/{queue}/claim", {"wait_seconds": 20}, {"trace": trace}
        return worker.post(path, json=body, headers=headers, extensions=told)

    asked = pool.submit(claim)
    assert sent.wait(60)
    assert house.claim(queue) == []  # asked after it, and answered
    return asked


# --- claiming -------------------------------------------------------------------------


def test_a_claim_leases_with_a_receipt(house: House) -> None:
    """A claimed message says who holds it until when, with receipt and lease_epoch."""
    queue = house.queue(lease_seconds=60)
    posted = house.post(queue)
    del posted["tracking"]
    [one] = house.claim(queue, lease_seconds=90, worker="w-ä")
    assert one.keys() == posted.keys() | {"receipt", "lease_epoch"}
    assert (one["status"], one["version"], one["worker"]) == ("processing", 2, "w-ä")
    assert one["lease_epoch"] == 1
    assert one["updated_at"] < one["lease_expires_at"]
    good(house.settle("release", one))
    [two] = house.claim(queue)
    assert (two["lease_epoch"], two["worker"]) == (2, "worker")
    assert two["receipt"] != one["receipt"]
    found = good(house.client().get(f"/messages/{two['id']}"))
    assert "receipt" not in found
    assert found["lease_expires_at"] == two["lease_expires_at"]


def test_a_claim_without_a_body_takes_one(house: House) -> None:
    """All fields of a claim have defaults; no body at all is as good."""
    queue = house.queue()
    house.post(queue)
    house.post(queue)
    found = good(house.client("worker").post(f"/queues/{queue}/claim"))
    assert len(found["messages"]) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"max": 0},
        {"max": 101},
        {"wait_seconds": 21},
        {"wait_seconds": -1},
        {"lease_seconds": 0},
        {"lease_seconds": 43_201},
        {"worker": ""},
        {"worker": "w" * 101},
        {"worker": 7},
        {"wait": 0},
    ],
    ids=str,
)
def test_a_claim_out_of_shape_is_refused(house: House, wrong: dict[str, Any]) -> None:
    """Bounds of a claim are checked, and located."""
    answer = house.client("worker").post("/queues/orders/claim", json=wrong)
    assert pointers(answer) == [f"#/{next(iter(wrong))}"]


def test_claims_come_in_order(house: House) -> None:
    """Higher priority first, then available_at, then the order of arrival; delayed ones wait."""
    queue = house.queue()
    house.post(queue, delay_seconds=1000, priority=9)
    last = house.post(queue)["id"]
    last_too = house.post(queue)["id"]
    first = house.post(queue, priority=9)["id"]
    second = house.post(queue, priority=1)["id"]
    assert [one["id"] for one in house.claim(queue, 100)] == [first, second, last, last_too]


def test_a_waiting_claim_is_woken_by_a_post(house: House) -> None:
    """wait_seconds: the answer comes when there is something, and not only at the end."""
    queue = house.queue()
    with ThreadPoolExecutor(1) as pool:
        asked = waiting(house, pool, queue, house.client("worker"))
        began = time.monotonic()
        posted = house.post(queue)
        found = good(asked.result(60))["messages"]
    assert [one["id"] for one in found] == [posted["id"]]
    assert time.monotonic() - began < 15


def test_who_ends_while_he_waits_is_given_nothing(house: House) -> None:
    """A worker who was deactivated meanwhile: 401, and the message is there for others."""
    queue, name = house.queue(), f"w-{uuid4().hex}"
    account = {"username": name, "password": PASSWORD, "roles": ["worker"]}
    good(house.client().post("/accounts", json=account), 201)
    form = {"username": name, "password": PASSWORD}
    token = good(house.client(None).post("/auth/token", data=form))["access_token"]
    with ThreadPoolExecutor(1) as pool:
        nobody = house.client(None)
        asked = waiting(house, pool, queue, nobody, Authorization=f"Bearer {token}")
        good(house.client().patch(f"/accounts/{name}", json={"active": False}))
        posted = house.post(queue)
        problem(asked.result(60), 401, "unauthenticated")
    (message,) = house.claim(queue)
    assert (message["id"], message["attempts"], message["lost_leases"]) == (posted["id"], 0, 0)


def test_an_empty_queue_answers_after_the_wait(house: House) -> None:
    """Nothing to lease: an empty list, not sooner than asked and not much later."""
    queue = house.queue()
    began = time.monotonic()
    assert house.claim(queue, wait_seconds=1) == []
    assert 1 <= time.monotonic() - began < 15  # the longest wait there is takes 20


def test_nobody_gets_what_another_has(house: House) -> None:
    """Eight workers at once share thirty messages without a double."""
    queue = house.queue()
    batch = [{"customer": "c-1", "items": [{"sku": "a", "quantity": 1}]}] * 30
    path = f"/queues/{queue}/messages/batch"
    good(house.client("producer").post(path, json={"messages": batch}))
    house.client("worker")
    with ThreadPoolExecutor(8) as pool:
        taken = [
            one for part in pool.map(lambda _: house.claim(queue, 5), range(8)) for one in part
        ]
    assert len(taken) == len({one["id"] for one in taken}) == 30


# --- settling -------------------------------------------------------------------------


def test_the_answers_to_ack_nack_and_release(house: House) -> None:
    """Each says id, queue, status and version, and nothing else."""
    for verb, status in (("ack", "completed"), ("nack", "pending"), ("release", "pending")):
        one = leased(house)
        body = good(house.settle(verb, one, **VERBS[verb]))
        assert body == {"id": one["id"], "queue": one["queue"], "status": status, "version": 3}
        assert house.settle(verb, one, **VERBS[verb]).json() == body, "and again the same"


def test_a_result_is_kept(house: House) -> None:
    """The result of an ack is any JSON, and shown to staff."""
    for result in ({"a": [1]}, [], "done", 0, False):
        one = leased(house)
        good(house.settle("ack", one, result=result))
        assert good(house.client().get(f"/messages/{one['id']}"))["result"] == result


def test_nacks_are_counted_and_back_off(house: House) -> None:
    """Each nack counts an attempt, waits its delay, and the last one fails the message."""
    one = leased(house, max_attempts=2)
    body = good(house.settle("nack", one, error="é" * 1024, delay_seconds=0))
    assert body["status"] == "pending"
    [two] = house.claim(one["queue"])
    assert (two["attempts"], two["last_error"]) == (1, "é" * 1024)
    assert good(house.settle("nack", two, error="last"))["status"] == "failed"
    other = leased(house)
    good(house.settle("nack", other, error="later", delay_seconds=1000))
    assert house.claim(other["queue"]) == []
    dead = leased(house)
    assert good(house.settle("nack", dead, error="never", retry=False))["status"] == "failed"


def test_a_release_counts_nothing(house: House) -> None:
    """What was given back is as it was, and at once to be had."""
    one = leased(house, max_attempts=1, max_lost_leases=1)
    good(house.settle("release", one))
    [two] = house.claim(one["queue"])
    assert (two["attempts"], two["lost_leases"], two["last_error"]) == (0, 0, None)


def test_an_extended_lease_is_counted_from_now(house: House) -> None:
    """extend answers the new end and whether a cancel was asked; it may also shorten."""
    one = leased(house, lease_seconds=600)
    longer = good(house.settle("extend", one, lease_seconds=43_200))
    assert longer.keys() == {"lease_expires_at", "cancel_requested"}
    assert longer["cancel_requested"] is False
    found = good(house.client().get(f"/messages/{one['id']}"))
    assert found["lease_expires_at"] == longer["lease_expires_at"] > one["lease_expires_at"]
    assert found["version"] == 2, "no step, no event"


@pytest.mark.parametrize(
    "verb, body, pointer",
    [
        ("ack", {"receipt": None}, "#/receipt"),
        ("ack", {"receipt": ""}, "#/receipt"),
        ("ack", {"receipt": "r" * 129}, "#/receipt"),
        ("ack", {"receipt": "r", "forward_to": "Bad"}, "#/forward_to"),
        ("ack", {"receipt": "r", "result": "x" * 16_384}, "#/result"),
        ("ack", {"receipt": "r", "error": "x"}, "#/error"),
        ("nack", {"receipt": "r"}, "#/error"),
        ("nack", {"receipt": "r", "error": ""}, "#/error"),
        ("nack", {"receipt": "r", "error": "é" * 1025}, "#/error"),
        ("nack", {"receipt": "r", "error": "x", "retry": 1}, "#/retry"),
        ("nack", {"receipt": "r", "error": "x", "delay_seconds": 2_592_001}, "#/delay_seconds"),
        ("release", {}, "#/receipt"),
        ("extend", {"receipt": "r"}, "#/lease_seconds"),
        ("extend", {"receipt": "r", "lease_seconds": 0}, "#/lease_seconds"),
    ],
    ids=str,
)
def test_a_settlement_out_of_shape_is_refused(
    house: House, verb: str, body: dict[str, Any], pointer: str
) -> None:
    """Bounds of a worker's call are checked before the message is looked for."""
    answer = house.client("worker").post(f"/messages/{NOWHERE}/{verb}", json=body)
    assert pointers(answer) == [pointer]


@pytest.mark.parametrize("verb", VERBS)
def test_a_strange_receipt_is_worth_nothing(house: House, verb: str) -> None:
    """Any other text is 409 lease_lost with the present status, whatever characters it has."""
    one = leased(house)
    for receipt in ("x", "é", "\u2603" * 60, one["receipt"][:-1], one["receipt"] + "a"):
        answer = house.settle(verb, {**one, "receipt": receipt}, **VERBS[verb])
        assert problem(answer, 409, "lease_lost")["current"] == "processing"
    absent = house.settle(verb, {**one, "id": NOWHERE}, **VERBS[verb])
    problem(absent, 404, "not_found")
    good(house.settle("ack", one))


@pytest.mark.parametrize("first", LAST_ENDS)
@pytest.mark.parametrize("second", VERBS)
def test_a_used_receipt(house: House, first: str, second: str) -> None:
    """The same call again answers as the first time, also after others claimed; another: 409."""
    one = leased(house)
    bodies = {**VERBS, "nack": {"error": "x", "delay_seconds": 0}}
    answer = house.settle(first, one, **bodies[first])
    good(answer)
    if first != "ack":
        assert len(house.claim(one["queue"])) == 1
    again = house.settle(second, one, **bodies[second])
    if first == second:
        assert (again.status_code, again.content) == (200, answer.content)
    else:
        assert problem(again, 409, "lease_lost")["current"] in ("completed", "processing")


def test_a_lost_lease_still_counts_until_somebody_claims(house: House) -> None:
    """After the reaper: extend and release are 409, ack is accepted, once others claimed 409."""
    one, lost, stale = reaped(house, 3)
    found = good(house.client().get(f"/messages/{one['id']}"))
    assert (found["lost_leases"], found["worker"], found["attempts"]) == (1, None, 0)
    for verb in ("extend", "release"):
        problem(house.settle(verb, one, **VERBS[verb]), 409, "lease_lost")
    assert good(house.settle("ack", one))["status"] == "completed"
    assert good(house.settle("nack", lost, error="late", delay_seconds=0))["status"] == "pending"
    [fresh] = house.claim(stale["queue"])
    for verb, body in VERBS.items():
        problem(house.settle(verb, stale, **body), 409, "lease_lost")
    good(house.settle("ack", fresh))


def test_the_last_lost_lease_fails_the_message(house: House) -> None:
    """Lost lease number max_lost_leases makes it a dead letter, with a reason to read."""
    one = leased(house, lease_seconds=1, max_lost_leases=1)
    path = f"/messages/{one['id']}"
    until(lambda: good(house.client().get(path))["status"] == "failed", 60, "the lease ran out")
    found = good(house.client().get(path))
    assert (found["lost_leases"], found["attempts"]) == (1, 0)
    assert found["last_error"]
    problem(house.settle("ack", one), 409, "lease_lost")


# --- forwarding -----------------------------------------------------------------------


def test_a_forward_goes_on_in_the_next_queue(house: House) -> None:
    """One id from queue to queue, counters fresh, at once to be had; the result is kept."""
    one = leased(house)
    following = house.queue()
    good(house.settle("nack", one, error="x", delay_seconds=0))
    [two] = house.claim(one["queue"])
    body = good(house.settle("ack", two, forward_to=following, result={"paid": 1}))
    assert body == {"id": one["id"], "queue": following, "status": "pending", "version": 5}
    assert good(house.settle("ack", two, forward_to=following)) == body, "and again the same"
    [three] = house.claim(following)
    assert (three["id"], three["attempts"], three["result"]) == (one["id"], 0, {"paid": 1})
    assert three["lease_epoch"] == 3


def test_a_forward_to_nowhere_keeps_the_lease(house: House) -> None:
    """Unknown, deleted and the same queue are 422 at #/forward_to; a paused one is fine."""
    one = leased(house)
    deleted, paused = house.queue(), house.queue()
    assert house.client().delete(f"/queues/{deleted}").status_code == 204
    good(house.client().post(f"/queues/{paused}/pause"))
    for name in ("nope", deleted, one["queue"]):
        assert pointers(house.settle("ack", one, forward_to=name)) == ["#/forward_to"]
    assert good(house.settle("extend", one, lease_seconds=60))
    assert good(house.settle("ack", one, forward_to=paused))["queue"] == paused


# --- when a row is broken -------------------------------------------------------------


def test_a_row_that_nobody_can_read_holds_nobody_up(house: House) -> None:
    """One command that falls is answered 500 at once; the writer goes on with the others.

    Not at once would be 503, when it has been tried to the end of its time.
    """
    broken, sound = house.queue(), house.queue()
    posted = house.post(broken)
    stored(house, f"UPDATE messages SET items = 'no json' WHERE id = '{posted['id']}'")
    problem(house.client("worker").post(f"/queues/{broken}/claim"), 500, "internal")
    house.post(sound)
    assert len(house.claim(sound)) == 1
    stored(house, f"UPDATE messages SET items = '[]' WHERE id = '{posted['id']}'")
    assert len(house.claim(broken)) == 1

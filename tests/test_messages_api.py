"""Purchases over HTTP: posting, reading, cancelling, and what their customers see."""

import uuid
from typing import Any

import pytest

from tests.answers import NOWHERE, good, parameters, pointers, problem, stored
from tests.house import CUSTOMER, DISC, House
from tests.services import until

FULL: dict[str, Any] = {
    "customer": "C.7_@+-x",
    "items": [{"sku": "disc-001", "quantity": 10_000, "amount_cents": 10**12}],
    "currency": "EUR",
    "reference": "N° 1042 – ä€😀",
    "priority": 9,
    "group": "g" * 64,
    "delay_seconds": 2_592_000,
    "expires_at": "2999-12-31T23:59:59.999+02:00",
    "idempotency_key": "full-1",
    "metadata": {"a": [1, 1.5, None, True, {"b": "ü"}], "": -1e300},
}
MESSAGE = {
    *("id", "reference", "customer", "queue", "status", "version", "cancel_requested"),
    *("items", "total_cents", "currency", "priority", "group", "metadata"),
    *("idempotency_key", "attempts", "lost_leases", "available_at", "expires_at"),
    *("worker", "lease_expires_at", "last_error", "result", "created_at", "updated_at"),
    *("finished_at",),
}
ORDER = {
    *("id", "reference", "customer", "queue", "status", "version", "cancel_requested"),
    *("items", "total_cents", "currency", "available_at", "expires_at", "position"),
    *("position_exact", "eta_seconds", "created_at", "updated_at", "finished_at"),
}
ITEM = {
    *("id", "type", "time", "version", "queue", "previous_queue", "status"),
    *("previous_status", "reason"),
}
STAFF_ITEM = ITEM | {"actor", "worker", "error", "result"}


def purchase(**changes: Any) -> dict[str, Any]:
    return {"customer": CUSTOMER, "items": [DISC], **changes}


def deep(levels: int) -> dict[str, Any]:
    """Metadata `levels` deep."""
    made: dict[str, Any] = {}
    for _ in range(levels - 1):
        made = {"a": made}
    return made


# --- posting --------------------------------------------------------------------------


def test_a_post_answers_with_the_whole_message(house: House) -> None:
    """201 with Location, ETag, every field, defaults filled in, and a link to follow it."""
    queue = house.queue()
    answer = house.client("producer").post(f"/queues/{queue}/messages", json=purchase())
    body = good(answer, 201)
    tracking = body.pop("tracking")
    assert body.keys() == MESSAGE
    assert uuid.UUID(body["id"]).version == 7
    assert answer.headers["location"] == f"/api/v1/messages/{body['id']}"
    assert answer.headers["etag"] == '"1"'
    for name, value in {
        "customer": CUSTOMER,
        "queue": queue,
        "status": "pending",
        "version": 1,
        "cancel_requested": False,
        "items": [DISC],
        "total_cents": 1980,
        "currency": "BRL",
        "priority": 0,
        "metadata": {},
        "attempts": 0,
        "lost_leases": 0,
        "available_at": body["created_at"],
        "updated_at": body["created_at"],
    }.items():
        assert body[name] == value, name
    empty = MESSAGE - {name for name in MESSAGE if body[name] is not None}
    assert empty == {
        *("reference", "group", "idempotency_key", "expires_at", "worker", "lease_expires_at"),
        *("last_error", "result", "finished_at"),
    }
    order = body["id"]
    ticket = tracking["ticket"]
    assert tracking["url"] == f"http://filaviva.test/track/{order}?ticket={ticket}"
    assert tracking["expires_at"] > body["created_at"]
    assert good(house.client(None).get(f"/orders/{order}", params={"ticket": ticket}))
    assert good(house.client("viewer").get(f"/messages/{order}")) == body


def test_every_field_comes_back_as_it_went_in(house: House) -> None:
    """All fields of a purchase at their bounds are stored and told, times in UTC."""
    queue = house.queue()
    body = house.post(queue, **FULL)
    for name in FULL.keys() - {"delay_seconds", "expires_at"}:
        assert body[name] == FULL[name], name
    assert body["expires_at"] == "2999-12-31T21:59:59.999Z"
    assert body["total_cents"] == 10**12
    assert body["available_at"] > body["created_at"]
    assert house.claim(queue) == [], "it is delayed"


def test_without_an_amount_there_is_no_total(house: House) -> None:
    """One line without amount_cents makes total_cents null; null is left out."""
    lines = [DISC, {"sku": "a", "quantity": 1, "amount_cents": None}]
    body = house.post(house.queue(), items=lines, reference=None, priority=None)
    assert (body["total_cents"], body["priority"], body["reference"]) == (None, 0, None)
    assert body["items"][1] == {"sku": "a", "quantity": 1, "amount_cents": None}


@pytest.mark.parametrize(
    "changes, pointer",
    [
        ({"customer": None}, "#/customer"),
        ({"customer": "-a"}, "#/customer"),
        ({"customer": "a" * 65}, "#/customer"),
        ({"customer": "a b"}, "#/customer"),
        ({"customer": 7}, "#/customer"),
        ({"items": []}, "#/items"),
        ({"items": [DISC] * 101}, "#/items"),
        ({"items": {}}, "#/items"),
        ({"items": [{**DISC, "quantity": 0}]}, "#/items/0/quantity"),
        ({"items": [DISC, {**DISC, "quantity": 10_001}]}, "#/items/1/quantity"),
        ({"items": [{**DISC, "quantity": 1.0}]}, "#/items/0/quantity"),
        ({"items": [{**DISC, "quantity": "1"}]}, "#/items/0/quantity"),
        ({"items": [{**DISC, "quantity": True}]}, "#/items/0/quantity"),
        ({"items": [{**DISC, "amount_cents": -1}]}, "#/items/0/amount_cents"),
        ({"items": [{**DISC, "amount_cents": 10**12 + 1}]}, "#/items/0/amount_cents"),
        ({"items": [{**DISC, "sku": ""}]}, "#/items/0/sku"),
        ({"items": [{**DISC, "price": 1}]}, "#/items/0/price"),
        ({"items": [{**DISC, "a/b~c": 1}]}, "#/items/0/a~1b~0c"),
        ({"items": [{"sku": "a"}]}, "#/items/0/quantity"),
        ({"currency": "brl"}, "#/currency"),
        ({"currency": "BRLX"}, "#/currency"),
        ({"reference": ""}, "#/reference"),
        ({"reference": "a" * 65}, "#/reference"),
        ({"reference": "\x00"}, "#/reference"),
        ({"group": ""}, "#/group"),
        ({"priority": 10}, "#/priority"),
        ({"priority": -1}, "#/priority"),
        ({"priority": 10**40}, "#/priority"),
        ({"delay_seconds": -1}, "#/delay_seconds"),
        ({"delay_seconds": 2_592_001}, "#/delay_seconds"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "#/expires_at"),
        ({"expires_at": 4_000_000_000}, "#/expires_at"),
        ({"expires_at": "4000000000"}, "#/expires_at"),
        ({"expires_at": "2999-01-01"}, "#/expires_at"),
        ({"expires_at": "2999-01-01T00:00:00"}, "#/expires_at"),
        ({"expires_at": "2999-01-01 00:00:00Z"}, "#/expires_at"),
        ({"expires_at": "2999-02-30T00:00:00Z"}, "#/expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-12:00"}, "#/expires_at"),
        ({"idempotency_key": ""}, "#/idempotency_key"),
        ({"idempotency_key": "a b"}, "#/idempotency_key"),
        ({"idempotency_key": "k" * 256}, "#/idempotency_key"),
        ({"metadata": []}, "#/metadata"),
        ({"metadata": {"a": "\x00"}}, "#/metadata"),
        ({"metadata": {"\x00": 1}}, "#/metadata"),
        ({"metadata": {"a": "x" * 16_384}}, "#/metadata"),
        ({"metadata": deep(18)}, "#/metadata"),
        ({"status": "completed"}, "#/status"),
        ({"tracking": True}, "#/tracking"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_purchase_out_of_shape_is_refused(
    house: House, changes: dict[str, Any], pointer: str
) -> None:
    """Every bound, type and unknown field of a purchase is checked, and located."""
    answer = house.client("producer").post("/queues/orders/messages", json=purchase(**changes))
    assert pointers(answer)[0] == pointer


def test_metadata_may_be_sixteen_deep(house: House) -> None:
    """The bound on depth is 16, not less."""
    body = house.post(house.queue(), metadata=deep(16))
    assert body["metadata"] == deep(16)


def test_a_time_out_of_the_calendar_holds_nobody_up(house: House) -> None:
    """An instant that no year can hold is told to its caller at once, and to nobody else."""
    queue = house.queue()
    wrong = purchase(expires_at="9999-12-31T23:59:59-23:59")
    pointers(house.client("producer").post(f"/queues/{queue}/messages", json=wrong))
    house.post(queue)


# --- reading --------------------------------------------------------------------------


def test_a_message_has_an_entity_tag(house: House) -> None:
    """The ETag is the version, and rises with every step."""
    queue = house.queue()
    posted = house.post(queue)
    house.claim(queue)
    answer = house.client("worker").get(f"/messages/{posted['id']}")
    assert (answer.headers["etag"], good(answer)["version"]) == ('"2"', 2)
    order = house.client("viewer").get(f"/orders/{posted['id']}")
    assert order.headers["etag"] == '"2"'
    same = house.client("viewer").get(f"/messages/{posted['id']}", headers={"If-None-Match": '"2"'})
    assert same.status_code == 200, "If-None-Match is not honoured"


OF_VERSION_4 = "6f1c8f0e-52a3-4b19-9d0c-3f4e5a6b7c8d"


@pytest.mark.parametrize("name", ["x", "1", NOWHERE.upper(), NOWHERE[:-1], OF_VERSION_4])
def test_a_malformed_id_is_nowhere(house: House, name: str) -> None:
    """A malformed id is 404, as is one that belongs to nothing."""
    for path in (f"/messages/{name}", f"/messages/{name}/history", f"/orders/{name}"):
        problem(house.client().get(path), 404, "not_found")
    for path in (f"/messages/{name}/retry", f"/messages/{name}/cancel", f"/orders/{name}/cancel"):
        problem(house.client().post(path), 404, "not_found")
    for path in (f"/messages/{NOWHERE}", f"/orders/{NOWHERE}", f"/messages/{NOWHERE}/history"):
        problem(house.client().get(path), 404, "not_found")


def test_the_history_says_who_did_what(house: House) -> None:
    """Each step with its number, queue, statuses; to staff also actor, worker, error, result."""
    queue, follow = house.queue(backoff_seconds=0), house.queue()
    posted = house.post(queue)
    [one] = house.claim(queue, worker="w-7")
    good(house.settle("nack", one, error="card service timed out", delay_seconds=0))
    [one] = house.claim(queue)
    good(house.settle("ack", one, forward_to=follow, result={"paid": True}))
    path = f"/messages/{posted['id']}/history"
    items = good(house.client("worker").get(path))["items"]
    assert all(item.keys() == STAFF_ITEM for item in items)
    told = [(i["type"], i["queue"], i["previous_queue"], i["status"], i["reason"]) for i in items]
    assert told == [
        ("order.created", queue, None, "pending", None),
        ("order.processing", queue, queue, "processing", None),
        ("order.requeued", queue, queue, "pending", "nack"),
        ("order.processing", queue, queue, "processing", None),
        ("order.forwarded", follow, queue, "pending", None),
    ]
    assert [item["version"] for item in items] == [1, 2, 3, 4, 5]
    assert items[0]["previous_status"] is None
    assert [item["actor"] for item in items] == ["producer", *["worker"] * 4]
    assert [item["worker"] for item in items] == [None, "w-7", "w-7", "worker", "worker"]
    assert [item["error"] for item in items] == [None, None, "card service timed out", None, None]
    assert items[4]["result"] == {"paid": True}
    assert items == sorted(items, key=lambda item: int(item["id"].rpartition("-")[2]))
    order = good(house.client("customer").get(f"/orders/{posted['id']}/history"))["items"]
    assert all(item.keys() == ITEM for item in order)
    assert order == [{name: item[name] for name in item.keys() & ITEM} for item in items]


def test_a_customer_sees_the_order_and_nothing_of_the_house(house: House) -> None:
    """Order has its own fields only; worker, errors, results, metadata and keys are not in it."""
    queue = house.queue()
    secret = {"metadata": {"margin": "s3cret"}, "idempotency_key": "s3cret"}
    posted = house.post(queue, **secret)
    [one] = house.claim(queue, worker="s3cret-worker")
    good(house.settle("nack", one, error="s3cret error", retry=False))
    for path in (f"/orders/{posted['id']}", f"/orders/{posted['id']}/history"):
        answer = house.client("customer").get(path)
        good(answer)
        assert "s3cret" not in answer.text
    order = good(house.client("customer").get(f"/orders/{posted['id']}"))
    assert order.keys() == ORDER
    assert (order["status"], order["queue"], order["version"]) == ("failed", queue, 3)


def test_anothers_order_is_not_there(house: House) -> None:
    """What is not the customer's own is 404, the same as what does not exist."""
    posted = house.post(house.queue(), customer="c-another")
    customer = house.client("customer")
    for method, path in (
        ("GET", f"/orders/{posted['id']}"),
        ("GET", f"/orders/{posted['id']}/history"),
        ("POST", f"/orders/{posted['id']}/cancel"),
    ):
        real = problem(customer.request(method, path), 404, "not_found")
        none = problem(
            customer.request(method, path.replace(posted["id"], NOWHERE)), 404, "not_found"
        )
        assert (real["detail"], real["errors"]) == (none["detail"], none["errors"])
    ticket = posted["tracking"]["ticket"]
    own = house.post(house.queue())["id"]
    nobody = house.client(None)
    problem(nobody.get(f"/orders/{own}", params={"ticket": ticket}), 404, "not_found")
    good(nobody.get(f"/orders/{posted['id']}/history", params={"ticket": ticket}))
    cancel = nobody.post(f"/orders/{posted['id']}/cancel", params={"ticket": ticket})
    problem(cancel, 401, "unauthenticated")


# --- cancel and retry -----------------------------------------------------------------


def test_cancel_pending_is_done_at_once_and_twice_is_once(house: House) -> None:
    """pending → cancelled 200; again 200 without another step; the reason is staff's to read."""
    posted = house.post(house.queue())
    path = f"/messages/{posted['id']}/cancel"
    done = house.client("producer").post(path, json={"reason": "changed my mind"})
    body = good(done)
    assert (body["status"], body["version"], done.headers["etag"]) == ("cancelled", 2, '"2"')
    assert body["finished_at"] == body["updated_at"]
    assert good(house.client().post(path)) == body
    history = good(house.client("viewer").get(f"/messages/{posted['id']}/history"))["items"]
    assert [item["type"] for item in history] == ["order.created", "order.cancelled"]
    assert (history[1]["error"], history[1]["actor"]) == ("changed my mind", "producer")
    assert (
        "changed my mind"
        not in house.client("customer").get(f"/orders/{posted['id']}/history").text
    )


@pytest.mark.parametrize("verb", ["nack", "release", "forward"])
def test_cancel_of_what_is_in_work_is_heard_on_the_way_back(house: House, verb: str) -> None:
    """processing → 202 and cancel_requested; nack, release and forward then end in cancelled."""
    queue, other = house.queue(), house.queue()
    posted = house.post(queue)
    [one] = house.claim(queue)
    asked = good(house.client("customer").post(f"/orders/{posted['id']}/cancel"), 202)
    assert asked.keys() == ORDER
    assert (asked["status"], asked["cancel_requested"]) == ("processing", True)
    again = good(house.client().post(f"/messages/{posted['id']}/cancel"), 202)
    assert again["version"] == asked["version"] == 3, "asking twice is asking once"
    extended = good(house.settle("extend", one, lease_seconds=60))
    assert extended["cancel_requested"] is True
    if verb == "forward":
        done = house.settle("ack", one, forward_to=other)
    elif verb == "nack":
        done = house.settle("nack", one, error="x")
    else:
        done = house.settle("release", one)
    assert good(done)["status"] == "cancelled"
    found = good(house.client().get(f"/messages/{posted['id']}"))
    assert (found["status"], found["cancel_requested"], found["queue"]) == (
        "cancelled",
        False,
        queue,
    )


def test_a_plain_ack_wins_over_a_cancel(house: House) -> None:
    """Who did the work before hearing of the wish has done it."""
    queue = house.queue()
    posted = house.post(queue)
    [one] = house.claim(queue)
    good(house.client().post(f"/messages/{posted['id']}/cancel"), 202)
    assert good(house.settle("ack", one))["status"] == "completed"
    refused = problem(
        house.client().post(f"/messages/{posted['id']}/cancel"), 409, "illegal_transition"
    )
    assert refused["current"] == "completed"


def test_a_cancel_looks_at_the_version(house: House) -> None:
    """If-Match is honoured on cancel and retry; a customer too may use it."""
    posted = house.post(house.queue())
    customer = house.client("customer")
    path = f"/orders/{posted['id']}/cancel"
    problem(customer.post(path, headers={"If-Match": '"2"'}), 412, "version_mismatch")
    problem(customer.post(path, headers={"If-Match": "2"}), 400, "bad_header")
    assert good(customer.post(path, headers={"If-Match": '"1"'}))["status"] == "cancelled"
    retry = f"/messages/{posted['id']}/retry"
    old = house.client().post(retry, headers={"If-Match": '"1"'})
    problem(old, 412, "version_mismatch")
    assert good(house.client().post(retry, headers={"If-Match": '"2"'}))["status"] == "pending"


@pytest.mark.parametrize("reason", ["", "x" * 2049, "é" * 1025, "\x00", 7])
def test_a_reason_has_bounds(house: House, reason: object) -> None:
    """A reason is 1 byte to 2 KiB of text."""
    posted = house.post(house.queue())
    path = f"/messages/{posted['id']}/cancel"
    assert pointers(house.client().post(path, json={"reason": reason})) == ["#/reason"]


def test_retry_starts_over(house: House) -> None:
    """failed → pending with fresh counters; what is not over cannot be retried."""
    queue = house.queue(max_attempts=2, backoff_seconds=0)
    posted = house.post(queue)
    path = f"/messages/{posted['id']}/retry"
    for _ in range(2):
        refused = problem(house.client().post(path), 409, "illegal_transition")
        assert refused["current"] == "pending"
        [one] = house.claim(queue)
        good(house.settle("nack", one, error="no", delay_seconds=0))
    failed = good(house.client().get(f"/messages/{posted['id']}"))
    assert (failed["status"], failed["attempts"], failed["last_error"]) == ("failed", 2, "no")
    back = good(house.client().post(path, json={}))
    assert (back["status"], back["attempts"], back["finished_at"]) == ("pending", 0, None)
    [one] = house.claim(queue)
    good(house.settle("ack", one))
    assert problem(house.client().post(path), 409, "illegal_transition")["current"] == "completed"


def test_what_expired_can_be_retried_without_its_date(house: House) -> None:
    """A pending message past expires_at expires; a retry takes the old date away."""
    queue = house.queue()
    late = house.post(queue, delay_seconds=1000, expires_at="2999-12-31T23:59:59Z")
    path = f"/messages/{late['id']}"
    stored(house, f"UPDATE messages SET expires_at = created_at + 1 WHERE id = '{late['id']}'")
    until(lambda: good(house.client().get(path))["status"] == "expired", 60, "the message expired")
    history = good(house.client().get(f"{path}/history"))["items"]
    assert [item["type"] for item in history] == ["order.created", "order.expired"]
    back = good(house.client().post(f"{path}/retry"))
    assert (back["status"], back["expires_at"]) == ("pending", None)
    assert back["available_at"] == back["updated_at"]


# --- an unknown place -----------------------------------------------------------------


def test_posting_into_nowhere(house: House) -> None:
    """An unknown queue is 404, after the body was found good; a malformed name too."""
    producer = house.client("producer")
    for name in ("nope", "Nope", "a" * 65, "%00", "a%2Fb"):
        path = f"/queues/{name}/messages"
        problem(producer.post(path, json=purchase()), 404, "not_found")
    problem(producer.post("/queues/nope/messages", json={}), 422, "invalid")
    assert parameters(producer.post("/queues/orders/messages?dry=1", json=purchase())) == ["dry"]

"""Stock over HTTP: counted, promised, sold and told, on both databases."""

import itertools
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.answers import good, parameters, pointers, problem, stored
from tests.house import API, CUSTOMER, House, running, settled
from tests.live import forged_ticket, head, ticket, watch
from tests.services import Postgres

NUMBERS = itertools.count(1)
STOCK = ["sku", "on_hand", "reserved", "available", "low_at", "version", "updated_at"]
MOVEMENT = [
    "id",
    "sku",
    "number",
    "kind",
    "change",
    "on_hand",
    "reason",
    "reference",
    "order",
    "actor",
    "time",
]
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def fresh(house: House, on_hand: int | None = None) -> str:
    """A SKU that no other test knows; with something on hand it is counted."""
    sku = f"stock-{next(NUMBERS)}"
    if on_hand is not None:
        receive(house, sku, on_hand)
    return sku


def path(sku: str, verb: str | None = None) -> str:
    return f"/products/{sku}/stock" if verb is None else f"/products/{sku}/stock/{verb}"


def receive(house: House, sku: str, quantity: int, **more: Any) -> dict[str, Any]:
    return good(house.client().post(path(sku, "receive"), json={"quantity": quantity, **more}))


def keyed(
    house: House, sku: str, quantity: int, key: str, role: str = "admin", **more: Any
) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    body = {"quantity": quantity, **more}
    return house.client(role).post(path(sku, "receive"), json=body, headers=headers)


def adjust(house: House, sku: str, on_hand: int, expected: int, **more: Any) -> httpx.Response:
    body = {"on_hand": on_hand, "expected_on_hand": expected, "reason": "counted", **more}
    return house.client().post(path(sku, "adjust"), json=body)


def wish(*lines: tuple[str, int]) -> dict[str, Any]:
    return {"customer": CUSTOMER, "items": [{"sku": sku, "quantity": n} for sku, n in lines]}


def buy(house: House, queue: str, *lines: tuple[str, int], process: int = 0) -> httpx.Response:
    client = house.client("producer", process)
    return client.post(f"/queues/{queue}/messages", json=wish(*lines))


def level(house: House, sku: str, role: str = "admin") -> dict[str, Any]:
    return good(house.client(role).get(path(sku)))


def numbers(house: House, sku: str) -> tuple[int, int]:
    """On hand and reserved."""
    found = level(house, sku)
    return found["on_hand"], found["reserved"]


def ledger(house: House, sku: str) -> list[tuple[str, int, int]]:
    """Kind, change, and on hand after it."""
    items = good(house.client("viewer").get(path(sku, "movements")))["items"]
    return [(one["kind"], one["change"], one["on_hand"]) for one in items]


def history(house: House, topic: str, role: str = "admin", **query: str) -> list[dict[str, Any]]:
    answer = house.client(role).get("/events/history", params={"topic": topic, **query})
    return good(answer)["items"]


# --- receive, read --------------------------------------------------------------------


def test_what_is_received_is_counted_from_then_on(house: House) -> None:
    """404 before; then the Stock, every field of it, the same from receive and from GET."""
    sku = fresh(house)
    problem(house.client().get(path(sku)), 404, "not_found")
    problem(house.client().get(path(sku, "movements")), 404, "not_found")
    first = receive(house, sku, 20)
    assert list(first) == STOCK
    assert STAMP.fullmatch(first.pop("updated_at"))
    assert first == {
        "sku": sku,
        "on_hand": 20,
        "reserved": 0,
        "available": 20,
        "low_at": None,
        "version": 1,
    }
    second = receive(house, sku, 5, reason="restocked", reference="delivery 88")
    assert (second["on_hand"], second["version"]) == (25, 2)
    assert level(house, sku) == second
    assert house.client().head(path(sku)).status_code == 200


def test_a_product_without_stock_is_sold_without_end(house: House) -> None:
    """A SKU that was never received is not counted, and a purchase of it makes no stock."""
    sku = fresh(house)
    good(buy(house, house.queue(), (sku, 10_000)), 201)
    problem(house.client().get(path(sku)), 404, "not_found")
    assert history(house, f"stock:{sku}") == []


@pytest.mark.parametrize("role", ["viewer", "producer", "worker", "customer"])
def test_customers_see_what_they_may_buy(house: House, role: str) -> None:
    """On hand, reserved and the low mark are null for a customer; staff see them."""
    sku = fresh(house, 9)
    good(house.client().patch(path(sku), json={"low_at": 3}))
    good(buy(house, house.queue(), (sku, 2)), 201)
    found = level(house, sku, role)
    assert list(found) == STOCK
    assert (found["available"], found["version"]) == (7, 3)
    hidden = (found["on_hand"], found["reserved"], found["low_at"])
    assert hidden == ((None, None, None) if role == "customer" else (9, 2, 3))


def test_stock_is_closed_to_the_public(house: House) -> None:
    """Unless PUBLIC_STOCK is set, nobody and a ticket get 401."""
    sku = fresh(house, 1)
    problem(house.client(None).get(path(sku)), 401, "unauthenticated")
    named = ticket(house, [f"stock:{sku}"], "customer")
    answer = house.client(None).get(path(sku), params={"ticket": named})
    problem(answer, 401, "unauthenticated")
    topics = {"topic": f"stock:{sku}"}
    problem(house.client(None).get("/events/history", params=topics), 401, "unauthenticated")
    with watch(house, f"stock:{sku}", role=None, ticket=named) as stream:
        stream.first("hello")
    with watch(house, "stock", role=None, ticket=named) as stream:
        assert stream.status == 404


def test_public_stock() -> None:
    """With PUBLIC_STOCK everybody sees and follows what is available, and changes nothing."""
    with running(PUBLIC_STOCK="true") as shop:
        sku = fresh(shop, 9)
        order = good(buy(shop, "orders", (sku, 2)), 201)["tracking"]["ticket"]
        nobody = shop.client(None)
        seen = level(shop, sku, "customer")
        assert (seen["available"], seen["on_hand"], seen["reserved"]) == (7, None, None)
        assert good(nobody.get(path(sku))) == seen
        assert good(nobody.get(path(sku), params={"ticket": order})) == seen
        assert level(shop, sku, "producer")["on_hand"] == 9
        expired = {"ticket": forged_ticket([f"stock:{sku}"], -1)}
        problem(nobody.get(path(sku), params=expired), 401, "unauthenticated")
        for verb in ("receive", "adjust"):
            problem(nobody.post(path(sku, verb), json={}), 401, "unauthenticated")
        problem(nobody.get(path(sku, "movements")), 401, "unauthenticated")
        for given in ({}, {"ticket": order}):
            with watch(shop, f"stock:{sku}", "stock", role=None, **given) as stream:
                stream.first("hello")
                receive(shop, sku, 1)
                assert stream.events(1)[0].json["subject"] == sku


BOUNDS: list[tuple[str, dict[str, Any], str]] = [
    ("receive", {}, "#/quantity"),
    ("receive", {"quantity": 0}, "#/quantity"),
    ("receive", {"quantity": -1}, "#/quantity"),
    ("receive", {"quantity": 10**9 + 1}, "#/quantity"),
    ("receive", {"quantity": 1.0}, "#/quantity"),
    ("receive", {"quantity": "1"}, "#/quantity"),
    ("receive", {"quantity": True}, "#/quantity"),
    ("receive", {"quantity": 1, "reason": "x" * 2049}, "#/reason"),
    ("receive", {"quantity": 1, "reference": "x" * 65}, "#/reference"),
    ("receive", {"quantity": 1, "reference": ""}, "#/reference"),
    ("receive", {"quantity": 1, "idempotency_key": "k"}, "#/idempotency_key"),
    ("adjust", {"on_hand": 1, "expected_on_hand": 1}, "#/reason"),
    ("adjust", {"on_hand": 1, "reason": "x"}, "#/expected_on_hand"),
    ("adjust", {"expected_on_hand": 1, "reason": "x"}, "#/on_hand"),
    ("adjust", {"on_hand": -1, "expected_on_hand": 1, "reason": "x"}, "#/on_hand"),
    ("adjust", {"on_hand": 10**12 + 1, "expected_on_hand": 1, "reason": "x"}, "#/on_hand"),
]


@pytest.mark.parametrize("verb, body, pointer", BOUNDS, ids=str)
def test_what_is_no_change_of_stock(
    house_on_sqlite: House, verb: str, body: dict[str, Any], pointer: str
) -> None:
    """422 at the field that is wrong; nothing is changed."""
    sku = fresh(house_on_sqlite, 1)
    answer = house_on_sqlite.client().post(path(sku, verb), json=body)
    assert pointers(answer) == [pointer]
    assert numbers(house_on_sqlite, sku) == (1, 0)


def test_there_is_a_most_on_hand(house: House) -> None:
    """A receive past 10¹² is 422 at its quantity."""
    sku = fresh(house, 1)
    good(adjust(house, sku, 10**12, 1))
    answer = house.client().post(path(sku, "receive"), json={"quantity": 1})
    assert pointers(answer) == ["#/quantity"]
    assert numbers(house, sku) == (10**12, 0)


@pytest.mark.parametrize("sku", ["-a", "a b", "a" * 65, "%2E"])
def test_what_is_no_sku_is_not_there(house_on_sqlite: House, sku: str) -> None:
    """A malformed SKU in the address is 404 like one that is unknown."""
    problem(house_on_sqlite.client().get(path(sku)), 404, "not_found")
    body = {"quantity": 1}
    problem(house_on_sqlite.client().post(path(sku, "receive"), json=body), 404, "not_found")


# --- receive with a key ---------------------------------------------------------------


def replayed(answer: httpx.Response, first: httpx.Response) -> None:
    assert (answer.status_code, answer.content) == (200, first.content), answer.text
    assert answer.headers["idempotent-replayed"] == "true"


def test_a_receive_with_a_key_happens_once(house: House) -> None:
    """A replay is the first answer, byte for byte, whatever was sold and received since."""
    sku = fresh(house, 3)
    good(house.client().patch(path(sku), json={"low_at": 2}))
    queue = house.queue()
    good(buy(house, queue, (sku, 1)), 201)
    first = keyed(house, sku, 4, "delivery-1", reason="restocked", reference="1")
    assert "idempotent-replayed" not in first.headers
    assert good(first)["on_hand"] == 7
    good(buy(house, queue, (sku, 2)), 201)
    receive(house, sku, 1)
    same = {"reason": "restocked", "reference": "1"}
    replayed(keyed(house, sku, 4, "delivery-1", **same), first)
    replayed(keyed(house, sku, 4, '"delivery-1"', **same), first)
    assert numbers(house, sku) == (8, 3)
    assert len(ledger(house, sku)) == 3


@pytest.mark.parametrize("quantity, more", [(5, {}), (4, {"reason": "x"}), (4, {"reference": "x"})])
def test_another_receive_under_the_key(house: House, quantity: int, more: dict[str, Any]) -> None:
    """422 for each field that differs, and nothing comes in."""
    sku = fresh(house)
    first = keyed(house, sku, 4, "k")
    answer = keyed(house, sku, quantity, "k", **more)
    problem(answer, 422, "idempotency_key_reused")
    replayed(keyed(house, sku, 4, "k", reason=None), first)
    assert numbers(house, sku) == (4, 0)


def test_a_key_belongs_to_account_and_sku(house: House) -> None:
    """The same key for another SKU, of another admin or of a purchase is another call."""
    sku, other = fresh(house), fresh(house)
    body = {"username": f"admin-{sku}", "password": "a-password-of-tests", "roles": ["admin"]}
    good(house.client().post("/accounts", json=body), 201)
    form = {name: body[name] for name in ("username", "password")}
    token = good(house.client(None).post("/auth/token", data=form))["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k"}
    good(keyed(house, sku, 4, "k"))
    assert good(keyed(house, other, 4, "k"))["on_hand"] == 4
    second = house.client().post(path(sku, "receive"), json={"quantity": 4}, headers=headers)
    assert good(second)["on_hand"] == 8
    answer = house.client().post(
        f"/queues/{house.queue()}/messages",
        json=wish((sku, 1)),
        headers={"Idempotency-Key": "k"},
    )
    assert good(answer, 201)["idempotency_key"] == "k"
    assert numbers(house, sku) == (8, 1)


def test_copies_at_once_are_one_receive(house: House) -> None:
    """However many copies of a keyed call come at once, one comes in and all say the same."""
    sku = fresh(house)
    house.token("admin")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: keyed(house, sku, 4, "k"), range(8)))
    assert {(one.status_code, one.content) for one in answers} == {(200, answers[0].content)}
    assert sum("idempotent-replayed" in one.headers for one in answers) == 7
    assert numbers(house, sku) == (4, 0)


# --- adjust, low mark, ledger ---------------------------------------------------------


def test_a_count_is_taken_if_nothing_moved(house: House) -> None:
    """Compare and set: 412 if it moved, 409 below what is reserved, 404 without stock."""
    sku = fresh(house, 9)
    good(buy(house, house.queue(), (sku, 4)), 201)
    found = good(adjust(house, sku, 7, 9))
    assert (found["on_hand"], found["reserved"], found["available"]) == (7, 4, 3)
    body = problem(adjust(house, sku, 8, 9), 412, "version_mismatch")
    assert body["detail"] == "7 on hand, not 9."
    problem(adjust(house, sku, 3, 7), 409, "below_reserved")
    assert good(adjust(house, sku, 4, 7))["available"] == 0
    same = level(house, sku)
    assert good(adjust(house, sku, 4, 4)) == same == level(house, sku)
    problem(adjust(house, fresh(house), 1, 0), 404, "not_found")


def test_the_low_mark(house: House) -> None:
    """PATCH sets it, null takes it away, nothing leaves it; 404 without stock."""
    sku, client = fresh(house, 9), house.client()
    low = good(client.patch(path(sku), json={"low_at": 5}))
    assert (list(low), low["low_at"], low["version"]) == (STOCK, 5, 2)
    assert good(client.patch(path(sku), json={})) == low
    assert good(client.patch(path(sku), json={"low_at": 5})) == low
    assert good(client.patch(path(sku), json={"low_at": None}))["low_at"] is None
    assert pointers(client.patch(path(sku), json={"low_at": -1})) == ["#/low_at"]
    assert pointers(client.patch(path(sku), json={"on_hand": 1})) == ["#/on_hand"]
    for body in ({}, {"low_at": 1}):
        problem(client.patch(path(fresh(house)), json=body), 404, "not_found")


def test_the_ledger_of_what_is_on_hand(house: House) -> None:
    """Oldest first: what came, what was counted, what was sold, by whom and why; no promises."""
    sku, queue = fresh(house), house.queue()
    receive(house, sku, 9, reason="restocked", reference="delivery 88")
    posted = good(buy(house, queue, (sku, 2)), 201)
    good(adjust(house, sku, 8, 9, reason="one was broken"))
    good(house.settle("ack", house.claim(queue)[0]))
    items = good(house.client("viewer").get(path(sku, "movements")))["items"]
    assert all(list(one) == MOVEMENT and STAMP.fullmatch(one.pop("time")) for one in items)
    assert all(UUID7.fullmatch(one.pop("id")) for one in items)
    plain = {"sku": sku, "reason": None, "reference": None, "order": None, "actor": "admin"}
    assert items == [
        {
            **plain,
            "number": 1,
            "kind": "received",
            "change": 9,
            "on_hand": 9,
            "reason": "restocked",
            "reference": "delivery 88",
        },
        {
            **plain,
            "number": 2,
            "kind": "adjusted",
            "change": -1,
            "on_hand": 8,
            "reason": "one was broken",
        },
        {
            **plain,
            "number": 3,
            "kind": "committed",
            "change": -2,
            "on_hand": 6,
            "order": posted["id"],
            "actor": "worker",
        },
    ]


def test_the_ledger_page_by_page(house: House) -> None:
    """In order, nothing twice, with a Link; a cursor belongs to its SKU."""
    sku, client = fresh(house), house.client()
    for n in range(1, 6):
        receive(house, sku, n)
    seen: list[int] = []
    where: str | None = f"{API}{path(sku, 'movements')}?limit=2"
    while where is not None:
        answer = client.get(where.removeprefix(API))
        seen += [one["change"] for one in good(answer)["items"]]
        if len(seen) == 2:
            receive(house, sku, 6)  # a new line shifts nothing
        link = answer.headers.get("link", "")
        assert bool(link) == (good(answer)["next_cursor"] is not None)
        where = link.partition(">")[0].removeprefix("<") or None
    assert seen == [1, 2, 3, 4, 5, 6]
    cursor = good(client.get(path(sku, "movements"), params={"limit": 1}))["next_cursor"]
    other = path(fresh(house, 1), "movements")
    problem(client.get(other, params={"cursor": cursor}), 400, "bad_cursor")
    problem(client.get(other, params={"cursor": "x"}), 400, "bad_cursor")
    assert parameters(client.get(other, params={"limit": 201})) == ["limit"]
    assert parameters(client.get(other, params={"kind": "received"})) == ["kind"]


def test_the_ledger_from_its_newest_line(house: House) -> None:
    """`sort=newest` turns it round, page by page; a cursor belongs to its direction."""
    sku, client = fresh(house), house.client("viewer")
    for n in range(1, 6):
        receive(house, sku, n)
    seen: list[int] = []
    query: dict[str, Any] = {"sort": "newest", "limit": 2}
    cursors: list[str] = []
    while True:
        page = good(client.get(path(sku, "movements"), params=query))
        seen += [one["change"] for one in page["items"]]
        if len(seen) == 2:
            receive(house, sku, 6)  # a new line shifts nothing
        if page["next_cursor"] is None:
            break
        cursors.append(page["next_cursor"])
        query["cursor"] = page["next_cursor"]
    assert seen == [5, 4, 3, 2, 1]
    forwards = client.get(path(sku, "movements"), params={"cursor": cursors[0]})
    problem(forwards, 400, "bad_cursor")
    assert parameters(client.get(path(sku, "movements"), params={"sort": "id"})) == ["sort"]


# --- all of it ------------------------------------------------------------------------


def shelf(house: House, **query: Any) -> list[dict[str, Any]]:
    """All pages of `GET /stock`."""
    found: list[dict[str, Any]] = []
    while True:
        page = good(house.client("viewer").get("/stock", params=query))
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


def stocked(house: House, mark: str) -> None:
    """One SKU in each state, some with a product and some without; all begin with `mark`."""
    admin = house.client()
    for letter, name in (("a", "Ärger"), ("c", "Cinema"), ("d", "Ärmel")):
        body = {"sku": f"{mark}-{letter}", "name": name, "price_cents": 990}
        good(admin.post("/products", json=body), 201)
    for letter, quantity in (("b", 3), ("c", 5), ("d", 1), ("e", 2), ("Z", 9)):
        receive(house, f"{mark}-{letter}", quantity)
    good(admin.patch(path(f"{mark}-c"), json={"low_at": 4}))
    good(admin.patch(path(f"{mark}-b"), json={"low_at": 3}))
    assert admin.delete(f"/products/{mark}-c").status_code == 204
    good(buy(house, house.queue(), (f"{mark}-d", 1)), 201)


@pytest.mark.parametrize("limit", [1, 2, 3, 200])
def test_all_that_is_sold_or_counted(house: House, limit: int) -> None:
    """By SKU, bytewise, each once: products with and without stock, stock without a product."""
    mark = f"all-{next(NUMBERS)}"
    stocked(house, mark)
    found = shelf(house, q=mark.upper(), limit=limit)
    names = {
        f"{mark}-{letter}": name
        for letter, name in zip("acd", ("Ärger", "Cinema", "Ärmel"), strict=True)
    }
    assert [one["sku"] for one in found] == [f"{mark}-{letter}" for letter in "Zabcde"]
    for one in found:
        assert list(one) == ["sku", "name", "price_cents", "currency", "active", "stock"]
        assert one["name"] == names.get(one["sku"])
        counted = not one["sku"].endswith("-a")
        assert one["stock"] == (level(house, one["sku"]) if counted else None)
    off = [one["active"] for one in found]
    assert off == [None, True, None, False, True, None]


def test_what_is_low_and_what_is_out(house: House) -> None:
    """Each SKU is in one state, by its events' words; a search finds SKU and name alike."""
    mark = f"state-{next(NUMBERS)}"
    stocked(house, mark)
    states = {
        state: [one["sku"][-1] for one in shelf(house, q=mark, state=state, limit=1)]
        for state in ("in_stock", "low", "out", "uncounted")
    }
    assert states == {"in_stock": ["Z", "c", "e"], "low": ["b"], "out": ["d"], "uncounted": ["a"]}
    named = [one["sku"] for one in shelf(house, q="äRM", limit=200)]
    assert f"{mark}-d" in named
    assert f"{mark}-a" not in named
    assert shelf(house, q=f"{mark}-%") == []
    client = house.client("viewer")
    cursor = good(client.get("/stock", params={"q": mark, "limit": 1}))["next_cursor"]
    problem(client.get("/stock", params={"cursor": cursor}), 400, "bad_cursor")
    assert parameters(client.get("/stock", params={"state": "gone"})) == ["state"]


# --- purchases ------------------------------------------------------------------------


def test_a_purchase_that_finds_too_little(house: House) -> None:
    """409 out_of_stock names each line that cannot be served, and reserves none of the others."""
    sku, short, queue = fresh(house, 9), fresh(house, 3), house.queue()
    body = problem(buy(house, queue, (sku, 1), (short, 5)), 409, "out_of_stock")
    assert body["title"] == "Out of stock"
    assert body["detail"] == f"{short}: 5 wanted, 3 left"
    assert body["errors"] == [
        {
            "pointer": "#/items/1",
            "detail": "5 wanted, 3 left",
            "sku": short,
            "requested": 5,
            "available": 3,
        }
    ]
    body = problem(buy(house, queue, (short, 2), (sku, 10), (short, 2)), 409, "out_of_stock")
    assert [(one["pointer"], one["requested"]) for one in body["errors"]] == [
        ("#/items/0", 4),
        ("#/items/1", 10),
    ]
    assert (numbers(house, sku), numbers(house, short)) == ((9, 0), (3, 0))
    assert good(house.client().get(f"/queues/{queue}"))["counts"]["pending"] == 0
    good(buy(house, queue, (short, 1), (sku, 9), (short, 2)), 201)
    assert (numbers(house, sku), numbers(house, short)) == ((9, 9), (3, 3))


def test_purchases_of_a_batch_stand_or_fall_alone(house: House) -> None:
    """First come first served; what is refused leaves its stock to those behind it."""
    sku, queue = fresh(house, 5), house.queue()
    uncounted = fresh(house)
    wishes = [wish((sku, 2)), wish((sku, 4)), wish((uncounted, 1), (sku, 3)), wish((sku, 1))]
    answer = house.client("producer").post(
        f"/queues/{queue}/messages/batch", json={"messages": [*wishes, wish((uncounted, 9))]}
    )
    body = good(answer)
    assert body["accepted"] == 3
    assert [one["status"] for one in body["results"]] == [201, 409, 201, 409, 201]
    first, last = body["results"][1], body["results"][3]
    assert (first["id"], first["problem"]["code"]) == (None, "out_of_stock")
    assert first["problem"]["errors"] == [
        {
            "pointer": "#/items/0",
            "detail": "4 wanted, 3 left",
            "sku": sku,
            "requested": 4,
            "available": 3,
        }
    ]
    assert first["problem"]["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"
    assert last["problem"]["detail"] == f"{sku}: 1 wanted, 0 left"
    assert numbers(house, sku) == (5, 5)


def test_only_the_last_end_of_a_purchase_counts(house: House) -> None:
    """Claimed, put back, forwarded it keeps its stock; done it is sold, cancelled it is free."""
    sku, queue, other = fresh(house, 5), house.queue(), house.queue()
    good(buy(house, queue, (sku, 2)), 201)
    good(house.settle("nack", house.claim(queue)[0], error="x", delay_seconds=0))
    good(house.settle("ack", house.claim(queue)[0], forward_to=other))
    assert numbers(house, sku) == (5, 2)
    good(house.settle("ack", house.claim(other)[0]))
    assert numbers(house, sku) == (3, 0)
    cancelled = good(buy(house, queue, (sku, 3)), 201)["id"]
    assert numbers(house, sku) == (3, 3)
    good(house.client("producer").post(f"/messages/{cancelled}/cancel"))
    assert numbers(house, sku) == (3, 0)
    assert ledger(house, sku) == [("received", 5, 5), ("committed", -2, 3)]


def test_what_needs_stock_again_may_find_none(house: House) -> None:
    """Retry is 409 with the status it stays in; redrive counts what is refused."""
    sku, queue = fresh(house, 3), house.queue()
    failed = [good(buy(house, queue, (sku, n)), 201)["id"] for n in (2, 1)]
    for message in house.claim(queue, 2):
        good(house.settle("nack", message, error="x", retry=False))
    assert numbers(house, sku) == (3, 0)
    good(buy(house, queue, (sku, 2)), 201)
    body = problem(house.client().post(f"/messages/{failed[0]}/retry"), 409, "out_of_stock")
    assert body["current"] == "failed"
    assert [(one["requested"], one["available"]) for one in body["errors"]] == [(2, 1)]
    redriven = good(house.client().post(f"/queues/{queue}/redrive"))
    assert redriven == {"matched": 2, "redriven": 1, "refused": 1, "remaining": 0}
    assert numbers(house, sku) == (3, 3)
    receive(house, sku, 2)
    assert good(house.client().post(f"/messages/{failed[0]}/retry"))["status"] == "pending"
    assert numbers(house, sku) == (5, 5)


def test_a_redrive_passes_by_what_lacks_stock(house_on_sqlite: House) -> None:
    """More than a step of the oldest are refused, and what is behind them still goes back."""
    house, queue = house_on_sqlite, house_on_sqlite.queue()
    sku, free = fresh(house, 600), fresh(house)
    producer, worker = house.client("producer"), house.client("worker")
    messages = [*([wish((sku, 1))] * 600), wish((free, 1))]
    good(producer.post(f"/queues/{queue}/messages/batch", json={"messages": messages}))
    while claimed := house.claim(queue, 100):
        refused = {"error": "x", "retry": False}
        nacks = [{"id": m["id"], "receipt": m["receipt"], **refused} for m in claimed]
        good(worker.post("/messages/nack", json={"nacks": nacks}))
    good(adjust(house, sku, 0, 600))
    redriven = good(house.client().post(f"/queues/{queue}/redrive"))
    assert redriven == {"matched": 601, "redriven": 1, "refused": 600, "remaining": 0}


def test_a_purge_gives_everything_back(house: House) -> None:
    """A SKU of many purchases is free again, by one change."""
    sku, queue = fresh(house, 50), house.queue()
    for _ in range(5):
        good(buy(house, queue, (sku, 10)), 201)
    good(house.client().post(f"/queues/{queue}/purge"))
    assert numbers(house, sku) == (50, 0)
    last = history(house, f"stock:{sku}")[-2:]
    assert [one["type"] for one in last] == ["stock.changed", "stock.replenished"]
    assert [one["data"]["previous_available"] for one in last] == [0, 0]


# --- events ---------------------------------------------------------------------------


def sold_out(house: House, sku: str, follow: Callable[[int], object]) -> None:
    """Received, sold to the last one, one comes back; `follow` gets how many events there are.

    Whoever follows live lets each event arrive: of those that come at once older ones may be
    left out.
    """
    queue = house.queue()
    receive(house, sku, 5)
    follow(2)
    good(house.client().patch(path(sku), json={"low_at": 2}))
    follow(3)
    good(buy(house, queue, (sku, 3)), 201)
    follow(5)
    second = good(buy(house, queue, (sku, 2)), 201)["id"]
    follow(7)
    good(house.settle("ack", house.claim(queue)[0]))
    follow(8)
    good(house.client("producer").post(f"/messages/{second}/cancel"))
    follow(10)
    good(adjust(house, sku, 1, 2))
    follow(11)


SOLD_OUT = [
    ("stock.changed", 5, 0, "in_stock", "received", 1),
    ("stock.replenished", 5, 0, "in_stock", "received", 1),
    ("stock.changed", 5, 5, "in_stock", "adjusted", 2),
    ("stock.changed", 2, 5, "low", "reserved", 3),
    ("stock.low", 2, 5, "low", "reserved", 3),
    ("stock.changed", 0, 2, "out", "reserved", 4),
    ("stock.depleted", 0, 2, "out", "reserved", 4),
    ("stock.changed", 0, 0, "out", "committed", 5),
    ("stock.changed", 2, 0, "low", "released", 6),
    ("stock.replenished", 2, 0, "low", "released", 6),
    ("stock.changed", 1, 2, "low", "adjusted", 7),
]
DATA = ["sku", "available", "previous_available", "state", "reason", "version"]


def test_what_is_told_of_a_sku(house: House) -> None:
    """Every change with its reason and its edge; never what is on hand; live as in the history."""
    sku = fresh(house)
    with watch(house, f"stock:{sku}", role="customer") as stream:
        stream.first("hello")
        sold_out(house, sku, stream.events)
        assert stream.quiet(0.05)
    events = history(house, f"stock:{sku}", "customer")
    assert [block.data for block in stream.facts] == [
        json.dumps(one, separators=(",", ":")) for one in events
    ]
    assert all(list(one["data"]) == DATA and one["data"]["sku"] == sku for one in events)
    told = [(one["type"], *(one["data"][name] for name in DATA[1:])) for one in events]
    assert told == SOLD_OUT
    for one, block in zip(events, stream.facts, strict=True):
        assert (one["source"], one["subject"]) == (f"/products/{sku}", sku)
        assert (block.event, block.id) == (one["type"], one["id"])


def test_topics_carry_what_is_theirs(house: House) -> None:
    """`stock` carries all products and nothing else; orders and queues carry no stock."""
    queue, start = house.queue(), head(house)
    one, two = fresh(house, 5), fresh(house, 5)
    good(house.client().post(f"/queues/{queue}/pause"))
    order = good(buy(house, queue, (two, 1), (one, 1)), 201)["id"]

    def told(*topics: str) -> list[tuple[str, str]]:
        params: dict[str, Any] = {"topic": list(topics), "after": start, "limit": 200}
        items = good(house.client().get("/events/history", params=params))["items"]
        # Leases of other tests may run out here.
        mine = (queue, order, one, two)
        return [(item["type"], item["subject"]) for item in items if item["subject"] in mine]

    come = [("stock.changed", sku) for sku in (one, two)]
    back = [("stock.replenished", sku) for sku in (one, two)]
    stock = [come[0], back[0], come[1], back[1], *come]
    assert told("stock") == stock
    assert told(f"stock:{two}") == [come[1], back[1], come[1]]
    assert told("stock", f"stock:{one}", f"stock:{two}") == stock
    assert told("queues") == [("queue.paused", queue)]
    assert told(f"queue:{queue}") == [("queue.paused", queue), ("order.created", order)]
    for topic in (f"order:{order}", f"customer:{CUSTOMER}"):
        assert told(topic) == [("order.created", order)]
    mixed = told("stock", f"order:{order}")
    assert mixed == [*stock[:4], ("order.created", order), *come]


def test_streams_carry_what_is_theirs(house: House) -> None:
    """Live as in the history: neither `stock` nor `queues` carries anything of the other."""
    queue, sku = house.queue(), fresh(house)
    with watch(house, "stock") as shelf, watch(house, "queues") as rows:
        shelf.first("hello")
        rows.first("hello")
        good(house.client().post(f"/queues/{queue}/pause"))
        receive(house, sku, 5)
        shelf.events(2)
        good(house.client().post(f"/queues/{queue}/resume"))
        rows.events(2)
        good(house.client().patch(path(sku), json={"low_at": 9}))
        shelf.events(4)
        good(house.client().post(f"/queues/{queue}/pause"))
        rows.events(3)
    assert [block.event for block in shelf.facts] == [
        "stock.changed",
        "stock.replenished",
        "stock.changed",
        "stock.low",
    ]
    assert [block.event for block in rows.facts] == [
        "queue.paused",
        "queue.resumed",
        "queue.paused",
    ]


@pytest.mark.parametrize("every", [False, True], ids=["one", "all"])
def test_a_stream_of_stock_goes_on_where_it_broke(house: House, every: bool) -> None:
    """From each event's id on, the rest comes, the same bytes, as if the line had never broken."""
    sku = fresh(house)
    topic = "stock" if every else f"stock:{sku}"
    start = head(house)
    with watch(house, topic, cursor=start) as whole:
        whole.first("hello")
        sold_out(house, sku, whole.events)
    raw = [block.raw for block in whole.facts]
    for place in (0, 1, 4, 9):
        with watch(house, topic, cursor=whole.ids[place]) as rest:
            rest.first("hello")
            # Older changes of what was missed may be left out, and nothing else.
            rest.wait(lambda one: one.facts and one.facts[-1].raw == raw[-1], 60, "the last one")
        came = [block.raw for block in rest.facts]
        kept = {block.raw for block in whole.facts[place + 1 :] if block.event != "stock.changed"}
        assert came == [one for one in raw[place + 1 :] if one in came]
        assert kept <= set(came)


# --- what the database itself refuses -------------------------------------------------


@pytest.fixture(scope="module")
def prepared() -> dict[str, dict[str, str]]:
    """What was made in which house."""
    return {}


@pytest.fixture
def shelved(house: House, prepared: dict[str, dict[str, str]]) -> dict[str, str]:
    """A SKU with one sold and two reserved, and the purchases that did it; once a house."""
    if house.url not in prepared:
        sku, queue = fresh(house, 5), house.queue()
        done = good(buy(house, queue, (sku, 1)), 201)["id"]
        good(house.settle("ack", house.claim(queue)[0]))
        prepared[house.url] = {
            "sku": sku,
            "done": done,
            "open": good(buy(house, queue, (sku, 2)), 201)["id"],
        }
    return prepared[house.url]


@pytest.mark.parametrize(
    "name, statement",
    [
        ("stock_not_oversold", "UPDATE stock SET reserved = on_hand + 1 WHERE sku = '{sku}'"),
        ("stock_not_oversold", "UPDATE stock SET on_hand = 1 WHERE sku = '{sku}'"),
        ("reserved", "UPDATE stock SET reserved = -1 WHERE sku = '{sku}'"),
        ("low_at", "UPDATE stock SET low_at = -1 WHERE sku = '{sku}'"),
        ("messages_reserved", "UPDATE messages SET reserved = '{{}}' WHERE id = '{done}'"),
        (
            "messages_reserved",
            "UPDATE messages SET status = 'failed', finished_at = 1 WHERE id = '{open}'",
        ),
        ("change", "UPDATE stock_movements SET change = 0 WHERE sku = '{sku}'"),
        ("kind", "UPDATE stock_movements SET kind = 'lost' WHERE sku = '{sku}' AND number = 1"),
        (
            "stock_movements_committed",
            "UPDATE stock_movements SET kind = 'committed' WHERE sku = '{sku}' AND number = 1",
        ),
        (
            "stock_movements_committed",
            "UPDATE stock_movements SET message = NULL WHERE sku = '{sku}' AND number = 2",
        ),
        ("number", "UPDATE stock_movements SET number = 2 WHERE sku = '{sku}' AND number = 1"),
    ],
)
def test_the_database_knows_it_too(
    house: House, shelved: dict[str, str], name: str, statement: str
) -> None:
    """More promised than there is, or by what is over: whatever the code would write, refused."""
    with pytest.raises(Exception, match=rf"(?i)constraint.*{name}"):
        stored(house, statement.format(**shelved) + " RETURNING 1")


def test_the_books_agree(house: House) -> None:
    """Whatever the tests before this one did: ledger, stock and what purchases hold agree."""
    books_agree(house)


def books_agree(house: House) -> None:
    ledger = (
        "SELECT s.sku FROM stock s LEFT JOIN (SELECT sku, sum(change) AS sum, count(*) AS n,"
        " max(number) AS last FROM stock_movements GROUP BY sku) m ON m.sku = s.sku"
        " WHERE s.on_hand <> m.sum OR s.moved <> m.n OR s.moved <> m.last OR m.sku IS NULL"
    )
    assert stored(house, ledger) == []
    held: dict[str, int] = {}
    for (text,) in stored(house, "SELECT reserved FROM messages WHERE reserved IS NOT NULL"):
        for sku, n in json.loads(text).items():
            held[sku] = held.get(sku, 0) + n
    assert dict(stored(house, "SELECT sku, reserved FROM stock WHERE reserved > 0")) == held


# --- two processes --------------------------------------------------------------------


def test_two_processes_in_opposite_orders_do_not_deadlock(
    twins: House, postgres_server: Postgres
) -> None:
    """Stock is locked in the order of the SKUs, in whatever order purchases name them."""
    skus = [fresh(twins, 10_000) for _ in range(8)]
    queue, before = twins.queue(), postgres_server.log.count("deadlock detected")

    def post(turn: int) -> list[int]:
        lines = [(sku, 1) for sku in (skus if turn % 2 else reversed(skus))]
        messages = [wish(*lines), *(wish(line) for line in lines)]
        client = twins.client("producer", turn % 2)
        answer = client.post(f"/queues/{queue}/messages/batch", json={"messages": messages})
        return [one["status"] for one in good(answer)["results"]]

    for process in (0, 1):
        twins.client("producer", process)
    with ThreadPoolExecutor(8) as pool:
        statuses = [one for some in pool.map(post, range(60)) for one in some]
    assert statuses == [201] * 540
    assert [numbers(twins, sku) for sku in skus] == [(10_000, 120)] * 8
    assert postgres_server.log.count("deadlock detected") == before


def test_two_processes_make_one_row(twins: House) -> None:
    """A SKU that both receive for the first time, and a key that both get, at the same time."""
    for process in (0, 1):
        twins.client("admin", process)
    for _ in range(5):
        sku = fresh(twins)

        def come(turn: int, sku: str = sku) -> httpx.Response:
            headers = {"Idempotency-Key": "k"} if turn < 4 else {}
            client = twins.client("admin", turn % 2)
            body = {"quantity": 3}
            return settled(lambda: client.post(path(sku, "receive"), json=body, headers=headers))

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(come, range(8)))
        assert {one.status_code for one in answers} == {200}
        assert len({one.content for one in answers[:4]}) == 1
        assert numbers(twins, sku) == (15, 0)
        assert [one[1] for one in ledger(twins, sku)] == [3] * 5
    books_agree(twins)

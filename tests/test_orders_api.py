"""Orders over HTTP: placed at the catalogue's prices, and listed to whom they belong."""

import asyncio
import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.answers import good, parameters, pointers, problem, stored
from tests.house import API, CUSTOMER, PASSWORD, House, running
from tests.services import Postgres

TTL = 600
PRICE = 990
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def shop_on_sqlite() -> Iterator[House]:
    with running(ORDER_TTL_SECONDS=str(TTL)) as found:
        yield found


@pytest.fixture(scope="module")
def shop_on_postgres(postgres_server: Postgres) -> Iterator[House]:
    name = postgres_server.create()
    url = postgres_server.url(name)
    with running(ORDER_TTL_SECONDS=str(TTL), DATABASE_URL=url) as found:
        yield found
    postgres_server.drop(name)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest) -> House:
    """A service of its own: the queue `orders` is its tests' alone, and orders have a TTL."""
    return request.getfixturevalue(f"shop_on_{request.param}")


def product(shop: House, **fields: Any) -> str:
    """The SKU of a fresh product."""
    sku = f"disc-{next(NUMBERS)}"
    body = {"sku": sku, "name": "A disc", "price_cents": PRICE, **fields}
    return good(shop.client().post("/products", json=body), 201)["sku"]


def place(
    shop: House,
    *lines: tuple[str, int],
    role: str = "customer",
    key: str | None = None,
    **more: Any,
) -> httpx.Response:
    body = {"items": [{"sku": sku, "quantity": n} for sku, n in lines], **more}
    headers = {"Idempotency-Key": key} if key else {}
    return shop.client(role).post("/orders", json=body, headers=headers)


def placed(shop: House, *lines: tuple[str, int], **more: Any) -> dict[str, Any]:
    return good(place(shop, *(lines or [(product(shop), 1)]), **more), 201)


def signed_in(shop: House, **account: Any) -> httpx.Client:
    """A client of a fresh account of role customer."""
    name = f"buyer-{next(NUMBERS)}"
    body = {"username": name, "password": PASSWORD}
    good(shop.client().post("/accounts", json={**body, "roles": ["customer"], **account}), 201)
    return bearer(shop, name)


def bearer(shop: House, name: str) -> httpx.Client:
    form = {"username": name, "password": PASSWORD}
    token = good(shop.client(None).post("/auth/token", data=form))["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=shop.url + API, headers=headers, timeout=60)


def claimed(shop: House, order: str) -> dict[str, Any]:
    """The order, leased to a worker; whatever waits before it is leased too."""
    while True:
        for message in shop.claim("orders", 100):
            if message["id"] == order:
                return message


# --- placing --------------------------------------------------------------------------


def test_a_customer_orders_at_the_catalogues_prices(shop: House) -> None:
    """He names products and quantities; whose it is and what it costs is not his to say."""
    one, two = product(shop), product(shop, price_cents=5)
    answer = place(shop, (one, 2), (two, 3), reference="1042")
    order = good(answer, 201)
    assert order["items"] == [
        {"sku": one, "quantity": 2, "amount_cents": 2 * PRICE},
        {"sku": two, "quantity": 3, "amount_cents": 15},
    ]
    assert (order["total_cents"], order["currency"]) == (2 * PRICE + 15, "BRL")
    assert (order["customer"], order["queue"], order["status"]) == (CUSTOMER, "orders", "pending")
    assert (order["reference"], order["version"]) == ("1042", 1)
    assert answer.headers["location"] == f"{API}/orders/{order['id']}"
    assert answer.headers["etag"] == '"1"'
    assert "idempotent-replayed" not in answer.headers
    assert "metadata" not in order
    later = good(shop.client("customer").get(f"/orders/{order['id']}"))
    unknown_yet = {"position", "position_exact", "eta_seconds"}
    assert {name for name in later if later[name] != order[name]} <= unknown_yet
    assert later["position_exact"] is True
    (message,) = [m for m in shop.claim("orders", 100) if m["id"] == order["id"]]
    assert message["total_cents"] == order["total_cents"]


def test_the_order_comes_with_a_link(shop: House) -> None:
    """Its ticket opens this order for whoever has it, and nothing else."""
    order, other = placed(shop), placed(shop)
    bare, ticket = shop.client(None), {"ticket": order["tracking"]["ticket"]}
    assert good(bare.get(f"/orders/{order['id']}", params=ticket))["id"] == order["id"]
    problem(bare.get(f"/orders/{other['id']}", params=ticket), 404, "not_found")


def test_a_price_that_changes_later_changes_no_order(shop: House) -> None:
    """What was agreed stays."""
    sku = product(shop)
    order = placed(shop, (sku, 1))
    good(shop.client().patch(f"/products/{sku}", json={"price_cents": 1}))
    assert good(shop.client().get(f"/orders/{order['id']}"))["total_cents"] == PRICE
    assert placed(shop, (sku, 1))["total_cents"] == 1


def test_nobody_pays_another_price_than_he_was_shown(shop: House) -> None:
    """Who says what he saw buys at that total or not at all; a replay is not judged again."""
    sku = product(shop)
    seen = 2 * PRICE
    first = good(place(shop, (sku, 2), key="seen-1", total_cents=seen), 201)
    good(shop.client().patch(f"/products/{sku}", json={"price_cents": PRICE + 1}))
    problem(place(shop, (sku, 2), total_cents=seen), 412, "version_mismatch")
    assert good(place(shop, (sku, 2), key="seen-1", total_cents=seen))["id"] == first["id"]
    assert placed(shop, (sku, 2), total_cents=2 * PRICE + 2)["total_cents"] == 2 * PRICE + 2


def test_a_replay_has_the_bytes_of_the_first_answer(shop: House) -> None:
    """Also when the order has gone on and the price has changed since: so no place is told."""
    sku, key = product(shop), "checkout-1"
    first = place(shop, (sku, 1), key=key)
    assert good(first, 201)["position"] is None
    claimed(shop, first.json()["id"])
    good(shop.client().patch(f"/products/{sku}", json={"price_cents": 1}))
    again = place(shop, (sku, 1), key=key)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    problem(place(shop, (sku, 2), key=key), 422, "idempotency_key_reused")
    assert good(place(shop, (sku, 1), key="checkout-2"), 201)["id"] != first.json()["id"]


def test_copies_in_one_batch_make_one_order(shop: House) -> None:
    """Twice the same call at the same moment is one order with the same bytes."""
    sku = product(shop)
    body = {"items": [{"sku": sku, "quantity": 1}]}
    headers = {
        "Authorization": f"Bearer {shop.token('customer')}",
        "Idempotency-Key": f"impatient-{sku}",
    }

    async def both() -> list[httpx.Response]:
        async with httpx.AsyncClient(
            base_url=shop.url + API, headers=headers, timeout=60
        ) as client:
            return await asyncio.gather(*(client.post("/orders", json=body) for _ in range(8)))

    answers = asyncio.run(both())
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.content for answer in answers}) == 1


def test_the_key_of_an_order_is_not_that_of_a_purchase(shop: House) -> None:
    """The same lines posted without prices are not the same thing."""
    sku = product(shop)
    order = placed(shop, (sku, 1), role="producer", customer=CUSTOMER, key="both-ways")
    body = {"customer": CUSTOMER, "items": [{"sku": sku, "quantity": 1}]}
    headers = {"Idempotency-Key": "both-ways"}
    other = shop.client("producer").post("/queues/orders/messages", json=body, headers=headers)
    problem(other, 422, "idempotency_key_reused")
    again = place(shop, (sku, 1), role="producer", customer=CUSTOMER, key="both-ways")
    assert again.json()["id"] == order["id"]


@pytest.mark.parametrize(
    "field, value",
    [
        ("customer", CUSTOMER),
        ("currency", "BRL"),
        ("priority", 9),
        ("metadata", {}),
        ("expires_at", "2030-01-01T00:00:00Z"),
        ("idempotency_key", "k"),
    ],
)
def test_a_customer_says_no_more_than_what(shop: House, field: str, value: Any) -> None:
    """Whose it is, what it costs and how urgent it is: refused with a pointer."""
    assert pointers(place(shop, (product(shop), 1), **{field: value})) == [f"#/{field}"]


def test_nobody_names_a_price(shop: House) -> None:
    """Not even staff: the catalogue does."""
    line = {"sku": product(shop), "quantity": 1, "amount_cents": 1}
    for role, more in (("customer", {}), ("admin", {"customer": CUSTOMER})):
        answer = shop.client(role).post("/orders", json={"items": [line], **more})
        assert pointers(answer) == ["#/items/0/amount_cents"]


@pytest.mark.parametrize("role", ["producer", "admin"])
def test_staff_say_for_whom(shop: House, role: str) -> None:
    """Without a customer it is 422; with one the order is his, and it waits for ever."""
    sku = product(shop)
    assert pointers(place(shop, (sku, 1), role=role)) == ["#/customer"]
    order = placed(shop, (sku, 1), role=role, customer="c-walk-in")
    assert (order["customer"], order["expires_at"]) == ("c-walk-in", None)
    problem(shop.client("customer").get(f"/orders/{order['id']}"), 404, "not_found")


def test_an_account_that_is_nobody_orders_nothing(shop: House) -> None:
    """Role customer without a customer id: 403, and an empty list."""
    with signed_in(shop) as nobody:
        body = {"items": [{"sku": product(shop), "quantity": 1}]}
        problem(nobody.post("/orders", json=body), 403, "forbidden")
        assert good(nobody.get("/orders")) == {"items": [], "next_cursor": None}


def test_what_cannot_be_sold_is_refused_at_its_line(shop: House) -> None:
    """No product, too many, another currency: 422 with a pointer; not on sale: 409."""
    good_one, most = product(shop), product(shop, max_per_order=3)
    dollars = product(shop, currency="USD")
    assert pointers(place(shop, (good_one, 1), ("no-such-disc", 1))) == ["#/items/1"]
    assert pointers(place(shop, (most, 2), (good_one, 1), (most, 2))) == ["#/items/2"]
    assert pointers(place(shop, (good_one, 1), (dollars, 1))) == ["#/items/1"]
    gone = product(shop, active=False)
    later = product(shop, available_from="2100-01-01T00:00:00Z")
    refused = problem(place(shop, (good_one, 1), (gone, 1), (later, 1)), 409, "not_on_sale")
    assert [fault["pointer"] for fault in refused["errors"]] == ["#/items/1", "#/items/2"]
    assert placed(shop, (most, 3))["items"][0]["quantity"] == 3


def test_what_is_not_there_is_not_sold(shop: House) -> None:
    """Stock is reserved with the order, all lines or none, and comes back with its cancelling."""
    sku, other = product(shop), product(shop)
    for one in (sku, other):
        good(shop.client().post(f"/products/{one}/stock/receive", json={"quantity": 2}))
    order = placed(shop, (sku, 2))
    refused = problem(place(shop, (other, 1), (sku, 1)), 409, "out_of_stock")
    (fault,) = refused["errors"]
    assert fault["pointer"] == "#/items/1"
    assert (fault["sku"], fault["requested"], fault["available"]) == (sku, 1, 0)
    assert good(shop.client("customer").get(f"/products/{other}/stock"))["available"] == 2
    good(shop.client("customer").post(f"/orders/{order['id']}/cancel"))
    placed(shop, (sku, 2))


def test_who_was_deactivated_orders_nothing_new(shop: House) -> None:
    """409 `customer_inactive`, by himself or by staff; what he had ordered is still answered."""
    name = f"buyer-{next(NUMBERS)}"
    body = {"username": name, "password": PASSWORD}
    mine = good(shop.client(None).post("/auth/register", json=body), 201)["customer"]
    order = {"items": [{"sku": product(shop), "quantity": 1}]}
    headers = {"Idempotency-Key": "before"}
    with bearer(shop, name) as client:
        first = client.post("/orders", json=order, headers=headers)
        assert good(first, 201)["customer"] == mine
        stored(shop, f"UPDATE customers SET active = false WHERE id = '{mine}' RETURNING id")
        problem(client.post("/orders", json=order), 409, "customer_inactive")
        assert client.post("/orders", json=order, headers=headers).content == first.content
    for_him = shop.client("producer").post("/orders", json={**order, "customer": mine})
    problem(for_him, 409, "customer_inactive")


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_an_order_waits_as_long_as_it_may(shop: House) -> None:
    """A customer's order expires unless it is claimed in time; the first claim ends that."""
    order = placed(shop)
    ends = instant(order["created_at"]) + timedelta(seconds=TTL)
    assert instant(order["expires_at"]) == ends
    message = claimed(shop, order["id"])
    assert message["expires_at"] is None
    good(shop.settle("release", message))
    again = good(shop.client("customer").get(f"/orders/{order['id']}"))
    assert (again["status"], again["expires_at"]) == ("pending", None)


# --- listing --------------------------------------------------------------------------


def ids(answer: httpx.Response) -> list[str]:
    return [one["id"] for one in good(answer)["items"]]


def test_a_customer_lists_his_own(shop: House) -> None:
    """The newest first, page by page; another's are not there, asked for or not."""
    with signed_in(shop, customer="c-lister") as client:
        made = [shop.post("orders", customer="c-lister")["id"] for _ in range(5)]
        shop.post("orders", customer="c-somebody")
        assert ids(client.get("/orders")) == made[::-1]
        assert ids(client.get("/orders", params={"customer": "c-lister"})) == made[::-1]
        problem(client.get("/orders", params={"customer": "c-somebody"}), 404, "not_found")
        first = client.get("/orders", params={"limit": 2})
        second = client.get(first.headers["link"].split(">")[0].removeprefix(f"<{API}"))
        assert ids(first) + ids(second) == made[:0:-1]
        cursor = second.json()["next_cursor"]
        last = client.get("/orders", params={"limit": 2, "cursor": cursor})
        assert (ids(last), last.json()["next_cursor"]) == (made[:1], None)
        other = client.get("/orders", params={"status": "failed", "cursor": cursor})
        problem(other, 400, "bad_cursor")
        assert parameters(client.get("/orders", params={"queue": "orders"})) == ["queue"]


@pytest.mark.parametrize("role", ["producer", "viewer", "admin"])
def test_staff_list_everybodys(shop: House, role: str) -> None:
    """All customers' and queues', narrowed by what the query says."""
    queue = shop.queue()
    who = f"c-of-{role}"
    first = shop.post(queue, customer=who, reference="17")
    second = shop.post("orders", customer=who, items=[{"sku": f"s-{role}", "quantity": 1}])
    client = shop.client(role)

    def found(**query: str) -> list[str]:
        return ids(client.get("/orders", params={"customer": who, **query}))

    assert ids(client.get("/orders", params={"limit": 2})) == [second["id"], first["id"]]
    assert found() == [second["id"], first["id"]]
    assert found(reference="17") == [first["id"]]
    assert found(sku=f"s-{role}") == [second["id"]]
    assert found(status="completed") == []
    assert found(created_after=second["created_at"])[:1] == [second["id"]]
    assert found(created_before=first["created_at"]) == []


def test_an_order_in_a_list_is_that_order(shop: House) -> None:
    """The same fields as alone, its place included, and none that are staff's."""
    queue, paused = shop.queue(), shop.queue()
    with signed_in(shop, customer="c-waiting") as client:
        for _ in range(3):
            shop.post(queue)
        waiting = shop.post(queue, customer="c-waiting")["id"]
        stopped = shop.post(paused, customer="c-waiting")["id"]
        delayed = shop.post(queue, customer="c-waiting", delay_seconds=600)["id"]
        good(shop.client().post(f"/queues/{paused}/pause"))
        listed = {one["id"]: one for one in good(client.get("/orders"))["items"]}
        for order in (waiting, stopped, delayed):
            assert listed[order] == good(client.get(f"/orders/{order}"))
    places = {order: (one["position"], one["position_exact"]) for order, one in listed.items()}
    assert places == {waiting: (4, True), stopped: (None, None), delayed: (None, None)}
    assert "worker" not in listed[waiting]

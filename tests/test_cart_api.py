"""The cart over HTTP: kept by the service, priced when it is read, bought as one order."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.answers import good, parameters, pointers, problem, stored
from tests.house import API, House
from tests.test_customers_api import customer, fresh, signed_in

PRICE = 990
NUMBERS = itertools.count(1)
EMPTY = {"items": [], "total_cents": 0, "currency": None, "version": 0, "updated_at": None}


class Shopper:
    """A customer with an account of his own, and a shop to fill for him."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.id = customer(house)["id"]
        self.client = signed_in(house, self.id)

    def product(self, copies: int | None = None, **fields: Any) -> str:
        """The SKU of a fresh product; counted, if `copies` says how many there are."""
        sku = fresh("disc")
        body = {"sku": sku, "name": f"Disc {next(NUMBERS)}", "price_cents": PRICE, **fields}
        good(self.house.client().post("/products", json=body), 201)
        if copies is not None:
            path = f"/products/{sku}/stock/receive"
            good(self.house.client().post(path, json={"quantity": copies}))
        return sku

    def change(self, sku: str, **fields: Any) -> None:
        good(self.house.client().patch(f"/products/{sku}", json=fields))

    def cart(self) -> dict[str, Any]:
        return good(self.client.get("/cart"))

    def lines(self) -> list[tuple[str, int]]:
        return [(line["sku"], line["quantity"]) for line in self.cart()["items"]]

    def ask(self, sku: str, quantity: Any = 1, **headers: str) -> httpx.Response:
        body = {"quantity": quantity}
        return self.client.put(f"/cart/items/{sku}", json=body, headers=headers)

    def put(self, *skus: str, quantity: int = 1) -> dict[str, Any]:
        for sku in skus:
            good(self.ask(sku, quantity))
        return self.cart()

    def check_out(
        self, key: str | None = None, match: int | None = None, **body: Any
    ) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        if match is not None:
            headers["If-Match"] = f'"{match}"'
        return self.client.post("/cart/checkout", json=body, headers=headers)

    def orders(self) -> list[dict[str, Any]]:
        return good(self.client.get("/orders"))["items"]


@pytest.fixture
def shopper(house: House) -> Iterator[Shopper]:
    found = Shopper(house)
    with found.client:
        yield found


# --- what lies in it ------------------------------------------------------------------


def test_an_empty_cart_is_a_cart(shopper: Shopper) -> None:
    """Whoever never put anything into it has one, of version 0; emptying it is no change."""
    answer = shopper.client.get("/cart")
    assert (good(answer), answer.headers["etag"]) == (EMPTY, '"0"')
    assert good(shopper.client.delete("/cart")) == EMPTY
    assert good(shopper.client.delete("/cart/items/never")) == EMPTY
    assert shopper.cart() == EMPTY


def test_a_line_is_set_not_added_to(shopper: Shopper) -> None:
    """PUT says how many; the same again changes nothing; the lines stay in their order."""
    one, two = shopper.product(copies=5), shopper.product(price_cents=5)
    first = shopper.put(one, quantity=2)
    assert (first["version"], first["total_cents"]) == (1, 2 * PRICE)
    again = shopper.ask(one, 2)
    assert (good(again), again.headers["etag"]) == (first, '"1"')
    shopper.put(two)
    found = shopper.put(one, quantity=3)
    assert found == shopper.cart()
    assert [(line["sku"], line["quantity"]) for line in found["items"]] == [(one, 3), (two, 1)]
    assert (found["total_cents"], found["currency"], found["version"]) == (3 * PRICE + 5, "BRL", 3)
    line = found["items"][0]
    assert line == {
        "sku": one,
        "name": line["name"],
        "quantity": 3,
        "price_cents": PRICE,
        "amount_cents": 3 * PRICE,
        "currency": "BRL",
        "available": 5,
        "available_from": None,
        "max_per_order": None,
        "problem": None,
    }
    assert (found["items"][1]["available"], line["name"][:5]) == (None, "Disc ")
    dropped = good(shopper.client.delete(f"/cart/items/{one}"))
    assert (shopper.lines(), dropped["version"]) == ([(two, 1)], 4)
    emptied = good(shopper.client.delete("/cart"))
    assert (emptied["items"], emptied["version"], emptied["currency"]) == ([], 5, None)


def test_a_cart_is_the_same_in_another_browser(shopper: Shopper) -> None:
    """It belongs to the customer, whichever of his accounts he signs in with; to nobody else."""
    sku = shopper.product()
    shopper.put(sku, quantity=4)
    with signed_in(shopper.house, shopper.id) as elsewhere:
        assert good(elsewhere.get("/cart")) == shopper.cart()
    with signed_in(shopper.house, customer(shopper.house)["id"]) as other:
        assert good(other.get("/cart"))["items"] == []


def test_what_does_not_fit_is_refused(shopper: Shopper) -> None:
    """Wrong quantities, unknown and hidden products, and a SKU that is none."""
    sku, hidden = shopper.product(), shopper.product(active=False)
    for wrong in (0, 10_001, 1.0, "1", True, None):
        assert pointers(shopper.ask(sku, wrong)) == ["#/quantity"]
    for missing in (hidden, "nobody-has-it"):
        problem(shopper.ask(missing), 404, "not_found")
    problem(shopper.ask("-"), 404, "not_found")
    few = shopper.product(max_per_order=2)
    assert pointers(shopper.ask(few, 3)) == ["#/quantity"]
    dear = shopper.product(price_cents=10**12)
    assert pointers(shopper.ask(dear, 2)) == ["#/quantity"]
    assert shopper.cart() == EMPTY


def test_a_cart_has_one_currency(shopper: Shopper) -> None:
    """That of its first product; another one is refused, until the cart is empty."""
    here, there = shopper.product(), shopper.product(currency="USD")
    shopper.put(here)
    assert parameters(shopper.ask(there)) == ["sku"]
    good(shopper.client.delete("/cart"))
    assert shopper.put(there)["currency"] == "USD"


def test_a_cart_has_a_hundred_lines_at_most(shopper: Shopper) -> None:
    """The 101st is refused; the quantity of one of the hundred may change."""
    skus = [shopper.product() for _ in range(2)]
    shopper.put(skus[0])
    rows = ", ".join(f"('{shopper.id} x{n}', '{shopper.id}', 'x{n}', 1, 1)" for n in range(99))
    stored_rows = f"INSERT INTO cart_items (id, customer, sku, quantity, added_at) VALUES {rows}"
    stored(shopper.house, stored_rows)
    assert parameters(shopper.ask(skus[1])) == ["sku"]
    assert len(shopper.put(skus[0], quantity=2)["items"]) == 100


def test_if_match_is_honoured(shopper: Shopper) -> None:
    """Who has seen another version changes nothing: 412."""
    sku = shopper.product()
    good(shopper.ask(sku, 1, **{"If-Match": '"0"'}))
    stale = {"If-Match": '"0"'}
    problem(shopper.ask(sku, 2, **stale), 412, "version_mismatch")
    for path in ("/cart", f"/cart/items/{sku}"):
        problem(shopper.client.delete(path, headers=stale), 412, "version_mismatch")
    problem(shopper.check_out(match=0), 412, "version_mismatch")
    assert shopper.lines() == [(sku, 1)]
    good(shopper.client.delete("/cart", headers={"If-Match": '"1"'}))


def test_a_line_says_why_it_cannot_be_bought(shopper: Shopper) -> None:
    """Sold out, not on sale yet, too many, gone, in another currency: each in its own word."""
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    sold, later, few, gone, foreign = (
        shopper.product(copies=1),
        shopper.product(available_from=soon),
        shopper.product(),
        shopper.product(),
        shopper.product(),
    )
    fine = shopper.product(copies=3)
    shopper.put(fine, sold, later, few, gone, foreign, quantity=3)
    shopper.change(few, max_per_order=2)
    shopper.change(gone, active=False)
    shopper.change(foreign, currency="USD")
    found = shopper.cart()
    assert {line["sku"]: line["problem"] for line in found["items"]} == {
        fine: None,
        sold: "out_of_stock",
        later: "not_on_sale",
        few: "max_per_order",
        gone: "gone",
        foreign: "other_currency",
    }
    lost = found["items"][4]
    assert lost["name"]
    assert {name for name in lost if lost[name] is None} == {
        "price_cents",
        "amount_cents",
        "currency",
        "available",
        "available_from",
        "max_per_order",
    }
    assert found["total_cents"] == 4 * 3 * PRICE
    assert shopper.put(fine, quantity=1)["items"][0]["quantity"] == 1


# --- checking out ---------------------------------------------------------------------


def test_a_cart_becomes_one_order(shopper: Shopper) -> None:
    """All its lines, in their order, at the prices of that moment; then it is empty."""
    one, two = shopper.product(copies=5), shopper.product(price_cents=5)
    shopper.put(one, two, quantity=2)
    shopper.change(two, price_cents=7)
    answer = shopper.check_out(reference="1042")
    order = good(answer, 201)
    assert order["items"] == [
        {"sku": one, "quantity": 2, "amount_cents": 2 * PRICE},
        {"sku": two, "quantity": 2, "amount_cents": 14},
    ]
    assert (order["total_cents"], order["currency"]) == (2 * PRICE + 14, "BRL")
    assert (order["customer"], order["queue"], order["status"]) == (shopper.id, "orders", "pending")
    assert (order["reference"], answer.headers["etag"]) == ("1042", '"1"')
    assert answer.headers["location"] == f"{API}/orders/{order['id']}"
    ticket = {"ticket": order["tracking"]["ticket"]}
    bare = shopper.house.client(None)
    assert good(bare.get(f"/orders/{order['id']}", params=ticket))["id"] == order["id"]
    found = shopper.cart()
    assert (found["items"], found["version"]) == ([], 3)
    assert good(shopper.client.get(f"/products/{one}"))["stock"]["available"] == 3
    assert [one["id"] for one in shopper.orders()] == [order["id"]]


def test_nobody_pays_more_than_the_cart_showed(shopper: Shopper) -> None:
    """A price that rose since he looked: 412, and all still lies in the cart."""
    sku = shopper.product()
    shopper.put(sku, quantity=2)
    shopper.change(sku, price_cents=PRICE + 1)
    problem(shopper.check_out(total_cents=2 * PRICE), 412, "version_mismatch")
    seen = shopper.cart()["total_cents"]
    assert seen == 2 * PRICE + 2
    assert good(shopper.check_out(total_cents=seen), 201)["total_cents"] == seen


def test_it_has_the_shape_of_a_posted_order(shopper: Shopper) -> None:
    """Whoever reads the answer to `POST /orders` reads this one too."""
    sku = shopper.product()
    shopper.put(sku)
    bought = good(shopper.check_out(), 201)
    body = {"items": [{"sku": sku, "quantity": 1}]}
    posted = good(shopper.client.post("/orders", json=body), 201)
    assert list(bought) == list(posted)
    assert list(bought["tracking"]) == list(posted["tracking"])


def test_an_empty_cart_is_not_bought(shopper: Shopper) -> None:
    """422, also for whoever never had anything in it, and after a checkout."""
    problem(shopper.check_out(), 422, "invalid")
    shopper.put(shopper.product())
    good(shopper.check_out(), 201)
    problem(shopper.check_out(), 422, "invalid")
    assert len(shopper.orders()) == 1


def test_the_same_key_buys_once(shopper: Shopper) -> None:
    """It answers the first order as it was, though the cart is empty, or full again."""
    sku = shopper.product(copies=5)
    shopper.put(sku)
    key = fresh("key")
    first = shopper.check_out(key, match=1, reference="1042")
    assert first.status_code == 201
    for _ in range(2):
        again = shopper.check_out(key, match=1, reference="1042")
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["idempotent-replayed"] == "true"
        shopper.put(sku, quantity=2)
    problem(shopper.check_out(key, reference="1043"), 422, "idempotency_key_reused")
    body = {"items": [{"sku": sku, "quantity": 1}], "reference": "1042"}
    other = shopper.client.post("/orders", json=body, headers={"Idempotency-Key": key})
    problem(other, 422, "idempotency_key_reused")
    assert (shopper.lines(), len(shopper.orders())) == ([(sku, 2)], 1)


def test_a_refused_checkout_leaves_the_cart(shopper: Shopper) -> None:
    """Sold out, not on sale, too many, gone: the pointer is the line's, and nothing is bought."""
    fine, wrong = shopper.product(copies=9), shopper.product(copies=1)
    shopper.put(fine, wrong, quantity=2)
    before, key = shopper.cart(), fresh("key")
    found = problem(shopper.check_out(key), 409, "out_of_stock")
    (fault,) = found["errors"]
    assert (fault["pointer"], fault["sku"], fault["available"]) == ("#/items/1", wrong, 1)
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    shopper.change(wrong, available_from=soon)
    (fault,) = problem(shopper.check_out(key), 409, "not_on_sale")["errors"]
    assert (fault["pointer"], fault["sku"]) == ("#/items/1", wrong)
    shopper.change(wrong, available_from=None, max_per_order=1)
    assert pointers(shopper.check_out(key)) == ["#/items/1"]
    shopper.change(wrong, max_per_order=None, currency="USD")
    assert pointers(shopper.check_out(key)) == ["#/items/1"]
    shopper.change(wrong, currency="BRL", active=False)
    problem(shopper.check_out(key), 409, "not_on_sale")
    assert shopper.cart()["version"] == before["version"]
    assert shopper.lines() == [(fine, 2), (wrong, 2)]
    assert shopper.orders() == []
    good(shopper.client.delete(f"/cart/items/{wrong}"))
    good(shopper.check_out(key), 201)  # a refusal does not use its key up


def test_who_was_deactivated_does_not_check_out(shopper: Shopper) -> None:
    """His cart stays as it is: 409."""
    sku = shopper.product()
    shopper.put(sku)
    good(shopper.house.client().post(f"/customers/{shopper.id}/deactivate"))
    problem(shopper.check_out(), 409, "customer_inactive")
    assert shopper.lines() == [(sku, 1)]


def test_an_erased_customer_has_no_cart(shopper: Shopper) -> None:
    """Nothing of what he meant to buy is left in the database."""
    shopper.put(shopper.product(), shopper.product())
    good(shopper.house.client().post(f"/customers/{shopper.id}/erase"))
    problem(shopper.client.get("/cart"), 401, "unauthenticated")
    for table in ("carts", "cart_items"):
        assert stored(shopper.house, f"SELECT * FROM {table} WHERE customer = '{shopper.id}'") == []


# --- whose it is ----------------------------------------------------------------------


def test_nobody_without_a_customer_id_has_a_cart(house: House) -> None:
    """Staff are 403 by their role, an account of a customer that names none by that."""
    calls = (
        ("GET", "/cart", None),
        ("PUT", "/cart/items/a", {"quantity": 1}),
        ("DELETE", "/cart/items/a", None),
        ("DELETE", "/cart", None),
        ("POST", "/cart/checkout", {}),
    )
    username = fresh("nobody")
    body = {"username": username, "password": "a-password-of-tests"}
    good(house.client().post("/accounts", json={**body, "roles": ["customer"]}), 201)
    token = good(house.client(None).post("/auth/token", data=body))["access_token"]
    bare = {"Authorization": f"Bearer {token}"}
    for method, path, content in calls:
        problem(house.client().request(method, path, json=content), 403, "forbidden")
        url = f"{house.url}{API}{path}"
        answer = httpx.request(method, url, json=content, headers=bare, timeout=60)
        problem(answer, 403, "forbidden")

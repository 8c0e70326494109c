"""Who may do what: every route with every kind of caller, against a table of our own.

The table is written by hand and the routes come from the running service: a route that is
not in the table fails, and so does a row without a route.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.answers import NOWHERE, good
from tests.house import API, CUSTOMER, ROLES, House, running
from tests.routes import Route, routes

NOBODY, TICKET, CUSTOMER_ROLE = "nobody", "ticket", "customer"
CALLERS = (NOBODY, TICKET, *ROLES)

EVERYBODY = frozenset(CALLERS)
SIGNED_IN = frozenset(ROLES)
STAFF = SIGNED_IN - {"customer"}
ADMIN = frozenset({"admin"})
READERS = frozenset({"admin", "viewer"})
LOOKERS = frozenset({"admin", "viewer", "producer"})
PRODUCERS = frozenset({"admin", "producer"})
WORKERS = frozenset({"admin", "worker"})
ORDER_READERS = LOOKERS | {"customer", "ticket"}  # own and named; else 404
BUYERS = PRODUCERS | {"customer"}
SHOPPERS = frozenset({"customer"})

TABLE: dict[str, frozenset[str]] = {
    "POST /auth/token": EVERYBODY,
    "POST /auth/refresh": EVERYBODY,
    "POST /auth/session": EVERYBODY,
    "DELETE /auth/session": EVERYBODY,
    "POST /auth/register": EVERYBODY,
    "POST /auth/logout": SIGNED_IN,
    "POST /auth/password": SIGNED_IN,
    "GET /auth/me": SIGNED_IN,
    "GET /accounts": ADMIN,
    "POST /accounts": ADMIN,
    "PATCH /accounts/{username}": ADMIN,
    "GET /queues": STAFF,
    "GET /queues/{name}": STAFF,
    "GET /queues/{name}/failures": LOOKERS,
    "GET /queues/{name}/stats": STAFF,
    "GET /stats": STAFF,
    "GET /queues/{name}/messages": LOOKERS,
    "GET /messages": LOOKERS,
    "POST /queues": ADMIN,
    "PATCH /queues/{name}": ADMIN,
    "DELETE /queues/{name}": ADMIN,
    "POST /queues/{name}/pause": ADMIN,
    "POST /queues/{name}/resume": ADMIN,
    "POST /queues/{name}/purge": ADMIN,
    "POST /queues/{name}/redrive": ADMIN,
    "POST /messages/{id}/retry": ADMIN,
    "POST /queues/{name}/messages": PRODUCERS,
    "POST /queues/{name}/messages/batch": PRODUCERS,
    "POST /messages/{id}/cancel": PRODUCERS,
    "GET /messages/{id}": STAFF,
    "GET /messages/{id}/history": STAFF,
    "POST /queues/{name}/claim": WORKERS,
    "POST /messages/{id}/ack": WORKERS,
    "POST /messages/{id}/nack": WORKERS,
    "POST /messages/{id}/release": WORKERS,
    "POST /messages/{id}/extend": WORKERS,
    "POST /messages/ack": WORKERS,
    "POST /messages/nack": WORKERS,
    "POST /messages/release": WORKERS,
    "POST /messages/extend": WORKERS,
    "POST /orders/{id}/cancel": BUYERS,
    "POST /orders": BUYERS,
    "GET /orders": LOOKERS | {"customer"},
    "GET /orders/{id}": ORDER_READERS,
    "GET /orders/{id}/history": ORDER_READERS,
    "GET /cart": SHOPPERS,
    "PUT /cart/items/{sku}": SHOPPERS,
    "DELETE /cart/items/{sku}": SHOPPERS,
    "DELETE /cart": SHOPPERS,
    "POST /cart/checkout": SHOPPERS,
    "GET /products": SIGNED_IN,
    "GET /products/{sku}": SIGNED_IN,
    "POST /products": ADMIN,
    "PATCH /products/{sku}": ADMIN,
    "DELETE /products/{sku}": ADMIN,
    "GET /products/{sku}/stock": SIGNED_IN,
    "PATCH /products/{sku}/stock": ADMIN,
    "POST /products/{sku}/stock/receive": ADMIN,
    "POST /products/{sku}/stock/adjust": ADMIN,
    "GET /products/{sku}/stock/movements": READERS,
    "GET /stock": READERS,
    "GET /customers": LOOKERS,
    "POST /customers": PRODUCERS,
    "GET /customers/count": LOOKERS,
    "GET /customers/{customer}": LOOKERS | {"customer"},
    "PATCH /customers/{customer}": BUYERS,
    "POST /customers/{customer}/deactivate": ADMIN,
    "POST /customers/{customer}/activate": ADMIN,
    "POST /customers/{customer}/erase": ADMIN,
    "GET /customers/{customer}/orders": LOOKERS | {"customer"},
    "GET /customers/{customer}/favourites": BUYERS,
    "PUT /customers/{customer}/favourites/{sku}": BUYERS,
    "DELETE /customers/{customer}/favourites/{sku}": BUYERS,
    "POST /events/tickets": SIGNED_IN,
    "POST /events/tickets/revoke": SIGNED_IN,
    "GET /streams": READERS,
    "DELETE /streams/{stream}": ADMIN,
    "GET /processes": READERS,
    "GET /asyncapi.json": EVERYBODY,
    "GET /audit": READERS,
    "GET /livez": EVERYBODY,
    "GET /readyz": EVERYBODY,
    "GET /docs": EVERYBODY,
    "GET /openapi.json": EVERYBODY,
    "GET /metrics": READERS,
    "GET /track/{id}": ORDER_READERS,
    "GET /": EVERYBODY,
    "GET /login": EVERYBODY,
    "GET /shop": EVERYBODY,  # 404, since there is none here
    "GET page /cart": EVERYBODY,
    "POST /login": EVERYBODY,
    "POST /register": EVERYBODY,
    "POST /logout": EVERYBODY,
    "GET /admin": READERS,
    "GET /admin/queues/{name}": READERS,
    "GET /admin/post": ADMIN,
    "GET /admin/streams": READERS,
    "GET /admin/messages": READERS,
    "GET /admin/messages/{id}": READERS,
    "GET /admin/find": READERS,
    "GET /admin/failures": READERS,
    "GET /admin/stock": READERS,
    "GET /admin/stock/{sku}": READERS,
    "GET /admin/audit": READERS,
    "GET /admin/accounts": ADMIN,
}
BY_TOPIC = {"GET /events", "GET /events/history"}  # TOPICS says who
FOR_MEMBERS = ("/admin", "/cart", "/shop")

# Kind of topic → who may follow one; the customer's and the ticket's is their own.
TOPICS: dict[str, frozenset[str]] = {
    "order": STAFF | {"customer", "ticket"},
    "customer": LOOKERS | {"customer", "ticket"},
    "queue": STAFF | {"ticket"},
    "queues": STAFF | {"ticket"},
    "stock": SIGNED_IN | {"ticket"},
    "favourites": frozenset({"customer", "ticket"}),  # others have none: 404
}


@pytest.fixture(scope="module")
def door() -> Iterator[House]:
    """A service for itself: who may enter has nothing to do with the database."""
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def ticket(door: House) -> str:
    """A ticket for an order that is the customer's."""
    order = door.post("orders")["id"]
    body = {"topics": [f"order:{order}"]}
    return good(door.client("admin").post("/events/tickets", json=body), 201)["ticket"]


def short(route: Route) -> str:
    if route.template == "/cart":  # there is a call of that name too
        return "GET page /cart"
    return f"{route.method} {route.template.removeprefix(API)}"


def send(
    house: House, caller: str, ticket: str, method: str, url: str, query: dict[str, Any]
) -> int:
    """The status of a request as one of CALLERS."""
    client = house.client(caller if caller in ROLES else None)
    with_ticket = {**query, "ticket": ticket} if caller == TICKET else query
    with client.stream(method, url, params=with_ticket) as answer:
        return answer.status_code


def refusal(caller: str, path: str = API) -> int:
    """What who may not is answered; the pages of members send who is nobody to sign in."""
    if caller in (NOBODY, TICKET):
        return 303 if path.startswith(FOR_MEMBERS) else 401
    return 403


def test_the_table_knows_every_route(door: House) -> None:
    """Whoever adds a route says here who may call it."""
    assert {short(route) for route in routes(door.url)} == TABLE.keys() | BY_TOPIC


@pytest.mark.parametrize("caller", CALLERS)
def test_every_route_with_every_caller(door: House, ticket: str, caller: str) -> None:
    """Who may is not refused; who may not is 403, and without an account 401. HEAD as GET."""
    wrong: list[str] = []
    for route in routes(door.url):
        allowed = TABLE.get(short(route))
        if allowed is None:
            continue
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            # An unknown parameter is refused after the role was looked at: nothing happens.
            status = send(door, caller, ticket, method, door.url + route.path, {"unknown": "1"})
            refused = refusal(caller, route.path)
            fits = status not in (401, 403) if caller in allowed else status == refused
            if not fits:
                wrong.append(f"{method} {route.path}: {status}")
    assert wrong == []


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("kind", TOPICS)
def test_every_topic_with_every_caller(door: House, caller: str, kind: str) -> None:
    """Own and named topics are open, others of the kind 404, kinds that are not his 403."""
    own, other = (door.post("orders", customer=c)["id"] for c in (CUSTOMER, "c-other"))
    topics = {
        "order": (f"order:{own}", f"order:{other}"),
        "customer": (f"customer:{CUSTOMER}", "customer:c-other"),
        "queue": ("queue:orders", "queue:" + door.queue()),
        "queues": ("queues", "queues"),
        "stock": ("stock:disc-001", "stock"),
        "favourites": ("favourites", "favourites"),
    }
    named, unnamed = topics[kind]
    body = {"topics": [named]}
    maker = "customer" if kind == "favourites" else "admin"
    ticket = good(door.client(maker).post("/events/tickets", json=body), 201)["ticket"]
    allowed = caller in TOPICS[kind]
    hidden = (caller == TICKET) or (caller == CUSTOMER_ROLE and kind in ("order", "customer"))
    for path in ("/events/history", "/events"):
        url = door.url + API + path

        def status(topic: str, url: str = url) -> int:
            return send(door, caller, ticket, "GET", url, {"topic": topic})

        refused = 404 if kind == "favourites" and caller in ROLES else refusal(caller)
        assert status(named) == (200 if allowed else refused), path
        if unnamed != named:
            expected = 404 if hidden else 200 if allowed else refusal(caller)
            assert status(unnamed) == expected, path


def test_public_stock_is_public() -> None:
    """With PUBLIC_STOCK nobody may follow stock, and nothing else."""
    with running(PUBLIC_STOCK="true") as open_:
        url = f"{open_.url}{API}/events/history"
        order = open_.post("orders")["tracking"]["ticket"]
        for topic, status in (("stock", 200), ("stock:a", 200), ("queues", 401), ("queue:a", 401)):
            assert send(open_, NOBODY, "", "GET", url, {"topic": topic}) == status
        assert send(open_, TICKET, order, "GET", url, {"topic": "stock"}) == 200


@pytest.mark.parametrize("caller", ["customer", "ticket"])
def test_own_and_named_orders(door: House, caller: str) -> None:
    """A customer reaches his own orders, a ticket what it names; all else is not there."""
    own, other = door.post("orders"), door.post("orders", customer="c-other")
    ticket = own["tracking"]["ticket"]
    paths = [f"{API}/orders/{{}}", f"{API}/orders/{{}}/history", "/track/{}"]
    for path in paths:
        for order, status in ((own["id"], 200), (other["id"], 404), (NOWHERE, 404)):
            url = door.url + path.format(order)
            assert send(door, caller, ticket, "GET", url, {}) == status, path
    cancel = f"{door.url}{API}/orders/{{}}/cancel"
    expected = 404 if caller == "customer" else 401
    assert send(door, caller, ticket, "POST", cancel.format(other["id"]), {}) == expected
    assert send(door, caller, ticket, "POST", cancel.format(own["id"]), {}) == (
        200 if caller == "customer" else 401
    )


def test_roles_add_up(door: House) -> None:
    """An account with two roles may what either may, and no more."""
    body = {"username": "two-roles", "password": "a-password-of-tests"}
    made = {**body, "roles": ["worker", "customer"], "customer": CUSTOMER}
    good(door.client().post("/accounts", json=made), 201)
    token = good(door.client(None).post("/auth/token", data=body))["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    own, other = door.post("orders")["id"], door.post("orders", customer="c-other")["id"]

    url = door.url + API

    def status(method: str, path: str) -> int:
        return httpx.request(method, url + path, headers=headers, timeout=30).status_code

    assert status("GET", f"/orders/{own}") == 200
    assert status("GET", f"/orders/{other}") == 404
    assert status("GET", f"/messages/{other}") == 200
    assert status("POST", "/queues/nope/claim") == 404
    assert status("POST", "/queues/orders/purge") == 403
    assert status("GET", "/events/history?topic=customer:c-other") == 404
    assert status("GET", f"/events/history?topic=order:{other}") == 200
    assert status("GET", "/events/history?topic=queues") == 200


def test_a_customer_without_an_id_owns_nothing(door: House) -> None:
    """An account of role customer that has no customer id reaches no order."""
    body = {"username": "no-id", "password": "a-password-of-tests"}
    good(door.client().post("/accounts", json={**body, "roles": ["customer"]}), 201)
    token = good(door.client(None).post("/auth/token", data=body))["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    order = door.post("orders")["id"]
    for method, path in (("GET", f"/orders/{order}"), ("POST", f"/orders/{order}/cancel")):
        answer = httpx.request(method, door.url + API + path, headers=headers, timeout=30)
        assert answer.status_code == 404

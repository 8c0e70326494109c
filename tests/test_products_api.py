"""Products over HTTP: the catalogue, who sees what of it, what may be bought, price lists."""

import csv
import itertools
import json
import os
import random
import re
import subprocess
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import cli
import sheet
from folding import folded
from tests import forks
from tests.answers import good, parameters, pointers, problem, stored
from tests.house import API, CUSTOMER, House, running
from tests.live import ticket, watch
from tests.services import ROOT, until

NUMBERS = itertools.count(1)
SECONDS = 30.0
WISHES = 60  # searches drawn for each database
Product = dict[str, Any]
DEFAULTS: Product = {
    "currency": "BRL",
    "attributes": {},
    "available_from": None,
    "max_per_order": None,
    "active": True,
    "stock": None,
    "version": 1,
}
FULL: Product = {
    "name": "For Those About To Rock We Salute You",
    "price_cents": 990,
    "currency": "USD",
    "attributes": {"artist": "AC/DC", "genre": "Rock", "release_year": 1981, "more": [1.5, None]},
    "available_from": "2027-01-01T00:00:00.000Z",
    "max_per_order": 2,
    "active": False,
}


def fresh() -> str:
    return f"cat-{next(NUMBERS)}-{time.monotonic_ns()}"


def make(house: House, sku: str | None = None, **product: Any) -> str:
    """A new product; its SKU."""
    body = {"name": "A disc", "price_cents": 990, **product}
    return good(house.client().post("/products", json={"sku": sku or fresh(), **body}), 201)["sku"]


def receive(house: House, sku: str, quantity: int = 5) -> None:
    good(house.client().post(f"/products/{sku}/stock/receive", json={"quantity": quantity}))


def buy(producer: httpx.Client, sku: str, quantity: int = 1) -> httpx.Response:
    body = {"customer": CUSTOMER, "items": [{"sku": sku, "quantity": quantity}]}
    return producer.post("/queues/orders/messages", json=body)


def walk(client: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    """All pages of the catalogue."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        body = good(client.get("/products", params={"limit": 200, **query, **more}))
        found += body["items"]
        cursor = body["next_cursor"]
        if cursor is None:
            return found


def skus(items: list[dict[str, Any]]) -> list[str]:
    return [item["sku"] for item in items]


# --- create ---------------------------------------------------------------------------


def test_a_new_product(house: House) -> None:
    """POST answers 201 with Location, ETag and the whole Product, defaults filled in."""
    admin, sku = house.client(), fresh()
    made = admin.post("/products", json={"sku": sku, "name": "Á", "price_cents": 0})
    body = good(made, 201)
    assert made.headers["location"] == f"{API}/products/{sku}"
    assert made.headers["etag"] == '"1"'
    assert {name: body[name] for name in DEFAULTS} == DEFAULTS
    assert (body["sku"], body["name"], body["price_cents"]) == (sku, "Á", 0)
    assert body["created_at"] == body["updated_at"]
    again = admin.get(made.headers["location"].removeprefix(API))
    assert (good(again), again.headers["etag"]) == (body, '"1"')
    full: Product = {"sku": fresh(), **FULL}
    made = good(admin.post("/products", json=full), 201)
    assert {name: made[name] for name in full} == full


@pytest.mark.parametrize(
    "wrong",
    [
        {"sku": "-a"},
        {"sku": "a" * 65},
        {"sku": "a/b"},
        {"sku": None},
        {"name": ""},
        {"name": "a" * 201},
        {"name": "\x00"},
        {"price_cents": -1},
        {"price_cents": 10**12 + 1},
        {"price_cents": 9.9},
        {"price_cents": "990"},
        {"currency": "brl"},
        {"currency": "BRLX"},
        {"attributes": []},
        {"attributes": {"a": "x" * 16_384}},
        {"available_from": 1},
        {"available_from": "2026-11-21"},
        {"max_per_order": 0},
        {"max_per_order": 10_001},
        {"active": 1},
        {"stock": None, "colour": "red"},
        {"version": 2},
    ],
    ids=str,
)
def test_what_is_no_product(house: House, wrong: dict[str, Any]) -> None:
    """Bounds, types, names and unknown fields are checked, and located."""
    body = {"sku": fresh(), "name": "A disc", "price_cents": 990, **wrong}
    assert pointers(house.client().post("/products", json=body)) == [f"#/{list(wrong)[-1]}"]


def test_attributes_are_free(house: House) -> None:
    """Any JSON object up to 16 KiB and 16 levels comes back as it was; deeper or more is 422."""
    admin = house.client()
    deep: Any = "bottom"
    for _ in range(14):
        deep = [deep]
    free = {"artist": ["AC/DC"], "genre": 7, "release_year": "1981", "ção": {"": deep}}
    large = {"a": "x" * (16_384 - len('{"a":""}'))}
    for attributes in (free, large, {"release_year": True}, {"release_year": 10**15}, {"n": 1e300}):
        sku = make(house, attributes=attributes)
        assert good(admin.get(f"/products/{sku}"))["attributes"] == attributes
    body = {"sku": fresh(), "name": "A", "price_cents": 1, "attributes": {"a": [[deep]]}}
    assert pointers(admin.post("/products", json=body)) == ["#/attributes"]


def test_a_sku_is_taken_once(house: House) -> None:
    """Of several that make a product at once one does; a deleted one still exists."""
    sku = fresh()
    body = {"sku": sku, "name": "A disc", "price_cents": 990}
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: house.client().post("/products", json=body), range(4)))
    assert sorted(one.status_code for one in done) == [201, 409, 409, 409]
    assert house.client().delete(f"/products/{sku}").status_code == 204
    problem(house.client().post("/products", json=body), 409, "product_exists")


# --- change, delete -------------------------------------------------------------------


def test_a_patch_changes_what_it_names(house: House) -> None:
    """PATCH changes fields, null means the default, and the version counts changes alone."""
    admin, sku = house.client(), make(house, **FULL)
    path = f"/products/{sku}"
    before = good(admin.get(path))
    changed = admin.patch(path, json={"price_cents": 790, "currency": None, "name": None})
    body = good(changed)
    assert (body["price_cents"], body["currency"], body["version"]) == (790, "BRL", 2)
    assert changed.headers["etag"] == '"2"'
    kept = ("name", "attributes", "available_from", "max_per_order", "active", "created_at")
    assert {name: body[name] for name in kept} == {name: before[name] for name in kept}
    shuffled = dict(reversed(before["attributes"].items()))
    for same in ({}, {"price_cents": 790}, {"attributes": shuffled, "active": False}):
        assert good(admin.patch(path, json=same)) == body, "what changes nothing is no change"
    for other in ({"release_year": 1981.0}, {"release_year": True}, {"release_year": 1}):
        body = good(admin.patch(path, json={"attributes": other}))
        assert json.dumps(body["attributes"]) == json.dumps(other)
    assert body["version"] == 5
    nulls = dict.fromkeys(["attributes", "available_from", "max_per_order", "active"])
    body = good(admin.patch(path, json=nulls))
    assert {name: body[name] for name in nulls} == {name: DEFAULTS[name] for name in nulls}
    for wrong in ({"sku": "b"}, {"stock": 1}, {"price_cents": -1}, {"nmae": None}):
        assert pointers(admin.patch(path, json=wrong)) == [f"#/{next(iter(wrong))}"]
    problem(admin.patch(f"/products/{fresh()}", json={}), 404, "not_found")
    problem(admin.patch("/products/-a", json={"price_cents": "x"}), 422, "invalid")
    problem(admin.patch("/products/-a", json={}), 404, "not_found")


def test_who_changes_says_what_he_saw(house: House) -> None:
    """If-Match with another version is 412 and changes nothing; one that cannot be read is 400."""
    admin, sku = house.client(), make(house)
    path, stale = f"/products/{sku}", {"If-Match": '"2"'}
    problem(admin.patch(path, json={"name": "B"}, headers=stale), 412, "version_mismatch")
    problem(admin.delete(path, headers=stale), 412, "version_mismatch")
    problem(admin.delete(path, headers={"If-Match": "1"}), 400, "bad_header")
    same = admin.patch(path, json={"name": "A disc"}, headers=stale)
    problem(same, 412, "version_mismatch")
    assert good(admin.get(path))["version"] == 1
    seen = {"If-Match": '"1"'}
    assert good(admin.patch(path, json={"name": "B"}, headers=seen))["version"] == 2
    assert admin.delete(path, headers=stale).status_code == 204
    assert admin.delete(path, headers={"If-Match": "*"}).status_code == 204
    assert good(admin.get(path))["version"] == 3


def test_only_one_of_two_changes_of_a_version_is_made(house: House) -> None:
    """Of several PATCHes at once that saw the same version one wins, the others are told."""
    sku = make(house)

    def change(price: int) -> int:
        seen = {"If-Match": '"1"'}
        path = f"/products/{sku}"
        return house.client().patch(path, json={"price_cents": price}, headers=seen).status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(change, range(4))) == [200, 412, 412, 412]


@pytest.mark.parametrize("how", ["delete", "patch"])
def test_nothing_reserved_is_taken_off_sale(house: House, how: str) -> None:
    """While a purchase holds some of it, ending its sale is 409; when none does, it ends."""
    admin, sku = house.client(), make(house)
    receive(house, sku)
    path = f"/products/{sku}"

    def end() -> httpx.Response:
        return admin.delete(path) if how == "delete" else admin.patch(path, json={"active": False})

    order = good(buy(house.client("producer"), sku, 2), 201)
    fault = problem(end(), 409, "below_reserved")
    assert fault["detail"] == "2 of it are reserved."
    assert good(admin.get(path))["active"] is True
    assert good(admin.patch(path, json={"price_cents": 1}))["version"] == 2
    good(house.client("producer").post(f"/messages/{order['id']}/cancel"))
    assert end().status_code == (204 if how == "delete" else 200)
    gone = good(admin.get(path))
    assert (gone["active"], gone["version"], gone["stock"]["on_hand"]) == (False, 3, 5)
    assert end().status_code == (204 if how == "delete" else 200)
    assert good(admin.get(path))["version"] == 3
    assert good(admin.patch(path, json={"active": True}))["active"] is True


def race(house: House, pool: ThreadPoolExecutor, draw: random.Random) -> bool:
    """Three purchases and the end of a sale, as good as at once; whether it ended."""
    sku = make(house)
    receive(house, sku)
    path, admin = f"/products/{sku}", house.client("admin", 1)
    here, there = (house.client("producer", process) for process in (0, 1))
    calls: list[Callable[[], httpx.Response]] = [
        lambda: buy(here, sku),
        lambda: buy(there, sku),
        lambda: buy(here, sku),
        lambda: admin.delete(path),
    ]
    start = threading.Barrier(len(calls))

    def late(call: Callable[[], httpx.Response], seconds: float) -> int:
        start.wait()
        time.sleep(seconds)
        return call().status_code

    *bought, ended = pool.map(late, calls, [draw.uniform(0, 0.004) for _ in calls])
    assert set(bought) <= {201, 409}
    assert good(house.client().get(f"{path}/stock"))["reserved"] == bought.count(201)
    assert ended == (409 if 201 in bought else 204), bought
    return ended == 204


def test_a_sale_ends_before_or_after_a_purchase(twins: House) -> None:
    """Purchases in two processes: the end is refused, or it was before all of them."""
    ended: list[bool] = []
    draw, began = random.Random(7), time.monotonic()

    def enough() -> bool:
        return len(ended) >= 25 or time.monotonic() - began > SECONDS

    with ThreadPoolExecutor(4) as pool:
        while len(set(ended)) < 2 or not enough():
            assert time.monotonic() - began < 3 * SECONDS, f"always the same: {set(ended)}"
            ended.append(race(twins, pool, draw))


# --- who sees what --------------------------------------------------------------------


def test_customers_see_what_they_may_buy(house: House) -> None:
    """An inactive product is not there for them, nor its stock; one of later is; no levels."""
    shown, hidden = make(house), make(house)
    later = make(house, available_from="2099-01-01T00:00:00Z")
    for sku in (shown, hidden):
        receive(house, sku, 7)
    assert house.client().delete(f"/products/{hidden}").status_code == 204
    customer = house.client("customer")
    seen = good(customer.get(f"/products/{shown}"))["stock"]
    assert (seen["available"], seen["on_hand"], seen["reserved"], seen["low_at"]) == (
        7,
        None,
        None,
        None,
    )
    assert good(customer.get(f"/products/{shown}/stock")) == seen
    assert good(customer.get(f"/products/{later}"))["stock"] is None
    unknown = problem(customer.get(f"/products/{fresh()}"), 404, "not_found")
    for path in (f"/products/{hidden}", f"/products/{hidden}/stock"):
        assert customer.head(path).status_code == 404
        problem(customer.get(path), 404, "not_found")
    assert (
        problem(customer.get(f"/products/{hidden}"), 404, "not_found")["detail"]
        == (unknown["detail"])
    )
    assert {shown, hidden, later} & set(skus(walk(customer))) == {shown, later}
    assert walk(customer, q="no such thing") == []


@pytest.mark.parametrize("role", ["admin", "viewer", "producer", "worker"])
def test_staff_see_all(house: House, role: str) -> None:
    """Inactive products and all levels; a list shows what the product alone shows."""
    sku = make(house, active=False)
    receive(house, sku, 7)
    one = good(house.client(role).get(f"/products/{sku}"))
    assert (one["active"], one["stock"]["on_hand"], one["stock"]["reserved"]) == (False, 7, 0)
    assert good(house.client(role).get(f"/products/{sku}/stock")) == one["stock"]
    assert one in walk(house.client(role))


def test_a_window_for_everybody() -> None:
    """With PUBLIC_STOCK nobody and tickets see what customers see, and no more."""
    with running(PUBLIC_STOCK="true") as house:
        shown, hidden = make(house), make(house)
        receive(house, shown)
        receive(house, hidden)
        assert house.client().delete(f"/products/{hidden}").status_code == 204
        nobody = house.client(None)
        for query in ({}, {"ticket": ticket(house, ["queues"], "admin")}):
            paths = ("/products", f"/products/{shown}", f"/products/{shown}/stock")
            listed, one, stock = (good(nobody.get(path, params=query)) for path in paths)
            assert (listed["items"], one["stock"]) == ([one], stock)
            assert (stock["available"], stock["on_hand"]) == (5, None)
            for path in (f"/products/{hidden}", f"/products/{hidden}/stock"):
                problem(nobody.get(path, params=query), 404, "not_found")
        problem(nobody.get("/products?ticket=x"), 401, "unauthenticated")


# --- lists ----------------------------------------------------------------------------


def marks(product: Product, name: str, wanted: str) -> bool:
    value = product["attributes"].get(name)
    return isinstance(value, str) and folded(value) == folded(wanted)


def year_of(product: Product) -> int | None:
    value = product["attributes"].get("release_year")
    return value if type(value) is int and 0 <= value <= 9_999 else None


def said_of(product: Product) -> list[str]:
    artist = product["attributes"].get("artist")
    return [product["name"], artist if isinstance(artist, str) else ""]


TESTS: dict[str, Callable[[Product, Any], bool]] = {
    "q": lambda one, text: any(folded(text) in folded(said) for said in said_of(one)),
    "artist": lambda one, text: marks(one, "artist", text),
    "genre": lambda one, text: marks(one, "genre", text),
    "year_min": lambda one, year: (found := year_of(one)) is not None and found >= year,
    "year_max": lambda one, year: (found := year_of(one)) is not None and found <= year,
    "price_min": lambda one, price: one["price_cents"] >= price,
    "price_max": lambda one, price: one["price_cents"] <= price,
    "in_stock": lambda one, wanted: (
        (one["stock"] is None or one["stock"]["available"] > 0) == (wanted == "true")
    ),
}


def discs() -> Iterator[tuple[Product, int | None]]:
    """The project's own discs with years and stock, some of them odd."""
    draw = random.Random("discs of the catalogue")
    odd: list[Any] = ["1981", True, 1981.5, None, -1, 10**12]
    with (ROOT / "samples" / "discs.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            year = draw.randrange(1950, 2026) if draw.random() < 0.8 else draw.choice(odd)
            artist: Any = row["artist"] if draw.random() < 0.95 else [row["artist"]]
            product = {
                "sku": row["sku"].replace("disc", draw.choice(["Cat", "cat", "cat_", "CAT."])),
                "name": row["title"],
                "price_cents": int(row["price_cents"]),
                "attributes": {"artist": artist, "genre": row["genre"], "release_year": year},
                "active": draw.random() < 0.9,
            }
            yield product, draw.choice([None, None, 0, 3])


@pytest.fixture(scope="module")
def stocked(house: House) -> House:
    """The house with all discs in its catalogue; those of stock 0 are sold out."""
    extra = [
        {"name": "100% \\ _", "attributes": {"artist": "STRASSE", "genre": "Ação"}},
        {"name": "Ὀδυσσεύς", "attributes": {"artist": "Straße", "genre": "AÇÃO"}},
    ]
    producer = house.client("producer")
    listed = [*discs(), *(({"sku": fresh(), "price_cents": 1, **one}, None) for one in extra)]

    def put(one: tuple[Product, int | None]) -> None:
        product, copies = one
        good(house.client().post("/products", json={**product, "active": True}), 201)
        if copies is not None:
            receive(house, product["sku"], max(copies, 1))
        if copies == 0:
            good(buy(producer, product["sku"]), 201)
        elif not product.get("active", True):
            assert house.client().delete(f"/products/{product['sku']}").status_code == 204

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, listed))
    return house


def bare(text: str) -> str:
    """A text as people type it who leave accents out."""
    return unicodedata.normalize("NFD", text).encode("ascii", "ignore").decode() or text


def marked(text: str) -> str:
    """A text with accents that are not there."""
    return text.replace("a", "ã").replace("e", "É").replace("o", "o\N{COMBINING ACUTE ACCENT}")


def wish(draw: random.Random, found: list[Product]) -> dict[str, Any]:
    """A search as people make them, for something that is there, or nearly."""
    one = draw.choice(found)
    said = draw.choice([text for text in said_of(one) if text])
    start = draw.randrange(len(said))
    attributes = one["attributes"]
    change = draw.choice([str.upper, str.lower, str.title, bare, marked])
    wishes: dict[str, Any] = {
        "q": change(said[start : start + draw.randrange(1, 6)]),
        "artist": change(str(attributes.get("artist", "nobody"))),
        "genre": change(str(attributes.get("genre", "none"))),
        "year_min": draw.randrange(1950, 2030),
        "year_max": draw.randrange(1940, 2026),
        "price_min": one["price_cents"] + draw.choice([-1, 0, 1]),
        "price_max": one["price_cents"] + draw.choice([-1, 0, 1]),
        "in_stock": draw.choice(["true", "false"]),
    }
    most = 10**12  # of a price; there may be one that has it
    wishes = {n: min(max(0, v), most) if isinstance(v, int) else v for n, v in wishes.items()}
    names = draw.sample(sorted(wishes), draw.choice([1, 1, 2, 3]))
    return {name: wishes[name] for name in names}


@pytest.mark.parametrize("role", ["viewer", "customer"])
def test_a_search_finds_what_fits(stocked: House, role: str) -> None:
    """Any mix of filters lists exactly what a look at every product finds, by SKU."""
    draw = random.Random(f"wishes of a {role}")
    client = stocked.client(role)
    everything = walk(client)
    assert len(everything) > 300
    assert skus(everything) == sorted(skus(everything)), "bytewise"
    found = 0
    for _ in range(WISHES):
        query = wish(draw, everything)
        fits = [one for one in everything if all(TESTS[n](one, v) for n, v in query.items())]
        assert walk(client, **query) == fits, query
        found += bool(fits)
    assert found > WISHES / 3


@pytest.mark.parametrize(
    "query, names",
    [
        ({"q": "100% \\ _"}, ["100% \\ _"]),
        ({"q": "ὈΔΥΣΣΕΎΣ"}, ["Ὀδυσσεύς"]),
        ({"artist": "strasse"}, ["100% \\ _", "Ὀδυσσεύς"]),
        ({"genre": "ação", "q": "%"}, ["100% \\ _"]),
        ({"genre": "ACAO", "q": "οδυσσευς"}, ["Ὀδυσσεύς"]),
        ({"q": "acustico", "artist": "TITAS"}, ["Acústico"]),
    ],
    ids=str,
)
def test_a_search_knows_no_wildcard_and_every_script(
    stocked: House, query: dict[str, Any], names: list[str]
) -> None:
    """A wildcard is a character; case and accents are folded alike on both databases."""
    assert [one["name"] for one in walk(stocked.client("viewer"), **query)] == names


def test_a_catalogue_is_walked_once_while_it_grows(stocked: House) -> None:
    """Pages by SKU: nothing is listed twice, and what comes before the cursor shifts nothing."""
    viewer = stocked.client("viewer")
    before = skus(walk(viewer))
    first = viewer.get("/products", params={"limit": 7, "price_min": "0"})
    body = good(first)
    assert f"cursor={body['next_cursor']}" in first.headers["link"]
    assert "price_min=0" in first.headers["link"]
    make(stocked, f"0-{fresh()}")
    late = make(stocked, f"z-{fresh()}")
    listed, cursor = skus(body["items"]), body["next_cursor"]
    while body["next_cursor"] is not None:
        cursor = body["next_cursor"]
        query = {"limit": 97, "price_min": "0", "cursor": cursor}
        body = good(viewer.get("/products", params=query))
        listed += skus(body["items"])
    assert listed == sorted([*before, late])
    for other in ({}, {"price_min": "1"}, {"price_min": "0", "q": "a"}):
        answer = viewer.get("/products", params={**other, "cursor": cursor})
        problem(answer, 400, "bad_cursor")
    problem(viewer.get("/products?cursor=x"), 400, "bad_cursor")


@pytest.mark.parametrize(
    "wrong",
    [
        {"q": ""},
        {"q": "a" * 201},
        {"q": "\x00"},
        {"artist": ""},
        {"genre": "a" * 201},
        {"year_min": "1981.0"},
        {"year_max": "10000"},
        {"price_min": "-1"},
        {"price_max": "1000000000001"},
        {"in_stock": "yes"},
        {"limit": "201"},
        {"active": "false"},
        {"release_year": "1981"},
    ],
    ids=str,
)
def test_a_search_that_is_none(house: House, wrong: dict[str, str]) -> None:
    """Bounds, types and unknown parameters are 422 with the parameter's name."""
    assert parameters(house.client("viewer").get("/products", params=wrong)) == [*wrong]


# --- purchases ------------------------------------------------------------------------


def test_what_may_not_be_bought(house: House) -> None:
    """An inactive product is 409 at its line; more than `max_per_order` 422, all lines counted."""
    sku, gone = make(house, max_per_order=3), make(house, active=False)
    producer = house.client("producer")

    def post(*lines: tuple[str, int]) -> httpx.Response:
        items = [{"sku": one, "quantity": quantity} for one, quantity in lines]
        body = {"customer": CUSTOMER, "items": items}
        return producer.post("/queues/orders/messages", json=body)

    fault = problem(post((fresh(), 1), (gone, 1)), 409, "not_on_sale")["errors"][0]
    assert (fault["pointer"], fault["sku"]) == ("#/items/1", gone)
    assert pointers(post((sku, 4))) == ["#/items/0"]
    assert pointers(post((sku, 2), (fresh(), 9), (sku, 2))) == ["#/items/2"]
    good(post((sku, 1), (sku, 2)), 201)
    good(house.client().patch(f"/products/{sku}", json={"max_per_order": None}))
    good(post((sku, 10_000)), 201)
    good(house.client().patch(f"/products/{gone}", json={"active": True}))
    good(post((gone, 1)), 201)


def test_a_sale_begins_at_its_instant(house: House) -> None:
    """Before `available_from` a purchase is 409 and says when; from then on it is accepted."""
    opens = datetime.now(UTC) + timedelta(hours=1)
    sku, producer = make(house, available_from=opens.isoformat()), house.client("producer")
    told = good(house.client("customer").get(f"/products/{sku}"))["available_from"]
    fault = problem(buy(producer, sku), 409, "not_on_sale")
    assert fault["errors"][0]["detail"] == f"on sale from {told}"
    soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    changed = good(house.client().patch(f"/products/{sku}", json={"available_from": soon}))
    told = changed["available_from"]
    answers: list[httpx.Response] = []

    def begun() -> bool:
        answers.append(buy(producer, sku))
        return answers[-1].status_code == 201

    until(begun, SECONDS, "the sale")
    assert {one.status_code for one in answers[:-1]} <= {409}
    assert good(answers[-1], 201)["created_at"] >= told


# --- price lists ----------------------------------------------------------------------


def price_list(folder: Path, prefix: str, *more: str) -> Path:
    """The project's own discs under SKUs of this test alone."""
    path = folder / "discs.csv"
    text = (ROOT / "samples" / "discs.csv").read_text(encoding="utf-8")
    path.write_text(text.replace("disc-", prefix) + "".join(f"{line}\n" for line in more))
    return path


def imported(environment: dict[str, str], *args: str | Path) -> subprocess.CompletedProcess[str]:
    """`cli.py import` to its end."""
    return forks.run(["import", *map(str, args)], ROOT, environment, 100)


def under(house: House, prefix: str) -> dict[str, Product]:
    return {one["sku"]: one for one in walk(house.client()) if one["sku"].startswith(prefix)}


def test_a_price_list_beside_the_service(house: House, tmp_path: Path) -> None:
    """It makes what is not there, changes what differs, and nothing the second time.

    The service goes on writing meanwhile, and its streams show the stock that came.
    """
    beside, prefix = house.servers[0].environment(), f"{fresh()}-"
    path = price_list(tmp_path, prefix)
    sku = f"{prefix}001"
    make(house, sku, attributes={"release_year": 1981, "genre": "?"}, max_per_order=2)
    receive(house, sku, 2)
    done, going = threading.Event(), house.queue()
    posted: list[int] = []

    def keep_posting() -> None:
        while not done.is_set():
            body = {"customer": CUSTOMER, "items": [{"sku": "other", "quantity": 1}]}
            url = f"/queues/{going}/messages"
            posted.append(house.client("producer").post(url, json=body).status_code)

    worker = threading.Thread(target=keep_posting)
    worker.start()
    try:
        with watch(house, f"stock:{prefix}347") as stream:
            first = imported(beside, path, "--stock", "20")
            received = stream.events(1)[0].json["data"]
    finally:
        done.set()
        worker.join(SECONDS)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.splitlines() == [
        "347 products: 346 new, 1 changed, 0 as they were",
        "346 of them received 20",
    ]
    assert set(posted) <= {201, 503}
    assert posted.count(503) <= 1, "where the machine stalls while it is imported"
    assert (received["available"], received["reason"]) == (20, "received")
    listed = under(house, prefix)
    assert len(listed) == 347
    known = listed[sku]
    assert known["attributes"] == {
        "artist": "AC/DC",
        "genre": "Rock",
        "release_year": 1981,
        "tracks": 10,
    }
    assert (known["max_per_order"], known["version"], known["stock"]["on_hand"]) == (2, 2, 2)
    assert {one["stock"]["on_hand"] for s, one in listed.items() if s != sku} == {20}
    again = imported(beside, path, "--stock", "30")
    assert again.stdout.splitlines() == [
        "347 products: 0 new, 0 changed, 347 as they were",
        "0 of them received 30",
    ]
    assert under(house, prefix) == listed
    sums = "SELECT s.on_hand - sum(m.change) FROM stock s JOIN stock_movements m ON m.sku = s.sku"
    where = f" WHERE s.sku LIKE '{prefix}%' GROUP BY s.sku, s.on_hand"
    assert {int(row[0]) for row in stored(house, sums + where)} == {0}


def test_a_price_list_may_name_years(tmp_path: Path) -> None:
    """A year of the list can be filtered by; an empty one says nothing, another is a fault."""
    path = tmp_path / "list.csv"
    rows = ["sku,title,price_cents,release_year", "a,One,990,1981", "b,Two,990,"]
    path.write_text("\n".join(rows))
    found = sheet.read(path, "BRL")
    assert [one.attributes for one in found] == [{"release_year": 1981}, {}]
    path.write_text("\n".join([*rows, "c,Three,990,198x"]))
    with pytest.raises(sheet.BadSheet, match="line 4: release_year: must be a whole number"):
        sheet.read(path, "BRL")


def test_a_price_list_with_a_fault_changes_nothing(house_on_sqlite: House, tmp_path: Path) -> None:
    """Each fault is a line with its place; what is right in the file is not taken either."""
    house = house_on_sqlite
    prefix = f"{fresh()}-"
    path = price_list(tmp_path, prefix, "-bad,,x,y,z,1", "good,Title,,,1,9.90")
    done = imported(house.servers[0].environment(), path, "--stock", "5")
    assert (done.returncode, done.stdout) == (1, "")
    faults = [
        line.removeprefix(f"{path}: ").partition(": ")[0] for line in done.stderr.splitlines()
    ]
    assert faults == ["line 349", "line 350"]
    assert under(house, prefix) == {}


def test_a_price_list_needs_a_database(tmp_path: Path) -> None:
    """Without one it says so and makes none."""
    alone = {"PATH": os.environ["PATH"], "FILAVIVA_DATA_DIR": str(tmp_path / "data")}
    done = imported(alone, price_list(tmp_path, "d-"))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"filaviva: there is no database at .*; start the service first\n", done.stderr
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("wrong", [["--currency", "brl"], ["--stock", "0"], ["--stock", "1.5"], []])
def test_what_no_price_list_is_asked_for(wrong: list[str]) -> None:
    """An option out of its bounds, or no file, is named before anything is read."""
    done = CliRunner().invoke(cli.cli, ["import", *(["discs.csv", *wrong] if wrong else [])])
    assert (done.exit_code, done.stdout) == (2, "")
    assert (wrong[0] if wrong else "Missing argument") in done.stderr

"""Favourites: a list without doubles, and one topic for the stock of all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.answers import good, parameters, problem, stored
from tests.house import API, LINES, House
from tests.live import PUBLIC_URL, watch
from tests.sse import Stream
from tests.test_customers_api import customer, fresh, signed_in
from tests.test_lists_api import pages


class Own:
    """A customer with an account of his own."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.id = customer(house)["id"]
        self.client = signed_in(house, self.id)

    def favourite(self, sku: str) -> dict[str, Any]:
        return good(self.client.put(f"/customers/{self.id}/favourites/{sku}"))

    def drop(self, sku: str) -> None:
        assert self.client.delete(f"/customers/{self.id}/favourites/{sku}").status_code == 204

    def watch(self, *topics: str, **options: Any) -> Stream:
        headers = {"Authorization": self.client.headers["Authorization"]}
        chosen = topics or ("favourites",)
        stream = watch(self.house, *chosen, role=None, headers=headers, **options)
        stream.first("hello")
        return stream

    def history(self, **query: Any) -> list[dict[str, Any]]:
        query.setdefault("topic", "favourites")
        return good(self.client.get("/events/history", params={**query, "limit": 200}))["items"]


@contextmanager
def owner(house: House) -> Iterator[Own]:
    own = Own(house)
    with own.client:
        yield own


@pytest.fixture
def own(house: House) -> Iterator[Own]:
    with owner(house) as found:
        yield found


def receive(house: House, sku: str, process: int = 0) -> None:
    path = f"/products/{sku}/stock/receive"
    good(house.client(process=process).post(path, json={"quantity": 1}))


def told(stream: Stream) -> list[tuple[str | None, str]]:
    """What the facts of a stream are about: type and SKU."""
    return [(block.event, block.json["data"]["sku"]) for block in stream.facts]


def arrive(stream: Stream, *skus: str) -> None:
    """Wait until the stock of these has come, in this order, and of nothing else."""

    def found(one: Stream) -> list[str]:
        return [sku for kind, sku in told(one) if kind == "stock.changed"]

    stream.wait(lambda one: len(found(one)) >= len(skus), 30, f"stock of {skus}")
    assert found(stream) == list(skus)


# --- the list -------------------------------------------------------------------------


def test_a_favourite_is_kept_once(own: Own) -> None:
    """PUT and DELETE may come again; the list is by SKU, with the stock everybody sees."""
    counted, unknown = fresh("b"), fresh("A")
    receive(own.house, counted)
    first = own.favourite(counted)
    assert own.favourite(counted) == first
    assert own.favourite(unknown)["stock"] is None
    path = f"/customers/{own.id}/favourites"
    found = good(own.client.get(path))
    assert [one["sku"] for one in found["items"]] == [unknown, counted]
    shown = found["items"][1]["stock"]
    assert (shown["available"], shown["on_hand"], shown["reserved"]) == (1, None, None)
    assert found["items"][1] == first
    walked = pages(own.house.client("producer"), path, limit=1)
    assert [one["sku"] for page in walked for one in page] == [unknown, counted]
    own.drop(counted)
    own.drop(counted)
    assert [one["sku"] for one in good(own.client.get(path))["items"]] == [unknown]
    kept = [(one["data"]["sku"], one["data"]["kept"]) for one in own.history()]
    assert kept == [(counted, True), (unknown, True), (counted, False)]


def test_who_is_not_there_has_no_favourites(house: House) -> None:
    """An unknown customer, or a malformed SKU, is 404; the list of a bare one is empty."""
    client = house.client("producer")
    for method, path in (
        ("GET", "/customers/c-nobody/favourites"),
        ("PUT", "/customers/c-nobody/favourites/a"),
        ("DELETE", "/customers/c-nobody/favourites/a"),
    ):
        problem(client.request(method, path), 404, "not_found")
    bare = customer(house)["id"]
    problem(client.put(f"/customers/{bare}/favourites/-"), 404, "not_found")
    assert good(client.get(f"/customers/{bare}/favourites"))["items"] == []
    other = customer(house)["id"]
    cursor = {"cursor": _cursor(client, other)}
    problem(client.get(f"/customers/{bare}/favourites", params=cursor), 400, "bad_cursor")


def _cursor(client: httpx.Client, customer: str) -> str:
    for sku in ("a", "b"):
        good(client.put(f"/customers/{customer}/favourites/{sku}"))
    return good(client.get(f"/customers/{customer}/favourites?limit=1"))["next_cursor"]


def test_there_are_at_most_200(own: Own) -> None:
    """The 201st is refused and leaves no trace; with one less there is room for it."""
    rows = ", ".join(f"('{own.id} s-{n:03}', '{own.id}', 's-{n:03}', 1)" for n in range(199))
    insert = f"INSERT INTO favourites (id, customer, sku, created_at) VALUES {rows}"
    stored(own.house, f"{insert} RETURNING 1")
    own.favourite("t-1")
    path = f"/customers/{own.id}/favourites/t-2"
    assert parameters(own.client.put(path)) == ["sku"]
    own.favourite("t-1")
    own.drop("s-000")
    own.favourite("t-2")
    assert [one["data"]["sku"] for one in own.history()] == ["t-1", "s-000", "t-2"]


# --- the topic ------------------------------------------------------------------------


def test_the_stream_follows_the_favourites(own: Own) -> None:
    """Stock of what is a favourite, from that moment on, and of nothing else."""
    a, b, c = (fresh(letter) for letter in "abc")
    own.favourite(a)
    with own.watch() as stream, owner(own.house) as stranger, stranger.watch() as other:
        receive(own.house, a)
        arrive(stream, a)
        receive(own.house, b)
        own.favourite(b)
        receive(own.house, b)
        arrive(stream, a, b)
        own.drop(a)
        receive(own.house, a)
        own.favourite(c)
        receive(own.house, c)
        arrive(stream, a, b, c)
        changes = stream.named("favourites.changed")
        assert [block.json["data"] for block in changes] == [
            {"customer": own.id, "sku": sku, "kept": kept}
            for sku, kept in ((b, True), (a, False), (c, True))
        ]
        event = changes[0].json
        assert (event["source"], event["subject"]) == (f"/customers/{own.id}", own.id)
        assert other.facts == []


def test_a_snapshot_is_the_stock_of_all_favourites(own: Own) -> None:
    """With snapshot=1 a page begins with all that is counted, and goes on from there."""
    a, b, c = (fresh(letter) for letter in "abc")
    for sku in (b, a):
        receive(own.house, sku)
    for sku in (b, a, c):
        own.favourite(sku)
    with own.watch(snapshot=1) as stream:
        shown = stream.first("snapshot").json
        assert shown["topic"] == "favourites"
        assert [(one["sku"], one["available"]) for one in shown["items"]] == [(a, 1), (b, 1)]
        receive(own.house, c)
        arrive(stream, c)


def test_live_and_history_are_the_same(own: Own) -> None:
    """What the stream said stands in the history, in the same bytes."""
    sku = fresh("s")
    with own.watch("favourites", f"stock:{sku}") as stream:
        own.favourite(sku)
        receive(own.house, sku)
        arrive(stream, sku)
        query = {"topic": ["favourites", f"stock:{sku}"], "limit": 200}
        answer = own.client.get("/events/history", params=query)
        assert len(stream.facts) == 3  # kept, changed, replenished
        for block in stream.facts:
            assert (block.data or "-") in answer.text


def test_a_resumed_stream_goes_on_over_a_change(own: Own) -> None:
    """Whoever was away finds the change, and the stock of what is a favourite now."""
    a, b = fresh("a"), fresh("b")
    own.favourite(a)
    with own.watch() as stream:
        receive(own.house, a)
        arrive(stream, a)
        cursor = stream.ids[-1]
    own.favourite(b)
    receive(own.house, b)
    own.drop(a)
    receive(own.house, a)
    receive(own.house, b)
    with own.watch(cursor=cursor) as stream:
        changed, restocked = ("stock.changed", b), ("stock.replenished", b)
        stream.wait(lambda one: told(one).count(changed) == 2, 30, "both deliveries")
        wanted = [("favourites.changed", b), changed, restocked, ("favourites.changed", a), changed]
        assert told(stream) == wanted


def test_a_ticket_stands_for_its_owners_favourites(own: Own) -> None:
    """It follows the favourites of who asked for it; nobody names another's."""
    sku = fresh("s")
    body = {"topics": ["favourites"]}
    ticket = good(own.client.post("/events/tickets", json=body), 201)["ticket"]
    problem(own.house.client("producer").post("/events/tickets", json=body), 404, "not_found")
    named = {"topic": f"favourites:{own.id}"}
    assert parameters(own.client.get("/events/history", params=named)) == ["topic"]
    with httpx.Client(base_url=own.house.url + API, timeout=30, limits=LINES) as bearer:
        for query in ({}, {"topic": "favourites"}):
            with watch(own.house, *query.values(), role=None, ticket=ticket) as stream:
                stream.first("hello")
                own.favourite(sku)
                receive(own.house, sku)
                arrive(stream, sku)
            own.drop(sku)
            answer = bearer.get("/events/history", params={**query, "ticket": ticket})
            assert len(good(answer)["items"]) >= 2
        refused = bearer.get("/events/history", params={"topic": "stock", "ticket": ticket})
        problem(refused, 404, "not_found")
    assert PUBLIC_URL in good(own.client.post("/events/tickets", json=body), 201)["url"]


# --- across processes -----------------------------------------------------------------


def test_a_change_in_one_process_reaches_streams_of_another(twins: House) -> None:
    """Each favourite is kept here and its only delivery booked at once: there all arrive."""
    skus = [fresh("s") for _ in range(30)]
    with owner(twins) as own, own.watch(process=1) as far, own.watch(process=0) as near:
        for n, sku in enumerate(skus):
            own.favourite(sku)
            receive(twins, sku, process=n % 2)
        for stream in (far, near):
            arrive(stream, *skus)
            kept = [sku for kind, sku in told(stream) if kind == "favourites.changed"]
            assert kept == skus
            numbers = [int((one or "-0").rpartition("-")[2]) for one in stream.ids]
            assert numbers == sorted(set(numbers))
        for sku in skus[:-1]:
            own.drop(sku)
        for sku in skus:
            receive(twins, sku)
        arrive(far, *skus, skus[-1])

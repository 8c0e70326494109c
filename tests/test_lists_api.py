"""Lists over HTTP: pages, cursors, filters."""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.answers import good, parameters, problem
from tests.house import CUSTOMER, DISC, House

BODY: dict[str, Any] = {"customer": CUSTOMER, "items": [DISC]}


def pages(client: httpx.Client, path: str, **query: Any) -> list[list[dict[str, Any]]]:
    """All pages of a list, along its `Link` headers, which must say the same as next_cursor."""
    found: list[list[dict[str, Any]]] = []
    answer = client.get(path, params=query)
    while True:
        body = good(answer)
        assert body.keys() == {"items", "next_cursor"}
        found.append(body["items"])
        if body["next_cursor"] is None:
            assert "link" not in answer.headers
            return found
        link = answer.headers["link"]
        assert link.startswith("</api/v1/")
        assert link.endswith('>; rel="next"')
        following = link[1 : link.index(">")]
        assert body["next_cursor"] in following
        answer = client.get(str(client.base_url.copy_with(path="/")).rstrip("/") + following)


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


def forged(last: str, filters: Mapping[str, Any]) -> str:
    """A cursor as the service makes them, with a place of our own."""
    mark = hashlib.sha256(json.dumps(filters, sort_keys=True).encode()).hexdigest()[:12]
    return base64.urlsafe_b64encode(f"{mark}:{last}".encode()).decode().rstrip("=")


def test_a_list_is_walked_once_while_it_grows(house: House) -> None:
    """Newest first; nothing is listed twice and new rows shift nothing."""
    queue = house.queue()
    posted = [house.post(queue)["id"] for _ in range(7)]
    viewer = house.client("viewer")
    path = f"/queues/{queue}/messages"
    first = good(viewer.get(path, params={"limit": 3}))
    house.post(queue)
    second = good(viewer.get(path, params={"limit": 3, "cursor": first["next_cursor"]}))
    third = good(viewer.get(path, params={"limit": 200, "cursor": second["next_cursor"]}))
    assert ids(first["items"] + second["items"] + third["items"]) == posted[::-1]
    assert third["next_cursor"] is None
    walked = pages(viewer, path, limit=4)
    assert [len(page) for page in walked] == [4, 4]
    full = good(viewer.get(path, params={"limit": 8}))
    assert (len(full["items"]), full["next_cursor"]) == (8, None)


def test_a_list_of_all_queues(house: House) -> None:
    """GET /messages looks at every queue; the same filters, the same order."""
    here, there = house.queue(), house.queue()
    group = f"g-{here}"
    one = house.post(here, group=group)["id"]
    two = house.post(there, group=group)["id"]
    three = house.post(here, group=group)["id"]
    walked = pages(house.client("producer"), "/messages", group=group, limit=2)
    assert [ids(page) for page in walked] == [[three, two], [one]]
    assert [item["queue"] for item in walked[0]] == [here, there]


@pytest.mark.parametrize("more", [{}, {"customer": "c-in-order"}])
def test_a_status_of_all_queues(house: House, more: dict[str, str]) -> None:
    """It is found in each of them, newest first over all, page by page; the others are not."""
    queues = [house.queue() for _ in range(3)]
    group = f"g-{queues[0]}"
    posted = [
        house.post(queues[place % 3], group=group, customer="c-in-order") for place in range(9)
    ]
    for one in posted[::2]:
        good(house.client().post(f"/messages/{one['id']}/cancel"))
    walked = pages(
        house.client("viewer"), "/messages", group=group, limit=2, status="cancelled", **more
    )
    newest = [one["id"] for one in reversed(posted[::2])]
    assert [ids(page) for page in walked] == [newest[:2], newest[2:4], newest[4:]]


def test_filters(house: House) -> None:
    """Every filter takes what fits and leaves the rest; together they narrow."""
    queue = house.queue()
    lines = [{"sku": "a-1", "quantity": 1}, {"sku": "b", "quantity": 1}]
    card = house.post(queue, customer="c-card", reference="N° 1", items=lines)
    [one] = house.claim(queue)
    good(house.settle("nack", one, error="card: 100% 'no' \\ _", retry=False))
    gone = house.post(queue, customer="c-gone", group="g 1")
    good(house.client().post(f"/messages/{gone['id']}/cancel"))
    open_ = house.post(queue)
    path = f"/queues/{queue}/messages"
    viewer = house.client("viewer")

    def found(**query: Any) -> list[str]:
        return ids(good(viewer.get(path, params=query))["items"])

    assert found() == [open_["id"], gone["id"], card["id"]]
    for query, expected in (
        ({"status": "failed"}, [card]),
        ({"status": "pending"}, [open_]),
        ({"status": "expired"}, []),
        ({"customer": "c-gone"}, [gone]),
        ({"group": "g 1"}, [gone]),
        ({"sku": "b"}, [card]),
        ({"sku": "a"}, []),
        ({"reference": "N° 1"}, [card]),
        ({"error_contains": "100% 'no' \\ _"}, [card]),
        ({"error_contains": "Card"}, []),
        ({"created_after": open_["created_at"]}, [open_]),
        ({"created_before": card["created_at"]}, []),
        ({"created_before": gone["created_at"], "status": "failed"}, [card]),
        ({"finished_after": "2020-01-01T00:00:00+05:00"}, [gone, card]),
        ({"finished_before": "2020-01-01T00:00:00Z"}, []),
        ({"status": "failed", "customer": "c-gone"}, []),
    ):
        assert found(**query) == ids(expected), query


@pytest.mark.parametrize(
    "query, name",
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=1.0", "limit"),
        ("limit=%2B1", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=1", "limit"),
        ("limit=%D9%A1", "limit"),
        ("stauts=failed", "stauts"),
        ("status=done", "status"),
        ("status=failed&status=failed", "status"),
        ("status=", "status"),
        ("customer=", "customer"),
        ("customer=-", "customer"),
        ("sku=%00", "sku"),
        ("reference=%00", "reference"),
        ("group=", "group"),
        ("error_contains=", "error_contains"),
        ("created_after=1700000000", "created_after"),
        ("created_after=2024-01-01", "created_after"),
        ("created_before=2024-01-01T00:00:00 01:00", "created_before"),
        ("finished_after=9999-12-31T23:59:59-23:59", "finished_after"),
        ("finished_before=0001-01-01T00:00:00%2B23:59", "finished_before"),
        ("cursor=" + "a" * 513, "cursor"),
        ("ticket=x", "ticket"),
    ],
)
def test_a_wrong_parameter_is_refused(house: House, query: str, name: str) -> None:
    """Unknown, repeated and malformed parameters are 422, and named."""
    for path in ("/messages", "/queues/orders/messages"):
        assert parameters(house.client().get(f"{path}?{query}")) == [name]


def test_cursors_of_others_are_refused(house: House) -> None:
    """A cursor belongs to its list and filters; anything else is 400 bad_cursor."""
    queue = house.queue()
    house.post(queue)
    house.post(queue)
    admin = house.client()
    path = f"/queues/{queue}/messages"
    cursor = good(admin.get(path, params={"limit": 1}))["next_cursor"]
    for where, query in (
        (path, {"status": "pending"}),
        ("/messages", {}),
        ("/queues/orders/messages", {}),
        ("/queues", {}),
        ("/accounts", {}),
    ):
        problem(admin.get(where, params={**query, "cursor": cursor}), 400, "bad_cursor")
    for text in ("x", "é", "====", "AAAA", cursor[:-2], "\x7f"):
        problem(admin.get(path, params={"cursor": text}), 400, "bad_cursor")
    good(admin.get(path, params={"cursor": cursor, "limit": 9}))


def test_a_forged_cursor_is_refused(house: House) -> None:
    """Whatever place somebody writes into a cursor, the answer is a page or 400."""
    queue = house.queue()
    order = house.post(queue)["id"]
    admin = house.client()
    for path, filters in (
        (f"/messages/{order}/history", {"of": order}),
        (f"/orders/{order}/history", {"of": order}),
        ("/messages", {"queue": None}),
        (f"/queues/{queue}/messages", {"queue": queue}),
        ("/queues", {"prefix": ""}),
        ("/accounts", {}),
    ):
        for last in ("²", "٣", "9" * 30, "-1", "\x00", "", "a\nb", "' OR 1=1 --"):
            answer = admin.get(path, params={"cursor": forged(last, filters)})
            if answer.status_code != 200:
                problem(answer, 400, "bad_cursor")


def test_a_history_in_pages(house: House) -> None:
    """Histories come oldest first, page by page, for staff and for the order's customer."""
    queue = house.queue()
    order = house.post(queue)["id"]
    for _ in range(3):
        [one] = house.claim(queue)
        good(house.settle("release", one))
    for role, path in (("worker", f"/messages/{order}"), ("customer", f"/orders/{order}")):
        walked = pages(house.client(role), f"{path}/history", limit=3)
        assert [len(page) for page in walked] == [3, 3, 1]
        versions = [item["version"] for page in walked for item in page]
        assert versions == list(range(1, 8))
    other = house.post(queue)["id"]
    cursor = good(house.client().get(f"/messages/{order}/history", params={"limit": 1}))[
        "next_cursor"
    ]
    answer = house.client().get(f"/messages/{other}/history", params={"cursor": cursor})
    problem(answer, 400, "bad_cursor")


def test_queues_by_name(house: House) -> None:
    """Queues come by name, byte by byte, with a prefix, up to 1,000 a page."""
    admin = house.client()
    names = ["lists.a", "lists-a", "lists_a", "lists0", "listsa", "lists.ab"]
    for name in names:
        good(admin.post("/queues", json={"name": name}), 201)
    walked = pages(house.client("worker"), "/queues", prefix="lists", limit=4)
    assert [q["name"] for page in walked for q in page] == sorted(names)
    dotted = good(admin.get("/queues", params={"prefix": "lists.", "limit": 1000}))["items"]
    assert [q["name"] for q in dotted] == ["lists.a", "lists.ab"]
    assert good(admin.get("/queues", params={"prefix": "lists_a"}))["items"] == [
        q for page in walked for q in page if q["name"] == "lists_a"
    ]
    assert parameters(admin.get("/queues?limit=1001")) == ["limit"]
    assert parameters(admin.get("/queues?prefix=%25")) == ["prefix"]


def test_accounts_by_name(house: House) -> None:
    """Accounts come by name; only admins see the list."""
    walked = pages(house.client(), "/accounts", limit=2)
    names = [account["username"] for page in walked for account in page]
    assert names == sorted(names)
    assert {"admin", "customer", "producer", "viewer", "worker"} <= set(names)

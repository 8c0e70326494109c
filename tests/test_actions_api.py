"""What admins did: a line for each action, there before the action is."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.answers import NOWHERE, execute, good, parameters, problem, stored
from tests.house import ADMIN_PASSWORD, API, CUSTOMER, DISC, LINES, PASSWORD, SECRET_KEY, House
from tests.routes import VALUES, Route, routes
from tests.services import Server, until
from tests.test_roles import ADMIN, TABLE, short

ORIGIN = "http://filaviva.test"
PURCHASE: dict[str, Any] = {"customer": CUSTOMER, "items": [DISC]}
SHAPE = ["id", "at", "account", "action", "target", "detail", "status", "code", "request_id"]
NAMES = {"/accounts": "username", "/queues": "name", "/products": "sku"}  # of what is made
NEVER = (
    "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM pg_sleep(60); RETURN NEW; END$$"
)
LET_GO = (  # who is dead does not notice while it sleeps
    "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
NO = "CREATE OR REPLACE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$"
COUNT = (
    "SELECT count(*) FROM (WITH RECURSIVE n(x) AS"
    " (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 100000000000) SELECT x FROM n)"
)
TRAP = "CREATE TRIGGER trap BEFORE UPDATE ON"
SLOW = {  # a change of a queue does not end
    "sqlite": [f"{TRAP} queues BEGIN {COUNT}; END"],
    "postgres": [NEVER, f"{TRAP} queues FOR EACH ROW EXECUTE FUNCTION never()"],
}
MUTE = {  # no outcome is taken
    "sqlite": [f"{TRAP} actions BEGIN SELECT RAISE(ABORT, 'no'); END"],
    "postgres": [NO, f"{TRAP} actions FOR EACH ROW EXECUTE FUNCTION no()"],
}
UNDO = {"sqlite": "DROP TRIGGER trap", "postgres": "DROP TRIGGER trap ON {}"}


def said(house: House, **query: Any) -> list[dict[str, Any]]:
    """The newest actions that the audit log tells."""
    return good(house.client("viewer").get("/audit", params=query))["items"]


def of(house: House, request_id: str) -> list[tuple[Any, ...]]:
    """What is stored of one request."""
    columns = "account, action, target, status, code"
    return stored(house, f"SELECT {columns} FROM actions WHERE request_id = '{request_id}'")


@contextmanager
def console(house: House, role: str = "admin") -> Iterator[httpx.Client]:
    """A page of an account: signed in by cookie, with our origin."""
    form = {"username": role, "password": ADMIN_PASSWORD if role == "admin" else PASSWORD}
    ours = {"Origin": ORIGIN}
    with httpx.Client(base_url=house.url + API, headers=ours, timeout=30, limits=LINES) as page:
        assert page.post("/auth/session", json=form).status_code == 204
        yield page


def newest(house: House) -> str:
    found = said(house, limit=1)
    return found[0]["id"] if found else ""


# --- which calls ----------------------------------------------------------------------


def fresh(house: House) -> dict[str, str]:
    """Values of paths, some of which are there: a queue, a failed message, a product, …"""
    queue = house.queue()
    failed = house.post(queue)
    good(house.settle("nack", house.claim(queue)[0], error="no", retry=False))
    customer: str = good(house.client().post("/customers", json={}), 201)["id"]
    sku, username = f"s-{queue}", f"u-{queue}"
    body = {"sku": sku, "name": "A disc", "price_cents": 990}
    good(house.client().post("/products", json=body), 201)
    made = {"username": username, "password": PASSWORD, "roles": ["worker"]}
    good(house.client().post("/accounts", json=made), 201)
    own = {"name": queue, "id": failed["id"], "sku": sku}
    return {**VALUES, **own, "customer": customer, "username": username}


def example(route: Route, house: House) -> Any:
    """The body that the document shows, with a name of its own for what it makes."""
    schema = route.body.get("application/json", {}).get("schema")
    if schema is None:
        return None
    document = house.client(None).get(f"{house.url}/openapi.json").json()
    kind = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    body = dict(next(iter(kind.get("examples", ())), {}))
    body.pop("dry_run", None)  # it only looks
    named = NAMES.get(route.template.removeprefix(API))
    return {**body, named: f"new-{uuid4().hex[:8]}"} if named else body


def changing(house: House) -> list[Route]:
    """Every route that changes something and that only admins may call."""
    found = routes(house.url)
    return [one for one in found if one.method != "GET" and TABLE.get(short(one)) == ADMIN]


def test_whatever_only_admins_may_leaves_one_line(house: House) -> None:
    """Who, what, to what, and the status of the answer; by bearer too, done or refused."""
    values = fresh(house)
    done: set[int] = set()
    for route in changing(house):
        path = route.template.format(**values)
        body, request_id = example(route, house), str(uuid4())
        answer = house.client().request(
            route.method, house.url + path, json=body, headers={"X-Request-ID": request_id}
        )
        named = NAMES.get(route.template.removeprefix(API))
        wanted = body[named] if named else values[route.template.split("{")[1].split("}")[0]]
        code = answer.json()["code"] if answer.status_code >= 400 else None
        verb = route.operation["operationId"]
        expected = ("admin", verb, wanted, answer.status_code, code)
        assert of(house, request_id) == [expected], route.key
        done.add(answer.status_code)
    assert {200, 201} <= done


def test_reading_leaves_no_line(house: House) -> None:
    """What only looks is no action, an admin's look at the accounts neither."""
    for path in ("/accounts", "/queues", "/audit", "/messages", "/products"):
        request_id = str(uuid4())
        good(house.client().get(path, headers={"X-Request-ID": request_id}))
        assert of(house, request_id) == []


def test_counting_what_would_be_redriven_leaves_no_line(house: House) -> None:
    """A dry run only looks; the redrive itself leaves a line."""
    path = f"/queues/{house.queue()}/redrive"
    for sent, lines in (({"dry_run": True}, 0), ({"dry_run": False}, 1), ({}, 1)):
        mark = {"X-Request-ID": str(uuid4())}
        good(house.client().post(path, json=sent, headers=mark))
        assert len(of(house, mark["X-Request-ID"])) == lines, sent


def test_what_others_may_too_leaves_a_line_in_the_console(house: House) -> None:
    """An admin's page posts, cancels, orders, makes tickets; by bearer histories tell it."""
    queue = house.queue()
    sku = f"s-{queue}"
    body = {"sku": sku, "name": "A disc", "price_cents": 990}
    good(house.client().post("/products", json=body), 201)
    customer = good(house.client().post("/customers", json={}), 201)["id"]
    posted = [house.post(queue)["id"] for _ in range(2)]
    order = {"customer": "c-7", "items": [{"sku": sku, "quantity": 1}]}
    calls: list[tuple[str, str, str | None, Any]] = [
        ("enqueue", f"/queues/{queue}/messages", queue, PURCHASE),
        ("enqueue_batch", f"/queues/{queue}/messages/batch", queue, {"messages": [PURCHASE]}),
        ("cancel_message", f"/messages/{posted[0]}/cancel", posted[0], {}),
        ("cancel_order", f"/orders/{posted[1]}/cancel", posted[1], {}),
        ("place_order", "/orders", None, order),
        ("create_customer", "/customers", None, {}),
        ("create_ticket", "/events/tickets", None, {"topics": [f"queue:{queue}"]}),
        ("revoke_ticket", "/events/tickets/revoke", None, {"ticket": "no-ticket"}),
    ]
    with console(house) as page:
        for verb, path, target, sent in calls:
            answer = page.post(path, json=sent, headers={"X-Request-ID": (mark := str(uuid4()))})
            code = answer.json()["code"] if answer.status_code >= 400 else None
            assert of(house, mark) == [("admin", verb, target, answer.status_code, code)], verb
        mark = {"X-Request-ID": str(uuid4())}
        good(page.patch(f"/customers/{customer}", json={"tags": ["jazz"]}, headers=mark))
        assert of(house, mark["X-Request-ID"]) == [
            ("admin", "update_customer", customer, 200, None)
        ]
    before = newest(house)
    for _, path, _, sent in calls:
        assert house.client().post(path, json=sent).status_code < 500
    with console(house, "producer") as page:
        good(page.post(f"/queues/{queue}/messages", json=PURCHASE), 201)
    assert newest(house) == before


def test_work_by_bearer_leaves_no_line(house: House) -> None:
    """Posting, claiming and settling are in the history of the order, and only there."""
    queue = house.queue()
    before = newest(house)
    good(house.client().post(f"/queues/{queue}/messages", json=PURCHASE), 201)
    [one] = good(house.client().post(f"/queues/{queue}/claim", json={}))["messages"]
    good(house.client().post(f"/messages/{one['id']}/ack", json={"receipt": one["receipt"]}))
    assert newest(house) == before


def test_what_is_refused(house: House) -> None:
    """A wrong caller or a wrong body is no action; what the state refuses is one, with its code."""
    queue = house.queue()

    def told(role: str, path: str, body: Any) -> list[tuple[Any, ...]]:
        mark = str(uuid4())
        house.client(role).post(path, json=body, headers={"X-Request-ID": mark})
        return of(house, mark)

    assert told("viewer", f"/queues/{queue}/pause", {}) == []
    assert told("producer", "/queues", {"name": "x"}) == []
    assert told("admin", "/queues", {"name": "Not A Name"}) == []
    assert told("admin", f"/queues/{queue}/redrive", {"limit": "1"}) == []
    assert told("admin", "/queues", {"name": queue}) == [
        ("admin", "create_queue", queue, 409, "queue_exists")
    ]
    assert told("admin", f"/messages/{NOWHERE}/retry", {}) == [
        ("admin", "retry_message", NOWHERE, 404, "not_found")
    ]


def test_a_target_is_whatever_the_path_says(house: House) -> None:
    """A path that names nothing storable is refused as always, and told as far as it goes."""
    told = {"%00%ff": "\ufffd\ufffd", "x" * 4000: "x" * 128, "<b>é": "<b>é"}
    for path, target in told.items():
        mark = str(uuid4())
        answer = house.client().post(f"/queues/{path}/pause", headers={"X-Request-ID": mark})
        problem(answer, 404, "not_found")
        assert of(house, mark) == [("admin", "pause_queue", target, 404, "not_found")]


# --- what is told ---------------------------------------------------------------------


def test_a_line_says_all_of_it(house: House) -> None:
    """Shape and values, as the answer and as the caller sent them."""
    queue = house.queue()
    answer = house.client().patch(f"/queues/{queue}", json={"lease_seconds": 7, "description": "é"})
    [line] = said(house, target=queue, action="update_queue")
    assert list(line) == [*SHAPE, "address"]
    assert line["account"] == "admin"
    assert line["detail"] == {"lease_seconds": 7, "description": "é"}
    assert line["status"] == 200
    assert line["code"] is None
    assert line["request_id"] == answer.headers["x-request-id"]
    assert line["address"] == "127.0.0.1"
    apart = instant(good(answer)["updated_at"]) - instant(line["at"])
    assert abs(apart.total_seconds()) < 60
    house.client().delete(f"/queues/{queue}", params={"force": "true"})
    assert said(house, target=queue)[0]["detail"] == {"force": "true"}
    assert said(house, target=queue, action="create_queue")[0]["detail"] == {"name": queue}


def instant(time: str) -> datetime:
    return datetime.fromisoformat(time)


def test_no_secret_is_in_any_line(house: House) -> None:
    """No password, ticket, token or receipt, whatever it came in; that one was sent is told."""
    name = f"secretive-{house.queue()}"
    secrets = [f"very-{word}-{uuid4().hex}" for word in ("first", "second", "third", "inner")]
    made = {"username": name, "password": secrets[0], "roles": ["viewer"]}
    good(house.client().post("/accounts", json=made), 201)
    changed = {"password": secrets[1], "revoke_tokens": True}
    good(house.client().patch(f"/accounts/{name}", json=changed))
    [create, update] = said(house, target=name)[::-1]
    assert create["detail"] == {"username": name, "password": "***", "roles": ["viewer"]}
    assert update["detail"] == {"password": "***", "revoke_tokens": True}
    with console(house) as page:
        ticket = good(page.post("/events/tickets", json={"topics": ["queues"]}), 201)["ticket"]
        page.post("/events/tickets/revoke", json={"ticket": ticket})
        order = house.post("orders")["id"]
        link = f"see https://shop.test/track/x?ticket={secrets[2]}"
        good(page.post(f"/messages/{order}/cancel", json={"reason": link}))
        blob = {**PURCHASE, "metadata": {"a": [{"api_key": secrets[3]}], "note": "kept"}}
        good(page.post("/queues/orders/messages", json=blob), 201)
    assert said(house, limit=1)[0]["detail"]["metadata"] == {
        "a": [{"api_key": "***"}],
        "note": "kept",
    }
    raw = json.dumps(stored(house, "SELECT * FROM actions"), default=str)
    assert [one for one in [*secrets, ticket, ADMIN_PASSWORD, PASSWORD] if one in raw] == []
    assert "see https://shop.test/track/x" in raw


def test_no_name_of_a_customer_is_in_any_line(house: House) -> None:
    """Of a customer's data the fields are told and no value: they stand in the directory alone."""
    mark = uuid4().hex
    person = {"nickname": f"n-{mark}", "name": f"Ana {mark}", "email": f"{mark}@x.test"}
    with console(house) as page:
        made = good(page.post("/customers", json={**person, "tags": [mark[:30]]}), 201)["id"]
        assert said(house, limit=1)[0]["detail"] == dict.fromkeys([*person, "tags"], "***")
        good(page.patch(f"/customers/{made}", json={"birth_date": "1981-11-21"}))
        good(page.post(f"/customers/{made}/erase"))
    assert [one["action"] for one in said(house, target=made)] == [
        "erase_customer",
        "update_customer",
    ]
    raw = json.dumps(stored(house, "SELECT * FROM actions"), default=str)
    assert mark[:30] not in raw
    assert "1981-11-21" not in raw


def test_a_long_body_leaves_its_fields(house: House) -> None:
    """Beyond 4 KiB only the names of what was sent are kept."""
    with console(house) as page:
        for size, kept in ((3_500, True), (4_200, False), (15_000, False)):
            body = {**PURCHASE, "metadata": {"note": "é" * (size // 2)}}
            good(page.post("/queues/orders/messages", json=body), 201)
            detail = said(house, limit=1)[0]["detail"]
            assert detail == (body if kept else {"fields": ["customer", "items", "metadata"]})


# --- the list -------------------------------------------------------------------------


def test_the_list_is_walked_once_while_it_grows(house: House) -> None:
    """Newest first, by pages; nothing twice, new lines shift nothing; filters narrow."""
    queue, viewer = house.queue(), house.client("viewer")
    for verb in ("pause", "resume") * 3:
        good(house.client().post(f"/queues/{queue}/{verb}"))
    first = good(viewer.get("/audit", params={"target": queue, "limit": 4}))
    good(house.client().post(f"/queues/{queue}/pause"))
    rest = {"target": queue, "limit": 200, "cursor": first["next_cursor"]}
    second = good(viewer.get("/audit", params=rest))
    found = first["items"] + second["items"]
    assert [one["action"] for one in found] == [
        *["resume_queue", "pause_queue"] * 3,
        "create_queue",
    ]
    assert second["next_cursor"] is None
    at = found[1]["at"]
    assert said(house, target=queue, action="resume_queue", limit=1) == [found[0]]
    assert found[1] in said(house, target=queue, after=at)
    assert found[1] not in said(house, target=queue, before=at)
    assert said(house, target=queue, account="producer") == []
    assert found[-1] in said(house, target=queue, account="admin", action="create_queue")


def test_a_list_refuses_what_it_does_not_know(house: House) -> None:
    """Unknown filters are 422, cursors of other filters 400; whoever is no reader sees nothing."""
    viewer = house.client("viewer")
    for name, value in (("actor", "x"), ("action", "Pause"), ("after", "today"), ("limit", "0")):
        assert parameters(viewer.get("/audit", params={name: value})) == [name]
    cursor = good(viewer.get("/audit", params={"limit": 1}))["next_cursor"]
    answer = viewer.get("/audit", params={"cursor": cursor, "account": "admin"})
    problem(answer, 400, "bad_cursor")
    for role in ("producer", "worker", "customer"):
        problem(house.client(role).get("/audit"), 403, "forbidden")
    problem(house.client(None).get("/audit"), 401, "unauthenticated")


# --- when something fails -------------------------------------------------------------


@contextmanager
def hidden(house: House) -> Iterator[None]:
    """The database refuses every line."""
    stored(house, "ALTER TABLE actions RENAME TO hidden")
    try:
        yield
    finally:
        stored(house, "ALTER TABLE hidden RENAME TO actions")


def test_what_cannot_be_written_down_does_not_happen(house: House) -> None:
    """Without its line an action is 503 and nothing has changed; all else goes on."""
    queue = house.queue()
    taken = f"t-{queue}"
    with hidden(house):
        problem(house.client().post(f"/queues/{queue}/pause"), 503, "unavailable")
        problem(house.client().post("/queues", json={"name": taken}), 503, "unavailable")
        house.post(queue)
        assert len(house.claim(queue)) == 1
    assert good(house.client().get(f"/queues/{queue}"))["paused"] is False
    problem(house.client().get(f"/queues/{taken}"), 404, "not_found")
    good(house.client().post(f"/queues/{queue}/pause"))


def test_an_outcome_that_cannot_be_written_undoes_nothing(house: House) -> None:
    """The action is done and answered; its line says that the outcome is not known."""
    queue = house.queue()
    kind = "postgres" if "DATABASE_URL" in house.servers[0].settings else "sqlite"
    for statement in MUTE[kind]:
        stored(house, statement)
    try:
        assert good(house.client().post(f"/queues/{queue}/pause"))["paused"] is True
    finally:
        stored(house, UNDO[kind].format("actions"))
    [line] = said(house, target=queue, action="pause_queue")
    assert (line["status"], line["code"]) == (None, None)


@pytest.fixture(params=["sqlite", "postgres"])
def server(
    request: pytest.FixtureRequest, start_server: Callable[..., Server]
) -> tuple[Server, str, str]:
    """A service of its own, its database's address and kind."""
    common = {"SECRET_KEY": SECRET_KEY, "ADMIN_PASSWORD": ADMIN_PASSWORD, "AUDIT_DAYS": "1"}
    if request.param == "postgres":
        common["DATABASE_URL"] = request.getfixturevalue("postgres_url")
    started = start_server(**common)
    file = f"sqlite://{started.settings['DATA_DIR']}/filaviva.db"
    return started, common.get("DATABASE_URL", file), request.param


def test_a_kill_between_action_and_outcome(server: tuple[Server, str, str]) -> None:
    """The line is there, with no status: it was under way. Old lines go when their time is over."""
    service, url, kind = server
    form = {"username": "admin", "password": ADMIN_PASSWORD}
    signed_in = httpx.post(f"{service.url}{API}/auth/token", data=form, timeout=30)
    bearer = {"Authorization": f"Bearer {signed_in.json()['access_token']}"}
    for statement in SLOW[kind]:
        execute(url, statement)
    pause = f"{service.url}{API}/queues/orders/pause"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(pause, headers=bearer, timeout=0.5)
    lines = "SELECT account, action, target, status, code FROM actions ORDER BY at DESC"
    until(lambda: len(execute(url, lines)) == 1, 30, "the line of the action")
    service.kill()
    if kind == "postgres":
        execute(url, LET_GO)
    execute(url, UNDO[kind].format("queues"))
    old = f"INSERT INTO actions VALUES ('{NOWHERE}', 1, 'a', 'b', NULL, NULL, 200, NULL, 'c', 'd')"
    execute(url, old)
    service.start()
    audit = httpx.get(f"{service.url}{API}/audit", headers=bearer, timeout=30).json()["items"]
    assert audit[0]["action"] == "pause_queue"
    assert (audit[0]["status"], audit[0]["code"], audit[0]["target"]) == (None, None, "orders")
    queue = httpx.get(f"{service.url}{API}/queues/orders", headers=bearer, timeout=30).json()
    assert queue["paused"] is False
    until(lambda: len(execute(url, lines)) == 1, 30, "the old line is pruned")
    assert execute(url, lines) == [("admin", "pause_queue", "orders", None, None)]

"""Errors over HTTP: one shape, an order of checks, and headers on every answer."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.answers import NOWHERE, good, pointers, problem, stored
from tests.house import API, CUSTOMER, DISC, House, running
from tests.routes import ENDLESS, Route, routes

JSON = {"Content-Type": "application/json"}
BODY: dict[str, Any] = {"customer": CUSTOMER, "items": [DISC]}
ORIGIN = "https://shop.test"


def call(house: House, role: str | None, route: Route, **more: Any) -> httpx.Response:
    """Send a request to a route as a role."""
    return house.client(role).request(route.method, house.url + route.path, **more)


def api(house: House) -> list[Route]:
    """The routes under /api; pages answer in HTML."""
    return [route for route in routes(house.url) if route.path.startswith(API)]


def with_json(house: House) -> list[Route]:
    return [route for route in api(house) if "application/json" in route.body]


@pytest.fixture(scope="module")
def visited() -> Iterator[House]:
    """A service that pages of another origin may call."""
    with running(CORS_ORIGINS=f"{ORIGIN},http://localhost:3000") as found:
        yield found


# --- 404, 405 -------------------------------------------------------------------------


def test_nothing_is_nowhere(visited: House) -> None:
    """Unknown paths are problems of 404, for every method, signed in or not."""
    for path in ("/api", "/api/", "/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v2/queues", "/x"):
        for method in ("GET", "POST", "DELETE", "PUT", "OPTIONS"):
            problem(visited.client(None).request(method, visited.url + path), 404, "not_found")


def test_a_browser_that_is_nowhere_is_shown_a_page(visited: House) -> None:
    """Whoever mistypes an address reads it as a page; the API speaks JSON to browsers too."""
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    with httpx.Client(headers=browser, timeout=30) as client:
        lost = client.get(f"{visited.url}/x")
        assert (lost.status_code, lost.headers["vary"]) == (404, "Accept, Origin")
        assert lost.headers["content-type"] == "text/html; charset=utf-8"
        problem(client.get(f"{visited.url}/api/v1/nothing"), 404, "not_found")
    other = httpx.get(f"{visited.url}/x", timeout=30)
    problem(other, 404, "not_found")
    assert other.headers["vary"] == "Accept, Origin"


def test_a_trailing_slash_is_nowhere(visited: House) -> None:
    """No path answers with a slash behind it, and none redirects."""
    nobody = visited.client(None)
    for route in routes(visited.url):
        answer = nobody.request(route.method, f"{visited.url}{route.path}/")
        assert (answer.status_code, answer.headers.get("location")) == (404, None), route.key


def test_other_methods_are_405_with_allow(visited: House) -> None:
    """A wrong method is 405 and says which would be right; HEAD wherever GET."""
    known: dict[str, set[str]] = {}
    for route in api(visited):
        known.setdefault(route.path, set()).add(route.method)
        if route.method == "GET":
            known[route.path].add("HEAD")
    for path, methods in known.items():
        allowed = set(methods)
        if path.startswith(f"{API}/messages/") and path.count("/") == 4:
            allowed |= known[f"{API}/messages/{NOWHERE}"]  # `ack` reads as an id too
        if path == f"{API}/customers/count":
            allowed |= known[f"{API}/customers/c-7"]
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - allowed:
            answer = visited.client(None).request(method, visited.url + path)
            assert answer.status_code == 405, (method, path)
            assert set(answer.headers["allow"].split(", ")) == allowed
            if method != "HEAD":
                problem(answer, 405, "method_not_allowed")


def test_head_wherever_get(visited: House) -> None:
    """HEAD answers as GET does, without a body."""
    for route in routes(visited.url):
        if route.method == "GET" and route.template != ENDLESS:
            get = call(visited, route.role, route)
            head = call(visited, route.role, Route("HEAD", route.template, {}))
            assert (head.status_code, head.content) == (get.status_code, b""), route.key
            assert head.headers.get("content-type") == get.headers.get("content-type")
            assert head.headers.get("etag") == get.headers.get("etag")


# --- bodies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b'{"a":1,}',
        b"{'a':1}",
        b"nothing",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1}}',
        b"[" * 10_000,
        b'{"a":' * 10_000,
        b"\x00",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_not_json_is_400(visited: House, text: bytes) -> None:
    """A body that is not JSON in UTF-8 is malformed_json on every route that reads JSON."""
    for route in with_json(visited):
        answer = call(visited, route.role, route, content=text, headers=JSON)
        problem(answer, 400, "malformed_json")


def test_json_of_the_wrong_kind_is_422(visited: House) -> None:
    """A body that is JSON but no object is invalid, wherever an object is wanted."""
    for route in with_json(visited):
        for text in (b"[]", b"7", b'"x"', b"null", b"true"):
            if text == b"null" and not route.required:
                continue
            answer = call(visited, route.role, route, content=text, headers=JSON)
            assert pointers(answer)[0].startswith("#"), route.key


def test_lone_surrogates_are_refused(visited: House) -> None:
    """Half a surrogate pair is no text, wherever it stands; a whole one is."""
    for text in (rb'{"\ud800":1}', rb'{"customer":"\udc00"}', rb'{"a":"\ud800x"}'):
        for route in with_json(visited):
            answer = call(visited, route.role, route, content=text, headers=JSON)
            if answer.status_code != 400:
                problem(answer, 422, "invalid")
    pair = {**BODY, "reference": "😀"}
    assert visited.post(visited.queue(), **pair)["reference"] == "😀"


def test_unknown_fields_are_422(visited: House) -> None:
    """Every route refuses a field that it does not know."""
    for route in with_json(visited):
        answer = call(visited, route.role, route, json={"unknown-field": 1})
        assert "#/unknown-field" in pointers(answer), route.key


def test_unknown_and_repeated_parameters_are_422(visited: House) -> None:
    """Every route under /api refuses a parameter that it does not know, or that comes twice."""
    for route in api(visited):
        for query in ("unknown=1", "unknown=1&unknown=2"):
            answer = call(visited, route.role, route, params=query, **_body(route))
            errors = problem(answer, 422, "invalid")["errors"]
            assert errors[0]["parameter"] == "unknown", route.key
        for parameter in route.operation.get("parameters", ()):
            if parameter["in"] == "query" and parameter["name"] != "topic":
                name = parameter["name"]
                answer = call(
                    visited, route.role, route, params=f"{name}=1&{name}=1", **_body(route)
                )
                assert problem(answer, 422, "invalid")["errors"][0]["parameter"] == name


def _body(route: Route) -> dict[str, Any]:
    if "application/json" in route.body:
        return {"json": {}}
    return {"data": {"username": "a", "password": "b"}} if route.body else {}


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/jsonp",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/merge-patch+json",
        "multipart/form-data; boundary=x",
        "x",
        "",
    ],
)
def test_other_media_types_are_415(visited: House, kind: str) -> None:
    """A body that is not application/json in UTF-8 is refused before it is read."""
    for route in with_json(visited):
        answer = call(visited, route.role, route, content=b"{", headers={"Content-Type": kind})
        problem(answer, 415, "unsupported_media_type")


def test_json_may_say_its_charset(house: House) -> None:
    """Case, spaces, quotes and charset=utf-8 are fine."""
    path = f"{house.url}{API}/queues/{house.queue()}/messages"
    headers = {"Authorization": f"Bearer {house.token('producer')}"}
    content = b'{"customer":"c-7","items":[{"sku":"a","quantity":1}]}'
    for kind in (
        "Application/JSON",
        "application/json;charset=UTF-8",
        'application/json ; charset="utf-8"',
    ):
        typed = {**headers, "Content-Type": kind}
        answer = httpx.post(path, content=content, headers=typed, timeout=30)
        good(answer, 201)


# --- sizes ----------------------------------------------------------------------------


def large(route: Route) -> bool:
    """Whether a route takes 4 MiB."""
    return "/batch" in route.path or route.path.removeprefix(f"{API}/messages/") in (
        *("ack", "nack", "release", "extend"),
    )


def test_a_body_has_a_bound(visited: House) -> None:
    """64 KiB, and 4 MiB of a call for many: one byte more is 413, announced or not."""
    for route in with_json(visited):
        bound = 4 * 1024 * 1024 if large(route) else 64 * 1024
        within = b'{"unknown":"' + b"x" * (bound - 14) + b'"}'
        assert len(within) == bound
        problem(call(visited, route.role, route, content=within, headers=JSON), 422, "invalid")
        answer = call(visited, route.role, route, content=within + b" ", headers=JSON)
        problem(answer, 413, "too_large")
    chunks = iter([b"x" * 32_768] * 3)
    unannounced = call(
        visited, with_json(visited)[0].role, with_json(visited)[0], content=chunks, headers=JSON
    )
    problem(unannounced, 413, "too_large")


def test_an_address_and_headers_have_bounds(visited: House) -> None:
    """More than 8 KiB of address is 414, more than 16 KiB of headers 431, both too_large."""
    admin = visited.client()
    problem(admin.get("/queues?prefix=" + "a" * 8192), 414, "too_large")
    problem(admin.get("/queues/" + "a" * 8192), 414, "too_large")
    problem(admin.get("/queues", headers={"X": "a" * 16_384}), 431, "too_large")
    problem(admin.get("/queues?prefix=" + "a" * 8000), 422, "invalid")


# --- the order of checks --------------------------------------------------------------


def test_the_credential_is_looked_at_first(visited: House) -> None:
    """Nobody with everything wrong is 401 on every route that wants a credential."""
    for route in api(visited):
        if route.operation.get("security"):
            answer = call(visited, None, route, params="unknown=1", content=b"{" * 70_000)
            problem(answer, 401, "unauthenticated")


def test_then_the_role(visited: House) -> None:
    """A role that lacks the route is 403, whatever else is wrong and whatever is there."""
    for role, method, path in (
        ("viewer", "POST", "/queues"),
        ("customer", "POST", "/queues/nope/messages"),
        ("producer", "POST", "/queues/nope/claim"),
        ("worker", "PATCH", "/queues/nope"),
        ("viewer", "POST", f"/messages/{NOWHERE}/ack"),
        ("worker", "POST", "/messages/x/retry"),
        ("producer", "PATCH", "/accounts/nobody"),
    ):
        answer = visited.client(role).request(
            method, path, params="unknown=1", content=b"{" * 70_000, headers={"If-Match": "x"}
        )
        assert problem(answer, 403, "forbidden")["errors"] == []


def test_then_what_came_then_what_is_there_then_its_state(house: House) -> None:
    """Body and parameters before 404, 404 before 409 and 412."""
    admin = house.client()
    queue = house.queue()
    house.post(queue)
    old = {"If-Match": '"99"'}
    for path, missing in ((f"/queues/{queue}", "/queues/nope"), ("/queues/orders", "/queues/No")):
        problem(admin.patch(path, content=b"{", headers={**JSON, **old}), 400, "malformed_json")
        problem(admin.patch(missing, content=b"{", headers=JSON), 400, "malformed_json")
        problem(admin.patch(missing, json={"lease_seconds": 0}), 422, "invalid")
        problem(admin.patch(missing, json={}, headers={"If-Match": "x"}), 400, "bad_header")
        problem(admin.patch(missing, params="a=1", json={}), 422, "invalid")
        problem(admin.patch(missing, json={}, headers=old), 404, "not_found")
        problem(admin.patch(path, json={}, headers=old), 412, "version_mismatch")
    problem(admin.delete(f"/queues/{queue}"), 409, "queue_not_empty")
    problem(admin.post("/messages/x/ack", json={}), 422, "invalid")
    problem(admin.post("/messages/x/ack", json={"receipt": "r"}), 404, "not_found")
    problem(admin.post(f"/messages/{NOWHERE}/cancel", headers=old), 404, "not_found")


# --- what an error tells --------------------------------------------------------------


def test_no_error_repeats_what_came_in(house: House) -> None:
    """Values, passwords, tokens and headers of a request never come back in an error."""
    secret = "s3cret-" * 3
    admin = house.client()
    nobody = house.client(None)
    answers = [
        nobody.post("/auth/token", data={"username": secret, "password": secret}),
        nobody.post("/auth/register", json={"username": secret.upper(), "password": secret}),
        nobody.post("/auth/refresh", json={"refresh_token": secret}),
        nobody.get("/queues", headers={"Authorization": f"Bearer {secret}"}),
        nobody.get("/queues", headers={"Cookie": f"fv_session={secret}"}),
        nobody.get(f"/orders/{NOWHERE}", params={"ticket": secret}),
        admin.get("/messages", params={"status": secret}),
        admin.get("/messages", params={"created_after": secret}),
        admin.get("/messages", params={"cursor": secret}),
        admin.get("/messages", params={"limit": secret}),
        admin.get("/messages", headers={"X-Request-ID": secret}, params={"limit": 0}),
        admin.get(f"/messages/{secret}"),
        admin.get("/events/history", params={"topic": secret}),
        admin.post("/messages", content=secret, headers=JSON),
        admin.post("/queues", json={"name": secret + "!", "lease_seconds": secret}),
        admin.post("/queues/orders/messages", json={**BODY, "currency": secret}),
        admin.post(
            "/queues/orders/messages", json=BODY, headers={"Idempotency-Key": f"{secret} x"}
        ),
        admin.patch("/queues/orders", json={}, headers={"If-Match": secret}),
        admin.post(f"/messages/{NOWHERE}/ack", json={"receipt": secret}),
    ]
    for answer in answers:
        assert answer.status_code >= 400, answer.request.url
        assert "s3cret" not in answer.text, answer.text


def test_a_fall_is_a_problem_without_its_cause(house: House) -> None:
    """500 has the shape of all errors, and says nothing of rows, paths or code."""
    queue = house.queue()
    posted = house.post(queue)
    stored(house, f"UPDATE messages SET items = 'no json' WHERE id = '{posted['id']}'")
    try:
        for path in (f"/messages/{posted['id']}", f"/queues/{queue}/messages"):
            answer = house.client().get(path)
            body = problem(answer, 500, "internal")
            assert body["errors"] == []
            for word in ("json", "Traceback", ".py", "Error:", "SELECT"):
                assert word not in body["detail"]
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
        order = house.client("customer").get(f"/orders/{posted['id']}")
        problem(order, 500, "internal")
    finally:
        stored(house, f"UPDATE messages SET items = '[]' WHERE id = '{posted['id']}'")


# --- headers --------------------------------------------------------------------------


def test_every_answer_has_a_request_id(visited: House) -> None:
    """X-Request-ID is on every answer: the caller's own if it is a UUID, else a fresh one."""
    own = str(uuid4())
    paths = ("/livez", "/docs", "/static/none", "/nothing", f"{API}/queues", f"{API}/nothing")
    for path in paths:
        answer = visited.client(None).get(visited.url + path, headers={"X-Request-ID": own.upper()})
        assert answer.headers["x-request-id"] == own
        for strange in ("x", own + "x", "a\tb", ""):
            answer = visited.client(None).get(visited.url + path, headers={"X-Request-ID": strange})
            assert len(answer.headers["x-request-id"]) == 36
            assert answer.headers["x-request-id"] != own


def test_every_answer_has_the_headers_of_caution(visited: House) -> None:
    """nosniff and Referrer-Policy everywhere, no-store under /api, a strict policy on pages."""
    for route in routes(visited.url):
        if route.template == ENDLESS:
            continue
        for role in (None, "admin"):
            if route.method != "GET" and role:
                continue
            answer = call(visited, role, route)
            assert answer.headers["x-content-type-options"] == "nosniff", route.key
            if "/track/" not in route.path:
                assert answer.headers["referrer-policy"] == "same-origin"
            if route.path.startswith(API):
                assert answer.headers["cache-control"] == "no-store", route.key
            if answer.headers.get("content-type", "").startswith("text/html"):
                assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "server" not in answer.headers


def test_the_docs_load_nothing_from_elsewhere(visited: House) -> None:
    """/docs names no other host, and what it names is there, its icon too."""
    page = visited.client(None).get(f"{visited.url}/docs").text
    assert '<link rel="icon" href="/static/' in page
    assert "http://" not in page
    assert "https://" not in page
    for part in page.split('"'):
        if part.startswith("/static/"):
            assert visited.client(None).get(visited.url + part).status_code == 200, part


# --- other origins --------------------------------------------------------------------


def test_a_named_origin_may_call(visited: House) -> None:
    """Exact origins, on errors too; the headers that are documented; never with credentials."""
    wanted = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,if-match,"
        "last-event-id",
    }
    asked = httpx.options(f"{visited.url}{API}/queues/orders", headers=wanted)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert {"PATCH", "PUT"} <= {*asked.headers["access-control-allow-methods"].split(", ")}
    order = visited.post("orders")["id"]
    stored(visited, f"UPDATE messages SET items = 'no json' WHERE id = '{order}'")
    admin = visited.client()
    for answer, status in (
        (admin.get("/queues", headers={"Origin": ORIGIN}), 200),
        (admin.get("/nothing", headers={"Origin": ORIGIN}), 404),
        (admin.put("/queues", headers={"Origin": ORIGIN}), 405),
        (admin.get(f"/messages/{order}", headers={"Origin": ORIGIN}), 500),
        (visited.client(None).get("/queues", headers={"Origin": ORIGIN}), 401),
        (admin.post("/queues", content=b"x" * 70_000, headers={"Origin": ORIGIN, **JSON}), 413),
    ):
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "access-control-allow-credentials" not in answer.headers
        assert set(answer.headers["access-control-expose-headers"].split(", ")) == {
            *("ETag", "Location", "Link", "Retry-After", "RateLimit", "RateLimit-Policy"),
            *("X-Request-ID", "Idempotent-Replayed"),
        }
        assert "Origin" in answer.headers["vary"]


def test_another_origin_is_told_nothing(visited: House, house_on_sqlite: House) -> None:
    """No other origin gets a header that would let its page read the answer."""
    for origin in ("https://evil.test", "null", f"{ORIGIN}.evil.test", "http://shop.test"):
        for one in (visited, house_on_sqlite):
            answer = one.client().get("/queues", headers={"Origin": origin})
            assert "access-control-allow-origin" not in answer.headers
            preflight = {"Origin": origin, "Access-Control-Request-Method": "GET"}
            asked = httpx.options(f"{one.url}{API}/queues", headers=preflight)
            assert asked.status_code in (400, 405)
            assert "access-control-allow-origin" not in asked.headers

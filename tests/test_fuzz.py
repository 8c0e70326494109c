"""Bad input of every kind: random requests from the document, and the worst by hand."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bench.load import cpu_seconds
from tests.answers import NOWHERE, good
from tests.fuzzing import SLOW, fuzz
from tests.house import API, House, running
from tests.routes import ENDLESS, Route, document, routes
from tests.services import Postgres

EXAMPLES = 4
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def on_sqlite() -> Iterator[House]:
    """A service that is shot at: nobody else uses it. It must not log one error."""
    with running() as found:
        yield found
        unharmed(found)


@pytest.fixture(scope="module")
def on_postgres(postgres_server: Postgres) -> Iterator[House]:
    name = postgres_server.create()
    with running(DATABASE_URL=postgres_server.url(name)) as found:
        yield found
        unharmed(found)
    postgres_server.drop(name)


@pytest.fixture(params=["on_sqlite", "on_postgres"])
def target(request: pytest.FixtureRequest) -> House:
    """The same on both databases."""
    return request.getfixturevalue(request.param)


def unharmed(house: House) -> None:
    """It still serves, and no request made it fall."""
    good(house.client().get("/queues"))
    falls = [line for line in house.servers[0].log.splitlines() if '"level": "ERROR"' in line]
    assert falls == []


def test_random_requests_keep_the_documents_word(target: House) -> None:
    """No 5xx; statuses, media types and bodies are those described; what is wrong is refused."""
    here = EXAMPLES if "DATABASE_URL" not in target.servers[0].settings else EXAMPLES // 2
    found = fuzz(target, "admin", here, slow=False)
    assert found.sent > EXAMPLES
    assert found.broken == {}


@pytest.mark.parametrize("role", ["producer", "worker", "customer"])
def test_random_requests_of_other_roles(on_sqlite: House, role: str) -> None:
    """The same for who may do less; the long run has both databases."""
    found = fuzz(on_sqlite, role, EXAMPLES, slow=False)
    assert found.sent > EXAMPLES
    assert found.broken == {}


def test_random_requests_that_hash_a_password(on_sqlite: House) -> None:
    """The same for the slow routes: a few examples are enough here, the long run has more."""
    found = fuzz(on_sqlite, "admin", 4, only=SLOW)
    assert found.sent > 4
    assert found.broken == {}


# --- by hand --------------------------------------------------------------------------


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def tokens_from_hell() -> list[bytes]:
    claims = {"sub": "admin", "exp": 9_999_999_999, "iat": 1, "aud": "access", "iss": "x"}
    nested = base64.urlsafe_b64encode(b"[" * 5_000).decode().rstrip("=")
    made = [
        f"{encoded({'alg': 'none'})}.{encoded(claims)}.",
        f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded(claims)}.AAAA",
        f"{encoded({'alg': 'HS256', 'crit': ['x'], 'typ': 'JWT'})}.{encoded(claims)}.AAAA",
        f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded({**claims, 'exp': 10**400})}.AAAA",
        f"{encoded([])}.{encoded([])}.{encoded([])}",
        f"{nested}.{nested}.x",
        "..",
        "." * 4_000,
        "a" * 12_000,
        "=" * 100,
        "%00",
        "null",
        "'; DROP TABLE accounts; --",
    ]
    return [*(text.encode() for text in made), b"\xff\xfe.\x80.\x80", "é.é.é".encode()]


@pytest.mark.parametrize("token", tokens_from_hell(), ids=lambda token: repr(token[:20]))
def test_a_token_from_hell_is_nobodys(target: House, token: bytes) -> None:
    """As bearer, cookie or ticket: 401, without much work, whatever it is made of."""
    nobody, process = target.client(None), target.servers[0].pid
    before = cpu_seconds(process)
    answers = [
        nobody.get("/auth/me", headers=[(b"Authorization", b"Bearer " + token)]),
        nobody.get("/auth/me", headers=[(b"Cookie", b"fv_session=" + token)]),
        nobody.post("/auth/logout", headers=[(b"Authorization", token)]),
        nobody.get(f"{target.url}/metrics", headers=[(b"Authorization", b"Bearer " + token)]),
    ]
    if len(token) < 6_000:
        answers += [
            nobody.get(f"/orders/{NOWHERE}", params={"ticket": token}),
            nobody.get("/events", params={"ticket": token, "topic": "queues"}),
            nobody.get("/events/history", params={"ticket": token}),
        ]
    assert [answer.status_code for answer in answers] == [401] * len(answers)
    assert cpu_seconds(process) - before < 5


def test_ten_megabytes_are_refused(target: House) -> None:
    """Where a body is read it is 413 without being read to its end, elsewhere it is ignored."""
    body = b'{"a":"' + b"x" * 10_000_000 + b'"}'
    for route in routes(target.url):
        if not route.body:
            continue
        [kind] = list(route.body)[:1]
        with httpx.Client(timeout=60) as line:
            headers = {"Content-Type": kind, "Authorization": f"Bearer {target.token(route.role)}"}
            try:
                answer = line.request(
                    route.method, target.url + route.path, content=body, headers=headers
                )
            except httpx.TransportError:
                continue  # it hung up while we were still sending
            assert answer.status_code == 413, route.key


EVIL: list[bytes] = [
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1.5",
    b"1.0",
    b"9223372036854775808",
    b"1" + b"0" * 400,
    b"1e999",
    b"-1e999",
    b"NaN",
    b'""',
    b'"\\u0000"',
    b'"\\ud800"',
    b'"\\ud83d\\ude00"',
    b'"\xff"',
    b'"' + b"x" * 5_000 + b'"',
    b'"0000-00-00T00:00:00Z"',
    b'"9999-12-31T23:59:59-23:59"',
    b"[]",
    b"{}",
    b"[null]",
    b'{"a":' * 150 + b"1" + b"}" * 150,
    b"[" * 1_000 + b"]" * 1_000,
]


def shot(target: House, route: Route, body: bytes, queue: str) -> httpx.Response:
    path = route.path.replace("/queues/orders", f"/queues/{queue}")
    return target.client().request(
        route.method, target.url + path, content=body, headers=JSON, timeout=60
    )


def bodies(doc: dict[str, Any], route: Route) -> Iterator[bytes]:
    """The example of a route with one evil value in the place of each field, and added."""
    reference = route.body["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schema = doc["components"]["schemas"][reference]
    example = schema["examples"][0]
    if route.template.removeprefix(API).startswith(SLOW):
        example = {}
    for name in schema.get("properties", {}):
        rest = {key: value for key, value in example.items() if key != name}
        before = json.dumps(rest).encode()[:-1] + (b"," if rest else b"")
        for value in EVIL:
            yield before + json.dumps(name).encode() + b":" + value + b"}"


def test_one_evil_value_in_each_field(target: House) -> None:
    """Every field of every body with every evil value: taken or refused, never a fall."""
    doc, queue = document(target.url), target.queue()
    sent = 0
    for route in routes(target.url):
        if "application/json" not in route.body or route.template == f"{API}/auth/logout":
            continue
        for body in bodies(doc, route):
            answer = shot(target, route, body, queue)
            sent += 1
            assert answer.status_code < 500, (route.key, body[:200], answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
    assert sent > 1_000


WORDS = ["9" * 30, "1e5", "null"]
STRANGE = ["", " ", "%00", "%FF", "%ED%A0%80", "é", "a" * 600, "-1", *WORDS, "[]"]


def test_one_evil_value_in_each_parameter(target: House) -> None:
    """Every query parameter with every strange value: taken or refused, never a fall."""
    for route in routes(target.url):
        if route.template in (ENDLESS, f"{API}/auth/logout"):
            continue
        for parameter in route.operation.get("parameters", ()):
            if parameter["in"] != "query":
                continue
            for value in STRANGE:
                url = f"{target.url}{route.path}?{parameter['name']}={value}"
                answer = target.client().request(route.method, url)
                assert answer.status_code < 500, (url, answer.text)


def test_strange_names_in_paths(target: House) -> None:
    """What can be no name or id is not there, whatever it tries to be."""
    names = [
        *STRANGE[2:],
        "a%2Fb",
        "a%5Cb",
        "%0d%0a",
        "'",
        "{id}",
        "*",
        "orders%20",
    ]
    for route in routes(target.url):
        if "{" not in route.template:
            continue
        for name in names:
            if name in WORDS and route.template.endswith("/{customer}/orders"):
                continue  # a customer's id may be that, and orders have those of no directory too
            path = route.template.replace("{", "\0").split("\0")[0]
            rest = route.template.partition("}")[2]
            url = f"{target.url}{path}{name}{rest}"
            answer = target.client().request(route.method, url)
            assert 400 <= answer.status_code < 500, (url, answer.text)


def test_strange_headers(target: House) -> None:
    """Headers that make no sense are refused or ignored, never a fall."""
    queue = target.queue()
    items = [{"sku": f"of-{queue}", "quantity": 1}]  # of no product: a run may end disc-001's sale
    posted = target.post(queue, items=items)
    paths = [("PATCH", f"/queues/{queue}"), ("POST", f"/messages/{posted['id']}/cancel")]
    values = [b"", b"\xff", b'"', b'""', b"W/", b"*,*", b"x" * 9_000, b'"1', "é".encode()]
    names = [
        *(b"If-Match", b"Idempotency-Key", b"Content-Type", b"Accept", b"X-Request-ID", b"Origin"),
        *(b"Cookie", b"X-Forwarded-For", b"X-Forwarded-Proto", b"Last-Event-ID", b"Range"),
        *(b"If-None-Match", b"Accept-Encoding", b"Expect", b"Host"),
    ]
    for method, path in paths:
        for name in names:
            for value in values:
                answer = with_header(target, method, path, name, value)
                assert answer.status_code < 500, (name, value, answer.text)


def with_header(target: House, method: str, path: str, name: bytes, value: bytes) -> httpx.Response:
    kind = [] if name == b"Content-Type" else [(b"Content-Type", b"application/json")]
    headers = [*kind, (name, value)]
    return target.client().request(method, path, content=b"{}", headers=headers)

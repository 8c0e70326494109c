"""The ASGI layers around the service, driven directly."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from ipaddress import ip_network
from typing import Any, NamedTuple
from uuid import UUID

import pytest

import edge
from edge import Message, Rate, Receive, Scope, Send

ID = "7d1c1a52-2f0e-4a8e-9d35-0b7a1f6c2e11"
Pairs = Sequence[tuple[str, str]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    chunks: list[bytes]
    read: int  # bytes of the request that were taken
    scope: Scope

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)


def scope_of(path: str, headers: Pairs = (), query: str = "", **more: Any) -> Scope:
    return {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("192.0.2.7", 4000),
        "state": {},
        **more,
    }


async def call(app: edge.App, scope: Scope, chunks: Iterable[bytes] = (b"",)) -> Answer:
    """What `app` answers to a request whose body comes in `chunks`."""
    waiting = list(chunks)
    sent: list[Message] = []
    read = 0

    async def receive() -> Message:
        nonlocal read
        if not waiting:
            return {"type": "http.disconnect"}
        chunk = waiting.pop(0)
        read += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *bodies = sent
    assert start["type"] == "http.response.start"
    parts = [message.get("body", b"") for message in bodies]
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert len(headers) == len(start["headers"]), "a header twice"
    return Answer(start["status"], headers, b"".join(parts), parts, read, scope)


def replying(status: int = 200, headers: Pairs = (), body: Sequence[bytes] = (b"ok",)) -> App:
    """An app that reads the whole body like a framework does, then answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            continue
        gone = message["type"] == "http.disconnect"
        pairs = [(name.encode(), value.encode()) for name, value in headers]
        await send(
            {"type": "http.response.start", "status": 400 if gone else status, "headers": pairs}
        )
        for number, part in enumerate(body, 1):
            more = number < len(body)
            await send({"type": "http.response.body", "body": part, "more_body": more})

    return app


def sized(app: App, *large: str) -> edge.App:
    return edge.stack(app, edge.RequestId, partial(edge.Sizes, large=set(large).__contains__))


def ask(app: edge.App, scope: Scope, chunks: Iterable[bytes] = (b"",)) -> Answer:
    return asyncio.run(call(app, scope, chunks))


# --- request id -----------------------------------------------------------------------


def test_every_answer_has_an_id() -> None:
    """An answer names its request by a UUID that the app sees too."""
    found = ask(edge.RequestId(replying()), scope_of("/"))
    assert str(UUID(found.headers["x-request-id"])) == edge.request_id(found.scope)


def test_a_callers_uuid_is_kept() -> None:
    """A caller who has an id of his own finds it in the answer, in lower case."""
    found = ask(edge.RequestId(replying()), scope_of("/", [("X-Request-ID", ID.upper())]))
    assert found.headers["x-request-id"] == ID


@pytest.mark.parametrize(
    "given",
    [
        "x",
        "",
        ID + "\n",
        "{" + ID + "}",
        f"urn:uuid:{ID}",
        ID.replace("-", ""),
        ID + ID,
        "<script>",
        "ñ" * 36,
    ],
)
def test_a_strange_id_is_replaced(given: str) -> None:
    """What is no UUID does not come back and reaches no log."""
    found = ask(edge.RequestId(replying()), scope_of("/", [("X-Request-ID", given)]))
    assert found.headers["x-request-id"] != given
    assert UUID(found.headers["x-request-id"])


def test_two_ids_are_none() -> None:
    """Two ids in one request are not trusted."""
    twice = [("X-Request-ID", ID), ("X-Request-ID", ID)]
    assert ask(edge.RequestId(replying()), scope_of("/", twice)).headers["x-request-id"] != ID


# --- sizes ----------------------------------------------------------------------------


def test_a_body_at_the_limit_passes() -> None:
    """64 KiB are allowed."""
    found = ask(sized(replying()), scope_of("/api/v1/orders"), [b"x" * edge.BODY_BYTES])
    assert (found.status, found.body) == (200, b"ok")


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_past_the_limit_is_413(declared: bool) -> None:
    """One byte more is refused, with or without a declared length."""
    length = edge.BODY_BYTES + 1
    headers = [("Content-Length", str(length))] if declared else []
    scope = scope_of("/api/v1/orders", headers)
    found = ask(sized(replying()), scope, [b"x" * edge.BODY_BYTES, b"x"])
    assert (found.status, found.problem["code"]) == (413, "too_large")
    assert found.headers["connection"] == "close"


def test_a_problem_is_complete() -> None:
    """An answer from the edge has every member of a problem, and the request's id."""
    scope = scope_of("/", [("X-Request-ID", ID)])
    assert ask(sized(replying()), scope, [b"x" * 70_000]).problem == {
        "type": "urn:filaviva:too_large",
        "title": "Too large",
        "status": 413,
        "detail": "The body is larger than 64 KiB.",
        "code": "too_large",
        "instance": f"urn:uuid:{ID}",
        "errors": [],
    }


def test_a_body_without_end_is_not_read() -> None:
    """A body in endless chunks is refused at the limit and read no further."""
    found = ask(sized(replying()), scope_of("/"), (b"x" * 1000 for _ in range(10_000)))
    assert found.status == 413
    assert found.read <= edge.BODY_BYTES + 1000


def test_a_declared_excess_is_not_read_at_all() -> None:
    """A body that announces itself as too large costs nothing."""
    scope = scope_of("/", [("Content-Length", "99999999999")])
    found = ask(sized(replying()), scope, [b"x" * 1000] * 100)
    assert (found.status, found.read) == (413, 0)


def test_a_false_length_does_not_help() -> None:
    """What counts is what arrives, not what the header says."""
    scope = scope_of("/", [("Content-Length", "10")])
    assert ask(sized(replying()), scope, [b"x" * 70_000]).status == 413


def test_large_paths_take_more() -> None:
    """Batches may be 4 MiB, and not a byte more."""
    app = sized(replying(), "/batch")
    chunks = [b"x" * 65_536] * 64
    assert ask(app, scope_of("/batch"), chunks).status == 200
    assert ask(app, scope_of("/batch"), [*chunks, b"x"]).status == 413


def test_the_credential_comes_first() -> None:
    """An app that refuses without reading the body is heard: 401 comes before 413."""

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    scope = scope_of("/", [("Content-Length", "99999999")])
    assert ask(sized(refusing), scope, [b"x" * 99_999]).status == 401


def test_an_app_that_raises_on_a_cut_body_is_413() -> None:
    """An app that answers a vanished caller with an exception causes no 500."""

    async def raising(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        raise ConnectionError("gone")

    assert ask(sized(raising), scope_of("/"), [b"x" * 70_000]).status == 413


def test_the_edge_hides_no_other_error() -> None:
    """What an app raises for reasons of its own is raised on."""

    async def raising(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        ask(sized(raising), scope_of("/"))


def test_a_long_url_is_414() -> None:
    """Path and query together have 8 KiB."""
    fits = scope_of("/a", query="q" * (edge.URL_BYTES - 3))
    assert ask(sized(replying()), fits).status == 200
    found = ask(sized(replying()), scope_of("/a", query="q" * (edge.URL_BYTES - 2)))
    assert (found.status, found.problem["status"], found.problem["code"]) == (414, 414, "too_large")


def test_the_url_counts_as_it_was_sent() -> None:
    """Percent-encoding counts: the limit is on what came over the wire."""
    scope = scope_of("/" + "é" * 1500, raw_path=b"/" + b"%C3%A9" * 1500)
    assert ask(sized(replying()), scope).status == 414


def test_large_headers_are_431() -> None:
    """All headers together have 16 KiB."""
    few = scope_of("/", [("A", "x" * (edge.HEADER_BYTES - 5))])
    assert ask(sized(replying()), few).status == 200
    many = [(f"h{number}", "x" * 100) for number in range(200)]
    found = ask(sized(replying()), scope_of("/", many))
    assert (found.status, found.problem["status"], found.problem["code"]) == (431, 431, "too_large")


# --- headers --------------------------------------------------------------------------


def test_security_headers() -> None:
    """Every answer forbids sniffing and keeps its address from other sites."""
    found = ask(edge.Headers(replying()), scope_of("/login")).headers
    assert found == {"x-content-type-options": "nosniff", "referrer-policy": "same-origin"}


def test_the_api_is_not_cached() -> None:
    """No proxy and no browser keeps an answer of the API."""
    assert ask(edge.Headers(replying()), scope_of("/api/v1/orders")).headers["cache-control"] == (
        "no-store"
    )


def test_a_routes_own_headers_stay() -> None:
    """A page that wants a stricter referrer policy or caching has it."""
    own = [("Referrer-Policy", "no-referrer"), ("Cache-Control", "private")]
    found = ask(edge.Headers(replying(headers=own)), scope_of("/api/v1/x")).headers
    assert (found["Referrer-Policy"], found["Cache-Control"]) == ("no-referrer", "private")
    assert "referrer-policy" not in found


# --- rate limits ----------------------------------------------------------------------


def limited(status: int, rate: Rate | Exception | None) -> dict[str, str]:
    async def stats(view: object) -> Rate | None:
        assert view == "the view"
        if isinstance(rate, Exception):
            raise rate
        return rate

    scope = scope_of("/", state={"view_rate_limit": "the view"})
    return ask(edge.RateHeaders(replying(status), stats), scope).headers


def test_a_caller_sees_his_limit() -> None:
    """The limit, what is left of it and for how long, without `Retry-After` on a success."""
    assert limited(200, Rate("read", 120, 60, 117, 41)) == {
        "ratelimit-policy": '"read";q=120;w=60',
        "ratelimit": '"read";r=117;t=41',
    }


def test_retry_after_on_429() -> None:
    """A refused caller is told when to come back, never at once."""
    found = limited(429, Rate("read", 120, 60, -1, 0))
    assert (found["ratelimit"], found["retry-after"]) == ('"read";r=0;t=0', "1")


@pytest.mark.parametrize("rate", [None, ConnectionError("redis")])
def test_an_unknown_state_costs_only_the_headers(rate: Exception | None) -> None:
    """When the store of the limits is away the answer is sent all the same."""
    assert limited(200, rate) == {}


def test_a_route_without_a_limit_has_no_such_headers() -> None:
    """Where nothing was counted nothing is said."""

    async def stats(view: object) -> Rate | None:
        raise AssertionError(view)

    assert ask(edge.RateHeaders(replying(), stats), scope_of("/livez")).headers == {}


# --- proxies --------------------------------------------------------------------------


def behind(peer: str, *headers: tuple[str, str]) -> tuple[str, str]:
    """The caller and the scheme that the app sees."""
    networks = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
    scope = scope_of("/", headers, client=(peer, 4000))
    found = ask(edge.Proxies(replying(), networks), scope).scope
    return found["client"][0], found["scheme"]


FOR, PROTO = "X-Forwarded-For", "X-Forwarded-Proto"


@pytest.mark.parametrize(
    "peer,headers,client,scheme",
    [
        # a stranger's headers count for nothing
        ("192.0.2.7", [(FOR, "1.1.1.1"), (PROTO, "https")], "192.0.2.7", "http"),
        ("127.0.0.1", [(FOR, "1.1.1.1"), (PROTO, "https")], "127.0.0.1", "http"),
        ("10.0.0.1", [(FOR, "1.1.1.1"), (PROTO, "https")], "1.1.1.1", "https"),
        # what the caller wrote himself stands further left
        ("10.0.0.1", [(FOR, "6.6.6.6, 1.1.1.1")], "1.1.1.1", "http"),
        ("10.0.0.1", [(FOR, "6.6.6.6, 1.1.1.1, 10.0.0.2")], "1.1.1.1", "http"),
        ("10.0.0.1", [(FOR, "6.6.6.6"), (FOR, "1.1.1.1")], "1.1.1.1", "http"),
        ("10.0.0.1", [(FOR, "10.0.0.3, 10.0.0.2")], "10.0.0.3", "http"),
        # ports, IPv6, IPv4 over IPv6
        ("10.0.0.1", [(FOR, "1.1.1.1:5000")], "1.1.1.1", "http"),
        ("10.0.0.1", [(FOR, "[2001:db8::1]:5000")], "2001:db8::1", "http"),
        ("10.0.0.1", [(FOR, "2001:db8::1")], "2001:db8::1", "http"),
        ("::ffff:10.0.0.1", [(FOR, "1.1.1.1")], "1.1.1.1", "http"),
        ("fd00::1", [(FOR, "::ffff:1.1.1.1")], "1.1.1.1", "http"),
        # what cannot be read ends the search
        ("10.0.0.1", [(FOR, "unknown")], "10.0.0.1", "http"),
        ("10.0.0.1", [(FOR, "1.1.1.1, x, 10.0.0.2")], "10.0.0.2", "http"),
        ("10.0.0.1", [(FOR, "")], "10.0.0.1", "http"),
        # the scheme belongs to the same hop
        ("10.0.0.1", [(FOR, "6.6.6.6, 1.1.1.1"), (PROTO, "http, https")], "1.1.1.1", "https"),
        ("10.0.0.1", [(FOR, "1.1.1.1, 10.0.0.2"), (PROTO, "https, http")], "1.1.1.1", "https"),
        ("10.0.0.1", [(FOR, "1.1.1.1"), (PROTO, "javascript")], "1.1.1.1", "http"),
    ],
)
def test_the_caller_behind_proxies(
    peer: str, headers: list[tuple[str, str]], client: str, scheme: str
) -> None:
    """The caller is the right-most address that is no proxy of ours; nobody can forge it."""
    assert behind(peer, *headers) == (client, scheme)


def test_a_caller_without_an_address() -> None:
    """A unix socket has no address: nothing is believed and nothing breaks."""
    scope = scope_of("/", [(FOR, "1.1.1.1")], client=None)
    found = ask(edge.Proxies(replying(), [ip_network("0.0.0.0/0")]), scope)
    assert found.scope["client"] is None


# --- streams and falls ----------------------------------------------------------------


def everything(app: App, seen: list[tuple[str, int]]) -> edge.App:
    async def stats(view: object) -> Rate | None:
        return Rate("read", 1, 1, 1, 1) if view else None

    def note(scope: Scope, status: int, seconds: float) -> None:
        assert seconds >= 0
        seen.append((scope["path"], status))

    return edge.stack(
        app,
        edge.RequestId,
        partial(edge.Watched, seen=note),
        partial(edge.Proxies, trusted=[]),
        edge.Headers,
        partial(edge.RateHeaders, stats=stats),
        partial(edge.Sizes, large=lambda _: False),
    )


def test_a_stream_passes_untouched() -> None:
    """The chunks of a stream come out as they went in, through all layers."""
    seen: list[tuple[str, int]] = []
    parts = [b"id: 1\n\n", b":\n", b"id: 2\n\n"]
    found = ask(everything(replying(body=parts), seen), scope_of("/api/v1/events"))
    assert found.chunks == parts
    assert seen == [("/api/v1/events", 200)]


def test_what_is_not_http_passes() -> None:
    """The lifespan of the app is none of the edge's business."""
    calls: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(scope["type"])

    async def nothing(*_: object) -> Any:
        raise AssertionError

    async def drive() -> None:
        await everything(app, [])({"type": "lifespan"}, nothing, nothing)

    asyncio.run(drive())
    assert calls == ["lifespan"]


def test_a_fall_is_a_500_with_an_id() -> None:
    """An app that falls over before it answers is a problem like any other, and counted."""

    async def falling(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("SELECT secret FROM accounts")

    seen: list[tuple[str, int]] = []
    found = ask(everything(falling, seen), scope_of("/api/v1/x"))
    assert (found.status, found.problem["code"]) == (500, "internal")
    assert found.problem["instance"] == f"urn:uuid:{found.headers['x-request-id']}"
    assert not re.search("SELECT|ValueError|Traceback", found.body.decode())
    assert seen == [("/api/v1/x", 500)]


def test_a_fall_after_the_answer_is_only_logged() -> None:
    """A complete answer stays complete when the app falls over afterwards."""

    async def falling(scope: Scope, receive: Receive, send: Send) -> None:
        await replying()(scope, receive, send)
        raise ValueError("late")

    assert ask(everything(falling, []), scope_of("/")).body == b"ok"


def test_a_fall_in_the_middle_cuts_the_line() -> None:
    """Half an answer is never passed off as a whole one."""

    async def falling(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("middle")

    with pytest.raises(ValueError, match="middle"):
        ask(everything(falling, []), scope_of("/"))

"""What happens to every request before and after a route: small plain ASGI layers.

Each layer takes the app it wraps and may be used alone; `stack` puts them together. They
leave the chunks of an answer as they are, so that a stream passes untouched, and pass on
whatever is not HTTP. Nothing here knows a route or a business rule: what differs between
routes is handed in.
"""

import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, NamedTuple
from uuid import uuid4

from loguru import logger

from errors import HeadersTooLarge, Internal, Problem, TooLarge, UrlTooLarge, body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Layer = Callable[[App], App]
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

BODY_BYTES: Final = 64 * 1024
LARGE_BODY_BYTES: Final = 4 * 1024 * 1024
URL_BYTES: Final = 8 * 1024
HEADER_BYTES: Final = 16 * 1024
UUID: Final = re.compile(rb"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


def stack(app: App, *layers: Layer) -> App:
    """`app` inside `layers`, the first outermost."""
    for layer in reversed(layers):
        app = layer(app)
    return app


class HttpLayer:
    """A layer around `app`: what is HTTP goes through `http`, the rest straight on."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.http if scope["type"] == "http" else self.app)(scope, receive, send)

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def request_id(scope: Scope) -> str:
    """The id of this request, a UUID as text; RequestId has put it there."""
    return scope["state"]["request_id"]


async def answer(scope: Scope, send: Send, problem: Problem, *headers: tuple[bytes, bytes]) -> None:
    """Answer with `problem` as `application/problem+json`."""
    content = json.dumps(body(problem, request_id(scope)), ensure_ascii=False).encode()
    length = str(len(content)).encode()
    own = [(b"content-type", b"application/problem+json"), (b"content-length", length)]
    start = {"type": "http.response.start", "status": problem.status}
    await send({**start, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": content})


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _with(message: Message, *added: tuple[bytes, bytes]) -> Message:
    """The start of an answer with further headers; those that it has stay as they are."""
    present = {key.lower() for key, _ in message.get("headers", ())}
    fresh = [(key, value) for key, value in added if key not in present]
    return {**message, "headers": [*message.get("headers", ()), *fresh]}


# --- who asks -------------------------------------------------------------------------


class RequestId(HttpLayer):
    """Gives every request an id: in `scope["state"]`, in its log records, in its answer.

    A caller's own `X-Request-ID` is taken if it is a UUID; anything else could forge a
    log line or grow without bound, and is replaced.
    """

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        chosen = _chosen_id(scope["headers"])
        scope.setdefault("state", {})["request_id"] = chosen

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = _with(message, (b"x-request-id", chosen.encode()))
            await send(message)

        with logger.contextualize(request_id=chosen):
            await self.app(scope, receive, named)


def _chosen_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    match _values(headers, b"x-request-id"):
        case [given] if UUID.fullmatch(given):
            return given.decode().lower()
        case _:
            return str(uuid4())


class Proxies(HttpLayer):
    """Finds the caller behind trusted proxies: `scope["client"]` and `scope["scheme"]`.

    `X-Forwarded-For` and `X-Forwarded-Proto` count only if the peer itself is in one of
    `trusted`. The caller is the right-most address that is not: what stands left of it
    was written by somebody we do not know.
    """

    def __init__(self, app: App, trusted: Sequence[Network]) -> None:
        super().__init__(app)
        self.trusted = trusted

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = _address(scope["client"][0]) if scope.get("client") else None
        if peer and self._trusts(peer):
            self._look_behind(scope)
        await self.app(scope, receive, send)

    def _look_behind(self, scope: Scope) -> None:
        hops = _listed(scope["headers"], b"x-forwarded-for")
        schemes = _listed(scope["headers"], b"x-forwarded-proto")
        place = 0  # counted from the right; 0 is nobody yet
        for hop in reversed(hops):
            address = _address(hop)
            if address is None:
                break
            scope["client"] = (str(address), 0)
            place += 1
            if not self._trusts(address):
                break
        if schemes:
            said = schemes[-place] if place and len(schemes) == len(hops) else schemes[-1]
            scope["scheme"] = said if said in ("http", "https") else scope["scheme"]

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self.trusted)


def _listed(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    joined = b",".join(_values(headers, name)).decode("latin-1")
    return [part.strip() for part in joined.split(",") if part.strip()]


@lru_cache(maxsize=1024)
def _address(text: str) -> Address | None:
    """An address, with or without a port; None for anything else.

    An IPv4 address that came over an IPv6 socket is the IPv4 address.
    """
    bare = re.sub(r"^\[([^\]]*)\](?::\d+)?$|^([\d.]+):\d+$", r"\1\2", text)
    try:
        found = ip_address(bare)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


# --- how much -------------------------------------------------------------------------


class Sizes(HttpLayer):
    """Bounds what a request may send: 414, 431 and 413, all `too_large`.

    The body is counted as it arrives, whatever its headers say. A body that is too large
    is answered when the app first asks for it, so that a missing credential is told
    first; the app then sees a caller who has gone, its own answer to that is dropped, and
    the connection ends without reading the rest. `large` says which paths may send 4 MiB.
    """

    def __init__(self, app: App, large: Callable[[str], bool]) -> None:
        super().__init__(app)
        self.large = large

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if problem := _oversized(scope):
            await answer(scope, send, problem, (b"connection", b"close"))
            return
        limit = LARGE_BODY_BYTES if self.large(scope["path"]) else BODY_BYTES
        await _Counted(self.app, scope, receive, send, limit).run()


def _oversized(scope: Scope) -> Problem | None:
    path = scope.get("raw_path") or scope["path"].encode()
    if len(path) + 1 + len(scope.get("query_string", b"")) > URL_BYTES:
        return UrlTooLarge()
    # ": " and the line's end count too: it is what came over the wire
    if sum(len(key) + len(value) + 4 for key, value in scope["headers"]) > HEADER_BYTES:
        return HeadersTooLarge()
    return None


class _Counted:
    """One request whose body is counted."""

    def __init__(self, app: App, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self._app, self._scope, self._receive, self._send = app, scope, receive, send
        self._limit = limit
        self._received = 0
        self._exceeded = False
        self._started = False

    async def run(self) -> None:
        try:
            await self._app(self._scope, self._read, self._write)
        except Exception:
            if not self._exceeded or self._started:
                raise  # else: its way to say that the caller has gone
        if self._exceeded and not self._started:
            detail = f"The body is larger than {self._limit // 1024} KiB."
            await answer(self._scope, self._send, TooLarge(detail), (b"connection", b"close"))

    async def _read(self) -> Message:
        if self._exceeded or _declared(self._scope["headers"]) > self._limit:
            return self._refuse()
        message = await self._receive()
        self._received += len(message.get("body", b""))
        return self._refuse() if self._received > self._limit else message

    def _refuse(self) -> Message:
        self._exceeded = True
        return {"type": "http.disconnect"}

    async def _write(self, message: Message) -> None:
        if self._exceeded and not self._started:
            return
        self._started = True
        await self._send(message)


def _declared(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The length that was announced; 0 if none was, or in a way that cannot be read."""
    match _values(headers, b"content-length"):
        case [text] if text.isdigit() and len(text) < 20:
            return int(text)
        case _:
            return 0


# --- what every answer says -----------------------------------------------------------


class Headers(HttpLayer):
    """Headers for a browser's safety on every answer; what a route set itself stays."""

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        added = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
        if scope["path"].startswith("/api/"):
            added.append((b"cache-control", b"no-store"))

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = _with(message, *added)
            await send(message)

        await self.app(scope, receive, marked)


class Rate(NamedTuple):
    """Where a caller stands: `quota` calls in `window` seconds, `remaining` for `reset` more."""

    name: str
    quota: int
    window: int
    remaining: int
    reset: int


class RateHeaders(HttpLayer):
    """Tells a caller his limit: `RateLimit-Policy`, `RateLimit`, `Retry-After` on 429 only.

    A limiter leaves the limit that it looked at in `scope["state"]["view_rate_limit"]`;
    `stats` reads how much of it is left (None: unknown, no headers). The headers are worth
    no answer: whatever `stats` raises is logged and costs only them.
    """

    def __init__(self, app: App, stats: Callable[[Any], Awaitable[Rate | None]]) -> None:
        super().__init__(app)
        self.stats = stats

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:

        async def limited(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = _with(message, *await self._headers(scope, message["status"]))
            await send(message)

        await self.app(scope, receive, limited)

    async def _headers(self, scope: Scope, status: int) -> list[tuple[bytes, bytes]]:
        seen = scope.get("state", {}).get("view_rate_limit")
        try:
            rate = await self.stats(seen) if seen else None
        except Exception as error:
            logger.warning("the state of a rate limit is not known: {}", type(error).__name__)
            return []
        return _rate_headers(rate, status) if rate else []


def _rate_headers(rate: Rate, status: int) -> list[tuple[bytes, bytes]]:
    left, reset = max(0, rate.remaining), max(0, rate.reset)
    found = [
        (b"ratelimit-policy", f'"{rate.name}";q={rate.quota};w={rate.window}'.encode()),
        (b"ratelimit", f'"{rate.name}";r={left};t={reset}'.encode()),
    ]
    if status == 429:
        found.append((b"retry-after", str(max(1, reset)).encode()))
    return found


# --- what is seen of it ---------------------------------------------------------------


class Watched(HttpLayer):
    """Hands every answer to `seen(scope, status, seconds)` when it starts, and catches falls.

    `seconds` is the time to the start of the answer: a stream's own length says nothing.
    What an app raises is logged with the request's id; if nothing was sent yet, the caller
    gets a 500. A fall in the middle of an answer is raised on: the server then cuts the
    line, which is how the caller learns that the answer is not whole.
    """

    def __init__(self, app: App, seen: Callable[[Scope, int, float], None]) -> None:
        super().__init__(app)
        self.seen = seen

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        started = finished = False

        async def watched(message: Message) -> None:
            nonlocal started, finished
            if message["type"] == "http.response.start":
                started = True
                self.seen(scope, message["status"], time.perf_counter() - began)
            finished = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            logger.exception("a request failed")
            if started and not finished:
                raise
            if not started:
                await answer(scope, watched, Internal())

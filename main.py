"""All HTTP of Filaviva, and nothing else.

A route checks who calls and what came, calls one verb of the house, and shapes the answer;
no business rule is here. Open the table below and you know every address.

    /auth       token refresh logout session register password me
    /accounts   list create change
    /queues     list create read change delete pause resume purge redrive failures stats; /stats
    /messages   enqueue claim ack nack release extend (one and many), read, cancel, retry
    /orders     what a customer sees: place, list, read, history, cancel
    /cart       what a customer means to buy: read, put, drop, empty, check out
    /products   list create read change delete; stock: read, change, receive, adjust, ledger;
                /stock
    /customers  list create count read change deactivate activate erase, orders, favourites
    /events     the stream, its history, tickets; /asyncapi.json
    /audit      what admins did
    /streams    who is connected: list, end; /processes
    at the root /livez /readyz /metrics /docs /openapi.json
    pages       / /login /register /logout /track/{id}; the console below /admin

`@route` says everything about a route that can be seen from outside: address, verb, roles,
rate limit, query, answer, problems, and whether it is written down what admins do there. The
OpenAPI document is made from the same words, the AsyncAPI document from the same shapes.
"""

import asyncio
import contextlib
import functools
import hmac
import inspect
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints
from urllib.parse import urlencode, urlsplit

from fastapi import Depends, FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from loguru import logger
from pydantic import ValidationError
from pydantic_core import from_json, to_json
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from sse_starlette import EventSourceResponse
from sse_starlette.sse import AppStatus
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

import actions
import asyncapi
import auth
import buckets
import carts
import catalogue
import config
import customers
import database
import edge
import errors
import events
import favourites
import hub as hubs
import instants
import metrics
import moves
import openapi
import outlets
import pages
import queues
import rates
import schemas
import snapshots
import stock
import streams
import texts
import upkeep
from accounts import wall
from auth import Principal
from errors import Problem
from hub import Start
from models import Role
from openapi import Operation
from schemas import body_of, results_shape
from service import Service
from streams import Choice, Owner

API = "/api/v1"
STATIC = Path(__file__).parent / "static"
SETTINGS = config.settings()
COOKIE = "__Host-fv_session" if SETTINGS.public_url.startswith("https:") else "fv_session"
GOODBYE_SECONDS = 5.0  # beyond DRAIN_SECONDS, for the hub's goodbye to be written

ADMIN = frozenset({Role.ADMIN})
READERS = frozenset({Role.ADMIN, Role.VIEWER})
STAFF = frozenset({Role.ADMIN, Role.VIEWER, Role.PRODUCER, Role.WORKER})
PRODUCERS = frozenset({Role.ADMIN, Role.PRODUCER})
LOOKERS = frozenset({Role.ADMIN, Role.VIEWER, Role.PRODUCER})
WORKERS = frozenset({Role.ADMIN, Role.WORKER})
BUYERS = frozenset({Role.ADMIN, Role.PRODUCER, Role.CUSTOMER})
SHOPPERS = frozenset({Role.CUSTOMER})
ORDER_READERS = LOOKERS | {Role.CUSTOMER}
SIGNED_IN = frozenset(Role)


# --- what lifespan opens --------------------------------------------------------------

service: Service  # set by `lifespan`; nothing is open before


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global service
    service = Service(SETTINGS, lambda: AppStatus.should_exit)
    async with service.open():
        yield


api = FastAPI(
    title="Filaviva",
    version="1.0.0",
    lifespan=lifespan,
    openapi_url=None,
    docs_url=None,
    redoc_url=None,
    redirect_slashes=False,
    telemetry={"tracing": False, "metrics": False, "logs": False},  # /metrics is ours
)


# --- answers --------------------------------------------------------------------------


def reply(
    data: Any, status: int = 200, *, etag: int | None = None, headers: Mapping[str, str] = {}
) -> Response:
    """JSON, made once from plain values."""
    tagged = dict(headers) if etag is None else {**headers, "ETag": f'"{etag}"'}
    return Response(to_json(data), status, tagged, "application/json")


def empty() -> Response:
    return Response(status_code=204)


def page_of(
    request: Request, items: Sequence[Any], cursor: str | None, more: Mapping[str, Any] = {}
) -> Response:
    """A list with its next page as a cursor and as a `Link` (RFC 8288)."""
    headers = {}
    if cursor is not None:
        kept = [(k, v) for k, v in request.query_params.multi_items() if k != "cursor"]
        query = urlencode([*kept, ("cursor", cursor)])
        headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'
    return reply({"items": items, "next_cursor": cursor, **more}, headers=headers)


def problem_shape(problem: Problem, request: Request) -> dict[str, Any]:
    return errors.body(problem, edge.request_id(request.scope))


def nowhere(problem: Problem, request: Request) -> bool:
    """Whether there is neither a page nor the API."""
    section = request.url.path.split("/")[1]
    return isinstance(problem, errors.NotFound) and section not in (*PAGES, "api")


def looks_for_page(problem: Problem, request: Request) -> bool:
    """Whether a person looks there: where pages are, and with a browser where nothing is."""
    browser = "text/html" in request.headers.get("accept", "")
    return request.url.path.split("/")[1] in PAGES or (browser and nowhere(problem, request))


def problem_answer(problem: Problem, request: Request) -> Response:
    """RFC 9457; where people look, a page of the same status."""
    if looks_for_page(problem, request):
        answer = problem_page(problem, request)
    else:
        shape = to_json(problem_shape(problem, request))
        answer = Response(shape, problem.status, None, "application/problem+json")
    if nowhere(problem, request):
        answer.headers["Vary"] = "Accept"
    if isinstance(problem, errors.Unauthenticated) and answer.status_code == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if problem.retry_after is not None:
        answer.headers["Retry-After"] = str(problem.retry_after)
    return answer


def results(request: Request, outcomes: Iterable[Mapping[str, Any] | Problem]) -> list[Any]:
    """The `results` of a call for many: each what it would have got alone."""
    shapes: list[dict[str, Any]] = []
    for outcome in outcomes:
        if isinstance(outcome, Problem):
            shape = problem_shape(outcome, request)
            shapes.append({"status": outcome.status, "id": None, "problem": shape})
        else:
            shapes.append({"status": 200, "problem": None, **outcome})
    return shapes


# --- problems -------------------------------------------------------------------------


def pointer_of(location: Sequence[str | int]) -> str:
    """A JSON Pointer (RFC 6901) as a URI fragment."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "#" + "".join(f"/{part}" for part in parts)


def invalid(error: ValidationError, where: str = "pointer") -> errors.Invalid:
    """What pydantic found, without what came in."""
    found = [
        {
            "detail": fault["msg"],
            where: pointer_of(fault["loc"]) if where == "pointer" else str(fault["loc"][0]),
        }
        for fault in error.errors(include_input=False, include_context=False, include_url=False)
        if fault["loc"] or where == "pointer"
    ]
    return errors.Invalid(found[0]["detail"] if found else None, errors=found[:20])


@api.exception_handler(Problem)
async def on_problem(request: Request, problem: Problem) -> Response:
    if problem.status in (429, 503) and wants_stream(request):
        return farewell(problem)
    if isinstance(problem, errors.Unauthenticated) and has_dead_link(request):
        with contextlib.suppress(*database.DRIVER_ERRORS):
            request.state.principal = await visitor(request)
    return problem_answer(problem, request)


@api.exception_handler(RateLimitExceeded)
async def on_rate_limit(request: Request, _: RateLimitExceeded) -> Response:
    return await on_problem(request, errors.RateLimited())


@api.exception_handler(HTTPException)
async def on_http(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        answer = problem_answer(errors.MethodNotAllowed(), request)
        answer.headers["Allow"] = ", ".join(sorted(methods_at(request)))
        return answer
    return problem_answer(errors.NotFound(), request)


def methods_at(request: Request) -> set[str]:
    """Every method that this address answers to."""
    found: set[str] = set()
    for one in api.routes:
        if one.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(one, "methods", None) or set()
    return found


@api.exception_handler(Exception)
async def on_fall(request: Request, _: Exception) -> Response:
    return problem_answer(errors.Internal(), request)


@api.exception_handler(ClientDisconnect)
async def on_hang_up(request: Request, _: ClientDisconnect) -> Response:
    """Nobody is there to read this. nginx counts such calls as 499, and so do we."""
    return Response(status_code=499)


async def on_database(request: Request, error: Exception) -> Response:
    logger.warning("the database did not answer: {}", type(error).__name__)
    return await on_problem(request, errors.Unavailable(retry_after=1))


for kind in database.DRIVER_ERRORS:
    if issubclass(kind, Exception):
        api.add_exception_handler(kind, on_database)


# --- who calls ------------------------------------------------------------------------

OWN_ORIGINS = {SETTINGS.public_url}
if urlsplit(SETTINGS.public_url).hostname == "127.0.0.1":
    OWN_ORIGINS.add(SETTINGS.public_url.replace("127.0.0.1", "localhost"))


async def identify(request: Request, *, ticket: bool) -> Principal | None:
    """Who calls: a bearer, a ticket where one is taken, or a page's cookie; the first decides.

    Raises:
        Unauthenticated: what came is not valid.
    """
    bearer = request.headers.get("authorization")
    if bearer is not None:
        scheme, _, token = bearer.partition(" ")
        if scheme.lower() != "bearer":
            raise errors.Unauthenticated
        return await service.accounts.principal("bearer", token.strip())
    if ticket and (text := request.query_params.get("ticket")) is not None:
        return await service.accounts.principal("ticket", text)
    if (cookie := request.cookies.get(COOKIE)) is not None:
        found = await service.accounts.principal("session", cookie)
        if request.method not in ("GET", "HEAD"):
            demand_own_origin(request)
        return found
    return None


async def demand_still(request: Request) -> None:
    """Who was identified still is who he was, and nobody ends between this and its return.

    A stream that is opened while its credential ends would be met by no end of streams.

    Raises:
        Unauthenticated: he ended meanwhile.
    """
    known: int | None = None
    while known != service.accounts.changes:
        known = service.accounts.changes
        await identify(request, ticket=True)


async def has_ended(request: Request) -> bool:
    """Whether the caller's credential ended while he waited."""
    try:
        await identify(request, ticket=False)
    except errors.Unauthenticated:
        return True
    return False


def demand_own_origin(request: Request) -> None:
    """A foreign page can make a browser send our cookie, but not with our origin."""
    if request.headers.get("origin") not in OWN_ORIGINS:
        raise errors.BadOrigin


@dataclass(frozen=True, slots=True)
class Gate:
    """The first check of a route: 401 without a credential, 403 without one of its roles.

    `roles` None: anybody, whatever credential comes along. `ticket`: a ticket opens it, for
    what it names; the route checks that. `scraper`: so does the METRICS_TOKEN.
    """

    roles: frozenset[Role] | None
    ticket: bool = False
    optional: bool = False
    scraper: bool = False

    async def __call__(self, request: Request) -> None:
        request.state.principal = None
        if (self.roles is None and not self.optional) or (self.scraper and is_scraper(request)):
            return
        found = request.state.principal = await identify(request, ticket=self.ticket)
        if found is None:
            if not self.optional:
                raise errors.Unauthenticated
        elif found.kind != "ticket" and self.roles is not None and not found.has(*self.roles):
            raise errors.Forbidden


def is_scraper(request: Request) -> bool:
    token = SETTINGS.metrics_token
    if token is None:
        return False
    given = request.headers.get("authorization", "").encode()
    return hmac.compare_digest(given, f"Bearer {token.get_secret_value()}".encode())


# Dependencies are coroutines: FastAPI runs a plain function in a thread, each time.
async def caller(request: Request) -> Principal:
    return request.state.principal


async def maybe_caller(request: Request) -> Principal | None:
    return request.state.principal


Caller = Annotated[Principal, Depends(caller)]
MaybeCaller = Annotated[Principal | None, Depends(maybe_caller)]


# --- what came ------------------------------------------------------------------------


def media_type(request: Request) -> tuple[str, str]:
    """The media type and charset of a body, in lower case."""
    kind, _, rest = request.headers.get("content-type", "").partition(";")
    charset = re.search(r"charset=\"?([\w-]+)", rest)
    return kind.strip().lower(), charset[1].lower() if charset else "utf-8"


async def json_value(request: Request, *, optional: bool) -> Any:
    """The body as plain values; an empty object for a missing one that may be missing.

    Raises:
        UnsupportedMediaType, MalformedJson: as they say.
        Invalid: JSON, but with half a surrogate pair.
    """
    raw = await request.body()
    if not raw and optional:
        return {}
    if media_type(request) not in (("application/json", "utf-8"), ("application/json", "utf8")):
        raise errors.UnsupportedMediaType
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        if "surrogate" in str(error):
            raise errors.Invalid("no lone surrogate in a text") from None
        raise errors.MalformedJson from None


def checked(model: type[schemas.Body], value: Any) -> Any:
    """
    Raises:
        Invalid: it does not fit, with a pointer to each fault.
    """
    try:
        return body_of(model, value)
    except ValidationError as error:
        raise invalid(error) from None


class Json:
    """The body as a model of `schemas`."""

    def __init__(self, model: type[schemas.Body]) -> None:
        self.model = model
        self.optional = not any(field.is_required() for field in model.model_fields.values())

    async def __call__(self, request: Request) -> Any:
        return checked(self.model, await json_value(request, optional=self.optional))


class Patch(Json):
    """The fields that a PATCH names; `null` means the default."""

    async def __call__(self, request: Request) -> Any:
        value = await json_value(request, optional=True)
        given = checked(self.model, value)
        nulls = [name for name, item in value.items() if item is None]
        unknown = [name for name in nulls if name not in self.model.model_fields]
        if unknown:
            raise errors.Invalid.at("Extra inputs are not permitted", pointer=f"#/{unknown[0]}")
        return {name: getattr(given, name) for name in [*given.model_fields_set, *nulls]}


class Form(Json):
    """An urlencoded form; `or_json`: or the same as JSON."""

    def __init__(self, model: type[schemas.Body], *, or_json: bool = False) -> None:
        super().__init__(model)
        self.or_json = or_json

    async def __call__(self, request: Request) -> Any:
        if media_type(request)[0] != "application/x-www-form-urlencoded":
            if not self.or_json:
                raise errors.UnsupportedMediaType("The body must be a form.")
            value = await json_value(request, optional=False)
        else:
            value = await self._form(request)
        if isinstance(value, Mapping):
            request.state.typed = {name: str(value.get(name, "")) for name in ("username", "next")}
        given = checked(self.model, value)
        request.state.username = given.username
        return given

    async def _form(self, request: Request) -> dict[str, Any]:
        try:
            pairs = [(k, v) for k, v in (await request.form()).multi_items()]
        except (HTTPException, ValueError):
            raise errors.Invalid("The form cannot be read.") from None
        if len({name for name, _ in pairs}) < len(pairs):
            raise errors.Invalid("A field of the form comes twice.")
        return dict(pairs)


class QueryOf:
    """The query string as a model: nothing unknown, nothing twice (but `topic`)."""

    def __init__(self, model: type[schemas.Query]) -> None:
        self.model = model

    async def __call__(self, request: Request) -> Any:
        values: dict[str, Any] = {}
        for name, value in request.query_params.multi_items():
            if name == "topic" and "topic" in self.model.model_fields:
                values.setdefault(name, []).append(value)
            elif name in values:
                raise errors.Invalid(errors=[{"detail": "comes twice", "parameter": name}])
            else:
                values[name] = value
        try:
            return self.model.model_validate(values)
        except ValidationError as error:
            raise invalid(error, "parameter") from None


async def if_match(request: Request) -> int | None:
    """The version of `If-Match`; None without one or for `*`, -1 for one that never matches.

    Raises:
        BadHeader: it is not an entity tag.
    """
    values = request.headers.getlist("if-match")
    if not values or values == ["*"]:
        return None
    found = re.fullmatch(r'(W/)?"([^"]{1,40})"', values[0].strip())
    if len(values) > 1 or found is None:
        wrong = {"detail": 'write it as "3"', "header": "If-Match"}
        raise errors.BadHeader(errors=[wrong])
    weak, tag = found.groups()  # a weak tag never matches here (RFC 9110, 13.1.1)
    return int(tag) if not weak and tag.isascii() and tag.isdigit() else -1


async def idempotency_key(request: Request) -> str | None:
    """The key of the header, without quotes.

    Raises:
        BadHeader: it is none.
    """
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    text = values[0]
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if len(values) > 1 or schemas.KEY.fullmatch(text) is None:
        wrong = {"detail": "1 to 255 visible ASCII characters", "header": "Idempotency-Key"}
        raise errors.BadHeader(errors=[wrong])
    return text


def _path(name: str, pattern: str) -> Callable[[Request], str]:
    compiled = re.compile(pattern)

    def check(request: Request) -> str:
        value = request.path_params[name]
        if compiled.fullmatch(value) is None:
            raise errors.NotFound
        return value

    return check


# Checked when the route runs, after body and parameters: a malformed id is 404, not 422.
message_id_of = _path("id", schemas.ORDER_ID.pattern)
queue_of = _path("name", schemas.QUEUE_NAME)
username_of = _path("username", schemas.USERNAME)
sku_of = _path("sku", schemas.SKU)
customer_of = _path("customer", schemas.SKU)
stream_of = _path("stream", schemas.STREAM_ID)

# What a handler's signature may ask for.
IfMatch = Annotated[int | None, Depends(if_match)]
Key = Annotated[str | None, Depends(idempotency_key)]


# --- how often ------------------------------------------------------------------------


def by_account(request: Request) -> str:
    """Whose bucket a call falls into: the account's, else (with a ticket too) the address's."""
    principal: Principal | None = request.state.principal
    if principal is not None and principal.kind != "ticket":
        return f"account:{principal.account}"
    return by_address(request)


def by_address(request: Request) -> str:
    return f"address:{request.client.host if request.client else 'unknown'}"


def by_username(request: Request) -> str:
    """Whose password is tried: counted before it is hashed."""
    principal: Principal | None = request.state.principal
    name = request.state.username if principal is None else principal.account
    return f"username:{name[:64]}"


def is_staff(request: Request) -> bool:
    principal: Principal | None = request.state.principal
    return principal is not None and principal.staff


def is_customer(request: Request) -> bool:
    principal: Principal | None = request.state.principal
    return principal is not None and principal.kind != "ticket" and not principal.staff


def is_other(request: Request) -> bool:
    return not is_staff(request) and not is_customer(request)


limiter = Limiter(
    key_func=by_account,
    enabled=SETTINGS.rate_limits,
    storage_uri=(
        buckets.address(SETTINGS.redis_url.get_secret_value())
        if SETTINGS.redis_url
        else "memory://"
    ),
    # The storage is asked on the event loop: a Redis that hangs must not hold it.
    storage_options=(
        {"socket_timeout": 0.1, "socket_connect_timeout": 0.1} if SETTINGS.redis_url else {}
    ),  # pyright: ignore[reportArgumentType]
    in_memory_fallback_enabled=SETTINGS.redis_url is not None,
    key_style="endpoint",
)

Limit = Callable[[Callable[..., Any]], Callable[..., Any]]
Test = Callable[[Request], bool]


def shared(
    name: str, quota: str, key: Callable[[Request], str] = by_account, only: Test | None = None
) -> Limit:
    """One bucket per caller for all routes of a kind."""
    unless = None if only is None else lambda request: not only(request)
    return limiter.shared_limit(quota, scope=name, key_func=key, exempt_when=unless)


CUSTOMERS = shared("customer", "120/minute", only=is_customer)
OTHERS = shared("anonymous", "60/minute", only=is_other)
LIMITS: dict[str, tuple[Limit, ...]] = {
    "read": (shared("read", "6000/minute", only=is_staff), CUSTOMERS, OTHERS),
    "write": (shared("write", "120000/minute", only=is_staff), CUSTOMERS, OTHERS),
    "bulk": (shared("bulk", "30/minute"),),
    "stream": (shared("stream", "600/minute"),),
    "sign-in": (
        shared("sign-in", "10/minute", by_username),
        shared("sign-in-address", "30/minute", by_address),
    ),
    "register": (shared("register", "5/hour", by_address),),
    "exempt": (),
}


async def rate_of(seen: Any) -> edge.Rate | None:
    """Where a caller stands, for the `RateLimit` headers."""
    item, arguments = seen
    reset, remaining = limiter.limiter.get_window_stats(item, *arguments)
    window = item.get_expiry()
    return edge.Rate(
        arguments[-1], item.amount, window, remaining, max(0, round(reset - wall() / 1000))
    )


# --- the decorator of every route -----------------------------------------------------

OPERATIONS: list[Operation] = []
Handler = Callable[..., Awaitable[Response]]


def route(
    tag: str,
    method: str,
    path: str,
    who: frozenset[Role] | None,
    answer: Any = None,
    *,
    status: int = 200,
    limit: str = "read",
    ticket: bool = False,
    optional: bool = False,
    scraper: bool = False,
    query: type[schemas.Query] | None = None,
    problems: Sequence[type[Problem]] = (),
    audited: bool = False,
    about: str | None = None,
) -> Callable[[Handler], Handler]:
    """Everything about a route that can be seen from outside, at once.

    Its verb is the handler's name; what the handler's signature asks for (body, query,
    headers) needs no second word, nor do the problems that come with it.

    What only admins may change is written down whoever calls; with `audited` also what
    others may, where an admin does it in the console. `about`: the field of the body that
    names what it is about, where the path does not.
    """

    def register(handler: Handler) -> Handler:
        wants = Wants.of(handler, query)
        limited: Handler = handler
        if method != "GET" and (audited or who == ADMIN):
            limited = recorded(handler, wants, about, console_only=audited)
        for one in LIMITS[limit]:
            limited = one(limited)
        checks = [Depends(Gate(who, ticket, optional, scraper))]
        if not wants.reads_query:
            checks.append(Depends(QueryOf(wants.query)))
        api.add_api_route(
            path,
            with_session(limited),
            methods=["GET", "HEAD"] if method == "GET" else [method],
            dependencies=checks,
            include_in_schema=False,
        )
        OPERATIONS.append(
            Operation(
                method=method,
                path=path,
                verb=handler.__name__,
                tag=tag,
                summary=(handler.__doc__ or "").strip().splitlines()[0],
                roles=who,
                ticket=ticket,
                limit=limit,
                query=wants.query,
                body=wants.body,
                headers=wants.headers,
                answer=answer,
                status=status,
                problems=[*problems, *expected(path, who, limit, wants)],
            )
        )
        return handler

    return register


def under(tag: str, prefix: str = API) -> Callable[..., Callable[[Handler], Handler]]:
    """The decorator of one part of the API."""
    return lambda method, path, *args, **more: route(tag, method, prefix + path, *args, **more)


account_route = under("Accounts")
queue_route = under("Queues")
message_route = under("Messages")
order_route = under("Orders")
cart_route = under("Cart")
product_route = under("Products")
customer_route = under("Customers")
event_route = under("Events")
operation_route = under("Operations")
root_route = under("Operations", "")
page_route = under("Pages", "")


def asked(handler: Handler) -> dict[str, Any]:
    """What a handler asks for: a `Body` is read from the JSON, a `Query` from the address."""
    found = get_type_hints(handler, include_extras=True)
    for name, hint in found.items():
        if isinstance(hint, type) and issubclass(hint, schemas.Body):
            found[name] = Annotated[hint, Depends(Json(hint))]
        elif isinstance(hint, type) and issubclass(hint, schemas.Query):
            found[name] = Annotated[hint, Depends(QueryOf(hint))]
    return found


def _marks(hint: Any) -> Sequence[Any]:
    return getattr(hint, "__metadata__", ())


@dataclass(frozen=True, slots=True)
class Wants:
    """What a handler's signature asks of a request."""

    body: Json | None
    query: type[schemas.Query]
    reads_query: bool
    headers: list[str]

    @classmethod
    def of(cls, handler: Handler, query: type[schemas.Query] | None) -> "Wants":
        marks = [mark for hint in asked(handler).values() for mark in _marks(hint)]
        found = [getattr(mark, "dependency", None) for mark in marks]
        queries = [one.model for one in found if isinstance(one, QueryOf)]
        named = {if_match: "If-Match", idempotency_key: "Idempotency-Key"}
        return cls(
            body=next((one for one in found if isinstance(one, Json)), None),
            query=queries[0] if queries else query or schemas.NoQuery,
            reads_query=bool(queries),
            headers=[name for reader, name in named.items() if reader in found],
        )


def expected(
    path: str, who: frozenset[Role] | None, limit: str, wants: Wants
) -> list[type[Problem]]:
    """The problems that can come on a route of this kind."""
    found: list[type[Problem]] = [errors.Invalid, errors.Internal, errors.Unavailable]
    found += [errors.UrlTooLarge, errors.HeadersTooLarge]
    if who is not None:
        found += [errors.Unauthenticated, errors.Forbidden]
    if wants.body is not None:
        found += [errors.MalformedJson, errors.TooLarge, errors.UnsupportedMediaType]
    if wants.headers:
        found.append(errors.BadHeader)
    if "If-Match" in wants.headers:
        found.append(errors.VersionMismatch)
    if "cursor" in wants.query.model_fields or "after" in wants.query.model_fields:
        found.append(errors.BadCursor)
    if limit in ("write", "stream", "sign-in", "register"):
        found.append(errors.Overloaded)
    if limit != "exempt":
        found.append(errors.RateLimited)
    if "{" in path:
        found.append(errors.NotFound)
    return found


def with_session(handler: Handler) -> Handler:
    """Renew the cookie of a page that is in use."""

    @functools.wraps(handler)
    async def endpoint(request: Request, *args: Any, **kwargs: Any) -> Response:
        order = request.path_params.get("id")
        with logger.contextualize(order=order) if order else contextlib.nullcontext():
            answer = await handler(*args, request=request, **kwargs)
        principal: Principal | None = request.state.principal
        if principal is not None and service.accounts.renewal_due(principal):
            await renew_session(request, answer)
        return answer

    signature, hints = inspect.signature(handler), asked(handler)
    given = [one.replace(annotation=hints[one.name]) for one in signature.parameters.values()]
    endpoint.__signature__ = signature.replace(parameters=given)  # pyright: ignore[reportAttributeAccessIssue]
    return endpoint


async def renew_session(request: Request, answer: Response) -> None:
    """What was asked for is done already: if this fails, the next call does it."""
    try:
        token = await service.accounts.renewed_session(request.cookies[COOKIE])
    except (*database.DRIVER_ERRORS, errors.Unauthenticated) as error:
        logger.warning("a session was not renewed: {}", type(error).__name__)
        return
    if token is not None:
        set_session(answer, token)


def recorded(handler: Handler, wants: Wants, about: str | None, *, console_only: bool) -> Handler:
    """Write down what an admin does: before it happens, and afterwards what came of it."""

    @functools.wraps(handler)
    async def endpoint(request: Request, **kwargs: Any) -> Response:
        who: Principal = request.state.principal
        if console_only and not (who.kind == "session" and who.has(Role.ADMIN)):
            return await handler(request=request, **kwargs)
        if getattr(kwargs.get("body"), "dry_run", False):  # it only looks
            return await handler(request=request, **kwargs)
        action = handler.__name__
        line = await actions.begin(service.db, await intent_of(request, who, action, wants, about))
        try:
            answer = await handler(request=request, **kwargs)
        except Exception as error:
            problem = problem_of(error)
            await actions.end(service.db, line, problem.status, problem.code)
            raise
        await actions.end(service.db, line, answer.status_code, None)
        return answer

    return endpoint


async def intent_of(
    request: Request, who: Principal, action: str, wants: Wants, about: str | None
) -> actions.Intent:
    """What a call is about to do, as it was sent: its checks have passed."""
    body = wants.body
    sent = {} if body is None else await json_value(request, optional=body.optional)
    target = next(iter(request.path_params.values()), sent.get(about))
    return actions.Intent(
        account=who.account,
        action=action,
        target=None if target is None else actions.target_of(target),
        detail=actions.detail_of(
            {**request.query_params, **sent}, personal=body is not None and body.model.personal
        ),
        request_id=edge.request_id(request.scope),
        address=request.client.host if request.client else "unknown",
    )


def problem_of(error: Exception) -> Problem:
    """What the caller is told of an exception."""
    if isinstance(error, Problem):
        return error
    known = isinstance(error, database.DRIVER_ERRORS)
    return errors.Unavailable() if known else errors.Internal()


def set_session(answer: Response, token: str) -> None:
    answer.set_cookie(
        COOKIE,
        token,
        max_age=auth.SESSION_S,
        path="/",
        secure=COOKIE.startswith("__Host-"),
        httponly=True,
        samesite="strict",
    )


def drop_session(answer: Response) -> None:
    answer.delete_cookie(
        COOKIE, path="/", secure=COOKIE.startswith("__Host-"), httponly=True, samesite="strict"
    )


# --- /auth ----------------------------------------------------------------------------


def tokens(pair: auth.Pair) -> Response:
    return reply(
        {
            "access_token": pair.access_token,
            "token_type": "bearer",
            "expires_in": pair.expires_in,
            "refresh_token": pair.refresh_token,
            "scope": pair.scope,
        }
    )


@account_route(
    "POST",
    "/auth/token",
    None,
    schemas.Tokens,
    limit="sign-in",
    problems=[errors.InvalidCredentials],
)
async def sign_in(
    request: Request, form: Annotated[schemas.SignInForm, Depends(Form(schemas.SignInForm))]
) -> Response:
    """Sign in with a password: an access token for 15 minutes, a refresh token for 30 days."""
    return tokens(await service.accounts.sign_in(form.username, form.password))


@account_route("POST", "/auth/refresh", None, schemas.Tokens, problems=[errors.InvalidCredentials])
async def refresh(request: Request, body: schemas.Refresh) -> Response:
    """A new pair for a refresh token. The same one again later than 10 s ends the family."""
    return tokens(await service.accounts.refresh(body.refresh_token))


@account_route("POST", "/auth/logout", SIGNED_IN, status=204)
async def sign_out(request: Request, who: Caller) -> Response:
    """End every token that grew from this sign-in."""
    await service.accounts.sign_out(who)
    await service.upkeep.look()
    return empty()


@account_route(
    "POST",
    "/auth/session",
    None,
    status=204,
    limit="sign-in",
    problems=[errors.InvalidCredentials, errors.BadOrigin],
)
async def open_session(
    request: Request, form: Annotated[schemas.SignIn, Depends(Form(schemas.SignIn, or_json=True))]
) -> Response:
    """Sign a page in: a cookie for 30 minutes, renewed by use up to 12 hours."""
    if request.headers.get("origin") is not None:
        demand_own_origin(request)
    answer = empty()
    set_session(answer, await service.accounts.open_session(form.username, form.password))
    return answer


@account_route("DELETE", "/auth/session", None, status=204, problems=[errors.BadOrigin])
async def close_session(request: Request) -> Response:
    """Sign a page out; a cookie that is over is just taken away."""
    who = None
    with contextlib.suppress(errors.Unauthenticated):
        who = await identify(request, ticket=False)
    if who is not None and who.kind == "session":
        await service.accounts.sign_out(who)
        await service.upkeep.look()
    answer = empty()
    drop_session(answer)
    return answer


@account_route(
    "POST",
    "/auth/register",
    None,
    schemas.Account,
    status=201,
    limit="register",
    problems=[errors.NotFound, errors.AccountExists, errors.CustomerExists],
)
async def register(request: Request, body: schemas.Register) -> Response:
    """Become a customer, with a customer id that nobody chooses."""
    if not SETTINGS.registration:
        raise errors.NotFound
    account = await service.accounts.register(body.username, body.password, body.email)
    return reply(schemas.account_shape(account), 201)


@account_route(
    "POST",
    "/auth/password",
    SIGNED_IN,
    status=204,
    limit="sign-in",
    problems=[errors.InvalidCredentials],
    audited=True,
)
async def change_password(request: Request, body: schemas.PasswordChange, who: Caller) -> Response:
    """A new password; every other sign-in of the account ends."""
    await service.accounts.change_password(who, body.current, body.new)
    await service.upkeep.look()
    return empty()


@account_route("GET", "/auth/me", SIGNED_IN, schemas.Me)
async def me(request: Request, who: Caller) -> Response:
    """The account behind the credential."""
    account = await service.accounts.find(who.account)
    if account is None:
        raise errors.Unauthenticated
    scope = " ".join(sorted(who.roles))
    expires = instants.stamp(who.expires_at)
    return reply({**schemas.account_shape(account), "scope": scope, "expires_at": expires})


# --- /accounts ------------------------------------------------------------------------


@account_route("GET", "/accounts", ADMIN, openapi.page(schemas.Account))
async def list_accounts(request: Request, query: schemas.AccountsQuery) -> Response:
    """Accounts by name."""
    found, cursor = await service.accounts.page(query.prefix, query.cursor, query.limit)
    return page_of(request, [schemas.account_shape(one) for one in found], cursor)


@account_route(
    "POST",
    "/accounts",
    ADMIN,
    schemas.Account,
    status=201,
    problems=[errors.AccountExists, errors.CustomerInactive],
    about="username",
)
async def create_account(request: Request, body: schemas.AccountIn) -> Response:
    """A new account."""
    made = await service.accounts.create(body.username, body.password, body.roles, body.customer)
    return reply(schemas.account_shape(made), 201)


@account_route(
    "PATCH",
    "/accounts/{username}",
    ADMIN,
    schemas.Account,
    problems=[errors.LastAdmin, errors.CustomerInactive],
)
async def update_account(
    request: Request, changes: Annotated[dict[str, Any], Depends(Patch(schemas.AccountPatch))]
) -> Response:
    """Change an account; what that changes ends its tokens."""
    account = await service.accounts.update(username_of(request), changes)
    await service.upkeep.look()
    return reply(schemas.account_shape(account))


# --- /queues --------------------------------------------------------------------------


def queue_answer(shape: dict[str, Any], status: int = 200, **headers: str) -> Response:
    return reply(shape, status, etag=shape["version"], headers=headers)


@queue_route("GET", "/queues", STAFF, openapi.page(schemas.Queue))
async def list_queues(request: Request, query: schemas.QueuesQuery) -> Response:
    """Queues by name, with exact counts."""
    found, cursor = await queues.page(service.db, query.prefix, query.cursor, query.limit)
    return page_of(request, found, cursor)


@queue_route(
    "POST",
    "/queues",
    ADMIN,
    schemas.Queue,
    status=201,
    problems=[errors.QueueExists],
    about="name",
)
async def create_queue(request: Request, body: schemas.QueueIn, who: Caller) -> Response:
    """A new queue."""
    settings = body.model_dump(exclude={"name"})
    change = await queues.create(service.db, body.name, settings, who.account)
    service.changed(change)
    return queue_answer(change.queue, 201, Location=f"{API}/queues/{body.name}")


@queue_route("GET", "/queues/{name}", STAFF, schemas.Queue)
async def get_queue(request: Request) -> Response:
    """A queue with its exact counts."""
    return queue_answer(await queues.get(service.db, queue_of(request)))


@queue_route("PATCH", "/queues/{name}", ADMIN, schemas.Queue)
async def update_queue(
    request: Request,
    changes: Annotated[dict[str, Any], Depends(Patch(schemas.QueueSettings))],
    match: IfMatch,
    who: Caller,
) -> Response:
    """Change the settings of a queue."""
    change = await queues.update(service.db, queue_of(request), changes, match, who.account)
    service.changed(change)
    return queue_answer(change.queue)


@queue_route(
    "DELETE",
    "/queues/{name}",
    ADMIN,
    status=204,
    limit="bulk",
    problems=[errors.QueueNotEmpty, errors.QueueProtected],
)
async def delete_queue(
    request: Request, query: schemas.DeleteQueueQuery, match: IfMatch, who: Caller
) -> Response:
    """Take a queue away; by force also with what is in it."""
    name = queue_of(request)
    change, _ = await queues.delete(service.db, name, match, who.account, force=query.force)
    service.changed(change)
    return empty()


@queue_route("POST", "/queues/{name}/pause", ADMIN, schemas.Queue)
async def pause_queue(request: Request, _: schemas.Nothing, who: Caller) -> Response:
    """Claims answer with nothing from now on; everything else goes on."""
    change = await queues.pause(service.db, queue_of(request), who.account)
    service.changed(change)
    return queue_answer(change.queue)


@queue_route("POST", "/queues/{name}/resume", ADMIN, schemas.Queue)
async def resume_queue(request: Request, _: schemas.Nothing, who: Caller) -> Response:
    """Claims are served again."""
    change = await queues.resume(service.db, queue_of(request), who.account)
    service.changed(change)
    return queue_answer(change.queue)


@queue_route("GET", "/stats", STAFF, schemas.Stats)
async def get_stats(request: Request) -> Response:
    """What happened in every queue, minute by minute, in the last hour."""
    return reply(await rates.of_all(service.db))


@queue_route("GET", "/queues/{name}/stats", STAFF, schemas.QueueStats)
async def get_queue_stats(request: Request, query: schemas.StatsQuery) -> Response:
    """What happened in a queue over an hour, a day or a week."""
    return reply(await rates.of_one(service.db, queue_of(request), query.span))


@queue_route("POST", "/queues/{name}/purge", ADMIN, schemas.Purged, limit="bulk")
async def purge_queue(request: Request, _: schemas.Nothing, who: Caller) -> Response:
    """Cancel what is pending; call again while something remains."""
    return reply(await upkeep.purge(service.db, service.writer, queue_of(request), who.account))


@queue_route("POST", "/queues/{name}/redrive", ADMIN, schemas.Redriven, limit="bulk")
async def redrive_queue(request: Request, body: schemas.Redrive, who: Caller) -> Response:
    """Put dead letters back to pending, oldest first; call again while something remains."""
    done = await upkeep.redrive(
        service.db,
        service.writer,
        queue_of(request),
        body.model_dump(exclude={"limit", "dry_run"}),
        body.limit,
        who.account,
        dry_run=body.dry_run,
    )
    return reply(done)


@queue_route("GET", "/queues/{name}/failures", LOOKERS, schemas.Failures)
async def list_failures(request: Request) -> Response:
    """The dead letters of a queue by error, most first."""
    name = queue_of(request)
    async with service.db.read() as session:
        found = await queues.failures(session, await queues.live_id(session, name))
    return reply({"items": found})


# --- /messages: producers -------------------------------------------------------------


def tracking(message: Mapping[str, Any], who: Principal) -> dict[str, str]:
    """A link for the customer: the same for every replay of the same post."""
    created = instants.parse(message["created_at"])
    expires = (created + SETTINGS.tracking_days * instants.DAY) // 1000 * 1000
    order = message["id"]
    ticket = service.signer.issue_ticket(
        who.account,
        who.ticket_generation,
        [f"order:{order}"],
        expires,
        16,
        service.signer.nonce(order),
    )
    return {
        "url": f"{SETTINGS.public_url}/track/{order}?ticket={ticket}",
        "ticket": ticket,
        "expires_at": instants.stamp(expires),
    }


def one_key(header: str | None, field: str | None) -> str | None:
    if header is not None and field is not None and header != field:
        text = "The header Idempotency-Key says something else."
        raise errors.Invalid.at(text, pointer="#/idempotency_key")
    return header or field


def posted_answer(shape: dict[str, Any], location: str, *, replayed: bool) -> Response:
    """What was made, now or by an earlier call with its key."""
    headers = {"Location": location}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return reply(shape, 200 if replayed else 201, etag=1, headers=headers)


@message_route(
    "POST",
    "/queues/{name}/messages",
    PRODUCERS,
    schemas.MessagePosted,
    status=201,
    limit="write",
    problems=[
        errors.IdempotencyInProgress,
        errors.IdempotencyKeyReused,
        errors.NotOnSale,
        errors.OutOfStock,
    ],
    audited=True,
)
async def enqueue(request: Request, purchase: schemas.Purchase, key: Key, who: Caller) -> Response:
    """Post a purchase. The same idempotency key again answers as the first time."""
    key = one_key(key, purchase.idempotency_key)
    command = moves.Enqueue(queue_of(request), purchase, who.account, key)
    posted: moves.Posted = await service.writer.do(command)
    message = {**posted.shape, "tracking": tracking(posted.shape, who)}
    return posted_answer(message, f"{API}/messages/{message['id']}", replayed=posted.replayed)


@message_route(
    "POST",
    "/queues/{name}/messages/batch",
    PRODUCERS,
    schemas.Results,
    limit="write",
    problems=[errors.BadHeader],
    audited=True,
)
async def enqueue_batch(request: Request, body: schemas.PurchaseBatch, who: Caller) -> Response:
    """Post up to 1,000 purchases; each stands or falls alone."""
    if request.headers.get("idempotency-key") is not None:
        text = "In a batch each purchase has a key of its own."
        raise errors.BadHeader(text, errors=[{"detail": text, "header": "Idempotency-Key"}])
    name = queue_of(request)

    def command(item: Any) -> moves.Command:
        purchase = checked(schemas.Purchase, item)
        return moves.Enqueue(name, purchase, who.account, purchase.idempotency_key)

    outcomes = await do_each(body.messages, command)
    missing = next((one for one in outcomes if isinstance(one, moves.QueueUnknown)), None)
    if missing is not None:
        raise missing
    if all(isinstance(one, Problem) for one in outcomes):
        await queues.get(service.db, name)  # nothing went to the queue: is there one?
    shapes = [
        one
        if isinstance(one, Problem)
        else {"status": 200 if one.replayed else 201, "id": one.shape["id"]}
        for one in outcomes
    ]
    return reply(results_shape(results(request, shapes)))


ITEM_BYTES = 64 * 1024


async def do_each(items: Sequence[Any], command: Callable[[Any], moves.Command]) -> list[Any]:
    """Have many done: a wrong item refuses itself alone."""
    outcomes: list[Any] = []
    wanted: list[tuple[int, moves.Command]] = []
    for place, item in enumerate(items):
        try:
            if len(to_json(item)) > ITEM_BYTES:
                raise errors.TooLarge("An item is larger than 64 KiB.")
            wanted.append((place, command(item)))
            outcomes.append(None)
        except Problem as problem:
            outcomes.append(problem)
    answers = await service.writer.do_many([one for _, one in wanted])
    for (place, _), answer in zip(wanted, answers, strict=True):
        outcomes[place] = answer
    return outcomes


async def messages_page(
    request: Request, query: schemas.MessagesQuery, name: str | None
) -> Response:
    filters = query.filters()
    marks = {**filters, "queue": name}
    before = schemas.read_cursor(query.cursor, marks, schemas.ORDER_ID)
    async with service.db.snapshot() as session:
        queue_id = None if name is None else await queues.live_id(session, name)
        found = await queues.list_messages(session, queue_id, filters, before, query.limit + 1)
    shown = [moves.message_shape(row, queue) for row, queue in found[: query.limit]]
    more = len(found) > query.limit
    return page_of(request, shown, schemas.make_cursor(shown[-1]["id"], marks) if more else None)


@message_route("GET", "/queues/{name}/messages", LOOKERS, openapi.page(schemas.Message))
async def list_queue_messages(request: Request, query: schemas.MessagesQuery) -> Response:
    """Look at the messages of a queue, newest first; it never leases."""
    return await messages_page(request, query, queue_of(request))


@message_route("GET", "/messages", LOOKERS, openapi.page(schemas.Message))
async def list_messages(request: Request, query: schemas.MessagesQuery) -> Response:
    """Look at the messages of all queues, newest first."""
    return await messages_page(request, query, None)


@message_route("GET", "/messages/{id}", STAFF, schemas.Message)
async def get_message(request: Request) -> Response:
    """One message."""
    message_id = message_id_of(request)
    async with service.db.read() as session:
        row, queue = await queues.find(session, message_id)
    return reply(moves.message_shape(row, queue), etag=row.version)


async def history_page(
    request: Request, message_id: str, query: schemas.PageQuery, *, staff: bool
) -> Response:
    after = int(schemas.read_cursor(query.cursor, {"of": message_id}, schemas.NUMBER) or 0)
    async with service.db.read() as session:
        rows = await events.history(session, message_id, after, query.limit + 1)
    epoch = service.hub.epoch
    items = [events.history_item(epoch, row, staff=staff) for row in rows[: query.limit]]
    cursor = None
    if len(rows) > query.limit:
        cursor = schemas.make_cursor(str(rows[query.limit - 1]["seq"]), {"of": message_id})
    return page_of(request, items, cursor)


@message_route("GET", "/messages/{id}/history", STAFF, openapi.page(schemas.StaffHistoryItem))
async def get_message_history(request: Request, query: schemas.PageQuery) -> Response:
    """Every step of a message, with who, which worker and which error."""
    message_id = message_id_of(request)
    async with service.db.read() as session:
        await queues.find(session, message_id)
    return await history_page(request, message_id, query, staff=True)


@message_route(
    "POST",
    "/messages/{id}/cancel",
    PRODUCERS,
    schemas.Message,
    limit="write",
    problems=[errors.IllegalTransition],
    audited=True,
)
async def cancel_message(
    request: Request, body: schemas.Cancel, match: IfMatch, who: Caller
) -> Response:
    """Cancel; a message in work is only asked to end, which is 202."""
    command = moves.Cancel(message_id_of(request), who.account, match, reason=body.reason)
    message, done = await service.writer.do(command)
    return reply(message, 200 if done else 202, etag=message["version"])


@message_route(
    "POST",
    "/messages/{id}/retry",
    ADMIN,
    schemas.Message,
    limit="write",
    problems=[errors.IllegalTransition, errors.OutOfStock],
)
async def retry_message(
    request: Request, _: schemas.Nothing, match: IfMatch, who: Caller
) -> Response:
    """Back to pending: what failed, was cancelled or expired."""
    message = await service.writer.do(moves.Retry(message_id_of(request), who.account, match))
    return reply(message, etag=message["version"])


# --- /messages: workers ---------------------------------------------------------------


@contextlib.asynccontextmanager
async def watch_line(request: Request) -> AsyncIterator[asyncio.Event]:
    """An event that is set when the caller has gone."""
    gone = asyncio.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        gone.set()

    task = asyncio.create_task(watch())
    try:
        yield gone
    finally:
        task.cancel()


@message_route("POST", "/queues/{name}/claim", WORKERS, schemas.Claimed, limit="write")
async def claim(request: Request, body: schemas.Claim, who: Caller) -> Response:
    """Lease up to 100 messages, waiting up to 20 s for the first."""
    changes = service.accounts.changes
    async with watch_line(request) as gone:
        command = moves.Claim(
            queue_of(request),
            body.max,
            body.lease_seconds,
            body.worker or who.account,
            who.account,
            lambda: gone.is_set() or service.draining,  # who waits is not kept until cut off
        )
        found = await upkeep.claim(service.writer, service.hub, command, body.wait_seconds)
        ended = changes != service.accounts.changes and await has_ended(request)
        if gone.is_set() or ended:
            # Nobody is there to work on them, or he may not any more.
            back = [moves.Release(one["id"], one["receipt"], who.account) for one in found]
            await service.writer.do_many(back)
            found = []
    if ended:
        raise errors.Unauthenticated
    return reply({"messages": found})


Settled = (errors.LeaseLost, errors.Overloaded)


def ack_of(message_id: str, body: schemas.Ack, who: Principal) -> moves.Command:
    return moves.Ack(
        message_id, body.receipt, who.account, result=body.result, forward_to=body.forward_to
    )


def nack_of(message_id: str, body: schemas.Nack, who: Principal) -> moves.Command:
    return moves.Nack(
        message_id,
        body.receipt,
        who.account,
        error=body.error,
        delay_seconds=body.delay_seconds,
        retry=body.retry,
    )


def release_of(message_id: str, body: schemas.Release, who: Principal) -> moves.Command:
    return moves.Release(message_id, body.receipt, who.account)


def extend_of(message_id: str, body: schemas.Extend, who: Principal) -> moves.Command:
    return moves.Extend(message_id, body.receipt, who.account, lease_seconds=body.lease_seconds)


async def settle(request: Request, make: Callable[..., moves.Command], *args: Any) -> Response:
    return reply(await service.writer.do(make(message_id_of(request), *args)))


async def settle_many(
    request: Request,
    items: Sequence[Any],
    model: type[schemas.Body],
    make: Callable[..., moves.Command],
    who: Principal,
) -> Response:
    """The same for many: each item names its message."""
    extends = model is schemas.ExtendItem

    def command(item: Any) -> moves.Command:
        body = checked(model, item)
        if schemas.ORDER_ID.fullmatch(body.id) is None:
            raise errors.NotFound("There is no such message.")
        return make(body.id, body, who)

    outcomes = await do_each(items, command)
    shapes = results(
        request,
        [one if isinstance(one, Problem) else (one if extends else {}) for one in outcomes],
    )
    for shape, item in zip(shapes, items, strict=True):
        named = item.get("id") if isinstance(item, dict) else None
        shape["id"] = named if isinstance(named, str) else None
        if extends:
            shape.setdefault("lease_expires_at", None)
            shape.setdefault("cancel_requested", None)
    return reply(results_shape(shapes))


@message_route("POST", "/messages/ack", WORKERS, schemas.Results, limit="write")
async def ack_many(request: Request, body: schemas.Acks, who: Caller) -> Response:
    """Ack up to 1,000 messages."""
    return await settle_many(request, body.acks, schemas.AckItem, ack_of, who)


@message_route("POST", "/messages/nack", WORKERS, schemas.Results, limit="write")
async def nack_many(request: Request, body: schemas.Nacks, who: Caller) -> Response:
    """Nack up to 1,000 messages."""
    return await settle_many(request, body.nacks, schemas.NackItem, nack_of, who)


@message_route("POST", "/messages/release", WORKERS, schemas.Results, limit="write")
async def release_many(request: Request, body: schemas.Releases, who: Caller) -> Response:
    """Release up to 1,000 messages."""
    return await settle_many(request, body.releases, schemas.ReleaseItem, release_of, who)


@message_route("POST", "/messages/extend", WORKERS, schemas.ExtendResults, limit="write")
async def extend_many(request: Request, body: schemas.Extends, who: Caller) -> Response:
    """Extend up to 1,000 leases."""
    return await settle_many(request, body.extends, schemas.ExtendItem, extend_of, who)


@message_route(
    "POST", "/messages/{id}/ack", WORKERS, schemas.Settled, limit="write", problems=Settled
)
async def ack(request: Request, body: schemas.Ack, who: Caller) -> Response:
    """Done; or done here, and on to the next queue."""
    return await settle(request, ack_of, body, who)


@message_route(
    "POST", "/messages/{id}/nack", WORKERS, schemas.Settled, limit="write", problems=Settled
)
async def nack(request: Request, body: schemas.Nack, who: Caller) -> Response:
    """It failed: again after a backoff, or a dead letter."""
    return await settle(request, nack_of, body, who)


@message_route(
    "POST", "/messages/{id}/release", WORKERS, schemas.Settled, limit="write", problems=Settled
)
async def release(request: Request, body: schemas.Release, who: Caller) -> Response:
    """Give a message back untouched; no attempt is counted."""
    return await settle(request, release_of, body, who)


@message_route(
    "POST", "/messages/{id}/extend", WORKERS, schemas.Extended, limit="write", problems=Settled
)
async def extend(request: Request, body: schemas.Extend, who: Caller) -> Response:
    """Keep the lease for longer, counted from now."""
    return await settle(request, extend_of, body, who)


# --- /orders --------------------------------------------------------------------------


def buyer(body: schemas.OrderIn, who: Principal) -> str:
    """Whose an order is: staff say it, a customer orders for himself.

    Raises:
        Forbidden: nobody's.
        Invalid: said by a customer, or not said by staff.
    """
    if who.has(*PRODUCERS):
        if body.customer is None:
            raise errors.Invalid.at("Staff say whose it is.", pointer="#/customer")
        return body.customer
    own = own_id(who)
    if body.customer is not None:
        raise errors.Invalid.at("A customer orders for himself.", pointer="#/customer")
    return own


def own_id(who: Principal) -> str:
    """
    Raises:
        Forbidden: the account is no customer's.
    """
    if who.customer is None:
        raise errors.Forbidden("This account has no customer id.")
    return who.customer


Refused = (
    errors.CustomerInactive,
    errors.IdempotencyInProgress,
    errors.IdempotencyKeyReused,
    errors.NotOnSale,
    errors.OutOfStock,
    errors.VersionMismatch,
)


@order_route(
    "POST",
    "/orders",
    BUYERS,
    schemas.OrderPosted,
    status=201,
    limit="write",
    problems=Refused,
    audited=True,
)
async def place_order(request: Request, body: schemas.OrderIn, key: Key, who: Caller) -> Response:
    """Order at the catalogue's prices. The same idempotency key again answers as the first time."""
    purchase = body.purchase(buyer(body, who))
    ttl = order_ttl(who)
    command = moves.PlaceOrder(
        queues.PROTECTED,
        purchase,
        who.account,
        key,
        ttl_seconds=ttl,
        seen_cents=body.total_cents,
    )
    return await ordered(command, who)


def order_ttl(who: Principal) -> int:
    return 0 if who.has(*PRODUCERS) else SETTINGS.order_ttl_seconds


async def ordered(command: moves.PlaceOrder, who: Principal) -> Response:
    posted: moves.Posted = await service.writer.do(command)
    order = {**moves.order_shape(posted.shape), "tracking": tracking(posted.shape, who)}
    return posted_answer(order, f"{API}/orders/{order['id']}", replayed=posted.replayed)


@order_route(
    "GET", "/orders", ORDER_READERS, openapi.page(schemas.Order), problems=[errors.NotFound]
)
async def list_orders(request: Request, query: schemas.OrdersQuery, who: Caller) -> Response:
    """Orders, newest first; a customer sees his own."""
    filters = query.filters()
    if not who.has(*LOOKERS):
        own = who.customer or ""
        if filters.setdefault("customer", own) != own:
            raise errors.NotFound
    return await orders_page(request, query, filters)


async def orders_page(
    request: Request, query: schemas.PageQuery, filters: Mapping[str, Any]
) -> Response:
    before = schemas.read_cursor(query.cursor, filters, schemas.ORDER_ID)
    async with service.db.snapshot() as session:
        found = await queues.list_messages(session, None, filters, before, query.limit + 1)
        shown = await service.line.shapes(session, found[: query.limit])
    more = len(found) > query.limit
    return page_of(request, shown, schemas.make_cursor(shown[-1]["id"], filters) if more else None)


@order_route(
    "GET", "/orders/{id}", ORDER_READERS, schemas.Order, ticket=True, query=schemas.TicketQuery
)
async def get_order(request: Request, who: Caller) -> Response:
    """An order as its customer sees it, with its place in the line."""
    order = message_id_of(request)
    async with service.db.snapshot() as session:
        found = await queues.find(session, order)
        auth.may_read_order(who, found[0].customer, order).demand()
        (shape,) = await service.line.shapes(session, [found])
    return reply(shape, etag=shape["version"])


@order_route(
    "GET", "/orders/{id}/history", ORDER_READERS, openapi.page(schemas.HistoryItem), ticket=True
)
async def get_order_history(
    request: Request, query: schemas.TicketPageQuery, who: Caller
) -> Response:
    """Every step of an order."""
    order = message_id_of(request)
    async with service.db.read() as session:
        row, _ = await queues.find(session, order)
    auth.may_read_order(who, row.customer, order).demand()
    return await history_page(request, order, query, staff=False)


@order_route(
    "POST",
    "/orders/{id}/cancel",
    BUYERS,
    schemas.Order,
    limit="write",
    problems=[errors.IllegalTransition],
    audited=True,
)
async def cancel_order(
    request: Request, body: schemas.Cancel, match: IfMatch, who: Caller
) -> Response:
    """Cancel; an order in work is only asked to end, which is 202."""
    own = None if who.has(Role.ADMIN, Role.PRODUCER) else (who.customer or "")
    command = moves.Cancel(message_id_of(request), who.account, match, own, body.reason)
    message, done = await service.writer.do(command)
    order = moves.order_shape(message)
    return reply(order, 200 if done else 202, etag=order["version"])


# --- /cart ----------------------------------------------------------------------------


def cart_answer(shape: dict[str, Any]) -> Response:
    return reply(shape, etag=shape["version"])


cart_change = functools.partial(cart_route, limit="write", problems=[errors.CustomerInactive])


@cart_route("GET", "/cart", SHOPPERS, schemas.Cart)
async def get_cart(request: Request, who: Caller) -> Response:
    """What lies in the caller's cart, at the prices of now."""
    return cart_answer(await carts.get(service.db, own_id(who)))


@cart_change("PUT", "/cart/items/{sku}", SHOPPERS, schemas.Cart)
async def put_in_cart(
    request: Request, body: schemas.CartQuantity, match: IfMatch, who: Caller
) -> Response:
    """Have so many of a product in the cart; the same again changes nothing."""
    own, sku = own_id(who), sku_of(request)
    return cart_answer(await carts.put(service.db, own, sku, body.quantity, match))


@cart_change("DELETE", "/cart/items/{sku}", SHOPPERS, schemas.Cart)
async def drop_from_cart(request: Request, match: IfMatch, who: Caller) -> Response:
    """Take a line out of the cart; the same again changes nothing."""
    return cart_answer(await carts.drop(service.db, own_id(who), sku_of(request), match))


@cart_change("DELETE", "/cart", SHOPPERS, schemas.Cart)
async def empty_cart(request: Request, match: IfMatch, who: Caller) -> Response:
    """Take everything out of the cart."""
    return cart_answer(await carts.drop(service.db, own_id(who), None, match))


@cart_route(
    "POST",
    "/cart/checkout",
    SHOPPERS,
    schemas.OrderPosted,
    status=201,
    limit="write",
    problems=Refused,
)
async def check_out(
    request: Request, body: schemas.CheckoutIn, key: Key, match: IfMatch, who: Caller
) -> Response:
    """Buy what lies in the cart, all of it as one order, and have the cart empty."""
    command = moves.Checkout.of(
        own_id(who),
        body.reference,
        queue=queues.PROTECTED,
        account=who.account,
        key=key,
        ttl_seconds=order_ttl(who),
        seen_cents=body.total_cents,
        if_match=match,
    )
    return await ordered(command, who)


# --- /products ------------------------------------------------------------------------


def sees_levels(who: Principal | None) -> bool:
    """Whether somebody sees what is on hand and reserved, not only what can be bought."""
    return who is not None and who.kind != "ticket" and who.staff


shown_route = functools.partial(
    product_route, ticket=SETTINGS.public_stock, optional=SETTINGS.public_stock
)


@shown_route("GET", "/products", SIGNED_IN, openapi.page(schemas.Product))
async def list_products(
    request: Request, query: schemas.ProductsQuery, who: MaybeCaller
) -> Response:
    """Products by SKU."""
    found, cursor = await catalogue.page(
        service.db, query.filters(), query.cursor, query.limit, staff=sees_levels(who)
    )
    return page_of(request, found, cursor)


@product_route(
    "POST",
    "/products",
    ADMIN,
    schemas.Product,
    status=201,
    limit="write",
    problems=[errors.ProductExists],
    about="sku",
)
async def create_product(request: Request, body: schemas.ProductIn) -> Response:
    """A new product."""
    made = await catalogue.create(service.db, body)
    place = {"Location": f"{API}/products/{body.sku}"}
    return reply(made, 201, etag=made["version"], headers=place)


@shown_route("GET", "/products/{sku}", SIGNED_IN, schemas.Product, query=schemas.TicketQuery)
async def get_product(request: Request, who: MaybeCaller) -> Response:
    """A product, with how many there are where it is counted."""
    found = await catalogue.get(service.db, sku_of(request), staff=sees_levels(who))
    return reply(found, etag=found["version"])


@product_route(
    "PATCH",
    "/products/{sku}",
    ADMIN,
    schemas.Product,
    limit="write",
    problems=[errors.BelowReserved],
)
async def update_product(
    request: Request,
    changes: Annotated[dict[str, Any], Depends(Patch(schemas.ProductPatch))],
    match: IfMatch,
) -> Response:
    """Change a product; purchases that were accepted keep their prices."""
    changed = await catalogue.update(service.db, sku_of(request), changes, match)
    return reply(changed, etag=changed["version"])


@product_route(
    "DELETE",
    "/products/{sku}",
    ADMIN,
    status=204,
    limit="write",
    problems=[errors.BelowReserved],
)
async def delete_product(request: Request, match: IfMatch) -> Response:
    """Take a product off sale; it stays, inactive."""
    await catalogue.delete(service.db, sku_of(request), match)
    return empty()


@shown_route("GET", "/products/{sku}/stock", SIGNED_IN, schemas.Stock, query=schemas.TicketQuery)
async def get_stock(request: Request, who: MaybeCaller) -> Response:
    """How many there are."""
    sku, staff = sku_of(request), sees_levels(who)
    if not staff:
        await catalogue.refuse_hidden(service.db, sku)
    return reply(stock.stock_shape(await stock.get(service.db, sku), staff=staff))


@product_route("PATCH", "/products/{sku}/stock", ADMIN, schemas.Stock, limit="write")
async def update_stock(
    request: Request, changes: Annotated[dict[str, Any], Depends(Patch(schemas.StockPatch))]
) -> Response:
    """From where on it is low."""
    sku = sku_of(request)
    if "low_at" not in changes:
        return reply(stock.stock_shape(await stock.get(service.db, sku), staff=True))
    return reply(await service.writer.do(moves.SetLow(sku, changes["low_at"])))


@product_route(
    "POST",
    "/products/{sku}/stock/receive",
    ADMIN,
    schemas.Stock,
    limit="write",
    problems=[errors.IdempotencyInProgress, errors.IdempotencyKeyReused],
)
async def receive_stock(request: Request, body: schemas.Receive, key: Key, who: Caller) -> Response:
    """More of it has come; the first time it makes the product counted."""
    command = moves.Receive(
        sku_of(request),
        body.quantity,
        who.account,
        body.reason,
        body.reference,
        key,
        "" if key is None else body.fingerprint(),
    )
    done: moves.Posted = await service.writer.do(command)
    return reply(done.shape, headers={"Idempotent-Replayed": "true"} if done.replayed else {})


@product_route(
    "POST",
    "/products/{sku}/stock/adjust",
    ADMIN,
    schemas.Stock,
    limit="write",
    problems=[errors.BelowReserved, errors.VersionMismatch],
)
async def adjust_stock(request: Request, body: schemas.Adjust, who: Caller) -> Response:
    """What was counted is true now, if nothing moved since."""
    command = moves.Adjust(
        sku_of(request), body.on_hand, body.expected_on_hand, body.reason, who.account
    )
    return reply(await service.writer.do(command))


@product_route(
    "GET", "/products/{sku}/stock/movements", READERS, openapi.page(schemas.StockMovement)
)
async def list_movements(request: Request, query: schemas.MovementsQuery) -> Response:
    """The ledger of what is on hand, oldest first."""
    newest = query.sort == "newest"
    found, cursor = await stock.movements(
        service.db, sku_of(request), query.cursor, query.limit, newest=newest
    )
    return page_of(request, found, cursor)


@product_route("GET", "/stock", READERS, openapi.page(schemas.StockItem))
async def list_stock(request: Request, query: schemas.StockQuery) -> Response:
    """All that is sold or counted, by SKU."""
    found, cursor = await catalogue.items(
        service.db, query.q, query.state, query.cursor, query.limit
    )
    return page_of(request, found, cursor)


# --- /customers -----------------------------------------------------------------------


def own_customer(request: Request, who: Principal, others: frozenset[Role]) -> str:
    """The customer of the path: the caller himself, or anybody for some roles.

    Raises:
        NotFound: not him.
    """
    customer = customer_of(request)
    if not who.has(*others) and not who.owns(customer):
        raise errors.NotFound
    return customer


def customer_answer(shape: dict[str, Any], status: int = 200, **headers: str) -> Response:
    return reply(shape, status, etag=shape["version"], headers=headers)


@customer_route("GET", "/customers", LOOKERS, openapi.page(schemas.Customer))
async def list_customers(request: Request, query: schemas.CustomersQuery) -> Response:
    """Customers, newest first; who was erased is in no list."""
    found, cursor = await customers.page(service.db, query.filters(), query.cursor, query.limit)
    return page_of(request, found, cursor)


@customer_route(
    "POST",
    "/customers",
    PRODUCERS,
    schemas.Customer,
    status=201,
    limit="write",
    problems=[errors.CustomerExists],
    audited=True,
)
async def create_customer(request: Request, body: schemas.CustomerIn) -> Response:
    """A new customer, with an id that nobody chooses."""
    made = await customers.add(service.db, body.model_dump())
    return customer_answer(made, 201, Location=f"{API}/customers/{made['id']}")


@customer_route("GET", "/customers/count", LOOKERS, schemas.CustomerCount)
async def count_customers(request: Request, query: schemas.CustomersCountQuery) -> Response:
    """How many there are, without those who were erased: exact, and at any number as fast."""
    return reply({"count": await customers.count(service.db, query.active)})


@customer_route("GET", "/customers/{customer}", ORDER_READERS, schemas.Customer)
async def get_customer(request: Request, who: Caller) -> Response:
    """A customer."""
    return customer_answer(await customers.get(service.db, own_customer(request, who, LOOKERS)))


@customer_route(
    "PATCH",
    "/customers/{customer}",
    BUYERS,
    schemas.Customer,
    limit="write",
    problems=[errors.CustomerExists, errors.CustomerInactive],
    audited=True,
)
async def update_customer(
    request: Request,
    changes: Annotated[dict[str, Any], Depends(Patch(schemas.CustomerIn))],
    match: IfMatch,
    who: Caller,
) -> Response:
    """Change what is personal."""
    customer = own_customer(request, who, PRODUCERS)
    return customer_answer(await customers.update(service.db, customer, changes, match))


@customer_route("POST", "/customers/{customer}/deactivate", ADMIN, schemas.Customer, limit="write")
async def deactivate_customer(request: Request, _: schemas.Nothing) -> Response:
    """No orders of his are taken from now on."""
    changed = await customers.activate(service.db, customer_of(request), active=False)
    return customer_answer(changed)


@customer_route(
    "POST",
    "/customers/{customer}/activate",
    ADMIN,
    schemas.Customer,
    limit="write",
    problems=[errors.CustomerInactive],
)
async def activate_customer(request: Request, _: schemas.Nothing) -> Response:
    """His orders are taken again."""
    changed = await customers.activate(service.db, customer_of(request), active=True)
    return customer_answer(changed)


@customer_route(
    "POST",
    "/customers/{customer}/erase",
    ADMIN,
    schemas.Customer,
    limit="write",
    problems=[errors.LastAdmin],
)
async def erase_customer(request: Request, _: schemas.Nothing) -> Response:
    """Forget all but the id, for ever; his accounts end."""
    erased = await service.accounts.erase_customer(customer_of(request))
    await service.upkeep.look()
    return customer_answer(erased)


@customer_route("GET", "/customers/{customer}/orders", ORDER_READERS, openapi.page(schemas.Order))
async def list_customer_orders(
    request: Request, query: schemas.CustomerOrdersQuery, who: Caller
) -> Response:
    """His orders, newest first."""
    filters = {**query.filters(), "customer": own_customer(request, who, LOOKERS)}
    return await orders_page(request, query, filters)


@customer_route("GET", "/customers/{customer}/favourites", BUYERS, openapi.page(schemas.Favourite))
async def list_favourites(request: Request, query: schemas.PageQuery, who: Caller) -> Response:
    """His favourites by SKU, with their stock."""
    customer = own_customer(request, who, PRODUCERS)
    found, cursor = await favourites.page(service.db, customer, query.cursor, query.limit)
    return page_of(request, found, cursor)


@customer_route(
    "PUT",
    "/customers/{customer}/favourites/{sku}",
    BUYERS,
    schemas.Favourite,
    limit="write",
    problems=[errors.CustomerInactive],
)
async def keep_favourite(request: Request, _: schemas.Nothing, who: Caller) -> Response:
    """Make a product a favourite; the same again changes nothing."""
    customer = own_customer(request, who, PRODUCERS)
    shape, change = await favourites.keep(service.db, customer, sku_of(request))
    if change is not None:
        service.committed(change.appended, [change.event])
    return reply(shape)


@customer_route(
    "DELETE",
    "/customers/{customer}/favourites/{sku}",
    BUYERS,
    status=204,
    limit="write",
    problems=[errors.CustomerInactive],
)
async def drop_favourite(request: Request, who: Caller) -> Response:
    """Make a product no favourite; the same again changes nothing."""
    customer = own_customer(request, who, PRODUCERS)
    change = await favourites.drop(service.db, customer, sku_of(request))
    if change is not None:
        service.committed(change.appended, [change.event])
    return empty()


# --- /events --------------------------------------------------------------------------


async def nothing() -> AsyncIterator[bytes]:
    """The hub writes; the library's own iterator has nothing to give."""
    return
    yield b""


class Stream(EventSourceResponse):
    """sse-starlette's protocol (headers, HEAD, disconnect, shutdown) with the hub's bytes.

    A server that lends its line is left alone with it: then a stream has no task.
    """

    def __init__(self, subscriber: hubs.Subscriber) -> None:
        grace = SETTINGS.drain_seconds + GOODBYE_SECONDS
        super().__init__(nothing(), ping=0, sep="\n", shutdown_grace_period=grace)
        self._subscriber = subscriber

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extension = scope.get("extensions", {}).get(outlets.EXTENSION)
        if extension is None or scope["method"] == "HEAD":
            try:
                await super().__call__(scope, receive, send)
            finally:
                self._subscriber.drop("gone")
        else:
            await self._borrow(send, extension["lend"])

    async def _borrow(self, send: Send, lend: Callable[[], hubs.Outlet | None]) -> None:
        outlet = None
        try:
            await self._start(send)
            outlet = lend()
        finally:
            if outlet is None:
                self._subscriber.drop("gone")
        if outlet is not None:
            self._subscriber.begin(outlet)

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _stream_response(self, send: Send) -> None:
        await self._start(send)
        outlet = outlets.Sent()
        self._subscriber.begin(outlet)
        await outlet.run(send)
        self.active = False
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def wants_stream(request: Request) -> bool:
    return request.url.path == f"{API}/events" and "text/event-stream" in request.headers.get(
        "accept", ""
    )


def farewell(problem: Problem) -> Response:
    """A stream that only says goodbye: at any status but 200 an EventSource gives up for good."""
    reason = "too_many_streams" if problem.code == "too_many_streams" else "overloaded"
    wait = secrets.randbelow(5_000) + 5_000
    return Response(hubs.goodbye(reason, wait), 200, None, "text/event-stream")


async def authorised(topics: Sequence[str], who: Principal | None) -> frozenset[str]:
    """The topics of a call, each allowed.

    Raises:
        Invalid: a malformed topic, or none.
        NotFound, Forbidden, Unauthenticated: one bad topic refuses all.
    """
    if not topics and who is not None and who.kind == "ticket":
        return who.topics
    if not topics:
        raise errors.Invalid(errors=[{"detail": "at least one", "parameter": "topic"}])
    parsed = [auth.parse_topic(topic) for topic in topics]
    orders = [name for kind, name in parsed if kind == "order"]
    owners: dict[str, str] = {}
    if orders:
        async with service.db.read() as session:
            owners = await queues.customers_of(session, orders)
    for topic, (kind, name) in zip(topics, parsed, strict=True):
        customer = owners.get(name) if kind == "order" else None
        auth.may_follow(
            who, topic, order_customer=customer, public_stock=SETTINGS.public_stock
        ).demand()
    for kind, name in parsed:
        if kind == "queue" and not (who is not None and who.kind == "ticket"):
            await queues.get(service.db, name)
    return auth.followed(who, topics)


async def start_of(request: Request, query: schemas.EventsQuery) -> Start:
    """Where a stream begins: `Last-Event-ID`, `last_event_id`, else a snapshot or `since`."""
    resume = request.headers.get("last-event-id") or query.last_event_id
    if resume:
        return Start.resume(resume)
    if query.snapshot:
        return Start.snapshot()
    if query.since in (None, "now"):
        return Start.now()
    return Start.after(service.hub.epoch, await since(query.since or ""))


async def since(text: str) -> int:
    """The number after which everything since a time (or `earliest`) follows."""
    async with service.db.read() as session:
        if text == "earliest":
            return (await events.look(session)).floor
        return await events.first_since(session, instants.parse(text))


async def greet(topics: frozenset[str]) -> list[bytes]:
    """The control frames that a stream begins with."""
    frames = await upkeep.counts_frames(service.db, None) if "queues" in topics else []
    return [*frames, *service.line.greet(topics)]


def chooser(topics: frozenset[str]) -> hubs.ReadTopics | None:
    """What reads the topics again, where they are not always the same."""
    if any(auth.is_favourites(topic) for topic in topics):
        return functools.partial(favourites.topics, service.db, topics)
    return None


@event_route(
    "GET",
    "/events",
    SIGNED_IN,
    "text/event-stream",
    limit="stream",
    ticket=True,
    optional=SETTINGS.public_stock,
    problems=[errors.NotFound, errors.TooManyStreams],
)
async def stream_events(request: Request, query: schemas.EventsQuery, who: MaybeCaller) -> Response:
    """Server-sent events of 1 to 64 topics, from a cursor or from now, without a hole."""
    topics = await authorised(query.topic, who)
    start = await start_of(request, query)
    await demand_still(request)  # nothing is awaited from here to the subscription
    owner = Owner(who, request.client.host if request.client else "unknown")
    service.streams.admit(owner)
    try:
        greeting = snapshot = None
        if query.snapshot:
            snapshot = functools.partial(snapshots.read, service.db, topics, service.line.shapes)
        if any(topic == "queues" or topic.startswith("order:") for topic in topics):
            greeting = functools.partial(greet, topics)
        subscriber = service.hub.subscribe(
            topics,
            start,
            choose=chooser(topics),
            coalesce=query.coalesce == "latest",
            gone=functools.partial(service.streams.leave, owner),
            owner=owner,
            expires_at=None if who is None else who.expires_at,
            snapshot=snapshot,
            greeting=greeting,
        )
    except BaseException:
        service.streams.leave(owner, "broken")
        raise
    return Stream(subscriber)


@event_route(
    "GET",
    "/events/history",
    SIGNED_IN,
    schemas.EventPage,
    ticket=True,
    optional=SETTINGS.public_stock,
    problems=[errors.NotFound, errors.CursorGone],
)
async def list_events(request: Request, query: schemas.HistoryQuery, who: MaybeCaller) -> Response:
    """The same events page by page."""
    after = await after_of(query)
    topics = await favourites.topics(service.db, await authorised(query.topic, who))
    chapter = await events.read_chapter(service.db, after, topics, query.limit)
    epoch, log = chapter.look.epoch, chapter.look
    if after < log.floor:
        data = {
            "oldest": events.event_id(epoch, log.floor),
            "head": events.event_id(epoch, log.head),
        }
        raise errors.CursorGone(data=data)
    if after > log.head:
        raise errors.BadCursor
    more = chapter.reached < log.head
    cursor = events.event_id(epoch, chapter.reached) if more else None
    items = ",".join(chapter.items)
    tail = to_json({"next_cursor": cursor, "head": events.event_id(epoch, log.head)}).decode()
    return Response(f'{{"items":[{items}],{tail[1:]}', 200, None, "application/json")


async def after_of(query: schemas.HistoryQuery) -> int:
    """The number a page of the history begins after; without a word, the oldest there is.

    Raises:
        BadCursor: it cannot be read, or is of another epoch.
    """
    if query.after is not None:
        found = hubs.parse_id(query.after)
        if found is None or found[0] != service.hub.epoch:
            raise errors.BadCursor
        return found[1]
    return await since("earliest" if query.since in (None, "now") else query.since or "")


@event_route(
    "POST",
    "/events/tickets",
    SIGNED_IN,
    schemas.Ticket,
    status=201,
    limit="stream",
    problems=[errors.NotFound],
    audited=True,
)
async def create_ticket(request: Request, body: schemas.TicketIn, who: Caller) -> Response:
    """A ticket that lets a browser follow some topics."""
    for place, topic in enumerate(body.topics):
        auth.parse_topic(topic, pointer=f"#/topics/{place}")
    topics = await authorised(body.topics, who)
    if body.max_streams > 16 and not who.has(Role.ADMIN, Role.PRODUCER):
        raise errors.Forbidden("More than 16 streams on a ticket needs producer or admin.")
    expires = (wall() + body.expires_in * 1000) // 1000 * 1000
    ticket = service.signer.issue_ticket(
        who.account,
        who.ticket_generation,
        topics,
        expires,
        body.max_streams,
        secrets.token_bytes(16),
    )
    url = f"{SETTINGS.public_url}{API}/events?ticket={ticket}"
    return reply({"ticket": ticket, "expires_at": instants.stamp(expires), "url": url}, 201)


@event_route(
    "POST",
    "/events/tickets/revoke",
    SIGNED_IN,
    status=204,
    limit="stream",
    problems=[errors.NotFound],
    audited=True,
)
async def revoke_ticket(request: Request, body: schemas.TicketRevoke, who: Caller) -> Response:
    """End a ticket, and the streams it opened."""
    await service.accounts.revoke_ticket(body.ticket, who)
    await service.upkeep.look()
    return empty()


@event_route("GET", "/asyncapi.json", None, limit="exempt")
async def describe_streams(request: Request) -> Response:
    """The streams as AsyncAPI 3."""
    return Response(streams_document(), 200, None, "application/json")


@functools.cache
def streams_document() -> bytes:
    public = SETTINGS.public_stock
    made = asyncapi.document(api.version, SETTINGS.public_url, COOKIE, public_stock=public)
    return to_json(made)


# --- /audit ---------------------------------------------------------------------------


@operation_route("GET", "/audit", READERS, openapi.page(schemas.Action))
async def list_actions(request: Request, query: schemas.ActionsQuery) -> Response:
    """What admins did, newest first."""
    found, cursor = await actions.page(service.db, query.filters(), query.cursor, query.limit)
    return page_of(request, found, cursor)


# --- /streams, /processes -------------------------------------------------------------


@operation_route("GET", "/streams", READERS, schemas.OpenStreams)
async def list_streams(request: Request, query: schemas.StreamsQuery) -> Response:
    """Who is connected, to all processes; the newest first, or those that lag most."""
    filters = query.filters()
    choice = Choice(
        frozenset(query.topic),
        query.account,
        streams.read_place(query.cursor, filters),
        by_lag=query.sort == "lag",
    )
    found = await service.processes.open_streams(choice, query.limit)
    cursor = None
    if found.more and not choice.by_lag:  # a lag changes: there is no place to go on from
        cursor = streams.make_place(found.items[-1], filters)
    more = {
        "open": found.open,
        "incomplete": found.incomplete,
        "truncated": found.truncated,
    }
    return page_of(request, found.items, cursor, more)


@operation_route("DELETE", "/streams/{stream}", ADMIN, status=204, limit="write")
async def end_stream(request: Request) -> Response:
    """End a stream of any process; its client may come back."""
    await service.processes.end(stream_of(request))
    return empty()


@operation_route("GET", "/processes", READERS, schemas.Processes)
async def list_processes(request: Request) -> Response:
    """The processes of the service, the oldest first."""
    return reply({"items": await service.processes.shapes()})


# --- at the root ----------------------------------------------------------------------

PAGES = {"", "admin", "cart", "docs", "login", "logout", "register", "shop", "track"}
FOR_MEMBERS = {"admin", "cart", "shop"}  # whoever comes without an account is sent to sign in
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)


@root_route("GET", "/livez", None, limit="exempt")
async def live(request: Request) -> Response:
    """The process runs; nothing else is asked."""
    return reply({"status": "ok"})


@root_route("GET", "/readyz", None, schemas.Ready, limit="exempt")
async def ready(request: Request) -> Response:
    """Whether this process can serve. Without Redis it can, a second later."""
    checks = {"database": "ok", "schema": "ok", "draining": "yes" if service.draining else "no"}
    try:
        async with asyncio.timeout(2):
            pending = await service.db.pending_migrations()
        if pending:
            checks["schema"] = "old"
    except database.DRIVER_ERRORS:
        checks["database"] = "unreachable"
    checks["redis"] = "none" if service.wire is None else ("ok" if service.wire.up else "down")
    good = checks["database"] == checks["schema"] == "ok" and not service.draining
    return reply(
        {"status": "ok" if good else "unavailable", "checks": checks}, 200 if good else 503
    )


@root_route("GET", "/metrics", READERS, "text/plain", limit="exempt", scraper=True)
async def read_metrics(request: Request) -> Response:
    """Numbers for Prometheus, for viewers, admins, and whoever has the METRICS_TOKEN."""
    service.measure()
    return Response(metrics.render(), 200, None, metrics.CONTENT_TYPE)


@root_route("GET", "/openapi.json", None, limit="exempt")
async def describe(request: Request) -> Response:
    """This API as OpenAPI 3.1."""
    return Response(calls_document(), 200, None, "application/json")


@functools.cache
def calls_document() -> bytes:
    return to_json(openapi.document(api.version, OPERATIONS))


DOCS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Filaviva API</title>
<link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/docs/swagger-ui.css"></head>
<body><div id="swagger-ui" data-url="/openapi.json"></div>
<script src="/static/docs/swagger-ui-bundle.js"></script>
<script src="/static/docs/docs.js"></script></body></html>
"""


def page(
    request: Request, html: str, status: int = 200, headers: Mapping[str, str] = {}
) -> Response:
    """A page; its language is kept for the next one if it was asked for."""
    policy = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-store", **headers}
    answer = Response(html, status, policy, "text/html")
    chosen = request.query_params.get("lang")
    if chosen in texts.LANGUAGES:
        secure = COOKIE.startswith("__Host-")
        answer.set_cookie(LANGUAGE, chosen, LANGUAGE_S, secure=secure, samesite="lax")
    return answer


@root_route("GET", "/docs", None, "text/html", limit="exempt")
async def docs(request: Request) -> Response:
    """This API to try out; nothing is loaded from elsewhere."""
    return page(request, DOCS)


# --- pages ----------------------------------------------------------------------------

LANGUAGE = "fv_lang"
LANGUAGE_S = 365 * 86_400
SECRETIVE = {"Referrer-Policy": "no-referrer"}  # the address may hold a ticket
LINK_DAYS = min(SETTINGS.tracking_days, schemas.TICKET_DAYS)  # of one made by hand


def language_of(request: Request) -> str:
    wanted = request.query_params.get("lang", request.cookies.get(LANGUAGE))
    return texts.language(wanted, request.headers.get("accept-language", ""))


def visit(request: Request) -> pages.Visit:
    who: Principal | None = getattr(request.state, "principal", None)
    if who is None or who.kind == "ticket":
        return pages.Visit(
            language_of(request), request.query_params.multi_items(), shop=SETTINGS.shop
        )
    return pages.Visit(
        language_of(request),
        request.query_params.multi_items(),
        who.account,
        who.customer,
        admin=who.has(Role.ADMIN),
        reader=who.has(*READERS),
        shop=SETTINGS.shop,
    )


def problem_page(problem: Problem, request: Request) -> Response:
    section = request.url.path.split("/")[1]
    looks = request.method in ("GET", "HEAD")
    if section in ("login", "register") and not looks:
        return login_refused(problem, request)
    missing = isinstance(problem, errors.Unauthenticated)
    if section in FOR_MEMBERS and looks and missing:
        return sign_in_first(request)
    if section == "register" and isinstance(problem, errors.MethodNotAllowed) and looks:
        # By the link to another language on the page that refused a registration.
        return see(f"/login?{request.url.query}")
    kind = problem.code
    if missing and "ticket" in request.query_params:
        kind = "expired" if isinstance(problem, auth.ExpiredTicket) else "bad_link"
    elif kind == "not_found" and section != "track":
        kind = "missing"
    html = pages.problem(visit(request), kind, way_on(problem, request))
    return page(request, html, problem.status, SECRETIVE if section == "track" else {})


def has_dead_link(request: Request) -> bool:
    """Whether a page was asked for by a ticket, which was not taken, with a cookie besides."""
    tracked = request.url.path.startswith("/track/")
    return tracked and "ticket" in request.query_params and COOKIE in request.cookies


def way_on(problem: Problem, request: Request) -> tuple[str, str] | None:
    """Where a page that says no leads, and the words for it."""
    if isinstance(problem, errors.Forbidden | errors.NotFound):
        return "/", "problem.to_first"
    if not isinstance(problem, errors.Unauthenticated):
        return None
    if "ticket" not in request.query_params:
        return sign_in_address(request), "sign_in"
    if visit(request).account is not None:
        kept = [(k, v) for k, v in request.query_params.multi_items() if k != "ticket"]
        there = request.url.path + (f"?{urlencode(kept)}" if kept else "")
        return there, "problem.by_account"
    return None


def sign_in_address(request: Request) -> str:
    query = f"?{request.url.query}" if request.url.query else ""
    there = f"/login?{urlencode({'next': request.url.path + query})}"
    if len(there) > edge.URL_BYTES:
        there = f"/login?{urlencode({'next': request.url.path})}"
    return there


def sign_in_first(request: Request) -> Response:
    answer = see(sign_in_address(request))
    if COOKIE in request.cookies:  # it is over, and would bar what is for everybody too
        drop_session(answer)
    return answer


def see(address: str) -> Response:
    """Look there instead."""
    return Response(status_code=303, headers={"Location": address, "Cache-Control": "no-store"})


def own_page(text: str) -> str:
    """The address of one of our pages; the first one for whatever leads elsewhere.

    Browsers read `//host`, `/\\host`, and either with tabs and line ends in it, as another host.
    """
    return text if re.fullmatch(r"/(?![/\\])[\x21-\x7e]*", text, re.ASCII) else "/"


def login_refused(problem: Problem, request: Request) -> Response:
    """The form again, with what was wrong."""
    words = {"invalid_credentials": "wrong", "rate_limited": "too_often"}
    known = {"wrong", "too_often", "invalid", "account_exists", "customer_exists"}
    wrong = words.get(problem.code, problem.code)
    if wrong not in known:
        return page(request, pages.problem(visit(request), problem.code, None), problem.status)
    typed = getattr(request.state, "typed", {})
    html = pages.login(
        visit(request),
        own_page(typed.get("next", "/")),
        registration=SETTINGS.registration,
        wrong=wrong,
        username=typed.get("username", ""),
    )
    return page(request, html, problem.status)


@page_route("GET", "/", None, status=303)
async def home(request: Request, query: schemas.PageLook) -> Response:
    """The page that is for whoever comes: the console, the shop, or where to sign in."""
    who = request.state.principal = await visitor(request)
    if who is not None and who.has(*READERS):
        return see("/admin")
    if SETTINGS.shop:
        return see("/shop")
    return see("/login" if who is None else "/docs")


async def visitor(request: Request) -> Principal | None:
    """Who looks at a page that is for anybody; a sign-in that is over is none."""
    with contextlib.suppress(errors.Unauthenticated):
        return await identify(request, ticket=False)
    return None


@page_route("GET", "/login", None, "text/html")
async def login_page(request: Request, query: schemas.LoginQuery) -> Response:
    """Where people sign in."""
    request.state.principal = await visitor(request)
    html = pages.login(
        visit(request),
        own_page(query.next),
        registration=SETTINGS.registration,
        wrong=None,
        username="",
    )
    return page(request, html)


@page_route(
    "POST",
    "/login",
    None,
    status=303,
    limit="sign-in",
    problems=[errors.InvalidCredentials, errors.BadOrigin],
)
async def log_in(
    request: Request, form: Annotated[schemas.PageSignIn, Depends(Form(schemas.PageSignIn))]
) -> Response:
    """Sign a page in by its form, and go on to where it came from."""
    demand_own_origin(request)
    token = await service.accounts.open_session(form.username, form.password)
    answer = see(own_page(form.next))
    set_session(answer, token)
    return answer


@page_route(
    "POST",
    "/register",
    None,
    status=303,
    limit="register",
    problems=[errors.NotFound, errors.BadOrigin, errors.AccountExists, errors.CustomerExists],
)
async def join(
    request: Request, form: Annotated[schemas.PageRegister, Depends(Form(schemas.PageRegister))]
) -> Response:
    """Become a customer by the form of a page, signed in at once."""
    demand_own_origin(request)
    if not SETTINGS.registration:
        raise errors.NotFound
    await service.accounts.register(form.username, form.password, form.email)
    answer = see(own_page(form.next))
    set_session(answer, await service.accounts.open_session(form.username, form.password))
    return answer


@page_route("POST", "/logout", None, status=303, problems=[errors.BadOrigin])
async def log_out(request: Request) -> Response:
    """Sign a page out by its form."""
    demand_own_origin(request)
    answer = await close_session(request)
    answer.status_code = 303
    answer.headers["Location"] = "/login"
    return answer


def console(request: Request, section: str, *areas: str, **context: Any) -> Response:
    return page(request, pages.console(visit(request), section, *areas, **context))


console_route = functools.partial(page_route, query=schemas.ConsoleQuery)


@console_route("GET", "/admin", READERS, "text/html")
async def queues_page(request: Request) -> Response:
    """The console: all queues."""
    return console(request, "queues")


@console_route("GET", "/admin/queues/{name}", READERS, "text/html")
async def queue_console(request: Request) -> Response:
    """The console: one queue, with charts, its messages, its settings."""
    name = queue_of(request)
    async with service.db.read() as session:
        await queues.live_id(session, name)
    return console(request, "queue", nav="queues", name=name)


@console_route("GET", "/admin/post", ADMIN, "text/html")
async def post_page(request: Request) -> Response:
    """The console: a form to post a purchase."""
    return console(request, "post")


@page_route("GET", "/admin/messages", READERS, "text/html")
async def messages_console(request: Request, query: schemas.OrdersLook) -> Response:
    """The console: orders of all queues, or of one customer."""
    customer = query.customer
    known = await called(customer) if customer else None
    return console(request, "messages", customer=customer, called=known)


@console_route("GET", "/admin/messages/{id}", READERS, "text/html")
async def message_console(request: Request) -> Response:
    """The console: one order and its way through the queues."""
    async with service.db.read() as session:
        row, _ = await queues.find(session, message_id_of(request))
        names = await catalogue.names(session, [item["sku"] for item in from_json(row.items)])
    return console(
        request,
        "message",
        nav="messages",
        id=row.id,
        name=row.reference or row.id[-12:],
        names=names,
        buyer=await called(row.customer),
        link_days=LINK_DAYS,
    )


async def called(customer: str) -> str | None:
    """The name of a customer or where to write to him, where the directory knows one."""
    with contextlib.suppress(errors.NotFound):
        found = await customers.get(service.db, customer)
        return found["name"] or found["email"]
    return None


@page_route("GET", "/admin/find", READERS, "text/html")
async def find_message(request: Request, query: schemas.FindQuery) -> Response:
    """Leads to the order or the orders that a text names, else shows customers whom it may mean."""
    sought = query.q.strip()
    if not sought:
        return see("/admin/messages")
    async with service.db.read() as session:
        named = await queues.named_by(session, sought)
    if named is not None:
        kind, value = named
        whole = f"/{value}" if kind == "id" else f"?{urlencode({kind: value})}"
        return see(f"/admin/messages{whole}")
    found, more = await customers.named_by(service.db, sought)
    return console(request, "find", nav="messages", sought=sought, customers=found, more=more)


@console_route("GET", "/admin/failures", READERS, "text/html")
async def failures_console(request: Request) -> Response:
    """The console: dead letters by queue and error."""
    return console(request, "failures")


@console_route("GET", "/admin/streams", READERS, "text/html")
async def streams_console(request: Request) -> Response:
    """The console: who is connected, and the processes."""
    return console(request, "streams")


@console_route("GET", "/admin/audit", READERS, "text/html")
async def audit_console(request: Request) -> Response:
    """The console: what admins did."""
    return console(request, "audit")


@console_route("GET", "/admin/accounts", ADMIN, "text/html")
async def accounts_console(request: Request) -> Response:
    """The console: who may sign in, and tickets."""
    return console(request, "accounts")


@console_route("GET", "/admin/stock", READERS, "text/html")
async def stock_page(request: Request) -> Response:
    """The console: all that is sold or counted."""
    return console(request, "stock", "product")


@console_route("GET", "/admin/stock/{sku}", READERS, "text/html")
async def product_page(request: Request) -> Response:
    """The console: one product, its stock and the ledger of it."""
    sku = sku_of(request)
    sold, counted = await catalogue.known(service.db, sku)
    if not (sold or counted):
        raise errors.NotFound
    return console(request, "product", "stock", nav="stock", sku=sku, sold=sold, counted=counted)


# Without SHOP there is nobody whom these pages are not for: they are not there.
@page_route(
    "GET",
    "/shop",
    SIGNED_IN,
    "text/html",
    optional=SETTINGS.public_stock or not SETTINGS.shop,
    problems=[errors.NotFound, errors.BadCursor],
)
async def shop_window(request: Request, query: schemas.ShopQuery, who: MaybeCaller) -> Response:
    """What is for sale, with its stock as it sells."""
    if not SETTINGS.shop:
        raise errors.NotFound
    cursor = events.event_id(service.hub.epoch, service.hub.head)
    filters = query.filters()
    found, more = await catalogue.page(
        service.db, filters, query.cursor, pages.DISCS_SHOWN, staff=False
    )
    cart = None
    orders: list[dict[str, Any]] = []
    if who is not None and shops(who):
        cart = await carts.get(service.db, own_id(who))
    async with service.db.read() as session:
        if who is not None and who.customer is not None:
            orders = await newest_orders(session, who.customer)
        genres = await catalogue.genres(session, pages.GENRES_SHOWN)
        now = await database.now(session)
    html = pages.shop(
        visit(request),
        found,
        orders,
        cursor=cursor,
        now=now,
        more=more,
        filters=filters,
        genres=genres,
        cart=cart,
    )
    return page(request, html)


def shops(who: Principal) -> bool:
    """Whether somebody buys for himself."""
    return who.has(*SHOPPERS) and who.customer is not None and not who.has(*PRODUCERS)


async def newest_orders(session: database.Session, customer: str) -> list[dict[str, Any]]:
    found = await queues.list_messages(
        session, None, {"customer": customer}, None, pages.ORDERS_SHOWN
    )
    return [moves.order_shape(moves.message_shape(row, queue)) for row, queue in found]


@page_route(
    "GET",
    "/cart",
    SHOPPERS if SETTINGS.shop else SIGNED_IN,
    "text/html",
    optional=not SETTINGS.shop,
    query=schemas.PageLook,
    problems=[errors.NotFound],
)
async def cart_page(request: Request, who: MaybeCaller) -> Response:
    """What the caller means to buy, and the till."""
    if not SETTINGS.shop or who is None:
        raise errors.NotFound
    cursor = events.event_id(service.hub.epoch, service.hub.head)
    found = await carts.get(service.db, own_id(who))
    async with service.db.read() as session:
        now = await database.now(session)
    return page(request, pages.cart(visit(request), found, cursor=cursor, now=now))


@page_route("GET", "/track/{id}", ORDER_READERS, "text/html", ticket=True)
async def track(request: Request, query: schemas.TrackQuery, who: Caller) -> Response:
    """A page that follows an order live; its link can be sent to anybody."""
    order = message_id_of(request)
    async with service.db.snapshot() as session:
        row, queue = await queues.find(session, order)
        auth.may_read_order(who, row.customer, order).demand()
        (shape,) = await service.line.shapes(session, [(row, queue)])
        names = await catalogue.names(session, [item["sku"] for item in shape["items"]])
        rows = await events.recent(session, order, pages.HISTORY_SHOWN)
        log = await events.look(session)
    given = {} if query.ticket is None else {"ticket": query.ticket}
    html = pages.track(
        visit(request),
        shape,
        [events.history_item(log.epoch, one, staff=False) for one in rows],
        names=names,
        own=who.kind == "session" and who.owns(row.customer),
        cursor=events.event_id(log.epoch, log.head),
        stream=f"{API}/events?{urlencode({'topic': f'order:{order}', **given})}",
        link_days=LINK_DAYS if query.ticket is None else None,
        now=wall(),
    )
    return page(request, html, headers=SECRETIVE)


class Files(StaticFiles):
    """What pages load. Asked for by its ETag each time: no page may meet scripts of another
    version, and the tabs of a browser share one worker.
    """

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        answer = super().file_response(*args, **kwargs)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


api.mount("/static", GZipMiddleware(Files(directory=STATIC), compresslevel=6), name="static")


# --- the layers around it all ---------------------------------------------------------

LARGE = re.compile(
    rf"{API}/(queues/[^/]+/messages/batch|messages/(ack|nack|release|extend))", re.ASCII
)


def seen(scope: edge.Scope, status: int, seconds: float) -> None:
    """Count an answer under its route's template, and log it: what is ours as a warning."""
    template = getattr(scope.get("route"), "path", None)
    metrics.request(template, scope["method"], status, seconds)
    order = scope.get("path_params", {}).get("id")
    with logger.contextualize(order=order) if order else contextlib.nullcontext():
        level = "WARNING" if status >= 500 else "DEBUG"
        logger.log(level, "{} {} {} in {:.1f} ms", scope["method"], template, status, seconds * 1e3)


def cross_origin(inner: edge.App) -> edge.App:
    """CORS for exact origins, never with credentials."""
    if not SETTINGS.cors_origins:
        return inner
    return CORSMiddleware(
        inner,
        allow_origins=SETTINGS.cors_origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "If-Match",
            "Last-Event-ID",
        ],
        expose_headers=[
            "ETag",
            "Location",
            "Link",
            "Retry-After",
            "RateLimit",
            "RateLimit-Policy",
            "X-Request-ID",
            "Idempotent-Replayed",
        ],
    )


app = edge.stack(
    api,
    edge.RequestId,
    functools.partial(edge.Watched, seen=seen),
    functools.partial(edge.Proxies, trusted=SETTINGS.trusted_proxies),
    edge.Headers,
    cross_origin,
    functools.partial(edge.RateHeaders, stats=rate_of),
    functools.partial(edge.Sizes, large=lambda path: LARGE.fullmatch(path) is not None),
)

"""Pages: how fast the server draws them, what a first load of each weighs, how long it takes."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import Browser, BrowserContext, Page, Request

from bench import load, report, stand
from bench.load import Result, Target
from tests import services
from tests.chromium import chromium
from tests.console import LOADING
from tests.services import until

CONNECTIONS = (1, 16)
ORDERS, DISCS = 200, 60
WEIGHT_KB, LOAD_MS = 150, 1_000  # what is promised
NOBODY, ADMIN, CUSTOMER = None, "admin", "buyer"
HEAD = (
    "page",
    "**KB of a first load**",
    "of it HTML",
    "data besides",
    "**`load`, ms**",
    "filled, ms",
    "**drawn /s**",
    "p50 ms, alone",
    "p99 ms, of 16",
    "CPU µs",
)


@dataclass(frozen=True, slots=True)
class Sight:
    """A page, and whose account looks at it."""

    name: str
    path: str
    who: str | None


@dataclass(frozen=True, slots=True)
class Weight:
    """One first load, its headers included; bytes, and ms since it was asked for."""

    html: int
    whole: int  # with all scripts, styles and pictures
    data: int  # what its scripts asked the API for
    loaded: float
    filled: float  # every part that is seen has what belongs there


class House:
    """The service with some of everything, and who looks at it."""

    def __init__(self, service: stand.Service) -> None:
        self.service = service
        self.tokens = {ADMIN: service.token("admin")}
        service.account("shop", "producer")
        account = {"username": CUSTOMER, "password": stand.PASSWORD, "roles": ["customer"]}
        service.call("/accounts", {**account, "customer": "c-7"})
        self.tokens[CUSTOMER] = service.token(CUSTOMER)
        self.tracking = self._fill()

    def _fill(self) -> str:
        """Products, stock and orders; the address of one order's page."""
        for number in range(DISCS):
            sku = f"disc-{number:03}"
            self.service.call("/products", {"sku": sku, "name": "A disc", "price_cents": 990})
            self.service.call(f"/products/{sku}/stock/receive", {"quantity": 1_000})
        path = f"/queues/{stand.QUEUE}/messages"
        self.service.call(f"{path}/batch", {"messages": [stand.PURCHASE] * ORDERS})
        return self.service.call(path, stand.PURCHASE).json()["tracking"]["url"]

    def sights(self) -> list[Sight]:
        """The pages that there are."""
        where = urlsplit(self.tracking)
        order = where.path.rpartition("/")[2]
        console = ("", "queues/orders", "messages", f"messages/{order}", "failures", "stock")
        console += ("stock/disc-000", "streams", "audit", "accounts", "post")
        return [
            Sight("/login", "/login", NOBODY),
            Sight("/track/{id}", f"{where.path}?{where.query}", NOBODY),
            Sight("/shop", "/shop", CUSTOMER),
            Sight("/cart", "/cart", CUSTOMER),
            *(
                Sight(f"/admin/{one}".rstrip("/").replace(order, "{id}"), f"/admin/{one}", ADMIN)
                for one in console
            ),
        ]

    def target(self, sight: Sight) -> Target:
        token = "" if sight.who is None else self.tokens[sight.who]
        path = sight.path.rstrip("/")
        return Target(sight.name, self.service.url + path, b"", self.service.pid, token)

    def signed_in(self, browser: Browser, who: str | None) -> BrowserContext:
        """A browser that has been nowhere, with the session of an account."""
        context = browser.new_context(locale="en-US")
        if who is not None:
            form = {"username": who, "password": stand.PASSWORD}
            answer = httpx.post(f"{self.service.url}{stand.API}/auth/session", json=form)
            cookie = answer.raise_for_status().headers["set-cookie"].partition(";")[0]
            name, _, value = cookie.partition("=")
            context.add_cookies([{"name": name, "value": value, "url": self.service.url}])
        return context


@contextmanager
def opened(kind: str) -> Iterator[House]:
    """
    Raises services.Missing.
    """
    port = services.free_port()
    own = {"PORT": str(port), "PUBLIC_URL": f"http://127.0.0.1:{port}"}
    with (
        stand.databases(kind) as fresh,
        stand.Service(**fresh(), **own, RATE_LIMITS="off", SHOP="true") as service,
    ):
        yield House(service)


def weigh(house: House, browser: Browser, sight: Sight) -> Weight:
    """The first load of a page by a browser that has nothing of it yet."""
    with house.signed_in(browser, sight.who) as context:
        page = context.new_page()
        asked: list[Request] = []
        # Playwright marks its handlers, which a method of a list does not let it.
        page.on("requestfinished", lambda request: asked.append(request))  # noqa: PLW0108
        page.goto(house.service.url + sight.path.rstrip("/"))
        loaded = float(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        until(lambda: not page.evaluate(LOADING), 30, sight.name)
        filled = float(page.evaluate("performance.now()"))
        return _weight(page, asked, loaded, filled)


def _weight(page: Page, asked: Sequence[Request], loaded: float, filled: float) -> Weight:
    def size(one: Request) -> int:
        sizes: Any = one.sizes()
        return sizes["responseHeadersSize"] + sizes["responseBodySize"]

    sizes = [(one, size(one)) for one in asked]
    data = sum(n for one, n in sizes if one.resource_type in ("fetch", "xhr", "eventsource"))
    html = sum(n for one, n in sizes if one.resource_type == "document")
    return Weight(html, sum(n for _, n in sizes) - data, data, loaded, max(loaded, filled))


def row(sight: Sight, weights: Sequence[Weight], alone: Result, many: Result) -> list[str]:
    loaded, filled = (
        median(getattr(one, part) for one in weights) for part in ("loaded", "filled")
    )
    first = weights[0]
    return [
        f"`{sight.name}`",
        f"**{first.whole / 1e3:.0f}**",
        f"{first.html / 1e3:.1f}",
        f"{first.data / 1e3:.0f}",
        f"**{loaded:.0f}**",
        f"{filled:.0f}",
        f"**{many.rate:,.0f}**",
        f"{alone.p50:.1f}",
        f"{many.p99:.1f}",
        f"{many.cpu:,.0f}",
    ]


def measure(kind: str, seconds: int, rounds: int) -> list[list[str]]:
    """A row for each page.

    Raises:
        load.NoWrk, load.Refused: see `load.press`.
        services.Missing: no database or no browser.
    """
    with ExitStack() as stack:
        house = stack.enter_context(opened(kind))
        sights = house.sights()
        pressed = {
            one.name: [load.press(house.target(one), many, seconds) for many in CONNECTIONS]
            for one in sights
        }
        browser = stack.enter_context(chromium())
        weighed: dict[str, list[Weight]] = {one.name: [] for one in sights}
        for _ in range(rounds):
            for one in sights:
                weighed[one.name].append(weigh(house, browser, one))
                print(one.name, weighed[one.name][-1], file=sys.stderr, flush=True)
    return [row(one, weighed[one.name], *pressed[one.name]) for one in sights]


WORDS = f"""The server draws each page {{seconds}} s long for {CONNECTIONS[0]} and for
{CONNECTIONS[1]} connections of wrk, one process, rate limits off: `drawn` and `CPU` are of
{CONNECTIONS[1]}. Then Chromium opens each {{rounds}} times, each time as a browser that has been
nowhere: the bytes are what the server sent for the page, its scripts, styles and pictures, headers
included; what its scripts ask the API for is `data besides`. `load` is the event of that name,
`filled` when every part that is seen has what belongs there; medians. Server, load and browser
share the cores. The targets: a first load of at most {WEIGHT_KB} KB, and `load` within
{LOAD_MS:,} ms."""


def run(kind: str, seconds: int, rounds: int, *, write: bool) -> None:
    where = report.machine([kind])
    rows = measure(kind, seconds, rounds)
    words = WORDS.format(seconds=seconds, rounds=rounds)
    report.publish("Pages", where, words, report.table(HEAD, rows), write=write)

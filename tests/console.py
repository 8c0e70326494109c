"""The console of a service that is large and busy: open for minutes, walked through all the time.

Some tabs stay open, each on a page of its own, and are looked at in the beginning and at the
end: how long their main threads worked, what their heaps and documents hold. A visitor goes
from page to page meanwhile, and every answer that a page waited for is timed. On a machine
that has too much to do, an answer is late for other reasons: a pulse notes when.
"""

import asyncio
import json
import os
import random
import re
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from playwright.sync_api import Browser, BrowserContext, Error, Page, Request

from tests import million
from tests.chromium import chromium
from tests.house import House
from tests.lines import Line
from tests.memory import memory
from tests.services import until
from tests.visits import cookie_of

QUEUE, SKU = "busy-", "disc-"
COPIES = 10**8  # of each: nothing is ever sold out
LANES = 4  # of the traffic
BATCH = 8
ANSWER = 1.0  # seconds in which every page and call is answered
ASKING = {"/api/v1/streams": 2.5}  # but for what asks other processes, and says who did not answer
BUSY = 0.5  # of the time that a main thread may work
STALL = 0.25  # seconds: so late the machine does what it is told when it has too much to do
STALLED = 0.2  # of the answers; more, and nothing can be said
HEAP, NODES, SERVER = 2 << 20, 500, 16 << 20  # growth that is none; else a tenth
LOOKS = 3  # at what a page holds
PATIENCE = 30  # seconds that what must come may take
CROWD = 4  # processes that want to run, for each processor: more, and others are at work here
LOADING = (  # parts that are seen, and not yet filled
    "[...document.querySelectorAll('.region[data-state=loading]')]"
    ".filter((region) => region.checkVisibility()).map(({id}) => id)"
)
FAILED = ".region[data-state=error] > .state, .region[data-state=stale] > .state"
SECTIONS = (  # of the console; those that a service does not have are left out
    "",
    f"/queues/{QUEUE}0",
    "/messages",
    "/messages/{message}",
    "/failures",
    "/stock",
    f"/stock/{SKU}0",
    "/streams",
    "/audit",
    "/accounts",
    "/post",
)
MOVING = {"/admin", f"/admin/queues/{QUEUE}0", "/admin/messages", f"/admin/stock/{SKU}0"}


@dataclass(frozen=True)
class Size:
    """How much of everything; `seconds` of traffic, of which the first `warm` are not judged."""

    messages: int
    queues: int = 50
    skus: int = 200
    rate: int = 500  # events of orders a second; those of stock come on top
    seconds: float = 360
    warm: float = 60
    strict: bool = True  # long enough, and the machine for itself: clock and memory are judged


# --- what is there before -------------------------------------------------------------


def furnish(house: House, size: Size) -> float:
    """The queues, the products and, while the service is down, the messages: seconds of those."""
    admin = house.client()
    for number in range(size.queues):
        given = {"name": f"{QUEUE}{number}", "retention_days": 3650}
        assert admin.post("/queues", json=given).status_code == 201
    for number in range(size.skus):
        sku = f"{SKU}{number}"
        given = {"sku": sku, "name": f"Disc {number}", "price_cents": 990}
        assert admin.post("/products", json=given).status_code == 201
        path = f"/products/{sku}/stock/receive"
        assert admin.post(path, json={"quantity": COPIES}).status_code == 200
    for server in house.servers:
        server.stop()
    settings = house.servers[0].settings
    url = settings.get("DATABASE_URL", f"sqlite://{settings['DATA_DIR']}/filaviva.db")
    took = million.fill(url, size.messages, size.queues, name=QUEUE, sku=SKU, skus=size.skus)
    for server in house.servers:
        server.start()
    return took


def failure(house: House) -> str:
    """The id of an order that went wrong just now, with all of its history."""
    posted = house.post(house.queue())
    (message,) = house.claim(posted["queue"])
    answer = house.settle("nack", message, error="no such address", retry=False)
    assert answer.status_code == 200
    return posted["id"]


# --- what goes on meanwhile -----------------------------------------------------------


class Traffic:
    """So many events a second through the API, over all processes; on a thread of its own."""

    def __init__(self, house: House, size: Size, draw: random.Random) -> None:
        self._house, self._size, self._draw = house, size, draw
        self._over = threading.Event()
        self.events = 0
        self.faults: list[str] = []

    def run(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:  # told at the end, on the other thread
            self.faults.append(f"the traffic ended: {error!r}")

    def end(self) -> None:
        self._over.set()

    async def _run(self) -> None:
        await asyncio.gather(*(self._lane(number) for number in range(LANES)), self._deliver())

    def _line(self, role: str, number: int) -> Line:
        server = self._house.servers[number % len(self._house.servers)]
        return Line(server.url, self._house.token(role))

    async def _lane(self, number: int) -> None:
        """Rounds at a steady pace; what the machine could not do in time is left out."""
        draw = random.Random(self._draw.getrandbits(64))
        lines = {role: self._line(role, number) for role in ("producer", "worker")}
        due = time.monotonic()
        while not self._over.is_set():
            done = await self._round(lines, draw)
            self.events += done
            now = time.monotonic()
            due = max(due + max(done, 1) * LANES / self._size.rate, now - 1)
            await asyncio.sleep(max(0.0, due - now))
        for line in lines.values():
            line.close()

    async def _round(self, lines: dict[str, Line], draw: random.Random) -> int:
        """Some purchases are posted, some are worked on and settled; the events of it."""
        wishes = [{"customer": f"c-{draw.randrange(1000)}", "items": self._items(draw)}] * BATCH
        path = f"/queues/{self._queue(draw)}/messages/batch"
        done = (await self._call(lines["producer"], path, {"messages": wishes}))["accepted"]
        queue = self._queue(draw)
        wish = {"max": BATCH, "lease_seconds": 120, "worker": f"w-{draw.randrange(9)}"}
        claimed = (await self._call(lines["worker"], f"/queues/{queue}/claim", wish))["messages"]
        verb, more = draw.choices(
            [
                ("ack", {}),
                ("ack", {"forward_to": next(iter({self._queue(draw)} - {queue}), None)}),
                ("nack", {"error": f"card service: {draw.randrange(4)}", "retry": False}),
                ("release", {}),
            ],
            [75, 10, 10, 5],
        )[0]
        held = [{"id": one["id"], "receipt": one["receipt"], **more} for one in claimed]
        if not held:
            return done
        settled = await self._call(lines["worker"], f"/messages/{verb}", {f"{verb}s": held})
        return done + len(held) + settled["accepted"]

    async def _deliver(self) -> None:
        """An admin at work: what he does is in the audit log and in the ledgers."""
        line, draw = self._line("admin", 0), random.Random(7)
        while not self._over.is_set():
            path = f"/products/{SKU}{draw.randrange(self._size.skus)}/stock/receive"
            await self._call(line, path, {"quantity": 1})
            await asyncio.sleep(1)
        line.close()

    @staticmethod
    async def _call(line: Line, path: str, body: Any) -> Any:
        answer = await line.call("POST", path, body)
        assert answer.status == 200, answer
        return answer.json

    def _queue(self, draw: random.Random) -> str:
        return f"{QUEUE}{draw.randrange(self._size.queues)}"

    def _items(self, draw: random.Random) -> list[dict[str, Any]]:
        skus = draw.sample(range(self._size.skus), draw.randrange(1, 3))
        return [{"sku": f"{SKU}{sku}", "quantity": 1, "amount_cents": 990} for sku in skus]


@contextmanager
def traffic(house: House, size: Size, draw: random.Random) -> Iterator[Traffic]:
    """It goes on during the block."""
    found = Traffic(house, size, draw)
    thread = threading.Thread(target=found.run)
    thread.start()
    try:
        yield found
    finally:
        found.end()
        thread.join()


class Pulse:
    """When the machine did not do in time what it was told: a sleep that lasts too long."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []  # from, to
        self._loads: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def _beat(self) -> None:
        while not self._over.is_set():
            began = time.time()
            time.sleep(0.02)
            if (ended := time.time()) - began > STALL:
                self._late.append((began, ended))
            self._loads.append(os.getloadavg()[0])

    def stalled(self, began: float, ended: float) -> bool:
        return any(start < ended and began < end for start, end in self._late)

    @property
    def stalls(self) -> int:
        return len(self._late)

    @property
    def load(self) -> float:
        """How many processes wanted to run, most of the time."""
        return statistics.median(self._loads)

    @property
    def crowded(self) -> bool:
        return self.load > CROWD * (os.cpu_count() or 1)

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


# --- browsers -------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    """What a page waited for; times of the wall clock in seconds."""

    kind: str
    began: float
    seconds: float


def kind_of(request: Request) -> str:
    """A request without what differs from one to the next."""
    where = urlsplit(request.url)
    path = re.sub(rf"[0-9a-f]{{8}}-[0-9a-f-]{{27}}|(?<=/)({QUEUE}|{SKU})\d+", "*", where.path)
    names = sorted({name for name, _ in parse_qsl(where.query)})
    return f"{request.method} {path}{'?' if names else ''}{'&'.join(names)}"


@dataclass(frozen=True)
class Look:
    """A page at one instant: seconds of its main thread, and what it holds after a collection."""

    at: float
    worked: float  # by the clock
    computed: float  # by the processor: less than that where others want it too
    heap: int
    nodes: int


class Tab:
    """A page of a signed-in browser; whatever it waits for is noted in `answered`."""

    def __init__(self, context: BrowserContext, origin: str, answered: list[Answered]) -> None:
        self._origin, self._answered = origin, answered
        self.page: Page = context.new_page()
        self.path = ""
        self.faults: list[str] = []
        self._tools = context.new_cdp_session(self.page)
        self._tools.send("Performance.enable")
        self._tools.send("HeapProfiler.enable")
        self.page.on("requestfinished", self._note)
        self.page.on("pageerror", lambda error: self.faults.append(f"{self.path}: {error}"))

    def _note(self, request: Request) -> None:
        if request.resource_type not in ("document", "fetch", "xhr"):
            return
        timing = request.timing
        seconds = (timing["responseEnd"] - max(timing["requestStart"], 0)) / 1000
        self._answered.append(Answered(kind_of(request), timing["startTime"] / 1000, seconds))

    def open(self, path: str) -> float:
        """Go there and wait until every part of it is filled; seconds."""
        began, self.path = time.monotonic(), path
        try:
            self.page.goto(self._origin + path)
            until(lambda: not self.page.evaluate(LOADING), PATIENCE, "all of it")
        except (Error, TimeoutError) as error:
            left = self.page.evaluate(LOADING)
            self.faults.append(f"{path}: never filled: {left}, {str(error).splitlines()[0]}")
        self.faults += [f"{path}: {text}" for text in self.page.locator(FAILED).all_inner_texts()]
        return time.monotonic() - began

    def look(self, times: int) -> Look:
        """What it holds: the least of a few looks, since it may draw anew during one of them."""
        looks = [self._look() for _ in range(times)]
        least = min(one.heap for one in looks), min(one.nodes for one in looks)
        return replace(looks[-1], heap=least[0], nodes=least[1])

    def _look(self) -> Look:
        self._tools.send("HeapProfiler.collectGarbage")
        told = self._tools.send("Performance.getMetrics")["metrics"]
        found = {one["name"]: one["value"] for one in told}
        return Look(
            found["Timestamp"],
            found["TaskDuration"],
            found["ThreadTime"],
            int(found["JSHeapUsedSize"]),
            int(found["Nodes"]),
        )

    def text(self) -> str:
        return self.page.locator("main").inner_text()

    @property
    def live(self) -> bool:
        """Its line stands, or it has none: it polls."""
        line = self.page.locator("#line:visible:not([data-state=polling])")
        return line.count() == 0 or line.get_attribute("data-state") == "live"

    def comes_to(self, found: Callable[[], bool]) -> bool:
        """Whether that is so, by and by."""
        try:
            return until(found, PATIENCE, self.path)
        except TimeoutError:
            return False


class Worker:
    """The shared worker behind the tabs of an origin: it holds their line to the service."""

    def __init__(self, browser: Browser, origin: str, page: Page) -> None:
        self._tools, self._page = browser.new_browser_cdp_session(), page
        self._answers: dict[int, Any] = {}
        self._tools.on("Target.receivedMessageFromTarget", self._hear)
        (target,) = [
            one["targetId"]
            for one in self._tools.send("Target.getTargets")["targetInfos"]
            if one["type"] == "shared_worker" and one["url"].startswith(f"{origin}/")
        ]
        attached = self._tools.send("Target.attachToTarget", {"targetId": target, "flatten": False})
        self._session = attached["sessionId"]

    def _hear(self, told: dict[str, str]) -> None:
        message = json.loads(told["message"])
        if "id" in message:
            self._answers[message["id"]] = message.get("result")

    def _ask(self, method: str) -> Any:
        number = len(self._answers)
        message = json.dumps({"id": number, "method": method})
        wish = {"sessionId": self._session, "message": message}
        self._tools.send("Target.sendMessageToTarget", wish)
        while number not in self._answers:
            self._page.wait_for_timeout(20)  # answers are heard meanwhile
        return self._answers[number]

    def heap(self) -> int:
        """Bytes in use after a collection."""
        self._ask("HeapProfiler.collectGarbage")
        return int(self._ask("Runtime.getHeapUsage")["usedSize"])


@contextmanager
def signed_in(house: House) -> Iterator[tuple[Browser, BrowserContext]]:
    """A browser with the session of an admin, which is good for all processes."""
    with chromium() as browser, browser.new_context(locale="en-US") as context:
        name, _, value = cookie_of(house, "admin").partition("=")
        context.add_cookies([{"name": name, "value": value, "url": house.url}])
        yield browser, context


def sections(house: House) -> list[str]:
    """The pages that there are."""
    message = failure(house)
    paths = [f"/admin{one.format(message=message)}" for one in SECTIONS]
    client = house.client()
    return [path for path in paths if client.get(house.url + path).status_code == 200]


# --- the run --------------------------------------------------------------------------


@dataclass
class Found:
    """What a run saw; `wrong` is what is not as promised."""

    pages: int = 0
    visits: int = 0
    events: float = 0.0  # a second
    told: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def run(house: House, size: Size, draw: random.Random) -> Found:
    """The tabs, the visitor and the traffic, for `size.seconds`."""
    found, answered = Found(), list[Answered]()
    opened: dict[str, list[float]] = defaultdict(list)
    paths = sections(house)
    found.pages = len(paths)
    with ExitStack() as stack:
        browser, context = stack.enter_context(signed_in(house))
        pulse = stack.enter_context(Pulse())
        buying = stack.enter_context(traffic(house, size, draw))
        tabs = [Tab(context, house.servers[0].url, answered) for _ in paths]
        for tab, path in zip(tabs, paths, strict=True):
            opened[path].append(tab.open(path))
        visitor = Tab(context, house.servers[-1].url, answered)
        began = time.monotonic()
        walk = Walk(visitor, paths, opened)
        walk.until(began + size.warm)
        worker = Worker(browser, house.servers[0].url, visitor.page)
        heap = worker.heap()
        texts = [tab.text() for tab in tabs]  # before the look: what reads it takes heap too
        times = LOOKS if size.strict else 1
        before, events = [tab.look(times) for tab in tabs], buying.events
        servers, judged = sizes(house), time.monotonic()
        walk.until(began + min(2 * size.warm, size.seconds / 2))
        servers = sizes(house)  # by now what they keep of the log has its full length
        walk.until(began + size.seconds)
        after = [tab.look(times) for tab in tabs]
        found.visits = walk.visits
        judge_tabs(found, size, tabs, list(zip(before, after, strict=True)), texts)
        judge_heap(found, size, "the worker behind them", heap, worker.heap())
        judge_servers(found, size, servers, sizes(house))
        found.events = (buying.events - events) / (time.monotonic() - judged)
        buying.end()
        found.wrong += [*buying.faults, *visitor.faults]
        settle(found, tabs[0], house)
    judge_answers(found, size, answered, pulse)
    judge_traffic(found, size)
    judge_machine(found, size, pulse)
    tell_visits(found, opened)
    return found


@dataclass
class Walk:
    """A visitor on his way round all pages."""

    visitor: Tab
    paths: Sequence[str]
    opened: dict[str, list[float]]
    visits: int = 0

    def until(self, deadline: float) -> None:
        """To one page at least."""
        left = 1.0
        while left > 0:
            path = self.paths[self.visits % len(self.paths)]
            self.opened[path].append(self.visitor.open(path))
            self.visits += 1
            left = deadline - time.monotonic()
            self.visitor.page.wait_for_timeout(min(1.0, max(0.0, left)) * 1000)


def sizes(house: House) -> list[int]:
    return [memory(server.pid).uss for server in house.servers]


def grew(before: int, after: int, slack: int) -> bool:
    return after - before > max(slack, before // 10)


def judge_tabs(
    found: Found,
    size: Size,
    tabs: Sequence[Tab],
    looks: Sequence[tuple[Look, Look]],
    texts: Sequence[str],
) -> None:
    """Idle, flat, live: each page that stayed open."""
    for tab, (one, other), text in zip(tabs, looks, texts, strict=True):
        passed = other.at - one.at
        busy, cpu = (other.worked - one.worked) / passed, (other.computed - one.computed) / passed
        found.told.append(
            f"{tab.path}: busy {busy:.0%}, of the processor {cpu:.0%};"
            f" nodes {one.nodes} to {other.nodes}"
        )
        judge_heap(found, size, tab.path, one.heap, other.heap)
        found.wrong += tab.faults
        if cpu > BUSY or (size.strict and busy > BUSY):
            found.wrong.append(f"{tab.path}: its main thread worked {busy:.0%} of the time")
        if size.strict and grew(one.nodes, other.nodes, NODES):
            found.wrong.append(f"{tab.path}: its nodes grew from {one.nodes} to {other.nodes}")
        if not tab.comes_to(lambda tab=tab: tab.live):
            found.wrong.append(f"{tab.path}: it is not live")
        if tab.path in MOVING and not tab.comes_to(lambda tab=tab, text=text: tab.text() != text):
            found.wrong.append(f"{tab.path}: nothing on it moved")


def judge_heap(found: Found, size: Size, whose: str, before: int, after: int) -> None:
    found.told.append(f"{whose}: heap {before / 1e6:.2f} to {after / 1e6:.2f} MB")
    if size.strict and grew(before, after, HEAP):
        found.wrong.append(f"{whose}: the heap grew from {before} to {after}")


def judge_servers(found: Found, size: Size, before: Sequence[int], after: Sequence[int]) -> None:
    for one, other in zip(before, after, strict=True):
        found.told.append(f"a server: {one / 1e6:.0f} to {other / 1e6:.0f} MB")
        if size.strict and grew(one, other, SERVER):
            found.wrong.append(f"a server grew from {one} to {other} bytes")


def judge_answers(found: Found, size: Size, answered: Sequence[Answered], pulse: Pulse) -> None:
    """Each in time, but for those that the machine held up."""
    kinds: dict[str, list[float]] = defaultdict(list)
    held = Counter[str]()
    for one in answered:
        if pulse.stalled(one.began - 0.1, one.began + one.seconds + 0.1):
            held[one.kind] += 1
        else:
            kinds[one.kind].append(one.seconds)
    for kind, seconds in sorted(kinds.items()):
        p95 = sorted(seconds)[int(len(seconds) * 0.95)]
        found.told.append(
            f"{kind}: {len(seconds)}, half within {statistics.median(seconds) * 1e3:.0f} ms,"
            f" p95 {p95 * 1e3:.0f} ms, all {max(seconds) * 1e3:.0f} ms; {held[kind]} held up"
        )
        limit = ASKING.get(kind.partition(" ")[2].partition("?")[0], ANSWER)
        if size.strict and max(seconds) > limit:
            found.wrong.append(f"{kind}: answered after {max(seconds):.1f} s")
    if size.strict and held.total() > STALLED * len(answered):
        found.wrong.append(f"too busy to tell: {held.total()} of {len(answered)} were held up")


def judge_traffic(found: Found, size: Size) -> None:
    found.told.append(f"{found.events:.0f} events of orders a second")
    if size.strict and found.events < 0.9 * size.rate:
        found.wrong.append(f"{found.events:.0f} events a second, not {size.rate}")


def judge_machine(found: Found, size: Size, pulse: Pulse) -> None:
    found.told.append(f"the machine: load {pulse.load:.1f}, stalled {pulse.stalls} times")
    if size.strict and pulse.crowded:
        found.wrong.append(f"the machine was not for this alone: load {pulse.load:.1f}")


def tell_visits(found: Found, opened: dict[str, list[float]]) -> None:
    for path, seconds in opened.items():
        first, rest = seconds[0], seconds[1:] or seconds
        found.told.append(
            f"{path}: filled after {statistics.median(rest):.2f} s,"
            f" at most {max(rest):.2f} s, the first {first:.2f} s"
        )


def settle(found: Found, tab: Tab, house: House) -> None:
    """The traffic is over: what the page of all queues shows is what is true."""
    name = f"{QUEUE}0"

    def shown() -> bool:
        counts = house.client().get(f"/queues/{name}").json()["counts"]
        row = tab.page.locator("tr", has=tab.page.get_by_text(name, exact=True)).first
        text = row.inner_text(timeout=5_000) if row.count() else ""
        return all(f"{counts[one]:,}" in text for one in ("pending", "completed", "failed"))

    try:
        until(shown, PATIENCE, "the counts")
    except (TimeoutError, Error) as error:
        told = json.dumps(house.client().get(f"/queues/{name}").json()["counts"])
        found.wrong.append(f"/admin does not show {told}: {error}")

"""Clients that people use follow the service: through a kill, a restart and a cut line.

Each is a process of its own, or a page in Chromium, and says what it read event by event.
All follow one service at the same time, so that what takes a while does so once.
"""

import http.client
import json
import os
import signal
import socketserver
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, cast

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route

import events
import hub
from tests import node
from tests.chaos import post
from tests.chromium import chromium
from tests.conftest import entered
from tests.house import CUSTOMER, House, running
from tests.ledger import Ledger
from tests.live import ticket
from tests.services import ROOT, Postgres, Process, Server, until
from tests.sse import CONTROL

KILLED, RESTARTED = 200, 100  # purchases in the burst in which it is killed, and restarted
FACT = "order.created"
NAMES = sorted({*CONTROL, FACT})
SECONDS = 90.0  # for all clients to read what is there: the last comes back after five

# Which program in tests/clients reads with which client, or which call in a page.
NODE = {
    "eventsource": ("eventsource.mjs", "eventsource"),
    "undici": ("eventsource.mjs", "undici"),
    "eventsource-client": ("eventsource-client.mjs",),
}
PYTHON = {
    "httpx-sse": "read_httpx_sse.py",
    "aiohttp-sse-client2": "read_aiohttp_sse_client2.py",
}
PAGES = {
    "Chromium": "eventSource(url, names)",
    "fetch-event-source": "fetchEvents(url, token)",
    "fetch-event-source-told-its-cursor": "fetchWholeEvents(url, token)",
}
CLIENTS = [*NODE, *PYTHON, "curl", *PAGES]
ON_POSTGRES = "Chromium"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),  # nearly all of it happens before the first test
]


@dataclass(frozen=True)
class Source:
    """Where a stream is: by a ticket in the address, or by a header."""

    ticketed: str
    plain: str
    token: str


@dataclass(frozen=True)
class Told:
    """What a client made of one block."""

    event: str
    id: str
    data: str


class Client(Protocol):
    def knows(self, text: str) -> bool: ...

    def told(self) -> list[Told]: ...


class Script(Process):
    """A client that is a process; it writes a line of JSON for each event."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        super().__init__(folder)
        self._command = command

    def command(self) -> Sequence[str]:
        return self._command

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """With what it has started: the shell's curl."""
        if self.running:
            os.killpg(self.pid, number)
            self.wait()

    def knows(self, text: str) -> bool:
        return text in self.log

    def told(self) -> list[Told]:
        lines = [line for line in self.log.splitlines(keepends=True) if line.startswith("{")]
        return [Told(**json.loads(line)) for line in lines if line.endswith("\n")]


@dataclass
class InPage:
    """A client inside a page of a browser."""

    page: Page

    def knows(self, text: str) -> bool:
        look = "text => window.told.some(one => one.id === text || one.event === text)"
        return bool(self.page.evaluate(look, text))

    def told(self) -> list[Told]:
        return [Told(**one) for one in self.page.evaluate("window.told")]


# --- starting them --------------------------------------------------------------------


@dataclass
class Starter:
    """Starts clients; all end with `stack`."""

    browser: Browser
    stack: ExitStack

    def start(self, name: str, source: Source) -> Client:
        if name in PAGES:
            return self._page(PAGES[name], source)
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="filaviva-"))
        script = Script(Path(folder), command(name, source))
        script.launch()
        self.stack.callback(lambda: print(f"--- {name} ---\n{script.log[-2000:]}"))
        self.stack.callback(script.kill)
        return script

    def _page(self, call: str, source: Source) -> InPage:
        """An empty page at the stream's own origin, and in it the client."""
        host, _, path = source.ticketed.removeprefix("http://").partition("/")
        url = source.plain if "token" in call else f"/{path}"
        context = self.browser.new_context()
        self.stack.callback(context.close)
        page = context.new_page()
        page.route("**/clients/**", _serve)
        page.goto(f"http://{host}/clients/")
        load = f"([url, token, names]) => import('/clients/page.mjs').then(m => m.{call})"
        page.evaluate(load, [url, source.token, NAMES])
        page.unroute("**/clients/**")
        return InPage(page)


def command(name: str, source: Source) -> list[str]:
    if name == "curl":
        return ["bash", str(node.FOLDER / "curl.sh"), source.plain, source.token]
    if name in PYTHON:
        return [sys.executable, str(node.FOLDER / PYTHON[name]), source.plain, source.token]
    script, *package = NODE[name]
    given = [*package, source.ticketed, *NAMES] if package else [source.plain, source.token]
    return [str(node.program()), str(node.FOLDER / script), *given]


def _serve(route: Route) -> None:
    """The folder of the clients, at an address of the service itself."""
    path = route.request.url.partition("/clients/")[2]
    if not path:
        route.fulfill(body="<!doctype html><title>A client</title>", content_type="text/html")
        return
    file = node.FOLDER / path
    if not file.suffix:  # as its bundlers resolve it
        file = file.with_suffix(".js")
    route.fulfill(body=file.read_text(), content_type="text/javascript")


@pytest.fixture(scope="module")
def starter(npm: Path) -> Iterator[Starter]:
    with ExitStack() as stack:
        browser = entered(stack, chromium)
        yield Starter(browser, stack)


def wait_for(clients: dict[str, Client], text: str) -> None:
    """Until all were told it, or time is up: which one was not is for the tests to say."""
    deadline = time.monotonic() + SECONDS
    for client in clients.values():
        with suppress(TimeoutError):
            until(lambda one=client: one.knows(text), deadline - time.monotonic(), text)


# --- a service that dies --------------------------------------------------------------


@dataclass
class Place:
    """A service on one of the databases, and those who follow it."""

    house: House
    ledger: Ledger
    queue: str
    clients: dict[str, Client]

    def source(self) -> Source:
        """An order of the queue is one of the customer too: who has a ticket follows him."""
        where = f"{self.house.url}/api/v1/events"
        ticketed = f"{where}?ticket={ticket(self.house, [f'customer:{CUSTOMER}'])}"
        return Source(ticketed, f"{where}?topic=queue:{self.queue}", self.house.token("viewer"))

    def begin(self, count: int, pool: ThreadPoolExecutor) -> list[Future[None]]:
        """Purchases; returns when a third of them is there."""
        posts = [pool.submit(self._post, f"{count}-{n}") for n in range(count)]
        until(lambda: sum(one.done() for one in posts) > count / 3, SECONDS, "purchases")
        return posts

    def _post(self, key: str) -> None:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if post(self.house, 0, self.queue, key).status_code < 300:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"purchase {key} was not taken")

    @property
    def log(self) -> list[str]:
        """The id of each purchase's event, in order, as the database has it."""
        statement = "SELECT epoch, seq FROM events, stream WHERE type = '{}' ORDER BY seq"
        rows = self.ledger.sql(statement.format(FACT))
        return ["-".join(row.split("|")) for row in rows]


def burst(places: Collection[Place], count: int, end: Callable[[Server], Any]) -> None:
    """Purchases everywhere, in whose middle the services end in some way and come back."""
    with ExitStack() as stack:
        posts: list[Future[None]] = []
        for place in places:
            posts += place.begin(count, stack.enter_context(ThreadPoolExecutor(8)))
            end(place.house.servers[0])
        for place in places:
            place.house.servers[0].start()
        for one in posts:
            one.result()
    for place in places:
        wait_for(place.clients, place.log[-1])


@pytest.fixture(scope="module")
def places(starter: Starter, postgres_server: Postgres) -> Iterator[dict[str, Place]]:
    """Both services after their bursts, and with them what each client was told."""
    name = postgres_server.create()
    with (
        running() as on_sqlite,
        running(DATABASE_URL=postgres_server.url(name)) as on_postgres,
    ):
        found = {
            "sqlite": Place(on_sqlite, Ledger.sqlite(on_sqlite.servers[0]), on_sqlite.queue(), {}),
            "postgres": Place(
                on_postgres, Ledger.postgres(postgres_server, name), on_postgres.queue(), {}
            ),
        }
        for database, place in found.items():
            place.house.client("producer")  # made here: the threads would each make one
            source = place.source()
            for client in CLIENTS if database == "sqlite" else [ON_POSTGRES]:
                place.clients[client] = starter.start(client, source)
        for place in found.values():
            wait_for(place.clients, "hello")
        burst(found.values(), KILLED, Server.kill)
        burst(found.values(), RESTARTED, lambda server: server.stop(60))
        yield found
    postgres_server.drop(name)


EVERYONE = [*(("sqlite", client) for client in CLIENTS), ("postgres", ON_POSTGRES)]
everyone = pytest.mark.parametrize(
    "database, client", EVERYONE, ids=[f"{client}-{database}" for database, client in EVERYONE]
)


@everyone
def test_a_client_misses_nothing(places: dict[str, Place], database: str, client: str) -> None:
    """Killed in a burst, restarted in another: each event comes, once, in the log's order."""
    place = places[database]
    told = place.clients[client].told()
    log = place.log
    assert len(log) == KILLED + RESTARTED
    assert [one.id for one in told if one.event == FACT] == log
    assert [json.loads(one.data)["id"] for one in told if one.event == FACT] == log


@everyone
def test_a_client_sees_no_empty_event(places: dict[str, Place], database: str, client: str) -> None:
    """Whatever comes has a name and data, and the stream says by name how it begins and ends."""
    told = places[database].clients[client].told()
    assert {one.event for one in told} <= {*NAMES}
    assert all(isinstance(json.loads(one.data), dict) for one in told)
    control = [(one.event, json.loads(one.data)) for one in told if one.event != FACT]
    assert [event for event, _ in control].count("hello") >= 3
    assert [data["reason"] for event, data in control if event == "goodbye"] == ["shutdown"]


# --- a line that is cut ---------------------------------------------------------------

EPOCH = "torn"
BLOCKS = [
    events.frame(EPOCH, n, 0, events.Event(FACT, f"order:{n}", f'{{"n":{n}}}', queue="q")).data
    for n in range(1, 6)
]
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
)
PIECE_SECONDS = 0.1  # between two pieces, so that they are read one by one


class _Torn(socketserver.ThreadingTCPServer):
    """A service whose first stream, to each path, breaks off in the middle of its third event."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Line)
        self.cursors: dict[str, list[str]] = defaultdict(list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Line(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        path = self.rfile.readline().split()[1].decode()
        cursor = http.client.parse_headers(self.rfile).get("Last-Event-ID", f"{EPOCH}-0")
        cursors = cast(_Torn, self.server).cursors[path]
        cursors.append(cursor)
        seq = int(cursor.removeprefix(f"{EPOCH}-"))
        self.wfile.write(HEAD)
        self._send(hub.control("hello", {}, cursor, 50), hub.HEARTBEAT)
        if len(cursors) > 1:
            self._send(*BLOCKS[seq:-1], hub.HEARTBEAT, BLOCKS[-1])
            self.rfile.read()  # until the client hangs up
            return
        first, second, third = BLOCKS[:3]
        self._send(first, hub.HEARTBEAT, second[:20], second[20:-1], second[-1:], hub.HEARTBEAT)
        self._send(third[:-1], b"")

    def _send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if piece else b"")
            time.sleep(PIECE_SECONDS)


@pytest.fixture(scope="module")
def after_a_cut(starter: Starter) -> Iterator[dict[str, Client]]:
    """All clients after such a line, come back and told the rest."""
    with _Torn() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        clients = {
            name: starter.start(name, Source(f"{server.url}/{name}", f"{server.url}/{name}", "t"))
            for name in CLIENTS
        }
        wait_for(clients, f"{EPOCH}-{len(BLOCKS)}")
        server.shutdown()
        thread.join()
        yield clients


# It takes an id for its cursor when it reads that line, not at the end of the event.
LOSES = {"fetch-event-source": [3]}


@pytest.mark.parametrize("client", CLIENTS)
def test_half_an_event_is_none(after_a_cut: dict[str, Client], client: str) -> None:
    """Cut off one byte before its end it counts for nothing, and comes whole afterwards."""
    told = after_a_cut[client].told()
    expected = [n for n in range(1, len(BLOCKS) + 1) if n not in LOSES.get(client, [])]
    assert [one.id for one in told if one.event == FACT] == [f"{EPOCH}-{n}" for n in expected]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_heartbeat_is_no_event(after_a_cut: dict[str, Client], client: str) -> None:
    """Before, between and after events: nothing is told but the two greetings and the events."""
    told = after_a_cut[client].told()
    assert [one.event for one in told if one.event != FACT] == ["hello", "hello"]
    assert all(one.data for one in told)


# --- what is written about them -------------------------------------------------------


def test_the_documents_name_what_was_tested() -> None:
    """Each client stands in docs/streams.md with the version that the tests install."""
    document = (ROOT / "docs" / "streams.md").read_text()
    packages = json.loads((node.FOLDER / "package.json").read_text())["dependencies"]
    lines = (ROOT / "requirements-dev.in").read_text().splitlines()
    pins = {name: version for name, _, version in (line.partition("==") for line in lines)}
    for name in (*NODE, "@microsoft/fetch-event-source"):
        assert f"| npm `{name}` | {packages[name]} |" in document
    for name in PYTHON:
        assert f"| PyPI `{name}` | {pins[name]} |" in document

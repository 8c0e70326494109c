"""nginx as deploy/nginx.conf has it, in front of two processes on PostgreSQL and Redis."""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from inspect import signature
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

import config
from hub import Limits
from tests import services
from tests.conftest import entered
from tests.house import API, DISC, House, running
from tests.sse import Block, Stream

DEPLOY = services.ROOT / "deploy"
CONF = (DEPLOY / "nginx.conf").read_text()
UPSTREAM = (DEPLOY / "upstream.conf").read_text()
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx(services.Process):
    """A real nginx with our nginx.conf; where it listens, whom it asks and `less` are the test's.

    `less`: what a test cannot wait for or cannot fill, and what stands there instead.
    """

    end_signal = signal.SIGQUIT  # its graceful end

    def __init__(
        self, folder: Path, program: str, ports: Sequence[int], less: Mapping[str, str]
    ) -> None:
        super().__init__(folder)
        self.program = program
        self.port, self.port_2 = services.free_port(), services.free_port()
        text = CONF
        for usual, instead in less.items():
            assert usual in text
            text = text.replace(usual, instead)
        (folder / "nginx.conf").write_text(text)
        given = UPSTREAM
        for name, port in zip(("app-1", "app-2"), ports, strict=True):
            given = given.replace(f"{name}:8000", f"127.0.0.1:{port}")
        (folder / "upstream.conf").write_text(given)
        places = [f"{name}_temp_path {folder}/{name};" for name in TEMPORARY]
        doors = [f"listen 127.0.0.1:{self.port};", f"listen 127.0.0.1:{self.port_2} http2;"]
        listen = [*doors, *places]
        (folder / "listen.conf").write_text("\n".join(listen))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        user = "user root;" if os.geteuid() == 0 else ""
        more = f"daemon off; pid {self.folder}/pid; {user}"
        conf = str(self.folder / "nginx.conf")
        return [self.program, "-p", str(self.folder), "-c", conf, "-g", more]

    def ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


@contextmanager
def nginx(ports: Sequence[int], less: Mapping[str, str] = {}) -> Iterator[Nginx]:
    """A running nginx in front of two ports. Raises Missing."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise services.Missing("no nginx: apt-get install nginx-light")
    with services._folder() as folder:
        server = Nginx(folder, program, ports, less)
        server.start()
        try:
            yield server
        finally:
            server.stop()
            print(f"--- log of nginx ---\n{server.log}")


@dataclass
class Front:
    """nginx and the house behind it."""

    nginx: Nginx
    house: House

    def client(self, role: str | None, address: str = "127.0.0.1") -> httpx.Client:
        """A client below /api/v1 of nginx, from one of this machine's addresses."""
        headers = {} if role is None else {"Authorization": f"Bearer {self.house.token(role)}"}
        transport = httpx.HTTPTransport(local_address=address)
        url = self.nginx.url + API
        return httpx.Client(base_url=url, headers=headers, transport=transport, timeout=30)

    def watch(self, *topics: str, cursor: str | None = None, **query: Any) -> Stream:
        headers = {"Authorization": f"Bearer {self.house.token('admin')}"}
        if cursor is not None:
            headers["Last-Event-ID"] = cursor
        return Stream(self.nginx.url, headers=headers, topic=list(topics), **query)


def migrate(**settings: str) -> None:
    """`cli.py migrate`, as the one-shot service of compose.yaml runs it."""
    given = {f"FILAVIVA_{name}": value for name, value in settings.items()}
    command = [sys.executable, "cli.py", "migrate"]
    environment = {"PATH": os.defpath, **given}
    done = subprocess.run(
        command, cwd=services.ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def opened(postgres: services.Postgres, redis: services.RedisServer, data: Path) -> Iterator[Front]:
    """The whole of compose.yaml without containers, by an owner who is no superuser."""
    name = postgres.create()
    role = f"{name}_owner"
    postgres.sql(f"CREATE ROLE {role} LOGIN")
    postgres.sql(f"ALTER DATABASE {name} OWNER TO {role}")
    url = f"postgres://{role}@127.0.0.1:{postgres.port}/{name}"
    migrate(DATABASE_URL=url, DATA_DIR=str(data))
    with ExitStack() as stack:
        stack.callback(postgres.drop, name)
        house = stack.enter_context(
            running(
                2,
                ENVIRONMENT="production",
                DATABASE_URL=url,
                REDIS_URL=redis.url,
                RATE_LIMITS="on",
                TRUSTED_PROXIES="127.0.0.1",
            )
        )
        ports = [server.port for server in house.servers]
        yield Front(entered(stack, lambda: nginx(ports)), house)


@pytest.fixture(scope="module")
def front(
    postgres_server: services.Postgres,
    redis_server: services.RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    with opened(postgres_server, redis_server, tmp_path_factory.mktemp("data")) as found:
        yield found


@pytest.fixture
def own_front(
    postgres_server: services.Postgres, redis_server: services.RedisServer, tmp_path: Path
) -> Iterator[Front]:
    """One whose processes the test may end."""
    with opened(postgres_server, redis_server, tmp_path) as found:
        yield found


def test_what_is_posted_to_any_process_is_seen_through_nginx_at_once(front: Front) -> None:
    """Streams are not buffered on the way, and both processes feed them."""
    took: dict[int, list[float]] = {0: [], 1: []}
    with front.watch("customer:c-nginx") as stream:
        stream.first("hello")
        for number, place in enumerate((0, 1) * 10):
            began = time.monotonic()
            body = {"customer": "c-nginx", "items": [DISC]}
            posted = front.house.client("producer", place).post(
                "/queues/orders/messages", json=body
            )
            seen = stream.events(number + 1)[number]
            assert seen.json["data"]["id"] == posted.json()["id"]
            took[place].append(seen.at - began)
            if number >= 5 and all(min(times) < 1.0 for times in took.values()):
                return
    raise AssertionError(f"never at once: {took}")


def test_the_processes_see_the_address_of_the_caller(front: Front) -> None:
    """Limits are counted by the caller's own address, whatever a caller claims to be."""

    def left(address: str, **headers: str) -> int:
        with front.client(None, address) as client:
            answer = client.post("/auth/refresh", json={"refresh_token": "x"}, headers=headers)
        assert answer.status_code == 401
        found = re.fullmatch(r'"anonymous";r=(\d+);t=\d+', answer.headers["ratelimit"])
        assert found is not None
        return int(found[1])

    def counted() -> bool:
        """Each process counts alone for a while if Redis did not answer it in time."""
        number = next(fresh)
        one, other = f"127.0.1.{number}", f"127.0.2.{number}"
        found = [left(one), left(one), left(one, **{"X-Forwarded-For": "198.51.100.7"})]
        return [*found, left(other)] == [59, 58, 57, 59]

    fresh = count(1)
    services.until(counted, 60, "the caller's own address counts")


def test_large_batches_pass_and_larger_ones_are_told_as_the_service_tells(front: Front) -> None:
    """4 MiB go through; what nginx refuses itself is a problem with the request's id too."""
    name = "0b7a1f6c-2e11-4a8e-9d35-7d1c1a522f0e"
    purchase = {"customer": "c-large", "items": [DISC], "metadata": {"note": "n" * 15_000}}
    with front.client("producer") as client:
        passed = client.post("/queues/orders/messages/batch", json={"messages": [purchase] * 250})
        assert passed.json()["accepted"] == 250
        refused = client.post(
            "/queues/orders/messages/batch",
            content=b" " * (4 * 1024 * 1024 + 1),
            headers={"Content-Type": "application/json", "X-Request-ID": name},
        )
    assert refused.status_code == 413
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["code"] == "too_large"
    assert refused.json()["instance"] == f"urn:uuid:{name}"
    assert refused.headers["x-request-id"] == name


def test_a_request_id_is_the_same_on_both_sides(front: Front) -> None:
    """nginx's log and the service's answer name a request alike; a forged id goes nowhere."""
    with front.client("admin") as client:
        made = client.get("/queues", headers={"X-Request-ID": "not a uuid"})
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made.headers["x-request-id"])
    services.until(lambda: made.headers["x-request-id"] in front.nginx.log, 30, "the access log")


class Reader:
    """An EventSource in a thread: reads, reconnects with the last id, until it has seen all."""

    def __init__(self, front: Front, topic: str) -> None:
        self.seen: list[str] = []
        self.goodbyes: list[str] = []
        self.failure: BaseException | None = None
        self._front = front
        self._topic = topic
        self._done = threading.Event()
        self.connected = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        cursor: str | None = None
        try:
            while not self._done.is_set():
                with self._front.watch(self._topic, cursor=cursor) as stream:
                    cursor = self._read(stream) or cursor
        except BaseException as error:
            self.failure = error

    def _read(self, stream: Stream) -> str | None:
        assert stream.status == 200
        before = self.seen
        while not stream.over and not self._done.is_set():
            stream.quiet(0.1)
            self.seen = before + [block.json["data"]["id"] for block in stream.facts]
            if stream.named("hello"):
                self.connected.set()
        assert not stream.named("reset")
        self.goodbyes += [block.json["reason"] for block in stream.named("goodbye")]
        ids = [block.id for block in stream.blocks if block.id is not None]
        return ids[-1] if ids else None

    def stop(self) -> None:
        self._done.set()
        self._thread.join(60)
        assert self.failure is None


def post(client: httpx.Client, customer: str, key: str) -> str:
    """Post, and ask again by the same key while the outcome is in doubt; the order's id."""
    body = {"customer": customer, "items": [DISC], "idempotency_key": key}

    def accepted() -> str:
        try:
            answer = client.post("/queues/orders/messages", json=body)
        except httpx.TransportError:
            return ""
        return str(answer.json()["id"]) if answer.status_code in (200, 201) else ""

    return services.until(accepted, 60, key)


def test_when_a_process_ends_its_streams_go_on_at_the_other_without_a_hole(
    own_front: Front,
) -> None:
    """A rolling restart under load: every reader gets every event once and in order."""
    posted: list[str] = []
    readers = [Reader(own_front, "customer:c-rolling") for _ in range(6)]
    for reader in readers:
        assert reader.connected.wait(60)
    leaving = own_front.house.servers[0]
    with own_front.client("producer") as client:
        for n in range(90):
            if n == 30:
                leaving.kill(signal.SIGTERM)
            posted.append(post(client, "c-rolling", f"order-{n}"))
    with own_front.watch("customer:c-rolling", since="earliest") as stream:
        told = [block.json["data"]["id"] for block in stream.events(90)]
    assert leaving.wait(60) == 0
    assert told == posted
    for reader in readers:
        with suppress(TimeoutError):
            services.until(lambda r=reader: len(r.seen) >= 90 or r.failure, 60, "all of it")
        reader.stop()
        assert reader.seen == posted
    assert "shutdown" in {reason for reader in readers for reason in reader.goodbyes}


# --- streams and what nginx itself has to say -----------------------------------------


def told(name: str) -> str:
    """What nginx.conf says of a directive that streams need; the last one counts."""
    return re.findall(rf"^\s*{name} ([^;]+);", CONF, re.MULTILINE)[-1]


def test_a_stream_may_be_as_silent_and_streams_as_many_as_the_service_allows() -> None:
    """A line is cut after missed heartbeats only; each worker has room for what a process takes."""
    assert 2 * Limits().heartbeat < int(told("proxy_read_timeout").removesuffix("s")) < 60
    assert int(told("worker_connections")) > 2 * config.load({}).max_streams
    assert int(told("worker_rlimit_nofile")) >= int(told("worker_connections"))


def test_nginx_leaves_an_idle_line_before_the_service_does() -> None:
    """What is sent at the moment in which the service closes it is lost: a 502 to a purchase."""
    (idle,) = re.findall(r"^\s*keepalive_timeout (\d+)s;", UPSTREAM, re.MULTILINE)
    assert int(idle) < signature(uvicorn.Config).parameters["timeout_keep_alive"].default


def test_a_browser_may_use_http_2(front: Front) -> None:
    """Events come as they happen over HTTP/2 too, and nobody compresses them."""
    token = front.house.token("admin")
    url = f"http://127.0.0.1:{front.nginx.port_2}{API}/events?topic=customer:c-h2"
    command = ["curl", "-siN", "-m", "60", "--http2-prior-knowledge", "--compressed", url]
    with subprocess.Popen(
        [*command, "-H", f"Authorization: Bearer {token}"], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        head = list(iter(reader.stdout.readline, "\n"))
        post(front.house.client("producer"), "c-h2", "h2")
        lines = iter(reader.stdout.readline, "")
        assert any(line == "event: order.created\n" for line in lines)
        reader.kill()
    assert head[0].startswith("HTTP/2 200")
    assert not any(line.lower().startswith("content-encoding") for line in head)


class Stub:
    """A process that behaves badly: takes a line, answers with some bytes or none, and cuts it."""

    def __init__(self, stack: ExitStack, says: bytes | None) -> None:
        """`says` None: it takes lines and never answers."""
        self._says = says
        self._socket = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._held: list[socket.socket] = []
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                line, _ = self._socket.accept()
                self._held.append(line)
                if self._says is not None:
                    line.recv(65536)
                    line.sendall(self._says)
                    line.close()

    def hang_up(self) -> None:
        """Cut all lines, and those to come."""
        self._says = b""
        for line in self._held:
            with suppress(OSError):  # closed
                line.shutdown(socket.SHUT_RDWR)


def deaf(stack: ExitStack) -> int:
    """The port of a process whose line of waiting calls is full: a connect gets no answer."""
    full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    port: int = full.getsockname()[1]
    for _ in range(4):
        caller = stack.enter_context(socket.socket())
        caller.setblocking(False)
        caller.connect_ex(("127.0.0.1", port))
    return port


FAILURES: dict[str, Callable[[ExitStack], int]] = {
    "refuses": lambda _: services.free_port(),
    "hangs up": lambda stack: Stub(stack, b"").port,
    "never answers": lambda stack: Stub(stack, None).port,
    "never takes the line": deaf,
}
SOONER = {"proxy_read_timeout 45s;": "proxy_read_timeout 1s;"}


@pytest.mark.parametrize("failure", FAILURES)
def test_when_a_process_fails_a_browser_is_told_to_come_back(failure: str) -> None:
    """An EventSource gives up for good on nginx's own 502 and 504; others get a problem."""
    with ExitStack() as stack:
        ports = [FAILURES[failure](stack), services.free_port()]
        alone = entered(stack, lambda: nginx(ports, SOONER))
        farewell = farewell_of(alone)
        assert farewell.retry is not None
        assert 5_000 <= farewell.retry < 10_000
        assert farewell.json == {"reason": "overloaded", "reconnect_ms": farewell.retry}


def farewell_of(alone: Nginx) -> Block:
    with Stream(alone.url, topic="queues", ticket="a-very-secret-ticket") as stream:
        assert stream.status == 200
        assert stream.headers["access-control-allow-origin"] == "*"
        (only,) = [stream.end()]
        assert only.event == "goodbye"
        return only


def test_they_do_not_all_come_back_at_once() -> None:
    """Each is told a time of its own."""
    with ExitStack() as stack:
        alone = entered(stack, lambda: nginx([services.free_port(), services.free_port()]))
        times = [farewell_of(alone).retry or 0 for _ in range(40)]
        assert len(set(times)) > 30
        assert max(times) - min(times) > 2_500


def test_who_wants_no_stream_is_told_by_a_problem() -> None:
    """503 as the service would say it; a ticket does not get into a log by it."""
    with ExitStack() as stack:
        alone = entered(stack, lambda: nginx([services.free_port(), services.free_port()]))
        for path in ("/events?topic=queues&ticket=a-very-secret-ticket", "/queues"):
            answer = httpx.get(alone.url + API + path, timeout=30)
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["code"] == "unavailable"
            assert answer.json()["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"
        for path in ("/events", "/queues"):
            services.until(lambda p=path: API + p in alone.log, 30, "the access log")
        assert "secret" not in alone.log


def test_a_stream_whose_process_dies_just_breaks() -> None:
    """What came is passed on; then the line is cut, and nothing is made up."""
    block = b'id: a-1\nevent: bookmark\ndata: {"head":"a-1"}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    with ExitStack() as stack:
        dying = Stub(stack, head + b"\r\n%x\r\n%b\r\n" % (len(block), block))
        alone = entered(stack, lambda: nginx([dying.port, dying.port]))
        with Stream(alone.url, topic="queues") as stream:
            assert stream.end().raw == block
            assert stream.raw == block


def test_when_nginx_is_full_a_browser_comes_back_too() -> None:
    """Whoever gets in gets a goodbye, others a cut line; nobody gets a status but 200."""
    few = {"worker_connections 32768;": "worker_connections 24;", "worker_processes auto;": ""}
    with ExitStack() as stack:
        silent = Stub(stack, None)
        alone = entered(stack, lambda: nginx([silent.port, silent.port], few))
        lines = [call(stack, alone) for _ in range(40)]
        services.until(lambda: any(map(cut, lines)), 30, "nginx is full")
        silent.hang_up()
        assert {start_of(line) for line in lines} == {"HTTP/1.1 200 OK", ""}
        assert "secret" not in alone.log


def call(stack: ExitStack, alone: Nginx) -> socket.socket:
    line = stack.enter_context(socket.create_connection(("127.0.0.1", alone.port), 60))
    with suppress(ConnectionError):
        path = f"{API}/events?ticket=a-very-secret-ticket"
        head = f"GET {path} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
        line.sendall(head.encode())
    return line


def cut(line: socket.socket) -> bool:
    """Whether it is over, and nothing came."""
    if not select.select([line], [], [], 0)[0]:
        return False
    try:
        return line.recv(1, socket.MSG_PEEK) == b""
    except ConnectionError:
        return True


def start_of(line: socket.socket) -> str:
    """The first line of an answer; empty if the line was cut."""
    with suppress(ConnectionError):
        return line.recv(1024).decode().partition("\r\n")[0]
    return ""

"""Who fans out: the service, nginx with nchan, and sse-starlette's plain generator.

Each is one process on the server's core. What they send is the same CloudEvent, and blocks of
the same fields around it.
"""

import json
import os
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx

from bench import stand
from bench.audience import SERVER_CORE, Request, on_core
from tests import services

MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
EVERYBODY = 12_000  # streams that anybody may have
FILES = 20_000
TOPIC = f"queue:{stand.QUEUE}"


def customer(number: int) -> str:
    """Of the same length for all."""
    return f"c-{number:05}"


def post(port: int, path: str, body: bytes, *headers: str) -> bytes:
    """A whole request."""
    lines = (f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers)
    return (
        "".join(f"{one}\r\n" for one in (*lines, f"Content-Length: {len(body)}", "")).encode()
        + body
    )


class Rival(ABC):
    """Someone who is published to and listened to.

    Topics have numbers: of one topic it is the queue's, of more they are customers'.
    """

    name: str

    @property
    @abstractmethod
    def port(self) -> int: ...

    @property
    @abstractmethod
    def pid(self) -> int:
        """Of the process that serves."""

    @abstractmethod
    def request(self, topics: int) -> Request:
        """The streams, one path for each topic."""

    @abstractmethod
    def posts(self, topics: int, events: int) -> tuple[list[bytes], int]:
        """Requests to be sent in turn, and how many of them at once carry so many events."""


def topic(number: int, topics: int) -> str:
    return TOPIC if topics == 1 else f"customer:{customer(number)}"


class Ours(Rival):
    """The service, on SQLite. Events are purchases: a batch for all that arrive at once."""

    name = "Filaviva"

    def __init__(self, service: stand.Service) -> None:
        self._service = service
        token = service.account("publisher", "producer", "viewer")
        self._credential = f"Authorization: Bearer {token}"

    @property
    def port(self) -> int:
        return self._service.port

    @property
    def pid(self) -> int:
        return self._service.pid

    def request(self, topics: int) -> Request:
        names = [quote(topic(n, topics)) for n in range(topics)]
        return Request([f"{stand.API}/events?topic={one}" for one in names], [self._credential])

    def posts(self, topics: int, events: int) -> tuple[list[bytes], int]:
        buyers = [{**stand.PURCHASE, "customer": customer(n)} for n in range(topics)]
        turns = range(0, topics, events)
        made = [[buyers[(n + k) % topics] for k in range(events)] for n in turns]
        path = f"{stand.API}/queues/{stand.QUEUE}/messages"
        headers = (self._credential, "Content-Type: application/json")
        if events == 1:
            return [self._post(path, one[0], headers) for one in made], 1
        return [self._post(f"{path}/batch", {"messages": one}, headers) for one in made], 1

    def _post(self, path: str, body: object, headers: Sequence[str]) -> bytes:
        return post(self.port, path, json.dumps(body).encode(), *headers)

    def event(self) -> bytes:
        """What an event says: a real one's data."""
        batch = {"messages": [{**stand.PURCHASE, "customer": customer(0)}]}
        self._service.call(f"/queues/{stand.QUEUE}/messages/batch", batch)
        found = self._service.look(f"/events/history?topic={TOPIC}")["items"][0]
        return json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()


class Messenger(Rival):
    """One to whom an event is posted as it is, each in a request of its own."""

    def __init__(self, server: services.Process, port: int, pid: int, event: bytes) -> None:
        self._server, self._port, self._pid, self._event = server, port, pid, event

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        return self._pid

    def request(self, topics: int) -> Request:
        return Request([f"/events?topic={topic(n, topics)}" for n in range(topics)])

    def posts(self, topics: int, events: int) -> tuple[list[bytes], int]:
        paths = [f"/publish?topic={topic(n, topics)}" for n in range(topics)]
        kind = "X-EventSource-Event: order.created"
        return [post(self.port, path, self._event, kind) for path in paths], events


class Nchan(Messenger):
    name = "nchan"


class Plain(Messenger):
    name = "sse-starlette"


NGINX = """
load_module {module};
daemon off;
pid {folder}/pid;
error_log {folder}/errors warn;
{user}
worker_processes 1;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    nchan_shared_memory_size 1024M;
    {temporary}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /events {{
            nchan_subscriber eventsource;
            nchan_channel_id $arg_topic;
            nchan_subscriber_first_message newest;
        }}
        location = /publish {{
            nchan_publisher http;
            nchan_channel_id $arg_topic;
            nchan_message_buffer_length {kept};
            nchan_message_timeout 60s;
        }}
    }}
}}
"""
KEPT = 20_000  # messages of a channel
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx(services.Process):
    """nginx with nchan: one worker, memory store."""

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder)
        self.port = services.free_port()
        self._program = program
        places = " ".join(f"{name}_temp_path {folder}/{name};" for name in TEMPORARY)
        user = "user root;" if os.geteuid() == 0 else ""
        text = NGINX.format(
            module=MODULE,
            folder=folder,
            user=user,
            files=FILES,
            temporary=places,
            port=self.port,
            kept=KEPT,
        )
        (folder / "nginx.conf").write_text(text)

    def command(self) -> Sequence[str]:
        return [self._program, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]

    def ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/").status_code == 404
        except httpx.TransportError:
            return False

    @property
    def worker(self) -> int:
        """The process that does the work."""
        for one in Path("/proc").glob("[0-9]*/stat"):
            fields = one.read_text().rpartition(")")[2].split()
            if int(fields[1]) == self.pid:
                return int(one.parent.name)
        raise RuntimeError("nginx has no worker")


class PlainServer(services.Server):
    """bench/plain.py, served as the service is."""

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "bench.serve", "bench.plain:app"]

    def ready(self) -> bool:
        return self.status("/nothing") == 404


@contextmanager
def ours() -> Iterator[Ours]:
    most = str(EVERYBODY)
    settings = {
        "RATE_LIMITS": "off",
        "MAX_STREAMS": most,
        "MAX_STREAMS_PER_PRINCIPAL": most,
        "MAX_STREAMS_PER_ADDRESS": most,
    }
    with ExitStack() as stack:
        with on_core(SERVER_CORE):
            service = stack.enter_context(stand.Service(**settings))
        yield Ours(service)


def nginx_path() -> str:
    """Raises services.Missing."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None or not MODULE.exists():
        raise services.Missing("no nchan: apt-get install nginx-light libnginx-mod-nchan")
    return found


@contextmanager
def nchan(event: bytes) -> Iterator[Nchan]:
    """Raises services.Missing."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="filaviva-")))
        server = Nginx(folder, nginx_path())
        stack.callback(server.stop)
        with on_core(SERVER_CORE):
            server.start()
        yield Nchan(server, server.port, server.worker, event)


@contextmanager
def plain(event: bytes) -> Iterator[Plain]:
    with ExitStack() as stack:
        with on_core(SERVER_CORE):
            server = stack.enter_context(PlainServer())
        yield Plain(server, server.port, server.pid, event)

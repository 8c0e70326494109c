"""The lines of streams: lent by our server or not, given back, bounded, and drained."""

import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import Settings
from errors import Overloaded
from streams import FILES_BESIDES, Owner, Streams, most_streams
from tests.house import API, SECRET_KEY, House, running
from tests.live import PUBLIC_URL, forged_ticket, ticket, travel, watch
from tests.services import Postgres, Server, until
from tests.sse import Stream

ME = Owner(None, "192.0.2.1")


# --- a line that is lent ----------------------------------------------------------------


@contextmanager
def line(house: House) -> Iterator[socket.socket]:
    server = house.servers[0]
    with socket.create_connection(("127.0.0.1", server.port), 30) as found:
        yield found


def request(path: str, **query: str) -> bytes:
    target = f"{path}?{urlencode(query)}" if query else path
    return f"GET {target} HTTP/1.1\r\nHost: filaviva.test\r\n\r\n".encode()


def read(found: socket.socket, until_it_has: bytes) -> bytes:
    """What comes, up to some bytes; all of it if they are none."""
    text = b""
    while not until_it_has or until_it_has not in text:
        more = found.recv(65_536)
        if not more:
            return text
        text += more
    return text


def end(house: House, text: str) -> None:
    """The streams of a ticket."""
    answer = house.client("producer").post("/events/tickets/revoke", json={"ticket": text})
    assert answer.status_code == 204


def test_a_line_may_be_used_again(house: House) -> None:
    """After its goodbye a connection is what it was before: the next request is answered."""
    text = ticket(house, ["queues"])
    with line(house) as found:
        found.sendall(request(f"{API}/events", ticket=text))
        read(found, b"event: hello")
        end(house, text)
        stream = read(found, b"\r\n0\r\n\r\n")
        assert b"event: goodbye" in stream
        found.sendall(request("/livez"))
        assert read(found, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_waits_behind_a_stream_is_answered_after_it(house: House) -> None:
    """Requests on one line are answered in their order (RFC 9112, 9.3.2), streams too."""
    text = ticket(house, ["queues"])
    with line(house) as found:
        found.sendall(request(f"{API}/events", ticket=text) + request("/livez"))
        begun = read(found, b"event: hello")
        assert b'"ok"' not in begun
        end(house, text)
        got = begun + read(found, b'"ok"')
    stream, _, rest = got.partition(b"\r\n0\r\n\r\n")
    assert b"event: goodbye" in stream
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")


class Plain(Server):
    """Served by a server that lends no lines."""

    def command(self) -> Sequence[str]:
        options = ["--port", str(self.port), "--log-level", "warning", "--no-server-header"]
        return [sys.executable, "-m", "uvicorn", "main:app", *options]


def open_streams(server: Server, token: str) -> int:
    """As the metrics tell."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as found:
        lines = f"GET /metrics HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n"
        found.sendall(lines.encode())
        (said,) = [x for x in read(found, b"").split(b"\n") if x.startswith(b"filaviva_streams_o")]
    return int(float(said.split()[1]))


def test_another_server_serves_streams_too() -> None:
    """Under a server that lends no lines: events, goodbyes, and nobody who hung up stays."""
    settings = {"SECRET_KEY": SECRET_KEY, "PUBLIC_URL": PUBLIC_URL, "METRICS_TOKEN": "m" * 20}
    with Plain(**settings, RATE_LIMITS="off", ADMIN_PASSWORD="a-password-of-tests") as server:
        text, other_text = (
            forged_ticket([topic], 3600, owner="admin") for topic in ("queue:orders", "queues")
        )
        form = "username=admin&password=a-password-of-tests"
        token = post(server, "/auth/token", form, "application/x-www-form-urlencoded")
        bearer = token.partition('"access_token":"')[2].partition('"')[0]
        with (
            Stream(server.url, ticket=text) as stream,
            Stream(server.url, ticket=other_text) as other,
        ):
            stream.first("hello")
            other.first("hello")
            body = f'{{"ticket": "{other_text}"}}'
            post(server, "/events/tickets/revoke", body, "application/json", bearer)
            assert other.end().json["reason"] == "revoked"
            body = '{"customer": "c-7", "items": [{"sku": "d", "quantity": 1, "amount_cents": 1}]}'
            post(server, "/queues/orders/messages", body, "application/json", bearer)
            assert stream.first("order.created").json["subject"]
            assert open_streams(server, "m" * 20) == 1
        until(lambda: open_streams(server, "m" * 20) == 0, 30, "the stream is forgotten")


def post(server: Server, path: str, body: str, kind: str, bearer: str = "") -> str:
    lines = [f"POST {API}{path} HTTP/1.0", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"Authorization: Bearer {bearer}"] if bearer else []
    with socket.create_connection(("127.0.0.1", server.port), 30) as found:
        found.sendall("\r\n".join([*lines, "", body]).encode())
        answer = read(found, b"").decode()
    assert answer.split()[1] in ("200", "201", "204"), answer
    return answer


# --- bounds -------------------------------------------------------------------------------


def settings(**given: object) -> Settings:
    return Settings(**given)  # pyright: ignore[reportArgumentType]


@given(rate=st.integers(1, 50), waits=st.lists(st.floats(0, 3), max_size=150))
def test_so_many_streams_are_opened_a_second(rate: int, waits: list[float]) -> None:
    """In no stretch of time are there more than the rate allows, plus one second's worth."""
    now = [0.0]
    streams = Streams(
        settings(max_stream_rate=rate, max_streams_per_address=12_000), clock=lambda: now[0]
    )
    opened: list[float] = []
    for wait in waits:
        now[0] += wait / rate
        try:
            streams.admit(ME)
        except Overloaded:
            assert len(opened) >= rate
            continue
        opened.append(now[0])
    for number, moment in enumerate(opened):
        within = [other for other in opened[number:] if other <= moment + 1]
        assert len(within) <= 2 * rate + 1


def test_no_rate_where_limits_are_off() -> None:
    """RATE_LIMITS=off opens as many streams at once as there may be."""
    streams = Streams(
        settings(max_stream_rate=1, rate_limits=False, max_streams_per_address=50), lambda: 0.0
    )
    for _ in range(50):
        streams.admit(ME)


@pytest.mark.parametrize(
    "files, most",
    [(1_024, 1_024 - 10 - FILES_BESIDES), (20_000, 12_000), (resource.RLIM_INFINITY, 12_000)],
)
def test_no_more_streams_than_open_files(files: int, most: int) -> None:
    """A stream is an open file, and the service needs some for itself."""
    assert most_streams(settings(), files) == most


class Poor(Server):
    """A process that may open few files, and no more if it asks."""

    def command(self) -> Sequence[str]:
        serve = " ".join(map(str, super().command()))
        return ["/bin/sh", "-c", f"ulimit -n {10 + FILES_BESIDES + 20}; exec {serve}"]


def test_out_of_files_is_no_way_to_go() -> None:
    """Beyond what the process may open a stream is told to come back; all else works on."""
    given = {"SECRET_KEY": SECRET_KEY, "PUBLIC_URL": PUBLIC_URL, "RATE_LIMITS": "off"}
    with Poor(**given) as server:
        text = forged_ticket(["queues"], 3600, owner="admin", streams=100)
        streams = [Stream(server.url, ticket=text) for _ in range(25)]
        words = [stream.wait(lambda one: one.blocks, 30, "a word")[0] for stream in streams]
        assert [word.event for word in words] == ["hello"] * 20 + ["goodbye"] * 5
        assert {word.json["reason"] for word in words[20:]} == {"overloaded"}
        until(server.ready, 30, "it is ready")
        for stream in streams:
            stream.close()


# --- a storm and a drain --------------------------------------------------------------------


def test_those_who_come_back_read_no_database(postgres_server: Postgres) -> None:
    """A ticket, a cursor and the ring are enough: streams resume while the database is away.

    Nor does the end of another's credential make it ask the database who they are.
    """
    name = postgres_server.create()
    with running(DATABASE_URL=postgres_server.url(name)) as house:
        queue = house.queue()
        orders = [travel(house, queue)["id"] for _ in range(4)]
        text = ticket(house, [f"queue:{queue}", *(f"order:{order}" for order in orders)])
        with Stream(house.url, ticket=text, since="earliest") as stream:
            ids = [block.id for block in stream.events(12)]
        other = ticket(house, ["queues"], role="viewer")
        with Stream(house.url, ticket=other) as stream:
            stream.first("hello")
            house.client().post("/events/tickets/revoke", json={"ticket": other})
            assert stream.end().json["reason"] == "revoked"
        postgres_server.sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        postgres_server.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        with ExitStack() as stack:
            streams = [
                stack.enter_context(Stream(house.url, ticket=text, last_event_id=ids[3]))
                for _ in range(16)
            ]
            for stream in streams:
                assert [block.id for block in stream.events(8)] == ids[4:]
        postgres_server.sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
        until(house.servers[0].ready, 30, "it serves again")


def test_who_resumes_may_have_the_newest_alone(house: House) -> None:
    """`coalesce=latest`: what was missed is the last state of each order; the history has all."""
    queue = house.queue()
    with watch(house, f"queue:{queue}") as stream:
        cursor = stream.first("hello").id
    orders = [travel(house, queue)["id"] for _ in range(3)]
    query = {"topic": f"queue:{queue}"}
    with watch(house, f"queue:{queue}", cursor=cursor, coalesce="latest") as stream:
        last = stream.events(3)
        assert [(block.event, block.json["subject"]) for block in last] == [
            ("order.completed", order) for order in orders
        ]
    whole = house.client().get("/events/history", params={**query, "after": cursor}).json()
    assert len(whole["items"]) == 9
    refused = house.client().get("/events", params={**query, "coalesce": "first"})
    assert refused.status_code == 422


def drained(seconds: float) -> bool:
    """False if it was over before all of it could be looked at."""
    given = {"SECRET_KEY": SECRET_KEY, "PUBLIC_URL": PUBLIC_URL, "DRAIN_SECONDS": str(seconds)}
    with Server(**given) as server, ExitStack() as stack:
        text = forged_ticket(["queues"], 3600, owner="admin")
        stream = stack.enter_context(Stream(server.url, ticket=text))
        stream.first("hello")
        began = time.monotonic()
        server.kill(signal.SIGTERM)
        try:
            until(lambda: server.status("/readyz") == 503, seconds, "not ready")
            assert server.status("/livez") == 200
            assert not stream.over
            late = stack.enter_context(Stream(server.url, ticket=text))
            late.first("hello")
        except (AssertionError, OSError):
            if time.monotonic() - began < seconds:
                raise
            return False
        for one in (stream, late):
            assert one.end().json["reason"] == "shutdown"
            assert time.monotonic() - began >= seconds - 0.1
        assert server.wait(30) == 0
        return True


def test_a_drain_is_announced_before_it_begins() -> None:
    """Told to stop: first not ready, still serving; then goodbye to the streams; then the end."""
    assert any(drained(seconds) for seconds in (1.5, 10, 60)), "the machine stalls each time"

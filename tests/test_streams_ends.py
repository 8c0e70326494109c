"""How streams end and who may open them: goodbyes, tickets, bounds, other origins, logs."""

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime

import asyncpg
import httpx
import pytest

from auth import Signer, ticket_row
from tests.answers import parameters, problem
from tests.databases import somebody_waits
from tests.house import API, PASSWORD, SECRET_KEY, House, running
from tests.live import PUBLIC_URL, forged_ticket, head, ticket, watch
from tests.services import Postgres, Server, until
from tests.sse import Block, Stream

SHOP = "https://shop.example"
ENDS_WITHIN = 30.0  # seconds; promised is a minute, meant is a second or two
STREAMS, PER_PRINCIPAL, PER_ADDRESS = 9, 3, 7


def is_final(block: Block, reason: str) -> None:
    """A goodbye after which nobody shall come back."""
    assert block.json == {"reason": reason, "reconnect_ms": None}
    assert block.raw == f"event: goodbye\ndata: {block.data}\n\n".encode()


def is_return(block: Block, reason: str) -> None:
    """A goodbye that says when to come back, also to an EventSource."""
    wait = block.json["reconnect_ms"]
    assert block.json == {"reason": reason, "reconnect_ms": wait}
    assert 0 < wait <= 15_000
    assert block.raw == f"retry: {wait}\nevent: goodbye\ndata: {block.data}\n\n".encode()


def signed_in(house: House, username: str) -> dict[str, str]:
    """A fresh sign-in: the bearer header of a family of its own."""
    answer = house.client(None).post(
        "/auth/token", data={"username": username, "password": PASSWORD}
    )
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


_names = iter(range(1, 1000))


def account(house: House, *roles: str, **more: str) -> str:
    name = f"fresh-{next(_names)}"
    body = {"username": name, "password": PASSWORD, "roles": [*roles], **more}
    assert house.client().post("/accounts", json=body).status_code == 201
    return name


# --- the end of a process -------------------------------------------------------------


@pytest.fixture
def alone() -> Iterator[Server]:
    with Server(SECRET_KEY=SECRET_KEY, PUBLIC_URL=PUBLIC_URL, RATE_LIMITS="off") as server:
        yield server


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGKILL])
def test_a_stream_goes_on_after_a_restart(alone: Server, way: signal.Signals) -> None:
    """Stopped or killed: its readers come back to where they were, and miss nothing."""
    text = forged_ticket(["queue:orders"], 3600, owner="admin")
    with Stream(alone.url, ticket=text) as stream:
        cursor = stream.first("hello").id
        alone.kill(way)
        if way == signal.SIGTERM:
            is_return(stream.end(), "shutdown")
            assert alone.wait(30) == 0
        else:
            stream.end()
    alone.start()
    paused = forged_pause(alone)
    with Stream(alone.url, ticket=text, headers={"Last-Event-ID": cursor or ""}) as stream:
        assert stream.first("hello").id == cursor
        assert [block.event for block in stream.events(1)] == [paused]


def forged_pause(server: Server) -> str:
    """Let something happen in the queue `orders`; the type of its event."""
    password = (server.folder / "data" / "admin-password").read_text().strip()
    with httpx.Client(base_url=server.url + API, timeout=30) as client:
        form = {"username": "admin", "password": password}
        token = client.post("/auth/token", data=form).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        assert client.post("/queues/orders/pause", headers=headers).status_code == 200
    return "queue.paused"


def test_many_streams_do_not_hold_up_a_stop(alone: Server) -> None:
    """Every stream gets its goodbye, their returns are spread, and the process ends soon."""
    text = forged_ticket(["queues"], 3600, owner="admin", streams=50)
    streams = [Stream(alone.url, ticket=text) for _ in range(30)]
    for stream in streams:
        stream.first("hello")
    alone.kill(signal.SIGTERM)
    waits = [stream.end().json["reconnect_ms"] for stream in streams]
    assert alone.wait(30) == 0
    assert "graceful shutdown exceeded" not in alone.log
    assert len(set(waits)) > 20
    for stream in streams:
        stream.close()


def test_readers_that_leave_at_once_are_no_error(house: House) -> None:
    """Browsers come and go: nothing of it stands in the log as an error."""
    before = len(house.servers[0].log)
    for turn in range(40):
        with watch(house, "queues") as stream:
            if turn % 4 == 0:
                stream.first("hello")
    with watch(house, "queues") as stream:
        stream.first("counts")
    records = map(json.loads, house.servers[0].log[before:].splitlines())
    # A database that stalls is told of by those who ask it every second.
    loud = [one for one in records if one["level"] in ("WARNING", "ERROR")]
    assert [one for one in loud if one["logger"] != "upkeep"] == []


def test_the_database_may_be_away(postgres_server: Postgres) -> None:
    """Open streams stay, new ones are told to come back, and afterwards nothing is missing."""
    name = postgres_server.create()
    with running(DATABASE_URL=postgres_server.url(name)) as house:
        queue = house.queue()
        order = house.post(queue)["id"]
        house.token("viewer")
        text = ticket(house, [f"order:{order}", "queues"])
        with watch(house, f"queue:{queue}") as stream, Stream(house.url, ticket=text) as other:
            stream.first("hello")
            other.first("counts")
            postgres_server.sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
            away = (
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            )
            postgres_server.sql(away)
            with watch(house, f"order:{order}", role="viewer") as refused:
                assert refused.status == 200
                is_return(refused.end(), "overloaded")
            answer = house.client().get("/events", params={"topic": f"order:{order}"})
            problem(answer, 503, "unavailable")
            page = httpx.get(f"{house.url}/track/{order}?ticket={text}", timeout=30)
            assert (page.status_code, page.headers["content-type"]) == (
                503,
                "text/html; charset=utf-8",
            )
            postgres_server.sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
            until(house.servers[0].ready, 30, "it serves again")
            house.post(queue)
            assert stream.events(1)[0].event == "order.created"
            assert not stream.named("reset")
            assert not other.named("goodbye")
    postgres_server.drop(name)


# --- the end of a credential ----------------------------------------------------------


def test_a_stream_ends_with_its_ticket(house: House) -> None:
    """At its time, not a lifetime later; nobody is asked to come back with it."""
    for seconds in (2, 8, 32):  # a machine that stalls may come too late with the first
        text = forged_ticket(["queues"], seconds)
        with Stream(house.url, ticket=text) as stream:
            if stream.status == 200:
                told = datetime.fromisoformat(stream.first("hello").json["expires_at"])
                is_final(stream.end(seconds + 60), "expired")
                assert time.time() > told.timestamp() - 0.5
                break
    else:
        pytest.fail("each ticket was over before its stream began")
    answer = house.client(None).get("/events", params={"ticket": text})
    assert "expired" in problem(answer, 401, "unauthenticated")["detail"]


def sign_out(house: House, _: str, bearer: dict[str, str]) -> httpx.Response:
    return house.client(None).post("/auth/logout", headers=bearer)


def new_password(house: House, name: str, _: dict[str, str]) -> httpx.Response:
    return house.client().patch(f"/accounts/{name}", json={"password": PASSWORD + "!"})


def new_roles(house: House, name: str, _: dict[str, str]) -> httpx.Response:
    return house.client().patch(f"/accounts/{name}", json={"roles": ["viewer"]})


def deactivate(house: House, name: str, _: dict[str, str]) -> httpx.Response:
    return house.client().patch(f"/accounts/{name}", json={"active": False})


def revoke_all(house: House, name: str, _: dict[str, str]) -> httpx.Response:
    return house.client().patch(f"/accounts/{name}", json={"revoke_tokens": True})


Act = Callable[[House, str, dict[str, str]], httpx.Response]


@pytest.mark.parametrize(
    "act, ticket_ends",
    [
        (sign_out, False),
        (new_password, False),
        (new_roles, False),
        (deactivate, True),
        (revoke_all, True),
    ],
)
def test_streams_end_with_their_credential(house: House, act: Act, *, ticket_ends: bool) -> None:
    """A sign-out or a change of the account ends its streams; of its tickets as promised."""
    name = account(house, "producer")
    bearer = signed_in(house, name)
    made = house.client(None).post("/events/tickets", json={"topics": ["queues"]}, headers=bearer)
    text = made.json()["ticket"]
    with (
        watch(house, "queues", role=None, headers=bearer) as own,
        Stream(house.url, ticket=text) as by_ticket,
        watch(house, "queues", role="viewer") as other,
    ):
        for stream in (own, by_ticket, other):
            stream.first("counts")
        assert act(house, name, bearer).status_code in (200, 204)
        is_final(own.end(ENDS_WITHIN), "revoked")
        if ticket_ends:
            is_final(by_ticket.end(ENDS_WITHIN), "revoked")
        house.queue()
        other.events(1)
        if not ticket_ends:
            by_ticket.events(1)
    again = house.client(None).head("/events", params={"ticket": text})
    assert again.status_code == (401 if ticket_ends else 200)


def test_a_new_password_of_ones_own_spares_the_stream_in_use(house: House) -> None:
    """Who changes his own password ends his other sign-ins and stays."""
    name = account(house, "viewer")
    mine, other = signed_in(house, name), signed_in(house, name)
    with (
        watch(house, "queues", role=None, headers=mine) as kept,
        watch(house, "queues", role=None, headers=other) as ended,
    ):
        kept.first("counts")
        ended.first("counts")
        change = {"current": PASSWORD, "new": PASSWORD + "?"}
        answer = house.client(None).post("/auth/password", json=change, headers=mine)
        assert answer.status_code == 204
        is_final(ended.end(ENDS_WITHIN), "revoked")
        house.queue()
        kept.events(1)


# --- tickets --------------------------------------------------------------------------


def test_a_ticket_as_it_is_made(house: House) -> None:
    """201 with the ticket, its end, and the address of its stream below PUBLIC_URL."""
    body = {"topics": ["queues"], "expires_in": 60}
    answer = house.client("producer").post("/events/tickets", json=body)
    assert answer.status_code == 201
    made = answer.json()
    assert list(made) == ["ticket", "expires_at", "url"]
    assert made["url"] == f"{PUBLIC_URL}{API}/events?ticket={made['ticket']}"
    assert re.fullmatch(r"[A-Za-z0-9_-]+", made["ticket"])
    path = made["url"].removeprefix(PUBLIC_URL)
    with Stream(house.url, path) as stream:
        hello = stream.first("hello")
        assert hello.json["expires_at"] == made["expires_at"]
        stream.first("counts")


@pytest.mark.parametrize(
    "body",
    [
        {"topics": []},
        {"topics": ["queues"] * 65},
        {"topics": ["nonsense"]},
        {"topics": "queues"},
        {"topics": ["queues"], "expires_in": 59},
        {"topics": ["queues"], "expires_in": 604_801},
        {"topics": ["queues"], "max_streams": 0},
        {"topics": ["queues"], "owner": "admin"},
        {},
    ],
    ids=lambda body: str(body)[:40],
)
def test_a_ticket_out_of_bounds_is_refused(house: House, body: dict[str, object]) -> None:
    """Every bound of a ticket is checked when it is made, with a pointer to the fault."""
    answer = house.client().post("/events/tickets", json=body)
    faults = problem(answer, 422, "invalid")["errors"]
    assert all(fault["pointer"].startswith("#/") for fault in faults)


def test_more_than_16_streams_are_for_producers(house: House) -> None:
    """A customer cannot hand out a crowd of streams."""
    topic = "customer:c-own"
    for role, streams, status in (
        ("customer", 16, 201),
        ("customer", 17, 403),
        ("viewer", 17, 403),
        ("producer", 17, 201),
        ("admin", 1000, 201),
    ):
        body = {"topics": [topic], "max_streams": streams}
        assert house.client(role).post("/events/tickets", json=body).status_code == status


def test_a_ticket_only_reads(house: House) -> None:
    """It opens streams, their history and its order, nothing else."""
    queue = house.queue()
    order = house.post(queue)["id"]
    text = ticket(house, [f"order:{order}", "queues"])
    nobody, params = house.client(None), {"ticket": text}
    assert nobody.get(f"/orders/{order}", params=params).status_code == 200
    assert nobody.get(f"/orders/{order}/history", params=params).status_code == 200
    assert nobody.get("/queues", params=params).status_code == 401
    assert nobody.post(f"/orders/{order}/cancel", params=params).status_code == 401
    assert nobody.post("/events/tickets", params=params, json={}).status_code == 401
    assert nobody.get(f"/messages/{order}", params=params).status_code == 401
    other = house.post(queue)["id"]
    assert nobody.get(f"/orders/{other}", params=params).status_code == 404


@pytest.mark.parametrize("change", ["first", "last", "short", "empty", "long"])
def test_a_ticket_cannot_be_changed(house: House, change: str) -> None:
    """One other character and it opens nothing."""
    text = ticket(house, ["queues"])
    flip = {"A": "B"}
    made = {
        "first": flip.get(text[10], "A") + text[1:],
        "last": text[:-2] + flip.get(text[-2], "A") + text[-1],
        "short": text[:-1],
        "empty": "",
        "long": text + "A",
    }[change]
    answer = house.client(None).get("/events", params={"ticket": made})
    problem(answer, 401, "unauthenticated")


def test_a_bearer_beats_a_ticket(house: House) -> None:
    """The first credential that comes decides alone: a bad bearer is not mended by a ticket."""
    text = ticket(house, ["queues"])
    client = house.client(None)
    bad = client.get("/events", params={"ticket": text}, headers={"Authorization": "Bearer x"})
    problem(bad, 401, "unauthenticated")
    assert parameters(house.client().get("/events", params={"ticket": text})) == ["topic"]


def test_a_revoked_ticket_is_over(house: House) -> None:
    """Its owner or an admin ends it and its streams; to others it does not exist."""
    text = ticket(house, ["queues"], role="producer")
    body = {"ticket": text}
    for role in ("viewer", "customer", "worker"):
        refused = house.client(role).post("/events/tickets/revoke", json=body)
        problem(refused, 404, "not_found")
    with Stream(house.url, ticket=text) as stream:
        stream.first("hello")
        assert house.client("producer").post("/events/tickets/revoke", json=body).status_code == 204
        is_final(stream.end(ENDS_WITHIN), "revoked")
    problem(house.client(None).get("/events", params={"ticket": text}), 401, "unauthenticated")
    assert house.client("producer").post("/events/tickets/revoke", json=body).status_code == 204
    theirs = ticket(house, ["queues"], role="viewer")
    answer = house.client("admin").post("/events/tickets/revoke", json={"ticket": theirs})
    assert answer.status_code == 204
    nonsense = house.client().post("/events/tickets/revoke", json={"ticket": "nonsense"})
    problem(nonsense, 404, "not_found")


def test_what_could_not_be_read_of_a_revocation_is_read_later(postgres_server: Postgres) -> None:
    """A revocation ends its streams also where the first try to read it failed."""
    name = postgres_server.create()
    with running(DATABASE_URL=postgres_server.url(name)) as house:
        text = ticket(house, ["queues"])
        known = Signer(SECRET_KEY.encode(), PUBLIC_URL).read_ticket(text, 0)
        with Stream(house.url, ticket=text) as stream:
            stream.first("hello")
            postgres_server.sql(
                "INSERT INTO revocations (id, created_at, expires_at)"
                f" VALUES ('{ticket_row(known.id)}', 0, {known.expires_at});"
                " UPDATE stream SET revocations_version = revocations_version + 1;"
                " ALTER TABLE revocations RENAME TO away",
                name,
            )
            until(lambda: "look failed" in house.servers[0].log, 30, "it could not be read")
            postgres_server.sql("ALTER TABLE away RENAME TO revocations", name)
            is_final(stream.end(ENDS_WITHIN), "revoked")


async def test_who_ends_while_his_stream_is_opened_gets_none(postgres_server: Postgres) -> None:
    """Nobody slips in between the look at a credential and the end of its streams."""
    name = postgres_server.create()
    with running(DATABASE_URL=postgres_server.url(name)) as house:
        order = house.post(house.queue())["id"]
        holder = await asyncpg.connect(postgres_server.url(name))
        # 503: the machine stalled, and the look at the order was given up.
        statuses = [status async for status in opened_while_revoked(house, order, holder)]
        await holder.close()
        assert statuses[-1] == 401


async def opened_while_revoked(
    house: House, order: str, holder: asyncpg.Connection
) -> AsyncIterator[int]:
    """The status of a stream whose ticket is revoked while its order is looked up."""
    topics, status = [f"order:{order}", "queues"], 503
    for _ in range(5):
        if status != 503:
            return
        text = ticket(house, topics)
        await holder.execute("BEGIN; LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        opening = asyncio.create_task(
            asyncio.to_thread(Stream, house.url, ticket=text, topic=topics)
        )
        await somebody_waits(holder)
        body = {"ticket": text}
        answer = house.client("producer").post("/events/tickets/revoke", json=body)
        assert answer.status_code == 204
        await holder.execute("COMMIT")
        with await opening as stream:
            status = stream.status
        yield status


def test_the_link_of_a_post_follows_its_order(house: House) -> None:
    """`tracking` opens the stream of that order and of nothing else."""
    queue = house.queue()
    posted = house.post(queue)
    link = posted["tracking"]
    assert link["url"] == f"{PUBLIC_URL}/track/{posted['id']}?ticket={link['ticket']}"
    with Stream(house.url, ticket=link["ticket"]) as stream:
        stream.first("hello")
        house.post(queue)
        for message in house.claim(queue, most=2):
            house.settle("ack", message)
        subjects = [block.json["subject"] for block in stream.events(2)]
        assert subjects == [posted["id"]] * 2


# --- bounds, other origins, logs ------------------------------------------------------


@pytest.fixture(scope="module")
def narrow() -> Iterator[House]:
    """A service with little room, strict limits, a foreign origin and a log that says all."""
    with running(
        MAX_STREAMS=str(STREAMS),
        MAX_STREAMS_PER_PRINCIPAL=str(PER_PRINCIPAL),
        MAX_STREAMS_PER_ADDRESS=str(PER_ADDRESS),
        CORS_ORIGINS=SHOP,
        LOG_LEVEL="DEBUG",
        RATE_LIMITS="on",
        TRUSTED_PROXIES="127.0.0.1",
    ) as found:
        yield found


def settled(house: House, count: int = 0) -> None:
    """Wait until the service knows who hung up."""

    def gauge() -> bool:
        text = house.client().get(f"{house.url}/metrics").text
        return f"filaviva_streams_open {float(count)}\n" in text

    until(gauge, 30, f"{count} streams open")


def refused(house: House, bearer: dict[str, str], reason: str) -> None:
    """Past a bound an EventSource gets 200 and a goodbye."""
    with watch(house, "queues", role=None, headers=bearer) as stream:
        assert stream.status == 200
        is_return(stream.end(), reason)
        assert len(stream.blocks) == 1


@pytest.mark.parametrize("role", ["viewer", "producer"])
def test_an_account_has_so_many_streams(narrow: House, role: str) -> None:
    """One account cannot take all the places; a reader that leaves frees one."""
    settled(narrow)
    streams = [watch(narrow, "queues", role=role) for _ in range(PER_PRINCIPAL)]
    for stream in streams:
        stream.first("hello")
    refused(narrow, {"Authorization": f"Bearer {narrow.token(role)}"}, "too_many_streams")
    answer = narrow.client(role).get("/events", params={"topic": "queues"})
    problem(answer, 429, "too_many_streams")
    assert int(answer.headers["retry-after"]) > 0
    streams.pop().close()
    settled(narrow, PER_PRINCIPAL - 1)
    with watch(narrow, "queues", role=role) as stream:
        stream.first("hello")
    for stream in streams:
        stream.close()


def test_a_ticket_has_as_many_streams_as_it_says(narrow: House) -> None:
    """`max_streams` counts for the ticket, whoever opens them, and not for its owner."""
    settled(narrow)
    text = ticket(narrow, ["queues"], max_streams=2)
    streams = [Stream(narrow.url, ticket=text) for _ in range(2)]
    for stream in streams:
        stream.first("hello")
    with Stream(narrow.url, ticket=text) as stream:
        is_return(stream.end(), "too_many_streams")
    with watch(narrow, "queues", role="producer") as stream:
        stream.first("hello")
    for stream in streams:
        stream.close()


def test_an_address_and_a_process_have_so_many_streams(narrow: House) -> None:
    """Neither one address nor all together can open more than there is room for."""
    settled(narrow)
    text = ticket(narrow, ["queues"], max_streams=100)

    def stream_from(address: str, accept: str = "text/event-stream") -> Stream:
        behind = {"X-Forwarded-For": address}
        return Stream(narrow.url, ticket=text, headers=behind, accept=accept)

    streams = [stream_from("192.0.2.1") for _ in range(PER_ADDRESS)]
    streams[-1].first("hello")
    with stream_from("192.0.2.1") as stream:
        is_return(stream.end(), "too_many_streams")
    streams += [stream_from("192.0.2.2") for _ in range(STREAMS - PER_ADDRESS)]
    streams[-1].first("hello")
    with stream_from("192.0.2.2") as stream:
        is_return(stream.end(), "overloaded")
    with stream_from("192.0.2.3", accept="*/*") as stream:
        assert stream.status == 503
        assert int(stream.headers["retry-after"]) > 0
    for stream in streams:
        stream.close()
    settled(narrow)


def test_head_takes_no_place(narrow: House) -> None:
    """Looking at the headers of a stream many times opens none."""
    settled(narrow)
    for _ in range(2 * STREAMS):
        answer = narrow.client("worker").head("/events", params={"topic": "queues"})
        assert answer.status_code == 200
    settled(narrow)


def test_a_shop_elsewhere_may_follow(narrow: House) -> None:
    """CORS: exact origins, without credentials, on streams and on their errors too."""
    text = ticket(narrow, ["queues"])
    with Stream(narrow.url, ticket=text, headers={"Origin": SHOP}) as stream:
        stream.first("hello")
        assert stream.headers["access-control-allow-origin"] == SHOP
        assert "access-control-allow-credentials" not in stream.headers
        exposed = stream.headers["access-control-expose-headers"].split(", ")
        assert {"X-Request-ID", "Retry-After"} <= set(exposed)
    wrong = {"ticket": text, "topic": "nonsense"}
    for origin, allowed in ((SHOP, SHOP), ("https://evil.example", None)):
        answer = narrow.client(None).get("/events", params=wrong, headers={"Origin": origin})
        assert answer.status_code == 422
        assert answer.headers.get("access-control-allow-origin") == allowed
    asked = narrow.client(None).options(
        "/events",
        headers={
            "Origin": SHOP,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization,last-event-id",
        },
    )
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == SHOP


def test_a_rate_limit_says_goodbye_to_an_event_source(narrow: House) -> None:
    """600 streams a minute; beyond, an EventSource is told when to come back."""
    settled(narrow)
    # A minute begins with the first call of an account: this one has not called yet.
    fresh = signed_in(narrow, account(narrow, "worker"))
    client, params = narrow.client(None), {"topic": "queues"}
    statuses = (
        client.head("/events", params=params, headers=fresh).status_code for _ in range(601)
    )
    assert next(one for one in statuses if one != 200) == 429
    problem(client.get("/events", params=params, headers=fresh), 429, "rate_limited")
    refused(narrow, fresh, "overloaded")


def test_a_ticket_stands_in_no_log(narrow: House) -> None:
    """A log may be read by more people than the order: no ticket, no token, at any level."""
    settled(narrow)
    queue = narrow.queue()
    posted = narrow.post(queue)
    made = ticket(narrow, ["queues"])
    nobody = narrow.client(None)
    texts = [made, posted["tracking"]["ticket"], narrow.token("admin")]
    for text in texts[:2]:
        with Stream(narrow.url, ticket=text) as stream:
            stream.first("hello")
        nobody.get("/events/history", params={"ticket": text})
        nobody.get("/events", params={"ticket": text, "topic": "nonsense"})
        nobody.get(f"/orders/{posted['id']}", params={"ticket": text})
        nobody.get(f"{narrow.url}/track/{posted['id']}", params={"ticket": text})
        nobody.get("/nowhere", params={"ticket": text})
        nobody.get("/events", params={"ticket": text, "x": "y" * 9000})
        narrow.client().post("/events/tickets/revoke", json={"ticket": text})
    log = narrow.servers[0].log
    assert len(log) > 100
    for text in texts:
        assert text not in log
        assert text[:24] not in log


def test_a_stream_lasts_ten_to_fifteen_minutes(house: House) -> None:
    """Its end is announced in hello, spread at random, so that not all come back at once."""
    ends = set[str]()
    text = ticket(house, ["queues"], expires_in=3600)
    before = time.time()
    for _ in range(8):
        with Stream(house.url, ticket=text) as stream:
            ends.add(stream.first("hello").json["expires_at"])
    assert len(ends) > 4
    earliest, latest = time.gmtime(before + 9.9 * 60), time.gmtime(time.time() + 15.1 * 60)
    shape = "%Y-%m-%dT%H:%M:%S"
    assert time.strftime(shape, earliest) < min(ends) < max(ends) < time.strftime(shape, latest)
    assert head(house)

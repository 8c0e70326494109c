"""Rate limits over HTTP: whose bucket, how much, what is told, and with a Redis that hangs."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count, pairwise
from statistics import median
from typing import Any

import httpx
import pytest
from redis import Redis

from bench.load import cpu_seconds
from tests import services
from tests.answers import good, problem
from tests.conftest import entered
from tests.house import CUSTOMER, PASSWORD, House, running
from tests.routes import registered
from tests.services import RedisServer, until

EXEMPT = {"live", "ready", "read_metrics", "describe", "describe_streams", "docs"}
ADDRESSES = count(1)
POLICY = re.compile(r'"([a-z-]+)";q=(\d+);w=(\d+)')
STATE = re.compile(r'"([a-z-]+)";r=(\d+);t=(\d+)')


@pytest.fixture(scope="module")
def strict() -> Iterator[House]:
    """A service with its limits on, which believes us where we call from."""
    with running(RATE_LIMITS="on", TRUSTED_PROXIES="127.0.0.1") as found:
        yield found


def address() -> dict[str, str]:
    """The header of an address that has not called yet."""
    number = next(ADDRESSES)
    return {"X-Forwarded-For": f"10.0.{number // 250}.{number % 250 + 1}"}


def told(answer: httpx.Response) -> tuple[str, int, int, int]:
    """Name, quota, window and what remains, as the headers say."""
    policy = POLICY.fullmatch(answer.headers["ratelimit-policy"])
    state = STATE.fullmatch(answer.headers["ratelimit"])
    assert policy is not None
    assert state is not None
    assert policy[1] == state[1]
    assert 0 <= int(state[3]) <= int(policy[3])
    return policy[1], int(policy[2]), int(policy[3]), int(state[2])


def refused(answer: httpx.Response) -> None:
    """429, and when to come again: not sooner than now, not later than the window's end."""
    problem(answer, 429, "rate_limited")
    _, _, window, remaining = told(answer)
    assert remaining == 0
    assert 1 <= int(answer.headers["retry-after"]) <= window


def sign_in(house: House, name: str, password: str, headers: dict[str, str]) -> httpx.Response:
    form = {"username": name, "password": password}
    return house.client(None).post("/auth/token", data=form, headers=headers)


def test_every_route_has_a_limit_or_is_exempt() -> None:
    """No route is without a limit but those that are named here."""
    rows = registered()
    table = {(row.method, row.path): row for row in rows if row.limit is not None}
    found = [row for row in rows if row.limit is None]
    assert table
    assert len(found) > len(table)
    for row in found:
        listed = table.get(("GET" if row.method == "HEAD" else row.method, row.path))
        assert listed is not None, f"{row.method} {row.path} is not in the table"
        assert row.limited == (row.name not in EXEMPT), row
        assert (listed.limit == "exempt") == (row.name in EXEMPT), row


def test_answers_say_how_much_is_left(strict: House) -> None:
    """RateLimit-Policy and RateLimit count down by one; Retry-After is on no success."""
    for role, path, name, quota in (
        ("viewer", "/queues", "read", 6_000),
        ("worker", "/auth/me", "read", 6_000),
        ("customer", "/auth/me", "customer", 120),
    ):
        first, second = (strict.client(role).get(path) for _ in range(2))
        assert told(first)[:3] == (name, quota, 60)
        assert told(second)[3] == told(first)[3] - 1
        assert "retry-after" not in first.headers
    claim = strict.client("worker").post("/queues/orders/claim")
    assert told(claim)[:3] == ("write", 120_000, 60)
    ticket = strict.client("viewer").post("/events/tickets", json={"topics": ["queues"]})
    assert told(ticket)[:3] == ("stream", 600, 60)
    live = httpx.get(strict.url + "/livez", timeout=30)
    assert "ratelimit" not in live.headers


def test_a_customer_may_120_times_a_minute(strict: House) -> None:
    """Then 429 for this account, on all its routes, and for no other account."""
    form = {"username": "limited", "password": PASSWORD, "roles": ["customer"]}
    good(strict.client().post("/accounts", json={**form, "customer": CUSTOMER}), 201)
    token = good(sign_in(strict, "limited", PASSWORD, address()))["access_token"]
    me = {"Authorization": f"Bearer {token}"}
    answers = [strict.client(None).get("/auth/me", headers=me) for _ in range(121)]
    assert [a.status_code for a in answers] == [200] * 120 + [429]
    refused(answers[-1])
    refused(strict.client(None).post("/auth/logout", headers=me))
    good(strict.client("customer").get("/auth/me"))


def test_without_an_account_the_address_counts(strict: House) -> None:
    """60 a minute, and a ticket counts by address too; another address is another bucket."""
    order = strict.post("orders")
    path = f"/orders/{order['id']}"
    ticket = {"ticket": order["tracking"]["ticket"]}
    here, nobody = address(), strict.client(None)
    answers = [nobody.get(path, params=ticket, headers=here) for _ in range(61)]
    assert [a.status_code for a in answers] == [200] * 60 + [429]
    assert told(answers[0])[1] == 60
    refused(answers[-1])
    refused(nobody.post("/auth/refresh", json={"refresh_token": "x"}, headers=here))
    good(nobody.get(path, params=ticket, headers=address()))


def test_signing_in_is_limited_for_the_account(strict: House) -> None:
    """Ten tries a minute at one account from wherever; then not even the right password."""
    name = "guessed"
    form = {"username": name, "password": PASSWORD, "roles": ["viewer"]}
    good(strict.client().post("/accounts", json=form), 201)
    pid = strict.servers[0].pid
    began = cpu_seconds(pid)
    for _ in range(10):
        answer = sign_in(strict, name, "a-wrong-password", address())
        problem(answer, 401, "invalid_credentials")
    hashed = cpu_seconds(pid)
    for _ in range(10):
        refused(sign_in(strict, name, PASSWORD, address()))
    assert cpu_seconds(pid) - hashed < (hashed - began) / 2, "refused before it is hashed"
    session = strict.client(None).post(
        "/auth/session", json={"username": name, "password": PASSWORD}, headers=address()
    )
    refused(session)


def test_a_password_is_not_guessed_from_inside_either(strict: House) -> None:
    """POST /auth/password tries a password: it counts as a sign-in of the account."""
    form = {"username": "inside", "password": PASSWORD, "roles": ["viewer"]}
    good(strict.client().post("/accounts", json=form), 201)
    token = good(sign_in(strict, "inside", PASSWORD, address()))["access_token"]
    guess = {"current": "a-wrong-password", "new": "another-good-password"}
    answers = [
        strict.client(None).post(
            "/auth/password",
            json=guess,
            headers={"Authorization": f"Bearer {token}", **address()},
        )
        for _ in range(10)
    ]
    assert [a.status_code for a in answers] == [401] * 9 + [429]
    refused(answers[-1])


def test_signing_in_is_limited_for_the_address(strict: House) -> None:
    """Thirty tries a minute from one address, whatever names it tries."""
    here = address()
    tries = [sign_in(strict, f"nobody-{n}", PASSWORD, here) for n in range(31)]
    assert [answer.status_code for answer in tries] == [401] * 30 + [429]
    refused(tries[-1])


def test_an_address_registers_five_times_an_hour(strict: House) -> None:
    """The sixth is 429, with an hour as its window."""
    here = address()
    tries = [
        strict.client(None).post(
            "/auth/register", json={"username": "admin", "password": PASSWORD}, headers=here
        )
        for _ in range(6)
    ]
    assert [answer.status_code for answer in tries] == [409] * 5 + [429]
    refused(tries[-1])
    assert told(tries[-1])[:3] == ("register", 5, 3_600)


def test_heavy_calls_are_limited(strict: House) -> None:
    """Purge, redrive and delete share thirty a minute."""
    admin = strict.client()
    answers = [admin.post("/queues/orders/purge") for _ in range(29)]
    answers.append(admin.post("/queues/orders/redrive"))
    assert [answer.status_code for answer in answers] == [200] * 30
    assert told(answers[-1]) == ("bulk", 30, 60, 0)
    refused(admin.post("/queues/orders/purge"))
    refused(admin.delete("/queues/nope?force=true"))
    good(admin.get("/queues/orders"))


@pytest.fixture(scope="module")
def with_redis() -> Iterator[tuple[House, RedisServer]]:
    """A service with its limits on and a Redis of its own, to be frozen."""
    with ExitStack() as stack:
        redis = entered(stack, services.redis)
        yield stack.enter_context(running(RATE_LIMITS="on", REDIS_URL=redis.url)), redis


def test_an_address_that_anybody_could_write_is_not_believed(
    with_redis: tuple[House, RedisServer],
) -> None:
    """Without TRUSTED_PROXIES a header makes no fresh bucket."""
    house, _ = with_redis
    form = {"username": "admin", "password": PASSWORD}
    tries = [
        house.client(None).post("/auth/register", json=form, headers=address()) for _ in range(6)
    ]
    assert [answer.status_code for answer in tries] == [409] * 5 + [429]


def evaluated(redis: RedisServer, name: str = "evalsha") -> int:
    """How often Redis was asked to count."""
    with Redis.from_url(redis.url) as line:
        stats: Any = line.info("commandstats")
    return stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]


def test_a_call_asks_redis_once(with_redis: tuple[House, RedisServer]) -> None:
    """It is asked on the event loop, so the one that counts tells what the headers say."""
    house, redis = with_redis

    def asked() -> list[int]:
        return [evaluated(redis, name) for name in ("evalsha", "get")]

    viewer = house.client("viewer")

    def once() -> bool:
        """Not where Redis was late and the process counted by itself."""
        most = told(viewer.get("/queues"))[3]
        counted, read = asked()
        left = [told(viewer.get("/queues"))[3] for _ in range(20)]
        return left == [most - n for n in range(1, 21)] and asked() == [counted + 20, read]

    until(once, 60, "one question for each call")


def test_a_redis_that_hangs_holds_nobody_up(with_redis: tuple[House, RedisServer]) -> None:
    """With a frozen Redis requests are answered in time, and limits still hold."""
    house, redis = with_redis
    viewer = house.client("viewer")
    name = told(viewer.get("/queues"))[0]

    def calls(number: int, call: Callable[[], object]) -> list[float]:
        """The seconds that each took."""
        moments = [time.monotonic()]
        for _ in range(number):
            call()
            moments.append(time.monotonic())
        return [after - before for before, after in pairwise(moments)]

    def quick() -> bool:
        redis.pause()
        try:
            took = calls(40, lambda: good(viewer.get("/queues")))
            posting = calls(20, lambda: house.post("orders"))
            assert told(viewer.get("/queues"))[0] == name
            assert house.client(None).get(f"{house.url}/readyz").status_code == 200
        finally:
            redis.resume()
        assert median(took + posting) < 0.5
        return max(took) < 2  # each of them, the first one too

    def counts() -> bool:
        """Whether Redis is asked again."""
        before = evaluated(redis)
        good(viewer.get("/queues"))
        return evaluated(redis) > before

    def frozen_anew() -> bool:
        until(counts, 60, "Redis counts")
        return quick()

    assert any(frozen_anew() for _ in range(3)), "a machine that stalls spoils one"
    good(viewer.get("/queues"))

"""Signing in and out over HTTP: tokens, sessions, registration, accounts, revocation."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from auth import Kind, Signer
from models import Account
from tests.answers import good, parameters, pointers, problem, stored
from tests.house import API, CUSTOMER, LINES, PASSWORD, SECRET_KEY, House, running
from tests.services import until

ORIGIN = "http://filaviva.test"
ACCOUNT = {"username", "roles", "customer", "active", "created_at", "last_seen_at"}
NUMBERS = count(1)
TRIES = 5  # at a promise that is a time: a machine that stalls misses one or two


def account(house: House, *roles: str, **more: Any) -> str:
    """The name of a fresh account with PASSWORD."""
    name = f"auth-{next(NUMBERS)}"
    body = {"username": name, "password": PASSWORD, "roles": list(roles), **more}
    good(house.client().post("/accounts", json=body), 201)
    return name


def sign_in(house: House, name: str, password: str = PASSWORD) -> dict[str, Any]:
    form = {"username": name, "password": password}
    return good(house.client(None).post("/auth/token", data=form))


def bearer(pair: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {pair['access_token']}"}


def me(house: House, pair: dict[str, Any], process: int = 0) -> httpx.Response:
    return house.client(None, process).get("/auth/me", headers=bearer(pair))


def refresh(house: House, token: str, process: int = 0) -> httpx.Response:
    return house.client(None, process).post("/auth/refresh", json={"refresh_token": token})


@contextmanager
def page(house: House, name: str) -> Iterator[httpx.Client]:
    """A browser in which this account has signed in."""
    with httpx.Client(base_url=house.url + API, timeout=30, limits=LINES) as browser:
        answer = browser.post("/auth/session", json={"username": name, "password": PASSWORD})
        assert answer.status_code == 204, answer.text
        yield browser


@pytest.fixture(scope="module")
def secure() -> Iterator[House]:
    """A service behind https, closed to new people, with a token for its metrics."""
    with running(
        PUBLIC_URL="https://filaviva.test", REGISTRATION="false", METRICS_TOKEN="m" * 16
    ) as house:
        yield house


# --- tokens ---------------------------------------------------------------------------


def test_a_sign_in_gives_a_pair(house: House) -> None:
    """The OAuth password form: an access token for 15 minutes, a refresh token, the scope."""
    name = account(house, "worker", "producer")
    form = {
        "username": name,
        "password": PASSWORD,
        "grant_type": "password",
        "scope": "",
        "client_id": "x",
        "client_secret": "y",
    }
    body = good(house.client(None).post("/auth/token", data=form))
    assert body.keys() == {
        *("access_token", "token_type", "expires_in", "refresh_token", "scope"),
    }
    assert (body["token_type"], body["expires_in"], body["scope"]) == (
        "bearer",
        900,
        "producer worker",
    )
    found = good(me(house, body))
    assert found.keys() == ACCOUNT | {"scope", "expires_at"}
    assert (found["username"], found["roles"]) == (name, ["producer", "worker"])
    assert (found["scope"], found["active"]) == ("producer worker", True)
    assert found["created_at"] <= found["last_seen_at"] < found["expires_at"]


@pytest.mark.parametrize(
    "username, password",
    [
        ("worker", "a-wrong-password"),
        ("nobody-of-that-name", PASSWORD),
        ("WORKER", PASSWORD),
        (" worker", PASSWORD),
        ("", ""),
        ("worker", "x" * 1024),
        ("' or 1=1 --", PASSWORD),
    ],
)
def test_a_wrong_name_or_password_is_one_answer(house: House, username: str, password: str) -> None:
    """401 invalid_credentials, the same words for an unknown name and a wrong password."""
    form = {"username": username, "password": password}
    nobody = house.client(None)
    for refused in (
        nobody.post("/auth/token", data=form),
        nobody.post("/auth/session", json=form),
    ):
        answer = problem(refused, 401, "invalid_credentials")
        assert answer["detail"] == "The username or the password is wrong."
        assert answer["errors"] == []


def test_the_token_form(house: House) -> None:
    """Only a form is taken; unknown, missing and doubled fields are refused."""
    nobody = house.client(None)
    good_form = {"username": "worker", "password": PASSWORD}
    problem(nobody.post("/auth/token", json=good_form), 415, "unsupported_media_type")
    problem(nobody.post("/auth/token"), 415, "unsupported_media_type")
    assert pointers(nobody.post("/auth/token", data={**good_form, "x": "1"})) == ["#/x"]
    assert pointers(nobody.post("/auth/token", data={"username": "a"})) == ["#/password"]
    urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
    twice = nobody.post("/auth/token", content="username=a&username=b", headers=urlencoded)
    problem(twice, 422, "invalid")
    nul = nobody.post("/auth/token", content="username=%00&password=b", headers=urlencoded)
    assert pointers(nul) == ["#/username"]
    multipart = nobody.post("/auth/token", files={"username": b"a"})
    problem(multipart, 415, "unsupported_media_type")


def test_a_refresh_gives_a_new_pair_and_soon_again_the_same(house: House) -> None:
    """Within 10 s a used refresh token answers the same bytes; both pairs of the family work."""
    first = sign_in(house, account(house, "worker"))
    answer = refresh(house, first["refresh_token"])
    second = good(answer)
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    assert refresh(house, first["refresh_token"]).content == answer.content
    good(me(house, first))
    good(me(house, second))
    good(refresh(house, second["refresh_token"]))


def test_a_refresh_token_used_again_later_ends_the_family(house: House) -> None:
    """Reuse after 10 s: 401, and every token that grew from that sign-in is dead, no other."""
    name = account(house, "worker")
    first, other = sign_in(house, name), sign_in(house, name)
    second = good(refresh(house, first["refresh_token"]))
    stored(house, "UPDATE revocations SET created_at = created_at - 11000 WHERE id LIKE 'used:%'")
    problem(refresh(house, first["refresh_token"]), 401, "invalid_credentials")
    for pair in (first, second):
        problem(me(house, pair), 401, "unauthenticated")
        problem(refresh(house, pair["refresh_token"]), 401, "invalid_credentials")
    good(me(house, other))


def test_what_is_no_refresh_token(house: House) -> None:
    """An access token, another's signature or plain text buys nothing."""
    pair = sign_in(house, account(house, "worker"))
    forged = Signer(b"f" * 32, ORIGIN)
    stranger = Account(username="worker", roles="worker", generation=1)
    now = int(time.time() * 1000)
    for token in (
        pair["access_token"],
        forged.pair(stranger, "family", now).refresh_token,
        pair["refresh_token"][:-2],
        "",
        "é",
        "a.b.c",
    ):
        problem(refresh(house, token), 401, "invalid_credentials")
    problem(me(house, {"access_token": pair["refresh_token"]}), 401, "unauthenticated")
    assert pointers(refresh(house, "x" * 4097)) == ["#/refresh_token"]


def test_logout_ends_the_family(house: House) -> None:
    """After logout access and refresh token are dead at once; another sign-in lives on."""
    name = account(house, "worker")
    pair, other = sign_in(house, name), sign_in(house, name)
    grown = good(refresh(house, pair["refresh_token"]))
    answer = house.client(None).post("/auth/logout", headers=bearer(pair))
    assert (answer.status_code, answer.content) == (204, b"")
    for dead in (pair, grown):
        problem(me(house, dead), 401, "unauthenticated")
        problem(refresh(house, dead["refresh_token"]), 401, "invalid_credentials")
    good(me(house, other))


def known_after(twins: House, pair: dict[str, Any]) -> float:
    """Seconds until the other process takes this token no more."""
    began = time.monotonic()
    until(lambda: me(twins, pair, 1).status_code == 401, 30, "the other process knows")
    return time.monotonic() - began


def test_logout_reaches_the_other_process(twins: House) -> None:
    """Within 2 s the token is dead in every process."""

    def logged_out() -> float:
        pair = sign_in(twins, account(twins, "worker"))
        good(me(twins, pair, 1))  # it is known there now
        assert twins.client(None, 0).post("/auth/logout", headers=bearer(pair)).status_code == 204
        problem(me(twins, pair, 0), 401, "unauthenticated")
        took = known_after(twins, pair)
        problem(refresh(twins, pair["refresh_token"], 1), 401, "invalid_credentials")
        return took

    assert any(logged_out() < 2 for _ in range(TRIES))


def test_a_refresh_in_two_processes_is_one(twins: House) -> None:
    """The same refresh token at two processes within 10 s buys the same pair."""
    pair = sign_in(twins, account(twins, "worker"))
    first = refresh(twins, pair["refresh_token"], 0)
    good(first)
    assert refresh(twins, pair["refresh_token"], 1).content == first.content


def test_only_a_bearer_is_taken_as_a_bearer(house: House) -> None:
    """Other schemes, and a token in the wrong place, are 401 with WWW-Authenticate."""
    token = house.token("admin")
    nobody = house.client(None)
    for value in (f"Basic {token}", token, "Bearer", f"Bearer {token}x", ""):
        answer = nobody.get("/auth/me", headers={"Authorization": value})
        problem(answer, 401, "unauthenticated")
    good(nobody.get("/auth/me", headers={"Authorization": f"bearer  {token}"}))
    problem(
        nobody.get("/auth/me", headers={"Cookie": f"fv_session={token}"}), 401, "unauthenticated"
    )
    problem(nobody.get("/auth/me", params={"access_token": token}), 401, "unauthenticated")


def test_the_first_credential_decides_alone(house: House) -> None:
    """A bad bearer is not made good by a good cookie or ticket."""
    order = house.post(house.queue())
    ticket = order["tracking"]["ticket"]
    with page(house, account(house, "admin")) as browser:
        bad = {"Authorization": "Bearer x"}
        problem(browser.get("/auth/me", headers=bad), 401, "unauthenticated")
        path = f"/orders/{order['id']}"
        problem(browser.get(path, headers=bad, params={"ticket": ticket}), 401, "unauthenticated")
        problem(browser.get(path, params={"ticket": "x"}), 401, "unauthenticated")
        good(browser.get(path, params={"ticket": ticket}))


# --- sessions of pages ----------------------------------------------------------------


def test_a_session_is_a_strict_cookie(house: House) -> None:
    """HttpOnly, SameSite=Strict, Path=/, 30 minutes; JSON and form open it."""
    name = account(house, "viewer")
    form = {"username": name, "password": PASSWORD}
    for answer in (
        httpx.post(house.url + API + "/auth/session", json=form, timeout=30),
        httpx.post(house.url + API + "/auth/session", data=form, timeout=30),
    ):
        assert (answer.status_code, answer.content) == (204, b"")
        value, *flags = answer.headers["set-cookie"].split("; ")
        assert value.startswith("fv_session=")
        assert {flag.lower() for flag in flags} == {
            "httponly",
            "max-age=1800",
            "path=/",
            "samesite=strict",
        }
    with page(house, name) as browser:
        assert good(browser.get("/auth/me"))["username"] == name
        problem(browser.post("/auth/session", json=form | {"x": 1}), 422, "invalid")
    text = httpx.post(house.url + API + "/auth/session", content="x", timeout=30)
    problem(text, 415, "unsupported_media_type")


def test_by_cookie_every_change_needs_our_own_origin(house: House) -> None:
    """All methods but GET and HEAD: without this service's Origin 403 bad_origin."""
    with page(house, account(house, "admin")) as browser:
        good(browser.get("/queues", headers={"Origin": "http://evil.test"}))
        for origin in (
            "http://evil.test",
            "null",
            "",
            ORIGIN + ".evil.test",
            "https://filaviva.test",
        ):
            answer = browser.post("/queues", json={"name": "x"}, headers={"Origin": origin})
            problem(answer, 403, "bad_origin")
        problem(browser.post("/queues", json={"name": "x"}), 403, "bad_origin")
        problem(browser.post("/auth/logout"), 403, "bad_origin")
        problem(browser.delete("/auth/session"), 403, "bad_origin")
        own = {"Origin": ORIGIN}
        good(browser.post("/queues", json={"name": house.queue() + "-own"}, headers=own), 201)
    name = account(house, "viewer")
    form = {"username": name, "password": PASSWORD}
    evil = {"Origin": "http://evil.test"}
    foreign = httpx.post(house.url + API + "/auth/session", json=form, headers=evil, timeout=30)
    problem(foreign, 403, "bad_origin")
    own = {"Origin": ORIGIN}
    ours = httpx.post(house.url + API + "/auth/session", json=form, headers=own, timeout=30)
    assert ours.status_code == 204


def test_signing_a_page_out(house: House) -> None:
    """DELETE /auth/session ends the session and takes the cookie away; a dead one too."""
    own = {"Origin": ORIGIN}
    with page(house, account(house, "viewer")) as browser:
        token = browser.cookies["fv_session"]
        answer = browser.delete("/auth/session", headers=own)
        assert answer.status_code == 204
        assert 'fv_session=""' in answer.headers["set-cookie"]
        assert "fv_session" not in browser.cookies
        stale = {"Cookie": f"fv_session={token}"}
        problem(house.client(None).get("/auth/me", headers=stale), 401, "unauthenticated")
        again = house.client(None).delete("/auth/session", headers={**stale, **own})
        assert again.status_code == 204
    assert house.client(None).delete("/auth/session").status_code == 204


def aged(house: House, name: str, minutes: int, signed_in_hours: float = 0) -> dict[str, str]:
    """The cookie of a session that is some minutes old."""
    [(roles, generation)] = stored(
        house, f"SELECT roles, generation FROM accounts WHERE username = '{name}'"
    )
    row = Account(username=name, roles=roles, generation=generation)
    now = int(time.time() * 1000)
    then = now - minutes * 60_000
    token = Signer(SECRET_KEY.encode(), ORIGIN).issue(
        Kind.SESSION,
        row,
        "family-of-a-test",
        then,
        1800,
        signed_in_at=int(then - signed_in_hours * 3_600_000),
    )
    return {"Cookie": f"fv_session={token}"}


def test_a_session_is_renewed_by_use_up_to_twelve_hours(house: House) -> None:
    """In its second half a session gets its next cookie, but none beyond 12 hours."""
    name = account(house, "viewer")
    nobody = house.client(None)
    fresh = nobody.get("/auth/me", headers=aged(house, name, 5))
    good(fresh)
    assert "set-cookie" not in fresh.headers
    old = nobody.get("/auth/me", headers=aged(house, name, 20))
    good(old)
    assert "fv_session=" in old.headers["set-cookie"]
    value = old.headers["set-cookie"].split(";")[0]
    nobody.cookies.clear()
    good(nobody.get("/auth/me", headers={"Cookie": value}))
    longest = nobody.get("/auth/me", headers=aged(house, name, 20, 11.5))
    good(longest)
    assert "set-cookie" not in longest.headers
    problem(nobody.get("/auth/me", headers=aged(house, name, 31)), 401, "unauthenticated")


def test_behind_https_the_cookie_is_secure(secure: House) -> None:
    """With an https PUBLIC_URL the cookie is `__Host-` and Secure, and that origin is ours."""
    form = {"username": "viewer", "password": PASSWORD}
    own = {"Origin": "https://filaviva.test"}
    answer = secure.client(None).post("/auth/session", json=form, headers=own)
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-fv_session=")
    assert "; Secure" in cookie
    plain = {"Cookie": cookie.split(";")[0], "Origin": ORIGIN}
    denied = secure.client(None).post("/auth/logout", headers=plain)
    problem(denied, 403, "bad_origin")


def test_a_scraper_reads_the_metrics_and_nothing_else(secure: House) -> None:
    """METRICS_TOKEN opens /metrics only; so do viewers and admins."""
    metrics = secure.url + "/metrics"
    for value in ("Bearer " + "m" * 15, "m" * 16, "Basic " + "m" * 16, "Bearer é"):
        wrong = httpx.get(metrics, headers=[(b"Authorization", value.encode())], timeout=30)
        problem(wrong, 401, "unauthenticated")
    token = {"Authorization": "Bearer " + "m" * 16}
    scraped = httpx.get(metrics, headers=token, timeout=30)
    assert scraped.status_code == 200
    assert scraped.headers["content-type"].startswith("text/plain")
    problem(secure.client(None).get("/queues", headers=token), 401, "unauthenticated")
    viewer = {"Authorization": f"Bearer {secure.token('viewer')}"}
    assert httpx.get(metrics, headers=viewer, timeout=30).status_code == 200


# --- registration ---------------------------------------------------------------------


def test_who_registers_becomes_a_customer_with_a_fresh_id(house: House) -> None:
    """201 Account, role customer, an id that nobody chose; the e-mail stays in `customers`."""
    nobody = house.client(None)
    name = f"ana-{house.queue()}@example.org"
    body = {"username": name, "password": PASSWORD, "email": f"Ana.{house.queue()}@Example.org"}
    made = nobody.post("/auth/register", json=body)
    first = good(made, 201)
    assert first.keys() == ACCOUNT
    assert first["roles"] == ["customer"]
    assert first["customer"].startswith("c-")
    assert "example" not in made.text.replace(name, "")
    again = {**body, "username": f"b-{house.queue()}"}
    problem(nobody.post("/auth/register", json=body), 409, "account_exists")
    again["email"] = body["email"].upper()
    problem(nobody.post("/auth/register", json=again), 409, "customer_exists")
    other = good(nobody.post("/auth/register", json={**again, "email": None}), 201)
    assert other["customer"] != first["customer"]
    pair = sign_in(house, name)
    assert good(me(house, pair))["customer"] == first["customer"]


@pytest.mark.parametrize(
    "change, pointer",
    [
        ({"username": "A"}, "#/username"),
        ({"username": "a" * 65}, "#/username"),
        ({"username": "-a"}, "#/username"),
        ({"username": "a\n"}, "#/username"),
        ({"password": "x" * 11}, "#/password"),
        ({"password": "x" * 129}, "#/password"),
        ({"password": "x" * 11 + "\x00"}, "#/password"),
        ({"email": "nowhere"}, "#/email"),
        ({"email": "a b@c"}, "#/email"),
        ({"email": "a@" + "b" * 253}, "#/email"),
        ({"email": "İ" * 250 + "@a.b"}, "#/email"),
        ({"customer": CUSTOMER}, "#/customer"),
        ({"roles": ["admin"]}, "#/roles"),
    ],
    ids=str,
)
def test_a_registration_out_of_shape_is_refused(
    house: House, change: dict[str, Any], pointer: str
) -> None:
    """Bounds are checked; a customer id or a role cannot be chosen; no password is echoed."""
    body = {"username": "shape", "password": PASSWORD, **change}
    answer = house.client(None).post("/auth/register", json=body)
    assert pointers(answer) == [pointer]
    assert str(body["password"]) not in answer.text


def test_registration_can_be_closed(secure: House) -> None:
    """With REGISTRATION=false nobody registers: it is not there."""
    body = {"username": "late", "password": PASSWORD}
    problem(secure.client(None).post("/auth/register", json=body), 404, "not_found")
    problem(secure.client(None).post("/auth/token", data=body), 401, "invalid_credentials")


# --- passwords, accounts, revocation --------------------------------------------------


def test_a_new_password_keeps_only_the_own_family(house: House) -> None:
    """204; every other sign-in ends, the caller's goes on, also by refresh; the old is wrong."""
    name = account(house, "worker")
    own, other = sign_in(house, name), sign_in(house, name)
    grown = good(refresh(house, own["refresh_token"]))
    change = {"current": PASSWORD, "new": "another-good-password"}
    nobody = house.client(None)
    wrong = {**change, "current": "not-the-password"}
    answer = nobody.post("/auth/password", json=wrong, headers=bearer(own))
    problem(answer, 401, "invalid_credentials")
    short = nobody.post("/auth/password", json={**change, "new": "x"}, headers=bearer(own))
    assert pointers(short) == ["#/new"]
    done = nobody.post("/auth/password", json=change, headers=bearer(own))
    assert done.status_code == 204
    good(me(house, own))
    good(me(house, grown))
    good(me(house, good(refresh(house, grown["refresh_token"]))))
    problem(me(house, other), 401, "unauthenticated")
    problem(refresh(house, other["refresh_token"]), 401, "invalid_credentials")
    form = {"username": name, "password": PASSWORD}
    problem(nobody.post("/auth/token", data=form), 401, "invalid_credentials")
    good(me(house, sign_in(house, name, "another-good-password")))


def test_an_account_is_made_once(house: House) -> None:
    """201 with the Account and no password in it; a taken name is 409."""
    body = {"username": f"acc-{house.queue()}", "password": PASSWORD, "roles": ["worker", "worker"]}
    answer = house.client().post("/accounts", json=body)
    made = good(answer, 201)
    assert made.keys() == ACCOUNT
    assert (made["roles"], made["customer"], made["active"]) == (["worker"], None, True)
    assert made["last_seen_at"] is None
    assert PASSWORD not in answer.text
    problem(house.client().post("/accounts", json=body), 409, "account_exists")
    for change, pointer in (
        ({"roles": []}, "#/roles"),
        ({"roles": None}, "#/roles"),
        ({"roles": ["root"]}, "#/roles/0"),
        ({"customer": "-"}, "#/customer"),
        ({"password": "short"}, "#/password"),
        ({"username": "no spaces"}, "#/username"),
        ({"active": False}, "#/active"),
    ):
        assert pointers(house.client().post("/accounts", json={**body, **change})) == [pointer]


@pytest.mark.parametrize(
    "change, ticket_ends",
    [
        ({"password": "another-good-password"}, False),
        ({"roles": ["viewer"]}, False),
        ({"customer": "c-new"}, False),
        ({"customer": None}, False),
        ({"revoke_tokens": True}, True),
        ({"active": False}, True),
    ],
    ids=str,
)
def test_what_a_change_of_an_account_ends(
    house: House, change: dict[str, Any], ticket_ends: bool
) -> None:
    """Password, roles and customer end tokens; revoke_tokens and active=false tickets too."""
    name = account(house, "producer", customer="c-old")
    pair = sign_in(house, name)
    body = {"customer": CUSTOMER, "items": [{"sku": "a", "quantity": 1}]}
    posted = good(
        house.client(None).post("/queues/orders/messages", json=body, headers=bearer(pair)), 201
    )
    path, ticket = f"/orders/{posted['id']}", {"ticket": posted["tracking"]["ticket"]}
    good(house.client(None).get(path, params=ticket))
    changed = good(house.client().patch(f"/accounts/{name}", json=change))
    for field in change.keys() & ACCOUNT:
        assert changed[field] == change[field]
    problem(me(house, pair), 401, "unauthenticated")
    problem(refresh(house, pair["refresh_token"]), 401, "invalid_credentials")
    followed = house.client(None).get(path, params=ticket)
    if ticket_ends:
        problem(followed, 401, "unauthenticated")
    else:
        good(followed)


def test_a_change_that_changes_nothing_ends_nothing(house: House) -> None:
    """PATCH with what is there already, or with nothing, leaves the tokens alone."""
    name = account(house, "worker")
    pair = sign_in(house, name)
    path = f"/accounts/{name}"
    for body in ({}, {"roles": ["worker"]}, {"active": True, "revoke_tokens": False}):
        good(house.client().patch(path, json=body))
    good(house.client().patch(path))
    good(me(house, pair))
    assert pointers(house.client().patch(path, json={"username": "x"})) == ["#/username"]
    problem(house.client().patch("/accounts/nobody-here", json={}), 404, "not_found")
    problem(house.client().patch("/accounts/Bad%20Name", json={}), 404, "not_found")


def test_accounts_are_listed_by_their_beginning(house: House) -> None:
    """`prefix` narrows the list to names that begin so, literally, also over pages."""
    mark = house.queue()
    names = [f"{mark}_{tail}" for tail in ("a", "b", "c")]
    for name in [*names, f"{mark}xd"]:
        body = {"username": name, "password": PASSWORD, "roles": ["worker"]}
        good(house.client().post("/accounts", json=body), 201)

    def listed(**query: Any) -> dict[str, Any]:
        return good(house.client().get("/accounts", params={"prefix": f"{mark}_", **query}))

    first = listed(limit=2)
    rest = listed(limit=2, cursor=first["next_cursor"])
    assert [one["username"] for one in first["items"] + rest["items"]] == names
    assert rest["next_cursor"] is None
    other = house.client().get("/accounts", params={"cursor": first["next_cursor"]})
    problem(other, 400, "bad_cursor")
    assert parameters(house.client().get("/accounts", params={"prefix": "%"})) == ["prefix"]


def test_an_inactive_account_is_out_and_may_come_back(house: House) -> None:
    """active=false: no sign-in, no token; active=true: a fresh sign-in works again."""
    name = account(house, "worker")
    path = f"/accounts/{name}"
    pair = sign_in(house, name)
    good(house.client().patch(path, json={"active": False}))
    form = {"username": name, "password": PASSWORD}
    problem(house.client(None).post("/auth/token", data=form), 401, "invalid_credentials")
    assert good(house.client().patch(path, json={"active": True}))["active"] is True
    problem(me(house, pair), 401, "unauthenticated")
    good(me(house, sign_in(house, name)))


def test_a_revocation_reaches_the_other_process(twins: House) -> None:
    """Within 2 s no process takes a token or ticket of an account that was shut."""

    def shut() -> float:
        name = account(twins, "producer")
        pair = sign_in(twins, name)
        good(me(twins, pair, 1))
        good(twins.client().patch(f"/accounts/{name}", json={"active": False}))
        return known_after(twins, pair)

    assert any(shut() < 2 for _ in range(TRIES))


def test_the_last_admin_stays(secure: House) -> None:
    """The only active admin cannot be shut or lose the role; one of two can."""
    admin = secure.client()
    for change in ({"active": False}, {"roles": ["viewer"]}):
        problem(admin.patch("/accounts/admin", json=change), 409, "last_admin")
    assert good(admin.get("/auth/me"))["roles"] == ["admin"], "and nothing has changed"
    second = account(secure, "admin", "viewer")
    good(admin.patch(f"/accounts/{second}", json={"active": False}))
    problem(admin.patch("/accounts/admin", json={"roles": ["viewer"]}), 409, "last_admin")


# --- tickets as credentials -----------------------------------------------------------


def test_a_ticket_ends_by_revocation(house: House) -> None:
    """Its maker and an admin may revoke it; to others it is not there."""
    order = house.post(house.queue())["id"]
    body = {"topics": [f"order:{order}"]}

    def ticket() -> str:
        return good(house.client("customer").post("/events/tickets", json=body), 201)["ticket"]

    def read(text: str) -> httpx.Response:
        return house.client(None).get(f"/orders/{order}", params={"ticket": text})

    for role in ("customer", "admin"):
        text = ticket()
        good(read(text))
        stranger = house.client("worker").post("/events/tickets/revoke", json={"ticket": text})
        problem(stranger, 404, "not_found")
        for _ in range(2):
            done = house.client(role).post("/events/tickets/revoke", json={"ticket": text})
            assert done.status_code == 204
        problem(read(text), 401, "unauthenticated")
    for text in ("", "é", "x" * 100, quote(ticket()[:-1])):
        answer = house.client().post("/events/tickets/revoke", json={"ticket": text})
        problem(answer, 404, "not_found")
    twice = house.client(None).get(f"/orders/{order}?ticket=a&ticket=b")
    assert twice.status_code in (401, 422)
    assert parameters(house.client().get(f"/orders/{order}?tikcet=x")) == ["tikcet"]

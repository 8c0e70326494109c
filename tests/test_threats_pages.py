"""Threats against the pages and what stands behind them: addresses, forms, logs, command lines."""

import asyncio
import importlib
import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page

import actions
from database import MIGRATIONS
from tests.answers import good, problem
from tests.chromium import opened
from tests.house import API, PASSWORD, House
from tests.test_actions_api import console, said
from tests.visits import at_home, cookie_of, visit

NAMES = "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"


@pytest.fixture(scope="module")
def shop() -> Iterator[House]:
    """A shop whose window is for everybody."""
    with at_home(SHOP="true", PUBLIC_STOCK="true") as house:
        yield house


# --- signing in -----------------------------------------------------------------------


def test_a_sign_in_that_is_no_object_is_refused(house: House) -> None:
    """Whatever JSON comes as a sign-in, it is wrong and nothing falls."""
    for body in ([], "admin", 1, [{"username": "admin"}]):
        answer = httpx.post(f"{house.url}{API}/auth/session", json=body, timeout=30)
        problem(answer, 422, "invalid")


def test_a_long_address_leads_to_the_sign_in(shop: House) -> None:
    """Whoever comes without an account to filters as long as they may be can sign in."""
    for size in (2_000, 3_000, 7_000):
        address = f"/admin/messages?error_contains={'%C3%A9' * (size // 6)}"
        sent = httpx.get(shop.url + address, timeout=30)
        assert sent.status_code == 303
        there = sent.headers["location"]
        target = parse_qs(urlsplit(there).query)["next"][0]
        assert target in (address, "/admin/messages")
        assert httpx.get(shop.url + there, timeout=30).status_code == 200
        form = {"username": "admin", "password": "wrong-password", "next": target}
        here = {"Origin": shop.url}
        refused = httpx.post(f"{shop.url}/login", data=form, headers=here, timeout=30)
        assert refused.status_code == 401
    short = httpx.get(f"{shop.url}/admin?x=1", timeout=30)
    assert short.headers["location"] == "/login?next=%2Fadmin%3Fx%3D1"


def test_a_sign_in_that_is_over_bars_no_public_page(shop: House) -> None:
    """The first page that says so takes the cookie away: then the window is as for everybody."""
    with httpx.Client(base_url=shop.url, timeout=30) as page:
        page.cookies.set("fv_session", "over", domain="127.0.0.1")
        assert page.get("/shop").headers["location"].startswith("/login?")
        assert "fv_session" not in page.cookies
        assert page.get("/shop").status_code == 200


def test_another_language_after_a_refused_registration(shop: House) -> None:
    """The links to a language on the page that refuses lead to a page."""
    with httpx.Client(base_url=shop.url, follow_redirects=True, timeout=30) as page:
        form = {"username": "NO", "password": PASSWORD}
        refused = page.post("/register", data=form, headers={"Origin": shop.url})
        assert refused.status_code == 422
        assert 'href="?lang=pt-BR"' in refused.text
        other = page.get("/register?lang=pt-BR")
        assert (other.status_code, other.url.path) == (200, "/login")
        assert '<html lang="pt-BR">' in other.text


# --- the audit log --------------------------------------------------------------------


def test_what_is_too_long_to_be_kept_is_not_searched() -> None:
    """A call of 4 MiB is not held up by its line: what is left out is not searched for secrets."""
    for text in ("x y=z; ", "token: '", "://a"):
        blob = {"k": text * (3_500 // len(text))}
        sent = {"messages": [{"customer": "c-1", "metadata": blob}] * 1_000}
        began = time.thread_time()
        assert actions.detail_of(sent, personal=False) == '{"fields":["messages"]}'
        assert time.thread_time() - began < 0.2


def test_a_new_password_of_an_admin_leaves_a_line(house: House) -> None:
    """Whoever takes over an admin's page and changes the password is seen; neither is told."""
    name = f"boss-{house.queue()}"
    old, new = f"old-{name}-password", f"new-{name}-password"
    made = {"username": name, "password": old, "roles": ["admin"]}
    good(house.client().post("/accounts", json=made), 201)
    with console(house) as page:
        sign_in = {"username": name, "password": old}
        assert page.post("/auth/session", json=sign_in).status_code == 204
        wrong = page.post("/auth/password", json={"current": "no", "new": new})
        problem(wrong, 401, "invalid_credentials")
        changed = page.post("/auth/password", json={"current": old, "new": new})
        assert changed.status_code == 204, changed.text
    lines = said(house, account=name)
    assert [(one["action"], one["status"]) for one in lines] == [
        ("change_password", 204),
        ("change_password", 401),
    ]
    assert all(one["detail"] == {"current": "***", "new": "***"} for one in lines)


# --- the schema -----------------------------------------------------------------------


class Client:
    """What migrations use of Tortoise's client."""

    capabilities = SimpleNamespace(dialect="sqlite")

    def __init__(self, line: sqlite3.Connection) -> None:
        self._line = line

    async def execute_query_dict(self, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        cursor = self._line.execute(sql, values)
        names = [name for name, *_ in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._line.executemany(sql, rows)


def test_the_way_back_of_a_migration_leaves_nothing() -> None:
    """What a migration made is gone after its downgrade, so that it can be made again."""
    files = (MIGRATIONS / "models").glob("[0-9]*.py")
    with closing(sqlite3.connect(":memory:")) as line:
        made = Client(line)
        for path in sorted(files, key=lambda file: int(file.name.partition("_")[0])):
            step = importlib.import_module(f"migrations.models.{path.stem}")
            before = line.execute(NAMES).fetchall()
            line.executescript(asyncio.run(step.upgrade(made)))
            line.executescript(asyncio.run(step.downgrade(made)))
            assert line.execute(NAMES).fetchall() == before, path.name
            line.executescript(asyncio.run(step.upgrade(made)))


# --- what scripts make of hostile text -------------------------------------------------


@pytest.fixture(scope="module")
def page(browser: Browser, shop: House) -> Iterator[Page]:
    with visit(browser, shop, "/admin/audit") as found:
        yield found


HOSTILE = [
    "plain",
    "'; touch /tmp/x; echo '",
    "$(id) `id` ${HOME} !! \\",
    "a\nb\r\tc",
    "@/etc/passwd",
    "-o /tmp/x",
    "\u009b31m \u007f \u0085 \u202egnp.exe\u2066 \u200b\u2028 \U000e0041 é 🎵",
]
CURL = """
async (texts) => {
  const { curl } = await import("/static/page.js");
  return texts.map((text) => curl("POST", "/api/v1/x", { body: { text, [text]: 1 } }));
}
"""


def test_a_command_line_does_what_it_shows(page: Page) -> None:
    """In a shell it is one command with the same JSON; nothing in it hides in a terminal."""
    for text, line in zip(HOSTILE, page.evaluate(CURL, HOSTILE), strict=True):
        shown = line.replace("curl ", "printf '%s\\0' ", 1)
        ran = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, check=True)
        said = ran.stdout.split("\0")[:-1]
        assert json.loads(said[-1]) == {"text": text, text: 1}
        assert said[:2] == ["-X", "POST"], said
        unseen = [one for one in line if not one.isprintable()]
        assert unseen == [], (text, line)


SLOWLY = """
async (lasts) => {
  const { calmly } = await import("/static/page.js");
  let under = 0, ended = 0, most = 0, asked = 0, last = 0;
  const soon = calmly(10, async () => {
    const mine = asked;
    most = Math.max(most, ++under);
    await new Promise((go) => setTimeout(go, lasts));
    under--;
    ended++;
    last = mine;
  });
  const until = performance.now() + 600, gone = until + 30_000;
  while (performance.now() < until || (ended < 3 && performance.now() < gone)) {
    asked++;
    soon();
    await new Promise((go) => setTimeout(go, 5));
  }
  const given = asked;
  while (last < given && performance.now() < gone) {
    await new Promise((go) => setTimeout(go, 20));
  }
  return { most, ended, caught: last === given };
}
"""


def test_a_storm_gives_no_load_up(page: Page) -> None:
    """What loads longer than its rest ends before it is begun again; the last event is not lost."""
    told: dict[str, Any] = page.evaluate(SLOWLY, 120)
    assert told["most"] == 1
    assert told["ended"] >= 3
    assert told["caught"] is True


# What is done every minute to every twenty is done at once, again and again; what is done less
# often is not done before the test is over.
HURRIED = """
const rest = setInterval;
const often = (ms) => (ms >= 60_000 && ms <= 20 * 60_000 ? 100 : ms);
window.setInterval = (work, ms, ...more) => rest(work, often(ms), ...more);
"""


@pytest.mark.parametrize("path", ["/shop", "/cart"])
def test_who_waits_for_a_launch_stays_signed_in(browser: Browser, shop: House, path: str) -> None:
    """A session ends after 30 minutes without a call: the page of a buyer makes one in time."""
    cookie = cookie_of(shop, "customer")
    with opened(browser, shop.url + path, cookie=cookie, before=HURRIED) as page:
        for _ in range(2):
            with page.expect_request(lambda one: one.url.endswith("/auth/me")):
                pass

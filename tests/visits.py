"""A service at its own address, and browsers that are signed in to it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
from playwright.sync_api import Browser, Page

from tests.chromium import opened
from tests.house import ADMIN_PASSWORD, API, PASSWORD, House, running
from tests.services import free_port

Settle = Callable[..., AbstractContextManager[House]]

# A script with which a page's own time passes five times as fast: what it does now and then. Not
# the clock, by which it tells how long ago something was.
FASTER = """(() => {
  const [wait, rest, now] = [setTimeout, setInterval, performance.now.bind(performance)];
  window.setTimeout = (work, ms = 0, ...more) => wait(work, ms / 5, ...more);
  window.setInterval = (work, ms = 0, ...more) => rest(work, ms / 5, ...more);
  performance.now = () => now() * 5;
})()"""


def unasked(ms: int) -> str:
    """A script with which a page does nothing by itself that it would do after so long or longer:
    what happens was asked for, or told."""
    return f"""(() => {{
      const wait = setTimeout;
      window.setTimeout = (work, ms, ...more) => (ms >= {ms} ? 0 : wait(work, ms, ...more));
    }})()"""


@contextmanager
def at_home(processes: int = 1, **settings: str) -> Iterator[House]:
    """A service whose PUBLIC_URL is where it stands: what its pages send has its origin.

    Of several processes that is the first; the tests' own calls go to the last.
    """
    port = free_port()
    where = f"http://127.0.0.1:{port}"
    each = [{"PORT": str(port)}, *({} for _ in range(processes - 1))]
    with running(processes, each=each, **{"PUBLIC_URL": where, **settings}) as house:
        house.desk = processes - 1
        yield house


def password_of(role: str) -> str:
    return ADMIN_PASSWORD if role == "admin" else PASSWORD


def cookie_of(house: House, role: str) -> str:
    """`name=value` of a fresh session of the account of this role."""
    sign_in = {"username": role, "password": password_of(role)}
    answer = httpx.post(f"{house.url}{API}/auth/session", json=sign_in, timeout=30)
    assert answer.status_code == 204, answer.text
    return answer.headers["set-cookie"].partition(";")[0]


def visit(
    browser: Browser,
    house: House,
    path: str,
    role: str = "admin",
    *,
    locale: str = "en-US",
    errors: str = "",
    before: str = "",
) -> AbstractContextManager[Page]:
    """A page in a browser that is signed in as a role; the rest as `opened`."""
    cookie = cookie_of(house, role)
    url = house.url + path
    return opened(browser, url, locale=locale, errors=errors, cookie=cookie, before=before)

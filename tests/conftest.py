"""What tests share: the real services, once a session."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser

from tests import node, services
from tests.chromium import chromium
from tests.house import House, running
from tests.visits import Settle, at_home

T = TypeVar("T")

# Files that take long for their number of tests. They begin first: a worker that met one last
# would leave the others without work.
LONG = (
    "test_pages",
    "test_browser_module",
    "test_chaos",
    "test_clients",
    "test_wire",
    "test_fuzz",
    "test_deaf",
    "test_deliveries",
    "test_recipes",
    "test_sale",
    "test_demo",
    "test_track_page",
    "test_shop_page",
    "test_message_page",
    "test_streams_page",
    "test_processes_api",
    "test_audit",
    "test_outlets",
    "test_streams_ends",
    "test_cli",
    "test_nginx",
    "test_moves",
    "test_migrations",
    "test_asyncapi",
    "test_console",
)


def pytest_configure() -> None:
    services.Server.forked = True
    # How long an example takes says nothing on a machine that does other things too.
    slow = [HealthCheck.too_slow]
    settings.register_profile("patient", settings(), deadline=None, suppress_health_check=slow)
    settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def absent(reason: str) -> NoReturn:
    """A skip that says why; where everything must be there (CI=true), a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def entered(stack: ExitStack, service: Callable[[], AbstractContextManager[T]]) -> T:
    try:
        return stack.enter_context(service())
    except services.Missing as missing:
        absent(str(missing))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[services.Postgres]:
    """A PostgreSQL cluster; POSTGRES_FROM=wheel takes the newer one of the wheel."""
    source = os.environ.get("POSTGRES_FROM", "any")
    with ExitStack() as stack:
        yield entered(stack, lambda: services.postgres(source))


@pytest.fixture
def postgres_url(postgres_server: services.Postgres) -> Iterator[str]:
    """The URL of an empty database of its own."""
    name = postgres_server.create()
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture(params=["sqlite", "postgres"])
def blank(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite://{tmp_path}/filaviva.db"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[services.RedisServer]:
    """A Redis; a test that kills or freezes it brings it back."""
    with ExitStack() as stack:
        yield entered(stack, services.redis)


@pytest.fixture(scope="session")
def npm() -> Path:
    """The folder with the npm packages that tests use."""
    try:
        return node.packages()
    except services.Missing as missing:
        absent(str(missing))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium. A file's, not the session's: Playwright's loop is in the way of asyncio's."""
    with ExitStack() as stack:
        yield entered(stack, chromium)


@pytest.fixture
def start_server() -> Iterator[Callable[..., services.Server]]:
    """Start the service: `start_server(DATABASE_URL=…)`. All end with the test."""
    with ExitStack() as stack:

        def start(**settings: str) -> services.Server:
            return stack.enter_context(services.Server(**settings))

        yield start


@pytest.fixture(scope="session")
def house_on_sqlite() -> Iterator[House]:
    with running() as found:
        yield found


@pytest.fixture(scope="session")
def house_on_postgres(postgres_server: services.Postgres) -> Iterator[House]:
    name = postgres_server.create()
    with running(DATABASE_URL=postgres_server.url(name)) as found:
        yield found
    postgres_server.drop(name)


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def house(request: pytest.FixtureRequest) -> House:
    """The service for tests of behaviour: one process, on each database in turn.

    Both stay up to the end: a parameter that comes again would start them again.
    """
    return request.getfixturevalue(f"house_on_{request.param}")


@pytest.fixture(scope="session")
def settle(request: pytest.FixtureRequest) -> Settle:
    """`settle(SHOP="true")`: a service for tests of pages, at its own address.

    It is one process on SQLite. PAGES_ON=twins takes two on PostgreSQL with Redis, of which one
    serves the pages and the other what the tests do.
    """
    if os.environ.get("PAGES_ON") != "twins":
        return at_home
    postgres: services.Postgres = request.getfixturevalue("postgres_server")
    redis: services.RedisServer = request.getfixturevalue("redis_server")

    @contextmanager
    def apart(**settings: str) -> Iterator[House]:
        name = postgres.create()
        each = {"DATABASE_URL": postgres.url(name), "REDIS_URL": redis.url}
        with at_home(2, **each, **settings) as found:
            yield found
        postgres.drop(name)

    return apart


@pytest.fixture(scope="session")
def home(settle: Settle) -> Iterator[House]:
    """The service that the tests of pages share."""
    with settle() as found:
        yield found


@pytest.fixture(scope="session")
def twins(
    postgres_server: services.Postgres, redis_server: services.RedisServer
) -> Iterator[House]:
    """Two processes on one PostgreSQL and one Redis: the normal case in earnest."""
    name = postgres_server.create()
    url = postgres_server.url(name)
    with running(2, DATABASE_URL=url, REDIS_URL=redis_server.url) as found:
        yield found
    postgres_server.drop(name)

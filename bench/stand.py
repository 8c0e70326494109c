"""What is measured: the service, its twin, and the bare framework, each a process."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from tests import services

PASSWORD = "a-password-of-benchmarks"
API = "/api/v1"
QUEUE = "orders"
SECONDS = 60.0  # that an answer may take
PURCHASE = {
    "customer": "c-7",
    "items": [
        {"sku": "disc-001", "quantity": 2, "amount_cents": 1980},
        {"sku": "disc-002", "quantity": 1, "amount_cents": 2990},
    ],
    "reference": "1042",
    "metadata": {"channel": "web", "campaign": "november"},
}
KINDS = ("sqlite", "postgres", "postgres+redis")


class Service(services.Server):
    """The service with the settings of production, but for the ports and folders."""

    app = "main:app"

    def __init__(self, *, profile: str = "", **settings: str) -> None:
        common = {"ADMIN_PASSWORD": PASSWORD, "PUBLIC_URL": "https://shop.example", **settings}
        super().__init__(**common, LOG_LEVEL="WARNING")
        self._profile = profile
        self._admin: str | None = None

    def command(self) -> Sequence[str]:
        more = [self._profile] if self._profile else []
        return [sys.executable, "-m", "bench.serve", self.app, *more]

    def account(self, name: str, *roles: str) -> str:
        """A new account; its access token."""
        self._admin = self._admin or self.token("admin")
        self.call("/accounts", {"username": name, "password": PASSWORD, "roles": roles})
        return self.token(name)

    def token(self, name: str) -> str:
        form = {"username": name, "password": PASSWORD}
        answer = httpx.post(f"{self.url}{API}/auth/token", data=form, timeout=SECONDS)
        return answer.raise_for_status().json()["access_token"]

    def look(self, path: str) -> Any:
        """What the admin sees there."""
        headers = {"Authorization": f"Bearer {self._admin}"}
        return (
            httpx.get(self.url + API + path, headers=headers, timeout=SECONDS)
            .raise_for_status()
            .json()
        )

    def call(self, path: str, body: Any, token: str | None = None) -> httpx.Response:
        """A POST, by the admin if nobody is said, that succeeds."""
        headers = {"Authorization": f"Bearer {token or self._admin}"}
        answer = httpx.post(self.url + API + path, json=body, headers=headers, timeout=SECONDS)
        return answer.raise_for_status()


class Twin(Service):
    """The service with the route that stores nothing. `answer`: a real answer's bytes."""

    app = "bench.twin:app"

    def __init__(self, answer: bytes, **settings: str) -> None:
        super().__init__(**settings)
        self._answer = self.folder / "answer.json"
        self._answer.write_bytes(answer)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "BENCH_ANSWER": str(self._answer)}


class Bare(services.Server):
    """The framework alone."""

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "bench.serve", "bench.bare:app"]

    def ready(self) -> bool:
        return self.status("/nothing") == 404


@contextmanager
def databases(kind: str) -> Iterator[Callable[[], dict[str, str]]]:
    """What gives the settings of a fresh database each time it is called.

    Raises services.Missing.
    """
    if kind == "sqlite":
        yield dict
        return
    with ExitStack() as stack:
        cluster = stack.enter_context(services.postgres(os.environ.get("POSTGRES_FROM", "any")))
        more = {}
        if kind == "postgres+redis":
            more["REDIS_URL"] = stack.enter_context(services.redis()).url
        yield lambda: {"DATABASE_URL": cluster.url(cluster.create()), **more}


@contextmanager
def crew(kind: str, **more: str) -> Iterator[list[Service]]:
    """The service on a fresh database: where there is Redis two processes, else one.

    `more` are settings.

    Raises services.Missing.
    """
    with ExitStack() as stack:
        settings = stack.enter_context(databases(kind))()
        count = 2 if "REDIS_URL" in settings else 1
        common = {**settings, "SECRET_KEY": "k" * 32, **more}  # a token opens both
        yield [stack.enter_context(Service(**common)) for _ in range(count)]


def postgres_version() -> str:
    """Raises services.Missing."""
    with services.postgres(os.environ.get("POSTGRES_FROM", "any")) as cluster:
        return cluster.sql("SHOW server_version").split()[0]

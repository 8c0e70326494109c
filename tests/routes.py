"""The routes of a running service, read from its own OpenAPI document."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from typing import Any, NamedTuple

import httpx

from tests.answers import NOWHERE
from tests.house import API
from tests.services import ROOT

VALUES = {
    "name": "orders",
    "id": NOWHERE,
    "sku": "disc-001",
    "customer": "c-7",
    "username": "nobody-of-that-name",
    "stream": "0000000000-1",
}
METHODS = ("get", "post", "put", "patch", "delete")
ENDLESS = f"{API}/events"

# What `main` knows of its routes, printed by a process of its own: importing it reads the
# settings of the environment.
LISTING = """
import json, main
print(json.dumps([
    [one.method, one.path, one.verb, one.limit,
     f"main.{one.verb}" in main.limiter._route_limits] for one in main.OPERATIONS
] + [[m, r.path, r.endpoint.__name__, None,
      f"main.{r.endpoint.__name__}" in main.limiter._route_limits]
     for r in main.api.routes if hasattr(r, "endpoint") for m in r.methods]))
"""


def roles_of(operation: dict[str, Any]) -> list[str]:
    """The roles that the document names at an operation; none: anybody."""
    told = operation.get("description", "Roles: .")
    return re.findall(r"\w+", told.partition("Roles:")[2])


class Route(NamedTuple):
    """One operation of the document."""

    method: str
    template: str
    operation: dict[str, Any]

    @property
    def key(self) -> str:
        return f"{self.method} {self.template}"

    @property
    def path(self) -> str:
        """The path with values that are well-formed; `orders` is the only one that exists."""
        return self.template.format(**VALUES)

    @property
    def body(self) -> dict[str, Any]:
        """Media type → its part of the document; empty without a body."""
        return self.operation.get("requestBody", {}).get("content", {})

    @property
    def role(self) -> str:
        """One that may call it: the admin's, if he may."""
        roles = roles_of(self.operation)
        return "admin" if not roles or "admin" in roles else roles[0]

    @property
    def required(self) -> bool:
        """Whether there must be a body."""
        return bool(self.operation.get("requestBody", {}).get("required"))


def document(url: str) -> dict[str, Any]:
    """The OpenAPI document of the service at `url`."""
    answer = httpx.get(f"{url}/openapi.json", timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


@cache
def routes(url: str) -> list[Route]:
    return [
        Route(method.upper(), template, item[method])
        for template, item in document(url)["paths"].items()
        for method in METHODS
        if method in item
    ]


class Registered(NamedTuple):
    """A route as the program registered it; `limit` None where the table does not say."""

    method: str
    path: str
    name: str
    limit: str | None
    limited: bool


@cache
def registered() -> list[Registered]:
    """Every route of the program, and every row of its table."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("FILAVIVA_")}
    done = subprocess.run(
        [sys.executable, "-c", LISTING],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [Registered(*row) for row in json.loads(done.stdout)]

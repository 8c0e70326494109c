"""What tests ask of answers, and a look at what is stored behind them."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from tests.house import House

PROBLEM = {"type", "title", "status", "detail", "code", "instance", "errors"}
NOWHERE = "01a1ff43-dd00-7b3e-8f21-4c5d6e7f8091"  # well-formed, and of no message


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of an answer that must be this problem, in the one form all problems have."""
    assert (answer.status_code, answer.headers.get("content-type")) == (
        status,
        "application/problem+json",
    ), answer.text
    body: dict[str, Any] = answer.json()
    assert body.keys() >= PROBLEM
    assert (body["code"], body["status"]) == (code, status), body
    assert body["type"] == f"urn:filaviva:{code}"
    assert body["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"
    if status == 401 and code == "unauthenticated":
        assert answer.headers["www-authenticate"] == "Bearer"
    return body


def pointers(answer: httpx.Response) -> list[str]:
    """Where a 422 says the body is wrong."""
    return [error["pointer"] for error in problem(answer, 422, "invalid")["errors"]]


def parameters(answer: httpx.Response) -> list[str]:
    """Which parameters a 422 says are wrong."""
    return [error["parameter"] for error in problem(answer, 422, "invalid")["errors"]]


def good(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    """The body of a success."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def stored(house: House, statement: str) -> list[tuple[Any, ...]]:
    """Run one SQL statement in the database of a house, as an intruder would; its rows."""
    settings = house.servers[0].settings
    file = f"sqlite://{settings['DATA_DIR']}/filaviva.db"
    return execute(settings.get("DATABASE_URL", file), statement)


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """The rows of one SQL statement in the database at `url`; committed."""
    if url.startswith("sqlite://"):
        return _sqlite(Path(url.removeprefix("sqlite://")), statement)
    with ThreadPoolExecutor(1) as aside:  # a test with a browser has a loop running already
        return aside.submit(asyncio.run, _postgres(url, statement)).result()


def _sqlite(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, timeout=30)) as line, line:
        return line.execute(statement).fetchall()


async def _postgres(url: str, statement: str) -> list[tuple[Any, ...]]:
    line = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await line.fetch(statement)]
    finally:
        await line.close()

"""HTTP connections on one event loop, cheap enough for hundreds that ask at the same moment."""

import asyncio
import contextlib
import json
import random
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.house import API, House

ANSWER_SECONDS = 60.0
INSIST_SECONDS = 60.0
FRESH_SECONDS = 3.0  # so long a connection may lie idle: the server closes it after five


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """Of a problem; None of a success."""
        return self.json["code"] if self.status >= 400 else None

    @property
    def unsettled(self) -> bool:
        """Whether it leaves open what happened: ask again."""
        return self.status >= 500 or self.code == "idempotency_in_progress"


class Line:
    """One kept connection below /api/v1, with a bearer. One call at a time."""

    def __init__(self, url: str, token: str) -> None:
        where = urlsplit(url)
        self._host, self._port = where.hostname or "", where.port or 80
        self._head = f"Host: {where.netloc}\r\nAuthorization: Bearer {token}\r\n"
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = 0.0

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Its two ends; connected anew if the server has closed it, or may be about to.

        Raises:
            ConnectionError: nobody listens there.
        """
        now = time.monotonic()
        if now - self._used > FRESH_SECONDS or (self._ends and self._ends[0].at_eof()):
            self.close()
        self._used = now
        if self._ends is None:
            self._ends = await asyncio.open_connection(self._host, self._port)
        return self._ends

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """
        Raises:
            ConnectionError: it was cut; what happened is not known.
            TimeoutError: no answer.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await self.open()
                writer.write(self._request(method, path, body, headers))
                return await _answer(reader)
        except asyncio.IncompleteReadError as error:
            self.close()
            raise ConnectionResetError("cut") from error
        except BaseException:  # also when the caller is cancelled: half an answer is left
            self.close()
            raise

    def _request(self, method: str, path: str, body: Any, headers: dict[str, str]) -> bytes:
        given = b"" if body is None else json.dumps(body).encode()
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Type: application/json\r\nContent-Length: {len(given)}\r\n")
        first = f"{method} {API}{path} HTTP/1.1\r\n"
        return "".join([first, self._head, *lines, "\r\n"]).encode() + given

    def close(self) -> None:
        if self._ends is not None:
            self._ends[1].close()
            self._ends = None


async def _answer(reader: asyncio.StreamReader) -> Answer:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(first.split()[1]), headers, body)


class Lines:
    """Connections of many callers to several processes, each kept for whoever comes next."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._free: dict[tuple[str, int], list[Line]] = {}
        self._all: list[Line] = []

    def line(self, role: str, process: int) -> Line:
        """One for somebody alone; processes are counted round."""
        server = self._house.servers[process % len(self._house.servers)]
        self._all.append(Line(server.url, self._house.token(role)))
        return self._all[-1]

    async def call(
        self, role: str, process: int, method: str, path: str, body: Any = None, **headers: str
    ) -> Answer:
        """
        Raises:
            ConnectionError, TimeoutError: see `Line.call`.
        """
        free = self._free.setdefault((role, process), [])
        line = free.pop() if free else self.line(role, process)
        try:
            return await line.call(method, path, body, **headers)
        finally:
            free.append(line)

    async def insist(
        self,
        draw: random.Random,
        role: str,
        method: str,
        path: str,
        body: Any = None,
        **headers: str,
    ) -> Answer:
        """The first answer that says what happened, from whichever process gives one.

        Raises:
            TimeoutError: none did.
        """
        deadline = time.monotonic() + INSIST_SECONDS
        while time.monotonic() < deadline:
            process = draw.randrange(len(self._house.servers))
            with contextlib.suppress(ConnectionError):
                answer = await self.call(role, process, method, path, body, **headers)
                if not answer.unsettled:
                    return answer
            await asyncio.sleep(0.02)
        raise TimeoutError(f"{method} {path}: not answered within {INSIST_SECONDS:g} s")

    def close(self) -> None:
        for line in self._all:
            line.close()

"""A small reader of `text/event-stream` that keeps everything: blocks, comments, raw bytes.

Whatever it reads, in any test, is held against the AsyncAPI document.

On a bare socket, since a test wants to see the bytes as they came, to wait with a deadline
and to hang up like a browser that is closed.
"""

import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from tests import frames

SECONDS = 30.0  # to wait for what must come
CONTROL = {"hello", "snapshot", "reset", "bookmark", "counts", "position", "goodbye"}


@dataclass(frozen=True)
class Block:
    """What stands between two blank lines. A field that did not come is None."""

    raw: bytes
    event: str | None
    id: str | None
    retry: int | None
    data: str | None
    at: float  # of `time.monotonic`

    @property
    def json(self) -> Any:
        return json.loads(self.data or "null")

    def check(self) -> None:
        """Raises AssertionError unless it is as the AsyncAPI document says."""
        fields = {"id": self.id, "retry": self.retry}
        given = {name: value for name, value in fields.items() if value is not None}
        frames.check(self.event, given, self.json)


def block_of(raw: bytes) -> Block:
    """Lines that begin with a colon are no part of a block; the reader keeps them apart."""
    found: dict[str, str] = {}
    for line in raw.decode().split("\n")[:-2]:
        name, colon, value = line.partition(": ")
        assert colon, f"a field is `name: value`, not {line!r}"
        assert name not in found, f"{name} comes twice in {raw!r}"
        found[name] = value
    retry = found.get("retry")
    return Block(
        raw,
        found.get("event"),
        found.get("id"),
        None if retry is None else int(retry),
        found.get("data"),
        time.monotonic(),
    )


class Stream:
    """One open stream. A context manager; `close` hangs up."""

    def __init__(
        self,
        url: str,
        path: str = "/api/v1/events",
        *,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        accept: str = "text/event-stream",
        **query: object,
    ) -> None:
        """`query` values may be lists; None is left out."""
        self.blocks: list[Block] = []
        self.comments: list[bytes] = []
        self.raw = b""  # the body, decoded from its chunks
        self.over = False  # the server ended it
        self._read = 0  # how much of `raw` was taken apart
        self._left = b""
        self._chunk: int | None = None
        where = urlsplit(url)
        self._socket = socket.create_connection((where.hostname or "", where.port or 80), SECONDS)
        given = [(k, v) for k, v in query.items() if v is not None]
        target = f"{path}?{urlencode(given, doseq=True)}" if given else path
        lines = {"Host": where.netloc, "Accept": accept, **(headers or {})}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._socket.sendall(f"{method} {target} HTTP/1.1\r\n{text}\r\n".encode())
        self._read_head()

    def _read_head(self) -> None:
        deadline = time.monotonic() + SECONDS
        while b"\r\n\r\n" not in self._left:
            assert self._receive(deadline), "no answer"
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        self._plain = self.headers.get("transfer-encoding") != "chunked"
        self._decode()

    def _receive(self, deadline: float) -> bool:
        """More bytes; False if time is up or the server hung up."""
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        self._socket.settimeout(left)
        try:
            found = self._socket.recv(65536)
        except TimeoutError:
            return False
        except ConnectionResetError:
            found = b""
        if not found:
            self.over = True
        self._left += found
        return bool(found)

    def _decode(self) -> None:
        if self._plain:
            self.raw, self._left = self.raw + self._left, b""
            self.over = self.over or len(self.raw) >= int(self.headers.get("content-length", 1e9))
        else:
            self._decode_chunks()
        self._take_apart()

    def _decode_chunks(self) -> None:
        while True:
            if self._chunk is None:
                line, end, rest = self._left.partition(b"\r\n")
                if not end:
                    return
                self._chunk, self._left = int(line, 16), rest
            if len(self._left) < self._chunk + 2:
                return
            self.raw += self._left[: self._chunk]
            self.over = self.over or self._chunk == 0
            self._left, self._chunk = self._left[self._chunk + 2 :], None

    def _take_apart(self) -> None:
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return
        while (end := self.raw.find(b"\n", self._read)) >= 0:
            if self.raw[self._read : self._read + 1] == b":":
                self.comments.append(self.raw[self._read : end + 1])
                self._read = end + 1
                continue
            end = self.raw.find(b"\n\n", self._read)
            if end < 0:
                return
            self.blocks.append(block_of(self.raw[self._read : end + 2]))
            self.blocks[-1].check()
            self._read = end + 2

    # --- waiting ----------------------------------------------------------------------

    def wait(self, found: Callable[["Stream"], Any], seconds: float, what: str) -> Any:
        """The first true answer of `found`. Raises TimeoutError with what came instead."""
        deadline = time.monotonic() + seconds
        while not (answer := found(self)):
            if self.over or not self._receive(deadline):
                raise TimeoutError(f"{what}: not within {seconds:g} s but {self.raw!r}")
            self._decode()
        return answer

    def first(self, event: str, seconds: float = SECONDS) -> Block:
        """The first block of an event's name."""
        return self.wait(
            lambda one: next((b for b in one.blocks if b.event == event), None), seconds, event
        )

    def events(self, count: int, seconds: float = SECONDS) -> list[Block]:
        """The first `count` blocks that are no control frames."""
        self.wait(lambda one: len(one.facts) >= count, seconds, f"{count} events")
        return self.facts

    @property
    def facts(self) -> list[Block]:
        """All blocks so far that are no control frames."""
        return [block for block in self.blocks if block.event not in CONTROL]

    @property
    def ids(self) -> list[str | None]:
        return [block.id for block in self.facts]

    def named(self, event: str) -> list[Block]:
        return [block for block in self.blocks if block.event == event]

    def end(self, seconds: float = SECONDS) -> Block:
        """Wait until the server ends it; the last block."""
        deadline = time.monotonic() + seconds
        while not self.over:
            if not self._receive(deadline) and not self.over:
                raise TimeoutError(f"not ended within {seconds:g} s: {self.raw!r}")
            self._decode()
        return self.blocks[-1]

    def quiet(self, seconds: float) -> bool:
        """Whether nothing came for that long but signs of life."""
        before, deadline = len(self.blocks), time.monotonic() + seconds
        while self._receive(deadline):
            self._decode()
        fresh = [block for block in self.blocks[before:] if block.event != "bookmark"]
        return not fresh and not self.over

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

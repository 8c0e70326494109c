"""Streams that are opened and held, in a process of its own: `python -m bench.crowd`.

Its first line of input is a `Plan` as JSON, of which it opens the first streams; `open` lets it
open the rest, `look` does nothing. Each line is answered by a `State`.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.audience import Program
from tests.sale import many_files

AT_ONCE = 50  # streams that are being opened
OPEN_SECONDS = 120.0
HEARTBEAT = b"\n:\n\r\n"  # in its chunk


def request(path: str, port: int, *headers: str) -> str:
    """A GET as it goes over the line."""
    first = (f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Accept: text/event-stream")
    return "".join(f"{line}\r\n" for line in [*first, *headers, ""])


class Reader(asyncio.Protocol):
    """A stream. It has begun when `sign` came; what it gets after that goes to `heard`."""

    __slots__ = ("_request", "_sign", "begun", "closed", "transport")

    def __init__(self, asking: str, sign: bytes) -> None:
        self._request, self._sign = asking.encode(), sign
        self.begun: asyncio.Event | None = asyncio.Event()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.begun is not None and self._sign in data:
            self.begun.set()
        self.heard(data)

    def heard(self, data: bytes) -> None:
        """Bytes as they come off the line."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True


async def opened(readers: Sequence[Reader], ports: Sequence[int]) -> None:
    """Open them all, each at its port, and wait until each has begun.

    Raises TimeoutError.
    """
    gate = asyncio.Semaphore(AT_ONCE)
    loop = asyncio.get_running_loop()

    async def enter(one: Reader, port: int) -> None:
        async with gate, asyncio.timeout(OPEN_SECONDS):
            await loop.create_connection(lambda: one, "127.0.0.1", port)
            assert one.begun is not None
            await one.begun.wait()
            one.begun = None

    async with asyncio.TaskGroup() as group:
        for one, port in zip(readers, ports, strict=True):
            group.create_task(enter(one, port))


@dataclass(frozen=True, slots=True)
class Plan:
    port: int
    requests: list[str]
    sign: str  # what an answer must have said before its stream counts as open
    warm: int = 100  # of the streams: opened first


@dataclass(frozen=True, slots=True)
class State:
    open: int
    closed: int
    heartbeats: int  # that came so far
    cpu: float  # seconds that the client took so far


class _Listener(Reader):
    """Counts its heartbeats."""

    __slots__ = ("beats",)

    def __init__(self, asking: str, sign: bytes) -> None:
        super().__init__(asking, sign)
        self.beats = 0

    def heard(self, data: bytes) -> None:
        self.beats += data.count(HEARTBEAT)


class Crowd:
    """The streams of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._readers: list[_Listener] = []

    async def obey(self) -> None:
        """Until nobody says anything any more."""
        loop, order = asyncio.get_running_loop(), "open"
        while order:
            if order == "open":
                await self._open_more()
            print(json.dumps(asdict(self._state())), flush=True)
            order = (await loop.run_in_executor(None, sys.stdin.readline)).strip()

    async def _open_more(self) -> None:
        plan, had = self._plan, len(self._readers)
        asked = plan.requests[had:] if had else plan.requests[: plan.warm]
        more = [_Listener(one, plan.sign.encode()) for one in asked]
        self._readers += more
        await opened(more, [plan.port] * len(more))

    def _state(self) -> State:
        closed = sum(one.closed for one in self._readers)
        beats = sum(one.beats for one in self._readers)
        return State(len(self._readers) - closed, closed, beats, time.process_time())


class Client(Program):
    """The process, as its parent has it. On the way in the first streams are open."""

    def __init__(self, plan: Plan) -> None:
        super().__init__([sys.executable, "-m", __name__], core=None)
        self._plan = plan

    def begin(self) -> None:
        self._ask(json.dumps(asdict(self._plan)))

    def open(self) -> State:
        """The rest too. Raises Fell where one does not open."""
        return self._ask("open")

    def look(self) -> State:
        return self._ask("look")

    def _ask(self, line: str) -> State:
        self.tell(line)
        return State(**json.loads(self.hear()))


if __name__ == "__main__":
    many_files()
    asyncio.run(Crowd(Plan(**json.loads(sys.stdin.readline()))).obey())

"""Open loop: purchases that arrive by the clock, whatever became of those before them.

A latency counts from the moment at which its purchase was due, not from when it was sent: what
a service that stalls keeps waiting is late, and all of it is seen. It runs as a process of its
own, `python -m bench.arrivals` with a `Plan` as JSON on its input, and prints a `Found`: also
how late it was itself and how much of a core it took, since a client at its limit measures
nothing but itself.
"""

import asyncio
import contextlib
import gc
import json
import re
import subprocess
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any
from urllib.parse import urlsplit

from tests import services

LOST = "lost"  # the status of what was never answered
_size = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Plan:
    """What arrives where: `bodies` in turn, at the URLs in turn."""

    urls: list[str]
    token: str
    bodies: list[str]
    rate: float  # arrivals a second
    seconds: float
    lines: int = 64  # connections over all URLs; who finds none free waits, by the clock
    patience: float = 30  # seconds that the last answers may take


@dataclass(frozen=True, slots=True)
class Found:
    """Latencies in ms from when a purchase was due; `late` in ms, what of it is the client's."""

    statuses: dict[str, int]
    seconds: float  # from the first arrival to the last answer
    p50: float
    p99: float
    most: float
    late_p99: float
    late_most: float
    busy: float  # share of a core that the client took


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that is not exceeded by this share of all; 0 of none."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)] if values else 0.0


class Line(asyncio.Protocol):
    """One connection: a request at a time, and its answer."""

    def __init__(self, arrivals: "Arrivals", where: int) -> None:
        self._arrivals, self.where = arrivals, where
        self._left = bytearray()
        self._due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._arrivals.free(self)

    def ask(self, request: bytes, due: float) -> None:
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        left = self._left
        left += data
        end = left.find(b"\r\n\r\n")
        if end < 0 or self._due is None:
            return
        size = _size.search(left, 0, end + 2)
        if size is None or len(left) < end + 4 + int(size[1]):
            return
        status, due, self._due = left[9:12].decode(), self._due, None
        left.clear()
        self._arrivals.answered(due, status)
        self._arrivals.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due is not None:
            self._arrivals.answered(self._due, LOST)
        self._arrivals.lost(self)


class Arrivals:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._requests = [[_request(url, plan, body) for body in plan.bodies] for url in plan.urls]
        self._free: deque[Line] = deque()
        self._waiting: deque[tuple[int, float]] = deque()  # the number of a body, when it was due
        self._latencies, self._late = array("d"), array("d")
        self._statuses: Counter[str] = Counter()
        self._opening: set[asyncio.Task[None]] = set()
        self._asked = round(plan.rate * plan.seconds)
        self._heard = asyncio.Event()  # every answer
        self._over = False

    async def run(self) -> Found:
        """Raises OSError where nobody listens."""
        plan, self._loop = self._plan, asyncio.get_running_loop()
        urls = range(len(plan.urls))
        await asyncio.gather(*(self._open(n % len(urls)) for n in range(plan.lines)))
        gc.freeze()
        began, used = self._loop.time(), time.process_time()
        await self._arrive(began)
        await self._hear_out()
        seconds = self._loop.time() - began
        return self._found(seconds, (time.process_time() - used) / seconds)

    async def _arrive(self, began: float) -> None:
        for n in range(self._asked):
            due = began + n / self._plan.rate
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            self._late.append(self._loop.time() - due)
            if self._free:
                self.send(self._free.popleft(), n, due)
            else:
                self._waiting.append((n, due))

    async def _hear_out(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), self._plan.patience)
        self._over = True
        missing = self._asked - len(self._latencies)
        self._statuses[LOST] += missing
        self._latencies.extend([self._plan.patience] * missing)

    def _found(self, seconds: float, busy: float) -> Found:
        taken = [1000 * one for one in self._latencies]
        late = [1000 * one for one in self._late]
        return Found(
            statuses=dict(+self._statuses),
            seconds=seconds,
            p50=percentile(taken, 0.5),
            p99=percentile(taken, 0.99),
            most=percentile(taken, 1),
            late_p99=percentile(late, 0.99),
            late_most=percentile(late, 1),
            busy=busy,
        )

    # What the connections tell.

    def free(self, line: Line) -> None:
        if self._waiting:
            self.send(line, *self._waiting.popleft())
        else:
            self._free.append(line)

    def answered(self, due: float, status: str) -> None:
        if not self._over:
            self._latencies.append(self._loop.time() - due)
            self._statuses[status] += 1
            if len(self._latencies) == self._asked:
                self._heard.set()

    def lost(self, line: Line) -> None:
        """Another one takes its place; where that fails the rest has fewer, and waits."""
        if line in self._free:
            self._free.remove(line)
        if not self._over:
            task = self._loop.create_task(self._open(line.where))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def send(self, line: Line, n: int, due: float) -> None:
        requests = self._requests[line.where]
        line.ask(requests[n % len(requests)], due)

    async def _open(self, where: int) -> None:
        url = urlsplit(self._plan.urls[where])
        await self._loop.create_connection(
            lambda: Line(self, where), url.hostname or "", url.port or 80
        )


def _request(url: str, plan: Plan, body: str) -> bytes:
    where = urlsplit(url)
    content = body.encode()
    lines = [
        f"POST {where.path} HTTP/1.1",
        f"Host: {where.netloc}",
        f"Authorization: Bearer {plan.token}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def arrive(plan: Plan) -> Found:
    """Carry out a plan in a process of its own. Raises RuntimeError with what it complains of."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        cwd=services.ROOT,
        input=json.dumps(asdict(plan)),
        check=False,
        capture_output=True,
        text=True,
        timeout=plan.seconds + plan.patience + 60,
    )
    if done.returncode:
        raise RuntimeError(f"the client failed: {done.stderr}")
    said: dict[str, Any] = json.loads(done.stdout)
    return Found(**said)


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(Arrivals(Plan(**json.load(sys.stdin))).run()))))

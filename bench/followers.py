"""Purchases that arrive by the clock, and those who follow them: a process of its own.

`python -m bench.followers` with a `Sale` as JSON on its input prints a `Told`. Each purchase is
somebody's who follows a stream of his own, and its latency counts from the moment at which the
purchase was due until the bytes of its `order.created` came off the line of that stream. Every
other stream is open at the process to which the purchase was not posted.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from bench.arrivals import Arrivals, Found, Line, Plan, percentile
from bench.crowd import Reader, opened, request
from tests import services
from tests.sale import many_files

_purchase = re.compile(rb'"reference":"(\d+)"')
NEVER = -1.0


@dataclass(frozen=True, slots=True)
class Sale:
    """Purchases at the processes in turn, by customers in turn, who all follow `/events`."""

    urls: list[str]  # of the processes
    post: str  # the path of a purchase
    events: str  # the path of a stream
    token: str
    rate: float
    seconds: float
    streams: int
    warm: float  # seconds before those that count
    patience: float = 10  # seconds that the last events may take


@dataclass(frozen=True, slots=True)
class Latency:
    """ms."""

    count: int
    p50: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a sale; `found` is of all posts, those at the beginning too."""

    every: Latency
    same: Latency  # posted to the process of the stream
    other: Latency
    missing: int  # purchases that were accepted and not told
    twice: int
    found: Found


def latency(seconds: Sequence[float]) -> Latency:
    taken = [1000 * one for one in seconds]
    return Latency(len(taken), *(percentile(taken, share) for share in (0.5, 0.99, 1)))


class Follower(Reader):
    """The stream of one customer."""

    __slots__ = ("_left", "_sale", "process")

    def __init__(self, asking: str, process: int, sale: "Followed") -> None:
        super().__init__(asking, b"event: hello\n")
        self._sale, self.process, self._left = sale, process, b""

    def heard(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        whole, end, self._left = (self._left + data).rpartition(b"\n\n")
        for found in _purchase.finditer(whole + end):
            self._sale.told(int(found[1]), self.process, now)


class Followed(Arrivals):
    """A sale whose purchases are followed."""

    def __init__(self, sale: Sale) -> None:
        count = round(sale.rate * (sale.seconds + sale.warm))
        super().__init__(_plan(sale, count))
        self._sale = sale
        self._due = array("d", [NEVER]) * count
        self._taken = array("d", [NEVER]) * count
        self._posted = array("b", [0]) * count  # to which process
        self._home = array("b", [0]) * count  # the process of its stream
        self._twice = 0
        self._all_told = asyncio.Event()
        self._untold = count

    async def follow(self) -> Told:
        """Raises OSError where nobody listens, TimeoutError where a stream does not begin."""
        ports = [urlsplit(url).port or 80 for url in self._sale.urls]
        # Customers buy in turn, and the processes are posted to in turn.
        homes = [number // 2 % len(ports) for number in range(self._sale.streams)]
        readers = [self._follower(number, home, ports[home]) for number, home in enumerate(homes)]
        await opened(readers, [ports[home] for home in homes])
        found = await self.run()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_told.wait(), self._sale.patience)
        return self._judge(found)

    def _follower(self, number: int, home: int, port: int) -> Follower:
        path = f"{self._sale.events}?topic=customer:c-{number}"
        asking = request(path, port, f"Authorization: Bearer {self._sale.token}")
        return Follower(asking, home, self)

    def told(self, number: int, process: int, now: float) -> None:
        if self._taken[number] != NEVER:
            self._twice += 1
            return
        self._taken[number] = now - self._due[number]
        self._home[number] = process
        self._untold -= 1
        if not self._untold:
            self._all_told.set()

    def send(self, line: Line, n: int, due: float) -> None:
        self._due[n], self._posted[n] = due, line.where
        super().send(line, n, due)

    def _judge(self, found: Found) -> Told:
        first = round(self._sale.rate * self._sale.warm)
        told = [n for n, taken in enumerate(self._taken) if taken != NEVER]
        counted = [n for n in told if n >= first]
        near = [self._taken[n] for n in counted if self._posted[n] == self._home[n]]
        far = [self._taken[n] for n in counted if self._posted[n] != self._home[n]]
        missing = found.statuses.get("201", 0) - len(told)
        every = latency([*near, *far])
        return Told(every, latency(near), latency(far), missing, self._twice, found)


def _plan(sale: Sale, count: int) -> Plan:
    urls = [url + sale.post for url in sale.urls]
    bodies = [_body(number, sale.streams) for number in range(count)]
    return Plan(urls, sale.token, bodies, sale.rate, sale.seconds + sale.warm)


def _body(number: int, streams: int) -> str:
    item = {"sku": "disc-001", "quantity": 1, "amount_cents": 990}
    customer = f"c-{number % streams}"
    return json.dumps({"customer": customer, "items": [item], "reference": str(number)})


def follow(sale: Sale) -> Told:
    """Carry out a sale in a process of its own. Raises RuntimeError with what it complains of."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        cwd=services.ROOT,
        input=json.dumps(asdict(sale)),
        check=False,
        capture_output=True,
        text=True,
        timeout=sale.seconds + sale.warm + sale.patience + 180,
    )
    if done.returncode:
        raise RuntimeError(f"the client failed: {done.stderr}")
    said = json.loads(done.stdout)
    parts = {name: Latency(**said.pop(name)) for name in ("every", "same", "other")}
    return Told(**parts, **said | {"found": Found(**said["found"])})


if __name__ == "__main__":
    many_files()
    print(json.dumps(asdict(asyncio.run(Followed(Sale(**json.load(sys.stdin))).follow()))))

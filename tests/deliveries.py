"""Streams whose lines are cut and whose processes are killed, under load, and all they got.

What is read is judged by the log: each stream has every event of its topics once, in order,
with the same bytes as everybody.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from tests import services
from tests.sale import Premises, Shop, until, work
from tests.services import Process
from tests.traffic import Traffic
from tests.watchers import Audience, Book, Log, Verdict, Watcher, all_have

ORDERS = 7  # which kind of watchers follows nothing else
LATEST = 5  # of so many one wants only what is, where it lagged
NEWCOMERS = 10  # of so many reconnects one makes room for somebody new
TOO_LONG = 480.0  # seconds; a run that has not done its share by then stops


@dataclass(frozen=True)
class Plan:
    """How much is asked for; `kills` says what is killed, one after the other."""

    deliveries: int
    reconnects: int
    streams: int
    kills: Sequence[str]  # "process", "redis"


@dataclass
class Siege:
    """Streams of all kinds of topics, and what is done to them. `run` ends it."""

    shop: Shop
    draw: random.Random
    plan: Plan
    book: Book = field(default_factory=Book)
    reconnects: int = 0  # lines that were cut from outside
    kills: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    audience: Audience = field(init=False)
    traffic: Traffic = field(init=False)

    async def run(self) -> None:
        self.audience = Audience(self._dice())
        self.traffic = Traffic(self.shop, self._dice())
        await self.traffic.stock(10, 10_000)
        for _ in range(64):  # which orders to follow
            await self.traffic.post(self.draw.choice(self.traffic.customers), self.draw)
        async with self.audience:
            self.audience.join(*(self._watcher(number) for number in range(self.plan.streams)))
            await until(self.audience.seated, "everybody is told where he begins")
            await work(self.traffic.run(), self._ill_treat())
            log = await asyncio.to_thread(Log, self.shop.place.ledger)
            late = await self._late(log)
        self.verdict = Verdict.of(self.audience.watchers, log, self.book)
        self.verdict.wrong += late
        self.verdict.wrong += self.traffic.faults(self.shop.place.ledger)

    async def _late(self, log: Log) -> list[str]:
        """Wait until everybody has everything; what is missing is told with the verdict."""
        have = partial(all_have, self.audience.watchers, log)
        try:
            await until(have, "everybody has the last event")
        except TimeoutError as error:
            return [str(error)]
        return []

    def _dice(self) -> random.Random:
        return random.Random(self.draw.getrandbits(64))

    @property
    def connects(self) -> int:
        return sum(one.connects for one in self.audience.watchers)

    # --- who watches ------------------------------------------------------------------

    def _watcher(self, number: int) -> Watcher:
        latest = {} if number % LATEST else {"coalesce": "latest"}
        return Watcher(self.shop.house, self._topics(number), "admin", self.book, **latest)

    def _topics(self, number: int) -> list[str]:
        first, second = (f"queue:{name}" for name in self.traffic.queues)
        customer = f"customer:{self.draw.choice(self.traffic.customers)}"
        stock = [f"stock:{sku}" for sku in self.draw.sample(self.traffic.skus, 3)]
        kinds = (
            [first],
            [second],
            [first, second],
            [customer],
            stock,
            ["stock"],
            ["queues", first],
            self._orders(16),
            [customer, second, *stock, "queues", *self._orders(4)],
        )
        return kinds[number % len(kinds)]

    def _orders(self, most: int) -> list[str]:
        newest = [*self.traffic.newest]
        return [f"order:{one}" for one in self.draw.sample(newest, min(most, len(newest)))]

    # --- what is done to them ---------------------------------------------------------

    async def _ill_treat(self) -> None:
        await work(self._cut(), self._kill(), self._drive())
        await self.traffic.settle()

    async def _cut(self) -> None:
        """Cut one line after the other, spread over the whole time; now and then somebody new."""
        while self.reconnects < self.plan.reconnects:
            due = self.reconnects < self.plan.reconnects * self._share
            if due and self.draw.choice(self.audience.watchers).hang_up():
                self.reconnects += 1
                if self.reconnects % NEWCOMERS == 0:
                    self.audience.join(self._watcher(ORDERS))
            await asyncio.sleep(self.draw.uniform(0, 0.1))

    async def _kill(self) -> None:
        """kill -9 at some moment; what was killed is started again a moment later."""
        for what in self.plan.kills:
            await asyncio.sleep(self.draw.uniform(0.1, 1))
            victim = self._victim(what)
            victim.kill()
            try:
                await asyncio.sleep(self.draw.uniform(0, 0.3))
            finally:
                victim.launch()  # from this thread: the kernel ends it with the thread that did
            await asyncio.to_thread(services.until, victim.ready, 90, "started again")
            self.kills += 1

    def _victim(self, what: str) -> Process:
        if what == "process":
            return self.draw.choice(self.shop.house.servers)
        assert self.shop.place.redis is not None
        return self.shop.place.redis

    async def _drive(self) -> None:
        """As many purchases as it takes to have the deliveries when the last is killed."""
        ends = time.monotonic() + TOO_LONG
        while self._share < 1 or self.book.deliveries < self.plan.deliveries:
            if time.monotonic() > ends:
                raise TimeoutError(f"{self.book.deliveries} deliveries, {self.kills} kills so far")
            ahead = self.book.deliveries > self.plan.deliveries * self._share
            self.traffic.gap = min(1.0, max(0.002, self.traffic.gap * (1.2 if ahead else 0.8)))
            await asyncio.sleep(0.1)

    @property
    def _share(self) -> float:
        """How much of the deliveries shall be there now."""
        return (self.kills + 1) / (len(self.plan.kills) + 1)


async def besieged(place: Premises, plan: Plan, draw: random.Random) -> Siege:
    """It is over: its `verdict` says what was wrong."""
    with Shop(place) as shop:
        siege = Siege(shop, draw, plan)
        await siege.run()
    siege.verdict.wrong += place.ledger.faults()
    return siege

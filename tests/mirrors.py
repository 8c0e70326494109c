"""Streams that begin with a snapshot, opened at any moment while everything changes.

Each keeps what a page would show: the items of its snapshot, changed by every event after it.
At the end that must be what the database says.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tests.house import House
from tests.ledger import Ledger
from tests.sale import Premises, Shop, until, work
from tests.sse import Block
from tests.traffic import Traffic
from tests.watchers import Audience, Book, Log, Verdict, Watcher, all_have

KINDS = {"order": 30, "customer": 30, "stock": 20, "queue": 6, "all stock": 7, "queues": 7}
CUSTOMERS = 60
MANY = 230  # orders of the first customer: more than a snapshot shows
GAP = 0.05  # seconds between two posts of a buyer
OPENS_A_SECOND = 25  # a snapshot costs the service some milliseconds
ORDERS = (
    "SELECT m.customer, m.id, m.status, m.version, q.name"
    " FROM messages m JOIN queues q ON q.id = m.queue_id"
)
QUEUES = "SELECT name, version, (paused_at IS NOT NULL)::int FROM queues WHERE deleted_at IS NULL"
STOCK = "SELECT sku, on_hand - reserved, version FROM stock"


class Mirror(Watcher):
    """One topic as of its snapshot and every change after it."""

    def __init__(self, house: House, topic: str, role: str, book: Book) -> None:
        super().__init__(house, [topic], role, book, snapshot="1")
        self.kind, _, self.name = topic.partition(":")
        self.truncated = False
        self.shown = 0  # snapshots that began
        self.orders: dict[str, tuple[str, int, str]] = {}  # id → status, version, queue
        self.queues: dict[str, tuple[int, bool]] = {}  # name → version, paused
        self.counts: dict[str, Counter[str]] = {}  # name → status → messages
        self.stock: dict[str, tuple[int, int]] = {}  # SKU → available, version

    def told(self, block: Block) -> None:
        if block.event == "hello" and block.id is None:  # the snapshot comes, perhaps again
            self.shown += 1
            for shown in (self.orders, self.queues, self.counts, self.stock):
                shown.clear()
        if block.event == "snapshot":
            self._show(block.json)
        elif block.event == "counts":
            for queue in block.json["queues"]:
                self.counts[queue["name"]] = Counter(queue["counts"])
        super().told(block)

    def _show(self, found: dict[str, Any]) -> None:
        self.truncated = found["truncated"]
        for item in found["items"]:
            match self.kind:
                case "order" | "customer":
                    self.orders[item["id"]] = item["status"], item["version"], item["queue"]
                case "stock":
                    self.stock[item["sku"]] = item["available"], item["version"]
                case _:
                    self.queues[item["name"]] = item["version"], item["paused"]
                    self.counts[item["name"]] = Counter(item["counts"])

    def got(self, seq: int, block: bytes) -> None:
        super().got(seq, block)
        kind, data = _fact(block)
        match kind.partition(".")[0]:
            case "stock":
                self._move(data)
            case "queue":
                self.queues[data["name"]] = data["version"], data["paused"]
            case _ if self.kind == "queue":
                self._count(data)
            case _:
                self._go(data)

    def _move(self, data: dict[str, Any]) -> None:
        _, version = self.stock.get(data["sku"], (0, 0))
        if data["version"] < version:
            self.wrong.append(f"{data} after version {version}")
        self.stock[data["sku"]] = data["available"], data["version"]

    def _count(self, data: dict[str, Any]) -> None:
        counts = self.counts[self.name]
        if data["previous_queue"] == self.name:
            counts[data["previous_status"]] -= 1
        if data["queue"] == self.name:
            counts[data["status"]] += 1

    def _go(self, data: dict[str, Any]) -> None:
        known = self.orders.get(data["id"])
        if known is None and self.truncated and data["version"] > 1:
            return  # of one that was not shown
        version = 0 if known is None else known[1]
        if data["version"] != version + 1:
            self.wrong.append(f"{data} after version {version}")
        self.orders[data["id"]] = data["status"], data["version"], data["queue"]


@lru_cache(maxsize=4_096)
def _fact(block: bytes) -> tuple[str, dict[str, Any]]:
    """Type and data of an event; many get the same one."""
    envelope = json.loads(block.rpartition(b"\ndata: ")[2])
    return envelope["type"], envelope["data"]


class Truth:
    """What the database says."""

    def __init__(self, ledger: Ledger) -> None:
        self.owners: dict[str, str] = {}  # id → customer
        self.orders: dict[str, tuple[str, int, str]] = {}
        for row in ledger.sql(ORDERS):
            customer, message, status, version, queue = row.split("|")
            self.owners[message] = customer
            self.orders[message] = status, int(version), queue
        rows = (row.split("|") for row in ledger.sql(QUEUES))
        self.queues = {name: (int(version), paused == "1") for name, version, paused in rows}
        self.counts = {name: Counter[str]() for name in self.queues}
        for (queue, status), count in ledger.counted().items():
            self.counts[queue][status] = count
        rows = (row.split("|") for row in ledger.sql(STOCK))
        self.stock = {sku: (int(available), int(version)) for sku, available, version in rows}

    def faults(self, one: Mirror) -> list[str]:
        """What a mirror shows that is not so."""
        [topic] = one.topics
        return [f"{topic} shows {shown}" for shown in self._differing(one)]

    def _differing(self, one: Mirror) -> Iterator[str]:
        match one.kind:
            case "order":
                yield from _unlike(one.orders, {one.name: self.orders[one.name]})
            case "customer":
                yield from _unlike(one.orders, self._of(one))
            case "stock":
                mine = {one.name: self.stock[one.name]} if one.name else self.stock
                yield from _unlike(one.stock, mine)
            case _:
                names = [one.name] if one.name else [*self.queues]
                yield from _unlike(one.queues, {name: self.queues[name] for name in names})
                yield from _unlike(one.counts, {name: self.counts[name] for name in names})

    def _of(self, one: Mirror) -> dict[str, tuple[str, int, str]]:
        """A customer's orders; where not all were shown, those that were."""
        mine = [message for message, owner in self.owners.items() if owner == one.name]
        shown = one.orders if one.truncated else mine
        return {message: self.orders[message] for message in shown}


def _unlike(shown: dict[str, Any], there: dict[str, Any]) -> Iterator[str]:
    for name in shown.keys() | there.keys():
        if shown.get(name) != there.get(name):
            yield f"{name}: {shown.get(name)}, it is {there.get(name)}"


@dataclass
class Gallery:
    """So many mirrors, opened while the shop is busy; `run` ends it."""

    shop: Shop
    draw: random.Random
    streams: int
    book: Book = field(default_factory=Book)
    reconnects: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    mirrors: list[Mirror] = field(default_factory=list[Mirror])
    traffic: Traffic = field(init=False)

    async def run(self) -> None:
        self.traffic = Traffic(self.shop, random.Random(self.draw.getrandbits(64)), CUSTOMERS)
        self.traffic.gap = GAP
        await self.traffic.stock(20, 10_000)
        await self._fill()
        async with Audience(random.Random(self.draw.getrandbits(64))) as audience:
            await work(self.traffic.run(), self._open(audience))
            log = await asyncio.to_thread(Log, self.shop.place.ledger)
            truth = await asyncio.to_thread(Truth, self.shop.place.ledger)
            late = await self._late(log, truth)
        self.verdict = Verdict.of(self.mirrors, log, self.book)
        self.verdict.wrong += late
        self.verdict.wrong += [fault for one in self.mirrors for fault in truth.faults(one)]

    async def _fill(self) -> None:
        """One customer has more orders than a snapshot shows."""
        many = (self.traffic.post(self.traffic.customers[0], self.draw) for _ in range(MANY))
        await work(*many)

    async def _open(self, audience: Audience) -> None:
        """One after the other; some lose their line at once, perhaps in their snapshot."""
        while len(self.mirrors) < self.streams:
            one = self._mirror()
            self.mirrors.append(one)
            audience.join(one)
            await asyncio.sleep(self.draw.uniform(0, 2 / OPENS_A_SECOND))
            if self.draw.random() < 0.2:
                victim = self.draw.choice((one, self.draw.choice(self.mirrors)))
                self.reconnects += victim.hang_up()
        await until(audience.seated, "everybody has a snapshot")
        await self.traffic.settle()

    def _mirror(self) -> Mirror:
        [kind] = self.draw.choices([*KINDS], [*KINDS.values()])
        names: Sequence[str] = {
            "order": self.traffic.newest,
            "customer": [*self.traffic.customers, *self.traffic.customers[:1] * 9],
            "stock": self.traffic.skus,
            "queue": self.traffic.queues,
        }.get(kind, [])
        topic = f"{kind}:{self.draw.choice(names)}" if names else kind.removeprefix("all ")
        return Mirror(self.shop.house, topic, "admin", self.book)

    async def _late(self, log: Log, truth: Truth) -> list[str]:
        """Wait until all is there; the counts of all queues come up to a second later."""

        async def settled() -> bool:
            if not await all_have(self.mirrors, log):
                return False
            return not any(truth.faults(one) for one in self.mirrors if one.kind == "queues")

        try:
            await until(settled, "everybody has the last event")
        except TimeoutError as error:
            return [str(error)]
        return []


async def mirrored(place: Premises, streams: int, draw: random.Random) -> Gallery:
    """It is over: its `verdict` says what was wrong."""
    with Shop(place) as shop:
        gallery = Gallery(shop, draw, streams)
        await gallery.run()
    gallery.verdict.wrong += place.ledger.faults()
    return gallery

"""Many tabs on the same carts: whatever they do at once, no line is lost and none bought twice.

Each quantity is used once by each customer, so that a line is known again wherever it turns
up: in an answer, in an order, in the cart at the end.
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import carts
import catalogue
import errors
from database import Database
from moves import Checkout, Posted
from schemas import ProductIn
from tests.answers import execute
from tests.house import House
from tests.lines import Answer, Line
from tests.test_customers_api import customer, signed_in
from writer import Writer

Lines = list[tuple[str, int]]  # SKU and quantity


def lines_of(shape: dict[str, Any]) -> Lines:
    """The lines of a cart or an order."""
    return [(line["sku"], line["quantity"]) for line in shape["items"]]


def checkout(whose: str, key: str | None = None, if_match: int | None = None) -> Checkout:
    return Checkout.of(whose, None, queue="orders", account=whose, key=key, if_match=if_match)


# --- tabs in one process --------------------------------------------------------------


@dataclass
class Basket:
    """What the tabs of one customer were told."""

    customer: str
    states: dict[int, Lines] = field(default_factory=dict)  # by version
    puts: dict[tuple[str, int], int] = field(default_factory=dict)  # line → its version
    drops: list[tuple[str | None, int]] = field(default_factory=list)  # SKU (all: None), version
    orders: dict[str, Lines] = field(default_factory=dict)  # id → lines
    seen: int = 0  # the version that some tab shows
    wrong: list[str] = field(default_factory=list)
    quantities: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def told(self, shape: dict[str, Any]) -> int:
        """An answer; its version. Two answers of a version are the same cart."""
        version, lines = shape["version"], lines_of(shape)
        if self.states.setdefault(version, lines) != lines:
            self.wrong.append(f"version {version}: {lines}, and {self.states[version]}")
        self.seen = version
        return version

    def bought(self, posted: Posted, seen: int | None) -> None:
        order, lines = posted.shape["id"], lines_of(posted.shape)
        if self.orders.setdefault(order, lines) != lines:
            self.wrong.append(f"order {order}: {lines}, and {self.orders[order]}")
        if seen is not None and not posted.replayed and self.states.get(seen) != lines:
            self.wrong.append(f"bought {lines}, and version {seen} was {self.states.get(seen)}")

    def faults(self, left: Lines, placed: Sequence[str]) -> list[str]:
        """What is wrong, with what lies in the cart at the end and the orders there are."""
        found = list(self.wrong)
        if sorted(placed) != sorted(self.orders):
            found.append(f"{len(placed)} orders are there, {len(self.orders)} were told")
        bought = [line for lines in self.orders.values() for line in lines]
        if len({*bought, *left}) < len(bought) + len(left):
            found.append("a line is in two orders, or in one and in the cart")
        return found + [
            f"lost: {line} of version {version}"
            for line, version in self.puts.items()
            if line not in bought and line not in left and not self._replaced(line[0], version)
        ]

    def _replaced(self, sku: str, version: int) -> bool:
        """Whether a later change says otherwise of this SKU."""
        later = [at for (other, _), at in self.puts.items() if other == sku]
        later += [at for other, at in self.drops if other in (None, sku)]
        return any(at > version for at in later)


class Tab:
    """Somebody who puts, drops and buys, as chance has it."""

    def __init__(
        self, db: Database, writer: Writer, basket: Basket, skus: Sequence[str], draw: random.Random
    ) -> None:
        self._db, self._writer, self._basket = db, writer, basket
        self._skus, self._draw = skus, draw

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            kinds = [self._put, self._drop, self._buy]
            step = self._draw.choices(kinds, weights=[6, 1, 3])[0]
            try:
                await step()
            except errors.VersionMismatch:
                self._basket.told(await carts.get(self._db, self._basket.customer))
            except errors.Invalid:  # nothing lies in it
                assert step == self._buy
            if self._draw.random() < 0.3:
                await asyncio.sleep(0)

    def _seen(self) -> int | None:
        """The version that this tab insists on, if it does."""
        return self._basket.seen if self._draw.random() < 0.5 else None

    async def _put(self) -> None:
        basket, sku = self._basket, self._draw.choice(self._skus)
        line = (sku, next(basket.quantities))
        shape = await carts.put(self._db, basket.customer, *line, self._seen())
        basket.puts[line] = basket.told(shape)

    async def _drop(self) -> None:
        sku = self._draw.choice([*self._skus, None])
        shape = await carts.drop(self._db, self._basket.customer, sku, self._seen())
        self._basket.drops.append((sku, self._basket.told(shape)))

    async def _buy(self) -> None:
        basket, seen = self._basket, self._seen()
        key = f"{self._draw.getrandbits(64):x}" if self._draw.random() < 0.5 else None
        posted = await self._writer.do(checkout(basket.customer, key, seen))
        basket.bought(posted, seen)
        if key is not None and self._draw.random() < 0.5:
            again = await self._writer.do(checkout(basket.customer, key, seen))
            assert again.replayed
            basket.bought(again, seen)


async def product(db: Database, sku: str) -> str:
    with contextlib.suppress(errors.ProductExists):
        await catalogue.create(db, ProductIn(sku=sku, name=sku, price_cents=990))
    return sku


async def scramble(
    db: Database,
    writers: Sequence[Writer],
    draw: random.Random,
    customers: int = 3,
    tabs: int = 3,
    steps: int = 12,
) -> list[str]:
    """Some tabs of some customers at once, over all writers; what went wrong."""
    skus = [await product(db, f"disc-{n}") for n in range(4)]
    baskets = [Basket(f"c-{draw.getrandbits(40):x}") for _ in range(customers)]
    await asyncio.gather(
        *(
            Tab(db, draw.choice(writers), one, skus, random.Random(draw.random())).run(steps)
            for one in baskets
            for _ in range(tabs)
        )
    )
    found: list[str] = []
    for one in baskets:
        left = lines_of(await carts.get(db, one.customer))
        async with db.read() as session:
            sql = "SELECT id FROM messages WHERE customer = $1"
            placed = [str(row["id"]) for row in await session.fetch(sql, one.customer)]
        found += one.faults(left, placed)
    return found


# --- a process that is killed ---------------------------------------------------------


class Regular:
    """Fills his cart and buys it, again and again; the quantity says which time it is."""

    def __init__(self, house: House) -> None:
        self.id = customer(house)["id"]
        with signed_in(house, self.id) as client:
            token = client.headers["Authorization"].removeprefix("Bearer ")
        self._line = Line(house.url, token)
        self.answered = 0  # so many times he was told that he bought

    async def run(self, skus: Sequence[str], over: asyncio.Event) -> None:
        """
        Raises:
            AssertionError: an answer that cannot be.
        """
        while not over.is_set():
            time_ = self.answered + 1
            for sku in skus:
                body = {"quantity": time_}
                put = await self._insist("PUT", f"/cart/items/{sku}", body)
                assert put.status == 200, put
            key = f"{self.id}-{time_}"
            bought = await self._insist("POST", "/cart/checkout", {}, Idempotency_Key=key)
            assert bought.status in (200, 201), bought
            assert lines_of(bought.json) == [(sku, time_) for sku in skus], bought
            self.answered = time_

    async def _insist(self, method: str, path: str, body: Any, **headers: str) -> Answer:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionError):
                answer = await self._line.call(method, path, body, **headers)
                if not answer.unsettled:
                    return answer
            await asyncio.sleep(0.02)
        raise TimeoutError(f"{method} {path}")

    def close(self) -> None:
        self._line.close()


TOGETHER = (  # one statement, one instant: what was bought, and what lies in the cart
    "SELECT items, 0 FROM messages WHERE customer = '{0}'"
    " UNION ALL SELECT sku, quantity FROM cart_items WHERE customer = '{0}'"
)


def halves(url: str, regular: Regular, skus: Sequence[str], untold: int) -> list[str]:
    """What must be at no instant: half an order, an order with its cart, one that nobody made.

    `untold`: so many orders may be there that he has not been told of yet.
    """
    rows = execute(url, TOGETHER.format(regular.id))
    orders = [lines_of({"items": json.loads(items)}) for items, quantity in rows if not quantity]
    found = [f"half an order: {one}" for one in orders if [sku for sku, _ in one] != [*skus]]
    times = sorted(one[0][1] for one in orders)
    if times != [*range(1, len(times) + 1)]:
        found.append(f"bought the times {times}")
    if not regular.answered <= len(times) <= regular.answered + untold:
        found.append(f"{len(times)} orders, {regular.answered} told")
    if both := [quantity for _, quantity in rows if quantity in times]:
        found.append(f"{both} in the cart, and bought")
    return found


async def struck(house: House, url: str, draw: random.Random, regulars: Sequence[Regular]) -> None:
    """kill -9 while all of them buy; looked at before anything runs again, and afterwards.

    Raises:
        AssertionError: something was lost, bought twice, or is half done.
    """
    server, over = house.servers[0], asyncio.Event()
    skus = ["disc-0", "disc-1"]

    async def look(untold: int) -> list[str]:
        looks = (asyncio.to_thread(halves, url, one, skus, untold) for one in regulars)
        return [fault for found in await asyncio.gather(*looks) for fault in found]

    async with asyncio.TaskGroup() as buying, asyncio.timeout(100):
        for one in regulars:
            buying.create_task(one.run(skus, over))
        await bought(regulars)
        await asyncio.sleep(draw.uniform(0, 0.05))
        server.kill()
        try:
            found = await look(untold=1)
        finally:
            server.launch()
        await bought(regulars)
        over.set()
    found += await look(untold=0)
    assert found == [], found


async def bought(regulars: Sequence[Regular]) -> None:
    """Wait until they have bought as often as there are of them, from now on."""
    before = sum(one.answered for one in regulars)
    while sum(one.answered for one in regulars) < before + len(regulars):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def regulars(house: House, number: int) -> Iterator[list[Regular]]:
    """So many customers with an account each, and the discs that they buy."""
    for sku in ("disc-0", "disc-1"):
        body = {"sku": sku, "name": sku, "price_cents": 990}
        assert house.client().post("/products", json=body).status_code == 201
    found = [Regular(house) for _ in range(number)]
    try:
        yield found
    finally:
        for one in found:
            one.close()

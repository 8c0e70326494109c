"""A shop that is never at rest: buyers, workers and admins over all processes, who do not give up.

Everything that can happen to an order happens: claimed, forwarded, sold, put back, given up,
cancelled, tried again, its lease lost; and stock comes in, and queues are changed meanwhile.
"""

import asyncio
import random
from collections import deque
from typing import Any

from tests.ledger import Ledger
from tests.lines import Answer
from tests.sale import Shop, sold_out, until, work

POSTERS, WORKERS = 4, 4
FATES = {"ack": 55, "forward": 20, "nack": 8, "release": 6, "fail": 6, "lose": 5}
CREATED = "SELECT message FROM events WHERE type = 'order.created' AND customer LIKE '{}-%'"


class Traffic:
    """`run` goes on until `settle` has seen everything worked off. One event loop."""

    def __init__(self, shop: Shop, draw: random.Random, customers: int = 20) -> None:
        patience = {"backoff_seconds": 0, "max_attempts": 100, "max_lost_leases": 100}
        self.shop, self.gap = shop, 0.2  # seconds between two posts of a buyer
        self.queues = [shop.house.queue(**patience) for _ in range(2)]
        self.aside = shop.house.queue()  # nothing is bought there
        self.mark = f"b{draw.getrandbits(32):x}"
        self.customers = [f"{self.mark}-{number}" for number in range(customers)]
        self.skus: list[str] = []
        self.accepted: dict[str, str] = {}  # key → id
        self.newest: deque[str] = deque(maxlen=100)  # ids
        self._draw = draw
        self._busy = 0  # workers who settle what they claimed
        self._calm = self._over = False

    async def stock(self, products: int, copies: int) -> None:
        """Fill the shelves: the first holds a few only."""
        for number in range(products):
            self.skus.append(await self.shop.product(copies if number else 5))

    async def run(self) -> None:
        await work(
            *(self._buy(self._dice()) for _ in range(POSTERS)),
            *(self._work(self._dice()) for _ in range(WORKERS)),
            self._supply(self._dice()),
            self._manage(self._dice()),
        )

    async def settle(self) -> None:
        """Nothing more is bought, all that is there is worked off; then `run` ends."""
        self._calm = True
        await until(self._worked_off, "all is worked off")
        self._over = True

    def faults(self, ledger: Ledger) -> list[str]:
        """What was accepted is there, once, and nothing else."""
        there, told = ledger.sql(CREATED.format(self.mark)), self.accepted.values()
        if sorted(there) == sorted(told):
            return []
        return [f"{len(told)} purchases were accepted, {len(there)} are in the log"]

    def _dice(self) -> random.Random:
        return random.Random(self._draw.getrandbits(64))

    async def _insist(
        self, draw: random.Random, role: str, path: str, body: Any = None, **headers: str
    ) -> Answer:
        return await self.shop.lines.insist(draw, role, "POST", path, body, **headers)

    # --- buyers -----------------------------------------------------------------------

    async def _buy(self, draw: random.Random) -> None:
        while not self._calm:
            bought = await self.post(draw.choice(self.customers), draw)
            if bought is not None and draw.random() < 0.1:
                answer = await self._insist(draw, "producer", f"/messages/{bought}/cancel")
                assert answer.status in (200, 202) or answer.code == "illegal_transition", answer
            await asyncio.sleep(self.gap * draw.uniform(0.5, 1.5))

    async def post(self, customer: str, draw: random.Random) -> str | None:
        """The id of a purchase; None if it is sold out."""
        key, sku = f"{draw.getrandbits(64):x}", draw.choice(self.skus)
        wish = {"customer": customer, "items": [{"sku": sku, "quantity": draw.randrange(1, 3)}]}
        path = f"/queues/{self.queues[0]}/messages"
        answer = await self._insist(draw, "producer", path, wish, Idempotency_Key=key)
        if answer.code is not None:
            assert sold_out(answer.json, sku), answer
            return None
        self.accepted[key] = answer.json["id"]
        self.newest.append(answer.json["id"])
        return answer.json["id"]

    # --- workers ----------------------------------------------------------------------

    async def _work(self, draw: random.Random) -> None:
        body = {"max": 10, "lease_seconds": 2, "wait_seconds": 1}
        while not self._over:
            path = f"/queues/{draw.choice(self.queues)}/claim"
            answer = await self._insist(draw, "worker", path, body)
            assert answer.status == 200, answer
            self._busy += 1
            await work(*(self._treat(draw, message) for message in answer.json["messages"]))
            self._busy -= 1

    async def _treat(self, draw: random.Random, message: dict[str, Any]) -> None:
        fate = "ack" if self._calm else draw.choices([*FATES], [*FATES.values()])[0]
        if fate == "lose":
            return
        if fate == "forward" and message["queue"] == self.queues[1]:
            fate = "ack"  # it has arrived
        verb, more = {
            "ack": ("ack", {}),
            "forward": ("ack", {"forward_to": self.queues[1]}),
            "nack": ("nack", {"error": "no", "delay_seconds": 0}),
            "fail": ("nack", {"error": "no", "retry": False}),
            "release": ("release", {}),
        }[fate]
        body = {"receipt": message["receipt"], **more}
        answer = await self._insist(draw, "worker", f"/messages/{message['id']}/{verb}", body)
        assert answer.status == 200 or answer.code == "lease_lost", answer

    # --- admins -----------------------------------------------------------------------

    async def _supply(self, draw: random.Random) -> None:
        """Deliveries come; what has failed is tried again."""
        while not self._calm:
            await asyncio.sleep(draw.uniform(0.2, 0.6))
            await self.shop.receive(draw.choice(self.skus), draw.randrange(10, 60))
            queue, wish = draw.choice(self.queues), {"limit": draw.randrange(1, 5)}
            answer = await self._insist(draw, "admin", f"/queues/{queue}/redrive", wish)
            assert answer.status == 200, answer

    async def _manage(self, draw: random.Random) -> None:
        """Somebody plays with the settings, which changes the version of all queues."""
        while not self._calm:
            await asyncio.sleep(draw.uniform(0.2, 1))
            wish = {"description": f"{draw.getrandbits(32):x}"}
            queue = draw.choice([*self.queues, self.aside])
            await self.shop.ask("admin", "PATCH", f"/queues/{queue}", wish)
            verb = draw.choice(("pause", "resume"))
            await self.shop.ask("admin", "POST", f"/queues/{self.aside}/{verb}")

    async def _worked_off(self) -> bool:
        for queue in self.queues:
            counts = (await self.shop.ask("viewer", "GET", f"/queues/{queue}"))["counts"]
            if counts["pending"] or counts["processing"]:
                return False
        return not self._busy

"""Flash sales: more buyers than copies, at the same moment, over all processes.

What must be true at every instant: 0 <= reserved <= on_hand, `reserved` is the sum of what
purchases hold, `on_hand` the sum of the ledger. At the end every accepted purchase is
there, and as many are sold as there were.
"""

import asyncio
import json
import random
import resource
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from tests import services
from tests.chaos import newest, reason
from tests.eye import Eye
from tests.house import House, running
from tests.ledger import Ledger
from tests.lines import Answer, Line, Lines
from tests.services import ROOT, Postgres, RedisServer, Server
from tests.watchers import Audience, Book, Log, Verdict, Watcher, all_have, restless

STREAMS = "2000"  # that one account, or address, may have open
SETTLE_SECONDS = 60.0
AUDIT_SECONDS = 120.0


# --- the shop -------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """Of one product, as an admin sees it."""

    on_hand: int
    reserved: int
    available: int


@dataclass
class Premises:
    """A service, its database, and who may look into that."""

    house: House
    ledger: Ledger
    eye: Callable[[], Eye] | None = None  # PostgreSQL only
    redis: RedisServer | None = None

    def faults(self) -> list[str]:
        """Everything in the database that is not as promised, of all that was ever sold."""
        return [*self._audit(), *self._told()]

    def _audit(self) -> list[str]:
        """What `cli.py audit` finds."""
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), "audit", "--seconds", "60"],
            env=self.house.servers[0].environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=AUDIT_SECONDS,
        )
        said = (done.stdout + done.stderr).splitlines()
        return [] if (done.returncode, said) == (0, ["nothing found"]) else said

    def _told(self) -> list[str]:
        """Each change of a stock was told once, in order, and the last one is true now."""
        found: list[str] = []
        last: dict[str, tuple[int, int]] = {}
        for row in self.ledger.sql(
            "SELECT data FROM events WHERE type = 'stock.changed' ORDER BY seq"
        ):
            data = json.loads(row)
            before = last.get(data["sku"], (0, 0))
            if (data["version"] - 1, data["previous_available"]) != before:
                found.append(f"{row} follows {before}")
            last[data["sku"]] = data["version"], data["available"]
        for row in self.ledger.sql("SELECT sku, version, on_hand - reserved FROM stock"):
            sku, version, available = row.split("|")
            if last.get(sku) != (int(version), int(available)):
                found.append(f"{row}, but the last that was told is {last.get(sku)}")
        return found


@contextmanager
def premises(cluster: Postgres, redis: RedisServer) -> Iterator[Premises]:
    """Two processes on a database of their own, that let a thousand watch."""
    name = cluster.create()
    with ExitStack() as stack:
        stack.callback(cluster.drop, name)
        house = stack.enter_context(
            running(
                2,
                DATABASE_URL=cluster.url(name),
                REDIS_URL=redis.url,
                MAX_STREAMS_PER_PRINCIPAL=STREAMS,
                MAX_STREAMS_PER_ADDRESS=STREAMS,
            )
        )
        yield Premises(house, Ledger.postgres(cluster, name), lambda: Eye(cluster, name), redis)


@contextmanager
def own_premises() -> Iterator[Premises]:
    """The same with servers of its own, as the long runs want it."""
    with (
        services.postgres() as cluster,
        services.redis() as redis,
        premises(cluster, redis) as found,
    ):
        yield found


class Shop:
    """Who buys, sells and counts there: calls over connections that are kept. One event loop."""

    def __init__(self, place: Premises) -> None:
        many_files()
        self.place, self.house = place, place.house
        self.lines = Lines(place.house)
        self.dice = random.Random()  # where it does not matter which process is asked

    def __enter__(self) -> "Shop":
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()

    async def ask(self, role: str, method: str, path: str, body: Any = None) -> Any:
        """The body of a success, from whichever process."""
        answer = await self.lines.insist(self.dice, role, method, path, body)
        assert answer.status in (200, 201), answer
        return answer.json

    async def level(self, sku: str) -> Level:
        found = await self.ask("admin", "GET", f"/products/{sku}/stock")
        return Level(*(found[name] for name in ("on_hand", "reserved", "available")))

    async def product(self, copies: int) -> str:
        """The SKU of something new."""
        sku = f"disc-{uuid.uuid4().hex[:12]}"
        await self.receive(sku, copies)
        return sku

    async def receive(self, sku: str, quantity: int) -> None:
        path, key = f"/products/{sku}/stock/receive", uuid.uuid4().hex
        wish = {"quantity": quantity}
        given = await self.lines.insist(self.dice, "admin", "POST", path, wish, Idempotency_Key=key)
        assert given.status == 200, given

    def crowd(self, buyers: int) -> list[Line]:
        """Buyers, each with a connection of his own, spread over the processes."""
        return [self.lines.line("producer", number) for number in range(buyers)]


def many_files() -> None:
    """As many as the system lets us open: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def purchase(sku: str, *quantities: int, **more: Any) -> dict[str, Any]:
    lines = [{"sku": sku, "quantity": quantity} for quantity in quantities or (1,)]
    return {"customer": "c-7", "items": lines, **more}


def sold_out(problem: dict[str, Any], sku: str) -> bool:
    """Whether it was refused for want of stock, and says so as it should."""
    if problem["code"] != "out_of_stock":
        return False
    [fault] = problem["errors"]
    assert (problem["status"], fault["sku"]) == (409, sku), problem
    assert fault["pointer"] == "#/items/0", fault
    assert fault["requested"] > fault["available"] >= 0, fault
    return True


async def work(*calls: Coroutine[Any, Any, Any]) -> None:
    """All at once; the first that fails ends the others, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


@asynccontextmanager
async def beside(call: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Something that goes on during the block and is cancelled after it."""
    task = asyncio.create_task(call)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(probe: Callable[[], Coroutine[Any, Any, bool]], what: str) -> None:
    """Raises TimeoutError with `what`."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        late = time.monotonic() > deadline
        if await probe():
            return
        if late:
            raise TimeoutError(f"{what}: not within {SETTLE_SECONDS:g} s")
        await asyncio.sleep(0.05)


# --- all at the same moment -----------------------------------------------------------

BUYERS, COPIES = 600, 500


async def rush(shop: Shop, crowd: Sequence[Line], draw: random.Random) -> None:
    """All buy one copy at once; some are sold, some not after all; the rest buy those."""
    queue, sku = shop.house.queue(backoff_seconds=0), await shop.product(COPIES)
    ids = await _all_buy(crowd, queue, sku, COPIES)
    assert await shop.level(sku) == Level(COPIES, COPIES, 0)
    sold, failed, cancelled = (draw.randrange(20, 150) for _ in range(3))
    await _settle_some(shop, queue, sold, failed)
    await _cancel_some(shop, queue, draw, cancelled)
    left = failed + cancelled
    assert await shop.level(sku) == Level(COPIES - sold, COPIES - sold - left, left)
    ids += await _all_buy(crowd, queue, sku, left)
    assert await shop.level(sku) == Level(COPIES - sold, COPIES - sold, 0)
    assert len(set(ids)) == COPIES + left, "one purchase was two buyers'"


async def _all_buy(crowd: Sequence[Line], queue: str, sku: str, copies: int) -> list[str]:
    """Who got one; the others must have been refused."""
    await asyncio.gather(*(line.open() for line in crowd))  # so that they ask at one moment
    path, wish = f"/queues/{queue}/messages", purchase(sku)
    answers = await asyncio.gather(*(line.call("POST", path, wish) for line in crowd))
    told = Counter((answer.status, answer.code) for answer in answers)
    assert told == {(201, None): copies, (409, "out_of_stock"): len(crowd) - copies}, told
    assert all(sold_out(answer.json, sku) for answer in answers if answer.status == 409)
    return [answer.json["id"] for answer in answers if answer.status == 201]


async def _settle_some(shop: Shop, queue: str, sold: int, failed: int) -> None:
    """Ack some, give some up, put the rest back, over all processes at once."""
    claimed = await _claim(shop, queue, sold + failed + 40)
    acks, nacks, back = claimed[:sold], claimed[sold : sold + failed], claimed[sold + failed :]
    why = {"error": "no such address", "retry": False}
    answers = await asyncio.gather(
        shop.ask("worker", "POST", "/messages/ack", {"acks": acks}),
        shop.ask("worker", "POST", "/messages/nack", {"nacks": [{**one, **why} for one in nacks]}),
        shop.ask("worker", "POST", "/messages/release", {"releases": back}),
    )
    assert [answer["accepted"] for answer in answers] == [sold, failed, len(back)]


async def _claim(shop: Shop, queue: str, count: int) -> list[dict[str, str]]:
    """Leases of so many messages: id and receipt."""
    claimed: list[dict[str, str]] = []
    while left := count - len(claimed):
        body = {"max": min(100, left), "lease_seconds": 600}
        found = (await shop.ask("worker", "POST", f"/queues/{queue}/claim", body))["messages"]
        assert found, "nothing to claim"
        claimed += [{"id": one["id"], "receipt": one["receipt"]} for one in found]
    return claimed


async def _cancel_some(shop: Shop, queue: str, draw: random.Random, count: int) -> None:
    """Cancel so many of those that wait, all at once."""
    pending = await shop.ask("viewer", "GET", f"/queues/{queue}/messages?status=pending&limit=200")
    chosen = draw.sample([one["id"] for one in pending["items"]], count)
    calls = (shop.ask("producer", "POST", f"/messages/{one}/cancel") for one in chosen)
    answers = await asyncio.gather(*calls)
    assert {answer["status"] for answer in answers} == {"cancelled"}


# --- everything that can happen to a purchase, at once --------------------------------


class Lane:
    """Two queues, through which one round after another is sold."""

    def __init__(self, shop: Shop) -> None:
        patience = {"backoff_seconds": 0, "max_attempts": 3, "max_lost_leases": 2}
        self.shop = shop
        self.queues = [shop.house.queue(**patience) for _ in range(2)]


@dataclass
class Round:
    """One sale of one product; `run` raises what was not as promised."""

    lane: Lane
    draw: random.Random
    sku: str
    received: int  # all that ever came into the house
    buyers: int = 64
    linger: float = 1.0  # seconds between the first and the last buyer
    accepted: set[str] = field(default_factory=set)
    sold: dict[str, int] = field(default_factory=dict)  # id → copies
    tasks: set[asyncio.Task[None]] = field(default_factory=set)  # workers who come late
    busy: int = 0  # workers who settle what they claimed
    calm: bool = False  # from now on everything is sold

    @property
    def shop(self) -> Shop:
        return self.lane.shop

    async def run(self) -> None:
        async with beside(work(*(self._work(self._dice()) for _ in range(3)))) as workers:
            many = self.buyers // 8
            buyers = [self._buy(self._dice()) for _ in range(self.buyers - 4 * many)]
            buyers += [self._buy_together(self._dice(), many) for _ in range(4)]
            await work(*buyers, self._mend(self._dice()), self._take_stock(self._dice()))
            while self.tasks:
                await asyncio.gather(*self.tasks)
            self.calm = True
            await until(lambda: self._worked_off(workers), "all is worked off")
        await self._check()

    def _dice(self) -> random.Random:
        return random.Random(self.draw.getrandbits(64))

    async def _insist(
        self, draw: random.Random, role: str, path: str, body: Any = None, **headers: str
    ) -> Answer:
        return await self.shop.lines.insist(draw, role, "POST", path, body, **headers)

    # --- buyers -----------------------------------------------------------------------

    async def _buy(self, draw: random.Random) -> None:
        """Try, and try again when it is sold out; change one's mind now and then."""
        await asyncio.sleep(draw.choice((0, draw.uniform(0, self.linger))))
        key = self._key(draw)
        for _ in range(draw.randrange(1, 4)):
            message = await self._post(draw, key)
            if message is not None:
                await self._regret(draw, message)
                return
            await asyncio.sleep(draw.uniform(0, self.linger / 2))

    async def _buy_together(self, draw: random.Random, buyers: int) -> None:
        """So many in one call, each on his own."""
        await asyncio.sleep(draw.uniform(0, self.linger))
        path = f"/queues/{self.lane.queues[0]}/messages/batch"
        wishes = [{**self._wish(draw), "idempotency_key": self._key(draw)} for _ in range(buyers)]
        answer = await self._insist(draw, "producer", path, {"messages": wishes})
        assert answer.status == 200, answer
        bought = [self._judge(one["id"], one["problem"]) for one in answer.json["results"]]
        assert len(bought) == buyers
        await work(*(self._regret(draw, message) for message in bought if message is not None))

    def _key(self, draw: random.Random) -> str:
        return f"{self.sku}-{draw.getrandbits(64):x}"

    def _wish(self, draw: random.Random) -> dict[str, Any]:
        body = purchase(self.sku, *draw.choice(((1,), (1,), (1,), (2,), (1, 1), (3,))))
        if draw.random() < 0.3:
            ends = datetime.now(UTC) + timedelta(milliseconds=draw.randrange(400, 2_000))
            body["expires_at"] = ends.isoformat(timespec="milliseconds")
            body["delay_seconds"] = draw.randrange(3)  # with one it may end before it is due
        return body

    async def _post(self, draw: random.Random, key: str) -> str | None:
        """A purchase under a key, sometimes posted twice at once; its id if it was accepted."""
        path, body = f"/queues/{self.lane.queues[0]}/messages", self._wish(draw)
        times = 1 + (draw.random() < 0.1)
        answers = await asyncio.gather(
            *(self._insist(draw, "producer", path, body, Idempotency_Key=key) for _ in range(times))
        )
        found = {
            self._judge(answer.json.get("id"), answer.json if answer.code else None)
            for answer in answers
        } - {None}
        assert len(found) <= 1, f"one key, two purchases: {answers}"
        return found.pop() if found else None

    def _judge(self, message: str | None, problem: dict[str, Any] | None) -> str | None:
        """The id of what was accepted; what was not must have come too late or be sold out."""
        if problem is None:
            assert message is not None
            self.accepted.add(message)
            return message
        late = problem["code"] == "invalid" and "expires_at" in problem["detail"]
        assert late or sold_out(problem, self.sku), problem
        return None

    async def _regret(self, draw: random.Random, message: str) -> None:
        if draw.random() < 0.3:
            await asyncio.sleep(draw.uniform(0, self.linger))
            answer = await self._insist(draw, "producer", f"/messages/{message}/cancel")
            assert answer.status in (200, 202) or answer.code == "illegal_transition", answer

    # --- workers ----------------------------------------------------------------------

    async def _work(self, draw: random.Random) -> None:
        while True:
            body = {"max": draw.randrange(1, 6), "lease_seconds": 1, "wait_seconds": 1}
            path = f"/queues/{draw.choice(self.lane.queues)}/claim"
            answer = await self._insist(draw, "worker", path, body)
            assert answer.status == 200, answer
            self.busy += 1
            for message in answer.json["messages"]:
                await self._treat(draw, message)
            self.busy -= 1
            if not self.calm:
                await asyncio.sleep(draw.uniform(0, 0.2))

    async def _treat(self, draw: random.Random, message: dict[str, Any]) -> None:
        fate = "ack" if self.calm else draw.choices([*FATES], [*FATES.values()])[0]
        if fate == "late":
            task = asyncio.create_task(self._late(self._dice(), message))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif fate != "lose":
            await self._settle(draw, message, fate)

    async def _late(self, draw: random.Random, message: dict[str, Any]) -> None:
        """Settle at about the time when the lease runs out."""
        await asyncio.sleep(draw.uniform(0.9, 2.2))
        await self._settle(draw, message, draw.choice(("ack", "nack", "release")))

    async def _settle(self, draw: random.Random, message: dict[str, Any], fate: str) -> None:
        if fate == "forward" and message["queue"] == self.lane.queues[1]:
            fate = "ack"  # it has arrived
        verb, more = {
            "ack": ("ack", {}),
            "forward": ("ack", {"forward_to": self.lane.queues[1]}),
            "nack": ("nack", {"error": "no", "delay_seconds": 0}),
            "fail": ("nack", {"error": "no", "retry": False}),
            "release": ("release", {}),
        }[fate]
        body = {"receipt": message["receipt"], **more}
        answer = await self._insist(draw, "worker", f"/messages/{message['id']}/{verb}", body)
        assert answer.status == 200 or answer.code == "lease_lost", answer
        if answer.status == 200 and answer.json["status"] == "completed":
            assert message["id"] not in self.sold, "sold twice"
            self.sold[message["id"]] = sum(item["quantity"] for item in message["items"])

    # --- admins -----------------------------------------------------------------------

    async def _mend(self, draw: random.Random) -> None:
        """Bring back what has ended otherwise, as long as there is stock for it."""
        queue = self.lane.queues[0]
        for what in draw.choices(("failed", "cancelled", "expired", "redrive"), k=6):
            await asyncio.sleep(draw.uniform(0, self.linger / 2))
            if what == "redrive":
                await self.shop.ask("admin", "POST", f"/queues/{queue}/redrive", {"sku": self.sku})
                continue
            path = f"/queues/{queue}/messages?status={what}&limit=20"
            ended = (await self.shop.ask("viewer", "GET", path))["items"]
            mine = [one["id"] for one in ended if one["id"] in self.accepted]
            for message in draw.sample(mine, min(2, len(mine))):
                answer = await self._insist(draw, "admin", f"/messages/{message}/retry")
                known = answer.code in ("out_of_stock", "illegal_transition")
                assert answer.status == 200 or known, answer

    async def _take_stock(self, draw: random.Random) -> None:
        """Somebody counts, and finds one more or one less; a late delivery comes."""
        path = f"/products/{self.sku}/stock/adjust"
        for change in draw.choices((-1, 1), k=2):
            await asyncio.sleep(draw.uniform(0, self.linger))
            counted = (await self.shop.level(self.sku)).on_hand
            if counted + change < 0:
                continue
            body = {"on_hand": counted + change, "expected_on_hand": counted, "reason": "counted"}
            answer = await self.shop.lines.call("admin", draw.randrange(2), "POST", path, body)
            assert answer.code in (None, "below_reserved", "version_mismatch"), answer
            self.received += change * (answer.status == 200)
        if draw.random() < 0.2:
            await self.shop.receive(self.sku, 3)
            self.received += 3

    # --- the end ----------------------------------------------------------------------

    async def _worked_off(self, workers: asyncio.Task[None]) -> bool:
        if workers.done():
            await workers  # what ended them is to be told
        for queue in self.lane.queues:
            counts = (await self.shop.ask("viewer", "GET", f"/queues/{queue}"))["counts"]
            if counts["pending"] or counts["processing"]:
                return False
        return not self.busy  # what is done is also told

    async def _check(self) -> None:
        """What was sold has left the house, nothing else has, and nothing is promised."""
        left = self.received - sum(self.sold.values())
        level = await self.shop.level(self.sku)
        assert level == Level(left, 0, left), f"{level}, not {left}"
        assert left >= 0, f"{-left} too many were sold"


FATES = {"ack": 30, "forward": 12, "nack": 15, "fail": 14, "release": 8, "lose": 8, "late": 13}


@dataclass
class Told:
    """What came of many rounds."""

    rounds: int = 0
    accepted: set[str] = field(default_factory=set)
    sold: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def add(self, one: Round) -> None:
        self.rounds += 1
        self.accepted |= one.accepted
        self.sold |= one.sold.keys()


async def scramble(place: Premises, rounds: int, lanes: int, draw: random.Random) -> Told:
    """`rounds` sales of ten copies, `lanes` of them at a time."""
    told = Told()
    dice = iter([random.Random(draw.getrandbits(64)) for _ in range(rounds)])
    with Shop(place) as shop:
        await asyncio.gather(*(_sell(Lane(shop), dice, told) for _ in range(lanes)))
    return told


async def _sell(lane: Lane, dice: Iterator[random.Random], told: Told) -> None:
    """One round after another, up to the first that goes wrong: its queues are not empty."""
    for own in dice:
        one = Round(lane, own, await lane.shop.product(10), 10)
        try:
            await one.run()
        except (AssertionError, OSError, TimeoutError) as error:
            told.wrong.append(f"{one.sku}: {reason(error)}")
            return
        told.add(one)


def remembered(place: Premises, told: Told) -> list[str]:
    """Whether what buyers and workers were told is in the database, and nothing else."""
    rows = place.ledger.sql("SELECT id, status FROM messages")
    there = dict(row.split("|") for row in rows)
    sold = {message for message, status in there.items() if status == "completed"}
    found: list[str] = []
    if there.keys() != told.accepted:
        found.append(f"{len(told.accepted)} purchases were accepted, {len(there)} are there")
    if sold != told.sold:
        found.append(f"{len(told.sold)} were told to be completed, {len(sold)} are")
    return found


# --- a process is killed in the middle of it ------------------------------------------


@dataclass
class Struck:
    """A sale in which a process dies; buyers and workers do not give up."""

    shop: Shop
    draw: random.Random
    queue: str
    sku: str
    strike_at: int  # so many are sold then
    told: dict[str, str | None] = field(default_factory=dict)  # key → id; None: sold out
    sold: int = 0
    midst: asyncio.Event = field(default_factory=asyncio.Event)
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False

    @property
    def accepted(self) -> list[str]:
        return [message for message in self.told.values() if message is not None]

    async def run(self, buyers: int, copies: int) -> None:
        server = self.draw.choice(self.shop.house.servers)
        seller = asyncio.create_task(self._sell())
        try:
            keys = [f"{self.draw.getrandbits(64):x}" for _ in range(buyers)]
            # Half of them come soon, a quarter as it strikes, the last quarter after it.
            begins = [None, None, self.midst, self.dead]
            bought = (self._buy(key, begins[n % 4]) for n, key in enumerate(keys))
            await work(*bought, self._strike(server))
        finally:
            self.over = True
            await asyncio.gather(seller, return_exceptions=True)
        await seller  # what ended it is to be told
        assert len(self.accepted) == copies
        await self._check(copies - self.sold)
        await asyncio.to_thread(services.until, server.ready, 60, "started again")
        await self._ask_again(self.shop.house.servers.index(server))

    async def _buy(self, key: str, begin: asyncio.Event | None) -> None:
        draw = random.Random(key)
        if begin is None:
            await asyncio.sleep(draw.choice((0, draw.uniform(0, 0.3))))
        else:
            await begin.wait()
        answer = await self.shop.lines.insist(
            draw, "producer", "POST", self._path, purchase(self.sku), Idempotency_Key=key
        )
        if answer.code is not None:
            assert sold_out(answer.json, self.sku), answer
        self.told[key] = None if answer.code else answer.json["id"]
        if len(self.accepted) >= self.strike_at:
            self.midst.set()

    @property
    def _path(self) -> str:
        return f"/queues/{self.queue}/messages"

    async def _strike(self, server: Server) -> None:
        """kill -9 as soon as some have bought; a moment later it is started again."""
        await self.midst.wait()
        await asyncio.sleep(self.draw.uniform(0, 0.03))
        server.kill()
        self.dead.set()
        try:
            await asyncio.sleep(self.draw.uniform(0, 0.3))
        finally:
            server.launch()  # from this thread: the kernel ends it with the thread that did

    async def _sell(self) -> None:
        """Claim and ack, as long as it lasts."""
        draw, wish = random.Random(self.sku), {"max": 5, "lease_seconds": 600}
        while not self.over:
            claimed = await self.shop.ask("worker", "POST", f"/queues/{self.queue}/claim", wish)
            for message in claimed["messages"]:
                path, given = f"/messages/{message['id']}/ack", {"receipt": message["receipt"]}
                answer = await self.shop.lines.insist(draw, "worker", "POST", path, given)
                assert (answer.status, answer.json["status"]) == (200, "completed"), answer
                self.sold += 1
            await asyncio.sleep(0.01)

    async def _check(self, left: int) -> None:
        """What is sold has left the house, the rest is promised, to those who were told so."""
        assert await self.shop.level(self.sku) == Level(left, left, 0)
        there = newest(self.shop.place.ledger, self.queue)
        assert there == sorted(self.accepted), "another purchase is there than was told"
        assert await asyncio.to_thread(self.shop.place.faults) == []

    async def _ask_again(self, process: int) -> None:
        """Buyers who ask the process that was killed hear what they heard before."""
        for key, told in self.draw.sample([*self.told.items()], 20):
            answer = await self.shop.lines.call(
                "producer", process, "POST", self._path, purchase(self.sku), Idempotency_Key=key
            )
            if told is None:
                assert sold_out(answer.json, self.sku), answer
            else:
                assert (answer.status, answer.json["id"]) == (200, told), answer


async def struck(shop: Shop, draw: random.Random, buyers: int = 150, copies: int = 100) -> None:
    """More buyers than copies, and a process that is killed while they buy."""
    queue, sku = shop.house.queue(), await shop.product(copies)
    await Struck(shop, draw, queue, sku, draw.randrange(1, copies // 2)).run(buyers, copies)


# --- everybody watches ----------------------------------------------------------------


@dataclass
class Watched:
    """What so many streams of a product got while it was sold."""

    streams: int
    events: int
    left_out: int
    wrong: list[str]


async def watched(
    shop: Shop, streams: int, draw: random.Random, buyers: int = BUYERS, linger: float = 2.0
) -> Watched:
    """A sale with so many streams on the product; a fifth of them hang up and resume meanwhile."""
    copies = buyers * 5 // 6
    lane, sku = Lane(shop), await shop.product(copies)
    topic = f"stock:{sku}"
    await shop.ask("admin", "PATCH", f"/products/{sku}/stock", {"low_at": copies // 5})
    one, book = Round(lane, draw, sku, copies, buyers, linger), Book()
    watchers = [Watcher(shop.house, [topic], "customer", book) for _ in range(streams)]
    async with Audience(draw) as audience:
        audience.join(*watchers)
        await until(audience.seated, "everybody is told where he begins")
        some = draw.sample(watchers, streams // 5)
        await work(one.run(), restless(some, random.Random(draw.random()), one.linger))
        log = Log(shop.place.ledger)
        await until(partial(all_have, watchers, log), "everybody has the last number")
    found = Verdict.of(watchers, log, book)
    available = (await shop.level(sku)).available
    if log.available(sku) != available:
        found.wrong.append(f"the last number is {log.available(sku)}, not {available}")
    return Watched(streams, found.events, found.left_out, found.wrong)

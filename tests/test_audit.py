"""The audit names every difference between the books, and none where they agree."""

import asyncio
import itertools
import os
import re
import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest

import audit
import config
import doctor
from audit import Comparison, Remark
from database import Database, Dialect
from tests import answers, forks
from tests.house import House, running
from tests.services import ROOT, Postgres, until

GONE = "01900000-0000-7000-8000-000000000000"  # an order that is nowhere
HELD = 10  # of disc-1 by what is pending and processing after `live`
STRETCHES = tuple(replace(book, size=2) for book in audit.BOOKS)  # as a large one is read
TABLES = (
    *("queues", "queue_counts", "queue_rates", "messages", "keys", "events", "stream"),
    *("stock", "stock_movements", "customers", "customer_counts"),
)
UNLOCK = (  # the CHECKs that would not let in what is to be found
    "ALTER TABLE stock DROP CONSTRAINT stock_not_oversold;"
    "ALTER TABLE messages DROP CONSTRAINT messages_reserved"
)


# --- a busy life ----------------------------------------------------------------------


def of(queue: str) -> str:
    return f"WHERE queue_id = (SELECT id FROM queues WHERE name = '{queue}')"


def good(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


@dataclass
class Life:
    """Somebody who does everything that a service knows; orders by what became of them."""

    house: House
    orders: dict[str, str]

    def stock(self, sku: str, verb: str, **body: Any) -> None:
        good(self.house.client().post(f"/products/{sku}/stock/{verb}", json=body))

    def post(self, name: str, *lines: tuple[str, int], queue: str = "orders", **more: Any) -> None:
        items = [{"sku": sku, "quantity": n} for sku, n in lines]
        self.orders[name] = self.house.post(queue, items=items, **more)["id"]

    def take(self, name: str, *lines: tuple[str, int], **claim: Any) -> dict[str, Any]:
        """Post one, the first in its line, and claim it."""
        self.post(name, *lines, priority=9)
        [found] = self.house.claim("orders", **claim)
        assert found["id"] == self.orders[name]
        return found

    def settle(self, verb: str, found: dict[str, Any], **body: Any) -> None:
        good(self.house.settle(verb, found, **body))

    def order(self, name: str, verb: str) -> None:
        good(self.house.client().post(f"/messages/{self.orders[name]}/{verb}"))

    def status(self, name: str) -> str:
        return good(self.house.client().get(f"/messages/{self.orders[name]}"))["status"]


def live(house: House) -> dict[str, str]:
    """A life with everything in it; the orders by what became of them."""
    life = Life(house, {})
    for name in ("shipping", "closed"):
        good(house.client().post("/queues", json={"name": name}))
    life.stock("disc-1", "receive", quantity=40)
    life.stock("disc-2", "receive", quantity=5)
    house.token("producer")
    life.post("late", ("disc-1", 1), expires_at="2999-12-31T23:59:59Z", delay_seconds=600)
    late = f"WHERE id = '{life.orders['late']}'"
    answers.stored(house, f"UPDATE messages SET expires_at = created_at + 1 {late}")
    sell(life)
    give_back(life)
    life.stock("disc-1", "adjust", on_hand=36, expected_on_hand=37, reason="one is broken")
    life.take("working", ("disc-1", 2), lease_seconds=3600)
    life.take("lost", ("disc-1", 1), lease_seconds=1)
    life.order("retried", "retry")
    life.post("waiting", ("disc-1", 2), ("disc-2", 1))
    until(lambda: life.status("late") == "expired", 60, "the expiry")
    until(lambda: life.status("lost") == "pending", 60, "the lost lease")
    return life.orders


def sell(life: Life) -> None:
    """Three purchases that are done, one of them of a disc that was not counted then."""
    life.settle("ack", life.take("done", ("disc-1", 2)))
    life.settle("ack", life.take("both", ("disc-1", 1), ("disc-2", 1), ("free", 1)))
    early = life.take("early", ("disc-3", 1))
    life.stock("disc-3", "receive", quantity=3)
    life.settle("ack", early)


def give_back(life: Life) -> None:
    """Purchases that come back, are given up, or go on elsewhere."""
    life.settle("nack", life.take("failed", ("disc-1", 3)), error="no card", retry=False)
    life.settle("nack", life.take("retried", ("disc-1", 1)), error="no card", retry=False)
    life.settle("nack", life.take("nacked", ("disc-1", 1)), error="later", delay_seconds=3600)
    life.settle("ack", life.take("forwarded", ("disc-1", 3)), forward_to="shipping")
    asked = life.take("asked", ("disc-1", 1))
    life.order("asked", "cancel")
    life.settle("release", asked)
    life.post("cancelled", ("disc-1", 1))
    life.order("cancelled", "cancel")
    for name in ("one", "two"):
        life.post(name, ("disc-2", 1), queue="closed")
    good(life.house.client().post("/queues/closed/purge"))
    life.post("three", ("disc-2", 1), queue="closed")
    good(life.house.client().delete("/queues/closed", params={"force": "true"}))
    until(lambda: life.status("three") == "cancelled", 60, "the end of the queue")


# --- a database -----------------------------------------------------------------------


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    db = Database(config.tortoise_orm(config.load({"FILAVIVA_DATABASE_URL": url})))
    await db.open()
    try:
        yield db
    finally:
        await db.close()


@dataclass(frozen=True)
class Stored:
    """A database that nobody serves."""

    url: str
    sql: Callable[[str], list[str]]  # statements → the rows of the last, columns joined by |

    def audit(self) -> list[str]:
        """What is wrong, in the order of the alphabet; the same read at once and in stretches."""

        async def asked() -> tuple[list[Remark], list[Remark]]:
            async with opened(self.url) as db:
                whole = [remark async for remark in audit.differences(db)]
                with patch.object(audit, "BOOKS", STRETCHES):
                    return whole, [remark async for remark in audit.differences(db)]

        whole, stretched = asyncio.run(asked())
        assert sorted(whole) == sorted(stretched)
        assert all(remark.wrong for remark in whole)
        return sorted(remark.text for remark in whole)

    def cli(self, *args: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "FILAVIVA_DATABASE_URL": self.url}
        return forks.run(args, ROOT, environment, 90)

    def rows(self, table: str) -> list[str]:
        return sorted(self.sql(f"SELECT * FROM {table}"))


def in_file(path: Path) -> Stored:
    def sql(statements: str) -> list[str]:
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as line:
            line.execute("PRAGMA ignore_check_constraints = ON")
            *first, last = filter(str.strip, statements.split(";"))
            for one in first:
                line.execute(one)
            return ["|".join(map(str, row)) for row in line.execute(last)]

    return Stored(f"sqlite:///{path}", sql)


def in_cluster(cluster: Postgres, name: str) -> Stored:
    return Stored(cluster.url(name), lambda sql: cluster.sql(sql, name).splitlines())


# --- beside it ------------------------------------------------------------------------


@dataclass(frozen=True)
class Beside:
    """What was found while the service was at work; between the two a count was damaged."""

    before: list[str]
    mended: list[str]
    after: list[str]


def work(house: House, stop: threading.Event, moved: list[int]) -> None:
    """Post, claim, ack and give up as fast as it goes; `moved` tells how many messages."""
    items = [{"sku": "hot", "quantity": 1}, {"sku": "free", "quantity": 1}]
    post = {"messages": [{"customer": "c-7", "items": items}] * 20}
    while not stop.is_set():
        good(house.client("producer").post("/queues/busy/messages/batch", json=post))
        held = [{name: one[name] for name in ("id", "receipt")} for one in house.claim("busy", 20)]
        given_up = [{**one, "error": "no card", "retry": False} for one in held[::4]]
        good(house.client("worker").post("/messages/nack", json={"nacks": given_up}))
        good(house.client("worker").post("/messages/ack", json={"acks": held}))
        moved.append(len(held))


async def found_in(url: str, sizes: Iterable[int]) -> AsyncIterator[str]:
    """Everything, read in stretches of some sizes."""
    async with opened(url) as db:
        for size in sizes:
            books = tuple(replace(book, size=size) for book in audit.BOOKS)
            with patch.object(audit, "BOOKS", books):
                async for remark in audit.differences(db):
                    yield remark.text


async def look_beside(stored: Stored, far: Callable[[int], bool]) -> Beside:
    """`far` tells whether so many messages were moved."""
    before, after = list[str](), list[str]()
    while not far(200):
        before += [text async for text in found_in(stored.url, [10_000, 100])]
    stored.sql(f"UPDATE queue_counts SET failed = failed + 1000000 {of('busy')}")
    async with opened(stored.url) as db:
        mended = await audit.mend_counters(db)
    while not far(400):
        after += [text async for text in found_in(stored.url, [10_000, 100])]
    return Beside(before, mended, after)


def beside(house: House, stored: Stored) -> Beside:
    good(house.client().post("/queues", json={"name": "busy"}))
    good(house.client().post("/products/hot/stock/receive", json={"quantity": 1_000_000}))
    stop, moved = threading.Event(), list[int]()
    with ThreadPoolExecutor(2) as pool:
        hands = [pool.submit(work, house, stop, moved) for _ in range(2)]

        def far(n: int) -> bool:
            return sum(moved) >= n or any(hand.done() for hand in hands)

        try:
            found = asyncio.run(look_beside(stored, far))
        finally:
            stop.set()
    for hand in hands:
        hand.result()
    return found


# --- a database with that past --------------------------------------------------------


FACTS = {  # what differs from life to life
    "head": "SELECT head FROM stream",
    "beyond": "SELECT head + 1 FROM stream",
    "version": "SELECT version FROM stock WHERE sku = 'disc-1'",
    "step": "SELECT seq FROM events WHERE message = '{done}' AND type = 'order.processing'",
    "gone": f"SELECT '{GONE}'",
}


@dataclass(frozen=True)
class Past:
    """A database after `live`, as often as one likes. `names`: its orders and some facts."""

    names: dict[str, str]
    copy: Callable[[], Stored]
    beside: Beside

    def __post_init__(self) -> None:
        stored = self.copy()
        for name, question in FACTS.items():
            [self.names[name]] = stored.sql(question.format(**self.names))

    def damaged(self, statements: str) -> Stored:
        found = self.copy()
        found.sql(statements.format(**self.names))
        return found


@contextmanager
def past_in_a_file(folder: Path) -> Iterator[Past]:
    with running() as house:
        orders = live(house)
        path = Path(house.servers[0].settings["DATA_DIR"], "filaviva.db")
        target = sqlite3.connect(folder / "past.db")
        with closing(sqlite3.connect(path)) as source, closing(target):
            source.backup(target)
        seen = beside(house, in_file(path))
    numbers = itertools.count()

    def copy() -> Stored:
        path = folder / f"{next(numbers)}.db"
        path.write_bytes((folder / "past.db").read_bytes())
        return in_file(path)

    yield Past(orders, copy, seen)


@contextmanager
def past_in_postgres(cluster: Postgres) -> Iterator[Past]:
    name = cluster.create()
    stored = in_cluster(cluster, name)
    with running(DATABASE_URL=stored.url) as house:
        orders = live(house)
        kept = (f"CREATE TABLE past.{one} AS TABLE {one}" for one in TABLES)
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE SCHEMA past"
        stored.sql(";".join((begin, *kept, "COMMIT")))
        seen = beside(house, stored)
    stored.sql(UNLOCK)

    def copy() -> Stored:
        gone = (f"DELETE FROM {one}" for one in reversed(TABLES))
        back = (f"INSERT INTO {one} TABLE past.{one}" for one in TABLES)
        stored.sql(";".join((*gone, *back)))
        return stored

    yield Past(orders, copy, seen)
    cluster.drop(name)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def past(request: pytest.FixtureRequest) -> Iterator[Past]:
    if request.param == "sqlite":
        folder = request.getfixturevalue("tmp_path_factory").mktemp("past")
        place = past_in_a_file(folder)
    else:
        place = past_in_postgres(request.getfixturevalue("postgres_server"))
    with place as found:
        yield found


# --- nothing where there is nothing ---------------------------------------------------


def test_a_busy_life_leaves_no_difference(past: Past) -> None:
    """Whatever a service was asked to do, its books agree."""
    stored = past.copy()
    assert stored.sql("SELECT count(DISTINCT status) FROM messages") == ["6"]
    assert stored.sql("SELECT on_hand, reserved FROM stock WHERE sku = 'disc-1'") == [f"36|{HELD}"]
    assert stored.audit() == []


def test_what_retention_took_is_no_difference(past: Past) -> None:
    """The ledger outlives the orders, and the stock its events: that is as it should be."""
    stored = past.damaged(
        "UPDATE stream SET floor = head;"
        "DELETE FROM keys WHERE message = '{done}'; DELETE FROM messages WHERE id = '{done}';"
        "UPDATE queue_counts SET completed = completed - 1 WHERE queue_id = 1;"
        "DELETE FROM events WHERE message IS NULL OR message = '{done}'"
    )
    assert stored.audit() == []


def test_beside_a_busy_service(past: Past) -> None:
    """Whoever writes meanwhile, nothing is found that is not so, and a count is mended exactly."""
    assert past.beside.before == []
    [line] = past.beside.mended
    assert re.fullmatch(r"queue busy: 1,000,\d+ failed, should be \d+, counted one by one", line)
    assert past.beside.after == []


# --- each difference is named ---------------------------------------------------------

DISC = "WHERE sku = 'disc-1'"
EARLIER = f"UPDATE stock SET created_at = created_at - 120000 {DISC}"
NINE = '[{{"sku":"disc-1","quantity":9}}]'
NEXT = "seq + 1, type, subject, NULL, NULL, NULL, NULL, data, NULL, batch, created_at"
DAMAGES: dict[str, tuple[str, list[str]]] = {
    # counters
    "a count": (
        f"UPDATE queue_counts SET failed = 1007 {of('orders')}",
        ["queue orders: 1,007 failed, should be 1, counted one by one"],
    ),
    "the counts of a queue that was deleted": (
        f"UPDATE queue_counts SET expired = 1 {of('closed')}",
        ["queue closed (deleted): 1 expired, should be 0, counted one by one"],
    ),
    "a queue without counts": (
        "DELETE FROM queue_counts WHERE queue_id = (SELECT id FROM queues WHERE name = 'shipping')",
        [
            f"queue shipping: no count of {status}, should be {n}, counted one by one"
            for status, n in (
                *(("cancelled", 0), ("completed", 0), ("expired", 0), ("failed", 0)),
                *(("pending", 1), ("processing", 0)),
            )
        ],
    ),
    "the count of customers": (
        "UPDATE customer_counts SET active = active + 3, inactive = inactive + 1 WHERE shard = 0",
        [
            "customers: 1 inactive, should be 0, counted one by one",
            "customers: 3 active, should be 0, counted one by one",
        ],
    ),
    "a message of no queue": (
        "UPDATE messages SET queue_id = 99 WHERE id = '{done}'",
        [
            "queue 99, which is not there: no count of completed, should be 1, counted one by one",
            "queue orders: 3 completed, should be 2, counted one by one",
        ],
    ),
    # stock and its ledger
    "on hand": (
        f"UPDATE stock SET on_hand = 46 {DISC}",
        [
            "disc-1: 36 available, should be 26, as its last event says",
            "disc-1: 46 on hand, should be 36, the sum of its movements",
        ],
    ),
    "how often it moved": (
        f"UPDATE stock SET moved = 5 {DISC}",
        ["disc-1: 5 movements, should be 4, the lines of its ledger"],
    ),
    "a movement that is gone": (
        f"DELETE FROM stock_movements {DISC} AND number = 1",
        [
            "disc-1: 36 on hand, should be -4, the sum of its movements",
            "disc-1: 4 movements, should be 3, the lines of its ledger",
            "disc-1: movement 2 follows 0, should be 1",
            "disc-1: movement 2 left 38 on hand, should be -2, the sum so far",
        ],
    ),
    "the last movement, gone": (
        f"DELETE FROM stock_movements {DISC} AND number = 4",
        [
            "disc-1: 36 on hand, should be 37, the sum of its movements",
            "disc-1: 4 movements, should be 3, the lines of its ledger",
        ],
    ),
    "a number": (
        f"UPDATE stock_movements SET number = 6 {DISC} AND number = 4",
        ["disc-1: movement 6 follows 3, should be 4"],
    ),
    "what a movement left": (
        f"UPDATE stock_movements SET on_hand = 30 {DISC} AND number = 3",
        ["disc-1: movement 3 left 30 on hand, should be 37, the sum so far"],
    ),
    "what a movement changed": (
        f"UPDATE stock_movements SET change = -3 {DISC} AND number = 4",
        [
            "disc-1: 36 on hand, should be 34, the sum of its movements",
            "disc-1: movement 4 left 36 on hand, should be 34, the sum so far",
        ],
    ),
    "what the last event says": (
        f"UPDATE stock SET version = 99 {DISC}",
        ["disc-1: version 99, should be {version}, as its last event says"],
    ),
    # reservations
    "reserved": (
        f"UPDATE stock SET reserved = 9 {DISC}",
        [
            "disc-1: 27 available, should be 26, as its last event says",
            "disc-1: 9 reserved, should be 10, what orders hold",
        ],
    ),
    "what an order holds": (
        "UPDATE messages SET reserved = '{{\"disc-1\":5}}' WHERE id = '{working}'",
        ["disc-1: 10 reserved, should be 13, what orders hold"],
    ),
    "what is held without stock": (
        "UPDATE messages SET reserved = '{{\"disc-1\":2,\"ghost\":4}}' WHERE id = '{working}'",
        ["ghost: orders hold 4, should hold none: it has no stock"],
    ),
    "more reserved than there is": (
        f"UPDATE stock SET reserved = 40 {DISC}",
        [
            "disc-1: -4 available, should be 26, as its last event says",
            "disc-1: 40 reserved, should be 0 to 36, what is on hand",
            "disc-1: 40 reserved, should be 10, what orders hold",
        ],
    ),
    "held by what is finished": (
        "UPDATE messages SET reserved = '{{\"disc-1\":2}}' WHERE id = '{done}'",
        ["order {done}: holds stock, should hold none: it is completed"],
    ),
    # purchases
    "sold to who waits": (
        "UPDATE stock_movements SET message = '{waiting}' WHERE message = '{done}'",
        ["order {waiting}: 2 of disc-1 sold, should be 0: it is pending"],
    ),
    "sold twice": (
        f"UPDATE stock_movements SET message = '{{done}}' {DISC} AND number = 3",
        [
            "order {done}: 2 movements of disc-1, should be 1",
            "order {done}: 3 of disc-1 sold, should be 2: it is completed",
        ],
    ),
    "sold twice to who is gone": (
        f"UPDATE stock_movements SET message = '{GONE}' {DISC} AND message IS NOT NULL",
        ["order {gone}: 2 movements of disc-1, should be 1"],
    ),
    "another quantity": (
        'UPDATE messages SET items = \'[{{"sku":"disc-1","quantity":9}}]\' WHERE id = \'{done}\'',
        ["order {done}: 2 of disc-1 sold, should be 9: it is completed"],
    ),
    "what was not asked for": (
        "UPDATE messages SET items = '[]' WHERE id = '{done}'",
        ["order {done}: 2 of disc-1 sold, should be 0: it is completed"],
    ),
    "completed and not sold": (  # it was accepted long after the first was received
        f"{EARLIER}; UPDATE stock_movements SET message = '{GONE}' WHERE message = '{{done}}'",
        ["order {done}: 0 of disc-1 sold, should be 2: it is completed"],
    ),
    # the log
    "an event": (
        "DELETE FROM events WHERE seq = {step}",
        [
            "event log: {step} is missing, should be there",
            "order {done}: 2 events, should be 3, as the last one says",
        ],
    ),
    "the first events": (
        "UPDATE stream SET floor = 0; DELETE FROM events WHERE seq IN (1, 2)",
        ["event log: 1 to 2 are missing, should be there"],
    ),
    "the head": (
        "UPDATE stream SET head = head + 1",
        ["event log: ends at {head}, should end at {beyond}, the head"],
    ),
    "an event beyond the head": (
        f"INSERT INTO events SELECT {NEXT} FROM events WHERE seq = {{head}}",
        ["event log: ends at {beyond}, should end at {head}, the head"],
    ),
    "a version": (
        "UPDATE messages SET version = 8 WHERE id = '{done}'",
        ["order {done}: version 8, should be 3, as its last event says"],
    ),
    "a status": (
        "UPDATE messages SET status = 'failed' WHERE id = '{early}'",
        [
            "order {early}: failed, should be completed, as its last event says",
            "queue orders: 1 failed, should be 2, counted one by one",
            "queue orders: 3 completed, should be 2, counted one by one",
        ],
    ),
    "a history": (
        "UPDATE stream SET floor = head; DELETE FROM events WHERE message = '{early}'",
        ["order {early}: no event says its version, should be 3"],
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_every_difference_is_named(past: Past, what: str) -> None:
    """What was damaged is named, with what was found and what it should be, and nothing else."""
    damage, lines = DAMAGES[what]
    assert past.damaged(damage).audit() == [line.format(**past.names) for line in lines]


def test_what_cannot_be_read_is_named_too(past: Past) -> None:
    """JSON that is none takes only its own stretch away, and the line says which it is."""
    stored = past.damaged(
        "UPDATE messages SET items = 'no json' WHERE id = '{done}';"
        "UPDATE queue_counts SET failed = 7 WHERE queue_id = 1"
    )

    async def asked() -> list[str]:
        return [text async for text in found_in(stored.url, [10_000])]

    count, unread = asyncio.run(asked())
    assert count.startswith("queue orders: 7 failed")
    assert re.fullmatch(
        r"orders and the ledger between '0\S+' and 'f\S+': cannot be read: .+", unread
    )


# --- bounds ---------------------------------------------------------------------------

ENDLESS = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"


async def test_no_snapshot_is_held_for_longer(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes too long is given up, and said; it is no difference, and no agreement either."""
    slow = Comparison("a slow one", dict.fromkeys(Dialect, ENDLESS), lambda row: ())
    monkeypatch.setattr(audit, "AT_ONCE", (slow,))
    monkeypatch.setattr(audit, "BOOKS", ())
    monkeypatch.setattr(audit, "differences", partial(audit.differences, seconds=0.3))
    async with opened(past.copy().url) as db, asyncio.timeout(60):
        found = [remark async for remark in audit.differences(db)]
        [finding] = await doctor.books(db)
    assert found == [Remark("a slow one: cannot be compared within 0.3 s", wrong=False)]
    assert (finding.level, finding.text) == (doctor.Level.WARN, found[0].text)


# --- the command ----------------------------------------------------------------------


def test_repair_mends_counters_and_nothing_else(past: Past) -> None:
    """Counters are counted again, line by line; stock, ledger, orders and log are not touched."""
    stored = past.damaged(
        f"UPDATE queue_counts SET failed = 7 {of('orders')};"
        f"DELETE FROM queue_counts {of('shipping')};"
        "UPDATE customer_counts SET active = active - 1 WHERE shard = 0;"
        "UPDATE stock SET moved = 5 WHERE sku = 'disc-1'"
    )
    counters = ("queue_counts", "customer_counts")
    others = {name: stored.rows(name) for name in TABLES if name not in counters}
    done = stored.cli("audit", "--repair")
    *mended, directory, left = done.stdout.splitlines()
    assert (done.returncode, done.stderr, len(mended)) == (1, "", 7)
    assert directory == "mended: customers: -1 active, should be 0, counted one by one"
    assert mended[0] == "mended: queue orders: 7 failed, should be 1, counted one by one"
    assert all(line.startswith("mended: queue shipping: no count of ") for line in mended[1:])
    assert left == "disc-1: 5 movements, should be 4, the lines of its ledger"
    assert stored.audit() == [left]
    assert {name: stored.rows(name) for name in others} == others


def test_the_status_says_whether_it_was_enough(past: Past) -> None:
    """1 while anything is wrong, 0 when nothing is; without --repair nothing is changed."""
    stored = past.damaged("UPDATE queue_counts SET failed = 7 WHERE queue_id = 1")
    line = "queue orders: 7 failed, should be 1, counted one by one"
    done = stored.cli("audit")
    assert (done.returncode, done.stdout, done.stderr) == (1, f"{line}\n", "")
    done = stored.cli("audit", "--repair")
    assert (done.returncode, done.stdout) == (0, f"mended: {line}\nnothing found\n")


def test_an_audit_makes_no_database(tmp_path: Path) -> None:
    """Where there is none it says so, in one line, and leaves nothing behind."""
    done = in_file(tmp_path / "none.db").cli("audit", "--repair")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no database" in done.stderr
    assert list(tmp_path.iterdir()) == []

"""Rates: a fold of the log that counts each event once, and what is told of it."""

import asyncio
import json
import random
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

import database
import instants
import rates
from database import Database
from instants import DAY
from tests import tallies
from tests.answers import execute, good, parameters, problem, stored
from tests.databases import opened
from tests.house import House
from tests.ledger import Sql
from tests.services import until

ENDS = ("order.completed", "order.failed", "order.cancelled", "order.expired")
STAYS = ("order.processing", "order.requeued", "order.cancel_requested", *ENDS)
REASONS = ("nack", "released", "lease_expired", "retried", "redriven")


# --- the fold, on a log of our own making ---------------------------------------------


class Walk:
    """A log that grows at random: few names, used again and again, and a clock that jumps."""

    def __init__(self, db: Database, draw: random.Random) -> None:
        self.db, self.draw = db, draw
        self.at = 1_800_000_000_000
        self.head = self.ids = 0
        self.live: dict[str, int] = {}  # name → id
        self.orders: dict[str, str] = {}  # order → name of its queue

    async def run(self, steps: int) -> None:
        async with self.db.transaction() as session:
            await session.execute("DELETE FROM queue_counts")
            await session.execute("DELETE FROM queues")
        for _ in range(steps):
            self.at += self.draw.choice((0, 1, 900, 40_000, 1_000_000))
            await self.draw.choices((self.manage, self.order, self.fold), (1, 12, 2))[0]()
        while await rates.fold(self.db):
            continue

    async def manage(self) -> None:
        """A queue comes or goes. The next number of the log is theirs."""
        name = self.draw.choice("abc")
        self.at += 1  # a queue and its namesake are never of the same millisecond
        async with self.db.transaction() as session:
            if name in self.live:
                gone = self.live.pop(name)
                sql = "UPDATE queues SET deleted_at = $1 WHERE id = $2"
                await session.execute(sql, self.at, gone)
            else:
                self.ids += 1
                self.live[name] = self.ids
                await session.execute(
                    "INSERT INTO queues (id, name, description, lease_seconds, max_attempts,"
                    " max_lost_leases, backoff_seconds, retention_days, version, created_at,"
                    " updated_at) VALUES ($1, $2, '', 30, 10, 5, 1, 30, 1, $3, $3)",
                    self.ids,
                    name,
                    self.at,
                )
        await self.log("queue.created", None, name, name)

    async def order(self) -> None:
        """An order is made, or one takes a step; also in a queue that is gone."""
        if self.live and (not self.orders or self.draw.random() < 0.3):
            order, name = str(uuid.UUID(int=len(self.orders) + 1)), self.draw.choice([*self.live])
            self.orders[order] = name
            await self.log("order.created", order, name, name)
        elif self.orders:
            order, name = self.draw.choice([*self.orders.items()])
            others = [*self.live.keys() - {name}]
            if others and self.draw.random() < 0.3:
                self.orders[order] = self.draw.choice(sorted(others))
                await self.log("order.forwarded", order, name, self.orders[order])
            else:
                await self.log(self.draw.choice(STAYS), order, name, name)

    async def log(self, kind: str, order: str | None, before: str, queue: str) -> None:
        self.head += 1
        reason = self.draw.choice(REASONS) if kind == "order.requeued" else None
        async with self.db.transaction() as session:
            await session.execute(
                "INSERT INTO events (seq, type, subject, message, queue, from_queue, data, batch,"
                " created_at) VALUES ($1, $2, '', $3, $4, $5, $6, $7, $8)",
                self.head,
                kind,
                order,
                queue,
                before,
                json.dumps({"reference": '"reason":"retried"', "reason": reason}),
                str(uuid.UUID(int=0)),
                self.at,
            )
            await session.execute("UPDATE stream SET head = $1, at = $2", self.head, self.at)

    async def fold(self) -> None:
        """Several processes try at once."""
        await asyncio.gather(*(rates.fold(self.db) for _ in range(3)))


@pytest.mark.parametrize("seed", range(3))
def test_the_buckets_are_what_the_log_says(
    blank: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the log grows and whenever it is folded, each event counts once where it happened.

    Also where queues were deleted and made again under the same name, while orders of the
    former ones still end.
    """
    monkeypatch.setattr(rates, "WINDOW", 7)

    async def walked() -> Walk:
        async with opened(blank) as db:
            walk = Walk(db, random.Random(seed))
            await walk.run(250)
            return walk

    assert asyncio.run(walked()).ids > 4, "no name was used twice"
    assert tallies.wrong(reader(blank)) == []


def reader(url: str) -> Sql:
    return lambda statement: ["|".join(map(str, row)) for row in execute(url, statement)]


def test_old_buckets_are_forgotten(blank: str) -> None:
    """Minutes are kept for a day and an hour, half hours for eight days; the others stay."""
    hour = 3_600_000

    async def left() -> list[tuple[int, int]]:
        async with opened(blank) as db:
            async with db.transaction() as session:
                at = await database.now(session)
                for span, hours in ((60, 24), (60, 26), (1800, 26), (1800, 191), (1800, 193)):
                    then = at - hours * hour
                    values = (span, then - then % (span * 1000))
                    sql = "INSERT INTO queue_rates (queue_id, span, at) VALUES (1, $1, $2)"
                    await session.execute(sql, *values)
            await rates.prune(db, [1])
            async with db.read() as session:
                rows = await session.fetch("SELECT span, at FROM queue_rates")
                return sorted((row["span"], round((at - row["at"]) / hour)) for row in rows)

    assert asyncio.run(left()) == [(60, 24), (1800, 26), (1800, 191)]


def test_a_log_that_was_there_before_is_counted_for_a_week(
    blank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration of a database that was in use begins seven days back."""
    old, all_of_them = tmp_path / "migrations", database.MIGRATIONS
    (old / "models").mkdir(parents=True)
    for path in (all_of_them / "models").glob("[01]_*.py"):
        shutil.copy(path, old / "models")

    async def upgraded() -> None:
        monkeypatch.setattr(database, "MIGRATIONS", old)
        async with opened(blank) as db:
            async with db.transaction() as session:
                walk = Walk(db, random.Random(1))
                walk.at = await database.now(session) - 8 * DAY
            await walk.log("order.created", str(uuid.UUID(int=1)), "orders", "orders")
            walk.at += 2 * DAY
            await walk.log("order.processing", str(uuid.UUID(int=1)), "orders", "orders")
            await walk.log("order.completed", str(uuid.UUID(int=1)), "orders", "orders")
        monkeypatch.setattr(database, "MIGRATIONS", all_of_them)
        async with opened(blank) as db:
            assert not await rates.fold(db)

    asyncio.run(upgraded())
    told = tallies.kept(reader(blank))
    assert {(span, kind): n for (_, span, _, kind), n in told.items()} == {
        (span, kind): 1 for span in (60, 1800) for kind in ("claimed", "done")
    }


# --- what is told ---------------------------------------------------------------------


def sums(series: dict[str, Any]) -> dict[str, int]:
    return {kind: sum(series[kind]) for kind in rates.KINDS if sum(series[kind])}


def looking_into(house: House) -> Sql:
    return lambda statement: ["|".join(map(str, row)) for row in stored(house, statement)]


def told(house: House, queue: str, span: str = "1h") -> dict[str, Any]:
    return good(house.client("viewer").get(f"/queues/{queue}/stats", params={"span": span}))


def in_all(house: House, queue: str) -> dict[str, Any]:
    items = good(house.client("worker").get("/stats"))["items"]
    return next(one for one in items if one["queue"] == queue)


def shown(house: House, queue: str, numbers: dict[str, int]) -> None:
    until(lambda: sums(told(house, queue)) == numbers, 60, f"{queue}: {numbers}")


def lived(house: House, first: str, second: str) -> None:
    """One order of each fate."""
    fates = ("ack", "forward", "nack", "release", "fail", "wait", "cancel", "wait too")
    posted = {fate: house.post(first)["id"] for fate in fates}
    good(house.client("producer").post(f"/messages/{posted['cancel']}/cancel"))
    leased = {one["id"]: one for one in house.claim(first, 5)}
    for fate, verb, more in (
        ("ack", "ack", {}),
        ("forward", "ack", {"forward_to": second}),
        ("nack", "nack", {"error": "no", "delay_seconds": 1000}),
        ("release", "release", {}),
        ("fail", "nack", {"error": "no", "retry": False}),
    ):
        good(house.settle(verb, leased[posted[fate]], **more))
    good(house.client().post(f"/messages/{posted['fail']}/retry"))


def test_every_fate_counts_where_it_belongs(house: House) -> None:
    """Posted, claimed, put back, done, forwarded, failed, cancelled, retried: each once."""
    first, second = house.queue(), house.queue()
    lived(house, first, second)
    numbers = {"entered": 9, "claimed": 5, "returned": 2, "done": 2, "failed": 1, "dropped": 1}
    shown(house, first, numbers)
    shown(house, second, {"entered": 1})
    for span in ("24h", "7d"):
        assert sums(told(house, first, span)) == numbers
    assert sums(in_all(house, first)) == numbers
    assert tallies.wrong(looking_into(house)) == []


def test_a_lease_that_ran_out_is_a_return(house: House) -> None:
    """What the service does by itself counts like what was asked for."""
    name = house.queue()
    house.post(name)
    house.claim(name, lease_seconds=1)
    shown(house, name, {"entered": 1, "claimed": 1, "returned": 1})


@pytest.mark.parametrize(
    "span, step, points", [("1h", 60, 60), ("24h", 300, 288), ("7d", 1800, 336)]
)
def test_a_chart_is_whole_and_ends_now(house: House, span: str, step: int, points: int) -> None:
    """Each span has all its points, aligned, with zeros; the last one holds the present."""
    name = house.queue()
    body = told(house, name, span)
    assert (body["queue"], body["span"], body["step_seconds"]) == (name, span, step)
    assert {kind: len(body[kind]) for kind in rates.KINDS} == dict.fromkeys(rates.KINDS, points)
    assert sums(body) == {}
    start, now = (instants.parse(body[field]) for field in ("from", "as_of"))
    assert start % (step * 1000) == 0
    assert 0 <= now - start - (points - 1) * step * 1000 < step * 1000


def test_all_queues_are_told_at_once(house: House) -> None:
    """/stats has every live queue by name, with what each has of its own."""
    names = [house.queue() for _ in range(2)]
    body = good(house.client("viewer").get("/stats"))
    queues = [one["queue"] for one in body["items"]]
    assert queues == sorted(queues)
    assert {*names, "orders"} <= set(queues)
    assert body.keys() == {"as_of", "from", "step_seconds", "items"}
    assert [len(body["items"][0][kind]) for kind in rates.KINDS] == [60] * 6


def test_what_is_asked_for_wrongly_is_refused(house: House) -> None:
    """Another span is 422, a queue that is not there 404."""
    viewer = house.client("viewer")
    assert parameters(viewer.get("/queues/orders/stats?span=2h")) == ["span"]
    assert parameters(viewer.get("/stats?span=1h")) == ["span"]
    problem(viewer.get("/queues/nowhere/stats"), 404, "not_found")


def test_a_namesake_starts_empty(house: House) -> None:
    """What still ends in a deleted queue is not counted to the new one of its name."""
    admin, name = house.client(), house.queue()
    for _ in range(3):
        house.post(name)
    [leased] = house.claim(name)
    shown(house, name, {"entered": 3, "claimed": 1})
    assert admin.delete(f"/queues/{name}", params={"force": "true"}).status_code == 204
    problem(admin.get(f"/queues/{name}/stats"), 404, "not_found")
    assert name not in [one["queue"] for one in good(admin.get("/stats"))["items"]]
    good(admin.post("/queues", json={"name": name}), 201)
    good(house.settle("ack", leased))
    house.post(name)
    cancelled = f"SELECT count(*) FROM events WHERE type = 'order.cancelled' AND queue = '{name}'"
    until(lambda: stored(house, cancelled) == [(2,)], 60, "the end of the old queue")
    shown(house, name, {"entered": 1})
    assert tallies.wrong(looking_into(house)) == []
    assert sums(told(house, name)) == {"entered": 1}

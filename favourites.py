"""Favourites: the products a customer keeps an eye on, each once, and their stock as one topic.

A change is an event of its own, so that streams that follow the favourites of a customer,
in any process, learn which stock they follow from that number on.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

import customers
import events
import stock
from auth import FAVOURITES, is_favourites
from database import Database, Dialect, Row, Session
from errors import Invalid, NotFound
from events import Appended, Event
from instants import stamp
from schemas import make_cursor, read_cursor

MOST = 200  # of one customer


@dataclass(frozen=True, slots=True)
class Change:
    """What was committed, for the streams."""

    appended: Appended
    event: Event


KEEP = {
    dialect: "INSERT INTO favourites (id, customer, sku, created_at)"
    f" VALUES ($1, $2, $3, {dialect.clock}) ON CONFLICT DO NOTHING RETURNING created_at"
    for dialect in Dialect
}


def _key(customer: str, sku: str) -> str:
    return f"{customer} {sku}"


async def keep(db: Database, customer: str, sku: str) -> tuple[dict[str, Any], Change | None]:
    """Make a SKU a favourite, whether it is there or not; nothing happens where it is one.

    Raises:
        NotFound: no such customer.
        CustomerInactive: he was erased.
        Invalid: he has 200 of them.
    """
    async with db.transaction() as session:
        await customers.lock(session, customer)
        made = await session.fetch(KEEP[session.dialect], _key(customer, sku), customer, sku)
        if made:
            await _refuse_too_many(session, customer)
        change = await _log(session, customer, sku, kept=True) if made else None
        sql = "SELECT sku, created_at FROM favourites WHERE id = $1"
        shapes = await _shapes(session, await session.fetch(sql, _key(customer, sku)))
    return shapes[0], change


async def _refuse_too_many(session: Session, customer: str) -> None:
    sql = "SELECT count(*) AS n FROM favourites WHERE customer = $1"
    if (await session.fetch(sql, customer))[0]["n"] > MOST:
        sentence = f"at most {MOST} favourites"
        raise Invalid(sentence, errors=[{"detail": sentence, "parameter": "sku"}])


async def drop(db: Database, customer: str, sku: str) -> Change | None:
    """Make a SKU no favourite; nothing happens where it is none.

    Raises:
        NotFound: no such customer.
        CustomerInactive: he was erased.
    """
    async with db.transaction() as session:
        await customers.lock(session, customer)
        sql = "DELETE FROM favourites WHERE id = $1 RETURNING sku"
        if not await session.fetch(sql, _key(customer, sku)):
            return None
        return await _log(session, customer, sku, kept=False)


async def _log(session: Session, customer: str, sku: str, *, kept: bool) -> Change:
    data = to_json({"customer": customer, "sku": sku, "kept": kept}).decode()
    event = Event("favourites.changed", f"{FAVOURITES}:{customer}", data)
    taken = await events.take_one(session)
    await events.log_one(session, taken, str(uuid.uuid4()), event)
    return Change(taken, event)


# --- reading --------------------------------------------------------------------------


async def _shapes(session: Session, rows: Iterable[Row]) -> list[dict[str, Any]]:
    """`Favourite`s, with the stock that everybody may see."""
    found = [(row["sku"], row["created_at"]) for row in rows]
    levels = await stock.find(session, [sku for sku, _ in found])
    return [
        {
            "sku": sku,
            "stock": stock.stock_shape(levels[sku], staff=False) if sku in levels else None,
            "created_at": stamp(created),
        }
        for sku, created in found
    ]


async def page(
    db: Database, customer: str, cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """The favourites of a customer by SKU, and the cursor of the next page.

    Raises:
        NotFound: no such customer.
        BadCursor: the cursor is not of this list.
    """
    after = read_cursor(cursor, {FAVOURITES: customer}) or ""
    sql = (
        "SELECT f.sku, f.created_at FROM customers c LEFT JOIN favourites f"
        " ON f.customer = $1 AND f.sku > $2 WHERE c.id = $1 ORDER BY f.sku LIMIT $3"
    )
    async with db.read() as session:
        rows = await session.fetch(sql, customer, after, limit + 1)
        if not rows:
            raise NotFound(customers.UNKNOWN)
        found = await _shapes(session, [row for row in rows[:limit] if row["sku"] is not None])
    more = len(rows) > limit
    return found, make_cursor(found[-1]["sku"], {FAVOURITES: customer}) if more else None


async def skus(session: Session, customer: str) -> list[str]:
    """The favourites of a customer, in their order."""
    sql = "SELECT sku FROM favourites WHERE customer = $1 ORDER BY sku"
    return [row["sku"] for row in await session.fetch(sql, customer)]


async def topics(db: Database, followed: frozenset[str]) -> frozenset[str]:
    """`followed`, and for each customer's favourites in it the stock of those, as of now."""
    whose = [topic.partition(":")[2] for topic in followed if is_favourites(topic)]
    if not whose:
        return followed
    async with db.read() as session:
        found = [sku for customer in whose for sku in await skus(session, customer)]
    return followed | {f"stock:{sku}" for sku in found}

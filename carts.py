"""Carts: what a customer means to buy, kept here, so that it is there wherever he signs in.

A cart is named by its customer and is there before anything lies in it. Its row is the lock
of its lines: whoever changes a line, or buys them all, holds it. What a line costs, and
whether it can be bought, is for the catalogue and the stock to say, each time it is read.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import catalogue
import customers
from catalogue import Terms
from database import Database, Dialect, Row, Session, as_array
from errors import Invalid, NotFound, VersionMismatch
from instants import stamp, stamp_or_none
from schemas import MAX_CENTS

MOST = 100  # lines, as in a purchase

# --- in the hands of the writer -------------------------------------------------------


@dataclass(slots=True)
class Cart:
    """A cart whose lock a transaction of the writer holds."""

    customer: str
    version: int
    lines: list[tuple[str, int]]  # SKU and quantity, in the order of the cart
    bought: bool = False

    def buy(self) -> None:
        """Its lines are a purchase now, and lie in no cart."""
        self.lines = []
        self.version += 1
        self.bought = True


TAKE = {
    Dialect.POSTGRES: "SELECT customer, version FROM carts WHERE customer = ANY($1::text[])"
    " ORDER BY customer FOR UPDATE SKIP LOCKED",
    Dialect.SQLITE: "SELECT customer, version FROM carts"
    " WHERE customer IN (SELECT value FROM json_each($1))",
}
_AMONG = {
    Dialect.POSTGRES: "= ANY($1::text[])",
    Dialect.SQLITE: "IN (SELECT value FROM json_each($1))",
}
EXISTING = {d: f"SELECT customer FROM carts WHERE customer {_AMONG[d]}" for d in Dialect}
LINES = {
    d: f"SELECT customer, sku, quantity FROM cart_items WHERE customer {_AMONG[d]}"
    " ORDER BY customer, added_at, sku"
    for d in Dialect
}
OUT = {d: f"DELETE FROM cart_items WHERE customer {_AMONG[d]}" for d in Dialect}
RAISE = {
    d: f"UPDATE carts SET version = version + 1, updated_at = $2 WHERE customer {_AMONG[d]}"
    for d in Dialect
}


async def take(session: Session, named: Sequence[str]) -> tuple[dict[str, Cart], frozenset[str]]:
    """The carts of some customers, locked; and whose cart somebody else holds.

    It waits for nobody. Of whom there is no row, nothing was ever in a cart.
    """
    whose = as_array(session.dialect, named)
    rows = await session.fetch(TAKE[session.dialect], whose)
    found = {row["customer"]: Cart(row["customer"], row["version"], []) for row in rows}
    missing = [customer for customer in named if customer not in found]
    held: frozenset[str] = frozenset()
    if missing:
        others = as_array(session.dialect, missing)
        there = await session.fetch(EXISTING[session.dialect], others)
        held = frozenset(row["customer"] for row in there)
    # A statement of its own: it sees what those did who held the locks before.
    for row in await session.fetch(LINES[session.dialect], as_array(session.dialect, list(found))):
        found[row["customer"]].lines.append((row["sku"], row["quantity"]))
    return found, held


async def empty(session: Session, bought: Sequence[str], now: int) -> None:
    """Take the lines out of carts that were bought."""
    whose = as_array(session.dialect, bought)
    await session.execute(OUT[session.dialect], whose)
    await session.execute(RAISE[session.dialect], whose, now)


# --- reading --------------------------------------------------------------------------

READ = {
    dialect: f"SELECT {dialect.clock} AS now, c.version, c.updated_at, i.sku, i.quantity,"
    " p.name, p.price_cents, p.currency, p.available_from, p.max_per_order, p.active,"
    " s.on_hand - s.reserved AS available FROM (SELECT 1) AS one"
    " LEFT JOIN carts c ON c.customer = $1 LEFT JOIN cart_items i ON i.customer = c.customer"
    " LEFT JOIN products p ON p.sku = i.sku LEFT JOIN stock s ON s.sku = i.sku"
    " ORDER BY i.added_at, i.sku"
    for dialect in Dialect
}


async def get(db: Database, customer: str) -> dict[str, Any]:
    """A `Cart`, an empty one for whoever put nothing into it yet."""
    async with db.read() as session:
        return await _described(session, customer)


async def _described(session: Session, customer: str) -> dict[str, Any]:
    rows = await session.fetch(READ[session.dialect], customer)
    currency = next((row["currency"] for row in rows if row["active"]), None)
    lines = [_line(row, currency) for row in rows if row["sku"] is not None]
    version = rows[0]["version"] or 0
    counted = [line["amount_cents"] for line in lines if line["currency"] == currency]
    return {
        "items": lines,
        "total_cents": sum(amount for amount in counted if amount is not None),
        "currency": currency,
        "version": version,
        "updated_at": stamp(rows[0]["updated_at"]) if version else None,
    }


def _line(row: Row, currency: str | None) -> dict[str, Any]:
    """A line; what is gone has its name left, and nothing that could be bought."""
    sold = bool(row["active"])
    return {
        "sku": row["sku"],
        "name": row["name"],
        "quantity": row["quantity"],
        "price_cents": row["price_cents"] if sold else None,
        "amount_cents": row["price_cents"] * row["quantity"] if sold else None,
        "currency": row["currency"] if sold else None,
        "available": row["available"] if sold else None,
        "available_from": stamp_or_none(row["available_from"]) if sold else None,
        "max_per_order": row["max_per_order"] if sold else None,
        "problem": _problem(row, currency) if sold else "gone",
    }


def _problem(row: Row, currency: str | None) -> str | None:
    """Why a line cannot be bought now, if it cannot."""
    terms = _terms(row)
    if terms.currency != currency:
        return "other_currency"
    if not terms.on_sale(row["now"]):
        return "not_on_sale"
    if _too_many(terms, row["quantity"]) is not None:
        return "max_per_order"
    if row["available"] is not None and row["available"] < row["quantity"]:
        return "out_of_stock"
    return None


def _terms(row: Row) -> Terms:
    return Terms(
        row["price_cents"],
        row["currency"],
        row["available_from"],
        row["max_per_order"],
        bool(row["active"]),
    )


def _too_many(terms: Terms, quantity: int) -> str | None:
    """Why no purchase takes so many, whatever there is of it."""
    if terms.max_per_order is not None and quantity > terms.max_per_order:
        return f"at most {terms.max_per_order} an order"
    return "The line's total is too large." if quantity * terms.price_cents > MAX_CENTS else None


# --- changes --------------------------------------------------------------------------

OPEN = {
    dialect: f"INSERT INTO carts (customer, version, updated_at) VALUES ($1, 0, {dialect.clock})"
    " ON CONFLICT (customer) DO UPDATE SET version = carts.version RETURNING version"
    for dialect in Dialect
}
PUT = {
    dialect: "INSERT INTO cart_items (id, customer, sku, quantity, added_at)"
    f" VALUES ($1, $2, $3, $4, {dialect.clock}) ON CONFLICT (id) DO UPDATE"
    " SET quantity = excluded.quantity WHERE cart_items.quantity <> excluded.quantity"
    " RETURNING sku"
    for dialect in Dialect
}
TOUCH = {
    dialect: f"UPDATE carts SET version = version + 1, updated_at = {dialect.clock}"
    " WHERE customer = $1"
    for dialect in Dialect
}
CURRENCY = (
    "SELECT p.currency FROM cart_items i JOIN products p ON p.sku = i.sku"
    " WHERE i.customer = $1 AND p.active ORDER BY i.added_at, i.sku LIMIT 1"
)


def _key(customer: str, sku: str) -> str:
    return f"{customer} {sku}"


async def put(
    db: Database, customer: str, sku: str, quantity: int, if_match: int | None
) -> dict[str, Any]:
    """Have so many of a product in the cart; the cart. What is so already changes nothing.

    Raises:
        NotFound: no such product, as customers see it.
        Invalid: more than an order may have of it, a line too many, or another currency.
        VersionMismatch: `if_match` is not its version.
        CustomerInactive: he was erased.
    """
    async with db.transaction() as session:
        await _open(session, customer, if_match)
        await _refuse_unsaleable(session, customer, sku, quantity)
        line = (_key(customer, sku), customer, sku, quantity)
        if await session.fetch(PUT[session.dialect], *line):
            await _refuse_too_many(session, customer)
            await session.execute(TOUCH[session.dialect], customer)
        return await _described(session, customer)


async def drop(
    db: Database, customer: str, sku: str | None, if_match: int | None
) -> dict[str, Any]:
    """Take a line out of the cart (None: all of them); the cart. No line, no change.

    Raises:
        VersionMismatch: `if_match` is not its version.
        CustomerInactive: he was erased.
    """
    async with db.transaction() as session:
        await _open(session, customer, if_match)
        sql = "DELETE FROM cart_items WHERE customer = $1 RETURNING sku"
        named = [customer]
        if sku is not None:
            sql = "DELETE FROM cart_items WHERE id = $1 RETURNING sku"
            named = [_key(customer, sku)]
        if await session.fetch(sql, *named):
            await session.execute(TOUCH[session.dialect], customer)
        return await _described(session, customer)


async def _open(session: Session, customer: str, if_match: int | None) -> None:
    """Lock a cart until the transaction ends."""
    # Also against his being erased meanwhile. Whoever stands in no directory has a cart too.
    with contextlib.suppress(NotFound):
        await customers.lock(session, customer)
    version = (await session.fetch(OPEN[session.dialect], customer))[0]["version"]
    if if_match is not None and version != if_match:
        raise VersionMismatch


async def _refuse_unsaleable(session: Session, customer: str, sku: str, quantity: int) -> None:
    _, found = await catalogue.terms(session, [sku])
    terms = found.get(sku)
    if terms is None or not terms.active:
        raise NotFound(catalogue.UNKNOWN)
    if (reason := _too_many(terms, quantity)) is not None:
        raise Invalid.at(reason, pointer="#/quantity")
    first = await session.fetch(CURRENCY, customer)
    if first and first[0]["currency"] != terms.currency:
        raise _at_sku(f"in {terms.currency}, and the cart is in {first[0]['currency']}")


async def _refuse_too_many(session: Session, customer: str) -> None:
    sql = "SELECT count(*) AS n FROM cart_items WHERE customer = $1"
    if (await session.fetch(sql, customer))[0]["n"] > MOST:
        raise _at_sku(f"at most {MOST} lines in a cart")


def _at_sku(sentence: str) -> Invalid:
    return Invalid(sentence, errors=[{"detail": sentence, "parameter": "sku"}])

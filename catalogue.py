"""The catalogue: what is for sale, at which price, from when, how many at once."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import stock
from database import Database, Dialect, Row, Session, as_array, now
from errors import BelowReserved, Invalid, NotFound, ProductExists, VersionMismatch
from folding import folded
from instants import stamp, stamp_or_none
from schemas import MAX_BLOB, SKU, ProductIn, make_cursor, read_cursor
from stock import Level, stock_shape

# --- terms of sale --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What decides whether a product can be sold, and at which price."""

    price_cents: int
    currency: str
    available_from: int | None
    max_per_order: int | None
    active: bool

    def on_sale(self, now: int) -> bool:
        return self.active and (self.available_from is None or self.available_from <= now)

    def why_not(self, now: int) -> str:
        if not self.active or self.available_from is None:
            return "not on sale"
        return f"on sale from {stamp(self.available_from)}"


TERMS = {
    dialect: f"SELECT {dialect.clock} AS now, p.sku, p.price_cents, p.currency,"
    " p.available_from, p.max_per_order, p.active FROM (SELECT 1) AS one"
    f" LEFT JOIN products p ON p.sku {wanted}"
    for dialect, wanted in (
        (Dialect.POSTGRES, "= ANY($1::text[])"),
        (Dialect.SQLITE, "IN (SELECT value FROM json_each($1))"),
    )
}


NAMES = {
    Dialect.POSTGRES: "SELECT sku, name FROM products WHERE sku = ANY($1::text[])",
    Dialect.SQLITE: "SELECT sku, name FROM products WHERE sku IN (SELECT value FROM json_each($1))",
}


async def terms(session: Session, skus: Sequence[str]) -> tuple[int, dict[str, Terms]]:
    """The database's clock, and the terms of those SKUs that are products, of one instant."""
    rows = await session.fetch(TERMS[session.dialect], as_array(session.dialect, skus))
    found = {
        row["sku"]: Terms(
            row["price_cents"],
            row["currency"],
            row["available_from"],
            row["max_per_order"],
            bool(row["active"]),
        )
        for row in rows
        if row["sku"] is not None
    }
    return int(rows[0]["now"]), found


async def names(session: Session, skus: Sequence[str]) -> dict[str, str]:
    """What those SKUs are called that are products, for sale or not."""
    rows = await session.fetch(NAMES[session.dialect], as_array(session.dialect, skus))
    return {row["sku"]: row["name"] for row in rows}


# --- a product ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Product:
    """A copy of a row of `products`, without the columns that are made from it."""

    sku: str
    name: str
    price_cents: int
    currency: str
    attributes: str  # JSON object, its keys sorted: the same attributes are the same text
    available_from: int | None
    max_per_order: int | None
    active: bool
    version: int
    created_at: int
    updated_at: int


COLUMNS = [field.name for field in fields(Product)]
MADE = ["artist", "genre", "release_year", "words"]  # of the attributes and the name
MAX_MARK = 200  # characters of an artist or genre that can be filtered by
MAX_YEAR = 9_999


def _mark(value: Any) -> str | None:
    mark = folded(value) if isinstance(value, str) else ""
    return mark if 0 < len(mark) <= MAX_MARK else None


def _year(value: Any) -> int | None:
    """A year that can be filtered by; JSON's true is an int in Python."""
    return value if type(value) is int and 0 <= value <= MAX_YEAR else None


def _as_text(attributes: Mapping[str, Any]) -> str:
    return json.dumps(attributes, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _new(given: ProductIn, at: int) -> Product:
    values = {name: getattr(given, name) for name in ProductIn.model_fields}
    values["attributes"] = _as_text(given.attributes)
    return Product(**values, version=1, created_at=at, updated_at=at)


def _changed(product: Product, changes: Mapping[str, Any]) -> Product:
    """The product with some fields as they are now; a null name or price says nothing."""
    values: dict[str, Any] = {
        name: value
        for name, value in changes.items()
        if value is not None or name not in ("name", "price_cents")
    }
    if "attributes" in values:
        values["attributes"] = _as_text(values["attributes"])
    return replace(product, **values)


def _values(product: Product) -> list[Any]:
    """The values of a row: the product's own, then what is made to search by."""
    attributes = json.loads(product.attributes)
    artist = attributes.get("artist")
    words = [product.name, artist] if isinstance(artist, str) else [product.name]
    return [
        *(getattr(product, name) for name in COLUMNS),
        _mark(artist),
        _mark(attributes.get("genre")),
        _year(attributes.get("release_year")),
        "\n".join(map(folded, words)),
    ]


# --- writing --------------------------------------------------------------------------

INSERT = (
    f"INSERT INTO products ({', '.join([*COLUMNS, *MADE])})"
    f" VALUES ({', '.join(f'${n}' for n in range(1, len(COLUMNS + MADE) + 1))}) ON CONFLICT"
)
CREATE = f"{INSERT} DO NOTHING RETURNING sku"
KEPT = ("sku", "version", "created_at")
TAKEN = ", ".join(f"{name} = excluded.{name}" for name in [*COLUMNS, *MADE] if name not in KEPT)
PUT = f"{INSERT} (sku) DO UPDATE SET {TAKEN}, version = products.version + 1"
LOCK = {
    Dialect.POSTGRES: f"SELECT {', '.join(COLUMNS)} FROM products WHERE sku = ANY($1::text[])"
    " ORDER BY sku FOR UPDATE",
    Dialect.SQLITE: f"SELECT {', '.join(COLUMNS)} FROM products"
    " WHERE sku IN (SELECT value FROM json_each($1))",
}
UNKNOWN = "There is no such product."


async def create(database: Database, given: ProductIn) -> dict[str, Any]:
    """A new product.

    Raises:
        ProductExists: there is one of that SKU, perhaps an inactive one.
    """
    async with database.transaction() as session:
        made = _new(given, await now(session))
        if not await session.fetch(CREATE, *_values(made)):
            raise ProductExists(f"There is a product '{given.sku}'.")
        return await _described(session, given.sku, staff=True)


async def update(
    database: Database, sku: str, changes: Mapping[str, Any], if_match: int | None
) -> dict[str, Any]:
    """Change a product.

    Raises:
        NotFound: no such product.
        VersionMismatch: `if_match` is not its version.
        BelowReserved: it shall not be active any more, and some of it is reserved.
    """
    async with database.transaction() as session:
        await _change(session, sku, changes, if_match)
        return await _described(session, sku, staff=True)


async def delete(database: Database, sku: str, if_match: int | None) -> None:
    """Take a product off sale; it stays, inactive.

    Raises:
        NotFound, VersionMismatch, BelowReserved: as `update`.
    """
    async with database.transaction() as session:
        await _change(session, sku, {"active": False}, if_match)


async def _change(
    session: Session, sku: str, changes: Mapping[str, Any], if_match: int | None
) -> None:
    levels: dict[str, Level] = {}
    if changes.get("active") is False:
        # A purchase locks the stock first and reads the terms after it: either it has
        # reserved before this lock was given, or it finds the product inactive.
        levels = await stock.lock(session, [sku])
    before = (await _lock(session, [sku])).get(sku)
    if before is None:
        raise NotFound(UNKNOWN)
    if if_match is not None and before.version != if_match:
        raise VersionMismatch
    after = _changed(before, changes)
    if before.active and not after.active and sku in levels and levels[sku].reserved:
        raise BelowReserved(f"{levels[sku].reserved} of it are reserved.")
    if after != before:
        await session.execute(PUT, *_values(replace(after, updated_at=await now(session))))


async def _lock(session: Session, skus: Sequence[str]) -> dict[str, Product]:
    """Copies of the rows of some SKUs, locked in their order."""
    rows = await session.fetch(LOCK[session.dialect], as_array(session.dialect, skus))
    return {row["sku"]: Product(*(row[name] for name in COLUMNS)) for row in rows}


async def merge(database: Database, given: Sequence[ProductIn]) -> tuple[int, int]:
    """Take over a price list, all of it or nothing; how many were new, and how many changed.

    Of a product that is there it changes name, price, currency and the attributes it names;
    all else stays.

    Raises:
        Invalid: the attributes of one would be too large.
    """
    ordered = sorted(given, key=lambda one: one.sku)
    async with database.transaction() as session:
        known = await _lock(session, [one.sku for one in ordered])
        at = await now(session)
        wanted = [_merged(known.get(one.sku), one, at) for one in ordered]
        written = [one for one in wanted if one != known.get(one.sku)]
        touched = [_values(replace(one, updated_at=at)) for one in written]
        await session.executemany(PUT, touched)
    new = sum(one.sku not in known for one in written)
    return new, len(written) - new


def _merged(known: Product | None, given: ProductIn, at: int) -> Product:
    if known is None:
        return _new(given, at)
    attributes = _as_text({**json.loads(known.attributes), **given.attributes})
    if len(attributes.encode()) > MAX_BLOB:
        raise Invalid(f"{given.sku}: its attributes would be larger than 16 KiB")
    return replace(
        known,
        name=given.name,
        price_cents=given.price_cents,
        currency=given.currency,
        attributes=attributes,
    )


# --- reading --------------------------------------------------------------------------

READ = (
    f"SELECT {', '.join(f'p.{name}' for name in COLUMNS)},"
    f" {', '.join(f's.{field.name} AS stock_{field.name}' for field in fields(Level))}"
    " FROM products p LEFT JOIN stock s ON s.sku = p.sku WHERE"
)
SHOWN = " AND p.active"
# No LIKE: what is searched for may have its wildcards.
CONTAINS = {Dialect.POSTGRES: "strpos", Dialect.SQLITE: "instr"}
CONDITIONS = {
    "q": "{contains}(p.words, {value}) > 0",
    "artist": "p.artist = {value}",
    "genre": "p.genre = {value}",
    "year_min": "p.release_year >= {value}",
    "year_max": "p.release_year <= {value}",
    "price_min": "p.price_cents >= {value}",
    "price_max": "p.price_cents <= {value}",
    "in_stock": "(s.sku IS NULL OR s.on_hand > s.reserved) = {value}",
}
SKU_SHAPE = re.compile(SKU)

# All that is sold or counted: products with their stock, and stock that has no product.
_LEVEL = ", ".join(f"s.{field.name} AS stock_{field.name}" for field in fields(Level))


@dataclass(frozen=True, slots=True)
class Source:
    """Where a part of the list comes from: its SQL, its key, and what a search looks at."""

    sql: str
    key: str
    found: str


SOLD = Source(
    f"SELECT p.sku, p.name, p.price_cents, p.currency, p.active, {_LEVEL}"
    " FROM products p LEFT JOIN stock s ON s.sku = p.sku WHERE p.sku > $1",
    "p.sku",
    "{contains}(p.words, {value}) > 0 OR {contains}(lower(p.sku), {value}) > 0",
)
# No join: PostgreSQL would take one that reads all products for the few of a page.
UNSOLD = Source(
    "SELECT s.sku, NULL AS name, NULL AS price_cents, NULL AS currency, NULL AS active,"
    f" {_LEVEL} FROM stock s WHERE s.sku > $1"
    " AND (SELECT 1 FROM products p WHERE p.sku = s.sku) IS NULL",
    "s.sku",
    "{contains}(lower(s.sku), {value}) > 0",
)
STATES = {
    "in_stock": "s.on_hand > s.reserved AND (s.on_hand - s.reserved <= s.low_at) IS NOT TRUE",
    "low": "s.on_hand > s.reserved AND s.on_hand - s.reserved <= s.low_at",
    "out": "s.on_hand = s.reserved",
    "uncounted": "s.sku IS NULL",
}


def _shape(row: Row, *, staff: bool) -> dict[str, Any]:
    """A `Product`."""
    return {
        "sku": row["sku"],
        "name": row["name"],
        "price_cents": row["price_cents"],
        "currency": row["currency"],
        "attributes": json.loads(row["attributes"]),
        "available_from": stamp_or_none(row["available_from"]),
        "max_per_order": row["max_per_order"],
        "active": bool(row["active"]),
        "stock": _stock_of(row, staff=staff),
        "version": row["version"],
        "created_at": stamp(row["created_at"]),
        "updated_at": stamp(row["updated_at"]),
    }


def _stock_of(row: Row, *, staff: bool) -> dict[str, Any] | None:
    """A `Stock`; None while it is not counted."""
    if row["stock_sku"] is None:
        return None
    return stock_shape(Level(*(row[f"stock_{field.name}"] for field in fields(Level))), staff=staff)


async def _described(session: Session, sku: str, *, staff: bool) -> dict[str, Any]:
    rows = await session.fetch(f"{READ} p.sku = $1{'' if staff else SHOWN}", sku)
    if not rows:
        raise NotFound(UNKNOWN)
    return _shape(rows[0], staff=staff)


async def get(database: Database, sku: str, *, staff: bool) -> dict[str, Any]:
    """A product; `staff`: also an inactive one, and with all that is known of its stock.

    Raises:
        NotFound: no such product.
    """
    async with database.read() as session:
        return await _described(session, sku, staff=staff)


async def known(database: Database, sku: str) -> tuple[bool, bool]:
    """Whether there is such a product, active or not, and whether it is counted."""
    async with database.read() as session:
        rows = await session.fetch(
            "SELECT EXISTS (SELECT 1 FROM products WHERE sku = $1) AS sold,"
            " EXISTS (SELECT 1 FROM stock WHERE sku = $1) AS counted",
            sku,
        )
    return bool(rows[0]["sold"]), bool(rows[0]["counted"])


async def refuse_hidden(database: Database, sku: str) -> None:
    """
    Raises:
        NotFound: there is such a product, but it is inactive: customers do not see its stock.
    """
    async with database.read() as session:
        rows = await session.fetch("SELECT active FROM products WHERE sku = $1", sku)
    if rows and not rows[0]["active"]:
        raise NotFound(stock.UNKNOWN)


# From one genre to the next by the index: it costs what there are of them, not of products.
GENRES = """
WITH RECURSIVE steps (genre) AS (
    SELECT min(genre) FROM products WHERE genre IS NOT NULL
    UNION ALL
    SELECT (SELECT min(p.genre) FROM products p WHERE p.genre IS NOT NULL AND p.genre > steps.genre)
    FROM steps WHERE steps.genre IS NOT NULL
)
SELECT p.attributes FROM steps s JOIN products p ON p.sku = (
    SELECT min(one.sku) FROM products one
    WHERE one.genre IS NOT NULL AND one.genre = s.genre AND one.active
) LIMIT $1"""


async def genres(session: Session, limit: int) -> list[str]:
    """The genres of what is for sale, as they are written, in their order."""
    rows = await session.fetch(GENRES, limit)
    return sorted((json.loads(row["attributes"])["genre"] for row in rows), key=folded)


async def page(
    database: Database,
    filters: Mapping[str, Any],
    cursor: str | None,
    limit: int,
    *,
    staff: bool,
) -> tuple[list[dict[str, Any]], str | None]:
    """Products by SKU, and the cursor of the next page. `filters`: see `CONDITIONS`.

    Raises:
        BadCursor: the cursor is not of this list.
    """
    bound = {"list": "products", **filters}
    arguments: list[Any] = [read_cursor(cursor, bound, SKU_SHAPE) or ""]
    async with database.read() as session:
        where = f"{READ} p.sku > $1{'' if staff else SHOWN}"
        for name, value in filters.items():
            arguments.append(folded(value) if isinstance(value, str) else value)
            place = {"contains": CONTAINS[session.dialect], "value": f"${len(arguments)}"}
            where += f" AND {CONDITIONS[name].format(**place)}"
        rows = await session.fetch(f"{where} ORDER BY p.sku LIMIT {limit + 1}", *arguments)
    shapes = [_shape(row, staff=staff) for row in rows[:limit]]
    return shapes, make_cursor(shapes[-1]["sku"], bound) if len(rows) > limit else None


async def items(
    database: Database, q: str | None, state: str | None, cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """All that is sold or counted, by SKU, for staff; and the cursor of the next page.

    `q`: a part of the SKU, the name or the artist. `state`: a key of `STATES`.

    Raises:
        BadCursor: the cursor is not of this list.
    """
    bound = {"list": "stock", "q": q, "state": state}
    after = read_cursor(cursor, bound, SKU_SHAPE) or ""
    async with database.snapshot() as session:
        rows = await _items(session, SOLD, after, None, q, state, limit + 1)
        # Beyond the last product of a full page no other can be on it.
        last = rows[-1]["sku"] if len(rows) > limit else None
        rows += await _items(session, UNSOLD, after, last, q, state, limit + 1)
    found = [_item(row) for row in sorted(rows, key=lambda row: row["sku"])]
    more = len(found) > limit
    return found[:limit], make_cursor(found[limit - 1]["sku"], bound) if more else None


async def _items(
    session: Session,
    source: Source,
    after: str,
    last: str | None,
    q: str | None,
    state: str | None,
    limit: int,
) -> list[Row]:
    where, arguments = source.sql, [after]
    if last is not None:
        arguments.append(last)
        where += f" AND {source.key} <= $2"
    if q is not None:
        arguments.append(folded(q))
        place = {"contains": CONTAINS[session.dialect], "value": f"${len(arguments)}"}
        where += f" AND ({source.found.format(**place)})"
    if state is not None:
        where += f" AND {STATES[state]}"
    return list(await session.fetch(f"{where} ORDER BY {source.key} LIMIT {limit}", *arguments))


def _item(row: Row) -> dict[str, Any]:
    """A `StockItem`."""
    active = row["active"]
    return {
        "sku": row["sku"],
        "name": row["name"],
        "price_cents": row["price_cents"],
        "currency": row["currency"],
        "active": None if active is None else bool(active),
        "stock": _stock_of(row, staff=True),
    }

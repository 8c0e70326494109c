"""Stock: how many of a SKU there are, how many are promised, and the ledger of it.

A `Shelf` is the stock that one transaction works on: copies of the rows it locked. Its
verbs decide without I/O, each for all lines or none: reserve, release, commit, receive,
adjust. What they decided is written once per SKU, with one `stock.changed` for it and,
where an edge was crossed, `stock.low`, `stock.depleted` or `stock.replenished`.

    receive, adjust ──▶ on_hand          available = on_hand - reserved
    reserve ──▶ reserved ──▶ release     what was not sold after all
                         └─▶ commit      sold: leaves on_hand too
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic_core import to_json

from database import Database, Dialect, Row, Session, as_array
from errors import BelowReserved, Invalid, NotFound, OutOfStock, VersionMismatch
from events import Event
from instants import stamp
from schemas import NUMBER, make_cursor, read_cursor

MAX_ON_HAND = 10**12
MAX_NUMBER = 2**63 - 1  # of a movement
UNKNOWN = "There is no stock of this product."


@dataclass(slots=True)
class Level:
    """A copy of a row of `stock`, in the order of its columns."""

    sku: str
    on_hand: int
    reserved: int
    low_at: int | None
    version: int
    moved: int
    created_at: int
    updated_at: int

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved

    @property
    def state(self) -> str:
        if self.available == 0:
            return "out"
        low = self.low_at is not None and self.available <= self.low_at
        return "low" if low else "in_stock"


@dataclass(slots=True)
class Movement:
    """A line of the ledger, in the order of its columns."""

    id: str
    sku: str
    number: int
    kind: str
    change: int
    on_hand: int
    reserved: int
    low_at: int | None
    version: int
    reason: str | None
    reference: str | None
    message: str | None
    actor: str | None
    created_at: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Why a movement is made; `id` becomes the movement's."""

    id: str
    actor: str | None = None
    reason: str | None = None
    reference: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class KnownMovement:
    """An idempotency key of an earlier receive, and the levels that it answered."""

    fingerprint: str
    level: Level


@dataclass(frozen=True, slots=True)
class _Found:
    """What a level was before this transaction."""

    available: int
    state: str


# --- decisions ------------------------------------------------------------------------


@dataclass(slots=True)
class Shelf:
    """The stock of one transaction. A SKU is counted from its first receive on."""

    now: int = 0
    levels: dict[str, Level] = field(default_factory=dict)
    movements: list[Movement] = field(default_factory=list)
    _found: dict[str, _Found] = field(default_factory=dict)  # SKUs that were touched
    _reasons: dict[str, str] = field(default_factory=dict)  # the last one each

    def reserve(self, lines: Sequence[tuple[str, int]]) -> dict[str, int]:
        """Promise the counted ones among some lines (SKU, quantity); what is held now.

        Raises:
            OutOfStock: there is not enough of one of them; nothing is held then.
        """
        wanted: dict[str, int] = {}
        for sku, quantity in lines:
            if self._counted(sku):
                wanted[sku] = wanted.get(sku, 0) + quantity
        short = [sku for sku, n in wanted.items() if n > self.levels[sku].available]
        if short:
            raise self._out_of_stock(lines, {sku: wanted[sku] for sku in short})
        for sku, n in wanted.items():
            self._touch(sku, "reserved").reserved += n
        return wanted

    def release(self, held: Mapping[str, int]) -> None:
        """Take promises back: what was held for a purchase that will not be."""
        for sku, n in held.items():
            self._touch(sku, "released").reserved -= n

    def commit(self, held: Mapping[str, int], origins: Mapping[str, Origin]) -> None:
        """Let go what was sold; one origin for each SKU."""
        for sku, n in held.items():
            level = self._touch(sku, "committed")
            level.reserved -= n
            self._move(level, "committed", -n, origins[sku])

    def receive(self, sku: str, quantity: int, origin: Origin) -> Level:
        """More of it has come.

        Raises:
            Invalid: more than can be counted.
        """
        if self.levels[sku].on_hand + quantity > MAX_ON_HAND:
            raise Invalid.at(f"at most {MAX_ON_HAND} on hand", pointer="#/quantity")
        level = self._touch(sku, "received")
        self._move(level, "received", quantity, origin)
        return level

    def adjust(self, sku: str, on_hand: int, expected: int, origin: Origin) -> Level:
        """Compare and set: what was counted is now true.

        Raises:
            NotFound: it is not counted.
            VersionMismatch: it is not `expected` any more.
            BelowReserved: more is promised than that.
        """
        level = self.level(sku)
        if level.on_hand != expected:
            raise VersionMismatch(f"{level.on_hand} on hand, not {expected}.")
        if on_hand < level.reserved:
            raise BelowReserved(f"{level.reserved} of it are reserved.")
        if on_hand != expected:
            self._touch(sku, "adjusted")
            self._move(level, "adjusted", on_hand - expected, origin)
        return level

    def set_low(self, sku: str, low_at: int | None) -> Level:
        """From where on it is low; None: never.

        Raises:
            NotFound: it is not counted.
        """
        level = self.level(sku)
        if level.low_at != low_at:
            self._touch(sku, "adjusted").low_at = low_at
        return level

    def level(self, sku: str) -> Level:
        """
        Raises:
            NotFound: it is not counted.
        """
        if not self._counted(sku):
            raise NotFound(UNKNOWN)
        return self.levels[sku]

    @property
    def changed(self) -> list[Level]:
        """The levels that were touched, by SKU."""
        return [self.levels[sku] for sku in sorted(self._found)]

    def events(self) -> list[Event]:
        """One `stock.changed` for each SKU that was touched, and the edges it crossed."""
        found: list[Event] = []
        for level in self.changed:
            before, reason = self._found[level.sku], self._reasons[level.sku]
            found.append(_event("changed", level, before, reason))
            if (edge := _edge(before, level)) is not None:
                found.append(_event(edge, level, before, reason))
        return found

    def _counted(self, sku: str) -> bool:
        # Version 0: its row was opened for a receive that comes later in this transaction.
        level = self.levels.get(sku)
        return level is not None and level.version > 0

    def _touch(self, sku: str, reason: str) -> Level:
        level = self.levels[sku]
        if sku not in self._found:
            self._found[sku] = _Found(level.available, level.state)
            level.version += 1
            level.updated_at = self.now
        self._reasons[sku] = reason
        return level

    def _move(self, level: Level, kind: str, change: int, origin: Origin) -> None:
        level.on_hand += change
        level.moved += 1
        self.movements.append(
            Movement(
                id=origin.id,
                sku=level.sku,
                number=level.moved,
                kind=kind,
                change=change,
                on_hand=level.on_hand,
                reserved=level.reserved,
                low_at=level.low_at,
                version=level.version,
                reason=origin.reason,
                reference=origin.reference,
                message=origin.message,
                actor=origin.actor,
                created_at=self.now,
            )
        )

    def _out_of_stock(
        self, lines: Sequence[tuple[str, int]], short: Mapping[str, int]
    ) -> OutOfStock:
        skus = [sku for sku, _ in lines]
        faults = []
        for sku, n in short.items():
            left = self.levels[sku].available
            said = {"detail": f"{n} wanted, {left} left", "requested": n, "available": left}
            faults.append({"pointer": f"#/items/{skus.index(sku)}", "sku": sku, **said})
        return OutOfStock(f"{faults[0]['sku']}: {faults[0]['detail']}", errors=faults)


def _edge(before: _Found, level: Level) -> str | None:
    """Which edge lies between two states; the alarms are for whoever refills the shelf."""
    if before.state != "out" and level.state == "out":
        return "depleted"
    if before.state == "out" and level.state != "out":
        return "replenished"
    return "low" if before.state == "in_stock" and level.state == "low" else None


def _event(kind: str, level: Level, before: _Found, reason: str) -> Event:
    data = {
        "sku": level.sku,
        "available": level.available,
        "previous_available": before.available,
        "state": level.state,
        "reason": reason,
        "version": level.version,
    }
    return Event(f"stock.{kind}", f"stock:{level.sku}", to_json(data).decode())


# --- the writer's statements ----------------------------------------------------------

LEVEL = ", ".join(f.name for f in fields(Level))
MOVEMENT = ", ".join(f.name for f in fields(Movement))

OPEN = {
    Dialect.POSTGRES: "INSERT INTO stock SELECT sku, 0, 0, NULL, 0, 0, $2, $2"
    " FROM unnest($1::text[]) AS u (sku) ON CONFLICT DO NOTHING",
    Dialect.SQLITE: "INSERT INTO stock SELECT value, 0, 0, NULL, 0, 0, $2, $2"
    " FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
}
LOCK = {
    Dialect.POSTGRES: f"SELECT {LEVEL} FROM stock WHERE sku = ANY($1::text[])"
    " ORDER BY sku FOR UPDATE",
    Dialect.SQLITE: f"SELECT {LEVEL} FROM stock WHERE sku IN (SELECT value FROM json_each($1))",
}
UPDATE = {
    Dialect.POSTGRES: "UPDATE stock s SET on_hand = u.on_hand, reserved = u.reserved,"
    " low_at = u.low_at, version = u.version, moved = u.moved, updated_at = u.updated_at"
    " FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],"
    " $6::bigint[], $7::text[]) AS u (on_hand, reserved, low_at, version, moved, updated_at, sku)"
    " WHERE s.sku = u.sku",
    Dialect.SQLITE: "UPDATE stock SET on_hand = ?, reserved = ?, low_at = ?, version = ?,"
    " moved = ?, updated_at = ? WHERE sku = ?",
}
MOVE = {
    Dialect.POSTGRES: f"INSERT INTO stock_movements ({MOVEMENT}) SELECT * FROM"
    " unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[],"
    " $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::uuid[],"
    " $13::text[], $14::bigint[])",
    Dialect.SQLITE: f"INSERT INTO stock_movements ({MOVEMENT})"
    f" VALUES ({', '.join('?' * len(fields(Movement)))})",
}
KNOWN = {
    dialect: f"SELECT k.id AS key_id, k.fingerprint, {LEVEL}"
    " FROM (SELECT id, sku, on_hand, reserved, low_at, version, number AS moved,"
    " created_at, created_at AS updated_at FROM stock_movements) AS m"
    f" JOIN keys k ON k.message = m.id WHERE k.id {wanted}"
    for dialect, wanted in (
        (Dialect.POSTGRES, "= ANY($1::text[])"),
        (Dialect.SQLITE, "IN (SELECT value FROM json_each($1))"),
    )
}


def _level(row: Row) -> Level:
    return Level(*(row[f.name] for f in fields(Level)))


async def open_levels(session: Session, skus: Sequence[str], now: int) -> None:
    """Rows for SKUs that are received for the first time; `skus` sorted, like all locks."""
    await session.execute(OPEN[session.dialect], as_array(session.dialect, skus), now)


async def lock(session: Session, skus: Sequence[str]) -> dict[str, Level]:
    """Copies of the rows of some SKUs, locked in their order; no row, no entry."""
    rows = await session.fetch(LOCK[session.dialect], as_array(session.dialect, skus))
    return {row["sku"]: _level(row) for row in rows}


async def write(session: Session, shelf: Shelf) -> None:
    """Write what was decided: each row once, then the ledger."""
    levels = [
        (one.on_hand, one.reserved, one.low_at, one.version, one.moved, one.updated_at, one.sku)
        for one in shelf.changed
    ]
    lines = [tuple(getattr(one, f.name) for f in fields(Movement)) for one in shelf.movements]
    for sql, rows in ((UPDATE, levels), (MOVE, lines)):
        if not rows:
            continue
        if session.dialect is Dialect.SQLITE:
            await session.executemany(sql[session.dialect], rows)
        else:
            await session.execute(sql[session.dialect], *map(list, zip(*rows, strict=True)))


async def known_movements(session: Session, keys: Sequence[str]) -> dict[str, KnownMovement]:
    """What earlier transactions received under keys that are there."""
    rows = await session.fetch(KNOWN[session.dialect], as_array(session.dialect, keys))
    return {row["key_id"]: KnownMovement(row["fingerprint"], _level(row)) for row in rows}


# --- reading --------------------------------------------------------------------------


def stock_shape(level: Level, *, staff: bool) -> dict[str, Any]:
    """A `Stock`; customers and the public see what they may buy and no more."""
    return {
        "sku": level.sku,
        "on_hand": level.on_hand if staff else None,
        "reserved": level.reserved if staff else None,
        "available": level.available,
        "low_at": level.low_at if staff else None,
        "version": level.version,
        "updated_at": stamp(level.updated_at),
    }


async def find(session: Session, skus: Sequence[str]) -> dict[str, Level]:
    """The levels of those of some SKUs that are counted, as of now."""
    dialect = session.dialect
    wanted = "= ANY($1::text[])"
    if dialect is Dialect.SQLITE:
        wanted = "IN (SELECT value FROM json_each($1))"
    sql = f"SELECT {LEVEL} FROM stock WHERE sku {wanted}"
    return {row["sku"]: _level(row) for row in await session.fetch(sql, as_array(dialect, skus))}


async def first(session: Session, limit: int) -> list[Level]:
    """The first levels by SKU."""
    rows = await session.fetch(f"SELECT {LEVEL} FROM stock ORDER BY sku LIMIT $1", limit)
    return [_level(row) for row in rows]


async def get(database: Database, sku: str) -> Level:
    """
    Raises:
        NotFound: it is not counted.
    """
    async with database.read() as session:
        found = await find(session, [sku])
    if sku not in found:
        raise NotFound(UNKNOWN)
    return found[sku]


def _movement_shape(row: Row) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "sku": row["sku"],
        "number": row["number"],
        "kind": row["kind"],
        "change": row["change"],
        "on_hand": row["on_hand"],
        "reason": row["reason"],
        "reference": row["reference"],
        "order": None if row["message"] is None else str(row["message"]),
        "actor": row["actor"],
        "time": stamp(row["created_at"]),
    }


async def movements(
    database: Database, sku: str, cursor: str | None, limit: int, *, newest: bool = False
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of the ledger of a SKU, oldest first or newest first, and the cursor of the next.

    Raises:
        NotFound: it is not counted.
        BadCursor: the cursor is not of this list.
    """
    bound = {"ledger": sku, "sort": "newest"} if newest else {"ledger": sku}
    start = int(read_cursor(cursor, bound, NUMBER) or (MAX_NUMBER if newest else 0))
    beyond, order = ("<", "DESC") if newest else (">", "ASC")
    await get(database, sku)
    async with database.read() as session:
        rows = await session.fetch(
            f"SELECT {MOVEMENT} FROM stock_movements WHERE sku = $1 AND number {beyond} $2"
            f" ORDER BY number {order} LIMIT $3",
            sku,
            start,
            limit + 1,
        )
    more = len(rows) > limit
    last = make_cursor(str(rows[limit - 1]["number"]), bound) if more else None
    return [_movement_shape(row) for row in rows[:limit]], last

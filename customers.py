"""The directory of customers: the one place of personal data. Everything else holds an id.

Nobody is ever deleted: a customer is deactivated, activated again, or erased, which leaves
his bare id, so that orders keep their owner. His row is locked before the stream's.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

import database
from database import Database, Dialect, Failure, Row, Session, as_array, classify
from errors import CustomerExists, CustomerInactive, NotFound, VersionMismatch
from folding import folded
from instants import stamp
from schemas import make_cursor, read_cursor

UNKNOWN = "There is no such customer."
ERASED = "This customer was erased, for good."
NAMED = 20  # customers that a text may mean at once
PLACE = re.compile(r"[0-9]{1,18}:[!-~]{1,64}")  # in the list: created_at and id

# --- rows -----------------------------------------------------------------------------

FIELDS = ("nickname", "name", "email", "birth_date", "tags")
COLUMNS = f"id, {', '.join(FIELDS)}, active, version, created_at, updated_at, erased_at"


def customer_shape(row: Mapping[str, Any]) -> dict[str, Any]:
    """A `Customer`."""
    return {
        "id": row["id"],
        **{name: row[name] for name in FIELDS},
        "tags": json.loads(row["tags"]),
        "active": bool(row["active"]),
        "erased": row["erased_at"] is not None,
        "version": row["version"],
        "created_at": stamp(row["created_at"]),
        "updated_at": stamp(row["updated_at"]),
    }


def _stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they stand in a row."""
    tags = {"tags": to_json(values["tags"]).decode()} if "tags" in values else {}
    return {**values, **tags}


def _words(row: Mapping[str, Any]) -> str:
    """What is searched. A line for each text, so that no find begins in one and ends in another."""
    texts = (row["nickname"], row["name"], *json.loads(row["tags"]))
    return folded("\n".join(text for text in texts if text))


# --- a new one ------------------------------------------------------------------------

# It may be a transaction of its own, with nobody before it to say what it needs.
LASTING = "set_config('synchronous_commit', 'on', true), set_config('lock_timeout', '4s', true)"
# Each backend counts in a row of its own, or all that are new would wait for each other.
_SHARD = {Dialect.POSTGRES: "pg_backend_pid() % 64", Dialect.SQLITE: "0"}
_INSERT = f"INSERT INTO customers ({COLUMNS}, words)"
_VALUES = "$1, $2, $3, $4, $5, $6, {true}, 1, {now}, {now}, NULL, $7"
CREATE = {
    Dialect.POSTGRES: f"""
WITH made AS (
    {_INSERT} SELECT {_VALUES.format(true="TRUE", now="once.now")}
    FROM (SELECT {Dialect.POSTGRES.clock} AS now, {LASTING}) AS once
    ON CONFLICT DO NOTHING RETURNING {COLUMNS}
), counted AS (
    UPDATE customer_counts SET active = active + 1
    WHERE shard = {_SHARD[Dialect.POSTGRES]} AND EXISTS (SELECT 1 FROM made)
)
SELECT * FROM made""",
    Dialect.SQLITE: f"{_INSERT} VALUES ({_VALUES.format(true='1', now=Dialect.SQLITE.clock)})"
    f" ON CONFLICT DO NOTHING RETURNING {COLUMNS}",
}
COUNT = {
    dialect: "UPDATE customer_counts SET active = active + $1, inactive = inactive + $2"
    f" WHERE shard = {_SHARD[dialect]}"
    for dialect in Dialect
}


async def create(session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
    """A new customer with an id that nobody could have chosen.

    Raises:
        CustomerExists: the nickname or the e-mail address belongs to another one.
    """
    row = dict.fromkeys(FIELDS) | {"tags": "[]"} | _stored(values)
    fresh = f"c-{secrets.token_hex(10)}"
    given = [row[name] for name in FIELDS]
    # A conflict is no error here: PostgreSQL would write the address into its log.
    made = await session.fetch(CREATE[session.dialect], fresh, *given, _words(row))
    if not made:
        raise await _taken(session, fresh, row)
    if session.dialect is Dialect.SQLITE:
        await _count(session, active=1)
    return customer_shape(made[0])


async def add(db: Database, values: Mapping[str, Any]) -> dict[str, Any]:
    """`create`, and nothing else."""
    async with db.statement() as session:
        return await create(session, values)


async def _count(session: Session, *, active: int = 0, inactive: int = 0) -> None:
    await session.execute(COUNT[session.dialect], active, inactive)


async def _taken(session: Session, customer: str, row: Mapping[str, Any]) -> CustomerExists:
    """Which of the two somebody else has."""
    rows = await session.fetch(
        "SELECT nickname, email FROM customers WHERE (nickname = $1 OR email = $2) AND id <> $3",
        row["nickname"],
        row["email"],
        customer,
    )
    faults = [
        {"detail": "another customer's", "pointer": f"#/{name}"}
        for name in ("nickname", "email")
        if row[name] is not None and any(one[name] == row[name] for one in rows)
    ]
    return CustomerExists(errors=faults)


# --- changes --------------------------------------------------------------------------

_LOCK = {Dialect.POSTGRES: " FOR UPDATE", Dialect.SQLITE: ""}
UPDATE = {
    dialect: "UPDATE customers SET nickname = $2, name = $3, email = $4, birth_date = $5,"
    " tags = $6, words = $7, active = $8, erased_at = $9, version = version + 1,"
    f" updated_at = {dialect.clock} WHERE id = $1 RETURNING {COLUMNS}"
    for dialect in Dialect
}


async def lock(session: Session, customer: str) -> Row:
    """His row, locked until the transaction ends.

    Raises:
        NotFound: he is not in the directory.
        CustomerInactive: he was erased.
    """
    row = await _lock(session, customer)
    if row["erased_at"] is not None:
        raise CustomerInactive(ERASED)
    return row


async def _lock(session: Session, customer: str) -> Row:
    sql = f"SELECT {COLUMNS} FROM customers WHERE id = $1{_LOCK[session.dialect]}"
    rows = await session.fetch(sql, customer)
    if not rows:
        raise NotFound(UNKNOWN)
    return rows[0]


async def _write(session: Session, row: Mapping[str, Any]) -> dict[str, Any]:
    found = await session.fetch(
        UPDATE[session.dialect],
        row["id"],
        *(row[name] for name in FIELDS),
        _words(row),
        row["active"],
        row["erased_at"],
    )
    return customer_shape(found[0])


async def update(
    db: Database, customer: str, changes: Mapping[str, Any], if_match: int | None
) -> dict[str, Any]:
    """Change what is personal.

    Raises:
        NotFound, CustomerInactive: as `lock`.
        VersionMismatch: `if_match` is not his version.
        CustomerExists: the nickname or the e-mail address belongs to another one.
    """
    try:
        return await _update(db, customer, changes, if_match)
    except database.DRIVER_ERRORS as error:
        if classify(error) is not Failure.DATA:
            raise
    # Somebody took one of the two between the look and the change: now it is seen.
    return await _update(db, customer, changes, if_match)


async def _update(
    db: Database, customer: str, changes: Mapping[str, Any], if_match: int | None
) -> dict[str, Any]:
    async with db.transaction() as session:
        before = dict(await lock(session, customer))
        if if_match is not None and before["version"] != if_match:
            raise VersionMismatch
        after = before | _stored(changes)
        if after == before:
            return customer_shape(before)
        if (taken := await _taken(session, customer, after)).errors:
            raise taken
        return await _write(session, after)


async def activate(db: Database, customer: str, *, active: bool) -> dict[str, Any]:
    """Let him place orders again, or no longer; nothing happens where that is so already.

    Raises:
        NotFound: he is not in the directory.
        CustomerInactive: he was erased, and shall be active.
    """
    async with db.transaction() as session:
        row = await (lock if active else _lock)(session, customer)
        if bool(row["active"]) is active or row["erased_at"] is not None:
            return customer_shape(row)
        step = 1 if active else -1
        await _count(session, active=step, inactive=-step)
        return await _write(session, {**row, "active": active})


async def erase(session: Session, customer: str) -> dict[str, Any]:
    """Forget all that is personal, for ever. The id stays, so that orders keep their owner.

    Raises:
        NotFound: he is not in the directory.
    """
    row = await _lock(session, customer)
    if row["erased_at"] is not None:
        return customer_shape(row)
    # The cart's own row first: who holds it may be about to touch its lines.
    for table in ("carts", "cart_items", "favourites"):
        await session.execute(f"DELETE FROM {table} WHERE customer = $1", customer)
    gone = {"active": -1} if row["active"] else {"inactive": -1}
    await _count(session, **gone)
    now = await database.now(session)
    bare = dict.fromkeys(FIELDS) | {"tags": "[]", "active": False, "erased_at": now}
    return await _write(session, {**row, **bare})


# --- reading --------------------------------------------------------------------------


INACTIVE = {
    Dialect.POSTGRES: "SELECT id FROM customers WHERE NOT active AND id = ANY($1::text[])",
    Dialect.SQLITE: "SELECT id FROM customers WHERE NOT active"
    " AND id IN (SELECT value FROM json_each($1))",
}


async def inactive(session: Session, ids: Sequence[str]) -> frozenset[str]:
    """Those who were deactivated: they place no orders. Who stands in no directory may."""
    rows = await session.fetch(INACTIVE[session.dialect], as_array(session.dialect, ids))
    return frozenset(row["id"] for row in rows)


async def is_erased(session: Session, customer: str) -> bool:
    """Whether he was forgotten for ever. Who stands in no directory was not."""
    return bool(
        await session.fetch(
            "SELECT 1 FROM customers WHERE id = $1 AND erased_at IS NOT NULL", customer
        )
    )


async def get(db: Database, customer: str) -> dict[str, Any]:
    """
    Raises:
        NotFound: he is not in the directory.
    """
    async with db.read() as session:
        rows = await session.fetch(f"SELECT {COLUMNS} FROM customers WHERE id = $1", customer)
    if not rows:
        raise NotFound(UNKNOWN)
    return customer_shape(rows[0])


async def count(db: Database, active: bool | None) -> int:
    """How many there are who were not erased; those that are active, or are not."""
    wanted = {None: "active + inactive", True: "active", False: "inactive"}[active]
    async with db.read() as session:
        rows = await session.fetch(f"SELECT sum({wanted}) AS n FROM customer_counts")
    return int(rows[0]["n"])


def _like(text: str) -> str:
    """The pattern of LIKE for all that contains a text."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%"


class _Where:
    """Conditions with their arguments, numbered as they are added."""

    def __init__(self, dialect: Dialect) -> None:
        self._postgres = dialect is Dialect.POSTGRES
        self._conditions = ["erased_at IS NULL"]
        self.arguments: list[Any] = []

    def add(self, condition: str, *values: Any) -> None:
        """`condition` has a `{}` where each argument goes."""
        first = len(self.arguments) + 1
        self.arguments += values
        self._conditions.append(condition.format(*(f"${first + n}" for n in range(len(values)))))

    def add_filter(self, name: str, value: Any) -> None:
        if name in ("q", "tag"):
            self._add_words(folded(value))
        if name == "tag" and self._postgres:
            self.add("tags::jsonb @> to_jsonb({}::text)", value)
        elif name == "tag":
            self.add("EXISTS (SELECT 1 FROM json_each(tags) t WHERE t.value = {})", value)
        elif name != "q":
            self.add(f"{name} = {{}}", value)

    def _add_words(self, part: str) -> None:
        if self._postgres:
            self.add("words LIKE {}", _like(part))
        else:
            self.add("instr(words, {}) > 0", part)

    def __str__(self) -> str:
        return " AND ".join(self._conditions)


async def page(
    db: Database, filters: Mapping[str, Any], cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """Customers who were not erased, newest first, and the cursor of the next page.

    Raises:
        BadCursor: the cursor is not of this list.
    """
    before = read_cursor(cursor, filters, PLACE)
    async with db.read() as session:
        where = _Where(session.dialect)
        for name, value in filters.items():
            where.add_filter(name, value)
        if session.dialect is Dialect.POSTGRES and filters.keys() & {"q", "tag"}:
            # A plan that fits any text walks the whole directory for a rare one. The pool
            # resets what it gets back.
            await session.execute("SET plan_cache_mode = force_custom_plan")
        if before is not None:
            created, _, last = before.partition(":")
            where.add("(created_at, id) < ({}, {})", int(created), last)
        rows = await session.fetch(
            f"SELECT {COLUMNS} FROM customers WHERE {where}"
            f" ORDER BY created_at DESC, id DESC LIMIT {limit + 1}",
            *where.arguments,
        )
    found = rows[:limit]
    more = len(rows) > limit
    last_place = f"{found[-1]['created_at']}:{found[-1]['id']}" if more else ""
    return [customer_shape(row) for row in found], make_cursor(
        last_place, filters
    ) if more else None


async def named_by(db: Database, text: str) -> tuple[list[dict[str, Any]], bool]:
    """Whom a text may mean, newest first, and whether it may mean others too.

    By their whole id or e-mail address, which cost little, else by what `q` finds.
    """
    found: list[dict[str, Any]] = []
    more: str | None = None
    for filters in ({"id": text}, {"email": text.lower()}, {"q": text}):
        found, more = await page(db, filters, None, NAMED)
        if found:
            break
    return found, more is not None

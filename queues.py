"""Named queues: the rows of their messages, their settings, and everything read of them.

The first part is the writer's few hot statements, SQL by hand for both databases side by
side. The second part is the rare writes (create, change, pause, delete a queue), each a
transaction of its own that takes the head *first*. The third part only reads.
"""

import json
import re
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from pydantic_core import to_json

import events
from database import Changed, Database, Dialect, Row, Session, as_array
from errors import (
    NotFound,
    QueueExists,
    QueueNotEmpty,
    QueueProtected,
    VersionMismatch,
)
from events import STATUSES, Appended, Event
from instants import stamp, stamp_or_none
from models import Queue, QueueCount, Status
from moves import (
    Desk,
    Ended,
    Keyed,
    KnownKey,
    Message,
    QueueFacts,
    Registry,
)
from schemas import ORDER_ID, make_cursor, read_cursor

PROTECTED = "orders"

# --- the writer's statements ----------------------------------------------------------

NAMES = [f.name for f in fields(Message)]
COLUMNS = ", ".join('"group"' if name == "group" else name for name in NAMES)

TYPES = {
    "id": "uuid",
    "queue_id": "int",
    "version": "int",
    "priority": "smallint",
    "attempts": "int",
    "lost_leases": "int",
    "lease_epoch": "int",
    **dict.fromkeys(
        [
            "total_cents",
            "available_at",
            "entered_at",
            "expires_at",
            "cancel_requested_at",
            "lease_expires_at",
            "created_at",
            "updated_at",
            "finished_at",
        ],
        "bigint",
    ),
    "until_claimed": "boolean",
}

# What never changes after the enqueue is not written again.
CHANGING = [
    "queue_id",
    "status",
    "version",
    "attempts",
    "lost_leases",
    "available_at",
    "entered_at",
    "expires_at",
    "cancel_requested_at",
    "lease_epoch",
    "receipt",
    "worker",
    "lease_expires_at",
    "last_error",
    "result",
    "reserved",
    "updated_at",
    "finished_at",
]


def _quoted(name: str) -> str:
    return '"group"' if name == "group" else name


def _unnest(names: Iterable[str]) -> str:
    """`unnest($1::uuid[], …) AS u (id, …)`."""
    names = list(names)
    arrays = ", ".join(f"${n}::{TYPES.get(name, 'text')}[]" for n, name in enumerate(names, 1))
    return f"unnest({arrays}) AS u ({', '.join(map(_quoted, names))})"


INSERT = {
    Dialect.POSTGRES: f"INSERT INTO messages ({COLUMNS}) SELECT * FROM {_unnest(NAMES)}",
    Dialect.SQLITE: f"INSERT INTO messages ({COLUMNS}) VALUES ({', '.join('?' * len(NAMES))})",
}
UPDATE = {
    Dialect.POSTGRES: f"UPDATE messages m SET {', '.join(f'{c} = u.{c}' for c in CHANGING)}"
    f" FROM {_unnest([*CHANGING, 'id'])} WHERE m.id = u.id",
    Dialect.SQLITE: f"UPDATE messages SET {', '.join(f'{c} = ?' for c in CHANGING)} WHERE id = ?",
}
LOCK = {
    Dialect.POSTGRES: f"SELECT {COLUMNS} FROM messages WHERE id = ANY($1::uuid[])"
    " FOR UPDATE SKIP LOCKED",
    Dialect.SQLITE: f"SELECT {COLUMNS} FROM messages WHERE id IN (SELECT value FROM json_each($1))",
}
EXISTING = "SELECT id FROM messages WHERE id = ANY($1::uuid[])"

_DUE = (
    "queue_id = {q} AND status = 'pending' AND priority = {p} AND available_at <= {t}"
    " AND (expires_at IS NULL OR expires_at > {t})"
    " ORDER BY available_at, entered_at, id LIMIT {n}"
)


def _next_due(columns: str, lock: str = "") -> dict[Dialect, str]:
    """The first $3 messages of queue $1 that are due at $2, in claiming order.

    Each priority is probed on its own: one combined index would walk over every delayed row.
    """
    return {
        Dialect.POSTGRES: f"SELECT m.* FROM generate_series(9, 0, -1) AS p (priority)"
        f" CROSS JOIN LATERAL (SELECT {columns} FROM messages"
        f" WHERE {_DUE.format(q='$1', t='$2', n='$3', p='p.priority')}{lock}) AS m LIMIT $3",
        Dialect.SQLITE: " UNION ALL ".join(
            f"SELECT * FROM (SELECT {columns} FROM messages"
            f" WHERE {_DUE.format(q='$1', t='$2', n='$3', p=priority)})"
            for priority in range(9, -1, -1)
        )
        + " LIMIT $3",
    }


PROBE = _next_due(COLUMNS, " FOR UPDATE SKIP LOCKED")
KEYS_IN = {
    Dialect.POSTGRES: "INSERT INTO keys (id, fingerprint, message)"
    " SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[])"
    " ON CONFLICT DO NOTHING RETURNING id",
    Dialect.SQLITE: "INSERT INTO keys (id, fingerprint, message)"
    " SELECT a.value, b.value, c.value FROM json_each($1) a JOIN json_each($2) b USING (key)"
    " JOIN json_each($3) c USING (key) WHERE true ON CONFLICT DO NOTHING RETURNING id",
}
KEYS_KNOWN = {
    dialect: f"SELECT k.id AS key_id, k.fingerprint, e.data, e.queue AS posted_to,"
    f" {', '.join(f'm.{_quoted(name)}' for name in NAMES)} FROM keys k"
    f" JOIN messages m ON m.id = k.message JOIN events e ON e.message = m.id AND e.type ="
    f" 'order.created' WHERE k.id {wanted}"
    for dialect, wanted in (
        (Dialect.POSTGRES, "= ANY($1::text[])"),
        (Dialect.SQLITE, "IN (SELECT value FROM json_each($1))"),
    )
}
KEYS_OUT = {
    Dialect.POSTGRES: "DELETE FROM keys WHERE id = ANY($1::text[])",
    Dialect.SQLITE: "DELETE FROM keys WHERE id IN (SELECT value FROM json_each($1))",
}
KEYS_MOVED = {
    Dialect.POSTGRES: "UPDATE keys SET fingerprint = $2, message = $3 WHERE id = $1",
    Dialect.SQLITE: "UPDATE keys SET fingerprint = $2, message = $3 WHERE id = $1",
}
REMOVE = {
    table: {
        Dialect.POSTGRES: f"DELETE FROM {table} WHERE {column} = ANY($1::uuid[])",
        Dialect.SQLITE: f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each($1))",
    }
    for table, column in (("messages", "id"), ("keys", "message"))
}
ENDS = {
    dialect: f"SELECT message, data, detail FROM events WHERE message {wanted}"
    " AND detail LIKE '%\"receipt\":%' ORDER BY seq DESC"
    for dialect, wanted in (
        (Dialect.POSTGRES, "= ANY($1::uuid[])"),
        (Dialect.SQLITE, "IN (SELECT value FROM json_each($1))"),
    )
}


def read_message(row: Row) -> Message:
    """A copy of a row; ids and statuses in our own types."""
    values = [row[name] for name in NAMES]
    values[0] = str(values[0])
    values[2] = Status(values[2])
    return Message(*values)


async def lock_rows(session: Session, ids: Sequence[str]) -> tuple[list[Message], set[str]]:
    """Copies of the rows of `ids`, locked; and which of them another process holds."""
    rows = await session.fetch(LOCK[session.dialect], as_array(session.dialect, ids))
    found = [read_message(row) for row in rows]
    missing = set(ids) - {row.id for row in found}
    if not missing or session.dialect is Dialect.SQLITE:
        return found, set()
    held = await session.fetch(EXISTING, list(missing))
    return found, {str(row["id"]) for row in held}


async def probe(session: Session, queue_id: int, now: int, n: int) -> list[Message]:
    """The next `n` messages of a queue that are due, in claiming order, locked."""
    rows = await session.fetch(PROBE[session.dialect], queue_id, now, n)
    return [read_message(row) for row in rows]


async def insert_rows(session: Session, rows: Sequence[Message]) -> None:
    if session.dialect is Dialect.SQLITE:
        await session.executemany(INSERT[session.dialect], [_values(row) for row in rows])
    else:
        columns = zip(*(_values(row) for row in rows), strict=True)
        await session.execute(INSERT[session.dialect], *map(list, columns))


def _values(row: Message) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in NAMES)


async def update_rows(session: Session, rows: Sequence[Message]) -> None:
    """Write each row once: its changing columns."""
    values = [[*(getattr(row, name) for name in CHANGING), row.id] for row in rows]
    if session.dialect is Dialect.SQLITE:
        await session.executemany(UPDATE[session.dialect], values)
    else:
        await session.execute(UPDATE[session.dialect], *map(list, zip(*values, strict=True)))


async def remove_histories(session: Session, ids: Sequence[str]) -> None:
    """Delete the events of removed messages that the floor has passed; the head is locked."""
    postgres = session.dialect is Dialect.POSTGRES
    wanted = "= ANY($1::uuid[])" if postgres else "IN (SELECT value FROM json_each($1))"
    await session.execute(
        f"DELETE FROM events WHERE message {wanted} AND seq <= (SELECT floor FROM stream)",
        as_array(session.dialect, ids),
    )


async def remove_rows(session: Session, ids: Sequence[str]) -> None:
    """Delete messages with their keys. Their events go when the log's floor has passed them."""
    for table in ("keys", "messages"):
        await session.execute(REMOVE[table][session.dialect], as_array(session.dialect, ids))


async def insert_keys(session: Session, keys: Mapping[str, Keyed]) -> set[str]:
    """Store keys, in order (unsorted, two processes deadlock); those that were new.

    Waits for a transaction that has just stored one of them.
    """
    ordered = sorted(keys)
    columns = (
        ordered,
        [keys[key].fingerprint for key in ordered],
        [keys[key].id for key in ordered],
    )
    arguments = [as_array(session.dialect, column) for column in columns]
    rows = await session.fetch(KEYS_IN[session.dialect], *arguments)
    return {row["id"] for row in rows}


async def known_keys(session: Session, keys: Sequence[str]) -> dict[str, KnownKey]:
    """What earlier transactions stored under keys that are there.

    Raises:
        Changed: one of them has been pruned since.
    """
    rows = await session.fetch(KEYS_KNOWN[session.dialect], as_array(session.dialect, keys))
    if len(rows) < len(keys):
        raise Changed
    return {
        row["key_id"]: KnownKey(
            row["fingerprint"], read_message(row), row["posted_to"], json.loads(row["data"])
        )
        for row in rows
    }


async def mend_keys(session: Session, stored: Mapping[str, Keyed], desk: Desk) -> None:
    """Forget the keys of what was refused; correct those that another command earned."""
    refused = sorted(stored.keys() - desk.new_keys.keys())
    if refused:
        await session.execute(KEYS_OUT[session.dialect], as_array(session.dialect, refused))
    for key, command in desk.new_keys.items():
        if stored.get(key) is not command:
            await session.execute(KEYS_MOVED[session.dialect], key, command.fingerprint, command.id)


async def ended_leases(session: Session, ids: Sequence[str]) -> dict[str, dict[str, Ended]]:
    """How the leases of some messages ended: message → mark of the receipt → verb and answer."""
    found: dict[str, dict[str, Ended]] = {}
    for row in await session.fetch(ENDS[session.dialect], as_array(session.dialect, ids)):
        detail, data = json.loads(row["detail"]), json.loads(row["data"])
        if "verb" in detail:  # a worker's result may have a field of that name
            answer = {name: data[name] for name in ("id", "queue", "status", "version")}
            marks = found.setdefault(str(row["message"]), {})
            marks[detail["receipt"]] = Ended(detail["verb"], answer)
    return found


REGISTRY = "SELECT s.queues_version AS at_version, q.* FROM stream s LEFT JOIN queues q ON true"


async def load_registry(session: Session) -> Registry:
    """All queues, deleted ones too, and the version they are of: one statement, one instant."""
    rows = await session.fetch(REGISTRY)
    facts = [
        QueueFacts(
            row["id"],
            row["name"],
            row["lease_seconds"],
            row["max_attempts"],
            row["max_lost_leases"],
            row["backoff_seconds"],
            row["paused_at"] is not None,
            row["deleted_at"] is not None,
        )
        for row in rows
        if row["id"] is not None
    ]
    return Registry(
        rows[0]["at_version"],
        {queue.id: queue for queue in facts},
        {queue.name: queue for queue in facts if not queue.deleted},
    )


# --- settings -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """What a change of a queue did: the queue as it is now, and its event, if there is one."""

    queue: dict[str, Any]
    appended: Appended | None
    event: Event | None


def queue_event(row: Queue, kind: str, actor: str) -> Event:
    data = {name: getattr(row, name) for name in SETTINGS}
    data |= {"paused": row.paused_at is not None, "version": row.version, "actor": actor}
    return Event(
        type=f"queue.{kind}",
        subject=f"queue:{row.name}",
        data=to_json({"name": row.name, **data}).decode(),
        queue=row.name,
        from_queue=row.name,
    )


SETTINGS = [
    "description",
    "lease_seconds",
    "max_attempts",
    "max_lost_leases",
    "backoff_seconds",
    "retention_days",
]


async def _log(session: Session, taken: Appended, row: Queue, kind: str, actor: str) -> Event:
    event = queue_event(row, kind, actor)
    await events.log_one(session, taken, str(uuid.uuid4()), event)
    return event


async def create(database: Database, name: str, settings: Mapping[str, Any], actor: str) -> Change:
    """A new queue.

    Raises:
        QueueExists: there is a live one of that name.
    """
    async with database.transaction() as session:
        taken = await events.take_for_queues(session)
        if await Queue.exists(using_db=session.orm, name=name, deleted_at=None):
            raise QueueExists.at(f"There is a queue '{name}'.", pointer="#/name")
        row = await Queue.create(
            using_db=session.orm, name=name, **settings, created_at=taken.at, updated_at=taken.at
        )
        await QueueCount.create(using_db=session.orm, queue_id=row.id)
        event = await _log(session, taken, row, "created", actor)
        shape = (await describe(session, [row.id]))[0]
    return Change(shape, taken, event)


async def _live(session: Session, name: str) -> Queue:
    row = await Queue.get_or_none(using_db=session.orm, name=name, deleted_at=None)
    if row is None:
        raise NotFound(f"There is no queue '{name}'.")
    return row


class Unchanged(Exception):
    """Nothing to do: the transaction is rolled back, so that no number is used."""


async def _change(
    database: Database,
    name: str,
    actor: str,
    kind: str,
    edit: Callable[[Session, Queue, int], Awaitable[None]],
) -> Change:
    """Take the head, then look, then change: from then on the counters are exact."""
    try:
        async with database.transaction() as session:
            taken = await events.take_for_queues(session)
            row = await _live(session, name)
            await edit(session, row, taken.at)
            row.version += 1
            row.updated_at = taken.at
            await row.save(using_db=session.orm)
            event = await _log(session, taken, row, kind, actor)
            shape = (await describe(session, [row.id]))[0]
        return Change(shape, taken, event)
    except Unchanged:
        return Change(await get(database, name), None, None)


async def update(
    database: Database, name: str, settings: Mapping[str, Any], if_match: int | None, actor: str
) -> Change:
    """Change settings.

    Raises:
        NotFound: no such queue.
        VersionMismatch: `if_match` is not its version.
    """

    async def edit(session: Session, row: Queue, at: int) -> None:
        if if_match is not None and row.version != if_match:
            raise VersionMismatch
        if all(getattr(row, field) == value for field, value in settings.items()):
            raise Unchanged
        row.update_from_dict(dict(settings))

    return await _change(database, name, actor, "updated", edit)


async def pause(database: Database, name: str, actor: str) -> Change:
    async def edit(session: Session, row: Queue, at: int) -> None:
        if row.paused_at is not None:
            raise Unchanged
        row.paused_at = at

    return await _change(database, name, actor, "paused", edit)


async def resume(database: Database, name: str, actor: str) -> Change:
    async def edit(session: Session, row: Queue, at: int) -> None:
        if row.paused_at is None:
            raise Unchanged
        row.paused_at = None

    return await _change(database, name, actor, "resumed", edit)


async def delete(
    database: Database, name: str, if_match: int | None, actor: str, *, force: bool
) -> tuple[Change, int]:
    """Take a queue's name away; also its id, for the cancelling that a forced delete leaves.

    Raises:
        NotFound, VersionMismatch, QueueProtected: as they say.
        QueueNotEmpty: something is pending or processing, and `force` was not said.
    """
    removed: list[int] = []

    async def edit(session: Session, row: Queue, at: int) -> None:
        if row.name == PROTECTED:
            raise QueueProtected
        if if_match is not None and row.version != if_match:
            raise VersionMismatch
        counts = await QueueCount.get(using_db=session.orm, queue_id=row.id)
        if (counts.pending or counts.processing) and not force:
            raise QueueNotEmpty
        row.deleted_at = at
        removed.append(row.id)

    change = await _change(database, name, actor, "deleted", edit)
    return change, removed[0]


async def note_claims(database: Database, claims: Mapping[int, int]) -> None:
    """Write when messages were last claimed: queue id → instant. No version, no event."""
    async with database.transaction() as session:
        for queue_id, at in sorted(claims.items()):
            await session.execute(
                "UPDATE queues SET last_claim_at = $1 WHERE id = $2"
                " AND (last_claim_at IS NULL OR last_claim_at < $1)",
                at,
                queue_id,
            )


# --- reading --------------------------------------------------------------------------

_OLDEST = """(SELECT min((SELECT min(m.available_at) FROM messages m WHERE m.queue_id = q.id
    AND m.status = 'pending' AND m.priority = p.value AND m.available_at <= {clock}))
    FROM {priorities})"""
_PRIORITIES = {
    Dialect.POSTGRES: "generate_series(0, 9) AS p (value)",
    Dialect.SQLITE: "json_each('[0,1,2,3,4,5,6,7,8,9]') AS p",
}
_BYTEWISE = {Dialect.POSTGRES: ' COLLATE "C"', Dialect.SQLITE: ""}
DESCRIBE = {
    dialect: f"SELECT q.*, {', '.join(f'c.{s}' for s in STATUSES)}, {dialect.clock} AS now,"
    f" {_OLDEST.format(clock=dialect.clock, priorities=_PRIORITIES[dialect])} AS oldest"
    " FROM queues q JOIN queue_counts c ON c.queue_id = q.id"
    for dialect in Dialect
}
BY_IDS = {
    Dialect.POSTGRES: " WHERE q.id = ANY($1::int[])",
    Dialect.SQLITE: " WHERE q.id IN (SELECT value FROM json_each($1))",
}


def counts_of(row: Row) -> dict[str, int]:
    return {status: row[status] for status in STATUSES}


def queue_shape(row: Row) -> dict[str, Any]:
    """A `Queue`, counts included."""
    oldest = None if row["oldest"] is None else max(0, (row["now"] - row["oldest"]) // 1000)
    return {
        "name": row["name"],
        **{name: row[name] for name in SETTINGS},
        "paused": row["paused_at"] is not None,
        "counts": counts_of(row),
        "oldest_pending_seconds": oldest,
        "last_claim_at": stamp_or_none(row["last_claim_at"]),
        "version": row["version"],
        "created_at": stamp(row["created_at"]),
        "updated_at": stamp(row["updated_at"]),
    }


async def describe(session: Session, ids: Sequence[int]) -> list[dict[str, Any]]:
    dialect = session.dialect
    rows = await session.fetch(DESCRIBE[dialect] + BY_IDS[dialect], as_array(dialect, ids))
    return [queue_shape(row) for row in rows]


async def get(database: Database, name: str) -> dict[str, Any]:
    """
    Raises:
        NotFound: no live queue of that name.
    """
    where = " WHERE q.name = $1 AND q.deleted_at IS NULL"
    async with database.read() as session:
        rows = await session.fetch(DESCRIBE[session.dialect] + where, name)
    if not rows:
        raise NotFound(f"There is no queue '{name}'.")
    return queue_shape(rows[0])


async def page(
    database: Database, prefix: str, cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """Queues by name, and the cursor of the next page.

    Raises:
        BadCursor: the cursor is not of this list.
    """
    after = read_cursor(cursor, {"prefix": prefix}) or ""
    async with database.read() as session:
        name = f"q.name{_BYTEWISE[session.dialect]}"
        where = (
            f" WHERE q.deleted_at IS NULL AND {name} > $1 AND substr(q.name, 1, $2) = $3"
            f" ORDER BY {name} LIMIT $4"
        )
        sql = DESCRIBE[session.dialect] + where
        rows = await session.fetch(sql, after, len(prefix), prefix, limit + 1)
    shapes = [queue_shape(row) for row in rows[:limit]]
    more = len(rows) > limit
    return shapes, make_cursor(shapes[-1]["name"], {"prefix": prefix}) if more else None


async def live(session: Session, name: str | None, limit: int) -> list[dict[str, Any]]:
    """The live queue of a name, or all of them (None) by name, counts included."""
    where = " WHERE q.deleted_at IS NULL AND ($1::text IS NULL OR q.name = $1)"
    if session.dialect is Dialect.SQLITE:
        where = where.replace("::text", "")
    order = f" ORDER BY q.name{_BYTEWISE[session.dialect]} LIMIT $2"
    rows = await session.fetch(DESCRIBE[session.dialect] + where + order, name, limit)
    return [queue_shape(row) for row in rows]


async def counts(session: Session, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """What the `counts` of a stream say of some live queues, or of all (None), by name."""
    where = " WHERE q.deleted_at IS NULL"
    arguments: list[Any] = []
    if names is not None:
        postgres = session.dialect is Dialect.POSTGRES
        wanted = "= ANY($1::text[])" if postgres else "IN (SELECT value FROM json_each($1))"
        where += f" AND q.name {wanted}"
        arguments.append(as_array(session.dialect, names))
    rows = await session.fetch(DESCRIBE[session.dialect] + where + " ORDER BY q.name", *arguments)
    told = ("name", "paused", "counts", "oldest_pending_seconds")
    return [{name: queue_shape(row)[name] for name in told} for row in rows]


async def live_id(session: Session, name: str) -> int:
    """
    Raises:
        NotFound: no live queue of that name.
    """
    sql = "SELECT id FROM queues WHERE name = $1 AND deleted_at IS NULL"
    rows = await session.fetch(sql, name)
    if not rows:
        raise NotFound(f"There is no queue '{name}'.")
    return rows[0]["id"]


class Filter:
    """Conditions on messages with their arguments, numbered as they are added."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.conditions: list[str] = []
        self.arguments: list[Any] = []

    def mark(self, value: Any) -> str:
        self.arguments.append(value)
        return f"${len(self.arguments)}"

    def add(self, condition: str, value: Any) -> None:
        """`condition` has one `{}` where the argument goes."""
        self.conditions.append(condition.format(self.mark(value)))

    def apply(self, filters: Mapping[str, Any]) -> "Filter":
        for name, value in filters.items():
            if value is not None:
                self._apply_one(name, value)
        return self

    def _apply_one(self, name: str, value: Any) -> None:
        postgres = self.dialect is Dialect.POSTGRES
        if name in ("status", "customer", "reference", "group"):
            self.add(f"m.{_quoted(name)} = {{}}", str(value))
        elif name == "sku" and postgres:
            self.add("m.items::jsonb @> {}::jsonb", json.dumps([{"sku": value}]))
        elif name == "sku":
            line = "SELECT 1 FROM json_each(m.items) i WHERE json_extract(i.value, '$.sku') = {}"
            self.add(f"EXISTS ({line})", value)
        elif name == "error" and not value:
            self.conditions.append("m.last_error IS NULL")
        elif name == "error":
            self.add(f"m.last_error{_BYTEWISE[self.dialect]} = {{}}", value)
        elif name == "error_contains":
            self.add(
                "strpos(m.last_error, {}) > 0" if postgres else "instr(m.last_error, {}) > 0", value
            )
        else:
            column, _, side = name.rpartition("_")
            self.add(f"m.{column}_at {'>=' if side == 'after' else '<'} {{}}", value)

    @property
    def where(self) -> str:
        return " AND ".join(self.conditions) or "true"


PREFIXED = ", ".join(f"m.{_quoted(name)}" for name in NAMES)
NEWEST = "FROM messages m WHERE {where} ORDER BY m.id DESC LIMIT {stop}"
EACH_QUEUE = {
    Dialect.POSTGRES: f"SELECT n.id FROM queues o CROSS JOIN LATERAL (SELECT m.id {NEWEST}) AS n",
    Dialect.SQLITE: f"SELECT n.id FROM queues o JOIN messages n ON n.id IN (SELECT m.id {NEWEST})",
}


def _stretches(
    chosen: Filter, queue_id: int | None, filters: Mapping[str, Any], stop: str
) -> list[str]:
    """Conditions that each name a stretch of an index; together they are all that is meant."""
    status = filters.get("status")
    if queue_id is not None:
        here = f"m.queue_id = {chosen.mark(queue_id)}"
        wanted = [str(status)] if status else STATUSES
        return [f"{here} AND m.status = '{name}'" for name in wanted]
    if status is None:
        return ["true"]
    here = f"m.status = {chosen.mark(str(status))}"
    if filters.keys() & {"customer", "reference"}:
        return [here]
    where = f"m.queue_id = o.id AND {here} AND {chosen.where}"
    each = EACH_QUEUE[chosen.dialect].format(where=where, stop=stop)
    return [f"m.id IN ({each} ORDER BY n.id DESC LIMIT {stop})"]


async def list_messages(
    session: Session,
    queue_id: int | None,
    filters: Mapping[str, Any],
    before: str | None,
    limit: int,
) -> list[tuple[Message, str]]:
    """Messages with the names of their queues, newest first.

    In one queue each status is read from its own stretch of an index, and a status of all
    queues from its stretch in each, so that a page costs the same at five messages or five
    million.
    """
    chosen = Filter(session.dialect).apply({k: v for k, v in filters.items() if k != "status"})
    if before is not None:
        chosen.add("m.id < {}", before)
    stop = chosen.mark(limit)
    parts = [
        f"SELECT * FROM (SELECT {PREFIXED}"
        f" {NEWEST.format(where=f'{stretch} AND {chosen.where}', stop=stop)}) AS s"
        for stretch in _stretches(chosen, queue_id, filters, stop)
    ]
    sql = (
        f"SELECT a.*, q.name AS queue_name FROM ({' UNION ALL '.join(parts)}) AS a"
        f" JOIN queues q ON q.id = a.queue_id ORDER BY a.id DESC LIMIT {stop}"
    )
    rows = await session.fetch(sql, *chosen.arguments)
    return [(read_message(row), row["queue_name"]) for row in rows]


async def find_or_none(session: Session, message_id: str) -> tuple[Message, str] | None:
    """A message and the name of its queue; None if there is no such message."""
    rows = await session.fetch(
        f"SELECT {PREFIXED}, q.name AS queue_name FROM messages m"
        " JOIN queues q ON q.id = m.queue_id WHERE m.id = $1",
        message_id,
    )
    return (read_message(rows[0]), rows[0]["queue_name"]) if rows else None


async def find(session: Session, message_id: str) -> tuple[Message, str]:
    """The same where there must be one.

    Raises:
        NotFound: no such message.
    """
    found = await find_or_none(session, message_id)
    if found is None:
        raise NotFound  # in the words for what is another's: nobody learns which it is
    return found


# Of an order without a reference people see the end of its id. No LIMIT: it would make
# PostgreSQL hope to meet one soon on a walk over all.
NUMBER = re.compile(r"[0-9a-f]{12}")
NUMBERED = {
    Dialect.POSTGRES: "SELECT id FROM messages WHERE reference IS NULL"
    " AND substring(uuid_send(id) FROM 11) = decode($1, 'hex')",
    Dialect.SQLITE: "SELECT id FROM messages WHERE reference IS NULL AND substr(id, 25) = $1",
}


async def named_by(
    session: Session, text: str
) -> tuple[Literal["id", "reference", "customer"], str] | None:
    """What of an order a text is, and that whole; None: of none. Read from indexes alone.

    Of two orders with the same end of their ids, which hardly happens, the newer one.
    """
    lowered = text.lower()
    if ORDER_ID.fullmatch(lowered) and await find_or_none(session, lowered):
        return "id", lowered
    for column in ("reference", "customer"):
        rows = await session.fetch(f"SELECT id FROM messages WHERE {column} = $1 LIMIT 1", text)
        if rows:
            return column, text
    if NUMBER.fullmatch(lowered):
        rows = await session.fetch(NUMBERED[session.dialect], lowered)
        if rows:
            return "id", max(str(row["id"]) for row in rows)
    return None


async def customers_of(session: Session, ids: Sequence[str]) -> dict[str, str]:
    """Order id → customer, for those that exist."""
    wanted = "= ANY($1::uuid[])"
    if session.dialect is Dialect.SQLITE:
        wanted = "IN (SELECT value FROM json_each($1))"
    sql = f"SELECT id, customer FROM messages WHERE id {wanted}"
    rows = await session.fetch(sql, as_array(session.dialect, ids))
    return {str(row["id"]): row["customer"] for row in rows}


async def failures(session: Session, queue_id: int) -> list[dict[str, Any]]:
    """The dead letters of a queue by error, most first; at most 200 errors."""
    # In the order of the index `messages_failed`, from which alone this is answered.
    error = f"last_error{_BYTEWISE[session.dialect]}"
    rows = await session.fetch(
        f"SELECT {error} AS error, count(*) AS n, min(finished_at) AS oldest,"
        " max(finished_at) AS newest, max(CAST(id AS TEXT)) AS example FROM messages"
        f" WHERE queue_id = $1 AND status = 'failed' GROUP BY {error} ORDER BY n DESC, 1 LIMIT 200",
        queue_id,
    )
    return [
        {
            "error": row["error"] or "",
            "count": row["n"],
            "oldest": stamp(row["oldest"]),
            "newest": stamp(row["newest"]),
            "example_id": str(row["example"]),
        }
        for row in rows
    ]


# --- the line -------------------------------------------------------------------------

FIRST = 1_000  # places that are counted; behind them it is only known that there are more


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pending message, as its place in the line depends on it."""

    id: str
    queue_id: int
    queue: str
    available_at: int
    expires_at: int | None

    def due(self, now: int) -> bool:
        late = self.expires_at is not None and self.expires_at <= now
        return self.available_at <= now and not late


@dataclass(frozen=True, slots=True)
class Front:
    """Who is claimed next from a queue, as of the instant `now`."""

    now: int
    open: bool  # claims are served: it is neither paused nor deleted
    places: Mapping[str, int]  # id → 1 to 1,000; none while it is not open


WAITING = {
    dialect: "SELECT m.id, m.queue_id, q.name, m.available_at, m.expires_at FROM messages m"
    f" JOIN queues q ON q.id = m.queue_id WHERE m.status = 'pending' AND m.id {wanted}"
    for dialect, wanted in (
        (Dialect.POSTGRES, "= ANY($1::uuid[])"),
        (Dialect.SQLITE, "IN (SELECT value FROM json_each($1))"),
    )
}
OPEN = {
    dialect: f"SELECT {dialect.clock} AS now, paused_at IS NULL AND deleted_at IS NULL AS open"
    " FROM queues WHERE id = $1"
    for dialect in Dialect
}
# Materialized: else SQLite sorts 1,000 of each priority before it takes the first 1,000 of all.
PLACES = {
    dialect: f"WITH f AS MATERIALIZED ({first}) SELECT id, row_number()"
    " OVER (ORDER BY priority DESC, available_at, entered_at, id) AS place FROM f"
    for dialect, first in _next_due("id, priority, available_at, entered_at").items()
}
PLACES_OF = {
    dialect: f"SELECT id, place FROM ({PLACES[dialect]}) AS l WHERE id {wanted}"
    for dialect, wanted in (
        (Dialect.POSTGRES, "= ANY($4::uuid[])"),
        (Dialect.SQLITE, "IN (SELECT value FROM json_each($4))"),
    )
}
NEXT_DUE = {
    dialect: "SELECT min((SELECT min(m.available_at) FROM messages m WHERE m.queue_id = $1"
    " AND m.status = 'pending' AND m.priority = p.value AND m.available_at > $2)) AS due"
    f" FROM {_PRIORITIES[dialect]}"
    for dialect in Dialect
}


async def waiting(session: Session, ids: Collection[str]) -> dict[str, Waiting]:
    """Those of some messages that are pending, by id."""
    rows = await session.fetch(WAITING[session.dialect], as_array(session.dialect, [*ids]))
    found = [
        Waiting(
            str(row["id"]), row["queue_id"], row["name"], row["available_at"], row["expires_at"]
        )
        for row in rows
    ]
    return {one.id: one for one in found}


async def front(session: Session, queue_id: int, ids: Collection[str] | None = None) -> Front:
    """The front of a queue's line: all of its first 1,000, or those of `ids` among them.

    It costs the same however long the line is.
    """
    (queue,) = await session.fetch(OPEN[session.dialect], queue_id)
    if not queue["open"]:
        return Front(queue["now"], False, {})
    arguments: list[Any] = [queue_id, queue["now"], FIRST]
    sql = PLACES[session.dialect]
    if ids is not None:
        sql = PLACES_OF[session.dialect]
        arguments.append(as_array(session.dialect, [*ids]))
    rows = await session.fetch(sql, *arguments)
    return Front(queue["now"], True, {str(row["id"]): row["place"] for row in rows})


async def next_due(session: Session, queue_id: int, now: int) -> int | None:
    """When the next delayed message of a queue becomes due; None if there is none."""
    return (await session.fetch(NEXT_DUE[session.dialect], queue_id, now))[0]["due"]


# --- finding rows for long work -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failed:
    """Which dead letters a redrive means."""

    queue_id: int
    filters: Mapping[str, Any]

    def _filter(self, dialect: Dialect) -> Filter:
        chosen = Filter(dialect).apply(self.filters)
        chosen.add("m.queue_id = {}", self.queue_id)
        chosen.conditions.append("m.status = 'failed'")
        return chosen

    async def count(self, session: Session) -> int:
        chosen = self._filter(session.dialect)
        sql = f"SELECT count(*) AS n FROM messages m WHERE {chosen.where}"
        return (await session.fetch(sql, *chosen.arguments))[0]["n"]

    async def oldest(
        self, session: Session, limit: int, after: tuple[int, str] | None = None
    ) -> list[tuple[int, str]]:
        """(finished_at, id) of the oldest ones behind a place."""
        chosen = self._filter(session.dialect)
        if after is not None:
            place = ", ".join(map(chosen.mark, after))
            chosen.conditions.append(f"(m.finished_at, m.id) > ({place})")
        sql = (
            f"SELECT m.finished_at, m.id FROM messages m WHERE {chosen.where}"
            f" ORDER BY m.finished_at, m.id LIMIT {chosen.mark(limit)}"
        )
        rows = await session.fetch(sql, *chosen.arguments)
        return [(row["finished_at"], str(row["id"])) for row in rows]


async def _ids(session: Session, sql: str, *args: Any) -> list[str]:
    return [str(row["id"]) for row in await session.fetch(sql, *args)]


async def pending_before(session: Session, queue_id: int, entered: int, limit: int) -> list[str]:
    """Pending messages that came into a queue up to an instant."""
    return await _ids(
        session,
        "SELECT id FROM messages WHERE queue_id = $1 AND status = 'pending'"
        " AND entered_at <= $2 LIMIT $3",
        queue_id,
        entered,
        limit,
    )


async def count_pending_before(session: Session, queue_id: int, entered: int) -> int:
    rows = await session.fetch(
        "SELECT count(*) AS n FROM messages WHERE queue_id = $1 AND status = 'pending'"
        " AND entered_at <= $2",
        queue_id,
        entered,
    )
    return rows[0]["n"]


async def lost_leases(session: Session, now: int, limit: int) -> list[str]:
    return await _ids(
        session,
        "SELECT id FROM messages WHERE status = 'processing' AND lease_expires_at <= $1"
        " ORDER BY lease_expires_at LIMIT $2",
        now,
        limit,
    )


async def expired(session: Session, now: int, limit: int) -> list[str]:
    return await _ids(
        session,
        "SELECT id FROM messages WHERE status = 'pending' AND expires_at IS NOT NULL"
        " AND expires_at <= $1 ORDER BY expires_at LIMIT $2",
        now,
        limit,
    )


async def outlived(session: Session, queue_id: int, before: int, limit: int) -> list[str]:
    """Finished messages of a queue that ended before an instant."""
    return await _ids(
        session,
        "SELECT id FROM messages WHERE queue_id = $1 AND finished_at IS NOT NULL"
        " AND finished_at < $2 ORDER BY finished_at LIMIT $3",
        queue_id,
        before,
        limit,
    )


async def retentions(session: Session) -> dict[int, int]:
    """Queue id → days that its finished messages are kept."""
    rows = await session.fetch("SELECT id, retention_days FROM queues")
    return {row["id"]: row["retention_days"] for row in rows}


async def deleted_but_pending(session: Session) -> list[int]:
    """Deleted queues that still have something to cancel: a forced delete goes on."""
    rows = await session.fetch(
        "SELECT q.id FROM queues q JOIN queue_counts c ON c.queue_id = q.id"
        " WHERE q.deleted_at IS NOT NULL AND c.pending > 0"
    )
    return [row["id"] for row in rows]

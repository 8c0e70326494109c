"""The audit: whether what is stored agrees with itself, told difference by difference.

Every transaction writes several books at once: messages, counters, stock, its ledger, the
log. Here they are laid side by side. Each comparison is one statement and sees one instant,
so that a service that runs meanwhile makes no difference. What grows with the movements,
messages or events is compared stretch by stretch, each in a snapshot of its own, so that
none is held for long, however much there is.

Nothing is changed, but by `mend_counters`, which counts again. Everything else needs a
person: two books differ, and no program knows which of them is right.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import events
from database import DRIVER_ERRORS, READ_SECONDS, Database, Dialect, Failure, Row, Session, classify
from events import STATUSES

# Whoever posted that long after a SKU was first received has seen its stock: a transaction
# that had not is over by then.
SEEN_MS = 60_000


class Remark(NamedTuple):
    """One line of the report: which SKU, queue or order, what was found, what it should be."""

    text: str
    wrong: bool = True  # False: there was not time enough to compare


@dataclass(frozen=True, slots=True)
class Comparison:
    """A statement whose rows are differences, and the words for such a row."""

    name: str
    sql: Mapping[Dialect, str]
    words: Callable[[Row], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Book:
    """What is compared in stretches ($1, $2] of its keys.

    `end` tells where the stretch after $1 ends that has `size` entries; no row: at `last`.
    """

    first: Any
    last: Any
    size: int
    end: str
    comparisons: tuple[Comparison, ...]


def _same(sql: str) -> dict[Dialect, str]:
    return dict.fromkeys(Dialect, sql)


# --- the ledger, by SKU ---------------------------------------------------------------

# A SKU costs some movements' worth besides its own.
SKU_END = """
SELECT sku FROM (
    SELECT sku, CAST(sum(moved + 20) OVER (ORDER BY sku) AS BIGINT) AS weight
    FROM stock WHERE sku > $1
) AS s WHERE weight > $2 ORDER BY sku LIMIT 1"""

LEVELS = """
SELECT sku, sum(on_hand) AS on_hand, sum(moved) AS moved, sum(change) AS booked, sum(n) AS n
FROM (
    SELECT sku, on_hand, moved, 0 AS change, 0 AS n FROM stock WHERE sku > $1 AND sku <= $2
    UNION ALL
    SELECT sku, 0, 0, change, 1 FROM stock_movements WHERE sku > $1 AND sku <= $2
) AS b GROUP BY sku HAVING sum(on_hand) <> sum(change) OR sum(moved) <> sum(n) ORDER BY sku"""

# A movement that is wrong puts all after it off too: what is told is where that begins.
STEPS = """
SELECT * FROM (
    SELECT sku, number, on_hand, so_far, lag(number, 1, 0) OVER w AS before,
        on_hand - so_far AS off, lag(on_hand - so_far, 1, 0) OVER w AS off_before
    FROM (
        SELECT sku, number, on_hand,
            CAST(sum(change) OVER (PARTITION BY sku ORDER BY number) AS BIGINT) AS so_far
        FROM stock_movements WHERE sku > $1 AND sku <= $2
    ) AS m WINDOW w AS (PARTITION BY sku ORDER BY number)
) AS s WHERE number <> before + 1 OR (off <> 0 AND off <> off_before) ORDER BY sku, number"""

TWICE = """
SELECT message, sku, count(*) AS n FROM stock_movements
WHERE sku > $1 AND sku <= $2 AND message IS NOT NULL
GROUP BY sku, message HAVING count(*) > 1 ORDER BY sku, message"""

# Not `subject = …`: then PostgreSQL may walk the whole log backwards until it meets one.
LAST_CHANGE = {
    Dialect.POSTGRES: """
SELECT s.sku, s.version, s.on_hand - s.reserved AS available,
    CAST(e.data ->> 'version' AS BIGINT) AS told_version,
    CAST(e.data ->> 'available' AS BIGINT) AS told_available
FROM stream t CROSS JOIN stock s CROSS JOIN LATERAL (
    SELECT data::jsonb AS data FROM events WHERE message IS NULL AND type = 'stock.changed'
        AND subject BETWEEN (('stock:' || s.sku) COLLATE "default")
        AND (('stock:' || s.sku) COLLATE "default") AND seq > t.floor
    ORDER BY subject DESC, seq DESC LIMIT 1
) AS e""",
    Dialect.SQLITE: """
SELECT s.sku, s.version, s.on_hand - s.reserved AS available,
    json_extract(e.data, '$.version') AS told_version,
    json_extract(e.data, '$.available') AS told_available
FROM stock s JOIN events e ON e.seq = (
    SELECT max(l.seq) FROM events l WHERE l.message IS NULL AND l.type = 'stock.changed'
        AND l.subject = 'stock:' || s.sku AND l.seq > (SELECT floor FROM stream)
)""",
}
TOLD_LEVELS = {
    dialect: f"SELECT * FROM ({sql} WHERE s.sku > $1 AND s.sku <= $2) AS s"
    " WHERE version <> told_version OR available <> told_available ORDER BY sku"
    for dialect, sql in LAST_CHANGE.items()
}


def _say_level(row: Row) -> Iterator[str]:
    if row["on_hand"] != row["booked"]:
        found = f"{row['on_hand']:,} on hand, should be {row['booked']:,}"
        yield f"{row['sku']}: {found}, the sum of its movements"
    if row["moved"] != row["n"]:
        found = f"{row['moved']:,} movements, should be {row['n']:,}"
        yield f"{row['sku']}: {found}, the lines of its ledger"


def _say_step(row: Row) -> Iterator[str]:
    name = f"{row['sku']}: movement {row['number']:,}"
    if row["number"] != row["before"] + 1:
        yield f"{name} follows {row['before']:,}, should be {row['before'] + 1:,}"
    if row["off"] not in (0, row["off_before"]):
        found = f"{row['on_hand']:,} on hand, should be {row['so_far']:,}"
        yield f"{name} left {found}, the sum so far"


def _say_twice(row: Row) -> Iterator[str]:
    yield f"order {row['message']}: {row['n']:,} movements of {row['sku']}, should be 1"


def _say_told_level(row: Row) -> Iterator[str]:
    version, told = row["version"], row["told_version"]
    if version != told:
        yield f"{row['sku']}: version {version:,}, should be {told:,}, as its last event says"
    left, told = row["available"], row["told_available"]
    if left != told:
        yield f"{row['sku']}: {left:,} available, should be {told:,}, as its last event says"


OF_LEDGER = (
    Comparison("stock and ledger", _same(LEVELS), _say_level),
    Comparison("the steps of the ledger", _same(STEPS), _say_step),
    Comparison("what was sold twice", _same(TWICE), _say_twice),
    Comparison("stock and its events", TOLD_LEVELS, _say_told_level),
)

# --- reservations ---------------------------------------------------------------------

# Status by status: for each of the two there is an index of just those messages. Many hold
# the same, and each text is taken apart once.
_HOLDING = " UNION ALL ".join(
    f"SELECT reserved, count(*) AS n FROM messages WHERE status = '{status}'"
    " AND reserved IS NOT NULL GROUP BY reserved"
    for status in ("pending", "processing")
)
_HELD = {
    Dialect.POSTGRES: "SELECT h.key AS sku, m.n * CAST(h.value AS BIGINT) AS n"
    f" FROM ({_HOLDING}) AS m CROSS JOIN jsonb_each_text(m.reserved::jsonb) AS h",
    Dialect.SQLITE: "SELECT h.key AS sku, m.n * h.value AS n"
    f" FROM ({_HOLDING}) AS m CROSS JOIN json_each(m.reserved) AS h",
}
RESERVED = {
    dialect: f"""
SELECT sku, sum(known) AS known, sum(on_hand) AS on_hand, sum(reserved) AS reserved, sum(n) AS held
FROM (
    SELECT sku, 1 AS known, on_hand, reserved, 0 AS n FROM stock
    UNION ALL
    SELECT sku, 0, 0, 0, n FROM ({held}) AS h
) AS b GROUP BY sku HAVING sum(known) = 0 OR sum(reserved) <> sum(n) OR sum(reserved) < 0
    OR sum(reserved) > sum(on_hand) ORDER BY sku"""
    for dialect, held in _HELD.items()
}


def _say_reserved(row: Row) -> Iterator[str]:
    sku, reserved, held, on_hand = (row[n] for n in ("sku", "reserved", "held", "on_hand"))
    if not row["known"]:
        yield f"{sku}: orders hold {held:,}, should hold none: it has no stock"
        return
    if reserved != held:
        yield f"{sku}: {reserved:,} reserved, should be {held:,}, what orders hold"
    if not 0 <= reserved <= on_hand:
        yield f"{sku}: {reserved:,} reserved, should be 0 to {on_hand:,}, what is on hand"


OF_RESERVATIONS = Comparison("stock and what orders hold", RESERVED, _say_reserved)

# --- messages -------------------------------------------------------------------------

MESSAGE_END = "SELECT id FROM messages WHERE id > $1 ORDER BY id LIMIT 1 OFFSET $2"

HISTORIES = {
    Dialect.POSTGRES: """
SELECT m.id, m.version, m.status, m.reserved, h.n, e.version AS told_version,
    e.status AS told_status
FROM messages m
CROSS JOIN LATERAL (SELECT count(*) AS n FROM events WHERE message = m.id) AS h
LEFT JOIN LATERAL (
    SELECT CAST(l.data ->> 'version' AS BIGINT) AS version, l.data ->> 'status' AS status FROM (
        SELECT data::jsonb AS data FROM events WHERE message = m.id ORDER BY seq DESC LIMIT 1
    ) AS l
) AS e ON true""",
    Dialect.SQLITE: """
SELECT m.id, m.version, m.status, m.reserved,
    (SELECT count(*) FROM events WHERE message = m.id) AS n,
    json_extract(e.data, '$.version') AS told_version,
    json_extract(e.data, '$.status') AS told_status
FROM messages m
LEFT JOIN events e ON e.seq = (SELECT max(l.seq) FROM events l WHERE l.message = m.id)""",
}
TOLD_MESSAGES = {
    dialect: f"SELECT * FROM ({sql} WHERE m.id > $1 AND m.id <= $2) AS h"
    " WHERE told_version IS NULL OR version <> told_version OR n <> told_version"
    " OR status <> told_status"
    " OR (reserved IS NOT NULL AND status NOT IN ('pending', 'processing')) ORDER BY id"
    for dialect, sql in HISTORIES.items()
}

# The ledger has no index by message and is read once a stretch: SQLite joins in the order
# that a CROSS JOIN gives, and so looks up only the messages of the stretch.
_SOLD = (
    "SELECT v.message, v.sku, -v.change AS sold, 0 AS wanted, 1 AS certain"
    " FROM stock_movements v CROSS JOIN messages m"
    " WHERE v.message > $1 AND v.message <= $2 AND m.id = v.message"
)
_ITEMS = {
    Dialect.POSTGRES: "SELECT m.id, m.created_at, i.sku, i.quantity FROM messages m"
    " CROSS JOIN jsonb_to_recordset(m.items::jsonb) AS i (sku text, quantity bigint)",
    Dialect.SQLITE: "SELECT m.id, m.created_at, json_extract(i.value, '$.sku') AS sku,"
    " json_extract(i.value, '$.quantity') AS quantity FROM messages m"
    " CROSS JOIN json_each(m.items) AS i",
}
PURCHASES = {
    dialect: f"""
SELECT b.message, b.sku, b.sold, b.wanted, m.status FROM (
    SELECT message, sku, sum(sold) AS sold, sum(wanted) AS wanted, max(certain) AS certain
    FROM (
        {_SOLD} UNION ALL
        SELECT i.id, i.sku, 0, i.quantity,
            CASE WHEN i.created_at > s.created_at + {SEEN_MS} THEN 1 ELSE 0 END
        FROM ({items} WHERE m.id > $1 AND m.id <= $2 AND m.status = 'completed') AS i
        CROSS JOIN stock s WHERE s.sku = i.sku
    ) AS a GROUP BY message, sku
) AS b JOIN messages m ON m.id = b.message
WHERE b.sold <> b.wanted AND b.certain = 1 ORDER BY b.message, b.sku"""
    for dialect, items in _ITEMS.items()
}


def _say_history(row: Row) -> Iterator[str]:
    order, status = f"order {row['id']}", row["status"]
    version, told = row["version"], row["told_version"]
    if told is None:
        yield f"{order}: no event says its version, should be {version:,}"
    else:
        if row["n"] != told:
            yield f"{order}: {row['n']:,} events, should be {told:,}, as the last one says"
        if version != told:
            yield f"{order}: version {version:,}, should be {told:,}, as its last event says"
        if status != row["told_status"]:
            yield f"{order}: {status}, should be {row['told_status']}, as its last event says"
    if row["reserved"] is not None and status not in ("pending", "processing"):
        yield f"{order}: holds stock, should hold none: it is {status}"


def _say_purchase(row: Row) -> Iterator[str]:
    found = f"{row['sold']:,} of {row['sku']} sold, should be {row['wanted']:,}"
    yield f"order {row['message']}: {found}: it is {row['status']}"


OF_MESSAGES = (
    Comparison("orders and their events", TOLD_MESSAGES, _say_history),
    Comparison("orders and the ledger", PURCHASES, _say_purchase),
)

# --- counters -------------------------------------------------------------------------


def _counters(queues: str = "", messages: str = "") -> dict[Dialect, str]:
    """Kept and counted, by queue and status; the arguments narrow it."""
    kept = " UNION ALL ".join(
        f"SELECT q.id AS queue_id, '{status}' AS status, c.{status} AS kept, 0 AS n"
        f" FROM queues q LEFT JOIN queue_counts c ON c.queue_id = q.id {queues}"
        for status in STATUSES
    )
    return _same(f"""
SELECT b.*, q.name, q.deleted_at FROM (
    SELECT queue_id, status, max(kept) AS kept, sum(n) AS n FROM (
        {kept} UNION ALL
        SELECT queue_id, status, NULL, count(*) FROM messages {messages} GROUP BY queue_id, status
    ) AS a GROUP BY queue_id, status HAVING max(kept) IS NULL OR max(kept) <> sum(n)
) AS b LEFT JOIN queues q ON q.id = b.queue_id ORDER BY b.queue_id, b.status""")


def _say_counter(row: Row) -> Iterator[str]:
    name = f"queue {row['name']}" if row["name"] else f"queue {row['queue_id']}, which is not there"
    if row["deleted_at"] is not None:
        name += " (deleted)"
    kept = "no count of" if row["kept"] is None else f"{row['kept']:,}"
    yield f"{name}: {kept} {row['status']}, should be {row['n']:,}, counted one by one"


OF_COUNTERS = Comparison("counters and messages", _counters(), _say_counter)
OF_ONE_QUEUE = _counters("WHERE q.id = $1", "WHERE queue_id = $1")

DIRECTORY = " UNION ALL ".join(
    f"SELECT * FROM (SELECT '{status}' AS status,"
    f" (SELECT sum({status}) FROM customer_counts) AS kept,"
    f" (SELECT count(*) FROM customers WHERE erased_at IS NULL AND {which}) AS n) AS {status}"
    " WHERE coalesce(kept, 0) <> n"
    for status, which in (("active", "active"), ("inactive", "NOT active"))
)


def _say_directory(row: Row) -> Iterator[str]:
    kept, n = int(row["kept"] or 0), row["n"]
    yield f"customers: {kept:,} {row['status']}, should be {n:,}, counted one by one"


OF_DIRECTORY = Comparison("the count of customers", _same(DIRECTORY), _say_directory)

# --- the log --------------------------------------------------------------------------

EVENT_END = "SELECT seq FROM events WHERE seq > $1 ORDER BY seq LIMIT 1 OFFSET $2"

# A stretch ends with a number that is there, the last one with the head: see `END`.
_LOW = "(SELECT CASE WHEN $1 < floor THEN floor ELSE $1 END FROM stream)"
HOLES = f"""
SELECT before, seq FROM (
    SELECT seq, lag(seq, 1, {_LOW}) OVER (ORDER BY seq) AS before FROM events
    WHERE seq > {_LOW} AND seq <= $2 AND seq <= (SELECT head FROM stream)
) AS h WHERE seq > before + 1 ORDER BY seq"""
END = """
SELECT * FROM (
    SELECT head, (SELECT coalesce(max(seq), floor) FROM events WHERE seq > floor) AS last
    FROM stream
) AS s WHERE last <> head"""


def _say_hole(row: Row) -> Iterator[str]:
    first, last = row["before"] + 1, row["seq"] - 1
    which = f"{first:,} is" if first == last else f"{first:,} to {last:,} are"
    yield f"event log: {which} missing, should be there"


def _say_end(row: Row) -> Iterator[str]:
    yield f"event log: ends at {row['last']:,}, should end at {row['head']:,}, the head"


OF_LOG = (Comparison("the numbers of the event log", _same(HOLES), _say_hole),)
OF_HEAD = Comparison("the head and the event log", _same(END), _say_end)

# --- all of it ------------------------------------------------------------------------

AT_ONCE = (OF_COUNTERS, OF_DIRECTORY, OF_RESERVATIONS, OF_HEAD)
BOOKS = (
    Book("", "\U0010ffff", 100_000, SKU_END, OF_LEDGER),
    Book(str(UUID(int=0)), str(UUID(int=(1 << 128) - 1)), 25_000, MESSAGE_END, OF_MESSAGES),
    Book(0, (1 << 63) - 2, 200_000, EVENT_END, OF_LOG),
)


async def differences(db: Database, seconds: float = READ_SECONDS) -> AsyncIterator[Remark]:
    """Everything that does not agree, a remark each; nothing if all does.

    `seconds` is how long one snapshot may last. What needs longer is a remark too.
    """
    for comparison in AT_ONCE:
        for remark in await _compare(db, seconds, comparison):
            yield remark
    for book in BOOKS:
        async for stretch in _stretches(db, book):
            for comparison in book.comparisons:
                for remark in await _compare(db, seconds, comparison, *stretch):
                    yield remark


async def _stretches(db: Database, book: Book) -> AsyncIterator[tuple[Any, Any]]:
    after = book.first
    while after != book.last:
        async with db.read() as session:
            rows = await session.fetch(book.end, after, book.size)
        upto = rows[0][0] if rows else book.last
        yield after, upto
        after = upto


async def _compare(
    db: Database, seconds: float, comparison: Comparison, *stretch: Any
) -> list[Remark]:
    try:
        async with db.snapshot(seconds) as session:
            if session.dialect is Dialect.POSTGRES:
                # To compile these takes PostgreSQL longer than to run them.
                await session.execute("SET LOCAL jit = off")
            rows = await session.fetch(comparison.sql[session.dialect], *stretch)
        return [Remark(line) for row in rows for line in comparison.words(row)]
    except TimeoutError:
        why = f"cannot be compared within {seconds:g} s"
        return [Remark(f"{comparison.name}{_between(stretch)}: {why}", wrong=False)]
    except DRIVER_ERRORS as error:
        if classify(error) is not Failure.DATA and "malformed JSON" not in str(error):
            raise
        why, *_ = str(error).splitlines()
        return [Remark(f"{comparison.name}{_between(stretch)}: cannot be read: {why}")]


def _between(stretch: tuple[Any, ...]) -> str:
    return f" between {stretch[0]!r} and {stretch[1]!r}" if stretch else ""


# --- mending --------------------------------------------------------------------------

OPEN_COUNTERS = "INSERT INTO queue_counts (queue_id) VALUES ($1) ON CONFLICT DO NOTHING"
SET_COUNT = {
    status: f"UPDATE queue_counts SET {status} = $2 WHERE queue_id = $1" for status in STATUSES
}


async def mend_counters(db: Database, seconds: float = READ_SECONDS) -> list[str]:
    """Count again what is counted wrong; what was mended, line by line."""
    return [*await _mend_queues(db, seconds), *await _mend_directory(db, seconds)]


async def _mend_queues(db: Database, seconds: float) -> list[str]:
    """The head is taken first: from there on nobody can change a count; every writer waits."""
    async with db.snapshot(seconds) as session:
        rows = await session.fetch(OF_COUNTERS.sql[session.dialect])
    wrong = sorted({row["queue_id"] for row in rows if row["name"] is not None})
    if not wrong:
        return []
    async with db.transaction() as session:
        await events.lock_head(session)
        return [line for queue_id in wrong for line in await _mend(session, queue_id)]


async def _mend_directory(db: Database, seconds: float) -> list[str]:
    """Whoever is counted while this holds the table is added to what it found."""
    async with db.snapshot(seconds) as session:
        if not await session.fetch(DIRECTORY):
            return []
    async with db.transaction() as session:
        if session.dialect is Dialect.POSTGRES:
            await session.execute("LOCK TABLE customer_counts IN EXCLUSIVE MODE")
        rows = await session.fetch(DIRECTORY)
        for row in rows:
            status, missing = row["status"], row["n"] - int(row["kept"] or 0)
            sql = f"UPDATE customer_counts SET {status} = {status} + $1 WHERE shard = 0"
            await session.execute(sql, missing)
        return [line for row in rows for line in _say_directory(row)]


async def _mend(session: Session, queue_id: int) -> list[str]:
    rows = await session.fetch(OF_ONE_QUEUE[session.dialect], queue_id)
    mended = [row for row in rows if row["status"] in SET_COUNT]
    if mended:
        await session.execute(OPEN_COUNTERS, queue_id)
    for row in mended:
        await session.execute(SET_COUNT[row["status"]], queue_id, int(row["n"]))
    return [line for row in mended for line in _say_counter(row)]

"""Rates: how much happened in each queue, minute by minute and half hour by half hour.

They are a fold of the event log, kept as it grows and never by scanning: `rates_mark` says how
far it was read, and moves in the same transaction that adds what was read. So each event counts
once, whichever process folds it and wherever that is killed, and no purchase waits for it.

The log knows queues by name. A name may have been used before, and messages of a deleted queue
may still end: then it is the moment when a message came into the queue that tells which is
meant.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import queues
from database import Database, Dialect, Row, Session, as_array, now
from events import WINDOW
from instants import DAY, stamp

KINDS = ("entered", "claimed", "returned", "done", "failed", "dropped")
MINUTE, HALF_HOUR = 60, 1800  # the two spans that are kept, seconds
KEPT = {MINUTE: 25 * DAY // 24, HALF_HOUR: 8 * DAY}  # more than what is asked for


@dataclass(frozen=True, slots=True)
class Window:
    """What one chart shows: `points` of `step` seconds, from the buckets of one span."""

    span: int
    step: int
    points: int

    def start(self, at: int) -> int:
        """Where the first point begins; the last one is that of the instant `at`."""
        step = self.step * 1000
        return at - at % step - (self.points - 1) * step


WINDOWS = {
    "1h": Window(MINUTE, 60, 60),
    "24h": Window(MINUTE, 300, 288),
    "7d": Window(HALF_HOUR, 1800, 336),
}

# --- the fold -------------------------------------------------------------------------

_REASON = {
    Dialect.POSTGRES: "CAST(e.data AS jsonb) ->> 'reason'",
    Dialect.SQLITE: "json_extract(e.data, '$.reason')",
}


def _kind(dialect: Dialect) -> str:
    """What an event is to the queue where it happened; null: no move."""
    return f"""CASE e.type
            WHEN 'order.created' THEN 'entered'
            WHEN 'order.processing' THEN 'claimed'
            WHEN 'order.requeued' THEN CASE WHEN {_REASON[dialect]} IN ('retried', 'redriven')
                THEN 'entered' ELSE 'returned' END
            WHEN 'order.completed' THEN 'done'
            WHEN 'order.forwarded' THEN 'done'
            WHEN 'order.failed' THEN 'failed'
            WHEN 'order.cancelled' THEN 'dropped'
            WHEN 'order.expired' THEN 'dropped'
        END"""


_SUMS = ", ".join(f"coalesce(sum(n) FILTER (WHERE kind = '{kind}'), 0)" for kind in KINDS)
_ADDED = ", ".join(f"{kind} = queue_rates.{kind} + excluded.{kind}" for kind in KINDS)

FOLD = {
    dialect: f"""
WITH shared AS (
    SELECT name FROM queues GROUP BY name HAVING count(*) > 1
), happened AS MATERIALIZED (
    SELECT {_kind(dialect)} AS kind, e.from_queue AS name,
        e.created_at - e.created_at % 60000 AS at,
        CASE WHEN e.from_queue IN (SELECT name FROM shared) THEN coalesce((
            SELECT max(c.created_at) FROM events c WHERE c.message = e.message AND c.seq < e.seq
                AND c.type IN ('order.created', 'order.forwarded')
        ), e.created_at) END AS since,
        CASE WHEN e.type = 'order.forwarded' THEN e.queue END AS target,
        CASE WHEN e.type = 'order.forwarded' AND e.queue IN (SELECT name FROM shared)
            THEN e.created_at END AS target_since,
        count(*) AS n
    FROM events e WHERE e.seq > $1 AND e.seq <= $2 AND e.message IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5, 6
), counted AS (
    SELECT m.kind, m.at, m.n, (
        SELECT q.id FROM queues q WHERE q.name = m.name
            AND (m.since IS NULL OR q.created_at <= m.since) ORDER BY q.id DESC LIMIT 1
    ) AS queue_id
    FROM (
        SELECT kind, name, since, at, n FROM happened WHERE kind IS NOT NULL
        UNION ALL
        SELECT 'entered', target, target_since, at, n FROM happened WHERE target IS NOT NULL
    ) AS m
)
INSERT INTO queue_rates (queue_id, span, at, {", ".join(KINDS)})
SELECT queue_id, span, at - at % (span * 1000), {_SUMS}
FROM counted CROSS JOIN (SELECT {MINUTE} AS span UNION ALL SELECT {HALF_HOUR}) AS s
WHERE queue_id IS NOT NULL GROUP BY 1, 2, 3
ON CONFLICT (queue_id, span, at) DO UPDATE SET {_ADDED}"""
    for dialect in Dialect
}
MARK = {
    Dialect.POSTGRES: "SELECT seq FROM rates_mark FOR UPDATE SKIP LOCKED",
    Dialect.SQLITE: "SELECT seq FROM rates_mark",
}


async def fold(database: Database) -> bool:
    """Count the next window of the log; whether there is more to count.

    While another process is at it, nothing is done.
    """
    async with database.read() as session:
        seen = await session.fetch("SELECT m.seq, s.head FROM rates_mark m CROSS JOIN stream s")
    if seen[0]["seq"] == seen[0]["head"]:
        return False
    async with database.transaction() as session:
        found = await session.fetch(MARK[session.dialect])
        return bool(found) and await _fold(session, found[0]["seq"])


async def _fold(session: Session, mark: int) -> bool:
    # Read behind the mark's lock: a head from before it may lie below the mark.
    head = (await session.fetch("SELECT head FROM stream"))[0]["head"]
    upto = min(mark + WINDOW, head)
    if session.dialect is Dialect.POSTGRES:
        # To compile the statement takes ten times as long as to run it.
        await session.execute("SET LOCAL jit = off")
    await session.execute(FOLD[session.dialect], mark, upto)
    await session.execute("UPDATE rates_mark SET seq = $1", upto)
    return upto < head


async def prune(database: Database, queue_ids: Iterable[int]) -> None:
    """Forget minutes after 25 hours and half hours after eight days."""
    postgres = database.dialect is Dialect.POSTGRES
    wanted = "= ANY($1::int[])" if postgres else "IN (SELECT value FROM json_each($1))"
    async with database.transaction() as session:
        at, ids = await now(session), as_array(session.dialect, sorted(queue_ids))
        for span, kept in KEPT.items():
            await session.execute(
                f"DELETE FROM queue_rates WHERE queue_id {wanted} AND span = {span} AND at < $2",
                ids,
                at - kept,
            )


# --- reading --------------------------------------------------------------------------

_READ = f"""
SELECT r.queue_id, (r.at - $3) / $4 AS point, {", ".join(f"sum(r.{k}) AS {k}" for k in KINDS)}
FROM queue_rates r WHERE r.queue_id {{wanted}} AND r.span = $2 AND r.at >= $3 GROUP BY 1, 2"""
READ = {
    Dialect.POSTGRES: _READ.format(wanted="= ANY($1::int[])"),
    Dialect.SQLITE: _READ.format(wanted="IN (SELECT value FROM json_each($1))"),
}
LIVE = "SELECT id, name FROM queues WHERE deleted_at IS NULL"


def _series(rows: Iterable[Row], points: int) -> dict[str, list[int]]:
    """Six lists with a number for each point; a row of the future counts to the present."""
    found = {kind: [0] * points for kind in KINDS}
    for row in rows:
        point = min(row["point"], points - 1)
        for kind, numbers in found.items():
            numbers[point] += int(row[kind])
    return found


async def _read(
    session: Session, ids: Sequence[int], window: Window, start: int
) -> dict[int, dict[str, list[int]]]:
    """Queue id → its six lists."""
    rows = await session.fetch(
        READ[session.dialect],
        as_array(session.dialect, ids),
        window.span,
        start,
        window.step * 1000,
    )
    of: dict[int, list[Row]] = {queue_id: [] for queue_id in ids}
    for row in rows:
        of[row["queue_id"]].append(row)
    return {queue_id: _series(found, window.points) for queue_id, found in of.items()}


async def of_all(database: Database) -> dict[str, Any]:
    """`Stats`: the last 60 minutes of every live queue, by name."""
    window = WINDOWS["1h"]
    async with database.read() as session:
        at = await now(session)
        names = {row["id"]: row["name"] for row in await session.fetch(LIVE)}
        found = await _read(session, [*names], window, window.start(at))
    items = [
        {"queue": names[queue_id], **found[queue_id]}
        for queue_id in sorted(names, key=names.__getitem__)
    ]
    return {**_frame(window, at), "items": items}


async def of_one(database: Database, name: str, span: str) -> dict[str, Any]:
    """`QueueStats`: one queue over one of WINDOWS.

    Raises:
        NotFound: no live queue of that name.
    """
    window = WINDOWS[span]
    async with database.read() as session:
        queue_id = await queues.live_id(session, name)
        at = await now(session)
        found = await _read(session, [queue_id], window, window.start(at))
    return {"queue": name, "span": span, **_frame(window, at), **found[queue_id]}


def _frame(window: Window, at: int) -> dict[str, Any]:
    return {
        "as_of": stamp(at),
        "from": stamp(window.start(at)),
        "step_seconds": window.step,
    }

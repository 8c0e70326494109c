"""A database that was busy for a week: written straight into its tables, exact in its counts.

One event stands for each message, its last one, so that the log is as long as a scan of it
would be slow. The service must not be running meanwhile.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.answers import execute

WEEK = 7 * 86_400_000  # ms
LEASE = 12 * 3_600_000  # of what is being worked on: longer than any run
SPANS = {60: 86_400_000, 1_800: WEEK}  # s of a stretch of the rates → how long they are kept
ERRORS = 12  # different ones a queue

MESSAGES = """
INSERT INTO messages (id, queue_id, status, version, customer, items, total_cents, currency,
    reference, metadata, priority, attempts, lost_leases, available_at, entered_at, lease_epoch,
    receipt, worker, lease_expires_at, last_error, created_at, updated_at, finished_at)
WITH RECURSIVE series (n) AS (
    SELECT CAST(0 AS bigint) UNION ALL SELECT n + 1 FROM series WHERE n + 1 < {messages}
), drawn AS (
    SELECT n, {start} + n * {week} / {messages} AS at, n % {queues} AS place,
        CASE n / {queues} % 20 WHEN 13 THEN 'pending' WHEN 14 THEN 'pending'
            WHEN 15 THEN 'pending' WHEN 16 THEN 'failed' WHEN 17 THEN 'cancelled'
            WHEN 18 THEN 'expired' WHEN 19 THEN 'processing' ELSE 'completed' END AS status
    FROM series
)
SELECT {id}, q.id, status,
    CASE status WHEN 'pending' THEN 1 WHEN 'cancelled' THEN 2 WHEN 'expired' THEN 2
        WHEN 'processing' THEN 2 ELSE 3 END,
    'c-' || (n % 1000),
    '[{{"sku":"{sku}' || (n % {skus}) || '","quantity":1,"amount_cents":990}}]', 990, 'BRL',
    'no-' || n, '{{}}', 0, 0, 0, at, at,
    CASE WHEN status IN ('completed', 'failed', 'processing') THEN 1 ELSE 0 END,
    CASE status WHEN 'processing' THEN '{receipt}' END,
    CASE status WHEN 'processing' THEN 'w' || (n % 9) END,
    CASE status WHEN 'processing' THEN {now} + {lease} END,
    CASE status WHEN 'failed' THEN 'no such address: ' || (n / {queues} / 20 % {errors}) END,
    at, at, CASE WHEN status NOT IN ('pending', 'processing') THEN at END
FROM drawn JOIN queues q ON q.name = '{name}' || place"""
ID = {  # UUIDv7s in the order of their times
    "postgres": "CAST(lpad(to_hex(at), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0')"
    " || '8' || lpad(to_hex(n), 15, '0') AS uuid)",
    "sqlite": "substr(printf('%012x', at), 1, 8) || '-' || substr(printf('%012x', at), 9)"
    " || printf('-7%03x-8000-%012x', n % 4096, n)",
}
COUNTED = ", ".join(
    f"{status} = (SELECT count(*) FROM messages m WHERE m.queue_id = queue_counts.queue_id"
    f" AND m.status = '{status}')"
    for status in ("pending", "processing", "completed", "failed", "cancelled", "expired")
)
EVENTS = """
INSERT INTO events (seq, type, subject, message, queue, from_queue, customer, data, batch,
    created_at)
SELECT s.head + row_number() OVER (ORDER BY m.id),
    'order.' || CASE m.status WHEN 'pending' THEN 'created' ELSE m.status END,
    'order:' || m.id, m.id, q.name, q.name, m.customer,
    '{{"id":"' || m.id || '","reference":"' || m.reference || '","customer":"' || m.customer
        || '","queue":"' || q.name || '","previous_queue":null,"status":"' || m.status
        || '","previous_status":null,"reason":null,"version":' || m.version
        || ',"cancel_requested":false,"items":null,"total_cents":990,"currency":"BRL",'
        || '"available_at":"{stamp}","expires_at":null,"created_at":"{stamp}",'
        || '"updated_at":"{stamp}","finished_at":null}}',
    '00000000-0000-7000-8000-000000000000', m.created_at
FROM messages m JOIN queues q ON q.id = m.queue_id CROSS JOIN stream s
WHERE q.name LIKE '{name}%'"""
RATES = """
INSERT INTO queue_rates (queue_id, span, at, entered, claimed, done, failed, dropped)
SELECT queue_id, span, at - at % (span * 1000), count(*),
    sum(CASE WHEN status IN ('completed', 'failed', 'processing') THEN 1 ELSE 0 END),
    sum(CASE status WHEN 'completed' THEN 1 ELSE 0 END),
    sum(CASE status WHEN 'failed' THEN 1 ELSE 0 END),
    sum(CASE WHEN status IN ('cancelled', 'expired') THEN 1 ELSE 0 END)
FROM (SELECT queue_id, CAST({span} AS smallint) AS span, created_at AS at, status FROM messages
    WHERE created_at > {since}) AS m
GROUP BY 1, 2, 3"""
INDEXES = {  # those that are made again once everything is there, which is much faster
    "postgres": "SELECT indexname, indexdef FROM pg_indexes"
    " WHERE tablename IN ('messages', 'events') AND indexdef NOT LIKE 'CREATE UNIQUE%'",
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    " AND tbl_name IN ('messages', 'events') AND sql NOT LIKE 'CREATE UNIQUE%'",
}
HEAD = "UPDATE stream SET head = (SELECT max(seq) FROM events)"
MARK = "UPDATE rates_mark SET seq = (SELECT head FROM stream)"


def fill(url: str, messages: int, queues: int, *, name: str, sku: str, skus: int) -> float:
    """So many messages, over the queues `name0`, `name1` …, of the products `sku0`, `sku1` …

    Seconds that it took.
    """
    began, now = time.monotonic(), int(time.time() * 1000)
    dialect = url.partition(":")[0]
    given = {
        "messages": messages,
        "queues": queues,
        "name": name,
        "sku": sku,
        "skus": skus,
        "now": now,
        "start": now - WEEK,
        "week": WEEK,
        "lease": LEASE,
        "errors": ERRORS,
        "receipt": "0" * 32,
        "stamp": "2026-11-22T00:00:00.000Z",
        "id": ID[dialect],
    }
    with unindexed(url, INDEXES[dialect]):
        execute(url, MESSAGES.format(**given))
        execute(url, EVENTS.format(**given))
    execute(url, f"UPDATE queue_counts SET {COUNTED}")
    for span, kept in SPANS.items():
        execute(url, RATES.format(span=span, since=now - kept))
    execute(url, HEAD)
    execute(url, MARK)
    if dialect == "postgres":
        execute(url, "VACUUM ANALYZE")  # as of tables that grew over a week
    return time.monotonic() - began


@contextmanager
def unindexed(url: str, listing: str) -> Iterator[None]:
    """Without some indexes during the block."""
    found = execute(url, listing)
    for name, _ in found:
        execute(url, f"DROP INDEX {name}")
    yield
    for _, made in found:
        execute(url, made)

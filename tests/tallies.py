"""The rates of the queues, counted again event by event, each order followed through its queues."""

import json
from collections import Counter

from tests.ledger import Sql
from tests.services import until

KINDS = ("entered", "claimed", "returned", "done", "failed", "dropped")
AS = {
    "order.created": "entered",
    "order.processing": "claimed",
    "order.completed": "done",
    "order.forwarded": "done",
    "order.failed": "failed",
    "order.cancelled": "dropped",
    "order.expired": "dropped",
}
MARK = "SELECT s.head FROM rates_mark m JOIN stream s ON m.seq = s.head"
QUEUES = f"SELECT id, name, created_at, coalesce(deleted_at, {1 << 62}) FROM queues"
EVENTS = (
    "SELECT type, message, from_queue, queue, created_at, data FROM events"
    " WHERE message IS NOT NULL ORDER BY seq"
)
RATES = f"SELECT queue_id, span, at, {', '.join(KINDS)} FROM queue_rates"

Tally = Counter[tuple[int, int, int, str]]  # queue id, span, start of the bucket, kind


def counted(sql: Sql) -> Tally:
    """From the log: an order is in the queue that was open under the name when it came in."""
    queues = [row.split("|") for row in sql(QUEUES)]
    found: Tally = Counter()
    stands: dict[str, int] = {}

    def add(queue: int, at: int, kind: str) -> None:
        for span in (60, 1800):
            found[queue, span, at - at % (span * 1000), kind] += 1

    for row in sql(EVENTS):
        what, order, _, into, text, data = row.split("|", 5)
        at = int(text)
        kind = AS.get(what)
        if what == "order.requeued":
            again = json.loads(data)["reason"] in ("retried", "redriven")
            kind = "entered" if again else "returned"
        if kind is not None and order in stands:
            add(stands[order], at, kind)
        if what in ("order.created", "order.forwarded"):
            [stands[order]] = [
                int(number)
                for number, name, made, gone in queues
                if name == into and int(made) <= at < int(gone)
            ]
            add(stands[order], at, "entered")
    return found


def kept(sql: Sql) -> Tally:
    """What the buckets say."""
    found: Tally = Counter()
    for row in sql(RATES):
        queue, span, at, *numbers = map(int, row.split("|"))
        found.update({(queue, span, at, k): n for k, n in zip(KINDS, numbers, strict=True) if n})
    return found


def wrong(sql: Sql) -> list[str]:
    """Each bucket that is not what the log says, once all of it was folded."""
    told, true = until(lambda: _both(sql), 60, "the fold of the log")
    keys = sorted(told.keys() | true.keys())
    return [f"{key}: {told[key]}, should be {true[key]}" for key in keys if told[key] != true[key]]


def _both(sql: Sql) -> tuple[Tally, Tally] | None:
    """What is kept and what is counted; None if the log grew meanwhile, or is not folded yet."""
    if not (head := sql(MARK)):
        return None
    told, true = kept(sql), counted(sql)
    return (told, true) if sql(MARK) == head else None

"""What the service counts, for Prometheus. Values are handed in; nothing is fetched here.

Every label has a bounded set of values: routes are templates, methods are known ones.
"""

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
REGISTRY: Final = CollectorRegistry()
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

disable_created_metrics()  # a second series for every counter, which nobody asks for
ProcessCollector(registry=REGISTRY)


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(f"filaviva_{name}", meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str) -> Gauge:
    return Gauge(f"filaviva_{name}", meaning, registry=REGISTRY)


def _histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"filaviva_{name}", meaning, labels, buckets=buckets, registry=REGISTRY)


# --- HTTP -----------------------------------------------------------------------------
REQUESTS = _counter("http_requests", "Requests answered.", "route", "method", "status")
REQUEST_SECONDS = _histogram(
    "http_request_seconds", "Time to the start of the answer.", SECONDS, "route", "method"
)

# --- the write path -------------------------------------------------------------------
BATCHES = _counter("writer_batches", "Transactions of the writer that committed.")
BATCH_MOVES = _histogram("writer_batch_moves", "Moves in one transaction.", SIZES)
COMMIT_SECONDS = _histogram("writer_commit_seconds", "Time of one transaction.", SECONDS)
WAITING = _gauge("writer_waiting", "Commands that wait for the writer.")
MOVES = _counter("moves", "Moves of messages that committed.", "verb")
RETRIES = _counter("writer_retries", "Batches that were run again.", "reason")
SETTLED = _counter("writer_settled", "Lines lost at commit, by what was found out.", "outcome")
TERMINATED = _counter("writer_terminated", "Frozen writers of any process that were ended.")
EVENTS = _counter("events_appended", "Events appended to the log.")

# --- the live path --------------------------------------------------------------------
STREAMS = _gauge("streams_open", "Open streams.")
DELIVERIES = _counter("stream_deliveries", "Events written to streams.")
LEFT_OUT = _counter(
    "stream_left_out", "Events that a newer one replaced, once for all streams of the same topics."
)
ENDED = _counter(
    "streams_ended",
    "Streams that ended: the goodbye's reason, slow, broken or gone.",
    "reason",
)
GAPS = _counter("gaps_repaired", "Gaps in the feed that were read from the database.")
HEAD = _gauge("head", "Number of the last event this process has fed to its streams.")
LINE_SECONDS = _counter("line_seconds", "Time spent on telling orders their place in the line.")
PUBLISH_WAITING = _gauge("publish_waiting", "Batches that wait to be published to Redis.")
FROM_LOG = _counter(
    "events_from_log", "Events of the feed that were read from the database: nobody told them."
)
REDIS_UP = _gauge("redis_up", "1 while Redis takes what is published and it is heard, else 0.")
REDIS_PUBLISHING = _gauge("redis_publishing", "1 while Redis takes what is published, else 0.")
REDIS_HEARING = _gauge("redis_hearing", "1 while the subscription carries something, else 0.")
REDIS_SILENCE = _gauge("redis_silence_seconds", "Since anything was heard on the channel.")
REDIS_PUBLISHED = _counter("redis_published", "Batches of events that Redis took.")
REDIS_DROPPED = _counter("redis_dropped", "Batches that Redis did not take in time.")
REDIS_HEARD = _counter("redis_heard", "Batches of other processes that were heard.")
REDIS_GARBAGE = _counter("redis_garbage", "Messages on the channel that none of our own made.")
REDIS_SUBSCRIPTIONS = _counter("redis_subscriptions", "Subscriptions that were confirmed.")

# --- the database ---------------------------------------------------------------------
OLDEST_SNAPSHOT = _gauge("oldest_snapshot_seconds", "Age of the oldest snapshot held open.")


def request(route: str | None, method: str, status: int, seconds: float) -> None:
    """Count one answer. `route` is the template, None where no route matched."""
    where = route or "none"
    how = method if method in METHODS else "other"
    REQUESTS.labels(where, how, str(status)).inc()
    REQUEST_SECONDS.labels(where, how).observe(seconds)


def batch(moves: dict[str, int], events: int, seconds: float) -> None:
    """Count one committed transaction: moves by verb, its events, its time."""
    BATCHES.inc()
    BATCH_MOVES.observe(sum(moves.values()))
    COMMIT_SECONDS.observe(seconds)
    EVENTS.inc(events)
    for verb, count in moves.items():
        MOVES.labels(verb).inc(count)


def render() -> bytes:
    """Everything, in the text format of `CONTENT_TYPE`."""
    return generate_latest(REGISTRY)

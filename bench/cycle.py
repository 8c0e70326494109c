"""Whole lives in hundreds: post, claim and ack, by some workers at once."""

import http.client
import json
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

from bench import report, stand
from bench.ingest import BATCH, NAMES

HEAD = ("workers", "messages /s", "post ms", "claim ms", "ack ms")


class Worker:
    """One connection that posts a hundred, claims a hundred, acks what it got, over and over."""

    def __init__(self, service: stand.Service, name: str) -> None:
        token = service.account(name, "producer", "worker")
        self._line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self.done = 0
        self.times: dict[str, list[float]] = {"post": [], "claim": [], "ack": []}
        self.failure: BaseException | None = None

    def work(self, until: float) -> None:
        try:
            while time.monotonic() < until:
                self._turn()
        except BaseException as error:
            self.failure = error

    def _turn(self) -> None:
        queue = f"/queues/{stand.QUEUE}"
        self._call("post", f"{queue}/messages/batch", {"messages": [stand.PURCHASE] * BATCH})
        claimed = self._call("claim", f"{queue}/claim", {"max": BATCH})["messages"]
        if claimed:
            acks = [{"id": one["id"], "receipt": one["receipt"]} for one in claimed]
            self.done += self._call("ack", "/messages/ack", {"acks": acks})["accepted"]

    def _call(self, what: str, path: str, body: Any) -> Any:
        began = time.perf_counter()
        self._line.request("POST", stand.API + path, json.dumps(body), self._headers)
        answer = self._line.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {content[:200]!r}")
        self.times[what].append(time.perf_counter() - began)
        return json.loads(content)


def turn(service: stand.Service, workers: int, seconds: int) -> list[str]:
    """Some seconds of some workers: a row of the table."""
    crew = [Worker(service, f"crew-{workers}-{n}") for n in range(workers)]
    began = time.monotonic()
    threads = [threading.Thread(target=one.work, args=[began + seconds]) for one in crew]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in crew:
        if one.failure is not None:
            raise one.failure
    rate = sum(one.done for one in crew) / (time.monotonic() - began)
    times = [
        median([t for one in crew for t in one.times[what]]) for what in ("post", "claim", "ack")
    ]
    return [str(workers), f"{rate:,.0f}", *(f"{one * 1000:.1f}" for one in times)]


def measure(kind: str, crews: Sequence[int], seconds: int) -> str:
    with ExitStack() as stack:
        fresh = stack.enter_context(stand.databases(kind))
        service = stack.enter_context(stand.Service(**fresh()))
        turn(service, 3, 1)  # caches, statements
        rows = [turn(service, workers, seconds) for workers in crews]
    return f"### {NAMES[kind]}\n\n{report.table(HEAD, rows)}"


WORDS = f"""Each worker has one connection, over which it posts {BATCH} purchases, claims up to
{BATCH} and acks them in one call, for {{seconds}} s; `messages /s` are whole lives: three durable
transitions each. The times are medians of a call. The workers run on the same cores."""


def run(kinds: Sequence[str], crews: Sequence[int], seconds: int, *, write: bool) -> None:
    where = report.machine(kinds)
    tables = [measure(kind, crews, seconds) for kind in kinds]
    report.publish("Cycle", where, WORDS.format(seconds=seconds), *tables, write=write)

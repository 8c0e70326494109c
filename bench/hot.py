"""A hot product: every purchase names the same SKU, beside purchases of what is not counted."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import mean

from bench import ingest, load, report, stand
from bench.load import Result, Target

CONNECTIONS = 64
STOCK = 10**9
COUNTED, UNCOUNTED = "disc-hot", "disc-any"  # equally long: the bodies are
HEAD = (
    "processes",
    "counted /s",
    "not counted /s",
    "**counted ÷ not**",
    "counted p50 ms",
    "p99 ms",
    "not counted p50 ms",
    "p99 ms",
    "counted CPU µs",
    "not counted CPU µs",
)


def body(sku: str) -> bytes:
    line = {"sku": sku, "quantity": 1, "amount_cents": 990}
    return json.dumps({"customer": "c-7", "items": [line], "reference": "1042"}).encode()


def sides(crew: Sequence[stand.Service]) -> dict[str, list[Target]]:
    """Where to post what, at every process; the hot product has more than can be sold."""
    crew[0].account("keeper", "viewer")  # signs the admin in
    crew[0].call(f"/products/{COUNTED}/stock/receive", {"quantity": STOCK})
    path = f"{stand.API}/queues/{stand.QUEUE}/messages"
    found: dict[str, list[Target]] = {}
    for sku in (COUNTED, UNCOUNTED):
        token = crew[0].account(f"shop-{sku}", "producer")
        found[sku] = [Target(sku, one.url + path, body(sku), one.pid, token) for one in crew]
    return found


def press(targets: Sequence[Target], seconds: int) -> Result:
    """One round at all processes at once, which share the connections."""
    each = CONNECTIONS // len(targets)
    with ThreadPoolExecutor(len(targets)) as pool:
        parts = list(pool.map(lambda one: load.press(one, each, seconds), targets))
    return joined(parts)


def joined(parts: Sequence[Result]) -> Result:
    """Rounds that went on at the same time, as one."""
    rate = sum(part.rate for part in parts)
    return Result(
        rate,
        mean(part.p50 for part in parts),
        max(part.p99 for part in parts),
        sum(part.cpu * part.rate for part in parts) / rate,
    )


def measure(kind: str, rounds: int, seconds: int) -> list[str]:
    """Round after round of both, so that they meet the same machine; the medians, as a row."""
    found: dict[str, list[Result]] = {COUNTED: [], UNCOUNTED: []}
    with stand.crew(kind) as crew:
        targets = sides(crew)
        for sku in found:
            press(targets[sku], 1)  # caches, statements, connections
        for _ in range(rounds):
            for sku, results in found.items():
                results.append(press(targets[sku], seconds))
        count = len(crew)
    return row(count, *(ingest.middle(found[sku]) for sku in (COUNTED, UNCOUNTED)))


def row(processes: int, counted: Result, uncounted: Result) -> list[str]:
    return [
        str(processes),
        f"{counted.rate:,.0f}",
        f"{uncounted.rate:,.0f}",
        f"**{counted.rate / uncounted.rate:.2f}**",
        f"{counted.p50:.1f}",
        f"{counted.p99:.1f}",
        f"{uncounted.p50:.1f}",
        f"{uncounted.p99:.1f}",
        f"{counted.cpu:.0f}",
        f"{uncounted.cpu:.0f}",
    ]


WORDS = f"""Single posts of one line at {CONNECTIONS} connections, closed loop. `counted`: every
purchase names the same SKU, which has stock, so each transaction locks that one row; `not
counted`: its SKU has no stock. The target: counted is at least 0.8 of the other. Rounds alternate;
each number is the median of {{rounds}} rounds of {{seconds}} s. Two processes share the
connections, a wrk for each: their rates are added, p99 is the worse one. Load and databases run on
the same cores."""


def run(kinds: Sequence[str], rounds: int, seconds: int, *, write: bool) -> None:
    where = report.machine(kinds)
    tables = [
        f"### {ingest.NAMES[kind]}\n\n{report.table(HEAD, [measure(kind, rounds, seconds)])}"
        for kind in kinds
    ]
    words = WORDS.format(rounds=rounds, seconds=seconds)
    report.publish("Hot product", where, words, *tables, write=write)

"""Posts one by one and in hundreds, beside the twin, which does all of it but the storing."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bench import load, report, stand
from bench.load import Result, Target

BATCH = 100
NAMES = {
    "sqlite": "SQLite",
    "postgres": "PostgreSQL",
    "postgres+redis": "PostgreSQL and Redis",
}


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    seconds: int
    levels: Sequence[int] = (1, 16, 64, 256)
    batch_levels: Sequence[int] = (1, 4, 16)


def pressed(targets: Sequence[Target], connections: int, plan: Plan) -> dict[str, Result]:
    """Round after round of every target, so that all meet the same machine; the medians."""
    found: dict[str, list[Result]] = {target.name: [] for target in targets}
    for target in targets:
        load.press(target, connections, 1)  # caches, statements, connections
    for _ in range(plan.rounds):
        for target in targets:
            found[target.name].append(load.press(target, connections, plan.seconds))
    return {name: middle(results) for name, results in found.items()}


def middle(results: Sequence[Result]) -> Result:
    columns = zip(*((r.rate, r.p50, r.p99, r.cpu) for r in results), strict=True)
    return Result(*map(median, columns))


class Stand:
    """The service, its twin and the bare framework on one kind of database."""

    def __init__(self, stack: ExitStack, kind: str, **settings: str) -> None:
        fresh = stack.enter_context(stand.databases(kind))
        self.service = stack.enter_context(stand.Service(**fresh(), **settings))
        token = self.service.account("shop", "producer")
        answer = self.service.call(f"/queues/{stand.QUEUE}/messages", stand.PURCHASE, token)
        self.twin = stack.enter_context(stand.Twin(answer.content, **fresh(), **settings))
        self.bare = stack.enter_context(stand.Bare())
        self.url = f"{self.service.url}{stand.API}/queues/{stand.QUEUE}/messages"
        self._body = json.dumps(stand.PURCHASE).encode()

    def singles(self, name: str) -> list[Target]:
        """An account for each level: the limit of 120,000 calls a minute is an account's."""
        ours = self.service.account(name, "producer")
        its = self.twin.account(name, "producer")
        body, pid = self._body, self.service.pid
        twin = f"{self.twin.url}{stand.API}/twin"
        return [
            Target("single", self.url, body, pid, ours),
            Target("twin", twin, body, self.twin.pid, its),
            Target("keyed", self.url, body, pid, ours, unique=True),
            Target("json", f"{self.bare.url}/json", body, self.bare.pid),
            Target("empty", f"{self.bare.url}/empty", body, self.bare.pid),
        ]

    def batches(self, name: str) -> Target:
        body = json.dumps({"messages": [stand.PURCHASE] * BATCH}).encode()
        token = self.service.account(name, "producer")
        return Target("batch", f"{self.url}/batch", body, self.service.pid, token, BATCH)


SINGLE_HEAD = (
    "connections",
    "single /s",
    "twin /s",
    "**single ÷ twin**",
    "with a key /s",
    "bare JSON /s",
    "bare empty /s",
    "single p50 ms",
    "p99 ms",
    "single CPU µs",
    "twin CPU µs",
)


def single_row(label: str, found: dict[str, Result]) -> list[str]:
    single, twin = found["single"], found["twin"]
    return [
        label,
        f"{single.rate:,.0f}",
        f"{twin.rate:,.0f}",
        f"**{single.rate / twin.rate:.2f}**",
        f"{found['keyed'].rate:,.0f}",
        f"{found['json'].rate:,.0f}",
        f"{found['empty'].rate:,.0f}",
        f"{single.p50:.1f}",
        f"{single.p99:.1f}",
        f"{single.cpu:.0f}",
        f"{twin.cpu:.0f}",
    ]


def measure(kind: str, plan: Plan) -> str:
    """The tables of one kind of database."""
    rows: list[list[str]] = []
    batches: list[list[str]] = []
    reference = 0.0
    with ExitStack() as stack:
        here = Stand(stack, kind)
        for level in plan.levels:
            found = pressed(here.singles(f"shop-{level}"), level, plan)
            reference = found["single"].rate if level == 64 else reference
            rows.append(single_row(str(level), found))
        for level in plan.batch_levels:
            one = pressed([here.batches(f"bulk-{level}")], level, plan)["batch"]
            batches.append(batch_row(level, one, reference))
    with ExitStack() as stack:
        free = Stand(stack, kind, RATE_LIMITS="off")
        rows.append(single_row("64, limits off", pressed(free.singles("shop-off"), 64, plan)))
    head = ("connections", "messages /s", "**÷ single at 64**", "p50 ms", "p99 ms", "CPU µs")
    return "\n\n".join(
        [
            f"### {NAMES[kind]}",
            report.table(SINGLE_HEAD, rows),
            f"Batches of {BATCH}:",
            report.table(head, batches),
        ]
    )


def batch_row(level: int, one: Result, reference: float) -> list[str]:
    ratio = f"**{one.rate / reference:.1f}**" if reference else "–"
    numbers = [f"{one.p50:.1f}", f"{one.p99:.1f}", f"{one.cpu:.0f}"]
    return [str(level), f"{one.rate:,.0f}", ratio, *numbers]


WORDS = """`single` is one durable post of a purchase of two lines; `with a key` the same with an
idempotency key of its own. The **twin** is the same service with one more route: the same
layers, credential, role, rate limit, model of the body and size of the answer, but nothing is
stored. `bare JSON` is a FastAPI route that parses the body, `bare empty` one that does nothing.
Load: wrk, one thread, on the same cores as everything else. Rounds are interleaved (single,
twin, with a key, …, and again); each number is the median of {rounds} rounds of {seconds} s.
Rate limits are on as in production, an account for each row, but for the row that says
otherwise. CPU is that of the process for one message, PostgreSQL's not included."""


def run(kinds: Sequence[str], plan: Plan, *, write: bool) -> None:
    where = report.machine(kinds)
    words = WORDS.format(rounds=plan.rounds, seconds=plan.seconds)
    tables = [measure(kind, plan) for kind in kinds]
    report.publish("Ingest", where, words, *tables, write=write)

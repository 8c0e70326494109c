"""A flash sale: purchases of one disc that arrive by the clock, so many a second."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench import load, report, stand
from bench.arrivals import LOST, Found, Plan, arrive
from bench.ingest import NAMES

DISC = "disc-001"
STOCK = 1_000_000
CUSTOMERS = 1_000
P99_MS = 100  # what the first rate has to keep
HEAD = (
    "purchases /s",
    "accepted",
    "5xx or lost",
    "other refusals",
    "p50 ms",
    "**p99 ms**",
    "max ms",
    "client late p99 ms",
    "max ms",
    "client CPU",
    "service CPU",
)


class Oversold(Exception):
    """What stock holds is not what was accepted."""


@dataclass(frozen=True, slots=True)
class Shop:
    """The processes that sell, and who posts the purchases."""

    crew: Sequence[stand.Service]
    token: str

    def sell(self, rate: float, seconds: float) -> list[str]:
        """Some seconds of a sale: a row of the table.

        Raises:
            Oversold: the purchases that were accepted are not the reserved ones.
        """
        path = f"{stand.API}/queues/{stand.QUEUE}/messages"
        urls = [service.url + path for service in self.crew]
        before, used = self._reserved(), self._used()
        found = arrive(Plan(urls, self.token, purchases(), rate, seconds))
        busy = (self._used() - used) / found.seconds
        accepted, held = found.statuses.get("201", 0), self._reserved() - before
        # What was lost on the way may have been accepted all the same.
        if not accepted <= held <= accepted + found.statuses.get(LOST, 0):
            raise Oversold(f"{accepted} purchases were accepted and {held} discs are reserved")
        return row(rate, found, busy)

    def _reserved(self) -> int:
        return self.crew[0].look(f"/products/{DISC}/stock")["reserved"]

    def _used(self) -> float:
        return sum(load.cpu_seconds(service.pid) for service in self.crew)


def purchases() -> list[str]:
    """One disc each, for many customers."""
    line = {"sku": DISC, "quantity": 1, "amount_cents": 990}
    return [json.dumps({"customer": f"c-{n}", "items": [line]}) for n in range(CUSTOMERS)]


def row(rate: float, found: Found, busy: float) -> list[str]:
    accepted = found.statuses.get("201", 0)
    failed = sum(
        n for status, n in found.statuses.items() if status == LOST or status.startswith("5")
    )
    return [
        f"{rate:g}",
        f"{accepted:,}",
        f"{failed:,}",
        f"{sum(found.statuses.values()) - accepted - failed:,}",
        f"{found.p50:.1f}",
        f"**{found.p99:.1f}**",
        f"{found.most:.1f}",
        f"{found.late_p99:.1f}",
        f"{found.late_most:.1f}",
        f"{found.busy:.0%}",
        f"{busy:.0%}",
    ]


@contextmanager
def opened(kind: str) -> Iterator[Shop]:
    """The disc is in the catalogue and on the shelf.

    Raises services.Missing.
    """
    with stand.crew(kind) as crew:
        token = crew[0].account("shop", "producer")
        disc = {"sku": DISC, "name": "For Those About To Rock", "price_cents": 990}
        crew[0].call("/products", disc)
        crew[0].call(f"/products/{DISC}/stock/receive", {"quantity": STOCK})
        yield Shop(crew, token)


def measure(kind: str, rates: Sequence[float], seconds: float) -> str:
    with opened(kind) as shop:
        shop.sell(rates[0], 2)  # caches, statements, connections
        rows = [shop.sell(rate, seconds) for rate in rates]
        processes = "one process" if len(shop.crew) == 1 else f"{len(shop.crew)} processes"
    return f"### {NAMES[kind]}, {processes}\n\n{report.table(HEAD, rows)}"


WORDS = f"""Each purchase is a single durable post of one copy of the same disc, which has stock:
its row is locked, counted down and told with `stock.changed` in the transaction that accepts it.
The purchases **arrive by the clock**, {{seconds:g}} s long, whatever became of those before them,
and a latency counts from the moment at which its purchase was due. The target: p99 below
{P99_MS} ms at 50 a second, and no 5xx. `client late` is how long after that moment the client
itself got to it, `CPU` the share of a core; a client that is late or busy measures itself. At the
end what is reserved is compared with what was accepted."""


def run(kinds: Sequence[str], rates: Sequence[float], seconds: float, *, write: bool) -> None:
    where = report.machine(kinds)
    tables = [measure(kind, rates, seconds) for kind in kinds]
    report.publish("Flash sale", where, WORDS.format(seconds=seconds), *tables, write=write)

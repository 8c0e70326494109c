"""An independent reader of the database: psql, its own connection, one statement a look.

One statement is one snapshot, so what it sees was true at one instant.
"""

import signal
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests import services

LOOKS_A_SECOND = 20  # at the least
PAUSE_SECONDS = 0.02  # between two looks
# Of the stock that moved lately: whole tables would take longer than a look may.
LOOK = """
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, count(*),
    coalesce(string_agg(concat_ws(' ', s.sku, s.on_hand, s.reserved, coalesce(held.n, 0),
        coalesce(booked.n, 0)), ', ') FILTER (WHERE NOT (0 <= s.reserved
        AND s.reserved <= s.on_hand AND s.reserved = coalesce(held.n, 0)
        AND s.on_hand = coalesce(booked.n, 0))), '')
FROM stock s
LEFT JOIN (
    SELECT one.key AS sku, sum(one.value::bigint) AS n
    FROM (
        SELECT reserved FROM messages WHERE status = 'pending' AND reserved IS NOT NULL
        UNION ALL
        SELECT reserved FROM messages WHERE status = 'processing' AND reserved IS NOT NULL
    ) AS m, json_each_text(m.reserved::json) AS one GROUP BY one.key
) AS held ON held.sku = s.sku
LEFT JOIN LATERAL (
    SELECT sum(m.change) AS n FROM stock_movements m WHERE m.sku = s.sku
) AS booked ON true
WHERE s.updated_at > extract(epoch FROM clock_timestamp()) * 1000 - 5000
"""
SCRIPT = f"SET enable_seqscan = off;PREPARE look AS {LOOK};EXECUTE look\n\\watch {PAUSE_SECONDS}\n"


@dataclass(frozen=True)
class Sight:
    """What it saw: how often it looked, how often at least in any whole second, what was wrong."""

    looks: int
    fewest: int
    levels: int  # stocks it looked at, all looks together
    wrong: list[str]  # "sku on_hand reserved held booked"


class Eye(services.Process):
    """Looks as often as it can, from the way in to the way out; then `sight` is what it saw."""

    sight: Sight
    end_signal = signal.SIGINT  # \\watch ends with it

    def __init__(self, cluster: services.Postgres, database: str) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="filaviva-")
        super().__init__(Path(self._temporary.name))
        self._cluster, self._database = cluster, database
        (self.folder / "look.sql").write_text(SCRIPT)

    def command(self) -> Sequence[str]:
        where = ["-h", "127.0.0.1", "-p", str(self._cluster.port), "-U", "postgres"]
        what = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-f", str(self.folder / "look.sql")]
        return [str(self._cluster.programs / "psql"), *where, "-d", self._database, *what]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PGOPTIONS": "-c application_name=eye"}

    def ready(self) -> bool:
        return "|" in self.log

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self.sight = _sight(self.log)
        self._temporary.cleanup()


def _sight(said: str) -> Sight:
    rows = [line.split("|", 2) for line in said.splitlines() if line.count("|") == 2]
    seconds = Counter(int(at) // 1000 for at, _, _ in rows)
    whole = range(min(seconds) + 1, max(seconds))  # the first and the last are parts of one
    return Sight(
        looks=len(rows),
        fewest=min((seconds[second] for second in whole), default=len(rows)),
        levels=sum(int(n) for _, n, _ in rows),
        wrong=sorted({wrong for _, _, wrong in rows if wrong}),
    )

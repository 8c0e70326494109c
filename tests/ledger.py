"""What a database itself says about messages, counters and the log, whichever it is."""

import sqlite3
from collections.abc import Callable
from contextlib import closing

from tests import services

Sql = Callable[[str], list[str]]  # a statement → its rows, the columns joined by |

STATUSES = ("pending", "processing", "completed", "failed", "cancelled", "expired")
COUNTED = (
    "SELECT q.name, m.status, count(*) FROM messages m JOIN queues q ON q.id = m.queue_id"
    " GROUP BY q.name, m.status"
)
KEPT = " UNION ALL ".join(
    f"SELECT q.name, '{status}', c.{status} FROM queue_counts c"
    f" JOIN queues q ON q.id = c.queue_id WHERE c.{status} <> 0"
    for status in STATUSES
)
# In one statement: leases run out meanwhile, also in queues that nobody works on any more.
DIFFERING = " UNION ALL ".join(
    f"SELECT '{name}', x.* FROM"
    f" (SELECT * FROM ({left}) AS l EXCEPT SELECT * FROM ({right}) AS r) AS x"
    for name, left, right in (("counted", COUNTED, KEPT), ("kept", KEPT, COUNTED))
)
MISSING = "SELECT head - floor - (SELECT count(*) FROM events WHERE seq > floor) FROM stream"
BROKEN = """
SELECT m.id FROM messages m LEFT JOIN (
    SELECT message, count(*) AS n, count(DISTINCT v) AS d, min(v) AS low, max(v) AS high
    FROM (SELECT message, {version} AS v FROM events WHERE message IS NOT NULL) AS told
    GROUP BY message
) AS h ON h.message = m.id
WHERE h.n IS NULL OR NOT (h.n = h.d AND h.low = 1 AND h.high = h.n AND m.version = h.n)"""


class Ledger:
    """Looks past the service into its database."""

    def __init__(self, sql: Sql, version: str) -> None:
        """`version` is the SQL for the version inside an event's data."""
        self.sql = sql
        self._broken = BROKEN.format(version=version)

    @classmethod
    def sqlite(cls, server: services.Server) -> "Ledger":
        """Of a server's own SQLite file."""
        path = f"{server.settings['DATA_DIR']}/filaviva.db"

        def sql(statement: str) -> list[str]:
            with closing(sqlite3.connect(path, timeout=30)) as database, database:
                return ["|".join(map(str, row)) for row in database.execute(statement)]

        return cls(sql, "json_extract(data, '$.version')")

    @classmethod
    def postgres(cls, cluster: services.Postgres, name: str) -> "Ledger":
        def sql(statement: str) -> list[str]:
            return cluster.sql(statement, name).splitlines()

        return cls(sql, "(data::json ->> 'version')::int")

    def counted(self) -> dict[tuple[str, str], int]:
        """Messages by queue and status, counted one by one."""
        return self._counts(COUNTED)

    def kept(self) -> dict[tuple[str, str], int]:
        """The same from the counters."""
        return self._counts(KEPT)

    def _counts(self, statement: str) -> dict[tuple[str, str], int]:
        rows = (row.split("|") for row in self.sql(statement))
        return {(queue, status): int(n) for queue, status, n in rows}

    def faults(self) -> list[str]:
        """What breaks a promise: counters that are wrong, gaps in the log or in a history."""
        found: list[str] = []
        if differing := self.sql(DIFFERING):
            found.append(f"counters differ: {', '.join(differing)}")
        if self.sql(MISSING) != ["0"]:
            found.append(f"{self.sql(MISSING)[0]} events are missing from the log")
        if broken := self.sql(self._broken):
            found.append(f"{len(broken)} histories are broken, {broken[0]} first")
        return found

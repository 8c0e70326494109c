"""Random requests from the OpenAPI document to every route, on both databases: [EXAMPLES]."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests import services
from tests.fuzzing import fuzz
from tests.house import House, running
from tests.soak import Report

EXAMPLES = 100
ROLES = ("admin", "viewer", "producer", "worker", "customer")


@contextmanager
def houses() -> Iterator[list[tuple[str, House]]]:
    """The service on SQLite and on PostgreSQL."""
    with services.postgres() as server, running() as on_sqlite:
        url = server.url(server.create())
        with running(DATABASE_URL=url) as on_postgres:
            yield [("sqlite", on_sqlite), ("postgres", on_postgres)]


def main(args: list[str]) -> Report:
    """EXAMPLES requests to each operation as each role; every broken promise is printed."""
    examples = int(args[0]) if args else EXAMPLES
    sent, broken = 0, 0
    with houses() as found:
        for name, house in found:
            for role in ROLES:
                findings = fuzz(house, role, examples, slow=role == "admin", random=True)
                sent += findings.sent
                broken += len(findings.broken)
                for text in findings.broken.values():
                    print(f"{name}, {role}: {text}", file=sys.stderr)
    return Report(sent, sent, "ok" if not broken else f"{broken} broken promises")

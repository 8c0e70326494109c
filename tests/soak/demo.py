"""All 56,902 purchases of 1997 through three queues, on SQLite and on PostgreSQL."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import demo
from tests import services
from tests.ledger import Ledger
from tests.soak import Report

PASSWORD = "a-password-of-the-soak"
SECONDS = 1_800


@contextmanager
def stage(kind: str) -> Iterator[tuple[services.Server, Ledger]]:
    """A service with the settings it has by default, and its database."""
    with ExitStack() as stack:
        if kind == "sqlite":
            server = stack.enter_context(services.Server(ADMIN_PASSWORD=PASSWORD))
            yield server, Ledger.sqlite(server)
            return
        source = os.environ.get("POSTGRES_FROM", "any")
        cluster = stack.enter_context(services.postgres(source))
        name = cluster.create()
        given = {"DATABASE_URL": cluster.url(name), "ADMIN_PASSWORD": PASSWORD}
        server = stack.enter_context(services.Server(**given))
        yield server, Ledger.postgres(cluster, name)


def run(server: services.Server, purchases: int) -> tuple[int, str]:
    """The demo as an operator starts it; its exit status and what it said."""
    command = [sys.executable, str(services.ROOT / "cli.py"), "demo", "--url", server.url]
    options = ["--password", PASSWORD, "--purchases", str(purchases)]
    done = subprocess.run(
        [*command, *options], cwd=server.folder, capture_output=True, text=True, timeout=SECONDS
    )
    return done.returncode, done.stdout + done.stderr


def faults(kind: str, purchases: int) -> list[str]:
    """One run on one database; what is wrong after it."""
    with stage(kind) as (server, ledger):
        started = time.monotonic()
        status, said = run(server, purchases)
        rate = re.search(r".* moves.* a second", said)
        print(f"{kind}: {rate[0] if rate else said}", flush=True)
        found = ledger.faults()
        finished = sum(n for (_, status), n in ledger.counted().items() if status in demo.FINISHED)
        if status != 0:
            found.append(f"the demo ended with {status}: {said}")
        if finished != purchases:
            found.append(f"{finished} of {purchases} have ended")
        print(f"{kind}: {time.monotonic() - started:.1f} s in all", flush=True)
        return [f"{kind}: {fault}" for fault in found]


def main(args: list[str]) -> Report:
    """`demo [PURCHASES [DATABASE…]]`: by default all, on both."""
    purchases = int(args[0]) if args else demo.ALL
    kinds = args[1:] or ["sqlite", "postgres"]
    found = [fault for kind in kinds for fault in faults(kind, purchases)]
    asked = purchases * len(kinds)
    done = asked if not found else 0
    return Report(asked, done, "; ".join(found) or "ok")

"""What was measured, where and with what, as sections of docs/measured.md."""

import os
import platform
import re
import sqlite3
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench import stand
from tests import services

MEASURED = services.ROOT / "docs" / "measured.md"
QUIET = 0.5
BUSY = ", so the machine was busy with other things and **these numbers are provisional**"
HEAD = """# Measured

Numbers of one machine, made by `python -m bench`; each section says which. Compare numbers of
one section only: the ratios travel, the absolute values do not.
"""


def said(*command: str) -> str:
    """The first line that a program prints, or `unknown`."""
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=services.ROOT
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (done.stdout.strip().splitlines() or [""])[0]


def commit() -> str:
    changed = said("git", "status", "--porcelain", "--untracked-files=no")
    return said("git", "rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def machine(kinds: Sequence[str]) -> str:
    """One paragraph: commit, date, cores, versions, and how busy the machine was."""
    busy = os.getloadavg()[0]
    databases = f"SQLite {sqlite3.sqlite_version}, "
    if any(kind != "sqlite" for kind in kinds):
        databases += f"PostgreSQL {stand.postgres_version()}, "
    return (
        f"Commit {commit()}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of "
        f"{processor()}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"{databases}"
        f"uvicorn {version('uvicorn')}, FastAPI {version('fastapi')}. "
        f"Load average when it began: {busy:.1f}{'' if busy < QUIET else BUSY}."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def publish(title: str, *parts: str, write: bool) -> None:
    """Print a section; with `write` also put it in the place of its predecessor."""
    section = f"## {title}\n\n" + "\n\n".join(parts) + "\n"
    print(section)
    if not write:
        return
    text = MEASURED.read_text() if MEASURED.exists() else HEAD
    old = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    kept, found = old.subn(lambda _: section + "\n", text, count=1)
    MEASURED.write_text((kept if found else f"{text}\n{section}").rstrip() + "\n")

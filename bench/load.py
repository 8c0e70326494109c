"""Load: `wrk` posting one body, or getting a page, over some connections for some seconds."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POST = Path(__file__).parent / "post.lua"


class NoWrk(Exception):
    """wrk is not here."""

    def __str__(self) -> str:
        return "the load is made by wrk, which is not on this machine; run: apt-get install wrk"


class Refused(Exception):
    """Not every answer was a success, so the number would be no measurement."""


@dataclass(frozen=True, slots=True)
class Target:
    """A route under load; an empty body: it is read. `messages` is how many a request carries."""

    name: str
    url: str
    body: bytes
    pid: int  # of the process that serves it
    token: str = ""
    messages: int = 1
    unique: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One round: messages a second, latency of a request in ms, CPU of the process in µs."""

    rate: float
    p50: float
    p99: float
    cpu: float


def wrk_path() -> str:
    """Raises NoWrk."""
    found = shutil.which("wrk")
    if found is None:
        raise NoWrk
    return found


@contextmanager
def _file(body: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(prefix="filaviva-body-") as file:
        file.write(body)
        file.flush()
        yield file.name


def cpu_seconds(pid: int) -> float:
    """What a process and all its threads have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _quiet(pid: int, seconds: float = 30) -> None:
    """Wait until a process has nothing left to do from the round before."""
    deadline = time.monotonic() + seconds
    used = -1.0
    while used != (now := cpu_seconds(pid)):
        if time.monotonic() > deadline:
            raise Refused(f"process {pid} does not come to rest")
        used = now
        time.sleep(0.1)


def press(target: Target, connections: int, seconds: int) -> Result:
    """One round of wrk.

    Raises:
        NoWrk: it is not here.
        Refused: an answer was no success, or a line broke.
    """
    with _file(target.body) as body:
        load = [f"-c{connections}", "-t1", f"-d{seconds}s", "--timeout", "10s", "-s", str(POST)]
        _quiet(target.pid)
        before = cpu_seconds(target.pid)
        own = [body, target.token or "none", *(["unique"] if target.unique else [])]
        done = subprocess.run(
            [wrk_path(), *load, target.url, "--", *own],
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
    used = cpu_seconds(target.pid) - before
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        raise Refused(f"{target.name}: wrk failed\n{done.stdout}{done.stderr}")
    return _result(target, json.loads(found[1]), used)


def _result(target: Target, said: dict[str, Any], used: float) -> Result:
    if said["refused"] or said["broken"] or not said["requests"]:
        raise Refused(f"{target.name}: {said}")
    done = target.messages * said["requests"]
    rate = done * 1e6 / said["microseconds"]
    return Result(rate, said["p50_us"] / 1000, said["p99_us"] / 1000, used * 1e6 / done)

"""The service's program without its imports: in a fork of a process that has done them once.

A start takes half a second of a core instead of one and a half, and all tests together have some
three hundred. A fork runs the same `cli.py` with the same arguments in a session of its own.
Soaks, benchmarks, and the tests of how it is started start it as a user does.
"""

import ctypes
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent.parent / "cli.py"
PR_SET_PDEATHSIG = 1
# All that it imports but `main`, which reads the settings when it is imported.
WARM = ["cli", "actions", "asyncapi", "edge", "openapi", "orders", "processes", "rates", "service"]
WARM += ["slowapi", "sse_starlette", "uvicorn.loops.auto", "babel.numbers", "jinja2"]

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(WARM)


class Fork:
    """`cli.py` with arguments, and what tests use of `subprocess.Popen`."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], *files: Path
    ) -> None:
        """What it says goes to the end of `files`: what it complains about to the last."""
        said, wrong = str(files[0]), str(files[-1])
        given = (list(arguments), str(folder), dict(environment), said, wrong)
        self._process: ForkServerProcess = _FORKS.Process(target=_run, args=given, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        if self._process.pid is None:
            raise RuntimeError("not started")
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its return code. Raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(["cli.py"], timeout or 0)
        return self._process.exitcode


def run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """`cli.py` to its end. Raises TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="filaviva-") as name:
        said, wrong = Path(name) / "out", Path(name) / "err"
        fork = Fork(arguments, folder, environment, said, wrong)
        try:
            status = fork.wait(seconds)
        except subprocess.TimeoutExpired:
            os.kill(fork.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(
            ["cli.py", *arguments], status, said.read_text("utf-8"), wrong.read_text("utf-8")
        )


def end_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """What a new process calls so that it gets this signal when its parent ends; Linux only."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: the child may only call
    return lambda: libc.prctl(PR_SET_PDEATHSIG, int(number))


def _run(
    arguments: list[str], folder: str, environment: dict[str, str], said: str, wrong: str
) -> None:
    if end := end_with_parent(signal.SIGKILL):
        end()
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    _direct(0, os.devnull, os.O_RDONLY)
    _direct(1, said, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    _direct(2, wrong, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.argv = [str(PROGRAM), *arguments]
    runpy.run_path(str(PROGRAM), run_name="__main__")


def _direct(number: int, path: str, how: int) -> None:
    opened = os.open(path, how, 0o600)
    os.dup2(opened, number)
    os.close(opened)

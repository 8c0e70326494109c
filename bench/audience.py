"""Readers and posts by the ten thousand: the two C programs beside this file, and who runs them.

Server and client have a core each, so that neither takes the other's.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import load
from tests import services

HERE = Path(__file__).parent
SERVER_CORE, CLIENT_CORE = 0, 1
CONNECTIONS = 4  # of the publisher: so few that none is idle until its server ends it


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started meanwhile stays on one core, with all its threads; so does this thread.

    Where there is one core only, everything shares it.
    """
    before = os.sched_getaffinity(0)
    if core in before:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def programs() -> Iterator["Programs"]:
    """Both, compiled. Raises services.Missing."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise services.Missing("no C compiler: apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory(prefix="filaviva-bench-") as name:
        folder = Path(name)
        for program in ("listeners", "publisher"):
            source = HERE / f"{program}.c"
            subprocess.run([compiler, "-O2", "-o", folder / program, source], check=True)
        yield Programs(folder)


@dataclass(frozen=True, slots=True)
class Request:
    """A GET of a stream."""

    paths: Sequence[str]  # the readers ask for these in turn
    headers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Posts:
    """What a publisher sends, whole requests in turn."""

    requests: Sequence[bytes]
    rate: float  # arrivals a second
    copies: int  # requests at once, each arrival
    seconds: float


@dataclass(frozen=True, slots=True)
class Published:
    """What became of the posts."""

    sent: int
    answered: int
    refused: int
    seconds: float
    late_ms: float  # the worst arrival, and it was the publisher that was late


@dataclass(frozen=True, slots=True)
class Heard:
    """Of a window, but for the first three and `ever`."""

    open: int
    closed: int
    deaf_closed: int
    ever: int  # events since the first one was opened
    events: int
    bytes: int
    seconds: float
    p50: float  # ms from the event's `time`
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the compiled programs are."""

    folder: Path

    @contextmanager
    def publisher(self, port: int, posts: Posts) -> Iterator["Publisher"]:
        """Posts that go on while the block runs."""
        with tempfile.NamedTemporaryFile(dir=self.folder) as file:
            for one in posts.requests:
                file.write(f"{len(one)}\n".encode() + one)
            file.flush()
            what = (file.name, posts.rate, posts.copies, posts.seconds)
            command = [self.folder / "publisher", port, CONNECTIONS, *what]
            with Publisher(command) as publisher:
                yield publisher

    @contextmanager
    def listeners(
        self, port: int, count: int, request: Request, *, deaf: int = 0
    ) -> Iterator["Listeners"]:
        """All are open, and `deaf` more that never read.

        Raises Fell where one is refused.
        """
        host, stream = f"Host: 127.0.0.1:{port}", "Accept: text/event-stream"
        headers, paths = self.folder / "headers", self.folder / "paths"
        headers.write_bytes(
            b"".join(f"{one}\r\n".encode() for one in (host, stream, *request.headers))
        )
        paths.write_text("\n".join(request.paths))
        command = [self.folder / "listeners", port, count, deaf, headers, paths]
        with Listeners(command) as listeners:
            yield listeners


class Fell(RuntimeError):
    """A program ended before its time: somebody closed its lines."""


class Program:
    """One of them, or another that is spoken with line by line. It runs on the client's core
    unless told otherwise.
    """

    def __init__(self, command: Sequence[object], core: int | None = CLIENT_CORE) -> None:
        self._command = [str(one) for one in command]
        self._core = core

    def __enter__(self) -> Self:
        with nullcontext() if self._core is None else on_core(self._core):
            self.popen = subprocess.Popen(
                self._command,
                cwd=services.ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        try:
            self.begin()
        except BaseException:
            self.close()
            raise
        return self

    def begin(self) -> None:
        """Waits until it is ready."""

    def tell(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{line}\n")
        self.popen.stdin.flush()

    def hear(self) -> str:
        """Its next line. Raises Fell where it ended instead."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise Fell(f"{Path(self._command[0]).name} failed, and says above why")
        return line

    @property
    def cpu(self) -> float:
        """Seconds that it used so far."""
        return load.cpu_seconds(self.popen.pid)

    def close(self) -> None:
        self.popen.kill()
        self.popen.communicate()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Publisher(Program):
    def result(self) -> Published:
        """Waits until all is answered. Raises Fell where it is not."""
        return Published(**json.loads(self.hear()))


class Listeners(Program):
    def begin(self) -> None:
        self.hear()

    def mark(self) -> None:
        """A window begins."""
        self.tell("mark")

    def heard(self) -> Heard:
        """The window so far."""
        self.tell("tell")
        return Heard(**json.loads(self.hear()))

    def until_heard(self, events: int, seconds: float) -> Heard:
        """Waits until so many events came ever, or time is over."""
        deadline = time.monotonic() + seconds
        while (found := self.heard()).ever < events and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

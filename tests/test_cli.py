"""The operator's door: each command does what its help says, and refuses in one line."""

import fcntl
import os
import pty
import re
import secrets
import select
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import asyncpg
import httpx
import pytest
from typer.testing import CliRunner

import cli
import config
import doctor
import instants
import metrics
from database import WRITER_NAME, Database
from tests import forks
from tests.conftest import absent
from tests.house import ADMIN_PASSWORD, API, SECRET_KEY, House
from tests.relay import Relay
from tests.services import ROOT, Postgres, RedisServer, Server, free_port, until
from tests.sse import Stream

COMMANDS = ("serve", "migrate", "config", "token", "doctor", "audit", "import", "demo")
SECONDS = 60.0
CUT_OFF = "timeout graceful shutdown exceeded"  # uvicorn's words
NOBODY = "postgres://u:hidden-password@127.0.0.1:1/none"


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line of a refusal; fails when there is more or other."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("filaviva: "), self.err
        assert self.out == ""
        return lines[0]


def environment(folder: Path, **settings: str) -> dict[str, str]:
    given = {"DATA_DIR": str(folder / "data"), **settings}
    named = {f"FILAVIVA_{name}": value for name, value in given.items()}
    return {"PATH": os.environ["PATH"], "HOME": str(folder), **named}


def run(folder: Path, *args: str, **settings: str) -> Done:
    """`cli.py` as a process, to its end."""
    done = forks.run(args, folder, environment(folder, **settings), SECONDS)
    return Done(done.returncode, done.stdout, done.stderr)


def beside(server: Server, *args: str, **settings: str) -> Done:
    """`cli.py` with the settings of a server that runs."""
    return run(server.folder, *args, **{**server.settings, **settings})


# --- help, settings -------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_how_it_is_written(command: str) -> None:
    """Each command's help has at least two lines that can be typed as they stand."""
    shown = CliRunner().invoke(cli.cli, [command, "--help"])
    assert shown.exit_code == 0
    _, _, examples = shown.output.partition("Examples:\n")
    assert examples.count(f"python cli.py {command}") >= 2


def test_help_lists_every_command() -> None:
    """No command is hidden from who asks for help, and each has its line in full."""
    shown = CliRunner().invoke(cli.cli, ["--help"]).output
    listed = dict(re.findall(r"^  (\w+) +(.+)$", shown.partition("Commands:")[2], re.MULTILINE))
    assert set(listed) == set(COMMANDS)
    assert [line for line in listed.values() if line.endswith("...")] == []


def test_config_masks_secrets(tmp_path: Path) -> None:
    """Whoever looks over an operator's shoulder learns no key, password or token."""
    hidden = [f"hidden-{secrets.token_hex(16)}" for _ in range(5)]
    key, password, metrics, database, redis = hidden
    done = run(
        tmp_path,
        "config",
        SECRET_KEY=key,
        ADMIN_PASSWORD=password,
        METRICS_TOKEN=metrics,
        DATABASE_URL=f"postgres://shop:{database}@db.example/filaviva",
        REDIS_URL=f"redis://:{redis}@cache.example:6379/0",
        PORT="9000",
    )
    assert done.status == 0
    assert [secret for secret in hidden if secret in done.out + done.err] == []
    assert re.search(r"FILAVIVA_PORT +9000 +8000 ", done.out)
    assert re.search(r"FILAVIVA_SECRET_KEY +\*\*\* +none ", done.out)
    assert "postgres://shop:***@db.example/filaviva" in done.out


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_wrong_settings_are_named(tmp_path: Path, command: str) -> None:
    """One line a fault, status 2, and nothing is made on the disk."""
    done = run(tmp_path, command, PORT="many", HOSTS="x")
    assert done.status == 2
    lines = done.err.splitlines()
    assert [line.split()[0].strip(":") for line in lines] == ["FILAVIVA_HOSTS", "FILAVIVA_PORT"]
    assert list(tmp_path.iterdir()) == []


# --- migrate --------------------------------------------------------------------------


def test_migrate_says_what_it_did(tmp_path: Path) -> None:
    """The first time it names what it applied, the second time there is nothing to do."""
    first, second = run(tmp_path, "migrate"), run(tmp_path, "migrate")
    assert (first.status, second.status) == (0, 0)
    assert re.fullmatch(r"applied 0_\w+\.py(, \w+\.py)*\n", first.out)
    assert second.out == "the schema is up to date\n"
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_migrate_without_a_database(tmp_path: Path) -> None:
    """A database that is away is a line with its address, without its password."""
    done = run(tmp_path, "migrate", DATABASE_URL=NOBODY)
    assert done.status == 1
    assert "postgres://u:***@127.0.0.1:1/none cannot be used" in done.refusal


# --- token ----------------------------------------------------------------------------


def test_a_token_opens_the_service(house: House) -> None:
    """What `token` prints, and nothing else, is a bearer that lives as long as was asked."""
    made = beside(house.servers[0], "token", "worker", "--days", "2")
    assert (made.status, made.err) == (0, "")
    header = {"Authorization": f"Bearer {made.out.strip()}"}
    me = house.client(None).get("/auth/me", headers=header).json()
    assert (me["username"], me["scope"]) == ("worker", "worker")
    left = instants.parse(me["expires_at"]) / 1000 - time.time()
    assert left == pytest.approx(2 * 86_400, abs=60)


def test_a_token_can_be_ended(house: House) -> None:
    """A bearer of a year is not for ever: it ends with the account's other tokens."""
    name = f"machine-{secrets.token_hex(4)}"
    body = {"username": name, "password": "x" * 12, "roles": ["viewer"]}
    assert house.client().post("/accounts", json=body).status_code == 201
    made = beside(house.servers[0], "token", name, "--days", "365")
    header = {"Authorization": f"Bearer {made.out.strip()}"}
    assert house.client(None).get("/queues", headers=header).status_code == 200
    changed = house.client().patch(f"/accounts/{name}", json={"revoke_tokens": True})
    assert changed.status_code == 200
    assert house.client(None).get("/queues", headers=header).status_code == 401


@pytest.mark.parametrize("days", ["0", "366", "-1", "1.5"])
def test_a_token_has_bounds(days: str) -> None:
    """From a day to a year, nothing else."""
    done = CliRunner().invoke(cli.cli, ["token", "admin", "--days", days])
    assert (done.exit_code, done.stdout) == (2, "")


def test_a_token_is_for_an_account(house: House) -> None:
    """There is none for a name that nobody has."""
    done = beside(house.servers[0], "token", "nobody")
    assert done.status == 1
    assert done.refusal == "filaviva: there is no active account 'nobody'"


def test_a_token_needs_the_services_key(tmp_path: Path, house: House) -> None:
    """Without database or key it says so, and makes neither: such a token would open nothing."""
    done = run(tmp_path, "token", "admin")
    assert "there is no database" in done.refusal
    where = {n: v for n, v in house.servers[0].settings.items() if n == "DATABASE_URL"}
    if where:
        done = run(tmp_path, "token", "admin", **where)
        assert "there is no secret key" in done.refusal
    assert done.status == 1
    assert list(tmp_path.iterdir()) == []


# --- doctor ---------------------------------------------------------------------------


class Patient(NamedTuple):
    """A small installation of its own that may be damaged."""

    server: Server
    sql: Callable[[str], object]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def patient(request: pytest.FixtureRequest) -> Iterator[Patient]:
    common = {"ADMIN_PASSWORD": ADMIN_PASSWORD, "SECRET_KEY": SECRET_KEY}
    if request.param == "sqlite":
        with Server(**common) as server:
            path = Path(server.settings["DATA_DIR"], "filaviva.db")
            fill(server)
            yield Patient(server, lambda sql: execute(path, sql))
        return
    cluster: Postgres = request.getfixturevalue("postgres_server")
    name = cluster.create()
    with Server(DATABASE_URL=cluster.url(name), **common) as server:
        fill(server)
        yield Patient(server, lambda sql: cluster.sql(sql, name))
    cluster.drop(name)


def execute(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.executescript(sql)


def fill(server: Server) -> None:
    """A few purchases, one of them done."""
    with httpx.Client(base_url=server.url + API, timeout=SECONDS) as http:
        form = {"username": "admin", "password": ADMIN_PASSWORD}
        token = http.post("/auth/token", data=form).json()["access_token"]
        http.headers["Authorization"] = f"Bearer {token}"
        body = {"customer": "c-7", "items": [{"sku": "disc-001", "quantity": 1}]}
        for _ in range(3):
            assert http.post("/queues/orders/messages", json=body).status_code == 201
        one = http.post("/queues/orders/claim", json={}).json()["messages"][0]
        receipt = {"receipt": one["receipt"]}
        assert http.post(f"/messages/{one['id']}/ack", json=receipt).status_code == 200


def test_doctor_finds_nothing(patient: Patient) -> None:
    """A healthy installation that serves passes every check."""
    done = beside(patient.server, "doctor")
    assert done.status == 0, done.out
    checked = {line[6:17].strip() for line in done.out.splitlines() if line.startswith("ok ")}
    assert checked >= {"settings", "files", "disk", "open files", "database", "durability"}
    assert checked >= {"schema", "clock", "snapshots", "audit", "redis"}
    assert "fail" not in done.out
    assert done.err == ""


DAMAGES = {
    "audit": (
        "UPDATE queue_counts SET pending = pending + 1",
        "UPDATE queue_counts SET pending = pending - 1",
        "queue orders: 3 pending, should be 2, counted one by one",
    ),
    "schema": (
        "UPDATE aerich SET version = 'x' || version",
        "UPDATE aerich SET version = substr(version, 2)",
        "it lacks 0_",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_doctor_finds_damage(patient: Patient, what: str) -> None:
    """What was changed behind the service's back fails, and is named with what to do."""
    damage, repair, text = DAMAGES[what]
    patient.sql(damage)
    try:
        done = beside(patient.server, "doctor")
    finally:
        patient.sql(repair)
    assert done.status == 1
    failed = re.findall(r"^fail  (.{11})(.+)\n +→ .+$", done.out, re.MULTILINE)
    assert [name.strip() for name, _ in failed] == [what]
    assert failed[0][1].startswith(text)


def test_doctor_looks_at_files(patient: Patient) -> None:
    """A key that every user of the machine can read is a failure, until it is mended."""
    data = Path(patient.server.settings["DATA_DIR"])
    data.mkdir(exist_ok=True)
    path = data / "secret-key"
    path.write_text("x" * 64)
    modes = data.stat().st_mode
    data.chmod(0o755)
    path.chmod(0o644)
    try:
        done = beside(patient.server, "doctor")
    finally:
        path.unlink()
        data.chmod(modes)
    assert done.status == 1
    assert f"fail  files      every user of this machine can read {path}" in done.out
    assert f"→ chmod 600 {path}" in done.out


def test_doctor_without_a_database(tmp_path: Path) -> None:
    """A database that is away fails in two lines, and its password is not shown."""
    done = run(tmp_path, "doctor", DATABASE_URL=NOBODY)
    assert done.status == 1
    said = r"^fail  database   it does not answer: .+\n +→ is it running"
    assert re.search(said, done.out, re.MULTILINE)
    assert "hidden-password" not in done.out + done.err
    assert done.err == ""


def test_doctor_without_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    """Redis that is away is worth a look and no failure: nothing depends on it."""
    assert run(tmp_path, "migrate").status == 0

    def doctor_says(url: str, text: str) -> Done | None:
        """It waits for Redis for 2 s: on a slow machine it may have to be asked again."""
        done = run(tmp_path, "doctor", REDIS_URL=url)
        return done if re.search(f"^{text}", done.out, re.MULTILINE) else None

    there = until(
        lambda: doctor_says(redis_server.url, "ok    redis      answers"), SECONDS, "it answers"
    )
    away = doctor_says("redis://127.0.0.1:1/0", "warn  redis      it does not answer")
    with Relay(redis_server.port) as relay:
        relay.lost = b"message"
        url, text = f"redis://127.0.0.1:{relay.port}/0", "warn  redis      .+ does not carry"
        lying = until(lambda: doctor_says(url, text), SECONDS, "it does not carry")
    assert away is not None
    assert (there.status, away.status, lying.status) == (0, 0, 0)


def test_doctor_makes_nothing(tmp_path: Path) -> None:
    """A look changes nothing: no folder, no database, no key."""
    assert run(tmp_path, "doctor").status == 1
    assert list(tmp_path.iterdir()) == []


async def test_doctor_sees_who_holds_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Old snapshots and frozen writers are named: both hold up whoever writes."""
    monkeypatch.setattr(doctor, "FROZEN_SECONDS", 0.0)
    monkeypatch.setattr(doctor, "SNAPSHOT_SECONDS", 0.0)
    settings = {"FILAVIVA_DATABASE_URL": postgres_url, "FILAVIVA_DATA_DIR": str(tmp_path)}
    db = Database(config.tortoise_orm(config.load(settings)))
    names = {"application_name": WRITER_NAME}
    holder = await asyncpg.connect(postgres_url, server_settings=names)
    await db.open()
    try:
        await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        found = [*await doctor.snapshots(db), *await doctor.writers(db)]
    finally:
        await db.close()
        await holder.close()
    assert [one.level for one in found] == [doctor.Level.WARN, doctor.Level.WARN]
    assert found[1].text == f"frozen: backend {holder.get_server_pid()}"


# --- serve: what it says --------------------------------------------------------------


class Terminal:
    """`cli.py serve` with its standard output on a terminal."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._master, slave = pty.openpty()
        self.log = folder / "log.txt"
        self.port = free_port()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "cli.py"), "serve"],
                cwd=folder,
                env=environment(folder, PORT=str(self.port), LOG_FORMAT="json", **settings),
                stdin=subprocess.DEVNULL,
                stdout=slave,
                stderr=log,
            )
        os.close(slave)

    def words(self) -> str:
        """What it has said when it is done with its first words."""
        said = b""
        deadline = time.monotonic() + SECONDS
        while b"curl -N" not in said or not said.endswith(b"\n"):
            assert time.monotonic() < deadline, said.decode()
            assert self.process.poll() is None, self.log.read_text()
            if select.select([self._master], [], [], 0.1)[0]:
                said += os.read(self._master, 65_536)
        return said.decode().replace("\r", "")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(SECONDS)
        os.close(self._master)


@contextmanager
def on_terminal(folder: Path, **settings: str) -> Iterator[Terminal]:
    terminal = Terminal(folder, **settings)
    try:
        yield terminal
    finally:
        terminal.close()


def by_bash(lines: list[str], folder: Path, last: str, **more: str) -> str:
    """What bash prints for the lines, up to a line with `last`: a stream does not end by itself."""
    script = folder / "lines.sh"
    script.write_text("\n".join(lines))
    with subprocess.Popen(
        ["timeout", "60", "bash", str(script)],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **more},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as shell:
        assert shell.stdout is not None
        shown = ""
        for line in shell.stdout:
            shown += line
            if last in line:
                break
        shell.terminate()
    return shown


def needs_curl() -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        absent("no curl or no bash: apt-get install curl bash")


def test_the_first_words_work(tmp_path: Path) -> None:
    """Copied into a shell, the two lines post a purchase and show its first event."""
    needs_curl()
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    with on_terminal(folder) as terminal:
        said = terminal.words()
        lines = [line for line in said.splitlines() if "curl" in line]
        shown = by_bash(lines, folder, "event: order.created")
    password = (folder / "data" / "admin-password").read_text().strip()
    assert len(lines) == 2
    assert f"admin, password {password} " in said
    for place in (f"http://127.0.0.1:{terminal.port}/docs", str(folder / "data"), "sqlite://"):
        assert place in said
    assert '"status":"pending"' in shown
    assert "event: order.created" in shown


def test_the_password_is_shown_once(tmp_path: Path) -> None:
    """The second start names the file, and no start writes the password into a log."""
    logs: list[str] = []
    said: list[str] = []
    for _ in range(2):
        with on_terminal(tmp_path) as terminal:
            said.append(terminal.words())
        logs.append(terminal.log.read_text())
    password = (tmp_path / "data" / "admin-password").read_text().strip()
    assert [password in words for words in said] == [True, False]
    assert f"admin, with the password in {tmp_path}/data/admin-password" in said[1]
    assert [log for log in logs if password in log] == []


def test_a_password_of_the_settings_is_not_shown(tmp_path: Path) -> None:
    """Then the lines take it from the variable that the operator has set."""
    needs_curl()
    with on_terminal(tmp_path, ADMIN_PASSWORD=ADMIN_PASSWORD) as terminal:
        said = terminal.words()
        lines = [line for line in said.splitlines() if "curl" in line]
        known = {"FILAVIVA_ADMIN_PASSWORD": ADMIN_PASSWORD}
        shown = by_bash(lines, tmp_path, "event: order.created", **known)
    assert ADMIN_PASSWORD not in said + terminal.log.read_text()
    assert "event: order.created" in shown


def test_a_password_that_opens_nothing_is_not_shown(tmp_path: Path, postgres_url: str) -> None:
    """A second machine makes a password file of its own, but admin has a password already."""
    with Server(DATABASE_URL=postgres_url, SECRET_KEY=SECRET_KEY):
        settings = {"DATABASE_URL": postgres_url, "SECRET_KEY": SECRET_KEY}
        with on_terminal(tmp_path, **settings) as terminal:
            said = terminal.words()
    assert (tmp_path / "data" / "admin-password").read_text().strip() not in said
    assert "admin, with the password the account was given" in said


def test_without_a_terminal_the_file_is_named(start_server: Callable[..., Server]) -> None:
    """A log that is collected gets the place of the password, never the password."""
    server = start_server()
    path = Path(server.settings["DATA_DIR"], "admin-password")
    line = f"the first password of admin is in {path}"
    until(lambda: line in server.log, SECONDS, line)
    assert path.read_text().strip() not in server.log
    assert f"serving at {server.url}" in server.log


# --- serve: what it refuses -----------------------------------------------------------


def refused(folder: Path, **settings: str) -> str:
    """The one line with which `serve` ends at once."""
    done = run(folder, "serve", **{"PORT": str(free_port()), **settings})
    assert done.status == 1
    return done.refusal


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """Two services on one port: the second says which."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        line = refused(tmp_path, PORT=port)
    assert line == f"filaviva: cannot listen on 127.0.0.1 port {port}: Address already in use"


def test_a_second_process_on_sqlite(start_server: Callable[..., Server]) -> None:
    """SQLite is for one process: the second names what several need."""
    first = start_server()
    line = refused(first.folder, DATA_DIR=first.settings["DATA_DIR"])
    assert "another process serves" in line
    assert "FILAVIVA_DATABASE_URL=postgres://" in line
    assert first.status("/readyz") == 200


def test_an_old_schema_in_production(tmp_path: Path) -> None:
    """Production never migrates by itself; it names the command, and after it starts."""
    line = refused(tmp_path, ENVIRONMENT="production")
    assert "python cli.py migrate" in line
    assert run(tmp_path, "migrate").status == 0
    with Server(DATA_DIR=str(tmp_path / "data"), ENVIRONMENT="production") as server:
        assert server.status("/readyz") == 200


def test_a_database_that_is_away(tmp_path: Path) -> None:
    """The line has the database's address, without its password."""
    line = refused(tmp_path, DATABASE_URL=NOBODY)
    assert "the database postgres://u:***@127.0.0.1:1/none cannot be used" in line


def test_a_database_that_is_none(tmp_path: Path) -> None:
    """A file that is no database is named, and left as it is."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "filaviva.db"
    path.write_text("these are not the tables you are looking for" * 100)
    before = path.read_bytes()
    assert "file is not a database" in refused(tmp_path)
    assert path.read_bytes() == before


def test_a_key_that_others_can_read(tmp_path: Path) -> None:
    """The key signs everything: a file that anybody can read is not used."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "secret-key"
    path.write_text("x" * 64)
    path.chmod(0o644)
    assert f"chmod 600 {path}" in refused(tmp_path)


def test_a_refusal_stands_in_the_log_file_too(tmp_path: Path) -> None:
    """Who logs into a file finds there why the service did not start."""
    file = tmp_path / "logs" / "filaviva.log"
    line = refused(tmp_path, DATABASE_URL=NOBODY, LOG_FILE=str(file))
    assert line.removeprefix("filaviva: ").split(" cannot")[0] in file.read_text()
    assert "Traceback" not in file.read_text()


# --- serve: its end -------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_ends(number: signal.Signals, start_server: Callable[..., Server]) -> None:
    """It says goodbye to its streams and ends with status 0, before the grace period does."""
    server = start_server(ADMIN_PASSWORD=ADMIN_PASSWORD)
    token = beside(server, "token", "admin").out.strip()
    header = {"Authorization": f"Bearer {token}"}
    with Stream(server.url, headers=header, topic=["queues"]) as stream:
        stream.first("hello")
        server.kill(number)
        assert stream.first("goodbye").json["reason"] == "shutdown"
    assert server.wait(SECONDS) == 0
    assert CUT_OFF not in server.log


def test_told_to_stop_while_a_worker_waits(start_server: Callable[..., Server]) -> None:
    """A worker that waits is answered with nothing, soon: most stops find some that wait."""
    server = start_server(ADMIN_PASSWORD=ADMIN_PASSWORD)
    header = {"Authorization": f"Bearer {beside(server, 'token', 'admin').out.strip()}"}
    answers: list[httpx.Response] = []

    def wait() -> None:
        url = f"{server.url}{API}/queues/orders/claim"
        body = {"wait_seconds": 20}
        answers.append(httpx.post(url, headers=header, json=body, timeout=SECONDS))

    worker = threading.Thread(target=wait)
    worker.start()
    queue = f"{server.url}{API}/queues/orders"
    with httpx.Client(headers=header, timeout=SECONDS) as client:
        until(lambda: client.get(queue).json()["last_claim_at"], SECONDS, "a claim")
    server.kill(signal.SIGTERM)
    assert server.wait(SECONDS) == 0
    assert CUT_OFF not in server.log
    worker.join(SECONDS)
    assert [(one.status_code, one.json()) for one in answers] == [(200, {"messages": []})]
    assert "Traceback" not in server.log


def test_told_to_stop_while_it_opens(tmp_path: Path) -> None:
    """A start that waits for somebody's migration can be given up."""
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "filaviva.db.migrating").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), "serve"],
            cwd=tmp_path,
            env=environment(tmp_path, PORT=str(free_port())),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        ) as service:
            until(lambda: holds(service.pid, Path(lock.name)), SECONDS, "the start")
            service.terminate()
            assert service.wait(SECONDS) == 0
            assert service.stderr is not None
            assert b"Traceback" not in service.stderr.read()


def holds(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    links = (link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir())
    with suppress(FileNotFoundError):  # one that was closed between the two looks
        return path in links
    return False


# --- the manual -----------------------------------------------------------------------


def test_the_manual_names_every_metric_and_command() -> None:
    """What can be run and what can be measured stands in docs/operations.md."""
    manual = (ROOT / "docs" / "operations.md").read_text()
    shown = re.findall(r"^# TYPE (filaviva_\w+) \w+$", metrics.render().decode(), re.MULTILINE)
    assert len(shown) > 10
    named = [*(f"| `{name}` |" for name in shown), *(f"| `{name}` |" for name in COMMANDS)]
    assert [name for name in named if name not in manual] == []

"""The database: open and close, transactions, snapshots, the two dialects, migrations.

Nothing here knows what is stored. Four doors lead in:

- `Database.read()`: one statement or a few, each seeing what is committed now.
- `Database.snapshot()`: several reads as of one instant, read-only, at most 5 s.
- `Database.transaction()`: the rare writes (settings, accounts). It survives a cancelled
  caller: a connection is either given back clean or closed.
- `Database.statement()`: one statement that writes, where many are wanted at once.

The writer keeps a connection of its own (`Database.connect_writer`).

All four give a `Session`: SQL with `$1`-style parameters, rows that are read by name.
`Session.orm` is what Tortoise's `using_db` wants.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import aiosqlite
import asyncpg
from aerich.migrate import Migrate
from aerich.models import Aerich
from aerich.utils import decompress_dict, import_py_module
from tortoise import BaseDBAsyncClient, Tortoise, connections
from tortoise.backends.asyncpg.client import AsyncpgDBClient
from tortoise.backends.asyncpg.client import TransactionWrapper as PostgresTransaction
from tortoise.backends.sqlite.client import SqliteClient
from tortoise.backends.sqlite.client import SqliteTransactionWrapper as SqliteTransaction
from tortoise.exceptions import BaseORMException, OperationalError

WRITER_NAME = "filaviva-writer"
OUR_NAMES = ["filaviva", WRITER_NAME]  # the pool's name is given by the settings
READ_SECONDS = 5.0  # a longer snapshot slows the head row down for everybody
WRITE_SECONDS = 10.0  # of one of the rare writes, before its commit
ACQUIRE_SECONDS = 5.0  # to get a connection; and for a commit or rollback on it
MIGRATION_LOCK = 0x66696C61766976  # "filaviv": the key of our advisory lock
MIGRATIONS = Path(__file__).parent / "migrations"

Row = Any  # asyncpg.Record or sqlite3.Row: both are read by name


class Dialect(Enum):
    """The two databases. `clock` is an SQL expression: milliseconds since 1970 UTC."""

    POSTGRES = "postgres"
    SQLITE = "sqlite"

    @property
    def clock(self) -> str:
        if self is Dialect.POSTGRES:
            return "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
        return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


def as_array(dialect: Dialect, values: Sequence[Any]) -> Any:
    """A list as an argument: an array on PostgreSQL, JSON on SQLite."""
    return list(values) if dialect is Dialect.POSTGRES else json.dumps(list(values))


class Failure(Enum):
    """What an error of a driver means for a transaction that has not sent its COMMIT."""

    TRANSIENT = "transient"  # nothing happened; the same again may work
    LOCKED = "locked"  # the same: waited too long for somebody's lock
    BROKEN = "broken"  # the line is gone
    STALE = "stale"  # decided on queues that were changed meanwhile: decide again
    DATA = "data"  # these values never work
    OTHER = "other"


class Changed(Exception):
    """What was to be read is gone since a moment ago: the same transaction again."""


_TRANSIENT = (
    Changed,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.QueryCanceledError,
)
_BROKEN = (
    OSError,
    EOFError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,  # admin shutdown, crash shutdown, cannot connect now
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    sqlite3.ProgrammingError,
    ValueError,  # aiosqlite: "no active connection"
)
_DATA = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    sqlite3.IntegrityError,
    sqlite3.DataError,
    OverflowError,
    UnicodeError,  # a text that no UTF-8 can hold; it is a ValueError too
)


def classify(error: BaseException) -> Failure:
    """What kind of failure a driver's exception is."""
    if isinstance(error, asyncpg.LockNotAvailableError):
        return Failure.LOCKED
    if isinstance(error, _TRANSIENT):
        return Failure.TRANSIENT
    if isinstance(error, _DATA):
        return Failure.DATA
    if isinstance(error, sqlite3.OperationalError):
        busy = "locked" in str(error) or "busy" in str(error)
        return Failure.LOCKED if busy else Failure.OTHER
    if isinstance(error, _BROKEN):
        return Failure.BROKEN
    return Failure.OTHER


DRIVER_ERRORS: tuple[type[BaseException], ...] = (
    BaseORMException,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sqlite3.Error,
    TimeoutError,
    ConnectionError,
)


class Session(Protocol):
    """A connection somebody else opened, perhaps with a transaction on it."""

    dialect: Dialect

    @property
    def orm(self) -> BaseDBAsyncClient: ...
    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]: ...
    async def execute(self, sql: str, *args: Any) -> None: ...
    async def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None: ...


async def now(session: Session) -> int:
    """The database's clock, milliseconds since 1970 UTC."""
    return int((await session.fetch(f"SELECT {session.dialect.clock} AS now"))[0]["now"])


class PostgresSession:
    dialect = Dialect.POSTGRES

    def __init__(self, connection: Any, orm: BaseDBAsyncClient | None = None) -> None:
        self.connection: asyncpg.Connection = connection
        self._orm = orm

    @property
    def orm(self) -> BaseDBAsyncClient:
        assert self._orm is not None, "the writer's session speaks SQL only"
        return self._orm

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        return await self.connection.fetch(sql, *args)

    async def execute(self, sql: str, *args: Any) -> None:
        await self.connection.execute(sql, *args)

    async def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        await self.connection.executemany(sql, rows)


@lru_cache(maxsize=512)
def _numbered(sql: str) -> str:
    """`$1` as SQLite numbers its parameters: `?1`."""
    return re.sub(r"\$(\d)", r"?\1", sql)


class SqliteSession:
    dialect = Dialect.SQLITE

    def __init__(self, connection: Any, orm: BaseDBAsyncClient | None = None) -> None:
        self.connection: aiosqlite.Connection = connection
        self._orm = orm

    @property
    def orm(self) -> BaseDBAsyncClient:
        assert self._orm is not None, "the writer's session speaks SQL only"
        return self._orm

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        return list(await self.connection.execute_fetchall(_numbered(sql), args))

    async def execute(self, sql: str, *args: Any) -> None:
        await self.connection.execute_fetchall(_numbered(sql), args)

    async def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        cursor = await self.connection.executemany(_numbered(sql), rows)
        await cursor.close()


def split_statements(script: str) -> Iterator[str]:
    """The statements of an SQL script, one by one."""
    pending = ""
    for part in script.split(";"):
        pending += part + ";"
        if sqlite3.complete_statement(pending):
            if pending.strip(" \n;"):
                yield pending
            pending = ""


class SqliteMigration(SqliteTransaction):
    """A transaction in which scripts run too.

    sqlite3's `executescript` commits first: a migration that failed half-way would stay
    half done.
    """

    async def execute_script(self, query: str) -> None:
        for statement in split_statements(query):
            await self.execute_query(statement)


async def _finish(work: Coroutine[Any, Any, Any], seconds: float | None = None) -> None:
    """Run to its end what must not be left half done, also when the caller is cancelled.

    `seconds`: for a server that may have fallen silent. Raises TimeoutError then.
    """
    task = asyncio.ensure_future(asyncio.wait_for(work, seconds))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await task
        raise


class Database:
    """What `lifespan` opens and closes. `url` is Tortoise's form of it."""

    def __init__(self, config: dict[str, Any], models: str = "models") -> None:
        """`config` is a Tortoise configuration with one connection `default`."""
        self._models = models
        default = config["connections"]["default"]
        self._credentials: dict[str, Any] = default["credentials"]
        self.dialect = Dialect.SQLITE if "file_path" in self._credentials else Dialect.POSTGRES
        self._config = config
        if self.dialect is Dialect.SQLITE:
            # One connection would make every read wait for the transaction that is open.
            reads = {**default, "credentials": {**self._credentials, "query_only": 1}}
            self._config = {**config, "connections": {"default": default, "reads": reads}}
        self._serving: int | None = None

    # --- open and close ---------------------------------------------------------------

    async def open(self) -> None:
        if self.dialect is Dialect.SQLITE:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        await Tortoise.init(config=self._config, _enable_global_fallback=True)
        if self.dialect is Dialect.SQLITE:
            # Both connections open now: a first use inside a request could be cancelled.
            for name in ("default", "reads"):
                await connections.get(name).execute_query_dict("SELECT 1")
        else:
            await self._refuse_unsafe()

    async def close(self) -> None:
        await Tortoise.close_connections()
        if self._serving is not None:
            os.close(self._serving)
            self._serving = None

    @property
    def path(self) -> Path:
        """The file of an SQLite database."""
        return Path(self._credentials["file_path"])

    def serve_alone(self) -> None:
        """Refuse a second serving process on one SQLite file.

        Raises:
            RuntimeError: another process serves this file.
        """
        if self.dialect is not Dialect.SQLITE:
            return
        self._serving = os.open(f"{self.path}.serving", os.O_CREAT | os.O_RDWR, 0o600)
        if not _locked(self._serving):
            raise RuntimeError(
                f"another process serves {self.path}; SQLite is for one process, "
                "set FILAVIVA_DATABASE_URL=postgres://… for several"
            )

    async def _refuse_unsafe(self) -> None:
        async with self.read() as session:
            if (await session.fetch("SHOW fsync"))[0]["fsync"] != "on":
                raise RuntimeError("PostgreSQL runs with fsync=off: what it accepts may be lost")

    # --- reading ----------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Session]:
        """A session for single statements: each sees what is committed when it starts."""
        if self.dialect is Dialect.SQLITE:
            client = cast(SqliteClient, connections.get("reads"))
            async with client._lock:
                yield SqliteSession(client._connection, SqliteTransaction(client))
        else:
            async with self._pooled() as (client, connection), asyncio.timeout(READ_SECONDS):
                yield PostgresSession(connection, client)

    @contextlib.asynccontextmanager
    async def snapshot(self, seconds: float = READ_SECONDS) -> AsyncIterator[Session]:
        """A session whose statements all see one instant. Read-only, at most `seconds`."""
        door = self._sqlite_snapshot if self.dialect is Dialect.SQLITE else self._postgres_snapshot
        async with door() as session, asyncio.timeout(seconds):
            yield session

    @contextlib.asynccontextmanager
    async def _sqlite_snapshot(self) -> AsyncIterator[Session]:
        client = cast(SqliteClient, connections.get("reads"))
        async with client._lock:
            connection = cast(aiosqlite.Connection, client._connection)
            wrapper = SqliteTransaction(client)
            try:
                # Whoever was cancelled after his BEGIN left it open: it would see old data
                # for ever, and the WAL would grow without bound.
                await _finish(connection.rollback())
                await connection.execute_fetchall("BEGIN")
                yield SqliteSession(connection, wrapper)
            except BaseException:
                # A statement that is given up goes on in its thread, and would be waited for.
                await connection.interrupt()
                raise
            finally:
                await _finish(connection.rollback())

    @contextlib.asynccontextmanager
    async def _postgres_snapshot(self) -> AsyncIterator[Session]:
        async with self._pooled() as (client, connection):
            transaction = connection.transaction(isolation="repeatable_read", readonly=True)
            try:
                await _finish(transaction.start(), READ_SECONDS)
                yield PostgresSession(connection, client)
            finally:
                if connection.is_in_transaction():  # not if it could not be started
                    await _finish(transaction.rollback(), ACQUIRE_SECONDS)

    @contextlib.asynccontextmanager
    async def _pooled(self) -> AsyncIterator[tuple[PostgresTransaction, asyncpg.Connection]]:
        """A connection of the pool, given back whatever happens to the caller."""
        parent = cast(AsyncpgDBClient, connections.get("default"))
        if parent._pool is None:
            await parent.create_connection(with_db=True)
        pool = cast(asyncpg.Pool, parent._pool)
        connection = await pool.acquire(timeout=ACQUIRE_SECONDS)
        try:
            client = PostgresTransaction(parent)
            client._connection = cast(asyncpg.Connection, connection)
            yield client, cast(asyncpg.Connection, connection)
        finally:
            # The pool resets what it gets back: an open transaction is rolled back there.
            await _finish(pool.release(connection))

    # --- writing ----------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """A read-write transaction: committed at the end of the block, else rolled back.

        It is not put into Tortoise's context: whoever writes in it hands it on, and a task
        started inside does not inherit it.
        """
        door = self._sqlite_write if self.dialect is Dialect.SQLITE else self._postgres_write
        async with door() as session:
            yield session

    @contextlib.asynccontextmanager
    async def statement(self) -> AsyncIterator[Session]:
        """A session for one statement that writes; on PostgreSQL it is its own transaction.

        That is less than half of the way there and back. It has to ask for durability itself.
        """
        if self.dialect is Dialect.SQLITE:
            async with self._sqlite_write() as session:
                yield session
        else:
            async with self._pooled() as (client, connection), asyncio.timeout(WRITE_SECONDS):
                yield PostgresSession(connection, client)

    @contextlib.asynccontextmanager
    async def _postgres_write(self) -> AsyncIterator[Session]:
        async with self._pooled() as (client, connection), asyncio.timeout(WRITE_SECONDS):
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(
                    "SET LOCAL lock_timeout = '4s'; SET LOCAL synchronous_commit = on;"
                    "SET LOCAL idle_in_transaction_session_timeout = '5s'"
                )
                yield PostgresSession(connection, client)
            except BaseException:
                with contextlib.suppress(*DRIVER_ERRORS):  # the pool resets it, or closes it
                    await _finish(transaction.rollback(), ACQUIRE_SECONDS)
                raise
            await _finish(transaction.commit(), ACQUIRE_SECONDS)

    @contextlib.asynccontextmanager
    async def _sqlite_write(
        self, wrapper: type[SqliteTransaction] = SqliteTransaction
    ) -> AsyncIterator[Session]:
        client = cast(SqliteClient, connections.get("default"))
        async with client._lock:
            connection = cast(aiosqlite.Connection, client._connection)
            try:
                await _finish(connection.rollback())
                # Deferred, a transaction that reads and then writes fails at once when
                # another process wrote between, whatever busy_timeout says.
                await connection.execute_fetchall("BEGIN IMMEDIATE")
                yield SqliteSession(connection, wrapper(client))
            except BaseException:
                await _finish(connection.rollback())
                raise
            await _finish(connection.commit())

    def writer_line(self) -> "WriterLine":
        """The connection of this process's writer; opened by its first `begin`."""
        if self.dialect is Dialect.SQLITE:
            return SqliteLine()
        options = {
            name: value
            for name, value in self._credentials.items()
            if name not in ("minsize", "maxsize", "application_name", "server_settings")
        }
        return PostgresLine({**options, "timeout": 2})

    # --- which database is this -------------------------------------------------------

    async def home(self, session: Session) -> str:
        """What identifies this database: a copy or an older state of it differs.

        PostgreSQL: system identifier, timeline, database. SQLite: a random id that stands in
        a file beside the database (a copied database finds none, or another).
        """
        if self.dialect is Dialect.SQLITE:
            return self._sqlite_home()
        rows = await session.fetch(
            "SELECT (SELECT system_identifier FROM pg_control_system())::text || '-' || "
            "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '-' || "
            "(SELECT oid FROM pg_database WHERE datname = current_database())::text AS home"
        )
        return str(rows[0]["home"])

    def _sqlite_home(self) -> str:
        beside = Path(f"{self.path}.home")
        with contextlib.suppress(FileExistsError), beside.open("x") as file:
            file.write(secrets.token_hex(16))
        status = self.path.stat()
        # The inode tells a restored or copied file even when its companion came along.
        return f"{beside.read_text().strip()}-{status.st_ino}"

    # --- migrations -------------------------------------------------------------------

    async def pending_migrations(self) -> list[str]:
        """The migrations this code has and the database has not, oldest first."""
        Migrate.app, Migrate.migrate_location = self._models, MIGRATIONS / self._models
        known = Migrate.get_all_version_files()
        try:
            async with self.read() as session:
                applied = set(
                    await Aerich.filter(app=self._models)
                    .using_db(session.orm)
                    .values_list("version", flat=True)
                )
        except (OperationalError, asyncpg.UndefinedTableError):
            applied = set()
        return [version for version in known if version not in applied]

    async def migrate(self) -> list[str]:
        """Bring the schema up to date; the names of what was applied.

        Under a lock: several at once wait for each other, all but the first find nothing to
        do. Each migration is one transaction: a failed one leaves the old schema.
        """
        async with self._migration_lock():
            done: list[str] = []
            if self.dialect is Dialect.SQLITE and (pending := await self.pending_migrations()):
                self._copy_before(pending[0])
            for version in await self.pending_migrations():
                await self._apply(version)
                done.append(version)
            return done

    def _copy_before(self, version: str) -> None:
        """Keep the file as it was: SQLite migrations cannot be undone by hand."""
        if self.path.exists() and self.path.stat().st_size > 0 and not version.startswith("0_"):
            source = sqlite3.connect(self.path)
            target = sqlite3.connect(f"{self.path}.before-{version.removesuffix('.py')}")
            with contextlib.closing(source), contextlib.closing(target):
                source.backup(target)

    async def _apply(self, version: str) -> None:
        info = next(m for m in Migrate.get_all_version_modules() if m.name + ".py" == version)
        module = import_py_module(info)
        async with self._migration() as client:
            await client.execute_script(AERICH_TABLE[self.dialect])
            await client.execute_script(await module.upgrade(client))
            state = decompress_dict(module.MODELS_STATE)
            await Aerich.create(using_db=client, version=version, app=self._models, content=state)

    @contextlib.asynccontextmanager
    async def _migration(self) -> AsyncIterator[BaseDBAsyncClient]:
        if self.dialect is Dialect.SQLITE:
            async with self._sqlite_write(SqliteMigration) as session:
                yield session.orm
        else:
            async with self._pooled() as (client, connection), connection.transaction():
                yield client

    @contextlib.asynccontextmanager
    async def _migration_lock(self) -> AsyncIterator[None]:
        if self.dialect is Dialect.POSTGRES:
            async with self._pooled() as (_, connection):
                await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK, timeout=600)
                try:
                    yield
                finally:
                    await connection.execute("SELECT pg_advisory_unlock($1)", MIGRATION_LOCK)
            return
        with Path(f"{self.path}.migrating").open("w") as file:  # noqa: ASYNC230
            while not _locked(file.fileno()):  # noqa: ASYNC110 - other processes set no event
                await asyncio.sleep(0.1)
            yield


def _locked(file: int) -> bool:
    """Take a file's lock unless somebody has it. A thread that waits could not be cancelled."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- the writer's line ----------------------------------------------------------------


class WriterLine(Protocol):
    """One connection that is used for one transaction after the other."""

    @property
    def session(self) -> Session: ...
    async def begin(self, lock_ms: int) -> None: ...
    async def patience(self, lock_ms: int) -> None: ...
    async def commit(self) -> None: ...
    async def rollback(self) -> None: ...
    async def drop(self) -> None: ...


class PostgresLine:
    """A connection outside the pool, by a name that every process knows.

    A frozen process leaves its backend waiting for it with locks held, and no timeout of
    PostgreSQL ends that; by the name the others find it (`terminate_frozen`).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._connection: asyncpg.Connection | None = None

    @property
    def session(self) -> Session:
        return PostgresSession(self._connection)

    async def begin(self, lock_ms: int) -> None:
        """Start a transaction whose waits for locks are bounded; opens the line if need be."""
        if self._connection is None or self._connection.is_closed():
            name = {"application_name": WRITER_NAME}
            self._connection = await asyncpg.connect(**self._options, server_settings=name)
        await self.session.execute(
            f"BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = {lock_ms};"
            "SET LOCAL statement_timeout = 5000;"
            "SET LOCAL idle_in_transaction_session_timeout = 5000"
        )

    async def patience(self, lock_ms: int) -> None:
        await self.session.execute(f"SET LOCAL lock_timeout = {lock_ms}")

    async def commit(self) -> None:
        assert self._connection is not None
        # A transaction that failed meanwhile answers a COMMIT with ROLLBACK, not an error.
        if await self._connection.execute("COMMIT") != "COMMIT":
            raise asyncpg.InterfaceError("the transaction was rolled back")

    async def rollback(self) -> None:
        if self._connection is not None and not self._connection.is_closed():
            await self._connection.execute("ROLLBACK")

    async def drop(self) -> None:
        """Cut the line: whatever it was doing, the next `begin` opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


class SqliteLine:
    """Tortoise's writing connection, held from `begin` to the end of the transaction."""

    def __init__(self) -> None:
        self._client = cast(SqliteClient, connections.get("default"))
        self._held = False  # the connection is ours: else its lock is somebody else's

    @property
    def _raw(self) -> aiosqlite.Connection:
        return cast(aiosqlite.Connection, self._client._connection)

    @property
    def session(self) -> Session:
        return SqliteSession(self._raw)

    async def begin(self, lock_ms: int) -> None:
        await self._client._lock.acquire()
        self._held = True
        await self._raw.rollback()
        await self._raw.execute_fetchall("BEGIN IMMEDIATE")

    async def patience(self, lock_ms: int) -> None:
        """Nobody waits for single rows here."""

    async def commit(self) -> None:
        await self._raw.commit()
        self._let_go()

    async def rollback(self) -> None:
        if self._held:
            await self._raw.rollback()
            self._let_go()

    def _let_go(self) -> None:
        self._held = False
        self._client._lock.release()

    async def drop(self) -> None:
        await self.rollback()


async def terminate_frozen(session: Session, seconds: float = 3.0) -> int:
    """End what of ours holds locks while its process does not answer; how many.

    Who has no transaction id has locked nothing: a long read is left alone.
    """
    if session.dialect is Dialect.SQLITE:
        return 0
    rows = await session.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = ANY($1) AND datname = current_database()"
        " AND backend_xid IS NOT NULL AND wait_event_type = 'Client'"
        " AND xact_start < clock_timestamp() - $2::interval",
        OUR_NAMES,
        timedelta(seconds=seconds),
    )
    return len(rows)


async def oldest_snapshot(session: Session) -> float:
    """Age in seconds of the oldest snapshot: while it is held the head row slows down."""
    if session.dialect is Dialect.SQLITE:
        return 0.0
    rows = await session.fetch(
        "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) AS age"
        " FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"
        " AND datname = current_database()"
    )
    return float(rows[0]["age"])


# The table aerich keeps its books in, as its own model describes it.
AERICH_TABLE = {
    Dialect.POSTGRES: """CREATE TABLE IF NOT EXISTS aerich (
        id SERIAL NOT NULL PRIMARY KEY, version VARCHAR(255) NOT NULL,
        app VARCHAR(100) NOT NULL, content JSONB NOT NULL);""",
    Dialect.SQLITE: """CREATE TABLE IF NOT EXISTS aerich (
        id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, version VARCHAR(255) NOT NULL,
        app VARCHAR(100) NOT NULL, content JSON NOT NULL);""",
}

"""The schema: made by migrations alone, with what neither Tortoise nor aerich carries over."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import database
from database import Dialect, Session
from folding import folded
from tests import forks
from tests.answers import execute
from tests.databases import opened
from tests.services import ROOT, Server, until

PARTIAL = {
    "queues_live_name",
    "messages_claim",
    "messages_reap",
    "messages_expire",
    "messages_finished_at",
    "messages_failed",
    "messages_reference",
    "messages_number",
    "events_message",
    "customers_newest",
}
UUID = "'01a1ff43-dd00-7b3e-8f21-4c5d6e7f8091'"
QUEUE = {
    "name": "'q'",
    "description": "''",
    "lease_seconds": "30",
    "max_attempts": "10",
    "max_lost_leases": "5",
    "backoff_seconds": "1",
    "retention_days": "30",
    "version": "1",
    "created_at": "1",
    "updated_at": "1",
    "deleted_at": "NULL",
}
MESSAGE = {
    "id": UUID,
    "queue_id": "1",
    "status": "'pending'",
    "version": "1",
    "customer": "'c-7'",
    "items": "'[]'",
    "total_cents": "NULL",
    "currency": "'BRL'",
    "metadata": "'{}'",
    "priority": "0",
    "attempts": "0",
    "lost_leases": "0",
    "available_at": "1",
    "entered_at": "1",
    "cancel_requested_at": "NULL",
    "lease_epoch": "0",
    "receipt": "NULL",
    "lease_expires_at": "NULL",
    "created_at": "1",
    "updated_at": "1",
    "finished_at": "NULL",
}
LEASED = {"status": "'processing'", "receipt": "'r'", "lease_expires_at": "1"}
WRONG: list[tuple[str, dict[str, str]]] = [
    *(
        ("queues", {column: value})
        for column, values in {
            "lease_seconds": ("0", "43201"),
            "max_attempts": ("0", "101"),
            "max_lost_leases": ("0", "101"),
            "backoff_seconds": ("-1", "901"),
            "retention_days": ("0", "3651"),
            "version": ("0",),
            "name": ("NULL", "'orders'"),
        }.items()
        for value in values
    ),
    *(
        ("messages", {column: value})
        for column, values in {
            "status": ("'done'", "'completed'", "'processing'", "NULL"),
            "version": ("0",),
            "total_cents": ("-1",),
            "priority": ("-1", "10"),
            "attempts": ("-1",),
            "lost_leases": ("-1",),
            "lease_epoch": ("-1",),
            "lease_expires_at": ("1",),
            "cancel_requested_at": ("1",),
            "finished_at": ("1",),
            "customer": ("NULL",),
        }.items()
        for value in values
    ),
    ("messages", {**LEASED, "receipt": "NULL"}),
    ("messages", {**LEASED, "lease_expires_at": "NULL"}),
    ("messages", {**LEASED, "finished_at": "1"}),
    ("messages", {"status": "'failed'", "finished_at": "1", "lease_expires_at": "1"}),
    ("messages", {"status": "'failed'", "finished_at": "1", "cancel_requested_at": "1"}),
]
RIGHT: list[tuple[str, dict[str, str]]] = [
    ("queues", {}),
    ("queues", {"name": "'orders'", "deleted_at": "1"}),
    ("messages", {}),
    ("messages", LEASED),
    ("messages", {**LEASED, "cancel_requested_at": "1"}),
    ("messages", {"receipt": "'r'"}),
    ("messages", {"status": "'completed'", "finished_at": "1"}),
]
COUNTS = ("pending", "processing", "completed", "failed", "cancelled", "expired")
BAD_MIGRATION = '''
"""The next schema: one good statement, one that fails."""

RUN_IN_TRANSACTION = True


async def upgrade(db):
    return "CREATE TABLE halfway (id INT); INSERT INTO nowhere VALUES (1);"


async def downgrade(db):
    return "DROP TABLE halfway;"

'''
SAME_MODELS = """
import asyncio, importlib, sys
from aerich.utils import decompress_dict, get_models_describe
import config, database
newest = sorted(
    (database.MIGRATIONS / "models").glob("[0-9]*.py"),
    key=lambda path: int(path.name.split("_")[0]),
)[-1]
state = importlib.import_module(f"migrations.models.{newest.stem}").MODELS_STATE
async def main():
    db = database.Database(config.tortoise_orm(config.settings()))
    await db.open()
    now = get_models_describe("models")
    await db.close()
    then = decompress_dict(state)
    differing = sorted(k for k in now.keys() | then.keys() if now.get(k) != then.get(k))
    sys.exit(f"differ: {differing}" if differing else 0)
asyncio.run(main())
"""


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database in which nothing is yet."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/filaviva.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def schema(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The URL of a database with the newest schema."""
    if request.param == "sqlite":
        url = f"sqlite://{tmp_path_factory.mktemp('schema')}/filaviva.db"
        assert migrate(url).returncode == 0
        yield url
        return
    server = request.getfixturevalue("postgres_server")
    name = server.create()
    assert migrate(server.url(name)).returncode == 0
    yield server.url(name)
    server.drop(name)


def environment(url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FILAVIVA_")}
    return {**kept, "FILAVIVA_DATABASE_URL": url, "FILAVIVA_LOG_FORMAT": "json"}


def start(url: str, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(url: str, *command: str) -> subprocess.CompletedProcess[str]:
    process = start(url, *command)
    output, _ = process.communicate(timeout=90)
    return subprocess.CompletedProcess(command, process.returncode, output)


def migrate(url: str) -> subprocess.CompletedProcess[str]:
    done = forks.run(["migrate"], ROOT, environment(url), 90)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout + done.stderr)


def insert(table: str, values: dict[str, str]) -> str:
    return f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())})"


def row(table: str, changes: dict[str, str]) -> str:
    return insert(table, {**(QUEUE if table == "queues" else MESSAGE), **changes})


def tables(url: str) -> set[str]:
    sql = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    if url.startswith("sqlite"):
        sql = "SELECT name FROM sqlite_master WHERE type = 'table'"
    return {name for (name,) in execute(url, sql)}


def versions(url: str) -> list[str]:
    return [name for (name,) in execute(url, "SELECT version FROM aerich ORDER BY id")]


# --- what the schema holds ------------------------------------------------------------


@pytest.mark.parametrize("table, changes", WRONG, ids=str)
def test_a_row_that_cannot_be_is_refused(schema: str, table: str, changes: dict[str, str]) -> None:
    """Every CHECK exists on both databases, and holds."""
    with pytest.raises(Exception, match=r"(?i)constraint|unique|not null|check"):
        execute(schema, row(table, changes))


@pytest.mark.parametrize("table, changes", RIGHT, ids=str)
def test_a_row_that_can_be_is_taken(schema: str, table: str, changes: dict[str, str]) -> None:
    """The checks refuse no row that the service writes."""
    execute(schema, row(table, changes))
    key = "id" if table == "messages" else "created_at"
    execute(schema, f"DELETE FROM {table} WHERE {key} = {UUID if table == 'messages' else 1}")


def test_counters_and_head_cannot_go_wrong(schema: str) -> None:
    """No counter below 0, one stream row, the floor between 0 and the head, counts of a queue."""
    for status in COUNTS:
        with pytest.raises(Exception, match=r"(?i)constraint"):
            execute(schema, f"UPDATE queue_counts SET {status} = -1")
    for change in ("floor = head + 1", "floor = -1", "swept = floor + 1", "id = 2"):
        with pytest.raises(Exception, match=r"(?i)constraint"):
            execute(schema, f"UPDATE stream SET {change}")
    with pytest.raises(Exception, match=r"(?i)constraint"):
        execute(schema, "INSERT INTO queue_counts (queue_id) VALUES (1)")
    assert execute(schema, "SELECT count(*) FROM stream") == [(1,)]


def test_whoever_was_erased_has_nothing_personal(schema: str) -> None:
    """The database itself takes no erased customer with anything left of him."""
    yes, no = ("1", "0") if schema.startswith("sqlite") else ("true", "false")
    erased = {"id": "'c-1'", "active": no, "created_at": "1", "erased_at": "1"}
    for column in ("nickname", "name", "email", "birth_date", "tags", "words", "active"):
        value = yes if column == "active" else "'x'"
        with pytest.raises(Exception, match=r"(?i)constraint"):
            execute(schema, insert("customers", {**erased, column: value}))
    execute(schema, insert("customers", erased))
    execute(schema, "DELETE FROM customers")


def test_partial_indexes_are_partial(schema: str) -> None:
    """The indexes that keep claims cheap are there, with their conditions."""
    sql = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    if schema.startswith("sqlite"):
        sql = "SELECT name, coalesce(sql, '') FROM sqlite_master WHERE type = 'index'"
    found = {name for name, text in execute(schema, sql) if " where " in text.lower()}
    assert found >= PARTIAL


def test_the_first_queue_and_the_log_are_there(schema: str) -> None:
    """An empty service has the queue `orders`, its counters, and a log at 0."""
    [(name, pending)] = execute(
        schema, "SELECT q.name, c.pending FROM queues q JOIN queue_counts c ON c.queue_id = q.id"
    )
    assert (name, pending) == ("orders", 0)
    assert execute(schema, "SELECT head, floor FROM stream") == [(0, 0)]


def test_the_newest_migration_knows_the_models(schema: str) -> None:
    """MODELS_STATE is what the models are: aerich's next migration starts from the truth."""
    done = run(schema, "-c", SAME_MODELS)
    assert done.returncode == 0, done.stdout


def test_the_database_has_every_column_of_the_models(schema: str) -> None:
    """Tables and columns written by hand are those the models name."""
    import models  # needs no settings and opens nothing

    for model in (
        models.Action,
        models.Queue,
        models.Message,
        models.Key,
        models.Event,
        models.Stream,
        models.QueueCount,
        models.QueueRate,
        models.RatesMark,
        models.Customer,
        models.CustomerCount,
        models.Process,
        models.Favourite,
        models.Cart,
        models.CartItem,
        models.Account,
        models.Revocation,
    ):
        table = model._meta.db_table
        if schema.startswith("sqlite"):
            sql = f"SELECT name FROM pragma_table_info('{table}')"
        else:
            sql = f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'"
        columns = {name for (name,) in execute(schema, sql)}
        assert columns == set(model._meta.fields_db_projection.values()), table


# --- how it is brought up to date -----------------------------------------------------


def test_two_at_once_make_one_schema(empty: str) -> None:
    """Several `migrate` at the same moment all end well, and only one of them did it."""
    started = [start(empty, "cli.py", "migrate") for _ in range(2)]
    outputs = [process.communicate(timeout=90)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 2, outputs
    assert sum("applied" in output for output in outputs) == 1
    assert sum("up to date" in output for output in outputs) == 1
    assert len(versions(empty)) == len(set(versions(empty))) > 0
    again = migrate(empty)
    assert (again.returncode, "up to date" in again.stdout) == (0, True)


def test_a_migration_that_fails_leaves_the_old_schema(empty: str, tmp_path: Path) -> None:
    """Its first statement is undone with its second; mended, it goes through."""
    assert migrate(empty).returncode == 0
    before, old = tables(empty), versions(empty)
    folder = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", folder)
    newest = max((folder / "models").glob("[0-9]*.py"), key=_number)
    state = newest.read_text().partition("MODELS_STATE =")[2]
    bad = folder / "models" / f"{_number(newest) + 1}_20990101000000_halfway.py"
    bad.write_text(f"{BAD_MIGRATION}\nMODELS_STATE ={state}")
    script = (
        "import pathlib, database, cli;"
        f"database.MIGRATIONS = pathlib.Path({str(folder)!r});"
        "cli.cli(['migrate'])"
    )
    failed = run(empty, "-c", script)
    assert failed.returncode != 0
    assert "nowhere" in failed.stdout
    assert (tables(empty), versions(empty)) == (before, old)
    bad.write_text(bad.read_text().replace("INSERT INTO nowhere VALUES (1);", ""))
    mended = run(empty, "-c", script)
    assert mended.returncode == 0, mended.stdout
    assert (tables(empty), versions(empty)) == (before | {"halfway"}, [*old, bad.name])
    if empty.startswith("sqlite"):
        [copy] = tmp_path.glob("filaviva.db.before-*")
        assert tables(f"sqlite://{copy}") == before


def _number(path: Path) -> int:
    return int(path.name.split("_")[0])


def test_production_refuses_a_schema_that_is_not_ready(
    empty: str, start_server: Callable[..., Server]
) -> None:
    """`serve` in production ends, says which command helps, and changes nothing."""
    refused = Server(DATABASE_URL=empty, ENVIRONMENT="production")
    try:
        refused.launch()
        assert refused.wait(60) != 0
        assert "cli.py migrate" in refused.log
        assert "queues" not in tables(empty)
    finally:
        refused.close()
    assert migrate(empty).returncode == 0
    ready = start_server(DATABASE_URL=empty, ENVIRONMENT="production")
    assert ready.status("/readyz") == 200


def test_development_migrates_by_itself(empty: str, start_server: Callable[..., Server]) -> None:
    """In development an empty database is brought up to date at the start; a lost book shows."""
    server = start_server(DATABASE_URL=empty)
    assert server.status("/readyz") == 200
    assert versions(empty)
    execute(empty, "DELETE FROM aerich")
    until(lambda: server.status("/readyz") == 503, 60, "an old schema is not ready")


# --- what a migration does with what is there -----------------------------------------

ACCENTED = ("Antônio 100%", "Tom Jobim e Élis", "plain", "STRASSE", "straße", "Ὀδυσσεύς")
LONG = "e\N{COMBINING ACUTE ACCENT}" * 150  # too long to filter by until its accents are gone


def _customer(number: int) -> dict[str, Any]:
    name = f"{ACCENTED[number % len(ACCENTED)]} {number}"
    nickname = None if number % 3 else f"Nô-{number}"
    return {"nickname": nickname, "name": name, "tags": ["Forró", "jazz"][: number % 3]}


def _product(number: int) -> dict[str, Any]:
    name = ACCENTED[number % len(ACCENTED)]
    about = [{}, {"artist": name, "genre": "Música"}, {"artist": 7}, {"artist": LONG}][number % 4]
    return {"sku": f"p-{number:04}", "name": name, "price_cents": 1, "attributes": about}


def _marks(text: str, fold: Callable[[str], str]) -> str | None:
    return mark if len(mark := fold(text)) <= 200 else None


def _searched(kind: str, number: int, fold: Callable[[str], str]) -> tuple[str | None, ...]:
    """What is stored of a row to search by: its words, and a product's artist and genre."""
    if kind == "customers":
        made = _customer(number)
        texts = [made["nickname"], made["name"], *made["tags"]]
        return ("\n".join(fold(text) for text in texts if text),)
    made = _product(number)
    about = made["attributes"]
    artist = about["artist"] if isinstance(about.get("artist"), str) else None
    words = "\n".join(fold(text) for text in (made["name"], artist) if text is not None)
    marks = [None if text is None else _marks(text, fold) for text in (artist, about.get("genre"))]
    return (words, *marks)


async def _fill(session: Session) -> None:
    """Rows as the version before wrote them: more than are brought up to date at once."""
    no = "FALSE" if session.dialect is Dialect.POSTGRES else "0"
    await session.executemany(
        "INSERT INTO customers (id, created_at, updated_at, version, nickname, name, tags, words)"
        " VALUES ($1, 1, 1, 7, $2, $3, $4, $5)",
        [
            (f"c-{n:04}", one["nickname"], one["name"], json.dumps(one["tags"]), words)
            for n in range(1_203)
            for one, (words,) in [(_customer(n), _searched("customers", n, str.casefold))]
        ],
    )
    await session.execute(
        f"INSERT INTO customers (id, created_at, erased_at, active) VALUES ('c-erased', 1, 2, {no})"
    )
    await session.executemany(
        "INSERT INTO products (sku, name, price_cents, currency, attributes, version, created_at,"
        " updated_at, words, artist, genre) VALUES ($1, $2, 1, 'BRL', $3, 7, 1, 1, $4, $5, $6)",
        [
            (one["sku"], one["name"], json.dumps(one["attributes"]), *made)
            for n in range(1_007)
            for one, made in [(_product(n), _searched("products", n, str.casefold))]
        ],
    )


async def _stored(session: Session) -> tuple[list[Any], list[Any]]:
    customers = await session.fetch(
        "SELECT id, words, version, updated_at FROM customers WHERE erased_at IS NULL ORDER BY id"
    )
    products = await session.fetch(
        "SELECT sku, words, artist, genre, version, updated_at FROM products ORDER BY sku"
    )
    return [tuple(row) for row in customers], [tuple(row) for row in products]


def _expected(fold: Callable[[str], str]) -> tuple[list[Any], list[Any]]:
    customers = [(f"c-{n:04}", *_searched("customers", n, fold), 7, 1) for n in range(1_203)]
    products = [(f"p-{n:04}", *_searched("products", n, fold), 7, 1) for n in range(1_007)]
    return customers, products


async def test_what_is_there_loses_its_accents(
    empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is found as if it were new, at the version it had; and the way back is open."""
    folder = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", folder)
    [new] = (folder / "models").glob("6_*.py")
    for path in (folder / "models").glob("[0-9]*.py"):
        if _number(path) >= _number(new):
            path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", folder)
        async with opened(empty) as db, db.transaction() as session:
            await _fill(session)
    async with opened(empty) as db:
        async with db.transaction() as session:
            assert await _stored(session) == _expected(folded)
            module = importlib.import_module(f"migrations.models.{new.stem}")
            await session.execute(await module.downgrade(session.orm))
            assert await _stored(session) == _expected(str.casefold)
            await session.execute("DELETE FROM aerich WHERE version LIKE '6%'")
        assert new.name in await db.migrate()
        async with db.read() as session:
            assert await _stored(session) == _expected(folded)

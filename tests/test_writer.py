"""Group commit under attack: bounds, bad values, held rows and keys, lost lines, gone callers."""

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from tortoise import connections
from tortoise.backends.sqlite.client import SqliteClient

import database
import errors
import events
import metrics
import moves
import queues
import writer as writers
from database import Database, Failure, PostgresLine, SqliteLine, classify
from events import Appended, Event
from moves import Claim, Enqueue
from schemas import Purchase
from tests.databases import opened
from tests.ledger import BROKEN, COUNTED, KEPT, MISSING
from tests.life import purchase
from tests.services import Postgres
from writer import Writer

BAD = 10  # a priority: no caller gets it past the schemas; the database refuses it


@dataclass
class Clock:
    """The writers' clock: it stands still, so that no slow machine makes them give up."""

    now: float = 1_000.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


@dataclass
class Stand:
    """A writer on an empty database, what it committed, and doors for others."""

    db: Database
    writer: Writer
    clock: Clock
    committed: list[tuple[Appended, Sequence[Event]]] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)

    @property
    def postgres(self) -> bool:
        return self.db.dialect is database.Dialect.POSTGRES

    async def second(self) -> Writer:
        """Another process's writer on the same database, which shares nothing with the first."""
        made = Writer(self.db, lambda appended, logged: None)
        await made.start()
        self.others.append(made)
        return made

    async def stranger(self, name: str = "stranger") -> asyncpg.Connection:
        """A connection of somebody who does as he likes."""
        options = {**self.db._credentials}
        for ours in ("minsize", "maxsize", "application_name"):
            options.pop(ours)
        line = await asyncpg.connect(**options, server_settings={"application_name": name})
        self.others.append(line)
        return line

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        async with self.db.read() as session:
            return list(await session.fetch(sql, *args))

    async def post(self, queue: str = "orders", key: str | None = None, **wish: Any) -> str:
        """A new message; its id."""
        return (await self.writer.do(enqueue(queue, key, **wish))).shape["id"]

    async def leased(self) -> dict[str, Any]:
        await self.post()
        return (await self.writer.do(claim()))[0]

    async def close(self) -> None:
        for one in self.others:
            await (one.stop() if isinstance(one, Writer) else one.close())
        await self.writer.stop()

    async def check(self) -> None:
        """Counters, histories and numbers fit together."""
        version = (
            "(data::json ->> 'version')::int"
            if self.postgres
            else "json_extract(data, '$.version')"
        )
        counted = {tuple(row) for row in await self.fetch(COUNTED)}
        assert {tuple(row) for row in await self.fetch(KEPT)} == counted
        assert (await self.fetch(MISSING))[0][0] == 0
        assert await self.fetch(BROKEN.format(version=version)) == []


def enqueue(queue: str = "orders", key: str | None = None, **wish: Any) -> Enqueue:
    made: Purchase = purchase().model_copy(update=wish)
    return Enqueue(queue, made, "shop", key)


def claim(most: int = 1, queue: str = "orders") -> Claim:
    return Claim(queue, most, None, "w1", "worker")


def ack(found: dict[str, Any]) -> moves.Ack:
    return moves.Ack(found["id"], found["receipt"], "worker")


@contextlib.asynccontextmanager
async def standing(url: str) -> AsyncIterator[Stand]:
    """A database, and a writer at work on it."""
    async with opened(url) as db:
        await events.settle_home(db)
        committed: list[tuple[Appended, Sequence[Event]]] = []
        made = Writer(db, lambda appended, logged: committed.append((appended, logged)))
        with pytest.MonkeyPatch.context() as patch:
            stand = Stand(db, made, Clock(), committed)
            patch.setattr(writers, "time", stand.clock)
            await made.start()
            try:
                yield stand
            finally:
                await stand.close()


@pytest.fixture(scope="session")
def migrated(postgres_server: Postgres) -> str:
    """The name of a database with our schema, to be copied."""
    name = postgres_server.create()

    async def build() -> None:
        async with opened(postgres_server.url(name)):
            return

    asyncio.run(build())
    return name


@pytest.fixture
def copy(postgres_server: Postgres, migrated: str) -> Iterator[str]:
    """The URL of a database that has our schema and nothing else."""
    name = postgres_server.create(migrated)
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture
async def on_postgres(copy: str) -> AsyncIterator[Stand]:
    async with standing(copy) as stand:
        yield stand


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both databases in turn."""
    if request.param == "postgres":
        return request.getfixturevalue("copy")
    return f"sqlite://{tmp_path}/filaviva.db"


@pytest.fixture
async def stand(place: str) -> AsyncIterator[Stand]:
    async with standing(place) as found:
        yield found


async def until(probe: Callable[[], Awaitable[Any]], seconds: float = 60) -> Any:
    """The first true answer of `probe`."""
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline
        if answer := await probe():
            return answer
        assert not late, "it never came"
        await asyncio.sleep(0.01)


def retries(reason: Failure) -> float:
    return metrics.RETRIES.labels(reason.value)._value.get()


async def tried(reason: Failure, times: int = 1) -> None:
    """Until so many transactions more have failed for a reason."""
    enough = retries(reason) + times

    async def failed() -> bool:
        return retries(reason) >= enough

    await until(failed)


# --- group commit ---------------------------------------------------------------------


async def test_many_commands_share_a_transaction(stand: Stand) -> None:
    """What gathers while one transaction commits goes into the next, all of it."""
    answers = await asyncio.gather(*(stand.writer.do(enqueue()) for _ in range(500)))
    assert len({one.shape["id"] for one in answers}) == 500
    assert [len(logged) for _, logged in stand.committed] == [500]
    await asyncio.gather(*(stand.post() for _ in range(3)))
    assert len(stand.committed) == 2
    await stand.check()


async def test_an_answer_comes_after_its_commit(stand: Stand) -> None:
    """P1: at the moment of the answer another connection sees what it says."""

    async def one() -> None:
        message = await stand.post()
        assert len(await stand.fetch("SELECT id FROM messages WHERE id = $1", message)) == 1

    await asyncio.gather(*(one() for _ in range(40)))


async def test_a_transaction_carries_a_thousand_moves_at_most(stand: Stand) -> None:
    """Long lines of commands are cut into transactions that others can wait for."""
    await stand.writer.do_many([enqueue() for _ in range(2_400)])
    assert [len(logged) for _, logged in stand.committed] == [1_000, 1_000, 400]
    taken = await stand.writer.do_many([claim(100) for _ in range(15)])
    assert [len(one) for one in taken] == [100] * 15
    assert [len(logged) for _, logged in stand.committed[3:]] == [1_000, 500]
    await stand.check()


async def test_a_transaction_carries_four_mebibytes_at_most(stand: Stand) -> None:
    """Large purchases come in fewer at a time."""
    item = {"sku": "s" * 64, "quantity": 10_000, "amount_cents": 10**12}
    large = Purchase.model_validate({"customer": "c-7", "items": [item] * 100})
    await stand.writer.do_many([Enqueue("orders", large, "shop") for _ in range(600)])
    sizes = [sum(len(one.data) for one in logged) for _, logged in stand.committed]
    assert len(sizes) > 1
    assert max(sizes) <= writers.MAX_BYTES


async def test_the_line_before_the_writer_has_an_end(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: who comes when too many wait is told so at once."""
    monkeypatch.setattr(writers, "MAX_WAITING", 10)
    calls = [asyncio.ensure_future(stand.writer.do(enqueue())) for _ in range(30)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, errors.Overloaded)]
    assert (len(refused), {one.retry_after for one in refused}) == (20, {1})
    await stand.check()


async def test_numbers_have_no_gap_and_time_does_not_go_back(on_postgres: Stand) -> None:
    """P5: two writers, many transactions: each commit's numbers follow the one before."""
    second = await on_postgres.second()
    pair = (on_postgres.writer, second)
    await asyncio.gather(*(pair[n % 2].do(enqueue()) for n in range(300)))
    await asyncio.gather(*(pair[n % 2].do(claim(5)) for n in range(80)))
    rows = await on_postgres.fetch("SELECT seq, created_at FROM events ORDER BY seq")
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    times = [row["created_at"] for row in rows]
    assert times == sorted(times)
    await on_postgres.check()


async def test_a_stopping_writer_answers_what_waits(stand: Stand) -> None:
    """What was taken in is carried out before the line closes."""
    calls = [asyncio.ensure_future(stand.post()) for _ in range(50)]
    await asyncio.sleep(0)
    await stand.writer.stop()
    assert len(set(await asyncio.gather(*calls))) == 50


# --- values that never work -----------------------------------------------------------


async def test_a_bad_value_fails_alone(stand: Stand) -> None:
    """Errors of the data are halved down to the culprit; the others are done once."""
    commands = [enqueue(priority=BAD if n in (3, 40) else 0) for n in range(64)]
    outcomes = await stand.writer.do_many(commands)
    failed = [n for n, one in enumerate(outcomes) if isinstance(one, errors.Problem)]
    assert failed == [3, 40]
    assert {outcomes[n].status for n in failed} == {500}
    assert len(await stand.fetch("SELECT id FROM messages")) == 62
    await stand.check()


async def test_a_text_that_cannot_be_stored_fails_alone(stand: Stand) -> None:
    """A lone surrogate that got past every check harms nobody else, and is not tried again."""
    before = retries(Failure.DATA)
    bad, good = await stand.writer.do_many([enqueue(reference="\ud800"), enqueue()])
    assert isinstance(bad, errors.Internal)
    assert not isinstance(good, errors.Problem)
    assert retries(Failure.DATA) == before + 2  # with the other, and alone


async def test_a_decision_that_falls_falls_alone(stand: Stand) -> None:
    """A mistake in one command's rules does not refuse those that came with it."""

    class Broken(Enqueue):
        def decide(self, desk: moves.Desk) -> Any:
            raise ZeroDivisionError

    broken = Broken("orders", purchase(), "shop")
    outcomes = await stand.writer.do_many([enqueue(), broken, enqueue()])
    assert [isinstance(one, errors.Problem) for one in outcomes] == [False, True, False]
    await stand.check()


@pytest.mark.parametrize(
    "error, kind",
    [
        (asyncpg.DeadlockDetectedError(), Failure.TRANSIENT),
        (asyncpg.SerializationError(), Failure.TRANSIENT),
        (asyncpg.QueryCanceledError(), Failure.TRANSIENT),
        (asyncpg.LockNotAvailableError(), Failure.LOCKED),
        (sqlite3.OperationalError("database is locked"), Failure.LOCKED),
        (asyncpg.ConnectionDoesNotExistError(), Failure.BROKEN),
        (asyncpg.AdminShutdownError(), Failure.BROKEN),
        (asyncpg.CannotConnectNowError(), Failure.BROKEN),
        (asyncpg.TooManyConnectionsError(), Failure.BROKEN),
        (asyncpg.IdleInTransactionSessionTimeoutError(), Failure.BROKEN),
        (ConnectionResetError(), Failure.BROKEN),
        (TimeoutError(), Failure.BROKEN),
        (asyncpg.UniqueViolationError(), Failure.DATA),
        (asyncpg.CheckViolationError(), Failure.DATA),
        (asyncpg.StringDataRightTruncationError(), Failure.DATA),
        (sqlite3.IntegrityError(), Failure.DATA),
        (OverflowError(), Failure.DATA),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogate"), Failure.DATA),
        (asyncpg.DiskFullError(), Failure.OTHER),
        (sqlite3.OperationalError("database or disk is full"), Failure.OTHER),
        (asyncpg.UndefinedTableError(), Failure.OTHER),
        (KeyError(), Failure.OTHER),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_an_error_of_a_driver_means(error: Exception, kind: Failure) -> None:
    """Which errors are tried again, which are halved, which are told."""
    assert classify(error) is kind


# --- what others hold -----------------------------------------------------------------


async def test_a_held_row_is_waited_for_without_holding_up_others(on_postgres: Stand) -> None:
    """A command whose row is locked elsewhere waits 2 s for it; nobody waits with it."""
    stand, held = on_postgres, await on_postgres.post()
    stranger = await stand.stranger()
    await stranger.execute(f"BEGIN; SELECT FROM messages WHERE id = '{held}' FOR UPDATE")
    waiting = asyncio.ensure_future(stand.writer.do(moves.Cancel(held, "shop")))
    await stand.writer.do_many([enqueue() for _ in range(20)])
    stand.clock.now += 1.9
    for _ in range(2):
        await stand.post()  # in one batch with it
    assert not waiting.done()
    stand.clock.now += 0.2
    with pytest.raises(errors.Unavailable):
        await waiting
    await stranger.execute("ROLLBACK")
    _, done = await stand.writer.do(moves.Cancel(held, "shop"))
    assert done


async def test_a_row_let_go_in_time_is_moved(on_postgres: Stand) -> None:
    """The next batch takes it, as it is then."""
    stand = on_postgres
    found = await stand.leased()
    stranger = await stand.stranger()
    await stranger.execute(f"BEGIN; SELECT FROM messages WHERE id = '{found['id']}' FOR UPDATE")
    waiting = asyncio.ensure_future(stand.writer.do(ack(found)))
    await stand.post()
    assert not waiting.done()
    await stranger.execute("COMMIT")
    assert (await waiting)["status"] == "completed"


async def test_a_claim_passes_by_what_is_held(on_postgres: Stand) -> None:
    """One live lease per message: what somebody has locked is not handed out, nor waited for."""
    stand = on_postgres
    first, second = await stand.post(), await stand.post()
    stranger = await stand.stranger()
    await stranger.execute(f"BEGIN; SELECT FROM messages WHERE id = '{first}' FOR UPDATE")
    assert [one["id"] for one in await stand.writer.do(claim(5))] == [second]
    await stranger.execute("ROLLBACK")
    assert [one["id"] for one in await stand.writer.do(claim(5))] == [first]


async def hold_key(stand: Stand, key: str) -> asyncpg.Connection:
    """Somebody stores a key and does not commit."""
    [queue] = await stand.fetch("SELECT id FROM queues WHERE name = 'orders'")
    stranger = await stand.stranger()
    await stranger.execute(
        f"BEGIN; INSERT INTO keys VALUES ('shop {queue['id']} {key}', 'f', gen_random_uuid())"
    )
    return stranger


async def test_a_key_in_progress_is_waited_for_and_then_told(on_postgres: Stand) -> None:
    """409 after about 2 s; everybody else in the batch is answered."""
    stand = on_postgres
    stranger = await hold_key(stand, "k")
    commands = [enqueue(key="k" if n == 20 else f"k{n}") for n in range(48)]
    calls = [asyncio.ensure_future(stand.writer.do_many([command])) for command in commands]
    await calls[0]
    assert not calls[20].done(), "nobody is answered before the key is given up"
    await calls[19]
    stand.clock.now += 1.9
    await tried(Failure.LOCKED, 2)
    assert not calls[20].done()
    stand.clock.now += 0.2
    outcomes = [one for [one] in await asyncio.gather(*calls)]
    refused = [n for n, one in enumerate(outcomes) if isinstance(one, errors.Problem)]
    assert refused == [20]
    assert isinstance(outcomes[20], errors.IdempotencyInProgress)
    await stranger.execute("ROLLBACK")
    assert not (await stand.writer.do(commands[20])).replayed
    await stand.check()


async def test_a_key_whose_first_call_ends_in_time(on_postgres: Stand) -> None:
    """A copy that waits takes the place of a first call that came to nothing."""
    stand = on_postgres
    stranger = await hold_key(stand, "k")
    waiting = asyncio.ensure_future(stand.writer.do(enqueue(key="k")))
    await until(lambda: stand.fetch("SELECT 1 FROM pg_locks WHERE NOT granted"))
    await stranger.execute("ROLLBACK")
    assert not (await waiting).replayed


async def test_a_key_pruned_between_two_looks(
    on_postgres: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that goes while it is read is stored anew: the next copy finds it."""
    stand, stranger = on_postgres, await on_postgres.stranger()
    first = await stand.post(key="k")
    real = queues.known_keys

    async def after_prune(session: Any, keys: Sequence[str]) -> Any:
        await stranger.execute("DELETE FROM keys")
        return await real(session, keys)

    with monkeypatch.context() as patch:
        patch.setattr(queues, "known_keys", after_prune)
        again = await stand.writer.do(enqueue(key="k"))
    assert (again.replayed, again.shape["id"] == first) == (False, False)
    third = await stand.writer.do(enqueue(key="k"))
    assert (third.replayed, third.shape["id"]) == (True, again.shape["id"])
    await stand.check()


async def test_a_head_held_for_long_ends_in_a_timely_answer(
    on_postgres: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: when nobody can append, all are told so once; nobody waits for each half in turn."""
    stranger, before = await on_postgres.stranger(), retries(Failure.LOCKED)
    await stranger.execute("BEGIN; SELECT FROM stream FOR UPDATE")
    with monkeypatch.context() as patch:
        patch.setattr(writers, "HEAD_LOCK_MS", 200)
        calling = asyncio.gather(*(on_postgres.writer.do_many([enqueue()]) for _ in range(64)))
        await tried(Failure.LOCKED)
        on_postgres.clock.now += writers.GIVE_UP_SECONDS + 0.1
        outcomes = [one for [one] in await calling]
    assert {type(one) for one in outcomes} == {errors.Unavailable}
    assert retries(Failure.LOCKED) - before <= 3  # of 64 halves and halves of halves
    await stranger.execute("ROLLBACK")
    await on_postgres.post()
    assert len(await on_postgres.fetch("SELECT id FROM messages")) == 1


TAKE_HEAD = (
    "BEGIN; UPDATE stream SET head = head; SET LOCAL statement_timeout = 200;"
    "SET LOCAL idle_in_transaction_session_timeout = 200"
)


async def freeze(
    stand: Stand, name: str, *, parsing: bool
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client by our name that took the head and says nothing more.

    `parsing`: in the middle of a statement, where the server waits for it and none of its
    timeouts counts (protocol 3.0: Parse and Flush, then nothing).
    """

    def packet(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4) + body

    given = stand.db._credentials
    reader, line = await asyncio.open_connection(given["host"], given["port"])
    who = f"user\0postgres\0database\0{given['database']}\0application_name\0{name}\0\0"
    line.write(packet(b"", (196_608).to_bytes(4) + who.encode()))
    more = packet(b"P", b"\0SELECT 1\0\0\0") + packet(b"H", b"") if parsing else b""
    line.write(packet(b"Q", TAKE_HEAD.encode() + b"\0") + more)
    taken = await reader.readuntil(b"UPDATE 1\0")
    assert b"ERROR" not in taken
    return reader, line


@pytest.mark.parametrize("name", [database.WRITER_NAME, "filaviva"])
async def test_a_frozen_process_loses_its_locks(on_postgres: Stand, name: str) -> None:
    """P9: whatever of ours holds the head and does not answer is ended by the others."""
    _, frozen = await freeze(on_postgres, name, parsing=True)
    held = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND state = 'active'"
    await until(lambda: on_postgres.fetch(held, name))

    async def ended() -> int:
        async with on_postgres.db.read() as session:
            return await database.terminate_frozen(session, seconds=0.5)

    assert await until(ended) == 1
    await on_postgres.post()
    frozen.close()


async def test_a_frozen_process_between_two_statements(on_postgres: Stand) -> None:
    """There PostgreSQL's own timeout ends it, also when nobody else of ours is alive."""
    told, frozen = await freeze(on_postgres, "anything", parsing=False)
    await on_postgres.post()
    assert b"idle-in-transaction timeout" in await told.read()
    frozen.close()


async def test_a_reader_is_not_taken_for_frozen(on_postgres: Stand) -> None:
    """Who holds no lock stops nobody; a snapshot is left to end by itself."""
    async with on_postgres.db.snapshot() as session:
        await session.fetch("SELECT head FROM stream")
        old = (
            "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'"
            " AND datname = current_database()"
            " AND xact_start < clock_timestamp() - '0.1s'::interval"
        )
        assert len(await until(lambda: on_postgres.fetch(old))) == 1
        async with on_postgres.db.read() as other:
            assert await database.terminate_frozen(other, seconds=0.1) == 0
        await session.fetch("SELECT head FROM stream")


async def test_two_writers_in_opposite_orders_do_not_deadlock(
    on_postgres: Stand, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys sorted, rows never waited for, the head last: no cycle can form."""
    for name in ("KEY_LOCK_MS", "HEAD_LOCK_MS"):  # longer than PostgreSQL takes to see a cycle
        monkeypatch.setattr(writers, name, 60_000)
    stand, second = on_postgres, await on_postgres.second()
    before = postgres_server.log.count("deadlock detected")
    for turn in range(4):
        shuffled = random.sample([f"k{turn}-{n}" for n in range(500)], 500)
        forth = [enqueue(key=key) for key in shuffled]
        back = [enqueue(key=key) for key in reversed(shuffled)]
        outcomes = await asyncio.gather(stand.writer.do_many(forth), second.do_many(back))
        assert not [one for side in outcomes for one in side if isinstance(one, errors.Problem)]
    ids = [str(row["id"]) for row in await stand.fetch("SELECT id FROM messages")]
    assert len(ids) == 2_000
    for _ in range(3):
        here, there = random.sample(ids, len(ids)), random.sample(ids, len(ids))
        await asyncio.gather(
            stand.writer.do_many([moves.Cancel(one, "shop") for one in here]),
            second.do_many([moves.Retry(one, "admin") for one in there]),
            stand.writer.do_many([claim(3) for _ in range(5)]),
        )
    assert postgres_server.log.count("deadlock detected") == before
    await stand.check()


async def test_two_writers_never_lease_one_message_twice(on_postgres: Stand) -> None:
    """P2: claims of two processes at once share what is due."""
    stand, second = on_postgres, await on_postgres.second()
    await stand.writer.do_many([enqueue() for _ in range(400)])
    claims = [one.do(claim(7)) for _ in range(40) for one in (stand.writer, second)]
    taken = [one["id"] for some in await asyncio.gather(*claims) for one in some]
    assert len(taken) == len(set(taken)) == 400


# --- a server that falls silent -------------------------------------------------------


class Relay:
    """A line to the database on which, while `silent`, nothing gets through any more."""

    def __init__(self, url: str) -> None:
        before, _, rest = url.rpartition(":")
        port, _, name = rest.partition("/")
        self._target = int(port)
        self._before, self._name = before, name
        self._open: list[asyncio.StreamWriter] = []
        self.speaks = asyncio.Event()
        self.speaks.set()

    async def __aenter__(self) -> str:
        """The URL through it."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"{self._before}:{port}/{self._name}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for line in self._open:
            line.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._open += [writer, back]
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self.speaks.wait()
            writer.write(data)
        writer.close()


async def test_a_silent_server_keeps_nobody_for_ever(
    copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: reads, writes, settings and the watchdog give up in time, and go on afterwards."""
    relay = Relay(copy)
    async with relay as url, standing(url) as stand:
        await stand.post()

        async def looks() -> None:
            async with stand.db.snapshot() as session:
                await session.fetch("SELECT head FROM stream")

        calls = (
            stand.post,
            looks,
            lambda: stand.fetch("SELECT head FROM stream"),
            lambda: queues.pause(stand.db, "orders", "admin"),
            lambda: queues.note_claims(stand.db, {1: 1}),
        )
        relay.speaks.clear()
        with monkeypatch.context() as patch:
            for name in ("ACQUIRE_SECONDS", "READ_SECONDS", "WRITE_SECONDS"):
                patch.setattr(database, name, 0.3)
            patch.setattr(writers, "STUCK_SECONDS", 0.3)
            asking = asyncio.gather(*(call() for call in calls), return_exceptions=True)
            await tried(Failure.BROKEN)
            stand.clock.now += writers.GIVE_UP_SECONDS + 0.1
            async with asyncio.timeout(60):
                told = await asking
        kinds = (errors.Unavailable, *database.DRIVER_ERRORS)
        assert [one for one in told if not isinstance(one, kinds)] == []
        relay.speaks.set()
        await asyncio.gather(*(call() for call in calls))
        await stand.check()


async def test_a_silence_after_a_settings_change_was_decided(
    copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: also when it is the COMMIT that nobody answers."""
    relay = Relay(copy)
    async with relay as url, standing(url) as stand:

        async def change(patch: pytest.MonkeyPatch) -> None:
            async with stand.db.transaction() as session:
                await session.execute("UPDATE queues SET description = 'x'")
                relay.speaks.clear()
                patch.setattr(database, "ACQUIRE_SECONDS", 0.3)
                pooled: Any = session
                pooled.connection._holder._timeout = 0.3  # as if it had been taken with that

        async with asyncio.timeout(60):
            with monkeypatch.context() as patch, pytest.raises(database.DRIVER_ERRORS):
                await change(patch)
        relay.speaks.set()
        await stand.post()


# --- queues that change ---------------------------------------------------------------


async def test_a_new_queue_is_known_at_once(stand: Stand) -> None:
    """Also to a process that has not heard of it yet."""
    await stand.post()  # the registry is read
    await queues.create(stand.db, "fresh", {}, "admin")
    assert await stand.post("fresh")
    with pytest.raises(errors.NotFound):
        await stand.post("nowhere")


async def test_a_forward_to_a_new_queue(stand: Stand) -> None:
    """The next queue may be a moment old."""
    found = await stand.leased()
    await queues.create(stand.db, "fresh", {}, "admin")
    command = moves.Ack(found["id"], found["receipt"], "worker", forward_to="fresh")
    assert (await stand.writer.do(command))["queue"] == "fresh"
    await stand.check()


async def test_settings_count_from_their_change_on(stand: Stand) -> None:
    """What is written was decided on the queue as it is: else it is decided again."""
    found = await stand.leased()
    await queues.update(stand.db, "orders", {"max_attempts": 1}, None, "admin")
    nack = moves.Nack(found["id"], found["receipt"], "worker", error="no")
    assert (await stand.writer.do(nack))["status"] == "failed"


async def test_nothing_is_claimed_after_a_pause(stand: Stand) -> None:
    """A process that has not heard of the pause hands out nothing either."""
    await stand.post()
    await stand.post()
    assert len(await stand.writer.do(claim())) == 1
    await queues.pause(stand.db, "orders", "admin")
    assert await stand.writer.do(claim()) == []


async def test_nothing_is_posted_into_a_deleted_queue(stand: Stand) -> None:
    """A process that has not heard of it refuses all the same."""
    await queues.create(stand.db, "short", {}, "admin")
    await stand.post("short")
    await queues.delete(stand.db, "short", None, "admin", force=True)
    with pytest.raises(errors.NotFound):
        await stand.post("short")


async def test_queues_that_change_all_the_time(stand: Stand) -> None:
    """Commands are decided again as often as it takes, each done once."""

    async def change() -> None:
        for n in range(25):
            await queues.update(stand.db, "orders", {"description": f"{n}"}, None, "admin")

    async def work() -> None:
        for _ in range(40):
            found = await stand.leased()
            assert (await stand.writer.do(ack(found)))["status"] == "completed"

    await asyncio.gather(change(), work())
    done = await stand.fetch("SELECT seq FROM events WHERE type = 'order.completed'")
    assert len(done) == 40
    await stand.check()


async def test_a_line_that_breaks_while_a_queue_changes(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deciding again begins with a rollback, which may fail like anything else."""
    await stand.post()
    line, failed = stand.writer._line, list[int]()
    rollback = line.rollback

    async def fails_once() -> None:
        await rollback()
        if not failed:
            failed.append(1)
            raise asyncpg.ConnectionDoesNotExistError

    monkeypatch.setattr(line, "rollback", fails_once)
    await queues.create(stand.db, "fresh", {}, "admin")
    assert await stand.post("fresh")
    assert failed == [1]


# --- callers who go -------------------------------------------------------------------


def slow_commit(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> tuple[asyncio.Event, asyncio.Event]:
    """Two events: a commit has begun; commits may go on."""
    begun, gate, line = asyncio.Event(), asyncio.Event(), stand.writer._line
    commit = line.commit

    async def patiently() -> None:
        begun.set()
        await gate.wait()
        await commit()

    monkeypatch.setattr(line, "commit", patiently)
    return begun, gate


async def test_a_claim_is_given_back_when_its_caller_goes(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who hangs up while his lease is being committed keeps nobody else from it."""
    message = await stand.post()
    begun, gate = slow_commit(stand, monkeypatch)
    calling = asyncio.ensure_future(stand.writer.do(claim()))
    await begun.wait()
    calling.cancel()
    gate.set()

    async def back() -> bool:
        sql = "SELECT status, lease_epoch, attempts, lost_leases FROM messages WHERE id = $1"
        [row] = await stand.fetch(sql, message)
        return tuple(row) == ("pending", 1, 0, 0)

    await until(back)
    assert [one["id"] for one in await stand.writer.do(claim())] == [message]
    await stand.check()


async def test_a_claim_is_given_back_past_a_full_line(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When too many wait, what nobody wants is still given back, and the others are answered."""
    message = await stand.post()
    begun, gate = slow_commit(stand, monkeypatch)
    calling = asyncio.ensure_future(stand.writer.do(claim()))
    other = asyncio.ensure_future(stand.writer.do(enqueue()))
    await begun.wait()
    monkeypatch.setattr(writers, "MAX_WAITING", 0)
    calling.cancel()
    gate.set()
    assert not (await other).replayed

    async def back() -> bool:
        [row] = await stand.fetch("SELECT status FROM messages WHERE id = $1", message)
        return row["status"] == "pending"

    await until(back)
    assert [appended.head for appended, _ in stand.committed] == [1, 3, 4]


async def test_what_nobody_waits_for_is_not_begun(stand: Stand) -> None:
    """A command whose caller has gone before its turn does nothing."""
    calls = [asyncio.ensure_future(stand.writer.do(enqueue())) for _ in range(50)]
    await asyncio.sleep(0)
    for call in calls[10:]:
        call.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(not isinstance(one, BaseException) for one in outcomes) == 10
    assert len(await stand.fetch("SELECT id FROM messages")) == 10


async def cancelled(call: Callable[[], Awaitable[Any]], after: float) -> None:
    """A request whose caller hangs up after a while."""
    with contextlib.suppress(TimeoutError, errors.Problem):
        async with asyncio.timeout(after):
            await call()


async def test_two_thousand_callers_who_hang_up(stand: Stand) -> None:
    """Whatever they were doing: every connection is usable, no transaction stays open."""

    async def reads() -> None:
        async with stand.db.read() as session:
            await session.fetch("SELECT count(*) FROM messages")

    async def looks() -> None:
        async with stand.db.snapshot() as session:
            await session.fetch("SELECT count(*) FROM events")
            await session.fetch("SELECT head FROM stream")

    async def writes() -> None:
        async with stand.db.transaction() as session:
            await session.execute("UPDATE queues SET last_claim_at = 1")
            await session.fetch("SELECT count(*) FROM queues")

    async def changes() -> None:
        await queues.update(stand.db, "orders", {"description": str(random.random())}, None, "a")

    calls = (reads, looks, writes, changes, stand.post, stand.leased)
    draw = random.Random(7)
    for _ in range(50):
        chosen = [draw.choice(calls) for _ in range(40)]
        await asyncio.gather(*(cancelled(call, draw.uniform(0, 0.02)) for call in chosen))
    async with asyncio.timeout(60):
        await asyncio.gather(*(call() for call in calls for _ in range(20)))
    await stand.check()
    await nothing_open(stand)


async def nothing_open(stand: Stand) -> None:
    """No session of ours is in a transaction, and a reader sees the newest state."""
    if stand.postgres:
        sql = (
            "SELECT state, query FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type ="
            " 'client backend'"
        )

        async def none() -> bool:
            return await stand.fetch(sql) == []

        await until(none)
        return
    message = await stand.post()
    assert len(await stand.fetch("SELECT id FROM messages WHERE id = $1", message)) == 1
    # A reader that hangs in an old snapshot would keep the WAL from being reset.
    async with stand.db.read() as session:
        [row] = await session.fetch("PRAGMA wal_checkpoint(PASSIVE)")
    assert row[1] == row[2], "something old is still being read"


# --- the line breaks at the commit ----------------------------------------------------


def commands_of(stand: Stand) -> dict[str, Callable[[], Awaitable[moves.Command]]]:
    """Each verb, with what it needs."""

    async def cancels() -> moves.Command:
        return moves.Cancel(await stand.post(), "shop")

    async def retries_() -> moves.Command:
        message = await stand.post()
        await stand.writer.do(moves.Cancel(message, "shop"))
        return moves.Retry(message, "admin")

    async def extends() -> moves.Command:
        found = await stand.leased()
        return moves.Extend(found["id"], found["receipt"], "w", lease_seconds=900)

    async def posts() -> moves.Command:
        return enqueue()

    async def claims() -> moves.Command:
        await stand.post()
        return claim()

    async def acks() -> moves.Command:
        return ack(await stand.leased())

    async def purges() -> moves.Command:
        [queue] = await stand.fetch("SELECT id FROM queues WHERE name = 'orders'")
        return moves.Purge([await stand.post()], "admin", queue_id=queue["id"])

    return {
        "enqueue": posts,
        "claim": claims,
        "ack": acks,
        "extend": extends,
        "cancel": cancels,
        "retry": retries_,
        "purge": purges,
    }


VERBS = ("enqueue", "claim", "ack", "extend", "cancel", "retry", "purge")


def break_commit(stand: Stand, monkeypatch: pytest.MonkeyPatch, *, committed: bool) -> list[int]:
    """The next COMMIT gets no answer; grows by one when it has happened."""
    line, broken = stand.writer._line, list[int]()
    commit = line.commit

    async def breaks() -> None:
        if broken:
            await commit()
            return
        broken.append(1)
        if committed:
            await commit()
        raise asyncpg.ConnectionDoesNotExistError if stand.postgres else OSError

    monkeypatch.setattr(line, "commit", breaks)
    return broken


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "lost"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_commit_without_an_answer_is_settled(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, verb: str, committed: bool
) -> None:
    """P1, P2: it is found out what happened; the caller is told so, and it happened once."""
    command = await commands_of(stand)[verb]()
    before = (await stand.fetch("SELECT head FROM stream"))[0]["head"]
    broken = break_commit(stand, monkeypatch, committed=committed)
    answer = await stand.writer.do(command)
    assert broken == [1]
    after = (await stand.fetch("SELECT head FROM stream"))[0]["head"]
    assert after - before == (0 if verb == "extend" else 1)
    if verb == "claim":
        [row] = await stand.fetch("SELECT receipt FROM messages WHERE id = $1", answer[0]["id"])
        assert row["receipt"] == answer[0]["receipt"]
    if verb != "extend":
        assert stand.committed[-1][0].head == after
    await stand.check()


async def test_an_outcome_that_cannot_be_found_out_is_told_as_open(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not settled in time: 503, which promises nothing; with a key a repetition is safe."""
    break_commit(stand, monkeypatch, committed=True)
    unreachable = pytest.MonkeyPatch()

    async def fails(*_: object) -> None:
        stand.clock.now += writers.GIVE_UP_SECONDS / 2
        raise asyncpg.ConnectionDoesNotExistError

    unreachable.setattr(events, "lock_head", fails)
    with pytest.raises(errors.Unavailable):
        await stand.writer.do(enqueue(key="k"))
    unreachable.undo()
    assert (await stand.writer.do(enqueue(key="k"))).replayed
    await stand.check()


async def test_the_other_process_may_append_before_it_is_settled(on_postgres: Stand) -> None:
    """A number that another batch took over says that ours was lost."""
    stand, second = on_postgres, await on_postgres.second()
    await stand.post()
    with pytest.MonkeyPatch.context() as patch:
        line = cast(PostgresLine, stand.writer._line)
        commit, tried = line.commit, list[int]()

        async def breaks() -> None:
            if tried:
                return await commit()
            tried.append(1)
            await line.drop()
            await second.do(enqueue())
            raise asyncpg.ConnectionDoesNotExistError

        patch.setattr(line, "commit", breaks)
        await stand.post()
    assert len(await stand.fetch("SELECT id FROM messages")) == 3
    await stand.check()


async def test_a_terminated_line_is_opened_again(on_postgres: Stand) -> None:
    """An administrator, a watchdog, a restart: the batch runs again on a new connection."""
    stand, stranger = on_postgres, await on_postgres.stranger()
    sql = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        f" WHERE application_name = '{database.WRITER_NAME}' AND datname = current_database()"
    )
    made: list[str] = []
    for _ in range(10):
        made.append(await stand.post())
        calling = asyncio.ensure_future(stand.post())
        await stranger.fetchval(sql)
        made.append(await calling)
    assert len(await stand.fetch("SELECT id FROM messages")) == len(set(made)) == 20
    await stand.check()


async def test_a_commit_that_was_a_rollback_is_no_success(on_postgres: Stand) -> None:
    """PostgreSQL answers the COMMIT of a failed transaction with ROLLBACK, not an error."""
    line = cast(PostgresLine, on_postgres.db.writer_line())
    await line.begin(1_000)
    with pytest.raises(asyncpg.PostgresError):
        await line.session.execute("SELECT 1 / 0")
    with pytest.raises(asyncpg.InterfaceError):
        await line.commit()
    await line.drop()


async def test_the_writer_insists_on_the_disk(on_postgres: Stand) -> None:
    """P1: a 2xx is on the disk, whatever the server's default is."""
    stranger = await on_postgres.stranger()
    await stranger.execute("ALTER ROLE postgres SET synchronous_commit = off")
    try:
        line = cast(PostgresLine, on_postgres.db.writer_line())
        await line.begin(1_000)
        [row] = await line.session.fetch("SHOW synchronous_commit")
        assert row[0] == "on"
        await line.rollback()
        await line.drop()
    finally:
        await stranger.execute("ALTER ROLE postgres RESET synchronous_commit")


# --- SQLite's one connection ----------------------------------------------------------


async def test_a_stuck_batch_does_not_undo_anothers_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer gives up its wait for the connection without touching who has it."""
    async with standing(f"sqlite://{tmp_path}/filaviva.db") as stand:
        async with stand.db.transaction() as session:
            await session.execute("UPDATE queues SET description = 'kept'")
            with monkeypatch.context() as patch:
                patch.setattr(writers, "STUCK_SECONDS", 0.1)
                waiting = asyncio.ensure_future(stand.writer.do(enqueue()))
                await tried(Failure.BROKEN)
                stand.clock.now += writers.GIVE_UP_SECONDS + 0.1
                with pytest.raises(errors.Unavailable):
                    await waiting
            await session.execute("UPDATE queues SET retention_days = 7")
        [row] = await stand.fetch("SELECT description, retention_days FROM queues")
        assert tuple(row) == ("kept", 7)
        await stand.post()


async def test_a_line_that_holds_nothing_gives_nothing_back(tmp_path: Path) -> None:
    """Rolling back twice, or without a begin, leaves the lock to its owner."""
    async with standing(f"sqlite://{tmp_path}/filaviva.db") as stand:
        line = cast(SqliteLine, stand.db.writer_line())
        lock = cast(SqliteClient, connections.get("default"))._lock
        async with lock:
            await line.rollback()
            await line.drop()
            assert lock.locked()
        await line.begin(0)
        await line.rollback()
        await line.rollback()
        assert not lock.locked()


async def test_another_program_that_writes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup or a shell that holds SQLite's lock delays a post, and loses none."""
    async with standing(f"sqlite://{tmp_path}/filaviva.db") as stand:
        shell = sqlite3.connect(tmp_path / "filaviva.db", isolation_level=None)
        shell.execute("BEGIN IMMEDIATE")
        calling = asyncio.ensure_future(stand.post())

        async def tries() -> bool:
            return cast(SqliteLine, stand.writer._line)._held

        await until(tries)
        assert not calling.done()
        shell.execute("COMMIT")
        shell.close()
        assert await calling
        await stand.check()

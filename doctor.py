"""A check-up: what is well with an installation, what is not, and what to do about it.

Nothing here changes anything. The checks of the database read as of one instant and give up
after 5 s: on the primary a longer snapshot would slow every writer down.
"""

import resource
import secrets
import shutil
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

import audit
import config
import database
import events
from config import Settings
from database import DRIVER_ERRORS, WRITER_NAME, Database, Dialect
from streams import files_wanted

MIB = 1 << 20
DISK_WARN = 1024 * MIB
DISK_FAIL = 128 * MIB
SKEW_WARN_MS = 1_000
SKEW_FAIL_MS = 60_000  # a token from that far ahead is refused
SNAPSHOT_SECONDS = 5.0
FROZEN_SECONDS = 3.0
REDIS_SECONDS = 2.0
NAMED = 3  # differences in a sentence


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # it works, but look
    FAIL = "fail"  # something is broken, or about to


class Finding(NamedTuple):
    """One line of the report. `advice` says what to do; empty when all is well."""

    level: Level
    what: str
    text: str
    advice: str = ""


def ok(what: str, text: str) -> Finding:
    return Finding(Level.OK, what, text)


def warn(what: str, text: str, advice: str) -> Finding:
    return Finding(Level.WARN, what, text, advice)


def fail(what: str, text: str, advice: str) -> Finding:
    return Finding(Level.FAIL, what, text, advice)


async def examine(current: Settings) -> list[Finding]:
    """Everything, in the order of the report."""
    found = [*settings(current), *secret_files(current), *disk(current), open_files(current)]
    found += await of_database(current)
    found.append(await redis_answers(current))
    return found


# --- the machine ----------------------------------------------------------------------


def settings(current: Settings) -> Iterator[Finding]:
    production = current.environment == "production"
    yield ok("settings", f"they can be used; {current.environment}")
    if not current.rate_limits:
        text = "rate limits are off"
        yield warn("settings", text, "set FILAVIVA_RATE_LIMITS=on; off is for load tests")
    if production and not current.public_url.startswith("https:"):
        text = f"people reach the service without TLS: {current.public_url}"
        yield warn("settings", text, "set FILAVIVA_PUBLIC_URL to its https:// address")


def secret_files(current: Settings) -> Iterator[Finding]:
    """Files that only the service's own user may read."""
    names = ["secret-key", "admin-password", "filaviva.db"]
    present = [path for name in names if (path := current.data_dir / name).exists()]
    open_ones = [path for path in present if _open_to_others(path)]
    for path in open_ones:
        text = f"every user of this machine can read {path}"
        level = Level.WARN if path.suffix == ".db" else Level.FAIL
        yield Finding(level, "files", text, f"chmod 600 {path}")
    if not open_ones:
        yield ok("files", f"nobody else can read the {len(present)} secret files")


def _open_to_others(path: Path) -> bool:
    """Whether others may read a file, and enter its folder to do so."""
    folder, file = path.resolve().parent.stat().st_mode, path.stat().st_mode
    return bool(file & stat.S_IROTH and folder & stat.S_IXOTH)


def disk(current: Settings) -> Iterator[Finding]:
    """Room where the data directory is."""
    place = current.data_dir.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{free // MIB:,} MiB free at {place}"
    if free >= DISK_WARN:
        yield ok("disk", text)
    else:
        level = Level.FAIL if free < DISK_FAIL else Level.WARN
        yield Finding(level, "disk", text, "make room: a full disk stops every post")


def open_files(current: Settings) -> Finding:
    """Each stream is an open file; `serve` raises the soft limit up to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files_wanted(current)
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return ok("open files", f"as many as {wanted:,} are allowed")
    text = f"{hard:,} are allowed, {wanted:,} wanted for {current.max_streams:,} streams"
    return warn("open files", text, "raise the hard limit (LimitNOFILE=) or lower MAX_STREAMS")


# --- the database ---------------------------------------------------------------------


async def of_database(current: Settings) -> list[Finding]:
    """Every check that needs it; only one finding when it cannot be had."""
    db = Database(config.tortoise_orm(current))
    if db.dialect is Dialect.SQLITE and not db.path.exists():
        text = f"there is none at {db.path} yet"
        return [fail("database", text, "start the service, or run `python cli.py migrate`")]
    try:
        started = time.perf_counter()
        with suppress(RuntimeError):  # it answers; what is unsafe about it is found below
            await db.open()
        milliseconds = (time.perf_counter() - started) * 1000
        found = [ok("database", f"{db.dialect.value} answers ({milliseconds:.0f} ms)")]
        for what, check in CHECKS.items():
            found += await _done(what, check, db)
            if what == "schema" and found[-1].level is Level.FAIL:
                break  # the others would stumble over the same
    except (*DRIVER_ERRORS, OSError) as error:
        text = f"it does not answer: {type(error).__name__}"
        found = [fail("database", text, "is it running, and is FILAVIVA_DATABASE_URL right?")]
    finally:
        await db.close()
    return found


Check = Callable[[Database], Awaitable[Sequence[Finding]]]


async def _done(what: str, check: Check, db: Database) -> Sequence[Finding]:
    """What a check finds, or that it could not be done."""
    try:
        return await check(db)
    except TimeoutError:
        text = "there is too much to look at within 5 s"
        return [warn(what, text, "check a replica or a restored backup instead")]
    except (*DRIVER_ERRORS, OSError) as error:
        text = f"it cannot be checked: {type(error).__name__}"
        return [fail(what, text, "what the database says stands in its own log")]


async def durability(db: Database) -> list[Finding]:
    """What makes an accepted purchase survive a power cut."""
    async with db.read() as session:
        if db.dialect is Dialect.SQLITE:
            mode = (await session.fetch("PRAGMA journal_mode"))[0][0]
            return [_setting("journal_mode", mode, "wal")]
        names = ("fsync", "full_page_writes")
        return [_setting(name, (await session.fetch(f"SHOW {name}"))[0][0], "on") for name in names]


def _setting(name: str, value: str, wanted: str) -> Finding:
    if value == wanted:
        return ok("durability", f"{name} is {value}")
    return fail("durability", f"{name} is {value}", f"set {name} = {wanted}")


async def schema(db: Database) -> list[Finding]:
    pending = await db.pending_migrations()
    if pending:
        text = f"it lacks {', '.join(pending)}"
        return [fail("schema", text, "run `python cli.py migrate`")]
    return [ok("schema", "up to date")]


async def clock(db: Database) -> list[Finding]:
    """Tokens are checked by this machine's clock, everything else happens by the database's."""
    async with db.read() as session:
        before = time.time_ns() // 1_000_000
        theirs = await database.now(session)
        after = time.time_ns() // 1_000_000
    skew = max(before - theirs, theirs - after, 0)
    text = f"{skew / 1000:g} s between this machine and the database"
    if skew < SKEW_WARN_MS:
        return [ok("clock", text)]
    level = Level.FAIL if skew >= SKEW_FAIL_MS else Level.WARN
    return [Finding(level, "clock", text, "keep both clocks right with NTP")]


async def snapshots(db: Database) -> list[Finding]:
    async with db.read() as session:
        age = await database.oldest_snapshot(session)
    text = f"the oldest is {age:.0f} s old"
    if age < SNAPSHOT_SECONDS:
        return [ok("snapshots", text)]
    advice = "end that session, or run dumps and reports on a replica: it slows every writer"
    return [warn("snapshots", text, advice)]


FROZEN = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = $1"
    " AND datname = current_database() AND wait_event_type = 'Client'"
    " AND extract(epoch FROM clock_timestamp() - xact_start) > $2"
)


async def writers(db: Database) -> list[Finding]:
    """Sessions that hold locks for a process that does not answer."""
    if db.dialect is Dialect.SQLITE:
        return []
    async with db.read() as session:
        rows = await session.fetch(FROZEN, WRITER_NAME, FROZEN_SECONDS)
    if not rows:
        return [ok("writers", "none is frozen")]
    text = f"frozen: backend {', '.join(str(row['pid']) for row in rows)}"
    advice = "a process that serves ends them within a second; if none runs, pg_terminate_backend"
    return [warn("writers", text, advice)]


async def books(db: Database) -> list[Finding]:
    """The audit: its first lines, and how many more there are."""
    found, wrong, first = 0, False, []
    async for remark in audit.differences(db):
        found += 1
        wrong = wrong or remark.wrong
        if found <= NAMED:
            first.append(remark.text)
    if not found:
        return [ok("audit", "orders, counts, stock, ledger and event log agree")]
    more = f"; {found - NAMED:,} more" if found > NAMED else ""
    advice = "run `python cli.py audit`: it names everything"
    return [Finding(Level.FAIL if wrong else Level.WARN, "audit", "; ".join(first) + more, advice)]


CHECKS: dict[str, Check] = {
    "durability": durability,
    "schema": schema,
    "clock": clock,
    "snapshots": snapshots,
    "writers": writers,
    "audit": books,
}


# --- Redis ----------------------------------------------------------------------------


async def redis_answers(current: Settings) -> Finding:
    if current.redis_url is None:
        return ok("redis", "none; with one process nothing is missing")
    client = Redis.from_url(
        current.redis_url.get_secret_value(),
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        started = time.perf_counter()
        await client.ping()
        answered = f"answers ({(time.perf_counter() - started) * 1000:.0f} ms)"
        if await _carries(client):
            return ok("redis", answered)
        text = f"{answered}, and does not carry what is published"
    except (RedisError, OSError) as error:
        text = f"it does not answer: {type(error).__name__}"
    finally:
        await client.aclose()
    return warn("redis", text, "nothing is lost; until it is back events arrive a second late")


async def _carries(client: Redis) -> bool:
    """Whether a message comes back, on a channel that nobody else listens to."""
    channel = events.channel_of(f"doctor-{secrets.token_hex(4)}")
    async with client.pubsub() as ear:
        await ear.subscribe(channel)
        await ear.get_message(timeout=REDIS_SECONDS)  # that it is subscribed
        await client.publish(channel, b"")
        return await ear.get_message(timeout=REDIS_SECONDS) is not None

"""What happens without being asked, and long work in steps.

Once a second every process looks at the database (`Upkeep.look`): a head that went ahead,
queues or credentials that changed, another database than before. It ends writers that are
frozen, reaps lost leases, expires what waited too long, counts the rates of the queues, and
every minute prunes. All of it
may run in several processes at once: each step looks again at every row under its lock.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from loguru import logger

import actions
import database
import events
import metrics
import queues
import rates
from accounts import Accounts
from database import Database, Session
from errors import Problem
from events import Look, Wire
from hub import Hub, control
from instants import DAY
from moves import Claim, Expire, Prune, Purge, Reap, Redrive, Sweep
from processes import Processes
from queues import Failed
from streams import Owner
from writer import Writer

STEP = 500  # rows of long work in one transaction
LONG_SECONDS = 8.0  # after it a purge or a redrive answers with what remains
POLL_SECONDS = 1.0  # how long a waiting worker relies on being woken
PRUNE_SECONDS = 60.0
COUNTS_A_FRAME = 200
EVENTS_A_STEP = 5_000


# --- long work ------------------------------------------------------------------------


Find = Callable[[Session], Awaitable[list[str]]]
Make = Callable[[list[str]], Sweep]


async def _sweep(db: Database, writer: Writer, find: Find, make: Make, most: int) -> int:
    """Steps of 500, one after the other, until nothing is found, `most` or the time is up."""
    done = 0
    deadline = time.monotonic() + LONG_SECONDS
    while done < most and time.monotonic() < deadline:
        async with db.read() as session:
            ids = await find(session)
        moved = await writer.do(make(ids[: most - done])) if ids else 0
        done += moved
        if not moved:
            break
    return done


async def purge(db: Database, writer: Writer, name: str, actor: str) -> dict[str, int]:
    """Cancel what is pending now.

    Raises:
        NotFound: no such queue.
    """
    async with db.read() as session:
        queue_id = await queues.live_id(session, name)
        now = await database.now(session)

    async def find(session: Session) -> list[str]:
        return await queues.pending_before(session, queue_id, now, STEP)

    def make(ids: list[str]) -> Sweep:
        return Purge(ids, actor, queue_id=queue_id)

    done = await _sweep(db, writer, find, make, 1 << 62)
    async with db.read() as session:
        left = await queues.count_pending_before(session, queue_id, now)
    return {"cancelled": done, "remaining": left}


async def empty(db: Database, writer: Writer, queue_id: int, actor: str | None) -> int:
    """Cancel everything that is pending in a deleted queue."""

    async def find(session: Session) -> list[str]:
        return await queues.pending_before(session, queue_id, 1 << 62, STEP)

    def make(ids: list[str]) -> Sweep:
        return Purge(ids, actor, queue_id=queue_id, reason="the queue was deleted")

    return await _sweep(db, writer, find, make, 1 << 62)


async def redrive(
    db: Database,
    writer: Writer,
    name: str,
    filters: Mapping[str, Any],
    limit: int,
    actor: str,
    *,
    dry_run: bool,
) -> dict[str, int]:
    """Put dead letters back to pending, oldest first.

    Raises:
        NotFound: no such queue.
    """
    async with db.read() as session:
        failed = Failed(await queues.live_id(session, name), filters)
        matched = await failed.count(session)
    done, refused = (0, 0) if dry_run else await _redrive(db, writer, failed, limit, actor)
    return {
        "matched": matched,
        "redriven": done,
        "refused": refused,
        "remaining": max(0, matched - done - refused),
    }


async def _redrive(
    db: Database, writer: Writer, failed: Failed, limit: int, actor: str
) -> tuple[int, int]:
    """How many were put back, and how many lack stock: those are passed by."""
    done = refused = 0
    place: tuple[int, str] | None = None
    deadline = time.monotonic() + LONG_SECONDS
    while done + refused < limit and time.monotonic() < deadline:
        async with db.read() as session:
            found = await failed.oldest(session, min(STEP, limit - done - refused), place)
        if not found:
            break
        place = found[-1]
        ids = [message_id for _, message_id in found]
        moved, lacking = await writer.do(Redrive(ids, actor, queue_id=failed.queue_id))
        done, refused = done + moved, refused + lacking
    return done, refused


async def claim(writer: Writer, hub: Hub, command: Claim, seconds: int) -> list[dict[str, Any]]:
    """Claim; if there is nothing, wait for the feed and claim again, up to `seconds`."""
    deadline = time.monotonic() + seconds
    with hub.waiting(command.queue) as waiter:
        while True:
            messages = await writer.do(command)
            left = deadline - time.monotonic()
            if messages or left <= 0 or command.gone():
                return messages
            await waiter.wait(min(left, POLL_SECONDS))


# --- the pulse ------------------------------------------------------------------------


class Upkeep:
    """The tasks that one process runs beside its requests."""

    def __init__(
        self,
        db: Database,
        writer: Writer,
        hub: Hub,
        wire: Wire | None,
        accounts: Accounts,
        processes: Processes,
        event_retention_days: int,
        audit_days: int,
    ) -> None:
        self._db = db
        self._writer = writer
        self._hub = hub
        self._wire = wire
        self._accounts = accounts
        self._processes = processes
        self._retention = event_retention_days * DAY
        self._audit = audit_days * DAY
        self._seen: Look | None = None
        self._pruned_at = 0.0
        self._look_due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.healthy = False

    async def start(self, seen: Look) -> None:
        self._seen = seen
        self.healthy = True
        jobs = (
            self._watch,
            self._sweep_due,
            self._tell_counts,
            self._fold_rates,
            self._prune_in_time,
        )
        self._tasks = [
            asyncio.create_task(self._every_second(self.look, self._look_due), name="look"),
            asyncio.create_task(
                self._every_second(self._processes.tend, self._processes.due), name="tend"
            ),
            *(asyncio.create_task(self._every_second(job), name=job.__name__) for job in jobs),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _every_second(
        self, job: Callable[[], Awaitable[None]], due: asyncio.Event | None = None
    ) -> None:
        """`due`: it is wanted earlier."""
        due = due or asyncio.Event()
        while True:
            due.clear()
            try:
                await job()
            except (*database.DRIVER_ERRORS, Problem) as error:
                logger.warning("{} failed: {}", job.__name__.strip("_"), type(error).__name__)
            except Exception:
                logger.exception("{} failed", job.__name__.strip("_"))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await due.wait()

    # --- the look at the database -----------------------------------------------------

    def look_soon(self) -> None:
        """Look at once; if that is under way, once more after it."""
        self._look_due.set()

    async def look(self) -> None:
        """What changed in the database, whoever changed it."""
        seen, reached = self._seen, self._hub.head
        assert seen is not None
        try:
            async with asyncio.timeout(5), self._db.read() as session:
                now = await self._processes.look(session)
                home = await self._db.home(session)
        except BaseException:
            self.healthy = False
            raise
        self.healthy = True
        # `reached` was read before the look: a head below it went back.
        went_back = now.epoch == self._hub.epoch and now.head < reached
        if now.home != home or went_back:
            logger.error("this is not the log it was (head {} after {})", now.head, reached)
            now = await events.new_epoch(self._db, now.epoch, home)
        await self._take_in(seen, now)
        self._seen = now  # not before: what could not be taken in is tried again

    async def _take_in(self, seen: Look, now: Look) -> None:
        if now.epoch != seen.epoch and self._wire is not None:
            self._wire.follow(now.epoch)
        self._hub.look(now.epoch, now.head, now.floor)
        if now.queues_version != seen.queues_version:
            self._writer.forget_queues()
        if now.revocations_version != seen.revocations_version:
            await self._accounts.reload()
            await self._end_streams()

    async def _end_streams(self) -> None:
        """End the streams whose credential ended."""
        owners = {one.principal for one in self._hub.owners() if isinstance(one, Owner)}
        ended = await self._accounts.ended({one for one in owners if one is not None})
        if ended:
            self._hub.end_where(
                lambda one: isinstance(one, Owner) and one.principal in ended, "revoked"
            )

    # --- watchdog ---------------------------------------------------------------------

    async def _watch(self) -> None:
        async with self._db.read() as session:
            frozen = await database.terminate_frozen(session)
            metrics.OLDEST_SNAPSHOT.set(await database.oldest_snapshot(session))
        if frozen:
            metrics.TERMINATED.inc(frozen)
            logger.warning("ended {} writer(s) of a process that does not answer", frozen)
        claims = self._writer.take_claims()
        if claims:
            await queues.note_claims(self._db, claims)

    # --- leases and expiries ----------------------------------------------------------

    async def _sweep_due(self) -> None:
        async def lost(session: Session) -> list[str]:
            return await queues.lost_leases(session, await database.now(session), STEP)

        async def late(session: Session) -> list[str]:
            return await queues.expired(session, await database.now(session), STEP)

        await _sweep(self._db, self._writer, lost, Reap, 1 << 62)
        await _sweep(self._db, self._writer, late, Expire, 1 << 62)
        async with self._db.read() as session:
            deleted = await queues.deleted_but_pending(session)
        for queue_id in deleted:
            await empty(self._db, self._writer, queue_id, None)

    # --- counts for whoever watches all queues ----------------------------------------

    async def _tell_counts(self) -> None:
        touched = self._hub.take_touched_queues()
        if touched and self._hub.has_subscribers("queues"):
            for frame in await counts_frames(self._db, touched):
                self._hub.send("queues", frame)

    # --- rates ------------------------------------------------------------------------

    async def _fold_rates(self) -> None:
        while await rates.fold(self._db):
            continue

    # --- pruning ----------------------------------------------------------------------

    async def _prune_in_time(self) -> None:
        if time.monotonic() - self._pruned_at < PRUNE_SECONDS:
            return
        self._pruned_at = time.monotonic()
        await self.prune()

    async def prune(self) -> None:
        """Forget what is over: finished messages, then events, old rates, revocations, actions."""
        async with self._db.read() as session:
            days = await queues.retentions(session)
            now = await database.now(session)
        for queue_id, kept in days.items():
            await self._prune_queue(queue_id, now - kept * DAY, days)
        await events.prune(self._db, now - self._retention, EVENTS_A_STEP)
        await rates.prune(self._db, days)
        async with self._db.transaction() as session:
            await session.execute("DELETE FROM revocations WHERE expires_at < $1", now)
        await actions.prune(self._db, now - self._audit)

    async def _prune_queue(self, queue_id: int, before: int, days: Mapping[int, int]) -> None:
        async def find(session: Session) -> list[str]:
            return await queues.outlived(session, queue_id, before, STEP)

        def make(ids: list[str]) -> Sweep:
            return Prune(ids, retention_days=days)

        await _sweep(self._db, self._writer, find, make, 1 << 62)


async def counts_frames(db: Database, names: Sequence[str] | set[str] | None) -> list[bytes]:
    """`counts` control frames for some queues, or for all (None); 200 queues a frame."""
    async with db.snapshot() as session:
        head = await events.look(session)
        found = await queues.counts(session, None if names is None else sorted(names))
    as_of = events.event_id(head.epoch, head.head)
    chunks = [found[n : n + COUNTS_A_FRAME] for n in range(0, len(found), COUNTS_A_FRAME)]
    return [control("counts", {"as_of": as_of, "queues": chunk}) for chunk in chunks]

"""The writer: commands of many requests in one transaction, answered after its commit.

While one transaction commits, the next commands gather. A hundred single posts cost one
fsync, and durability is not traded for speed. The order of locks is the same in every
process: keys (sorted), named rows and then carts (neither waited for), stock in SKU order,
the clock, the claims' probes, and last the head, whose lock numbers the events in commit order.
"""

import asyncio
import contextlib
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from loguru import logger

import carts
import catalogue
import customers
import database
import events
import metrics
import queues
import stock
from database import Database, Failure, Session, classify
from errors import IdempotencyInProgress, Internal, Overloaded, Problem, Unavailable
from events import Appended, Event
from moves import (
    Checkout,
    Claim,
    Command,
    Desk,
    Enqueue,
    Held,
    Keyed,
    KnownKey,
    PlaceOrder,
    Receive,
    Registry,
    Release,
    Settle,
    run,
)
from stock import KnownMovement

MAX_MOVES = 1_000  # rows one transaction may write
MAX_BYTES = 4 << 20  # of events in one transaction
MAX_WAITING = 20_000  # commands that may wait for the writer
STUCK_SECONDS = 5.0  # a transaction that takes longer loses its connection
GIVE_UP_SECONDS = 8.0  # after it a batch is answered 503
HELD_SECONDS = 2.0  # how long a command waits for a row or key that somebody else holds
TRIES = 3
KEY_LOCK_MS = 1_000
HALF_LOCK_MS = 200
HEAD_LOCK_MS = 4_500


@dataclass(slots=True, eq=False)
class Entry:
    """A command that waits, and who waits for its answer."""

    command: Command
    answer: asyncio.Future[Any]
    born: float


class QueuesChanged(Exception):
    """A queue was changed since the registry was read: decide again."""


@dataclass(slots=True)
class Batch:
    """One transaction under way."""

    entries: list[Entry]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    desk: Desk | None = None
    outcomes: list[tuple[Entry, Any]] = field(default_factory=list)
    deferred: list[Entry] = field(default_factory=list)
    appended: Appended | None = None
    stage: str = "begin"

    @property
    def events(self) -> list[Event]:
        return [] if self.desk is None else self.desk.events


OnCommit = Callable[[Appended, Sequence[Event]], None]


class Writer:
    """The one door through which messages change in this process."""

    def __init__(self, db: Database, on_commit: OnCommit) -> None:
        self._db = db
        self._line = db.writer_line()
        self._on_commit = on_commit
        self._waiting: deque[Entry] = deque()
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._registry: Registry | None = None
        self._claimed: dict[int, int] = {}

    async def start(self) -> None:
        self._task = asyncio.create_task(self._work(), name="writer")

    async def stop(self) -> None:
        """Answer what waits, then close the line."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), GIVE_UP_SECONDS)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._line.drop()

    # --- the callers' side ------------------------------------------------------------

    async def do(self, command: Command) -> Any:
        """Have a command done; its answer, once it is committed.

        Raises:
            Problem: what the command ran into.
            Overloaded: too many wait already.
        """
        outcome = await self._submit(command)
        if isinstance(outcome, Problem):
            raise outcome
        return outcome

    async def do_many(self, commands: Sequence[Command]) -> list[Any]:
        """Have several done, each on its own; a Problem stands where an answer would."""
        if not commands:
            return []
        futures = [self._submit(command) for command in commands]
        return list(await asyncio.gather(*futures))

    def _submit(self, command: Command) -> asyncio.Future[Any]:
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded(retry_after=1)
        return self._put(command)

    def _put(self, command: Command) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(Entry(command, answer, time.monotonic()))
        self._idle.clear()
        self._filled.set()
        return answer

    def forget_queues(self) -> None:
        """The next batch reads the queues anew."""
        self._registry = None

    def take_claims(self) -> dict[int, int]:
        """Queue id → last claim, since this was asked last."""
        claimed, self._claimed = self._claimed, {}
        return claimed

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    # --- the loop ---------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            self._idle.set()
            await self._filled.wait()
            self._filled.clear()
            while self._waiting:
                entries = self._gather()
                if entries:
                    await self._answer(entries)

    def _gather(self) -> list[Entry]:
        """The next commands, as many as one transaction may carry; at least one."""
        entries: list[Entry] = []
        moves = size = 0
        while self._waiting:
            command = self._waiting[0].command
            moves += command.moves
            size += command.size
            if entries and (moves > MAX_MOVES or size > MAX_BYTES):
                break
            entry = self._waiting.popleft()
            if not entry.answer.done():  # its caller may have gone
                entries.append(entry)
        return entries

    async def _answer(self, entries: list[Entry]) -> None:
        """Carry commands out and answer each of them, whatever happens."""
        try:
            await self._carry_out(entries, time.monotonic() + GIVE_UP_SECONDS)
        except asyncio.CancelledError:
            self._refuse(entries, Unavailable(retry_after=1))
            raise
        except Exception:
            logger.exception("a batch failed in a way that nobody thought of")
            self._refuse(entries, Internal())
            await self._line.drop()

    def _refuse(self, entries: Sequence[Entry], problem: Problem) -> None:
        for entry in entries:
            if not entry.answer.done():
                entry.answer.set_result(problem)

    # --- when it fails ----------------------------------------------------------------

    async def _carry_out(
        self, entries: list[Entry], deadline: float, lock_ms: int = KEY_LOCK_MS
    ) -> None:
        """One transaction; again if it failed without effect; then in halves."""
        if time.monotonic() > deadline:  # the halves before took all the time
            self._refuse(entries, Unavailable(retry_after=1))
            return
        tries = 0
        while True:
            batch = Batch(list(entries))
            failure = await self._attempt(batch, lock_ms, deadline)
            if failure is None:
                await self._committed(batch)
                return
            metrics.RETRIES.labels(failure.value).inc()
            # A broken line is tried until the deadline: the server may be starting again.
            tries += failure not in (Failure.BROKEN, Failure.STALE)
            if self._hopeless(batch, failure, tries) or time.monotonic() > deadline:
                break
            await asyncio.sleep(random.uniform(0.002, 0.05))
        divisible = failure in (Failure.DATA, Failure.TRANSIENT, Failure.LOCKED)
        if len(entries) > 1 and divisible and time.monotonic() < deadline:
            half = len(entries) // 2
            await self._carry_out(entries[:half], deadline, HALF_LOCK_MS)
            await self._carry_out(entries[half:], deadline, HALF_LOCK_MS)
        else:
            self._refuse(entries, self._verdict(batch, failure))

    def _hopeless(self, batch: Batch, failure: Failure, tries: int) -> bool:
        """Whether the same batch need not be tried again."""
        if failure is Failure.LOCKED and batch.stage == "keys":
            # Somebody holds one of the keys: the others need not wait with it.
            waited = time.monotonic() - min(entry.born for entry in batch.entries)
            return len(batch.entries) > 1 or waited > HELD_SECONDS
        return tries >= TRIES or failure in (Failure.DATA, Failure.OTHER)

    def _verdict(self, batch: Batch, failure: Failure) -> Problem:
        alone = len(batch.entries) == 1  # else it is not known whose fault it was
        if alone and failure is Failure.LOCKED and batch.stage == "keys":
            return IdempotencyInProgress()
        if alone and failure is Failure.DATA:
            return Internal()
        return Unavailable(retry_after=1)

    async def _attempt(self, batch: Batch, lock_ms: int, deadline: float) -> Failure | None:
        """Run one transaction to its commit; None if it is committed, else why it is not."""
        try:
            async with asyncio.timeout(STUCK_SECONDS):
                await self._transact(batch, lock_ms)
            return None
        except QueuesChanged:
            self._registry = None
            await self._reset(Failure.STALE)
            return Failure.STALE
        except Exception as error:
            if batch.stage == "commit":
                return await self._settle(batch, deadline)
            # A decision asks nobody: if it falls, it does so again, and for one command alone.
            failure = Failure.DATA if batch.stage == "decide" else classify(error)
            if failure in (Failure.DATA, Failure.OTHER):
                logger.opt(exception=error).error("a batch was refused at {}", batch.stage)
            await self._reset(failure)
            return failure

    async def _reset(self, failure: Failure) -> None:
        """Bring the line back to where the next transaction can begin."""
        if failure is Failure.BROKEN:
            await self._line.drop()
            return
        try:
            async with asyncio.timeout(1):
                await self._line.rollback()
        except database.DRIVER_ERRORS:
            await self._line.drop()

    async def _settle(self, batch: Batch, deadline: float) -> Failure | None:
        """The line broke after COMMIT was sent: find out on a new one what happened.

        With the head locked nobody appends; if the event with the batch's first number is the
        batch's own, it was committed. None then; else a failure: it can be run again.
        """
        await self._line.drop()
        if not batch.events:
            return Failure.TRANSIENT  # such a batch does the same when it is run again
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(STUCK_SECONDS):
                    committed = await self._was_committed(batch)
                metrics.SETTLED.labels("committed" if committed else "lost").inc()
                return None if committed else Failure.TRANSIENT
            except database.DRIVER_ERRORS as error:
                logger.warning("cannot settle a batch yet: {}", type(error).__name__)
                await self._line.drop()
                await asyncio.sleep(0.1)
        metrics.SETTLED.labels("unknown").inc()
        return Failure.OTHER

    async def _was_committed(self, batch: Batch) -> bool:
        assert batch.appended is not None
        await self._line.begin(HEAD_LOCK_MS)
        await events.lock_head(self._line.session)
        writer = await events.batch_at(self._line.session, batch.appended.first)
        await self._line.rollback()
        return writer == batch.id

    # --- one transaction --------------------------------------------------------------

    async def _transact(self, batch: Batch, lock_ms: int) -> None:
        started = time.perf_counter()
        commands = [entry.command for entry in batch.entries]
        keyed = any(isinstance(c, Keyed) and c.key is not None for c in commands)
        await self._line.begin(lock_ms if keyed else HEAD_LOCK_MS)
        session = self._line.session
        if self._registry is None:
            self._registry = await queues.load_registry(session)
        desk = batch.desk = Desk(now=0, registry=self._registry)
        batch.stage = "keys"
        stored = await self._store_keys(session, desk, commands) if keyed else {}
        batch.stage = "rows"
        await self._lock(session, desk, commands)
        await self._take_carts(session, desk, commands)
        batch.stage = "stock"
        await self._lock_stock(session, desk, commands)
        await self._read_clock(session, desk, commands)
        await self._probe(session, desk, commands)
        batch.stage = "decide"
        self._decide(batch)
        if desk.queue_missed and await events.queues_version(session) != desk.registry.version:
            raise QueuesChanged
        batch.stage = "write"
        await self._write(session, batch, stored)
        if not desk.wrote:
            await self._line.rollback()
            return
        batch.stage = "commit"
        await self._line.commit()
        metrics.batch(_tally(batch), len(desk.events), time.perf_counter() - started)

    async def _store_keys(
        self, session: Session, desk: Desk, commands: Sequence[Command]
    ) -> dict[str, Keyed]:
        """Store the keys of this batch; what was stored, by whom. The others are read."""
        wanted: dict[str, Keyed] = {}
        for command in commands:
            if isinstance(command, Keyed):
                key = command.scoped_key(desk.registry)
                if key is None and command.key is not None:
                    desk.queue_missed = True
                elif key is not None:
                    wanted.setdefault(key, command)
        if not wanted:
            return {}
        new = await queues.insert_keys(session, wanted)
        await self._line.patience(HEAD_LOCK_MS)
        if len(new) < len(wanted):
            desk.known_keys = await self._known_keys(session, sorted(wanted.keys() - new), wanted)
        return {key: wanted[key] for key in new}

    async def _known_keys(
        self, session: Session, keys: Sequence[str], wanted: dict[str, Keyed]
    ) -> dict[str, KnownKey | KnownMovement]:
        received = [key for key in keys if isinstance(wanted[key], Receive)]
        posted = [key for key in keys if not isinstance(wanted[key], Receive)]
        known: dict[str, KnownKey | KnownMovement] = {}
        if posted:
            known |= await queues.known_keys(session, posted)
        if received:
            known |= await stock.known_movements(session, received)
        return known

    async def _lock(self, session: Session, desk: Desk, commands: Sequence[Command]) -> None:
        ids = {message_id for command in commands for message_id in command.ids}
        if not ids:
            return
        rows, held = await queues.lock_rows(session, sorted(ids))
        if any(row.queue_id not in desk.registry.by_id for row in rows):
            raise QueuesChanged
        desk.rows = {row.id: row for row in rows}
        desk.held = frozenset(held)
        used = {
            command.id
            for command in commands
            if isinstance(command, Settle)
            and (row := desk.rows.get(command.id)) is not None
            and row.receipt != command.receipt
        }
        if used:
            desk.ended = await queues.ended_leases(session, sorted(used))

    async def _take_carts(self, session: Session, desk: Desk, commands: Sequence[Command]) -> None:
        buyers = {one.purchase.customer for one in commands if isinstance(one, Checkout)}
        if buyers:
            desk.carts, desk.held_carts = await carts.take(session, sorted(buyers))

    async def _lock_stock(self, session: Session, desk: Desk, commands: Sequence[Command]) -> None:
        received = {command.sku for command in commands if isinstance(command, Receive)}
        if received:
            now = await database.now(session)
            await stock.open_levels(session, sorted(received), now)
        wanted = {sku for command in commands for sku in command.skus(desk)}
        if wanted:
            desk.shelf.levels = await stock.lock(session, sorted(wanted))

    async def _read_clock(self, session: Session, desk: Desk, commands: Sequence[Command]) -> None:
        """The one `now` of this transaction, read after its locks; with what a sale depends on."""
        posts = [command for command in commands if isinstance(command, Enqueue)]
        if posts:
            skus = sorted({sku for command in posts for sku in command.skus(desk)})
            desk.now, desk.terms = await catalogue.terms(session, skus)
            buyers = {one.purchase.customer for one in posts if isinstance(one, PlaceOrder)}
            if buyers:
                desk.inactive = await customers.inactive(session, sorted(buyers))
        else:
            desk.now = await database.now(session)
        desk.shelf.now = desk.now

    async def _probe(self, session: Session, desk: Desk, commands: Sequence[Command]) -> None:
        wanted: dict[int, int] = {}
        for command in commands:
            if isinstance(command, Claim) and not command.gone():
                queue = desk.registry.by_name.get(command.queue)
                if queue is not None and not queue.paused:
                    wanted[queue.id] = wanted.get(queue.id, 0) + command.max
        for queue_id, n in sorted(wanted.items()):
            rows = await queues.probe(session, queue_id, desk.now, min(n, MAX_MOVES))
            desk.candidates[queue_id] = [row.id for row in rows]
            for row in rows:
                desk.rows.setdefault(row.id, row)

    def _decide(self, batch: Batch) -> None:
        desk = batch.desk
        assert desk is not None
        for entry in batch.entries:
            try:
                batch.outcomes.append((entry, run(desk, entry.command)))
            except Held:
                batch.deferred.append(entry)
        desk.events += desk.shelf.events()

    async def _write(self, session: Session, batch: Batch, stored: dict[str, Keyed]) -> None:
        desk = batch.desk
        assert desk is not None
        if stored:
            await queues.mend_keys(session, stored, desk)
        if desk.new:
            await queues.insert_rows(session, list(desk.new.values()))
        if bought := [customer for customer, cart in desk.carts.items() if cart.bought]:
            await carts.empty(session, bought, desk.now)
        changed = [desk.rows[i] for i in sorted(desk.touched - desk.new.keys())]
        if changed:
            await queues.update_rows(session, changed)
        if desk.shelf.changed:
            await stock.write(session, desk.shelf)
        if desk.removed:
            await queues.remove_rows(session, desk.removed)
        if desk.events or desk.counters.changes:
            batch.stage = "head"
            batch.appended = await events.append(
                session, batch.id, desk.events, desk.counters, desk.registry.version
            )
            if batch.appended is None:
                raise QueuesChanged
        if desk.removed:
            await queues.remove_histories(session, desk.removed)

    # --- after the commit -------------------------------------------------------------

    async def _committed(self, batch: Batch) -> None:
        """Answer, then tell the hub and Redis. Nothing here waits for anything."""
        desk = batch.desk
        assert desk is not None
        for queue_id in desk.claimed_from:
            self._claimed[queue_id] = desk.now
        for entry, outcome in batch.outcomes:
            if not entry.answer.done():
                entry.answer.set_result(outcome)
            elif isinstance(entry.command, Claim) and isinstance(outcome, list):
                self._give_back(entry.command, outcome)
        if batch.appended is not None and desk.events:
            self._on_commit(batch.appended, desk.events)
        await self._defer(batch)

    def _give_back(self, claim: Claim, messages: Sequence[dict[str, Any]]) -> None:
        """Whoever claimed these has gone before he got them."""
        for message in messages:
            self._put(Release(message["id"], message["receipt"], claim.account))

    async def _defer(self, batch: Batch) -> None:
        """What another process holds goes into the next batch, for two seconds at most."""
        now = time.monotonic()
        for entry in reversed(batch.deferred):
            if now - entry.born > HELD_SECONDS:
                self._refuse([entry], Unavailable(retry_after=1))
            else:
                self._waiting.appendleft(entry)
        if batch.deferred and len(self._waiting) == len(batch.deferred):
            await asyncio.sleep(0.01)


def _tally(batch: Batch) -> dict[str, int]:
    """How many commands of each verb succeeded."""
    tally: dict[str, int] = {}
    for entry, outcome in batch.outcomes:
        if not isinstance(outcome, Problem):
            tally[entry.command.verb] = tally.get(entry.command.verb, 0) + 1
    return tally

"""Everything that is open while a process serves, opened in the order of need."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from loguru import logger

import config
import events
import hub as hubs
import metrics
import queues
import schemas
from accounts import Accounts
from auth import Signer
from config import Settings
from database import Database
from events import Wire
from hub import Hub
from orders import Line
from processes import Processes
from streams import Streams
from upkeep import Upkeep
from writer import Writer


class Service:
    """Everything that is open while the process serves."""

    def __init__(self, settings: Settings, stopping: Callable[[], bool]) -> None:
        """`stopping` says whether the server was told to stop."""
        self._settings, self._stopping = settings, stopping
        self.db = Database(config.tortoise_orm(settings))
        self.signer = Signer(config.secret_key(settings), settings.public_url)
        self.accounts = Accounts(self.db, self.signer)
        self.hub = Hub(
            self._read_log,
            superseded=frozenset({"stock.changed"}),
            states=frozenset({*schemas.ORDER_TYPES, "stock.changed"}),
            regrouping=frozenset({"favourites.changed"}),
            on_error=lambda error: logger.warning("the log: {}", type(error).__name__),
        )
        self.wire: Wire | None = None
        if settings.redis_url is not None:
            self.wire = Wire(
                settings.redis_url.get_secret_value(),
                self.signer.wire_key,
                on_payload=self._on_payload,
                on_subscribed=self._on_subscribed,
            )
        self.draining = False
        self.streams = Streams(settings)
        self._told = hubs.Stats()  # what the metrics have of the hub's numbers
        self._heard = events.WireStats()  # and of the wire's
        self._from_log = 0  # events that the hub had to read, not yet told to the metrics

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Open in the order of need; close in the opposite one."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.db.close)  # also what was opened before a failure
            await self.db.open()
            await self._bring_up_to_date()
            self.db.serve_alone()
            await self.accounts.ensure_admin(config.admin_password(self._settings)[0])
            seen = await events.settle_home(self.db)
            await self.accounts.reload()
            self.hub.start(seen.epoch, max(seen.floor, seen.head - events.WINDOW), seen.floor)
            stack.push_async_callback(self.hub.stop)
            await self.hub.catch_up()
            self._from_log = 0
            self.line = Line(self.db, self.hub)
            self.line.start()
            stack.push_async_callback(self.line.stop)
            self.writer = Writer(self.db, self.committed)
            await self.writer.start()
            stack.push_async_callback(self.writer.stop)
            self.processes = Processes(self.db, self.hub)
            await self.processes.start()
            stack.push_async_callback(self.processes.stop)
            self.upkeep = Upkeep(
                self.db,
                self.writer,
                self.hub,
                self.wire,
                self.accounts,
                self.processes,
                self._settings.event_retention_days,
                self._settings.audit_days,
            )
            if self.wire is not None:  # what it hears goes to the parts above
                await self.wire.start(seen.epoch)
                stack.push_async_callback(self.wire.stop)
            await self.upkeep.start(seen)
            stack.push_async_callback(self.upkeep.stop)
            drain = asyncio.create_task(self._drain(), name="drain")
            stack.callback(drain.cancel)
            # What is there by now stays: without this the collector looks through all of it
            # again and again, for some 70 ms each time, and nobody is answered meanwhile.
            gc.collect()
            gc.freeze()
            yield

    async def _bring_up_to_date(self) -> None:
        """Migrate; in production an old schema is refused instead."""
        if self._settings.environment != "production":
            await self.db.migrate()
        elif pending := await self.db.pending_migrations():
            raise RuntimeError(
                f"the schema lacks {', '.join(pending)}: run `python cli.py migrate` first"
            )

    async def _drain(self) -> None:
        """Be ready no more when the server is told to stop; then say goodbye to the streams.

        uvicorn waits for open answers before it ends the lifespan, and streams never end by
        themselves.
        """
        while not self._stopping():  # noqa: ASYNC110 - a flag set by a signal handler
            await asyncio.sleep(0.1)
        self.draining = True
        await asyncio.sleep(self._settings.drain_seconds)
        self.hub.end_all("shutdown")

    def committed(self, appended: events.Appended, committed: Sequence[events.Event]) -> None:
        """Show what was committed to our own streams and to the other processes."""
        frames = events.frames(appended, committed)
        self.hub.feed(appended.epoch, appended.first, frames)
        if self.wire is not None:
            self.wire.publish(appended.epoch, appended.first, frames)

    def changed(self, change: queues.Change) -> None:
        """The same for a change of a queue."""
        self.writer.forget_queues()
        if change.appended is not None and change.event is not None:
            self.committed(change.appended, [change.event])

    async def _read_log(self, after: int, topics: frozenset[str] | None) -> hubs.Window:
        window = await events.read_window(self.db, after, topics)
        if topics is None:  # the hub itself is behind
            self._from_log += sum(frame.seq > self.hub.head for frame in window.frames)
        return window

    def _on_payload(self, payload: events.Payload) -> None:
        if payload.frames:
            self.hub.feed(payload.epoch, payload.first, payload.frames)
        else:
            self.hub.look(payload.epoch, payload.head)

    def _on_subscribed(self) -> None:
        self.upkeep.look_soon()

    def measure(self) -> None:
        """Bring the gauges up to date before they are read."""
        stats, told = self.hub.stats, self._told
        metrics.DELIVERIES.inc(stats.delivered - told.delivered)
        metrics.LEFT_OUT.inc(stats.left_out - told.left_out)
        metrics.GAPS.inc(stats.gaps - told.gaps)
        self._told = replace(stats)
        metrics.FROM_LOG.inc(self._from_log)
        self._from_log = 0
        metrics.STREAMS.set(stats.streams)
        metrics.HEAD.set(self.hub.head)
        metrics.WAITING.set(self.writer.waiting)
        if self.wire is not None:
            self._measure(self.wire)

    def _measure(self, wire: Wire) -> None:
        stats, told = wire.stats, self._heard
        metrics.REDIS_PUBLISHED.inc(stats.published - told.published)
        metrics.REDIS_DROPPED.inc(stats.dropped - told.dropped)
        metrics.REDIS_HEARD.inc(stats.heard - told.heard)
        metrics.REDIS_GARBAGE.inc(stats.garbage - told.garbage)
        metrics.REDIS_SUBSCRIPTIONS.inc(stats.subscriptions - told.subscriptions)
        self._heard = replace(stats)
        metrics.PUBLISH_WAITING.set(wire.waiting)
        metrics.REDIS_UP.set(int(wire.up))
        metrics.REDIS_PUBLISHING.set(int(wire.publishing))
        metrics.REDIS_HEARING.set(int(wire.hearing))
        metrics.REDIS_SILENCE.set(wire.silence)

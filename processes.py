"""The processes of the service, and who is connected to them.

A process renews its row every five seconds; one that has not for thirty is gone. Its streams
it knows alone. Who wants to see those of all marks the rows of the others; each finds the
mark when it looks at the log, as it does every second, and as long as somebody looks it
writes a listing of those that are wanted into its row. The same way it is asked to end one
of them. So nobody needs Redis for it, and while nobody looks it costs nothing.
"""

import asyncio
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

import database
import events
import streams
from database import Database, Dialect, Row, Session
from errors import NotFound, Unavailable
from events import Look
from hub import Hub, event_id
from instants import stamp
from streams import Choice

BEAT: Final = 5.0  # seconds between two renewals of a row
TELL: Final = 2.0  # the same while somebody wants a listing
GONE_MS: Final = 30_000  # since a row was renewed: its process is gone
FORGOTTEN_MS: Final = 60_000  # then the row is deleted; nobody marks it any more
WANTED_MS: Final = 30_000  # how long a mark holds
MARK_AGAIN_MS: Final = 10_000  # of that time left: the mark is renewed
MOST_WANTED: Final = 8  # wishes at the same time
FRESH_MS: Final = 4_000  # a listing is renewed every TELL, when the process comes round to it
LISTING_SECONDS: Final = 2.5  # how long a listing is waited for
ENDING_SECONDS: Final = 3.0  # how long for a process to end one of its streams
ASKED_MS: Final = 30_000  # how long the outcome is kept
MOST_ASKED: Final = 64  # streams of one process that are being ended
POLL: Final = 0.1
STOP_SECONDS: Final = 2.0
REASON: Final = "lifetime"  # of the goodbye: come back, here or elsewhere

SHOWN = "id, host, pid, started_at, seen_at, streams, head, lag"


def _each(sql: str) -> dict[Dialect, str]:
    """The statement for each database; {now}: its clock, {greatest}: the larger of two."""
    greatest = {Dialect.POSTGRES: "greatest", Dialect.SQLITE: "max"}
    return {one: sql.format(now=one.clock, greatest=greatest[one]) for one in Dialect}


LOOK = _each(
    "SELECT stream.*, {now} AS now, processes.wanted, processes.asked"
    " FROM stream LEFT JOIN processes ON processes.id = $1"
)
RENEW = _each(
    "INSERT INTO processes (id, host, pid, started_at, seen_at, streams, head, lag, told, listing)"
    " VALUES ($1, $2, $3, $4, {now}, $5, $6, {greatest}(0, (SELECT head FROM stream) - $7),"
    " $8, $9) ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at,"
    " streams = excluded.streams, head = excluded.head, lag = excluded.lag,"
    " told = excluded.told, listing = excluded.listing"
)
FORGET = _each(f"DELETE FROM processes WHERE seen_at < {{now}} - {FORGOTTEN_MS}")
LIVE = _each(
    f"SELECT {SHOWN} FROM processes WHERE seen_at >= {{now}} - {GONE_MS} ORDER BY started_at, id"
)
OTHERS = _each(
    "SELECT id, seen_at, wanted, told, {now} AS now"
    f" FROM processes WHERE id <> $1 AND seen_at >= {{now}} - {GONE_MS}"
)
LISTINGS = _each(
    f"SELECT id, streams, listing FROM processes WHERE id <> $1 AND seen_at >= {{now}} - {GONE_MS}"
)
MARK = "UPDATE processes SET wanted = $2 WHERE id = $1 AND wanted = $3"
ASKED = _each(f"SELECT asked FROM processes WHERE id = $1 AND seen_at >= {{now}} - {GONE_MS}")
ASK = "UPDATE processes SET asked = $2 WHERE id = $1 AND asked = $3 RETURNING id"


@dataclass(frozen=True, slots=True)
class Found:
    """Streams of all processes."""

    items: list[dict[str, Any]]
    more: bool
    open: int  # of all processes, listed or not
    incomplete: list[str]  # processes that did not tell in time
    truncated: list[str]  # processes that have more than they tell


class Processes:
    """This process among the others."""

    def __init__(self, db: Database, hub: Hub) -> None:
        self._db, self._hub = db, hub
        self.id = secrets.token_hex(5)
        self.due = asyncio.Event()  # `tend` is wanted earlier
        self._started_at = 0
        self._renewed = 0.0  # of `time.monotonic`
        self._wanted: dict[str, Choice] = {}
        self._asked = False
        self._ended: dict[str, bool] = {}  # what came of what was asked

    async def start(self) -> None:
        async with self._db.read() as session:
            self._started_at = await database.now(session)
        if self._db.dialect is Dialect.SQLITE:  # nobody else serves it, whoever did before
            async with self._db.statement() as session:
                await session.execute("DELETE FROM processes")
        await self._renew()

    async def stop(self) -> None:
        """The row goes at once; where that cannot be, others see that it is not renewed."""
        with suppress(*database.DRIVER_ERRORS):
            async with asyncio.timeout(STOP_SECONDS), self._db.statement() as session:
                await session.execute("DELETE FROM processes WHERE id = $1", self.id)

    # --- this process -----------------------------------------------------------------

    async def look(self, session: Session) -> Look:
        """The stream row, and with it what is wanted of this process."""
        row = (await session.fetch(LOOK[session.dialect], self.id))[0]
        wishes = _live(json.loads(row["wanted"] or "{}"), row["now"])
        wanted = {key: Choice.wanted(one) for key, one in wishes.items()}
        self._asked = (row["asked"] or "{}") != "{}"
        if not wanted.keys() <= self._wanted.keys():
            self._renewed = float("-inf")
            self.due.set()
        if self._asked:
            self.due.set()
        self._wanted = wanted
        return events.look_of(row)

    async def tend(self) -> None:
        """Renew the row when it is time, and end what others asked to be ended."""
        since = time.monotonic() - self._renewed
        if since >= BEAT or (self._wanted and since >= TELL):
            await self._renew()
        if self._asked:
            self._asked = False
            await self._answer()

    async def _renew(self) -> None:
        self._renewed = time.monotonic()
        hub = self._hub
        wanted = self._wanted
        told = await self._listings(wanted)
        async with self._db.statement() as session:
            await session.execute(
                RENEW[session.dialect],
                self.id,
                socket.gethostname()[:253],
                os.getpid(),
                self._started_at,
                hub.stats.streams,
                event_id(hub.epoch, hub.head),
                hub.head,
                " ".join(wanted),
                told,
            )
        async with self._db.statement() as session:
            await session.execute(FORGET[session.dialect])

    async def _listings(self, wanted: Mapping[str, Choice]) -> str | None:
        """{wish: listing} as JSON, within a bound for all of them."""
        if not wanted:
            return None
        each = streams.LISTING_BYTES // len(wanted)
        parts: list[bytes] = []
        for key, choice in wanted.items():
            told = await streams.listing(self._hub, self.id, choice, each)
            parts.append(b'"%b":%b' % (key.encode(), told))
        return (b"{" + b",".join(parts) + b"}").decode()

    async def _answer(self) -> None:
        """Questions of others are in the row: {question: {stream, at, ended}}."""
        while True:
            async with self._db.read() as session:
                now = await database.now(session)
                before = await self._questions(session, self.id)
            kept = {key: one for key, one in before.items() if one["at"] > now - ASKED_MS}
            self._ended = {
                key: self._ended[key]
                if key in self._ended
                else self._hub.end_number(one["stream"], REASON)
                for key, one in kept.items()
            }
            after = {key: {**one, "ended": self._ended[key]} for key, one in kept.items()}
            if after == before or await self._put(self.id, before, after):
                return

    async def _questions(self, session: Session, process: str) -> dict[str, Any]:
        """
        Raises:
            NotFound: there is no such process.
        """
        rows = await session.fetch(ASKED[session.dialect], process)
        if not rows:
            raise NotFound
        return json.loads(rows[0]["asked"])

    async def _put(self, process: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
        """Compare and set; False if somebody else was faster."""
        async with self._db.statement() as session:
            return bool(await session.fetch(ASK, process, json.dumps(after), json.dumps(before)))

    # --- all of them ------------------------------------------------------------------

    async def shapes(self) -> list[dict[str, Any]]:
        """Each live process as `schemas.Process`, the oldest first; this one as it is now."""
        async with self._db.read() as session:
            rows = await session.fetch(LIVE[session.dialect])
            log = await events.look(session)
            now = await database.now(session)
        return [
            {
                **_process_shape(row),
                **(self._own(log, now) if row["id"] == self.id else {}),
            }
            for row in rows
        ]

    def _own(self, log: Look, now: int) -> dict[str, Any]:
        hub = self._hub
        return {
            "seen_at": stamp(now),
            "streams": hub.stats.streams,
            "head": event_id(hub.epoch, hub.head),
            "lag": max(0, log.head - hub.head),
        }

    async def open_streams(self, choice: Choice, limit: int) -> Found:
        """Open streams of all processes: this one's as they are, the others' as they tell."""
        key = _key(choice)
        others, late = await self._ask_for_listings(key, choice)
        shapes, _ = await streams.chosen(self._hub, self.id, choice, limit + 1)
        opened, truncated = self._hub.stats.streams, list[str]()
        for row in others:
            opened += row["streams"]
            told = from_json(row["listing"] or "{}").get(key, {"count": 0, "items": []})
            if len(told["items"]) < told["count"]:
                truncated.append(row["id"])
            shapes += [one for one in told["items"] if choice.follows(one)]
            await asyncio.sleep(0)  # a listing may have 256 KiB
        items = streams.merged(shapes, choice, limit + 1)
        return Found(items[:limit], len(items) > limit, opened, sorted(late), sorted(truncated))

    async def _ask_for_listings(self, key: str, choice: Choice) -> tuple[Sequence[Row], set[str]]:
        """The rows of the others, and who of them did not tell in time."""
        deadline, began = time.monotonic() + LISTING_SECONDS, 0
        while True:
            rows = await self._others()
            began = began or (rows[0]["now"] if rows else 0)
            late = {row["id"] for row in rows if not _has_told(row, key, began - FRESH_MS)}
            for row in rows:
                await self._mark(row, key, choice)
            if not late or time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL)
        if not rows:
            return [], set()
        async with self._db.read() as session:
            return await session.fetch(LISTINGS[session.dialect], self.id), late

    async def _mark(self, row: Row, key: str, choice: Choice) -> None:
        """Let a process know what is wanted of it, unless it does."""
        now = row["now"]
        wishes = _live(json.loads(row["wanted"]), now)
        if key in wishes and wishes[key]["until"] >= now + MARK_AGAIN_MS:
            return
        wishes[key] = {**choice.wish, "until": now + WANTED_MS}
        latest = sorted(wishes, key=lambda one: wishes[one]["until"])[-MOST_WANTED:]
        text = json.dumps({one: wishes[one] for one in latest})
        async with self._db.statement() as session:  # who was faster, is seen in the next turn
            await session.execute(MARK, row["id"], text, row["wanted"])

    async def _others(self) -> Sequence[Row]:
        async with self._db.read() as session:
            return await session.fetch(OTHERS[session.dialect], self.id)

    async def end(self, stream: str) -> None:
        """End a stream of any process; its client is told to come back.

        Raises:
            NotFound: it is not open.
            Unavailable: its process did not answer in time; it may still end it.
        """
        found = streams.parse_stream_id(stream)
        if found is None:
            raise NotFound
        process, number = found
        if process == self.id:
            ended = self._hub.end_number(number, REASON)
        else:
            ended = await self._end_elsewhere(process, number)
        if not ended:
            raise NotFound

    async def _end_elsewhere(self, process: str, number: int) -> bool:
        deadline = time.monotonic() + ENDING_SECONDS
        question = await self._ask(process, number, deadline)
        while time.monotonic() < deadline:
            await asyncio.sleep(POLL)
            async with self._db.read() as session:
                answer = (await self._questions(session, process)).get(question)
            if answer is not None and answer["ended"] is not None:
                return answer["ended"]
        raise Unavailable("The stream's process did not answer in time; ask again.", retry_after=1)

    async def _ask(self, process: str, number: int, deadline: float) -> str:
        question = secrets.token_hex(5)
        while time.monotonic() < deadline:
            async with self._db.read() as session:
                now = await database.now(session)
                before = await self._questions(session, process)
            after = {**before, question: {"stream": number, "at": now, "ended": None}}
            if len(after) <= MOST_ASKED and await self._put(process, before, after):
                return question
            await asyncio.sleep(POLL)
        raise Unavailable("Too many streams of its process are being ended.", retry_after=1)


def _process_shape(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "host": row["host"],
        "pid": row["pid"],
        "started_at": stamp(row["started_at"]),
        "seen_at": stamp(row["seen_at"]),
        "streams": row["streams"],
        "head": row["head"],
        "lag": row["lag"],
    }


def _key(choice: Choice) -> str:
    """The same for the same wish."""
    return hashlib.sha256(json.dumps(choice.wish).encode()).hexdigest()[:12]


def _live(wishes: Mapping[str, Any], now: int) -> dict[str, Any]:
    return {key: one for key, one in wishes.items() if one["until"] > now}


def _has_told(row: Row, key: str, since: int) -> bool:
    return key in row["told"].split() and row["seen_at"] >= since

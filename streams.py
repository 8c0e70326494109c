"""The streams that are open: whose they are, how many anybody may have, how each is doing."""

import asyncio
import heapq
import re
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json

import metrics
from auth import Principal
from config import Settings
from errors import Overloaded, TooManyStreams
from hub import Facts, Hub, Subscriber, event_id
from instants import parse, stamp
from schemas import make_cursor, read_cursor

FILES_BESIDES: Final = 256  # open files of a process besides its streams and its database
COME_BACK: Final = 5  # seconds
MOST_LISTED: Final = 500  # streams that a process tells the others of
LISTING_BYTES: Final = 256 << 10
TOPICS_SHOWN: Final = 64
LOOKED_AT: Final = 2_000  # streams in one turn of the loop: some 1 ms
SHAPED: Final = 100  # the same for those that are described

_stream_id = re.compile(r"([0-9a-f]{10})-([1-9][0-9]{0,15})")
_place = re.compile(r"([0-9]{1,15})\.([0-9a-f]{10})-([1-9][0-9]{0,15})")

Place = tuple[int, str, int]  # when a stream was opened, its process, its number there


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a stream is: by which credential, from which address."""

    principal: Principal | None
    address: str


def files_wanted(settings: Settings) -> int:
    """How many files one process may have open at once."""
    return settings.max_streams + settings.pool_size + FILES_BESIDES


def most_streams(settings: Settings, files: int) -> int:
    """What a process takes that may open so many files (`resource.RLIM_INFINITY`: any number)."""
    if files == resource.RLIM_INFINITY:
        return settings.max_streams
    return min(settings.max_streams, max(1, files - settings.pool_size - FILES_BESIDES))


class Streams:
    """How many streams are open, by whom. A stream counts from its admission to its end."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._most = most_streams(settings, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._by_principal: Counter[str] = Counter()
        self._by_address: Counter[str] = Counter()
        self._open = 0
        self._rate = settings.max_stream_rate
        self._tokens, self._filled_at = float(self._rate), clock()

    def admit(self, owner: Owner) -> None:
        """
        Raises:
            Overloaded: the process has enough of them, or too many come at once.
            TooManyStreams: the credential or the address has.
        """
        name, most = self._bound(owner)
        if self._open >= self._most:
            raise Overloaded(retry_after=COME_BACK)
        if self._by_principal[name] >= most:
            raise TooManyStreams(retry_after=COME_BACK)
        if self._by_address[owner.address] >= self._settings.max_streams_per_address:
            raise TooManyStreams(retry_after=COME_BACK)
        if self._settings.rate_limits:
            self._take_token()
        self._open += 1
        self._by_principal[name] += 1
        self._by_address[owner.address] += 1

    def _take_token(self) -> None:
        """To open one costs some milliseconds: those that are open must not wait for it."""
        now = self._clock()
        since, self._filled_at = now - self._filled_at, now
        self._tokens = min(self._rate, self._tokens + since * self._rate)
        if self._tokens < 1:
            raise Overloaded(retry_after=COME_BACK)
        self._tokens -= 1

    def leave(self, owner: Owner, reason: str) -> None:
        """It is over; `reason` says why."""
        metrics.ENDED.labels(reason).inc()
        name, _ = self._bound(owner)
        self._open -= 1
        for counter, key in ((self._by_principal, name), (self._by_address, owner.address)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    def _bound(self, owner: Owner) -> tuple[str, int]:
        who = owner.principal
        if who is None:
            return f"address:{owner.address}", self._settings.max_streams_per_address
        if who.kind == "ticket":
            most = who.max_streams or self._settings.max_streams_per_principal
            return f"ticket:{who.token_id}", most
        return f"account:{who.account}", self._settings.max_streams_per_principal


# --- how each is doing ----------------------------------------------------------------


def stream_id(process: str, number: int) -> str:
    return f"{process}-{number}"


def parse_stream_id(text: str) -> tuple[str, int] | None:
    """(process, number) of a stream's id, None if it is not one."""
    found = _stream_id.fullmatch(text)
    return (found[1], int(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which streams to list: those of any of these topics, of this account, opened before."""

    topics: frozenset[str] = frozenset()
    account: str | None = None
    before: Place | None = None
    by_lag: bool = False  # the largest first; else the newest

    @classmethod
    def wanted(cls, wish: Mapping[str, Any]) -> "Choice":
        """What `wish` says: those that lag most, then the newest."""
        return cls(frozenset(wish["topics"]), wish["account"], by_lag=True)

    @property
    def wish(self) -> dict[str, Any]:
        """What other processes are to tell of, as JSON values."""
        return {"topics": sorted(self.topics), "account": self.account}

    def fits(self, process: str, one: Subscriber) -> bool:
        """Whether it is listed, but for its topics."""
        who = one.owner.principal if isinstance(one.owner, Owner) else None
        if self.account is not None and (who is None or who.account != self.account):
            return False
        return self.before is None or (one.opened_at, process, one.number) < self.before

    def follows(self, shape: Mapping[str, Any]) -> bool:
        """Whether it is beyond the last page."""
        return self.before is None or place_of(shape) < self.before

    def order(self, shape: Mapping[str, Any]) -> tuple[int, Place]:
        return (shape["lag"] if self.by_lag else 0, place_of(shape))


def make_place(shape: Mapping[str, Any], filters: Mapping[str, Any]) -> str:
    """The cursor of the page that follows this stream."""
    opened_at, process, number = place_of(shape)
    return make_cursor(f"{opened_at}.{stream_id(process, number)}", filters)


def read_place(cursor: str | None, filters: Mapping[str, Any]) -> Place | None:
    """
    Raises:
        BadCursor: it is not of this list.
    """
    text = read_cursor(cursor, filters, _place)
    found = _place.fullmatch(text) if text else None
    return (int(found[1]), found[2], int(found[3])) if found else None


def place_of(shape: Mapping[str, Any]) -> Place:
    process, _, number = shape["id"].partition("-")
    return (parse(shape["connected_at"]), process, int(number))


def describe(facts: Facts, process: str, epoch: str) -> dict[str, Any]:
    """An `OpenStream`. Nothing in it opens anything: no token, no ticket."""
    owner = facts.owner if isinstance(facts.owner, Owner) else Owner(None, "unknown")
    who = owner.principal
    return {
        "id": stream_id(process, facts.number),
        "process": process,
        "account": None if who is None else who.account,
        "kind": "public" if who is None else who.kind,
        "address": owner.address,
        "topics": sorted(facts.topics)[:TOPICS_SHOWN],
        "connected_at": stamp(facts.opened_at),
        "cursor": None if facts.cursor is None else event_id(epoch, facts.cursor),
        "lag": facts.lag,
        "unsent_bytes": facts.unsent,
        "state": facts.state,
        "delivered": facts.delivered,
    }


def _lag_first(one: Subscriber) -> tuple[int, int]:
    return (one.lag, one.number)


def _newest_first(one: Subscriber) -> tuple[int, int]:
    return (one.opened_at, one.number)


async def chosen(
    hub: Hub, process: str, choice: Choice, most: int
) -> tuple[list[dict[str, Any]], int]:
    """The first `most` of this process's streams that fit, and how many do.

    In steps: nobody waits until all of them were looked at.
    """
    rank = _lag_first if choice.by_lag else _newest_first
    found = hub.streams(choice.topics)
    best: list[Subscriber] = []
    count = 0
    for start in range(0, len(found), LOOKED_AT):
        fitting = [one for one in found[start : start + LOOKED_AT] if choice.fits(process, one)]
        count += len(fitting)
        best = heapq.nlargest(most, [*best, *fitting], key=rank)
        await asyncio.sleep(0)
    shapes: list[dict[str, Any]] = []
    for one in best:
        shapes.append(describe(one.facts(), process, hub.epoch))
        if len(shapes) % SHAPED == 0:
            await asyncio.sleep(0)
    return shapes, count


async def listing(hub: Hub, process: str, choice: Choice, most_bytes: int) -> bytes:
    """{count, items}, what the other processes are told, as JSON.

    At most 500 streams, and as many as `most_bytes` hold; `count` is of all that fit.
    """
    shapes, count = await chosen(hub, process, choice, MOST_LISTED)
    parts: list[bytes] = []
    left = most_bytes
    for turn, shape in enumerate(shapes, 1):
        part = to_json(shape)
        left -= len(part) + 1
        if left < 0:
            break
        parts.append(part)
        if turn % SHAPED == 0:
            await asyncio.sleep(0)
    return b'{"count":%d,"items":[%b]}' % (count, b",".join(parts))


def merged(shapes: Iterable[dict[str, Any]], choice: Choice, most: int) -> list[dict[str, Any]]:
    """The first `most` of several processes' streams."""
    return heapq.nlargest(most, shapes, key=choice.order)

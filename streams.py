"""The streams that are open: whose they are, and how many anybody may have."""

import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import metrics
from auth import Principal
from config import Settings
from errors import Overloaded, TooManyStreams

FILES_BESIDES: Final = 256  # open files of a process besides its streams and its database
COME_BACK: Final = 5  # seconds


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

"""The counters of rate limits in Redis, asked once for a call.

`limits` would ask three times, on the event loop: to count, how far the count is, and when it
begins anew. Here the answer to the first has it all, and is kept for the headers of the call.

A Redis that takes its time for each answer would hold up every call of the process: it is as
good as none, and the counters of the process alone take its place until it is quick again.
"""

import time
from typing import Final

from limits.storage import RedisStorage

KEPT: Final = 10_000  # counters whose last answer is remembered
SLOW: Final = 0.02  # seconds an answer takes on average
WEIGHT: Final = 0.1  # of one answer in that average: a single late one is no matter
SCHEME: Final = "once+"  # before that of the URL: how `limits` finds this class
COUNT: Final = """
local count = redis.call('INCRBY', KEYS[1], ARGV[2])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
    left = ARGV[1] * 1000
    redis.call('PEXPIRE', KEYS[1], left)
end
return {count, left}"""


class Buckets(RedisStorage):
    """Counters as this process saw them when it last counted."""

    STORAGE_SCHEME = [SCHEME + scheme for scheme in ("redis", "rediss", "unix")]  # noqa: RUF012

    def __init__(self, uri: str, **options: float | str | bool) -> None:
        super().__init__(uri.removeprefix(SCHEME), **options)  # pyright: ignore[reportArgumentType]
        self._count = self.storage.register_script(COUNT)
        self._seen: dict[str, tuple[int, float]] = {}  # the count, when it begins anew
        self._took = 0.0  # seconds, on average

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count; `expiry` in seconds.

        Raises:
            TimeoutError: it answers, but too slowly.
        """
        began = time.perf_counter()
        count, left = self._count([self.prefixed_key(key)], [expiry, amount])
        self._took += WEIGHT * (time.perf_counter() - began - self._took)
        if self._took > SLOW:
            raise TimeoutError("Redis is slow")
        self._seen.pop(key, None)
        self._seen[key] = (count, time.time() + left / 1000)
        if len(self._seen) > KEPT:
            del self._seen[next(iter(self._seen))]
        return count

    def check(self) -> bool:
        """Whether it may be asked again."""
        began = time.perf_counter()
        answers = bool(super().check())
        self._took = 0.0
        return answers and time.perf_counter() - began < SLOW

    def get(self, key: str) -> int:
        count, ends = self._seen.get(key, (0, 0.0))
        return count if ends > time.time() else super().get(key)

    def get_expiry(self, key: str) -> float:
        """When it begins anew, in seconds since 1970."""
        _, ends = self._seen.get(key, (0, 0.0))
        return ends if ends > time.time() else super().get_expiry(key)


def address(url: str) -> str:
    """Where `limits` finds these counters, of the URL of a Redis."""
    return SCHEME + url

"""Instants: integers, milliseconds since 1970-01-01T00:00Z, and their RFC 3339 form."""

import re
from datetime import UTC, datetime
from functools import lru_cache

DAY = 86_400_000

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


@lru_cache(maxsize=512)
def _second(seconds: int) -> str:
    # Not strftime: its %Y writes the year 1 as "1" on Linux.
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


@lru_cache(maxsize=512)
def stamp(instant: int) -> str:
    """`2026-11-21T18:00:00.000Z`."""
    seconds, millis = divmod(instant, 1000)
    return f"{_second(seconds)}.{millis:03d}Z"


def stamp_or_none(instant: int | None) -> str | None:
    return None if instant is None else stamp(instant)


def parse(text: str) -> int:
    """The instant of an RFC 3339 text with `Z` or an offset; finer than a millisecond is cut.

    Raises:
        ValueError, OverflowError: it is none; or none that can be written in UTC.
    """
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError("write it as 2026-11-21T18:00:00Z, with Z or an offset")
    day, clock, fraction, zone = found.groups()
    local = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    moment = local.astimezone(UTC)  # raises where the offset leads out of the calendar
    millis = int((fraction or ".0")[1:].ljust(3, "0")[:3])
    return int(moment.timestamp()) * 1000 + millis

"""Ids that sort by when they were made."""

import os
import time


class Ids:
    """UUIDv7 (RFC 9562, 5.7), monotonic: 12 bits of counter behind the millisecond."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> str:
        # The counter is the millisecond's fraction in effect: when it runs over, time does.
        self._last = max(self._last + 1, (time.time_ns() // 1_000_000) << 12)
        millis, counter = self._last >> 12, self._last & 0xFFF
        tail = int.from_bytes(os.urandom(8), "big") & (1 << 62) - 1
        text = f"{millis << 80 | 7 << 76 | counter << 64 | 2 << 62 | tail:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


new_id = Ids().next

"""Long runs: each module here is one, with `main(args) -> Report`."""

from typing import NamedTuple


class Report(NamedTuple):
    """What a run did: how much was asked for, how much was done, and `ok` or what failed."""

    asked: int
    done: int
    result: str

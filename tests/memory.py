"""What a process holds of the machine's memory, as Linux counts it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: what is its own alone, that with its part of shared pages, all that is resident."""

    uss: int
    pss: int
    rss: int


def memory(pid: int) -> Memory:
    """Raises FileNotFoundError if there is no such process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    size = {
        name: 1024 * int(rest.split()[0]) for name, _, rest in (s.partition(":") for s in lines)
    }
    own = size["Private_Clean"] + size["Private_Dirty"]
    return Memory(own, size["Pss"], size["Rss"])

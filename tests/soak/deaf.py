"""1,000 readers that never read: memory, the end of each, and what a hundred find afterwards."""

from tests import deaf
from tests.chaos import arguments
from tests.sale import many_files
from tests.soak import Report


def main(args: list[str]) -> Report:
    """`deaf [READERS] [--seed N]`"""
    readers, draw = arguments(args, 1_000)
    many_files()
    seen = deaf.tried(readers, draw, min(readers, 100))
    print("\n".join([str(seen), *seen.wrong]), flush=True)
    return Report(readers, readers - len(seen.wrong), "; ".join(seen.wrong[:3]) or "ok")

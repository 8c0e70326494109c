"""`python -m tests.soak [all | NAME [ARGUMENT…]]`: list the long runs, or run them."""

import sys
import time
from importlib import import_module
from pkgutil import iter_modules

from tests import soak


def names() -> list[str]:
    found = (module.name for module in iter_modules(soak.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def listing() -> str:
    lines = [
        f"{name}  {(import_module(f'tests.soak.{name}').__doc__ or '').strip().splitlines()[0]}"
        for name in names()
    ]
    return "\n".join(["usage: scripts/soak all | NAME [ARGUMENT…]", *lines])


def run(name: str, args: list[str]) -> bool:
    """Run one, print its line; whether it was ok."""
    started = time.monotonic()
    report: soak.Report = import_module(f"tests.soak.{name}").main(args)
    seconds = time.monotonic() - started
    print(f"{name}: asked {report.asked}, done {report.done}, {report.result}, {seconds:.1f} s")
    return report.result == "ok"


def main(argv: list[str]) -> int:
    match argv:
        case []:
            print(listing())
            return 0
        case ["all"]:
            failed = [name for name in names() if not run(name, [])]
            return 1 if failed else 0
        case [name, *args] if name in names():
            return 0 if run(name, args) else 1
        case _:
            print(listing(), file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

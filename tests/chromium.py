"""A real browser for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from tests.services import Missing

PROGRAM = "/usr/bin/chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium. Raises Missing."""
    if not Path(PROGRAM).exists():
        raise Missing("no Chromium: apt-get install chromium")
    expect.set_options(timeout=15_000)  # for a machine that is busy
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield found
        found.close()

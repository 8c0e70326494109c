"""A real browser for tests."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.services import Missing

PROGRAM = "/usr/bin/chromium"
# The last such argument counts, so this one repeats what Playwright turns off by its own.
FEATURES_OFF = (
    "AimEnabled",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable",
    "HttpsUpgrades",
    "LensOverlay",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
    "ThirdPartyStoragePartitioning",
    # A third of what the browser costs: a process of each window for an address bar that nobody
    # sees, and one kept ready for the next page.
    "SpareRendererForSitePerProcess",
    "WebUIOmniboxAimPopup",
    "WebUIOmniboxPopup",
)
ARGUMENTS = ["--no-sandbox", f"--disable-features={','.join(FEATURES_OFF)}"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium. Raises Missing."""
    if not Path(PROGRAM).exists():
        raise Missing("no Chromium: apt-get install chromium")
    expect.set_options(timeout=30_000)  # ms, as all else of Playwright: for a machine that is busy
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=PROGRAM, args=ARGUMENTS)
        yield found
        found.close()


@contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    locale: str = "en-US",
    errors: str = "",
    cookie: str = "",
    before: str = "",
) -> Iterator[Page]:
    """A page in a browser of its own, where the script `before` runs first. Fails on an error
    in the console that does not match `errors`, on a script that falls, and on a request to
    anybody else."""
    hosts, faults = set[str](), list[str]()
    origin = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    with ExitStack() as stack:
        context = browser.new_context(locale=locale)
        stack.callback(context.close)
        if cookie:
            name, _, value = cookie.partition("=")
            context.add_cookies([{"name": name, "value": value, "url": origin}])
        page = context.new_page()
        page.add_init_script(before)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda said: faults.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.goto(url)
        yield page
    assert hosts == {urlsplit(url).netloc}, hosts
    wrong = [one for one in faults if not errors or not re.search(errors, one)]
    assert not wrong, wrong

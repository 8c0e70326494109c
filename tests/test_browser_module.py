"""static/filaviva.js: one connection for all tabs of a browser, and nothing missed in any."""

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, CDPSession, Error, Page, Route, expect

from tests import node
from tests.answers import NOWHERE
from tests.front import Front, front
from tests.house import PASSWORD, House, running
from tests.live import forged_ticket, head, ticket, travel
from tests.services import ROOT, until

Test = TypeVar("Test", bound=Callable[..., None])

SHOP = "http://shop.localhost"
LEASE = 600  # seconds: longer than any test
SECONDS = 30.0  # for a machine that is busy
WITHOUT = {  # what a browser lacks, by how its tabs then share
    "shared": "",
    "elected": "delete window.SharedWorker;",
    "alone": "delete window.SharedWorker; delete window.BroadcastChannel;",
}
FOLLOW = """async (options) => {
    const { connect } = await import(options.module ?? "/static/filaviva.js");
    window.stream?.close();
    window.told = { event: [], state: [], snapshot: [], reset: [], counts: [] };
    const on = { "*": (event) => window.told.event.push(event.id) };
    for (const name of ["state", "snapshot", "reset", "counts"]) {
        on[name] = (data) => window.told[name].push(data);
    }
    const renew = options.renews ? { renew: () => window.fresh() } : {};
    window.stream = connect({ ...options, ...renew, on });
}"""


class Tab:
    """A page under the service's policy that follows something."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.goto(f"{url}/track/nothing")  # any page of the service: here one that says no

    def follow(self, **options: Any) -> Self:
        self.page.evaluate(FOLLOW, options)
        return self

    def told(self, name: str = "event") -> list[Any]:
        return self.page.evaluate("(name) => window.told[name]", name)

    @property
    def state(self) -> dict[str, Any]:
        return self.page.evaluate("window.stream.state")

    @property
    def via(self) -> str:
        return self.page.evaluate("window.stream.via")

    def waits_for(self, name: str, reason: str | None = None) -> Self:
        """Until its connection is in this state."""

        def there() -> bool:
            return self.state["name"] == name and reason in (None, self.state.get("reason"))

        until(there, SECONDS, f"{name}, not {self.state}")
        return self

    def was(self, name: str) -> bool:
        return any(state["name"] == name for state in self.told("state"))

    def session(self) -> CDPSession:
        return self.page.context.new_cdp_session(self.page)


@contextmanager
def window(browser: Browser, mode: str = "shared", cookie: str = "") -> Iterator[BrowserContext]:
    """A browser of its own, with tabs that share in this way."""
    with browser.new_context() as context:
        context.add_init_script(WITHOUT[mode])
        if cookie:
            name, _, rest = cookie.partition("=")
            value, _, url = rest.partition(" ")
            context.add_cookies([{"name": name, "value": value, "url": url}])
        yield context


def signed_in(house: House, username: str, url: str | None = None) -> str:
    """The cookie of a page, and for which address."""
    sign_in = {"username": username, "password": PASSWORD}
    answer = httpx.post(f"{house.url}/api/v1/auth/session", json=sign_in, timeout=30)
    return f"{answer.headers['set-cookie'].partition(';')[0]} {url or house.url}"


def tabs(context: BrowserContext, url: str, count: int) -> list[Tab]:
    return [Tab(context.new_page(), url) for _ in range(count)]


def streams(house: House) -> int:
    """How many are open at the service."""
    text = house.client().get(f"{house.url}/metrics").text
    (found,) = re.findall(r"^filaviva_streams_open (\S+)$", text, re.MULTILINE)
    return int(float(found))


def agreed(house: House, count: int) -> None:
    """Wait until so many streams are open: one that was given up may still be on its way out."""
    until(lambda: streams(house) == count, SECONDS, f"{count} open streams")


def open_streams(house: House, topic: str) -> list[str]:
    """The ids of those that follow a topic."""
    answer = house.client().get("/streams", params={"topic": topic}).json()
    return [one["id"] for one in answer["items"]]


def nobody_follows(house: House) -> str:
    """Wait until the streams of earlier tests are over; the newest event's id."""
    agreed(house, 0)
    return head(house)


def log(house: House, topic: str, after: str) -> list[str]:
    """The ids of all events of a topic behind a cursor."""
    query = {"topic": topic, "after": after, "limit": 200}
    answer = house.client().get("/events/history", params=query).json()
    assert answer["next_cursor"] is None
    return [item["id"] for item in answer["items"]]


def agree(all_tabs: list[Tab], expected: list[str]) -> None:
    """Every tab is given exactly these, in this order."""
    for one in all_tabs:
        until(lambda one=one: len(one.told()) >= len(expected), SECONDS, f"{one.via}: all events")
        assert one.told() == expected, one.via


# One database is enough here: what differs between them was tested without a browser.
def browsing(test: Test) -> Test:
    on_sqlite = pytest.mark.parametrize("house", ["sqlite"], indirect=True)
    return pytest.mark.browser(on_sqlite(test))


# --- the file -------------------------------------------------------------------------


def test_the_module_is_served_for_pages(house: House) -> None:
    """As a script, and asked for by its ETag: tabs of two versions would share one worker."""
    client = house.client(None)
    answer = client.get(f"{house.url}/static/filaviva.js")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"] == "no-cache"
    known = {"If-None-Match": answer.headers["etag"]}
    again = client.get(f"{house.url}/static/filaviva.js", headers=known)
    assert (again.status_code, again.content) == (304, b"")


def test_the_types_fit_the_module(npm: Path) -> None:
    """`filaviva.d.ts` holds what a careful program uses, and refuses what is not there."""
    compiler = str(npm / "typescript" / "bin" / "tsc")
    project = str(ROOT / "tests" / "clients" / "tsconfig.json")
    command = [str(node.program()), compiler, "--noEmit", "--project", project]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout


# --- one stream -----------------------------------------------------------------------


@pytest.mark.browser
def test_tabs_share_a_stream_and_miss_nothing(browser: Browser) -> None:
    """Killed in a burst and started again: in every tab each event once and in order, whether
    a worker is shared, a tab leads, or each is alone."""
    with running(CORS_ORIGINS=SHOP) as house, ExitStack() as stack:
        queue = house.queue()
        begin = head(house)
        given = ticket(house, [f"queue:{queue}"])
        windows = {mode: stack.enter_context(window(browser, mode)) for mode in WITHOUT}
        counts = {"shared": 5, "elected": 2, "alone": 2}
        found = {mode: tabs(one, house.url, counts[mode]) for mode, one in windows.items()}
        everybody = [tab for group in found.values() for tab in group]
        for tab in everybody:
            tab.follow(topics=[f"queue:{queue}"], ticket=given, after=begin)
        for tab in everybody:
            tab.waits_for("live")
        assert {tab.via for tab in found["shared"]} == {"shared-worker"}
        assert sorted(tab.via for tab in found["elected"]) == ["follower", "leader"]
        assert {tab.via for tab in found["alone"]} == {"alone"}
        agreed(house, 1 + 1 + 2)
        for number in range(30):
            house.post(queue)
            if number == 15:
                house.servers[0].kill()
                house.servers[0].start()
        agree(everybody, log(house, f"queue:{queue}", begin))
        assert all(tab.was("retrying") for tab in everybody)
        agreed(house, 1 + 1 + 2)
        windows["shared"].close()  # no tab, no stream
        agreed(house, 1 + 2)
        foreign = abroad(windows["elected"].new_page())
        module = f"{house.url}/static/filaviva.js"
        foreign.follow(module=module, topics=[f"queue:{queue}"], ticket=given, after=begin)
        agree([foreign], log(house, f"queue:{queue}", begin))
        assert foreign.via == "leader"


def abroad(page: Page) -> Tab:
    """A page of another origin."""
    # A browser asks its user before a page from elsewhere may speak to this very machine.
    page.context.grant_permissions(["local-network-access"], origin=SHOP)
    page.route(f"{SHOP}/**", lambda route: route.fulfill(body="", content_type="text/html"))
    return Tab(page, SHOP)


@browsing
def test_tabs_that_follow_other_things_share_too(house: House, browser: Browser) -> None:
    """By the cookie of a page all topics go over one stream; each tab is given its own events,
    and the state if it asks for it. A topic that is not there ends nobody else's."""
    one, other = house.queue(lease_seconds=LEASE), house.queue(lease_seconds=LEASE)
    first = house.post(one)
    begin = nobody_follows(house)
    with window(browser, cookie=signed_in(house, "viewer")) as context:
        left, right, late, lost = tabs(context, house.url, 4)
        left.follow(topics=[f"queue:{one}"]).waits_for("live")
        right.follow(topics=[f"queue:{other}", "queues"]).waits_for("live")
        lost.follow(topics=[f"order:{NOWHERE}"]).waits_for("ended", "not_found")
        house.post(one)
        house.post(other)
        agree([left], log(house, f"queue:{one}", begin))
        middle = head(house)
        late.follow(topics=[f"order:{first['id']}"], snapshot=True).waits_for("live")
        agreed(house, 1)
        (shown,) = late.told("snapshot")
        assert (shown["topic"], shown["items"][0]["status"]) == (
            f"order:{first['id']}",
            "pending",
        )
        house.claim(one)
        house.claim(other)
        agree([left], log(house, f"queue:{one}", begin))
        agree([right], log(house, f"queue:{other}", begin))
        agree([late], log(house, f"order:{first['id']}", middle))
        until(lambda: counted(right) >= {one, other}, SECONDS, "counts of both")
        assert left.told("counts") == []
        lost.follow(topics=[f"queue:{other}"], after=begin).waits_for("live")
        agree([lost], log(house, f"queue:{other}", begin))
        agree([left], log(house, f"queue:{one}", begin))


def counted(tab: Tab) -> set[str]:
    """The queues whose counts it was told."""
    return {queue["name"] for told in tab.told("counts") for queue in told["queues"]}


@browsing
def test_who_wants_the_newest_only_costs_the_others_nothing(house: House, browser: Browser) -> None:
    """With `coalesce` older states are left out after a gap; a tab beside it has them all."""
    after = nobody_follows(house)
    queue = house.queue()
    topic = f"queue:{queue}"
    travel(house, queue)
    _, *events = log(house, topic, after)  # without the queue's own
    with front(house.url) as proxy:
        cookie = signed_in(house, "viewer", proxy.url)
        with window(browser, cookie=cookie) as context:
            screen, other = tabs(context, proxy.url, 2)
            screen.follow(topics=[topic], after=events[0], coalesce="latest")
            agree([screen], events[-1:])
            (first,) = open_streams(house, topic)
            other.follow(topics=[topic])
            other.waits_for("live")
            # A stream that may leave something out was not good enough for both.
            until(lambda: first not in open_streams(house, topic), SECONDS, "another stream")
            until(lambda: len(open_streams(house, topic)) == 1, SECONDS, "one stream")
            proxy.fail()
            travel(house, queue)
            proxy.mend()
            fresh = log(house, topic, events[-1])
            agree([other], fresh)
            until(lambda: screen.told()[-1] == fresh[-1], SECONDS, "the newest")


@browsing
def test_a_union_that_is_refused_falls_apart(house: House, browser: Browser) -> None:
    """A topic that goes away ends the tab that follows it, when the stream comes back."""
    stays, goes = house.queue(), house.queue()
    begin = head(house)
    with front(house.url) as proxy:
        cookie = signed_in(house, "viewer", proxy.url)
        with window(browser, cookie=cookie) as context:
            left, right = tabs(context, proxy.url, 2)
            left.follow(topics=[f"queue:{goes}"]).waits_for("live")
            right.follow(topics=[f"queue:{stays}"]).waits_for("live")
            assert house.client().delete(f"/queues/{goes}").status_code == 204
            proxy.cut()
            left.waits_for("ended", "not_found")
            house.post(stays)
            agree([right], log(house, f"queue:{stays}", begin))


@browsing
def test_many_streams_take_turns(house: House, browser: Browser) -> None:
    """More tickets than a browser has lines: each tab is told, and pages still load."""
    queue = house.queue()
    begin = nobody_follows(house)
    posted = [house.post(queue) for _ in range(6)]
    with window(browser) as context:
        found = tabs(context, house.url, 6)
        for tab, one in zip(found, posted, strict=True):
            given = one["tracking"]["ticket"]
            tab.follow(topics=[f"order:{one['id']}"], ticket=given, after=begin)
        for tab, one in zip(found, posted, strict=True):
            agree([tab], log(house, f"order:{one['id']}", begin))
        until(lambda: streams(house) <= 4, SECONDS, "at most four streams")
        assert found[0].page.evaluate("fetch('/livez').then((answer) => answer.status)") == 200


# --- tabs that come and go ------------------------------------------------------------


@browsing
def test_another_tab_takes_over(house: House, browser: Browser) -> None:
    """Closed or crashed, the leader leaves no gap: the next goes on from each tab's cursor."""
    queue = house.queue()
    begin = nobody_follows(house)
    given = ticket(house, [f"queue:{queue}"])
    with window(browser, "elected") as context:
        left = tabs(context, house.url, 3)
        for tab in left:
            tab.follow(topics=[f"queue:{queue}"], ticket=given, after=begin).waits_for("live")
        for end in (lambda tab: tab.page.close(), crash):
            house.post(queue)
            leader = next(tab for tab in left if tab.via == "leader")
            left.remove(leader)
            end(leader)
            house.post(queue)
            agree(left, log(house, f"queue:{queue}", begin))
        assert [tab.via for tab in left] == ["leader"]
        agreed(house, 1)


def crash(tab: Tab) -> None:
    """Its process ends, without a word to the others."""
    line = tab.session()
    with tab.page.expect_event("crash"), contextlib.suppress(Error):
        line.send("Page.crash", timeout=100)  # nobody is left to answer


@contextmanager
def frozen(tab: Tab, *, warned: bool = True) -> Iterator[None]:
    """None of its scripts run; it was told of that before, and is after, or not at all."""
    line = tab.session()
    if warned:
        tab.page.evaluate("document.dispatchEvent(new Event('freeze'))")
    line.send("Debugger.enable")
    line.send("Debugger.pause")
    yield
    line.send("Debugger.disable")
    if warned:
        tab.page.evaluate("document.dispatchEvent(new Event('resume'))")


@browsing
@pytest.mark.parametrize("mode", WITHOUT)
def test_a_frozen_tab_catches_up(house: House, browser: Browser, mode: str) -> None:
    """Frozen tabs are given nothing and keep no stream, or lead; thawed they miss nothing."""
    queue = house.queue()
    begin = nobody_follows(house)
    given = ticket(house, [f"queue:{queue}"])
    with window(browser, mode) as context:
        found = tabs(context, house.url, 2)
        for tab in found:
            tab.follow(topics=[f"queue:{queue}"], ticket=given).waits_for("live")
        sleeper, other = found
        with frozen(sleeper):
            for _ in range(5):
                house.post(queue)
            agree([other], log(house, f"queue:{queue}", begin))
            assert other.via == {"elected": "leader"}.get(mode, other.via)
            agreed(house, 1)
        agree(found, log(house, f"queue:{queue}", begin))
        agreed(house, 2 if mode == "alone" else 1)


HURRY = """() => {
    const every = window.setInterval;
    window.setInterval = (work, wait) => every(work, wait / 20);
}"""


@browsing
def test_a_leader_that_hangs_is_deposed(house: House, browser: Browser) -> None:
    """Whoever does not answer leads no longer, though he never let go of the lock; when he
    is back he follows, and has missed nothing."""
    queue = house.queue()
    begin = head(house)
    given = ticket(house, [f"queue:{queue}"])
    with window(browser, "elected") as context:
        leader, other = found = tabs(context, house.url, 2)
        other.page.evaluate(HURRY)
        for tab in found:
            tab.follow(topics=[f"queue:{queue}"], ticket=given, after=begin).waits_for("live")
        with frozen(leader, warned=False):
            house.post(queue)
            agree([other], log(house, f"queue:{queue}", begin))
            assert other.via == "leader"
        house.post(queue)
        agree(found, log(house, f"queue:{queue}", begin))
        assert leader.via == "follower"


@contextmanager
def behind(house: House, browser: Browser, queue: str) -> Iterator[tuple[Front, Tab, str]]:
    """A proxy, a live tab behind it whose clock can be put forward, and where it began."""
    begin = head(house)
    given = ticket(house, [f"queue:{queue}"])
    with front(house.url) as proxy, window(browser, "alone") as context:
        (tab,) = tabs(context, proxy.url, 1)
        tab.page.clock.install()
        tab.follow(topics=[f"queue:{queue}"], ticket=given, after=begin).waits_for("live")
        yield proxy, tab, begin


@browsing
def test_a_line_that_died_in_silence_is_left(house: House, browser: Browser) -> None:
    """After a sleep nothing says that a line is dead: two and a half heartbeats do."""
    queue = house.queue()
    with behind(house, browser, queue) as (proxy, tab, begin):
        tab.page.clock.fast_forward(25_000)
        proxy.hush()
        house.post(queue)
        assert not tab.was("retrying")
        tab.page.clock.fast_forward(40_000)
        until(lambda: tab.was("retrying"), SECONDS, "silence")
        proxy.speak()
        agree([tab], log(house, f"queue:{queue}", begin))


@browsing
def test_a_proxys_error_is_waited_out(house: House, browser: Browser) -> None:
    """While a proxy has its own word to say pages are told of the next attempt; then all goes on,
    even if the word was that there is nothing here: only the service itself can say that."""
    queue = house.queue()
    begin = head(house)
    given = ticket(house, [f"queue:{queue}"])
    with front(house.url) as proxy, window(browser) as context:
        (tab,) = tabs(context, proxy.url, 1)
        tab.follow(topics=[f"queue:{queue}"], ticket=given, after=begin).waits_for("live")
        proxy.fail("404 Not Found")
        house.post(queue)
        tab.waits_for("retrying", "status 404")
        assert tab.state["at"] / 1000 < time.time() + 60
        proxy.mend()
        agree([tab], log(house, f"queue:{queue}", begin))


LEFT = "(window.stream.state.at ?? 0) - Date.now()"  # ms to the next attempt


def put_off(tab: Tab, least: int) -> None:
    """Attempt after attempt in vain, until so many ms lie before the next one."""

    def far() -> bool:
        left = tab.page.evaluate(LEFT)
        if 0 < left < least:
            tab.page.clock.fast_forward(left)
        return left >= least

    until(far, SECONDS, f"{least} ms to the next attempt")


@browsing
@pytest.mark.parametrize("state", ["retrying", "offline"])
def test_who_knows_better_need_not_wait(house: House, browser: Browser, state: str) -> None:
    """A page whose calls are answered again does not wait out the time between attempts, even
    if the browser believes that there is no network."""
    queue = house.queue()
    with behind(house, browser, queue) as (proxy, tab, begin):
        online = str(state == "retrying").lower()
        tab.page.evaluate(f"Object.defineProperty(navigator, 'onLine', {{ value: {online} }})")
        proxy.fail()
        put_off(tab, 25_000)
        then = tab.waits_for(state).state["at"]
        tab.page.clock.fast_forward(1_500)
        proxy.mend()
        tab.page.evaluate("window.stream.hurry()")
        tab.waits_for("live")
        assert tab.page.evaluate("Date.now()") < then
        house.post(queue)
        agree([tab], log(house, f"queue:{queue}", begin))


@browsing
@pytest.mark.parametrize("answer", ["an error", "a hello"])
def test_who_is_always_answered_waits_longer_each_time(
    house: House, browser: Browser, answer: str
) -> None:
    """Calls that are answered all the time defeat no back-off, where a proxy lets everything
    pass but streams: it refuses them, or cuts them after their first words."""
    tries: list[str] = []

    def refuse(route: Route) -> None:
        tries.append(answer)
        if answer == "an error":
            route.fulfill(status=502)
        else:
            hello = block(("hello", {"heartbeat_seconds": 15}), "e-7")
            route.fulfill(body=hello, content_type="text/event-stream")

    with window(browser, "alone") as context:
        (tab,) = tabs(context, house.url, 1)
        tab.page.clock.install()
        tab.page.route("**/api/v1/events?**", refuse)
        tab.follow(topics=["queue:a"])
        for _ in range(60):
            until(lambda: tab.page.evaluate(LEFT) > 0, SECONDS, "it waits")
            tab.page.clock.fast_forward(1_000)
            tab.page.evaluate("window.stream.hurry()")
    assert 4 <= len(tries) <= 20, "in a minute"


@browsing
def test_a_stream_that_lived_is_tried_again_soon(house: House, browser: Browser) -> None:
    """How often it failed before does not count when it breaks after some seconds."""
    with behind(house, browser, house.queue()) as (proxy, tab, _):
        proxy.fail()
        put_off(tab, 30_000)
        proxy.mend()
        tab.page.clock.fast_forward(60_000)
        tab.waits_for("live")
        tab.page.clock.fast_forward(4_000)
        proxy.cut()
        tab.waits_for("retrying")
        assert tab.page.evaluate(LEFT) <= 5_000


@browsing
def test_a_page_whose_calls_are_answered_is_live_at_once(house: House, browser: Browser) -> None:
    """The console asks now and then: the first answer after an outage brings its stream back."""
    with (
        front(house.url) as proxy,
        window(browser, "alone", signed_in(house, "viewer", proxy.url)) as context,
    ):
        page = context.new_page()
        page.add_init_script("Math.random = () => 0.999")  # the longest waits that there are
        page.clock.install()
        page.goto(f"{proxy.url}/admin")
        line = page.locator("#line")
        expect(line).to_have_attribute("data-state", "live")
        proxy.fail()
        for _ in range(6):  # from now on there is a minute between two attempts
            with page.expect_response(re.compile(r"/events\?")):
                page.clock.fast_forward(60_000)
        expect(line).to_have_attribute("data-state", "retrying")
        proxy.mend()
        page.clock.fast_forward(16_000)
        expect(line).to_have_attribute("data-state", "live", timeout=25_000)


# --- credentials and cursors ----------------------------------------------------------


@browsing
def test_an_expired_ticket_is_renewed(house: House, browser: Browser) -> None:
    """The page is asked for a fresh one and the stream goes on from its cursor; a page that
    has none to give is told that it is over."""
    topic = f"queue:{house.queue()}"
    begin = head(house)
    with window(browser) as context:
        renewed, over = tabs(context, house.url, 2)
        renewed.page.expose_function("fresh", lambda: ticket(house, [topic]))
        for seconds in (2.5, 5, 10, 20):  # more where it takes longer until both are live
            old = forged_ticket([topic], seconds)
            renewed.follow(topics=[topic], ticket=old, after=begin, renews=True)
            over.follow(topics=[topic], ticket=old, after=begin).waits_for("ended", "expired")
            if over.was("live"):
                break
        assert over.was("live")
        house.post(topic.partition(":")[2])
        agree([renewed], log(house, topic, begin))
        assert over.told() == []


@browsing
def test_a_revoked_ticket_is_the_end(house: House, browser: Browser) -> None:
    """Nobody is asked for another one."""
    topic = f"queue:{house.queue()}"
    given = ticket(house, [topic])
    with window(browser) as context:
        (tab,) = tabs(context, house.url, 1)
        tab.page.expose_function("fresh", lambda: ticket(house, [topic]))
        tab.follow(topics=[topic], ticket=given, renews=True).waits_for("live")
        house.client("producer").post("/events/tickets/revoke", json={"ticket": given})
        tab.waits_for("ended", "revoked")


@browsing
def test_a_cursor_that_cannot_be_used_is_told(house: House, browser: Browser) -> None:
    """A reset reaches the page, with the state if it asks for it, and events go on."""
    queue = house.queue()
    posted = house.post(queue)
    topic = f"order:{posted['id']}"
    given = posted["tracking"]["ticket"]
    begin = head(house)
    with window(browser) as context:
        plain, stated = tabs(context, house.url, 2)
        plain.follow(topics=[topic], ticket=given, after="none-7").waits_for("live")
        stated.follow(topics=[topic], ticket=given, after="none-7", snapshot=True)
        stated.waits_for("live")
        house.claim(queue)
        agree([plain, stated], log(house, topic, begin))
        assert [len(plain.told(name)) for name in ("reset", "snapshot")] == [1, 0]
        assert [len(stated.told(name)) for name in ("reset", "snapshot")] == [1, 1]


@browsing
def test_a_reset_waits_for_its_cursor(house: House, browser: Browser) -> None:
    """Where a state follows for one tab, who refetches by himself is told when the stream has
    a cursor: what he reads then is no older than where it goes on."""
    with window(browser, "alone") as context:
        (tab,) = tabs(context, house.url, 1)
        tab.page.route("**/api/v1/events**", script)
        both = tab.page.evaluate(TWO)
    plain, stated = both["plain"], both["stated"]
    assert plain == [["reset", "f-9"], ["queue.paused", "f-10"]]
    assert stated == [["snapshot", None], ["reset", None], ["snapshot", None]]


TWO = """async () => {
    const { connect } = await import("/static/filaviva.js");
    const told = { plain: [], stated: [] };
    const follow = (name, options) => {
        const tell = (what) => () => told[name].push([what, stream.cursor]);
        const events = { "queue.paused": tell("queue.paused") };
        const on = { ...events, reset: tell("reset"), snapshot: tell("snapshot") };
        const stream = connect({ ...options, on });
        return stream;
    };
    const plain = follow("plain", { topics: ["queue:a"] });
    follow("stated", { topics: ["queue:b"], snapshot: true });
    while (plain.cursor !== "f-10") await new Promise((resolve) => setTimeout(resolve, 10));
    return told;
}"""


def script(route: Route) -> None:
    """A service whose log began anew when both tabs have come."""
    query = parse_qs(urlsplit(route.request.url).query)
    hello = ("hello", {"heartbeat_seconds": 15})
    states = [
        ("snapshot", {"topic": topic, "as_of": "", "items": [], "more": False})
        for topic in query["topic"]
    ]
    if len(query["topic"]) == 2:
        paused = {"specversion": "1.0", "type": "queue.paused", "subject": "a", "data": {}}
        told = [hello, ("reset", {"reason": "epoch"}), *states[:-1]]
        blocks = [
            *map(block, told),
            block(states[-1], "f-9"),
            block(("queue.paused", paused), "f-10"),
        ]
    elif "snapshot" in query:
        blocks = [block(hello), block(states[0], "e-7")]
    else:
        blocks = [block(hello, "e-7")]
    route.fulfill(body="".join(blocks), content_type="text/event-stream")


def block(told: tuple[str, Any], cursor: str | None = None) -> str:
    name, data = told
    start = "" if cursor is None else f"id: {cursor}\n"
    return f"retry: 50\n{start}event: {name}\ndata: {json.dumps(data)}\n\n"

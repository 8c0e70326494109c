"""The console's streams: who is connected and how he is doing, live; an end of one."""

import re
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.deaf import Deaf
from tests.house import API, House
from tests.live import ticket, watch
from tests.services import until
from tests.sse import Stream
from tests.test_processes_api import listed, post_many
from tests.visits import FASTER
from tests.visits import visit as normally

pytestmark = pytest.mark.browser

PAGE = "/admin/streams"
STREAMS = re.compile(r".*/api/v1/streams\?.*")


visit = partial(normally, before=FASTER)


def row(page: Page, topic: str) -> Locator:
    return page.locator("#rows tr").filter(has_text=topic)


def state(page: Page, region: str = "list") -> Locator:
    return page.locator(f"#{region} > .state")


def in_order(page: Page, *topics: str) -> None:
    """Wait until there are these rows, from the top."""
    expect(page.locator("#rows td:nth-child(6)")).to_have_text(topics)


# --- who is connected -----------------------------------------------------------------


def test_a_stream_appears_and_goes_by_itself(home: House, browser: Browser) -> None:
    """Whose it is, from where, what it follows, what it was given; without a reload."""
    topic = f"queue:{home.queue()}"
    text = ticket(home, [topic])
    with visit(browser, home, PAGE, "viewer") as page:
        expect(state(page)).to_have_text("Nobody is connected that fits.")
        with Stream(home.url, ticket=text) as stream:
            stream.first("hello")
            home.post(topic.removeprefix("queue:"))
            stream.events(1)
            for words in ("producer ticket", "127.0.0.1", "Live", stream.ids[0] or ""):
                expect(row(page, topic)).to_contain_text(words)
            expect(row(page, topic).locator("td.n")).to_have_text(["0", "0", "1"])
            expect(page.locator("#open")).to_have_text("1")
            pid = f" · {home.servers[0].pid}"
            process = page.locator("#process-rows tr").filter(has_text=pid)
            expect(process.locator("td.n")).to_have_text(["1", "0"])
        expect(state(page)).to_have_text("Nobody is connected that fits.")
        assert text not in page.content()


def test_a_reader_that_is_stuck_stands_first(home: House, browser: Browser) -> None:
    """Its lag and what it has not taken are seen, before anybody else."""
    queue = home.queue()
    topic, other = f"queue:{queue}", f"queue:{home.queue()}"
    with (
        closing(Deaf(home, "live", [topic])),
        watch(home, other) as reader,
        visit(browser, home, PAGE) as page,
    ):
        reader.first("hello")
        expect(row(page, topic)).to_contain_text("Live")
        for _ in range(4):
            post_many(home, queue, 60)
        expect(row(page, topic)).to_contain_text("Does not read")
        lag, unsent, _ = row(page, topic).locator("td.n").all()
        expect(lag).to_have_text(re.compile(r"^[1-9][\d,]*$"))
        expect(unsent).to_have_text(re.compile(r"^[\d.,]+ kB$"))
        in_order(page, topic, other)
        expect(page.locator("#worst")).to_have_text(re.compile(r"^[1-9][\d,]*$"))


def test_filters_stand_in_the_address(home: House, browser: Browser) -> None:
    """A topic, an account, an order: there after a reload, and back again by going back."""
    one, two = (f"queue:{home.queue()}" for _ in range(2))
    with ExitStack() as stack:
        for topic, role in ((one, "worker"), (one, "viewer"), (two, "worker")):
            stack.enter_context(watch(home, topic, role=role)).first("hello")
        page = stack.enter_context(visit(browser, home, PAGE, "viewer"))
        rows = page.locator("#rows tr")
        expect(rows).to_have_count(3)
        row(page, one).first.get_by_role("link", name=one).click()
        expect(rows).to_have_count(2)
        page.get_by_label("Account").fill("worker")
        page.get_by_label("Account").press("Enter")
        expect(rows).to_have_count(1)
        page.reload()
        expect(rows).to_have_count(1)
        expect(page.get_by_label("Topic", exact=True)).to_have_value(one)
        page.go_back()
        expect(rows).to_have_count(2)
        page.get_by_role("link", name="Clear the filters").click()
        expect(rows).to_have_count(3)
        page.locator("[name=sort]").select_option("newest")
        expect(page).to_have_url(re.compile(r"\?sort=newest$"))
        in_order(page, two, one, one)


def test_many_topics_are_folded(home: House, browser: Browser) -> None:
    """Three at once, the others on demand; they stay open when the row changes."""
    topics = [f"queue:{home.queue()}" for _ in range(5)]
    with watch(home, *topics) as stream, visit(browser, home, PAGE, "viewer") as page:
        stream.first("hello")
        folded = page.locator("#rows details")
        expect(folded.locator("summary")).to_have_text("2 more")
        folded.locator("summary").click()
        home.post(topics[0].removeprefix("queue:"))
        stream.events(1)
        expect(page.locator("#rows td.n").nth(2)).to_have_text("1")
        expect(folded.get_by_role("link")).to_have_count(2)
        expect(folded.get_by_role("link").first).to_be_visible()


# --- an end of one --------------------------------------------------------------------


def test_an_admin_disconnects_one_and_it_comes_back(home: House, browser: Browser) -> None:
    """By the keyboard: the command line is shown, the page that was cut off is live again."""
    with visit(browser, home, "/admin", "viewer") as other, visit(browser, home, PAGE) as page:
        live = other.locator("#line")
        expect(live).to_have_attribute("data-state", "live")
        expect(row(page, "queues")).to_contain_text("viewer page")
        link = page.get_by_role("link", name="Disconnect viewer, 127.0.0.1")
        link.press("Enter")
        expect(page.locator("#which")).to_be_focused()
        before = page.locator("#chosen").inner_text()
        assert f"stream={before}" in page.url
        command = page.locator("#disconnect .command")
        wanted = f"curl -X DELETE {home.url}{API}/streams/{before} -H "
        expect(command).to_have_text(re.compile(f"^{re.escape(wanted)}"))
        page.get_by_role("button", name="Disconnect").press("Enter")
        expect(page.locator("#disconnect .outcome")).to_have_text("It was disconnected.")
        page.get_by_role("link", name="Close").click()
        expect(page.locator("#one")).to_be_hidden()

        def back() -> list[Any]:
            found = listed(home, topic="queues")["items"]
            return [one for one in found if one["id"] != before and one["state"] == "live"]

        until(back, 30, "it is back")
        expect(live).to_have_attribute("data-state", "live")
        expect(link).to_have_attribute("href", re.compile(back()[0]["id"]))
        link.click()
        expect(page.locator("#chosen")).to_have_text(back()[0]["id"])


def test_one_that_is_over_says_so(home: House, browser: Browser) -> None:
    """Who was faster is no fault: the stream is not open any more."""
    topic = f"queue:{home.queue()}"
    with watch(home, topic) as stream:
        stream.first("hello")
        (found,) = listed(home, topic=topic)["items"]
        page_of_it = f"{PAGE}?stream={found['id']}"
        with visit(browser, home, page_of_it, errors="404") as page:
            expect(page.locator("#which")).to_have_text("Disconnect admin, 127.0.0.1")
            assert home.client().delete(f"/streams/{found['id']}").status_code == 204
            stream.end()
            page.get_by_role("button", name="Disconnect").click()
            outcome = page.locator("#disconnect .outcome")
            expect(outcome).to_have_text("It is not open any more.")


def test_a_viewer_only_looks(home: House, browser: Browser) -> None:
    """There is nothing to disconnect with, and no empty column for it."""
    topic = f"queue:{home.queue()}"
    with watch(home, topic) as stream, visit(browser, home, PAGE, "viewer") as page:
        stream.first("hello")
        expect(row(page, topic)).to_contain_text("Live")
        expect(page.get_by_role("link", name=re.compile("Disconnect"))).to_have_count(0)
        expect(page.locator("#disconnect")).to_have_count(0)
        assert row(page, topic).locator("td").count() == page.locator("#list th").count()


# --- when it is not so easy -----------------------------------------------------------


def test_it_says_when_the_service_is_away_and_goes_on(home: House, browser: Browser) -> None:
    """What stood there stays, with a word that it may be old; then it is new again."""
    topic = f"queue:{home.queue()}"
    with watch(home, topic) as stream:
        stream.first("hello")
        with visit(browser, home, PAGE, "viewer", errors="Failed to load") as page:
            expect(row(page, topic)).to_contain_text("Live")
            page.route(STREAMS, lambda route: route.abort())
            expect(state(page)).to_contain_text("The service cannot be reached.")
            expect(row(page, topic)).to_be_visible()
            page.unroute(STREAMS)
            expect(state(page)).to_be_hidden()


def test_processes_that_do_not_tell_are_named(home: House, browser: Browser) -> None:
    """What is not known, or not all of it, is said in words."""

    def told(route: Route) -> None:
        silent = {"incomplete": ["a1b2c3d4e5"], "truncated": ["f0f0f0f0f0"], "open": 1_234}
        route.fulfill(json={"items": [], "next_cursor": None, **silent})

    with visit(browser, home, PAGE, "viewer") as page:
        page.route(STREAMS, told)
        notes = page.locator("#notes")
        expect(notes).to_contain_text("No word in time from a1b2c3d4e5")
        expect(notes).to_contain_text("f0f0f0f0f0 has more that fit")
        expect(page.locator("#open")).to_have_text("1,234")


def test_paused_nothing_moves(home: House, browser: Browser) -> None:
    """Who reads is left in peace; going on shows what is."""
    topic = f"queue:{home.queue()}"
    asked: list[str] = []
    with visit(browser, home, PAGE, "viewer") as page, visit(browser, home, PAGE) as other:
        expect(state(page)).to_be_visible()
        expect(page.locator("#line")).to_have_text("Looks again every 3 s")
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#line")).to_contain_text("Paused")
        page.on("request", lambda request: asked.append(request.url))
        with watch(home, topic) as stream:
            stream.first("hello")
            expect(row(other, topic)).to_contain_text("Live")
            with other.expect_response(STREAMS):
                pass
            assert asked == []
            page.get_by_role("button", name="Go on").click()
            expect(row(page, topic)).to_contain_text("Live")


def test_it_speaks_portuguese(home: House, browser: Browser) -> None:
    """Words and numbers."""
    topic = f"queue:{home.queue()}"
    with watch(home, topic) as stream, visit(browser, home, PAGE, locale="pt-BR") as page:
        stream.first("hello")
        expect(page.get_by_role("heading", name="Conexões")).to_be_visible()
        expect(row(page, topic)).to_contain_text("Ao vivo")
        expect(row(page, topic).get_by_role("link", name=re.compile("Desconectar"))).to_be_visible()

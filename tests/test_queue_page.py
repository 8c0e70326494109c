"""The console's page of one queue: counts and charts, its messages, settings, what may be done."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.answers import good
from tests.house import DISC, House
from tests.visits import FASTER, unasked, visit

pytestmark = pytest.mark.browser

TIMEOUT, ADDRESS = "card service timed out", "address not found"
HOSTILE = "<img src=x onerror=alert(1)> \N{RIGHT-TO-LEFT OVERRIDE}abc"
# The cells of a table behind the first of each row; every text that a node has.
NUMBERS = "body => [...body.rows].map(({cells}) => [...cells].slice(1).map((n) => +n.innerText))"
KINDS = ("entered", "claimed", "done", "returned", "failed", "dropped")
COLOUR = "node => getComputedStyle(node).borderTopColor"
RED = "rgb(168, 36, 47)"  # --stop
# What a node says, one after the other, and whether the progress bar beside it is seen.
TOLD = """node => {
  window.told = [];
  const bar = document.querySelector("#redriving progress");
  const note = () => told.push([node.textContent, bar.checkVisibility()]);
  new MutationObserver(note).observe(node, {childList: true});
}"""


def at(queue: str, query: str = "") -> str:
    return f"/admin/queues/{queue}{query}"


def post_many(home: House, queue: str, number: int, **purchase: Any) -> None:
    body = {"messages": [{"customer": "c-own", "items": [DISC], **purchase}] * number}
    good(home.client("producer").post(f"/queues/{queue}/messages/batch", json=body))


def fail_many(home: House, queue: str, number: int, error: str) -> None:
    """Claim so many of what waits, and give them up."""
    while number > 0:
        leased = home.claim(queue, min(number, 100))
        nacks = [
            {"id": one["id"], "receipt": one["receipt"], "error": error, "retry": False}
            for one in leased
        ]
        good(home.client("worker").post("/messages/nack", json={"nacks": nacks}))
        number -= len(leased)


def count(page: Page, status: str) -> Locator:
    return page.locator(f"#facts [data-count={status}]")


def list_ready(page: Page) -> Locator:
    """The rows of the list, once they are there."""
    expect(page.locator("#list")).to_have_attribute("data-state", "ready")
    return page.locator("#rows tr")


def outcome(page: Page, form: str) -> Locator:
    return page.locator(f"#{form} .outcome")


def typed(page: Page, name: str, button: str) -> None:
    """Say in the dialog that it is meant: the button waits for the queue's name."""
    dialog = page.get_by_role("dialog")
    go = dialog.get_by_role("button", name=button)
    expect(go).to_be_disabled()
    dialog.get_by_role("textbox").fill(name[:-1])
    expect(go).to_be_disabled()
    dialog.get_by_role("textbox").fill(name)
    go.click()


# --- how it stands --------------------------------------------------------------------


def test_counts_move_and_rows_do_not(home: House, browser: Browser) -> None:
    """While purchases run the counts follow; new messages are offered, and shown when wanted."""
    queue = home.queue(description="Cards are charged here.", lease_seconds=600)
    first = home.post(queue, reference="first")
    with visit(browser, home, at(queue), "viewer", before=FASTER) as page:
        expect(page.get_by_role("heading", level=1, name=queue, exact=True)).to_be_visible()
        expect(page.locator("#description")).to_have_text("Cards are charged here.")
        expect(count(page, "pending")).to_have_text("1")
        expect(list_ready(page)).to_have_count(1)
        home.post(queue, reference="second")
        home.post(queue, reference="third")
        expect(count(page, "pending")).to_have_text("3")
        [leased] = home.claim(queue)
        assert leased["id"] == first["id"]
        expect(count(page, "processing")).to_have_text("1")
        offer = page.get_by_role("button", name="Show 2 new messages")
        expect(offer).to_be_visible()
        expect(page.locator("#rows tr")).to_have_count(1)
        expect(page.locator("#rows .badge")).to_have_text("Processing")
        offer.click()
        expect(page.locator("#rows th")).to_have_text(["third", "second", "first"])
        expect(offer).to_be_hidden()
        good(home.settle("ack", leased))
        expect(count(page, "completed")).to_have_text("1")
        good(home.client().post(f"/queues/{queue}/pause"))
        expect(page.locator("#paused")).to_be_visible()


def test_what_has_moved_on_stays_until_it_is_looked_at_again(home: House, browser: Browser) -> None:
    """A message that is no longer in the list is marked; no row leaves under a finger."""
    queue = home.queue(lease_seconds=600)
    for reference in ("older", "newer"):
        home.post(queue, reference=reference)
    with visit(browser, home, at(queue, "?status=pending"), "viewer", before=FASTER) as page:
        expect(list_ready(page)).to_have_count(2)
        home.claim(queue)
        offer = page.get_by_role("button", name="1 message here has moved on")
        expect(offer).to_be_visible()
        expect(page.locator("#rows tr.moved th")).to_have_text("older")
        offer.click()
        expect(page.locator("#rows th")).to_have_text(["newer"])


def test_charts_have_their_numbers_in_the_table(home: House, browser: Browser) -> None:
    """What the charts draw stands in the table and in the legend, for each span."""
    queue = home.queue()
    post_many(home, queue, 12)
    fail_many(home, queue, 3, TIMEOUT)
    with visit(browser, home, at(queue), "viewer", before=FASTER) as page:
        expect(page.locator("#flow canvas")).to_be_visible()
        expect(page.locator("[data-sum=entered]")).to_have_text("12")
        expect(page.locator("[data-sum=failed]")).to_have_text("3")
        red = [one for one in KINDS if page.locator(f".swatch.{one}").evaluate(COLOUR) == RED]
        assert red == ["failed"]
        expect(page.locator("#flow .plot")).to_have_attribute(
            "aria-label", "In and out: Entered 12, Claimed 3, Done 0"
        )
        page.get_by_text("The same in numbers").click()
        for span, points in (("An hour", 60), ("A day", 288), ("A week", 336)):
            page.get_by_role("link", name=span).click()
            expect(page.locator("#points tr")).to_have_count(points)
            cells = page.locator("#points").evaluate(NUMBERS)
            sums = [sum(column) for column in zip(*cells, strict=True)]
            assert sums == [12, 3, 0, 0, 3, 0], span
        page.reload()
        expect(page.get_by_role("link", name="A week")).to_have_attribute("aria-current", "true")


# --- its messages ---------------------------------------------------------------------


def test_a_filter_survives_reload_and_the_way_back(home: House, browser: Browser) -> None:
    """What is filtered stands in the address and in the fields, wherever one comes from."""
    queue = home.queue()
    for customer, reference in (("c-1", "one"), ("c-2", "two"), ("c-2", HOSTILE)):
        home.post(queue, customer=customer, reference=reference)
    with visit(browser, home, at(queue)) as page:
        expect(list_ready(page)).to_have_count(3)
        page.locator("#filtering summary").click()
        customer = page.locator("#filters [name=customer]")
        customer.fill("c-2")
        customer.press("Enter")
        expect(page.locator("#rows tr")).to_have_count(2)
        assert "customer=c-2" in page.url
        page.locator("#statuses").get_by_role("link", name="Pending").click()
        expect(page.locator("#rows tr")).to_have_count(2)
        page.reload()
        expect(list_ready(page)).to_have_count(2)
        expect(customer).to_be_visible()
        expect(customer).to_have_value("c-2")
        expect(page.locator("#statuses [aria-current]")).to_contain_text("Pending")
        page.locator("#rows").get_by_role("link", name="two").click()
        page.wait_for_url("**/admin/messages/*")
        page.go_back()
        expect(list_ready(page)).to_have_count(2)
        page.go_back()
        page.go_back()
        expect(page.locator("#rows tr")).to_have_count(3)
        expect(customer).to_have_value("")
        assert page.locator("#rows img").count() == 0
        expect(page.locator("#rows bdi").get_by_text(HOSTILE, exact=True)).to_be_visible()


def test_pages_of_a_list(home: House, browser: Browser) -> None:
    """Older messages come by their own address; the way back leads to the newer ones."""
    queue = home.queue()
    post_many(home, queue, 70)
    with visit(browser, home, at(queue), "viewer") as page:
        expect(list_ready(page)).to_have_count(50)
        page.get_by_role("link", name="Older").click()
        expect(page.locator("#rows tr")).to_have_count(20)
        page.reload()
        expect(list_ready(page)).to_have_count(20)
        page.go_back()
        expect(page.locator("#rows tr")).to_have_count(50)


def test_nothing_and_what_is_wrong_are_said(home: House, browser: Browser) -> None:
    """An empty list, a filter that cannot be, and a service that is away: each says so."""
    queue, alone = home.queue(), unasked(3_000)  # it would try again by itself
    with visit(browser, home, at(queue), "viewer", errors="422|ERR_", before=alone) as page:
        state = page.locator("#list .state")
        expect(state).to_have_text("No message is like that.")
        page.goto(home.url + at(queue, "?customer=-"))
        expect(page.locator("#list")).to_have_attribute("data-state", "error")
        page.route("**/api/v1/queues/**", lambda route: route.abort())
        page.goto(home.url + at(queue))
        expect(state).to_contain_text("cannot be reached")
        page.unroute("**/api/v1/queues/**")
        page.locator("#list").get_by_role("button", name="Try again").click()
        expect(state).to_have_text("No message is like that.")
    assert home.client("viewer").get(f"/queues/{queue}").status_code == 200


# --- what an admin does ---------------------------------------------------------------


def test_two_who_change_settings_do_not_overwrite_each_other(home: House, browser: Browser) -> None:
    """Who saves second sees what the first has changed, and chooses."""
    queue = home.queue()
    with (
        visit(browser, home, at(queue), errors="412") as mine,
        visit(browser, home, at(queue)) as theirs,
    ):
        for page, field, value in ((mine, "max_attempts", "3"), (theirs, "lease_seconds", "77")):
            expect(page.locator("#settings [name=lease_seconds]")).to_have_value("30")
            page.locator(f"#settings [name={field}]").fill(value)
        theirs.get_by_role("button", name="Save the settings").click()
        expect(outcome(theirs, "settings")).to_have_text("Saved.")
        good(home.client().post(f"/queues/{queue}/pause"))  # a newer version, and no other setting
        expect(mine.locator("#paused")).to_be_visible()
        mine.get_by_role("button", name="Save the settings").click()
        expect(mine.locator("#conflict")).to_be_visible()
        expect(mine.locator("#differences tr")).to_have_text(
            ["A lease lasts, in seconds3077–", "Tries before it fails10103"]
        )
        mine.get_by_role("button", name="Keep what I changed").click()
        expect(mine.locator("#settings [name=lease_seconds]")).to_have_value("77")
        mine.get_by_role("button", name="Save the settings").click()
        expect(outcome(mine, "settings")).to_have_text("Saved.")
        expect(theirs.locator("#settings [name=max_attempts]")).to_have_value("3")
    found = good(home.client().get(f"/queues/{queue}"))
    assert (found["lease_seconds"], found["max_attempts"]) == (77, 3)


def test_a_wrong_setting_is_said_at_its_field(home: House, browser: Browser) -> None:
    """Nothing out of bounds is sent; the curl line is that of what would be."""
    queue = home.queue()
    with visit(browser, home, at(queue)) as page:
        lease = page.locator("#settings [name=lease_seconds]")
        expect(lease).to_have_value("30")
        lease.fill("0")
        page.get_by_role("button", name="Save the settings").click()
        assert lease.evaluate("field => field.matches(':invalid')")
        lease.fill("60")
        expect(page.locator("#settings .command")).to_have_text(
            f"curl -X PATCH {home.url}/api/v1/queues/{queue}"
            """ -H "Authorization: Bearer $TOKEN" -H 'If-Match: "1"' """
            """-H 'Content-Type: application/json' -d '{"lease_seconds":60}'"""
        )


def test_pause_and_resume(home: House, browser: Browser) -> None:
    """One button, which does what is left to do."""
    queue = home.queue()
    with visit(browser, home, at(queue)) as page:
        page.get_by_role("button", name="Pause the queue").click()
        expect(page.locator("#paused")).to_be_visible()
        expect(outcome(page, "pausing")).to_have_text("Paused: workers get nothing.")
        page.get_by_role("button", name="Resume the queue").click()
        expect(page.locator("#paused")).to_be_hidden()
    assert good(home.client().get(f"/queues/{queue}"))["paused"] is False


def test_purge_and_delete_need_the_name(home: House, browser: Browser) -> None:
    """Whoever takes a queue's messages or the queue itself types its name first."""
    queue = home.queue()
    post_many(home, queue, 3)
    with visit(browser, home, at(queue)) as page:
        expect(count(page, "pending")).to_have_text("3")
        page.locator("#purge button.stop").click()
        expect(page.get_by_role("dialog")).to_contain_text("3 pending messages are cancelled")
        page.get_by_role("dialog").get_by_role("button", name="Leave it").click()
        page.locator("#purge button.stop").click()
        typed(page, queue, "Purge the queue")
        expect(outcome(page, "purge")).to_have_text("3 messages were cancelled.")
        expect(count(page, "cancelled")).to_have_text("3")
        page.locator("#delete button.stop").click()
        typed(page, queue, "Delete the queue")
        expect(page.locator("#gone")).to_be_visible()
        assert home.client().get(f"/queues/{queue}").status_code == 404


def test_ten_thousand_dead_letters_of_one_error_go_back(home: House, browser: Browser) -> None:
    """Counted first, then put back step by step with progress; those of another error stay."""
    queue = home.queue()
    for _ in range(11):
        post_many(home, queue, 1_000)
    fail_many(home, queue, 10_000, TIMEOUT)
    fail_many(home, queue, 30, ADDRESS)
    with visit(browser, home, at(queue)) as page:
        expect(count(page, "failed")).to_have_text("10,030")
        choice = page.locator("#redrive select")
        choice.select_option(f"={TIMEOUT}")
        page.get_by_role("button", name="Count", exact=True).click()
        expect(outcome(page, "redrive")).to_have_text("10,000 dead letters are like that.")
        page.locator("#redriven").evaluate(TOLD)
        page.get_by_role("button", name="Put 10,000 back").click()
        expect(outcome(page, "redrive-all")).to_have_text("10,000 messages were put back.")
        expect(count(page, "failed")).to_have_text("30")
        shown = page.evaluate("told")
        assert ["3,000 of 10,000", True] in shown
        assert shown[-1] == ["10,000 of 10,000", True]
        expect(page.locator("#redriving")).to_be_hidden()
    counts = good(home.client().get(f"/queues/{queue}"))["counts"]
    assert (counts["pending"], counts["failed"]) == (10_970, 30)


def test_a_redrive_can_be_stopped(home: House, browser: Browser) -> None:
    """What was put back by then stays so, and the page says how many."""
    queue = home.queue()
    post_many(home, queue, 20)
    fail_many(home, queue, 20, TIMEOUT)
    with visit(browser, home, at(queue), errors="429") as page:
        page.get_by_role("button", name="Count", exact=True).click()
        expect(outcome(page, "redrive")).to_have_text("20 dead letters are like that.")
        limited = {"type": "urn:filaviva:rate_limited", "status": 429, "code": "rate_limited"}
        page.route(
            "**/redrive",
            lambda route: route.fulfill(status=429, json=limited, headers={"Retry-After": "1"}),
        )
        page.get_by_role("button", name="Put 20 back").click()
        expect(page.locator("#redriven")).to_contain_text("asks to wait")
        page.get_by_role("button", name="Stop").click()
        expect(outcome(page, "redrive-all")).to_contain_text("Stopped. 0 messages were put back.")
    assert good(home.client().get(f"/queues/{queue}"))["counts"]["failed"] == 20


def test_a_viewer_sees_no_actions(home: House, browser: Browser) -> None:
    """Who may only look finds nothing to press, and sees the settings all the same."""
    queue = home.queue(lease_seconds=45)
    with visit(browser, home, at(queue), "viewer") as page:
        expect(page.locator("[data-setting=lease_seconds]")).to_have_text("45")
        for form in ("settings", "redrive", "pausing", "purge", "delete"):
            expect(page.locator(f"#{form}")).to_have_count(0)
        expect(page.locator(".curl")).to_have_count(0)


def test_a_queue_that_goes_before_the_line_is_live_is_said(home: House, browser: Browser) -> None:
    """What happens between what a page has read and its first event is not missed."""
    queue, held = home.queue(), list[Route]()

    def hold(route: Route) -> None:
        held.append(route)

    with visit(browser, home, "/admin/find?q=nothing", "viewer", errors="404") as page:
        page.add_init_script("delete window.SharedWorker")  # what that asks cannot be held
        page.add_init_script(unasked(10_000))  # it would look again after 15 s
        page.route("**/api/v1/events?**", hold, times=1)
        with page.expect_request("**/api/v1/events?**"):
            page.goto(home.url + at(queue))
        expect(page.locator("#facts")).to_have_attribute("data-state", "ready")
        assert home.client().delete(f"/queues/{queue}").status_code == 204
        held[0].continue_()
        expect(page.locator("#gone")).to_be_visible()


def test_a_queue_that_is_not_there_is_said(home: House, browser: Browser) -> None:
    """A page for what does not exist is 404; one whose queue goes says so."""
    queue = home.queue()
    with visit(browser, home, at(queue), "viewer", errors="404") as page:
        expect(page.locator("#facts")).to_have_attribute("data-state", "ready")
        assert home.client().delete(f"/queues/{queue}").status_code == 204
        expect(page.locator("#gone")).to_be_visible()
        answer = page.goto(home.url + at(queue))
        assert answer is not None
        assert answer.status == 404


@pytest.mark.parametrize(
    "language, words", [("en-US", "How much happened"), ("pt-BR", "Quanto aconteceu")]
)
def test_narrow_and_in_both_languages(
    home: House, browser: Browser, language: str, words: str
) -> None:
    """At 320 pixels the page itself does not scroll sideways, in either theme."""
    queue = home.queue()
    home.post(queue, reference="long-" * 12)
    with visit(browser, home, at(queue), locale=language) as page:
        page.set_viewport_size({"width": 320, "height": 800})
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        expect(page.get_by_role("heading", name=words)).to_be_visible()
        expect(list_ready(page)).to_have_count(1)
        expect(page.locator("#flow canvas")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 320

"""The console's orders: found, read and acted on; their way; dead letters by error, redriven."""

import itertools
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

import customers
import queues
from database import Dialect
from tests.answers import NOWHERE, execute, good, stored
from tests.chromium import opened
from tests.house import API, CUSTOMER, House
from tests.visits import visit

browser_only = pytest.mark.browser
NUMBERS = itertools.count(1)
LEASE = 600  # seconds: longer than any test
HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&{{7*7}}"
    "\N{RIGHT-TO-LEFT OVERRIDE}\N{RIGHT-TO-LEFT EMBEDDING}\N{HEBREW LETTER ALEF}"
    "\N{OPTICAL DISC}\N{ZERO WIDTH JOINER}\N{SNOWMAN}"
)
HOSTILE_LONG = f"{HOSTILE} {'w' * 300} {HOSTILE}"


def reference() -> str:
    return f"ref-{next(NUMBERS)}"


def fail(home: House, queue: str, error: str = "no card", **purchase: Any) -> str:
    """Post a message and nack it for good; its id."""
    posted = home.post(queue, **purchase)
    (message,) = home.claim(queue)
    good(home.settle("nack", message, error=error, retry=False))
    return posted["id"]


def fail_many(home: House, queue: str, errors: dict[str, int]) -> None:
    """So many dead letters of each error, one after the other in turn."""
    said = [error for error, count in errors.items() for _ in range(count)]
    purchase = {"customer": CUSTOMER, "items": [{"sku": "disc-001", "quantity": 1}]}
    for start in range(0, len(said), 1000):
        batch = {"messages": [purchase] * len(said[start : start + 1000])}
        good(home.client("producer").post(f"/queues/{queue}/messages/batch", json=batch))
    while said:
        claimed = [one for _ in range(10) for one in home.claim(queue, 100)]
        nacks = [
            {"id": one["id"], "receipt": one["receipt"], "error": said.pop(), "retry": False}
            for one in claimed
        ]
        good(home.client("worker").post("/messages/nack", json={"nacks": nacks}))


def live(page: Page) -> None:
    expect(page.locator("#line")).to_have_attribute("data-state", "live")


def status(page: Page) -> Locator:
    return page.locator("#status .badge")


def outcome(page: Page, form: str) -> Locator:
    return page.locator(f"#{form} .outcome")


def order_page(browser: Browser, home: House, order: str, role: str = "admin", **more: str) -> Any:
    return visit(browser, home, f"/admin/messages/{order}", role, **more)


def tab_to(page: Page, wanted: Locator, most: int = 60) -> None:
    """Move the focus there by the keyboard."""
    for _ in range(most):
        if wanted.evaluate("(node) => node === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError("the keyboard does not reach it")


# --- what a text leads to -------------------------------------------------------------


def find(house: House, text: str) -> httpx.Response:
    return house.client("viewer").get(f"{house.url}/admin/find", params={"q": text})


def test_a_text_leads_to_what_it_names(house: House) -> None:
    """An id to its order, else a reference, else a customer to their orders; blank to all."""
    queue, named = house.queue(), f"{reference()} & co"
    posted = house.post(queue, reference=named, customer=f"c-find-{next(NUMBERS)}")
    other = house.post(queue, reference=posted["customer"])
    for text, place in (
        (posted["id"], f"/admin/messages/{posted['id']}"),
        (f" {posted['id'].upper()} ", f"/admin/messages/{posted['id']}"),
        (named, f"/admin/messages?reference={quote(named).replace('%20', '+')}"),
        (posted["customer"], f"/admin/messages?reference={other['reference']}"),
        (" ", "/admin/messages"),
    ):
        answer = find(house, text)
        assert (answer.status_code, answer.headers["location"]) == (303, place)
    customer = house.post(queue, customer=f"c-alone-{next(NUMBERS)}")["customer"]
    assert find(house, customer).headers["location"] == f"/admin/messages?customer={customer}"


def test_a_number_leads_to_its_order(house: House) -> None:
    """The end of an id that people see instead of a reference; a reference goes before it."""
    queue = house.queue()
    order = house.post(queue)["id"]
    end = order[-12:]
    for text in (end, f" {end.upper()}\t"):
        assert find(house, text).headers["location"] == f"/admin/messages/{order}"
    for text in (end[1:], f"0{end}", "%" * 12):
        assert find(house, text).status_code == 200
    named = house.post(queue, reference=reference())["id"]
    assert find(house, named[-12:]).status_code == 200, "its reference is shown instead"
    house.post(queue, reference=end)
    assert find(house, end).headers["location"] == f"/admin/messages?reference={end}"


def person(house: House, **about: Any) -> dict[str, Any]:
    return good(house.client("producer").post("/customers", json=about), 201)


def shown(answer: httpx.Response) -> list[tuple[str, str, str]]:
    """The customers of a page: where each leads, what it says, and the id behind it."""
    row = r'<a href="([^"]*)"><bdi>(.*?)</bdi></a>.*?</td>\s*<td><bdi>(.*?)</bdi>'
    return re.findall(row, answer.text, re.DOTALL)


def test_a_name_leads_to_its_customers(house: House) -> None:
    """A part of a name without its accents, an e-mail address, an id: names, ids and the way on."""
    mark = f"x{next(NUMBERS)}z{NOWHERE[-4:]}"
    one = person(house, name=f"Antônio {mark} <b>")
    two = person(house, nickname=f"antonio-{mark}", email=f"{mark}@example.org")
    told = [
        (f"/admin/messages?customer={who['id']}", name, who["id"])
        for who, name in ((two, f"antonio-{mark}"), (one, f"Antônio {mark} &lt;b&gt;"))
    ]
    by = {
        f"ANTONIO {mark}": told[1:],
        mark: told,
        f"{mark.upper()}@Example.org": told[:1],
        one["id"]: told[1:],
    }
    assert {text: shown(find(house, text)) for text in by} == by
    queue = house.queue()
    house.post(queue, customer=one["id"])
    assert find(house, one["id"]).headers["location"] == told[1][0]
    opened = house.client("viewer").get(f"{house.url}{told[1][0]}").text
    assert f"<bdi>Antônio {mark} &lt;b&gt;</bdi>" in opened
    good(house.client().post(f"/customers/{two['id']}/erase"))
    assert shown(find(house, mark)) == told[1:]


@browser_only
def test_the_orders_of_a_customer_say_whose_they_are(home: House, browser: Browser) -> None:
    """His name stands over them, and goes when the page shows those of another."""
    name = f"Zoë {next(NUMBERS)}"
    customer = person(home, name=name)["id"]
    with visit(browser, home, f"/admin/find?q={quote(name.replace('ë', 'E'))}") as page:
        page.get_by_role("link", name=name).click()
        expect(page.locator("#called")).to_have_text(f"Customer: {name} {customer}")
        expect(page.locator("#list .state")).to_contain_text("No order fits")
        page.get_by_label("Customer").fill("c-another")
        page.keyboard.press("Enter")
        expect(page.locator("#called")).to_be_hidden()
        page.go_back()
        expect(page.locator("#called")).to_be_visible()


def test_very_many_names_are_not_all_shown(house: House) -> None:
    """The newest of them, and that there are more."""
    mark = f"many{next(NUMBERS)}z{NOWHERE[-4:]}"
    names = [f"{mark} {number}" for number in range(customers.NAMED + 1)]
    for name in names[1:]:
        person(house, name=name)
    assert "<p>There are more" not in find(house, mark).text
    person(house, name=names[0])
    answer = find(house, mark)
    assert "<p>There are more" in answer.text
    assert {name for _, name, _ in shown(answer)} == {names[0], *names[2:]}


@pytest.mark.parametrize(
    "text",
    [NOWHERE, HOSTILE, "nobody", "x" * 200, "%", "' OR 1=1 --"],
    ids=["id", "markup", "word", "long", "wildcard", "sql"],
)
def test_what_is_not_there_is_said(house: House, text: str) -> None:
    """A page with the text that was looked for, as text."""
    answer = find(house, text)
    assert answer.status_code == 200
    assert "Nothing found" in answer.text
    assert "<script>alert" not in answer.text
    assert "<img src=x" not in answer.text


def test_nonsense_is_refused_by_a_page(house: House) -> None:
    """What no order can hold is no error of the service; an unknown order is 404."""
    assert find(house, "a\0b").status_code == 422
    assert find(house, "x" * 201).status_code == 422
    for order in (NOWHERE, "nonsense"):
        answer = house.client("viewer").get(f"{house.url}/admin/messages/{order}")
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")


def test_references_are_found_by_an_index(house_on_sqlite: House) -> None:
    """Neither the search nor the list of a reference or a customer walks over all orders."""
    for column in ("reference", "customer"):
        for order in ("", " ORDER BY m.id DESC"):
            sql = f"SELECT m.id FROM messages m WHERE m.{column} = 'x'{order} LIMIT 1"
            ((*_, plan),) = stored(house_on_sqlite, f"EXPLAIN QUERY PLAN {sql}")
            assert f"INDEX messages_{column} ({column}=?)" in plan


def test_numbers_are_found_by_an_index(house_on_sqlite: House, house_on_postgres: House) -> None:
    """Both databases see that the index fits what is asked."""
    lite, full = (
        queues.NUMBERED[dialect].replace("$1", "'571606f18176'")
        for dialect in (Dialect.SQLITE, Dialect.POSTGRES)
    )
    ((*_, plan),) = stored(house_on_sqlite, f"EXPLAIN QUERY PLAN {lite}")
    assert "INDEX messages_number (<expr>=?)" in plan
    url = f"{house_on_postgres.servers[0].settings['DATABASE_URL']}?enable_seqscan=off"
    assert "messages_number" in str(execute(url, f"EXPLAIN {full}"))


# --- one order ------------------------------------------------------------------------


@browser_only
def test_a_failed_order_is_found_read_and_retried_by_the_keyboard_alone(
    home: House, browser: Browser
) -> None:
    """From the search box to its error, its retry, and its end, live, while a worker takes it."""
    queue, name = home.queue(lease_seconds=LEASE), reference()
    order = fail(home, queue, "card service timed out", reference=name)
    with visit(browser, home, "/admin/failures") as page:
        tab_to(page, page.locator("#find"))
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        link = page.get_by_role("link", name=name)
        expect(link).to_be_visible()
        assert page.url.endswith(f"/admin/messages?reference={name}")
        tab_to(page, link)
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/admin/messages/{order}")
        expect(status(page)).to_have_text("Failed")
        expect(page.locator("#error")).to_have_text("card service timed out")
        live(page)
        tab_to(page, page.get_by_role("button", name="Retry"))
        page.keyboard.press("Enter")
        expect(outcome(page, "retry")).to_have_text("It is back in line.")
        expect(outcome(page, "retry")).to_be_focused()
        expect(status(page)).to_have_text("Pending")
        (message,) = home.claim(queue, worker="till-7")
        expect(status(page)).to_have_text("Processing")
        expect(page.locator("[data-fact=worker] dd")).to_have_text("till-7")
        good(home.settle("ack", message, result={"paid": True}))
        expect(status(page)).to_have_text("Completed")
        expect(page.locator("#visits li").last).to_contain_text("Completed · account worker")
        expect(page.locator("[data-fact=worker]")).to_be_hidden()
        expect(page.get_by_role("button", name="Cancel the order")).to_be_hidden()


@browser_only
def test_what_is_in_work_is_asked_to_end(home: House, browser: Browser) -> None:
    """A cancel says that it was only asked, with its reason in the history, and when it ends."""
    queue = home.queue(lease_seconds=LEASE)
    order = home.post(queue)["id"]
    (message,) = home.claim(queue)
    with order_page(browser, home, order) as page:
        page.get_by_label("Reason").fill("ordered twice")
        line = page.locator("#cancel .command").text_content() or ""
        assert line.startswith(f"curl -X POST {home.url}{API}/messages/{order}/cancel ")
        assert """-H 'If-Match: "2"'""" in line
        assert """-d '{"reason":"ordered twice"}'""" in line
        page.get_by_role("button", name="Cancel the order").click()
        expect(outcome(page, "cancel")).to_contain_text("asked to end")
        expect(status(page)).to_have_text("Processing")
        expect(page.locator("#asked")).to_be_visible()
        expect(page.locator("#visits li").last).to_contain_text("ordered twice")
        good(home.settle("nack", message, error="gave up"))
        expect(status(page)).to_have_text("Cancelled")
        expect(page.locator("#asked")).to_be_hidden()
        expect(page.get_by_role("button", name="Retry")).to_be_visible()


@browser_only
def test_a_stale_page_acts_on_nothing(home: House, browser: Browser) -> None:
    """What was decided on an older state is refused in words, and the present one is shown."""
    queue = home.queue()
    order = home.post(queue)["id"]
    acted: list[Route] = []

    def hold(route: Route) -> None:
        """What it asks before it acts is not answered any more."""
        if route.request.method == "POST":
            acted.append(route)
        if acted:
            route.continue_()

    with order_page(browser, home, order, errors="412") as page:
        expect(status(page)).to_have_text("Pending")
        page.get_by_role("button", name="Pause").click()
        page.route(f"**/messages/{order}**", hold)
        (message,) = home.claim(queue)
        good(home.settle("nack", message, error="late", retry=False))
        page.get_by_role("button", name="Cancel the order").click()
        expect(outcome(page, "cancel")).to_contain_text("changed meanwhile")
        expect(status(page)).to_have_text("Failed")
        expect(page.locator("#error")).to_have_text("late")
    assert good(home.client().get(f"/messages/{order}"))["status"] == "failed"


@browser_only
def test_a_retry_that_lacks_stock_says_so(home: House, browser: Browser) -> None:
    """A conflict is told in words, and the order stays where it is."""
    sku, queue = f"message-{next(NUMBERS)}", home.queue()
    body = {"sku": sku, "name": sku, "price_cents": 990}
    good(home.client().post("/products", json=body), 201)
    good(home.client().post(f"/products/{sku}/stock/receive", json={"quantity": 1}))
    items = [{"sku": sku, "quantity": 1}]
    order = fail(home, queue, items=items)
    home.post(home.queue(), items=items)
    with order_page(browser, home, order, errors="409") as page:
        page.get_by_role("button", name="Retry").click()
        expect(outcome(page, "retry")).to_have_text("There is not enough in stock. ")
        expect(status(page)).to_have_text("Failed")


@browser_only
def test_a_new_tracking_link_opens_for_anybody(home: House, browser: Browser) -> None:
    """An admin makes one for whoever lost his."""
    order = home.post(home.queue(), reference="lost-link")["id"]
    with order_page(browser, home, order) as page:
        page.get_by_role("button", name="Make a link").click()
        link = page.locator("#linked pre").text_content() or ""
    with opened(browser, link) as track:
        expect(track.locator("h1")).to_have_text("Order lost-link")


@browser_only
def test_an_order_names_what_was_bought_and_who_bought(home: House, browser: Browser) -> None:
    """A product by its name, led to by its SKU; a customer whom the directory knows by his."""
    sku, name = f"message-{next(NUMBERS)}", "Back <b>in</b> \"Black\" & 'White'"
    good(home.client().post("/products", json={"sku": sku, "name": name, "price_cents": 990}), 201)
    person = {"name": "Ana <i>Lima</i>", "email": "ana@example.com"}
    customer = good(home.client().post("/customers", json=person), 201)["id"]
    items = [{"sku": one, "quantity": 1} for one in (sku, "constructor")]
    order = home.post(home.queue(), customer=customer, items=items)["id"]
    path = f"/customers/{customer}"
    with order_page(browser, home, order, "viewer") as page:
        who = page.locator("[data-fact=customer] dd")
        rows = page.locator("#bought tr th")
        expect(rows).to_have_text([f"{name} {sku}", "constructor"])
        expect(who).to_have_text(f"{customer} · Ana <i>Lima</i>")
        good(home.client().patch(path, json={"name": None}))
        page.reload()
        expect(who).to_have_text(f"{customer} · ana@example.com")
        good(home.client().post(f"{path}/deactivate"))
        good(home.client().post(f"{path}/erase"))
        page.reload()
        expect(who).to_have_text(customer)
        rows.get_by_role("link", name=sku).click()
        page.wait_for_url(f"**/admin/stock/{sku}")


@browser_only
def test_the_way_of_an_order_is_told_by_queue(home: House, browser: Browser) -> None:
    """Each stay with who, what and why; many failed rounds are one line that opens and stays so."""
    first = home.queue(backoff_seconds=0, max_attempts=20)
    second = home.queue()
    order = home.post(first)["id"]

    def round_() -> None:
        (message,) = home.claim(first, wait_seconds=5)
        good(home.settle("nack", message, error="gateway said 502"))

    for _ in range(6):
        round_()
    with order_page(browser, home, order) as page:
        live(page)
        fold = page.locator("#visits summary")
        expect(fold).to_have_text("Tried 5 times without success gateway said 502")
        fold.click()
        expect(page.locator("#visits details li")).to_have_count(10)
        round_()
        expect(fold).to_contain_text("6 times")
        expect(page.locator("#visits details li").last).to_be_visible()
        (message,) = home.claim(first, worker="picker-3", wait_seconds=5)
        good(home.settle("ack", message, forward_to=second))
        headings = page.locator("#visits h3")
        # How long it was there, once that is over.
        expect(headings).to_have_text([re.compile(f"^{first} [0-9]+ [a-z]+$"), f"{second}"])
        stay = page.locator("#visits > li").first
        expect(stay.locator(":scope > ol > li").last).to_contain_text("Claimed by picker-3")
        expect(page.locator("#visits > li").last).to_contain_text(
            re.compile(f"Done in {first}, forwarded to {second} · account worker.*after .* of work")
        )


def long_history(pages: int) -> Callable[[Route], None]:
    """Answers in place of the service: pages of 200 steps each, of an order that never works."""

    def step(number: int) -> dict[str, Any]:
        claim = number % 2 == 1
        kind = "order.created" if number == 0 else "order.processing" if claim else "order.requeued"
        return {
            "id": f"e-{number}",
            "type": kind,
            "time": f"2026-11-22T08:{number // 60 % 60:02}:{number % 60:02}.000Z",
            "version": number + 1,
            "queue": "q",
            "previous_queue": "q",
            "status": "processing" if claim else "pending",
            "previous_status": "pending" if claim else "processing",
            "reason": None if claim or number == 0 else "nack",
            "actor": "worker",
            "worker": "w",
            "error": None if claim or number == 0 else "again",
            "result": None,
        }

    def answer(route: Route) -> None:
        page = int(parse_qs(urlsplit(route.request.url).query).get("cursor", ["0"])[0])
        items = [step(number) for number in range(page * 200, page * 200 + 200)]
        following = str(page + 1) if page + 1 < pages else None
        route.fulfill(json={"items": items, "next_cursor": following})

    return answer


@browser_only
def test_a_long_history_is_read_page_by_page(home: House, browser: Browser) -> None:
    """A thousand steps at once, the rest when it is asked for."""
    order = home.post(home.queue())["id"]
    with order_page(browser, home, order) as page:
        page.route("**/history?**", long_history(7))
        page.reload()
        more = page.get_by_role("button", name="Show the next steps")
        expect(page.locator("#visits summary")).to_contain_text("Tried 498 times")
        more.click()
        expect(page.locator("#visits summary")).to_contain_text("Tried 698 times")
        expect(more).to_be_hidden()


@browser_only
def test_a_viewer_sees_no_actions(home: House, browser: Browser) -> None:
    """He reads all of it; there is no form but the search and the filters."""
    queue = home.queue()
    order = fail(home, queue, "why not")
    ours = "main form:not(#filters)"
    with order_page(browser, home, order, "viewer") as page:
        expect(page.locator("#error")).to_have_text("why not")
        expect(page.locator("#visits li").last).to_contain_text("Failed")
        expect(page.locator(ours)).to_have_count(0)
        page.goto(f"{home.url}/admin/failures?queue={queue}")
        expect(page.locator("#rows tr")).to_have_count(1)
        expect(page.locator(ours)).to_have_count(0)
        expect(page.locator("#rows button")).to_have_count(0)


# --- the list -------------------------------------------------------------------------


@browser_only
def test_filters_live_in_the_address(home: House, browser: Browser) -> None:
    """What is chosen survives a reload, leads back to all, and pages are told apart."""
    queue, group = home.queue(), f"g-{next(NUMBERS)}"
    for place in range(60):
        home.post(queue, group=group, reference=f"{group}-{place}")
    fail(home, queue := home.queue(), "a very odd error", group=group, reference=f"{group}-x")
    with visit(browser, home, "/admin/messages") as page:
        page.get_by_label("Group").fill(group)
        page.get_by_label("Posted from").fill("2020-01-01T00:00")
        page.get_by_role("button", name="Filter").click()
        rows = page.locator("#rows tr")
        expect(rows).to_have_count(50)
        expect(rows.first).to_contain_text("a very odd error")
        query = parse_qs(urlsplit(page.url).query)
        assert query["group"] == [group]
        assert re.fullmatch(r"20(19|20)-.*:00\.000Z", query["created_after"][0])
        page.get_by_role("link", name="Older").click()
        expect(rows).to_have_count(11)
        page.reload()
        expect(rows).to_have_count(11)
        expect(page.get_by_label("Posted from")).to_have_value("2020-01-01T00:00")
        page.get_by_label("Status").select_option("failed")
        expect(rows).to_have_count(1)
        assert "cursor" not in page.url
        page.get_by_label("Queue").fill(queue)
        page.get_by_label("Error contains").fill("odd")
        page.keyboard.press("Enter")
        expect(rows).to_have_count(1)
        page.get_by_label("Status").select_option("completed")
        expect(page.locator("#list .state")).to_contain_text("No order fits")
        page.go_back()
        expect(rows).to_have_count(1)


# --- dead letters ---------------------------------------------------------------------


def redrive(page: Page, error: str) -> None:
    """Choose a group, and say yes to what the dry run tells."""
    row = page.locator("#rows tr").filter(has_text=error)
    row.get_by_role("button", name="Redrive").click()
    page.locator("#go").click()
    page.get_by_role("dialog").get_by_role("button", name="Redrive").click()


@browser_only
def test_two_thousand_dead_letters_of_one_error_go_back(home: House, browser: Browser) -> None:
    """Found by their number, told how many before, with progress; the others stay."""
    small, queue = home.queue(), home.queue()
    fail(home, small)
    fail_many(home, queue, {"card declined": 2000, "card declined twice": 3, "gone": 2})
    with visit(browser, home, "/admin/failures") as page:
        live(page)
        counts = page.locator("#queues tr")
        expect(counts.first).to_have_text(f"{queue}2,005")
        fail(home, small)
        link = page.get_by_role("link", name=small, exact=True)
        expect(counts.filter(has=link)).to_have_text(f"{small}2")
        page.get_by_role("link", name=queue, exact=True).click()
        expect(page.locator("#sum")).to_have_text("2,005 dead letters.")
        expect(page.locator("#rows .error")).to_have_text(
            ["card declined", "card declined twice", "gone"]
        )
        page.evaluate(
            """() => {
            window.told = [];
            const note = () => window.told.push(document.getElementById("moved").textContent);
            new MutationObserver(note).observe(
                document.getElementById("moved"), { childList: true, characterData: true });
            }"""
        )
        page.locator("#rows tr").first.get_by_role("button").click()
        expect(page.locator("#which")).to_contain_text("card declined")
        line = page.locator("#redrive .command").text_content() or ""
        assert line.endswith("""-d '{"error":"card declined","limit":1000}'""")
        page.locator("#go").click()
        page.get_by_role("button", name="Redrive 2,000 orders").click()
        expect(outcome(page, "redrive")).to_have_text("2,000 orders are pending again.")
        told = [f"{n} of 2,000 redriven." for n in ("0", "1,000", "2,000")]
        assert page.evaluate("window.told") == told
        assert page.locator("progress").evaluate("(bar) => bar.value / bar.max") == 1
        expect(page.locator("#rows tr")).to_have_count(2)
    assert good(home.client().get(f"/queues/{queue}"))["counts"]["failed"] == 5


@browser_only
def test_a_redrive_is_patient_and_can_be_stopped(home: House, browser: Browser) -> None:
    """Asked too often it waits and goes on; told to stop it says what is left."""
    queue = home.queue()
    fail(home, queue, "odd")
    waiting: list[Route] = []

    def answer(route: Route) -> None:
        body = json.loads(route.request.post_data or "{}")
        if body.get("dry_run"):
            route.fulfill(json={"matched": 5000, "redriven": 0, "refused": 0, "remaining": 5000})
        else:
            waiting.append(route)

    def served(page: Page, number: int) -> Route:
        """The call of this number that the page has made, once it has."""
        for _ in range(3_000):
            if len(waiting) >= number:
                return waiting[number - 1]
            page.wait_for_timeout(10)
        raise TimeoutError(f"call {number}")

    with visit(browser, home, f"/admin/failures?queue={queue}", errors="429") as page:
        page.route("**/redrive", answer)
        redrive(page, "odd")
        served(page, 1).fulfill(status=429, headers={"Retry-After": "1"}, json={})
        expect(page.locator("#waits")).to_contain_text("it goes on in 1 second.")
        second = served(page, 2)
        expect(page.get_by_role("button", name="Stop")).to_be_focused()
        page.keyboard.press("Enter")
        second.fulfill(json={"matched": 5000, "redriven": 990, "refused": 10, "remaining": 4000})
        expect(outcome(page, "redrive")).to_have_text(
            "990 orders are pending again. 10 refused: not enough in stock. 4,000 are left."
        )
        assert len(waiting) == 2


# --- what is posted is text -------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(home: House) -> dict[str, str]:
    """Orders whose every free field would like to be a page; their queue."""
    queue = home.queue(description=HOSTILE_LONG)
    said = {"reference": HOSTILE[:64], "group": HOSTILE[:64]}
    metadata = {HOSTILE: HOSTILE_LONG}
    failed = home.post(queue, **said, metadata=metadata)
    (message,) = home.claim(queue, worker=HOSTILE[:100])
    good(home.settle("nack", message, error=HOSTILE_LONG, retry=False))
    done = home.post(queue, **said, metadata=metadata)
    (message,) = home.claim(queue, worker=HOSTILE[:100])
    good(home.settle("ack", message, result={HOSTILE: HOSTILE_LONG}))
    cancelled = home.post(queue, **said, metadata=metadata)
    body = {"reason": HOSTILE_LONG}
    good(home.client("producer").post(f"/messages/{cancelled['id']}/cancel", json=body))
    return {
        "queue": queue,
        "failed": failed["id"],
        "done": done["id"],
        "cancelled": cancelled["id"],
        "track": urlsplit(failed["tracking"]["url"]).query,
    }


HOSTILE_PAGES = (
    "/admin/messages/{failed}",
    "/admin/messages/{done}",
    "/admin/messages/{cancelled}",
    "/admin/messages?queue={queue}",
    f"/admin/messages?reference={quote(HOSTILE[:64])}",
    "/admin/failures?queue={queue}",
    "/admin/failures",
    f"/admin/find?q={quote(HOSTILE_LONG[:200])}",
    "/admin/audit",
    "/admin",
    "/admin/queues/{queue}",
    "/track/{failed}?{track}",
)


@browser_only
def test_a_hostile_purchase_is_text_on_every_page(
    home: House, browser: Browser, hostile: dict[str, str]
) -> None:
    """No markup, no script, no request elsewhere; and no page grows wider than a telephone."""
    with visit(browser, home, "/admin/failures") as page:
        page.add_init_script("window.alert = (text) => console.error('alert', text)")
        page.set_viewport_size({"width": 320, "height": 800})
        for path in HOSTILE_PAGES:
            page.goto(home.url + path.format_map(hostile))
            settled(page)
            assert page.locator("main :is(script, img, iframe)").count() == 0, path
            assert page.evaluate("document.documentElement.scrollWidth") <= 320, path


def settled(page: Page) -> None:
    """Until it is live, where it is, and no part of it that is shown is still loading."""
    if page.locator("#line:visible:not([data-state=polling])").count():
        live(page)
    expect(page.locator(".region[data-state=loading]:visible")).to_have_count(0)
    expect(page.locator(".region[aria-busy=true]:visible")).to_have_count(0)


@browser_only
def test_hostile_text_is_read_as_it_was_posted(
    home: House, browser: Browser, hostile: dict[str, str]
) -> None:
    """To the letter, in the places that are there for it."""
    with order_page(browser, home, hostile["failed"]) as page:
        expect(page.locator("h1 bdi")).to_have_text(HOSTILE[:64])
        for place in ("#error", "#visits .said bdi"):
            expect(page.locator(place)).to_have_text(HOSTILE_LONG)
        expect(page.locator("[data-fact=group] bdi")).to_have_text(HOSTILE[:64])
        posted = json.loads(page.locator("#metadata pre").text_content() or "")
        assert posted == {HOSTILE: HOSTILE_LONG}
        page.goto(f"{home.url}/admin/messages/{hostile['done']}")
        came = page.locator("#result pre")
        expect(came).to_contain_text("<script>")
        assert json.loads(came.text_content() or "") == {HOSTILE: HOSTILE_LONG}
        expect(page.locator("#visits")).to_contain_text(f"Claimed by {HOSTILE[:100]}")
        page.goto(f"{home.url}/admin/messages/{hostile['cancelled']}")
        expect(page.locator("#visits .said bdi")).to_have_text(HOSTILE_LONG)
        page.goto(f"{home.url}/admin/failures?queue={hostile['queue']}")
        expect(page.locator("#rows .error bdi")).to_have_text(HOSTILE_LONG)
        redrive_text = page.locator("#rows button")
        redrive_text.click()
        expect(page.locator("#which bdi")).to_have_text(HOSTILE_LONG)
        page.locator("#go").click()
        expect(page.get_by_role("dialog")).to_contain_text(HOSTILE_LONG)

"""The first pages of the console: who comes in, all queues live, and a purchase by the form."""

import re
from contextlib import ExitStack

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.answers import good
from tests.chromium import opened
from tests.house import CUSTOMER, DISC, House
from tests.services import until
from tests.visits import FASTER, at_home, password_of, visit

pytestmark = pytest.mark.browser

STATUSES = ("pending", "processing", "completed", "failed", "cancelled", "expired")
LIVE = "Live"
SECONDS = 30.0  # for a machine that is busy
TOPS = "(fields) => fields.map((field) => field.getBoundingClientRect().top)"


def fill_in(page: Page, role: str) -> None:
    page.get_by_label("Username").first.fill(role)
    page.get_by_label("Password").first.fill(password_of(role))
    page.get_by_role("button", name="Sign in").click()


# --- who comes in ---------------------------------------------------------------------


def test_whoever_comes_without_an_account_signs_in_and_gets_where_he_wanted(
    home: House, browser: Browser
) -> None:
    """`/login?next=…` and back, query included; signed out, nothing is to be seen any more."""
    wanted = f"{home.url}/admin?sort=pending&prefix=q"
    with opened(browser, wanted, errors="401") as page:
        expect(page).to_have_url(re.compile(r"/login\?next=%2Fadmin%3Fsort%3Dpending%26prefix%3Dq"))
        page.get_by_label("Username").first.fill("admin")
        page.get_by_label("Password").first.fill("not the password")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("do not belong together")
        fill_in(page, "admin")
        expect(page).to_have_url(wanted)
        expect(page.locator("#line")).to_contain_text(LIVE)
        jar = {one.get("name", ""): one.get("value", "") for one in page.context.cookies()}
        assert httpx.get(wanted, cookies=jar, timeout=30).status_code == 200
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_url(f"{home.url}/login")
        assert httpx.get(wanted, cookies=jar, timeout=30).status_code == 303
        page.goto(wanted)
        expect(page).to_have_url(re.compile("/login"))


def test_signing_in_needs_no_scripts(home: House, browser: Browser) -> None:
    """The form is plain; the console then says that it needs scripts."""
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{home.url}/admin")
        fill_in(page, "viewer")
        expect(page).to_have_url(f"{home.url}/admin")
        expect(page.locator("noscript p")).to_have_text("This page needs JavaScript.")


def sign_in_at(house: House, **form: str) -> httpx.Response:
    given = {"username": "viewer", "password": password_of("viewer"), **form}
    here = {"Origin": house.url}
    return httpx.post(f"{house.url}/login", data=given, headers=here, timeout=30)


ELSEWHERE = [
    *("//evil.example", "/\\evil.example", "https://evil.example", "https:evil.example"),
    *("/\t/evil.example", "\t//evil.example", "/\n/evil.example", "javascript:alert(1)"),
    *("evil.example", "", " //evil.example", "/\\/evil.example", "///evil.example"),
]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_form_does_not_pass_on_what_leads_elsewhere(home: House, target: str) -> None:
    """Whatever `next` says, the form leads to one of our pages."""
    form = httpx.get(f"{home.url}/login", params={"next": target}, timeout=30)
    assert re.findall(r'name="next" value="([^"]*)"', form.text)[0] == "/"


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "/\t/evil.example"])
def test_a_sign_in_leads_nowhere_else(home: House, target: str) -> None:
    """Nor does what was sent without the form."""
    answer = sign_in_at(home, next=target)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_sign_in_leads_where_one_wanted(home: House) -> None:
    """An address of ours is kept as it is."""
    target = "/admin/queues/q?status=failed&x=%2F%2Fe"
    assert sign_in_at(home, next=target).headers["location"] == target


def test_a_form_from_elsewhere_signs_nobody_in(home: House) -> None:
    """Without this service's own origin no cookie is set, whoever knows the password."""
    form = {"username": "viewer", "password": password_of("viewer")}
    for origin in ("https://evil.example", "null", f"{home.url}.evil.example", None):
        headers = {} if origin is None else {"Origin": origin}
        for path in ("/login", "/register", "/logout"):
            body = {} if path == "/logout" else form
            answer = httpx.post(f"{home.url}{path}", data=body, headers=headers, timeout=30)
            assert answer.status_code == 403, (origin, path)
            assert "set-cookie" not in answer.headers


def test_who_only_looks_sees_no_forms(home: House, browser: Browser) -> None:
    """A viewer sees all queues and can change none; the form to post is not for him."""
    with visit(browser, home, "/admin", "viewer", errors="403") as page:
        expect(page.locator("#rows tr")).not_to_have_count(0)
        expect(page.locator("#new, .curl, a[href='/admin/post']")).to_have_count(0)
        answer = page.goto(f"{home.url}/admin/post")
        assert answer is not None
        assert answer.status == 403
        expect(page.locator("h1")).to_have_text("Not for this account")


# --- all queues -----------------------------------------------------------------------


def numbers(page: Page, queue: str) -> list[str]:
    """The counts of a queue as the page shows them."""
    row = page.locator("#rows tr", has=page.get_by_role("link", name=queue, exact=True))
    return row.locator("td").all_inner_texts()[1:7]


def counts(house: House, queue: str) -> list[str]:
    found = good(house.client().get(f"/queues/{queue}"))["counts"]
    return [f"{found[status]:,}" for status in STATUSES]


def agrees(page: Page, house: House, *queues: str) -> None:
    """Wait until the page shows of these queues what the API says."""
    for queue in queues:

        def same(queue: str = queue) -> bool:
            return numbers(page, queue) == counts(house, queue)

        until(same, SECONDS, f"the counts of {queue}")


def names(page: Page) -> list[str]:
    return page.locator("#rows th").all_inner_texts()


def total(page: Page, name: str) -> str:
    return page.locator(f"[data-total={name}]").inner_text()


def test_counts_move_while_purchases_run(home: House, browser: Browser) -> None:
    """Exact in the end, equal to the API, and the totals are the sums; no reload."""
    first, second = home.queue(max_attempts=1), home.queue(lease_seconds=600)
    with visit(browser, home, "/admin") as page:
        page.evaluate("window.unchanged = true")
        agrees(page, home, first, second)
        for _ in range(12):
            home.post(first)
        until(lambda: numbers(page, first)[0] == "12", SECONDS, "twelve pending")
        for number, message in enumerate(home.claim(first, 9)):
            if number < 2:
                home.settle("nack", message, error="no card", retry=False)
            else:
                home.settle("ack", message, forward_to=second)
        home.claim(second, 3)
        agrees(page, home, first, second)
        assert numbers(page, first) == ["3", "0", "0", "2", "0", "0"]
        assert numbers(page, second) == ["4", "3", "0", "0", "0", "0"]

        def summed() -> bool:
            sums = totals(home)
            return {name: total(page, name) for name in sums} == sums

        until(summed, SECONDS, "the totals")
        assert page.evaluate("window.unchanged")


def totals(house: House) -> dict[str, str]:
    """What stands below all queues, by the API."""
    found = good(house.client().get("/queues", params={"limit": 1000}))["items"]
    sums = {status: sum(one["counts"][status] for one in found) for status in STATUSES}
    return {name: f"{n:,}" for name, n in {"count": len(found), **sums}.items()}


def failed_lately(house: House, queue: str) -> int:
    items = good(house.client().get("/stats"))["items"]
    return sum(next(one["failed"] for one in items if one["queue"] == queue))


def test_the_worst_comes_first(home: House, browser: Browser) -> None:
    """Failing, then late, then paused with something in it, then old dead letters, then fine."""
    fine, paused = (home.queue(description=text) for text in ("fine", "paused"))
    late = home.queue(lease_seconds=1)
    failing = home.queue(max_attempts=1)
    for queue in (paused, late, failing, fine):
        home.post(queue)
    home.client().post(f"/queues/{paused}/pause")
    (message,) = home.claim(failing)
    home.settle("nack", message, error="no card", retry=False)
    (message,) = home.claim(fine)
    home.settle("ack", message)
    until(lambda: failed_lately(home, failing) == 1, SECONDS, "the failure is counted")
    with visit(browser, home, f"/admin?prefix={fine[0]}") as page:

        def order() -> list[str]:
            return [name for name in names(page) if name in (fine, paused, late, failing)]

        until(lambda: order() == [failing, late, paused, fine], SECONDS, "the worst first")
        row = page.locator("#rows tr", has=page.get_by_role("link", name=failing, exact=True))
        expect(row.locator(".badge").first).to_have_text("1 failure in 15 min")
        label = "1 in the last hour, at most 1 a minute, [01] in this minute"
        for rate in row.get_by_role("img").all():
            expect(rate).to_have_accessible_name(re.compile(label))


def test_rows_stand_still_under_a_hand(home: House, browser: Browser) -> None:
    """While focus or pointer is on a row none moves, comes between or goes; numbers do change."""
    calm, rising, going = sorted(home.queue() for _ in range(3))
    home.post(calm)
    with ExitStack() as stack:
        pages = [
            stack.enter_context(visit(browser, home, "/admin?sort=pending", before=FASTER))
            for _ in range(3)
        ]
        free, *held = pages
        for page in pages:
            agrees(page, home, calm, rising)
            in_order(page, calm, rising)
        count = int(total(free, "count"))
        held[0].get_by_role("link", name=calm, exact=True).focus()
        held[1].get_by_role("link", name=calm, exact=True).hover()
        before = [names(page) for page in held]
        for _ in range(3):
            home.post(rising)
        assert home.client().delete(f"/queues/{going}").status_code == 204
        born = home.queue()
        in_order(free, rising, calm)
        until(lambda: going not in names(free), SECONDS, "it goes")
        home.post(rising)
        for page, stood in zip(held, before, strict=True):
            agrees(page, home, rising, born)
            assert names(page) == [*stood, born]
            assert total(page, "count") == str(count)
            gone = page.locator("#rows tr", has=page.get_by_text(going, exact=True))
            expect(gone.locator(".badge")).to_have_text("Deleted")
            page.evaluate("document.activeElement.blur()")
            page.mouse.move(0, 0)
            expect(gone).to_have_count(0)
            in_order(page, rising, calm)


def in_order(page: Page, first: str, second: str) -> None:
    """Wait until one queue stands above the other."""

    def so() -> bool:
        shown = names(page)
        return shown.index(first) < shown.index(second)

    until(so, SECONDS, f"{first} above {second}")


def test_search_and_order_live_in_the_address(home: House, browser: Browser) -> None:
    """They survive a reload and the way back, and a link has them."""
    for name in ("find-a", "find-b", "find-c"):
        good(home.client().post("/queues", json={"name": name}), 201)
    home.post("find-b")
    with visit(browser, home, "/admin") as page:
        page.get_by_label("Name begins with").fill("find-")
        page.keyboard.press("Enter")
        expect(page.locator("#rows th")).to_have_count(3)
        page.get_by_role("link", name="Queue", exact=True).click()
        expect(page.locator("#rows th")).to_have_text(["find-a", "find-b", "find-c"])
        page.get_by_role("link", name="Queue", exact=True).click()
        expect(page).to_have_url(f"{home.url}/admin?prefix=find-&sort=-name")
        turned = ["find-c", "find-b", "find-a"]
        expect(page.locator("#rows th")).to_have_text(turned)
        expect(page.locator("th[data-sort=name]")).to_have_attribute("aria-sort", "descending")
        page.reload()
        expect(page.locator("#rows th")).to_have_text(turned)
        expect(page.get_by_label("Name begins with")).to_have_value("find-")
        page.get_by_role("link", name="Pending").click()
        expect(page.locator("#rows th")).to_have_text(["find-b", "find-a", "find-c"])
        page.go_back()
        expect(page.locator("#rows th")).to_have_text(turned)
        page.get_by_label("Name begins with").fill("nothing-of-that-name")
        page.keyboard.press("Enter")
        expect(page.locator("#list .state")).to_contain_text("No queue has a name")
        page.go_back()
        expect(page.locator("#rows th")).to_have_text(turned)


def test_more_queues_than_a_page_holds(home: House, browser: Browser) -> None:
    """Keyset pages by name, each in order by itself; the totals are those of all queues."""
    for name in "abcde":
        good(home.client().post("/queues", json={"name": f"part-{name}"}), 201)
    home.post("part-c")

    def small(route: Route) -> None:
        route.continue_(url=route.request.url.replace("limit=1000", "limit=2"))

    with visit(browser, home, "/admin") as page:
        page.route("**/api/v1/queues?*", small)
        page.goto(f"{home.url}/admin?prefix=part-")
        expect(page.locator("#rows th")).to_have_text(["part-a", "part-b"])
        expect(page.locator("#part")).to_be_visible()
        page.get_by_role("link", name="Next").click()
        expect(page.locator("#rows th")).to_have_text(["part-c", "part-d"])
        home.post("part-c")
        agrees(page, home, "part-c", "part-d")
        good(home.client().post("/queues", json={"name": "part-cc"}), 201)
        until(lambda: "part-cc" in names(page), SECONDS, "a queue that belongs here")
        good(home.client().post("/queues", json={"name": "part-f"}), 201)
        found = good(home.client().get("/queues", params={"limit": 1000}))["items"]
        until(lambda: total(page, "count") == f"{len(found)}", SECONDS, "all queues")
        assert "part-f" not in names(page)
        page.get_by_role("link", name="From the start").click()
        expect(page.locator("#rows th")).to_have_text(["part-a", "part-b"])


def test_a_pause_holds_the_page_still(home: House, browser: Browser) -> None:
    """The line says so; what happened meanwhile is there when the page goes on."""
    queue = home.queue()
    with visit(browser, home, "/admin") as page:
        expect(page.locator("#line")).to_contain_text(LIVE)
        agrees(page, home, queue)
        expect(page.locator("#rows svg").first).to_be_visible()  # nothing is under way any more
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#line")).to_contain_text("Paused")
        before = page.locator("#rows").inner_text()
        home.post(queue)
        with visit(browser, home, "/admin") as other:  # that one is told, this one is not
            agrees(other, home, queue)
        assert page.locator("#rows").inner_text() == before
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#line")).to_contain_text(LIVE)
        agrees(page, home, queue)


def test_a_queue_is_made_by_the_form(home: House, browser: Browser) -> None:
    """All its settings; a name that is taken is said at its field; the curl line is complete."""
    with visit(browser, home, "/admin", errors="409") as page:
        page.get_by_text("New queue").click()
        form = page.locator("#new")
        form.get_by_label("Name", exact=True).fill("made-here")
        form.get_by_label("Lease, in seconds").fill("90")
        form.get_by_label("Attempts (").fill("3")
        form.get_by_text("The same with curl").click()
        expect(form.locator("code")).to_contain_text('"lease_seconds":90')
        form.get_by_role("button", name="Make the queue").click()
        made = page.locator("#new .outcome a")
        expect(made).to_have_attribute("href", "/admin/queues/made-here")
        found = good(home.client().get("/queues/made-here"))
        assert (found["lease_seconds"], found["max_attempts"]) == (90, 3)
        until(lambda: "made-here" in names(page), SECONDS, "its row")
        form.get_by_label("Name", exact=True).fill("made-here")
        form.get_by_role("button", name="Make the queue").click()
        field = form.get_by_label("Name", exact=False).first
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_be_focused()
        expect(form.locator(".fault")).to_contain_text("There is a queue")


def test_a_page_goes_on_when_the_service_comes_back(browser: Browser) -> None:
    """Killed and started again: the page says that it waits, and goes on without a reload."""
    with at_home() as house:
        queue = house.queue()
        house.token("producer")
        failed = "ERR_CONNECTION|ERR_INCOMPLETE|ERR_EMPTY|50[0-9]"
        with visit(browser, house, "/admin", errors=failed) as page:
            page.evaluate("window.unchanged = true")
            expect(page.locator("#line")).to_contain_text(LIVE)
            agrees(page, house, queue)
            house.servers[0].kill()
            expect(page.locator("#line")).to_contain_text("trying again")
            house.servers[0].start()
            house.post(queue)
            expect(page.locator("#line")).to_contain_text(LIVE, timeout=60_000)
            agrees(page, house, queue)
            assert page.evaluate("window.unchanged")


# --- a purchase by the form -----------------------------------------------------------


def step_to(page: Page, name: str) -> None:
    """Press Tab until the focus is on the field of this name, or the button with this text."""
    for _ in range(40):
        page.keyboard.press("Tab")
        here = "[document.activeElement.name, document.activeElement.textContent.trim()]"
        if name in page.evaluate(here):
            return
    raise AssertionError(f"no way to {name} by Tab")


def messages(house: House, queue: str) -> list[dict[str, object]]:
    return good(house.client().get(f"/queues/{queue}/messages"))["items"]


def test_a_purchase_is_posted_by_keyboard_alone(home: House, browser: Browser) -> None:
    """From the top of the page to the order, and what was written is what was posted."""
    good(home.client().post("/queues", json={"name": "z-typed"}), 201)
    product = {"sku": "disc-typed", "name": "A disc to type", "price_cents": 990}
    good(home.client().post("/products", json=product), 201)
    with visit(browser, home, "/admin/post", errors="404") as page:
        expect(page.locator("#line")).to_contain_text(LIVE)
        expect(page.locator("#post-queue")).to_have_value("orders")
        key = page.locator("#post-key").input_value()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # to the content
        step_to(page, "queue")
        page.keyboard.press("z")  # of no other: a word would have to be typed within a second
        for name, text in (
            ("customer", CUSTOMER),
            ("reference", "by hand"),
            ("items/0/sku", "disc-typed"),
            ("items/0/quantity", "3"),
        ):
            step_to(page, name)
            page.keyboard.press("Control+A")
            page.keyboard.type(text)
        expect(page.locator("[name='items/0/amount_cents']")).to_have_value("29.70")
        step_to(page, "Add an item")
        page.keyboard.press("Enter")
        page.keyboard.type("disc-other")
        step_to(page, "items/1/amount_cents")
        page.keyboard.type("19.80")
        step_to(page, "More")
        page.keyboard.press("Enter")
        step_to(page, "metadata")
        page.keyboard.type('{"gift": [1, }')
        expect(page.locator("#metadata-fault")).to_have_text("This is not JSON: line 1, column 14.")
        page.keyboard.press("Control+A")
        page.keyboard.type('{"gift": true}')
        expect(page.locator("#metadata-fault")).to_have_text("")
        step_to(page, "Post it")
        page.keyboard.press("Enter")
        expect(page.locator("#post > .outcome")).to_contain_text("Posted")
        (message,) = messages(home, "z-typed")
        assert message["items"] == [
            {"sku": "disc-typed", "quantity": 3, "amount_cents": 2970},
            {"sku": "disc-other", "quantity": 1, "amount_cents": 1980},
        ]
        told = (message["reference"], message["metadata"], message["idempotency_key"])
        assert told == ("by hand", {"gift": True}, key)
        assert page.locator("#post-key").input_value() != key
        line = page.locator("#posted > li")
        link = line.get_by_role("link", name="by hand")
        expect(link).to_have_attribute("href", f"/admin/messages/{message['id']}")
        home.claim("z-typed", lease_seconds=600)
        expect(line.locator(".badge")).to_have_text("Processing")
        line.get_by_role("link", name="Tracking page").click()
        expect(page.locator("h1")).to_contain_text("by hand")


def fill_purchase(page: Page, queue: str) -> None:
    expect(page.locator("#post-queue")).to_have_value("orders")
    page.locator("#post-queue").select_option(queue)
    page.get_by_label("Customer").fill(CUSTOMER)
    page.get_by_label("SKU").fill("disc-001")


def test_a_lost_answer_makes_one_order(home: House, browser: Browser) -> None:
    """The service has posted it and the line is cut: the same again makes nothing new."""
    queue = home.queue()

    def cut(route: Route) -> None:
        assert route.fetch().status == 201
        route.abort("connectionreset")

    with visit(browser, home, "/admin/post", errors="ERR_CONNECTION_RESET|404") as page:
        fill_purchase(page, queue)
        key = page.locator("#post-key").input_value()
        page.route("**/messages", cut, times=1)
        page.get_by_role("button", name="Post it").click()
        expect(page.locator("#post > .outcome")).to_contain_text("Send it once more as it is")
        assert len(messages(home, queue)) == 1
        assert page.locator("#post-key").input_value() == key
        page.get_by_role("button", name="Post it").click()
        expect(page.locator("#posted > li")).to_have_count(1)
        (message,) = messages(home, queue)
        assert message["idempotency_key"] == key


def test_another_purchase_with_a_used_key_is_refused(home: House, browser: Browser) -> None:
    """What was changed after a lost answer is no second order; a new key makes it one."""
    queue = home.queue()
    home.client().post(
        f"/queues/{queue}/messages",
        json={"customer": CUSTOMER, "items": [DISC], "idempotency_key": "used"},
    )
    with visit(browser, home, "/admin/post", errors="404|422") as page:
        fill_purchase(page, queue)
        page.get_by_text("More").click()
        page.get_by_label("Idempotency key").fill("used")
        page.get_by_role("button", name="Post it").click()
        expect(page.locator("#post > .outcome")).to_contain_text("with this key already")
        assert len(messages(home, queue)) == 1
        page.get_by_role("button", name="Take a new key").click()
        page.get_by_role("button", name="Post it").click()
        expect(page.locator("#posted > li")).to_have_count(1)
        assert len(messages(home, queue)) == 2


def test_what_the_service_refuses_is_said_at_its_field(home: House, browser: Browser) -> None:
    """A pointer into the second item leads to that item, also where a part is shut."""
    good(home.client().post("/products", json={"sku": "few", "name": "Few", "price_cents": 1}), 201)
    good(home.client().post("/products/few/stock/receive", json={"quantity": 2}), 200)
    with visit(browser, home, "/admin/post", errors="404|409|422") as page:
        fill_purchase(page, "orders")
        page.get_by_role("button", name="Add an item").click()
        page.get_by_label("SKU").nth(1).fill("few")
        page.get_by_label("Quantity").nth(1).fill("5")
        page.get_by_role("button", name="Post it").click()
        expect(page.locator("#post > .outcome")).to_contain_text("not enough in stock")
        quantity = page.get_by_label("Quantity").nth(1)
        expect(quantity).to_be_focused()
        expect(quantity).to_have_accessible_description("Only 2 left; 5 wanted.")
        tops = page.locator("#items > li").nth(1).locator("input").evaluate_all(TOPS)
        assert len(set(tops)) == 1
        page.get_by_role("button", name="Take item 2 away").click()
        page.evaluate("document.querySelector('#post').noValidate = true")
        page.locator("#post-group").evaluate("(field) => { field.value = 'x'.repeat(65); }")
        page.get_by_role("button", name="Post it").click()
        expect(page.locator("#post-group")).to_be_focused()
        expect(page.locator("#more .fault")).to_contain_text("64")


def test_an_amount_has_the_digits_of_its_currency(home: House, browser: Browser) -> None:
    """What cannot be written in the currency is no amount, rather than another one."""
    queue = home.queue()
    with visit(browser, home, "/admin/post", errors="404") as page:
        fill_purchase(page, queue)
        amount = page.get_by_label("Amount of the line")
        currency = page.get_by_label("Currency")
        for code, text, fault in (
            ("BRL", "19.805", "At most 2 digits after the point in BRL."),
            ("BRL", "19.8", ""),
            ("JPY", "19.8", "At most 0 digits after the point in JPY."),
            ("JPY", "20", ""),
            ("KWD", "19.805", ""),
            ("BRL", "19.805", "At most 2 digits after the point in BRL."),
        ):
            currency.fill(code)
            amount.fill(text)
            assert amount.evaluate("(field) => field.validationMessage") == fault
        page.get_by_role("button", name="Post it").click()
        expect(amount).to_be_focused()
        assert messages(home, queue) == []
        currency.fill("KWD")
        page.get_by_role("button", name="Post it").click()
        expect(page.locator("#posted > li")).to_have_count(1)
        (message,) = messages(home, queue)
        assert message["items"] == [{"sku": "disc-001", "quantity": 1, "amount_cents": 19_805}]


def test_an_sku_that_is_no_product_is_warned_of(home: House, browser: Browser) -> None:
    """In words beside it, and it is posted all the same; a product has its name there.

    Nothing moves for them: the pointer may be on its way to what stands below.
    """
    product = {"sku": "beside", "name": "B", "price_cents": 1}
    good(home.client().post("/products", json=product), 201)
    queue = home.queue()
    none = {"items": [], "next_cursor": None}
    with visit(browser, home, "/admin/post", errors="404") as page:
        page.route("**/products?*", lambda route: route.fulfill(json=none))  # no suggestions
        fill_purchase(page, queue)
        sku = page.get_by_label("SKU")
        below = page.locator("#add")
        (top,) = below.evaluate_all(TOPS)
        page.get_by_label("Quantity").focus()
        expect(sku).to_have_accessible_description(re.compile("No product has this SKU"))
        assert below.evaluate_all(TOPS) == [top]
        sku.fill("beside")
        page.get_by_label("Quantity").focus()
        expect(sku).to_have_accessible_description(re.compile("^B · R"))
        assert below.evaluate_all(TOPS) == [top]
        sku.fill("disc-001")
        page.get_by_role("button", name="Post it").click()
        expect(page.locator("#posted > li")).to_have_count(1)
        assert len(messages(home, queue)) == 1


def test_the_page_is_found_with_its_queue_chosen(home: House, browser: Browser) -> None:
    """A link with `?queue=` chooses it, and one that is made meanwhile can be chosen."""
    queue = home.queue()
    with visit(browser, home, f"/admin/post?queue={queue}") as page:
        expect(page.locator("#post-queue")).to_have_value(queue)
        expect(page.locator("#line")).to_contain_text(LIVE)
        born = home.queue()
        expect(page.locator(f"#post-queue option[value='{born}']")).to_have_count(1)
        expect(page.locator("#post-queue")).to_have_value(queue)


BROKEN = {  # text → where the first thing stands that does not belong there
    "": (1, 1),
    "{": (1, 2),
    '{"a": 1,}': (1, 9),
    "{\n  'a': 1\n}": (2, 3),
    '{"a" 1}': (1, 6),
    '[1, 2\n\n, "x\n"]': (3, 3),
    '{"a": 01}': (1, 8),
    '{"a": tru}': (1, 7),
    '{"a": 1} x': (1, 10),
    '{"\N{ROLLING ON THE FLOOR LAUGHING}": "\\x"}': (1, 7),
    "[" * 20_000: None,
}
WHOLE = ('{"a": [1, -0.5e+3, "\\u00e9", null, true, {}]}', ' "x" ', "[]", "0")
PLACES = """(texts) => import("/static/console/json.js").then(({ fault }) => texts.map((text) => {
    let parsed = true;
    try { JSON.parse(text); } catch { parsed = false; }
    const place = fault(text);
    if (parsed !== (place === null)) throw new Error(text.slice(0, 80));
    return place && [place.line, place.column];
}))"""


def test_the_place_of_a_fault_in_json(home: House, browser: Browser) -> None:
    """What the browser does not take has a place, counted as people count; all else has none."""
    with opened(browser, f"{home.url}/login") as page:
        told = page.evaluate(PLACES, [*BROKEN, *WHOLE])
        for text, place, wanted in zip(BROKEN, told, BROKEN.values(), strict=False):
            assert wanted is None or place == list(wanted), text
        assert told[len(BROKEN) :] == [None] * len(WHOLE)

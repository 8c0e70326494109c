"""The console's accounts and its audit log: who may sign in, and who did what when."""

import itertools
import re

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

import texts
from tests.answers import good, problem, stored
from tests.house import API, PASSWORD, House
from tests.routes import routes
from tests.test_roles import ADMIN, TABLE, short
from tests.test_track_page import opened
from tests.visits import FASTER, visit

pytestmark = pytest.mark.browser

NUMBERS = itertools.count(1)
HOSTILE = "<img src=x onerror=alert(1)>\u202e🎷"
EMPTY = {"items": [], "next_cursor": None}
IN_THE_CONSOLE = {  # what others than admins may do too, and an admin's page leaves a line of
    *("enqueue", "enqueue_batch", "cancel_message", "place_order", "cancel_order"),
    *("create_customer", "update_customer", "create_ticket", "revoke_ticket", "change_password"),
}


def account(home: House, *roles: str) -> str:
    """The name of a new account with the password of the tests."""
    name = f"member-{next(NUMBERS)}"
    body = {"username": name, "password": PASSWORD, "roles": roles or ["viewer"]}
    good(home.client().post("/accounts", json=body), 201)
    return name


def sign_in(page: Page, name: str, password: str) -> None:
    page.get_by_label("Username").first.fill(name)
    page.get_by_label("Password").first.fill(password)
    page.get_by_role("button", name="Sign in").click()


def outcome(form: Locator) -> Locator:
    return form.locator(".outcome")


def ready(page: Page, region: str = "#list") -> None:
    """What the address asks for is drawn."""
    expect(page.locator(region)).to_have_attribute("aria-busy", "false")
    expect(page.locator(region)).to_have_attribute("data-state", "ready")


def agree(page: Page, button: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until something has the focus."""
    for _ in range(80):
        if wanted.evaluate("node => node === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no way by keyboard to {wanted}")


# --- accounts -------------------------------------------------------------------------


def test_an_account_from_its_first_to_its_last_day(home: House, browser: Browser) -> None:
    """Made with a role, signed in elsewhere, changed, deactivated: its session ends each time;
    the audit log tells all of it and no password."""
    name = f"member-{next(NUMBERS)}"
    with (
        visit(browser, home, "/admin/accounts", errors="401", before=FASTER) as page,
        opened(browser, f"{home.url}/login", errors="401", before=FASTER) as other,
    ):
        page.get_by_text("New account").click()
        form = page.locator("#create")
        form.get_by_label("Username").fill(name)
        form.get_by_role("button", name="Make one up").click()
        password = form.get_by_label("Password").input_value()
        form.get_by_label("Viewer").check()
        form.get_by_text("The same with curl").click()
        expect(form.locator(".command")).to_contain_text(f'"username":"{name}"')
        assert password not in form.locator(".command").inner_text()
        form.get_by_role("button", name="Make the account").click()
        expect(outcome(form)).to_contain_text(f"{name} can sign in now.")
        expect(outcome(form)).to_contain_text(password)

        sign_in(other, name, password)
        other.wait_for_url("**/admin")
        row = page.locator("#rows tr", has_text=name)
        expect(row).to_contain_text("Viewer")
        row.get_by_role("link", name=name).click()
        ready(page, "#account")
        change = page.locator("#change")
        change.get_by_label("Producer").check()
        change.get_by_role("button", name="Save").click()
        expect(outcome(change)).to_have_text("Done.")
        expect(row).to_contain_text("Producer, Viewer")
        other.goto(f"{home.url}/admin/audit")
        expect(other).to_have_url(re.compile("/login"))

        sign_in(other, name, password)
        other.wait_for_url("**/admin/audit")
        ready(other)
        page.get_by_role("button", name="Deactivate").click()
        agree(page, "Deactivate")
        expect(page.locator("#state")).to_have_text("Deactivated")
        expect(page.get_by_role("button", name="Activate", exact=True)).to_be_visible()
        expect(other.locator("#list > .state")).to_contain_text("Your sign-in is over")
        other.goto(f"{home.url}/login")
        sign_in(other, name, password)
        expect(other.get_by_role("alert")).to_contain_text("do not belong together")

        page.get_by_role("link", name="What was done to it").click()
        ready(page)
        rows = page.locator("#rows tr")
        expect(rows).to_have_count(3)
        for place, (what, sent) in enumerate(
            [
                ("Changed an account", "active: false"),
                ("Changed an account", '"viewer","producer"'),
                ("Made an account", "password: ***"),
            ]
        ):
            for text in ("admin", what, name, "Done", sent, "127.0.0.1"):
                expect(rows.nth(place)).to_contain_text(text)
        assert password not in page.content()


def test_an_account_is_made_by_keyboard_alone(home: House, browser: Browser) -> None:
    """From the top of the page to its outcome, with Tab, Space and Enter."""
    name = f"member-{next(NUMBERS)}"
    with visit(browser, home, "/admin/accounts") as page:
        ready(page)
        tab_to(page, page.get_by_text("New account"))
        page.keyboard.press("Enter")
        tab_to(page, page.locator("#create [name=username]"))
        page.keyboard.type(name)
        tab_to(page, page.locator("#create [name=password]"))
        page.keyboard.type(PASSWORD)
        tab_to(page, page.locator("#create [value=worker]"))
        page.keyboard.press("Space")
        page.keyboard.press("Enter")
        expect(outcome(page.locator("#create"))).to_have_text(f"{name} can sign in now.")
        tab_to(page, page.get_by_role("link", name=name))
        page.keyboard.press("Enter")
        expect(page.locator("#whose")).to_be_focused()
        ready(page, "#account")
        tab_to(page, page.locator("#revoke button.stop"))
        page.keyboard.press("Enter")
        tab_to(page, page.get_by_role("dialog").get_by_role("button").first)
        page.keyboard.press("Enter")
        expect(outcome(page.locator("#revoke"))).to_contain_text("are ending")
    body = {"username": name, "password": PASSWORD}
    good(home.client(None).post("/auth/token", data=body))


def test_what_is_refused_is_said_at_its_field(home: House, browser: Browser) -> None:
    """A name that is taken, no role at all, the last admin: each in words, where it is wrong."""
    name = account(home)
    with visit(browser, home, "/admin/accounts", errors="409") as page:
        page.get_by_text("New account").click()
        form = page.locator("#create")
        form.get_by_label("Username").fill(name)
        form.get_by_label("Password").fill(PASSWORD)
        form.get_by_role("button", name="Make the account").click()
        boxes = form.locator("[name=role]")
        assert boxes.first.evaluate("box => box.validationMessage") == "Choose at least one role."
        boxes.last.check()
        form.get_by_role("button", name="Make the account").click()
        expect(form.locator("[name=username] + .fault")).to_have_text(
            "There is an account of that name."
        )
        expect(form.locator("[name=username]")).to_be_focused()
        expect(form.locator("[name=username]")).to_have_accessible_description(
            re.compile("Small letters.* There is an account of that name")
        )
        page.get_by_role("link", name="admin", exact=True).click()
        ready(page, "#account")
        change = page.locator("#change")
        change.get_by_label("Viewer").check()
        change.get_by_label("Admin").uncheck()
        change.get_by_role("button", name="Save").click()
        last = "Nobody could administer any more: this is the last active admin."
        expect(change.locator("fieldset + .fault")).to_have_text(last)
        page.get_by_role("button", name="Deactivate").click()
        expect(page.get_by_role("dialog")).to_contain_text("That is your own account")
        agree(page, "Deactivate")
        expect(page.locator("[name=active] + .fault")).to_have_text(last)


def test_a_password_is_set_for_somebody(home: House, browser: Browser) -> None:
    """The new one works and the old one does not; what was typed is not shown again."""
    name, fresh = account(home), "another-password-of-tests"
    with visit(browser, home, f"/admin/accounts?account={name}") as page:
        ready(page, "#account")
        form = page.locator("#secret")
        form.get_by_label("Password").fill(fresh)
        form.get_by_role("button", name="Set the password").click()
        expect(outcome(form)).to_have_text("Done.")
        expect(form.get_by_label("Password")).to_have_value("")
        assert fresh not in page.content()
    for password, status in ((fresh, 200), (PASSWORD, 401)):
        body = {"username": name, "password": password}
        assert home.client(None).post("/auth/token", data=body).status_code == status


def test_ones_own_sign_ins_end_with_the_page(home: House, browser: Browser) -> None:
    """Who ends all his sign-ins is warned first, then told to sign in again."""
    name = account(home, "admin")
    with opened(browser, f"{home.url}/login?next=/admin/accounts", errors="401") as page:
        sign_in(page, name, PASSWORD)
        ready(page)
        page.get_by_role("link", name=name).click()
        ready(page, "#account")
        page.get_by_role("button", name="End all its sign-ins").click()
        expect(page.get_by_role("dialog")).to_contain_text("this page ends too")
        agree(page, "End all its sign-ins")
        expect(page.locator("#list > .state")).to_contain_text("Your sign-in is over")
        page.locator("#list").get_by_role("link", name="Sign in").click()
        expect(page).to_have_url(re.compile("/login"))
    good(home.client().patch(f"/accounts/{name}", json={"active": False}))


def test_accounts_are_found_by_their_beginning(home: House, browser: Browser) -> None:
    """The beginning stands in the address; nothing found says so; so does an unknown name."""
    name = account(home)
    with visit(browser, home, "/admin/accounts") as page:
        page.get_by_label("Name begins with").fill(name)
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("#rows tr th")).to_have_text([name])
        expect(page).to_have_url(re.compile(f"prefix={name}"))
        page.reload()
        expect(page.locator("#rows tr th")).to_have_text([name])
        page.goto(f"{home.url}/admin/accounts?prefix=nobody-at-all&account=nobody-at-all")
        expect(page.locator("#list > .state")).to_contain_text("no account whose name begins so")
        expect(page.locator("#account > .state")).to_have_text("There is no such account.")


# --- tickets --------------------------------------------------------------------------


def test_a_ticket_is_shown_once_and_ended(home: House, browser: Browser) -> None:
    """It opens what it names until it is pasted back, alone or in a link; then it opens nothing."""
    queue = home.queue()
    history = f"{home.url}{API}/events/history"

    def status(ticket: str) -> int:
        return httpx.get(history, params={"ticket": ticket}, timeout=30).status_code

    with visit(browser, home, "/admin/accounts", errors="404") as page:
        page.get_by_text("New ticket").click()
        make, end = page.locator("#ticket"), page.locator("#withdraw")
        topics = make.get_by_label("Topics")
        topics.fill("queue:not-there")
        make.get_by_role("button", name="Make the ticket").click()
        expect(outcome(make)).to_have_class(re.compile("bad"))
        topics.fill(f"queues\n queue:{queue}\n")
        make.get_by_label("Ends after").select_option("1 hour")
        make.get_by_role("button", name="Make the ticket").click()
        expect(page.locator("#ends")).to_contain_text(re.compile("in (59 minutes|1 hour)"))
        ticket = page.locator("#made-ticket pre").inner_text()
        link = page.locator("#made-url pre").inner_text()
        assert status(ticket) == 200
        page.get_by_text("End a ticket").first.click()
        end.get_by_label("The ticket").fill(f" {link} ")
        end.get_by_text("The same with curl").click()
        assert ticket not in end.locator(".command").inner_text()
        end.get_by_role("button", name="End a ticket").click()
        expect(outcome(end)).to_have_text("The ticket has ended.")
        assert status(ticket) == 401
        page.reload()
        assert ticket not in page.content()
    told = good(home.client().get("/audit", params={"limit": 3}))["items"]
    assert [(one["action"], one["status"]) for one in told] == [
        ("revoke_ticket", 204),
        ("create_ticket", 201),
        ("create_ticket", 404),
    ]


# --- who sees them --------------------------------------------------------------------


def test_viewers_read_the_audit_log_and_no_accounts(home: House, browser: Browser) -> None:
    """No link leads a viewer to the accounts, and the page itself says that it is not for him."""
    name = account(home)
    with visit(browser, home, f"/admin/audit?target={name}", "viewer", errors="403") as page:
        ready(page)
        expect(page.locator("#rows")).to_contain_text(name)
        expect(page.locator("a[href^='/admin/accounts']")).to_have_count(0)
        answer = page.goto(f"{home.url}/admin/accounts")
        assert answer is not None
        assert answer.status == 403
        expect(page.locator("h1")).to_have_text("Not for this account")


@pytest.mark.parametrize("language", ["en", "pt-BR"])
def test_every_action_has_its_words(home: House, language: str) -> None:
    """Whatever leaves a line is told in words, and no words are left of what is not there."""
    verbs = {
        route.operation["operationId"]
        for route in routes(home.url)
        if route.method != "GET" and TABLE.get(short(route)) == ADMIN
    }
    said = {key[10:] for key in texts.TEXTS[language] if key.startswith("audit.did.")}
    assert said == verbs | IN_THE_CONSOLE


# --- the audit log --------------------------------------------------------------------


def test_the_log_is_filtered_by_its_address(home: House, browser: Browser) -> None:
    """Filters stand in the address; pages lead to older lines and back; targets to their pages."""
    queue = home.queue()
    for n in range(30):
        for verb in ("pause", "resume"):
            good(home.client().post(f"/queues/{queue}/{verb}"))
        if n == 0:
            body = {"name": queue}
            problem(home.client().post("/queues", json=body), 409, "queue_exists")
    with visit(browser, home, "/admin/audit") as page:
        ready(page)
        page.get_by_label("To what").fill(queue)
        page.get_by_role("button", name="Filter").click()
        ready(page)
        rows = page.locator("#rows tr")
        expect(rows).to_have_count(50)
        expect(page).to_have_url(re.compile(f"target={queue}"))
        page.get_by_role("link", name="Older").click()
        expect(rows).to_have_count(12)
        expect(rows.last).to_contain_text("Made a queue")
        expect(page.locator("#rows tr", has_text="Refused")).to_contain_text("409 queue_exists")
        page.get_by_role("link", name="Newest").click()
        expect(rows).to_have_count(50)
        page.locator("[name=action]").select_option("Made a queue")
        expect(rows).to_have_count(2)
        page.reload()
        expect(rows).to_have_count(2)
        href = rows.first.get_by_role("link", name=queue).get_attribute("href")
        assert href == f"/admin/queues/{queue}"
        page.get_by_label("Before").fill("2020-01-01T00:00")
        expect(page.locator("#list > .state")).to_have_text("Nothing was done that fits.")
        page.get_by_text("The same with curl").click()
        expect(page.locator("#curl")).to_contain_text(f"target={queue}")
        page.go_back()
        expect(rows).to_have_count(2)
        page.get_by_role("link", name="Clear the filters").click()
        expect(rows).to_have_count(50)


def test_an_empty_log_says_why(home: House, browser: Browser) -> None:
    """Nothing fits the filter, or nothing was done at all."""
    with visit(browser, home, "/admin/audit?target=nobody-at-all") as page:
        state = page.locator("#list > .state")
        expect(state).to_have_text("Nothing was done that fits.")
        page.route("**/api/v1/audit?*", lambda route: route.fulfill(json=EMPTY))
        page.get_by_role("link", name="Clear the filters").click()
        expect(state).to_have_text("No admin has done anything yet.")


def test_new_lines_appear_while_one_is_read(home: House, browser: Browser) -> None:
    """What was sent is text whatever it holds, stays open, and says where nobody knows."""
    queue = home.queue()
    body = {"description": HOSTILE * 10}
    good(home.client().patch(f"/queues/{queue}", json=body))
    stored(home, f"UPDATE actions SET status = NULL WHERE target = '{queue}' AND status = 201")
    with visit(browser, home, f"/admin/audit?target={queue}", before=FASTER) as page:
        rows = page.locator("#rows tr")
        expect(rows.last).to_contain_text("Not known")
        rows.first.get_by_text("Show").click()
        expect(rows.first).to_contain_text(HOSTILE)
        assert page.locator("#rows img").count() == 0
        good(home.client().post(f"/queues/{queue}/pause"))
        expect(rows).to_have_count(3)
        expect(rows.first).to_contain_text("Paused a queue")
        expect(rows.nth(1).locator("details")).to_have_attribute("open", "")


def test_the_log_outlives_an_outage(home: House, browser: Browser) -> None:
    """While nobody answers what is there stays, said to be old; it goes on by itself."""
    with visit(browser, home, "/admin/audit", errors="Failed to load", before=FASTER) as page:
        ready(page)
        pattern = "**/api/v1/audit**"

        def cut(route: Route) -> None:
            route.abort()

        page.route(pattern, cut)
        page.get_by_label("Who").fill("admin")
        page.keyboard.press("Enter")
        state = page.locator("#list > .state")
        expect(state).to_contain_text("cannot be reached")
        expect(page.locator("#rows tr").first).to_be_visible()
        page.unroute(pattern)
        ready(page)

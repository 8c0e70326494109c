"""The console's stock: what is there, live; receive, adjust, sell or not, and the ledger of it."""

import itertools
import re
import time
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.answers import good
from tests.house import House
from tests.visits import FASTER, visit

pytestmark = pytest.mark.browser

NUMBERS = itertools.count(1)
HOSTILE = "<img src=x onerror=alert(1)>"


def path(sku: str, verb: str = "") -> str:
    return f"/products/{sku}/stock{verb}"


def receive(home: House, sku: str, quantity: int) -> None:
    good(home.client().post(path(sku, "/receive"), json={"quantity": quantity}))


def disc(home: House, on_hand: int | None = None, **product: Any) -> str:
    """The SKU of a new product."""
    sku = f"disc-{next(NUMBERS)}"
    body = {"sku": sku, "name": f"Disc {sku}", "price_cents": 990, **product}
    good(home.client().post("/products", json=body), 201)
    if on_hand is not None:
        receive(home, sku, on_hand)
    return sku


def buy(home: House, sku: str, quantity: int = 1) -> dict[str, Any]:
    """A purchase that reserves; its queue is its own."""
    return home.post(home.queue(), items=[{"sku": sku, "quantity": quantity}])


def sell(home: House, sku: str, quantity: int = 1) -> str:
    """A purchase that is completed; its id."""
    posted = buy(home, sku, quantity)
    (message,) = home.claim(posted["queue"])
    assert home.settle("ack", message).status_code == 200
    return posted["id"]


def level(home: House, sku: str) -> dict[str, Any]:
    return good(home.client().get(path(sku)))


def product(home: House, sku: str) -> dict[str, Any]:
    return good(home.client().get(f"/products/{sku}"))


def ledger(home: House, sku: str) -> list[int]:
    return [one["change"] for one in good(home.client().get(path(sku, "/movements")))["items"]]


def live(page: Page) -> None:
    expect(page.locator("#line")).to_have_attribute("data-state", "live")


def cells(page: Page, sku: str) -> Locator:
    """The cells of a SKU's row in the list."""
    link = page.get_by_role("link", name=sku, exact=True)
    return page.locator("#items tr").filter(has=link).locator("th, td")


def outcome(page: Page, form: str) -> Locator:
    return page.locator(f"#{form} .outcome")


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until it has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"no Tab leads to {selector}")


# --- the list -------------------------------------------------------------------------


def test_all_that_is_sold_or_counted(home: House, browser: Browser) -> None:
    """Products with and without stock, and stock without a product, each in its state."""
    counted, free, orphan = disc(home, 7), disc(home), f"orphan-{next(NUMBERS)}"
    receive(home, orphan, 3)
    good(home.client().patch(path(orphan), json={"low_at": 5}))
    buy(home, counted, 2)
    with visit(browser, home, "/admin/stock", "viewer") as page:
        name = f"Disc {counted}"
        row = [f"{counted} {name}", "5", "7", "2", "In stock", "–", "R$9.90"]
        expect(cells(page, counted)).to_have_text(row)
        row = [f"{free} Disc {free}", "–", "–", "–", "Not counted", "–", "R$9.90"]
        expect(cells(page, free)).to_have_text(row)
        expect(cells(page, orphan)).to_have_text(
            [f"{orphan} no product", "3", "3", "0", "Low", "5", "–"]
        )


def test_filters_stand_in_the_address(home: House, browser: Browser) -> None:
    """What is searched for survives a reload and the way back; pages follow each other."""
    mark = f"many-{next(NUMBERS)}"
    for n in range(51):
        receive(home, f"{mark}-{n:02}", 1)
    sold_out = f"{mark}-00"
    buy(home, sold_out)
    with visit(browser, home, "/admin/stock") as page:
        page.get_by_label("SKU, name or artist").fill(mark.upper())
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("#items tr").first).to_contain_text(sold_out)
        expect(page.locator("#items tr")).to_have_count(50)
        page.get_by_role("link", name="Next").click()
        expect(page.locator("#items tr")).to_have_count(1)
        page.reload()
        expect(page.locator("#items tr")).to_have_text(re.compile(f"{mark}-50"))
        page.get_by_label("State").select_option("out")
        expect(page.locator("#items tr")).to_have_count(1)
        expect(cells(page, sold_out)).to_contain_text(["Sold out"])
        page.go_back()
        expect(page.locator("#items tr")).to_have_text(re.compile(f"{mark}-50"))
        expect(page.get_by_label("SKU, name or artist")).to_have_value(mark.upper())


def test_a_sale_elsewhere_moves_the_numbers(home: House, browser: Browser) -> None:
    """The list and the page of a product change by themselves, and the ledger names the order."""
    sku = disc(home, 2)
    with ExitStack() as stack:
        paths = (f"/admin/stock?q={sku}", f"/admin/stock/{sku}")
        opened = [visit(browser, home, path, before=FASTER) for path in paths]
        list_, page = map(stack.enter_context, opened)
        live(list_)
        live(page)
        order = sell(home, sku)
        expect(cells(list_, sku)).to_contain_text(["1", "1", "0", "In stock", "–"])
        expect(page.locator("#available")).to_have_text("1")
        expect(page.locator("#on_hand")).to_have_text("1")
        sold = page.locator("#movements tr").first
        expect(sold).to_contain_text("Sold")
        expect(sold.get_by_role("link")).to_have_attribute("href", f"/admin/messages/{order}")
        buy(home, sku)
        expect(cells(list_, sku)).to_contain_text(["0", "1", "1", "Sold out", "–"])
        expect(page.locator("#state")).to_have_text("Sold out")
        expect(page.locator("#reserved")).to_have_text("1")


def test_many_events_are_few_calls(home: House, browser: Browser) -> None:
    """A hundred changes of a product are shown at the end, and fetched every two seconds."""
    sku = disc(home, 1)
    with visit(browser, home, f"/admin/stock?q={sku}") as page:
        live(page)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        began = time.monotonic()
        for _ in range(100):
            receive(home, sku, 1)
        expect(cells(page, sku).nth(2)).to_have_text("101")
        assert len(asked) <= 3 + (time.monotonic() - began) / 2


def test_a_new_product(home: House, browser: Browser) -> None:
    """What stands in the form is in the catalogue; what is wrong is said at its field."""
    sku = f"disc-{next(NUMBERS)}"
    with visit(browser, home, "/admin/stock", errors="422|409") as page:
        form = page.locator("#new")
        for label, text in (("SKU", sku), ("Name", HOSTILE), ("Price", "19,9")):
            form.get_by_label(label, exact=True).fill(text)
        form.get_by_label("Attributes").fill("[1]")
        form.get_by_role("button", name="Add it").click()
        assert form.get_by_label("Attributes").evaluate("field => !field.validity.valid")
        form.get_by_label("Attributes").fill('{"artist": "AC/DC"}')
        expect(form.locator(".curl code")).to_contain_text('"price_cents":1990')
        form.get_by_role("button", name="Add it").click()
        page.wait_for_url(f"**/admin/stock/{sku}")
        expect(page.locator("h1")).to_have_text(f"{HOSTILE} {sku}")
        expect(page.locator("#product-name")).to_have_text(HOSTILE)
        expect(page.locator("#product-price")).to_have_text("R$19.90")
        expect(page.locator("#level .state")).to_contain_text("Not counted")
        page.goto(f"{home.url}/admin/stock?sku={sku}#new")
        expect(form.get_by_label("SKU", exact=True)).to_have_value(sku)
        form.get_by_label("Name", exact=True).fill("Again")
        form.get_by_label("Price", exact=True).fill("1")
        page.keyboard.press("Enter")
        expect(outcome(page, "new")).to_contain_text("There is a product with this SKU")
    assert product(home, sku)["attributes"] == {"artist": "AC/DC"}


# --- receive --------------------------------------------------------------------------


def test_receive_by_keyboard(home: House, browser: Browser) -> None:
    """No pointer is needed: Tab, type, Enter, and it stands in the ledger as text."""
    sku = disc(home)
    with visit(browser, home, f"/admin/stock/{sku}") as page:
        live(page)
        expect(page.locator("#adjust")).to_be_hidden()  # there is nothing to adjust
        tab_to(page, "#receive [name=quantity]")
        page.keyboard.type("12")
        page.keyboard.press("Tab")
        page.keyboard.type(HOSTILE)
        page.keyboard.press("Tab")
        page.keyboard.type("delivery 88")
        page.keyboard.press("Enter")
        expect(outcome(page, "receive")).to_have_text("Received. There are 12 on hand now.")
        expect(page.locator("#available")).to_have_text("12")
        line = page.locator("#movements tr").first
        expect(line.locator("td")).to_contain_text(
            ["1", "", "Received", "+12", "12", f"{HOSTILE} delivery 88", "admin"]
        )
        assert page.locator("img").count() == 0
        expect(page.locator("#adjust")).to_be_visible()


def test_a_lost_answer_is_received_once(home: House, browser: Browser) -> None:
    """It was received and nobody heard so: sent again, also after a reload, it is there once."""
    sku = disc(home, 1)
    with visit(browser, home, f"/admin/stock/{sku}", errors="ERR_") as page:
        lost: list[int] = []

        def lose(route: Route) -> None:
            lost.append(route.fetch().status)
            route.abort()

        page.route("**/receive", lose)
        page.locator("#receive [name=quantity]").fill("5")
        page.locator("#receive").get_by_role("button", name="Receive").click()
        expect(outcome(page, "receive")).to_contain_text("perhaps it was received, perhaps not")
        page.reload()
        expect(outcome(page, "receive")).to_contain_text("got lost")
        expect(page.locator("#receive [name=quantity]")).to_have_value("5")
        page.locator("#receive").get_by_role("button", name="Receive").click()
        expect(outcome(page, "receive")).to_contain_text("perhaps it was received, perhaps not")
        page.unroute("**/receive")
        page.locator("#receive").get_by_role("button", name="Receive").click()
        expect(outcome(page, "receive")).to_have_text("Received. There are 6 on hand now.")
        assert lost == [200, 200]
        assert ledger(home, sku) == [1, 5]
        page.locator("#receive [name=quantity]").fill("5")  # another delivery: another key
        page.keyboard.press("Enter")
        expect(outcome(page, "receive")).to_have_text("Received. There are 11 on hand now.")
    assert ledger(home, sku) == [1, 5, 5]


def test_another_delivery_after_a_lost_answer(home: House, browser: Browser) -> None:
    """Changed before it is sent again, it is not taken for the first: the page says so."""
    sku = disc(home, 1)
    with visit(browser, home, f"/admin/stock/{sku}", errors="ERR_|422") as page:

        def lose(route: Route) -> None:
            route.fetch()
            route.abort()

        page.route("**/receive", lose)
        page.locator("#receive [name=quantity]").fill("5")
        page.keyboard.press("Enter")
        expect(outcome(page, "receive")).to_contain_text("perhaps it was received, perhaps not")
        page.unroute("**/receive")
        page.locator("#receive [name=quantity]").fill("7")
        page.keyboard.press("Enter")
        expect(outcome(page, "receive")).to_contain_text("was received after all")
        expect(page.locator("#movements tr").first).to_contain_text("+5")
        page.keyboard.press("Enter")
        expect(outcome(page, "receive")).to_have_text("Received. There are 13 on hand now.")
    assert ledger(home, sku) == [1, 5, 7]


# --- adjust, low ----------------------------------------------------------------------


def test_an_adjust_that_lost_the_race(home: House, browser: Browser) -> None:
    """What was sold while somebody counted is not written over: he is told the present number."""
    sku = disc(home, 10)
    with visit(browser, home, f"/admin/stock/{sku}", errors="412") as page:
        live(page)
        expected = page.locator("#expected")
        expect(expected).to_have_text("Expected on hand: 10")
        page.locator("#adjust [name=on_hand]").fill("9")
        page.locator("#adjust [name=reason]").fill("counted")
        sell(home, sku, 3)
        expect(expected).to_have_text("Expected on hand: 10. It is 7 now.")
        page.keyboard.press("Enter")
        expect(outcome(page, "adjust")).to_contain_text("7 on hand now, not 10 as expected")
        expect(expected).to_have_text("Expected on hand: 7")
        assert ledger(home, sku) == [10, -3]
        page.locator("#adjust").get_by_role("button").first.click()
        expect(outcome(page, "adjust")).to_have_text("There are 9 on hand now.")
    assert ledger(home, sku) == [10, -3, 2]


def test_less_than_is_promised(home: House, browser: Browser) -> None:
    """An adjust below what open orders hold is refused in words, and so is the end of its sale."""
    sku = disc(home, 10)
    posted = buy(home, sku, 4)
    with visit(browser, home, f"/admin/stock/{sku}", errors="409") as page:
        page.locator("#adjust [name=on_hand]").fill("3")
        page.locator("#adjust [name=reason]").fill("broken")
        page.keyboard.press("Enter")
        expect(outcome(page, "adjust")).to_contain_text("4 are promised to open orders")
        page.get_by_role("button", name="Take it off sale").click()
        page.locator("dialog").get_by_role("button", name="Take it off sale").click()
        expect(outcome(page, "sale")).to_contain_text("4 of it are promised to open orders")
        good(home.client().post(f"/messages/{posted['id']}/cancel"))
        page.locator("#adjust").get_by_role("button").first.click()
        expect(outcome(page, "adjust")).to_have_text("There are 3 on hand now.")
        page.get_by_role("button", name="Take it off sale").click()
        page.locator("dialog").get_by_role("button", name="Take it off sale").click()
        expect(page.locator("#product-sale")).to_have_text("Off sale")
        page.get_by_role("button", name="Put it on sale").click()
        expect(page.locator("#product-sale")).to_have_text("On sale")
    assert product(home, sku)["active"]


def test_from_where_on_it_is_low(home: House, browser: Browser) -> None:
    """Set, it is low at once; emptied, never."""
    sku = disc(home, 4)
    with visit(browser, home, f"/admin/stock/{sku}") as page:
        live(page)
        page.locator("#low [name=low_at]").fill("4")
        page.keyboard.press("Enter")
        expect(outcome(page, "low")).to_have_text("From 4 on it is low.")
        expect(page.locator("#state")).to_have_text("Low")
        page.locator("#low [name=low_at]").fill("")
        page.keyboard.press("Enter")
        expect(outcome(page, "low")).to_have_text("It is never low.")
        expect(page.locator("#state")).to_have_text("In stock")
    assert level(home, sku)["low_at"] is None


# --- the product ----------------------------------------------------------------------


def test_a_change_that_met_another(home: House, browser: Browser) -> None:
    """Two people change a product: neither loses what he wrote, and who is second is told."""
    sku = disc(home, 1, attributes={"artist": "AC/DC"})
    with visit(browser, home, f"/admin/stock/{sku}", errors="412") as page:
        page.get_by_text("Change the product").click()
        form = page.locator("#edit")
        fields = ("name", "price_cents", "max_per_order")
        name, price, most = (form.locator(f"[name={one}]") for one in fields)
        expect(price).to_have_value("9.90")
        name.fill("Mine")
        other = {"name": "Theirs", "price_cents": 1250, "max_per_order": 3}
        good(home.client().patch(f"/products/{sku}", json=other))
        form.get_by_role("button", name="Save").click()
        expect(outcome(page, "edit")).to_contain_text("Somebody changed this product meanwhile")
        expect(form.locator(".meanwhile")).to_have_text("Now: Theirs")
        expect(price).to_have_value("12.50")
        expect(most).to_have_value("3")
        expect(name).to_have_value("Mine")
        form.get_by_role("button", name="Save").click()
        expect(outcome(page, "edit")).to_have_text("Saved.")
        expect(page.locator("#product-name")).to_have_text("Mine")
    found = product(home, sku)
    assert (found["name"], found["price_cents"], found["max_per_order"]) == ("Mine", 1250, 3)
    assert found["attributes"] == {"artist": "AC/DC"}


def test_a_time_goes_and_comes_back(home: House, browser: Browser) -> None:
    """What is sold from an instant on is shown in the reader's own time, and saved as it was."""
    sku = disc(home, available_from="2027-01-01T03:00:00.000Z", max_per_order=2)
    with visit(browser, home, f"/admin/stock/{sku}", locale="pt-BR") as page:
        page.locator("details > summary").first.click()
        price = page.locator("#edit [name=price_cents]")
        expect(price).to_have_value("9,90")
        price.fill("1234567,8")
        page.locator("#edit [name=max_per_order]").fill("")
        page.locator("#edit button").first.click()
        expect(outcome(page, "edit")).to_have_text("Salvo.")
        expect(page.locator("#product-price")).to_contain_text("1.234.567,80")
    found = product(home, sku)
    assert (found["price_cents"], found["max_per_order"]) == (123_456_780, None)
    assert found["available_from"] == "2027-01-01T03:00:00.000Z"


# --- who ------------------------------------------------------------------------------


def test_a_viewer_sees_no_actions(home: House, browser: Browser) -> None:
    """He reads all of it; what he may not do is not offered."""
    sku = disc(home, 3)
    with visit(browser, home, f"/admin/stock/{sku}", "viewer") as page:
        expect(page.locator("#available")).to_have_text("3")
        expect(page.locator("#movements tr")).to_have_count(1)
        assert page.locator("main form").count() == 0
        page.goto(f"{home.url}/admin/stock?q={sku}")
        expect(page.get_by_role("link", name=sku, exact=True)).to_be_visible()
        assert page.locator("main form").count() == 1  # the filters


def test_what_is_not_there(home: House) -> None:
    """Neither a product nor counted: the page says so, for a well-formed SKU and another."""
    for sku in ("nothing-of-that-name", "-x", "a" * 65):
        answer = home.client().get(f"{home.url}/admin/stock/{sku}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert home.client("worker").get(f"{home.url}/admin/stock").status_code == 403


@pytest.mark.parametrize("where", ["", "/narrow"])
def test_the_pages_fit_a_phone(home: House, browser: Browser, where: str) -> None:
    """320 px wide nothing scrolls sideways but the tables."""
    if not good(home.client().get("/stock", params={"q": "narrow"}))["items"]:
        body = {"sku": "narrow", "name": "W" * 200, "price_cents": 10**12}
        good(home.client().post("/products", json=body), 201)
        receive(home, "narrow", 10**9)
    with visit(browser, home, f"/admin/stock{where}") as page:
        page.set_viewport_size({"width": 320, "height": 700})
        live(page)
        for details in page.locator("details > summary:visible").all():
            details.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 320

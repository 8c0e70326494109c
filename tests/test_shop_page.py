"""The shop: the last disc, the launch, the cart, and buying once, as people in browsers see it."""

import html
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

import pages
import texts
from tests.answers import good
from tests.house import API, PASSWORD, House
from tests.test_customers_api import customer, fresh
from tests.visits import Settle, cookie_of

NUMBERS = itertools.count(999_999, -1)
WORDS = texts.TEXTS["en"]
FOLLOW = WORDS["shop.follow"]
ASIDE = 3_600_000 * 7  # ms by which a device's clock is wrong
TRIES = 5  # of what takes less than a second, on a machine that may stand still for longer


@pytest.fixture(scope="module")
def shop(settle: Settle) -> Iterator[House]:
    """A shop whose window everybody sees."""
    with settle(SHOP="true", PUBLIC_STOCK="true") as found:
        yield found


@pytest.fixture(scope="module")
def closed(settle: Settle) -> Iterator[House]:
    """A shop for customers alone; its process may be killed."""
    with settle(SHOP="true") as found:
        yield found


Enter = Callable[..., Page]


class Buyer:
    """A customer, whose browsers are signed in."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.id = customer(house)["id"]
        self.name = fresh("buyer")
        body = {"username": self.name, "password": PASSWORD, "roles": ["customer"]}
        good(house.client().post("/accounts", json={**body, "customer": self.id}), 201)

    def sign_in(self, context: BrowserContext) -> None:
        answer = context.request.post(
            f"{self.house.url}{API}/auth/session",
            data={"username": self.name, "password": PASSWORD},
            headers={"Origin": self.house.url},
        )
        assert answer.status == 204

    def token(self) -> str:
        form = {"username": self.name, "password": PASSWORD}
        return good(self.house.client(None).post("/auth/token", data=form))["access_token"]

    def orders(self) -> list[dict[str, Any]]:
        query = {"customer": self.id}
        return good(self.house.client().get("/orders", params=query))["items"]


@pytest.fixture
def enter(browser: Browser) -> Iterator[Enter]:
    """A page of a browser of its own: `enter(buyer)`; all close with the test."""
    with ExitStack() as stack:

        def go(buyer: Buyer | House, path: str = "/shop", **options: Any) -> Page:
            house = buyer if isinstance(buyer, House) else buyer.house
            options.setdefault("locale", "en-GB")
            context = browser.new_context(**options)
            stack.callback(context.close)
            if isinstance(buyer, Buyer):
                buyer.sign_in(context)
            page = context.new_page()
            page.on("pageerror", lambda error: pytest.fail(f"in the page: {error}"))
            page.goto(house.url + path)
            return page

        yield go


def disc(house: House, copies: int | None = None, **fields: Any) -> str:
    """The SKU of a fresh product, which comes before all older ones."""
    sku = f"disc-{next(NUMBERS)}"
    body = {"sku": sku, "name": f"Record {sku}", "price_cents": 1990, **fields}
    good(house.client().post("/products", json=body), 201)
    if copies is not None:
        path = f"/products/{sku}/stock/receive"
        good(house.client().post(path, json={"quantity": copies}))
    return sku


def live(page: Page) -> Page:
    """The same page, once changes reach it."""
    expect(page.locator("#line")).to_have_attribute("data-state", "live")
    return page


def above(part: Locator) -> float:
    """Where it begins, px from the top."""
    return part.evaluate("(node) => node.getBoundingClientRect().top")


def below(part: Locator) -> float:
    """Where it ends, px from the top."""
    return part.evaluate("(node) => node.getBoundingClientRect().bottom")


class Card:
    """A disc in a window."""

    def __init__(self, page: Page, sku: str) -> None:
        self.all = page.locator(f".disc[data-sku='{sku}']")
        self.buy = self.all.locator(".buy")
        self.add = self.all.locator(".add")
        self.left = self.all.locator(".left")
        self.outcome = self.all.locator(".outcome")


# When, by the clock of this machine, a disc came into a state; and when it was clicked.
NOTE = """([sku, state]) => {
  const disc = document.querySelector(`.disc[data-sku='${sku}']`);
  const stamp = () => performance.timeOrigin + performance.now();
  disc.querySelector('.buy')?.addEventListener('click', () => (window.clicked = stamp()), true);
  const look = () => { if (disc.dataset.state === state) window.reached ??= stamp(); };
  new MutationObserver(look).observe(disc, { attributes: true });
}"""


OFFER = """(disc) => [
  disc.dataset.state,
  disc.querySelector(".left").textContent,
  disc.querySelector(".buy").getAttribute("aria-disabled"),
]"""


# --- the last disc --------------------------------------------------------------------


def test_the_last_disc(shop: House, enter: Enter) -> None:
    """One buys it; in the other's window it is sold out within a second. He sees his order live."""
    sku = disc(shop, copies=1)
    ana, bia = Buyer(shop), Buyer(shop)
    one, two = (live(enter(who)) for who in (ana, bia))
    took = [sold_elsewhere(one, two, sku)]
    while took[-1] >= 1_000 and len(took) < TRIES:
        sku = disc(shop, copies=1)
        for page in (one, two):
            page.reload()
            live(page)
        took.append(sold_elsewhere(one, two, sku))
    print(f"sold out elsewhere after {took} ms")
    assert min(took) < 1_000, took
    first, second = Card(one, sku), Card(two, sku)
    expect(second.buy).to_have_attribute("aria-disabled", "true")
    second.buy.click(force=True)
    expect(second.outcome).to_have_text("Sold out")
    order = ana.orders()[0]
    assert len(ana.orders()) == len(took)
    row = one.locator(f"#orders [data-id='{order['id']}']")
    expect(row.locator(".badge")).to_have_text("In line")
    claimed = shop.claim("orders", 100, lease_seconds=600)
    assert order["id"] in [message["id"] for message in claimed]
    expect(row.locator(".badge")).to_have_text("In progress")
    first.outcome.locator("a").click()
    expect(one.locator("#status")).to_have_text("In progress")
    assert bia.orders() == []


def sold_elsewhere(one: Page, two: Page, sku: str) -> float:
    """The last copy is bought in one window: ms until the other shows that it is sold out."""
    first, second = Card(one, sku), Card(two, sku)
    expect(second.left).to_have_text("Only 1 left")
    for page in (one, two):
        page.evaluate(NOTE, [sku, "out"])
    first.buy.click()
    expect(first.outcome).to_have_text(f"Bought for R$19.90. {FOLLOW}")
    expect(second.left).to_have_text("Sold out")
    return two.evaluate("window.reached") - one.evaluate("window.clicked")


def test_who_is_slower_is_told_so(shop: House, enter: Enter) -> None:
    """He clicks before he could see it: he is told that it is gone, and has bought nothing."""
    sku = disc(shop, copies=1)
    buyer = Buyer(shop)
    page = live(enter(buyer))
    page.locator("#pause").click()  # his window stands still
    body = {"customer": "c-faster", "items": [{"sku": sku, "quantity": 1}]}
    good(shop.client("producer").post("/orders", json=body), 201)
    card = Card(page, sku)
    expect(card.left).to_have_text("Only 1 left")
    card.buy.click()
    expect(card.outcome).to_have_text(WORDS["shop.sold_out_first"])
    expect(card.left).to_have_text("Sold out")
    assert buyer.orders() == []


# --- a launch -------------------------------------------------------------------------

WRONG_CLOCK = f"""(() => {{
  const Real = Date;
  window.Date = class extends Real {{
    constructor(...given) {{ given.length ? super(...given) : super(Real.now() - {ASIDE}); }}
    static now() {{ return Real.now() - {ASIDE}; }}
  }};
}})()"""


def test_a_launch_is_by_the_clock_of_the_service(shop: House, enter: Enter) -> None:
    """A countdown that becomes the buy button by itself, on a device whose clock is wrong."""
    buyer = Buyer(shop)
    page = enter(buyer)
    page.context.add_init_script(WRONG_CLOCK)
    found = launch(shop, page, 3)
    for seconds in (6, 12, 24, 48):  # for a machine where a page takes longer, or stands still
        if found is None or found.late >= 1_000:
            found = launch(shop, page, seconds)
    assert found is not None
    assert 0 <= found.late < 1_000, f"{found.late:.0f} ms after it"
    found.card.buy.click()
    expect(found.card.outcome).to_contain_text("Bought")
    assert len(buyer.orders()) == 1


class Launch(NamedTuple):
    card: Card
    late: float  # ms by which it opened after its time


def launch(shop: House, page: Page, seconds: int) -> Launch | None:
    """A disc that opens in so many seconds, watched on a page; None: it was open before that."""
    opens = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
    sku = disc(shop, copies=3, available_from=opens.isoformat())
    page.reload()
    card = Card(page, sku)
    page.evaluate(NOTE, [sku, "low"])
    state, left, shut = card.all.evaluate(OFFER)
    if state != "soon":
        return None
    assert shut == "true"
    assert re.fullmatch(r"On sale in 00:0\d:\d\d", left)
    expect(card.buy).to_have_text(WORDS["shop.buy"], timeout=90_000)
    return Launch(card, page.evaluate("window.reached") - opens.timestamp() * 1000)


# --- once -----------------------------------------------------------------------------


def test_a_double_click_buys_once(shop: House, enter: Enter) -> None:
    """The second click of two, and a key that is held down, are the same purchase."""
    sku = disc(shop, copies=9)
    buyer = Buyer(shop)
    page = live(enter(buyer))
    card = Card(page, sku)
    card.buy.dblclick()
    expect(card.outcome).to_contain_text("Bought")
    expect(card.buy).to_have_text(WORDS["shop.buy"])
    card.buy.focus()
    for _ in range(3):
        page.keyboard.down("Enter")  # again without an up: the browser says that it repeats
    page.keyboard.up("Enter")
    expect(page.locator("#orders li")).to_have_count(2)
    expect(card.left).to_have_text("7 in stock")
    assert len(buyer.orders()) == 2


def lose(route: Route) -> None:
    """It is done, and its answer never comes."""
    route.fetch()
    route.abort()


def test_a_lost_answer_buys_once(shop: House, enter: Enter) -> None:
    """It is asked for again with the same key; also by the page after a reload."""
    sku = disc(shop, copies=9)
    buyer = Buyer(shop)
    page = live(enter(buyer))
    page.route(f"**{API}/orders", lose, times=1)
    Card(page, sku).buy.click()
    expect(Card(page, sku).outcome).to_contain_text("Bought")
    assert len(buyer.orders()) == 1
    page.route(f"**{API}/orders", lose)
    expect(Card(page, sku).buy).to_have_text(WORDS["shop.buy"])
    Card(page, sku).buy.click()
    expect(Card(page, sku).outcome).to_have_text(WORDS["shop.asking"])
    page.route(f"**{API}/orders", lambda route: route.abort())  # comes before the other
    page.reload()
    expect(Card(page, sku).outcome).to_have_text(WORDS["shop.asking"])
    page.unroute_all()
    expect(Card(page, sku).outcome).to_contain_text("Bought")
    assert len(buyer.orders()) == 2
    page.reload()
    expect(live(page).locator("#orders li")).to_have_count(2)
    assert len(buyer.orders()) == 2


def test_a_killed_service_sells_once(closed: House, enter: Enter) -> None:
    """kill -9 under a click: the page asks until the service is back, and has bought once."""
    sku = disc(closed, copies=9)
    buyer = Buyer(closed)
    page = live(enter(buyer))
    server = closed.servers[0]
    server.pause()  # the click reaches nobody who answers
    card = Card(page, sku)
    card.buy.click()
    server.kill()
    try:
        expect(card.outcome).to_have_text(WORDS["shop.asking"])
    finally:
        server.launch()
    expect(card.outcome).to_contain_text("Bought", timeout=60_000)
    expect(card.left).to_have_text("8 in stock")
    assert len(buyer.orders()) == 1


@pytest.mark.parametrize("width", [768, 1024, 1280])
def test_the_filters_stand_on_one_line(shop: House, enter: Enter, width: int) -> None:
    """No word of them breaks, and their button is no row of its own."""
    page = enter(shop, locale="pt-BR", viewport={"width": width, "height": 700})
    names = ("[name=q]", "[name=genre]", ".check", ".buttons")
    parts = [page.locator(f".sieve {name}") for name in names]
    assert max(map(below, parts)) - min(map(above, parts)) < 48


def test_the_shop_and_the_console_lead_to_each_other(shop: House) -> None:
    """Whoever may look at both finds the one from the other."""
    cookie = {"Cookie": cookie_of(shop, "viewer")}
    for here, there in (("/shop", "/admin"), ("/admin", "/shop")):
        page = httpx.get(shop.url + here, headers=cookie, timeout=30).text
        assert f'<a href="{there}">' in page, here


# --- the cart -------------------------------------------------------------------------


def test_the_cart_survives_a_sign_in_elsewhere(shop: House, enter: Enter) -> None:
    """What was put into it in one browser lies in it in another, and can be bought there."""
    one, two = disc(shop, copies=9), disc(shop)
    buyer = Buyer(shop)
    page = live(enter(buyer))
    for sku in (one, two, one):
        Card(page, sku).add.click()
        expect(Card(page, sku).outcome).to_contain_text("In the cart")
        expect(page.locator("#count")).not_to_be_empty()
    expect(page.locator("#count")).to_have_text("3")
    elsewhere = live(enter(buyer, "/cart"))
    lines = elsewhere.locator("#lines .entry")
    expect(lines).to_have_count(2)
    assert lines.evaluate_all("all => all.map((one) => one.dataset.sku)") == [one, two]
    expect(lines.first.locator(".many")).to_have_value("2")
    lines.first.locator(".greater").click()
    lines.first.locator(".greater").click()
    expect(elsewhere.locator("#total")).to_have_text("R$99.50")
    expect(elsewhere.locator("#count")).to_have_text("5")
    elsewhere.locator("#buy").click()
    expect(elsewhere.locator("#receipt")).to_contain_text("Bought for R$99.50.")
    expect(elsewhere.locator("#nothing")).to_be_visible()
    assert below(elsewhere.locator("#receipt")) <= above(elsewhere.locator("#nothing"))
    (order,) = buyer.orders()
    assert [(line["sku"], line["quantity"]) for line in order["items"]] == [(one, 4), (two, 1)]
    page.goto(shop.url + "/cart")
    expect(page.locator("#nothing")).to_be_visible()


def test_a_line_that_is_sold_out(shop: House, enter: Enter) -> None:
    """It says so the moment it is; nothing is bought until it is taken out."""
    fine, rare = disc(shop, copies=9), disc(shop, copies=1)
    buyer = Buyer(shop)
    page = live(enter(buyer))
    for sku in (fine, rare):
        Card(page, sku).add.click()
        expect(Card(page, sku).outcome).to_contain_text("In the cart")
    page.goto(shop.url + "/cart")
    line = live(page).locator(f"#lines .entry[data-sku='{rare}']")
    expect(line.locator(".problem")).to_be_empty()
    body = {"customer": "c-faster", "items": [{"sku": rare, "quantity": 1}]}
    good(shop.client("producer").post("/orders", json=body), 201)
    expect(line.locator(".problem")).to_have_text("Sold out")
    page.locator("#buy").click()
    expect(page.locator("#outcome")).to_have_text(WORDS["cart.mend"])
    assert buyer.orders() == []
    line.locator(".out").click()
    expect(line).to_have_count(0)
    expect(page.locator(f"#lines .entry[data-sku='{fine}'] .out")).to_be_focused()
    page.locator("#buy").click()
    expect(page.locator("#receipt")).to_contain_text("Bought")
    assert [len(order["items"]) for order in buyer.orders()] == [1]


def test_a_price_that_changed_is_shown_first(shop: House, enter: Enter) -> None:
    """He buys at the price he saw: he is told the new one, and buys at it if he clicks again."""
    sku = disc(shop, copies=9)
    card = Card(live(enter(Buyer(shop))), sku)
    good(shop.client().patch(f"/products/{sku}", json={"price_cents": 2500}))
    card.buy.click()
    expect(card.outcome).to_have_text(WORDS["shop.repriced"].replace("{price}", "R$25.00"))
    expect(card.left).to_have_text("9 in stock")
    expect(card.buy).not_to_have_attribute("aria-disabled", "true")
    card.buy.click()
    expect(card.left).to_have_text("8 in stock")


def test_a_cart_that_was_changed_elsewhere_is_shown_first(shop: House, enter: Enter) -> None:
    """He buys what he sees: another tab has changed it, so he is told, and looks again."""
    sku = disc(shop, copies=9)
    buyer = Buyer(shop)
    page = live(enter(buyer))
    Card(page, sku).add.click()
    expect(page.locator("#count")).to_have_text("1")
    cart = live(enter(buyer, "/cart"))
    Card(page, sku).add.click()
    expect(page.locator("#count")).to_have_text("2")
    cart.locator("#buy").click()
    expect(cart.locator("#outcome")).to_have_text(WORDS["cart.changed"])
    expect(cart.locator(".many")).to_have_value("2")
    assert buyer.orders() == []
    cart.locator("#buy").click()
    expect(cart.locator("#receipt")).to_contain_text("Bought for R$39.80.")


def test_too_many_is_said_in_words(shop: House, enter: Enter) -> None:
    """More than an order may have is refused where it was asked for, and nothing changes."""
    sku = disc(shop, copies=9, max_per_order=1)
    buyer = Buyer(shop)
    page = live(enter(buyer, locale="pt-BR"))
    Card(page, sku).add.click()
    expect(page.locator("#count")).to_have_text("1")
    Card(page, sku).add.click()
    said = texts.say("pt-BR", "cart.too_many", n=1)
    expect(Card(page, sku).outcome).to_have_text(said)
    page.goto(shop.url + "/cart")
    live(page).locator(".many").fill("7")
    page.keyboard.press("Enter")
    expect(page.locator("#lines .outcome")).to_have_text(said)
    expect(page.locator(".many")).to_have_value("1")
    assert buyer.orders() == []


# --- by keyboard ----------------------------------------------------------------------


def tab_to(page: Page, selector: str, most: int = 80) -> None:
    """Press Tab until the focus is there, where it can be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("(wanted) => document.activeElement.matches(wanted)", selector):
            break
    focused = page.locator(selector)
    expect(focused).to_be_focused()
    assert focused.evaluate("(node) => getComputedStyle(node).outlineStyle") != "none"


def test_by_keyboard_alone(shop: House, enter: Enter) -> None:
    """Find it, put it into the cart, buy it there, and never lose the place."""
    sku = disc(shop, copies=9, attributes={"artist": fresh("artist")})
    buyer = Buyer(shop)
    page = live(enter(buyer))
    tab_to(page, "input[name=q]")
    page.keyboard.type(f"Record {sku}")
    page.keyboard.press("Enter")
    page.wait_for_url("**/shop?q=*")
    expect(live(page).locator(".disc")).to_have_count(1)
    tab_to(page, f"[data-sku='{sku}'] .add")
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_have_text("1")
    expect(Card(page, sku).add).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/cart")
    tab_to(live(page), ".greater")
    page.keyboard.press("Space")
    expect(page.locator("#total")).to_have_text("R$39.80")
    expect(page.locator(".greater")).to_be_focused()
    tab_to(page, "#buy")
    page.keyboard.press("Enter")
    expect(page.locator("#receipt")).to_contain_text("Bought for R$39.80.")
    expect(page.locator("#receipt")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("In line")


# --- what is shown to whom ------------------------------------------------------------


def look(house: House, path: str, who: str | Buyer | None = None, **headers: str) -> httpx.Response:
    """A page as it comes, for a role, a buyer, or nobody."""
    token = who.token() if isinstance(who, Buyer) else house.token(who) if who else None
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.get(house.url + path, headers={**bearer, **headers}, timeout=30)


def test_without_the_setting_there_is_no_shop(house_on_sqlite: House) -> None:
    """404 for both pages, whoever asks."""
    for path in ("/shop", "/cart"):
        for role in (None, "customer", "admin"):
            assert look(house_on_sqlite, path, role).status_code == 404


def test_who_may_see_the_window(shop: House, closed: House) -> None:
    """With PUBLIC_STOCK everybody, else who is signed in; the cart is for customers alone."""
    disc(shop, copies=1)
    public = look(shop, "/shop")
    assert public.status_code == 200
    assert "/login?next=%2Fshop" in public.text
    assert 'class="buy"' not in public.text
    for path in ("/shop?q=a", "/cart"):
        away = look(closed, path)
        assert away.status_code == 303
        where = urlsplit(away.headers["location"])
        assert (where.path, parse_qs(where.query)["next"]) == ("/login", [path])
    for role in ("admin", "viewer", "worker", "producer"):
        window = look(closed, "/shop", role)
        assert window.status_code == 200
        assert 'class="buy"' not in window.text
        assert WORDS["shop.staff"] in html.unescape(window.text)
        assert look(closed, "/cart", role).status_code == 403
    assert look(closed, "/cart", "customer").status_code == 200


def test_the_window_is_whole_without_scripts(shop: House) -> None:
    """Names, prices, stock; filters and pages in the address; what is posted is text."""
    genre = fresh("Genre")
    marked = "<script>alert(1)</script> & \u202eevil"
    attributes = {"genre": genre, "artist": marked, "release_year": 1997}
    skus = [disc(shop, 6, attributes=attributes) for _ in range(pages.DISCS_SHOWN + 1)]
    disc(shop, 2, name=marked, attributes={**attributes, "release_year": 1998})

    def shown(path: str, language: str = "en") -> str:
        answer = look(shop, path, **{"Accept-Language": language})
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        assert "style=" not in answer.text
        return answer.text

    first = shown(f"/shop?genre={genre}&q=&year_min=&year_max=")
    found = re.findall(r'class="disc" data-sku="([^"]+)"', first)
    assert len(found) == pages.DISCS_SHOWN
    assert "R$19.90" in first
    assert "6 in stock" in first
    (more,) = re.findall(r'id="more"[^>]* href="([^"]+)"', first)
    rest = shown(more.replace("&amp;", "&"))
    found += re.findall(r'class="disc" data-sku="([^"]+)"', rest)
    assert {*skus} < {*found}
    assert len(found) == len({*found}) == len(skus) + 1
    assert 'id="more"' not in rest
    last = shown(f"/shop?genre={genre}&year_min=1998", "pt-BR")
    assert "R$\u00a019,90" in last
    assert "Só restam 2" in last
    assert "&lt;script&gt;" in last
    assert WORDS["shop.empty"] in shown(f"/shop?genre={genre}&year_max=1996")
    assert 'name="year_min"' in shown(f"/shop?genre={genre}")
    assert 'name="year_min"' not in shown(f"/shop?q={genre}-nothing")  # none has a year
    assert look(shop, f"/shop?genre={genre}&unknown=1").status_code == 422


def test_more_of_it(shop: House, enter: Enter) -> None:
    """The next page comes under the first, live like it, and the focus is where it was."""
    genre = fresh("genre")
    skus = sorted(disc(shop, 6, attributes={"genre": genre}) for _ in range(pages.DISCS_SHOWN + 2))
    buyer = Buyer(shop)
    page = live(enter(buyer, f"/shop?genre={genre}"))
    expect(page.locator(".disc")).to_have_count(pages.DISCS_SHOWN)
    page.locator("#more").click()
    expect(page.locator(".disc")).to_have_count(len(skus))
    expect(page.locator("#more")).to_have_count(0)
    card = Card(page, skus[-1])
    card.buy.click()
    expect(card.left).to_have_text("Only 5 left")


def test_scripts_write_as_the_server_does(shop: House, enter: Enter) -> None:
    """A change that is taken back leaves the page with the same words, numbers and money."""
    sku, language = disc(shop, copies=1234, price_cents=123_456), "pt-BR"
    buyer = Buyer(shop)
    page = live(enter(buyer, f"/shop?q={sku}", locale=language))
    card = Card(page, sku)
    drawn = card.all.inner_text()
    assert texts.number(language, 1234) in drawn
    assert texts.money(language, 123_456, "BRL") in drawn
    for on_hand, expected in ((2, 1234), (1234, 2)):
        body = {"on_hand": on_hand, "expected_on_hand": expected, "reason": "counted"}
        good(shop.client().post(f"/products/{sku}/stock/adjust", json=body))
        state = "low" if on_hand == 2 else "plenty"
        expect(card.left).to_have_text(texts.say(language, f"left.{state}", n=on_hand))
    assert card.all.inner_text() == drawn
    card.add.click()
    expect(page.locator("#count")).to_have_text("1")
    page.goto(shop.url + "/cart")
    before = html.unescape(look(shop, "/cart", buyer, **{"Accept-Language": language}).text)
    live(page)
    for part in (".each", ".amount", ".many", "#total"):
        text = page.locator(part).evaluate("(node) => node.value ?? node.textContent")
        assert f">{text}<" in before or f'value="{text}"' in before

"""Every page, in both languages and both themes: what holds for each of them.

A page is opened once in each language and looked at from all sides; the tests ask about what
was found.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect

from models import Status
from tests.answers import NOWHERE, good
from tests.chromium import chromium
from tests.conftest import entered
from tests.house import House
from tests.live import forged_ticket
from tests.routes import routes
from tests.screenshots import FOLDER, shots
from tests.services import ROOT
from tests.visits import Settle, cookie_of
from texts import LANGUAGES, TEXTS

pytestmark = pytest.mark.browser

FIRST_LOAD = 150 << 10  # bytes of all that a page loads
WIDE, NARROW = 1280, 320  # CSS px
TARGET = 24  # CSS px
ROUNDS = 2  # of the keyboard: during one of them something may come that it has to pass too
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa"]
RULES = {
    "runOnly": TAGS,
    "resultTypes": ["violations"],
    "rules": {"target-size": {"enabled": True}},
}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
RAN = "window.ran = true"
EVIL = f'<script>{RAN}</script><img src=x onerror="{RAN}">'
ODD = "\N{RIGHT-TO-LEFT OVERRIDE}\N{HEBREW LETTER ALEF}\N{FIRE}<b>bold</b>&amp;{{7*7}}"
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
ELSEWHERE = {"GET /", "GET /docs"}  # leads on; Swagger UI, which is not ours

# --- what the pages show ----------------------------------------------------------------


def furnished(house: House) -> dict[str, str]:
    """A shop where what was posted is full of markup; the names that addresses need."""
    queue = house.queue(max_attempts=1)
    sku = "disc-evil"
    product = {"sku": sku, "name": EVIL, "price_cents": 990, "attributes": {"artist": ODD}}
    good(house.client().post("/products", json=product), 201)
    good(house.client().post(f"/products/{sku}/stock/receive", json={"quantity": 9}))
    somebody = {"nickname": "somebody", "name": EVIL}
    good(house.client("producer").post("/customers", json=somebody), 201)
    purchase: dict[str, Any] = {
        "customer": "c-own",
        "reference": ODD,
        "group": EVIL[:64],
        "items": [{"sku": sku, "quantity": 1, "amount_cents": 123_456}],
        "metadata": {EVIL: ODD, "long": "W" * 200},
    }
    failed = house.post(queue, **purchase)
    (message,) = house.claim(queue, worker=ODD[:20])
    assert house.settle("nack", message, error=EVIL).status_code == 200
    waiting = house.post(queue, **purchase)
    completed = house.post(queue, **purchase | {"reference": "W" * 64})
    return {
        "queue": queue,
        "sku": sku,
        "failed": failed["id"],
        "waiting": waiting["id"],
        "other": completed["id"],
        "ticket": waiting["tracking"]["ticket"],
        "expired": forged_ticket([f"order:{waiting['id']}"], -5),
        "nowhere": NOWHERE,
        "error": urlencode({"queue": queue, "error": EVIL}),
    }


class Place(NamedTuple):
    """A page: its route, an address of it, who looks, what it answers, what must stand there."""

    route: str
    path: str
    role: str | None = "admin"
    status: int = 200
    shows: str | None = None


PLACES = [
    Place("GET /login", "/login", None),
    Place("GET /login", "/login?next=/admin", "viewer"),
    Place("GET /admin", "/admin"),
    Place("GET /admin", "/admin", "viewer"),
    Place("GET /admin/queues/{name}", "/admin/queues/{queue}", shows=ODD),
    Place("GET /admin/messages", "/admin/messages", shows=ODD),
    Place("GET /admin/messages/{id}", "/admin/messages/{failed}", shows=EVIL),
    Place("GET /admin/messages/{id}", "/admin/messages/{waiting}", "viewer", shows=ODD),
    Place("GET /admin/find", "/admin/find?q=somebody", shows=EVIL),
    Place("GET /admin/failures", "/admin/failures"),
    Place("GET /admin/failures", "/admin/failures?queue={queue}", shows=EVIL),
    Place("GET /admin/failures", "/admin/failures?{error}", "viewer", shows=EVIL),
    Place("GET /admin/stock", "/admin/stock", shows=EVIL),
    Place("GET /admin/stock/{sku}", "/admin/stock/{sku}", shows=EVIL),
    Place("GET /admin/streams", "/admin/streams"),
    Place("GET /admin/audit", "/admin/audit"),
    Place("GET /admin/accounts", "/admin/accounts"),
    Place("GET /admin/post", "/admin/post"),
    Place("GET /shop", "/shop", None),
    Place("GET /shop", "/shop", "customer", shows=EVIL),
    Place("GET /cart", "/cart", "customer"),
    Place("GET /track/{id}", "/track/{waiting}?ticket={ticket}", None, shows=ODD),
    Place("GET /track/{id}", "/track/{failed}", "viewer", shows=ODD),
    Place("GET /track/{id}", "/track/{waiting}?ticket={expired}", None, 401),
    Place("GET /track/{id}", "/track/{waiting}", None, 401),
    Place("GET /track/{id}", "/track/{nowhere}", "viewer", 404),
    Place("GET /admin", "/admin", "customer", 403),
    Place("GET /admin/messages/{id}", "/admin/messages/{nowhere}", "viewer", 404),
    Place("none", "/admin/no/such/page", "viewer", 404),
    Place("none", "/nowhere", None, 404),
]


def named(place: Place) -> str:
    return f"{place.path}-{place.role or 'nobody'}"


# --- looking at a page ------------------------------------------------------------------

READY = """() => [...document.querySelectorAll(".region[data-state=loading], [aria-busy=true]")]
  .every((node) => !node.checkVisibility())"""

CONTROLS = """() => {
  const fields = "input:not([type=hidden]), select, textarea";
  const all = `a[href], button, summary, [tabindex="0"], ${fields}`;
  const seen = (node) => node.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const usable = (node) => seen(node) && !node.disabled;
  const chosen = (node) => node.type !== "radio" || node.checked
    || !document.querySelector(`input[name="${CSS.escape(node.name)}"]:checked`);
  window.controls = [...document.querySelectorAll(all)].filter(usable).filter(chosen);
  window.met = new Map();
  const outline = (node) => {
    const { outlineStyle, outlineWidth } = getComputedStyle(node);
    return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  };
  document.addEventListener("focusin", ({ target }) =>
    window.met.set(target, target.matches(":focus-visible") && outline(target)));
  document.activeElement.blur();
  const parts = window.controls.filter((node) => node.type === "datetime-local").length * 7;
  return window.controls.length + parts;
}"""

MET = """() => {
  const name = (node) => node.outerHTML.slice(0, 160);
  const left = window.controls.filter((node) => node.checkVisibility() && !node.disabled);
  return {
    unreached: left.filter((node) => !window.met.has(node)).map(name),
    unseen: left.filter((node) => window.met.get(node) === false).map(name),
  };
}"""

# A link in a line of text may be as high as the line; axe measures the space around those.
SMALL = """(least) => window.controls.filter((node) => node.checkVisibility()).filter((node) => {
  const { width, height } = (node.closest("label") ?? node).getBoundingClientRect();
  return getComputedStyle(node).display !== "inline" && (width < least || height < least);
}).map((node) => node.outerHTML.slice(0, 160))"""

FOUND = """() => {
  const all = [...document.querySelectorAll("*")];
  const words = (name) => all.map((node) => node.getAttribute(name)).filter(Boolean);
  const { encodedBodySize } = performance.getEntriesByType("navigation")[0];
  const loaded = performance.getEntriesByType("resource");
  return {
    title: document.title,
    lang: document.documentElement.lang,
    headings: [...document.querySelectorAll("h1")].map((node) => node.textContent),
    ids: all.map((node) => node.id).filter(Boolean),
    lines: document.body.innerText.split("\\n").map((line) => line.trim()).filter(Boolean),
    attributes: ["aria-label", "placeholder", "title", "alt"].flatMap(words),
    bytes: loaded.reduce((sum, one) => sum + one.encodedBodySize, encodedBodySize),
    ran: "ran" in window || document.querySelector("[onerror], img[src=x]") !== null,
  };
}"""

MOVING = """() => {
  const still = (list) => list.split(",").every((one) => parseFloat(one) === 0);
  return [...document.querySelectorAll("*")].filter((node) => {
    const { animationName, transitionDuration } = getComputedStyle(node);
    return animationName !== "none" || !still(transitionDuration);
  }).map((node) => node.outerHTML.slice(0, 160));
}"""


@dataclass
class Sight:
    """What there was to see on a page in one language."""

    status: int
    found: dict[str, Any] = field(default_factory=dict[str, Any])
    met: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    small: list[str] = field(default_factory=list[str])
    moving: list[str] = field(default_factory=list[str])
    width: int = 0  # of a window of NARROW
    axe: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # by theme
    said: list[str] = field(default_factory=list[str])  # in the console
    hosts: set[str] = field(default_factory=set[str])


class Viewer:
    """A browser that looks at each page once in each language.

    Each kind of visitor has one window: a new one would take as long as what is looked at in it.
    """

    def __init__(self, browser: Browser, house: House) -> None:
        self._browser, self._house = browser, house
        self._names = furnished(house)
        self._windows: dict[tuple[str | None, str], Page] = {}
        self._sights: dict[tuple[Place, str], Sight] = {}

    @property
    def netloc(self) -> str:
        return urlsplit(self._house.url).netloc

    def sight(self, place: Place, language: str) -> Sight:
        if (place, language) not in self._sights:
            page = self._window(place.role, language)
            self._sights[place, language] = self._look(page, place)
        return self._sights[place, language]

    @contextmanager
    def opened(self, path: str, role: str | None) -> Iterator[Page]:
        """A page for one test, in English."""
        page = self._window(role, "en").context.new_page()
        page.goto(self._house.url + path.format(**self._names))
        page.wait_for_function(READY)
        yield page
        page.close()

    def _window(self, role: str | None, language: str) -> Page:
        if (role, language) not in self._windows:
            made = self._browser.new_context(locale=language)
            if role is not None:
                name, _, value = cookie_of(self._house, role).partition("=")
                made.add_cookies([{"name": name, "value": value, "url": self._house.url}])
            self._windows[role, language] = made.new_page()
        return self._windows[role, language]

    def _look(self, page: Page, place: Place) -> Sight:
        sight = Sight(0)
        page.goto("about:blank")  # what the last one still says is none of this one's
        page.emulate_media(color_scheme="light", reduced_motion="no-preference")
        page.set_viewport_size({"width": WIDE, "height": 720})
        with listening(page, sight):
            answer = page.goto(self._house.url + place.path.format(**self._names))
            assert isinstance(answer, Response)
            sight.status = answer.status
            if place.status < 400:
                page.wait_for_function(READY)
            examine(page, sight)
        return sight

    def close(self) -> None:
        for window in self._windows.values():
            window.context.close()


@contextmanager
def listening(page: Page, sight: Sight) -> Iterator[None]:
    """What the page asks of whom, and what goes wrong in it, is noted in `sight`."""
    ears: dict[Any, Callable[[Any], None]] = {
        "request": lambda request: sight.hosts.add(urlsplit(request.url).netloc),
        "pageerror": lambda error: sight.said.append(str(error)),
        "console": lambda said: heard(said, sight.said),
    }
    for event, ear in ears.items():
        page.on(event, ear)
    yield
    for event, ear in ears.items():
        page.remove_listener(event, ear)


def heard(said: ConsoleMessage, into: list[str]) -> None:
    """The browser itself says in the console that a page was a 404: that is none of its faults."""
    page = said.page
    own = page is not None and said.location["url"] == page.url
    if said.type in ("error", "warning") and not (own and "status of 4" in said.text):
        into.append(said.text)


def examine(page: Page, sight: Sight) -> None:
    sight.found = page.evaluate(FOUND)
    page.evaluate("document.querySelectorAll('details').forEach((node) => (node.open = true))")
    controls = page.evaluate(CONTROLS)
    if sight.found["lang"] == "en":  # where Tab leads does not depend on the language
        for _ in range(ROUNDS):
            for _ in range(controls + 1):
                page.keyboard.press("Tab")
            sight.met = page.evaluate(MET)
            if not sight.met["unreached"]:
                break
    sight.small = page.evaluate(SMALL, TARGET)
    page.evaluate("document.activeElement.blur()")  # what has the focus may lie over others
    sight.axe = {"light": violations(page)}
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    again = page.evaluate("(rules) => axe.run(rules)", COLOURS)  # a theme changes nothing else
    sight.axe["dark"] = told(again)
    sight.moving = page.evaluate(MOVING)
    page.set_viewport_size({"width": NARROW, "height": 700})
    sight.width = page.evaluate("document.documentElement.scrollWidth")


def violations(page: Page) -> list[str]:
    return told(Axe().run(page, options=RULES).response)


def told(found: dict[str, Any]) -> list[str]:
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@pytest.fixture(scope="module")
def viewer(settle: Settle) -> Iterator[Viewer]:
    with ExitStack() as stack:
        browser = entered(stack, chromium)
        house = stack.enter_context(settle(SHOP="true"))
        made = Viewer(browser, house)
        stack.callback(made.close)
        yield made


def pages(test: Callable[..., None]) -> Callable[..., None]:
    """For each page in each language; the sights of a page are one after the other."""
    test = pytest.mark.parametrize("language", LANGUAGES)(test)
    return pytest.mark.parametrize("place", PLACES, ids=map(named, PLACES))(test)


# --- what holds for all -----------------------------------------------------------------


def test_no_page_is_left_out(viewer: Viewer) -> None:
    """Every route that answers with a page is in the table, and no row without a route."""
    known = {place.route for place in PLACES} - {"none"}
    served = {
        route.key
        for route in routes(f"http://{viewer.netloc}")
        if route.method == "GET"
        and any("text/html" in one.get("content", {}) for one in answers(route.operation))
    }
    assert served - ELSEWHERE == known


def answers(operation: dict[str, Any]) -> Sequence[dict[str, Any]]:
    return list(operation["responses"].values())


@pages
def test_it_is_a_page(viewer: Viewer, place: Place, language: str) -> None:
    """It has a title, its language, one first heading, and no id twice."""
    sight = viewer.sight(place, language)
    found = sight.found
    assert sight.status == place.status
    assert found["lang"] == language
    assert re.fullmatch(r"\S.* · Filaviva", found["title"])
    assert len(found["headings"]) == 1
    assert found["headings"][0].strip()
    assert [name for name, times in Counter(found["ids"]).items() if times > 1] == []


@pages
def test_nothing_goes_wrong_unseen(viewer: Viewer, place: Place, language: str) -> None:
    """No error in the console, nothing the policy forbids, and nothing asked of anybody else."""
    sight = viewer.sight(place, language)
    assert sight.said == []
    assert sight.hosts == {viewer.netloc}


@pages
def test_it_is_light(viewer: Viewer, place: Place, language: str) -> None:
    """All that it loads at first is less than 150 KB."""
    assert viewer.sight(place, language).found["bytes"] < FIRST_LOAD


@pages
@pytest.mark.parametrize("theme", THEMES)
def test_nothing_bars_the_way(viewer: Viewer, place: Place, language: str, theme: str) -> None:
    """axe-core finds nothing of WCAG 2.2 A or AA."""
    assert viewer.sight(place, language).axe[theme] == []


@pytest.mark.parametrize("place", PLACES, ids=map(named, PLACES))
def test_a_keyboard_is_enough(viewer: Viewer, place: Place) -> None:
    """Tab leads to every control, and one sees where it is."""
    assert viewer.sight(place, "en").met == {"unreached": [], "unseen": []}


@pages
def test_a_finger_is_enough(viewer: Viewer, place: Place, language: str) -> None:
    """No button, field or tab is smaller than 24 px."""
    assert viewer.sight(place, language).small == []


@pages
def test_it_fits_a_small_screen(viewer: Viewer, place: Place, language: str) -> None:
    """At 320 px nothing scrolls sideways."""
    assert viewer.sight(place, language).width <= NARROW


@pages
def test_it_can_keep_still(viewer: Viewer, place: Place, language: str) -> None:
    """Whoever wishes for less motion gets none."""
    assert viewer.sight(place, language).moving == []


@pages
def test_what_was_posted_is_text(viewer: Viewer, place: Place, language: str) -> None:
    """Markup, text from right to left and emoji stand there as they came, and run nowhere."""
    found = viewer.sight(place, language).found
    assert not found["ran"]
    if place.shows is not None:
        assert any(place.shows in line for line in found["lines"])


# --- what comes up on a page --------------------------------------------------------------


def refused(page: Page) -> None:
    """A sign-in with a wrong password."""
    page.get_by_label("Username").first.fill("nobody-here")
    page.get_by_label("Password").first.fill("wrong-for-sure")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()


def asked(page: Page) -> None:
    """A dialog that asks whether to go on."""
    page.get_by_role("button", name="Purge").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def alone(page: Page) -> None:
    """The service cannot be reached."""
    page.route("**/api/**", lambda route: route.abort())
    page.reload()
    expect(page.locator(".region[data-state=error]").first).to_be_visible()


STATES = [
    (refused, "/login", None),
    (asked, "/admin/queues/{queue}", "admin"),
    (alone, "/admin/messages", "viewer"),
]


@pytest.mark.parametrize("come, path, role", STATES, ids=[one[0].__name__ for one in STATES])
def test_nothing_bars_the_way_out_either(
    viewer: Viewer, come: Callable[[Page], None], path: str, role: str | None
) -> None:
    """axe-core finds nothing in what says no, asks, or cannot go on."""
    with viewer.opened(path, role) as page:
        come(page)
        for theme in THEMES:
            page.emulate_media(color_scheme=theme)
            assert violations(page) == []


# --- words ------------------------------------------------------------------------------

KEYS = {key for words in TEXTS.values() for key in words if "." in key}
UNFILLED = re.compile(r"undefined|\[object |\bNaN\b|(?<!\{)\{\w+\}(?!\})")
STATUSES = {status.value for status in Status}


@pages
def test_no_word_is_missing(viewer: Viewer, place: Place, language: str) -> None:
    """No key of the words, no gap and no value of a program is shown instead of words."""
    found = viewer.sight(place, language).found
    for text in [found["title"], *found["lines"], *found["attributes"]]:
        assert not KEYS & set(text.split())
        assert not UNFILLED.search(text)


def test_pages_are_translated(viewer: Viewer) -> None:
    """What a page says in one language, it does not say in the other."""
    left: dict[str, set[str]] = {}
    for place in PLACES:
        for language, other in (LANGUAGES, LANGUAGES[::-1]):
            foreign = set(TEXTS[other].values()) - set(TEXTS[language].values()) | STATUSES
            found = viewer.sight(place, language).found
            said = {*found["lines"], *found["attributes"], *found["headings"]}
            mine = {TEXTS[one]["name"] for one in LANGUAGES} | set(TEXTS[language].values())
            if wrong := (said & foreign) - mine:
                left[f"{named(place)} {language}"] = wrong
    assert left == {}


# --- pictures ---------------------------------------------------------------------------


def test_the_docs_show_every_picture() -> None:
    """What is taken, what lies there and what the docs show are the same, and none is large."""
    taken = {shot.file for shot in shots()}
    shown = re.findall(
        r"\(screenshots/([^)]+)\)", (ROOT / "docs/screenshots.md").read_text("utf-8")
    )
    assert sorted(shown) == sorted(taken)
    assert {file.name for file in FOLDER.iterdir()} == taken
    assert [file.name for file in FOLDER.iterdir() if file.stat().st_size > FIRST_LOAD] == []

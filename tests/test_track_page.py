"""The tracking page: whole without scripts, live with them, plain when it has to say no."""

import html
import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

import pages
import texts
from models import Status
from tests.answers import NOWHERE, good
from tests.chromium import opened
from tests.front import front
from tests.house import House, running
from tests.live import PUBLIC_URL, forged_ticket, ticket
from tests.visits import at_home, cookie_of

Test = TypeVar("Test", bound=Callable[..., None])

LEASE = 600  # seconds: longer than any test
LIVE = {"en": "Live: changes appear", "pt-BR": "Ao vivo"}
EVENTS = {
    *("created", "processing", "requeued", "forwarded", "cancel_requested"),
    *("completed", "failed", "cancelled", "expired"),
}


get = partial(httpx.get, timeout=30)


def look(house: House, order: str, *, lang: str = "en", **query: str) -> httpx.Response:
    """The page as it comes, for a caller without an account."""
    return get(f"{house.url}/track/{order}", params=query, headers={"Accept-Language": lang})


def seen(answer: httpx.Response) -> str:
    """What stands in `main`, as a person reads it."""
    main = answer.text.partition("<main")[2].partition(">")[2].partition("</main>")[0]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", main)))


# --- without scripts ------------------------------------------------------------------


def test_the_link_of_a_post_shows_the_order(house: House) -> None:
    """Where it stands, what happened and what was bought: without an account or a script."""
    queue = house.queue()
    posted = house.post(queue, reference="1042")
    (message,) = house.claim(queue)
    answer = look(house, posted["id"], ticket=posted["tracking"]["ticket"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    text = seen(answer)
    for word in (
        "Order 1042",
        "In progress",
        "Received in",
        "Work began in",
        queue,
        "disc-001 2 R$19.80",
        "Total R$19.80",
    ):
        assert word in text
    for secret in (message["receipt"], "worker", "c-own", posted["tracking"]["ticket"]):
        assert secret not in text


def test_what_was_bought_has_its_name(house: House) -> None:
    """A product is called as in the shop; what is none, by its SKU."""
    sku, name = "page-named", "For Those <b>About</b> To Rock"
    product = {"sku": sku, "name": name, "price_cents": 990}
    assert house.client().post("/products", json=product).status_code == 201
    items = [{"sku": one, "quantity": 1, "amount_cents": 990} for one in (sku, "page-unnamed")]
    posted = house.post(house.queue(), items=items)
    text = seen(look(house, posted["id"], ticket=posted["tracking"]["ticket"]))
    assert f"{name} {sku} 1 R$9.90" in text
    assert "R$9.90 page-unnamed 1 R$9.90" in text


def test_a_page_is_safe_to_open(house: House) -> None:
    """No cache, no referrer, nothing inline: a ticket in the address stays there."""
    posted = house.post(house.queue())
    answer = look(house, posted["id"], ticket=posted["tracking"]["ticket"])
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "style=" not in answer.text
    assert re.findall(r"<script[^>]*>([^<]*)</script>", answer.text) == [""]
    assert not re.search(r"\son\w+=", answer.text)
    assert not re.search(r"(src|href)=\"(https?:)?//", answer.text)


def test_text_of_a_purchase_is_text(house: House) -> None:
    """Markup in what a shop posts is shown, not run."""
    posted = house.post(house.queue(), reference="<b>\"'&{{7*7}}</b>")
    answer = look(house, posted["id"], ticket=posted["tracking"]["ticket"])
    assert "<b>" not in answer.text
    assert "Order <b>\"'&{{7*7}}</b>" in seen(answer)


def test_a_way_through_queues(house: House) -> None:
    """The steps are the queues that it went through, and the history says why it came back."""
    first, second = house.queue(backoff_seconds=0), house.queue()
    posted = house.post(first)
    (message,) = house.claim(first)
    house.settle("nack", message, error="secret of the shop")
    (message,) = house.claim(first, wait_seconds=5)
    house.settle("release", message)
    (message,) = house.claim(first)
    house.settle("ack", message, forward_to=second)
    answer = look(house, posted["id"], ticket=posted["tracking"]["ticket"])
    steps = re.findall(r'<li data-state="(\w+)"[^>]*><span>([^<]*)</span>', answer.text)
    assert steps == [("done", first), ("here", second)]
    text = seen(answer)
    lines = [
        f"Done in {first}, on to {second}",
        f"Work began in {first}",
        f"Given back to the line in {first}",
        f"A try in {first} failed; back in line",
        f"Received in {first}",
    ]
    places = [text.index(line) for line in lines]
    assert places == sorted(places)
    assert "secret" not in text
    (message,) = house.claim(second)
    house.settle("ack", message)
    answer = look(house, posted["id"], ticket=posted["tracking"]["ticket"])
    steps = re.findall(r'<li data-state="(\w+)"', answer.text)
    assert steps == ["done", "done"]
    assert "Everything is done." in seen(answer)


PLACES = [
    ((12, True, 95), "Place 12 in line, about 2 min", "Lugar 12 na fila, cerca de 2 min"),
    ((1, True, 60), "Place 1 in line, about 1 min", "Lugar 1 na fila, cerca de 1 min"),
    ((9, True, 6_000), "Place 9 in line, about 2 h", "Lugar 9 na fila, cerca de 2 h"),
    ((3, True, None), "Place 3 in line", "Lugar 3 na fila"),
    ((1000, False, 95), "Beyond place 1,000 in line", "Depois do lugar 1.000 na fila"),
    ((None, None, None), "", ""),
]


@pytest.mark.parametrize("told, english, portuguese", PLACES)
def test_a_place_in_words(
    told: tuple[int | None, bool | None, int | None], english: str, portuguese: str
) -> None:
    """The place and a time; no time where it is only known what is too short."""
    order: dict[str, Any] = dict(
        zip(("position", "position_exact", "eta_seconds"), told, strict=True)
    )
    assert pages.place("en", order) == english
    assert pages.place("pt-BR", order) == portuguese


def test_a_page_shows_the_place(house: House) -> None:
    """While it waits, and no longer."""
    queue = house.queue()
    house.post(queue)
    posted = house.post(queue)
    text = posted["tracking"]["ticket"]
    assert "Place 2 in line" in seen(look(house, posted["id"], ticket=text))
    house.claim(queue, 2)
    assert "in line" not in seen(look(house, posted["id"], ticket=text)).partition("happened")[0]


@pytest.mark.parametrize(
    "accepted, asked, language",
    [
        ("pt-BR,pt;q=0.9,en;q=0.8", None, "pt-BR"),
        ("pt-PT", None, "pt-BR"),
        ("en-GB,pt;q=0.5", None, "en"),
        ("de, pt;q=0.3, en;q=0.2", None, "pt-BR"),
        ("de", None, "en"),
        ("", None, "en"),
        ("pt;q=nonsense,,;;", None, "en"),
        ("en;q=0, pt", None, "pt-BR"),
        ("pt-BR", "en", "en"),
        ("en", "pt-BR", "pt-BR"),
    ],
)
def test_the_language_is_the_readers(accepted: str, asked: str | None, language: str) -> None:
    """What is asked for, else the best that the browser accepts."""
    assert texts.language(asked, accepted) == language


@pytest.mark.parametrize("language, word", [("en", "In line"), ("pt-BR", "Na fila")])
def test_the_page_speaks_both_languages(house: House, language: str, word: str) -> None:
    """By the browser's wish, and by a link from one to the other that keeps the ticket."""
    posted = house.post(house.queue())
    text = posted["tracking"]["ticket"]
    answer = look(house, posted["id"], lang=language, ticket=text)
    assert f'<html lang="{language}">' in answer.text
    assert word in seen(answer)
    links = re.findall(r'<a href="(\?[^"]*)"[^>]*?( aria-current="true")?>', answer.text)
    ((link, _),) = [one for one in links if not one[1]]
    other = get(f"{house.url}/track/{posted['id']}{html.unescape(link)}")
    assert other.status_code == 200
    assert f'<html lang="{language}">' not in other.text
    assert f"lang={language}" in other.text


def test_every_word_has_its_translation() -> None:
    """Both languages say everything, with the same gaps to fill."""
    english, portuguese = texts.TEXTS["en"], texts.TEXTS["pt-BR"]
    assert list(english) == list(portuguese)
    for key, text in english.items():
        gaps = re.findall(r"\{\w+\}", text)
        assert sorted(re.findall(r"\{\w+\}", portuguese[key])) == sorted(gaps), key
    assert {key.removeprefix("status.") for key in english if key.startswith("status.")} == {
        status.value for status in Status
    }
    assert {f"event.order.{name}" for name in EVENTS} <= set(english)


# --- who gets in ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "role, own, foreign, missing",
    [
        ("customer", 200, 404, 404),
        ("producer", 200, 200, 404),
        ("worker", 403, 403, 403),
        ("viewer", 200, 200, 404),
        ("admin", 200, 200, 404),
        (None, 401, 401, 401),
    ],
)
def test_who_sees_a_page(
    house: House, role: str | None, own: int, foreign: int, missing: int
) -> None:
    """The same people as the order itself; whoever is refused reads a page that says so."""
    queue = house.queue()
    orders = [house.post(queue)["id"], house.post(queue, customer="c-other")["id"]]
    for order, status in zip(
        [*orders, NOWHERE, "nonsense"], [own, foreign, missing, missing], strict=True
    ):
        answer = house.client(role).get(f"{house.url}/track/{order}")
        assert answer.status_code == status
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["referrer-policy"] == "no-referrer"
        head = house.client(role).head(f"{house.url}/track/{order}")
        assert (head.status_code, head.content) == (status, b"")


REFUSALS: list[tuple[str, Callable[[House, str], dict[str, str]], int, str, str]] = [
    ("nobody", lambda house, order: {}, 401, "A link is needed", "É preciso um link"),
    (
        "expired",
        lambda house, order: {"ticket": forged_ticket([f"order:{order}"], -5)},
        401,
        "Ask whoever sent you the link",
        "Peça um novo link a quem o enviou",
    ),
    (
        "broken",
        lambda house, order: {"ticket": "AAAA"},
        401,
        "This link does not work",
        "Este link não funciona",
    ),
    (
        "of another order",
        lambda house, order: {"ticket": house.post(house.queue())["tracking"]["ticket"]},
        404,
        "Nothing here",
        "Não há nada aqui",
    ),
    (
        "of another kind",
        lambda house, order: {"ticket": ticket(house, ["customer:c-own"])},
        404,
        "Nothing here",
        "Não há nada aqui",
    ),
    (
        "changed",
        lambda house, order: {"ticket": forged_ticket([f"order:{order}"], 60), "utm": "x"},
        422,
        "exactly as you got it",
        "exatamente como o recebeu",
    ),
]


@pytest.mark.parametrize(
    "query, status, english, portuguese",
    [row[1:] for row in REFUSALS],
    ids=[row[0] for row in REFUSALS],
)
def test_a_link_that_does_not_work_says_what_to_do(
    house: House,
    query: Callable[[House, str], dict[str, str]],
    status: int,
    english: str,
    portuguese: str,
) -> None:
    """A customer with a dead link learns whom to ask, in his language."""
    order = house.post(house.queue())["id"]
    for language, words in (("en", english), ("pt-BR", portuguese)):
        answer = look(house, order, lang=language, **query(house, order))
        assert answer.status_code == status
        assert words in seen(answer)
        assert "data-stream" not in answer.text


def way_on(answer: httpx.Response) -> list[str]:
    """Where a page that says no leads."""
    return [html.unescape(one) for one in re.findall(r'class="button" href="([^"]*)"', answer.text)]


def test_a_page_that_says_no_leads_on(house: House) -> None:
    """Without a link to the sign-in and back; by a dead link to the same page for one's account,
    if one is signed in; else to the first page."""
    order = house.post(house.queue())["id"]
    path = f"/track/{order}"
    there = f"{house.url}{path}"
    own = {"Cookie": cookie_of(house, "customer")}
    assert way_on(get(f"{there}?lang=en")) == [f"/login?{urlencode({'next': f'{path}?lang=en'})}"]
    for text in (forged_ticket([f"order:{order}"], -5), "AAAA"):
        dead = f"{there}?ticket={text}&lang=pt-BR"
        assert way_on(get(dead)) == []
        assert way_on(get(dead, headers={"Cookie": own["Cookie"] + "x"})) == []
        (address,) = way_on(get(dead, headers=own))
        assert address == f"{path}?lang=pt-BR"
        assert get(house.url + address, headers=own).status_code == 200
    for role, place in (("worker", path), ("viewer", f"/track/{NOWHERE}"), ("viewer", "/admin/x")):
        answer = get(house.url + place, headers={"Cookie": cookie_of(house, role)})
        assert answer.status_code in (403, 404)
        assert way_on(answer) == ["/"]


def test_errors_below_a_page_are_pages(house: House) -> None:
    """Another method or a longer path: still HTML, and the status is right."""
    order = house.post(house.queue())["id"]
    wrong = httpx.post(f"{house.url}/track/{order}", timeout=30)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
    below = get(f"{house.url}/track/{order}/")
    assert below.status_code == 404
    for answer in (wrong, below):
        assert answer.headers["content-type"] == "text/html; charset=utf-8"


# --- in a browser ---------------------------------------------------------------------


# One database is enough here: what differs between them was tested without a browser.
ON_SQLITE = pytest.mark.parametrize("house", ["sqlite"], indirect=True)


def browsing(test: Test) -> Test:
    return pytest.mark.browser(ON_SQLITE(test))


def link(house: House, posted: dict[str, Any], url: str | None = None) -> str:
    """The address of a post's page, at the port where the service, or its proxy, is."""
    return (url or house.url) + posted["tracking"]["url"].removeprefix(PUBLIC_URL)


@browsing
@pytest.mark.parametrize("language, done", [("en", "Completed"), ("pt-BR", "Concluído")])
def test_a_change_appears_by_itself(
    house: House, browser: Browser, language: str, done: str
) -> None:
    """Every step from the post to the end shows without a reload, as the server would draw it."""
    first, second = house.queue(lease_seconds=LEASE), house.queue()
    posted = house.post(first, reference="1042")
    words = texts.TEXTS[language]
    with opened(browser, link(house, posted), locale=language) as page:
        page.evaluate("window.unchanged = true")
        status = page.locator("#status")
        expect(page.locator("#line")).to_contain_text(LIVE[language])
        expect(status).to_have_text(words["status.pending"])
        (message,) = house.claim(first)
        expect(status).to_have_text(words["status.processing"])
        house.client("producer").post(f"/messages/{posted['id']}/cancel")
        expect(page.locator("#asked")).to_be_visible()
        house.settle("release", message)
        expect(status).to_have_text(words["status.cancelled"])
        house.client().post(f"/messages/{posted['id']}/retry")
        expect(status).to_have_text(words["status.pending"])
        expect(page.locator("#asked")).to_be_hidden()
        (message,) = house.claim(first)
        house.settle("ack", message, forward_to=second)
        expect(page.locator("#steps li")).to_have_text([f"{first}, {words['track.done']}", second])
        (message,) = house.claim(second)
        house.settle("ack", message)
        expect(status).to_have_text(done)
        expect(page.locator("#line")).to_have_text(words["track.over"])
        assert page.evaluate("window.unchanged")
        live = shape(page)
        page.reload()
        assert shape(page) == live
        assert len(live["history"]) == 9


def shape(page: Page) -> dict[str, list[str]]:
    """What the page shows that scripts change."""
    return {
        "now": [
            text.partition(" · ")[0]
            for text in page.locator(".now p:not([hidden])").all_inner_texts()
        ],
        "steps": page.locator("#steps li").all_inner_texts(),
        "states": [li.get_attribute("data-state") or "" for li in page.locator("#steps li").all()],
        "history": page.locator("#history li").all_inner_texts(),
    }


@browsing
def test_a_page_tells_its_place_live(house: House, browser: Browser) -> None:
    """It moves forward while others are claimed, and goes when its own turn comes."""
    queue = house.queue(lease_seconds=LEASE)
    for _ in range(2):
        house.post(queue)
    with opened(browser, link(house, house.post(queue))) as page:
        place = page.locator("#place")
        expect(place).to_have_text("Place 3 in line")
        expect(page.locator("#line")).to_contain_text("Live")
        house.claim(queue)
        expect(place).to_have_text(re.compile(r"Place 2 in line, about \d+ min"))
        house.claim(queue, 2)
        expect(page.locator("#status")).to_have_text("In progress")
        expect(place).to_be_hidden()


@browsing
def test_what_happened_before_the_script_ran_is_not_missed(house: House, browser: Browser) -> None:
    """The stream goes on from where the page was drawn, however long the script takes."""
    queue = house.queue()
    posted = house.post(queue)
    with opened(browser, link(house, posted)) as page:
        expect(page.locator("#line")).to_contain_text("Live")

        def slowly(route: Route) -> None:
            house.claim(queue)
            route.continue_()

        page.route("**/static/track.js", slowly)
        page.reload()
        expect(page.locator("#status")).to_have_text("In progress")
        expect(page.locator("#history li")).to_have_count(2)


# Keeps what stands in each element, and notes what was written over with the same; and what
# the live parts said, one after the other.
WATCH = """() => {
  const main = document.querySelector("main");
  const known = new Map();
  const shown = (node) => node.outerHTML ?? node.data;
  const remember = () => main.querySelectorAll("*").forEach((node) => known.set(node, shown(node)));
  const told = (id) => document.getElementById(id).innerText;
  window.redrawn = [];
  window.lines = [told("line")];
  window.statuses = [told("status")];
  const note = (list, text) => list.at(-1) === text || list.push(text);
  const look = (records) => {
    for (const node of new Set(records.map((record) => record.target))) {
      if (known.get(node) === shown(node)) redrawn.push(shown(node));
    }
    remember();
    note(lines, told("line"));
    note(statuses, told("status"));
  };
  remember();
  const all = { attributes: true, characterData: true, childList: true, subtree: true };
  new MutationObserver(look).observe(main, all);
}"""


@pytest.mark.browser
def test_a_page_survives_a_restart(browser: Browser) -> None:
    """The service is killed and comes back: nothing is missed, reloaded, or drawn twice."""
    with running() as house:
        queue = house.queue()
        posted = house.post(queue)
        house.token("worker")
        server = house.servers[0]
        with opened(browser, link(house, posted), errors="ERR_CONNECTION|ERR_INCOMPLETE") as page:
            expect(page.locator("#line")).to_contain_text("Live")
            page.evaluate(WATCH)
            server.kill()
            expect(page.locator("#line")).to_contain_text("trying again")
            expect(page.locator("#line")).to_have_attribute("data-state", "waiting")
            server.start()
            (message,) = house.claim(queue)
            house.settle("ack", message)
            expect(page.locator("#status")).to_have_text("Completed", timeout=60_000)
            expect(page.locator("#history li")).to_have_count(3)
            assert page.evaluate("redrawn") == []
            lines = ["Live: changes", "The connection is gone", "Live: changes", "Nothing more"]
            told = page.evaluate("lines")
            assert [line.startswith(want) for line, want in zip(told, lines, strict=True)] == [
                True
            ] * 4
            known = ["In line", "In progress", "Completed"]
            statuses = page.evaluate("statuses")
            assert statuses == [one for one in known if one in statuses]


STATES = """async (names) => {
  const { patiently } = await import("/static/page.js");
  window.said = [];
  const tell = patiently(({ name }) => said.push(name));
  const next = { retrying: 2_000 }; // ms
  window.become = (name) => tell({ name, at: name in next ? Date.now() + next[name] : undefined });
}"""


@browsing
def test_a_line_that_mends_itself_is_not_mentioned(house: House, browser: Browser) -> None:
    """Nobody is told of a line that comes back at the first try; of a longer break, once."""
    queue = house.queue()
    posted = house.post(queue)
    (message,) = house.claim(queue)
    house.settle("ack", message)
    with opened(browser, link(house, posted)) as page:  # of an order that nobody follows any more
        page.clock.install(time=0)
        page.reload()
        page.clock.pause_at(60)
        page.evaluate(STATES)
        for name, after, told in (
            ("live", 0, ["live"]),
            ("retrying", 3_400, ["live"]),
            ("live", 9_000, ["live", "live"]),
            ("retrying", 3_400, ["live", "live"]),
            ("offline", 200, ["live", "live", "offline"]),
            ("live", 0, ["live", "live", "offline", "live"]),
        ):
            page.evaluate("name => become(name)", name)
            page.clock.run_for(after)
            assert page.evaluate("said") == told


@browsing
def test_a_page_that_slept_catches_up(house: House, browser: Browser) -> None:
    """A browser freezes it, hours later it goes on: what it shows is true, without a reload."""
    first, second = house.queue(), house.queue(lease_seconds=LEASE)
    posted = house.post(first)
    with opened(browser, link(house, posted)) as page:
        expect(page.locator("#line")).to_contain_text("Live")
        page.evaluate(WATCH)
        session = page.context.new_cdp_session(page)
        session.send("Page.setWebLifecycleState", {"state": "frozen"})
        (message,) = house.claim(first)
        house.settle("ack", message, forward_to=second)
        house.claim(second)
        session.send("Page.setWebLifecycleState", {"state": "active"})
        expect(page.locator("#status")).to_have_text("In progress")
        expect(page.locator("#steps li")).to_have_count(2)
        expect(page.locator("#history li")).to_have_count(4)
        assert page.evaluate("redrawn") == []


@browsing
def test_only_a_change_of_status_is_announced(house: House, browser: Browser) -> None:
    """What live regions say: each status once, as a whole; no place, no time, no history."""
    queue = house.queue(lease_seconds=LEASE)
    house.post(queue)
    posted = house.post(queue)
    with opened(browser, link(house, posted)) as page:
        expect(page.locator("#line")).to_contain_text("Live")
        regions = "main :is([aria-live], [role=status], [role=alert])"
        said = page.locator(regions)
        assert [one.get_attribute("id") for one in said.all()] == ["line", None, "shared"]
        assert said.nth(1).get_attribute("aria-atomic") == "true"
        before = said.all_text_contents()
        house.claim(queue)
        expect(page.locator("#place")).to_contain_text("Place 1 in line")
        assert said.all_text_contents() == before
        house.claim(queue)
        expect(said.nth(1)).to_contain_text("In progress")


@browsing
def test_the_last_change_is_told_in_two_ways(house: House, browser: Browser) -> None:
    """The exact time in the reader's zone, and how long ago, by the service's clock."""
    posted = house.post(house.queue())
    with opened(
        browser,
        link(house, posted),
        before="const at = Date.now; Date.now = () => at() - 7_200_000;",
    ) as page:
        changed = page.locator("#changed")
        expect(changed).to_have_text(
            re.compile(r"\w+ \d+, \d{4}, .* (AM|PM) · (now|\d+ seconds? ago)")
        )


# --- the link to send ------------------------------------------------------------------


@browsing
def test_a_link_is_copied_for_somebody_else(house: House, browser: Browser) -> None:
    """The page's own link, without the language of whoever copies it."""
    posted = house.post(house.queue())
    with opened(browser, link(house, posted) + "&lang=en") as page:
        assert copied(page) == link(house, posted)


@pytest.mark.browser
def test_staff_copy_a_link_for_the_customer(browser: Browser) -> None:
    """Whoever sees the page by a sign-in is given one that works without, as long as the setting
    says, which the page tells; so is an admin by the order's page in the console."""
    with at_home(TRACKING_DAYS="2") as house:
        posted = house.post(house.queue())
        url = f"{house.url}/track/{posted['id']}"
        with opened(browser, url, cookie=cookie_of(house, "viewer")) as page:
            expect(page.locator("#link")).to_contain_text("It works for 2 days.")
            with page.expect_request("**/tickets") as asked:
                address = copied(page)
            assert '"expires_in":172800' in (asked.value.post_data or "")
        assert address.startswith(f"{url}?ticket=")
        assert "In line" in seen(get(address))
        assert "days" not in seen(get(address))
        there = f"{house.url}/admin/messages/{posted['id']}"
        with opened(browser, there, cookie=cookie_of(house, "admin")) as page:
            expect(page.locator("#link")).to_contain_text("without an account, for 2 days.")
            with page.expect_request("**/tickets") as asked:
                page.get_by_role("button", name="Make a link").click()
            assert '"expires_in":172800' in (asked.value.post_data or "")


def copied(page: Page) -> str:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the link").click()
    expect(page.locator("#shared")).to_have_text("The link is copied.")
    return page.evaluate("navigator.clipboard.readText()")


@browsing
def test_a_link_can_be_copied_by_hand(house: House, browser: Browser) -> None:
    """Where a page may not copy, the link stands there, marked."""
    posted = house.post(house.queue())
    with opened(
        browser,
        link(house, posted),
        before="navigator.clipboard.writeText = () => Promise.reject(Error('no'))",
    ) as page:
        page.get_by_role("button", name="Copy the link").click()
        field = page.get_by_label("Copy this link")
        expect(field).to_have_value(link(house, posted))
        assert page.evaluate("getSelection().toString()") == link(house, posted)


@browsing
def test_a_link_goes_to_another_program(house: House, browser: Browser) -> None:
    """Where the device can share, there is a button for it."""
    posted = house.post(house.queue())
    with opened(
        browser,
        link(house, posted),
        before="navigator.share = async (what) => (window.shared = what)",
    ) as page:
        page.get_by_role("button", name="Share…").click()
        page.wait_for_function("window.shared?.url")
        assert page.evaluate("window.shared.url") == link(house, posted)


@browsing
def test_a_page_comes_back_after_an_error_of_a_proxy(house: House, browser: Browser) -> None:
    """At 502 a browser gives its stream up for good; the page asks again by itself."""
    queue = house.queue()
    posted = house.post(queue)
    with (
        front(house.url) as proxy,
        opened(browser, link(house, posted, proxy.url), errors="502|ERR_") as page,
    ):
        expect(page.locator("#line")).to_contain_text("Live")
        proxy.fail()
        expect(page.locator("#line")).to_contain_text("trying again")
        proxy.mend()
        expect(page.locator("#line")).to_contain_text("Live")
        house.claim(queue)
        expect(page.locator("#status")).to_have_text("In progress")


@browsing
def test_a_page_says_that_its_link_expired(house: House, browser: Browser) -> None:
    """While it is open, and when it is opened again."""
    order = house.post(house.queue())["id"]
    url = f"{house.url}/track/{order}?ticket="
    with opened(browser, url, errors="401", before=LINES) as page:
        for seconds in (3, 6, 12, 24):  # more where it takes longer until a page is live
            page.goto(url + forged_ticket([f"order:{order}"], seconds))
            expect(page.get_by_text("has expired").first).to_be_visible()
            if was_live := any(line.startswith("Live") for line in page.evaluate("lines")):
                break
        assert was_live
        expect(page.locator("#line")).to_contain_text("has expired")
        page.reload()
        expect(page.locator("h1")).to_have_text("This link has expired")


# What the line said, one after the other.
LINES = """window.lines = [];
document.addEventListener("DOMContentLoaded", () => {
  const line = document.getElementById("line");
  const note = () => lines.at(-1) === line.innerText || lines.push(line.innerText);
  if (line) new MutationObserver(note).observe(line, { childList: true, characterData: true });
});"""


@browsing
def test_a_page_says_that_it_was_withdrawn(house: House, browser: Browser) -> None:
    """A revoked ticket ends the page's stream, and the page does not knock again."""
    posted = house.post(house.queue())
    with opened(browser, link(house, posted)) as page:
        expect(page.locator("#line")).to_contain_text("Live")
        body = {"ticket": posted["tracking"]["ticket"]}
        house.client("producer").post("/events/tickets/revoke", json=body)
        expect(page.locator("#line")).to_contain_text("Ask for a new link")


@browsing
def test_markup_stays_text_in_a_browser(house: House, browser: Browser) -> None:
    """Neither what the server drew nor what a script adds becomes an element."""
    evil = "<img src=x onerror=alert(1)>"
    queue = house.queue()
    posted = house.post(queue, reference=evil)
    with opened(browser, link(house, posted)) as page:
        expect(page.locator("h1 .name")).to_have_text(evil)
        house.claim(queue)
        expect(page.locator("#status")).to_have_text("In progress")
        assert page.locator("img").count() == 0


@browsing
def test_a_page_without_scripts(house: House, browser: Browser) -> None:
    """All that is known stands there, and how to see more."""
    posted = house.post(house.queue(), reference="1042")
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(link(house, posted))
        expect(page.locator("#status")).to_have_text("In line")
        expect(page.locator("#line")).to_contain_text("Reload the page")
        expect(page.locator("#changed")).to_contain_text("UTC")


@browsing
def test_a_page_follows_by_cookie(house: House, browser: Browser) -> None:
    """Staff that are signed in see any order live, without a ticket."""
    queue = house.queue()
    posted = house.post(queue)
    with opened(
        browser, f"{house.url}/track/{posted['id']}", cookie=cookie_of(house, "viewer")
    ) as page:
        expect(page.locator("#line")).to_contain_text("Live")
        house.claim(queue)
        expect(page.locator("#status")).to_have_text("In progress")


@pytest.mark.browser
def test_who_bought_may_cancel(home: House, browser: Browser) -> None:
    """The customer who is signed in cancels his order where he follows it, once he is sure."""
    queue = home.queue(lease_seconds=LEASE)
    waiting, busy = home.post(queue), home.post(queue)
    cookie = cookie_of(home, "customer")
    with opened(browser, f"{home.url}/track/{waiting['id']}", cookie=cookie) as page:
        button = page.get_by_role("button", name="Cancel the order")
        button.click()
        page.get_by_role("button", name="Leave it").click()
        expect(page.locator("#status")).to_have_text("In line")
        button.click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the order").click()
        expect(page.locator("#status")).to_have_text("Cancelled")
        expect(page.locator("#status")).to_be_focused()
        expect(button).to_be_hidden()
    home.claim(queue)
    with opened(browser, f"{home.url}/track/{busy['id']}", cookie=cookie) as page:
        button = page.get_by_role("button", name="Cancel the order")
        button.click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the order").click()
        expect(page.locator("#asked")).to_have_text("Its cancellation was asked for.")
        expect(button).to_be_hidden()


@pytest.mark.browser
def test_a_cancel_is_shown_while_the_stream_is_away(home: House, browser: Browser) -> None:
    """By the call's own answer, at once; what happened is told by the events, once they come."""
    order = home.post(home.queue())["id"]
    cookie, events = cookie_of(home, "customer"), "**/api/v1/events?*"
    alone = "delete window.SharedWorker"  # so that the test sees what is asked for
    url = f"{home.url}/track/{order}"
    with opened(browser, url, cookie=cookie, before=alone, errors="ERR_FAILED") as page:
        page.route(events, lambda route: route.abort())
        page.reload()
        page.get_by_role("button", name="Cancel the order").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the order").click()
        expect(page.locator("#status")).to_have_text("Cancelled")
        expect(page.locator("#cancel")).to_be_hidden()
        expect(page.locator("#place")).to_be_hidden()
        expect(page.locator("#history li")).to_have_count(1)
        page.unroute(events)
        page.evaluate(ONLINE)  # it need not wait for its next try
        expect(page.locator("#history li")).to_have_count(2)
        expect(page.locator("#steps li")).to_have_attribute("data-state", "cancelled")
        expect(page.locator("#status")).to_have_text("Cancelled")


ONLINE = "setInterval(() => dispatchEvent(new Event('online')), 500)"


@browsing
def test_a_cancel_that_came_too_late_is_explained(house: House, browser: Browser) -> None:
    """Asked to end, and completed all the same: it says so, live and when it is opened again."""
    queue = house.queue()
    posted = house.post(queue)
    late = re.compile("The cancellation came too late: .* Please ask the shop")
    with opened(browser, link(house, posted)) as page:
        expect(page.locator("#line")).to_contain_text("Live")
        (message,) = house.claim(queue)
        good(house.client("producer").post(f"/messages/{posted['id']}/cancel"), 202)
        good(house.settle("ack", message))
        expect(page.locator("#status")).to_have_text("Completed")
        expect(page.locator("#about")).to_have_text(late)
        page.reload()
        expect(page.locator("#about")).to_have_text(late)
    ticket = posted["tracking"]["ticket"]
    assert "chegou tarde" in seen(look(house, posted["id"], lang="pt-BR", ticket=ticket))


@pytest.mark.parametrize(
    "types, late",
    [
        ("created processing completed", False),
        ("created processing cancel_requested completed", True),
        ("created processing cancel_requested cancelled requeued processing completed", False),
        ("created processing cancel_requested", False),
        ("cancel_requested completed", True),
        ("", False),
    ],
)
def test_when_a_cancel_came_too_late(types: str, late: bool) -> None:
    """Only where it was asked of the work that completed it."""
    assert pages.cancelled_late([{"type": f"order.{one}"} for one in types.split()]) == late


def test_nobody_else_is_offered_to_cancel(house: House) -> None:
    """Not staff, who have the console, nor who was sent a link, nor a customer of another order."""
    posted = house.post(house.queue())
    told = {
        role: get(
            f"{house.url}/track/{posted['id']}", headers={"Cookie": cookie_of(house, role)}
        ).text
        for role in ("customer", "viewer", "producer", "admin")
    }
    assert {role for role, text in told.items() if 'id="cancel"' in text} == {"customer"}
    assert 'id="cancel"' not in look(house, posted["id"], ticket=posted["tracking"]["ticket"]).text


@browsing
@pytest.mark.parametrize("width", [320, 1280])
def test_a_page_fits_its_window(house: House, browser: Browser, width: int) -> None:
    """Nothing is cut and nothing scrolls sideways, on a small phone either."""
    queue = house.queue()
    posted = house.post(queue, reference="W" * 64)
    with opened(browser, link(house, posted)) as page:
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width

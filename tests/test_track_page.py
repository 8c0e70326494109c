"""The tracking page: whole without scripts, live with them, plain when it has to say no."""

import html
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

import pages
import texts
from models import Status
from tests.answers import NOWHERE
from tests.chromium import chromium
from tests.conftest import entered
from tests.front import front
from tests.house import PASSWORD, House, running
from tests.live import PUBLIC_URL, forged_ticket, ticket

Test = TypeVar("Test", bound=Callable[..., None])

LIVE = {"en": "Live: changes appear", "pt-BR": "Ao vivo"}
EVENTS = {
    *("created", "processing", "requeued", "forwarded", "cancel_requested"),
    *("completed", "failed", "cancelled", "expired"),
}


def look(house: House, order: str, *, lang: str = "en", **query: str) -> httpx.Response:
    """The page as it comes, for a caller without an account."""
    return httpx.get(
        f"{house.url}/track/{order}", params=query, headers={"Accept-Language": lang}, timeout=30
    )


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
        "2 × disc-001",
    ):
        assert word in text
    for secret in (message["receipt"], "worker", "c-own", posted["tracking"]["ticket"]):
        assert secret not in text


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
    steps = re.findall(r'<li data-state="(\w+)"[^>]*>([^<]*)</li>', answer.text)
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
    ((3, True, None), "Place 3 in line", "Lugar 3 na fila"),
    ((1000, False, 95), "Beyond place 1000 in line", "Depois do lugar 1000 na fila"),
    ((None, None, None), "", ""),
]


@pytest.mark.parametrize("told, english, portuguese", PLACES)
def test_a_place_in_words(
    told: tuple[int | None, bool | None, int | None], english: str, portuguese: str
) -> None:
    """The place and a time in minutes; no time where it is only known what is too short."""
    order: dict[str, Any] = dict(
        zip(("position", "position_exact", "eta_seconds"), told, strict=True)
    )
    assert pages.place(texts.TEXTS["en"], order) == english
    assert pages.place(texts.TEXTS["pt-BR"], order) == portuguese


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
    (link,) = re.findall(r'<a href="(\?[^"]*)"', answer.text)
    other = httpx.get(f"{house.url}/track/{posted['id']}{html.unescape(link)}")
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


def test_errors_below_a_page_are_pages(house: House) -> None:
    """Another method or a longer path: still HTML, and the status is right."""
    order = house.post(house.queue())["id"]
    wrong = httpx.post(f"{house.url}/track/{order}")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
    below = httpx.get(f"{house.url}/track/{order}/")
    assert below.status_code == 404
    for answer in (wrong, below):
        assert answer.headers["content-type"] == "text/html; charset=utf-8"


# --- in a browser ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with ExitStack() as stack:
        yield entered(stack, chromium)


# One database is enough here: what differs between them was tested without a browser.
ON_SQLITE = pytest.mark.parametrize("house", ["sqlite"], indirect=True)


def browsing(test: Test) -> Test:
    return pytest.mark.browser(ON_SQLITE(test))


@contextmanager
def opened(
    browser: Browser, url: str, *, locale: str = "en-US", errors: str = "", cookie: str = ""
) -> Iterator[Page]:
    """A page in a browser of its own. Fails on an error in the console that does not match
    `errors`, on a script that falls, and on a request to anybody else."""
    hosts, faults = set[str](), list[str]()
    origin = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    with ExitStack() as stack:
        context = browser.new_context(locale=locale)
        stack.callback(context.close)
        if cookie:
            name, _, value = cookie.partition("=")
            context.add_cookies([{"name": name, "value": value, "url": origin}])
        page = context.new_page()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda said: faults.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.goto(url)
        yield page
    assert hosts == {urlsplit(url).netloc}
    assert [one for one in faults if not errors or not re.search(errors, one)] == []


def link(house: House, posted: dict[str, Any], url: str | None = None) -> str:
    """The address of a post's page, at the port where the service, or its proxy, is."""
    return (url or house.url) + posted["tracking"]["url"].removeprefix(PUBLIC_URL)


@browsing
@pytest.mark.parametrize("language, done", [("en", "Completed"), ("pt-BR", "Concluído")])
def test_a_change_appears_by_itself(
    house: House, browser: Browser, language: str, done: str
) -> None:
    """Every step from the post to the end shows without a reload, as the server would draw it."""
    first, second = house.queue(), house.queue()
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
        expect(page.locator("#steps li")).to_have_text([first, second])
        (message,) = house.claim(second)
        house.settle("ack", message)
        expect(status).to_have_text(done)
        expect(page.locator("#line")).to_have_text(words["line.over"])
        assert page.evaluate("window.unchanged")
        live = shape(page)
        page.reload()
        assert shape(page) == live
        assert len(live["history"]) == 9


def shape(page: Page) -> dict[str, list[str]]:
    """What the page shows that scripts change."""
    return {
        "now": page.locator(".now p").all_inner_texts(),
        "steps": page.locator("#steps li").all_inner_texts(),
        "states": [li.get_attribute("data-state") or "" for li in page.locator("#steps li").all()],
        "history": page.locator("#history li").all_inner_texts(),
    }


@browsing
def test_a_page_tells_its_place_live(house: House, browser: Browser) -> None:
    """It moves forward while others are claimed, and goes when its own turn comes."""
    queue = house.queue()
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


@pytest.mark.browser
def test_a_page_survives_a_restart(browser: Browser) -> None:
    """The service is killed and comes back: the page reconnects and misses nothing."""
    with running() as house:
        queue = house.queue()
        posted = house.post(queue)
        house.token("worker")
        server = house.servers[0]
        with opened(browser, link(house, posted), errors="ERR_CONNECTION|ERR_INCOMPLETE") as page:
            page.evaluate("window.unchanged = true")
            expect(page.locator("#line")).to_contain_text("Live")
            server.kill()
            expect(page.locator("#line")).to_contain_text("trying again")
            expect(page.locator("#line")).to_have_attribute("data-state", "waiting")
            server.start()
            (message,) = house.claim(queue)
            house.settle("ack", message)
            expect(page.locator("#status")).to_have_text("Completed", timeout=30_000)
            expect(page.locator("#history li")).to_have_count(3)
            assert page.evaluate("window.unchanged")


@browsing
def test_a_page_comes_back_after_an_error_of_a_proxy(house: House, browser: Browser) -> None:
    """At 502 a browser gives its stream up for good; the page asks again by itself."""
    queue = house.queue()
    posted = house.post(queue)
    with front(house.url) as proxy, opened(browser, link(house, posted, proxy.url)) as page:
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
    text = forged_ticket([f"order:{order}"], 5)
    url = f"{house.url}/track/{order}?ticket={text}"
    with opened(browser, url, errors="401") as page:
        expect(page.locator("#line")).to_contain_text("Live")
        expect(page.locator("#line")).to_contain_text("has expired")
        page.reload()
        expect(page.locator("h1")).to_have_text("This link has expired")


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
    sign_in = {"username": "viewer", "password": PASSWORD}
    answer = httpx.post(f"{house.url}/api/v1/auth/session", json=sign_in)
    cookie = answer.headers["set-cookie"].partition(";")[0]
    with opened(browser, f"{house.url}/track/{posted['id']}", cookie=cookie) as page:
        expect(page.locator("#line")).to_contain_text("Live")
        house.claim(queue)
        expect(page.locator("#status")).to_have_text("In progress")


@browsing
@pytest.mark.parametrize("width", [320, 1280])
def test_a_page_fits_its_window(house: House, browser: Browser, width: int) -> None:
    """Nothing is cut and nothing scrolls sideways, on a small phone either."""
    queue = house.queue()
    posted = house.post(queue, reference="W" * 64)
    with opened(browser, link(house, posted)) as page:
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width

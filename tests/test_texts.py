"""The words of the pages: the same in both languages, and written as a browser writes them."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

import texts
from tests.house import House
from tests.services import ROOT
from tests.visits import visit
from texts import AREAS, LANGUAGES, TEXTS

ENGLISH, *OTHERS = LANGUAGES
NUMBERS = (0, 1, 2, 21, 999, 1_000, 43_200, 999_999, 1_000_000, 2_000_000, 1_234_567_890, 2**53 - 1)
CENTS = (0, 1, 99, 100, 990, 1_980, 100_000, 123_456_789, 10**12, -1, -199_000)
PLURALS = sorted(key[: -len(".one")] for key in TEXTS[ENGLISH] if key.endswith(".one"))
HTML = re.compile(r"[<>]|&\w+;")

# --- the files ------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_files(language: str) -> None:
    """An area that is added in one is added in all."""
    assert AREAS[language].keys() == AREAS[ENGLISH].keys()
    folders = sorted(path.name for path in (ROOT / "locales").iterdir())
    assert folders == sorted(LANGUAGES)


@pytest.mark.parametrize("language", OTHERS)
@pytest.mark.parametrize("area", AREAS[ENGLISH])
def test_an_area_says_the_same_in_every_language(area: str, language: str) -> None:
    """The same keys in the same order, and the same gaps to fill."""
    english, other = AREAS[ENGLISH][area], AREAS[language][area]
    assert list(other) == list(english)
    for key, text in english.items():
        assert Counter(texts.PLACE.findall(other[key])) == Counter(texts.PLACE.findall(text)), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_key_stands_in_two_files(language: str) -> None:
    """What two areas say under one key would be whatever was read last."""
    found = Counter(key for words in AREAS[language].values() for key in words)
    assert [key for key, n in found.items() if n > 1] == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("key", PLURALS)
def test_a_plural_is_complete(key: str, language: str) -> None:
    """One and other, each with its number, and nothing under the bare key."""
    words = TEXTS[language]
    assert key not in words
    forms = {
        name
        for name in words
        if re.fullmatch(rf"{re.escape(key)}\.(zero|one|two|few|many|other)", name)
    }
    assert forms == {f"{key}.one", f"{key}.other"}
    assert "{n}" in words[f"{key}.other"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_are_text(language: str) -> None:
    """Neither empty nor markup, and no stray blanks."""
    for key, text in TEXTS[language].items():
        assert text.strip(), key
        assert not HTML.search(text), key
        assert "  " not in text, key


def test_what_is_written_twice_is_read_once() -> None:
    """A key that a file names twice is refused where it is read."""
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads('a = "x"\na = "y"\n')


# --- as a browser writes --------------------------------------------------------------


@pytest.fixture(scope="module", params=LANGUAGES)
def page(
    request: pytest.FixtureRequest, house_on_sqlite: House, browser: Browser
) -> Iterator[tuple[str, Page]]:
    """A page in each language, and which it is."""
    with visit(browser, house_on_sqlite, f"/admin?lang={request.param}") as found:
        yield request.param, found


def written(page: Page, script: str, values: Any) -> Any:
    return page.evaluate(
        f"(values) => import('/static/page.js').then(({{ say, number, money }}) => {script})",
        values,
    )


@pytest.mark.browser
def test_numbers_are_those_of_the_browser(page: tuple[str, Page]) -> None:
    """Groups of three, in the marks of the language; by `Intl` and by the pages' own module."""
    language, here = page
    ours = [texts.number(language, n) for n in NUMBERS]
    format_ = f"new Intl.NumberFormat('{language}')"
    assert here.evaluate(f"(values) => values.map((n) => {format_}.format(n))", NUMBERS) == ours
    assert written(here, "values.map(number)", NUMBERS) == ours


@pytest.mark.browser
@pytest.mark.parametrize(
    "currency", ["BRL", "EUR", "GBP", "USD", "CHF", "SEK", "XYZ", "JPY", "KWD", "CAD", "MXN"]
)
def test_money_is_that_of_the_browser(page: tuple[str, Page], currency: str) -> None:
    """Symbol, sign and blanks included, for amounts from nothing to ten thousand million."""
    language, here = page
    ours = [texts.money(language, cents, currency) for cents in CENTS]
    assert (
        written(here, "values[0].map((cents) => money(cents, values[1]))", [CENTS, currency])
        == ours
    )


@pytest.mark.browser
def test_plurals_are_those_of_the_browser(page: tuple[str, Page]) -> None:
    """Every plural, filled in by both sides with the same numbers, reads the same."""
    language, here = page
    common = [key for key in PLURALS if f"{key}.one" in AREAS[language]["page"]]
    asked = [(key, n) for key in common for n in NUMBERS]
    ours = [texts.say(language, key, n=n) for key, n in asked]
    assert written(here, "values.map(([key, n]) => say(key, { n }))", asked) == ours


@pytest.mark.browser
def test_words_are_filled_in_alike(page: tuple[str, Page]) -> None:
    """A value is put in as it is, a gap that nobody fills stays."""
    language, here = page
    values: list[tuple[str, dict[str, Any]]] = [
        ("act.type_name", {"name": "{n} <b>"}),
        ("unit.days", {"n": 2, "m": 1}),
        ("act.type_name", {}),
    ]
    ours = [texts.say(language, key, **given) for key, given in values]
    assert written(here, "values.map(([key, given]) => say(key, given))", values) == ours

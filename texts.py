"""The words of the pages, in each language they speak.

They stand in `locales/<language>/<area>.toml`: one flat table a language, the same keys in
each, a dotted key being a TOML table or a quoted name. `{name}` is filled in; a key with
`.one` and `.other` is a plural, chosen by `{n}`. `static/page.js` does the same with the
same words.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from babel import Locale
from babel.numbers import format_currency, format_decimal, get_currency_precision

DEFAULT = "en"
LANGUAGES = ("en", "pt-BR")
PLACE = re.compile(r"\{(\w+)\}")

_FOLDER = Path(__file__).parent / "locales"
_COMMON = "page"  # the area that every page may use


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, str):
            yield prefix + key, value
        else:
            yield from _flat(value, f"{prefix}{key}.")


def _read(language: str) -> dict[str, dict[str, str]]:
    """Area → key → words."""
    files = sorted((_FOLDER / language).glob("*.toml"))
    return {file.stem: dict(_flat(tomllib.loads(file.read_text("utf-8")))) for file in files}


AREAS: Mapping[str, Mapping[str, Mapping[str, str]]] = {one: _read(one) for one in LANGUAGES}
TEXTS: Mapping[str, Mapping[str, str]] = {
    one: {key: text for area in areas.values() for key, text in area.items()}
    for one, areas in AREAS.items()
}


def words_of(language: str, *areas: str) -> dict[str, str]:
    """The words that a page's script may need: those of all pages and of some areas."""
    found: dict[str, str] = {}
    for area in (_COMMON, *areas):
        found |= AREAS[language][area]
    return found


def plural(language: str, n: int) -> str:
    """The cardinal category of a whole number (CLDR)."""
    return _LOCALES[language].plural_form(n)


def say(language: str, key: str, **values: object) -> str:
    """Words with values filled in; a whole `n` chooses the plural."""
    words, n = TEXTS[language], values.get("n")
    if isinstance(n, int):
        values["n"] = number(language, n)
        chosen = f"{key}.{plural(language, n)}"
        key = chosen if chosen in words else f"{key}.other" if f"{key}.other" in words else key
    return PLACE.sub(lambda found: str(values.get(found[1], found[0])), words[key])


def number(language: str, n: int) -> str:
    """A whole number in groups of three."""
    return format_decimal(n, locale=_LOCALES[language])


def money(language: str, cents: int, currency: str) -> str:
    """An amount of minor units as `Intl.NumberFormat` of a browser writes it."""
    amount = Decimal(cents).scaleb(-get_currency_precision(currency))
    text = format_currency(amount, currency, locale=_LOCALES[language])
    return _LETTER_AT_DIGIT.sub("\N{NO-BREAK SPACE}", text)


_LOCALES = {tag: Locale.parse(tag, sep="-") for tag in LANGUAGES}
# CLDR sets a name made of letters apart from the number; Babel does not.
_LETTER_AT_DIGIT = re.compile(r"(?<=[A-Za-z])(?=\d)")

_RANGE = re.compile(r"\s*([A-Za-z*]{1,8})(?:-[A-Za-z0-9-]+)?\s*(?:;\s*q=([01](?:\.\d{0,3})?)\s*)?")


def language(wanted: str | None, accepted: str) -> str:
    """The language of a page: the one asked for, else the best of an `Accept-Language`.

    Only the first part of a tag counts: `pt-PT` reads Brazilian Portuguese rather than English.
    """
    if wanted is not None and wanted in TEXTS:
        return wanted
    ours = {tag.partition("-")[0]: tag for tag in TEXTS} | {"*": DEFAULT}
    found = [match for part in accepted.split(",") if (match := _RANGE.fullmatch(part))]
    ranked = sorted(found, key=lambda match: -float(match[2] or 1))
    chosen = [ours[match[1].lower()] for match in ranked if match[1].lower() in ours]
    return chosen[0] if chosen else DEFAULT

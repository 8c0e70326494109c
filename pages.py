"""The pages as HTML: what the templates are given, and how they are filled.

Everything is escaped by Jinja; no page has an inline script or style. A page says in its
markup what a script needs: its words in `<template id="words">`, the rest in attributes.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import instants
import texts
from texts import TEXTS

STEPS_SHOWN = 12
HISTORY_SHOWN = 100

templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class Visit:
    """Who looks at a page, in which language, under which address."""

    language: str
    query: Sequence[tuple[str, str]] = ()  # of the address, repeated by the links to a language
    account: str | None = None  # None: nobody is signed in
    customer: str | None = None  # whose orders are his own
    admin: bool = False  # may act
    reader: bool = False  # may look at the console
    shop: bool = False  # there is a shop window

    def in_language(self, tag: str) -> str:
        """The address of this page in another language."""
        kept = [(name, value) for name, value in self.query if name != "lang"]
        return f"?{urlencode([*kept, ('lang', tag)])}"


def render(visit: Visit, template: str, *areas: str, **context: Any) -> str:
    """A page; `areas` are the words that its script needs besides those of all pages."""
    return templates.get_template(template).render(
        visit=visit,
        language=visit.language,
        languages=TEXTS,
        words=TEXTS[visit.language],
        say=functools.partial(texts.say, visit.language),
        clock=functools.partial(clock, visit.language),
        scripted=texts.words_of(visit.language, *areas),
        **context,
    )


def clock(language: str, stamp: str) -> str:
    """A time for people without scripts; with one it is shown in their own zone."""
    instant = datetime.fromtimestamp(instants.parse(stamp) // 1000, UTC)
    return instant.strftime(TEXTS[language]["time"])


def console(visit: Visit, section: str, *areas: str, **context: Any) -> str:
    """A page of the console: `templates/<section>.html` with the words of that area."""
    return render(visit, f"{section}.html", section, *areas, section=section, **context)


def login(visit: Visit, target: str, *, registration: bool, **context: Any) -> str:
    """The page to sign in, and where registration is open to register.

    `context`: `wrong`, the key of what was wrong with the sign-in or the registration, and
    `username`, what was typed.
    """
    return render(visit, "login.html", "login", target=target, registration=registration, **context)


# --- the page of an order -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """A queue on the order's way. `state`: done, here, or the status it ended in."""

    queue: str
    state: str


def steps(history: Sequence[Mapping[str, Any]], order: Mapping[str, Any]) -> list[Step]:
    """The queues that an order went through, the last of them where it is now."""
    names = [history[0]["previous_queue"] or history[0]["queue"]] if history else []
    names += [item["queue"] for item in history if item["type"] == "order.forwarded"]
    if not names or names[-1] != order["queue"]:
        names.append(order["queue"])
    live = order["status"] in ("pending", "processing")
    last = "here" if live else ("done" if order["status"] == "completed" else order["status"])
    passed = [Step(name, "done") for name in names[:-1]]
    return [*passed, Step(names[-1], last)][-STEPS_SHOWN:]


def cancelled_late(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an order was asked to end and was completed all the same."""
    types = [item["type"] for item in history]
    return types[-1:] == ["order.completed"] and "order.cancel_requested" in _since_claim(types)


def _since_claim(types: Sequence[str]) -> Sequence[str]:
    claims = [place for place, name in enumerate(types) if name == "order.processing"]
    return types[claims[-1] :] if claims else types


def sentence(words: Mapping[str, str], item: Mapping[str, Any]) -> str:
    """One line of the history. A type that is newer than this page is shown as it is."""
    key = f"event.{item['type']}"
    text = words.get(f"{key}.{item['reason']}", words.get(key, item["type"]))
    return filled(text, item["queue"], item["previous_queue"])


def filled(text: str, queue: str, previous: str | None = None) -> str:
    return text.replace("{queue}", queue).replace("{previous}", previous or queue)


def place(language: str, order: Mapping[str, Any]) -> str:
    """Where it stands in the line and how long that may take; empty while it has no place."""
    if order["position"] is None:
        return ""
    words = TEXTS[language]
    exact, seconds = order["position_exact"], order["eta_seconds"]
    text = words["place.exact" if exact else "place.beyond"]
    if exact and seconds is not None:
        text += words["place.time"].replace("{time}", wait(language, seconds))
    return text.replace("{place}", texts.number(language, order["position"]))


def wait(language: str, seconds: int) -> str:
    """How long something may take, rounded up: minutes, from an hour and a half on hours."""
    minutes = -(-seconds // 60)
    if minutes < 90:
        return texts.say(language, "unit.minutes", n=minutes)
    return texts.say(language, "unit.hours", n=-(-minutes // 60))


def track(
    visit: Visit,
    order: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    *,
    names: Mapping[str, str],
    own: bool,
    cursor: str,
    stream: str,
    link_days: int | None,
    now: int,
) -> str:
    """The page of one order as of `cursor`, an event's id; `stream` goes on from there.

    `names` are those of its items that are products, by SKU; `own`: who looks may cancel it here;
    `link_days`: how long a link lives that is made here, None where the page's own is passed on;
    `now` (ms) sets the clock that its script tells the age of changes by.
    """
    words = TEXTS[visit.language]
    state = "late" if cancelled_late(history) else order["status"]
    return render(
        visit,
        "track.html",
        "track",
        order=order,
        about=filled(words[f"about.{state}"], order["queue"]),
        over=order["status"] == "completed",
        place=place(visit.language, order),
        steps=steps(history, order),
        history=[(item["time"], sentence(words, item)) for item in reversed(history)],
        names=names,
        own=own,
        cursor=cursor,
        stream=stream,
        link_days=link_days,
        now=instants.stamp(now),
        number=functools.partial(texts.number, visit.language),
        money=functools.partial(amount, visit.language, order["currency"]),
        steps_shown=STEPS_SHOWN,
        history_shown=HISTORY_SHOWN,
    )


# --- the shop -------------------------------------------------------------------------

DISCS_SHOWN = 24  # a page of the window
ORDERS_SHOWN = 8
GENRES_SHOWN = 60
FILTERS = ("q", "artist", "genre", "year_min", "year_max", "in_stock")
LOW = 5  # from here on it says how few are left
TONES, MOTIFS = 12, 8  # of shop.css and of templates/sleeves.html


@dataclass(frozen=True, slots=True)
class Sleeve:
    """How the picture of a disc is made: the same for the same SKU."""

    tone: int
    motif: int
    turn: int  # degrees

    @classmethod
    def of(cls, sku: str) -> "Sleeve":
        mark = zlib.crc32(sku.encode())
        return cls(mark % TONES, mark // TONES % MOTIFS, mark // (TONES * MOTIFS) % 4 * 90)


@dataclass(frozen=True, slots=True)
class Disc:
    """A product in the shop window. `state`: soon, out, low, plenty or uncounted."""

    sku: str
    name: str
    artist: str | None
    genre: str | None
    year: int | None
    price: str
    cents: int
    opens: str | None  # on sale from then on, while that is ahead
    available: int | None
    version: int  # of the stock; 0: not counted
    state: str
    most: int | None  # that one may buy at once
    sleeve: Sleeve

    @classmethod
    def of(cls, language: str, product: Mapping[str, Any], now: int) -> "Disc":
        about, stock, opens = product["attributes"], product["stock"], product["available_from"]
        soon = opens is not None and instants.parse(opens) > now
        available = None if stock is None else stock["available"]
        return cls(
            sku=product["sku"],
            name=product["name"],
            artist=_text(about.get("artist")),
            genre=_text(about.get("genre")),
            year=about["release_year"] if type(about.get("release_year")) is int else None,
            price=amount(language, product["currency"], product["price_cents"]),
            cents=product["price_cents"],
            opens=opens if soon else None,
            available=available,
            version=0 if stock is None else stock["version"],
            state="soon" if soon else stock_state(available),
            most=product["max_per_order"],
            sleeve=Sleeve.of(product["sku"]),
        )


def _text(value: Any) -> str | None:
    """An attribute may be anything; shown is a text that is not too long."""
    return value[:200] if isinstance(value, str) and value.strip() else None


def stock_state(available: int | None) -> str:
    if available is None:
        return "uncounted"
    if available == 0:
        return "out"
    return "low" if available <= LOW else "plenty"


def shop(
    visit: Visit,
    products: Sequence[Mapping[str, Any]],
    orders: Sequence[Mapping[str, Any]],
    *,
    filters: Mapping[str, Any],
    cursor: str,
    now: int,
    more: str | None,
    **context: Any,
) -> str:
    """The shop window as of `cursor`, an event's id, and `now` (ms); `more`: of the next page.

    `context`: `genres`, `cart` (a `Cart`; None for whoever has none).
    """
    kept = [(name, value) for name, value in visit.query if name not in ("cursor", "lang")]
    discs = [Disc.of(visit.language, one, now) for one in products]
    return render(
        visit,
        "shop.html",
        "shop",
        "track",
        section="shop",
        filtered=bool(filters),
        filters={name: filters.get(name, "") for name in FILTERS},
        discs=discs,
        dated=any(one.year is not None for one in discs),
        orders=orders,
        cursor=cursor,
        now=instants.stamp(now),
        more=None if more is None else f"/shop?{urlencode([*kept, ('cursor', more)])}",
        stay=f"/login?{urlencode({'next': f'/shop?{urlencode(kept)}' if kept else '/shop'})}",
        low=LOW,
        orders_shown=ORDERS_SHOWN,
        money=functools.partial(texts.money, visit.language),
        number=functools.partial(texts.number, visit.language),
        **context,
    )


def cart(visit: Visit, shape: Mapping[str, Any], *, cursor: str, now: int) -> str:
    """The page of a cart as of `cursor`, an event's id, and `now` (ms)."""
    return render(
        visit,
        "cart.html",
        "shop",
        section="cart",
        cart=shape,
        sleeves={line["sku"]: Sleeve.of(line["sku"]) for line in shape["items"]},
        cursor=cursor,
        now=instants.stamp(now),
        low=LOW,
        money=functools.partial(amount, visit.language),
        number=functools.partial(texts.number, visit.language),
        problem=functools.partial(line_problem, visit.language),
    )


def line_problem(language: str, line: Mapping[str, Any]) -> str:
    """Why a line of a cart cannot be bought, in words; empty if it can."""
    kind = line["problem"]
    if kind is None:
        return ""
    if kind == "out_of_stock":
        left = line["available"]
        return texts.say(language, "cart.too_few", n=left) if left else TEXTS[language]["left.out"]
    if kind == "max_per_order":
        most = line["max_per_order"]
        return (
            texts.say(language, "cart.too_many", n=most)
            if most
            else TEXTS[language]["cart.too_dear"]
        )
    if kind == "not_on_sale":
        return texts.say(language, "shop.from", time=clock(language, line["available_from"]))
    return TEXTS[language][f"cart.{kind}"]


def amount(language: str, currency: str, cents: int | None) -> str:
    return "–" if cents is None else texts.money(language, cents, currency)


def problem(visit: Visit, kind: str, way: tuple[str, str] | None) -> str:
    """The page that says no; `kind` is a code of the catalogue, or one of the pages' own.

    `way`: where it leads, and the key of the words for that.
    """
    words = TEXTS[visit.language]
    known = kind if f"problem.{kind}" in words else "other"
    return render(
        visit,
        "problem.html",
        title=words[f"problem.{known}.title"],
        text=words[f"problem.{known}"],
        way=way,
    )

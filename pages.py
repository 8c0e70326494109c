"""The pages as HTML: what the templates are given, and how they are filled.

Everything is escaped by Jinja; no page has an inline script or style. A page says in its
markup what a script needs, so it is whole without one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import instants
from texts import TEXTS

STEPS_SHOWN = 12
HISTORY_SHOWN = 100
SCRIPTED = ("status.", "about.", "place.", "event.", "line.")  # the words that track.js needs

templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


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


def sentence(words: Mapping[str, str], item: Mapping[str, Any]) -> str:
    """One line of the history. A type that is newer than this page is shown as it is."""
    key = f"event.{item['type']}"
    text = words.get(f"{key}.{item['reason']}", words.get(key, item["type"]))
    return filled(text, item["queue"], item["previous_queue"])


def filled(text: str, queue: str, previous: str | None = None) -> str:
    return text.replace("{queue}", queue).replace("{previous}", previous or queue)


def place(words: Mapping[str, str], order: Mapping[str, Any]) -> str:
    """Where it stands in the line and how long that may take; empty while it has no place."""
    if order["position"] is None:
        return ""
    exact, seconds = order["position_exact"], order["eta_seconds"]
    text = words["place.exact" if exact else "place.beyond"]
    if exact and seconds is not None:
        text += words["place.time"].replace("{minutes}", str(-(-seconds // 60)))
    return text.replace("{place}", str(order["position"]))


def clock(words: Mapping[str, str], stamp: str) -> str:
    """A time for people without scripts; with one it is shown in their own zone."""
    return datetime.fromtimestamp(instants.parse(stamp) // 1000, UTC).strftime(words["time"])


def track(
    language: str,
    order: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    *,
    cursor: str,
    stream: str,
    query: Mapping[str, str],
) -> str:
    """The page of one order as of `cursor`, an event's id.

    `stream` is the address that goes on from there, `query` what a link to the same page
    in another language must repeat.
    """
    words = TEXTS[language]
    return templates.get_template("track.html").render(
        language=language,
        languages=TEXTS,
        words=words,
        scripted={key: text for key, text in words.items() if key.startswith(SCRIPTED)},
        order=order,
        about=filled(words[f"about.{order['status']}"], order["queue"]),
        place=place(words, order),
        steps=steps(history, order),
        history=[(item["time"], sentence(words, item)) for item in reversed(history)],
        clock=lambda stamp: clock(words, stamp),
        cursor=cursor,
        stream=stream,
        query=query,
        steps_shown=STEPS_SHOWN,
        history_shown=HISTORY_SHOWN,
    )


def problem(language: str, kind: str) -> str:
    """The page that says no; `kind` is a code of the catalogue, or one of the pages' own."""
    words = TEXTS[language]
    known = kind if f"problem.{kind}" in words else "other"
    return templates.get_template("problem.html").render(
        language=language,
        words=words,
        title=words[f"problem.{known}.title"],
        text=words[f"problem.{known}"],
    )

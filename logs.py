"""Logging: loguru, one line per record, nothing secret in it.

Everybody logs with `from loguru import logger`; `start` decides once where it goes and
how it looks. Context that a request or a task carries (`request_id`, `order`) is set with
`logger.contextualize(...)` and stands in each of its records.
"""

import json
import logging
import re
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal

from loguru import logger

if TYPE_CHECKING:
    from loguru import Record

TEXT_BYTES: Final = 16 * 1024  # of a message or a traceback; the rest is cut
FILE_BYTES: Final = 10 * 1024 * 1024
FILES: Final = 5

# Libraries log what they are given at DEBUG: SQL with its values, frames, headers.
LIBRARY_LEVEL: Final = logging.INFO
OWN_HANDLERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "tortoise", "aerich")

SECRET_NAME: Final = re.compile(
    r"authorization|cookie|password|passwd|secret|receipt|ticket|token|credential|api_?key",
    re.IGNORECASE,
)
# Each pattern scans a text once: it starts at a fixed word and what follows is bounded, or
# a hostile input that we log would hold the event loop.
_QUOTED = r"""\\?"[^"\n]{0,1024}"|'[^'\n]{0,1024}'"""
_BARE = r"""[^\s"'\\&,;})\]]+"""
SECRETS: Final = (
    # scheme://user:password@host; a raw @ or / in the password is covered too
    (re.compile(r"(://[^\s:/@]{0,256}):[^\s\"'<>]{0,512}@"), r"\1:***@"),
    (re.compile(r"(\bbearer\s{1,4})[\w.~+/=-]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"(\bauthorization\b.{0,4}?\bbasic )[\w+/=]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)?"), "***"),  # a JWT
    (
        re.compile(
            r"((?:password|passwd|secret|receipt|ticket|token|fv_session)"
            rf"""\\?["']?\s{{0,4}}[=:]\s{{0,4}})(?:{_QUOTED}|{_BARE})""",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
)

# Ends a line, moves the cursor or turns the direction of writing in somebody's viewer.
CONTROL: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def start(
    level: str, style: Literal["text", "json"] | None = None, file: Path | None = None
) -> None:
    """Send every record to `file` (rotated: 5 files of 10 MiB) or to standard error.

    `style` None: text on a terminal, JSON elsewhere. The standard library's loggers
    (uvicorn, tortoise, asyncpg) come through here too. A second call replaces the first.
    """
    terminal = file is None and sys.stderr.isatty()
    shape = _text if (style or ("text" if terminal else "json")) == "text" else _json
    common: dict[str, Any] = {
        "level": level,
        "format": shape,
        "diagnose": False,  # prints the values of variables
        "backtrace": False,
        "colorize": terminal,
    }
    logger.remove()
    if file is None:
        logger.add(sys.stderr, **common)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        logger.add(file, rotation=FILE_BYTES, retention=FILES - 1, encoding="utf-8", **common)
    _take_over(level)


def redact(text: str) -> str:
    """`text` with passwords, tokens, tickets and receipts as `***`."""
    for pattern, put in SECRETS:
        text = pattern.sub(put, text)
    return text


def one_line(text: str) -> str:
    """`text` with everything that could end or disguise a line written as an escape."""
    return CONTROL.sub(_escaped, text)


# --- the two shapes -------------------------------------------------------------------


def flat(record: "Record") -> dict[str, Any]:
    """The record as a flat object of plain values: standard fields first, context after."""
    own = {
        "time": f"{record['time'].astimezone().isoformat(timespec='milliseconds')}",
        "level": record["level"].name,
        "message": _clean(record["message"]),
        "logger": record["name"],
        "line": record["line"],
    }
    context = {key: _plain(key, value) for key, value in _context(record).items()}
    if found := _exception(record):
        own["exception"] = _clean(found)
    return {**context, **own}


def _json(record: "Record") -> str:
    return _through(record, json.dumps(flat(record), default=str))  # ASCII: one line for sure


def _text(record: "Record") -> str:
    parts = [_clean(record["message"])]
    parts += [f"{key}={_plain(key, value)}" for key, value in _context(record).items()]
    if found := _exception(record):
        parts.append(_clean(found))
    line = one_line(" ".join(parts))
    when = "<green>{time:YYYY-MM-DD HH:mm:ss.SSS!UTC}</green>"
    return f"{when} <level>{{level: <8}}</level> {_through(record, line)}"


def _through(record: "Record", line: str) -> str:
    """A format that yields `line` as it is: braces or tags in it are not read again."""
    record["extra"]["_line"] = line
    return "{extra[_line]}\n"


def _context(record: "Record") -> dict[str, Any]:
    return {key: value for key, value in record["extra"].items() if key != "_line"}


def _exception(record: "Record") -> str:
    found = record["exception"]
    if found is None:
        return ""
    return "".join(traceback.format_exception(found.type, found.value, found.traceback))


def _plain(key: str, value: object) -> Any:
    """A value as it may stand in a log: masked by its name, else cleaned."""
    if SECRET_NAME.search(key):
        return "***"
    if value is None or isinstance(value, bool | int | float):
        return value
    return _clean(str(value))


def _clean(text: str) -> str:
    kept = text[:TEXT_BYTES]
    return redact(kept if len(text) <= TEXT_BYTES else kept + "…")


def _escaped(match: re.Match[str]) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return short.get(match[0]) or f"\\u{ord(match[0]):04x}"


# --- the standard library's loggers ---------------------------------------------------


class Bridge(logging.Handler):
    """Hands records of the standard library's `logging` to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        known = record.levelname in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
        level = record.levelname if known else record.levelno
        depth = _depth_of_caller()
        logger.opt(depth=depth, exception=record.exc_info).log(level, record.getMessage())


def _depth_of_caller() -> int:
    """How many frames above `Bridge.emit` the call of a logger stands."""
    frame: FrameType | None = sys._getframe(2)
    depth = 1
    while frame and frame.f_code.co_filename == logging.__file__:
        frame = frame.f_back
        depth += 1
    return depth


def _take_over(level: str) -> None:
    root = logging.getLogger()
    root.handlers = [Bridge()]
    root.setLevel(max(LIBRARY_LEVEL, logger.level(level).no))
    for name in OWN_HANDLERS:
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True
        library.setLevel(logging.NOTSET)
    logging.captureWarnings(True)

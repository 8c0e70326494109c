"""What a log line may look like and what may never stand in one."""

import contextlib
import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from loguru import logger

import logs
from tests.services import ROOT

Style = Literal["text", "json"]

HOSTILE = "a\nb\rc\x00d\x1b[2Je\u2028f\u2029g\x85h\u202ei\ud800j {braces} <red>tags</red> %s"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9.c2lnbmF0dXJl"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What stands in for standard error; logging is as it was afterwards."""
    root = logging.getLogger()
    before = root.handlers, root.level
    yield io.StringIO()
    logger.remove()
    root.handlers, root.level = before
    logging.captureWarnings(False)


def start(stream: io.StringIO, level: str, style: Style, file: Path | None = None) -> None:
    with contextlib.redirect_stderr(stream):
        logs.start(level, style, file)


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("style", ["text", "json"])
def test_one_line_per_record(stream: io.StringIO, style: Style) -> None:
    """A record is one line whatever is in its message, its context or its exception."""
    start(stream, "INFO", style)
    with logger.contextualize(request_id=HOSTILE):
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logger.exception(HOSTILE)
    assert len(lines(stream)) == 1
    assert logs.CONTROL.search(stream.getvalue().rstrip("\n")) is None


def test_json_is_flat(stream: io.StringIO) -> None:
    """JSON has level, message, context and exception at the top, ready for a collector."""
    start(stream, "INFO", "json")
    with logger.contextualize(request_id="r1", order="o1", count=3):
        try:
            raise KeyError("k")
        except KeyError:
            logger.exception("it broke")
    found = json.loads(stream.getvalue())
    assert found["message"] == "it broke"
    assert (found["level"], found["request_id"], found["order"], found["count"]) == (
        "ERROR",
        "r1",
        "o1",
        3,
    )
    assert found["exception"].endswith("KeyError: 'k'\n")
    assert all(not isinstance(value, dict | list) for value in found.values())


def test_context_cannot_forge_a_field(stream: io.StringIO) -> None:
    """A context named like a standard field does not replace it."""
    start(stream, "INFO", "json")
    with logger.contextualize(level="forged", message="forged"):
        logger.info("true")
    found = json.loads(stream.getvalue())
    assert (found["level"], found["message"]) == ("INFO", "true")


def test_values_of_variables_are_not_printed(stream: io.StringIO) -> None:
    """A traceback shows code and no variable's value."""
    start(stream, "INFO", "text")
    hidden = "h" + "unter2-value"
    try:
        _ = 1 / len(hidden[:0])
    except ZeroDivisionError:
        logger.exception("it broke")
    assert "ZeroDivisionError" in stream.getvalue()
    assert hidden not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "GET /api/v1/events?topic=stock&ticket=SECRETVALUE HTTP/1.1",
        'body {"receipt": "SECRETVALUE", "error": "x"}',
        "body {'receipt': 'SECRETVALUE'}",
        r"escaped {\"receipt\": \"SECRETVALUE\"}",
        "receipt=SECRETVALUE",
        "Authorization: Bearer SECRETVALUE",
        "authorization: Basic SECRETVALUE",
        "('authorization', 'Bearer SECRETVALUE')",
        "password: SECRETVALUE",
        '"current_password":"two words SECRETVALUE"',
        "refresh_token=SECRETVALUE&x=1",
        "Cookie: fv_session=SECRETVALUE; other=1",
        "Cookie: __Host-fv_session=SECRETVALUE",
        "postgres://filaviva:SECRETVALUE@db:5432/shop",
        "postgres://filaviva:SECRET@VALUE@db:5432/shop",
        "redis://:SECRETVALUE@cache/0",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    """No ticket, receipt, password, token or credential of a URL stands in a log."""
    shown = logs.redact(text)
    assert "SECRETVALUE" not in shown
    assert "VALUE" not in shown
    assert "***" in shown


def test_a_jwt_is_masked_wherever_it_stands(stream: io.StringIO) -> None:
    """A token in a message, a context value or an exception is masked."""
    start(stream, "INFO", "json")
    with logger.contextualize(note=f"seen {JWT}"):
        try:
            raise ValueError(JWT)
        except ValueError:
            logger.exception("bad token {}", JWT)
    assert JWT not in stream.getvalue()
    assert "eyJ" not in stream.getvalue()


def test_context_is_masked_by_its_name(stream: io.StringIO) -> None:
    """A value is masked when its name says that it is secret."""
    start(stream, "INFO", "text")
    with logger.contextualize(receipt="abc-value", METRICS_TOKEN="def-value"):
        logger.info("x")
    assert "-value" not in stream.getvalue()


def test_plain_text_stays() -> None:
    """What is no secret is logged as it is."""
    text = "order 01a1 of c-7 moved to https://shop.example:8443/track/01a1?topic=stock"
    assert logs.redact(text) == text


@pytest.mark.parametrize("piece", ["a-", "eyJ-", "://a:", "ticket", "bearer ", '"', "token='"])
def test_hostile_text_is_masked_in_time(piece: str) -> None:
    """No text that a caller can send makes the masking slow."""
    started = time.thread_time()
    logs.redact(piece * (logs.TEXT_BYTES // len(piece)))
    assert time.thread_time() - started < 3


def test_a_huge_message_is_cut(stream: io.StringIO) -> None:
    """A record has a bound in size."""
    start(stream, "INFO", "json")
    logger.info("x" * 10_000_000)
    assert len(stream.getvalue()) < 2 * logs.TEXT_BYTES


def test_libraries_come_through(stream: io.StringIO) -> None:
    """uvicorn, tortoise and asyncpg log in our shape, masked, with their caller's place."""
    start(stream, "INFO", "json")
    for name in ("uvicorn.error", "tortoise", "asyncpg"):
        logging.getLogger(name).warning("seen %s?ticket=SECRETVALUE", name)
    found = [json.loads(line) for line in lines(stream)]
    assert [one["message"] for one in found] == [
        "seen uvicorn.error?ticket=***",
        "seen tortoise?ticket=***",
        "seen asyncpg?ticket=***",
    ]
    assert {one["logger"] for one in found} == {__name__}


def test_libraries_never_log_their_details(stream: io.StringIO) -> None:
    """Even at TRACE no library logs SQL with the values of customers."""
    start(stream, "TRACE", "json")
    logging.getLogger("tortoise.db_client").debug("SELECT %s", "a customer")
    logger.trace("ours")
    assert [json.loads(line)["message"] for line in lines(stream)] == ["ours"]


def test_level(stream: io.StringIO) -> None:
    """What is less serious than the level is not logged."""
    start(stream, "WARNING", "text")
    logger.info("quiet")
    logger.warning("loud")
    assert [line.endswith("loud") for line in lines(stream)] == [True]


def test_json_unless_a_terminal() -> None:
    """Where nobody looks the default is JSON."""
    code = "import logs; from loguru import logger; logs.start('INFO'); logger.info('hi')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert json.loads(done.stderr)["message"] == "hi"


def test_file_is_rotated(
    stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOG_FILE has a bound in size and in number of files, and no colour in it."""
    monkeypatch.setattr(logs, "FILE_BYTES", 2_000)
    start(stream, "INFO", "text", tmp_path / "logs" / "filaviva.log")
    for number in range(200):
        logger.info("line {} {}", number, HOSTILE)
    logger.remove()
    files = sorted((tmp_path / "logs").iterdir())
    assert 1 < len(files) <= logs.FILES
    assert all(path.stat().st_size <= 4_000 for path in files)
    assert all("\x1b" not in path.read_text() for path in files)
    assert stream.getvalue() == ""

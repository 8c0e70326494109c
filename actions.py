"""What admins did: a line for each action, committed before the action begins.

So nothing can have been done without its line. What came of it is written behind it
afterwards; a line without that was under way when its process died, or its outcome could
not be written: the data themselves say whether it happened.

A line holds names and ids, and of what was sent all but secrets and personal data.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loguru import logger
from pydantic_core import to_json

import database
from database import Database, Dialect, Row
from ids import new_id
from instants import stamp
from logs import SECRET_NAME, redact
from schemas import UNSTORABLE, make_cursor, read_cursor

DETAIL_BYTES = 4 * 1024
SEARCHED_BYTES = 4 * DETAIL_BYTES  # with secrets; to look for them in megabytes takes seconds
TARGET_LENGTH = 128  # of a path that names nothing we have
STEP = 5_000  # lines deleted in one transaction
MASK = "***"
PLACE = re.compile(r"[0-9]{1,18}:[0-9a-f-]{36}")  # in the list: `at` and id

COLUMNS = "id, at, account, action, target, detail, status, code, request_id, address"


@dataclass(frozen=True, slots=True)
class Intent:
    """What somebody is about to do."""

    account: str
    action: str
    target: str | None
    detail: str | None  # as `detail_of` makes it
    request_id: str
    address: str


# --- what is written down -------------------------------------------------------------


def target_of(value: str) -> str:
    """A path's value as it can be stored, whatever it holds."""
    return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)[:TARGET_LENGTH]


def detail_of(sent: Mapping[str, Any], *, personal: bool) -> str | None:
    """What was sent as JSON, at most 4 KiB, without secrets; beyond that the fields' names.

    `personal`: no value of it is written down, such as a customer's data or a password.
    """
    if not sent:
        return None
    kept = dict.fromkeys(sent, MASK) if personal else sent
    if len(to_json(kept)) > SEARCHED_BYTES or len(text := to_json(_masked(kept))) > DETAIL_BYTES:
        text = to_json({"fields": list(sent)})
    return text.decode()


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _value(name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def _value(name: str, value: Any) -> Any:
    """A secret is told by its name; `true` and numbers are none (`revoke_tokens`)."""
    secret = SECRET_NAME.search(name) is not None and isinstance(value, str | list | Mapping)
    return MASK if secret else _masked(value)


BEGIN = {
    dialect: f"INSERT INTO actions ({COLUMNS})"
    f" VALUES ($1, {dialect.clock}, $2, $3, $4, $5, NULL, NULL, $6, $7)"
    for dialect in Dialect
}
END = "UPDATE actions SET status = $2, code = $3 WHERE id = $1"


async def begin(db: Database, intent: Intent) -> str:
    """Commit the line of an action; its id. Whatever this raises, the action must not happen."""
    line = new_id()
    async with db.transaction() as session:
        await session.execute(
            BEGIN[session.dialect],
            line,
            intent.account,
            intent.action,
            intent.target,
            intent.detail,
            intent.request_id,
            intent.address,
        )
    return line


async def end(db: Database, line: str, status: int, code: str | None) -> None:
    """Write what came of it. Where that cannot be, the action stays done all the same."""
    try:
        async with db.transaction() as session:
            await session.execute(END, line, status, code)
    except database.DRIVER_ERRORS as error:
        logger.warning("the outcome of action {} is not kept: {}", line, type(error).__name__)


# --- reading --------------------------------------------------------------------------

WHERE = {
    "account": "account = ${}",
    "action": "action = ${}",
    "target": "target = ${}",
    "after": "at >= ${}",
    "before": "at < ${}",
}


def action_shape(row: Row) -> dict[str, Any]:
    """An `Action`."""
    return {
        "id": str(row["id"]),
        "at": stamp(row["at"]),
        "account": row["account"],
        "action": row["action"],
        "target": row["target"],
        "detail": None if row["detail"] is None else json.loads(row["detail"]),
        "status": row["status"],
        "code": row["code"],
        "request_id": row["request_id"],
        "address": row["address"],
    }


async def page(
    db: Database, filters: Mapping[str, Any], cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """Actions that fit all filters of `WHERE`, newest first, and the cursor of the next page.

    Raises:
        BadCursor: the cursor is not of this list.
    """
    place = read_cursor(cursor, filters, PLACE)
    conditions = [WHERE[name].format(n) for n, name in enumerate(filters, 1)]
    arguments = list(filters.values())
    if place is not None:
        at, _, line = place.partition(":")
        conditions.append(f"(at, id) < (${len(arguments) + 1}, ${len(arguments) + 2})")
        arguments += [int(at), line]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    async with db.read() as session:
        rows = await session.fetch(
            f"SELECT {COLUMNS} FROM actions{where} ORDER BY at DESC, id DESC LIMIT {limit + 1}",
            *arguments,
        )
    found = rows[:limit]
    more = len(rows) > limit
    last_place = f"{found[-1]['at']}:{found[-1]['id']}" if more else ""
    return [action_shape(row) for row in found], make_cursor(last_place, filters) if more else None


# --- pruning --------------------------------------------------------------------------

PRUNE = (
    "DELETE FROM actions WHERE id IN"
    f" (SELECT id FROM actions WHERE at < $1 ORDER BY at LIMIT {STEP}) RETURNING id"
)


async def prune(db: Database, before: int) -> None:
    """Forget what was done before an instant."""
    gone = STEP
    while gone == STEP:
        async with db.transaction() as session:
            gone = len(await session.fetch(PRUNE, before))

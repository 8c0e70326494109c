"""What streams send, held against the AsyncAPI document."""

from copy import deepcopy
from functools import cache
from typing import Any

import jsonschema_rs

import asyncapi

DOCUMENT = asyncapi.document("1", "http://filaviva.test", "fv_session", public_stock=False)


def closed() -> dict[str, Any]:
    """The components, with nothing allowed that is not described."""
    made = deepcopy(DOCUMENT["components"])
    for schema in made["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return made


@cache
def validator(event: str) -> Any:
    """Of a whole block `{headers, payload}`. Raises KeyError for an unknown event."""
    components = closed()
    message = components["messages"][event]
    parts = {name: message[name] for name in ("headers", "payload")}
    schema = {"components": components, "required": [*parts], "properties": parts}
    return jsonschema_rs.Draft7Validator(schema)


def check(event: str | None, fields: dict[str, Any], data: Any) -> None:
    """Raises AssertionError for a block that is not described, or otherwise."""
    assert event in DOCUMENT["components"]["messages"], f"not described: {event}"
    block = {"headers": {"event": event, **fields}, "payload": data}
    found = [f"{one.instance_path}: {one.message}" for one in validator(event).iter_errors(block)]
    assert not found, f"{event} is not as described: {found}"

"""The OpenAPI 3.1 document, made from the same words that make the routes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import schemas
from errors import Problem
from models import Role

REFERENCE = "#/components/schemas/{model}"
STREAM = "text/event-stream"
TAGS = {
    "Accounts": "Sign in, and who may do what.",
    "Queues": "Named queues, their settings and exact counts.",
    "Messages": "Post purchases; take them under a lease; settle them.",
    "Orders": "Purchases as their customers see them.",
    "Cart": "What a customer means to buy, wherever he signs in.",
    "Products": "What is for sale, and how many of it there are.",
    "Customers": "The directory of who buys, and what they keep an eye on.",
    "Events": "Every change, live and from the log.",
    "Operations": "For those who run the service.",
    "Pages": "What people look at in a browser.",
}
PATHS: dict[str, dict[str, Any]] = {
    "id": {"format": "uuid", "examples": [schemas.EXAMPLE_ID]},
    "name": {"pattern": schemas.QUEUE_NAME, "examples": ["orders"]},
    "sku": {"pattern": schemas.SKU, "examples": ["disc-001"]},
    "customer": {"pattern": schemas.SKU, "examples": ["c-7"]},
    "username": {"pattern": schemas.USERNAME, "examples": ["shop"]},
    "stream": {"pattern": schemas.STREAM_ID, "examples": ["5d0c2f9a1b-17"]},
}
HEADERS = {
    "If-Match": 'The version it must have, as in its ETag: `"3"`.',
    "Idempotency-Key": "1 to 255 visible ASCII characters; the same again answers as before.",
}


@dataclass(frozen=True, slots=True)
class Paged:
    """A page of a model: `{items, next_cursor}`."""

    item: type[BaseModel]


def page(item: type[BaseModel]) -> Paged:
    return Paged(item)


@dataclass(frozen=True, slots=True)
class Operation:
    """A route as it is seen from outside. `answer`: a model, a page, or a media type."""

    method: str
    path: str
    verb: str
    tag: str
    summary: str
    roles: frozenset[Role] | None
    ticket: bool
    limit: str
    query: type[schemas.Query]
    body: Any
    headers: Sequence[str]
    answer: Any
    status: int
    problems: Sequence[type[Problem]]


# Items of calls for many are checked one by one, so no body's model names them.
ITEMS: tuple[type[BaseModel], ...] = (
    schemas.Purchase,
    schemas.AckItem,
    schemas.NackItem,
    schemas.ReleaseItem,
    schemas.ExtendItem,
    schemas.Problem,
)


def document(version: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole document as plain values."""
    paths: dict[str, Any] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Filaviva",
            "version": version,
            "summary": "A purchase queue you can watch.",
        },
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": _components(operations),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "password": {
                    "type": "oauth2",
                    "flows": {"password": {"tokenUrl": "/api/v1/auth/token", "scopes": {}}},
                },
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
        },
    }


def _name(model: type[BaseModel]) -> str:
    return model.model_config.get("title") or model.__name__


def _components(operations: Sequence[Operation]) -> dict[str, Any]:
    incoming = {one.body.model for one in operations if one.body is not None}
    outgoing = {model for one in operations if (model := _model(one.answer)) is not None}
    wanted: list[tuple[type[BaseModel], Any]] = [
        *((model, "validation") for model in sorted(incoming | set(ITEMS[:-1]), key=_name)),
        *((model, "serialization") for model in sorted(outgoing, key=_name)),
        (schemas.Problem, "serialization"),
        *((model, "serialization") for model in (*schemas.EVENTS, *schemas.CONTROL.values())),
    ]
    _, made = models_json_schema(wanted, ref_template=REFERENCE)
    for model in incoming | set(ITEMS[:-1]):
        _allow_nulls(made["$defs"][model.__name__])
    return made["$defs"]


def _allow_nulls(schema: dict[str, Any]) -> None:
    """In a body `null` means left out: what may be left out may be null."""
    for name, kind in schema.get("properties", {}).items():
        if name in schema.get("required", ()) or "type" not in kind:
            continue
        about = {key: kind.pop(key) for key in ("title", "description", "default") if key in kind}
        schema["properties"][name] = {**about, "anyOf": [kind, {"type": "null"}]}


def _model(answer: Any) -> type[BaseModel] | None:
    if isinstance(answer, Paged):
        return answer.item
    return answer if isinstance(answer, type) else None


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


def _operation(one: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": one.verb,
        "tags": [one.tag],
        "summary": one.summary,
        "responses": _responses(one),
    }
    if parameters := _parameters(one):
        made["parameters"] = parameters
    if one.body is not None:
        made["requestBody"] = _request(one)
    if one.roles is not None:
        made["security"] = [{"bearer": []}, {"password": []}]
        if one.ticket:
            made["security"].append({"ticket": []})
        made["description"] = f"Roles: {', '.join(sorted(one.roles))}."
    return made


def _parameters(one: Operation) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": _path_schema(name)}
        for name in re.findall(r"\{(\w+)\}", one.path)
    ]
    for name, kind in schemas.parameters(one.query).items():
        required = one.query.model_fields[name].is_required()
        found.append({"name": name, "in": "query", "required": required, "schema": kind})
    return found + [_header(name) for name in one.headers]


def _header(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": HEADERS[name],
        "schema": {"type": "string"},
    }


def _path_schema(name: str) -> dict[str, Any]:
    return {"type": "string", **PATHS[name]}


def _request(one: Operation) -> dict[str, Any]:
    form = type(one.body).__name__ == "Form"
    kinds = ["application/x-www-form-urlencoded"] if form else ["application/json"]
    if form and one.body.or_json:
        kinds.append("application/json")
    content = {kind: {"schema": _reference(one.body.model)} for kind in kinds}
    return {"required": not one.body.optional, "content": content}


def _responses(one: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {str(one.status): _success(one)}
    if one.verb in ("enqueue", "place_order", "check_out"):
        made["200"] = {**_success(one), "description": "Made by an earlier call with this key."}
    if one.verb in ("cancel_message", "cancel_order"):
        made["202"] = {**_success(one), "description": "Asked; its worker ends it."}
    by_status: dict[int, list[str]] = {}
    for problem in one.problems:
        codes = by_status.setdefault(problem.status, [])
        if problem.code not in codes:
            codes.append(problem.code)
    for status, codes in sorted(by_status.items()):
        content: dict[str, Any] = {
            "application/problem+json": {"schema": _reference(schemas.Problem)}
        }
        if one.tag == "Pages":
            content["text/html"] = {}  # whoever opened a page is told by a page
        made[str(status)] = {"description": ", ".join(sorted(codes)), "content": content}
    if one.tag == "Pages" and one.status != 303:
        made["303"] = {"description": "Another page: to sign in, or what was looked for."}
    if one.verb == "ready":
        made["503"] = {**_success(one), "description": "It cannot serve now."}
    return made


def _success(one: Operation) -> dict[str, Any]:
    if one.status in (204, 303):
        return {"description": one.summary if one.status == 303 else "Done."}
    if one.answer == STREAM:
        return {"description": one.summary, "content": {STREAM: {"schema": _blocks()}}}
    if isinstance(one.answer, str):
        return {"description": one.summary, "content": {one.answer: {}}}
    schema: dict[str, Any] = {"type": "object"}
    if isinstance(one.answer, Paged):
        schema = {
            "type": "object",
            "required": ["items", "next_cursor"],
            "properties": {
                "items": {"type": "array", "items": _reference(one.answer.item)},
                "next_cursor": {"type": ["string", "null"]},
            },
        }
    elif one.answer is not None:
        schema = _reference(one.answer)
    return {"description": one.summary, "content": {"application/json": {"schema": schema}}}


def _blocks() -> dict[str, Any]:
    """A stream as a list of its blocks; which of them come when, AsyncAPI says."""
    kinds = [*schemas.EVENTS, *schemas.CONTROL.values()]
    data: dict[str, Any] = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [_reference(kind) for kind in kinds]},
    }
    block: dict[str, Any] = {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string"},
            "id": {"type": "string"},
            "retry": {"type": "integer", "description": "In milliseconds."},
            "data": data,
        },
    }
    return {
        "type": "string",
        "contentMediaType": STREAM,
        "contentSchema": {"type": "array", "items": block},
    }

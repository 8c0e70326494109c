"""The AsyncAPI 3 document of the streams, made from the models that make OpenAPI too.

It is written from the service's side, as AsyncAPI wants it: what a client receives, the
service sends. A channel is a topic; its address goes into `topic=` of the one GET.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic.json_schema import models_json_schema

import schemas

PATH = "/api/v1/events"
ABOUT = (
    "Every change, at the moment it is committed, as server-sent events. One GET follows 1 to 64"
    " channels: give the address of each as `topic=`. A message is a block: its `event`, `id` and"
    " `retry` are the message's headers here, its `data` the payload. The service sends and never"
    " receives; a client is made from the opposite of these operations. Ignore messages that are"
    " not described here: there will be more."
)
BINDING = "0.3.0"
ID = {"type": "string", "pattern": schemas.EVENT_ID}
RETRY = {"type": "integer", "minimum": 0, "description": "In milliseconds."}
ANYWHERE = ("hello", "snapshot", "reset", "bookmark", "goodbye")
# Fields of a control frame's block besides event and data, and whether they always come.
FIELDS: dict[str, dict[str, bool]] = {
    "hello": {"id": False, "retry": True},
    "snapshot": {"id": False},
    "reset": {"id": False},
    "bookmark": {"id": True},
    "counts": {},
    "position": {},
    "goodbye": {"retry": False},
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A kind of topic: what comes on it besides the frames that come anywhere."""

    address: str
    summary: str
    messages: tuple[str, ...]
    parameter: tuple[str, str, str] | None = None  # its name, what it is, an example
    public: bool = False  # with PUBLIC_STOCK nobody needs a credential


ORDER_ID = ("id", "The id of an order.", schemas.EXAMPLE_ID)
CUSTOMER = ("customer", "The id of a customer.", "c-7")
QUEUE = ("name", "The name of a queue.", "orders")
SKU = ("sku", "The SKU of a product.", "disc-001")

TOPICS: dict[str, Topic] = {
    "order": Topic(
        "order:{id}",
        "One order, through all its queues, and its place in the line.",
        (*schemas.ORDER_TYPES, "position"),
        ORDER_ID,
    ),
    "customer": Topic(
        "customer:{customer}",
        "All orders of a customer, also those posted later.",
        (*schemas.ORDER_TYPES,),
        CUSTOMER,
    ),
    "queue": Topic(
        "queue:{name}",
        "The orders in a queue, and changes of the queue itself.",
        (*schemas.ORDER_TYPES, *schemas.QUEUE_TYPES),
        QUEUE,
    ),
    "queues": Topic(
        "queues", "Changes of all queues and their counts.", (*schemas.QUEUE_TYPES, "counts")
    ),
    "stock_of_product": Topic(
        "stock:{sku}", "What is available of one product.", (*schemas.STOCK_TYPES,), SKU, True
    ),
    "stock": Topic(
        "stock", "What is available of all products.", (*schemas.STOCK_TYPES,), public=True
    ),
    "favourites": Topic(
        "favourites",
        "The stock of all favourites of the caller, as they are at the moment.",
        (*schemas.STOCK_TYPES, *schemas.FAVOURITES_TYPES),
    ),
}


def document(version: str, public_url: str, cookie: str, *, public_stock: bool) -> dict[str, Any]:
    """The whole document as plain values. `cookie`: the name of the pages' cookie."""
    where = urlsplit(public_url)
    server = {"host": where.netloc, "protocol": where.scheme, "pathname": PATH}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Filaviva", "version": version, "description": ABOUT},
        "defaultContentType": "application/json",
        "servers": {"filaviva": server},
        "channels": {name: _channel(topic) for name, topic in TOPICS.items()},
        "operations": {
            f"stream_{name}": _operation(name, topic, open_to_all=topic.public and public_stock)
            for name, topic in TOPICS.items()
        },
        "components": {
            "schemas": _schemas(),
            "messages": {**_events(), **_frames()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "ticket": {"type": "httpApiKey", "in": "query", "name": "ticket"},
                "cookie": {"type": "httpApiKey", "in": "cookie", "name": cookie},
            },
            "operationBindings": {"open": _opening()},
            "messageBindings": {"stream": _answer()},
        },
    }


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _schemas() -> dict[str, Any]:
    models = [*schemas.EVENTS, *schemas.CONTROL.values()]
    _, made = models_json_schema(
        [(model, "serialization") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    return made["$defs"]


# --- channels and operations ----------------------------------------------------------


def _channel(topic: Topic) -> dict[str, Any]:
    names = (*ANYWHERE, *topic.messages)
    made: dict[str, Any] = {
        "address": topic.address,
        "summary": topic.summary,
        "messages": {name: _reference("messages", name) for name in names},
    }
    if topic.parameter is not None:
        name, text, example = topic.parameter
        made["parameters"] = {name: {"description": text, "examples": [example]}}
    return made


def _operation(name: str, topic: Topic, *, open_to_all: bool) -> dict[str, Any]:
    made: dict[str, Any] = {
        "action": "send",
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": topic.summary,
        "bindings": _reference("operationBindings", "open"),
    }
    if not open_to_all:
        kinds = ("bearer", "ticket", "cookie")
        made["security"] = [_reference("securitySchemes", kind) for kind in kinds]
    return made


def _opening() -> dict[str, Any]:
    """The GET that opens a stream."""
    query = {
        "type": "object",
        "properties": schemas.parameters(schemas.EventsQuery),
        "additionalProperties": False,
    }
    return {"http": {"method": "GET", "query": query, "bindingVersion": BINDING}}


def _answer() -> dict[str, Any]:
    """What stands before the first message."""
    headers = {
        "type": "object",
        "required": ["Content-Type"],
        "properties": {"Content-Type": {"type": "string", "pattern": "^text/event-stream"}},
    }
    return {"http": {"statusCode": 200, "headers": headers, "bindingVersion": BINDING}}


# --- messages -------------------------------------------------------------------------


def _events() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for model, types in schemas.EVENTS.items():
        for name, summary in types.items():
            only = {"type": "object", "properties": {"type": {"const": name}}}
            payload = {"allOf": [_reference("schemas", model.__name__), only]}
            found[name] = _message(name, summary, payload, {"id": True})
            found[name]["contentType"] = "application/cloudevents+json"
    return found


def _frames() -> dict[str, Any]:
    return {
        name: _message(
            name,
            " ".join((model.__doc__ or "").split()),
            _reference("schemas", model.__name__),
            FIELDS[name],
        )
        for name, model in schemas.CONTROL.items()
    }


def _message(
    name: str, summary: str, payload: dict[str, Any], fields: dict[str, bool]
) -> dict[str, Any]:
    return {
        "name": name,
        "summary": summary,
        "headers": _headers(name, fields),
        "payload": payload,
        "bindings": _reference("messageBindings", "stream"),
    }


def _headers(name: str, fields: dict[str, bool]) -> dict[str, Any]:
    """The fields of a block but its data."""
    kinds = {"id": ID, "retry": RETRY}
    return {
        "type": "object",
        "required": ["event", *(field for field, always in fields.items() if always)],
        "properties": {"event": {"const": name}, **{field: kinds[field] for field in fields}},
        "additionalProperties": False,
    }

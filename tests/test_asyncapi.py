"""The AsyncAPI document: valid, and exactly what streams send.

`tests.sse` holds every block that any test reads against it; here are the document itself,
and that nothing is missing in it and nothing too much.
"""

import ast
import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jsonschema_rs

import asyncapi
import hub
from auth import parse_topic
from errors import Invalid
from instants import stamp
from tests.answers import good, problem, stored
from tests.frames import DOCUMENT
from tests.house import API, CUSTOMER, House
from tests.live import PUBLIC_URL, ticket, watch
from tests.services import ROOT, until
from tests.sse import CONTROL, Stream, block_of
from tests.test_favourites import Own, owner

MESSAGES = set(DOCUMENT["components"]["messages"])


def pointed(document: dict[str, Any], reference: str) -> Any:
    """What a `#/…` leads to. Raises KeyError."""
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_it_is_asyncapi_3(npm: Path) -> None:
    """The document fits AsyncAPI's own schema, and every reference in it leads somewhere."""
    schemas = npm / "@asyncapi" / "specs" / "schemas"
    text = (schemas / "3.0.0-without-$id.json").read_text(encoding="utf-8")
    jsonschema_rs.Draft7Validator(json.loads(text)).validate(DOCUMENT)
    assert DOCUMENT["asyncapi"] == "3.0.0"
    for reference in references(DOCUMENT):
        assert pointed(DOCUMENT, reference), reference


def test_every_schema_is_one() -> None:
    """Each component, payload and header is a JSON Schema of the draft that AsyncAPI builds on."""
    components = DOCUMENT["components"]
    for name in components["schemas"]:
        schema = {"components": components, "$ref": f"#/components/schemas/{name}"}
        jsonschema_rs.Draft7Validator(schema)
    for message in components["messages"].values():
        assert message["headers"]["type"] == "object"
        jsonschema_rs.Draft7Validator({"components": components, **message["payload"]})


def test_each_operation_sends_what_its_channel_carries() -> None:
    """One operation a channel, sent by the service; an address has its parameters, no query."""
    channels, operations = DOCUMENT["channels"], DOCUMENT["operations"].values()
    assert {one["channel"]["$ref"] for one in operations} == {f"#/channels/{c}" for c in channels}
    assert {one["action"] for one in operations} == {"send"}
    for channel in channels.values():
        names = set(re.findall(r"\{(\w+)\}", channel["address"]))
        assert names == set(channel.get("parameters", ()))
        assert "?" not in channel["address"]
        for name, reference in channel["messages"].items():
            assert reference == {"$ref": f"#/components/messages/{name}"}


def example(channel: dict[str, Any]) -> str:
    given = {name: one["examples"][0] for name, one in channel.get("parameters", {}).items()}
    return channel["address"].format(**given)


def test_its_channels_are_the_topics() -> None:
    """Each address is a topic that the service takes, and every kind of topic has one."""
    topics = [example(channel) for channel in DOCUMENT["channels"].values()]
    kinds = {parse_topic(topic)[0] for topic in topics}
    told = re.findall(r"^\| `(\w+)", (ROOT / "docs" / "streams.md").read_text(), re.MULTILINE)
    assert kinds == {one for one in told if is_topic(one)}


def is_topic(name: str) -> bool:
    for text in (name, f"{name}:c-7", f"{name}:01a1ff43-dd00-7b3e-8f21-4c5d6e7f8091"):
        try:
            parse_topic(text)
        except Invalid:
            continue
        return True
    return False


# --- served ---------------------------------------------------------------------------


def test_it_is_served_to_everybody_as_it_is_here(house: House) -> None:
    """Anybody may read it, by GET and HEAD; its server is PUBLIC_URL."""
    nobody = house.client(None)
    answer = nobody.get("/asyncapi.json")
    assert answer.headers["content-type"] == "application/json"
    served = good(answer)
    served["info"]["version"] = DOCUMENT["info"]["version"]
    assert served == DOCUMENT
    (server,) = served["servers"].values()
    where = f"{server['protocol']}://{server['host']}{server['pathname']}"
    assert where == f"{PUBLIC_URL}{API}/events"
    assert nobody.head("/asyncapi.json").status_code == 200
    problem(nobody.get("/asyncapi.json?x=1"), 422, "invalid")


def test_what_differs_by_settings_is_told() -> None:
    """Behind TLS the cookie has another name; with PUBLIC_STOCK stock needs no credential."""
    doc = asyncapi.document("1", "https://shop.example", "__Host-fv_session", public_stock=True)
    assert doc["servers"]["filaviva"]["host"] == "shop.example"
    assert doc["servers"]["filaviva"]["protocol"] == "https"
    assert doc["components"]["securitySchemes"]["cookie"]["name"] == "__Host-fv_session"
    free = {name for name, one in doc["operations"].items() if "security" not in one}
    assert free == {"stream_stock", "stream_stock_of_product"}


# --- what streams send ----------------------------------------------------------------


class Story:
    """Whatever can happen, once, and a stream of each kind of topic that watches it."""

    def __init__(self, house: House, own: Own, stack: ExitStack) -> None:
        self.house, self.own = house, own
        self.queue, self.next = house.queue(), house.queue()
        self.sku = f"of-{self.queue}"
        self.receive(1)
        order = house.post(self.queue, items=[{"sku": self.sku, "quantity": 1}])["id"]
        own.favourite(self.sku)
        topics = {
            "order": f"order:{order}",
            "customer": f"customer:{CUSTOMER}",
            "queue": f"queue:{self.queue}",
            "queues": "queues",
            "stock_of_product": f"stock:{self.sku}",
            "stock": "stock",
        }
        self.streams = {name: watch(house, topic, snapshot=1) for name, topic in topics.items()}
        self.streams["favourites"] = own.watch(snapshot=1)
        for stream in self.streams.values():
            stack.enter_context(stream)
            stream.first("snapshot")

    def receive(self, quantity: int) -> None:
        path = f"/products/{self.sku}/stock/receive"
        good(self.house.client().post(path, json={"quantity": quantity}))

    def settle(self, verb: str, queue: str, **body: Any) -> None:
        (message,) = until(lambda: self.house.claim(queue), 30, "a message")
        good(self.house.settle(verb, message, **body))

    def orders(self) -> None:
        """Every move of an order."""
        self.streams["order"].first("position")
        self.settle("nack", self.queue, error="no", delay_seconds=0)
        self.settle("ack", self.queue, forward_to=self.next)
        self.house.post(self.queue)
        (taken,) = self.house.claim(self.queue)
        assert self.house.client().post(f"/messages/{taken['id']}/cancel").status_code == 202
        good(self.house.settle("release", taken))
        self.house.post(self.queue)
        self.settle("ack", self.queue)
        self.house.post(self.queue)
        self.settle("nack", self.queue, error="no", retry=False)
        late = stamp(time.time_ns() // 1_000_000 + 3_600_000)
        order = self.house.post(self.queue, delay_seconds=1000, expires_at=late)["id"]
        stored(self.house, f"UPDATE messages SET expires_at = created_at WHERE id = '{order}'")
        self.streams["queue"].first("order.expired")

    def stock(self) -> None:
        """Every edge, and a list that changes."""
        path = f"/products/{self.sku}/stock"
        self.receive(3)
        good(self.house.client().patch(path, json={"low_at": 2}))
        for quantity in (2, 1):
            self.house.post(self.next, items=[{"sku": self.sku, "quantity": quantity}])
        self.streams["favourites"].first("stock.depleted")
        self.own.drop(self.sku)

    def queues(self) -> None:
        """Every change of a queue."""
        client, path = self.house.client(), f"/queues/{self.queue}"
        good(client.patch(path, json={"description": "seen"}))
        good(client.post(f"{path}/pause"))
        good(client.post(f"{path}/resume"))
        assert client.delete(path).status_code == 204
        good(client.post("/queues", json={"name": self.queue}), 201)

    def tell(self) -> None:
        self.orders()
        self.stock()
        self.queues()


def names(stream: Stream) -> set[str]:
    return {block.event or "" for block in stream.blocks}


def test_every_message_comes_and_what_comes_is_there(house: House) -> None:
    """Streams of each kind of topic send just the events of their channel, each as described."""
    with ExitStack() as stack:
        story = Story(house, stack.enter_context(owner(house)), stack)
        story.tell()
        seen: set[str] = set()
        for name, stream in story.streams.items():
            told = set(DOCUMENT["channels"][name]["messages"])
            if name != "order":  # one order cannot do it all
                arrive(stream, told - CONTROL)
            assert names(stream) <= told, name
            seen |= names(stream)
        seen |= names(stack.enter_context(lost(house))) | names(stack.enter_context(ended(house)))
    block_of(hub.bookmark("a", 1, 2)).check()  # a stream sends it after 15 s of silence
    assert seen | {"bookmark"} == MESSAGES


def arrive(stream: Stream, wanted: set[str]) -> None:
    try:
        stream.wait(lambda one: wanted <= names(one), 30, "all of them")
    except TimeoutError:
        assert wanted <= names(stream)


def lost(house: House) -> Stream:
    """One that begins with a reset."""
    stream = watch(house, "queues", cursor="nonsense")
    stream.first("reset")
    return stream


def ended(house: House) -> Stream:
    """One whose ticket is revoked."""
    text = ticket(house, ["queues"])
    stream = watch(house, role=None, ticket=text)
    stream.first("hello")
    revoked = house.client("producer").post("/events/tickets/revoke", json={"ticket": text})
    assert revoked.status_code == 204
    assert stream.end().json == {"reason": "revoked", "reconnect_ms": None}
    return stream


def test_every_type_that_the_code_names_is_there() -> None:
    """A type that is written out anywhere in the code stands in the document."""
    texts: set[str] = set()
    for path in ROOT.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = (one for one in ast.walk(tree) if isinstance(one, ast.Constant))
        texts |= {one.value for one in nodes if isinstance(one.value, str)}
    types = {text for text in texts if re.fullmatch(r"(order|queue|stock|favourites)\.\w+", text)}
    assert types <= MESSAGES

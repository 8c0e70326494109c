"""The OpenAPI document: valid, exact, and with examples that work."""

import copy
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

import errors
from tests.answers import problem
from tests.house import API, House, running
from tests.routes import Route, document, registered, routes

Document = dict[str, Any]


@pytest.fixture(scope="module")
def described() -> Iterator[House]:
    """A service for itself: its document does not depend on the database."""
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def doc(described: House) -> Document:
    return document(described.url)


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside a JSON value."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


def resolved(doc: Document, schema: dict[str, Any]) -> dict[str, Any]:
    """A schema behind its reference."""
    reference = schema.get("$ref")
    return doc["components"]["schemas"][reference.rpartition("/")[2]] if reference else schema


def test_it_is_openapi_3_1(doc: Document) -> None:
    """The document fits the schema of OpenAPI 3.1, and every reference in it leads somewhere."""
    whole = copy.deepcopy(doc)
    for scheme in whole["components"]["securitySchemes"].values():
        for flow in scheme.get("flows", {}).values():
            # A relative address is allowed; the validator's edition of the schema says no.
            flow["tokenUrl"] = urljoin("http://filaviva.test", flow["tokenUrl"])
    OPENAPI_31_VALIDATOR.validate(whole)
    assert doc["openapi"].startswith("3.1")
    for node in nodes(doc):
        if isinstance(reference := node.get("$ref"), str):
            assert resolved(doc, node), reference


def test_every_schema_is_one(doc: Document) -> None:
    """Each component is a JSON Schema, and each example in it fits."""
    for name, schema in doc["components"]["schemas"].items():
        jsonschema_rs.validator_for(
            {"components": doc["components"], "$ref": f"#/components/schemas/{name}"}
        )
        for example in schema.get("examples", ()):
            validator = jsonschema_rs.Draft202012Validator(
                {"components": doc["components"], "$ref": f"#/components/schemas/{name}"}
            )
            validator.validate(example)


def test_operations_have_names_and_one_tag(described: House, doc: Document) -> None:
    """operationIds are verbs, each once; one tag each, out of those described; a summary."""
    names = [route.operation["operationId"] for route in routes(described.url)]
    assert len(names) == len(set(names))
    assert {"enqueue", "enqueue_batch", "claim", "ack", "ack_many"} <= set(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    tags = {tag["name"] for tag in doc["tags"]}
    assert {tag for route in routes(described.url) for tag in route.operation["tags"]} == tags
    for route in routes(described.url):
        assert len(route.operation["tags"]) == 1
        assert route.operation["summary"]
        placeholders = set(re.findall(r"\{(\w+)\}", route.template))
        declared = route.operation.get("parameters", ())
        assert {p["name"] for p in declared if p["in"] == "path"} == placeholders


def test_a_problem_is_the_only_error(described: House, doc: Document) -> None:
    """Every error of the API is `Problem` as application/problem+json, and of our catalogue."""
    known = errors.catalogue()
    for route in routes(described.url):
        if not route.path.startswith(API):
            continue
        for status, answer in route.operation["responses"].items():
            if status < "400":
                continue
            [(kind, content)] = answer["content"].items()
            assert kind == "application/problem+json"
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}, route.key
            for code in answer["description"].split(", "):
                kinds = [known[code], *known[code].__subclasses__()]
                assert int(status) in {one.status for one in kinds}, (route.key, code)


def test_every_status_that_can_come_is_there(described: House) -> None:
    """What follows from the kind of a route: credentials, bodies, ids, limits, sizes, falls."""
    exempt = {f"{one.method} {one.path}" for one in registered() if one.limit == "exempt"}
    for route in routes(described.url):
        if not route.path.startswith(API):
            continue
        told = set(route.operation["responses"])
        wanted = {"414", "422", "431", "500", "503"}
        wanted |= set() if route.key in exempt else {"429"}
        if route.operation.get("security"):
            wanted |= {"401", "403"}
        if route.body:
            wanted |= {"413", "415"}
        if "application/json" in route.body:
            wanted.add("400")
        if "{" in route.template:
            wanted.add("404")
        for parameter in route.operation.get("parameters", ()):
            if parameter["name"] in ("If-Match", "cursor", "Idempotency-Key"):
                wanted.add("400")
            if parameter["name"] == "If-Match":
                wanted.add("412")
        assert wanted <= told, (route.key, wanted - told)


def test_every_body_has_an_example_that_works(described: House, doc: Document) -> None:
    """What the document shows as a body is taken, or refused for what is not there."""
    disc = {"sku": "disc-001", "name": "A disc", "price_cents": 990}
    assert described.client().post("/products", json=disc).status_code == 201
    for route in routes(described.url):
        for kind, content in route.body.items():
            schema = resolved(doc, content["schema"])
            assert schema.get("examples"), route.key
            for example in schema["examples"]:
                status = tried(described, route, kind, example)
                assert status not in (400, 413, 415, 422, 500), (route.key, kind, status)


def tried(described: House, route: Route, kind: str, example: Any) -> int:
    if kind.endswith("form-urlencoded"):
        answer = described.client(None).post(described.url + route.path, data=example)
        return answer.status_code
    client = described.client("admin")
    if route.template in (f"{API}/auth/session", f"{API}/auth/password"):
        client = described.client("viewer")
    url = described.url + route.path
    return client.request(route.method, url, json=example).status_code


def test_who_may_stands_in_the_document(described: House) -> None:
    """A route that wants a credential says which kinds, and which roles."""
    for route in routes(described.url):
        security = route.operation.get("security")
        if security is None:
            continue
        assert {"bearer": []} in security
        assert "Roles: " in route.operation["description"]
    orders = [r for r in routes(described.url) if r.template.startswith(f"{API}/orders/{{id}}")]
    reading = [r for r in orders if r.method == "GET"]
    assert all({"ticket": []} in r.operation["security"] for r in reading)


def test_the_document_is_read_without_a_credential(described: House) -> None:
    """Anybody may read it, in JSON, by GET and HEAD, and with no parameter."""
    nobody = described.client(None)
    answer = nobody.get(f"{described.url}/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert nobody.head(f"{described.url}/openapi.json").status_code == 200
    problem(nobody.get(f"{described.url}/openapi.json?x=1"), 422, "invalid")


def test_what_may_be_left_out_may_be_null(described: House, doc: Document) -> None:
    """In a request null means left out, and the document says so of every such field."""
    names: set[str] = set()
    for route in routes(described.url):
        if content := route.body.get("application/json"):
            names.add(content["schema"]["$ref"].rpartition("/")[2])
    for name in names | {"Purchase", "AckItem", "NackItem"}:
        schema = doc["components"]["schemas"][name]
        for field, kind in schema.get("properties", {}).items():
            if field not in schema.get("required", ()):
                assert {"type": "null"} in kind.get("anyOf", [{"type": "null"}]), (name, field)
                assert "type" not in kind, (name, field)
    nulls = dict.fromkeys(doc["components"]["schemas"]["QueueSettings"]["properties"])
    name = described.queue()
    changed = described.client().patch(f"/queues/{name}", json=nulls)
    assert changed.status_code == 200

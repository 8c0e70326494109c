"""Random requests made from the OpenAPI document, and whether the answers keep its word."""

import copy
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case as AnyCase
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.house import API, PASSWORD, House
from tests.routes import ENDLESS, document, roles_of

Case = AnyCase[Any]

PROMISES = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# The strategies are the library's: how slow they are is not for us to judge.
UNHEALTHY = [
    HealthCheck.too_slow,
    HealthCheck.filter_too_much,
    HealthCheck.data_too_large,
    HealthCheck.large_base_example,
]
# A password is hashed: slow, and the same for every role.
SLOW = ("/auth/token", "/auth/session", "/auth/register", "/auth/password", "/accounts")
SIGN_OUT = ("/auth/logout",)
# Of a call for many the items are judged one by one, inside a 200.
MANY = re.compile(rf"{API}/(queues/{{name}}/messages/batch|messages/(ack|nack|release|extend))")
TOO_LARGE = (413, 414, 431)  # a refusal too; the library does not know it as one
PARSER = "Invalid HTTP request received."  # uvicorn's own words, before any of ours


@dataclass
class Findings:
    """What a run of requests found: how many were sent, and each broken promise once."""

    sent: int = 0
    broken: dict[str, str] = field(default_factory=dict)

    def note(self, operation: str, failure: Failure, case: Case) -> None:
        key = f"{operation}: {failure.title}"
        self.broken.setdefault(key, f"{key}: {failure.message}\n{case.as_curl_command()}")


def operations(house: House, role: str, *, slow: bool) -> list[Any]:
    """The operations that a role may call; without the endless one, and those that sign out."""
    doc = copy.deepcopy(document(house.url))
    left_out = [*(API + name for name in (*SIGN_OUT, *(() if slow else SLOW)))]
    for path, item in list(doc["paths"].items()):
        for method, operation in list(item.items()):
            roles = roles_of(operation)
            hidden = path == ENDLESS or path.startswith(tuple(left_out))
            if hidden or (roles and role not in roles):
                del item[method]
    schema = schemathesis.openapi.from_dict(doc)
    found: list[Any] = []
    for one in schema.get_all_operations():
        assert isinstance(one, Ok), one
        found.append(one.ok())
    return found


def settled_ids(house: House) -> dict[str, list[str]]:
    """Names that exist, for path parameters: messages, queues, accounts, products, customers."""
    queue = house.queue()
    items = [{"sku": f"of-{queue}", "quantity": 1}]  # of no product: a run may end disc-001's sale
    ids = [house.post(queue, items=items)["id"] for _ in range(4)]
    done, failed = house.claim(queue, 2)
    house.settle("ack", done)
    house.settle("nack", failed, error="no", retry=False)
    username = f"target-{queue}"
    body = {"username": username, "password": PASSWORD, "roles": ["viewer"]}
    assert house.client().post("/accounts", json=body).status_code == 201
    sku, free = f"counted-{queue}", f"free-{queue}"
    for product in ({"sku": sku, "price_cents": 990}, {"sku": free, "price_cents": 0}):
        made = house.client().post("/products", json={"name": "A disc", **product})
        assert made.status_code == 201
    received = house.client().post(f"/products/{sku}/stock/receive", json={"quantity": 5})
    assert received.status_code == 200
    customers: list[str] = []
    for nickname in (f"one-{queue}", f"two-{queue}"):
        made = house.client().post("/customers", json={"nickname": nickname, "tags": ["a"]})
        assert made.status_code == 201
        customers.append(made.json()["id"])
    return {
        "id": ids,
        "name": [queue],
        "username": [username],
        "sku": [sku, free],
        "customer": customers,
        "stream": ["0000000000-1"],  # of none
    }


def fuzz(
    house: House,
    role: str,
    examples: int,
    *,
    slow: bool = True,
    only: tuple[str, ...] = ("",),
    random: bool = False,
) -> Findings:
    """Send `examples` requests to each operation as a role: half as described, half not.

    `slow`: also to those that hash a password. `only`: to paths that begin so. `random`:
    others each time.
    """
    findings = Findings()
    with requests.Session() as line:
        line.headers["Authorization"] = f"Bearer {house.token(role)}"
        known = settled_ids(house)
        for operation in operations(house, role, slow=slow):
            if not operation.path.removeprefix(API).startswith(only):
                continue
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                send = sender(house, line, known, findings, mode)
                try_operation(operation, mode, (examples + 1) // 2, send, random=random)
    return findings


Send = Callable[[Case, int], None]


def sender(
    house: House,
    line: requests.Session,
    known: dict[str, list[str]],
    findings: Findings,
    mode: GenerationMode,
) -> Send:
    def send(case: Case, choice: int) -> None:
        promises = [*PROMISES, *rejection(case, mode, choice)]
        if choice:
            for name in case.path_parameters:
                values = known[name]
                case.path_parameters[name] = values[choice % len(values)]
        if isinstance(case.body, dict) and "wait_seconds" in case.body:
            case.body["wait_seconds"] = 0
        findings.sent += 1
        answer = case.call(base_url=house.url, session=line, timeout=60, allow_redirects=False)
        if answer.status_code == 400 and answer.text == PARSER:
            return
        if answer.status_code in TOO_LARGE:
            promises = PROMISES
        try:
            case.validate_response(answer, checks=promises)
        except FailureGroup as group:
            for failure in group.exceptions:
                findings.note(case.operation.label, failure, case)

    return send


def rejection(case: Case, mode: GenerationMode, choice: int) -> list[Any]:
    """The promise that what does not fit is refused, unless we changed it after its making."""
    changed = choice or (isinstance(case.body, dict) and "wait_seconds" in case.body)
    many = MANY.fullmatch(case.operation.path) is not None
    right = mode is GenerationMode.POSITIVE
    return [] if changed or many or right else [negative_data_rejection]


def try_operation(
    operation: Any, mode: GenerationMode, examples: int, send: Send, *, random: bool
) -> None:
    strategy = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not random,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate],
        suppress_health_check=UNHEALTHY,
    )
    @given(case=strategy, choice=st.integers(0, 4))
    def run(case: Case, choice: int) -> None:
        send(case, choice)

    with suppress(Unsatisfiable):  # where nothing can be wrong there is nothing to send
        run()

"""What the tests of the live path share: streams of a `House`, tickets."""

import secrets
import time
from collections.abc import Iterable
from typing import Any

from auth import Signer
from tests.house import SECRET_KEY, House
from tests.sse import Stream

PUBLIC_URL = "http://filaviva.test"


def watch(
    house: House,
    *topics: str,
    role: str | None = "admin",
    process: int = 0,
    cursor: str | None = None,
    headers: dict[str, str] | None = None,
    **options: Any,
) -> Stream:
    """A stream as the account of a role opens it; `cursor` goes as Last-Event-ID."""
    given = dict(headers or {})
    if role is not None:
        given["Authorization"] = f"Bearer {house.token(role)}"
    if cursor is not None:
        given["Last-Event-ID"] = cursor
    url = house.servers[process].url
    return Stream(url, headers=given, topic=list(topics), **options)


def ticket(house: House, topics: Iterable[str], role: str = "producer", **body: Any) -> str:
    """A ticket as `POST /events/tickets` gives it."""
    answer = house.client(role).post("/events/tickets", json={"topics": [*topics], **body})
    assert answer.status_code == 201, answer.text
    return answer.json()["ticket"]


def forged_ticket(
    topics: Iterable[str], seconds: float, owner: str = "producer", streams: int = 16
) -> str:
    """A ticket that ends sooner than the service would issue one; signed with the tests' key."""
    signer = Signer(SECRET_KEY.encode(), PUBLIC_URL)
    ends = int((time.time() + seconds) * 1000)
    return signer.issue_ticket(owner, 1, topics, ends, streams, secrets.token_bytes(16))


def head(house: House, process: int = 0) -> str:
    """The id of the newest event."""
    answer = house.client(process=process).get("/events/history", params={"topic": "queues"})
    assert answer.status_code == 200, answer.text
    return answer.json()["head"]


def travel(house: House, queue: str, **purchase: Any) -> dict[str, Any]:
    """Post, claim, ack: an order with three events."""
    posted = house.post(queue, **purchase)
    (message,) = house.claim(queue)
    assert house.settle("ack", message).status_code == 200
    return posted

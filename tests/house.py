"""A running Filaviva to test against: one process on SQLite, or several on PostgreSQL."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from tests.services import Server

ADMIN_PASSWORD = "admin-password-of-tests"
PASSWORD = "a-password-of-tests"
SECRET_KEY = "a-secret-key-of-tests-with-more-than-32-bytes"
API = "/api/v1"
CUSTOMER = "c-own"  # whose orders are the customer account's own
ROLES = ("admin", "viewer", "producer", "worker", "customer")
SECONDS = 60.0  # that an answer may take
# The service closes a line on which nothing was asked for five seconds, whatever is on its way.
LINES = httpx.Limits(keepalive_expiry=0.5)
DISC = {"sku": "disc-001", "quantity": 2, "amount_cents": 1980}


class House:
    """The service in one or more processes, an account for each role, and clients for them."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self._numbers = itertools.count(1)
        self._tokens: dict[str, str] = {}
        self._clients: dict[tuple[str | None, int], httpx.Client] = {}
        self.desk = 0  # the process that is asked where none is named

    @property
    def url(self) -> str:
        return self.servers[0].url

    def token(self, role: str) -> str:
        """An access token of the account of this role; signed in once."""
        if role not in self._tokens:
            password = ADMIN_PASSWORD if role == "admin" else PASSWORD
            form = {"username": role, "password": password}
            with httpx.Client(base_url=self.url + API, timeout=SECONDS) as bare:
                answer = bare.post("/auth/token", data=form)
            assert answer.status_code == 200, answer.text
            self._tokens[role] = answer.json()["access_token"]
        return self._tokens[role]

    def client(self, role: str | None = "admin", process: int | None = None) -> httpx.Client:
        """A client below /api/v1 of one process, with the bearer of a role (None: nobody)."""
        number = self.desk if process is None else process
        key = (role, number)
        if key not in self._clients:
            headers = {"Authorization": f"Bearer {self.token(role)}"} if role else {}
            base = self.servers[number].url + API
            self._clients[key] = httpx.Client(
                base_url=base, headers=headers, timeout=SECONDS, limits=LINES
            )
        return self._clients[key]

    def make_accounts(self) -> None:
        for role in ROLES[1:]:
            body = {"username": role, "password": PASSWORD, "roles": [role]}
            if role == "customer":
                body["customer"] = CUSTOMER
            assert self.client().post("/accounts", json=body).status_code == 201

    def queue(self, **settings: Any) -> str:
        """The name of a fresh queue."""
        name = f"q-{next(self._numbers)}"
        answer = self.client().post("/queues", json={"name": name, **settings})
        assert answer.status_code == 201, answer.text
        return name

    def post(self, queue: str, **purchase: Any) -> dict[str, Any]:
        """Post a purchase; the answer's message."""
        body = {"customer": CUSTOMER, "items": [DISC], **purchase}
        answer = self.client("producer").post(f"/queues/{queue}/messages", json=body)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def claim(self, queue: str, most: int = 1, **claim: Any) -> list[dict[str, Any]]:
        answer = self.client("worker").post(f"/queues/{queue}/claim", json={"max": most, **claim})
        assert answer.status_code == 200, answer.text
        return answer.json()["messages"]

    def settle(self, verb: str, message: dict[str, Any], **body: Any) -> httpx.Response:
        """Ack, nack, release or extend a claimed message."""
        return self.client("worker").post(
            f"/messages/{message['id']}/{verb}", json={"receipt": message["receipt"], **body}
        )

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


def settled(call: Callable[[], httpx.Response]) -> httpx.Response:
    """The first answer that says what happened. What two processes want at once may be told to
    come again, when the one that has it is slow."""
    deadline = time.monotonic() + SECONDS
    while True:
        answer = call()
        again = answer.status_code == 503 or "idempotency_in_progress" in answer.text
        if not again or time.monotonic() > deadline:
            return answer
        time.sleep(0.05)


@contextmanager
def running(
    processes: int = 1, *, each: Sequence[dict[str, str]] = (), **settings: str
) -> Iterator[House]:
    """`processes` servers with the same settings, and an account for each role.

    `each` has what differs, a dict for each process.
    """
    common = {
        "SECRET_KEY": SECRET_KEY,
        "ADMIN_PASSWORD": ADMIN_PASSWORD,
        "RATE_LIMITS": "off",
        "PUBLIC_URL": "http://filaviva.test",
        **settings,
    }
    with ExitStack() as stack:
        own = each or [{}] * processes
        servers = [stack.enter_context(Server(**common, **more)) for more in own]
        house = House(servers)
        stack.callback(house.close)
        house.make_accounts()
        yield house

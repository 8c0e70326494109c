"""Callers who leave in the middle."""

import socket
from collections.abc import Callable

from tests.house import ADMIN_PASSWORD, House
from tests.services import Server, until


def test_a_caller_who_leaves_in_the_middle_of_a_body_is_no_failure(
    start_server: Callable[..., Server],
) -> None:
    """A hang-up costs a count, not a traceback: else anybody could fill the log and the loop."""
    server = start_server(ADMIN_PASSWORD=ADMIN_PASSWORD, RATE_LIMITS="off")
    house = House([server])
    head = (
        "POST /api/v1/queues/orders/messages HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {house.token('admin')}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(head.encode() + b'{"customer":')

    def counted() -> bool:
        seen = house.client().get(f"{server.url}/metrics").text
        return 'method="POST",route="/api/v1/queues/{name}/messages",status="499"' in seen

    until(counted, 30, "the hang-up in the metrics")
    assert "a request failed" not in server.log
    house.close()

"""A line to a server that can be held, cut, slowed down, or made deaf, whatever goes over it.

It knows no protocol. `tests.proxy` is the one that stops at an exact statement.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

SUBSCRIBE = b"SUBSCRIBE"
KEPT = 64 << 10  # bytes
SEGMENT = 1_400  # bytes, as on a real network: the kernel keeps a multiple of it for the sender


class Relay:
    """Listens on a free port of 127.0.0.1. A context manager."""

    def __init__(self, port: int) -> None:
        """`port` is the server's; `target` may be another one for the connections to come."""
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        # Small, so that who does not read holds the other up soon.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KEPT)
        self._lines: list[Line] = []
        self._lock = threading.Lock()
        self._passing = threading.Event()
        self._passing.set()
        self.lost = b""  # an answer with this in it does not come
        self.delay = 0.0  # seconds that every piece of an answer takes
        self.rate = 0.0  # bytes a second of each line and direction; 0: as fast as it goes

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def lines(self) -> list["Line"]:
        """Those that are open."""
        with self._lock:
            self._lines = [line for line in self._lines if line.open]
            return list(self._lines)

    def hold(self) -> None:
        """Connections are accepted and nothing passes, in no direction."""
        self._passing.clear()

    def release(self) -> None:
        """What was held goes on, all of it."""
        self._passing.set()

    def cut(self) -> None:
        for line in self.lines:
            line.cut()

    def strand(self, *, subscribers: bool = False) -> int:
        """Nothing comes back any more on the lines of now; new ones work. How many."""
        found = [line for line in self.lines if line.subscribed or not subscribers]
        for line in found:
            line.stranded = True
        return len(found)

    def wait(self) -> None:
        self._passing.wait()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.socket()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KEPT)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
            if server.connect_ex(("127.0.0.1", self.target)):
                server.close()
                client.close()
                continue
            line = Line(self, client, server)
            with self._lock:
                self._lines.append(line)
            for work in (line.ask, line.answer):
                threading.Thread(target=work, daemon=True).start()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that waits in `accept` is not woken by `close` alone.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self.release()


class Line:
    """One connection; a thread for each direction."""

    def __init__(self, relay: Relay, client: socket.socket, server: socket.socket) -> None:
        self._relay = relay
        self._client, self._server = client, server
        self.open = True
        self.subscribed = False
        self.stranded = False
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def cut(self) -> None:
        self.open = False
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def ask(self) -> None:
        self._pass_on(self._client, self._look)

    def answer(self) -> None:
        self._pass_on(self._server, self._late)

    def _look(self, data: bytes) -> None:
        self.subscribed = self.subscribed or SUBSCRIBE in data
        if not self.stranded:
            self._send(self._server, data)

    def _late(self, data: bytes) -> None:
        time.sleep(self._relay.delay)
        lost = self._relay.lost
        if not self.stranded and not (lost and lost in data):
            self._send(self._client, data)

    def _pass_on(self, source: socket.socket, send: Callable[[bytes], None]) -> None:
        with contextlib.suppress(OSError):  # cut: the other thread ends by it too
            while data := source.recv(1024 if self._relay.rate else 65536):
                self._relay.wait()
                send(data)
        self.cut()

    def _send(self, sink: socket.socket, data: bytes) -> None:
        sink.sendall(data)
        if self._relay.rate:
            time.sleep(len(data) / self._relay.rate)

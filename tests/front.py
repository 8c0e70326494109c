"""A proxy in front of the service that can lose its service, and can fall silent."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

HEADERS = "Content-Type: text/html\r\nConnection: close"


class Front:
    """Listens on a free port of 127.0.0.1, which stays the same while the service is away."""

    def __init__(self, url: str) -> None:
        """`url` is the service's."""
        self._target = urlsplit(url).port or 80
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lines: list[socket.socket] = []
        self._lock = threading.Lock()
        self._status = ""  # what it answers by itself
        self._speaks = threading.Event()
        self._speaks.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def fail(self, status: str = "502 Bad Gateway") -> None:
        """Cut what is open, and answer with a page of its own from now on."""
        self._status = status
        self.cut()

    def mend(self) -> None:
        self._status = ""

    def hush(self) -> None:
        """Keep every line open and pass nothing on."""
        self._speaks.clear()

    def speak(self) -> None:
        self._speaks.set()

    def cut(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        for line in lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._take, args=(client,), daemon=True).start()

    def _take(self, client: socket.socket) -> None:
        with contextlib.closing(client), contextlib.suppress(OSError):
            if self._status:
                client.recv(65536)
                page = f"<h1>{self._status}</h1>"
                client.sendall(f"HTTP/1.1 {self._status}\r\n{HEADERS}\r\n\r\n{page}".encode())
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                with self._lock:
                    self._lines += [client, server]
                back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
                back.start()
                self._pass_on(client, server)
                back.join()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._speaks.wait()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.speak()
        # A thread that waits in `accept` is not woken by `close` alone.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@contextmanager
def front(url: str) -> Iterator[Front]:
    """A running proxy in front of the service at `url`."""
    found = Front(url)
    threading.Thread(target=found.serve, daemon=True).start()
    try:
        yield found
    finally:
        found.close()

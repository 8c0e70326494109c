"""A line to PostgreSQL that can be stopped, or cut, at an exact statement of a writer.

It reads along what a writer's connection says (protocol 3.0: startup packet, Parse, Bind,
Execute, Query) and what is answered. All other connections pass through unread.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

WRITER = b"application_name\0filaviva-writer\0"
PROTOCOL_3 = 196_608
SPRING_SECONDS = 60.0


class Place(Enum):
    """Where on its way a statement is stopped."""

    BEFORE = "before"  # the server never sees it
    HALF = "half"  # the server has run it, and waits for the Sync that ends the request
    AFTER = "after"  # the server has answered; nothing of the answer was passed on


@dataclass
class Trap:
    """Springs at the first statement that contains `needle`.

    `cut`: the line is cut there, else it waits for `release`.
    """

    needle: str
    place: "Place"
    cut: bool
    armed: float = field(default_factory=time.monotonic)
    _sprung: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        """Raises TimeoutError when no such statement came."""
        if not self._sprung.wait(SPRING_SECONDS):
            raise TimeoutError(f"no {self.needle} within {SPRING_SECONDS:g} s")

    def release(self) -> None:
        self._released.set()

    def spring(self) -> None:
        """The line has reached the place; what holds it here is `release`."""
        self._sprung.set()
        if not self.cut:
            self._released.wait()


class Proxy:
    """Listens on a free port of 127.0.0.1. A context manager."""

    def __init__(self, port: int) -> None:
        """`port` is PostgreSQL's."""
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lines: list[Line] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._trap: Trap | None = None

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def arm(self, needle: str, place: Place, *, cut: bool = False) -> Trap:
        with self._lock:
            self._trap = Trap(needle, place, cut)
            return self._trap

    def caught(self, statement: str) -> Trap | None:
        """The armed trap if this is its statement; it is disarmed then."""
        with self._lock:
            trap = self._trap
            if trap is None or trap.needle not in statement:
                return None
            self._trap = None
            return trap

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            line = Line(self, client, server)
            self._lines.append(line)
            self._start(line.ask)
            self._start(line.answer)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def __enter__(self) -> "Proxy":
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that waits in `accept` is not woken by `close` alone.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in self._lines:
            line.cut()
        for thread in self._threads:
            thread.join(5)


class Line:
    """One connection; a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._started = False
        self._writer = False
        self._statements: dict[bytes, str] = {}
        self._bound = ""
        self._half: Trap | None = None  # waits for the Sync
        self._after: Trap | None = None  # waits for the answer
        self._kept = b""
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def cut(self) -> None:
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    # --- client to server -------------------------------------------------------------

    def ask(self) -> None:
        with contextlib.suppress(OSError):  # cut: the other thread ends by it too
            for packet in self._packets(self._client):
                self._look(packet)
                self._server.sendall(packet)
        self.cut()

    def _packets(self, source: socket.socket) -> Iterator[bytes]:
        """Whole packets of a writer's line, anything of another's."""
        rest = b""
        while data := source.recv(65536):
            rest += data
            while size := self._size(rest, asked=source is self._client):
                yield rest[:size]
                rest = rest[size:]

    def _size(self, data: bytes, *, asked: bool) -> int:
        """Of the first packet; 0 if it is not complete."""
        if (self._started or not asked) and not self._writer:
            return len(data)
        skipped = 1 if self._started else 0  # the first packets have no letter in front
        if len(data) < skipped + 4:
            return 0
        size = skipped + int.from_bytes(data[skipped : skipped + 4])
        return size if len(data) >= size else 0

    def _look(self, packet: bytes) -> None:
        """Read a client's packet; stop here if it springs a trap."""
        if not self._started:
            # Before it a client may ask for TLS; that is answered by one bare byte.
            self._started = int.from_bytes(packet[4:8]) == PROTOCOL_3
            self._writer = self._started and WRITER in packet
        elif self._writer and packet[:1] == b"S" and self._half is not None:
            self._stop(self._half)
        elif self._writer and (statement := self._executed(packet)) is not None:
            self._reach(statement)

    def _executed(self, packet: bytes) -> str | None:
        """The SQL that this packet has the server execute."""
        kind, body = packet[:1], packet[5:]
        if kind == b"Q":
            return body.rstrip(b"\0").decode()
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._statements[name] = text.decode()
        elif kind == b"B":
            self._bound = self._statements[body.split(b"\0", 2)[1]]
        return self._bound if kind == b"E" else None

    def _reach(self, statement: str) -> None:
        trap = self._proxy.caught(statement)
        if trap is None:
            return
        match trap.place:
            case Place.BEFORE:
                self._stop(trap)
            case Place.HALF:
                self._half = trap
            case Place.AFTER:
                self._after = trap

    def _stop(self, trap: Trap) -> None:
        self._half = self._after = None
        if trap.cut:
            self.cut()
        trap.spring()

    # --- server to client -------------------------------------------------------------

    def answer(self) -> None:
        with contextlib.suppress(OSError):  # cut: the other thread ends by it too
            for packet in self._packets(self._server):
                self._kept += packet
                if self._after is None or packet[:1] == b"Z":  # ready for the next query
                    self._pass_on()
        self.cut()

    def _pass_on(self) -> None:
        if self._after is not None:
            self._stop(self._after)
        kept, self._kept = self._kept, b""
        self._client.sendall(kept)

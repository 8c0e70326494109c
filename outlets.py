"""The lines that the hub writes to, and a server that lends them.

uvicorn keeps a task with all its frames for every answer that is not over, and each write
goes down through them. A stream has no use for that: once the head of its answer is sent,
`Protocol` lends the line itself, the request's task ends, and what is left of a stream that
waits is the connection and a cursor.

Another server lends nothing: there `Sent` passes on what is written to ASGI's `send`.
"""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache, partial
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from hub import Subscriber

EXTENSION: Final = "filaviva.outlet"  # of the ASGI scope; its "lend" gives a Lent, or None

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@lru_cache(maxsize=2)
def _chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112, 7.1), made once for all streams that get the same bytes."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Lent:
    """A connection of uvicorn's, from the head of an answer to its end.

    Nothing stands in front of the kernel's buffer: a write that does not fit makes it full,
    and it has room again when all is with the kernel. So one write is all that a client who
    does not read costs us.
    """

    __slots__ = ("_cycle", "_protocol", "_reader", "_transport", "is_full")

    def __init__(self, protocol: "Protocol", cycle: RequestResponseCycle) -> None:
        self._protocol, self._cycle = protocol, cycle
        self._transport = protocol.transport
        self._transport.set_write_buffer_limits(high=0)
        self._reader: Subscriber | None = None
        self.is_full = False

    def serve(self, reader: Subscriber) -> None:
        self._reader = reader
        if self._transport.is_closing():
            reader.lost()

    def write(self, data: bytes) -> bool:
        self._transport.write(_chunk(data) if self._cycle.chunked_encoding else data)
        return not self.is_full

    def unread(self) -> int:
        """Ours and the kernel's: a slow reader takes from that long before there is room."""
        if self._transport.is_closing():
            return 0
        line = self._transport.get_extra_info("socket")
        answer = fcntl.ioctl(line.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
        (kernel,) = struct.unpack("i", answer)
        return self._transport.get_write_buffer_size() + kernel

    def finish(self) -> None:
        if self._cycle.chunked_encoding:
            self._transport.write(b"0\r\n\r\n")
        self._protocol.take_back(self._cycle)

    def cut(self) -> None:
        """With a reset: after a mere close the kernel keeps for minutes what nobody reads."""
        if not self._transport.is_closing():
            line = self._transport.get_extra_info("socket")
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def leave(self) -> None:
        """The server shuts down: this answer is the last one."""
        self._cycle.keep_alive = False

    def has_room(self, *, room: bool) -> None:
        self.is_full = not room
        if room and self._reader is not None:
            self._reader.room()

    def lose(self) -> None:
        if self._reader is not None:
            self._reader.lost()


class Protocol(HttpToolsProtocol):
    """uvicorn's own, and an answer may go on when its request's task is over."""

    _lent: Lent | None = None

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.scope["extensions"] = {EXTENSION: {"lend": partial(self.lend, self.cycle)}}

    def lend(self, cycle: RequestResponseCycle) -> Lent | None:
        """The line of an answer whose head was sent; None if the client has gone."""
        if cycle.disconnected:
            return None
        # What keeps uvicorn from writing to it, and from cutting it at the end of the task.
        cycle.disconnected = True
        cycle.scope = {}  # type: ignore[typeddict-item] # some kilobytes that nobody reads any more
        if cycle is self.cycle:
            self.scope, self.headers = cycle.scope, []
        self._lent = Lent(self, cycle)
        return self._lent

    def take_back(self, cycle: RequestResponseCycle) -> None:
        """The answer is over: what uvicorn does then."""
        self._lent = None
        cycle.response_complete = True
        if self.transport.is_closing():
            return
        self.transport.set_write_buffer_limits()
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.lose()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._lent is not None:
            self._lent.has_room(room=False)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._lent is not None:
            self._lent.has_room(room=True)

    def shutdown(self) -> None:
        if self._lent is not None:
            self._lent.leave()
        else:
            super().shutdown()


class Sent:
    """The line of a server that lends none: ASGI's `send`, one write at a time."""

    def __init__(self) -> None:
        self._reader: Subscriber | None = None
        self._data = b""
        self._over = False
        self._stir = asyncio.Event()

    def serve(self, reader: Subscriber) -> None:
        self._reader = reader

    def write(self, data: bytes) -> bool:
        self._data += data
        self._stir.set()
        return False

    def unread(self) -> int:
        return len(self._data)

    def finish(self) -> None:
        self._over = True
        self._stir.set()

    def cut(self) -> None:
        """No word to the server to do that: it cuts what ends without its last part."""
        self._data = b""
        self.finish()

    async def run(self, send: Send) -> None:
        """Until the stream is over; a cancellation is a client who has gone."""
        try:
            while not self._over:
                await self._stir.wait()
                self._stir.clear()
                await self._send(send)
        finally:
            if self._reader is not None:
                self._reader.lost()

    async def _send(self, send: Send) -> None:
        data, self._data = self._data, b""
        if not data:
            return
        await send({"type": "http.response.body", "body": data, "more_body": True})
        if self._reader is not None and not self._data:
            self._reader.room()

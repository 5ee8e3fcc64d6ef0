"""A body on its way into a request of aiohttp's.

An event loop that is woken for each piece of it costs a sixth of what sealing and sending do. So
where nothing stands between us and the socket, a thread reads, seals and sends, and the loop waits
for its end. Through TLS, or in turns, a body goes out piece by piece as aiohttp has it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from aiohttp import Payload
from aiohttp.abc import AbstractStreamWriter

from pipeline.blocking import in_executor
from pipeline.destinations.base import Blocking, Body
from pipeline.errors import DropoffError
from pipeline.turns import Turn


class Senders:
    """Threads that send bodies, of which one at a time works.

    Args:
        count: Of threads. Most of them wait for their server.
        silence: Seconds without room for a byte that are too many.
    """

    def __init__(self, count: int, silence: float) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="send")
        self._turn = Turn()
        self._silence = round(silence * 1000)

    async def send(self, connection: socket.socket, body: Blocking) -> bytes:
        """Send all but the last byte, and give that.

        It is the loop's to send: an answer that the loop had before it knew that all is sent would
        be one to a request that isn't over, and the connection would be closed.
        """
        connection.settimeout(0)  # as the transport's is, which it shares
        sending = _Sending(connection, body, self._turn)
        return await in_executor(self._threads, lambda: sending.run(self._silence), sending.stop)

    def close(self) -> None:
        """Start no more. Those that send end with their requests, which are over before."""
        self._threads.shutdown(wait=False)


class Feed(Payload):
    """Gives a request the bytes of a body, and remembers why it ended early.

    Args:
        body: Read afresh, once.
        senders: Who send bodies that a thread can make.
    """

    def __init__(self, body: Body, senders: Senders) -> None:
        super().__init__(body)
        self._body = body
        self._senders = senders
        self.error: DropoffError | None = None

    @property
    def size(self) -> int:
        """Bytes that it will give."""
        return self._body.size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """What aiohttp makes of bodies that are text."""
        raise TypeError(f"sealed bytes are no {encoding}, {errors} or not")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all of it, behind the request's head. Raises what the body does, and OSError."""
        # The head goes out with this: it would be copied together with a first view.
        await writer.write(memoryview(b""))
        try:
            # Of an empty body the head is all, and may be answered already.
            if self.size and isinstance(self._body, Blocking) and (bare := _bare(writer)):
                with bare:
                    last = await self._senders.send(bare, self._body)
                await writer.write(last)
            else:
                async for view in self._body:
                    await writer.write(view)
        except DropoffError as error:
            self.error = error
            raise


class _Sending:
    """One body on its way through a socket, by a thread."""

    def __init__(self, connection: socket.socket, body: Blocking, turn: Turn) -> None:
        self._connection = connection
        self._body = body
        self._turn = turn
        self._room = select.poll()
        self._room.register(connection, select.POLLOUT)
        self._ended = threading.Event()

    def run(self, silence: int) -> bytes:
        """Send all but the last byte, and give that. Waits ``silence`` milliseconds for room."""
        due, last = self._body.size - 1, b""
        with self._turn:
            for piece in self._body.pieces(self._turn.waiting):
                left = piece[:due]
                due -= len(left)
                last = bytes(piece[len(left) :])
                while left and not self._ended.is_set():
                    left = left[self._push(left, silence) :]
                if self._ended.is_set():
                    break
        return last

    def stop(self) -> None:
        """Have :meth:`run` end soon."""
        self._ended.set()
        # It may be waiting for room.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _push(self, left: memoryview, silence: int) -> int:
        try:
            return self._connection.send(left)
        except BlockingIOError:
            with self._turn.waiting():
                if not self._room.poll(silence):
                    raise TimeoutError(f"no room for a byte in {silence / 1000:.0f} s") from None
            return 0


def _bare(writer: AbstractStreamWriter) -> socket.socket | None:
    """The request's socket for a sender of our own; None where bytes can't go straight to it.

    It is the same connection by another descriptor: the loop goes on reading from its own.
    """
    transport = writer.transport
    if transport is None or transport.is_closing() or transport.get_write_buffer_size():
        return None
    found = transport.get_extra_info("socket")
    if found is None or transport.get_extra_info("sslcontext") is not None:
        return None
    return socket.socket(fileno=os.dup(found.fileno()))

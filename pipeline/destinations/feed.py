"""A body on its way into a request of aiohttp's.

An event loop that is woken for each half mebibyte costs a sixth of what sealing and sending do. So
where nothing stands between us and the socket, a thread reads, seals and sends, and the loop waits
for its end. Through TLS, or in turns, a body goes out piece by piece as aiohttp has it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Executor

from aiohttp import Payload
from aiohttp.abc import AbstractStreamWriter

from pipeline.blocking import in_executor
from pipeline.destinations.base import Blocking, Body
from pipeline.errors import DropoffError


class Feed(Payload):
    """Gives a request the bytes of a body, and remembers why it ended early.

    Args:
        body: Read afresh, once.
        threads: Where bodies are sent from that a thread can make.
        silence: Seconds without room for a byte that are too many.
    """

    def __init__(self, body: Body, threads: Executor, silence: float) -> None:
        super().__init__(body)
        self._body = body
        self._threads = threads
        self._silence = silence
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
                    last = await self._send(bare, self._body.pieces())
                await writer.write(last)
            else:
                async for view in self._body:
                    await writer.write(view)
        except DropoffError as error:
            self.error = error
            raise

    async def _send(self, connection: socket.socket, pieces: Iterator[memoryview]) -> bytes:
        """Send all but the last byte, and give that.

        It is the loop's to send: an answer that the loop had before it knew that all is sent would
        be one to a request that isn't over, and the connection would be closed.
        """
        connection.settimeout(self._silence)
        ended = threading.Event()

        def send() -> bytes:
            due, last = self._body.size - 1, b""
            for piece in pieces:
                left = piece[:due]
                due -= len(left)
                last = bytes(piece[len(left) :])
                while left and not ended.is_set():
                    left = left[connection.send(left) :]
                if ended.is_set():
                    break
            return last

        def stop() -> None:
            ended.set()
            # It may be waiting for room.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

        return await in_executor(self._threads, send, stop)


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

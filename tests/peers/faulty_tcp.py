"""A proxy that spoils connections of any protocol: SSH, or TLS of whatever is in it.

It runs in the loop of the test, and counts the faults that it made.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Literal, Self

from tests.peers.faulty import RESET

End = Literal["reset", "stall", "close"]


class FaultyTcp:
    """Stands before any server. An async context manager.

    Faults are of the connections: the next one that is made to here is spoiled.
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.made = 0
        self.on_fault: Callable[[], object] | None = None
        self._upstream = (host, port)
        self._planned: list[Callable[[_Pipe], None]] = []
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def reset_after(self, count: int) -> None:
        """Reset the next connection after ``count`` bytes from the client."""
        self._planned.append(lambda pipe: pipe.end_after(count, "reset"))

    def stall_after(self, count: int) -> None:
        """Pass nothing more on after ``count`` bytes from the client."""
        self._planned.append(lambda pipe: pipe.end_after(count, "stall"))

    def close_after(self, count: int) -> None:
        """End the next connection after ``count`` bytes from the client, as if that were all."""
        self._planned.append(lambda pipe: pipe.end_after(count, "close"))

    def close_after_answer(self, count: int) -> None:
        """Likewise, after ``count`` bytes from the server: it said no more."""
        self._planned.append(lambda pipe: pipe.end_answer_after(count))

    def drip(self, size: int, seconds: float) -> None:
        """Pass on at most ``size`` bytes from the client each ``seconds``."""
        self._planned.append(lambda pipe: pipe.slow_down(size, seconds))

    def be_good(self) -> None:
        """Make no more faults of connections to come."""
        self._planned.clear()

    async def refuse(self) -> None:
        """Nobody listens any more, and what was connected is reset, until :meth:`listen`."""
        self._fault()
        await self._close()

    async def listen(self) -> None:
        """Take connections, at the same port as before."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        pipe = _Pipe(reader, writer, self._fault)
        if self._planned:
            self._planned.pop(0)(pipe)
        try:
            await pipe.run(*self._upstream)
        except (OSError, asyncio.CancelledError):
            pass  # one of both ended it, or we did
        finally:
            self._connections.discard(task)
            pipe.reset()

    def _fault(self) -> None:
        self.made += 1
        if self.made == 1 and self.on_fault is not None:
            self.on_fault()


class _Pipe:
    """One connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fault: Callable[[], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._fault = fault
        self._left: int | None = None
        self._left_of_answer: int | None = None
        self._end: End = "reset"
        self._piece = 65_536
        self._pause = 0.0

    def end_after(self, count: int, end: End) -> None:
        self._left = count
        self._end = end

    def end_answer_after(self, count: int) -> None:
        self._left_of_answer = count

    def slow_down(self, size: int, seconds: float) -> None:
        self._piece, self._pause = size, seconds
        self._fault()

    async def run(self, host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._back(reader))
                async for piece in self._forth():
                    writer.write(piece)
                    await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
        except* OSError:
            pass
        finally:
            writer.close()

    async def _forth(self) -> AsyncIterator[bytes]:
        while piece := await self._reader.read(self._piece):
            if self._left is not None:
                self._left -= len(piece)
                if self._left < 0:
                    self._fault()
                    await self._make_end()
                    return
            await asyncio.sleep(self._pause)
            yield piece

    async def _back(self, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(65_536):
            left = self._left_of_answer
            if left is not None:
                self._left_of_answer = left - len(piece)
                piece = piece[: max(left, 0)]
            self._writer.write(piece)
            await self._writer.drain()
            if left is not None and len(piece) == left:
                self._fault()
                self._writer.write_eof()
                return
        self._writer.close()

    async def _make_end(self) -> None:
        match self._end:
            case "reset":
                raise ConnectionResetError
            case "stall":
                await asyncio.Event().wait()
            case "close":
                self._writer.write_eof()
                while await self._reader.read(65_536):
                    pass  # closed with bytes unread, it would be reset

    def reset(self) -> None:
        sock = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._writer.transport.abort()

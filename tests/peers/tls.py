"""TLS before a server that has none, with certificates that can be other ones meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from tests.peers.certificates import self_signed

Certificate = Literal["right", "of nobody known", "expired", "of another host"]


class TlsBefore:
    """A server's TLS, on a port of its own. An async context manager.

    Connections that the server behind it ends are ended without a word of TLS.
    """

    def __init__(self, directory: Path, port: int, host: str = "127.0.0.1") -> None:
        self.port = 0
        self.served = 0
        """Connections that a client was content with."""
        self._files = {
            "right": self_signed(directory, host, "server"),
            "of nobody known": self_signed(directory, host, "stranger"),
            "expired": self_signed(directory, host, "expired", lasts=timedelta(minutes=-1)),
            "of another host": self_signed(directory, "other.invalid", "other"),
        }
        self.authority = directory / "authority.pem"
        """Whom to trust: all but the stranger."""
        trusted = [self._files[name][0] for name in ("right", "expired", "of another host")]
        self.authority.write_text("".join(file.read_text() for file in trusted))
        self._to = port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(*self._files["right"])
        self._connections: set[asyncio.Task[None]] = set()

    async def show(self, certificate: Certificate) -> None:
        """Have this certificate from now on; who is connected has to connect again."""
        self._context.load_cert_chain(*self._files[certificate])
        await self._end_connections()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self._end_connections()

    async def _end_connections(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        upstream, back = await asyncio.open_connection("127.0.0.1", self._to)
        ways = [
            asyncio.create_task(self._forth(reader, back)),
            asyncio.create_task(_pass(upstream, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # we end it
        finally:
            self._connections.discard(task)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.transport.abort()
            back.transport.abort()

    async def _forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # By TLS 1.3 the server is done with its handshake before the client has looked at it.
        with contextlib.suppress(OSError):
            first = await reader.read(65_536)
            self.served += bool(first)
            writer.write(first)
        await _pass(reader, writer)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()

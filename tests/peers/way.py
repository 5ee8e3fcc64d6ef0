"""The way to a store as it is in the world: a name, TCP, TLS and HTTP, each of which may fail."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.peers.faulty import FaultyHttp
from tests.peers.faulty_tcp import FaultyTcp
from tests.peers.names import HOST, Names
from tests.peers.tls import TlsBefore


@dataclass(frozen=True)
class Way:
    """What stands on it, from the daemon on."""

    names: Names
    tcp: FaultyTcp
    tls: TlsBefore
    http: FaultyHttp

    @property
    def url(self) -> str:
        """Where it begins."""
        return f"https://{HOST}:{self.tcp.port}{urlsplit(self.http.url).path}"


@contextlib.asynccontextmanager
async def way(directory: Path, upstream: str) -> AsyncIterator[Way]:
    """To an HTTP server. Its name is known at first."""
    names = Names(directory)
    names.come()
    async with (
        FaultyHttp(upstream) as http,
        TlsBefore(directory, urlsplit(http.url).port or 0, HOST) as tls,
        FaultyTcp("127.0.0.1", tls.port) as tcp,
    ):
        yield Way(names, tcp, tls, http)

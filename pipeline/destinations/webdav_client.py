"""One WebDAV server, spoken to. Bodies are streamed; nothing is sent to where we weren't sent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from pipeline.destinations import webdav_errors
from pipeline.destinations.base import Body
from pipeline.destinations.retry import steadily
from pipeline.destinations.webdav_answers import PROPFIND, Resource, resources
from pipeline.destinations.webdav_errors import MissingError, NoParentError, UnsupportedError
from pipeline.destinations.webdav_urls import is_private
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    DropoffError,
)
from pipeline.messages import DestinationSpec

CONNECT_TIMEOUT: Final = 10.0
SILENCE_TIMEOUT: Final = 120.0
"""Seconds without a byte, either way."""
SLOWEST: Final = 20 * 1000**2
"""Bytes a second that a server moves at least when it puts an object together."""
CONNECTIONS: Final = 32
LONGEST_ANSWER: Final = 16 * 1024 * 1024
"""Of a listing: that of 10,000 chunks takes 5 MiB."""
READ: Final = 1024 * 1024

_TRANSPORT: Final = (aiohttp.ClientError, TimeoutError, OSError)
_NO_HEADERS: Final[Mapping[str, str]] = {}


class Answer(NamedTuple):
    """A good answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def patience(size: int) -> float:
    """Seconds that a server may take before it answers, while it works on ``size`` bytes."""
    return SILENCE_TIMEOUT + size / SLOWEST


class WebDavClient:
    """The requests that a delivery needs.

    Every error is of :mod:`pipeline.errors`; short disturbances are retried.
    """

    def __init__(self, spec: DestinationSpec) -> None:
        if spec.password and not is_private(spec.url):
            raise DestinationRefusedError("a password is only sent by https, or within the machine")
        self._spec = spec
        self._session: aiohttp.ClientSession | None = None
        self._proxy = _proxy(spec.url)

    async def look(self, url: str) -> Resource | None:
        """What stands at an address; None where nothing does."""
        try:
            listed = await self._propfind(url, "0")
        except MissingError:
            return None
        found = listed[0] if listed else Resource(path=urlsplit(url).path)
        if found.size is not None or found.collection:
            return found
        head = await self.request("HEAD", url)
        return Resource(
            path=found.path,
            size=int(head.headers.get("Content-Length", "-1")),
            etag=found.etag or head.headers.get("ETag", ""),
        )

    async def members(self, url: str) -> list[Resource]:
        """What a collection holds. Raises MissingError where it isn't there."""
        listed = await self._propfind(url, "1")
        # The collection itself is one of them, most often the first; others are longer.
        own = min((len(resource.path) for resource in listed), default=0)
        return [resource for resource in listed if len(resource.path) > own]

    async def make_collection(self, url: str, headers: Mapping[str, str] = _NO_HEADERS) -> bool:
        """Make a collection; whether it is new. Raises NoParentError."""
        try:
            await self.request("MKCOL", url, headers=headers)
        except UnsupportedError:
            return False
        except (NoParentError, MissingError, DestinationUnreachableError):
            raise
        except DestinationRefusedError:
            # Who may not make it there may still use one that others made.
            standing = await self.look(url)
            if standing is None or not standing.collection:
                raise
            return False
        return True

    async def make_collections(self, root: str, url: str) -> None:
        """Have a collection below ``root``, and those above it; not ``root`` itself."""
        if len(url) <= len(root.rstrip("/")):
            raise DestinationRefusedError(f"{root} is not there, or no collection")
        try:
            await self.make_collection(url)
        except (NoParentError, MissingError):
            await self.make_collections(root, url.rpartition("/")[0])
            await self.make_collection(url)

    async def put(self, url: str, body: Body, headers: Mapping[str, str] = _NO_HEADERS) -> Answer:
        """Send a body. It is read afresh for each try."""
        return await steadily(lambda: self._put(url, body, headers))

    async def move(
        self,
        url: str,
        to: str,
        *,
        overwrite: bool,
        size: int,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        """Give what is at ``url`` another address. Raises StandsError unless ``overwrite``."""
        asked = {"Destination": to, "Overwrite": "T" if overwrite else "F", **headers}
        await self.request("MOVE", url, headers=asked, silence=patience(size))

    async def delete(self, url: str) -> None:
        """Remove what is there. Nothing there is fine."""
        try:
            await self.request("DELETE", url)
        except (MissingError, NoParentError):
            return

    @contextlib.asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str]
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """A good answer, to be read piece by piece. Nothing is tried again."""
        try:
            async with self._http.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False, proxy=self._proxy
            ) as answer:
                if answer.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                    await _good(answer)
                    raise DestinationUnreachableError(f"the server answered {answer.status}")
                yield answer
        except _TRANSPORT as error:  # an answer cut short is one of them
            raise webdav_errors.of_transport(error) from None

    async def request(
        self,
        method: str,
        url: str,
        *,
        data: bytes = b"",
        headers: Mapping[str, str] = _NO_HEADERS,
        silence: float = SILENCE_TIMEOUT,
    ) -> Answer:
        """A request with a short body, and its answer. Raises what anything but 2xx means."""

        async def once() -> Answer:
            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence
            )
            try:
                async with self._http.request(
                    method,
                    URL(url, encoded=True),
                    data=data or None,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                    proxy=self._proxy,
                ) as answer:
                    return await _good(answer)
            except _TRANSPORT as error:
                raise webdav_errors.of_transport(error) from None

        return await steadily(once)

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _propfind(self, url: str, depth: str) -> list[Resource]:
        headers = {"Depth": depth, "Content-Type": "application/xml; charset=utf-8"}
        answer = await self.request("PROPFIND", url, data=PROPFIND, headers=headers)
        if answer.status != HTTPStatus.MULTI_STATUS:
            raise DestinationRefusedError(f"no WebDAV server: it answered {answer.status}")
        return resources(answer.body)

    async def _put(self, url: str, body: Body, headers: Mapping[str, str]) -> Answer:
        feed = _Feed(body)
        asked = {
            "Content-Length": str(body.size),
            "Content-Type": "application/octet-stream",
            **headers,
        }
        try:
            async with (
                feed.watched(),
                self._http.put(
                    URL(url, encoded=True),
                    # Of no body at all aiohttp would send chunks, and no length.
                    data=feed if body.size else b"",
                    headers=asked,
                    allow_redirects=False,
                    proxy=self._proxy,
                ) as answer,
            ):
                good = await _good(answer)
            if body.size == 0:
                await feed.exhaust()
        except _TRANSPORT as error:
            if feed.error is not None:
                raise feed.error from None
            raise webdav_errors.of_transport(error) from None
        return good

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = self._opened()
        return self._session

    def _opened(self) -> aiohttp.ClientSession:
        spec = self._spec
        secure = urlsplit(spec.url).scheme == "https"
        headers = {"User-Agent": "dropoffd", "Accept-Encoding": "identity"}
        if spec.user:
            pair = f"{spec.user}:{spec.password}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS,
                ssl=ssl.create_default_context(cafile=spec.ca_file or None) if secure else True,
            ),
            # Nextcloud takes cookies for a browser's, and wants more of those then.
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE_TIMEOUT
            ),
            auto_decompress=False,
        )


class _Feed:
    """A body on its way into a request, which remembers why it ended early."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._watch: asyncio.Timeout | None = None
        self.error: DropoffError | None = None

    def watched(self) -> asyncio.Timeout:
        """Ends the request where the server takes nothing, or doesn't answer, for too long."""
        self._watch = asyncio.timeout(SILENCE_TIMEOUT)
        return self._watch

    async def exhaust(self) -> None:
        """Go through a body that gives nothing, for what it counts."""
        async for _ in self._body:
            pass

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        left = self._body.size
        try:
            async for view in self._body:
                left -= len(view)
                self._wait(SILENCE_TIMEOUT if left else patience(self._body.size))
                yield view
        except DropoffError as error:
            self.error = error
            raise

    def _wait(self, seconds: float) -> None:
        if self._watch is not None:
            with contextlib.suppress(RuntimeError):  # an early answer has ended the watch
                self._watch.reschedule(asyncio.get_running_loop().time() + seconds)


async def _good(answer: aiohttp.ClientResponse) -> Answer:
    """A good answer whole, or the error that it is."""
    pieces: list[bytes] = []
    length = 0
    async for piece in answer.content.iter_chunked(READ):
        length += len(piece)
        if length > LONGEST_ANSWER:
            raise DestinationUnreachableError("the server's answer has no end")
        pieces.append(piece)
    body = b"".join(pieces)
    if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        raise webdav_errors.of_answer(answer.status, body, answer.headers.get("Retry-After"))
    return Answer(status=answer.status, headers=answer.headers, body=body)


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)

"""A file on a WebDAV server, read from any place on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Final

import aiohttp

from pipeline.destinations.retry import TRIES
from pipeline.destinations.webdav_client import WebDavClient
from pipeline.destinations.webdav_errors import StandsError
from pipeline.errors import DestinationUnreachableError, VerificationError

PIECE: Final = 1024 * 1024


class WebDavFile:
    """See :class:`pipeline.destinations.base.Readable`."""

    def __init__(self, client: WebDavClient, url: str, size: int) -> None:
        self._client = client
        self._url = url
        self._etag = ""
        """Of the first answer; what a listing shows may be another one."""
        self.size = size

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes]:
        """Bytes ``start`` to before ``stop``, going on after disturbances."""
        failures = 0
        while start < stop:
            before = start
            broken = DestinationUnreachableError("what was stored ends early when it is read")
            try:
                async for piece in self._read_once(start, stop):
                    start += len(piece)
                    yield piece
            except DestinationUnreachableError as error:
                broken = error
            failures = 0 if start > before else failures + 1
            if failures >= TRIES:
                raise broken
            if start < stop:
                await asyncio.sleep(0.2 * 2**failures)

    async def _read_once(self, start: int, stop: int) -> AsyncGenerator[bytes]:
        headers = {"If-Match": self._etag} if self._etag else {}
        if (start, stop) != (0, self.size):
            headers["Range"] = f"bytes={start}-{stop - 1}"
        try:
            async with self._client.get(self._url, headers) as answer:
                self._check(answer, partial="Range" in headers)
                left = stop - start
                async for piece in answer.content.iter_chunked(PIECE):
                    left -= len(piece)
                    if left < 0:
                        raise VerificationError("the object is longer than the server said")
                    yield piece
        except StandsError as error:
            raise VerificationError("the object changed while it was read") from error

    def _check(self, answer: aiohttp.ClientResponse, *, partial: bool) -> None:
        """Have the bytes that were asked for, of the file that was read before."""
        if partial and answer.status != HTTPStatus.PARTIAL_CONTENT:
            raise DestinationUnreachableError("it can't be read from its middle")
        _, _, size = answer.headers.get("Content-Range", "").partition("/")
        if partial and size.isdigit() and int(size) != self.size:
            raise VerificationError("the object changed while it was read")
        etag = answer.headers.get("ETag", "")
        if etag.startswith('"'):  # a weak one promises too little
            self._etag = self._etag or etag

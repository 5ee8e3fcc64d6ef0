"""Finished objects, read again from any place on. Nothing is changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from pipeline.destinations import below
from pipeline.destinations.base import Readable
from pipeline.destinations.looking import on_files
from pipeline.destinations.remote import open_remote
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    VerificationError,
)
from pipeline.messages import DestinationSpec

if TYPE_CHECKING:
    from pipeline.destinations.s3_client import S3Client

PIECE: Final = 1024 * 1024
"""Bytes that are read of a file at a time."""


@contextlib.asynccontextmanager
async def opened(spec: DestinationSpec, name: str) -> AsyncIterator[Readable]:
    """The object that stands under ``name``, open for as long as the block runs.

    Raises DestinationRefusedError where none stands there; DestinationUnreachableError where the
    destination is away.
    """
    if spec.type == "s3":
        from pipeline.destinations.s3_client import S3Client  # noqa: PLC0415  # dear; only for S3

        client = S3Client(spec)
        try:
            yield await _s3_object(client, name)
        finally:
            await client.aclose()
    elif spec.type == "directory":
        fd = await on_files(spec, lambda: _open_file(spec, name))
        try:
            yield _File(spec, fd)
        finally:
            os.close(fd)
    else:
        remote = open_remote(spec)
        try:
            async with remote.opened(name) as stored:
                yield stored
        finally:
            await remote.aclose()


class _S3Object:
    """See :class:`pipeline.destinations.base.Readable`."""

    def __init__(self, client: S3Client, name: str, etag: str, size: int) -> None:
        self._client = client
        self._name = name
        self._etag = etag
        self.size = size

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        missing = stop - start
        pieces = self._client.read_range(self._name, self._etag, start, stop)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                missing -= len(piece)
                if missing < 0:
                    raise VerificationError(f"{self._name}: the store gave more than was asked for")
                yield piece


class _File:
    """Likewise."""

    def __init__(self, spec: DestinationSpec, fd: int) -> None:
        self._spec = spec
        self._fd = fd
        self.size = os.fstat(fd).st_size

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        while start < stop:
            length, offset = min(PIECE, stop - start), start
            piece = await on_files(self._spec, lambda: os.pread(self._fd, length, offset))  # noqa: B023  # awaited at once
            if not piece:
                raise VerificationError(f"the file ends at byte {start} while it is read")
            start += len(piece)
            yield piece


async def _s3_object(client: S3Client, name: str) -> _S3Object:
    from pipeline.destinations.s3_errors import MissingError  # noqa: PLC0415  # with S3 only

    try:
        answer = await client.call("head_object", Key=name)
    except MissingError:
        raise DestinationRefusedError(f"{name} is not there") from None
    etag = str(answer.get("ETag") or "").strip('"')
    return _S3Object(client, name, etag, int(answer["ContentLength"]))


def _open_file(spec: DestinationSpec, name: str) -> int:
    names, last = below.components(name)
    try:
        with below.directory(spec.directory, names, create=False) as parent:
            return below.open_regular(parent, last, os.O_RDONLY)
    except FileNotFoundError:
        if not os.path.isdir(spec.directory):  # noqa: PTH112  # a question, not a path to work with
            raise DestinationUnreachableError(f"{spec.directory} is no directory") from None
        raise DestinationRefusedError(f"{name} is not there") from None

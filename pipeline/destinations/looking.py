"""A look at what a destination holds, long after it was delivered. Nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec
from awscrt.checksums import crc64nvme

from pipeline.blocking import in_thread
from pipeline.destinations import below, crc
from pipeline.destinations.remote import open_remote, remote_name
from pipeline.errors import DestinationRefusedError, DestinationUnreachableError
from pipeline.messages import DestinationSpec

T = TypeVar("T")


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """An object as it stands there."""

    size: int
    etag: str = ""
    """Empty where the storage has none."""
    crc64nvme: str = ""
    """Base64; of the bytes if they were read, else as the storage claims; empty where unknown."""


def name_of(spec: DestinationSpec, uri: str) -> str:
    """The name inside the destination of an object whose URI a receipt has.

    Raises DestinationRefusedError where that URI is not in the destination as it is set up now.
    """
    name = ""
    if spec.type == "s3":
        prefix = f"s3://{spec.bucket}/"
        name = uri.removeprefix(prefix) if uri.startswith(prefix) else ""
    elif spec.type == "directory":
        parts = urlsplit(uri)
        path = Path(os.fsdecode(unquote_to_bytes(parts.path)))
        if parts.scheme == "file" and path.is_relative_to(spec.directory):
            name = str(path.relative_to(spec.directory))
    else:
        name = remote_name(spec, uri)
    if name in {"", "."}:
        raise DestinationRefusedError(f"{uri} is not in {spec.name} as it is configured now")
    return name


async def look(spec: DestinationSpec, name: str, *, read: bool) -> Standing | None:
    """What stands under ``name``; None where nothing does.

    With ``read`` all of it is read, and the CRC is that of its bytes. Raises DestinationError.
    """
    if spec.type == "s3":
        return await _look_s3(spec, name, read=read)
    if spec.type == "directory":
        return await on_files(spec, lambda: _look_file(spec, name, read=read))
    return await _look_remote(spec, name, read=read)


async def on_files(spec: DestinationSpec, function: Callable[[], T]) -> T:
    """Do file work in a thread, and speak of its errors as a destination's."""
    try:
        return await in_thread(function)
    except PermissionError as error:
        raise DestinationRefusedError(f"{spec.directory}: {error.strerror}") from error
    except OSError as error:
        raise DestinationUnreachableError(f"{spec.directory}: {error.strerror}") from error


async def _look_s3(spec: DestinationSpec, name: str, *, read: bool) -> Standing | None:
    from pipeline.destinations.s3_client import S3Client  # noqa: PLC0415  # dear; only for S3
    from pipeline.destinations.s3_errors import MissingError  # noqa: PLC0415  # likewise

    client = S3Client(spec)
    try:
        try:
            answer = await client.call("head_object", Key=name, ChecksumMode="ENABLED")
        except MissingError:
            return None
        size = int(answer["ContentLength"])
        etag = str(answer.get("ETag") or "").strip('"')
        counted = str(answer.get("ChecksumCRC64NVME") or "")
        if read:
            found = size = 0
            async for piece in client.read(name, etag, int(answer["ContentLength"])):
                found = crc64nvme(piece, found)
                size += len(piece)
            counted = crc.text(found)
        return Standing(size=size, etag=etag, crc64nvme=counted)
    finally:
        await client.aclose()


async def _look_remote(spec: DestinationSpec, name: str, *, read: bool) -> Standing | None:
    remote = open_remote(spec)
    try:
        found = await remote.show(name)
        if found is None:
            return None
        if not read:
            return Standing(size=found.size, etag=found.etag)
        counted = size = 0
        async with remote.opened(name) as stored:
            async for piece in stored.read(0, stored.size):
                counted = crc64nvme(piece, counted)
                size += len(piece)
        return Standing(size=size, etag=found.etag, crc64nvme=crc.text(counted))
    finally:
        await remote.aclose()


def _look_file(spec: DestinationSpec, name: str, *, read: bool) -> Standing | None:
    names, last = below.components(name)
    if not Path(spec.directory).is_dir():
        raise DestinationUnreachableError(f"{spec.directory} is no directory")
    try:
        with below.directory(spec.directory, names, create=False) as parent:
            fd = below.open_regular(parent, last, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if not read:
            return Standing(size=os.fstat(fd).st_size)
        found, size = crc.of_file(fd)
        return Standing(size=size, crc64nvme=crc.text(found))
    finally:
        os.close(fd)

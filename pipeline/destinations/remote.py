"""Storages that are reached over a network by the names of files."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol
from urllib.parse import quote, unquote

from pipeline.destinations import webdav_urls
from pipeline.destinations.base import Destination, Readable
from pipeline.errors import DestinationRefusedError
from pipeline.messages import DestinationSpec, StoredObject, Target

SSH_PORT: Final = 22
SFTP_LIBRARY: Final = "asyncssh"
SFTP_MISSING: Final = (
    f"SFTP needs {SFTP_LIBRARY}, which isn't installed: pip install dropoffd[sftp]"
)


class Remote(Destination, Protocol):
    """What else they can do, long after a delivery or before the first."""

    async def show(self, name: str) -> StoredObject | None:
        """The file that stands under a name, whoever put it there; None where none does."""

    def opened(self, name: str) -> AbstractAsyncContextManager[Readable]:
        """It, to be read. Raises DestinationRefusedError where none stands there."""

    async def remove(self, target: Target) -> None:
        """Remove what stands under a name, and what is unfinished there."""


def open_remote(spec: DestinationSpec) -> Remote:
    """The storage that ``spec`` describes; nothing is asked of it yet.

    Raises DestinationRefusedError where it can't be used as it is described, or from here.
    """
    if spec.type == "webdav":
        from pipeline.destinations.webdav import WebDavDestination  # noqa: PLC0415  # when needed

        return WebDavDestination(spec)
    if not has_sftp():
        raise DestinationRefusedError(SFTP_MISSING)
    from pipeline.destinations.sftp import SftpDestination  # noqa: PLC0415  # when it is needed

    return SftpDestination(spec)


def remote_name(spec: DestinationSpec, uri: str) -> str:
    """The name of the object with that URI; empty where it isn't in the destination."""
    if spec.type == "webdav":
        return webdav_urls.name_of(spec.url, uri)
    root = sftp_root(spec)
    return unquote(uri.removeprefix(root)) if uri.startswith(root) else ""


def sftp_root(spec: DestinationSpec) -> str:
    """What the URIs of all objects begin with; ``~`` is the user's home."""
    host = f"[{spec.host}]" if ":" in spec.host else spec.host
    port = "" if spec.port == SSH_PORT else f":{spec.port}"
    base = spec.directory.rstrip("/")
    if not spec.directory.startswith("/"):
        base = f"/~/{base}" if base else "/~"
    return f"sftp://{host}{port}{quote(base, safe='/~')}/"


def has_sftp() -> bool:
    """Whether the library for SFTP is installed."""
    return importlib.util.find_spec(SFTP_LIBRARY) is not None

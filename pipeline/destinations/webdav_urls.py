"""Where things are on a WebDAV server."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from pipeline.destinations import below
from pipeline.messages import DestinationSpec

_FILES: Final = re.compile(
    r"(?P<dav>https?://[^/]+(?:/[^/]+)*/remote\.php/dav)/files/(?P<user>[^/]+)"
)
"""The shape that Nextcloud's and ownCloud's addresses of a user's files have."""


def object_url(base: str, name: str) -> str:
    """The address of a name below ``base``. Raises DestinationRefusedError for a bad one."""
    directories, last = below.components(name)
    return "/".join([base.rstrip("/"), *(quote(step, safe="") for step in [*directories, last])])


def name_of(base: str, url: str) -> str:
    """The name whose address is ``url``; empty where it isn't below ``base``."""
    root = base.rstrip("/") + "/"
    return unquote(url.removeprefix(root)) if url.startswith(root) else ""


def beside(name: str, upload: str) -> str:
    """The hidden name beside ``name`` under which an object grows."""
    directories, last = below.components(name)
    return "/".join([*directories, below.temporary_name(last, upload)])


def chunks_root(spec: DestinationSpec) -> str:
    """The collection for chunked uploads; empty where none is offered, or it isn't wanted."""
    match = _FILES.match(spec.url) if spec.chunks else None
    return f"{match['dav']}/uploads/{match['user']}" if match else ""


def counts(spec: DestinationSpec) -> bool:
    """Whether the server can be asked for checksums that it counts by itself."""
    return _FILES.match(spec.url) is not None


def is_private(url: str) -> bool:
    """Whether a password may be sent there: over TLS, or without leaving this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False

"""HAWK's arithmetic, for both sides: what of a request or an answer is signed, and its header.

As https://github.com/mozilla/hawk has it, version 1 with SHA-256. mohawk, which the tests hold this
against, writes all that it does into a debug log that is off, at several times the price.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import urlsplit

LONGEST: Final = 4096
"""Characters of a header."""
_KNOWN: Final = frozenset({"id", "ts", "tsm", "nonce", "hash", "error", "ext", "mac", "app", "dlg"})
_ATTRIBUTE: Final = re.compile(r'(\w+)="([^"\\]*)"\s*(?:,\s*|$)', re.ASCII)
_VALUE: Final = re.compile(r"[ !#-\[\]-~]*")
_PORTS: Final = {"http": 80, "https": 443}


class HawkError(Exception):
    """A header that is none of HAWK's, or that says too little."""


class Place(NamedTuple):
    """What is signed of a URL."""

    resource: str
    host: str
    port: str


class Message(NamedTuple):
    """What a request and its answer have in common."""

    ts: str
    nonce: str
    method: str
    place: Place
    app: str = ""
    dlg: str = ""


@lru_cache(maxsize=256)
def place_of(url: str) -> Place:
    """The place of a URL. Raises ValueError where it is none."""
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme)
    if not parts.hostname or not port:
        raise ValueError("no URL of a host")
    resource = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return Place(resource, parts.hostname, str(port))


def is_value(text: str) -> bool:
    """Whether a text can stand in a header."""
    return _VALUE.fullmatch(text) is not None


def attributes_of(header: str) -> dict[str, str]:
    """What a header says. Raises HawkError where any of it is not understood."""
    scheme, space, rest = header.partition(" ")
    if len(header) > LONGEST or scheme.lower() != "hawk" or not space:
        raise HawkError("no header of HAWK's")
    found: dict[str, str] = {}
    end = 0
    while end < len(rest):
        match = _ATTRIBUTE.match(rest, end)
        if match is None or match[1] not in _KNOWN or match[1] in found or not is_value(match[2]):
            raise HawkError("an attribute that is not understood")
        found[match[1]] = match[2]
        end = match.end()
    return found


def payload_hash(body: bytes, content_type: str) -> str:
    """Of a body and its type, without the type's parameters."""
    kind = content_type.partition(";")[0].strip().lower()
    return _text(hashlib.sha256(b"hawk.1.payload\n%b\n%b\n" % (kind.encode(), body)).digest())


def mac(secret: bytes, kind: str, message: Message, payload: str, ext: str = "") -> str:
    """Of a request (``header``) or its answer (``response``)."""
    place = message.place
    lines = [f"hawk.1.{kind}", message.ts, message.nonce, message.method]
    lines += [place.resource, place.host, place.port, payload, ext]
    if message.app:
        lines += [message.app, message.dlg]
    return _digest(secret, "\n".join(lines) + "\n")


def time_mac(secret: bytes, ts: str) -> str:
    """Of a server's time, which proves that it knows the secret."""
    return _digest(secret, f"hawk.1.ts\n{ts}\n")


def is_signed(  # noqa: PLR0913, PLR0917 - all of it is looked at
    secret: bytes,
    kind: str,
    message: Message,
    said: Mapping[str, str],
    body: bytes,
    content_type: str,
) -> bool:
    """Whether a header's attributes are of who knows the secret, and of this very body.

    A body's hash may be left out only where there is none, nor a type.
    """
    ours = mac(secret, kind, message, said.get("hash", ""), said.get("ext", ""))
    if not hmac.compare_digest(ours, said.get("mac", "")):
        return False
    if "hash" not in said:
        return not body and not content_type
    return hmac.compare_digest(payload_hash(body, content_type), said["hash"])


def _digest(secret: bytes, text: str) -> str:
    return _text(hmac.digest(secret, text.encode(), "sha256"))


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()

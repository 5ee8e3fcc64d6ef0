"""Base64 between a BEGIN and an END line, as key files have it."""

from __future__ import annotations

import base64
import binascii
from typing import Final, NamedTuple

MAX_TEXT: Final = 16 * 1024
"""Characters; no key file is longer."""

_BEGIN, _END, _DASHES = "-----BEGIN ", "-----END ", "-----"


class Armoured(NamedTuple):
    """What stands in an armour."""

    label: str
    data: bytes


def wrap(label: str, data: bytes) -> str:
    """``data`` as the text of a key file."""
    body = base64.b64encode(data).decode("ascii")
    return f"{_BEGIN}{label}{_DASHES}\n{body}\n{_END}{label}{_DASHES}\n"


def unwrap(text: str) -> Armoured | None:
    """The content of an armour; None where ``text`` isn't one.

    Raises ValueError for an armour that is damaged. The message holds nothing of the content.
    """
    if len(text) > MAX_TEXT:
        raise ValueError("too long for a key")
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if not lines or not lines[0].startswith(_BEGIN):
        return None
    label = lines[0].removeprefix(_BEGIN).removesuffix(_DASHES)
    if lines[0] != f"{_BEGIN}{label}{_DASHES}" or lines[-1] != f"{_END}{label}{_DASHES}":
        raise ValueError("the key's END line is missing or another than its BEGIN line")
    return Armoured(label, unbase64("".join(lines[1:-1])))


def unbase64(text: str) -> bytes:
    """Strict base64. Raises ValueError, with nothing of the content in its message."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the key isn't base64") from None

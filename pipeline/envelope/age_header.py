"""The header of an age file: text lines, one stanza for each recipient, and a MAC over them."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pipeline.envelope.age_stanzas import (
    Stanza,
    Unlock,
    derive,
    from_base64,
    make_x25519,
    to_base64,
)
from pipeline.envelope.base import Readable, Rewound
from pipeline.errors import EnvelopeError

VERSION: Final = b"age-encryption.org/v1"

# What a header may ask of a reader, well above what any writer makes.
MAX_HEADER: Final = 2 * 1024 * 1024
MAX_LINE: Final = 8 * 1024

_STANZA, _FOOTER = b"->", b"---"
_COLUMNS: Final = 64


class Header(NamedTuple):
    """A header that was opened."""

    length: int
    """Bytes of all of it."""
    file_key: bytes
    """A secret."""
    rest: Readable
    """What follows the header."""

    def __repr__(self) -> str:
        """Without the key."""
        return f"Header(length={self.length})"


def make_header(file_key: bytes, public_keys: Sequence[bytes]) -> bytes:
    """The header that gives ``file_key`` to the owners of ``public_keys``.

    Raises RecipientError for a low-order point.
    """
    lines = [VERSION]
    for public_key in public_keys:
        arguments, body = make_x25519(file_key, public_key)
        lines += [b" ".join((_STANZA, *arguments)), to_base64(body)]
    lines.append(_FOOTER)
    text = b"\n".join(lines)
    return text + b" " + to_base64(_mac(file_key, text)) + b"\n"


def open_header(source: Readable, unlock: Unlock) -> Header:
    """Read the header, and find the file key in it.

    Raises EnvelopeError where the header is damaged, asks for more than a reader should do, or
    holds nothing that ``unlock`` finds.
    """
    lines = _Lines(source)
    stanzas, mac = _parse(lines)
    file_key = unlock(stanzas)
    if file_key is None:
        raise EnvelopeError("this file isn't sealed for the given key")
    text = bytes(lines.taken)
    covered = text[: text.rindex(b"\n" + _FOOTER) + 1 + len(_FOOTER)]
    if not hmac.compare_digest(mac, _mac(file_key, covered)):
        raise EnvelopeError("the header was changed")
    return Header(len(text), file_key, lines.rest())


class _Lines:
    """The lines of a header, and what comes behind them."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._ahead = b""
        self.taken = bytearray()

    def next(self) -> bytes:
        """The next line without its end."""
        while b"\n" not in self._ahead:
            if len(self._ahead) > MAX_LINE:
                raise EnvelopeError("the header has a line that is too long")
            piece = self._source.read(MAX_LINE)
            if not piece:
                raise EnvelopeError("the header is cut short")
            self._ahead += piece
        line, _, self._ahead = self._ahead.partition(b"\n")
        self.taken += line + b"\n"
        if len(self.taken) > MAX_HEADER:
            raise EnvelopeError("the header is too long")
        return line

    def rest(self) -> Readable:
        """The bytes after the last line."""
        return Rewound(self._ahead, self._source)


def _parse(lines: _Lines) -> tuple[list[Stanza], bytes]:
    if lines.next() != VERSION:
        raise EnvelopeError("no age file of version 1")
    stanzas = []
    while (line := lines.next()).startswith(_STANZA + b" "):
        arguments = line.split(b" ")[1:]
        if not all(map(_is_visible, arguments)):
            raise EnvelopeError("the header has a damaged line")
        stanzas.append(Stanza(arguments, from_base64(b"".join(_body(lines)))))
    marker, _, mac = line.partition(b" ")
    if marker != _FOOTER or not stanzas:
        raise EnvelopeError("the header has a damaged line")
    return stanzas, from_base64(mac)


def _body(lines: _Lines) -> Iterator[bytes]:
    """A body's lines: full ones, and at last one that is shorter, which may be empty."""
    while True:
        line = lines.next()
        if len(line) > _COLUMNS:
            raise EnvelopeError("the header has a line that is too long")
        yield line
        if len(line) < _COLUMNS:
            return


def _is_visible(argument: bytes) -> bool:
    return bool(argument) and all(0x21 <= byte <= 0x7E for byte in argument)  # noqa: PLR2004 - the printable ones of ASCII


def _mac(file_key: bytes, text: bytes) -> bytes:
    return hmac.digest(derive(file_key, b"", b"header"), text, "sha256")

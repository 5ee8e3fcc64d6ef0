"""The header of an age file: text lines, one stanza for each recipient, and a MAC over them."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pipeline.envelope.base import Readable, Rewound
from pipeline.envelope.segments import KEY, NONCE, TAG
from pipeline.envelope.x25519 import SIZE, agree, public_of
from pipeline.errors import EnvelopeError

VERSION: Final = b"age-encryption.org/v1"
FILE_KEY: Final = 16

# What a header may ask of a reader, well above what any writer makes.
MAX_HEADER: Final = 2 * 1024 * 1024
MAX_LINE: Final = 8 * 1024

_STANZA, _FOOTER, _KIND = b"->", b"---", b"X25519"
_COLUMNS: Final = 64
_WRAP_INFO: Final = b"age-encryption.org/v1/X25519"


class Stanza(NamedTuple):
    """What one recipient finds the file key in."""

    arguments: list[bytes]
    body: bytes


def make_header(file_key: bytes, public_keys: Sequence[bytes]) -> bytes:
    """The header that gives ``file_key`` to the owners of ``public_keys``.

    Raises RecipientError for a low-order point.
    """
    lines = [VERSION]
    for public_key in public_keys:
        share = X25519PrivateKey.generate()
        share_public = share.public_key().public_bytes_raw()
        wrap = _wrap_cipher(agree(share, public_key), share_public, public_key)
        lines.append(b" ".join((_STANZA, _KIND, _base64(share_public))))
        lines.append(_base64(wrap.encrypt(bytes(NONCE), file_key, None)))
    lines.append(_FOOTER)
    text = b"\n".join(lines)
    return text + b" " + _base64(_mac(file_key, text)) + b"\n"


def open_header(source: Readable, secret_key: bytes) -> tuple[bytes, Readable]:
    """The file key, and what follows the header.

    Raises EnvelopeError where the header is damaged, asks for more than a reader should do, or
    holds nothing for this key.
    """
    lines = _Lines(source)
    stanzas, mac = _parse(lines)
    file_key = _find(stanzas, secret_key)
    if file_key is None:
        raise EnvelopeError("this file isn't sealed for the given key")
    text = bytes(lines.taken)
    covered = text[: text.rindex(b"\n" + _FOOTER) + 1 + len(_FOOTER)]
    if not hmac.compare_digest(mac, _mac(file_key, covered)):
        raise EnvelopeError("the header was changed")
    return file_key, lines.rest()


def derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes from a key, for one purpose."""
    return HKDF(SHA256(), KEY, salt, info).derive(key)


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
        stanzas.append(Stanza(arguments, _unbase64(b"".join(_body(lines)))))
    marker, _, mac = line.partition(b" ")
    if marker != _FOOTER or not stanzas:
        raise EnvelopeError("the header has a damaged line")
    return stanzas, _unbase64(mac)


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


def _find(stanzas: Sequence[Stanza], secret_key: bytes) -> bytes | None:
    reader = X25519PrivateKey.from_private_bytes(secret_key)
    public_key = public_of(secret_key)
    for stanza in stanzas:
        if stanza.arguments[0] != _KIND:
            continue
        share = _unbase64(stanza.arguments[1]) if len(stanza.arguments) == 2 else b""  # noqa: PLR2004 - the kind and the share
        # The exact length matters: a longer body could be made to open with many keys.
        if len(share) != SIZE or len(stanza.body) != FILE_KEY + TAG:
            raise EnvelopeError("the header has a damaged stanza")
        try:
            shared = reader.exchange(X25519PublicKey.from_public_bytes(share))
        except ValueError:
            raise EnvelopeError("the header has a low-order point for a share") from None
        try:
            cipher = _wrap_cipher(shared, share, public_key)
            return cipher.decrypt(bytes(NONCE), stanza.body, None)
        except InvalidTag:
            continue
    return None


def _wrap_cipher(shared: bytes, share: bytes, public_key: bytes) -> ChaCha20Poly1305:
    # Each key wraps one file key only, so that its nonce can be zero.
    return ChaCha20Poly1305(derive(shared, share + public_key, _WRAP_INFO))


def _mac(file_key: bytes, text: bytes) -> bytes:
    return hmac.digest(derive(file_key, b"", b"header"), text, "sha256")


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _unbase64(text: bytes) -> bytes:
    """Base64 without padding, in its one canonical form."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        data = b""
    if _base64(data) != text:
        raise EnvelopeError("the header has a damaged line")
    return data

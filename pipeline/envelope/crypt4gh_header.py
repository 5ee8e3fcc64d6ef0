"""The header of a Crypt4GH file: packets, of which a reader opens those that are sealed for it.

Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pipeline.envelope.base import Readable, read_full
from pipeline.envelope.segments import KEY, NONCE, TAG
from pipeline.envelope.x25519 import SIZE, agree, public_of
from pipeline.errors import EnvelopeError

MAGIC: Final = b"crypt4gh"
VERSION: Final = 1

# What a header may ask of a reader, well above what any writer makes.
MAX_PACKETS: Final = 16_384
MAX_PACKET: Final = 1024 * 1024
MAX_HEADER: Final = 16 * 1024 * 1024
MAX_KEYS: Final = 256

_INT = struct.Struct("<I")
_START = struct.Struct("<8sII")
_X25519_CHACHA20: Final = 0
_CHACHA20: Final = 0
_DATA_KEY: Final = 0
_EDIT_LIST: Final = 1


def data_key(key: bytes) -> bytes:
    """The payload of a packet that gives a session key."""
    return _INT.pack(_DATA_KEY) + _INT.pack(_CHACHA20) + key


def seal_packet(writer: X25519PrivateKey, public_key: bytes, payload: bytes) -> bytes:
    """A packet that only the owner of ``public_key`` can open.

    Raises RecipientError for a low-order point.
    """
    writer_public = writer.public_key().public_bytes_raw()
    shared = _shared_key(agree(writer, public_key), public_key, writer_public)
    nonce = os.urandom(NONCE)
    sealed = ChaCha20Poly1305(shared).encrypt(nonce, payload, None)
    packet = _INT.pack(_X25519_CHACHA20) + writer_public + nonce + sealed
    return _INT.pack(_INT.size + len(packet)) + packet


def join(packets: Sequence[bytes]) -> bytes:
    """The whole header."""
    return _START.pack(MAGIC, VERSION, len(packets)) + b"".join(packets)


class Header(NamedTuple):
    """What a header gives to one who can open it."""

    length: int
    """Bytes of all of it."""
    keys: list[bytes]
    """Session keys; each may have sealed any segment. Secrets."""
    edits: list[int] | None
    """Lengths to skip and to keep in turns; None where there is no edit list."""

    def __repr__(self) -> str:
        """Without the keys."""
        return f"Header(length={self.length}, keys={len(self.keys)})"


def open_header(source: Readable, secret_keys: Sequence[bytes]) -> Header:
    """Read the header with the keys of one who may be a recipient.

    Leaves ``source`` at the first segment. Raises EnvelopeError where the header is damaged,
    asks for more than a reader should do, or holds nothing for these keys.
    """
    readers = [
        (X25519PrivateKey.from_private_bytes(secret_key), public_of(secret_key))
        for secret_key in secret_keys
    ]
    keys: list[bytes] = []
    edits: list[int] | None = None
    length = _START.size
    for packet in _packets(source):
        length += _INT.size + len(packet)
        payload = _open_packet(readers, packet)
        if payload is None:
            continue
        kind, content = _number(payload), payload[_INT.size :]
        if kind == _DATA_KEY:
            keys.append(_session_key(content))
        elif kind == _EDIT_LIST and edits is None:
            edits = _edit_list(content)
        else:
            raise EnvelopeError(f"a header packet of a kind that isn't expected ({kind})")
    if not keys:
        raise EnvelopeError("this file isn't sealed for the given key")
    if len(keys) > MAX_KEYS:
        raise EnvelopeError(f"{len(keys)} session keys, at most {MAX_KEYS} are tried")
    return Header(length, keys, edits)


def _packets(source: Readable) -> Iterator[bytes]:
    """Each packet from its method on."""
    start = read_full(source, _START.size)
    if len(start) < _START.size or not start.startswith(MAGIC):
        raise EnvelopeError("no Crypt4GH file")
    _, version, count = _START.unpack(start)
    if version != VERSION:
        raise EnvelopeError(f"Crypt4GH version {version}, expected {VERSION}")
    if count > MAX_PACKETS:
        raise EnvelopeError(f"{count} header packets, at most {MAX_PACKETS} are read")
    left = MAX_HEADER
    for _ in range(count):
        length = _number(read_full(source, _INT.size)) - _INT.size
        if not _INT.size <= length <= min(MAX_PACKET, left):
            raise EnvelopeError(f"a header packet of {length} bytes")
        packet = read_full(source, length)
        if len(packet) < length:
            raise EnvelopeError("the header is cut short")
        left -= length
        yield packet


def _open_packet(readers: Sequence[tuple[X25519PrivateKey, bytes]], packet: bytes) -> bytes | None:
    """The payload; None where the packet is for somebody else."""
    start = _INT.size + SIZE
    if _number(packet) != _X25519_CHACHA20 or len(packet) < start + NONCE + TAG:
        return None
    writer_public = packet[_INT.size : start]
    nonce, sealed = packet[start : start + NONCE], packet[start + NONCE :]
    for reader, reader_public in readers:
        try:
            shared = reader.exchange(X25519PublicKey.from_public_bytes(writer_public))
        except ValueError:  # a low-order point: nobody sealed anything with it
            return None
        cipher = ChaCha20Poly1305(_shared_key(shared, reader_public, writer_public))
        try:
            return cipher.decrypt(nonce, sealed, None)
        except InvalidTag:
            continue
    return None


def _session_key(content: bytes) -> bytes:
    method, key = _number(content), content[_INT.size :]
    if method != _CHACHA20 or len(key) != KEY:
        raise EnvelopeError(f"a session key of an unknown kind ({method}, {len(key)} bytes)")
    return key


def _edit_list(content: bytes) -> list[int]:
    count, lengths = _number(content), content[_INT.size :]
    if not count or len(lengths) < count * 8:
        raise EnvelopeError(f"an edit list of {count} lengths in {len(lengths)} bytes")
    return list(struct.unpack_from(f"<{count}Q", lengths))


def _number(data: bytes) -> int:
    """The number at the beginning of ``data``."""
    if len(data) < _INT.size:
        raise EnvelopeError("the header is cut short")
    number: int = _INT.unpack_from(data)[0]
    return number


def _shared_key(secret: bytes, reader_public: bytes, writer_public: bytes) -> bytes:
    return hashlib.blake2b(secret + reader_public + writer_public).digest()[:KEY]

"""age version 1 for X25519 recipients.

Unlike Crypt4GH it marks the last segment, so that a file that was cut off, or whose segments were
swapped or doubled, doesn't open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pipeline.envelope import age_header as head
from pipeline.envelope.age_keys import age_public
from pipeline.envelope.age_stanzas import FILE_KEY, derive, unlock
from pipeline.envelope.base import (
    BATCH,
    MAX_RECIPIENTS,
    SEGMENT,
    Made,
    Opened,
    Passphrase,
    Readable,
    Sealer,
    check_offset,
    opened_size,
    read_batches,
    read_full,
    segments_of,
)
from pipeline.envelope.ranges import open_whole
from pipeline.envelope.segments import NONCE, TAG, SegmentSealer
from pipeline.envelope.x25519 import fingerprint
from pipeline.errors import EnvelopeError, RecipientError

MAGIC: Final = head.VERSION + b"\n"
SEALED_SEGMENT: Final = SEGMENT + TAG
_SALT: Final = 16
_COUNTER_SHIFT: Final = 8
_LAST: Final = 1
"""The nonce's last byte for the last segment; 0 for the others."""


class Age:
    """The format ``age``. What counts as its header includes the salt of the session key."""

    suffix = ".age"
    seals = True

    def make(self, recipients: Sequence[str]) -> Made:
        """See :meth:`pipeline.envelope.base.Format.make`. A recipient given twice counts once."""
        public_keys = tuple(dict.fromkeys(age_public(text) for text in recipients))
        if not public_keys:
            raise RecipientError("encryption is asked for, and no recipient is given")
        if len(public_keys) > MAX_RECIPIENTS:
            raise RecipientError(f"{len(public_keys)} recipients, at most {MAX_RECIPIENTS} can be")
        file_key, salt = os.urandom(FILE_KEY), os.urandom(_SALT)
        header = head.make_header(file_key, public_keys) + salt
        fingerprints = tuple(fingerprint("age", public) for public in public_keys)
        return Made(derive(file_key, salt, b"payload"), header, fingerprints)

    def sealed_size(self, header_length: int, plaintext_size: int) -> int:
        """An empty plaintext is a header and one empty segment."""
        return header_length + plaintext_size + max(1, segments_of(plaintext_size)) * TAG

    def sealed_offset(self, header_length: int, plaintext_offset: int) -> int:
        """See :meth:`pipeline.envelope.base.Format.sealed_offset`."""
        check_offset(plaintext_offset)
        segment = plaintext_offset // SEGMENT
        return header_length + segment * SEALED_SEGMENT if segment else 0

    def sealer(self, key: bytes, plaintext_size: int) -> Sealer:
        """See :meth:`pipeline.envelope.base.Format.sealer`."""
        return _AgeSealer(key, plaintext_size)

    def opened(self, key: bytes, header_length: int) -> Opened:
        """See :meth:`pipeline.envelope.base.Format.opened`."""
        return _OpenedAge(header_length, key)

    def open_header(
        self, source: Readable, secret_keys: Sequence[bytes], passphrase: Passphrase | None = None
    ) -> tuple[Opened, Readable]:
        """See :meth:`pipeline.envelope.base.Format.open_header`."""
        length, file_key, rest = head.open_header(source, unlock(secret_keys, passphrase))
        salt = read_full(rest, _SALT)
        if len(salt) < _SALT:
            raise EnvelopeError("the header is cut short")
        return _OpenedAge(length + _SALT, derive(file_key, salt, b"payload")), rest

    def open_stream(self, source: Readable, secret_key: bytes) -> Iterator[memoryview]:
        """See :meth:`pipeline.envelope.base.Format.open_stream`."""
        return open_whole(*self.open_header(source, [secret_key]))


class _AgeSealer(SegmentSealer):
    """Seals segments with a nonce that also tells the last one."""

    def __init__(self, key: bytes, plaintext_size: int) -> None:
        super().__init__(key, plaintext_size, stored=0, shift=_COUNTER_SHIFT, mark=_LAST)

    def seal_into(self, first_segment: int, plaintext: memoryview, out: memoryview) -> int:
        """See :class:`~pipeline.envelope.base.Sealer`."""
        if self._size or plaintext or first_segment:
            return super().seal_into(first_segment, plaintext, out)
        if len(out) < TAG:
            raise ValueError(f"{len(out)} bytes don't hold an empty segment")
        return self._cipher.encrypt_into(_nonce(0, _LAST), b"", None, out[:TAG])


class _OpenedAge:
    """See :class:`~pipeline.envelope.base.Opened`."""

    sealed_segment = SEALED_SEGMENT
    marks_end = True

    def __init__(self, header_length: int, key: bytes) -> None:
        self.header_length = header_length
        self._key = key

    def plaintext_size(self, sealed_size: int) -> int:
        body = sealed_size - self.header_length
        size = opened_size(body, TAG)
        # Only an empty file has an empty segment, and it has one.
        if body != size + max(1, segments_of(size)) * TAG:
            raise EnvelopeError("the file is cut short")
        return size

    def kept(self, plaintext_size: int) -> list[tuple[int, int]]:
        return [(0, plaintext_size)]

    def segments(self, source: Readable, first: int, *, is_end: bool) -> Iterator[memoryview]:
        cipher = ChaCha20Poly1305(self._key)
        out = memoryview(bytearray(BATCH * SEGMENT))
        segment = first
        for batch, is_last in read_batches(source, BATCH * SEALED_SEGMENT):
            view = memoryview(batch)
            written = 0
            for start in range(0, len(view) or 1, SEALED_SEGMENT):
                sealed = view[start : start + SEALED_SEGMENT]
                behind = is_end and is_last and start + SEALED_SEGMENT >= len(view)
                nonce = _nonce(segment, _LAST if behind else 0)
                written += _open_segment(cipher, segment, nonce, sealed, out[written:])
                segment += 1
            yield out[:written]


def _open_segment(
    cipher: ChaCha20Poly1305, segment: int, nonce: bytes, sealed: memoryview, out: memoryview
) -> int:
    length = len(sealed) - TAG
    # Only an empty file ends with an empty segment.
    if length < (1 if segment else 0):
        raise EnvelopeError(f"segment {segment} is cut short")
    try:
        return cipher.decrypt_into(nonce, sealed, None, out[:length])
    except InvalidTag:
        raise EnvelopeError(f"segment {segment} is damaged, or cut off behind") from None


def _nonce(segment: int, mark: int) -> bytes:
    return ((segment << _COUNTER_SHIFT) + mark).to_bytes(NONCE, "big")

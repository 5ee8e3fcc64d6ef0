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
from pipeline.envelope.base import (
    BATCH,
    MAX_RECIPIENTS,
    SEGMENT,
    Made,
    Readable,
    Sealer,
    check_offset,
    read_batches,
    read_full,
    segments_of,
)
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
        file_key, salt = os.urandom(head.FILE_KEY), os.urandom(_SALT)
        header = head.make_header(file_key, public_keys) + salt
        fingerprints = tuple(fingerprint("age", public) for public in public_keys)
        return Made(head.derive(file_key, salt, b"payload"), header, fingerprints)

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

    def open_stream(self, source: Readable, secret_key: bytes) -> Iterator[memoryview]:
        """See :meth:`pipeline.envelope.base.Format.open_stream`."""
        file_key, rest = head.open_header(source, secret_key)
        salt = read_full(rest, _SALT)
        if len(salt) < _SALT:
            raise EnvelopeError("the header is cut short")
        return _open_segments(rest, head.derive(file_key, salt, b"payload"))


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


def _nonce(segment: int, mark: int) -> bytes:
    return ((segment << _COUNTER_SHIFT) + mark).to_bytes(NONCE, "big")


def _open_segments(source: Readable, key: bytes) -> Iterator[memoryview]:
    cipher = ChaCha20Poly1305(key)
    out = memoryview(bytearray(BATCH * SEGMENT))
    segment = 0
    for batch, is_end in read_batches(source, BATCH * SEALED_SEGMENT):
        view = memoryview(batch)
        written = 0
        for start in range(0, len(view) or 1, SEALED_SEGMENT):
            sealed = view[start : start + SEALED_SEGMENT]
            mark = _LAST if is_end and start + SEALED_SEGMENT >= len(view) else 0
            length = len(sealed) - TAG
            # Only an empty file ends with an empty segment.
            if length < (1 if segment else 0):
                raise EnvelopeError(f"segment {segment} is cut short")
            try:
                place = out[written : written + length]
                cipher.decrypt_into(_nonce(segment, mark), sealed, None, place)
            except InvalidTag:
                raise EnvelopeError(f"segment {segment} is damaged, or cut off behind") from None
            written += length
            segment += 1
        yield out[:written]

"""The loop that Crypt4GH and age share: ChaCha20-Poly1305 over segments of 64 KiB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pipeline.envelope.base import SEGMENT, segments_of

KEY: Final = 32
NONCE: Final = 12
TAG: Final = 16

Nonce = Callable[[int], bytes]
"""The 12-byte nonce of a segment, by its number. Never the same for two segments."""


def counter_nonce(segment: int) -> bytes:
    """The segment's number as it is: with a fresh key for each upload, no nonce comes twice."""
    return segment.to_bytes(NONCE, "big")


class SegmentSealer:
    """Seals segments of one upload.

    A segment becomes ``nonce[:stored]``, its ciphertext and the tag. The nonce depends on the
    segment's number alone, hence equal plaintext gives equal bytes. What would let a key and
    nonce meet two plaintexts, a short segment that isn't the upload's last, is refused.
    """

    def __init__(self, key: bytes, plaintext_size: int, *, nonce: Nonce, stored: int) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._size = plaintext_size
        self._nonce = nonce
        self._stored = stored

    def seal_into(self, first_segment: int, plaintext: memoryview, out: memoryview) -> int:
        """See :class:`~pipeline.envelope.base.Sealer`."""
        length = len(plaintext)
        stored = self._stored
        self._check(first_segment, length, len(out))
        encrypt_into = self._cipher.encrypt_into
        nonce_of = self._nonce
        written = 0
        segment = first_segment
        for start in range(0, length, SEGMENT):
            nonce = nonce_of(segment)
            piece = plaintext[start : start + SEGMENT]
            body = written + stored
            if stored:
                out[written:body] = nonce
            written = body + len(piece) + TAG
            encrypt_into(nonce, piece, None, out[body:written])
            segment += 1
        return written

    def _check(self, first_segment: int, length: int, room: int) -> None:
        end = first_segment * SEGMENT + length
        if first_segment < 0 or end > self._size:
            raise ValueError(f"the upload has {self._size} bytes, not {end}")
        if length % SEGMENT and end != self._size:
            raise ValueError("only the upload's last segment may be short")
        if room < length + segments_of(length) * (self._stored + TAG):
            raise ValueError(f"{room} bytes don't hold {length} once they are sealed")

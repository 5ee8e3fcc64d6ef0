"""The loop that Crypt4GH and age share: ChaCha20-Poly1305 over segments of 64 KiB."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pipeline.envelope.base import SEGMENT, segments_of

KEY: Final = 32
NONCE: Final = 12
TAG: Final = 16


class SegmentSealer:
    """Seals segments of one upload.

    A segment becomes its nonce where the format stores it (``stored``, 12 or 0 bytes), its
    ciphertext and the tag. The nonce is the segment's number shifted left by ``shift`` bits,
    with ``mark`` added to the last segment's; equal plaintext hence gives equal bytes, and with a
    key for each upload no nonce comes twice. What would let a key and nonce meet two plaintexts,
    a short segment that isn't the upload's last, is refused.
    """

    def __init__(
        self, key: bytes, plaintext_size: int, *, stored: int, shift: int = 0, mark: int = 0
    ) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._size = plaintext_size
        self._stored = stored
        self._shift = shift
        self._mark = mark
        self._last = max(0, segments_of(plaintext_size) - 1)

    def seal_into(self, first_segment: int, plaintext: memoryview, out: memoryview) -> int:
        """See :class:`~pipeline.envelope.base.Sealer`."""
        length = len(plaintext)
        stored = self._stored
        self._check(first_segment, length, len(out))
        # The hot loop: after each 64 KiB its code and data are out of the CPU's nearest cache,
        # so that every operation saved here is worth ten elsewhere.
        encrypt_into = self._cipher.encrypt_into
        number, step = first_segment << self._shift, 1 << self._shift
        last, mark = self._last << self._shift, self._mark
        written = 0
        for start in range(0, length, SEGMENT):
            nonce = (number + mark if number == last else number).to_bytes(NONCE, "big")
            piece = plaintext[start : start + SEGMENT]
            if stored:
                body = written + stored
                out[written:body] = nonce
                written = body
            end = written + len(piece) + TAG
            encrypt_into(nonce, piece, None, out[written:end])
            written = end
            number += step
        return written

    def _check(self, first_segment: int, length: int, room: int) -> None:
        end = first_segment * SEGMENT + length
        if first_segment < 0 or end > self._size:
            raise ValueError(f"the upload has {self._size} bytes, not {end}")
        if length % SEGMENT and end != self._size:
            raise ValueError("only the upload's last segment may be short")
        if room < length + segments_of(length) * (self._stored + TAG):
            raise ValueError(f"{room} bytes don't hold {length} once they are sealed")

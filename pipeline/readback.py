"""Stored bytes on their way back, held against what was sent, and opened again.

That the bytes are the ones that were sent says nothing of what is in them. Opening them with the
session key does: size and digest of the plaintext are those of the upload, or the object is wrong.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

from awscrt.checksums import crc64nvme

from pipeline.destinations.base import Content, Reading
from pipeline.digests import Hasher, hasher
from pipeline.envelope import BATCH, by_format
from pipeline.errors import EnvelopeError, VerificationError
from pipeline.messages import DigestName, Seal

DIFFERENT: Final = "the object reads back differently"


class ReadBack:
    """Counts a stored object's bytes, and has them opened where its content is to be proved."""

    def __init__(self, size: int, crc: int, content: Content | None = None) -> None:
        """``size`` and ``crc`` (CRC-64/NVME) are those of the sealed object."""
        self._expected = (size, crc)
        self._reading = content.reading() if content is not None else None
        self._size = self._crc = 0

    def update(self, piece: bytes | memoryview) -> None:
        """Take the next bytes in. Raises VerificationError as soon as it can't be the object."""
        self._size += len(piece)
        self._crc = crc64nvme(piece, self._crc)
        if self._reading is not None:
            self._reading.update(piece)

    def finish(self) -> None:
        """Raise VerificationError where it isn't the object."""
        if (self._size, self._crc) != self._expected:
            raise VerificationError(DIFFERENT)
        if self._reading is not None:
            self._reading.finish()


class SealedContent:
    """What a sealed object holds; see :class:`pipeline.destinations.base.Content`."""

    def __init__(self, seal: Seal, digest: DigestName, expected: Callable[[], str]) -> None:
        """``expected`` gives the plaintext's digest, hex, once all of the object was sent."""
        self._seal = seal
        self._digest: DigestName = digest
        self._expected = expected

    def reading(self) -> Reading:
        """What opens the object, from its first byte on."""
        return _Opening(self._seal, hasher(self._digest), self._expected)


class _Opening:
    """Opens 1 MiB of segments at a time, which is also all that it holds."""

    def __init__(self, seal: Seal, plaintext: Hasher, expected: Callable[[], str]) -> None:
        self._opened = by_format(seal.format).opened(seal.key, len(seal.header))
        self._header = seal.header
        self._size = seal.size
        self._plaintext = plaintext
        self._expected = expected
        self._pending = bytearray()
        self._batch = BATCH * self._opened.sealed_segment
        self._segment = 0
        self._found = 0

    def update(self, piece: bytes | memoryview) -> None:
        """Take the next bytes in."""
        self._pending += piece
        if self._header:
            self._take_header()
        # The last segments wait for the end: some formats mark it.
        while not self._header and len(self._pending) > self._batch:
            self._open(self._pending[: self._batch], is_end=False)
            del self._pending[: self._batch]

    def finish(self) -> None:
        """Raise VerificationError where the plaintext isn't the upload's."""
        if self._header:
            raise VerificationError("what was stored ends within its header")
        self._open(self._pending, is_end=True)
        if self._found != self._size:
            raise VerificationError(
                f"what was stored holds {self._found} bytes of plaintext instead of {self._size}"
            )
        if self._plaintext.hexdigest() != self._expected():
            raise VerificationError("what was stored holds another plaintext")

    def _take_header(self) -> None:
        length = min(len(self._header), len(self._pending))
        if self._pending[:length] != self._header[:length]:
            raise VerificationError("what was stored has another header")
        self._header = self._header[length:]
        del self._pending[:length]

    def _open(self, sealed: bytearray, *, is_end: bool) -> None:
        try:
            for plaintext in self._opened.segments(
                io.BytesIO(sealed), self._segment, is_end=is_end
            ):
                self._found += len(plaintext)
                self._plaintext.update(plaintext)
        except EnvelopeError as error:
            raise VerificationError(f"what was stored can't be opened: {error.message}") from error
        self._segment += BATCH

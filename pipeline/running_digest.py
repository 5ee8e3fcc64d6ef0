"""A digest of a file, or of a stretch of it, that may be taken while the file still grows."""

from __future__ import annotations

import threading

from pipeline.digests import hasher
from pipeline.messages import DigestName
from pipeline.parts import READ
from pipeline.source import Source


class RunningDigest:
    """Takes a file in from its start, or from ``offset`` on, as far as it is there.

    It lives in memory only: who loses it takes the whole file in again.
    """

    def __init__(self, name: DigestName, offset: int = 0) -> None:
        self.name = name
        self.offset = offset
        """Byte of the file up to which it was taken in."""
        self._found = hasher(name)

    def advance(self, source: Source, end: int, stop: threading.Event | None = None) -> None:
        """Take in everything before byte ``end``, unless ``stop`` is set meanwhile. Blocks.

        Raises SourceChangedError where the file ends too soon.
        """
        buffer = memoryview(bytearray(min(READ, max(0, end - self.offset))))
        while self.offset < end and not (stop and stop.is_set()):
            piece = buffer[: min(READ, end - self.offset)]
            source.read_into_blocking(piece, self.offset)
            self._found.update(piece)
            self.offset += len(piece)

    def hexdigest(self) -> str:
        """Of all that was taken in."""
        return self._found.hexdigest()

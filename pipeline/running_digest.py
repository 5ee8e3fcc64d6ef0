"""A digest that is taken while its file still grows."""

from __future__ import annotations

from pipeline.digests import hasher
from pipeline.messages import DigestName
from pipeline.parts import READ
from pipeline.source import Source


class RunningDigest:
    """Takes a file in from its start, as far as it is there, and goes on later.

    It lives in memory only: who loses it takes the whole file in again.
    """

    def __init__(self, name: DigestName) -> None:
        self.name = name
        self.offset = 0
        """Bytes taken in."""
        self._found = hasher(name)

    def advance(self, source: Source, end: int) -> None:
        """Take in everything before byte ``end``. Blocks.

        Raises SourceChangedError where the file ends too soon.
        """
        buffer = memoryview(bytearray(READ))
        while self.offset < end:
            piece = buffer[: min(READ, end - self.offset)]
            source.read_into_blocking(piece, self.offset)
            self._found.update(piece)
            self.offset += len(piece)

    def hexdigest(self) -> str:
        """Of all that was taken in."""
        return self._found.hexdigest()

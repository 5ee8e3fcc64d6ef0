"""What bodies are read and sealed in, kept from one part to the next.

A mebibyte that is made anew is cleared by the kernel page by page when it is first touched, which
costs as much as a sixth of sealing it.
"""

from __future__ import annotations

from typing import Final

from pipeline.envelope.base import segments_of
from pipeline.parts import CHUNK, SEALING

KEPT: Final = 4
"""Rooms that a process keeps: as many as it has parts under way, and some."""


class Room:
    """Where one body is made."""

    def __init__(self, length: int) -> None:
        """For ``length`` bytes of plaintext at a time."""
        self.plain = memoryview(bytearray(length))
        # An empty upload is one segment too in some formats, of nothing but its tag.
        self._sealed = length + max(1, segments_of(length)) * SEALING
        self._outs: list[memoryview] = []

    def outs(self, count: int) -> list[memoryview]:
        """So many buffers for what ``plain`` is sealed to."""
        while len(self._outs) < count:
            self._outs.append(memoryview(bytearray(self._sealed)))
        return self._outs[:count]


class Buffers:
    """Rooms for bodies that have ended, for those that begin."""

    def __init__(self) -> None:
        self._free: list[Room] = []

    def take(self, length: int) -> Room:
        """A room for a body of ``length`` bytes of plaintext."""
        if length < CHUNK:
            return Room(length)
        return self._free.pop() if self._free else Room(CHUNK)

    def give(self, room: Room) -> None:
        """Take a room back, in which nobody will look any more."""
        if len(room.plain) == CHUNK and len(self._free) < KEPT:
            self._free.append(room)

    def clear(self) -> None:
        """Keep none."""
        self._free.clear()

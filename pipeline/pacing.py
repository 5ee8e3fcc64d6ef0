"""Bytes on their way to a destination that is to be sent so many a second and no more.

Whichever worker sends them: all of them reserve their turns in one small piece of shared memory,
which the daemon makes and hands to each. A turn is a twentieth of a second's worth of bytes, so
what goes out is even, and bodies that go out side by side get equal shares.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from pipeline.destinations.base import Body, Content, Destination, PartPlace
from pipeline.messages import Begun, HeldPart, Pace, StoredObject, StoredPart, Target

LANES: Final = 512
"""Destinations that can have a rate at the same time."""
TURN: Final = 0.05
"""Seconds that the bytes of one turn may take."""
SMALLEST_TURN: Final = 4 * 1024
SLACK: Final = 0.1
"""Seconds of unused time that may be caught up with, as when a worker woke up late."""
HORIZON: Final = 120.0
"""Seconds; nobody waits that long for a turn, so a later time is none that we wrote."""
BUSY_PAUSE: Final = 0.001

_TIME: Final = struct.Struct("=d")


def make_timetable() -> int:
    """A new descriptor of the memory that all workers share. Whoever made it closes it."""
    fd = os.memfd_create("dropoffd-pace", os.MFD_CLOEXEC)
    os.ftruncate(fd, LANES * _TIME.size)
    return fd


class Timetable:
    """When the next byte to each destination is due, known to all workers.

    For each lane it holds one time, up to which all turns are taken. It is read and written under a
    lock that the kernel gives back where its holder dies.
    """

    def __init__(self, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Use the memory behind ``fd``, which may be closed afterwards.

        ``clock`` has to be one for all processes, as ``time.monotonic`` is.
        """
        self._fd = os.dup(fd)
        self._memory = mmap.mmap(self._fd, LANES * _TIME.size)
        self._clock = clock

    def close(self) -> None:
        """Leave the memory to the others."""
        self._memory.close()
        os.close(self._fd)

    async def turn(self, pace: Pace, size: int) -> None:
        """Wait until ``size`` bytes may go out."""
        # Another process has no event for us, and is done in no time.
        while (wait := self._reserve(pace, size)) is None:  # noqa: ASYNC110  # see above
            await asyncio.sleep(BUSY_PAUSE)
        if wait > 0:
            await asyncio.sleep(wait)

    def _reserve(self, pace: Pace, size: int) -> float | None:
        """Take the next turn, and tell in how many seconds it is; None while another takes one."""
        place = pace.lane % LANES * _TIME.size
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _TIME.size, place)
        except OSError:
            return None
        try:
            now = self._clock()
            taken: float = _TIME.unpack_from(self._memory, place)[0]
            if not taken <= now + HORIZON:
                taken = now
            due = max(taken, now - SLACK)
            _TIME.pack_into(self._memory, place, due + size / pace.rate)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, _TIME.size, place)
        return due - now


class PacedBody:
    """A body that gives its bytes when their turn comes; see :class:`destinations.base.Body`."""

    def __init__(self, body: Body, timetable: Timetable, pace: Pace) -> None:
        self._body = body
        self._timetable = timetable
        self._pace = pace
        self._most = max(SMALLEST_TURN, int(pace.rate * TURN))

    @property
    def size(self) -> int:
        """Of the body."""
        return self._body.size

    @property
    def crc64nvme(self) -> int:
        """Of the body."""
        return self._body.crc64nvme

    @property
    def md5(self) -> bytes | None:
        """Of the body."""
        return self._body.md5

    def with_md5(self) -> None:
        """Have the body count it."""
        self._body.with_md5()

    async def count(self) -> None:
        """Of the body, at once: nothing is sent."""
        await self._body.count()

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        """The body's bytes, in turns. A body that is sent again takes new ones."""
        async for view in self._body:
            for start in range(0, len(view), self._most):
                piece = view[start : start + self._most]
                await self._timetable.turn(self._pace, len(piece))
                yield piece


class PacedDestination:
    """A destination that gets its bytes when their turn comes; all else goes straight to it."""

    def __init__(self, destination: Destination, timetable: Timetable, pace: Pace) -> None:
        self._destination = destination
        self._timetable = timetable
        self._pace = pace

    async def begin(self, target: Target, *, stale: bool) -> str:
        """See :meth:`Destination.begin`."""
        return await self._destination.begin(target, stale=stale)

    async def resume(self, target: Target, reference: str) -> Begun:
        """See :meth:`Destination.resume`."""
        return await self._destination.resume(target, reference)

    async def put_part(
        self, target: Target, reference: str, part: PartPlace, body: Body
    ) -> StoredPart:
        """See :meth:`Destination.put_part`."""
        return await self._destination.put_part(target, reference, part, self._paced(body))

    async def prove_part(
        self, target: Target, reference: str, part: PartPlace, body: Body, held: HeldPart | None
    ) -> StoredPart | None:
        """See :meth:`Destination.prove_part`: nothing is sent."""
        return await self._destination.prove_part(target, reference, part, body, held)

    async def finish(
        self,
        target: Target,
        reference: str,
        parts: Sequence[StoredPart],
        content: Content | None = None,
    ) -> StoredObject:
        """See :meth:`Destination.finish`."""
        return await self._destination.finish(target, reference, parts, content)

    async def put(
        self, target: Target, body: Body, *, stale: bool, content: Content | None = None
    ) -> StoredObject:
        """See :meth:`Destination.put`."""
        return await self._destination.put(target, self._paced(body), stale=stale, content=content)

    async def find(self, target: Target) -> StoredObject | None:
        """See :meth:`Destination.find`."""
        return await self._destination.find(target)

    async def abort(self, target: Target, reference: str) -> None:
        """See :meth:`Destination.abort`."""
        await self._destination.abort(target, reference)

    async def aclose(self) -> None:
        """The destination is its owner's to close."""

    def _paced(self, body: Body) -> PacedBody:
        return PacedBody(body, self._timetable, self._pace)

"""A file that a tus server still appends to, and who waits for more of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Self

from pipeline.blocking import in_thread
from pipeline.errors import SourceChangedError
from pipeline.running_digest import RunningDigest
from pipeline.source import Source

POLL = 0.1
"""Seconds between looks at the file's size."""
DIGEST_STEP = 64 * 1024 * 1024
"""Bytes that the digest takes in at a time."""
STILL = 60.0
"""Seconds without a new byte after which nobody waits for more: an upload that its client gave up
must not keep others from being followed."""


class Growth:
    """How far a file has grown. Looks while it is entered; :meth:`end` lets all who wait go.

    So does a file that stands still for long: what is there by then is still to be had.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.sealed = 0
        """So far the journal knows that its bytes may have been sealed."""
        self._fd = fd
        self._size = size
        self._received = 0
        self._grew_at = asyncio.get_running_loop().time()
        self._ended = False
        self._lost = False
        self._over = asyncio.Event()
        """Set once nobody waits any longer."""
        self._pulse = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Look from now on."""
        self._watch = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop looking."""
        self.end()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    def end(self) -> None:
        """Nobody is to wait any longer, nor to take what is there."""
        self._ended = True
        self._over.set()
        self._tell()

    async def reaches(self, end: int) -> bool:
        """Wait until the bytes before ``end`` are there; False once waiting is over.

        Raises SourceChangedError where the file shrank, was removed, or grew over its size.
        """
        while self._received < end and not self._over.is_set():
            await self._pulse.wait()
        self._check()
        return self._received >= end and not self._ended

    async def pause(self, seconds: float) -> bool:
        """Let some time pass; False once waiting is over. Raises likewise."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        self._check()
        return not self._over.is_set()

    async def take_in(self, running: RunningDigest, fd: int) -> None:
        """Keep a digest up with the file, until waiting is over."""
        with Source(os.dup(fd)) as source:
            while running.offset < self._size and await self.reaches(running.offset + 1):
                await take_in(running, source, self._received)

    async def _look(self) -> None:
        """Until the file does what an upload's file doesn't."""
        while not self._lost:
            found = os.fstat(self._fd)
            self._lost = not (self._received <= found.st_size <= self._size and found.st_nlink)
            now = asyncio.get_running_loop().time()
            if found.st_size > self._received:
                self._grew_at = now
            if self._lost or now - self._grew_at >= STILL:
                self._over.set()
            if self._over.is_set() or found.st_size > self._received:
                self._received = found.st_size
                self._tell()
            await asyncio.sleep(POLL)

    def _check(self) -> None:
        if self._lost:
            raise SourceChangedError("the file shrank, went or grew too far while it was received")

    def _tell(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()


async def take_in(running: RunningDigest, source: Source, end: int) -> None:
    """Have a digest take in everything before ``end``, beside the loop, in steps."""
    while running.offset < end:
        await in_thread(running.advance, source, min(end, running.offset + DIGEST_STEP))

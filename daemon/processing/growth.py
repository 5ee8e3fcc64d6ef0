"""A file that a tus server still appends to, and who waits for more of it."""

from __future__ import annotations

import asyncio
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


class Growth:
    """How far a file has grown. Looks while it is entered; :meth:`end` lets all who wait go."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._received = 0
        self._ended = False
        self._lost = False
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
        """Nobody is to wait any longer."""
        self._ended = True
        self._tell()

    async def reaches(self, end: int) -> bool:
        """Wait until the bytes before ``end`` are there; False once waiting is over.

        Raises SourceChangedError where the file shrank, was removed, or grew over its size.
        """
        while self._received < end and not (self._ended or self._lost):
            await self._pulse.wait()
        if self._lost:
            raise SourceChangedError("the file shrank, went or grew too far while it was received")
        return not self._ended

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
            if self._lost or found.st_size > self._received:
                self._received = found.st_size
                self._tell()
            await asyncio.sleep(POLL)

    def _tell(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()


async def take_in(running: RunningDigest, source: Source, end: int) -> None:
    """Have a digest take in everything before ``end``, beside the loop, in steps."""
    while running.offset < end:
        await in_thread(running.advance, source, min(end, running.offset + DIGEST_STEP))

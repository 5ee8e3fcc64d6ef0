"""A stored object as a source for what isn't asynchronous: reading and opening take turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from pipeline.destinations.base import Readable
from pipeline.destinations.reading import opened
from pipeline.messages import DestinationSpec


class RemoteObject:
    """See :class:`pipeline.envelope.base.Seekable`."""

    def __init__(self, runner: asyncio.Runner, stored: Readable) -> None:
        self._runner = runner
        self._stored = stored
        self._last: _Stream | None = None

    @property
    def size(self) -> int:
        """All of its bytes."""
        return self._stored.size

    def reader(self, start: int, stop: int) -> _Stream:
        """The bytes from ``start`` to before ``stop``."""
        self.close()
        self._last = _Stream(self._runner, self._stored.read(start, stop))
        return self._last

    def close(self) -> None:
        """Ask for nothing more."""
        if self._last is not None:
            self._last.close()
            self._last = None


class _Stream:
    """Bytes that come in while somebody waits for them."""

    def __init__(self, runner: asyncio.Runner, pieces: AsyncIterator[bytes]) -> None:
        self._runner = runner
        self._pieces = pieces
        self._ahead = b""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes. Raises DestinationError."""
        if not self._ahead:
            self._ahead = self._runner.run(self._next())
        piece, self._ahead = self._ahead[:size], self._ahead[size:]
        return piece

    def close(self) -> None:
        """End a request that is still giving."""
        self._runner.run(self._end())

    async def _next(self) -> bytes:
        return await anext(self._pieces, b"")

    async def _end(self) -> None:
        end = getattr(self._pieces, "aclose", None)
        if end is not None:
            await end()


@contextmanager
def remote_object(spec: DestinationSpec, name: str) -> Iterator[RemoteObject]:
    """The object under ``name``, open for as long as the block runs. Raises DestinationError."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        try:
            stored = RemoteObject(runner, runner.run(_enter(stack, spec, name)))
            try:
                yield stored
            finally:
                stored.close()
        finally:
            runner.run(_leave(stack))


async def _enter(stack: contextlib.AsyncExitStack, spec: DestinationSpec, name: str) -> Readable:
    return await stack.enter_async_context(opened(spec, name))


async def _leave(stack: contextlib.AsyncExitStack) -> None:
    await stack.aclose()

"""Large uploads that are delivered side by side, so many to each destination.

A destination that is slow or away holds up those that go to it, and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from daemon.scheduling.fair import Turns
from daemon.scheduling.slots import name_of
from pipeline.messages import DestinationSpec


class Places:
    """Hands out places. For one event loop."""

    def __init__(self, count: int) -> None:
        """``count`` places at each destination."""
        self._count = count
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, Turns[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def take(self, destination: DestinationSpec, study: str) -> AsyncIterator[None]:
        """Hold a place at a destination; studies take turns for it."""
        name = name_of(destination)
        await self._acquire(name, study)
        try:
            yield
        finally:
            self._release(name)

    async def _acquire(self, name: str, study: str) -> None:
        if self._taken.get(name, 0) < self._count:
            self._taken[name] = self._taken.get(name, 0) + 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(name, Turns())
        waiting.push(study, "", turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(name)
            else:
                waiting.discard(study, "", turn)
            raise

    def _release(self, name: str) -> None:
        waiting = self._waiting.get(name)
        while waiting:
            turn = waiting.pop()
            if not turn.done():  # its waiter was cancelled, and hasn't seen that yet
                turn.set_result(None)
                return
        self._waiting.pop(name, None)
        self._taken[name] -= 1
        if not self._taken[name]:
            del self._taken[name]

"""What runs next: fair between studies, small beside large.

Two parts. :class:`FairQueue` decides which upload is taken up next; :class:`Slots` decides which
of the uploads that were taken up may use the machine for its next part.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class FairQueue(Generic[Item]):
    """Items that wait for their time, then for their study's turn.

    Studies take turns, one item each; within a study the first come is the first served. An item
    is in the queue once: pushed again it keeps its place, unless it becomes ready sooner.
    """

    def __init__(self) -> None:
        self._later: list[tuple[float, int, str, Item]] = []
        self._ready: dict[str, deque[Item]] = {}
        self._turns: deque[str] = deque()
        self._due: dict[Item, float] = {}
        self._count = itertools.count()

    def __len__(self) -> int:
        """How many items wait, ready or not."""
        return len(self._due)

    def push(self, study: str, item: Item, ready_at: float = 0.0) -> None:
        """Let ``item`` wait until ``ready_at`` (seconds since the epoch)."""
        if item in self._due and self._due[item] <= ready_at:
            return
        self._due[item] = ready_at
        heapq.heappush(self._later, (ready_at, next(self._count), study, item))

    def discard(self, item: Item) -> None:
        """Forget ``item``, if it is there."""
        self._due.pop(item, None)

    def pop(self, now: float) -> Item | None:
        """The next item that is ready, or None."""
        self._ripen(now)
        while self._turns:
            study = self._turns[0]
            queue = self._ready[study]
            item = queue.popleft()
            if queue:
                self._turns.rotate(-1)
            else:
                self._turns.popleft()
                del self._ready[study]
            if self._due.get(item) is not None:
                del self._due[item]
                return item
        return None

    def next_at(self) -> float | None:
        """When the first waiting item becomes ready; None where nothing waits for its time."""
        return self._later[0][0] if self._later else None

    def _ripen(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            ready_at, _, study, item = heapq.heappop(self._later)
            if self._due.get(item) != ready_at:
                continue
            if study not in self._ready:
                self._ready[study] = deque()
                self._turns.append(study)
            self._ready[study].append(item)


class Slots:
    """How many jobs run at once, and who is next when one ends.

    Small jobs go first, so that a large upload can't hold them up; after ``SMALL_RUN`` of them in
    a row a waiting large one has its turn. In each lane the studies take turns.
    """

    SMALL_RUN = 3

    def __init__(self, count: int) -> None:
        self._free = count
        self._small: FairQueue[asyncio.Future[None]] = FairQueue()
        self._large: FairQueue[asyncio.Future[None]] = FairQueue()
        self._small_run = 0

    @asynccontextmanager
    async def take(self, study: str, *, small: bool) -> AsyncIterator[None]:
        """Hold one slot."""
        await self._acquire(study, small=small)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, study: str, *, small: bool) -> None:
        if self._free:
            self._free -= 1
            return
        lane = self._small if small else self._large
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.push(study, turn)
        try:
            await turn
        except asyncio.CancelledError:
            lane.discard(turn)
            if turn.done() and not turn.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        turn = self._next()
        if turn is None:
            self._free += 1
        else:
            turn.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        small_first = self._small_run < self.SMALL_RUN
        lanes = (self._small, self._large) if small_first else (self._large, self._small)
        for lane in lanes:
            turn = lane.pop(0.0)
            while turn is not None and turn.done():
                turn = lane.pop(0.0)
            if turn is not None:
                self._small_run = self._small_run + 1 if lane is self._small else 0
                return turn
        return None

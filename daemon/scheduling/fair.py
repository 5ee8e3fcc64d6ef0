"""Whose turn it is: studies take turns, and within a study its deliveries."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

_AT_ONCE = 0.0


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
        if ready_at <= 0.0:  # one number for all of them, and no place in the heap
            self._due[item] = _AT_ONCE
            self._make_ready(study, item)
            return
        self._due[item] = ready_at
        heapq.heappush(self._later, (ready_at, next(self._count), study, item))

    def discard(self, item: Item) -> None:
        """Forget ``item``, if it is there."""
        self._due.pop(item, None)

    def pop(self, now: float, may: Callable[[str], bool] = lambda _: True) -> Item | None:
        """The next item that is ready, of a study that ``may`` have one now; or None."""
        self._ripen(now)
        passed = 0
        while passed < len(self._turns):
            study = self._turns[0]
            if not may(study):
                self._turns.rotate(-1)
                passed += 1
                continue
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
            self._make_ready(study, item)

    def _make_ready(self, study: str, item: Item) -> None:
        if study not in self._ready:
            self._ready[study] = deque()
            self._turns.append(study)
        self._ready[study].append(item)


class Lately:
    """Which studies had something to do lately. Times are seconds of any one clock."""

    def __init__(self, seconds: float) -> None:
        """A study counts for so long."""
        self._seconds = seconds
        self._came: OrderedDict[str, float] = OrderedDict()

    def came(self, study: str, now: float) -> None:
        """A study has something to do."""
        self._came[study] = now
        self._came.move_to_end(study)

    def is_alone(self, study: str, now: float) -> bool:
        """Whether no other study had."""
        while self._came and next(iter(self._came.values())) < now - self._seconds:
            self._came.popitem(last=False)
        return len(self._came) == (study in self._came)


class Turns(Generic[Item]):
    """Items that wait for a turn: of their study, then of their delivery, then their own."""

    def __init__(self) -> None:
        self._studies: OrderedDict[str, OrderedDict[str, deque[Item]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._count

    def push(self, study: str, delivery: str, item: Item) -> None:
        """Let ``item`` wait."""
        deliveries = self._studies.setdefault(study, OrderedDict())
        deliveries.setdefault(delivery, deque()).append(item)
        self._count += 1

    def peek(self) -> Item | None:
        """Whose turn it is."""
        for deliveries in self._studies.values():
            for items in deliveries.values():
                return items[0]
        return None

    def pop(self) -> Item:
        """Likewise, and the turn is used. Raises StopIteration where nobody waits."""
        study, deliveries = next(iter(self._studies.items()))
        delivery, items = next(iter(deliveries.items()))
        item = items.popleft()
        deliveries.move_to_end(delivery)
        self._studies.move_to_end(study)
        self._taken(study, delivery)
        return item

    def discard(self, study: str, delivery: str, item: Item) -> None:
        """Forget ``item``, if it is there."""
        items = self._studies.get(study, OrderedDict()).get(delivery)
        if items is not None and item in items:
            items.remove(item)
            self._taken(study, delivery)

    def _taken(self, study: str, delivery: str) -> None:
        self._count -= 1
        deliveries = self._studies[study]
        if not deliveries[delivery]:
            del deliveries[delivery]
        if not deliveries:
            del self._studies[study]

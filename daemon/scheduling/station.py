"""One destination: who waits for it, what is under way to it, and how it does."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from daemon.scheduling.away import Away
from daemon.scheduling.fair import Turns
from daemon.scheduling.limit import Limit
from daemon.scheduling.pauses import widening
from pipeline.errors import DestinationUnreachableError

SMALL_RUN: Final = 3
"""Small jobs in a row, after which a large one that waits has its turn."""
LONGEST_RETRY_AFTER: Final = 3600.0
"""Seconds that a destination may ask for; what it says may be nonsense."""
SHORT_WAIT: Final = 5.0
"""Seconds for which an upload keeps its place, and waits for a destination to be left alone."""
WINDOW: Final = 30.0
"""Seconds over which throughput is told."""


@dataclass(eq=False)
class Ticket:
    """A job that waits for its turn, or is under way."""

    study: str
    delivery: str
    small: bool
    memory: int
    """Bytes that it takes of the budget."""
    size: int
    """Bytes that it sends."""
    turn: asyncio.Future[None]
    generation: int = 0
    """The limit's, when its turn came."""


class Station:
    """See the module. Times are seconds of the loop's clock."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.away = Away()
        """Whether it is, and which uploads wait for it without a try."""
        self.flying = {True: 0, False: 0}
        """Jobs under way: small ones, large ones."""
        self.memory = 0
        """Bytes of the budget that they hold."""
        self.resumes_at = 0.0
        """Until then it is left alone."""
        self.throttled_at: float | None = None
        """Since when it throttles; None where it doesn't."""
        self._waiting: dict[bool, Turns[Ticket]] = {True: Turns(), False: Turns()}
        self._small_run = 0
        self._throttles = 0
        self._controls = 0
        self._done: deque[tuple[float, int]] = deque()
        self._busy_since = 0.0

    @property
    def in_flight(self) -> int:
        """Jobs under way."""
        return self.flying[True] + self.flying[False]

    @property
    def waiting(self) -> int:
        """Jobs that wait for their turn."""
        return len(self._waiting[True]) + len(self._waiting[False])

    @property
    def idle(self) -> bool:
        """Whether nothing is known of it that would be missed."""
        busy = self.in_flight or self.waiting or self._controls or len(self.away)
        return not (busy or self.throttled_at)

    def admits(self, now: float, upload: str) -> bool:
        """Whether an upload may come and wait for its turn; one that may not is held."""
        if now + SHORT_WAIT < self.resumes_at:
            self.away.hold(upload)
            return False
        return self.away.admits(upload)

    @property
    def lets_go_at(self) -> float:
        """When those that are held are due."""
        return max(self.away.asks_at, self.resumes_at)

    def push(self, ticket: Ticket) -> None:
        """Let a job wait."""
        self._waiting[ticket.small].push(ticket.study, ticket.delivery, ticket)

    def discard(self, ticket: Ticket) -> None:
        """A job waits no more."""
        self._waiting[ticket.small].discard(ticket.study, ticket.delivery, ticket)

    def next(self, now: float) -> Ticket | None:
        """The job that could go now, as far as the destination is concerned."""
        if now < self.resumes_at:
            return None
        small_first = self._small_run < SMALL_RUN
        for small in (True, False) if small_first else (False, True):
            ticket = self._peek(small=small)
            if ticket is None:
                continue
            if self._has_room(small=small):
                return ticket
            self.limit.wanted()
        return None

    def first(self) -> Ticket | None:
        """The first that waits, whether it could go or not."""
        return self._peek(small=True) or self._peek(small=False)

    def start(self, ticket: Ticket, now: float) -> None:
        """The job that :meth:`next` or :meth:`first` named is under way."""
        self._waiting[ticket.small].pop()
        self._small_run = self._small_run + 1 if ticket.small else 0
        if not self.in_flight and not self._done:
            self._busy_since = now
        self.flying[ticket.small] += 1
        self.memory += ticket.memory
        ticket.generation = self.limit.generation

    def end(self, ticket: Ticket) -> None:
        """It is no more, however it ended."""
        self.flying[ticket.small] -= 1
        self.memory -= ticket.memory

    def control(self, change: int) -> None:
        """One more or fewer request without bytes is under way."""
        self._controls += change

    def succeeded(self, now: float, generation: int, size: int | None) -> None:
        """A job did what it should, ``size`` bytes; None for one that sends none."""
        self.away.succeeded()
        if size is not None:
            self._done.append((now, size))
            self._forget_old(now)
            self.limit.succeeded(now, size)
        if generation == self.limit.generation:
            self._throttles = 0
            self.throttled_at = None

    def failed(
        self, now: float, generation: int, error: DestinationUnreachableError, upload: str
    ) -> None:
        """A job of an upload found it away, failing or throttling."""
        news = self.limit.failed(now, generation)
        if not error.throttled:
            self.away.failed(now, upload)
            return
        self.throttled_at = self.throttled_at or now
        if news:
            self._throttles += 1
        asked = error.retry_after
        if asked is not None:
            pause = min(max(0.0, asked), LONGEST_RETRY_AFTER)
        elif news:
            pause = widening(self._throttles - 1)  # it throttles, and doesn't say for how long
        else:
            return
        self.resumes_at = max(self.resumes_at, now + pause)

    def strained(self, now: float, generation: int) -> None:
        """A job did what it should, but was asked for less on its way."""
        self.throttled_at = self.throttled_at or now
        self.limit.failed(now, generation)

    def bytes_per_second(self, now: float) -> float:
        """What got there lately."""
        self._forget_old(now)
        seconds = max(1.0, min(WINDOW, now - self._busy_since))
        return sum(size for _, size in self._done) / seconds

    def _peek(self, *, small: bool) -> Ticket | None:
        waiting = self._waiting[small]
        while (ticket := waiting.peek()) is not None and ticket.turn.done():
            waiting.pop()  # its waiter was cancelled, and hasn't seen that yet
        return ticket

    def _forget_old(self, now: float) -> None:
        while self._done and self._done[0][0] <= now - WINDOW:
            self._done.popleft()

    def _has_room(self, *, small: bool) -> bool:
        if self.in_flight < self.limit.value:
            return True
        # However many large ones are on their way, a small one always finds a place of its own.
        return small and not self.flying[True] and self.limit.value > 1

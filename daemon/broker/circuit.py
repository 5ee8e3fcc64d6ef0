"""One pause for all: while the REST API is away, its waiting reports don't ask one by one."""

from __future__ import annotations

import time

from daemon.backoff import Backoff
from daemon.journal.model import Error
from daemon.ports import Clock


class Circuit:
    """Closed while requests get through; open, with a widening pause, since one did not.

    Args:
        backoff: Of the pauses.
        clock: For ``since``; the pauses themselves don't follow a clock that may be set.
    """

    def __init__(self, backoff: Backoff, clock: Clock) -> None:
        self._backoff = backoff
        self._clock = clock
        self._failures = 0
        self._until = 0.0
        self.error: Error | None = None
        """Of the last failure; None while closed."""
        self.since: float | None = None
        """When it opened, seconds since the epoch; None while closed."""

    @property
    def closed(self) -> bool:
        """Whether the last request got through."""
        return self._failures == 0

    @property
    def failures(self) -> int:
        """How often the pause was begun since the last success: to be told when a try begins."""
        return self._failures

    def remaining(self) -> float:
        """Seconds of the pause that are left."""
        return 0.0 if self.closed else max(0.0, self._until - time.monotonic())

    def succeeded(self) -> None:
        """A request got through."""
        self._failures = 0
        self.error = self.since = None

    def failed(self, error: Error, seen: int, retry_after: float | None) -> None:
        """A request that began when there were ``seen`` failures did not get through.

        Several that were on their way together count as one.
        """
        self.error = error
        if self.since is None:
            self.since = self._clock()
        if seen != self._failures and not self.closed:
            return
        self._failures += 1
        pause = max(self._backoff.delay(self._failures), retry_after or 0.0)
        self._until = time.monotonic() + pause

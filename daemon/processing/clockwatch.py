"""Notices that the wall clock was set back, by a clock that never is."""

from __future__ import annotations

import time

from daemon.ports import Clock

LEAST = 1.0
"""Seconds. What is less delays nobody."""


class ClockWatch:
    """Compares two clocks each time it is asked.

    Args:
        clock: The one that may be set, as ``time.time``.
        steady: The one that only ever goes on, as ``time.monotonic``.
    """

    def __init__(self, clock: Clock, steady: Clock = time.monotonic) -> None:
        self._clock = clock
        self._steady = steady
        self._seen = clock(), steady()

    def went_back(self) -> float:
        """Seconds by which the clock was set back since this was asked before; 0 for none."""
        (then, steady_then), self._seen = self._seen, (self._clock(), self._steady())
        now, steady_now = self._seen
        if now >= then:
            # Where it was set back by less than what passed meanwhile, nothing waits for long.
            return 0.0
        back = then - now + (steady_now - steady_then)
        return back if back >= LEAST else 0.0

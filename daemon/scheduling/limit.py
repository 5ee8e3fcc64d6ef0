"""How many jobs a destination does well at once: found out while it works.

More are tried while that makes it faster, fewer where it doesn't; half as many where it fails or
throttles. Throughput is measured over whole epochs in which more was waiting than could go: what
an idle destination does tells nothing.
"""

from __future__ import annotations

from typing import Final

EPOCH: Final = 1.0
"""Seconds that an epoch lasts at least,"""
EPOCH_JOBS: Final = 2
"""and times the limit that as many jobs end in it."""
GAIN: Final = 0.3
"""The share of what one more could bring at best that it has to bring."""
LOSS: Final = 0.02
"""The share of throughput that may be lost with one fewer, and still that is better."""
FIRST_HOLD: Final = 5.0
LONGEST_HOLD: Final = 60.0
"""Seconds for which a limit that seems right is left alone."""
JOB_WORK: Final = 256 * 1024
"""Bytes that a job counts as beside its own: small ones are work, too."""


class Limit:
    """The limit of one destination. Times are seconds of any one clock."""

    def __init__(self, start: int, most: int) -> None:
        """Begin with ``start``, the number known to be good where nothing stands in the way."""
        self._most = max(1, most)
        self._start = min(max(1, start), self._most)
        self.value = self._start
        self.generation = 0
        """Counts the times it was halved. What began in an earlier one tells nothing new."""
        self._hold = FIRST_HOLD
        self._held_until = 0.0
        self._before: float | None = None
        """Throughput before the step that is being tried; None while none is."""
        self._step = 1
        self._settling = 0
        self._wanted = False
        self._epoch_began: float | None = None
        self._jobs = 0
        self._work = 0

    def bound(self, most: int) -> None:
        """Have another ceiling from now on."""
        self._most = max(1, most)
        self._start = min(self._start, self._most)
        self.value = min(self.value, self._most)

    def wanted(self) -> None:
        """More could have gone, had the limit been higher."""
        self._wanted = True

    def succeeded(self, now: float, size: int) -> None:
        """A job of ``size`` bytes is done."""
        if self._settling > 0:
            self._settling -= 1
            return
        if self._epoch_began is None:
            self._begin_epoch(now)
            return
        self._jobs += 1
        self._work += size + JOB_WORK
        seconds = now - self._epoch_began
        if seconds < EPOCH or self._jobs < EPOCH_JOBS * self.value:
            return
        throughput, wanted = self._work / seconds, self._wanted
        self._begin_epoch(now)
        if wanted:
            self._learn(now, throughput)

    def failed(self, now: float, generation: int) -> bool:
        """A job of ``generation`` found the destination failing; whether that is news."""
        if generation != self.generation:
            return False
        self.generation += 1
        self._move(max(1, self.value // 2))
        self._before = None
        self._hold = FIRST_HOLD
        self._held_until = now + FIRST_HOLD
        return True

    def _learn(self, now: float, throughput: float) -> None:
        if self._before is not None:
            self._judge(now, throughput)
        elif now >= self._held_until:
            if self.value < self._start:
                self._move(self.value + 1)
                return
            # Up and down in turn, so that a limit that came too high by chance comes down again.
            self._try(throughput)

    def _try(self, throughput: float) -> None:
        step = self._step
        if step < 0 and self.value <= self._start:
            step = 1
        if not self._start <= self.value + step <= self._most:
            return
        self._step = step
        self._before = throughput
        self._move(self.value + step)

    def _judge(self, now: float, throughput: float) -> None:
        """Keep the step that was tried, and go on with it, or take it back."""
        before = self._before or 0.0
        needed = 1 - LOSS if self._step < 0 else 1 + GAIN / max(1, self.value - 1)
        self._before = None
        if throughput >= before * needed:
            self._hold = FIRST_HOLD
            self._try(throughput)
            return
        self._move(self.value - self._step)
        self._step = -self._step
        self._held_until = now + self._hold
        self._hold = min(LONGEST_HOLD, 2 * self._hold)

    def _move(self, value: int) -> None:
        self._settling = max(self.value, value)
        self.value = min(value, self._most)
        self._epoch_began = None

    def _begin_epoch(self, now: float) -> None:
        self._epoch_began = now
        self._jobs = self._work = 0
        self._wanted = False

"""Pauses between tries that are counted in the journal, and so outlive the process."""

from __future__ import annotations

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_random_exponential


class Backoff:
    """Exponentially widening pauses with jitter, so that those who failed together part ways.

    Args:
        initial: No pause is shorter; seconds.
        maximum: No pause is longer; seconds.
    """

    def __init__(self, initial: float, maximum: float) -> None:
        self._wait = wait_random_exponential(
            multiplier=2 * initial, max=max(initial, maximum), min=initial
        )

    def delay(self, attempts: int) -> float:
        """Seconds to wait after so many failed tries."""
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = max(1, attempts)
        return float(self._wait(state))

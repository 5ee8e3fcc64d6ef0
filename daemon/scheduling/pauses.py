"""How long a destination is left alone that was asked in vain, time and again."""

from __future__ import annotations

import random
from typing import Final

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds."""
_DOUBLINGS: Final = 16
"""More make no difference, and in the end a number that is too large."""


def widening(times: int) -> float:
    """Seconds of the pause after so many others: each up to twice as long as the one before."""
    most = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(times, _DOUBLINGS))
    return most * random.uniform(0.75, 1.0)  # noqa: S311  # so that several daemons fall apart

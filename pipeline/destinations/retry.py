"""Short disturbances, waited out where they happen."""

from __future__ import annotations

import asyncio
import email.utils
import itertools
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pipeline import throttling
from pipeline.errors import DestinationUnreachableError

TRIES: Final = 4
LONGEST_PAUSE: Final = 5.0
"""Seconds. What lasts longer is worth a pause of the whole delivery, which is the daemon's."""

LONGEST_WISH: Final = 86400.0
"""Seconds. A store that wants to be left alone for longer is asked again after these."""

T = TypeVar("T")
_FIRST_PAUSE: Final = 0.2
"""Seconds, at most; each further one may be twice as long."""


async def steadily(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of ``call``, tried a few times while the destination is unreachable.

    Any other error comes out at once, the last unreachable one at the end. So does one whose
    store wants a longer pause than is made here.
    """
    for number in itertools.count(1):
        try:
            return await call()
        except DestinationUnreachableError as error:
            if not _may_pass(error) or number == TRIES:
                raise
            pause = max(_jittered(number), error.retry_after or 0.0)
        await asyncio.sleep(pause)
    raise AssertionError("unreachable")


def asked_to_wait(header: str | None) -> float | None:
    """Seconds that a Retry-After asks for, as a number or a date; None where it is neither."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_WISH) if math.isfinite(seconds) else None


def _may_pass(error: DestinationUnreachableError) -> bool:
    if error.throttled:
        throttling.note()
    return error.retry_after is None or error.retry_after <= LONGEST_PAUSE


def _jittered(tries: int) -> float:
    return random.uniform(0.0, min(LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (tries - 1)))  # noqa: S311 -- no secret

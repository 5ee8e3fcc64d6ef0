"""Short disturbances, waited out where they happen."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from pipeline import throttling
from pipeline.errors import DestinationUnreachableError

TRIES: Final = 4
LONGEST_PAUSE: Final = 5.0
"""Seconds. What lasts longer is worth a pause of the whole delivery, which is the daemon's."""

LONGEST_WISH: Final = 86400.0
"""Seconds. A store that wants to be left alone for longer is asked again after these."""

T = TypeVar("T")
_JITTERED: Final = wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE)


async def steadily(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of ``call``, tried a few times while the destination is unreachable.

    Any other error comes out at once, the last unreachable one at the end. So does one whose
    store wants a longer pause than is made here.
    """
    try:
        return await call()
    except DestinationUnreachableError as error:
        # The usual case costs nothing; from here on tenacity counts, with this as the first try.
        failed: DestinationUnreachableError | None = error

    async def called() -> T:
        nonlocal failed
        if failed is not None:
            first, failed = failed, None
            raise first
        return await call()

    retrying = AsyncRetrying(
        stop=stop_after_attempt(TRIES),
        wait=_pause,
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    return await retrying(called)


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


def _may_pass(error: BaseException) -> bool:
    if not isinstance(error, DestinationUnreachableError):
        return False
    if error.throttled:
        throttling.note()
    return error.retry_after is None or error.retry_after <= LONGEST_PAUSE


def _pause(state: RetryCallState) -> float:
    """With jitter, and no shorter than the destination asked for."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after if isinstance(error, DestinationUnreachableError) else None
    return max(_JITTERED(state), asked or 0.0)

"""Short disturbances, waited out where they happen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from pipeline.errors import DestinationUnreachableError

TRIES: Final = 4
LONGEST_PAUSE: Final = 5.0
"""Seconds. What lasts longer is worth a pause of the whole delivery, which is the daemon's."""

T = TypeVar("T")


async def steadily(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of ``call``, tried a few times while the destination is unreachable.

    Any other error comes out at once, the last unreachable one at the end.
    """
    retrying = AsyncRetrying(
        stop=stop_after_attempt(TRIES),
        wait=wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE),
        retry=retry_if_exception_type(DestinationUnreachableError),
        reraise=True,
    )

    async def called() -> T:  # tenacity awaits only what is declared so
        return await call()

    return await retrying(called)

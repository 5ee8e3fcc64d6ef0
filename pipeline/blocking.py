"""Blocking calls beside the event loop, never left running behind their caller's back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` in a thread of the loop's pool.

    Unlike :func:`asyncio.to_thread`, a cancelled caller waits until the call is over: a
    descriptor or a buffer that the call uses can be let go as soon as this ends.
    """
    return await _call(None, lambda: function(*args, **kwargs), None)


async def in_executor(
    executor: Executor, function: Callable[[], T], stop: Callable[[], object]
) -> T:
    """Likewise, in a thread of ``executor``; ``stop`` asks a cancelled call to end early."""
    return await _call(executor, function, stop)


async def _call(
    executor: Executor | None, function: Callable[[], T], stop: Callable[[], object] | None
) -> T:
    future = asyncio.get_running_loop().run_in_executor(executor, function)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        await _over(future)
        raise


async def _over(future: asyncio.Future[T]) -> None:
    """Wait for the end of a call, however often the caller is cancelled meanwhile."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    if not future.cancelled():
        future.exception()  # seen: nobody is left to take it

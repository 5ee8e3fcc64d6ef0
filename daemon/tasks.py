"""Structured concurrency where one error is expected, not a group of them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Done = TypeVar("Done")


async def to_its_end(work: Coroutine[Any, Any, Done], patience: float) -> Done:
    """Do what must not be left half known: who is cancelled meanwhile waits for its end.

    After ``patience`` seconds it is cancelled all the same.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=patience)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


async def run_all(*steps: Coroutine[Any, Any, None]) -> None:
    """Run all at once. The first that fails ends the others, and its error is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error

"""What somebody on the event loop asked of a thread of the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Work = TypeVar("Work")


@dataclass(slots=True)
class Asked(Generic[Work]):
    """Something to do, who waits for it, and what came of it."""

    work: Work
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


def settle(asked: Iterable[Asked[Any]]) -> None:
    """Tell those who asked and still wait; on the loop."""
    for each in asked:
        if each.future.done():
            continue  # who asked was cancelled
        if each.error is not None:
            each.future.set_exception(each.error)
        else:
            each.future.set_result(each.result)

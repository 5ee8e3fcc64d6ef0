"""A thread that does what the event loop asks of it, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
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


class Hand:
    """Takes short work off the event loop.

    To wake a thread and to be woken by it costs more than a short errand. So what is asked while it
    is at work is handed over together, and comes back together.
    """

    def __init__(self, name: str) -> None:
        """The thread's name. Made where the loop runs."""
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: list[Asked[Callable[[], Any]]] = []
        self._busy = False
        self._closing = False

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` gives or raises. It is done to its end even where nobody waits any more."""
        if self._closing:
            raise RuntimeError("the thread was ended")
        return await self._put(work)

    async def aclose(self) -> None:
        """Do what was asked, and end."""
        if self._closing:
            return
        self._closing = True
        await self._put(lambda: None)  # the last one
        await asyncio.to_thread(self._thread.shutdown)

    def _put(self, work: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(Asked(work, future))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._hand_over)
        return future

    def _hand_over(self) -> None:
        taken, self._waiting = self._waiting, []
        self._thread.submit(self._do, taken)

    def _do(self, taken: Sequence[Asked[Callable[[], Any]]]) -> None:
        for asked in taken:
            try:
                asked.result = asked.work()
            except Exception as error:  # noqa: BLE001 - whoever asked gets it
                asked.error = error
        # The loop may be gone, and with it whoever asked.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, taken)

    def _settle(self, taken: Sequence[Asked[Callable[[], Any]]]) -> None:
        settle(taken)
        if self._waiting:
            self._hand_over()
        else:
            self._busy = False

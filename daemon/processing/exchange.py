"""What one try of a delivery has workers do: in its turn, patiently, by another one if one dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import msgspec
import structlog

from daemon.journal.model import Delivery, Upload, UploadState
from daemon.processing.context import Context, OpenSource
from daemon.scheduling.slots import Errand, Turn
from daemon.tasks import to_its_end
from pipeline.errors import DestinationUnreachableError, DropoffError, WorkerLostError
from pipeline.messages import Begin, Finish, Job, Part, Prove, Result, Span, Whole

WORKER_TRIES = 3
PATIENCE = 60.0
"""Seconds for which a try goes on at a destination that throttles and takes nothing."""
CALLED_OFF = 10.0
"""Seconds that something which is begun there has to become known, once nobody wants it any more:
what isn't known is not removed."""

Expected = TypeVar("Expected", bound=Result)
Sent = TypeVar("Sent")


class Exchange:
    """Jobs about one upload for one destination, while one try lasts."""

    def __init__(
        self,
        context: Context,
        upload: Upload,
        delivery: Delivery,
        source: OpenSource,
        *,
        small: bool,
    ) -> None:
        self._log = structlog.get_logger(__name__)
        self._context = context
        self._upload = upload.id
        self._study = upload.study or ""
        self._destination = delivery.destination
        self._source = source
        self._small = small
        self._moved_at = asyncio.get_running_loop().time()
        """When something got there last."""
        followed = upload.trail is not None and upload.state is not UploadState.RECEIVING
        self._may_have_left = upload.restarts > 0 or delivery.attempts > 1 or followed
        """Whether something that nobody remembers may be there: of the upload before it started
        over or was complete, of an earlier try, or of a job of this one that failed or lost its
        worker."""

    async def run(self, job: Job, expected: type[Expected]) -> Expected:
        """Have a worker do ``job``, by another one where a worker dies."""
        needs_source = isinstance(job, Part | Prove | Whole)
        for left in reversed(range(WORKER_TRIES)):
            if isinstance(job, Begin | Whole | Finish):
                job = msgspec.structs.replace(job, stale=self._may_have_left)
            try:
                result = await self._context.workers.run(
                    job, self._source.fd if needs_source else None
                )
            except DropoffError as error:
                self._may_have_left = True
                if not left or not isinstance(error, WorkerLostError):
                    raise
            else:
                if not isinstance(result, expected):
                    raise TypeError(f"{type(job).__name__} gave {type(result).__name__}")
                return result
        raise AssertionError("unreachable")

    async def ask(
        self,
        job: Begin | Finish,
        expected: type[Expected],
        keep: Callable[[Expected], Awaitable[None]] | None = None,
    ) -> Expected:
        """Have a job done that moves no bytes, once the destination may be spoken to.

        ``keep`` takes what comes of it down, also where this is cancelled meanwhile.
        """

        async def ask() -> Expected:
            async with self._context.slots.reach(job.destination, self._upload):
                if keep is None:
                    return await self.run(job, expected)
                return await to_its_end(self._kept(job, expected, keep), CALLED_OFF)

        return await self.patiently(ask)

    async def _kept(
        self, job: Job, expected: type[Expected], keep: Callable[[Expected], Awaitable[None]]
    ) -> Expected:
        result = await self.run(job, expected)
        await keep(result)
        return result

    async def patiently(self, step: Callable[[], Awaitable[Sent]]) -> Sent:
        """Do ``step`` again while the destination throttles: its turns come the slower for that.

        The error is raised where nothing got there for ``PATIENCE``: others may have our place.
        """
        while True:
            try:
                done = await step()
            except DestinationUnreachableError as error:
                self._context.go_on()
                waited = asyncio.get_running_loop().time() - self._moved_at
                if not error.throttled or max(waited, error.retry_after or 0.0) > PATIENCE:
                    raise
                self._log.info(
                    "destination_throttles",
                    destination=self._destination.name,
                    error=error.message,
                    retry_after_seconds=error.retry_after,
                )
            else:
                self._moved_at = asyncio.get_running_loop().time()
                return done

    async def in_lanes(self, todo: Sequence[Span], step: Callable[[Span], Awaitable[None]]) -> None:
        """Do ``step`` for each span, enough of them at once that no slot waits for the journal."""
        waiting = iter(todo)

        async def lane() -> None:
            for span in waiting:
                self._context.go_on()
                await step(span)

        lanes = min(2 * self._context.slots.most, len(todo))
        await self._context.run_all(*(lane() for _ in range(lanes)))

    def turn(self, *, size: int, memory: int) -> AbstractAsyncContextManager[Turn]:
        """A turn to send ``size`` bytes by way of ``memory`` bytes."""
        return self._turn(
            Errand(destination=self._destination, delivery=self._upload, size=size, memory=memory)
        )

    def reading(self, *, memory: int) -> AbstractAsyncContextManager[Turn]:
        """A turn to read of the source, and send nothing."""
        return self._turn(Errand(memory=memory))

    @asynccontextmanager
    async def _turn(self, errand: Errand) -> AsyncIterator[Turn]:
        async with self._context.slots.take(self._study, small=self._small, errand=errand) as turn:
            self._context.go_on()
            yield turn

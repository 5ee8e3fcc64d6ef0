"""Takes up what the journal has to do, as much of it at once as is good, and stops in order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import structlog

from daemon.journal.model import Delivery, Error, UploadState, Work
from daemon.processing.clockwatch import ClockWatch
from daemon.processing.context import Context, StoppedError
from daemon.processing.follow import Follower
from daemon.processing.past import abort_job
from daemon.processing.prepare import WHOLE_LIMIT
from daemon.processing.upload import UploadRun
from daemon.scheduling.fair import FairQueue, Lately
from daemon.scheduling.places import Places
from pipeline.errors import DropoffError

SMALL_AT_ONCE = 32
"""Small uploads of a study under way: enough that requests overlap."""
SMALL_BESIDE_OTHERS = 5
"""Likewise while others have some, too: each step of theirs waits for one of each of these."""
LATELY = 5.0
"""Seconds for which a study that had something to do counts as one that has."""
LARGE_AT_ONCE = 4
"""Likewise of large ones, for each delivery that there may be at once: those that go to other
destinations needn't wait for a slow one."""
AT_ONCE = 128
"""Of all studies, small and large each: an upload that is taken up holds an open file. Memory is
not theirs, but their parts', which have a budget."""
PAUSE = 5.0
"""Seconds to wait where even the journal can't be told, as when its disk is full."""
ABORT_PAUSE = 60.0
"""Seconds between tries to remove what terminated uploads left."""
LOOK_AGAIN = 60.0
"""Seconds. The wall clock may jump: no sleep that follows it is longer."""

PAGE = 256
"""Uploads to queue at once: while these are looked at, nothing else is done."""
LEFT = (UploadState.STORED, UploadState.PROCESSING, UploadState.RECEIVED, UploadState.FAILED)
"""The states in which something is left to do, those that are nearest to their end first."""


class Conductor:
    """Runs uploads; a journal's Listener."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._log = structlog.get_logger(__name__)
        self._queues: dict[bool, FairQueue[str]] = {True: FairQueue(), False: FairQueue()}
        self._running: dict[str, asyncio.Task[float | None]] = {}
        self._taken: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        """Small and large uploads under way, by study."""
        self._lately = Lately(LATELY)
        """Of which studies small uploads were taken up."""
        self._works: dict[str, Work] = {}
        """What waits in the queues."""
        self._again: set[str] = set()
        self._follower = Follower(context)
        self._clock_watch = ClockWatch(context.clock)
        self._set_back: float | None = 0.0
        """Seconds by which the clock was set back, where what waits doesn't know it yet."""
        self._wake = asyncio.Event()
        self._withdrawn = asyncio.Event()
        self._large = Places(context.settings.pipeline.deliveries)
        self._digests = asyncio.Semaphore(context.settings.pipeline.workers)
        context.slots.listen(self._let_go)

    @property
    def waiting(self) -> int:
        """Uploads that are not taken up yet."""
        return sum(len(queue) for queue in self._queues.values())

    def on_work(self, work: Work) -> None:
        """Take an upload up when its turn comes."""
        if work.state is UploadState.RECEIVING:
            self._follower.on_work(work)
            return
        if work.upload in self._running:
            self._again.add(work.upload)
            return
        self._push(work)

    def on_reports(self) -> None:
        """Reports are the outbox's."""

    def on_withdrawn(self, upload: str) -> None:
        """Stop what runs for an upload, and remove what it left unfinished."""
        for queue in self._queues.values():
            queue.discard(upload)
        self._works.pop(upload, None)
        for task in (self._follower.task_of(upload), self._running.get(upload)):
            if task is not None:
                # It may be about to learn of one more thing that has to go.
                task.add_done_callback(lambda _: self._withdrawn.set())
                task.cancel()
        self._follower.forget(upload)
        self._withdrawn.set()

    async def run(self) -> None:
        """Work until the service stops; returns once nothing is under way any more.

        Before it is cancelled the service sets ``stopping``: uploads then end at the next part.
        """
        await self._heed_clock()
        janitor = asyncio.create_task(self._clean_up_withdrawn())
        try:
            while not self._context.stopping.is_set():
                self._start_ready()
                await self._sleep()
                await self._heed_clock()
            await self._park()
        finally:
            await _end([janitor, *self._running.values(), *self._follower.tasks])

    def stop(self) -> None:
        """Take up nothing more."""
        self._context.stopping.set()
        self._follower.stop()
        self._context.slots.stop()
        self._wake.set()

    def _push(self, work: Work) -> None:
        self._works[work.upload] = work
        small = work.size <= WHOLE_LIMIT
        self._queues[small].push(work.study, work.upload, work.next_at)
        self._wake.set()

    def _let_go(self, upload: str) -> None:
        """A destination that an upload waited for may be back."""
        work = self._works.get(upload)
        if work is not None:
            self._push(msgspec.structs.replace(work, next_at=0.0))
        elif upload in self._running:
            self._again.add(upload)

    def _start_ready(self) -> None:
        now = self._context.clock()
        for small, queue in self._queues.items():
            while self._has_room(small=small):
                upload = queue.pop(now, partial(self._may_take, small))
                if upload is None:
                    break
                self._start(upload, small=small)

    def _has_room(self, *, small: bool) -> bool:
        return self._taken[small].total() < AT_ONCE

    def _may_take(self, small: bool, study: str) -> bool:  # noqa: FBT001  # given by position, once
        if small:
            alone = self._lately.is_alone(study, asyncio.get_running_loop().time())
            most = SMALL_AT_ONCE if alone else SMALL_BESIDE_OTHERS
        else:
            most = LARGE_AT_ONCE * self._context.settings.pipeline.deliveries
        return self._taken[small][study] < most

    def _start(self, upload: str, *, small: bool) -> None:
        work = self._works.pop(upload)
        self._taken[small][work.study] += 1
        if small:
            self._lately.came(work.study, asyncio.get_running_loop().time())
        task = asyncio.create_task(self._advance(work), name=f"upload {upload}")
        self._running[upload] = task
        task.add_done_callback(lambda task: self._ended(work, task, small=small))

    def _ended(self, work: Work, task: asyncio.Task[float | None], *, small: bool) -> None:
        del self._running[work.upload]
        taken = self._taken[small]
        taken[work.study] -= 1
        if not taken[work.study]:
            del taken[work.study]
        next_at = None if task.cancelled() else task.result()
        if work.upload in self._again:
            self._again.discard(work.upload)
            next_at = 0.0
        if next_at is not None:
            self._push(msgspec.structs.replace(work, next_at=next_at))
        self._wake.set()

    async def _advance(self, work: Work) -> float | None:
        """Drive one upload; when to come back to it. What nobody foresaw is its own trouble."""
        structlog.contextvars.bind_contextvars(upload=work.upload)
        run = UploadRun(self._context, work.upload, self._follower, self._large, self._digests)
        try:
            return await run.run()
        except StoppedError:
            return None
        except DropoffError as error:
            self._log.warning("upload_waits", error_code=error.code, error=error.message)
            return self._context.clock() + PAUSE
        except Exception as error:  # noqa: BLE001 -- a bug met by one upload must not end the others
            self._log.exception("upload_crashed")
            return await self._postponed(work, error)

    async def _postponed(self, work: Work, error: Exception) -> float:
        again = self._context.clock() + self._context.backoff.delay(5)
        told = Error(code="internal", message=type(error).__name__, retryable=True)
        try:
            await self._context.journal.postpone(work.upload, told, again)
        except DropoffError as refused:
            self._log.error("postpone_failed", error_code=refused.code, error=refused.message)
        return again

    async def _sleep(self) -> None:
        # A queue without room is looked at again when one of its uploads ends, not before.
        due = [
            at
            for small, queue in self._queues.items()
            if self._has_room(small=small) and (at := queue.next_at()) is not None
        ]
        pause = max(0.01, min(due) - self._context.clock()) if due else LOOK_AGAIN
        longest = LOOK_AGAIN if self._set_back is None else PAUSE
        try:
            async with asyncio.timeout(min(pause, longest)):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _heed_clock(self) -> None:
        """Queue all there is to do: at first, and sooner where the clock was set back meanwhile."""
        seconds = self._clock_watch.went_back()
        if seconds:
            self._log.warning("clock_set_back", seconds=round(seconds, 1))
            self._set_back = (self._set_back or 0.0) + seconds
        if self._set_back is None:
            return
        try:
            await self._context.journal.clock_went_back(self._set_back, self._context.clock())
            await self._queue_all()
        except DropoffError as error:
            self._log.warning("work_not_read", error_code=error.code, error=error.message)
        else:
            self._set_back = None

    async def _queue_all(self) -> None:
        """Queue all that the journal has to do, and begin with the first meanwhile."""
        for state in LEFT:
            after = 0
            while page := await self._context.journal.work_page(state, after, PAGE):
                for after, work in page:  # noqa: B007  # the last one's place is where to go on
                    if work.upload not in self._running:
                        self._push(work)
                if self._context.stopping.is_set():
                    return
                self._start_ready()

    async def _park(self) -> None:
        """Let parts in flight end while there is time; the caller cancels the rest."""
        running = [*self._running.values(), *self._follower.tasks]
        if not running:
            return
        timeout = self._context.settings.pipeline.stop_timeout
        self._log.info("parking", uploads=len(running), timeout_seconds=timeout)
        await asyncio.wait(running, timeout=timeout)

    async def _clean_up_withdrawn(self) -> None:
        """Remove what terminated and discarded uploads left unfinished at destinations."""
        while True:
            self._withdrawn.clear()
            if await self._abort_abandoned():
                await self._withdrawn.wait()
            else:
                await asyncio.sleep(ABORT_PAUSE)

    async def _abort_abandoned(self) -> bool:
        """Whether nothing is left. A destination that is away keeps no other from being cleaned."""
        try:
            abandoned = await self._context.journal.abandoned()
        except DropoffError as error:
            self._log.warning("abort_failed", error_code=error.code, error=error.message)
            return False
        return all([await self._abort(delivery) for delivery in abandoned])

    async def _abort(self, delivery: Delivery) -> bool:
        running = self._running.get(delivery.upload)
        if running is not None:
            await asyncio.wait([running])
        await self._follower.ended(delivery.upload)
        try:
            if delivery.reference:
                await self._context.workers.run(abort_job(delivery))
            await self._context.journal.aborted(delivery.upload, delivery.position)
        except DropoffError as error:
            self._log.warning(
                "abort_failed",
                upload=delivery.upload,
                destination=delivery.destination.name,
                error_code=error.code,
                error=error.message,
            )
            return False
        return True


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)

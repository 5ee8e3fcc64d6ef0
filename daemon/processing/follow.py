"""Delivery while it arrives: what was received goes out while the rest is on its way.

An upload that is followed has its key, header and deliveries from the moment enough of it is
there; its parts go out as they become whole, and its digest is taken alongside. When it is
complete, or anything goes wrong, following ends, and processing goes on with what is there.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from daemon.errors import ConflictError
from daemon.journal.model import Upload, UploadState, Work
from daemon.processing.context import Context, OpenSource, StoppedError
from daemon.processing.deliver import DeliveryRun
from daemon.processing.growth import Growth
from daemon.processing.past import RESTARTS, is_trusted, is_unchanged, throw_away, trail_of
from daemon.processing.prepare import WHOLE_LIMIT, fixed
from pipeline.errors import (
    DestinationError,
    DropoffError,
    SourceChangedError,
    WorkerLostError,
)
from pipeline.running_digest import RunningDigest

AT_ONCE = 32
"""Uploads that are followed at the same time."""
PAUSE = 5.0
"""Seconds between tries where a destination is away."""
APPENDING = frozenset({"tusd"})
"""Servers that only ever append, and count what is in the file as received."""


class Follower:
    """Follows uploads that are being received, until they are released."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._log = structlog.get_logger(__name__)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._growths: dict[str, Growth] = {}
        self._declined: set[str] = set()

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return list(self._tasks.values())

    def on_work(self, work: Work) -> None:
        """More of an upload is there."""
        pipeline = self._context.settings.pipeline
        if not pipeline.follow or work.size <= max(WHOLE_LIMIT, pipeline.follow_after):
            return
        known = work.upload in self._tasks or work.upload in self._declined
        if known or len(self._tasks) >= AT_ONCE or self._context.stopping.is_set():
            return
        task = asyncio.create_task(self._run(work.upload), name=f"follow {work.upload}")
        self._tasks[work.upload] = task
        task.add_done_callback(lambda _: self._ended(work.upload))

    async def release(self, upload: str) -> None:
        """Leave an upload to processing; returns once no part of it is in flight any more."""
        self._declined.discard(upload)
        growth = self._growths.get(upload)
        if growth is not None:
            growth.end()
        await self.ended(upload)

    async def ended(self, upload: str) -> None:
        """Wait until an upload isn't followed any more."""
        task = self._tasks.get(upload)
        if task is not None:
            await asyncio.wait([task])

    def task_of(self, upload: str) -> asyncio.Task[None] | None:
        """What follows an upload, where it is followed."""
        return self._tasks.get(upload)

    def forget(self, upload: str) -> None:
        """It is withdrawn: nothing has to be remembered of it."""
        self._declined.discard(upload)
        self._context.digests.pop(upload, None)

    def stop(self) -> None:
        """Take no more parts up; what is in flight ends."""
        for growth in self._growths.values():
            growth.end()

    def _ended(self, upload: str) -> None:
        del self._tasks[upload]
        self._growths.pop(upload, None)

    async def _run(self, upload_id: str) -> None:
        structlog.contextvars.bind_contextvars(upload=upload_id)
        try:
            await self._follow(upload_id)
        except StoppedError:
            return
        except DropoffError as error:
            # No failure of the upload: it is not even complete.
            self._log.info("follow_pauses", error_code=error.code, error=error.message)
            await self._give_up(upload_id, error)
        except Exception:  # noqa: BLE001 -- following is a convenience: the upload goes its way without it
            self._log.exception("follow_crashed")
            self._declined.add(upload_id)

    async def _give_up(self, upload_id: str, error: DropoffError) -> None:
        """For now, or until it is complete. What is worth another try is tried once it grows."""
        if isinstance(error, SourceChangedError):
            with contextlib.suppress(ConflictError):
                await self._context.journal.doubt(upload_id)
            upload = await self._context.journal.upload(upload_id)
            if upload.restarts >= RESTARTS:
                self._declined.add(upload_id)
        elif not error.retryable:
            self._declined.add(upload_id)

    async def _follow(self, upload_id: str) -> None:
        upload = await self._context.journal.upload(upload_id)
        if not self._is_due(upload):
            return
        with await self._context.sources.open(upload) as source:
            growth = Growth(source.fd, upload.size or 0)
            self._growths[upload_id] = growth
            upload = await self._fixed(upload, source)
            async with growth:
                await self._deliver(upload, source, growth)

    def _is_due(self, upload: Upload) -> bool:
        """Whether it is worth it. Deferred lengths are followed once they are declared."""
        return (
            upload.state is UploadState.RECEIVING
            and upload.size is not None
            and upload.study is not None
            and upload.server in APPENDING
            and upload.received >= self._context.settings.pipeline.follow_after
        )

    async def _fixed(self, upload: Upload, source: OpenSource) -> Upload:
        """The upload with key, header and deliveries, and with a past that holds."""
        journal = self._context.journal
        trail = upload.trail
        if trail is not None:
            if not await is_unchanged(self._context, upload, source):
                await throw_away(self._context, upload)
                upload = await journal.upload(upload.id)
            elif not is_trusted(trail, source.identity):
                await journal.trust(upload.id, trail_of(source.identity, trail.sealed))
        if upload.trail is None:
            envelope, deliveries = await fixed(self._context, upload, upload.size or 0)
            await journal.follow(upload.id, envelope, deliveries, trail_of(source.identity))
            self._log.info("following", received_bytes=upload.received, size_bytes=upload.size)
        return await journal.upload(upload.id)

    async def _deliver(self, upload: Upload, source: OpenSource, growth: Growth) -> None:
        envelope = await self._context.journal.envelope(upload.id)
        sending = [
            self._send(DeliveryRun(self._context, upload, envelope, delivery, source), growth)
            for delivery in await self._context.journal.deliveries(upload.id)
            if delivery.part_size
        ]
        await self._context.run_all(*sending, self._digest(upload, source, growth))

    async def _send(self, run: DeliveryRun, growth: Growth) -> None:
        """Have one destination get its parts, whatever becomes of the others.

        What is wrong there is no failure yet: the end tries again and tells.
        """
        while True:
            try:
                await run.follow(growth)
            except (DestinationError, WorkerLostError) as error:
                self._log.info(
                    "follow_pauses",
                    destination=run.destination,
                    error_code=error.code,
                    error=error.message,
                )
                if not error.retryable or not await growth.pause(PAUSE):
                    return
            else:
                return

    async def _digest(self, upload: Upload, source: OpenSource, growth: Growth) -> None:
        name = self._context.settings.pipeline.digest
        running = self._context.digests.setdefault(upload.id, RunningDigest(name))
        await growth.take_in(running, source.fd)

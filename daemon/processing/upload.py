"""One upload, as far as it can go now: plan, deliveries and digest, report, clean-up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import structlog

from daemon.errors import ApiUnreachableError, StudyRefusedError
from daemon.journal.model import (
    Delivery,
    DeliveryState,
    Envelope,
    Error,
    Standing,
    Upload,
    UploadState,
    error_of,
)
from daemon.processing.context import Context, OpenSource
from daemon.processing.deliver import DeliveryRun, is_read_back
from daemon.processing.follow import Follower
from daemon.processing.growth import take_in
from daemon.processing.past import RESTARTS, is_unchanged, throw_away
from daemon.processing.prepare import WHOLE_LIMIT, announce, check_size, prepare
from daemon.processing.receipts import make_receipt
from daemon.scheduling.places import Places
from pipeline import receipt as receipts
from pipeline.errors import DropoffError, SourceChangedError
from pipeline.messages import Digest, Digested
from pipeline.running_digest import RunningDigest
from pipeline.source import Source

ASKS = 7
"""Which try's pause stands between two announcements of an upload that failed: a minute or so."""


class UploadRun:
    """Drives one upload until it is over, or has to wait."""

    def __init__(
        self,
        context: Context,
        upload: str,
        follower: Follower,
        large: Places,
        digests: asyncio.Semaphore,
    ) -> None:
        self._log = structlog.get_logger(__name__)
        self._context = context
        self._journal = context.journal
        self._id = upload
        self._follower = follower
        self._large = large
        self._digests = digests
        self._held: dict[int, float] = {}
        """Deliveries whose destination is away, by position; and when they are given up."""

    async def run(self) -> float | None:
        """Go on with it. When to come back (seconds since the epoch), None: when told to.

        Raises StoppedError when the service stops.
        """
        await self._follower.release(self._id)
        while True:
            standing = await self._journal.standing(self._id)
            try:
                again = await self._step(standing)
            except DropoffError as error:
                again = await self._failed(standing.upload, error)
            if again is not None:
                return again or None

    async def _step(self, standing: Standing) -> float | None:
        """One state further: None to go on, 0 to wait to be told, else when to come back."""
        upload = standing.upload
        match upload.state:
            case UploadState.RECEIVED:
                with await self._context.sources.open(upload) as source:
                    await self._begin(upload, source)
                    begun = await self._journal.standing(upload.id)
                    if begun.upload.state is UploadState.PROCESSING:
                        return await self._process(begun, source)
            case UploadState.PROCESSING:
                with await self._context.sources.open(upload) as source:
                    return await self._process(standing, source)
            case UploadState.STORED:
                return await self._clean_up(upload) if standing.reported else 0
            case UploadState.FAILED:
                return await self._make_known(upload)
            case _:
                return 0
        return None

    async def _begin(self, upload: Upload, source: OpenSource) -> None:
        """Fix how it is delivered; or go on as it was followed, if its past is as it was."""
        if upload.trail is None:
            await prepare(self._context, upload, source)
            return
        check_size(upload, source)
        if await is_unchanged(self._context, upload, source):
            await self._journal.go_on(upload.id, source.identity, self._context.clock())
        else:
            await throw_away(self._context, upload)

    async def _process(self, standing: Standing, source: OpenSource) -> float | None:
        upload, envelope = standing.upload, standing.envelope
        assert envelope is not None  # noqa: S101  # fixed before it became processing
        try:
            _check_identity(upload, source)
            await self._deliver(upload, envelope, standing.deliveries, source)
        except SourceChangedError as error:
            await self._start_over(upload, standing.deliveries, error)
            return None
        return await self._settle(envelope)

    async def _deliver(
        self,
        upload: Upload,
        envelope: Envelope,
        deliveries: Sequence[Delivery],
        source: OpenSource,
    ) -> None:
        """Try every delivery that is due; the digest beside them where none takes it along."""
        now = self._context.clock()
        due = [d for d in deliveries if d.state is DeliveryState.PENDING and d.next_at <= now]
        self._held = {d.position: until for d in due if (until := await self._held_until(d, now))}
        due = [d for d in due if d.position not in self._held]
        if self._held and not due:
            return
        digest = asyncio.get_running_loop().create_future()
        steps = [self._deliver_one(upload, envelope, delivery, source, digest) for delivery in due]
        if upload.digest is not None:
            digest.set_result(upload.digest)
        elif any(map(is_read_back, due)) or not any(delivery.part_size == 0 for delivery in due):
            steps.append(self._take_digest(upload, source, digest))
        await self._context.run_all(*steps)

    async def _held_until(self, delivery: Delivery, now: float) -> float | None:
        """When it has waited for as long as it may, where its destination can't be tried now."""
        give_up = self._context.settings.pipeline.give_up
        if now - (delivery.started_at or now) >= give_up:
            return None
        if self._context.slots.admits(delivery.destination, delivery.upload):
            return None
        if delivery.started_at is None:
            await self._journal.held(delivery.upload, delivery.position, now)
        return (delivery.started_at or now) + give_up

    async def _deliver_one(
        self,
        upload: Upload,
        envelope: Envelope,
        delivery: Delivery,
        source: OpenSource,
        digest: asyncio.Future[str],
    ) -> None:
        run = DeliveryRun(self._context, upload, envelope, delivery, source)
        if source.identity.size <= WHOLE_LIMIT:
            await run.run(digest)
            return
        async with self._large.take(delivery.destination, upload.study or ""):
            self._context.go_on()
            await run.run(digest)

    async def _take_digest(
        self, upload: Upload, source: OpenSource, digest: asyncio.Future[str]
    ) -> None:
        name = self._context.settings.pipeline.digest
        async with self._digests:
            self._context.go_on()
            running = self._context.digests.pop(upload.id, None)
            if running is not None and running.name == name:
                found = await self._context.unless_stopped(_ended(running, source))
            else:
                job = Digest(digest=name, size=source.identity.size)
                digesting = self._context.workers.run(job, source.fd)
                result = await self._context.unless_stopped(digesting)
                if not isinstance(result, Digested):
                    raise TypeError(f"Digest gave {type(result).__name__}")
                found = result.digest
        await self._journal.digested(upload.id, f"{name}:{found}")
        digest.set_result(f"{name}:{found}")

    async def _settle(self, envelope: Envelope) -> float | None:
        """What the deliveries' states mean for the upload."""
        standing = await self._journal.standing(self._id)
        upload, deliveries = standing.upload, standing.deliveries
        pending = [d for d in deliveries if d.state is DeliveryState.PENDING]
        if pending:
            next_at = min(self._held.get(d.position, d.next_at) for d in pending)
            return max(next_at, self._context.clock())
        failed = next((d for d in deliveries if d.state is DeliveryState.FAILED), None)
        if failed is not None:
            unknown = Error(code="internal", message="unknown", retryable=False)
            await self._fail(upload, failed.error or unknown)
            return 0
        if upload.digest is None:
            return None
        await self._stored(upload, envelope, deliveries)
        return None if upload.api_id is None else 0  # until the API has the report

    async def _stored(
        self, upload: Upload, envelope: Envelope, deliveries: Sequence[Delivery]
    ) -> None:
        now = self._context.clock()
        receipt = make_receipt(upload, envelope, deliveries, now)
        await self._context.receipts.keep(receipt)
        await self._journal.stored(upload.id, receipts.to_dict(receipt), now)
        self._record(upload, "ok", None)
        self._log.info("upload_stored", size_bytes=upload.size)

    async def _clean_up(self, upload: Upload) -> float:
        """The source of one whose report is acknowledged goes once its time has come."""
        delete_after = self._context.settings.uploads.delete_after
        now = self._context.clock()
        if delete_after is not None:
            # Stored in the future: the clock was set back, and what was is done now.
            due = min(upload.stored_at or now, now) + delete_after
            if now < due:
                return due
            await self._context.sources.remove(upload)
            await self._context.audit.record("source_deleted", upload.id, "dropoffd")
        await self._journal.done(upload.id, now)
        return 0

    async def _start_over(
        self, upload: Upload, deliveries: Sequence[Delivery], error: SourceChangedError
    ) -> None:
        """Throw away key, header and parts, so that a key never meets two plaintexts."""
        with await self._context.sources.open(upload) as source:
            if source.identity.size != upload.size or source.identity == upload.identity:
                raise error
        if upload.restarts >= RESTARTS:
            raise SourceChangedError("the file keeps changing")
        if any(delivery.state is DeliveryState.STORED for delivery in deliveries):
            raise SourceChangedError("the file changed after one destination had stored it")
        await throw_away(self._context, upload)

    async def _make_known(self, upload: Upload) -> float:
        """Announce one that failed before it was, so that the report of that can go out."""
        refused = upload.error is not None and upload.error.code == StudyRefusedError.code
        if upload.announced or upload.study is None or refused:
            return 0
        try:
            await announce(self._context, upload)
        except DropoffError as error:
            self._log.warning("failure_unannounced", error_code=error.code, error=error.message)
            return self._again_at(error, ASKS) if error.retryable else 0
        return 0

    def _again_at(self, error: DropoffError, tries: int) -> float:
        """When to try again what failed so often; not before the REST API's own time."""
        asked = error.retry_after if isinstance(error, ApiUnreachableError) else None
        return self._context.clock() + max(self._context.backoff.delay(tries), asked or 0.0)

    async def _failed(self, upload: Upload, error: DropoffError) -> float | None:
        told = error_of(error)
        if error.retryable:
            next_at = self._again_at(error, upload.attempts + 1)
            await self._journal.postpone(upload.id, told, next_at)
            self._log.warning(
                "upload_postponed", error_code=told.code, error=told.message, state=upload.state
            )
            return next_at
        await self._fail(upload, told)
        return None

    async def _fail(self, upload: Upload, error: Error) -> None:
        await self._journal.fail(upload.id, error, self._context.clock())
        self._record(upload, "failed", error)
        self._log.error("upload_failed", error_code=error.code, error=error.message)

    def _record(self, upload: Upload, outcome: str, error: Error | None) -> None:
        now = self._context.clock()
        self._context.metrics.record(
            "upload",
            outcome,
            upload=upload.id,
            tus_id=upload.tus_id,
            study=upload.study,
            size_bytes=upload.size,
            upload_seconds=round(now - (upload.received_at or now), 6),
            receive_seconds=round((upload.received_at or now) - upload.created_at, 6),
            error_code=error.code if error else None,
        )


def _check_identity(upload: Upload, source: OpenSource) -> None:
    if source.identity != upload.identity:
        raise SourceChangedError("the file was replaced or changed")


async def _ended(running: RunningDigest, source: OpenSource) -> str:
    """What a digest that was taken alongside comes to, the rest of the file taken in."""
    with Source(os.dup(source.fd)) as rest:
        await take_in(running, rest, source.identity.size)
    return running.hexdigest()

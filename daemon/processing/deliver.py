"""One upload going to one destination: begin or go on, send the parts, finish.

The journal holds each part before it counts, so that whatever dies, the next try goes on where
this one was. Nothing here touches bytes: workers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec
import structlog

from daemon.journal.model import (
    Attempt,
    Delivery,
    DeliveryState,
    Envelope,
    Upload,
    error_of,
)
from daemon.processing.beginning import Beginner, Beginning
from daemon.processing.context import Context, OpenSource, Progress, StoppedError
from daemon.processing.exchange import Exchange
from daemon.processing.growth import Growth
from daemon.processing.past import abort_job
from daemon.processing.prepare import WHOLE_LIMIT
from daemon.scheduling import costs
from daemon.scheduling.station import LONGEST_RETRY_AFTER
from pipeline.errors import (
    DestinationError,
    DestinationUnreachableError,
    DropoffError,
    ForgottenError,
    SourceChangedError,
    SourceError,
    VerificationError,
    WorkerLostError,
)
from pipeline.messages import (
    Finish,
    Finished,
    Part,
    PartStored,
    Seal,
    Span,
    StoredObject,
    StoredPart,
    Target,
    Whole,
    WholeStored,
)
from pipeline.parts import spans

VERIFICATION_TRIES = 3
"""A wrong object is made anew this often before the delivery fails."""


def is_read_back(delivery: Delivery) -> bool:
    """Whether its object, made of parts, is opened again before it counts as stored."""
    return delivery.part_size > 0 and delivery.destination.verify == "readback"


class DeliveryRun:
    """One try of a delivery."""

    def __init__(
        self,
        context: Context,
        upload: Upload,
        envelope: Envelope,
        delivery: Delivery,
        source: OpenSource,
    ) -> None:
        self._log = structlog.get_logger(__name__)
        self._context = context
        self._journal = context.journal
        self._upload = upload
        self._delivery = delivery
        self._source = source
        self._study = upload.study or ""
        self._size = upload.identity.size if upload.size is None else upload.size
        """Bytes of the plaintext; more than are there, while it is received."""
        self._target = Target(
            upload=upload.id, name=delivery.name, size=delivery.size, study=self._study
        )
        self._seal = Seal(
            format=envelope.format,
            key=envelope.key,
            header=envelope.header,
            size=self._size,
        )
        self._progress = Progress(
            upload=upload.id,
            study=self._study,
            destination=delivery.destination.name,
            size=delivery.size,
            stored=0,
        )

    @property
    def destination(self) -> str:
        """The destination's name."""
        return self._delivery.destination.name

    async def run(self, digest: asyncio.Future[str]) -> None:
        """Try once, and write down how it ended.

        ``digest`` will be the plaintext's, ``<name>:<hex>``; whoever needs it waits for it.

        Raises SourceError where the source is no longer what it was, and StoppedError; every
        other error is the delivery's own, and is in the journal when this returns.
        """
        key = (self._upload.id, self._delivery.position)
        started_at = self._context.clock()
        started = time.perf_counter()
        await self._attempted(key, started_at)
        self._context.active[key] = self._progress
        try:
            stored, taken = await self._deliver(digest)
        except (SourceError, StoppedError):
            raise
        except DropoffError as error:
            await self._failed(error, self._attempt(started_at, started, error))
        else:
            attempt = self._attempt(started_at, started, None)
            await self._journal.delivered(*key, stored, attempt, self._context.clock(), taken)
            self._record("ok", attempt, stored)
        finally:
            del self._context.active[key]

    async def follow(self, growth: Growth) -> None:
        """Send parts as they become whole, until ``growth`` ends. Nothing is finished.

        Errors are raised as they are: no try counts as failed before the upload is complete.
        """
        key = (self._upload.id, self._delivery.position)
        await self._attempted(key, self._context.clock())
        self._context.active[key] = self._progress
        try:
            reference, parts, _ = await self._begun()
            await self._send(reference, parts, growth)
        finally:
            del self._context.active[key]

    async def _attempted(self, key: tuple[str, int], now: float) -> None:
        self._delivery = await self._journal.attempt(*key, now)
        self._exchange = Exchange(
            self._context,
            self._upload,
            self._delivery,
            self._source,
            small=self._size <= WHOLE_LIMIT,
        )

    async def _deliver(self, digest: asyncio.Future[str]) -> tuple[StoredObject, str | None]:
        """What is stored, and the digest where it was taken on the way."""
        if self._delivery.part_size == 0:
            return await self._deliver_whole()
        reference, parts, finished = await self._begun()
        if not finished:
            await self._send(reference, parts)
        await self._check_source()
        return await self._finish(reference, parts, digest), None

    async def _begun(self) -> Beginning:
        beginner = Beginner(self._context, self._exchange, self._delivery, self._target, self._seal)
        return await beginner.begin(self._spans(), fingerprint=self._upload.trail is not None)

    async def _deliver_whole(self) -> tuple[StoredObject, str]:
        job = Whole(
            destination=self._delivery.destination,
            target=self._target,
            seal=self._seal,
            digest=self._context.settings.pipeline.digest,
        )
        memory = costs.of_whole(job.destination, self._delivery.size)
        exchange = self._exchange

        async def put() -> WholeStored:
            async with exchange.turn(size=self._delivery.size, memory=memory) as turn:
                paced = msgspec.structs.replace(job, pace=turn.pace)
                stored = await exchange.run(paced, WholeStored)
                turn.throttled = stored.throttled
                return stored

        result = await exchange.patiently(put)
        self._progress.sent = self._progress.stored = self._delivery.size
        await self._check_source()
        return result.stored, f"{job.digest}:{result.digest}"

    async def _send(
        self, reference: str, parts: dict[int, StoredPart], growth: Growth | None = None
    ) -> None:
        """Send what ``parts`` lacks, and add it there; each part once it has grown whole."""
        self._progress.stored = sum(part.size for part in parts.values())
        exchange = self._exchange

        async def send(span: Span) -> None:
            if growth is not None and not await self._may_seal(span, growth):
                return
            job = Part(
                destination=self._delivery.destination,
                target=self._target,
                reference=reference,
                seal=self._seal,
                span=span,
                fingerprint=growth is not None,
            )

            async def put() -> PartStored:
                memory = costs.of_part(span.length)
                async with exchange.turn(size=span.length, memory=memory) as turn:
                    paced = msgspec.structs.replace(job, pace=turn.pace)
                    stored = await exchange.run(paced, PartStored)
                    turn.throttled = stored.throttled
                    return stored

            part = (await exchange.patiently(put)).part
            await self._journal.part_stored(self._upload.id, self._delivery.position, part)
            parts[part.number] = part
            self._progress.stored += part.size
            self._progress.sent += part.size

        await exchange.in_lanes([s for s in self._spans() if s.number not in parts], send)

    async def _may_seal(self, span: Span, growth: Growth) -> bool:
        """Wait until a part has grown whole, and remember that it is sealed; False: not any more.

        Should the power go before its answer is known, its bytes may not become others.
        """
        end = span.offset + span.length
        if not await growth.reaches(end):
            return False
        if growth.sealed < end:
            await self._journal.sealing(self._upload.id, end)
            growth.sealed = max(growth.sealed, end)
        return True

    async def _finish(
        self, reference: str, parts: dict[int, StoredPart], digest: asyncio.Future[str]
    ) -> StoredObject:
        job = Finish(
            destination=self._delivery.destination,
            target=self._target,
            reference=reference,
            parts=tuple(parts[number] for number in sorted(parts)),
        )
        if is_read_back(self._delivery):
            known = await self._context.unless_stopped(_shared(digest))
            job = msgspec.structs.replace(job, seal=self._seal, digest=known)
        return (await self._exchange.ask(job, Finished)).stored

    async def _check_source(self) -> None:
        """The file under the upload's name is still the one that was read, and unchanged."""
        with await self._context.sources.open(self._upload) as now:
            if now.identity != self._source.identity:
                raise SourceChangedError("the file was replaced or changed while it was read")

    async def _abandon(self) -> None:
        """What was begun is of no use: leave nothing of it, as far as the destination lets us."""
        for delivery in await self._journal.deliveries(self._upload.id):
            if delivery.position == self._delivery.position and delivery.reference:
                with contextlib.suppress(DestinationError, WorkerLostError):
                    await self._context.workers.run(abort_job(delivery))
        await self._journal.forget_parts(self._upload.id, self._delivery.position, None)

    async def _failed(self, error: DropoffError, attempt: Attempt) -> None:
        if isinstance(error, VerificationError | ForgottenError):
            await self._abandon()
            if self._context.stores is not None:
                await self._context.stores.forget(self._delivery.destination)
        now = self._context.clock()
        again = self._try_again(error, now)
        next_at = now + self._pause(error) if again else now
        await self._journal.delivery_failed(
            self._upload.id,
            self._delivery.position,
            attempt,
            DeliveryState.PENDING if again else DeliveryState.FAILED,
            next_at,
        )
        self._record("failed", attempt, None)
        self._log.warning(
            "delivery_failed",
            destination=self._delivery.destination.name,
            error_code=error.code,
            error=error.message,
            attempts=self._delivery.attempts,
            again_in_seconds=round(next_at - now, 1) if again else None,
        )

    def _pause(self, error: DropoffError) -> float:
        """Seconds until the next try; no sooner than the destination asked for."""
        pause = self._context.backoff.delay(self._delivery.attempts)
        asked = error.retry_after if isinstance(error, DestinationUnreachableError) else None
        return max(pause, min(asked or 0.0, LONGEST_RETRY_AFTER))

    def _try_again(self, error: DropoffError, now: float) -> bool:
        if isinstance(error, VerificationError):
            return self._delivery.attempts < VERIFICATION_TRIES
        if not error.retryable:
            return False
        # Who takes parts isn't away, however long the whole upload takes.
        started_at = self._delivery.started_at or now
        away_too_long = now - started_at >= self._context.settings.pipeline.give_up
        return self._progress.sent > 0 or not away_too_long

    def _spans(self) -> list[Span]:
        return spans(self._size, self._delivery.part_size)

    def _attempt(self, started_at: float, started: float, error: DropoffError | None) -> Attempt:
        return Attempt(
            position=self._delivery.position,
            started_at=started_at,
            seconds=time.perf_counter() - started,
            sent=self._progress.sent,
            error=error_of(error) if error is not None else None,
        )

    def _record(self, outcome: str, attempt: Attempt, stored: StoredObject | None) -> None:
        self._context.metrics.record(
            "delivery",
            outcome,
            upload=self._upload.id,
            study=self._study,
            destination=self._delivery.destination.name,
            delivery_seconds=round(attempt.seconds, 6),
            size_bytes=self._size,
            sent_bytes=attempt.sent,
            attempts=self._delivery.attempts,
            verified=stored.verified if stored else None,
            error_code=attempt.error.code if attempt.error else None,
        )


async def _shared(digest: asyncio.Future[str]) -> str:
    """The digest; giving up to wait for it leaves it to the other deliveries."""
    return await asyncio.shield(digest)

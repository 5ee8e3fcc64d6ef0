"""From received to processing: the study's plan becomes an envelope and deliveries."""

from __future__ import annotations

import asyncio

from daemon.errors import StudyMissingError, StudyRefusedError
from daemon.journal.model import Envelope, NewDelivery, Upload
from daemon.plan import Announcing, Plan
from daemon.processing.context import Context, OpenSource
from daemon.processing.names import object_name
from pipeline import envelope as envelopes
from pipeline.destinations import limits_of
from pipeline.errors import SourceChangedError
from pipeline.messages import DestinationSpec
from pipeline.parts import plan_parts

WHOLE_LIMIT = 8 * 1024 * 1024
"""Bytes of plaintext up to which an upload goes out in one request."""


async def prepare(context: Context, upload: Upload, source: OpenSource) -> None:
    """Announce the upload where pre-create didn't, get its plan, and fix how it is delivered.

    Raises StudyMissingError, StudyRefusedError, PlanError, RecipientError, SourceChangedError,
    ApiUnreachableError.
    """
    check_size(upload, source)
    if upload.study is None:
        key = context.settings.uploads.study_key
        raise StudyMissingError(f"the metadata names no study: {key!r} should hold its UUID")
    envelope, deliveries = await fixed(context, upload, source.identity.size)
    await context.journal.plan(upload.id, envelope, deliveries, source.identity, context.clock())


def check_size(upload: Upload, source: OpenSource) -> None:
    """Raise SourceChangedError where the file isn't as long as it was announced."""
    if source.identity.size != upload.size:
        raise SourceChangedError(
            f"the file has {source.identity.size} bytes where {upload.size} were announced"
        )


async def fixed(context: Context, upload: Upload, size: int) -> tuple[Envelope, list[NewDelivery]]:
    """Key, header and deliveries of an upload of ``size`` bytes, announced if it wasn't yet.

    Raises as :func:`prepare`.
    """
    study = upload.study or ""
    if not upload.announced:
        await announce(context, upload)
    plan = await context.unless_stopped(context.broker.plan(study))
    if plan.max_size is not None and size > plan.max_size:
        raise StudyRefusedError(f"the study takes uploads of at most {plan.max_size} bytes", 413)
    envelope = _envelope(plan)
    return envelope, _deliveries(context, plan, envelope, upload, size)


async def announce(context: Context, upload: Upload) -> None:
    """Tell the broker of the upload, by the upload's own id, and remember what it says.

    Where the process dies or the service stops in between it is asked again, which changes
    nothing. Raises StudyRefusedError, ApiUnreachableError.
    """
    asking = asyncio.create_task(context.unless_stopped(_announce(context, upload)))
    try:
        await asyncio.shield(asking)
    except asyncio.CancelledError:
        # Taken back meanwhile: who hears of it now has to hear of its end, too.
        await asyncio.wait([asking])
        raise


async def _announce(context: Context, upload: Upload) -> None:
    api_id = await context.broker.announce(_telling(upload))
    await context.journal.announced(upload.id, api_id)


def _telling(upload: Upload) -> Announcing:
    return Announcing(
        key=upload.id,
        study=upload.study or "",
        filename=upload.filename,
        size=upload.size,
        metadata=upload.metadata,
        client="",
        server=upload.server,
        tus_id=upload.tus_id,
    )


def _envelope(plan: Plan) -> Envelope:
    key, header, fingerprints = envelopes.by_format(plan.encrypt).make(plan.recipients)
    return Envelope(format=plan.encrypt, key=key, header=header, fingerprints=fingerprints)


def _deliveries(
    context: Context, plan: Plan, envelope: Envelope, upload: Upload, size: int
) -> list[NewDelivery]:
    layout = envelopes.by_format(plan.encrypt)
    sealed = layout.sealed_size(len(envelope.header), size)
    return [
        NewDelivery(
            destination=destination.spec,
            name=object_name(
                destination.path,
                study=plan.study,
                upload=upload.id,
                filename=upload.filename,
                tus_id=upload.tus_id,
            )
            + layout.suffix,
            size=sealed,
            part_size=_part_size(context, destination.spec, size),
        )
        for destination in plan.destinations
    ]


def _part_size(context: Context, destination: DestinationSpec, size: int) -> int:
    """Plaintext bytes of each part; 0 where the upload goes out in one request."""
    limits = limits_of(destination)
    # S3 gets a whole object at once: where a rate is set, only what takes no longer than a second.
    rate = context.slots.rate_to(destination.name) or WHOLE_LIMIT
    if size <= min(WHOLE_LIMIT, rate) or not limits.parts:
        return 0
    return plan_parts(size, context.settings.pipeline.part_size, limits)

"""Whether parts that went out early are still parts of the file: its past may have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from daemon.journal.model import SOME_REFERENCE, Delivery, Identity, Trail, Upload
from daemon.processing.context import Context, OpenSource
from daemon.tasks import run_all
from pipeline.messages import Abort, Compare, Compared, Span, Target
from pipeline.parts import spans

RESTARTS = 3
"""So often an upload whose source changed under its key starts over before it fails."""

Place = tuple[int, int]
"""First byte, and number of bytes."""


def trail_of(identity: Identity, sealed: int = 0) -> Trail:
    """What is remembered of a file whose parts go out early."""
    return Trail(device=identity.device, inode=identity.inode, boot=_boot_id(), sealed=sealed)


def is_trusted(trail: Trail, identity: Identity) -> bool:
    """Whether its past is as it was: the same file in the same boot, never seen to shrink.

    A tus server only appends; but a power cut may take from a file what wasn't synced.
    """
    return trail == trail_of(identity, trail.sealed)


async def is_unchanged(context: Context, upload: Upload, source: OpenSource) -> bool:
    """Read what went out again, and hold it against what it was.

    Of a file that is trusted, the last of it: what a file lost while nobody looked, it lost at its
    end. Of any other, all; and there it has to be known what all of it was: a part whose answer was
    lost with the power has met the key as well.
    """
    sent = await _sent(context, upload)
    trail = upload.trail
    if trail is not None and is_trusted(trail, source.identity):
        return await _is_same(context, upload, source, dict(sorted(sent.items(), key=_end)[-1:]))
    context.digests.pop(upload.id, None)  # it may have taken in what is no more
    if trail is not None and _known(sent) < trail.sealed:
        return False
    return await _is_same(context, upload, source, sent)


def _known(sent: Iterable[Place]) -> int:
    """How far from its start a file's bytes are known without a gap."""
    known = 0
    for offset, length in sorted(sent):
        if offset > known:
            break
        known = max(known, offset + length)
    return known


async def _sent(context: Context, upload: Upload) -> dict[Place, str]:
    """What was sent early: where it was in the file, and the BLAKE3 of it."""
    sent: dict[Place, str] = {}
    for delivery in await context.journal.deliveries(upload.id):
        by_number = {span.number: span for span in spans(upload.size or 0, delivery.part_size)}
        parts = await context.journal.parts(upload.id, delivery.position)
        for number, part in parts.items():
            span = by_number[number]
            sent[span.offset, span.length] = part.plaintext
    return sent


def _end(sent: tuple[Place, str]) -> int:
    (offset, length), _ = sent
    return offset + length


async def _is_same(
    context: Context, upload: Upload, source: OpenSource, sent: Mapping[Place, str]
) -> bool:
    same = True

    async def compare(offset: int, length: int, plaintext: str) -> None:
        nonlocal same
        span = Span(number=1, offset=offset, length=length)
        if not same or offset + length > source.identity.size:
            same = False
            return
        async with context.slots.take(upload.study or "", small=False):
            context.go_on()
            job = Compare(span=span, plaintext=plaintext)
            result = await context.workers.run(job, source.fd)
        if not isinstance(result, Compared) or not result.same:
            same = False

    await run_all(*(compare(*place, plaintext) for place, plaintext in sent.items()))
    return same


async def throw_away(context: Context, upload: Upload) -> None:
    """Abort what was begun, and forget key, header, parts and digest."""
    context.digests.pop(upload.id, None)
    for delivery in await context.journal.deliveries(upload.id):
        if delivery.reference:
            await context.workers.run(abort_job(delivery))
    await context.journal.start_over(upload.id, context.clock())


def abort_job(delivery: Delivery) -> Abort:
    """The job that removes what a delivery left unfinished."""
    target = Target(upload=delivery.upload, name=delivery.name, size=delivery.size)
    reference = "" if delivery.reference == SOME_REFERENCE else delivery.reference
    return Abort(destination=delivery.destination, target=target, reference=reference)


@lru_cache(maxsize=1)
def _boot_id() -> str:
    """The kernel's id of this boot; another one after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

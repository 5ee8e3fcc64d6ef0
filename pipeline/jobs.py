"""What each job does, given the open source and the open destination."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import cast, get_args

import msgspec

from pipeline import messages as m
from pipeline.blocking import in_executor, in_thread
from pipeline.buffers import Buffers
from pipeline.delivery import SealedBody
from pipeline.destinations.base import Content, Destination, Learning, Sweeping
from pipeline.errors import SourceChangedError, VerificationError
from pipeline.parts import whole
from pipeline.readback import SealedContent
from pipeline.running_digest import RunningDigest
from pipeline.source import Source

SendingJob = m.Part | m.Prove | m.Whole
"""Jobs that need both."""
ControlJob = m.Begin | m.Finish | m.Abort
"""Jobs that need the destination alone."""


async def control(job: ControlJob, destination: Destination) -> m.Result:
    """Do a job that moves no bytes of the source."""
    match job:
        case m.Begin(reference=""):
            return await _begin(job, destination)
        case m.Begin():
            return await destination.resume(job.target, job.reference)
        case m.Finish():
            stored = await destination.finish(job.target, job.reference, job.parts, _content(job))
            if job.stale and isinstance(destination, Sweeping):
                await destination.sweep(job.target)
            return m.Finished(stored=stored)
        case m.Abort():
            await destination.abort(job.target, job.reference)
            return m.Aborted()


async def _begin(job: m.Begin, destination: Destination) -> m.Begun:
    if not isinstance(destination, Learning):
        return m.Begun(reference=await destination.begin(job.target, stale=job.stale))
    if job.traits is not None:
        destination.remember(job.traits)
    reference = await destination.begin(job.target, stale=job.stale)
    return m.Begun(reference=reference, traits=destination.traits)


async def send(
    job: SendingJob, destination: Destination, source: Source, buffers: Buffers
) -> m.Result:
    """Do a job that seals bytes of the source."""
    match job:
        case m.Part():
            return await _part(job, destination, source, buffers)
        case m.Prove():
            return await _prove(job, destination, source, buffers)
        case m.Whole():
            return await _whole(job, destination, source, buffers)


def _content(job: m.Finish) -> Content | None:
    """What the object has to hold, where the destination's are read back."""
    if job.destination.verify != "readback":
        return None
    name, _, expected = job.digest.partition(":")
    if job.seal is None or name not in get_args(m.DigestName) or not expected:
        raise VerificationError("the object can't be opened: its seal or digest isn't known")
    return SealedContent(job.seal, cast("m.DigestName", name), lambda: expected)


def _body(job: m.Part | m.Prove, source: Source, buffers: Buffers) -> SealedBody:
    """A part's, which takes the plaintext's BLAKE3 where a fingerprint is asked for."""
    body = SealedBody(source, job.seal, job.span, digest="blake3" if job.fingerprint else None)
    body.borrow(buffers)
    return body


def _told(part: m.StoredPart, body: SealedBody) -> m.StoredPart:
    """The part with its fingerprint, where one was taken."""
    if not body.plaintext_digest:
        return part
    return msgspec.structs.replace(part, plaintext=body.plaintext_digest)


async def _prove(
    job: m.Prove, destination: Destination, source: Source, buffers: Buffers
) -> m.PartProved:
    body = _body(job, source, buffers)
    part = await destination.prove_part(job.target, job.reference, body.place, body, job.held)
    body.release()
    return m.PartProved(part=part and _told(part, body))


async def _part(
    job: m.Part, destination: Destination, source: Source, buffers: Buffers
) -> m.PartStored:
    started = time.perf_counter()
    body = _body(job, source, buffers)
    part = _told(await destination.put_part(job.target, job.reference, body.place, body), body)
    body.release()
    await source.let_go(job.span.offset, job.span.length)
    return m.PartStored(part=part, seconds=round(time.perf_counter() - started, 6))


async def _whole(
    job: m.Whole, destination: Destination, source: Source, buffers: Buffers
) -> m.WholeStored:
    source.check_size(job.seal.size)
    before = source.identity()

    def check() -> None:
        if source.identity() != before:
            raise SourceChangedError("the file was changed while it was read")

    # Seen before the last byte is sent, a change leaves nothing that looks whole.
    body = SealedBody(source, job.seal, whole(job.seal), digest=job.digest, at_end=check)
    body.borrow(buffers)
    content = None
    if job.destination.verify == "readback":
        content = SealedContent(job.seal, job.digest, lambda: body.plaintext_digest)
    stored = await destination.put(job.target, body, stale=job.stale, content=content)
    body.release()
    digest = body.plaintext_digest
    check()
    if not digest:
        # An earlier try had stored it already, so nothing was read this time.
        digest = await plaintext_digest(source, job.digest, job.seal.size)
    return m.WholeStored(stored=stored, digest=digest)


async def compare(job: m.Compare, source: Source) -> m.Compared:
    """Read a part's plaintext again, and hold it against the BLAKE3 that it had."""

    def run() -> bool:
        found = RunningDigest("blake3", job.span.offset)
        found.advance(source, job.span.offset + job.span.length)
        return found.hexdigest() == job.plaintext

    return m.Compared(same=await in_thread(run))


async def plaintext_digest(source: Source, name: m.DigestName, size: int) -> str:
    """The digest of the whole file, hex, by one pass in a thread of its own.

    Raises SourceChangedError where the file isn't ``size`` bytes long. Cancelling ends the pass.
    """
    stop = threading.Event()

    def run() -> str:
        source.check_size(size)
        found = RunningDigest(name)
        found.advance(source, size, stop)
        source.check_size(size)
        return found.hexdigest()

    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="digest")
    try:
        return await in_executor(executor, run, stop.set)
    finally:
        executor.shutdown(wait=False)

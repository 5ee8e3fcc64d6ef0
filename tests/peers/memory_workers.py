"""Workers and destinations in memory, behind the Workers Protocol: for what the service decides.

What they seal is real, so that what they hold can be opened; what goes wrong is the test's choice.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from typing import Any

import msgspec
from blake3 import blake3

from pipeline import envelope as envelopes
from pipeline.errors import DestinationRefusedError, ForgottenError, SourceChangedError
from pipeline.messages import (
    Abort,
    Aborted,
    Begin,
    Begun,
    Compare,
    Compared,
    Digest,
    Digested,
    Finish,
    Finished,
    HeldPart,
    Job,
    Part,
    PartProved,
    PartStored,
    Prove,
    Result,
    Seal,
    Span,
    StoredObject,
    StoredPart,
    Whole,
    WholeStored,
)


class MemoryWorkers:
    """Destinations are dictionaries; ``fault`` sees each job first and may raise or wait."""

    def __init__(self, slots: int = 4) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        """By destination and name."""
        self.unfinished: dict[str, dict[int, bytes]] = {}
        """Parts by reference."""
        self._begun: dict[tuple[str, str], list[str]] = {}
        """References by destination and name."""
        self.jobs: list[Job] = []
        self.fault: Callable[[Job], Any] = lambda _: None
        self.one_name = False
        """Whether an unfinished object's reference is made of its name, as an SFTP server's is."""
        self._slots = slots
        self._count = 0

    @property
    def slots(self) -> int:
        return self._slots

    def parts_sent(self) -> list[int]:
        """Numbers of the parts that were sent, in order."""
        return [job.span.number for job in self.jobs if isinstance(job, Part)]

    async def run(self, job: Job, source: int | None = None) -> Result:
        self.jobs.append(job)
        waiting = self.fault(job)
        if waiting is not None:
            await waiting
        await asyncio.sleep(0)
        return self._do(job, source)

    def _do(self, job: Job, source: int | None) -> Result:
        result: Result
        match job:
            case Begin():
                result = self._begin(job)
            case Part():
                result = self._part(job, source)
            case Compare():
                result = self._compare(job, source)
            case Prove():
                result = self._prove(job, source)
            case Finish():
                result = Finished(stored=self._finish(job))
            case Whole():
                result = self._whole(job, source)
            case Digest():
                result = Digested(digest=hashlib.sha256(_read(source, 0, job.size)).hexdigest())
            case Abort():
                names = (job.destination.name, job.target.name)
                for reference in [job.reference] if job.reference else self._begun.get(names, ()):
                    self.unfinished.pop(reference, None)
                result = Aborted()
        return result

    def _part(self, job: Part, source: int | None) -> PartStored:
        sealed = self._sealed(job.seal, source, job.span)
        self._parts(job.reference)[job.span.number] = sealed
        part = self._stored_part(job.span.number, sealed)
        return PartStored(part=self._with_fingerprint(part, job, source))

    @staticmethod
    def _with_fingerprint(part: StoredPart, job: Part | Prove, source: int | None) -> StoredPart:
        if not job.fingerprint:
            return part
        plaintext = _read(source, job.span.offset, job.span.length)
        return msgspec.structs.replace(part, plaintext=blake3(plaintext).hexdigest())

    @staticmethod
    def _compare(job: Compare, source: int | None) -> Compared:
        plaintext = _read(source, job.span.offset, job.span.length)
        return Compared(same=blake3(plaintext).hexdigest() == job.plaintext)

    def _begin(self, job: Begin) -> Begun:
        if not job.reference:
            self._count += 1
            names = (job.destination.name, job.target.name)
            reference = "/".join(names) if self.one_name else f"ref-{self._count}"
            self.unfinished[reference] = {}
            self._begun.setdefault(names, []).append(reference)
            return Begun(reference=reference)
        if job.reference not in self.unfinished:
            if (job.destination.name, job.target.name) in self.objects:
                return Begun(reference=job.reference, held=(), finished=True)
            raise ForgottenError("no such upload")
        held = tuple(
            HeldPart(number=number, size=len(data), etag=hashlib.sha256(data).hexdigest())
            for number, data in sorted(self.unfinished[job.reference].items())
        )
        return Begun(reference=job.reference, held=held)

    def _prove(self, job: Prove, source: int | None) -> PartProved:
        sealed = self._sealed(job.seal, source, job.span)
        if self._parts(job.reference).get(job.span.number) != sealed:
            return PartProved(part=None)
        part = self._stored_part(job.span.number, sealed)
        return PartProved(part=self._with_fingerprint(part, job, source))

    def _finish(self, job: Finish) -> StoredObject:
        key = (job.destination.name, job.target.name)
        if key not in self.objects:
            parts = self.unfinished.pop(job.reference)
            self.objects[key] = b"".join(parts[part.number] for part in job.parts)
        return self._stored_object(key)

    def _whole(self, job: Whole, source: int | None) -> WholeStored:
        key = (job.destination.name, job.target.name)
        span = Span(number=1, offset=0, length=job.seal.size)
        sealed = self._sealed(job.seal, source, span)
        if self.objects.setdefault(key, sealed) != sealed:
            raise DestinationRefusedError("another object is there")
        plaintext = _read(source, 0, job.seal.size)
        return WholeStored(
            stored=self._stored_object(key), digest=hashlib.sha256(plaintext).hexdigest()
        )

    def _parts(self, reference: str) -> dict[int, bytes]:
        if reference not in self.unfinished:
            raise ForgottenError("no such upload")
        return self.unfinished[reference]

    @staticmethod
    def _sealed(seal: Seal, source: int | None, span: Span) -> bytes:
        layout = envelopes.by_format(seal.format)
        plaintext = _read(source, span.offset, span.length)
        out = bytearray(layout.sealed_size(0, span.length))
        sealer = layout.sealer(seal.key, seal.size)
        sealer.seal_into(span.offset // envelopes.SEGMENT, memoryview(plaintext), memoryview(out))
        return (seal.header if span.number == 1 else b"") + out

    @staticmethod
    def _stored_part(number: int, sealed: bytes) -> StoredPart:
        return StoredPart(
            number=number, size=len(sealed), etag=hashlib.sha256(sealed).hexdigest(), crc64nvme=0
        )

    def _stored_object(self, key: tuple[str, str]) -> StoredObject:
        size = len(self.objects[key])
        return StoredObject(uri=f"memory://{key[0]}/{key[1]}", size=size, verified="checksum")


def _read(source: int | None, offset: int, length: int) -> bytes:
    assert source is not None
    data = os.pread(source, length, offset)
    if len(data) != length:
        raise SourceChangedError("the file ends too soon")
    return data

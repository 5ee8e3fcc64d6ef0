"""An upload going through real worker processes to a destination, step by step."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import crypt4gh.lib
import pytest
from awscrt.checksums import crc64nvme

from daemon.ports import Workers
from pipeline.destinations import open_destination
from pipeline.envelope import by_format
from pipeline.envelope.armour import wrap
from pipeline.envelope.keys import PUBLIC_LABEL
from pipeline.envelope.x25519 import public_of
from pipeline.messages import (
    Abort,
    Begin,
    Begun,
    DestinationSpec,
    Digest,
    Digested,
    EnvelopeFormat,
    Finish,
    Finished,
    HeldPart,
    Part,
    PartProved,
    PartStored,
    Prove,
    Seal,
    Span,
    StoredObject,
    StoredPart,
    Target,
    Whole,
    WholeStored,
)
from pipeline.parts import place, plan_parts, spans

MIB = 1024 * 1024
SECRET_KEY = bytes(range(32))
DATA = os.urandom(11 * MIB + 3)
"""Three parts of the least size."""


class Drop:
    """One upload's bytes on disk, sealed in one way, going to one destination."""

    def __init__(
        self,
        workers: Workers,
        destination: DestinationSpec,
        source: int,
        *,
        name: str,
        upload: str = "0190-upload",
        envelope: EnvelopeFormat = "crypt4gh",
        part_size: int = 5 * MIB,
    ) -> None:
        self._workers = workers
        self._source = source
        self.destination = destination
        layout = by_format(envelope)
        recipients = [wrap(PUBLIC_LABEL, public_of(SECRET_KEY))]
        made = layout.make(recipients if layout.seals else [])
        size = os.fstat(source).st_size
        self.seal = Seal(format=envelope, key=made.key, header=made.header, size=size)
        self.target = Target(
            upload=upload, name=name, size=layout.sealed_size(len(made.header), size)
        )
        self.spans = spans(size, plan_parts(size, part_size))

    async def begin(self, reference: str = "", *, stale: bool = False) -> Begun:
        result = await self._workers.run(
            Begin(
                destination=self.destination, target=self.target, reference=reference, stale=stale
            )
        )
        assert isinstance(result, Begun)
        return result

    async def send(self, reference: str, span: Span) -> StoredPart:
        job = Part(
            destination=self.destination,
            target=self.target,
            reference=reference,
            seal=self.seal,
            span=span,
        )
        result = await self._workers.run(job, self._source)
        assert isinstance(result, PartStored)
        assert result.part.size == place(self.seal, span).size
        return result.part

    async def send_all(self, reference: str) -> list[StoredPart]:
        return list(await asyncio.gather(*(self.send(reference, span) for span in self.spans)))

    async def prove(self, reference: str, span: Span, held: HeldPart | None) -> StoredPart | None:
        job = Prove(
            destination=self.destination,
            target=self.target,
            reference=reference,
            seal=self.seal,
            span=span,
            held=held,
        )
        result = await self._workers.run(job, self._source)
        assert isinstance(result, PartProved)
        return result.part

    async def digest(self) -> str:
        """The plaintext's SHA-256, hex."""
        result = await self._workers.run(Digest(digest="sha256", size=self.seal.size), self._source)
        assert isinstance(result, Digested)
        return result.digest

    async def finish(
        self, reference: str, parts: Sequence[StoredPart], *, stale: bool = False
    ) -> StoredObject:
        result = await self._workers.run(
            Finish(
                destination=self.destination,
                target=self.target,
                reference=reference,
                parts=tuple(parts),
                seal=self.seal,
                digest=f"sha256:{await self.digest()}",
                stale=stale,
            )
        )
        assert isinstance(result, Finished)
        return result.stored

    async def deliver(self) -> StoredObject:
        begun = await self.begin()
        return await self.finish(begun.reference, await self.send_all(begun.reference))

    async def deliver_whole(self, *, stale: bool = False) -> WholeStored:
        job = Whole(
            destination=self.destination,
            target=self.target,
            seal=self.seal,
            digest="sha256",
            stale=stale,
        )
        result = await self._workers.run(job, self._source)
        assert isinstance(result, WholeStored)
        return result

    async def abort(self, reference: str) -> None:
        await self._workers.run(
            Abort(destination=self.destination, target=self.target, reference=reference)
        )


class BytesBody:
    """A body of given bytes, in pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._wants_md5 = False
        self.size = len(data)
        self.crc64nvme = crc64nvme(data)

    @property
    def md5(self) -> bytes | None:
        return hashlib.md5(self._data, usedforsecurity=False).digest() if self._wants_md5 else None

    def with_md5(self) -> None:
        self._wants_md5 = True

    async def count(self) -> None:
        """Known already."""

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for start in range(0, self.size, 50_000):
            yield memoryview(self._data)[start : start + 50_000]


@contextmanager
def file_of(path: Path, data: bytes) -> Iterator[int]:
    """A descriptor of a file with ``data``."""
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def dropped(workers: Workers, destination: DestinationSpec, directory: Path) -> Iterator[Drop]:
    """An upload of :data:`DATA`, under a key that no other has."""
    upload = str(uuid.uuid4())
    with file_of(directory / "data", DATA) as fd:
        name = f"study/{upload}/a name+ü.bin"
        yield Drop(workers, destination, fd, upload=upload, name=name)


def decrypted(sealed: bytes) -> bytes:
    """What Crypt4GH's own tool makes of an object."""
    out = io.BytesIO()
    crypt4gh.lib.decrypt([(0, SECRET_KEY, None)], io.BytesIO(sealed), out)
    return out.getvalue()


def stored_at(spec: DestinationSpec, upload: str, name: str, data: bytes) -> StoredObject:
    """What a delivery leaves there: an object of these bytes."""

    async def put() -> StoredObject:
        destination = open_destination(spec)
        try:
            target = Target(upload=upload, name=name, size=len(data))
            return await destination.put(target, BytesBody(data), stale=False)
        finally:
            await destination.aclose()

    return asyncio.run(put())


async def in_parts(drop: Drop) -> StoredObject:
    """One way of delivering: in parts, put together at the end."""
    return await drop.deliver()


async def whole(drop: Drop) -> StoredObject:
    """Another: in one request."""
    return (await drop.deliver_whole()).stored


Way = Callable[[Drop], Awaitable[StoredObject]]
WAYS = pytest.mark.parametrize("way", [in_parts, whole])

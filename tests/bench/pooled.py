"""The data path alone: one upload through the real worker processes, without the daemon around.

`python -m tests.bench.pooled URL FILE RECIPIENT none|sha256|blake3` is driven by `Steady`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from daemon.ports import Workers
from daemon.workers import WorkerPool
from pipeline.envelope import by_format
from pipeline.messages import (
    Begin,
    Begun,
    DestinationSpec,
    Digest,
    DigestName,
    Finish,
    Part,
    PartStored,
    Seal,
    Span,
    StoredPart,
    Target,
)

PART = 16 << 20


def planned(url: str, name: str, size: int, recipient: str) -> tuple[DestinationSpec, Target, Seal]:
    """Where a file of ``size`` bytes goes, as what, and how it is sealed."""
    envelope = by_format("crypt4gh")
    made = envelope.make([recipient])
    spec = DestinationSpec(
        name="bench",
        type="s3",
        verify="size",
        endpoint=url,
        bucket="pool",
        region="us-east-1",
        access_key="bench",
        secret_key="bench",
    )
    target = Target(upload=name, name=name, size=envelope.sealed_size(len(made.header), size))
    return spec, target, Seal(format="crypt4gh", key=made.key, header=made.header, size=size)


async def deliver(
    workers: Workers,
    url: str,
    source: tuple[int, int],
    name: str,
    recipient: str,
    digest: DigestName | None,
) -> None:
    """Begin, the parts (with the digest beside them, where one is wanted), finish.

    `source` is a descriptor, and how many bytes of it are delivered.
    """
    file, size = source
    spec, target, seal = planned(url, name, size, recipient)
    begun = await workers.run(Begin(destination=spec, target=target))
    assert isinstance(begun, Begun)
    free = asyncio.Semaphore(workers.slots)

    async def send(number: int, offset: int) -> StoredPart:
        span = Span(number=number, offset=offset, length=min(PART, size - offset))
        job = Part(destination=spec, target=target, reference=begun.reference, seal=seal, span=span)
        async with free:
            sent = await workers.run(job, file)
        assert isinstance(sent, PartStored)
        return sent.part

    async with asyncio.TaskGroup() as group:
        if digest:
            group.create_task(workers.run(Digest(digest=digest, size=size), file))
        offsets = range(0, size, PART)
        sending = [group.create_task(send(n, offset)) for n, offset in enumerate(offsets, 1)]
    parts = tuple(task.result() for task in sending)
    await workers.run(
        Finish(destination=spec, target=target, reference=begun.reference, parts=parts)
    )


async def serve(url: str, file: Path, recipient: Path, digest: DigestName | None) -> None:
    """Take names of objects from standard input until it ends."""
    source = os.open(file, os.O_RDONLY)
    size = os.fstat(source).st_size
    public = await asyncio.to_thread(recipient.read_text)
    async with WorkerPool(workers=2) as workers:
        # Only parts: the digest checks that the file is as long as it says.
        warm = min(size, 4 * PART)
        await deliver(workers, url, (source, warm), "warm", public, None)
        print("ready", flush=True)  # noqa: T201  # this is how Steady is spoken to
        while line := await asyncio.to_thread(sys.stdin.readline):
            await deliver(workers, url, (source, size), line.strip(), public, digest)
            print("done", flush=True)  # noqa: T201  # likewise
    os.close(source)


def main(url: str, file: str, recipient: str, digest: str) -> int:
    """Run until standard input ends."""
    digests: dict[str, DigestName] = {"sha256": "sha256", "blake3": "blake3"}
    asyncio.run(serve(url, Path(file), Path(recipient), digests.get(digest)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

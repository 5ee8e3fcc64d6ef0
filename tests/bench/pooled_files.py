"""The data path alone, with every file of a load: the real worker processes, no daemon around.

`python -m tests.bench.pooled_files URL DIRECTORY RECIPIENT none|sha256|blake3` is driven by
`Steady`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from daemon.processing.prepare import WHOLE_LIMIT
from daemon.workers import WorkerPool
from pipeline.messages import DigestName, Whole
from tests.bench.pooled import deliver, planned

LARGE_AT_ONCE = 2
"""Files of several parts; each has as many parts under way as there are slots."""


async def deliver_whole(
    workers: WorkerPool, url: str, source: tuple[int, int], name: str, public: str, how: DigestName
) -> None:
    """A small file in one job, as the daemon gives it."""
    file, size = source
    spec, target, seal = planned(url, name, size, public)
    await workers.run(Whole(destination=spec, target=target, seal=seal, digest=how), file)


async def deliver_all(
    workers: WorkerPool,
    url: str,
    files: list[Path],
    name: str,
    public: str,
    digest: DigestName | None,
) -> None:
    """Every file once, as objects below ``name``."""
    free = asyncio.Semaphore(2 * workers.slots)
    free_for_large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def one(file: Path) -> None:
        key = f"{name}/{file.name}"
        source = os.open(file, os.O_RDONLY)
        size = os.fstat(source).st_size
        try:
            if size <= WHOLE_LIMIT and digest is not None:
                async with free:
                    await deliver_whole(workers, url, (source, size), key, public, digest)
            else:
                async with free_for_large:
                    await deliver(workers, url, (source, size), key, public, digest)
        finally:
            os.close(source)

    async with asyncio.TaskGroup() as group:
        for file in files:
            group.create_task(one(file))


async def serve(url: str, files: list[Path], recipient: Path, digest: DigestName | None) -> None:
    """Take names from standard input until it ends."""
    public = await asyncio.to_thread(recipient.read_text)
    async with WorkerPool(workers=2) as workers:
        print("ready", flush=True)  # noqa: T201  # this is how Steady is spoken to
        while line := await asyncio.to_thread(sys.stdin.readline):
            await deliver_all(workers, url, files, line.strip(), public, digest)
            print("done", flush=True)  # noqa: T201  # likewise


def main(url: str, directory: str, recipient: str, digest: str) -> int:
    """Run until standard input ends."""
    digests: dict[str, DigestName] = {"sha256": "sha256", "blake3": "blake3"}
    files = sorted(Path(directory).iterdir())
    asyncio.run(serve(url, files, Path(recipient), digests.get(digest)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

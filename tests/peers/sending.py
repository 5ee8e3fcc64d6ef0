"""Uploads by a tus client that others wrote, of data made on the spot."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import aiotus
import yarl

from tests.peers.oracle import Sent

BLOCK = 1024 * 1024


@dataclass(frozen=True)
class Wanted:
    """An upload to be sent."""

    study: str
    filename: str
    size: int
    seed: int


def made(wanted: Wanted) -> tuple[BinaryIO, str]:
    """A file of that size with bytes that no other seed has, and its SHA-256."""
    generator = random.Random(wanted.seed)
    block = generator.randbytes(BLOCK)
    digest = hashlib.sha256()
    file = tempfile.TemporaryFile()  # noqa: SIM115 -- the caller closes it
    left, number = wanted.size, 0
    while left:
        data = (number.to_bytes(8, "big") + block)[: min(left, BLOCK)]
        digest.update(data)
        file.write(data)
        left -= len(data)
        number += 1
    file.seek(0)
    return file, digest.hexdigest()


async def send(url: str, wanted: Wanted, *, attempts: int = 5) -> Sent:
    """Send one upload whole."""
    file, sha256 = await asyncio.to_thread(made, wanted)
    metadata = {"study": wanted.study.encode(), "filename": wanted.filename.encode()}
    with file:
        location = await aiotus.upload(
            url,
            file,
            metadata,
            config=aiotus.RetryConfiguration(retry_attempts=attempts, max_retry_period_seconds=2),
            chunksize=8 * BLOCK,
        )
    if location is None:
        raise AssertionError(f"{wanted} was not taken")
    tus_id = yarl.URL(location).path.removeprefix(yarl.URL(url).path)
    return Sent(tus_id, wanted.study, wanted.filename, wanted.size, sha256)


async def send_all(url: str, wanted: Sequence[Wanted], at_once: int = 8) -> list[Sent]:
    """Send many, some of them side by side."""
    slots = asyncio.Semaphore(at_once)

    async def one(upload: Wanted) -> Sent:
        async with slots:
            return await send(url, upload)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(upload)) for upload in wanted]
    return [task.result() for task in tasks]

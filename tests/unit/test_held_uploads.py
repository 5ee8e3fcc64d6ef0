"""Uploads whose destination is away wait without tries of their own, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.journal.model import UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.scheduling.away import IN_A_ROW
from pipeline.errors import DestinationUnreachableError
from pipeline.messages import Job, Whole
from tests.peers.conducting import Bench, eventually

COUNT = 60
DAYS = 86400.0


class Gone:
    """A destination that is away until it is back."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.back = False

    def __call__(self, job: Job) -> None:
        if isinstance(job, Whole):
            self.tried.append(job.target.upload)
            if not self.back:
                raise DestinationUnreachableError("away")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with await SqliteJournal.open(tmp_path) as journal:
        made = Bench(tmp_path, journal, destinations=1)
        journal.listen(made.conductor)
        yield made


async def all_wait(bench: Bench, gone: Gone) -> list[str]:
    """So many uploads that most of them are held."""
    bench.workers.fault = gone
    uploads = [await bench.receive(100, f"u{number}") for number in range(COUNT)]
    slots = bench.conductor._context.slots
    await eventually(lambda: slots.describe("d0")["held"] >= COUNT - IN_A_ROW - 32)
    await asyncio.sleep(0.3)
    return uploads


async def test_most_uploads_for_a_destination_that_is_away_are_never_tried(bench: Bench) -> None:
    gone = Gone()
    async with bench.running():
        uploads = await all_wait(bench, gone)
        assert len(set(gone.tried)) < COUNT
        gone.back = True
        for upload in uploads:
            await bench.until(upload, UploadState.DONE)


async def test_an_upload_that_is_held_is_given_up_as_one_that_was_tried(bench: Bench) -> None:
    gone = Gone()
    async with bench.running():
        uploads = await all_wait(bench, gone)
        bench.now += 8 * DAYS
        for upload in uploads:
            bench.conductor._wake.set()
            failed = await bench.until(upload, UploadState.FAILED)
            assert failed.error is not None
            assert failed.error.code == "destination_unreachable"

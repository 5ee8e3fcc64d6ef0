"""A destination that asks to be sent less: its deliveries go on, slower, and others as before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.journal.model import UploadState
from daemon.journal.sqlite import SqliteJournal
from pipeline.errors import DestinationUnreachableError
from pipeline.messages import Finish, Job, Part, Whole
from tests.peers.conducting import MIB, Bench, eventually, failing


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    journal = await SqliteJournal.open(tmp_path)
    bench = Bench(tmp_path, journal, destinations=2)
    journal.listen(bench.conductor)
    yield bench
    await journal.aclose()


def throttled(retry_after: float) -> DestinationUnreachableError:
    return DestinationUnreachableError("slow down", throttled=True, retry_after=retry_after)


@pytest.mark.parametrize("kind", [Part, Finish])
async def test_a_throttled_delivery_goes_on_where_it_was_without_a_failed_attempt(
    bench: Bench, kind: type[Job]
) -> None:
    bench.workers.fault = failing(kind, throttled(0.01), times=3)
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        await bench.until(upload, UploadState.DONE)
    assert len(bench.workers.parts_sent()) == 6 + 3 * (kind is Part)
    assert [line["outcome"] for line in bench.metrics.of("delivery")] == ["ok", "ok"]
    assert {line["attempts"] for line in bench.metrics.of("delivery")} == {1}


async def test_a_throttled_small_upload_is_sent_again(bench: Bench) -> None:
    bench.workers.fault = failing(Whole, throttled(0.01), times=2)
    async with bench.running():
        upload = await bench.receive(1000)
        await bench.until(upload, UploadState.DONE)
    assert {line["attempts"] for line in bench.metrics.of("delivery")} == {1}


async def test_a_destination_that_wants_a_long_rest_gets_it_and_gives_its_place_away(
    bench: Bench,
) -> None:
    def fault(job: Job) -> None:
        if isinstance(job, Part) and job.destination.name == "d0":
            raise throttled(500)

    bench.workers.fault = fault
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        await eventually(lambda: len(bench.metrics.of("delivery")) == 2)
        outcomes = {line["destination"]: line["outcome"] for line in bench.metrics.of("delivery")}
        assert outcomes == {"d0": "failed", "d1": "ok"}
        (first, _) = await bench.journal.deliveries(upload)
        assert first.next_at >= bench.now + 499


async def test_a_long_rest_of_a_destination_does_not_hold_up_the_stop(bench: Bench) -> None:
    bench.workers.fault = failing(Part, throttled(50), times=100)
    async with bench.running():
        await bench.receive(12 * MIB)
        await eventually(bench.workers.parts_sent)

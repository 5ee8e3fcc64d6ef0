"""The wall clock is set back: what waits for its next try doesn't wait so much longer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.backoff import Backoff
from daemon.broker.outbox import Outbox
from daemon.journal.dues import LONGEST_PAUSE
from daemon.journal.model import DeliveryState, Error, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.processing import conductor
from daemon.processing.clockwatch import ClockWatch
from pipeline.errors import DestinationUnreachableError
from pipeline.messages import Job, Whole
from tests.peers.conducting import Bench, eventually
from tests.peers.fakes_outbox import FakeReporter
from tests.peers.journals import ERROR, attempt, processing, received, sighting, stored

HOURS = 7200.0
AWAY = Error(code="api_unreachable", message="away", retryable=True)


@pytest.fixture
def bench(tmp_path: Path, journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(conductor, "LOOK_AGAIN", 0.05)
    bench = Bench(tmp_path, journal, destinations=1)
    journal.listen(bench.conductor)
    return bench


# The watch ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wall", "steady", "found"),
    [
        (60.0, 60.0, 0.0),
        (HOURS, 60.0, 0.0),
        (60.0 - HOURS, 60.0, HOURS),
        (-0.5, 0.1, 0.0),
        (10.0, 60.0, 0.0),
        (-10.0, 50.0, 60.0),
    ],
)
def test_a_clock_that_went_back_is_told_from_one_that_went_on(
    wall: float, steady: float, found: float
) -> None:
    times = {"wall": 1e6, "steady": 500.0}
    watch = ClockWatch(lambda: times["wall"], lambda: times["steady"])
    times["wall"] += wall
    times["steady"] += steady
    assert watch.went_back() == found
    assert watch.went_back() == 0.0


# The journal ----------------------------------------------------------------------------------


async def test_all_that_waits_is_due_as_much_sooner(journal: SqliteJournal) -> None:
    waiting = await received(journal)
    await journal.postpone(waiting.id, ERROR, 10_300.0)
    await journal.announced(waiting.id, "api-1")
    (report,) = await journal.due_reports(10_000.0, 1)
    await journal.report_failed(report.id, AWAY, 10_200.0)
    await journal.clock_went_back(5_000.0, 5_010.0)
    assert (await journal.upload(waiting.id)).next_at == 5_300.0
    assert await journal.next_report_at() == 5_200.0


async def test_a_delivery_s_next_try_is_due_as_much_sooner(journal: SqliteJournal) -> None:
    upload = await processing(journal)
    await journal.attempt(upload.id, 0, 10_000.0)
    await journal.delivery_failed(
        upload.id, 0, attempt(error=ERROR), DeliveryState.PENDING, 10_100.0
    )
    await journal.clock_went_back(5_000.0, 5_010.0)
    (delivery, *_) = await journal.deliveries(upload.id)
    assert delivery.next_at == 5_100.0


async def test_a_report_that_was_never_tried_is_due_at_once(journal: SqliteJournal) -> None:
    upload = await journal.sight(sighting(), 10_000.0)
    await journal.announced(upload.id, "api-1")
    assert await journal.due_reports(2_000.0, 1) == []
    await journal.clock_went_back(0.0, 2_000.0)
    assert len(await journal.due_reports(2_000.0, 1)) == 1


async def test_what_a_wrong_clock_left_behind_waits_for_the_longest_pause_at_most(
    journal: SqliteJournal,
) -> None:
    upload = await received(journal)
    await journal.postpone(upload.id, ERROR, 1e6)
    await journal.clock_went_back(0.0, 100.0)
    assert (await journal.upload(upload.id)).next_at == 100.0 + LONGEST_PAUSE


async def test_a_clock_that_went_on_changes_nothing(journal: SqliteJournal) -> None:
    upload = await received(journal)
    await journal.postpone(upload.id, ERROR, 400.0)
    before = await journal.upload(upload.id)
    await journal.clock_went_back(0.0, 100.0)
    assert await journal.upload(upload.id) == before


async def test_what_is_over_keeps_its_times(journal: SqliteJournal) -> None:
    upload = await stored(journal)
    before = await journal.details(upload.id)
    await journal.clock_went_back(HOURS, 0.0)
    after = await journal.details(upload.id)
    assert (after.upload.stored_at, after.upload.received_at) == (
        before.upload.stored_at,
        before.upload.received_at,
    )
    assert after.deliveries == before.deliveries


# What runs ------------------------------------------------------------------------------------


def away(job: Job) -> None:
    if isinstance(job, Whole):
        raise DestinationUnreachableError("away")


def back(job: Job) -> None:
    """Nothing goes wrong any more."""


async def ticking(bench: Bench, condition: Callable[[], object]) -> None:
    """Until ``condition`` holds, the clock running faster than the real one."""
    async with asyncio.timeout(10):
        while not condition():
            bench.now += 1.0
            await asyncio.sleep(0.005)


async def test_a_delivery_is_tried_again_soon_though_the_clock_was_set_back(
    bench: Bench,
) -> None:
    bench.workers.fault = away
    async with bench.running():
        upload = await bench.receive(1000)
        await eventually(lambda: bench.metrics.of("delivery"))
        bench.now -= HOURS
        bench.workers.fault = back
        began = bench.now
        await bench.until(upload, UploadState.DONE)
        assert bench.now - began < HOURS / 10


async def test_an_upload_that_waits_is_taken_up_soon_by_a_daemon_whose_clock_was_set_back(
    bench: Bench,
) -> None:
    bench.workers.fault = away
    async with bench.running():
        upload = await bench.receive(1000)
        await eventually(lambda: bench.metrics.of("delivery"))
    bench.now -= 10 * HOURS
    bench.workers.fault = back
    bench.restart()
    async with bench.running():
        await eventually(lambda: bench.conductor._set_back is None)
        bench.now += LONGEST_PAUSE
        began = bench.now
        await bench.until(upload, UploadState.DONE)
        assert bench.now - began < HOURS / 10


async def test_a_source_goes_though_it_was_stored_in_the_future(bench: Bench) -> None:
    bench.broker.api_id = "api-1"
    async with bench.running():
        upload = await bench.receive(1000)
        await bench.until(upload, UploadState.STORED)
        bench.now -= HOURS
        for _ in range(3):
            for report in await bench.journal.due_reports(bench.now + 2 * HOURS, 10):
                await bench.journal.acknowledged(report.id)
        began = bench.now
        await bench.until(upload, UploadState.DONE)
        assert bench.now - began < HOURS / 10


async def test_a_report_that_failed_goes_out_soon_though_the_clock_was_set_back(
    bench: Bench,
) -> None:
    bench.workers.fault = away
    api = FakeReporter()
    api.down = ConnectionError("away")
    metrics = bench.metrics
    outbox = Outbox(bench.journal, api, metrics, lambda: bench.now, Backoff(0.02, 0.05))
    bench.journal.listen(outbox)
    bench.broker.api_id = "api-1"
    async with bench.running():
        sending = asyncio.create_task(outbox.run())
        try:
            await bench.receive(1000)
            await ticking(bench, lambda: len(api.tried) > 1)
            bench.now -= HOURS
            api.down = None
            began = bench.now
            await ticking(bench, lambda: api.taken)
            assert bench.now - began < HOURS / 10
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

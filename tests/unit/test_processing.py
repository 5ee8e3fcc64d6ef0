"""The way from received to done, with every trouble a destination, an API or a file can make."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from daemon.errors import ApiUnreachableError, StudyRefusedError
from daemon.journal.model import DeliveryState, UploadState
from daemon.journal.sqlite import SqliteJournal
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    DropoffError,
    VerificationError,
    WorkerLostError,
)
from pipeline.messages import Abort, Begin, Digest, Finish, Job, Part, Whole
from tests.peers.conducting import MIB, Bench, eventually, failing
from tests.peers.journals import left_to_do


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    journal = await SqliteJournal.open(tmp_path)
    bench = Bench(tmp_path, journal, destinations=1)
    journal.listen(bench.conductor)
    yield bench
    await journal.aclose()


async def test_a_small_upload_goes_out_in_one_request(bench: Bench) -> None:
    async with bench.running():
        upload = await bench.receive(1000)
        await bench.until(upload, UploadState.DONE)
    kinds = [type(job) for job in bench.workers.jobs]
    assert kinds == [Whole]


async def test_a_large_upload_goes_out_in_parts_and_its_digest_is_taken_beside(
    bench: Bench,
) -> None:
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        sha256 = hashlib.sha256((bench.uploads / "u1").read_bytes()).hexdigest()
        done = await bench.until(upload, UploadState.DONE)
    assert sorted(bench.workers.parts_sent()) == [1, 2, 3]
    assert done.digest == f"sha256:{sha256}"
    assert (bench.receipts / f"{upload}.json").exists()
    assert not (bench.uploads / "u1").exists()


async def test_a_destination_that_is_away_is_tried_again_and_sent_parts_count(
    bench: Bench,
) -> None:
    gone = DestinationUnreachableError("away")

    def fault(job: Job) -> None:
        if isinstance(job, Part) and job.span.number == 3 and len(bench.workers.jobs) < 12:
            raise gone

    bench.workers.fault = fault
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        await bench.until(upload, UploadState.DONE)
    sent = bench.workers.parts_sent()
    assert (sent.count(1), sent.count(2)) == (1, 1)
    outcomes = [line["outcome"] for line in bench.metrics.of("delivery")]
    assert "failed" in outcomes
    assert outcomes[-1] == "ok"


async def test_a_destination_that_stays_away_is_given_up_and_the_source_is_kept(
    bench: Bench,
) -> None:
    bench.workers.fault = failing(Whole, DestinationUnreachableError("away"), times=10**6)

    async def weeks_pass() -> None:
        while True:
            await asyncio.sleep(0.02)
            bench.now += bench.settings.pipeline.give_up

    async with bench.running():
        upload = await bench.receive(1000)
        passing = asyncio.create_task(weeks_pass())
        failed = await bench.until(upload, UploadState.FAILED)
        passing.cancel()
    assert failed.error is not None
    assert failed.error.code == "destination_unreachable"
    assert (bench.uploads / "u1").exists()


async def test_a_destination_that_refuses_fails_the_upload_at_once(bench: Bench) -> None:
    bench.workers.fault = failing(Whole, DestinationRefusedError("no such bucket"))
    async with bench.running():
        upload = await bench.receive(1000)
        failed = await bench.until(upload, UploadState.FAILED)
    assert failed.error is not None
    assert failed.error.code == "destination_refused"
    assert len(bench.workers.jobs) == 1


async def test_a_retried_upload_goes_on_with_the_parts_it_has(bench: Bench) -> None:
    bench.workers.fault = failing(Finish, DestinationRefusedError("quota"))
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        await bench.until(upload, UploadState.FAILED)
        await bench.journal.retry(upload, bench.now)
        await bench.until(upload, UploadState.DONE)
    assert sorted(bench.workers.parts_sent()) == [1, 2, 3]


async def test_one_destination_s_failure_does_not_keep_the_other_from_its_copy(
    tmp_path: Path,
) -> None:
    journal = await SqliteJournal.open(tmp_path)
    bench = Bench(tmp_path, journal, destinations=2)
    journal.listen(bench.conductor)

    def fault(job: Job) -> None:
        if isinstance(job, Whole) and job.destination.name == "d0":
            raise DestinationRefusedError("no")

    bench.workers.fault = fault
    async with bench.running():
        upload = await bench.receive(1000)
        await bench.until(upload, UploadState.FAILED)
    states = [delivery.state for delivery in await journal.deliveries(upload)]
    assert states == [DeliveryState.FAILED, DeliveryState.STORED]
    await journal.aclose()


async def test_a_wrong_object_is_made_anew_and_then_given_up(bench: Bench) -> None:
    bench.workers.fault = failing(Whole, VerificationError("another checksum"), times=10**6)
    async with bench.running():
        upload = await bench.receive(1000)
        failed = await bench.until(upload, UploadState.FAILED)
    assert failed.error is not None
    assert failed.error.code == "verification_failed"
    assert len(bench.workers.jobs) == 3


async def test_a_worker_that_dies_costs_its_job_another_try_and_nothing_else(
    bench: Bench,
) -> None:
    bench.workers.fault = failing(Part, WorkerLostError("killed"), times=2)
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        await bench.until(upload, UploadState.DONE)
    assert [line["outcome"] for line in bench.metrics.of("delivery")] == ["ok"]


@pytest.mark.parametrize(
    "error", [WorkerLostError("killed"), DestinationUnreachableError("slow down", throttled=True)]
)
async def test_what_a_begin_left_whose_answer_was_lost_is_removed_by_the_next_one(
    bench: Bench, error: DropoffError
) -> None:
    bench.workers.fault = failing(Begin, error)
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        await bench.until(upload, UploadState.DONE)
    stale = [job.stale for job in bench.workers.jobs if isinstance(job, Begin | Finish)]
    assert stale == [False, True, True]


@pytest.mark.parametrize("one_name", [False, True])
async def test_a_destination_that_forgot_the_upload_gets_it_from_the_start(
    bench: Bench,
    one_name: bool,  # noqa: FBT001 -- a case
) -> None:
    bench.workers.one_name = one_name
    bench.workers.fault = failing(Finish, DestinationUnreachableError("away"))
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        await eventually(lambda: bench.metrics.of("delivery"))
        bench.workers.unfinished.clear()
        await bench.until(upload, UploadState.DONE)
    assert sorted(bench.workers.parts_sent()) == [1, 1, 2, 2, 3, 3]


async def test_a_restart_goes_on_with_the_parts_that_are_there(bench: Bench) -> None:
    third = asyncio.Event()

    def fault(job: Job) -> Awaitable[bool] | None:
        if isinstance(job, Part) and job.span.number == 3 and not third.is_set():
            third.set()
            bench.conductor.stop()
        return None

    bench.workers.fault = fault
    async with bench.running():
        upload = await bench.receive(27 * MIB)
        await third.wait()
    before = set(bench.workers.parts_sent())
    assert before < set(range(1, 7))
    bench.restart()
    async with bench.running():
        await bench.until(upload, UploadState.DONE)
    assert sorted(bench.workers.parts_sent()) == [1, 2, 3, 4, 5, 6]


async def test_a_part_whose_answer_was_lost_is_proved_and_not_sent_again(bench: Bench) -> None:
    await bench.receive(12 * MIB)
    upload = (await left_to_do(bench.journal))[0].upload
    bench.workers.fault = failing(Finish, DestinationUnreachableError("away"))
    async with bench.running():
        await eventually(lambda: bench.metrics.of("delivery"))
        await bench.journal.forget_parts(upload, 0, [2])
        await bench.until(upload, UploadState.DONE)
    assert sorted(bench.workers.parts_sent()) == [1, 2, 3]


async def test_a_source_that_changed_gets_a_new_key_and_starts_over(bench: Bench) -> None:
    bench.workers.fault = failing(Finish, DestinationUnreachableError("away"))
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        await eventually(lambda: bench.metrics.of("delivery"))
        (bench.uploads / "u1").write_bytes(os.urandom(12 * MIB))
        sha256 = hashlib.sha256((bench.uploads / "u1").read_bytes()).hexdigest()
        done = await bench.until(upload, UploadState.DONE)
    assert done.digest == f"sha256:{sha256}"
    sealed = [job.seal.key for job in bench.workers.jobs if isinstance(job, Part)]
    assert len(set(sealed)) == 2
    assert any(isinstance(job, Abort) for job in bench.workers.jobs)
    assert bench.workers.unfinished == {}


async def test_a_source_of_another_size_than_announced_fails(bench: Bench) -> None:
    upload = await bench.receive(1000)
    with (bench.uploads / "u1").open("ab") as file:
        file.write(b"more")
    async with bench.running():
        failed = await bench.until(upload, UploadState.FAILED)
    assert failed.error is not None
    assert failed.error.code == "source_changed"


async def test_a_source_that_is_gone_fails(bench: Bench) -> None:
    upload = await bench.receive(1000)
    (bench.uploads / "u1").unlink()
    async with bench.running():
        failed = await bench.until(upload, UploadState.FAILED)
    assert failed.error is not None
    assert failed.error.code == "source_missing"


async def test_an_api_that_is_away_makes_the_plan_wait(bench: Bench) -> None:
    bench.broker.error = ApiUnreachableError("away")
    async with bench.running():
        upload = await bench.receive(1000)
        while (waiting := await bench.journal.upload(upload)).error is None:  # noqa: ASYNC110 -- no event tells of it
            await asyncio.sleep(0.005)
        assert waiting.state is UploadState.RECEIVED
        bench.broker.error = None
        await bench.until(upload, UploadState.DONE)


async def test_a_study_that_is_refused_at_intake_fails_the_upload(bench: Bench) -> None:
    bench.broker.error = StudyRefusedError("closed")
    async with bench.running():
        upload = await bench.receive(1000)
        failed = await bench.until(upload, UploadState.FAILED)
    assert failed.error is not None
    assert failed.error.code == "study_refused"


async def test_the_source_stays_until_the_stored_report_is_acknowledged(bench: Bench) -> None:
    bench.broker.api_id = "drop-1"
    async with bench.running():
        upload = await bench.receive(1000)
        await bench.until(upload, UploadState.STORED)
        await asyncio.sleep(0.05)
        assert (bench.uploads / "u1").exists()
        while reports := await bench.journal.due_reports(bench.now, 10):
            for report in reports:
                await bench.journal.acknowledged(report.id)
        await bench.until(upload, UploadState.DONE)
    assert not (bench.uploads / "u1").exists()


async def test_a_terminated_upload_stops_and_leaves_nothing_unfinished(bench: Bench) -> None:
    started = asyncio.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    bench.workers.fault = lambda job: (
        forever() if isinstance(job, Part) and job.span.number == 2 else None
    )
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        await started.wait()
        await bench.journal.terminate(str(bench.uploads), "u1", bench.now)
        await eventually(lambda: [job for job in bench.workers.jobs if isinstance(job, Abort)])
        await bench.until(upload, UploadState.TERMINATED)
    assert bench.workers.unfinished == {}


async def test_a_bug_met_by_one_upload_does_not_stop_its_neighbour(bench: Bench) -> None:
    def fault(job: Job) -> None:
        if isinstance(job, Digest):
            raise ZeroDivisionError

    bench.workers.fault = fault
    async with bench.running():
        crashing = await bench.receive(12 * MIB, "u1")
        fine = await bench.receive(1000, "u2")
        await bench.until(fine, UploadState.DONE)
        bench.workers.fault = lambda _: None
        await bench.until(crashing, UploadState.DONE)


async def test_nothing_is_begun_twice_for_an_upload_that_is_told_of_twice(bench: Bench) -> None:
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        for work in await left_to_do(bench.journal):
            bench.conductor.on_work(work)
        await bench.until(upload, UploadState.DONE)
    assert sum(isinstance(job, Begin) for job in bench.workers.jobs) == 1


async def test_a_digest_that_takes_hours_does_not_hold_up_a_stop(bench: Bench) -> None:
    started = asyncio.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    bench.workers.fault = lambda job: forever() if isinstance(job, Digest) else None
    async with asyncio.timeout(bench.settings.pipeline.stop_timeout - 1):
        async with bench.running():
            await bench.receive(12 * MIB)
            await started.wait()


@pytest.mark.parametrize("kind", [Digest, Part])
async def test_a_stop_waits_for_parts_in_flight_whatever_else_ends_before(
    bench: Bench, kind: type[Job]
) -> None:
    sending, going = asyncio.Event(), asyncio.Event()

    async def slowly() -> None:
        sending.set()
        await going.wait()

    async def at_once() -> None:
        await sending.wait()
        asyncio.get_running_loop().call_later(0.2, going.set)
        bench.conductor.stop()
        if kind is Digest:
            await asyncio.Event().wait()

    def fault(job: Job) -> Awaitable[None] | None:
        if isinstance(job, Part) and job.span.number == 1:
            return slowly()
        first = isinstance(job, kind) and not bench.conductor._context.stopping.is_set()
        return at_once() if first else None

    bench.workers.fault = fault
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        await going.wait()
    bench.workers.fault = lambda _: None
    bench.restart()
    async with bench.running():
        await bench.until(upload, UploadState.DONE)
    assert bench.workers.parts_sent().count(1) == 1


async def test_a_destination_that_still_takes_parts_is_not_given_up(bench: Bench) -> None:
    def fault(job: Job) -> None:
        if isinstance(job, Finish) and sum(isinstance(j, Finish) for j in bench.workers.jobs) == 1:
            bench.now += bench.settings.pipeline.give_up
            raise DestinationUnreachableError("away for a moment, after a week of parts")

    bench.workers.fault = fault
    async with bench.running():
        upload = await bench.receive(12 * MIB)
        await bench.until(upload, UploadState.DONE)

"""The outbox in the journal: which reports there are, what is in them, and which goes next."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.errors import NotFoundError
from daemon.journal.model import ReportStatus, Trail, UploadState
from daemon.journal.reports import rfc3339
from daemon.journal.sqlite import SqliteJournal
from tests.peers.journals import (
    DIRECTORY,
    ERROR,
    RECEIPT,
    STUDY,
    Ears,
    acknowledge_all,
    announcement,
    envelope,
    identity,
    new_delivery,
    part,
    processing,
    received,
    sighting,
    stored,
)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    async with await SqliteJournal.open(tmp_path, clock=lambda: 5000.0) as opened:
        yield opened


async def test_a_report_s_body_has_the_fields_of_the_contract(journal: SqliteJournal) -> None:
    await journal.add_announcement(announcement())
    await journal.sight(sighting(), 1_700_000_000.5)
    (report,) = await journal.due_reports(1e12, 10)
    assert report.api_id == "api-a1"
    assert str(uuid.UUID(report.id)) == report.id
    assert report.body == {
        "report": report.id,
        "sequence": 1,
        "state": "received",
        "at": "2023-11-14T22:13:20.500Z",
        "tus_id": "t1",
        "study": STUDY,
        "filename": "reads.fastq",
        "size": 1000,
        "received": 1000,
        "receipt": None,
        "error": None,
    }


def test_times_are_utc_with_z() -> None:
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"


async def test_the_whole_way_is_reported_in_order(journal: SqliteJournal) -> None:
    told = []
    upload = await journal.sight(sighting(received=5), 90.0)
    await journal.announced(upload.id, "api-1")
    told += await acknowledge_all(journal)
    await journal.sight(sighting(), 100.0)
    told += await acknowledge_all(journal)
    await journal.plan(upload.id, envelope(), [], identity(), 101.0)
    told += await acknowledge_all(journal)
    await journal.stored(upload.id, RECEIPT, 104.0)
    told += await acknowledge_all(journal)
    assert [(report.sequence, report.state) for report in told] == [
        (1, "receiving"),
        (2, "received"),
        (3, "processing"),
        (4, "stored"),
    ]
    assert told[-1].body["receipt"] == RECEIPT
    kept = (await journal.details(upload.id)).reports
    assert [report.body for report in kept] == [report.body for report in told]
    assert {report.acknowledged_at for report in kept} == {5000.0}


async def test_a_failed_report_carries_the_error(journal: SqliteJournal) -> None:
    upload = await received(journal)
    await journal.fail(upload.id, ERROR, 110.0)
    last = (await journal.details(upload.id)).reports[-1]
    assert last.body["error"] == {
        "code": "destination_unreachable",
        "message": "away",
        "retryable": True,
    }


async def test_reports_wait_for_the_api_s_id(journal: SqliteJournal) -> None:
    ears = Ears()
    journal.listen(ears)
    upload = await journal.sight(sighting(), 100.0)
    assert await journal.due_reports(1e12, 10) == []
    assert await journal.next_report_at() is None
    assert ears.reports == 0
    await journal.announced(upload.id, "api-1")
    assert ears.reports == 1
    assert await journal.next_report_at() == 100.0
    (report,) = await journal.due_reports(1e12, 10)
    assert report.api_id == "api-1"


async def test_reports_of_an_upload_that_was_never_announced_are_kept_and_not_due(
    journal: SqliteJournal,
) -> None:
    upload = await journal.sight(sighting(study=None), 100.0)
    await journal.fail(upload.id, ERROR, 101.0)
    assert await journal.due_reports(1e12, 10) == []
    assert [report.state for report in (await journal.details(upload.id)).reports] == [
        "received",
        "failed",
    ]


async def test_a_study_of_the_config_gets_no_reports(journal: SqliteJournal) -> None:
    await journal.add_announcement(announcement(api_id=None))
    upload = await journal.sight(sighting(), 100.0)
    assert upload.announced
    assert (await journal.report_counts())["pending"] == 0


async def test_what_waited_is_dropped_where_there_is_nobody_to_report_to(
    journal: SqliteJournal,
) -> None:
    await stored(journal, api_id=None)
    assert await journal.report_counts() == {"pending": 0, "acknowledged": 0, "parked": 0}


async def test_only_an_upload_s_first_pending_report_goes(journal: SqliteJournal) -> None:
    upload = await processing(journal)
    (first,) = await journal.due_reports(1e12, 10)
    assert first.state == "received"
    assert await journal.due_reports(1e12, 10, frozenset({upload.id})) == []
    await journal.acknowledged(first.id)
    (second,) = await journal.due_reports(1e12, 10)
    assert second.state == "processing"


async def test_a_processing_report_waits_a_second_for_what_makes_it_needless(
    journal: SqliteJournal,
) -> None:
    await processing(journal)
    (first,) = await journal.due_reports(101.0, 10)
    await journal.acknowledged(first.id)
    assert await journal.due_reports(101.9, 10) == []
    assert await journal.next_report_at() == 102.0
    (second,) = await journal.due_reports(102.0, 10)
    assert (second.state, second.sequence) == ("processing", 2)


async def test_what_ends_within_that_second_is_reported_at_once(
    journal: SqliteJournal,
) -> None:
    upload = await processing(journal)
    (first,) = await journal.due_reports(101.0, 10)
    await journal.acknowledged(first.id)
    await journal.fail(upload.id, ERROR, 101.5)
    (second,) = await journal.due_reports(101.5, 10)
    assert (second.state, second.sequence) == ("failed", 2)


async def test_a_failed_report_holds_its_upload_back_and_no_other(journal: SqliteJournal) -> None:
    await processing(journal, "t1", "api-1")
    await received(journal, "t2", "api-2")
    (report, _) = await journal.due_reports(200.0, 10)
    assert report.api_id == "api-1"
    await journal.report_failed(report.id, ERROR, 900.0)
    assert [due.api_id for due in await journal.due_reports(200.0, 10)] == ["api-2"]
    (second,) = await journal.due_reports(200.0, 10)
    await journal.acknowledged(second.id)
    assert await journal.next_report_at() == 900.0
    (again,) = await journal.due_reports(900.0, 10)
    assert (again.id, again.attempts, again.error) == (report.id, 1, ERROR)


async def test_those_that_wait_longest_go_first_up_to_the_limit(journal: SqliteJournal) -> None:
    for number, now in enumerate((300.0, 100.0, 200.0)):
        upload = await journal.sight(sighting(f"t{number}"), now)
        await journal.announced(upload.id, f"api-{number}")
    assert [due.api_id for due in await journal.due_reports(1e12, 2)] == ["api-1", "api-2"]
    assert [due.api_id for due in await journal.due_reports(150.0, 5)] == ["api-1"]


async def test_a_parked_report_does_not_hold_back_the_next(journal: SqliteJournal) -> None:
    await processing(journal)
    (first,) = await journal.due_reports(1e12, 10)
    await journal.park(first.id, ERROR)
    (second,) = await journal.due_reports(1e12, 10)
    assert second.state == "processing"
    assert await journal.report_counts() == {"pending": 1, "acknowledged": 0, "parked": 1}


async def test_a_parked_stored_report_is_not_acknowledged(journal: SqliteJournal) -> None:
    upload = await stored(journal)
    while due := await journal.due_reports(1e12, 10):
        await journal.park(due[0].id, ERROR)
    assert not (await journal.standing(upload.id)).reported
    await journal.retry(upload.id, 200.0)
    taken = await acknowledge_all(journal)
    assert [report.state for report in taken] == ["received", "stored"]
    assert (await journal.standing(upload.id)).reported


async def test_a_report_that_nobody_saw_gives_way_to_the_next_one(journal: SqliteJournal) -> None:
    upload = await journal.sight(sighting(received=5), 90.0)
    await journal.announced(upload.id, "api-1")
    seen = (await journal.details(upload.id)).reports[0].id
    await journal.sight(sighting(), 100.0)
    (report,) = (await journal.details(upload.id)).reports
    assert (report.sequence, report.state) == (1, "received")
    assert report.id != seen
    assert report.body["report"] == report.id


async def test_received_failed_and_stored_reports_never_give_way(journal: SqliteJournal) -> None:
    upload = await stored(journal)
    reports = (await journal.details(upload.id)).reports
    assert [(report.sequence, report.state) for report in reports] == [
        (1, "received"),
        (2, "stored"),
    ]


async def test_a_report_that_was_handed_out_stays_as_it_is(journal: SqliteJournal) -> None:
    upload = await journal.sight(sighting(received=5), 90.0)
    await journal.announced(upload.id, "api-1")
    (handed,) = await journal.due_reports(1e12, 10)
    await journal.sight(sighting(), 100.0)
    kept = (await journal.details(upload.id)).reports
    assert [(report.sequence, report.state) for report in kept] == [
        (1, "receiving"),
        (2, "received"),
    ]
    assert kept[0].id == handed.id


async def test_after_a_restart_every_pending_report_may_have_been_sent(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        upload = await journal.sight(sighting(received=5), 90.0)
    async with await SqliteJournal.open(tmp_path) as journal:
        await journal.sight(sighting(), 100.0)
        reports = (await journal.details(upload.id)).reports
    assert [report.state for report in reports] == ["receiving", "received"]


async def test_reports_outlive_a_restart_with_id_sequence_and_body(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        await processing(journal)
        before = await journal.due_reports(1e12, 10)
    async with await SqliteJournal.open(tmp_path) as journal:
        assert await journal.due_reports(1e12, 10) == before


async def test_acknowledging_twice_is_once(journal: SqliteJournal) -> None:
    ears = Ears()
    journal.listen(ears)
    upload = await stored(journal)
    taken = await acknowledge_all(journal)
    ears.work.clear()
    await journal.acknowledged(taken[-1].id)
    await journal.report_failed(taken[-1].id, ERROR, 900.0)
    await journal.park(taken[-1].id, ERROR)
    assert ears.work == []
    last = (await journal.details(upload.id)).reports[-1]
    assert (last.status, last.attempts) == (ReportStatus.ACKNOWLEDGED, 1)


async def test_a_report_that_is_not_there_is_not_found(journal: SqliteJournal) -> None:
    with pytest.raises(NotFoundError):
        await journal.acknowledged("nobody")


async def test_a_terminated_upload_s_report_is_the_last(journal: SqliteJournal) -> None:
    upload = await received(journal)
    await acknowledge_all(journal)
    await journal.terminate(DIRECTORY, "t1", 120.0)
    (last,) = await acknowledge_all(journal)
    assert (last.upload, last.state) == (upload.id, UploadState.TERMINATED)


async def test_listeners_hear_of_reports_that_can_go(journal: SqliteJournal) -> None:
    upload = await received(journal)
    ears = Ears()
    journal.listen(ears)
    await journal.plan(upload.id, envelope(), [new_delivery()], identity(), 101.0)
    assert ears.reports == 1


async def test_a_receiving_report_tells_what_went_out_already(journal: SqliteJournal) -> None:
    upload = (await journal.sight(sighting(received=500), 90.0)).id
    await journal.announced(upload, "api-1")
    trail = Trail(device=1, inode=7, boot="b")
    await journal.follow(upload, envelope(), [new_delivery(), new_delivery()], trail)
    for position, size in enumerate((30, 20)):
        await journal.attempt(upload, position, 91.0)
        await journal.begun(upload, position, f"ref-{position}")
        await journal.part_stored(upload, position, part(size=size))
    await acknowledge_all(journal)
    await journal.sight(sighting(received=600), 96.0)
    (report,) = await journal.due_reports(97.0, 10)
    assert (report.body["received"], report.body["delivered"]) == (600, 20)

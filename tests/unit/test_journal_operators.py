"""What people find in the journal, and what they can do."""

from __future__ import annotations

import asyncio
import sqlite3
import time

import pytest

from daemon.errors import ConflictError, NotFoundError
from daemon.journal.model import DeliveryState, UploadState
from daemon.journal.sqlite import SqliteJournal
from tests.peers.journals import (
    DIRECTORY,
    ERROR,
    OTHER_STUDY,
    Ears,
    acknowledge_all,
    announcement,
    attempt,
    envelope,
    identity,
    left_to_do,
    part,
    processing,
    received,
    sighting,
    stored_object,
)


async def test_an_upload_is_found_by_any_of_its_ids(journal: SqliteJournal) -> None:
    upload = await received(journal, "abc/def", "api-1")
    for text in (upload.id, "abc/def", "api-1", upload.id[:6], "abc"):
        assert (await journal.find(text)).id == upload.id


@pytest.mark.parametrize("text", ["", "nobody", "api-"])
async def test_what_fits_nothing_is_not_found(journal: SqliteJournal, text: str) -> None:
    await received(journal)
    with pytest.raises(NotFoundError):
        await journal.find(text)


async def test_a_prefix_of_several_names_them(journal: SqliteJournal) -> None:
    await received(journal, "abc1")
    await received(journal, "abc2")
    with pytest.raises(NotFoundError, match="abc2, abc1"):
        await journal.find("abc")
    assert (await journal.find("abc1")).tus_id == "abc1"


async def test_of_a_tus_id_s_generations_the_newest_is_found(journal: SqliteJournal) -> None:
    await received(journal, "abc1")
    await journal.terminate(DIRECTORY, "abc1", 110.0)
    second = await journal.sight(sighting("abc1", identity=identity(inode=8)), 120.0)
    assert (await journal.find("abc1")).id == second.id
    assert (await journal.find("abc")).id == second.id


async def test_announcements_that_expired_are_found_by_their_own_ids(
    journal: SqliteJournal,
) -> None:
    await journal.add_announcement(announcement("xa"))
    await journal.add_announcement(announcement("xb"))
    await journal.expire_announcements(1e9, 1e9)
    assert (await journal.find("xa")).id == "xa"
    with pytest.raises(NotFoundError, match="xb, xa"):
        await journal.find("x")


async def test_uploads_are_listed_newest_first_by_state_and_study(journal: SqliteJournal) -> None:
    one = await received(journal, "t1")
    two = await journal.sight(sighting("t2", study=OTHER_STUDY), 110.0)
    three = await journal.sight(sighting("t3", received=5, study=OTHER_STUDY), 120.0)

    async def listed(state: UploadState | None, study: str | None, limit: int = 10) -> list[str]:
        return [upload.id for upload in await journal.uploads(state, study, limit)]

    assert await listed(None, None) == [three.id, two.id, one.id]
    assert await listed(None, None, 1) == [three.id]
    assert await listed(UploadState.RECEIVED, None) == [two.id, one.id]
    assert await listed(None, OTHER_STUDY) == [three.id, two.id]
    assert await listed(UploadState.RECEIVED, OTHER_STUDY) == [two.id]


async def test_counts_have_every_state(journal: SqliteJournal) -> None:
    await received(journal)
    counts = await journal.counts()
    assert list(counts) == list(UploadState)
    assert counts[UploadState.RECEIVED] == 1
    assert sum(counts.values()) == 1


async def test_details_show_everything_but_secrets(journal: SqliteJournal) -> None:
    upload = await processing(journal, deliveries=2)
    await journal.begun(upload.id, 0, "ref")
    await journal.part_stored(upload.id, 0, part(1))
    await journal.delivered(upload.id, 1, stored_object(), attempt(1), 120.0)
    details = await journal.details(upload.id)
    assert details.upload == await journal.upload(upload.id)
    assert [d.state for d in details.deliveries] == [DeliveryState.PENDING, DeliveryState.STORED]
    assert details.attempts == (attempt(1),)
    assert details.parts == {0: 400, 1: 1100}
    assert "clear-text" not in repr(details)


async def test_a_retry_of_what_was_never_planned_is_received_anew(journal: SqliteJournal) -> None:
    upload = await received(journal)
    await journal.fail(upload.id, ERROR, 110.0)
    await acknowledge_all(journal)
    ears = Ears()
    journal.listen(ears)
    await journal.retry(upload.id, 120.0)
    upload = await journal.upload(upload.id)
    assert (upload.state, upload.error, upload.received_at) == (UploadState.RECEIVED, None, 120.0)
    assert [work.upload for work in ears.work] == [upload.id]
    assert [report.state for report in await acknowledge_all(journal)] == ["received"]


async def test_a_retry_keeps_key_parts_and_what_is_stored(journal: SqliteJournal) -> None:
    upload = await processing(journal, deliveries=2)
    await journal.attempt(upload.id, 0, 105.0)
    await journal.begun(upload.id, 0, "ref")
    await journal.part_stored(upload.id, 0, part(1))
    await journal.delivery_failed(upload.id, 0, attempt(0, ERROR), DeliveryState.FAILED, 900.0)
    await journal.delivered(upload.id, 1, stored_object(), attempt(1), 120.0)
    await journal.fail(upload.id, ERROR, 130.0)
    await journal.retry(upload.id, 140.0)
    upload = await journal.upload(upload.id)
    assert (upload.state, upload.error) == (UploadState.PROCESSING, None)
    assert await journal.envelope(upload.id) == envelope()
    again, kept = await journal.deliveries(upload.id)
    assert (again.state, again.reference, again.attempts) == (DeliveryState.PENDING, "ref", 1)
    assert (again.next_at, again.error, again.started_at) == (0.0, None, None)
    assert await journal.parts(upload.id, 0) == {1: part(1)}
    assert kept.state is DeliveryState.STORED


async def test_a_retry_may_start_over_as_often_as_a_new_upload(journal: SqliteJournal) -> None:
    upload = await processing(journal)
    await journal.start_over(upload.id, 110.0)
    await journal.fail(upload.id, ERROR, 120.0)
    assert (await journal.upload(upload.id)).restarts == 1
    await journal.retry(upload.id, 130.0)
    assert (await journal.upload(upload.id)).restarts == 0


async def test_a_retry_sends_parked_reports_again(journal: SqliteJournal) -> None:
    upload = await received(journal)
    (report,) = await journal.due_reports(1e12, 10)
    await journal.park(report.id, ERROR)
    await journal.retry(upload.id, 120.0)
    assert (await journal.upload(upload.id)).state is UploadState.RECEIVED
    (again,) = await journal.due_reports(120.0, 10)
    assert again.id == report.id


async def test_where_nothing_failed_there_is_nothing_to_retry(journal: SqliteJournal) -> None:
    upload = await received(journal)
    with pytest.raises(ConflictError):
        await journal.retry(upload.id, 120.0)


async def test_discarding_gives_a_failed_upload_up(journal: SqliteJournal) -> None:
    upload = await received(journal)
    ears = Ears()
    journal.listen(ears)
    with pytest.raises(ConflictError):
        await journal.discard(upload.id, 110.0)
    await journal.fail(upload.id, ERROR, 110.0)
    await journal.discard(upload.id, 120.0)
    upload = await journal.upload(upload.id)
    assert (upload.state, upload.error) == (UploadState.DISCARDED, ERROR)
    assert ears.withdrawn == [upload.id]


async def test_the_questions_asked_often_use_an_index(journal: SqliteJournal) -> None:
    questions = {
        "uploads_state": "SELECT id FROM uploads WHERE state IN ('received', 'processing')",
        "uploads_report_at": "SELECT id FROM uploads WHERE report_at <= 5 ORDER BY report_at",
        "reports_pending": "SELECT id FROM reports WHERE upload = 'x' AND status = 'pending'"
        " ORDER BY sequence LIMIT 1",
        "sqlite_autoindex_uploads_2": "SELECT * FROM uploads WHERE directory = 'd'"
        " AND tus_id = 't' ORDER BY generation DESC LIMIT 1",
        "announcements_match": "SELECT * FROM announcements WHERE study = 's' AND filename = 'f'",
        "deliveries_unfinished": "SELECT * FROM deliveries d WHERE d.reference <> ''"
        " AND EXISTS (SELECT 1 FROM uploads u WHERE u.id = d.upload AND u.state = 'terminated')",
    }

    def plans(connection: sqlite3.Connection) -> dict[str, str]:
        return {
            index: str([tuple(row) for row in connection.execute(f"EXPLAIN QUERY PLAN {question}")])
            for index, question in questions.items()
        }

    for index, plan in (await journal._readers.run(plans)).items():
        assert index in plan


async def test_ten_thousand_uploads_are_listed_in_a_moment(journal: SqliteJournal) -> None:
    await _fill(journal, 10_000)
    started = time.perf_counter()
    assert len(await left_to_do(journal)) == 10_000
    names = [f"n{number:05}" for number in range(10_000)]
    assert len(await journal.known_among(DIRECTORY, names)) == 10_000
    assert (await journal.find("n00042")).tus_id == "n00042"
    assert (await journal.counts())[UploadState.RECEIVED] == 10_000
    assert time.perf_counter() - started < 2.0


async def _fill(journal: SqliteJournal, count: int) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(journal.sight(sighting(f"n{number:05d}"), 100.0 + number))

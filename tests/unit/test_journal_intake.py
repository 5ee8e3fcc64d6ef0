"""How the journal takes announcements and sightings."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.errors import InfoError
from daemon.journal.model import UploadState
from daemon.journal.sqlite import SqliteJournal
from tests.peers.journals import (
    DIRECTORY,
    ERROR,
    OTHER_STUDY,
    STUDY,
    Ears,
    acknowledge_all,
    announcement,
    identity,
    processing,
    received,
    sighting,
    stored,
)


@pytest.fixture
def ears(journal: SqliteJournal) -> Ears:
    listener = Ears()
    journal.listen(listener)
    return listener


async def test_a_complete_upload_is_received_once_however_often_it_is_seen(
    journal: SqliteJournal, ears: Ears
) -> None:
    first = await journal.sight(sighting(), 100.0)
    again = await journal.sight(sighting(), 200.0)
    assert first == again
    assert first.state is UploadState.RECEIVED
    assert first.received_at == 100.0
    assert [work.upload for work in ears.work] == [first.id]
    assert (await journal.details(first.id)).reports[0].state == "received"


async def test_an_incomplete_upload_is_kept_up_to_date_until_it_is_complete(
    journal: SqliteJournal, ears: Ears
) -> None:
    upload = await journal.sight(sighting(received=10, size=None), 100.0)
    assert (upload.state, upload.received, upload.size) == (UploadState.RECEIVING, 10, None)
    upload = await journal.sight(sighting(received=500), 101.0)
    assert (upload.received, upload.size) == (500, 1000)
    assert {work.state for work in ears.work} == {UploadState.RECEIVING}
    upload = await journal.sight(sighting(), 102.0)
    assert upload.state is UploadState.RECEIVED
    assert upload.created_at == 100.0


async def test_a_late_sighting_of_the_incomplete_file_takes_nothing_back(
    journal: SqliteJournal,
) -> None:
    await journal.sight(sighting(), 100.0)
    late = await journal.sight(sighting(received=10), 101.0)
    assert (late.state, late.received) == (UploadState.RECEIVED, 1000)


async def test_no_more_than_one_receiving_report_in_five_seconds(journal: SqliteJournal) -> None:
    upload = await journal.sight(sighting(received=1), 100.0)
    await journal.announced(upload.id, "api-1")
    told = [report.body["received"] for report in await acknowledge_all(journal)]
    for second in range(1, 12):
        await journal.sight(sighting(received=1 + second), 100.0 + second)
        told += [report.body["received"] for report in await acknowledge_all(journal)]
    assert told == [1, 6, 11]


async def test_nothing_is_reported_of_an_upload_that_did_not_grow(journal: SqliteJournal) -> None:
    upload = await journal.sight(sighting(received=1), 100.0)
    await journal.announced(upload.id, "api-1")
    await acknowledge_all(journal)
    await journal.sight(sighting(received=1), 200.0)
    assert await acknowledge_all(journal) == []


async def test_an_announcement_gives_its_ids_to_the_upload_that_carries_its_dropoff_id(
    journal: SqliteJournal,
) -> None:
    await journal.add_announcement(announcement("other"))
    await journal.add_announcement(announcement("mine"))
    upload = await journal.sight(sighting(dropoff_id="mine"), 100.0)
    assert (upload.id, upload.api_id, upload.announced) == ("mine", "api-mine", True)


async def test_a_dropoff_id_of_another_study_s_announcement_is_no_match(
    journal: SqliteJournal,
) -> None:
    await journal.add_announcement(announcement("theirs", study=OTHER_STUDY))
    upload = await journal.sight(sighting(dropoff_id="theirs"), 100.0)
    assert upload.id != "theirs"
    assert not upload.announced


async def test_an_announcement_that_knows_the_tus_id_goes_to_that_upload_only(
    journal: SqliteJournal,
) -> None:
    await journal.add_announcement(announcement("known", tus_id="t2"))
    assert not (await journal.sight(sighting("t1"), 100.0)).announced
    assert (await journal.sight(sighting("t2"), 100.0)).id == "known"


async def test_equal_announcements_are_taken_oldest_first(journal: SqliteJournal) -> None:
    await journal.add_announcement(announcement("younger", created_at=60.0))
    await journal.add_announcement(announcement("older", created_at=40.0))
    ids = [(await journal.sight(sighting(f"t{n}"), 100.0)).id for n in range(3)]
    assert ids[:2] == ["older", "younger"]


@pytest.mark.parametrize("change", ["study", "filename", "size", "metadata"])
async def test_an_announcement_that_differs_is_no_match(
    journal: SqliteJournal, change: str
) -> None:
    values: dict[str, Any] = {
        "study": OTHER_STUDY,
        "filename": "other",
        "size": 7,
        "metadata": {"more": "1"},
    }
    await journal.add_announcement(announcement(**{change: values[change]}))
    assert not (await journal.sight(sighting(), 100.0)).announced


async def test_a_deferred_size_matches_on_either_side_and_an_exact_one_goes_first(
    journal: SqliteJournal,
) -> None:
    await journal.add_announcement(announcement("deferred", size=None, created_at=1.0))
    await journal.add_announcement(announcement("exact", size=1000, created_at=2.0))
    assert (await journal.sight(sighting("t1"), 100.0)).id == "exact"
    assert (await journal.sight(sighting("t2"), 100.0)).id == "deferred"
    await journal.add_announcement(announcement("later", size=1000))
    assert (await journal.sight(sighting("t3", size=None, received=5), 100.0)).id == "later"


async def test_the_dropoff_id_itself_does_not_keep_metadata_from_matching(
    journal: SqliteJournal,
) -> None:
    await journal.add_announcement(announcement("plain"))
    metadata = {"filename": "reads.fastq", "study": STUDY, "dropoff_id": "of another daemon"}
    upload = await journal.sight(sighting(metadata=metadata), 100.0)
    assert upload.id == "plain"


async def test_an_announcement_told_twice_is_one(journal: SqliteJournal) -> None:
    await journal.add_announcement(announcement("a1"))
    await journal.add_announcement(announcement("a1"))
    await journal.sight(sighting("t1"), 100.0)
    await journal.add_announcement(announcement("a1"))
    assert not (await journal.sight(sighting("t2"), 100.0)).announced


async def test_an_announcement_that_no_upload_follows_is_reported_terminated(
    journal: SqliteJournal, ears: Ears
) -> None:
    for name in ("a1", "a2"):
        await journal.add_announcement(announcement(name, created_at=10.0))
    await journal.add_announcement(announcement("a3", created_at=90.0))
    assert await journal.expire_announcements(50.0, 100.0) == 2
    assert await journal.expire_announcements(50.0, 100.0) == 0
    assert ears.reports == 2
    due = await journal.due_reports(100.0, 10)
    assert [(report.api_id, report.state) for report in due] == [
        ("api-a1", "terminated"),
        ("api-a2", "terminated"),
    ]
    assert due[0].body["tus_id"] is None
    shown = await journal.uploads(UploadState.TERMINATED, None, 10)
    assert [upload.id for upload in shown] == ["a2", "a1"]
    assert await journal.known_among(DIRECTORY, [upload.tus_id for upload in shown]) == {}


async def test_a_tus_id_used_again_after_the_first_is_over_is_a_new_generation(
    journal: SqliteJournal,
) -> None:
    first = await journal.sight(sighting(), 100.0)
    await journal.terminate(DIRECTORY, "t1", 101.0)
    same = await journal.sight(sighting(), 102.0)
    assert (same.id, same.state) == (first.id, UploadState.TERMINATED)
    second = await journal.sight(sighting(identity=identity(inode=8)), 103.0)
    assert second.id != first.id
    assert (second.generation, second.state) == (2, UploadState.RECEIVED)
    known = await journal.known_among(DIRECTORY, ["t1"])
    assert known == {"t1": (UploadState.RECEIVED, identity(inode=8))}


async def test_the_finished_file_found_again_stays_done(journal: SqliteJournal) -> None:
    upload = await stored(journal)
    await acknowledge_all(journal)
    await journal.done(upload.id, 110.0)
    again = await journal.sight(sighting(), 120.0)
    assert (again.id, again.state, again.generation) == (upload.id, UploadState.DONE, 1)


@pytest.mark.parametrize("state", [UploadState.RECEIVED, UploadState.PROCESSING])
async def test_another_file_under_an_upload_at_work_is_left_to_processing(
    journal: SqliteJournal, state: UploadState
) -> None:
    make = received if state is UploadState.RECEIVED else processing
    upload = await make(journal)
    seen = await journal.sight(sighting(identity=identity(inode=8)), 120.0)
    assert seen == upload


async def test_a_replaced_file_under_a_failed_upload_changes_nothing(
    journal: SqliteJournal,
) -> None:
    upload = await processing(journal)
    await journal.fail(upload.id, ERROR, 110.0)
    failed = await journal.upload(upload.id)
    assert await journal.sight(sighting(identity=identity(inode=8)), 120.0) == failed
    touched = identity(mtime_ns=5)
    assert await journal.sight(sighting(identity=touched), 120.0) == failed


async def test_an_upload_that_failed_early_grows_on_for_its_retry(journal: SqliteJournal) -> None:
    upload = await journal.sight(sighting(received=10), 100.0)
    await journal.fail(upload.id, ERROR, 101.0)
    grown = await journal.sight(sighting(received=600), 102.0)
    assert (grown.state, grown.received) == (UploadState.FAILED, 600)
    await journal.retry(upload.id, 103.0)
    assert (await journal.upload(upload.id)).state is UploadState.RECEIVING
    assert (await journal.sight(sighting(), 104.0)).state is UploadState.RECEIVED


async def test_a_receiving_upload_whose_id_went_to_another_study_ends_there(
    journal: SqliteJournal, ears: Ears
) -> None:
    first = await journal.sight(sighting(received=10), 100.0)
    second = await journal.sight(sighting(received=10, study=OTHER_STUDY), 101.0)
    assert (second.generation, second.study) == (2, OTHER_STUDY)
    assert (await journal.upload(first.id)).state is UploadState.TERMINATED
    assert ears.withdrawn == [first.id]


async def test_termination_ends_what_is_not_stored_yet(journal: SqliteJournal, ears: Ears) -> None:
    upload = await processing(journal)
    terminated = await journal.terminate(DIRECTORY, "t1", 120.0)
    assert terminated is not None
    assert (terminated.id, terminated.state) == (upload.id, UploadState.TERMINATED)
    assert ears.withdrawn == [upload.id]
    assert (await journal.details(upload.id)).reports[-1].state == "terminated"


async def test_termination_of_what_is_stored_over_or_unknown_is_none(
    journal: SqliteJournal,
) -> None:
    await stored(journal)
    assert await journal.terminate(DIRECTORY, "t1", 120.0) is None
    assert await journal.terminate(DIRECTORY, "never seen", 120.0) is None
    assert await journal.terminate(DIRECTORY, "no \ud800 Unicode", 120.0) is None


async def test_one_taken_back_before_it_was_seen_is_terminated_by_its_announcement(
    journal: SqliteJournal,
) -> None:
    await journal.add_announcement(announcement("a1"))
    await journal.add_announcement(announcement("a2"))
    gone = sighting(received=0, dropoff_id="a2", identity=identity(0, 0, 0))
    upload = await journal.terminate_unseen(gone, 120.0)
    assert upload is not None
    assert (upload.id, upload.tus_id, upload.state) == ("a2", "t1", UploadState.TERMINATED)
    (report,) = await acknowledge_all(journal)
    assert (report.state, report.body["tus_id"]) == ("terminated", "t1")
    # Told again it takes nobody else's announcement, however equal.
    assert await journal.terminate_unseen(gone, 121.0) is None
    assert (await journal.sight(sighting("t2"), 122.0)).id == "a1"


async def test_one_taken_back_that_nobody_announced_makes_no_upload(
    journal: SqliteJournal,
) -> None:
    assert await journal.terminate_unseen(sighting(received=0), 120.0) is None
    assert await journal.terminate_unseen(sighting(study=None, received=0), 120.0) is None
    assert await journal.uploads(None, None, 10) == []


async def test_directories_are_told_apart(journal: SqliteJournal) -> None:
    one = await journal.sight(sighting(), 100.0)
    other = await journal.sight(sighting(directory="/srv/other"), 100.0)
    assert one.id != other.id
    assert list(await journal.known_among("/srv/other", ["t1"])) == ["t1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 2**63},
        {"size": -1, "complete": False},
        {"filename": "\ud800"},
        {"metadata": {"k": "\udcff"}},
        {"path": "\udcff"},
    ],
)
async def test_what_no_column_can_hold_is_an_invalid_info(
    journal: SqliteJournal, changes: dict[str, Any]
) -> None:
    with pytest.raises(InfoError):
        await journal.sight(sighting(**changes), 100.0)
    assert (await journal.sight(sighting(), 100.0)).state is UploadState.RECEIVED


async def test_identities_beyond_a_signed_column_come_back_whole(journal: SqliteJournal) -> None:
    huge = identity(inode=2**64 - 1, mtime_ns=2**63 + 5)
    await journal.sight(sighting(identity=huge), 100.0)
    assert (await journal.known_among(DIRECTORY, ["t1"]))["t1"][1] == huge

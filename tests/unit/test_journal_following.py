"""What the journal keeps of uploads that go out while they come in."""

from __future__ import annotations

import msgspec
import pytest

from daemon.errors import ConflictError
from daemon.journal.model import Trail, UploadState
from daemon.journal.sqlite import SqliteJournal
from pipeline.messages import StoredPart
from tests.peers.journals import (
    DIRECTORY,
    envelope,
    identity,
    new_delivery,
    sighting,
)

TRAIL = Trail(device=1, inode=7, boot="boot-1")


async def _followed(journal: SqliteJournal) -> str:
    """An upload of which one part went out while it was being received."""
    upload = (await journal.sight(sighting(received=500), 90.0)).id
    await journal.follow(upload, envelope(), [new_delivery()], TRAIL)
    await journal.attempt(upload, 0, 91.0)
    await journal.begun(upload, 0, "ref")
    part = StoredPart(number=1, size=10, etag="e", crc64nvme=1, plaintext="b3")
    await journal.part_stored(upload, 0, part)
    return upload


async def test_what_went_out_while_an_upload_was_received_counts_when_it_is_complete(
    journal: SqliteJournal,
) -> None:
    upload = await _followed(journal)
    complete = await journal.sight(sighting(), 100.0)
    assert (complete.state, complete.trail) == (UploadState.RECEIVED, TRAIL)
    await journal.go_on(upload, identity(), 101.0)
    assert (await journal.upload(upload)).state is UploadState.PROCESSING
    assert (await journal.envelope(upload)).key == envelope().key
    assert (await journal.parts(upload, 0))[1].plaintext == "b3"


async def test_tries_are_counted_from_when_a_followed_upload_is_complete(
    journal: SqliteJournal,
) -> None:
    upload = await _followed(journal)
    await journal.sight(sighting(), 100.0)
    await journal.go_on(upload, identity(), 101.0)
    again = await journal.attempt(upload, 0, 102.0)
    assert (again.attempts, again.started_at) == (1, 102.0)


async def test_how_much_was_sealed_early_is_remembered_and_never_becomes_less(
    journal: SqliteJournal,
) -> None:
    upload = await _followed(journal)
    for end in (10, 30, 20):
        await journal.sealing(upload, end)
    found = (await journal.upload(upload)).trail
    assert found is not None
    assert found.sealed == 30
    await journal.doubt(upload)
    doubted = (await journal.upload(upload)).trail
    assert doubted is not None
    assert (doubted.boot, doubted.sealed) == ("", 30)


async def test_only_of_a_followed_upload_it_is_remembered(journal: SqliteJournal) -> None:
    upload = (await journal.sight(sighting(received=500), 90.0)).id
    with pytest.raises(ConflictError):
        await journal.sealing(upload, 10)


async def test_a_file_that_shrank_while_it_was_followed_is_doubted(journal: SqliteJournal) -> None:
    await _followed(journal)
    shrunk = await journal.sight(sighting(received=100), 95.0)
    assert shrunk.trail == msgspec.structs.replace(TRAIL, boot="")


async def test_a_followed_upload_that_starts_over_forgets_all_that_went_out(
    journal: SqliteJournal,
) -> None:
    upload = await _followed(journal)
    await journal.start_over(upload, 96.0)
    again = await journal.upload(upload)
    assert (again.state, again.trail, again.restarts) == (UploadState.RECEIVING, None, 1)
    assert await journal.deliveries(upload) == []
    with pytest.raises(ConflictError):
        await journal.envelope(upload)


async def test_a_followed_upload_that_is_terminated_leaves_its_object_to_be_aborted(
    journal: SqliteJournal,
) -> None:
    await _followed(journal)
    await journal.terminate(DIRECTORY, "t1", 97.0)
    assert [delivery.reference for delivery in await journal.abandoned()] == ["ref"]

"""How the journal keeps the way from received to done."""

from __future__ import annotations

import pytest

from daemon.errors import ConflictError, NotFoundError
from daemon.journal.deliveries import ATTEMPTS_KEPT
from daemon.journal.model import SOME_REFERENCE, DeliveryState, Trail, UploadState
from daemon.journal.sqlite import SqliteJournal
from pipeline.messages import DestinationSpec
from tests.peers.journals import (
    DIRECTORY,
    ERROR,
    RECEIPT,
    SESSION_KEY,
    Ears,
    acknowledge_all,
    attempt,
    envelope,
    identity,
    inline,
    left_to_do,
    new_delivery,
    part,
    processing,
    received,
    sighting,
    stored,
    stored_object,
)

TRAIL = Trail(device=1, inode=7, boot="boot-1")


async def test_a_plan_fixes_envelope_deliveries_and_identity(journal: SqliteJournal) -> None:
    upload = await received(journal)
    planned = [new_delivery(), new_delivery(DestinationSpec(name="local", type="directory"))]
    now_there = identity(inode=8)
    await journal.plan(upload.id, envelope(), planned, now_there, 101.0)
    upload = await journal.upload(upload.id)
    assert (upload.state, upload.identity) == (UploadState.PROCESSING, now_there)
    assert await journal.envelope(upload.id) == envelope()
    found = await journal.deliveries(upload.id)
    assert [delivery.destination for delivery in found] == [plan.destination for plan in planned]
    assert [delivery.position for delivery in found] == [0, 1]
    assert {delivery.state for delivery in found} == {DeliveryState.PENDING}


async def test_an_envelope_without_encryption_has_no_key(journal: SqliteJournal) -> None:
    upload = await received(journal)
    await journal.plan(upload.id, envelope(b""), [new_delivery()], identity(), 101.0)
    assert await journal.envelope(upload.id) == envelope(b"")


async def test_an_upload_is_planned_once(journal: SqliteJournal) -> None:
    upload = await processing(journal)
    with pytest.raises(ConflictError):
        await journal.plan(upload.id, envelope(b"x" * 32), [], identity(), 102.0)
    assert (await journal.envelope(upload.id)).key == SESSION_KEY


async def test_what_is_not_there_is_not_found(journal: SqliteJournal) -> None:
    with pytest.raises(NotFoundError):
        await journal.upload("nobody")
    with pytest.raises(NotFoundError):
        await journal.announced("nobody", None)
    with pytest.raises(NotFoundError):
        await journal.details("nobody")
    with pytest.raises(NotFoundError):
        await journal.forget_parts((await processing(journal, "t2")).id, 5, None)


async def test_postponing_counts_tries_and_keeps_the_error(journal: SqliteJournal) -> None:
    upload = await received(journal)
    await journal.postpone(upload.id, ERROR, 500.0)
    await journal.postpone(upload.id, ERROR, 600.0)
    upload = await journal.upload(upload.id)
    assert (upload.attempts, upload.next_at, upload.error) == (2, 600.0, ERROR)
    await journal.plan(upload.id, envelope(), [new_delivery()], identity(), 601.0)
    upload = await journal.upload(upload.id)
    assert (upload.attempts, upload.next_at, upload.error) == (0, 0.0, None)


async def test_an_upload_that_is_over_is_not_postponed(journal: SqliteJournal) -> None:
    upload = await received(journal)
    await journal.terminate(DIRECTORY, "t1", 110.0)
    with pytest.raises(ConflictError):
        await journal.postpone(upload.id, ERROR, 500.0)


async def test_parts_are_kept_and_replaced_by_number(journal: SqliteJournal) -> None:
    upload = await processing(journal)
    await journal.begun(upload.id, 0, "ref")
    await journal.part_stored(upload.id, 0, part(1))
    await journal.part_stored(upload.id, 0, part(2, crc=0))
    await journal.part_stored(upload.id, 0, part(2, size=300))
    assert await journal.parts(upload.id, 0) == {1: part(1), 2: part(2, size=300)}
    assert (await journal.details(upload.id)).parts == {0: 700}


async def test_another_reference_forgets_all_parts_the_same_one_none(
    journal: SqliteJournal,
) -> None:
    upload = await processing(journal)
    await journal.begun(upload.id, 0, "ref")
    await journal.part_stored(upload.id, 0, part(1))
    await journal.begun(upload.id, 0, "ref")
    assert await journal.parts(upload.id, 0) == {1: part(1)}
    await journal.begun(upload.id, 0, "other")
    assert await journal.parts(upload.id, 0) == {}


async def test_parts_are_forgotten_by_number_or_with_their_reference(
    journal: SqliteJournal,
) -> None:
    upload = await processing(journal)
    await journal.begun(upload.id, 0, "ref")
    for number in (1, 2, 3):
        await journal.part_stored(upload.id, 0, part(number))
    await journal.forget_parts(upload.id, 0, [1, 3])
    assert list(await journal.parts(upload.id, 0)) == [2]
    assert (await journal.deliveries(upload.id))[0].reference == "ref"
    await journal.forget_parts(upload.id, 0, None)
    assert await journal.parts(upload.id, 0) == {}
    assert (await journal.deliveries(upload.id))[0].reference == ""


async def test_a_part_without_an_unfinished_object_is_refused(journal: SqliteJournal) -> None:
    upload = await processing(journal)
    with pytest.raises(ConflictError):
        await journal.part_stored(upload.id, 0, part(1))


async def test_a_part_of_before_the_upload_started_over_is_refused(
    journal: SqliteJournal,
) -> None:
    upload = await processing(journal)
    await journal.begun(upload.id, 0, "ref")
    await journal.start_over(upload.id, 110.0)
    await journal.plan(upload.id, envelope(b"y" * 32), [new_delivery()], identity(), 111.0)
    with pytest.raises(ConflictError):
        await journal.part_stored(upload.id, 0, part(1))


async def test_a_try_is_counted_before_anything_is_sent(journal: SqliteJournal) -> None:
    upload = await processing(journal)
    first = await journal.attempt(upload.id, 0, 105.0)
    assert (first.attempts, first.started_at) == (1, 105.0)
    assert first.destination == inline()
    second = await journal.attempt(upload.id, 0, 115.0)
    assert (second.attempts, second.started_at) == (2, 105.0)


async def test_a_failed_try_waits_and_a_hopeless_one_is_final(journal: SqliteJournal) -> None:
    upload = await processing(journal, deliveries=2)
    for position, state in enumerate((DeliveryState.PENDING, DeliveryState.FAILED)):
        await journal.attempt(upload.id, position, 105.0)
        failed = attempt(position, ERROR)
        await journal.delivery_failed(upload.id, position, failed, state, 900.0)
    one, other = await journal.deliveries(upload.id)
    assert (one.state, one.next_at, one.error) == (DeliveryState.PENDING, 900.0, ERROR)
    assert other.state is DeliveryState.FAILED
    with pytest.raises(ConflictError):
        await journal.attempt(upload.id, 1, 106.0)
    assert [tried.position for tried in (await journal.details(upload.id)).attempts] == [0, 1]


async def test_tries_without_end_do_not_fill_the_disk(journal: SqliteJournal) -> None:
    upload = await processing(journal)
    for _ in range(ATTEMPTS_KEPT + 5):
        await journal.delivery_failed(upload.id, 0, attempt(0, ERROR), DeliveryState.PENDING, 900.0)
    assert len((await journal.details(upload.id)).attempts) == ATTEMPTS_KEPT


async def test_a_delivered_object_ends_its_delivery(journal: SqliteJournal) -> None:
    upload = await processing(journal)
    await journal.begun(upload.id, 0, "ref")
    await journal.part_stored(upload.id, 0, part(1))
    await journal.delivered(upload.id, 0, stored_object(), attempt(), 120.0)
    await journal.delivered(upload.id, 0, stored_object(), attempt(), 130.0)
    (delivery,) = await journal.deliveries(upload.id)
    assert (delivery.state, delivery.stored_at) == (DeliveryState.STORED, 120.0)
    assert delivery.stored == stored_object()
    details = await journal.details(upload.id)
    assert len(details.attempts) == 1
    assert details.parts == {0: 1100}
    assert await journal.parts(upload.id, 0) == {}


async def test_what_another_delivery_finished_after_the_failure_is_kept(
    journal: SqliteJournal,
) -> None:
    upload = await processing(journal, deliveries=2)
    await journal.fail(upload.id, ERROR, 110.0)
    await journal.delivered(upload.id, 1, stored_object(), attempt(1), 120.0)
    assert (await journal.deliveries(upload.id))[1].state is DeliveryState.STORED


async def test_starting_over_throws_away_all_that_was_sealed(journal: SqliteJournal) -> None:
    upload = await processing(journal)
    await journal.begun(upload.id, 0, "ref")
    await journal.part_stored(upload.id, 0, part(1))
    await journal.digested(upload.id, "sha256:00")
    await journal.start_over(upload.id, 110.0)
    upload = await journal.upload(upload.id)
    assert (upload.state, upload.restarts, upload.digest) == (UploadState.RECEIVED, 1, None)
    assert await journal.deliveries(upload.id) == []
    with pytest.raises(ConflictError):
        await journal.envelope(upload.id)


async def test_an_upload_is_stored_only_when_every_delivery_is(journal: SqliteJournal) -> None:
    upload = await processing(journal, deliveries=2)
    await journal.delivered(upload.id, 0, stored_object(), attempt(), 120.0)
    with pytest.raises(ConflictError):
        await journal.stored(upload.id, RECEIPT, 121.0)
    await journal.delivered(upload.id, 1, stored_object(), attempt(1), 122.0)
    await journal.stored(upload.id, RECEIPT, 123.0)
    upload = await journal.upload(upload.id)
    assert (upload.state, upload.stored_at) == (UploadState.STORED, 123.0)
    assert await journal.receipt(upload.id) == RECEIPT


async def test_done_waits_for_the_acknowledged_stored_report(journal: SqliteJournal) -> None:
    ears = Ears()
    journal.listen(ears)
    upload = await stored(journal)
    assert not (await journal.standing(upload.id)).reported
    with pytest.raises(ConflictError):
        await journal.done(upload.id, 110.0)
    ears.work.clear()
    await acknowledge_all(journal)
    assert [(work.upload, work.state) for work in ears.work] == [(upload.id, UploadState.STORED)]
    assert (await journal.standing(upload.id)).reported
    await journal.done(upload.id, 111.0)
    upload = await journal.upload(upload.id)
    assert (upload.state, upload.done_at) == (UploadState.DONE, 111.0)


async def test_a_study_of_the_config_has_nobody_to_report_to(journal: SqliteJournal) -> None:
    upload = await stored(journal, api_id=None)
    assert (await journal.standing(upload.id)).reported
    assert (await journal.details(upload.id)).reports == ()
    await journal.done(upload.id, 111.0)


async def test_work_is_what_is_left_to_do_oldest_first(journal: SqliteJournal) -> None:
    await journal.sight(sighting("incomplete", received=5), 90.0)
    one = await received(journal, "t1")
    two = await processing(journal, "t2")
    three = await stored(journal, "t3")
    failed = await received(journal, "t4")
    await journal.fail(failed.id, ERROR, 110.0)
    await journal.postpone(one.id, ERROR, 700.0)
    await journal.delivery_failed(two.id, 0, attempt(0, ERROR), DeliveryState.PENDING, 800.0)
    work = await left_to_do(journal)
    assert [(item.upload, item.state, item.next_at) for item in work] == [
        (one.id, UploadState.RECEIVED, 700.0),
        (two.id, UploadState.PROCESSING, 800.0),
        (three.id, UploadState.STORED, 0.0),
    ]


async def test_an_unfinished_object_of_a_withdrawn_upload_is_listed_until_aborted(
    journal: SqliteJournal,
) -> None:
    upload = await processing(journal, deliveries=2)
    await journal.begun(upload.id, 0, "r0")
    await journal.begun(upload.id, 1, "r1")
    assert await journal.abandoned() == []
    await journal.terminate(DIRECTORY, "t1", 120.0)
    left = await journal.abandoned()
    assert [(d.position, d.reference, d.destination.secret_key) for d in left] == [
        (0, "r0", "SECRET-clear-text"),
        (1, "r1", "SECRET-clear-text"),
    ]
    await journal.aborted(upload.id, 0)
    assert [d.position for d in await journal.abandoned()] == [1]
    assert (await journal.envelope(upload.id)).key == SESSION_KEY
    await journal.aborted(upload.id, 1)
    assert await journal.abandoned() == []
    with pytest.raises(ConflictError):
        await journal.envelope(upload.id)


async def test_what_a_try_may_have_begun_and_not_told_is_listed_until_aborted(
    journal: SqliteJournal,
) -> None:
    upload = await processing(journal, deliveries=2)
    await journal.attempt(upload.id, 0, 119.0)
    await journal.terminate(DIRECTORY, "t1", 120.0)
    left = await journal.abandoned()
    assert [(d.position, d.reference) for d in left] == [(0, SOME_REFERENCE)], "1 had no try"
    assert left[0].destination.secret_key == "SECRET-clear-text"
    await journal.aborted(upload.id, 0)
    assert await journal.abandoned() == []
    with pytest.raises(ConflictError):
        await journal.envelope(upload.id)


async def test_an_object_begun_while_the_upload_was_withdrawn_is_not_orphaned(
    journal: SqliteJournal,
) -> None:
    upload = await processing(journal)
    await journal.terminate(DIRECTORY, "t1", 120.0)
    await journal.begun(upload.id, 0, "late")
    assert [delivery.reference for delivery in await journal.abandoned()] == ["late"]


@pytest.mark.parametrize("state", list(UploadState))
async def test_only_the_listed_transitions_happen(
    journal: SqliteJournal, state: UploadState
) -> None:
    upload = await _in_state(journal, state)
    allowed = {
        UploadState.RECEIVING: {"fail", "follow", "start_over"},
        UploadState.RECEIVED: {"fail", "plan", "start_over"},
        UploadState.PROCESSING: {"fail", "start_over", "stored"},
        UploadState.STORED: {"done"},
        UploadState.FAILED: {"retry", "discard"},
    }.get(state, set())
    every = ("fail", "follow", "go_on", "plan", "start_over", "stored", "done", "retry", "discard")
    for name in every:
        if name in allowed:
            continue
        with pytest.raises(ConflictError):
            await _do(journal, name, upload)
    assert (await journal.upload(upload)).state is state


async def _do(journal: SqliteJournal, name: str, upload: str) -> None:
    match name:
        case "fail":
            await journal.fail(upload, ERROR, 200.0)
        case "plan":
            await journal.plan(upload, envelope(), [], identity(), 200.0)
        case "follow":
            await journal.follow(upload, envelope(), [], TRAIL)
        case "go_on":
            await journal.go_on(upload, identity(), 200.0)
        case "start_over":
            await journal.start_over(upload, 200.0)
        case "stored":
            await journal.stored(upload, RECEIPT, 200.0)
        case "done":
            await journal.done(upload, 200.0)
        case "retry":
            await journal.retry(upload, 200.0)
        case "discard":
            await journal.discard(upload, 200.0)


async def _in_state(journal: SqliteJournal, state: UploadState) -> str:
    match state:
        case UploadState.RECEIVING:
            upload = await journal.sight(sighting(received=5), 90.0)
        case UploadState.RECEIVED:
            upload = await received(journal)
        case UploadState.PROCESSING:
            upload = await processing(journal)
        case UploadState.STORED | UploadState.DONE:
            upload = await stored(journal)
        case _:
            upload = await received(journal)
            await journal.fail(upload.id, ERROR, 110.0)
    if state is UploadState.DONE:
        await acknowledge_all(journal)
        await journal.done(upload.id, 120.0)
    if state is UploadState.TERMINATED:
        await journal.terminate(DIRECTORY, "t1", 120.0)
    if state is UploadState.DISCARDED:
        await journal.discard(upload.id, 120.0)
    return upload.id

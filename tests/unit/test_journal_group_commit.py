"""The writer: many calls in one transaction, and none at the expense of another."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from daemon.errors import ConflictError, StateFullError
from daemon.journal.model import UploadState, Work
from daemon.journal.sqlite import SqliteJournal
from daemon.journal.transaction import Transaction
from tests.peers.journals import ERROR, Ears, announcement, received, sighting


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    async with await SqliteJournal.open(tmp_path) as opened:
        yield opened


class Held:
    """Keeps the writer busy until let go, so that what follows is one transaction."""

    def __init__(self, journal: SqliteJournal) -> None:
        self._gate = threading.Event()
        self._call = asyncio.ensure_future(journal._writer.run(self._wait))

    def _wait(self, _: Transaction) -> None:
        assert self._gate.wait(10)

    async def let_go(self) -> None:
        self._gate.set()
        await self._call


def failing(error: Exception) -> Callable[[Transaction], None]:
    def operation(tx: Transaction) -> None:
        tx.connection.execute("UPDATE uploads SET server = 'changed'")
        tx.tell_withdrawn("nobody")
        raise error

    return operation


def disk_full() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


async def test_calls_that_wait_together_are_committed_together(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    held = Held(journal)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(journal.sight(sighting(f"t{n}"), 100.0)) for n in range(50)]
        await asyncio.sleep(0)
        before = (tmp_path / "journal.sqlite-wal").stat().st_size
        await held.let_go()
    grown = (tmp_path / "journal.sqlite-wal").stat().st_size - before
    assert len({call.result().id for call in calls}) == 50
    assert grown < 50 * 4096, "fifty commits of their own would have written far more pages"


async def test_one_that_raises_takes_back_only_its_own_changes(journal: SqliteJournal) -> None:
    ears = Ears()
    journal.listen(ears)
    held = Held(journal)
    before = asyncio.ensure_future(journal.sight(sighting("t1"), 100.0))
    broken = asyncio.ensure_future(journal._writer.run(failing(ValueError("mine alone"))))
    after = asyncio.ensure_future(journal.sight(sighting("t2"), 100.0))
    await asyncio.sleep(0)
    await held.let_go()
    with pytest.raises(ValueError, match="mine alone"):
        await broken
    assert {(await before).server, (await after).server} == {"tusd"}
    assert [upload.server for upload in await journal.uploads(None, None, 10)] == ["tusd"] * 2
    assert len(ears.work) == 2
    assert ears.withdrawn == []


async def test_a_conflict_of_one_is_not_the_others(journal: SqliteJournal) -> None:
    upload = await received(journal)
    held = Held(journal)
    first = asyncio.ensure_future(journal.fail(upload.id, ERROR, 110.0))
    second = asyncio.ensure_future(journal.fail(upload.id, ERROR, 110.0))
    await asyncio.sleep(0)
    await held.let_go()
    await first
    with pytest.raises(ConflictError):
        await second


async def test_a_full_disk_takes_back_everything_and_the_next_transaction_works(
    journal: SqliteJournal,
) -> None:
    ears = Ears()
    journal.listen(ears)
    held = Held(journal)
    calls: list[asyncio.Future[object]] = [
        asyncio.ensure_future(journal.sight(sighting("t1"), 100.0)),
        asyncio.ensure_future(journal._writer.run(failing(disk_full()))),
        asyncio.ensure_future(journal.sight(sighting("t2"), 100.0)),
    ]
    await asyncio.sleep(0.05)
    results = asyncio.gather(held.let_go(), *calls, return_exceptions=True)
    assert [type(result) for result in (await results)[1:]] == [StateFullError] * 3
    assert len({id(result) for result in await results}) == 4
    assert await journal.uploads(None, None, 10) == []
    assert ears.work == []
    assert (await journal.sight(sighting("t1"), 100.0)).state is UploadState.RECEIVED


@pytest.mark.parametrize("trouble", [ValueError("of one alone"), disk_full()])
async def test_a_report_that_was_handed_out_is_not_replaced_where_its_acknowledgement_is_taken_back(
    journal: SqliteJournal, trouble: Exception
) -> None:
    await journal.add_announcement(announcement())
    upload = await journal.sight(sighting("t1", 500), 100.0)
    (handed,) = await journal.due_reports(100.0, 10)
    held = Held(journal)
    calls: list[asyncio.Future[object]] = [
        asyncio.ensure_future(journal.sight(sighting("t1", 1000), 110.0)),
        asyncio.ensure_future(journal.acknowledged(handed.id)),
        asyncio.ensure_future(journal._writer.run(failing(trouble))),
    ]
    await asyncio.sleep(0)
    await asyncio.gather(held.let_go(), *calls, return_exceptions=True)
    await journal.sight(sighting("t1", 1000), 120.0)
    reports = (await journal.details(upload.id)).reports
    assert [(report.id == handed.id, report.state) for report in reports] == [
        (True, "receiving"),
        (False, "received"),
    ]


async def test_a_caller_that_goes_away_gets_its_write_done_all_the_same(
    journal: SqliteJournal,
) -> None:
    ears = Ears()
    journal.listen(ears)
    held = Held(journal)
    call = asyncio.ensure_future(journal.sight(sighting("t1"), 100.0))
    other = asyncio.ensure_future(journal.sight(sighting("t2"), 100.0))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await held.let_go()
    await other
    assert (await journal.find("t1")).state is UploadState.RECEIVED
    assert len(ears.work) == 2


async def test_reads_go_on_while_the_writer_is_busy(journal: SqliteJournal) -> None:
    upload = await received(journal)
    held = Held(journal)
    assert (await journal.upload(upload.id)).id == upload.id
    await held.let_go()


async def test_a_long_list_does_not_delay_writes_or_short_questions(
    journal: SqliteJournal,
) -> None:
    gate = threading.Event()
    long = asyncio.ensure_future(journal._readers.list(lambda _: gate.wait(10)))
    await asyncio.sleep(0)
    upload = await received(journal)
    assert (await journal.upload(upload.id)).id == upload.id
    gate.set()
    assert await long


async def test_what_was_written_is_read_at_once(journal: SqliteJournal) -> None:
    async def write_and_read(number: int) -> None:
        upload = await journal.sight(sighting(f"t{number}"), 100.0)
        assert await journal.upload(upload.id) == upload

    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(write_and_read(number))


async def test_closing_writes_what_waits(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path)
    held = Held(journal)
    call = asyncio.ensure_future(journal.sight(sighting("t1"), 100.0))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(journal.aclose())
    await asyncio.sleep(0.05)
    await held.let_go()
    await closing
    upload = await call
    async with await SqliteJournal.open(tmp_path) as journal:
        assert await journal.upload(upload.id) == upload


async def test_a_listener_that_fails_is_not_the_caller_s_trouble(journal: SqliteJournal) -> None:
    class Broken(Ears):
        def on_work(self, work: Work) -> None:
            raise ValueError(work.upload)

    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    ears = Ears()
    journal.listen(Broken())
    journal.listen(ears)
    upload = await journal.sight(sighting(), 100.0)
    assert [work.upload for work in ears.work] == [upload.id]
    assert isinstance(told[0]["exception"], ValueError)

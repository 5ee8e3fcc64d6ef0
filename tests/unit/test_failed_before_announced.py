"""An upload that fails before the API knows of it is announced all the same, and reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.errors import ApiUnreachableError, StudyRefusedError
from daemon.journal.model import Upload, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.plan import Announcing
from pipeline.errors import SourceUnsafeError
from tests.peers.conducting import Bench, FakeBroker, FileOnDisk, eventually


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    journal = await SqliteJournal.open(tmp_path)
    bench = Unsafe(tmp_path, journal, destinations=1)
    bench.broker.api_id = "api-1"
    journal.listen(bench.conductor)
    yield bench
    await journal.aclose()


class Unsafe(Bench):
    """Its sources are none that may be opened."""

    async def open(self, upload: Upload) -> FileOnDisk:
        raise SourceUnsafeError(f"{upload.path} is no plain file")


class SlowBroker(FakeBroker):
    """Its answer to an announcement takes until the test lets it go."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.broker.answer)
        self.api_id = "api-1"
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def announce(self, announcing: Announcing) -> str | None:
        self.asked.set()
        await self.go.wait()
        return await super().announce(announcing)


async def _due(bench: Bench) -> list[tuple[str, str | None]]:
    """State and error's code of each report, in the order in which the API gets them."""
    told = []
    while due := await bench.journal.due_reports(bench.now + 1e6, 10):
        for report in due:
            told.append((report.state, (report.body["error"] or {}).get("code")))
            await bench.journal.acknowledged(report.id)
    return told


async def _announced(bench: Bench, upload: str) -> None:
    async with asyncio.timeout(10):
        while not (await bench.journal.upload(upload)).announced:
            bench.now += 1.0
            await asyncio.sleep(0.005)


async def _postponed(bench: Bench, upload: str) -> Upload:
    async with asyncio.timeout(10):
        while not (found := await bench.journal.upload(upload)).attempts:  # noqa: ASYNC110 -- no event tells of it
            await asyncio.sleep(0.005)
    return found


async def test_a_source_that_is_unsafe_is_announced_by_its_own_id_and_reported(
    bench: Bench,
) -> None:
    async with bench.running():
        upload = await bench.receive(10)
        await _announced(bench, upload)
    assert [announcing.key for announcing in bench.broker.announced] == [upload]
    assert await _due(bench) == [("received", None), ("failed", "source_unsafe")]


async def test_it_has_failed_at_once_and_is_reported_when_the_api_is_back(bench: Bench) -> None:
    bench.broker.error = ApiUnreachableError("away")
    async with bench.running():
        upload = await bench.receive(10)
        failed = await bench.until(upload, UploadState.FAILED)
        assert failed.error is not None
        assert failed.error.code == "source_unsafe"
        assert not failed.announced
        bench.broker.error = None
        await _announced(bench, upload)
    assert (await _due(bench))[-1] == ("failed", "source_unsafe")


async def test_it_is_announced_after_a_restart(bench: Bench) -> None:
    bench.broker.error = ApiUnreachableError("away")
    async with bench.running():
        upload = await bench.receive(10)
        await bench.until(upload, UploadState.FAILED)
    bench.broker.error = None
    bench.restart()
    async with bench.running():
        await _announced(bench, upload)
    assert (await _due(bench))[-1] == ("failed", "source_unsafe")


async def test_the_api_refuses_it_and_nothing_more_is_asked(bench: Bench) -> None:
    bench.broker.error = StudyRefusedError("closed")
    async with bench.running():
        upload = await bench.receive(10)
        await bench.until(upload, UploadState.FAILED)
        await eventually(lambda: not bench.conductor.waiting)
    failed = await bench.journal.upload(upload)
    assert failed.error is not None
    assert failed.error.code == "source_unsafe"
    assert await _due(bench) == []


async def test_one_that_the_api_refused_is_not_announced_again(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        bench = Bench(tmp_path, journal, destinations=1)
        journal.listen(bench.conductor)
        bench.broker.error = StudyRefusedError("closed")
        async with bench.running():
            upload = await bench.receive(10)
            await bench.until(upload, UploadState.FAILED)
        bench.broker.error = None
        bench.restart()
        async with bench.running():
            await eventually(lambda: not bench.conductor.waiting)
            await asyncio.sleep(0.05)
        assert bench.broker.announced == []


async def test_a_retry_of_a_failed_one_announces_nothing_twice(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        bench = Bench(tmp_path, journal, destinations=1)
        bench.broker.api_id = "api-1"
        journal.listen(bench.conductor)
        upload = await bench.receive(10)
        path = (bench.uploads / "u1").rename(bench.uploads / "aside")
        async with bench.running():
            await _announced(bench, upload)
            await bench.until(upload, UploadState.FAILED)
            path.rename(bench.uploads / "u1")
            await bench.journal.retry(upload, bench.now)
            await bench.until(upload, UploadState.STORED)
        assert {announcing.key for announcing in bench.broker.announced} == {upload}
        told = await _due(bench)
        assert told[1] == ("failed", "source_missing")
        assert told[-1] == ("stored", None)


async def test_one_that_is_taken_back_while_it_is_announced_is_reported_terminated(
    tmp_path: Path,
) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        bench = Bench(tmp_path, journal, destinations=1)
        bench.broker = slow = SlowBroker(bench)
        bench.restart()
        async with bench.running():
            upload = await bench.receive(10)
            await slow.asked.wait()
            await journal.terminate(str(bench.uploads), "u1", bench.now)
            slow.go.set()
            await _announced(bench, upload)
        assert (await _due(bench))[-1] == ("terminated", None)


async def test_a_stop_does_not_wait_for_an_answer_to_an_announcement(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        bench = Bench(tmp_path, journal, destinations=1)
        bench.broker = slow = SlowBroker(bench)
        bench.restart()
        async with asyncio.timeout(2):
            async with bench.running():
                upload = await bench.receive(10)
                await slow.asked.wait()
        slow.go.set()
        bench.restart()
        async with bench.running():
            await bench.until(upload, UploadState.STORED)
        assert {announcing.key for announcing in slow.announced} == {upload}


async def test_the_api_says_when_to_announce_again(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        bench = Bench(tmp_path, journal, destinations=1)
        journal.listen(bench.conductor)
        bench.broker.error = ApiUnreachableError("busy", retry_after=500.0)
        async with bench.running():
            upload = await bench.receive(10)
            postponed = await _postponed(bench, upload)
        assert postponed.next_at >= bench.now + 500

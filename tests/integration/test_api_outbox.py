"""The journal's reports on their way to npm's hawk, over restarts of either side."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.backoff import Backoff
from daemon.broker.client import ApiClient
from daemon.broker.outbox import Outbox
from daemon.journal.model import Identity, Sighting
from daemon.journal.sqlite import SqliteJournal
from daemon.plan import Announcing
from tests.peers.fakes_outbox import Recorded
from tests.peers.hawk import HawkServer

STUDY = "11111111-2222-4333-8444-555555555555"
PLANS: dict[str, Any] = {STUDY: {"encrypt": "none", "destinations": [{"use": "local"}]}}
UPLOADS = 12

pytestmark = [pytest.mark.peers]


@pytest.fixture
def hawk(tmp_path: Path) -> Iterator[HawkServer]:
    with HawkServer(tmp_path / "hawk", PLANS) as server:
        yield server


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


@contextlib.asynccontextmanager
async def daemon(state: Path, hawk: HawkServer) -> AsyncIterator[tuple[SqliteJournal, ApiClient]]:
    """Journal and outbox as in a running daemon, with short pauses."""
    async with (
        await SqliteJournal.open(state) as journal,
        ApiClient(hawk.api, clock=time.time) as api,
    ):
        outbox = Outbox(journal, api, Recorded(), time.time, Backoff(0.05, 0.2))
        journal.listen(outbox)
        running = asyncio.create_task(outbox.run())
        try:
            yield journal, api
            assert not running.done()
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


def sighting(number: int, received: int) -> Sighting:
    return Sighting(
        directory="/uploads",
        tus_id=f"tus-{number}",
        server="tusd",
        path=f"tus-{number}",
        info_path=f"/uploads/tus-{number}.info",
        size=100,
        received=received,
        complete=received == 100,
        metadata={},
        study=STUDY,
        filename=f"file-{number}",
        dropoff_id=None,
        identity=Identity(device=1, inode=number, size=received, mtime_ns=1, ctime_ns=1),
    )


async def begin(journal: SqliteJournal, api: ApiClient, number: int) -> None:
    """An upload that begins and is announced."""
    upload = await journal.sight(sighting(number, 10), time.time())
    announcing = Announcing(
        key=str(uuid.uuid4()),
        study=STUDY,
        filename=upload.filename,
        size=upload.size,
        metadata={},
        client="",
        server="tusd",
        tus_id=upload.tus_id,
    )
    await journal.announced(upload.id, await api.announce(announcing))


async def end(journal: SqliteJournal, number: int) -> None:
    """It is received, and then taken back: two more reports."""
    await journal.sight(sighting(number, 100), time.time())
    await journal.terminate("/uploads", f"tus-{number}", time.time())


def states(hawk: HawkServer) -> list[list[str]]:
    """The states that each drop was told of, in the order they arrived."""
    return [[report["state"] for report in drop["reports"]] for drop in hawk.drops()]


def all_terminated(hawk: HawkServer) -> bool:
    return all(told[-1:] == ["terminated"] for told in states(hawk))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 -- of another process
            await asyncio.sleep(0.02)


def check_order(hawk: HawkServer) -> None:
    drops = hawk.drops()
    assert len(drops) == UPLOADS
    for drop in drops:
        sequences = [report["sequence"] for report in drop["reports"]]
        assert sequences == sorted(set(sequences))
        assert [report["state"] for report in drop["reports"]][-2:] == ["received", "terminated"]


async def test_reports_wait_for_an_api_that_restarts_and_keep_their_order(
    state: Path, hawk: HawkServer
) -> None:
    async with daemon(state, hawk) as (journal, api):
        for number in range(UPLOADS):
            await begin(journal, api, number)
        await until(lambda: all(states(hawk)))
        hawk.stop()
        for number in range(UPLOADS):
            await end(journal, number)
        await asyncio.sleep(0.3)
        counts = await journal.report_counts()
        assert counts["pending"] == 2 * UPLOADS
        hawk.start()
        await until(lambda: all_terminated(hawk))
    check_order(hawk)


async def test_reports_outlive_the_daemon_and_lost_answers_double_nothing(
    state: Path, hawk: HawkServer
) -> None:
    async with daemon(state, hawk) as (journal, api):
        for number in range(UPLOADS):
            await begin(journal, api, number)
        hawk.stop()
        for number in range(UPLOADS):
            await end(journal, number)
    hawk.start()
    hawk.control(lose=20)
    async with daemon(state, hawk) as (journal, api):
        await until(lambda: all_terminated(hawk))
        await until_none_pending(journal)
    check_order(hawk)
    assert sum(drop["repeats"] for drop in hawk.drops()) > 0


async def test_a_report_that_the_api_refuses_is_parked_and_shown(
    state: Path, hawk: HawkServer
) -> None:
    async with daemon(state, hawk) as (journal, api):
        await begin(journal, api, 1)
        await until(lambda: all(states(hawk)))
        refusal = {"status": 422, "count": 1, "detail": "We know no `received`."}
        hawk.control(fail=refusal)
        await end(journal, 1)
        await until(lambda: all_terminated(hawk))
        await until_none_pending(journal)
        details = await journal.details((await journal.find("tus-1")).id)
    parked = [report for report in details.reports if report.status == "parked"]
    assert [report.state for report in parked] == ["received"]
    assert parked[0].error is not None
    assert parked[0].error.message == "422: We know no `received`."
    assert states(hawk) == [["receiving", "terminated"]]


async def test_a_wrong_clock_keeps_no_report(state: Path, hawk: HawkServer) -> None:
    hawk.control(clock_offset=-3600.0)
    async with daemon(state, hawk) as (journal, api):
        await begin(journal, api, 1)
        await until(lambda: all(states(hawk)))
        hawk.control(clock_offset=3600.0)
        await end(journal, 1)
        await until(lambda: all_terminated(hawk))
        counts = await journal.report_counts()
    assert counts["parked"] == 0


async def until_none_pending(journal: SqliteJournal) -> None:
    async with asyncio.timeout(30):
        while (await journal.report_counts())["pending"]:  # noqa: ASYNC110 -- of another thread
            await asyncio.sleep(0.02)

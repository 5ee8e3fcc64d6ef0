"""An announcement whose answer was lost is found again, and ended like any that nobody follows."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from daemon.backoff import Backoff
from daemon.broker.client import ApiClient
from daemon.errors import (
    ApiUnreachableError,
    ConfigError,
    InfoError,
    StateFullError,
    StudyRefusedError,
)
from daemon.intake.askings import Askings
from daemon.intake.hooks import HookServer
from daemon.journal.database import SCHEMA_VERSION
from daemon.journal.model import Asking, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.plan import Announcing
from daemon.settings import Api, Settings
from tests.peers.intake import STUDY, PlayedBroker, Recorded, settings_in
from tests.peers.journals import acknowledge_all, received
from tests.peers.strange_api import Handler, strange_api
from tests.peers.tusd_files import pre_create

OLD_SCHEMA = Path(__file__).parents[1] / "peers" / "journal_schema_1.sql"
METADATA = {"filename": "a b.bam", "study": STUDY, "more": "Ω"}
LOST = ApiUnreachableError("the answer was lost")
DAY = 86400.0


class World:
    """The hook server and what settles its askings, on one journal, with a clock to be set."""

    def __init__(self, settings: Settings, journal: SqliteJournal) -> None:
        self.now = 1_000_000.0
        self.settings = settings
        self.journal = journal
        self.broker = PlayedBroker()
        self.askings = self.settler()
        self.hooks = HookServer(settings, self.broker, journal, Recorded(), lambda: self.now)

    def settler(self) -> Askings:
        """As a daemon that starts now has it."""
        clock = lambda: self.now  # noqa: E731 -- it is one
        return Askings(self.settings, self.journal, self.broker, clock, Backoff(1.0, 300.0))

    async def ask(self, **metadata: str) -> dict[str, Any]:
        """Ask whether an upload may be; the answer."""
        return await asyncio.to_thread(pre_create, self.settings.hooks, 5, {**METADATA, **metadata})

    async def left(self) -> list[str]:
        """The keys of what is not settled."""
        await asyncio.gather(*self.hooks._remembering)
        found = await self.journal.askings(1e12, 1e12, 100)
        return [asking.announcing.key for asking in found]

    async def later(self) -> None:
        """Nobody waits for what was asked any more."""
        self.now += self.settings.hooks.timeout + 1.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    settings = settings_in(tmp_path, timeout=1.0)
    async with await SqliteJournal.open(settings.state) as journal:
        world = World(settings, journal)
        async with world.hooks:
            yield world


def asking(key: str, created_at: float = 100.0, **changes: Any) -> Asking:  # noqa: ANN401 -- any field of it
    fields: dict[str, Any] = {
        "study": STUDY,
        "filename": "a b.bam",
        "size": 5,
        "metadata": METADATA,
        "client": "192.0.2.1:9",
        "server": "tusd",
        "tus_id": None,
    }
    return Asking(
        announcing=Announcing(key=key, **(fields | changes)), tus_id="t1", created_at=created_at
    )


def status(answer: dict[str, Any]) -> int:
    return int(answer.get("HTTPResponse", {}).get("StatusCode", 200))


# The journal ----------------------------------------------------------------------------------


async def test_what_was_asked_is_kept_as_it_was(world: World) -> None:
    await world.journal.add_asking(asking("a"))
    assert await world.journal.askings(200.0, 200.0, 10) == [asking("a")]


async def test_an_answer_that_is_kept_settles_it_in_the_same_transaction(world: World) -> None:
    await world.journal.add_asking(asking("a"))
    await world.journal.add_announcement(asking("a").answered("api-1"))
    assert await world.left() == []


async def test_those_that_somebody_may_wait_for_are_not_old(world: World) -> None:
    for number, created_at in enumerate((100.0, 200.0, 300.0, 5000.0)):
        await world.journal.add_asking(asking(f"a{number}", created_at))
    found = await world.journal.askings(200.0, 400.0, 10)
    assert [each.announcing.key for each in found] == ["a0", "a3"], "and what a clock set back left"


async def test_what_could_not_be_remembered_is_not_asked(world: World) -> None:
    with pytest.raises(InfoError):
        await world.journal.add_asking(asking("a", metadata={"\udc80": "x"}))
    assert await world.left() == []


async def test_a_journal_of_the_version_before_is_brought_up_to_this_one(tmp_path: Path) -> None:
    await _old_journal(tmp_path)
    async with await SqliteJournal.open(tmp_path) as journal:
        (upload,) = await journal.uploads(None, None, 10)
        assert (upload.tus_id, upload.state) == ("t1", UploadState.RECEIVED)
        await journal.add_asking(asking("a"))
        assert len(await journal.askings(200.0, 200.0, 10)) == 1
    async with await SqliteJournal.open(tmp_path / "fresh"):
        pass
    assert _schema(tmp_path) == _schema(tmp_path / "fresh")
    async with await SqliteJournal.open(tmp_path) as journal:
        assert len(await journal.askings(200.0, 200.0, 10)) == 1


async def test_a_journal_of_the_version_before_is_looked_at_as_it_is(tmp_path: Path) -> None:
    await _old_journal(tmp_path)
    reader = SqliteJournal.open_readonly(tmp_path)
    assert (await reader.counts())[UploadState.RECEIVED] == 1


async def test_a_journal_of_a_later_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    await (await SqliteJournal.open(tmp_path)).aclose()
    _set_version(tmp_path, SCHEMA_VERSION + 1)
    with pytest.raises(ConfigError, match=r"newer release.*install that release again"):
        await SqliteJournal.open(tmp_path)


async def _old_journal(directory: Path) -> None:
    """One of version 1 with an upload in it."""
    async with await SqliteJournal.open(directory) as journal:
        await received(journal)
    with sqlite3.connect(directory / "journal.sqlite") as database:
        rows = database.execute("SELECT * FROM uploads").fetchall()
    (directory / "journal.sqlite").unlink()
    old = sqlite3.connect(directory / "journal.sqlite")
    with old:
        old.executescript(OLD_SCHEMA.read_text())
        old.executemany(f"INSERT INTO uploads VALUES ({', '.join('?' * len(rows[0]))})", rows)  # noqa: S608 -- no value is in it
    old.close()
    (directory / "journal.sqlite").chmod(0o600)
    _set_version(directory, 1)


def _set_version(directory: Path, version: int) -> None:
    database = sqlite3.connect(directory / "journal.sqlite")
    database.execute(f"PRAGMA user_version = {version}")
    database.close()


def _schema(directory: Path) -> dict[str, str]:
    database = sqlite3.connect(directory / "journal.sqlite")
    found = dict(database.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))
    database.close()
    return found


# Pre-create -----------------------------------------------------------------------------------


async def test_an_upload_that_may_be_leaves_no_asking(world: World) -> None:
    answer = await world.ask()
    assert status(answer) == 200
    assert await world.left() == []


async def test_an_answer_that_was_lost_leaves_one(world: World) -> None:
    world.broker.error = LOST
    assert status(await world.ask()) == 503
    assert len(await world.left()) == 1


async def test_an_answer_that_comes_too_late_leaves_one(world: World) -> None:
    world.broker.pause = 30.0
    assert status(await world.ask()) == 503
    assert len(await world.left()) == 1


@pytest.mark.parametrize(
    "error", [StudyRefusedError("closed", 403), ApiUnreachableError("not now", undone=True)]
)
async def test_what_the_api_did_not_take_leaves_none(world: World, error: Exception) -> None:
    world.broker.error = error
    assert status(await world.ask()) in {403, 503}
    assert await world.left() == []


async def test_nothing_is_asked_that_can_not_be_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: Asking) -> None:
        raise StateFullError("no space")

    monkeypatch.setattr(world.journal, "add_asking", full)
    assert status(await world.ask()) == 503
    assert world.broker.announced == []


async def test_who_gave_up_before_it_was_asked_leaves_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = world.journal.add_asking

    async def slow(asking: Asking) -> None:
        await add(asking)
        await asyncio.sleep(30.0)

    monkeypatch.setattr(world.journal, "add_asking", slow)
    assert status(await world.ask()) == 503
    assert await world.left() == []
    assert world.broker.announced == []


# Settling -------------------------------------------------------------------------------------


async def test_an_announcement_whose_answer_was_lost_ends_terminated_after_a_day(
    world: World,
) -> None:
    world.broker.error = LOST
    await world.ask()
    (key,) = await world.left()
    world.broker.error = None
    await world.later()
    assert await world.askings.settle() == world.settings.uploads.rescan
    (announcing,) = world.broker.announced
    assert (announcing.key, announcing.metadata) == (key, METADATA)
    assert await world.left() == []
    assert await world.journal.expire_announcements(world.now - DAY, world.now) == 0
    world.now += DAY
    assert await world.journal.expire_announcements(world.now - DAY, world.now) == 1
    assert [report.state for report in await acknowledge_all(world.journal)] == ["terminated"]
    assert (await world.journal.upload(key)).api_id == "api-1"


async def test_one_that_pre_create_still_waits_for_is_left_alone(world: World) -> None:
    world.broker.error = LOST
    world.now += 1.0
    await world.ask()
    world.broker.error = None
    await world.askings.settle()
    assert world.broker.announced == []


async def test_what_a_process_asked_that_died_is_settled_at_the_next_start(world: World) -> None:
    await world.journal.add_asking(asking("a", world.now))
    world.now += 0.1
    await world.settler().settle()
    assert [each.key for each in world.broker.announced] == ["a"]


async def test_while_the_api_is_away_it_is_asked_less_and_less_and_no_asking_is_lost(
    world: World,
) -> None:
    await world.journal.add_asking(asking("a"))
    world.broker.error = LOST
    pauses = [await world.askings.settle() for _ in range(12)]
    assert all(1.0 <= pause <= 300.0 for pause in pauses)
    assert max(pauses) > 10.0
    assert await world.left() == ["a"]
    world.broker.error = ApiUnreachableError("not now", 1234.0)
    assert await world.askings.settle() == 1234.0
    world.broker.error = None
    await world.askings.settle()
    assert await world.left() == []


async def test_a_refusal_of_what_was_asked_again_is_final(world: World) -> None:
    await world.journal.add_asking(asking("a"))
    world.broker.error = StudyRefusedError("closed", 410)
    await world.askings.settle()
    assert await world.left() == []
    assert await world.journal.expire_announcements(1e9, 1e9) == 0


async def test_one_that_the_api_stumbles_over_does_not_hold_up_the_others(world: World) -> None:
    for number in range(3):
        await world.journal.add_asking(asking(f"a{number}", 100.0 + number))
    take = world.broker.announce

    async def stumbles(announcing: Announcing) -> str | None:
        if announcing.key == "a0":
            raise ZeroDivisionError
        return await take(announcing)

    world.broker.announce = stumbles  # type: ignore[method-assign]  # for this test alone
    await world.askings.settle()
    await world.askings.settle()
    assert await world.left() == ["a0"]


async def test_an_upload_that_came_all_the_same_is_not_ended(world: World) -> None:
    await world.journal.add_asking(asking("a"))
    await world.journal.add_announcement(asking("a").answered("api-1"))
    await world.journal.add_asking(asking("a"))
    await world.askings.settle()
    await world.askings.settle()
    assert await world.journal.expire_announcements(1e9, 1e9) == 1
    await world.journal.add_asking(asking("a"))
    await world.askings.settle()
    assert await world.journal.expire_announcements(1e9, 1e9) == 0, "once is enough"


# What certainly had no effect -----------------------------------------------------------------


def answers(status: int, **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, headers=named)

    return handler


@pytest.mark.parametrize(
    ("handler", "undone"),
    [
        (answers(429), True),
        (answers(425), True),
        (answers(503, Retry_After="5"), True),
        (answers(503), False),
        (answers(500), False),
        (answers(502), False),
        (answers(201), False),
    ],
)
async def test_an_answer_tells_whether_it_may_have_been_taken(
    handler: Handler, *, undone: bool
) -> None:
    async with strange_api(handler) as api:
        assert (await _failure(api)).undone is undone


async def test_a_connection_that_was_never_there_left_nothing() -> None:
    async with strange_api(answers(201)) as api:
        pass
    assert (await _failure(api)).undone


async def test_a_connection_that_broke_may_have_left_something() -> None:
    async def breaks(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with strange_api(breaks) as api:
        assert not (await _failure(api)).undone


async def _failure(api: Api) -> ApiUnreachableError:
    async with ApiClient(api, clock=lambda: 1e9) as client:
        with pytest.raises(ApiUnreachableError) as failed:
            await client.announce(asking("a").announcing)
    return failed.value

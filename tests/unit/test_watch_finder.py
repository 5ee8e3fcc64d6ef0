"""Uploads are found on disk, with or without hints, and each is taken once."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from watchfiles import awatch

import daemon.intake.finder as finder_module
import daemon.intake.watch as watch_module
from daemon.errors import StateFullError
from daemon.intake import problems, receiving
from daemon.intake.finder import Finder
from daemon.intake.intake import Intake
from daemon.intake.scan import Walk
from daemon.intake.watch import Changes, Watcher
from daemon.journal.model import Upload, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Settings
from tests.peers.finding import RecordingJournal, lay
from tests.peers.intake import (
    Recorded,
    running,
    settings_in,
    until,
    until_uploads,
    uploads_of,
)


def intake_of(settings: Settings, journal: SqliteJournal) -> Intake:
    return Intake(settings, journal, Recorded())


async def test_what_is_there_before_the_start_is_found(
    settings: Settings, journal: SqliteJournal
) -> None:
    lay(settings.uploads, "one")
    lay(settings.uploads, "deep/er/two")
    async with running(intake_of(settings, journal)):
        found = await uploads_of(journal)
    assert {upload.tus_id for upload in found} == {"one", "deep/er/two"}
    assert {upload.state for upload in found} == {UploadState.RECEIVED}
    assert {upload.path for upload in found} == {"one", "deep/er/two"}


async def test_what_comes_later_is_found_at_once(
    settings: Settings, journal: SqliteJournal
) -> None:
    async with running(intake_of(settings, journal)):
        lay(settings.uploads, "later")
        await until_uploads(journal, lambda found: len(found) == 1, 5.0)


async def test_what_was_in_a_directory_before_it_was_watched_is_found_without_waiting(
    settings: Settings, journal: SqliteJournal, tmp_path: Path
) -> None:
    aside = msgspec.structs.replace(
        settings.uploads, directory=tmp_path / "aside", info_directory=tmp_path / "aside"
    )
    (tmp_path / "aside" / "project").mkdir(parents=True)
    lay(aside, "project/a")
    async with running(intake_of(settings, journal)):
        (tmp_path / "aside" / "project").rename(settings.uploads.directory / "project")
        (upload,) = await until_uploads(journal, lambda found: len(found) == 1)
    assert upload.tus_id == "project/a"


async def test_without_any_hint_the_rescan_finds_it(
    tmp_path: Path, journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Finder, "_hint", lambda _self, _paths: None)
    settings = settings_in(tmp_path, rescan=0.2)
    async with running(intake_of(settings, journal)):
        lay(settings.uploads, "later")
        await until_uploads(journal, lambda found: len(found) == 1)


async def test_any_number_of_hints_makes_one_upload(
    settings: Settings, journal: SqliteJournal
) -> None:
    async with running(intake_of(settings, journal)) as intake:
        ids = [f"u{number}" for number in range(10)]
        for tus_id in ids:
            lay(settings.uploads, tus_id)
        hints = ids * 3
        random.Random(1).shuffle(hints)
        for tus_id in hints:
            await intake.check([tus_id])
        assert sorted(upload.tus_id for upload in await uploads_of(journal)) == ids


async def test_an_upload_that_is_over_is_not_taken_again_after_a_restart(
    settings: Settings, journal: SqliteJournal
) -> None:
    lay(settings.uploads, "one")
    async with running(intake_of(settings, journal)):
        (upload,) = await uploads_of(journal)
    await journal.terminate(upload.directory, "one", time.time())
    async with running(intake_of(settings, journal)):
        (upload,) = await uploads_of(journal)
    assert (upload.generation, upload.state) == (1, UploadState.TERMINATED)


async def test_a_known_upload_costs_the_rescan_no_look(
    settings: Settings, journal: SqliteJournal
) -> None:
    metrics = Recorded()
    for number in range(5):
        lay(settings.uploads, f"u{number}")
    finder = Finder(settings.uploads, journal, metrics)
    await finder._scan()
    await finder._scan()
    assert [line["looked"] for line in metrics.of("rescan")] == [5, 0]
    assert [line["infos"] for line in metrics.of("rescan")] == [5, 5]


async def test_a_used_id_with_another_upload_is_found_again(
    settings: Settings, journal: SqliteJournal
) -> None:
    async with running(intake_of(settings, journal)) as intake:
        lay(settings.uploads, "one")
        await until_uploads(journal, lambda found: len(found) == 1)
        (settings.uploads.directory / "one").unlink()
        (settings.uploads.directory / "one.info").unlink()
        await intake.terminated("one")
        lay(settings.uploads, "one")
        await until_uploads(journal, lambda found: len(found) == 2)


async def test_an_incomplete_upload_is_receiving_once_it_is_not_young(
    settings: Settings, journal: SqliteJournal
) -> None:
    async with running(intake_of(settings, journal)):
        lay(settings.uploads, "slow", b"12")
        found = await until_uploads(journal, lambda found: len(found) == 1)
        assert (found[0].state, found[0].received) == (UploadState.RECEIVING, 2)
        assert time.time() - found[0].created_at < 60
        with (settings.uploads.directory / "slow").open("ab") as file:
            file.write(b"345")
        await until_uploads(journal, lambda all_: all_[0].state is UploadState.RECEIVED)


async def test_a_torn_info_is_read_again_until_it_settles(
    settings: Settings, journal: SqliteJournal
) -> None:
    async with running(intake_of(settings, journal)) as intake:
        lay(settings.uploads, "one")
        info = settings.uploads.directory / "one.info"
        text = info.read_text()
        lay(settings.uploads, "torn")
        torn = settings.uploads.directory / "torn.info"
        torn.write_text("")
        await intake.check(["torn"])
        assert intake.describe()["problems"] == 0
        torn.write_text(text.replace("one", "torn"))
        await until_uploads(journal, lambda found: len(found) == 2)


async def test_a_broken_info_is_a_problem_that_people_see(
    settings: Settings, journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "SETTLE_SECONDS", 0.3)
    metrics = Recorded()
    intake = Intake(settings, journal, metrics)
    broken = settings.uploads.directory / "broken.info"
    broken.write_text('{"ID":')
    async with running(intake):
        lay(settings.uploads, "sound")
        await until_uploads(journal, lambda found: len(found) == 1)
        await until(lambda: bool(intake.describe()["problems"]), "the problem shows")
        problem = intake.describe()["problem_list"]["broken"]
        assert problem["code"] == "info_invalid"
        (line,) = metrics.of("upload")
        assert (line["outcome"], line["error_code"]) == ("failed", "info_invalid")
        broken.unlink()
        await until(lambda: not intake.describe()["problems"], "the problem is gone")


async def test_an_incomplete_upload_that_vanished_was_taken_back(
    settings: Settings, journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "VANISH_SECONDS", 0.3)
    monkeypatch.setattr(receiving, "QUIET_SECONDS", 0.0)
    lay(settings.uploads, "one", b"1")
    lay(settings.uploads, "stays", b"1")
    async with running(intake_of(settings, journal)):
        await until_uploads(journal, lambda found: len(found) == 2)
    (settings.uploads.directory / "one").unlink()
    (settings.uploads.directory / "one.info").unlink()
    async with running(intake_of(settings, journal)):
        await until_uploads(journal, lambda found: states(found)["one"] == "terminated")
        assert states(await uploads_of(journal))["stays"] == "receiving"


async def test_a_late_farewell_does_not_end_the_next_upload_of_that_id(
    settings: Settings, journal: SqliteJournal
) -> None:
    lay(settings.uploads, "one")
    async with running(intake_of(settings, journal)) as intake:
        await intake.terminated("one")
        assert states(await uploads_of(journal)) == {"one": "received"}


async def test_intake_pauses_while_the_journal_is_full_and_goes_on_by_itself(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder_module, "FULL_SECONDS", 0.1)
    journal = RecordingJournal()
    journal.error = StateFullError("no space left for the journal")
    lay(settings.uploads, "one")
    finder = Finder(settings.uploads, journal, Recorded())
    task = asyncio.create_task(finder.run())
    try:
        await until(lambda: finder.paused, "intake pauses")
        journal.error = None
        await until(lambda: bool(journal.sighted) and not finder.paused, "intake goes on")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_one_that_the_journal_chokes_on_does_not_keep_the_others_out(
    settings: Settings,
) -> None:
    journal = RecordingJournal()
    journal.bad = "bad"
    for tus_id in ("a", "bad", "z"):
        lay(settings.uploads, tus_id)
    finder = Finder(settings.uploads, journal, Recorded())
    await finder._scan()
    assert sorted(sighting.tus_id for sighting in journal.sighted) == ["a", "z"]
    assert finder.problems.found["bad"].code == "internal"


async def test_a_replaced_directory_is_watched_again(
    settings: Settings, journal: SqliteJournal
) -> None:
    directory = settings.uploads.directory
    async with running(intake_of(settings, journal)):
        directory.rename(directory.with_name("old"))
        directory.mkdir()
        lay(settings.uploads, "new")
        await until_uploads(journal, lambda found: len(found) == 1)
        lay(settings.uploads, "newer")
        await until_uploads(journal, lambda found: len(found) == 2)


async def test_a_directory_that_is_the_first_in_there_is_watched_as_well(
    settings: Settings, journal: SqliteJournal
) -> None:
    async with running(intake_of(settings, journal)):
        lay(settings.uploads, "flat")
        await until_uploads(journal, lambda found: len(found) == 1)
        lay(settings.uploads, "deep/one")
        await until_uploads(journal, lambda found: len(found) == 2)
        # The watch is another one by now.
        lay(settings.uploads, "deep/two")
        lay(settings.uploads, "still flat")
        await until_uploads(journal, lambda found: len(found) == 4, 5.0)


@pytest.mark.parametrize(("subdirectory", "below"), [(False, False), (True, True)])
async def test_only_a_directory_with_directories_is_walked_to_be_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, subdirectory: bool, below: bool
) -> None:
    asked: list[bool] = []

    def walked(directory: Path, *, recursive: bool, **_options: object) -> AsyncIterator[Changes]:
        asked.append(recursive)
        return awatch(directory, recursive=recursive)

    monkeypatch.setattr(watch_module, "awatch", walked)
    (tmp_path / "watched").mkdir()
    if subdirectory:
        (tmp_path / "watched" / "one").mkdir()
    stands = asyncio.Event()
    watcher = Watcher(tmp_path / "watched", lambda _paths: None, stands.set)
    watching = asyncio.create_task(watcher.run())
    async with asyncio.timeout(5):
        await stands.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert asked == [below]


async def test_a_name_that_is_no_utf_8_stops_nothing(
    settings: Settings, journal: SqliteJournal
) -> None:
    odd = os.fsencode(settings.uploads.directory) + b"/\xff.info"
    async with running(intake_of(settings, journal)):
        fd = os.open(odd, os.O_CREAT | os.O_WRONLY, 0o600)
        os.close(fd)
        lay(settings.uploads, "sound")
        await until_uploads(journal, lambda found: len(found) == 1)


def test_a_walk_meets_nested_infos_and_no_locks(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("x.info", "a/b/y.info", "x.lock", "x.info.lock", "x.stop", ".info"):
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    walk = Walk(tmp_path, frozenset())
    assert sorted(walk.batch(100)) == ["a/b/y", "x"]
    assert walk.done


def states(found: list[Upload]) -> dict[str, str]:
    return {upload.tus_id: upload.state.value for upload in found}

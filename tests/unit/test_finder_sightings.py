"""What a look at an upload on disk is a sighting of, and what it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import daemon.intake.finder as finder_module
from daemon.intake.finder import Finder
from daemon.settings import Settings
from tests.peers.finding import RecordingJournal, lay
from tests.peers.intake import (
    STUDY,
    Recorded,
    settings_in,
)


async def test_a_small_upload_costs_one_sighting(settings: Settings) -> None:
    journal = RecordingJournal()
    finder = Finder(settings.uploads, journal, Recorded())
    lay(settings.uploads, "small", b"1")
    await finder.check(["small"])
    (settings.uploads.directory / "small").write_bytes(b"12345")
    await finder.check(["small"])
    assert [sighting.complete for sighting in journal.sighted] == [True]


async def test_an_upload_that_is_to_be_followed_is_sighted_as_soon_as_enough_of_it_is_there(
    settings: Settings,
) -> None:
    journal = RecordingJournal()
    finder = Finder(settings.uploads, journal, Recorded(), follow_after=3)
    lay(settings.uploads, "big", b"1", Size=100)
    await finder.check(["big"])
    assert journal.sighted == []
    (settings.uploads.directory / "big").write_bytes(b"123")
    await finder.check(["big"])
    await finder.check(finder._drained())
    assert [sighting.complete for sighting in journal.sighted] == [False]


class Clock:
    """What finders take for the time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    set_by_hand = Clock()
    monkeypatch.setattr(finder_module, "time", set_by_hand)
    return set_by_hand


async def test_progress_is_told_at_most_each_five_seconds(settings: Settings, clock: Clock) -> None:
    journal = RecordingJournal()
    finder = Finder(settings.uploads, journal, Recorded())
    with (settings.uploads.directory / "big").open("wb", buffering=0) as file:
        lay(settings.uploads, "big", b"", Size=10_000)
        for _ in range(100):
            file.write(b"0123456789")
            await finder.check(["big"])
            clock.now += 0.25
    # 25 s: not in the first 2, then every 5.
    assert len(journal.sighted) == 5
    assert all(not sighting.complete for sighting in journal.sighted)


async def test_one_that_does_not_grow_is_not_told_again(settings: Settings, clock: Clock) -> None:
    journal = RecordingJournal()
    finder = Finder(settings.uploads, journal, Recorded())
    lay(settings.uploads, "stalled", b"1")
    for _ in range(20):
        clock.now += 10
        await finder.check(["stalled"])
    assert [sighting.received for sighting in journal.sighted] == [1]


@pytest.mark.parametrize(
    ("fields", "data", "complete"),
    [
        ({"Size": 0}, b"", True),
        ({"Size": 0, "SizeIsDeferred": True}, b"", False),
        ({"Size": 0, "SizeIsDeferred": True}, b"12345", False),
        ({"Size": 5}, b"1234", False),
        ({"Size": 5}, b"12345", True),
        ({"Size": 5}, b"123456", True),
    ],
)
async def test_complete_is_what_has_all_its_bytes(
    settings: Settings, fields: dict[str, Any], data: bytes, *, complete: bool
) -> None:
    journal = RecordingJournal()
    finder = Finder(settings.uploads, journal, Recorded())
    lay(settings.uploads, "one", data, **fields)
    await finder.check(["one"])
    assert bool(journal.sighted) is complete
    if complete:
        assert journal.sighted[0].identity.size == len(data)


@pytest.mark.parametrize(("offset", "complete"), [(4, False), (5, True)])
async def test_rustus_has_to_have_acknowledged_all_bytes(
    tmp_path: Path, offset: int, *, complete: bool
) -> None:
    settings = settings_in(tmp_path)
    data = settings.uploads.directory / "2026" / "1" / "abc"
    data.parent.mkdir(parents=True)
    data.write_bytes(b"12345")
    info = {
        "id": "abc",
        "offset": offset,
        "length": 5,
        "path": str(data),
        "created_at": 1,
        "deferred_size": False,
        "is_partial": False,
        "is_final": False,
        "parts": None,
        "storage": "file_storage",
        "metadata": {"study": STUDY},
    }
    (settings.uploads.directory / "abc.info").write_text(json.dumps(info))
    journal = RecordingJournal()
    await Finder(settings.uploads, journal, Recorded()).check(["abc"])
    assert [sighting.path for sighting in journal.sighted] == ["2026/1/abc"] * complete


@pytest.mark.parametrize(("offset", "complete"), [(2, False), (5, True)])
async def test_bytes_that_a_crashed_tuspyserver_will_append_again_are_no_end(
    settings: Settings, offset: int, *, complete: bool
) -> None:
    (settings.uploads.directory / "abc").write_bytes(b"12345")
    info = {
        "metadata": {"study": STUDY},
        "size": 5,
        "offset": offset,
        "upload_part": 1,
        "created_at": "2026-01-01 00:00:00",
        "defer_length": False,
        "expires": None,
    }
    (settings.uploads.directory / "abc.info").write_text(json.dumps(info, indent=4))
    journal = RecordingJournal()
    await Finder(settings.uploads, journal, Recorded()).check(["abc"])
    assert [sighting.complete for sighting in journal.sighted] == [True] * complete


async def test_a_partial_is_no_upload(settings: Settings) -> None:
    journal = RecordingJournal()
    lay(settings.uploads, "part", IsPartial=True)
    await Finder(settings.uploads, journal, Recorded()).check(["part"])
    assert not journal.sighted


async def test_a_concatenation_names_its_parts(settings: Settings) -> None:
    journal = RecordingJournal()
    lay(settings.uploads, "whole", IsFinal=True, PartialUploads=["a", "b"])
    await Finder(settings.uploads, journal, Recorded()).check(["whole"])
    assert [sighting.partials for sighting in journal.sighted] == [("a", "b")]


async def test_the_servers_name_for_its_directory_is_taken_for_ours(settings: Settings) -> None:
    journal = RecordingJournal()
    storage = {"InfoPath": "/data/one.info", "Path": "/data/by/study/x", "Type": "filestore"}
    lay(settings.uploads, "one", Storage=storage)
    lay(settings.uploads, "by/study/x")
    (settings.uploads.directory / "by/study/x.info").unlink()
    await Finder(settings.uploads, journal, Recorded()).check(["one"])
    assert [sighting.path for sighting in journal.sighted] == ["by/study/x"]


async def test_unsafe_data_is_handed_on_to_fail_where_people_see_it(settings: Settings) -> None:
    journal = RecordingJournal()
    finder = Finder(settings.uploads, journal, Recorded())
    lay(settings.uploads, "link")
    lay(settings.uploads, "outside", Storage={"InfoPath": "/d/outside.info", "Path": "/etc/passwd"})
    lay(settings.uploads, "dots", ID="../../etc/passwd")
    (settings.uploads.directory / "link").unlink()
    (settings.uploads.directory / "link").symlink_to("/etc/passwd")
    await finder._scan()
    assert {sighting.tus_id for sighting in journal.sighted} == {"link", "outside", "dots"}
    assert all(sighting.complete for sighting in journal.sighted)
    assert {sighting.identity.inode for sighting in journal.sighted} == {0}


async def test_data_named_like_an_info_is_data(settings: Settings) -> None:
    journal = RecordingJournal()
    finder = Finder(settings.uploads, journal, Recorded())
    lay(settings.uploads, "x.info", b"hello")
    await finder._scan()
    assert [sighting.tus_id for sighting in journal.sighted] == ["x.info"]
    assert not finder.problems

"""A source that goes is gone for good before anybody may rely on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from daemon.journal.model import Upload
from daemon.journal.sqlite import SqliteJournal
from daemon.opening import identify
from daemon.sources import FileSources
from pipeline.errors import SourceUnavailableError
from tests.peers.journals import sighting


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is removed and synced, in order."""
    found: list[str] = []
    unlink: Callable[..., None] = os.unlink

    def unlinked(name: str, *, dir_fd: int | None = None) -> None:
        found.append(f"unlink {name}")
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlinked)
    monkeypatch.setattr(
        os, "fsync", lambda fd: found.append(f"sync {Path(f'/proc/self/fd/{fd}').readlink().name}")
    )
    return found


async def laid(directory: Path, path: str, infos: Path) -> Upload:
    """An upload that stands there, its ``.info`` in ``infos``."""
    for file in (directory / path, infos / "t1.info"):
        _write(file)
    async with await SqliteJournal.open(directory.parent / "state") as journal:
        upload = await journal.sight(sighting(), 100.0)
    return msgspec.structs.replace(
        upload,
        directory=str(directory),
        path=path,
        info_path=str(infos / "t1.info"),
        identity=identify(directory, path),
    )


def _write(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"data")


async def test_data_goes_then_its_info_then_both_for_good(tmp_path: Path, steps: list[str]) -> None:
    uploads = tmp_path / "uploads"
    upload = await laid(uploads, "t1", uploads)
    steps.clear()
    await FileSources(uploads).remove(upload)
    assert steps == ["unlink t1", "unlink t1.info", "sync uploads"]
    assert list(uploads.iterdir()) == []


async def test_where_they_are_in_two_directories_both_are_synced(
    tmp_path: Path, steps: list[str]
) -> None:
    uploads = tmp_path / "uploads"
    upload = await laid(uploads, "2026/11/t1", tmp_path / "infos")
    steps.clear()
    await FileSources(tmp_path / "infos").remove(upload)
    assert steps == ["unlink t1", "unlink t1.info", "sync 11", "sync infos"]


async def test_what_a_process_removed_that_died_is_synced_by_the_next(
    tmp_path: Path, steps: list[str]
) -> None:
    uploads = tmp_path / "uploads"
    upload = await laid(uploads, "t1", uploads)
    await FileSources(uploads).remove(upload)
    steps.clear()
    await FileSources(uploads).remove(upload)
    assert steps == ["sync uploads"]


async def test_a_removal_that_the_disk_lost_is_no_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = tmp_path / "uploads"
    upload = await laid(uploads, "t1", uploads)

    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(SourceUnavailableError):
        await FileSources(uploads).remove(upload)

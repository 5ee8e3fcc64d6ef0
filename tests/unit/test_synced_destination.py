"""A directory destination counts nothing as stored that a power loss could still take away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.destinations.base import PartPlace
from pipeline.destinations.directory import DirectoryDestination
from pipeline.messages import DestinationSpec, Target
from tests.peers.deliveries import BytesBody

DATA = b"sealed" * 100
UPLOAD = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were synced, in order."""
    paths: list[str] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


@pytest.fixture
def store(tmp_path: Path) -> DirectoryDestination:
    return DirectoryDestination(
        DestinationSpec(name="store", type="directory", directory=str(tmp_path))
    )


def target_of(name: str) -> Target:
    return Target(upload=UPLOAD, name=name, size=len(DATA), study="s")


async def test_an_object_named_by_a_try_that_died_is_synced_before_it_counts(
    store: DirectoryDestination, tmp_path: Path, synced: list[str]
) -> None:
    target = target_of(f"s/{UPLOAD}/x")
    reference = await store.begin(target, stale=False)
    place = PartPlace(number=1, offset=0, size=len(DATA))
    part = await store.put_part(target, reference, place, BytesBody(DATA))
    await store.finish(target, reference, [part])
    synced.clear()
    await store.finish(target, reference, [part])
    assert str(tmp_path / "s" / UPLOAD) in synced
    synced.clear()
    assert await store.find(target) is not None
    assert str(tmp_path / "s" / UPLOAD) in synced


async def test_a_directory_that_another_delivery_made_is_synced_before_it_counts(
    store: DirectoryDestination, tmp_path: Path, synced: list[str]
) -> None:
    (tmp_path / "s").mkdir()
    await store.put(target_of(f"s/{UPLOAD}/x"), BytesBody(DATA), stale=False)
    assert synced.index(str(tmp_path)) < synced.index(str(tmp_path / "s" / UPLOAD))

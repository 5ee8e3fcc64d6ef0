"""The received file, read by descriptor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import SourceChangedError
from pipeline.source import MIB, Source, identity

Open = Callable[[bytes], Source]


@pytest.fixture(params=["cached", "waiting", "without NOWAIT"])
def source_of(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens bytes as a source, on each of the ways that a read can take."""

    def opened(data: bytes) -> Source:
        path = tmp_path / "data"
        path.write_bytes(data)
        source = Source(os.open(path, os.O_RDONLY))
        source._inline = False
        if request.param == "waiting":
            os.sync()
            os.posix_fadvise(source._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if request.param == "without NOWAIT":
            source._no_wait = False
        return source

    return opened


async def test_gives_exactly_the_bytes_at_the_offset(source_of: Open) -> None:
    data = os.urandom(3 * MIB + 5)
    with source_of(data) as source:
        for offset, length in ((0, 10), (MIB - 3, 2 * MIB), (len(data) - 1, 1), (7, 0)):
            out = bytearray(length)
            await source.read_into(memoryview(out), offset)
            assert out == data[offset : offset + length]


@pytest.mark.parametrize("offset", [0, 95, 100, 101])
async def test_a_file_that_ends_too_soon_is_told_never_cut(source_of: Open, offset: int) -> None:
    with source_of(bytes(100)) as source:
        with pytest.raises(SourceChangedError, match="short of its part"):
            await source.read_into(memoryview(bytearray(101)), offset)
        with pytest.raises(SourceChangedError, match="short of its part"):
            source.read_into_blocking(memoryview(bytearray(101)), offset)


async def test_a_file_that_shrinks_under_its_reader_is_told(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(MIB))
    with Source(os.open(path, os.O_RDONLY)) as source:
        await source.read_into(memoryview(bytearray(MIB)), 0)
        os.truncate(path, 10)
        with pytest.raises(SourceChangedError):
            await source.read_into(memoryview(bytearray(MIB)), 0)


def test_a_longer_file_is_not_the_expected_one(source_of: Open) -> None:
    with source_of(bytes(100)) as source:
        source.check_size(100)
        with pytest.raises(SourceChangedError, match="has 100 bytes instead of 99"):
            source.check_size(99)


def test_every_change_shows_in_the_identity(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"abc")
    with path.open("r+b") as file:
        before = identity(file.fileno())
        assert before == identity(file.fileno())
        os.utime(file.fileno(), ns=(1, 1))
        assert identity(file.fileno()) != before
        assert identity(file.fileno()).inode == before.inode


def test_the_descriptor_is_closed_once(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"abc")
    source = Source(os.open(path, os.O_RDONLY))
    fd = source._fd
    source.close()
    source.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)

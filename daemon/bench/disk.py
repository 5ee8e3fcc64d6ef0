"""A directory's disk, written and read by a file that has no name. All of it blocks."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from daemon.bench.figures import REPETITIONS, Figure, Sample
from daemon.bench.usage import moment
from daemon.units import format_size

MIB: Final = 1024 * 1024
_ROOM: Final = 64 * MIB
"""Stays free, whatever is measured."""


@contextlib.contextmanager
def scratch(directory: Path, size: int) -> Iterator[int]:
    """A descriptor of an empty file in ``directory`` that vanishes with it, whatever happens.

    Raises OSError where none can be made, or where ``size`` bytes would fill the disk.
    """
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if free < size + _ROOM:
        raise OSError(0, f"{format_size(free)} are free, too little to try", str(directory))
    fd, name = tempfile.mkstemp(prefix=".dropoffd-bench-", dir=directory)
    try:
        Path(name).unlink()
        yield fd
    finally:
        os.close(fd)


def write(directory: Path, fd: int, size: int) -> Figure:
    """Fill the file with ``size`` bytes, a part of them in each repetition, to the disk."""
    block = memoryview(os.urandom(MIB))
    samples = []
    offset = 0
    for repetition in range(1, REPETITIONS + 1):
        end = size * repetition // REPETITIONS

        def fill(start: int = offset, stop: int = end) -> int:
            place = start
            while place < stop:
                place += os.pwrite(fd, block[: stop - place], place)
            os.fsync(fd)
            return stop - start

        samples.append(_timed(fill))
        offset = end
    return Figure(
        name="write",
        subject=str(directory),
        title=f"writing to the disk of {directory}",
        samples=tuple(samples),
        note="with fsync",
    )


def read(directory: Path, fd: int, size: int, seconds: float) -> Figure:
    """Read the file from its beginning, dropped from memory, for some seconds each time."""
    buffer = memoryview(bytearray(MIB))
    samples = []
    cached = False

    def through() -> int:
        ends, offset = time.perf_counter() + seconds, 0
        while offset < size and (not offset or time.perf_counter() < ends):
            offset += os.preadv(fd, [buffer[: size - offset]], offset)
        return offset

    for _ in range(REPETITIONS):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        cached = cached or _in_memory(fd, size // 2)
        samples.append(_timed(through))
    return Figure(
        name="read",
        subject=str(directory),
        title=f"reading from the disk of {directory}",
        samples=tuple(samples),
        note="from memory: it could not be dropped" if cached else "dropped from memory before",
    )


def _timed(work: Callable[[], int]) -> Sample:
    before = moment()
    size = work()
    after = moment()
    return Sample(
        size, after.seconds - before.seconds, after.own - before.own, after.busy_since(before)
    )


def _in_memory(fd: int, offset: int) -> bool:
    """Whether a byte can be had without waiting, or the file system knows no waiting."""
    try:
        return bool(os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT))
    except BlockingIOError:
        return False
    except OSError:
        return True

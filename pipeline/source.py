"""The received file: an open descriptor, read at offsets into buffers that are given.

Never a mapping: a file that is cut short under a mapping kills the process with SIGBUS.
"""

from __future__ import annotations

import contextlib
import errno
import os
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

import msgspec

from pipeline.blocking import in_thread
from pipeline.errors import SourceChangedError, SourceUnavailableError
from pipeline.turns import Waiting

MIB: Final = 1024 * 1024
AHEAD: Final = 8 * MIB
"""Read ahead on the disk, once a read had to wait."""
KEEP: Final = 1024 * MIB
"""What stays in the page cache behind a reader: other deliveries and the digest read it too."""

_NO_WAIT: Final = getattr(os, "RWF_NOWAIT", 0)
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What tells that a file is still the same one, unchanged."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def identity(fd: int) -> Identity:
    """Of an open file, as it is now."""
    found = os.fstat(fd)
    return Identity(
        device=found.st_dev,
        inode=found.st_ino,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
    )


class Source:
    """A file to read from, by an open descriptor that it owns and closes.

    Many readers may use one descriptor at once: its position is never touched.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        try:
            self._inline = _in_memory(os.fstat(fd).st_dev)
        except OSError as error:
            raise _unreadable(error) from error
        self._no_wait = bool(_NO_WAIT)

    def __enter__(self) -> Self:
        """The source itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the descriptor. Once is enough, twice does no harm."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def identity(self) -> Identity:
        """Of the file, as it is now."""
        return identity(self._fd)

    async def read_into(self, out: memoryview, offset: int) -> None:
        """Fill ``out`` with the bytes from ``offset`` on, off the loop where the disk is needed.

        Raises SourceChangedError where the file ends too soon, and SourceUnavailableError
        where it can't be read.
        """
        try:
            done = self._read_cached(out, offset)
            if done < len(out):
                await in_thread(self._read_waiting, out, offset, done)
        except OSError as error:
            raise _unreadable(error) from error

    def read_into_blocking(
        self, out: memoryview, offset: int, waiting: Waiting = contextlib.nullcontext
    ) -> None:
        """Likewise, for a thread that may wait; where it has to, it does so within ``waiting``."""
        try:
            done = self._read_cached(out, offset)
            if done < len(out):
                with waiting():
                    self._read_waiting(out, offset, done)
        except OSError as error:
            raise _unreadable(error) from error

    def check_size(self, size: int) -> None:
        """Raise SourceChangedError where the file isn't ``size`` bytes long."""
        found = os.fstat(self._fd).st_size
        if found != size:
            raise SourceChangedError(f"the file has {found} bytes instead of {size}")

    async def let_go(self, offset: int, length: int) -> None:
        """A part was read: what lies far behind it may leave the page cache.

        Only hours of reading get that far, and then the file would have thrown everything else out
        of the cache. A reader that is slower still reads from the disk again; nothing is lost.
        """
        start = offset - KEEP
        if start >= 0 and not self._inline:
            await in_thread(self._drop, start, length)

    def _drop(self, start: int, length: int) -> None:
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, start, length, os.POSIX_FADV_DONTNEED)

    def _read_cached(self, out: memoryview, offset: int) -> int:
        """Read what can be had without waiting, and say how much that was."""
        if self._inline:
            self._read_waiting(out, offset, 0)
            return len(out)
        done = 0
        while self._no_wait and done < len(out):
            try:
                count = os.preadv(self._fd, [out[done:]], offset + done, _NO_WAIT)
            except BlockingIOError:
                return done
            except OSError as error:
                if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
                    raise
                self._no_wait = False
                return done
            if not count:
                raise _short(offset + done, len(out) - done)
            done += count
        return done

    def _read_waiting(self, out: memoryview, offset: int, done: int) -> None:
        while done < len(out):
            count = os.preadv(self._fd, [out[done:]], offset + done)
            if not count:
                raise _short(offset + done, len(out) - done)
            done += count
        if not self._inline:
            # The disk is slower than we are: have it work on what comes next meanwhile.
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._fd, offset + done, AHEAD, os.POSIX_FADV_WILLNEED)


def _short(offset: int, missing: int) -> SourceChangedError:
    return SourceChangedError(f"the file ends at byte {offset}, {missing} bytes short of its part")


def _unreadable(error: OSError) -> SourceUnavailableError:
    return SourceUnavailableError(f"the file can't be read: {error.strerror}")


@lru_cache(maxsize=64)
def _in_memory(device: int) -> bool:
    """Whether a device is a file system without a disk, which never waits (and knows no NOWAIT)."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [number]:
            return after.split()[:1] != [] and after.split()[0] in _IN_MEMORY
    return False

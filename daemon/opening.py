"""Opening and removing files that others may have prepared: a path is walked, never trusted.

The upload directory is writable by the tus server, and the ids in it may come from outside. So a
path is followed component by component without symlinks, and only a plain file with one link is
taken. All of this blocks: call it from a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Self

from daemon.journal.model import Identity
from pipeline.errors import SourceMissingError, SourceUnsafeError

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that takes the file's place between two looks must not hang the open.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_UNSAFE = frozenset(
    {
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENXIO,
        errno.ENODEV,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EACCES,
        errno.EPERM,
    }
)
_NO_SYNC = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EROFS})


class OpenedSource:
    """A received file, open for reading. A context manager that closes it."""

    def __init__(self, fd: int, identity: Identity) -> None:
        self._fd = fd
        self._identity = identity

    @property
    def fd(self) -> int:
        """The descriptor; -1 once it is closed."""
        return self._fd

    @property
    def identity(self) -> Identity:
        """Of the open file, when it was opened."""
        return self._identity

    def read(self, limit: int) -> bytes:
        """The first ``limit`` bytes, or fewer where the file is shorter."""
        data = bytearray()
        while len(data) < limit and (block := os.read(self._fd, limit - len(data))):
            data += block
        return bytes(data)

    def close(self) -> None:
        """Close it; more than once is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        """The source itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()


def open_source(directory: Path, path: str, roots: Sequence[Path] = ()) -> OpenedSource:
    """Open a file below ``directory``, or an absolute path below it or below one of ``roots``.

    Raises SourceUnsafeError for a path that leaves them, and for anything that is no plain file
    with one link and readable; SourceMissingError where nothing is there. Trouble of the machine
    (too many open files, a failing disk, the directory itself not there) stays an OSError.
    """
    with _parent(directory, path, roots) as (parent, name):
        # A device may act on being opened, so what is there is looked at first.
        looked = _checked(_lstat(parent, name, path), path)
        with _told(path):
            fd = os.open(name, _OPEN, dir_fd=parent)
        try:
            found = _checked(os.fstat(fd), path)
            _check_same(looked, found, path)
            _settle(parent)
            _check_same(found, _checked(_lstat(parent, name, path), path), path)
            return OpenedSource(fd, _identity(found))
        except BaseException:
            os.close(fd)
            raise


def identify(directory: Path, path: str, roots: Sequence[Path] = ()) -> Identity:
    """The identity of what :func:`open_source` would open, without opening it; same errors."""
    with _parent(directory, path, roots) as (parent, name):
        return _identity(_checked(_lstat(parent, name, path), path))


def remove_source(
    directory: Path, path: str, identity: Identity, roots: Sequence[Path] = ()
) -> bool:
    """Delete a file if it still is the one with that device and inode.

    True where it is gone now, by us or before; False where another one stands in its place, which
    is left alone. Raises SourceUnsafeError for a path that leaves the directories, and OSError.
    """
    try:
        with _parent(directory, path, roots) as (parent, name):
            found = _lstat(parent, name, path)
            if (found.st_dev, found.st_ino) != (identity.device, identity.inode):
                return False
            os.unlink(name, dir_fd=parent)
    except (SourceMissingError, FileNotFoundError):
        return True
    return True


def sync_removal(directory: Path, path: str, roots: Sequence[Path] = ()) -> None:
    """Have it survive a power loss that there is nothing at ``path`` any more.

    Where that can't be promised (a directory that we may not read, a file system that knows no
    sync), this does nothing. Raises SourceUnsafeError as :func:`open_source`, and OSError.
    """
    try:
        with _parent(directory, path, roots) as (parent, _):
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    except SourceMissingError:
        return
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def components(path: str) -> tuple[str, ...]:
    """The parts of a relative path, each harmless by itself. Raises SourceUnsafeError."""
    parts = tuple(path.split("/"))
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise SourceUnsafeError(f"the path {path!r} has a component that leaves its directory")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SourceUnsafeError(f"the path {path!r} is no UTF-8") from None
    return parts


@contextlib.contextmanager
def _parent(directory: Path, path: str, roots: Sequence[Path]) -> Iterator[tuple[int, str]]:
    root, parts = _anchored(directory, path, roots)
    # The configured directory itself may be a symlink: it is the operator's word. Where it is
    # missing, a file system isn't mounted, which says nothing about the upload.
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            with _told(path):
                below = os.open(part, _STEP, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd, parts[-1]
    finally:
        os.close(fd)


def _anchored(directory: Path, path: str, roots: Sequence[Path]) -> tuple[Path, tuple[str, ...]]:
    if not path.startswith("/"):
        return directory, components(path)
    parts = ("/", *components(path[1:]))
    allowed = [root for root in (directory, *roots) if parts[: len(root.parts)] == root.parts]
    if not allowed:
        raise SourceUnsafeError(f"the path {path!r} is outside of the upload directory")
    root = max(allowed, key=lambda each: len(each.parts))
    if len(parts) == len(root.parts):
        raise SourceUnsafeError(f"the path {path!r} is a directory")
    return root, PurePosixPath(*parts).relative_to(root).parts


def _lstat(parent: int, name: str, path: str) -> os.stat_result:
    with _told(path):
        return os.stat(name, dir_fd=parent, follow_symlinks=False)


def _checked(found: os.stat_result, path: str) -> os.stat_result:
    if not stat.S_ISREG(found.st_mode):
        raise SourceUnsafeError(f"{path!r} is {_kind(found.st_mode)}, expected a plain file")
    if found.st_nlink == 0:
        raise SourceMissingError(f"{path!r} was removed")
    if found.st_nlink > 1:
        raise SourceUnsafeError(f"{path!r} has {found.st_nlink} links, expected one")
    return found


def _settle(parent: int) -> None:
    """Wait for a rename or a removal that is under way in a directory.

    While the kernel puts another file in place of a link, the link's name still leads to its file,
    which counts one link less already: the only link left may be somebody else's. Looking up a name
    that nobody looked up before waits for the lock that every rename holds.
    """
    with contextlib.suppress(OSError):
        os.stat(f".{secrets.token_hex(8)}", dir_fd=parent, follow_symlinks=False)


def _check_same(looked: os.stat_result, found: os.stat_result, path: str) -> None:
    """A second link to another's file may have been there for the open, and be gone by now.

    A link that comes or goes changes the ctime alone; the tus server's writes change the mtime too.
    """
    if (found.st_dev, found.st_ino) != (looked.st_dev, looked.st_ino):
        raise SourceUnsafeError(f"{path!r} was replaced while it was opened")
    if found.st_ctime_ns != looked.st_ctime_ns and found.st_mtime_ns == looked.st_mtime_ns:
        raise SourceUnsafeError(f"the links of {path!r} changed while it was opened")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _identity(found: os.stat_result) -> Identity:
    return Identity(
        device=found.st_dev,
        inode=found.st_ino,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
    )


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SourceMissingError(f"{path!r} is not there") from None
    except OSError as error:
        if error.errno not in _UNSAFE:
            raise
        raise SourceUnsafeError(f"{path!r} can't be opened safely: {error.strerror}") from None

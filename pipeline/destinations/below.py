"""Files below a directory, reached component by component so that no link leads elsewhere.

Everything here blocks, and raises OSError as it comes.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Final

from pipeline.errors import DestinationRefusedError

DIRECTORY_MODE: Final = 0o750
FILE_MODE: Final = 0o640
_NAME_MAX: Final = 255
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def components(name: str) -> tuple[list[str], str]:
    """The directories and the file of a relative name.

    Raises DestinationRefusedError for one that could lead elsewhere, or that no file can have.
    """
    pieces = name.split("/")
    for piece in pieces:
        if piece in {"", ".", ".."} or "\0" in piece:
            raise DestinationRefusedError(f"{name!r} is no name below a directory")
        try:
            length = len(piece.encode())
        except UnicodeEncodeError as error:
            raise DestinationRefusedError(f"{name!r} is no name for a file") from error
        if length > _NAME_MAX:
            raise DestinationRefusedError(f"{name!r}: {length} bytes are too many for a name")
    return pieces[:-1], pieces[-1]


def temporary_name(final: str, upload: str) -> str:
    """The name beside ``final`` under which an object grows; hidden, and the upload's own."""
    tail = f".{upload}.dropoffd-part"
    room = _NAME_MAX - 1 - len(tail.encode())
    return f".{final.encode()[:room].decode(errors='ignore')}{tail}"


@contextlib.contextmanager
def directory(root: str, names: list[str], *, create: bool) -> Iterator[int]:
    """A descriptor of the directory ``names`` below ``root``; made, durably, with ``create``."""
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            below = _enter(current, name, create=create)
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


def open_regular(parent: int, name: str, flags: int) -> int:
    """Open a plain file. Raises DestinationRefusedError for anything else under that name."""
    fd = os.open(name, flags | _FILE, FILE_MODE, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DestinationRefusedError(f"{name!r} is no plain file")
    return fd


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """All of ``data`` at ``offset``."""
    while data:
        count = os.pwrite(fd, data, offset)
        data = data[count:]
        offset += count


def _enter(parent: int, name: str, *, create: bool) -> int:
    try:
        below = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
        below = os.open(name, _DIRECTORY, dir_fd=parent)
    if create:
        try:
            # Also where it was there: who made it may have died, or not yet come, to sync it.
            os.fsync(parent)
        except BaseException:
            os.close(below)
            raise
    return below

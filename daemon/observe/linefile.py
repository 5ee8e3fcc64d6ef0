"""A file of lines that grows, is rotated by size, and survives torn lines and full disks."""

from __future__ import annotations

import os
from pathlib import Path


class LineFile:
    """``metrics.jsonl``, and ``metrics.jsonl.1`` (younger) to ``.<keep>`` (oldest) behind it.

    For one thread of one process. Lines are not synced: they may be lost with the machine's power,
    never the service's work with them.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor: int | None = None
        self._left = b""
        self._inside = False
        """Whether ``_left`` begins in the middle of a line."""

    def append(self, lines: bytes = b"") -> None:
        """Write whole lines. Raises OSError, and then keeps what could not be written.

        Call again without lines, later, until that's gone; only then with new ones.
        """
        self._left += lines
        if not self._inside:
            self._rotate_for(len(self._left))
        while self._left:
            written = os.write(self._open(), self._left)
            self._inside = self._left[written - 1 : written] != b"\n"
            self._left = self._left[written:]

    def close(self) -> None:
        """Close the file. The next ``append`` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is not None:
            return self._descriptor
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o640)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                # A crash tore the last line: it stays alone on its line, the next ones are whole.
                os.write(descriptor, b"\n")
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return descriptor

    def _rotate_for(self, coming: int) -> None:
        status = os.fstat(self._open())
        try:
            there = self._path.stat()
        except FileNotFoundError:
            self.close()
            return
        if (there.st_dev, there.st_ino) != (status.st_dev, status.st_ino):
            # Somebody else rotated it.
            self.close()
            return
        if not status.st_size or status.st_size + coming <= self._max_bytes:
            return
        for number in range(self._keep - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))
        self.close()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def rotated(path: Path) -> list[Path]:
    """The file and what was rotated out of it, oldest first; those that are there."""
    numbered = []
    for other in path.parent.glob(f"{path.name}.*"):
        number = other.name.removeprefix(f"{path.name}.")
        if number.isascii() and number.isdigit():
            numbered.append((int(number), other))
    files = [other for _, other in sorted(numbered, reverse=True)]
    return [*files, path] if path.exists() else files

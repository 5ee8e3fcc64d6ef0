"""The audit log: who did what to which upload, as a chain that shows when it was changed.

Each line carries, as ``previous``, the SHA-256 of the line before. What a crash tore stays where it
is: the entry behind it tells of the recovery, and carries the torn bytes' hash as ``previous`` and
that of the last whole entry as ``resumes``.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from daemon.errors import StateFullError
from daemon.observe.lines import encode, timestamp
from daemon.ports import Clock
from pipeline.errors import DropoffError

FILE = "audit.jsonl"
"""Its name in the state directory."""
FIRST = "0" * 64
"""What the first entry has as ``previous``."""
RECOVERED = "recovered"
"""The action of the entry that follows a torn line."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FAILING = frozenset({errno.EIO, errno.EROFS})
_BEGINNING = b'{"ts":"'
"""Of each entry."""
_BLOCK = 64 * 1024
_MAX_LINE = 1024 * 1024
"""Far over what an entry may have: what is longer was not written by us."""
_MAX_TORN_LINES = 8
"""Several in a row: crashes while recovering from one."""


class AuditBrokenError(DropoffError):
    """The audit log is not as it was written. The message names the line."""

    code = "audit_broken"


class _Link(msgspec.Struct, frozen=True):
    """What the chain needs of an entry."""

    previous: str
    action: str
    resumes: str = ""


class AuditLog:
    """Appends entries; implements :class:`daemon.ports.Audit`.

    Several of one process, and several processes, may append to the same file.
    """

    def __init__(self, path: Path, *, clock: Clock = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()

    async def record(self, action: str, upload: str, by: str, **fields: object) -> None:
        """Append an entry; durable when this returns.

        Raises StateFullError where no space is left or the disk fails, which may pass; OSError
        where the file can't be opened.
        Cancelling doesn't take back what is being written.
        """
        entry = {
            "ts": timestamp(self._clock()),
            "action": action,
            "upload": upload,
            "by": by,
            **fields,
        }
        try:
            await asyncio.to_thread(self._append, entry)
        except OSError as error:
            if error.errno in _FULL:
                raise StateFullError(f"{self._path}: no space left for the audit log") from error
            if error.errno in _FAILING:
                raise StateFullError(f"{self._path}: {error.strerror}") from error
            raise

    def _append(self, entry: dict[str, object]) -> None:
        """Read where the chain ends, go on there, and sync."""
        with self._lock, self._open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            if not size:
                # Before there is anything in it, so that no death in between is forgotten.
                _sync_directory(self._path.parent)
            new = b"".join(_following(entry, _end(file, size)))
            try:
                _write_all(file.fileno(), new)
                os.fsync(file.fileno())
            except OSError:
                # Nobody was told that it is there, so it may go; what stays is seen as torn.
                os.ftruncate(file.fileno(), size)
                raise

    def _open(self) -> BinaryIO:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return open(  # noqa: PTH123 - by flags and mode; the caller closes
            os.open(self._path, flags, 0o600), "r+b", buffering=0
        )


def verify(path: Path) -> int:
    """How many entries the log has, all of them in an unbroken chain. No log has 0.

    A torn last line is what a crash leaves, and no break. Raises AuditBrokenError with the line.
    """
    try:
        with path.open("rb") as file:
            return _verify(file, path)
    except FileNotFoundError:
        return 0


def _verify(file: BinaryIO, path: Path) -> int:
    entries = 0
    before = FIRST
    torn: list[bytes] = []
    for number, line in enumerate(_lines(file), start=1):
        link = _link(line)
        if link is None:
            torn.append(line)
            if len(torn) > _MAX_TORN_LINES or not _may_be_torn(line):
                raise AuditBrokenError(f"{path}:{number}: not an entry of the audit log")
            continue
        if torn and (link.action != RECOVERED or link.resumes != before):
            raise AuditBrokenError(f"{path}:{number - 1}: not an entry of the audit log")
        if link.previous != (_digest(b"\n".join(torn)) if torn else before):
            raise AuditBrokenError(f"{path}:{number}: the line before it is not the one it follows")
        before = _digest(line)
        torn.clear()
        entries += 1
    return entries


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines without their ends; of one that is far too long, only its beginning."""
    while line := file.readline(_MAX_LINE):
        yield line.removesuffix(b"\n")
        while len(line) == _MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(_MAX_LINE)


def _may_be_torn(line: bytes) -> bool:
    """Whether it is the beginning of an entry, or zeros, which a power loss may leave for one."""
    begun = line.rstrip(b"\0")
    return begun[: len(_BEGINNING)] == _BEGINNING[: len(begun)]


class _End(msgspec.Struct, frozen=True, kw_only=True):
    """How a log ends."""

    last: bytes
    """The last whole entry; empty where there is none."""
    torn: bytes
    """What follows it, without a last newline; empty where all is well."""
    newline: bool
    """Whether the file ends a line."""


def _end(file: BinaryIO, size: int) -> _End:
    """Look for the last whole entry from the end on, through what crashes may have left there."""
    found = b""
    start = size
    while start and len(found) < _MAX_LINE:
        length = min(_BLOCK, start)
        start -= length
        found = os.pread(file.fileno(), length, start) + found
        lines = found.removesuffix(b"\n").split(b"\n")
        # The first line may begin before what was read.
        for index in range(len(lines) - 1, -1 if not start else 0, -1):
            if _link(lines[index]) is not None:
                return _End(
                    last=lines[index],
                    torn=b"\n".join(lines[index + 1 :]),
                    newline=found.endswith(b"\n"),
                )
    return _End(last=b"", torn=found.removesuffix(b"\n"), newline=not found or found[-1:] == b"\n")


def _following(entry: dict[str, object], end: _End) -> Iterator[bytes]:
    """What to append behind such an end."""
    previous = _digest(end.last) if end.last else FIRST
    if not end.newline:
        yield b"\n"
    if end.torn:
        recovery = _line(
            {
                "ts": entry["ts"],
                "action": RECOVERED,
                "upload": "",
                "by": "dropoffd",
                "torn_bytes": len(end.torn),
                "resumes": previous,
                "previous": _digest(end.torn),
            }
        )
        yield recovery + b"\n"
        previous = _digest(recovery)
    yield _line({**entry, "previous": previous}) + b"\n"


def _line(entry: dict[str, object]) -> bytes:
    return encode(entry).encode()


def _link(line: bytes) -> _Link | None:
    try:
        return msgspec.json.decode(line, type=_Link)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Reads a metrics log: with what was rotated out of it, over torn lines, and while it grows."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from daemon.observe.lines import timestamp

Record = dict[str, Any]

_MAX_LINE = 1024 * 1024
_POLL_SECONDS = 0.3
_LAST_BYTES = 64 * 1024
_BEYOND = 2**63
"""No number that is written here is that far from 0."""


class Reader:
    """Reads records from files, oldest file first, and counts what isn't one."""

    def __init__(self) -> None:
        self.unreadable = 0
        """Lines that are no record: torn ones, mostly."""

    def records(self, files: Iterable[Path], since: float | None = None) -> Iterator[Record]:
        """The records, those from ``since`` (seconds since the epoch) on.

        A file that is rotated away meanwhile is still read to its end; one that vanished before
        is passed over. Raises OSError where one can't be read.
        """
        least = "" if since is None else timestamp(since)
        for path in files:
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue
            with file:
                if since is not None and os.fstat(file.fileno()).st_mtime < since:
                    continue
                for line in _lines(file):
                    record = parse(line)
                    if record is None:
                        self.unreadable += 1
                    elif record["ts"] >= least:
                        yield record


def parse(line: bytes) -> Record | None:
    """A record of the metrics log, or None where the line is none."""
    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    known = all(isinstance(record.get(name), str) for name in ("ts", "event", "outcome"))
    return record if known and all(map(_countable, record.values())) else None


def _countable(value: object) -> bool:
    """Whether sums and means of such values can be had; JSON's numbers may have any length."""
    return not isinstance(value, (int, float)) or abs(value) < _BEYOND


def follow(
    path: Path, since: float | None = None, *, sleep: Callable[[float], object] = time.sleep
) -> Generator[Record, None, None]:
    """Records as they are written, for ever; first the last few, or those from ``since`` on.

    Goes along with rotation, and waits for a file that isn't there yet.
    """
    least = "" if since is None else timestamp(since)
    file = _wait_for(path, sleep)
    try:
        if since is None:
            _skip_to_last(file)
        rest = b""
        while True:
            block = file.read(_MAX_LINE)
            if block:
                *whole, rest = (rest + block).split(b"\n")
                rest = rest[-_MAX_LINE:]
                for line in whole:
                    record = parse(line)
                    if record is not None and record["ts"] >= least:
                        yield record
            elif _is_replaced(file, path):
                file.close()
                file, rest = _wait_for(path, sleep), b""
            else:
                sleep(_POLL_SECONDS)
    finally:
        file.close()


def _lines(file: io.BufferedReader) -> Iterator[bytes]:
    """Lines, those that are far too long in pieces that are no record."""
    while line := file.readline(_MAX_LINE):
        if line.strip():
            yield line


def _wait_for(path: Path, sleep: Callable[[float], object]) -> io.BufferedReader:
    while True:
        try:
            return path.open("rb")
        except FileNotFoundError:
            sleep(_POLL_SECONDS)


def _skip_to_last(file: io.BufferedReader) -> None:
    """Go to the beginning of the last ten lines."""
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - _LAST_BYTES))
    lines = file.read().splitlines(keepends=True)
    file.seek(start + sum(len(line) for line in lines[:-10]))


def _is_replaced(file: io.BufferedReader, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(file.fileno())
    return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino) or there.st_size < file.tell()

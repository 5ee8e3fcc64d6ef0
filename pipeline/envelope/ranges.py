"""Some bytes of a sealed object's plaintext, for the price of the segments that hold them."""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, Final, NamedTuple

from pipeline.envelope.base import BATCH, SEGMENT, Opened, Readable, Seekable
from pipeline.errors import EnvelopeError

_RANGE = re.compile(r"([0-9]{0,19})-([0-9]{0,19})")
_BLOCK: Final = SEGMENT
"""Bytes of a header that are asked for at a time; most are far shorter."""
_GAP: Final = BATCH * SEGMENT
"""Plaintext that is rather read in passing than asked around."""


class RangeError(ValueError):
    """A range that is none, or that lies outside of what is there."""


class ByteRange(NamedTuple):
    """Bytes of a plaintext as HTTP counts them: from 0 on, the last one included."""

    first: int | None
    """None: the last ``last`` bytes are meant."""
    last: int | None
    """None: all from ``first`` on."""

    @classmethod
    def parse(cls, text: str) -> ByteRange:
        """The range that ``A-B``, ``A-`` or ``-N`` says. Raises RangeError."""
        found = _RANGE.fullmatch(text)
        first, last = map(_number, found.groups()) if found else (None, None)
        if first is None and not last:
            raise RangeError(f"{text!r} is not A-B, A- or -N in bytes")
        if first is not None and last is not None and last < first:
            raise RangeError(f"{text!r} ends before it starts")
        return cls(first, last)

    def within(self, size: int) -> tuple[int, int]:
        """Where it starts, and where what follows it does, in ``size`` bytes.

        It may reach beyond the end, but not begin there; nothing but the beginning is in an empty
        plaintext. Raises RangeError.
        """
        if self.first is None:
            return max(0, size - (self.last or 0)), size
        if self.first >= size and self.first:
            raise RangeError(f"byte {self.first} is beyond the end: there are {size}")
        return self.first, size if self.last is None else min(self.last + 1, size)


class FileSource:
    """A plain file as a :class:`~pipeline.envelope.base.Seekable`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size

    def reader(self, start: int, stop: int) -> Readable:
        """See :class:`~pipeline.envelope.base.Seekable`."""
        self._file.seek(start)
        return _Limited(self._file, stop - start)


class _Limited:
    """The next bytes of a file, and no more."""

    def __init__(self, file: Readable, left: int) -> None:
        self._file = file
        self._left = left

    def read(self, size: int, /) -> bytes:
        piece = self._file.read(min(size, self._left))
        self._left -= len(piece)
        return piece


class HeaderReader:
    """The beginning of a source, asked for in small pieces; who needs it knows no length ahead."""

    def __init__(self, source: Seekable) -> None:
        self._source = source
        self._position = 0
        self._ahead = b""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes."""
        if not self._ahead:
            stop = min(self._position + _BLOCK, self._source.size)
            self._ahead = self._source.reader(self._position, stop).read(stop - self._position)
            self._position += len(self._ahead)
        piece, self._ahead = self._ahead[:size], self._ahead[size:]
        return piece


def plaintext_size(opened: Opened, source: Seekable) -> int:
    """Bytes of all that is meant to be read. Raises EnvelopeError for an impossible size."""
    kept = opened.kept(opened.plaintext_size(source.size))
    return sum(stop - start for start, stop in kept)


def open_whole(opened: Opened, source: Readable) -> Iterator[memoryview]:
    """All that is meant to be read, from segments whose end comes out only when they are read."""
    return cut(opened.segments(source, 0, is_end=True), 0, opened.kept(sys.maxsize))


def open_range(opened: Opened, source: Seekable, start: int, stop: int) -> Iterator[memoryview]:
    """Bytes ``start`` to before ``stop`` of what is meant to be read.

    Where the format marks its last segment, that one is opened too: a source that was cut off is
    found out wherever the range lies. A view is valid until the next one is taken. Raises
    EnvelopeError for damage, and for a source that gives less than it said.
    """
    size = opened.plaintext_size(source.size)
    spans = list(_spans(opened.kept(size), start, stop))
    if opened.marks_end and not (spans and spans[-1][1] > max(0, size - 1) // SEGMENT * SEGMENT):
        for _ in _run(opened, source, max(0, size - 1), size):
            pass
    for run in _runs(spans):
        missing = sum(end - begin for begin, end in run)
        position = run[0][0] // SEGMENT * SEGMENT
        for view in cut(_run(opened, source, run[0][0], run[-1][1]), position, run):
            missing -= len(view)
            yield view
        if missing:
            raise EnvelopeError("the file became shorter while it was read")


def cut(
    plaintext: Iterable[memoryview], position: int, spans: Sequence[tuple[int, int]]
) -> Iterator[memoryview]:
    """The ``spans`` of a plaintext that is given from byte ``position`` on."""
    left = deque(spans)
    if not left:
        return
    for view in plaintext:
        end = position + len(view)
        while left and left[0][0] < end:
            start, stop = left[0]
            yield view[max(start, position) - position : min(stop, end) - position]
            if stop > end:
                break
            left.popleft()
        if not left:
            return
        position = end


def _number(digits: str) -> int | None:
    return int(digits) if digits else None


def _run(opened: Opened, source: Seekable, start: int, stop: int) -> Iterator[memoryview]:
    """All segments that hold plaintext bytes ``start`` to before ``stop``."""
    first, behind = start // SEGMENT, -(-stop // SEGMENT)
    begin = opened.header_length + first * opened.sealed_segment
    end = min(opened.header_length + max(1, behind) * opened.sealed_segment, source.size)
    sealed: Readable = source.reader(begin, end)
    return opened.segments(sealed, first, is_end=end == source.size)


def _spans(kept: Sequence[tuple[int, int]], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """What bytes ``start`` to before ``stop`` of the kept ones are in the whole plaintext."""
    position = 0
    for begin, end in kept:
        first, behind = max(start - position, 0), min(stop - position, end - begin)
        if first < behind:
            yield begin + first, begin + behind
        position += end - begin
        if position >= stop:
            return


def _runs(spans: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Spans that are near each other, to be read in one go."""
    run: list[tuple[int, int]] = []
    for span in spans:
        if run and span[0] - run[-1][1] > _GAP:
            yield run
            run = []
        run.append(span)
    if run:
        yield run

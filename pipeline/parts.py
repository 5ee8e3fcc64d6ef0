"""How an upload is cut into parts, and where each stands in the sealed object."""

from __future__ import annotations

from typing import Final

from pipeline.destinations.base import Limits, PartPlace
from pipeline.envelope import SEGMENT, by_format
from pipeline.errors import DestinationRefusedError
from pipeline.messages import Seal, Span

CHUNK: Final = 16 * SEGMENT
"""Plaintext that is read and sealed at a time: 1 MiB, a third of a millisecond of work."""
READ: Final = 8 * SEGMENT
"""Plaintext that is only read and hashed, at a time: more doesn't stay in the CPU's own cache."""

SEALING: Final = 28
"""Bytes that sealing adds to a segment at most."""
HEADER_ROOM: Final = 512 * 1024
"""Bytes that are left in the longest part for the header: thousands of recipients."""

S3_LIMITS: Final = Limits(min_part=5 * 1024 * 1024)
"""The strictest of all: parts that S3 takes suit every destination."""


def plan_parts(size: int, part_size: int, limits: Limits = S3_LIMITS) -> int:
    """Plaintext bytes of each part but the last; 0 where it has to go in one piece.

    A multiple of the segment size, at least ``part_size``, and more where the destination asks
    for longer parts or would otherwise need too many. Raises DestinationRefusedError for an upload
    that is too large for it.
    """
    if not limits.parts:
        return 0
    wanted = max(part_size, limits.min_part, -(-size // limits.max_parts), 1)
    longest = (limits.max_part - HEADER_ROOM) // (SEGMENT + SEALING) * SEGMENT
    planned = min(-(-wanted // SEGMENT) * SEGMENT, longest)
    if planned * limits.max_parts < size:
        most = longest * limits.max_parts
        raise DestinationRefusedError(
            f"the upload has {size} bytes, the destination takes less than {most}"
        )
    return planned


def spans(size: int, part_size: int) -> list[Span]:
    """The parts of ``size`` plaintext bytes. An empty upload is one empty part."""
    if part_size <= 0:
        return [Span(number=1, offset=0, length=size)]
    return [
        Span(number=number, offset=offset, length=min(part_size, size - offset))
        for number, offset in enumerate(range(0, max(size, 1), part_size), start=1)
    ]


def whole(seal: Seal) -> Span:
    """All of an upload as one part."""
    return Span(number=1, offset=0, length=seal.size)


def place(seal: Seal, span: Span) -> PartPlace:
    """Where a part stands in the sealed object. The first one carries the header."""
    layout = by_format(seal.format)
    header = len(seal.header)
    end = span.offset + span.length
    start = layout.sealed_offset(header, span.offset)
    stop = (
        layout.sealed_size(header, seal.size)
        if end == seal.size
        else layout.sealed_offset(header, end)
    )
    return PartPlace(number=span.number, offset=start, size=stop - start)

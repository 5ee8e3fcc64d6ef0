"""How uploads are cut into parts, up to the largest object that S3 takes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.envelope import SEGMENT, by_format
from pipeline.errors import DestinationRefusedError
from pipeline.messages import EnvelopeFormat
from pipeline.parts import S3_LIMITS, plan_parts, spans

MIB, GIB, TIB = 1024**2, 1024**3, 1024**4
LARGEST = 488 * TIB // 10
"""48.8 TiB, what Amazon says."""
HEADER = 124 + 20 * 108
"""Crypt4GH for 21 recipients."""

FORMATS: tuple[EnvelopeFormat, ...] = ("crypt4gh", "age", "none")


def count(size: int, part: int) -> int:
    return max(1, -(-size // part))


@given(
    size=st.integers(0, LARGEST),
    wanted=st.integers(1, 6 * GIB // 2),
    name=st.sampled_from(FORMATS),
)
@example(size=LARGEST, wanted=16 * MIB, name="crypt4gh")
@example(size=LARGEST - 1, wanted=16 * MIB, name="age")
@example(size=10_000 * 16 * MIB, wanted=16 * MIB, name="none")
@example(size=10_000 * 16 * MIB + 1, wanted=16 * MIB, name="none")
@example(size=0, wanted=1, name="crypt4gh")
def test_parts_keep_the_limits_of_s3(size: int, wanted: int, name: EnvelopeFormat) -> None:
    layout = by_format(name)
    part = plan_parts(size, wanted)
    assert part % SEGMENT == 0
    assert part >= wanted
    assert count(size, part) <= S3_LIMITS.max_parts
    header = HEADER if layout.seals else 0
    first = layout.sealed_offset(header, part) if size > part else layout.sealed_size(header, size)
    assert first <= S3_LIMITS.max_part
    assert part >= S3_LIMITS.min_part


@given(st.integers(0, 3000 * MIB))
def test_parts_are_whole_and_without_gaps(size: int) -> None:
    part = plan_parts(size, 5 * MIB)
    found = spans(size, part)
    assert [span.number for span in found] == list(range(1, len(found) + 1))
    assert [span.offset for span in found] == [part * n for n in range(len(found))]
    assert sum(span.length for span in found) == size
    assert all(span.length == part for span in found[:-1])


def test_a_part_size_that_does_is_kept() -> None:
    assert plan_parts(10_000 * 16 * MIB, 16 * MIB) == 16 * MIB
    assert plan_parts(10_000 * 16 * MIB + 1, 16 * MIB) == 16 * MIB + SEGMENT


@pytest.mark.parametrize("size", [LARGEST + TIB // 10, 64 * TIB])
def test_what_no_store_takes_is_refused_before_a_byte_is_sent(size: int) -> None:
    with pytest.raises(DestinationRefusedError, match="the destination takes less than"):
        plan_parts(size, 16 * MIB)

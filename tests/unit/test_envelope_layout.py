"""Layout and sealing: any part can be sealed by itself, and always comes out the same."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import envelope
from pipeline.envelope import SEGMENT
from pipeline.envelope.base import read_batches, read_full
from pipeline.errors import RecipientError
from pipeline.messages import EnvelopeFormat

KEY = bytes(range(32))
PLAINTEXT = os.urandom(7 * SEGMENT + 1000)
SEALING: tuple[EnvelopeFormat, ...] = ("crypt4gh", "age")
ALL: tuple[EnvelopeFormat, ...] = (*SEALING, "none")

formats = st.sampled_from(ALL)
headers = st.integers(0, 100_000)
sizes = st.one_of(
    st.integers(0, 2**47),
    st.integers(0, 1000).flatmap(lambda n: st.integers(max(0, n * SEGMENT - 1), n * SEGMENT + 1)),
)
segments = st.integers(0, 2**31)
plaintext_sizes = st.sampled_from(
    (0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT, len(PLAINTEXT))
)


def seal(name: EnvelopeFormat, plaintext: bytes) -> bytes:
    """All in one go."""
    form = envelope.by_format(name)
    out = bytearray(form.sealed_size(0, len(plaintext)))
    sealer = form.sealer(KEY, len(plaintext))
    assert sealer.seal_into(0, memoryview(plaintext), memoryview(out)) == len(out)
    return bytes(out)


@st.composite
def splits(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A plaintext's size, and the segments that its parts start at."""
    size = draw(plaintext_sizes)
    starts = draw(st.sets(st.integers(0, size // SEGMENT)))
    return size, sorted({0, *(start for start in starts if start * SEGMENT < size)})


@given(formats, splits())
def test_sealing_in_any_parts_gives_the_bytes_of_sealing_in_one_go(
    name: EnvelopeFormat, split: tuple[int, list[int]]
) -> None:
    size, starts = split
    plaintext = memoryview(PLAINTEXT)[:size]
    form = envelope.by_format(name)
    sealed = bytearray(form.sealed_size(0, size))
    # Last part first, each with a sealer of its own: no part knows of another.
    for start, end in reversed(list(pairwise([*(s * SEGMENT for s in starts), size]))):
        place = memoryview(sealed)[form.sealed_offset(0, start) :]
        form.sealer(KEY, size).seal_into(start // SEGMENT, plaintext[start:end], place)
    assert bytes(sealed) == seal(name, bytes(plaintext))


@given(formats, headers, sizes, segments)
def test_an_object_is_as_long_as_its_pieces(
    name: EnvelopeFormat, header: int, size: int, segment: int
) -> None:
    form = envelope.by_format(name)
    split = min(segment * SEGMENT, size // SEGMENT * SEGMENT)
    if 0 < split < size:
        first = form.sealed_offset(header, split)
        assert first + form.sealed_size(0, size - split) == form.sealed_size(header, size)


@given(formats, headers, segments)
def test_offsets_start_with_the_header_and_grow(
    name: EnvelopeFormat, header: int, segment: int
) -> None:
    form = envelope.by_format(name)
    assert form.sealed_offset(header, 0) == 0
    here = form.sealed_offset(header, (segment + 1) * SEGMENT)
    assert here == form.sealed_size(header, (segment + 1) * SEGMENT)
    assert form.sealed_offset(header, (segment + 2) * SEGMENT) >= here + SEGMENT


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("offset", [1, SEGMENT - 1, SEGMENT + 1, -SEGMENT])
def test_no_part_starts_inside_a_segment(name: EnvelopeFormat, offset: int) -> None:
    with pytest.raises(ValueError, match="no segment starts"):
        envelope.by_format(name).sealed_offset(124, offset)


@pytest.mark.parametrize("name", SEALING)
def test_a_short_segment_is_only_sealed_at_the_end_of_the_upload(name: EnvelopeFormat) -> None:
    # Sealed again when it has grown, it would meet its nonce a second time.
    sealer = envelope.by_format(name).sealer(KEY, 2 * SEGMENT)
    with pytest.raises(ValueError, match="may be short"):
        sealer.seal_into(0, memoryview(bytes(SEGMENT + 1)), memoryview(bytearray(3 * SEGMENT)))


@pytest.mark.parametrize("name", SEALING)
def test_nothing_is_sealed_beyond_the_end_of_the_upload(name: EnvelopeFormat) -> None:
    sealer = envelope.by_format(name).sealer(KEY, SEGMENT)
    with pytest.raises(ValueError, match="the upload has"):
        sealer.seal_into(1, memoryview(b"x"), memoryview(bytearray(100)))


@pytest.mark.parametrize("name", ALL)
def test_a_buffer_that_is_too_small_is_refused(name: EnvelopeFormat) -> None:
    form = envelope.by_format(name)
    out = memoryview(bytearray(form.sealed_size(0, 1000) - 1))
    with pytest.raises(ValueError, match="don't hold"):
        form.sealer(KEY, 1000).seal_into(0, memoryview(bytes(1000)), out)


@pytest.mark.parametrize("name", SEALING)
def test_no_two_segments_are_sealed_alike(name: EnvelopeFormat) -> None:
    form = envelope.by_format(name)
    sealed = seal(name, bytes(4 * SEGMENT))
    places = [form.sealed_offset(0, n * SEGMENT) for n in range(4)]
    assert len({sealed[place + 12 : place + 44] for place in places}) == 4


def test_no_envelope_leaves_the_plaintext_and_needs_nobody() -> None:
    form = envelope.by_format("none")
    assert form.make([]) == (b"", b"", ())
    assert form.make(["whoever"]) == (b"", b"", ())
    assert seal("none", PLAINTEXT) == PLAINTEXT
    assert b"".join(map(bytes, form.open_stream(io.BytesIO(PLAINTEXT), b""))) == PLAINTEXT
    assert not form.seals


@pytest.mark.parametrize(("name", "suffix"), [("crypt4gh", ".c4gh"), ("age", ".age"), ("none", "")])
def test_an_object_s_name_tells_its_format(name: EnvelopeFormat, suffix: str) -> None:
    assert envelope.by_format(name).suffix == suffix


@pytest.mark.parametrize("name", SEALING)
def test_encryption_for_nobody_is_refused(name: EnvelopeFormat) -> None:
    with pytest.raises(RecipientError, match="no recipient"):
        envelope.by_format(name).make([])


class Trickle:
    """A source that gives what it likes, as sockets and pipes do."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, size: int, /) -> bytes:
        piece = next(self._pieces, b"")
        assert len(piece) <= size
        return piece


@given(st.lists(st.binary(min_size=1, max_size=3)), st.integers(3, 10))
def test_reading_goes_on_until_there_is_enough(pieces: list[bytes], size: int) -> None:
    read = read_full(Trickle(iter(pieces[: size // 3])), size)
    assert read == b"".join(pieces[: size // 3])


@given(st.binary(max_size=64), st.integers(1, 16))
def test_the_last_batch_is_known_as_such(data: bytes, size: int) -> None:
    batches = list(read_batches(io.BytesIO(data), size))
    assert b"".join(batch for batch, _ in batches) == data
    assert [last for _, last in batches] == [False] * (len(batches) - 1) + [True]
    assert all(len(batch) == size for batch, _ in batches[:-1])

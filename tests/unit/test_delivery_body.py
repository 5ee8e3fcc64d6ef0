"""How an upload is cut into parts, and what bytes they give."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from awscrt.checksums import crc64nvme
from hypothesis import given
from hypothesis import strategies as st

from pipeline.buffers import Buffers
from pipeline.delivery import SealedBody, combined_crc
from pipeline.destinations.base import Limits
from pipeline.envelope import SEGMENT, by_format
from pipeline.errors import DestinationRefusedError, SourceChangedError
from pipeline.messages import EnvelopeFormat, Seal, StoredPart
from pipeline.parts import CHUNK, place, plan_parts, spans, whole
from pipeline.source import Source

MIB = 1024 * 1024
TIB = MIB * MIB
HEADER = bytes(range(124))

sizes = st.integers(0, 50 * TIB)
formats = st.sampled_from(["crypt4gh", "none"])


def seal_of(name: EnvelopeFormat, size: int) -> Seal:
    sealed = name != "none"
    return Seal(
        format=name, key=b"k" * 32 if sealed else b"", header=HEADER if sealed else b"", size=size
    )


@given(sizes, st.integers(1, 5 * 1024 * MIB - 10 * MIB))
def test_a_plan_never_needs_too_many_parts(size: int, part_size: int) -> None:
    limits = Limits(min_part=5 * MIB, max_part=6 * 1024 * MIB)
    planned = plan_parts(size, part_size, limits)
    assert planned % SEGMENT == 0
    assert planned >= max(part_size, 5 * MIB)
    assert -(-size // planned) <= 10_000


def test_parts_stay_as_configured_while_they_can() -> None:
    assert plan_parts(156 * 1024 * MIB, 16 * MIB) == 16 * MIB
    assert plan_parts(10_000 * 16 * MIB, 16 * MIB) == 16 * MIB
    assert plan_parts(10_000 * 16 * MIB + 1, 16 * MIB) == 16 * MIB + SEGMENT
    assert plan_parts(100 * MIB, 1) == 5 * MIB


def test_an_upload_that_no_plan_fits_is_refused() -> None:
    with pytest.raises(DestinationRefusedError, match="takes less than"):
        plan_parts(60 * TIB, 16 * MIB)


def test_a_destination_without_parts_gets_one_piece() -> None:
    assert plan_parts(10 * TIB, 16 * MIB, Limits(parts=False)) == 0


@given(formats, st.integers(0, 3000 * SEGMENT), st.integers(1, 50))
def test_parts_cover_the_object_without_gap_or_overlap(
    name: EnvelopeFormat, size: int, segments: int
) -> None:
    seal = seal_of(name, size)
    cut = spans(size, segments * SEGMENT)
    assert [span.number for span in cut] == list(range(1, len(cut) + 1))
    assert sum(span.length for span in cut) == size
    places = [place(seal, span) for span in cut]
    end = 0
    for part in places:
        assert part.offset == end
        end += part.size
    assert end == by_format(name).sealed_size(len(seal.header), size)


async def read(body: SealedBody) -> bytes:
    return b"".join([bytes(view) async for view in body])


EDGES = [
    *(0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1),
    *(MIB - 1, MIB, MIB + 1, 3 * MIB, 3 * MIB + 7),
]


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("name", ["crypt4gh", "none"])
async def test_parts_are_the_pieces_of_the_whole(
    name: EnvelopeFormat, size: int, tmp_path: Path
) -> None:
    data = os.urandom(size)
    (tmp_path / "data").write_bytes(data)
    seal = seal_of(name, size)
    with Source(os.open(tmp_path / "data", os.O_RDONLY)) as source:
        whole_body = SealedBody(source, seal, whole(seal), digest="sha256")
        sealed = await read(whole_body)
        by_thread = SealedBody(source, seal, whole(seal), digest="sha256")
        assert b"".join(bytes(view) for view in by_thread.pieces(nullcontext)) == sealed
        assert by_thread.plaintext_digest == whole_body.plaintext_digest
        assert by_thread.crc64nvme == whole_body.crc64nvme
        parts = []
        pieces = []
        for span in spans(size, MIB + SEGMENT):
            body = SealedBody(source, seal, span)
            pieces.append(await read(body))
            assert len(pieces[-1]) == body.size
            parts.append(StoredPart(number=span.number, size=body.size, crc64nvme=body.crc64nvme))
    assert b"".join(pieces) == sealed
    assert whole_body.crc64nvme == crc64nvme(sealed) == combined_crc(parts)
    assert whole_body.plaintext_digest == hashlib.sha256(data).hexdigest()
    assert sealed.startswith(seal.header)
    if name == "none":
        assert sealed == data


async def test_a_body_read_again_gives_the_same_bytes_and_sums(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(2 * MIB + 3))
    seal = seal_of("crypt4gh", 2 * MIB + 3)
    with Source(os.open(tmp_path / "data", os.O_RDONLY)) as source:
        body = SealedBody(source, seal, whole(seal), digest="blake3")
        assert body.md5 is None
        first = await read(body)
        seen = (body.crc64nvme, body.plaintext_digest)
        body.with_md5()
        async for _ in body:
            break
        assert await read(body) == first
    assert (body.crc64nvme, body.plaintext_digest) == seen
    assert body.md5 == hashlib.md5(first, usedforsecurity=False).digest()


async def test_a_view_outlives_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(4 * MIB))
    seal = seal_of("crypt4gh", 4 * MIB)
    with Source(os.open(tmp_path / "data", os.O_RDONLY)) as source:
        sealed = await read(SealedBody(source, seal, whole(seal)))
        last: memoryview = memoryview(b"")
        seen = b""
        async for view in SealedBody(source, seal, whole(seal)):
            seen += last
            last = view
        assert seen + last == sealed


async def test_a_file_cut_short_ends_the_body_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(MIB))
    seal = seal_of("crypt4gh", MIB + 1)
    with (
        Source(os.open(tmp_path / "data", os.O_RDONLY)) as source,
        pytest.raises(SourceChangedError),
    ):
        await read(SealedBody(source, seal, whole(seal)))
    with (
        Source(os.open(tmp_path / "data", os.O_RDONLY)) as source,
        pytest.raises(SourceChangedError),
    ):
        list(SealedBody(source, seal, whole(seal)).pieces(nullcontext))


def test_a_thread_says_when_it_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").write_bytes(bytes(MIB))
    seal = seal_of("crypt4gh", MIB)
    waits: list[str] = []
    done: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        waits.append("waits")
        yield
        done.extend(waits)
        waits.clear()

    # As where nothing of the file is in the page cache.
    monkeypatch.setattr(Source, "_read_cached", lambda _self, _out, _offset: 0)
    with Source(os.open(tmp_path / "data", os.O_RDONLY)) as source:
        body = SealedBody(source, seal, whole(seal), at_end=lambda: waits.append("looks"))
        for _ in body.pieces(waiting):
            assert not waits
    assert done == ["waits", "waits", "looks"]


async def test_room_that_was_given_back_is_used_again_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(2 * MIB))
    seal = seal_of("crypt4gh", 2 * MIB)
    buffers = Buffers()
    with Source(os.open(tmp_path / "data", os.O_RDONLY)) as source:
        failed, first, second = (SealedBody(source, seal, whole(seal)) for _ in range(3))
        for body in (failed, first, second):
            body.borrow(buffers)
        # What is left of a request that failed, and may still go out.
        kept = [view async for view in failed][-1]
        sealed = bytes(kept)
        await read(first)
        assert bytes(kept) == sealed
        given = first._room
        first.release()
        first.release()
        async for _ in second:
            if second._room is not None:
                break  # as whoever has all the bytes that were to come
        assert given is not None
        assert second._room is given
    assert bytes(kept) == sealed


def test_rooms_of_small_bodies_are_not_kept() -> None:
    buffers = Buffers()
    small = buffers.take(SEGMENT)
    buffers.give(small)
    assert buffers.take(SEGMENT) is not small
    large = buffers.take(8 * MIB)
    assert len(large.plain) == CHUNK
    buffers.give(large)
    assert buffers.take(16 * MIB) is large
    buffers.give(large)
    buffers.clear()
    assert buffers.take(16 * MIB) is not large

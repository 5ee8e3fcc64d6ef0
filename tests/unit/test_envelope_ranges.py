"""Ranges of a sealed file: the right bytes, from the segments that hold them, and no others."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pipeline import envelope, receipt
from pipeline.envelope import BATCH, SEGMENT
from pipeline.envelope import crypt4gh_header as head
from pipeline.envelope.age_keys import age_generate, age_secrets
from pipeline.envelope.keyfiles import SecretKey
from pipeline.envelope.keys import crypt4gh_generate, crypt4gh_secret
from pipeline.envelope.opening import open_sealed_range
from pipeline.envelope.ranges import ByteRange, FileSource, RangeError
from pipeline.envelope.x25519 import public_of
from pipeline.errors import EnvelopeError, ReceiptError, VerificationError
from pipeline.messages import EnvelopeFormat
from pipeline.receipt import Encryption, Receipt, Subject

C4GH, AGE = crypt4gh_generate(), age_generate()
SECRETS: dict[EnvelopeFormat, SecretKey] = {
    "crypt4gh": SecretKey("crypt4gh", crypt4gh_secret(C4GH.secret, bytes)),
    "age": SecretKey("age", age_secrets(AGE.secret)[0]),
}
PUBLIC: dict[EnvelopeFormat, list[str]] = {
    "crypt4gh": [C4GH.public],
    "age": [AGE.public],
    "none": [],
}
FORMATS: tuple[EnvelopeFormat, ...] = ("crypt4gh", "age", "none")
SEALED_ONES = FORMATS[:2]
PLAINTEXT = os.urandom((BATCH + 3) * SEGMENT + 17)
SIZE = len(PLAINTEXT)


class Counted:
    """Bytes to read from any place, and how many of them were."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.read = 0

    def reader(self, start: int, stop: int) -> io.BytesIO:
        assert 0 <= start <= stop <= self.size
        piece = self.data[start:stop]
        self.read += len(piece)
        return io.BytesIO(piece)


def seal(name: EnvelopeFormat, plaintext: bytes) -> bytes:
    form = envelope.by_format(name)
    key, header, _ = form.make(PUBLIC[name])
    out = bytearray(form.sealed_size(0, len(plaintext)))
    form.sealer(key, len(plaintext)).seal_into(0, memoryview(plaintext), memoryview(out))
    return header + bytes(out)


def receipt_of(name: EnvelopeFormat, plaintext: bytes, sealed: bytes) -> Receipt:
    digest = f"sha256:{hashlib.sha256(plaintext).hexdigest()}"
    subject = Subject(
        upload="u1",
        tus_id="t1",
        study="s1",
        filename="data",
        size=len(plaintext),
        digest=digest,
        received_at=1.0,
        stored_at=2.0,
    )
    encryption = Encryption(format=name, recipients=(), size=len(sealed))
    return receipt.build(subject, encryption, [], "dropoffd")


SEALED = {name: seal(name, PLAINTEXT) for name in FORMATS}
RECEIPTS = {name: receipt_of(name, PLAINTEXT, SEALED[name]) for name in FORMATS}


def part(name: EnvelopeFormat, source: Counted, text: str, against: Receipt | None = None) -> bytes:
    against = RECEIPTS["none"] if name == "none" and against is None else against
    wanted = ByteRange.parse(text)
    pieces = open_sealed_range(source, SECRETS.get(name), wanted, against)
    return b"".join(map(bytes, pieces))


EDGES = sorted({n * SEGMENT + d for n in (0, 1, 2, BATCH, BATCH + 3) for d in (-1, 0, 1)} - {-1})
PLACES = st.one_of(st.sampled_from(EDGES), st.integers(0, SIZE + 10))


@pytest.mark.parametrize("name", FORMATS)
@given(PLACES, PLACES)
def test_a_range_is_what_a_slice_would_be(name: EnvelopeFormat, one: int, other: int) -> None:
    first, last = sorted((min(one, SIZE - 1), other))
    found = part(name, Counted(SEALED[name]), f"{first}-{last}")
    assert found == PLAINTEXT[first : last + 1]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("text", ["0-", "5-", f"{SEGMENT}-", f"{SIZE - 1}-", f"{SIZE - 18}-"])
def test_without_an_end_all_that_follows_is_given(name: EnvelopeFormat, text: str) -> None:
    assert part(name, Counted(SEALED[name]), text) == PLAINTEXT[int(text[:-1]) :]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [1, 17, 18, SEGMENT, SEGMENT + 17, SIZE, SIZE + 1, 10**15])
def test_without_a_beginning_the_last_bytes_are_given(name: EnvelopeFormat, count: int) -> None:
    assert part(name, Counted(SEALED[name]), f"-{count}") == PLAINTEXT[-count:]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT])
@pytest.mark.parametrize("text", ["0-", "0-0", "0-99999999", "-1", "-99999999"])
def test_short_and_empty_files_have_ranges_too(name: EnvelopeFormat, size: int, text: str) -> None:
    plaintext = PLAINTEXT[:size]
    sealed = seal(name, plaintext)
    first, _, last = text.partition("-")
    wanted = plaintext[int(first) : int(last or size) + 1] if first else plaintext[-int(last) :]
    assert part(name, Counted(sealed), text, receipt_of(name, plaintext, sealed)) == wanted


@pytest.mark.parametrize("name", FORMATS)
def test_a_range_that_begins_behind_the_end_is_none(name: EnvelopeFormat) -> None:
    with pytest.raises(RangeError, match=f"there are {SIZE}"):
        part(name, Counted(SEALED[name]), f"{SIZE}-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, "is not A-B") for text in ("", "-", "-0", "5", "a-b", "1-2-3", "--5", "0x1-2")),
        *((text, "is not A-B") for text in (" 1-2", "1 - 2", "1-2\n", "+1-2", "1.5-2", "٣-٤")),
        ("9" * 20 + "-", "is not A-B"),
        ("5-4", "ends before it starts"),
    ],
)
def test_what_is_no_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(RangeError, match=message):
        ByteRange.parse(text)


@given(st.text(alphabet="0123456789-x", max_size=8))
def test_any_text_is_a_range_or_clearly_none(text: str) -> None:
    try:
        start, stop = ByteRange.parse(text).within(1000)
    except RangeError:
        return
    assert 0 <= start <= stop <= 1000


# Only what is needed


@pytest.mark.parametrize("name", SEALED_ONES)
def test_only_the_segments_that_hold_it_are_read(name: EnvelopeFormat) -> None:
    source = Counted(SEALED[name])
    part(name, source, f"{5 * SEGMENT - 1}-{5 * SEGMENT}")
    # Two segments, the header's block, and for age the end that proves where the file ends.
    assert source.read < 4 * (SEGMENT + 28)


def test_damage_elsewhere_is_no_hindrance_and_inside_it_is_noticed() -> None:
    for name in SEALED_ONES:
        damaged = bytearray(SEALED[name])
        damaged[3 * (SEGMENT + 28)] ^= 1
        source = Counted(bytes(damaged))
        assert part(name, source, f"{SEGMENT + 1}-{SEGMENT + 9}") == PLAINTEXT[SEGMENT + 1 :][:9]
        with pytest.raises(EnvelopeError, match="damaged"):
            part(name, source, f"{3 * SEGMENT - 5}-")


def test_a_plain_file_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(SEALED["age"])
    with path.open("rb") as file:
        pieces = open_sealed_range(FileSource(file), SECRETS["age"], ByteRange(70_000, 200_000))
        assert b"".join(map(bytes, pieces)) == PLAINTEXT[70_000:200_001]


# A file that was cut off


def boundary(name: EnvelopeFormat) -> int:
    overhead = 28 if name == "crypt4gh" else 16
    header = len(SEALED[name]) - SIZE - (BATCH + 4) * overhead
    return header + 5 * (SEGMENT + overhead)


@pytest.mark.parametrize("text", ["0-9", "-1", "0-", f"{4 * SEGMENT}-{4 * SEGMENT + 5}"])
def test_age_tells_a_file_that_was_cut_off_wherever_the_range_lies(text: str) -> None:
    source = Counted(SEALED["age"][: boundary("age")])
    with pytest.raises(EnvelopeError, match="segment 4 is damaged, or cut off behind"):
        part("age", source, text)


def test_an_age_file_without_any_segment_is_cut_short() -> None:
    start = boundary("age") - 5 * (SEGMENT + 16)
    with pytest.raises(EnvelopeError, match="cut short"):
        part("age", Counted(SEALED["age"][:start]), "0-")


@pytest.mark.parametrize("text", ["0-9", "-1", "0-"])
def test_for_crypt4gh_the_receipt_tells_it(text: str) -> None:
    source = Counted(SEALED["crypt4gh"][: boundary("crypt4gh")])
    with pytest.raises(VerificationError, match=f"{5 * SEGMENT} bytes of plaintext"):
        part("crypt4gh", source, text, RECEIPTS["crypt4gh"])


@pytest.mark.parametrize("name", SEALED_ONES)
@pytest.mark.parametrize("rest", [1, 11, 15])
def test_a_rest_that_is_no_segment_is_cut_short(name: EnvelopeFormat, rest: int) -> None:
    with pytest.raises(EnvelopeError, match="cut short"):
        part(name, Counted(SEALED[name][: boundary(name) + rest]), "0-9")


def test_sizes_that_are_not_the_receipt_s_are_told() -> None:
    sealed = seal("none", b"longer")
    with pytest.raises(VerificationError, match="6 bytes of plaintext, the receipt says 4"):
        part("none", Counted(sealed), "0-0", receipt_of("none", b"long", b"long"))


def test_a_range_of_everything_is_held_against_the_digest() -> None:
    for name in FORMATS:
        other = receipt_of(name, bytes(SIZE), SEALED[name])
        assert part(name, Counted(SEALED[name]), "0-8", other) == PLAINTEXT[:9]
        with pytest.raises(VerificationError, match="sha256"):
            part(name, Counted(SEALED[name]), "0-", other)


def test_a_receipt_of_another_format_is_told() -> None:
    with pytest.raises(ReceiptError, match="sealed by age, and the receipt says crypt4gh"):
        part("age", Counted(SEALED["age"]), "0-", RECEIPTS["crypt4gh"])


class Shrinking(Counted):
    """Gives less than it said, at a segment's boundary."""

    def reader(self, start: int, stop: int) -> io.BytesIO:
        return super().reader(start, stop if start == 0 else min(stop, boundary("crypt4gh")))


def test_a_file_that_becomes_shorter_is_told() -> None:
    with pytest.raises(EnvelopeError, match="became shorter"):
        part("crypt4gh", Shrinking(SEALED["crypt4gh"]), f"{SEGMENT}-")


# Edit lists


def with_edits(lengths: list[int]) -> bytes:
    form = envelope.by_format("crypt4gh")
    key = os.urandom(32)
    body = bytearray(form.sealed_size(0, SIZE))
    form.sealer(key, SIZE).seal_into(0, memoryview(PLAINTEXT), memoryview(body))
    numbers = b"".join(length.to_bytes(8, "little") for length in lengths)
    edits = b"\1\0\0\0" + len(lengths).to_bytes(4, "little") + numbers
    writer, reader = X25519PrivateKey.generate(), public_of(SECRETS["crypt4gh"].raw)
    packets = [head.seal_packet(writer, reader, p) for p in (head.data_key(key), edits)]
    return head.join(packets) + bytes(body)


def edited(lengths: list[int]) -> bytes:
    kept, position = [], 0
    for number, length in enumerate(lengths):
        if number % 2:
            kept.append(PLAINTEXT[position : position + length])
        position += length
    if len(lengths) % 2:
        kept.append(PLAINTEXT[position:])
    return b"".join(kept)


@given(
    st.lists(st.integers(0, 6 * SEGMENT), min_size=1, max_size=6),
    st.integers(0, SIZE),
    st.integers(0, SIZE),
)
def test_a_range_counts_what_an_edit_list_leaves(
    lengths: list[int], first: int, length: int
) -> None:
    expected = edited(lengths)
    first = min(first, max(0, len(expected) - 1))
    found = part("crypt4gh", Counted(with_edits(lengths)), f"{first}-{first + length}")
    assert found == expected[first : first + length + 1]


def test_what_lies_far_apart_is_read_apart() -> None:
    lengths = [10, 5, (BATCH + 2) * SEGMENT, 7]
    source = Counted(with_edits(lengths))
    assert part("crypt4gh", source, "0-") == edited(lengths)
    assert source.read < 4 * (SEGMENT + 28)

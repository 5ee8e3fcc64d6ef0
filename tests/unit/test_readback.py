"""What was stored is opened again before it counts as stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import pytest
from awscrt.checksums import crc64nvme
from hypothesis import given
from hypothesis import strategies as st

from pipeline.envelope import BATCH, SEGMENT, by_format
from pipeline.envelope.age_keys import age_generate
from pipeline.envelope.armour import wrap
from pipeline.envelope.keys import PUBLIC_LABEL
from pipeline.envelope.x25519 import public_of
from pipeline.errors import VerificationError
from pipeline.messages import EnvelopeFormat, Seal
from pipeline.readback import ReadBack, SealedContent
from tests.peers.deliveries import SECRET_KEY

FORMATS: Sequence[EnvelopeFormat] = ("crypt4gh", "age", "none")
RECIPIENTS = {
    "crypt4gh": [wrap(PUBLIC_LABEL, public_of(SECRET_KEY))],
    "age": [age_generate().public],
    "none": [],
}
MIB = BATCH * SEGMENT


def sealed(name: EnvelopeFormat, plaintext: bytes) -> tuple[Seal, bytes]:
    layout = by_format(name)
    made = layout.make(RECIPIENTS[name])
    out = bytearray(layout.sealed_size(0, len(plaintext)))
    sealer = layout.sealer(made.key, len(plaintext))
    sealer.seal_into(0, memoryview(plaintext), memoryview(out))
    seal = Seal(format=name, key=made.key, header=made.header, size=len(plaintext))
    return seal, made.header + bytes(out)


def read_back(seal: Seal, plaintext: bytes, stored: bytes, pieces: int = 100_000) -> None:
    """Read ``stored``, whose checksum is right whatever it holds."""
    content = SealedContent(seal, "sha256", lambda: hashlib.sha256(plaintext).hexdigest())
    check = ReadBack(len(stored), crc64nvme(stored), content)
    for start in range(0, len(stored), pieces):
        check.update(stored[start : start + pieces])
    check.finish()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "size", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, MIB - 1, MIB, MIB + 1, 3 * MIB]
)
def test_what_was_sealed_opens_however_it_comes_back(name: EnvelopeFormat, size: int) -> None:
    plaintext = os.urandom(size)
    seal, stored = sealed(name, plaintext)
    for pieces in (65_536, 1_000_003, 10 * MIB):
        read_back(seal, plaintext, stored, pieces)


@pytest.mark.parametrize("name", FORMATS)
@given(size=st.integers(1, 3 * SEGMENT), place=st.floats(0, 1, exclude_max=True))
def test_any_other_byte_is_found_where_the_checksum_was_fooled(
    name: EnvelopeFormat, size: int, place: float
) -> None:
    plaintext = os.urandom(size)
    seal, stored = sealed(name, plaintext)
    spoiled = bytearray(stored)
    spoiled[int(place * len(stored))] ^= 1
    with pytest.raises(VerificationError):
        read_back(seal, plaintext, bytes(spoiled))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("left", [0, 10, -SEGMENT, -1])
def test_a_stored_object_that_was_cut_is_found(name: EnvelopeFormat, left: int) -> None:
    plaintext = os.urandom(2 * SEGMENT + 5)
    seal, stored = sealed(name, plaintext)
    with pytest.raises(VerificationError):
        read_back(seal, plaintext, stored[:left])


def test_segments_that_a_store_swapped_are_found_though_each_of_them_opens() -> None:
    plaintext = os.urandom(3 * SEGMENT)
    seal, stored = sealed("crypt4gh", plaintext)
    header, segment = len(seal.header), SEGMENT + 28
    first, second = (stored[header + n * segment :][:segment] for n in (0, 1))
    swapped = stored[:header] + second + first + stored[header + 2 * segment :]
    with pytest.raises(VerificationError, match="another plaintext"):
        read_back(seal, plaintext, swapped)


def test_the_object_of_another_session_key_is_found() -> None:
    plaintext = os.urandom(SEGMENT)
    seal, _ = sealed("crypt4gh", plaintext)
    _, other = sealed("crypt4gh", plaintext)
    with pytest.raises(VerificationError, match="another header"):
        read_back(seal, plaintext, other)


def test_bytes_that_differ_are_found_without_a_key() -> None:
    check = ReadBack(3, crc64nvme(b"abc"))
    check.update(b"abd")
    with pytest.raises(VerificationError):
        check.finish()

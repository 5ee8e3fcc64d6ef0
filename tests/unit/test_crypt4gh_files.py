"""Crypt4GH files: others read ours, we read theirs, and damage is noticed where it can be."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import crypt4gh.lib
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pipeline import envelope
from pipeline.envelope import BATCH, SEGMENT
from pipeline.envelope import crypt4gh_header as head
from pipeline.envelope.armour import wrap
from pipeline.envelope.crypt4gh import SEALED_SEGMENT
from pipeline.envelope.keys import PUBLIC_LABEL
from pipeline.envelope.x25519 import fingerprint, public_of
from pipeline.errors import EnvelopeError, RecipientError

FORM = envelope.by_format("crypt4gh")
ALICE, BOB, EVE = os.urandom(32), os.urandom(32), os.urandom(32)
MIB = 1024 * 1024
SIZES = (0, 1, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1, 3 * MIB + 17)


def recipient(secret_key: bytes) -> str:
    return wrap(PUBLIC_LABEL, public_of(secret_key))


def seal(plaintext: bytes, *secret_keys: bytes) -> bytes:
    key, header, _ = FORM.make([recipient(secret_key) for secret_key in secret_keys])
    out = bytearray(FORM.sealed_size(0, len(plaintext)))
    FORM.sealer(key, len(plaintext)).seal_into(0, memoryview(plaintext), memoryview(out))
    return header + out


def unseal(sealed: bytes, secret_key: bytes) -> bytes:
    return b"".join(bytes(piece) for piece in FORM.open_stream(io.BytesIO(sealed), secret_key))


def theirs_seals(plaintext: bytes, *secret_keys: bytes) -> bytes:
    out = io.BytesIO()
    keys = [(0, EVE, public_of(secret_key)) for secret_key in secret_keys]
    crypt4gh.lib.encrypt(keys, io.BytesIO(plaintext), out)
    return out.getvalue()


def theirs_opens(sealed: bytes, secret_key: bytes) -> bytes:
    out = io.BytesIO()
    crypt4gh.lib.decrypt([(0, secret_key, None)], io.BytesIO(sealed), out)
    return out.getvalue()


@pytest.mark.parametrize("size", SIZES)
def test_each_recipient_reads_it_with_the_reference_tool(size: int) -> None:
    plaintext = os.urandom(size)
    sealed = seal(plaintext, ALICE, BOB)
    assert theirs_opens(sealed, ALICE) == plaintext
    assert theirs_opens(sealed, BOB) == plaintext


@pytest.mark.parametrize("size", SIZES)
def test_what_the_reference_tool_sealed_is_read(size: int) -> None:
    plaintext = os.urandom(size)
    sealed = theirs_seals(plaintext, BOB, ALICE)
    assert unseal(sealed, ALICE) == plaintext
    assert unseal(sealed, BOB) == plaintext


@pytest.mark.parametrize("size", SIZES)
def test_what_we_seal_we_open_and_its_size_was_known(size: int) -> None:
    plaintext = os.urandom(size)
    sealed = seal(plaintext, ALICE)
    assert len(sealed) == FORM.sealed_size(124, size)
    assert unseal(sealed, ALICE) == plaintext


def test_nobody_else_reads_it() -> None:
    with pytest.raises(EnvelopeError, match="isn't sealed for"):
        unseal(seal(b"secret", ALICE, BOB), EVE)


def test_each_upload_has_a_key_of_its_own_and_shows_no_recipient() -> None:
    first, second = FORM.make([recipient(ALICE)]), FORM.make([recipient(ALICE)])
    assert first.key != second.key
    assert first.header != second.header
    assert public_of(ALICE) not in first.header


def test_recipients_are_named_by_fingerprint_and_count_once() -> None:
    made = FORM.make([recipient(BOB), recipient(ALICE), recipient(BOB)])
    expected = tuple(fingerprint("c4gh", public_of(secret_key)) for secret_key in (BOB, ALICE))
    assert made.fingerprints == expected
    assert len(made.header) == 16 + 2 * 108


def test_too_many_recipients_are_refused() -> None:
    texts = [recipient(os.urandom(32)) for _ in range(1025)]
    with pytest.raises(RecipientError, match="at most 1024"):
        FORM.make(texts)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda sealed: sealed[:-1], id="last byte lost"),
        pytest.param(lambda sealed: sealed[: 124 + SEALED_SEGMENT + 10], id="cut inside a nonce"),
        pytest.param(lambda sealed: sealed[: 124 + SEALED_SEGMENT + 28], id="cut after a tag"),
        pytest.param(lambda sealed: sealed + b"x", id="a byte too many"),
        pytest.param(lambda sealed: sealed[:200] + b"?" + sealed[201:], id="a byte replaced"),
        pytest.param(lambda sealed: sealed[:124] + sealed[125:], id="a byte lost"),
    ],
)
def test_damage_is_noticed(damage: Callable[[bytes], bytes]) -> None:
    sealed = seal(bytes(3 * SEGMENT), ALICE)
    with pytest.raises(EnvelopeError, match="segment"):
        unseal(damage(sealed), ALICE)


def test_what_was_given_before_the_damage_is_right() -> None:
    plaintext = os.urandom(2 * BATCH * SEGMENT)
    sealed = seal(plaintext, ALICE)[:-1]
    stream = FORM.open_stream(io.BytesIO(sealed), ALICE)
    assert bytes(next(stream)) == plaintext[: BATCH * SEGMENT]
    with pytest.raises(EnvelopeError):
        next(stream)


def test_the_format_itself_notices_no_cut_between_segments() -> None:
    # Why a receipt is needed: see the receipt's tests.
    sealed = seal(os.urandom(3 * SEGMENT), ALICE)
    assert len(unseal(sealed[: 124 + SEALED_SEGMENT], ALICE)) == SEGMENT


def header_for(secret_key: bytes, *payloads: bytes) -> bytes:
    writer = X25519PrivateKey.generate()
    return head.join([head.seal_packet(writer, public_of(secret_key), p) for p in payloads])


def test_several_session_keys_are_tried_for_each_segment() -> None:
    keys = [os.urandom(32) for _ in range(3)]
    plaintext = os.urandom(5 * SEGMENT)
    body = bytearray(FORM.sealed_size(0, len(plaintext)))
    for segment, key in enumerate(keys[n] for n in (2, 0, 0, 1, 2)):
        start = segment * SEGMENT
        FORM.sealer(key, len(plaintext)).seal_into(
            segment,
            memoryview(plaintext)[start : start + SEGMENT],
            memoryview(body)[segment * SEALED_SEGMENT :],
        )
    header = header_for(ALICE, *map(head.data_key, keys))
    assert unseal(header + body, ALICE) == plaintext


EDITED = os.urandom(20 * SEGMENT)


def edit_list(*lengths: int) -> bytes:
    numbers = b"".join(length.to_bytes(8, "little") for length in lengths)
    return b"\1\0\0\0" + len(lengths).to_bytes(4, "little") + numbers


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((10,), EDITED[10:]),
        ((0, 5), EDITED[:5]),
        ((7, 3, 100_000, 2), EDITED[7:10] + EDITED[100_010:100_012]),
        ((SEGMENT, SEGMENT, 1), EDITED[SEGMENT : 2 * SEGMENT] + EDITED[2 * SEGMENT + 1 :]),
        ((65_000, 18 * SEGMENT), EDITED[65_000 : 65_000 + 18 * SEGMENT]),
        ((2**64 - 1, 5), b""),
    ],
)
def test_edit_lists_are_followed(lengths: tuple[int, ...], expected: bytes) -> None:
    key = os.urandom(32)
    body = bytearray(FORM.sealed_size(0, len(EDITED)))
    FORM.sealer(key, len(EDITED)).seal_into(0, memoryview(EDITED), memoryview(body))
    header = header_for(ALICE, head.data_key(key), edit_list(*lengths))
    assert unseal(header + body, ALICE) == expected


@pytest.mark.parametrize(
    ("payloads", "message"),
    [
        ((b"\2\0\0\0whatever",), "a kind that isn't expected"),
        ((b"\0\0\0\0\1\0\0\0" + bytes(32),), "session key of an unknown kind"),
        ((b"\0\0\0\0\0\0\0\0" + bytes(31),), "session key of an unknown kind"),
        ((b"\0\0\0\0",), "cut short"),
        ((b"",), "cut short"),
        ((head.data_key(bytes(32)), edit_list()), "edit list"),
        ((head.data_key(bytes(32)), b"\1\0\0\0\xff\xff\xff\xff" + bytes(8)), "edit list"),
        ((head.data_key(bytes(32)), edit_list(1), edit_list(1)), "a kind that isn't expected"),
        ((edit_list(1),), "isn't sealed for"),
        ((head.data_key(bytes(32)),) * 257, "session keys"),
    ],
)
def test_what_a_sealed_packet_may_not_hold(payloads: tuple[bytes, ...], message: str) -> None:
    with pytest.raises(EnvelopeError, match=message):
        unseal(header_for(ALICE, *payloads), ALICE)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "no Crypt4GH"),
        (b"crypt4gh", "no Crypt4GH"),
        (b"crypt4gh\2\0\0\0\1\0\0\0", "version 2"),
        (b"crypt4gh\1\0\0\0\xff\xff\xff\xff", "4294967295 header packets"),
        (b"crypt4gh\1\0\0\0\0\0\0\0", "isn't sealed for"),
        (b"crypt4gh\1\0\0\0\1\0\0\0", "cut short"),
        (b"crypt4gh\1\0\0\0\1\0\0\0\x00\0\0\0", "packet of -4 bytes"),
        (b"crypt4gh\1\0\0\0\1\0\0\0\xff\xff\xff\xff", "packet of 4294967291 bytes"),
        (b"crypt4gh\1\0\0\0\1\0\0\0\x6c\0\0\0short", "cut short"),
    ],
)
def test_hostile_headers_are_refused_before_they_cost_anything(start: bytes, message: str) -> None:
    with pytest.raises(EnvelopeError, match=message):
        unseal(start, ALICE)


def test_a_header_of_huge_packets_is_refused() -> None:
    packet = (head.MAX_PACKET).to_bytes(4, "little") + bytes(head.MAX_PACKET - 4)
    with pytest.raises(EnvelopeError, match="a header packet of"):
        unseal(head.join([packet] * 17), ALICE)


def test_packets_of_others_and_of_unknown_kinds_are_passed_over() -> None:
    sealed = seal(b"found", BOB, ALICE)
    unknown = b"\x09\0\0\0\x07\0\0\0?"
    low_order = b"\x6c\0\0\0\0\0\0\0" + bytes(100)
    tiny = b"\x0c\0\0\0\0\0\0\0tiny"
    mixed = head.MAGIC + b"\1\0\0\0\5\0\0\0" + unknown + low_order + tiny + sealed[16:]
    assert unseal(mixed, ALICE) == b"found"


@given(st.binary(max_size=400))
def test_any_bytes_after_the_magic_end_in_a_clear_error(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        unseal(head.MAGIC + b"\1\0\0\0" + data, ALICE)


SEALED = seal(b"plaintext" * 10, ALICE, BOB)


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_changes_the_plaintext(place: int, flip: int) -> None:
    damaged = bytearray(SEALED)
    damaged[place] ^= flip
    try:
        opened = unseal(bytes(damaged), ALICE)
    except EnvelopeError:
        return
    assert opened == b"plaintext" * 10


@given(st.integers(0, len(SEALED) - 1))
def test_a_short_file_that_is_cut_anywhere_is_noticed_or_empty(length: int) -> None:
    try:
        opened = unseal(SEALED[:length], ALICE)
    except EnvelopeError:
        return
    assert (length, opened) == (16 + 2 * 108, b"")

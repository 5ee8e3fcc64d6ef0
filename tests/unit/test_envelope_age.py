"""age files: others read ours, we read theirs, and no damage goes unnoticed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import pyrage
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from pipeline import envelope
from pipeline.envelope import SEGMENT, age_header, bech32
from pipeline.envelope.age import SEALED_SEGMENT
from pipeline.envelope.age_keys import age_generate, age_public, age_secrets
from pipeline.envelope.age_stanzas import to_base64, unlock
from pipeline.envelope.x25519 import fingerprint
from pipeline.errors import EnvelopeError, RecipientError

FORM = envelope.by_format("age")
ALICE, BOB, EVE = age_generate(), age_generate(), age_generate()
MIB = 1024 * 1024
SIZES = (0, 1, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1, 3 * MIB + 17)


def identity(text: str) -> str:
    return text.splitlines()[-1]


def seal(plaintext: bytes, *recipients: str) -> bytes:
    key, header, _ = FORM.make(recipients)
    out = bytearray(FORM.sealed_size(0, len(plaintext)))
    FORM.sealer(key, len(plaintext)).seal_into(0, memoryview(plaintext), memoryview(out))
    return header + out


def unseal(sealed: bytes, secret: str = ALICE.secret) -> bytes:
    stream = FORM.open_stream(io.BytesIO(sealed), age_secrets(secret)[0])
    return b"".join(bytes(piece) for piece in stream)


@pytest.mark.parametrize("size", SIZES)
def test_each_recipient_reads_it_with_another_tool(size: int) -> None:
    plaintext = os.urandom(size)
    sealed = seal(plaintext, ALICE.public, BOB.public)
    for pair in (ALICE, BOB):
        reader = pyrage.x25519.Identity.from_str(identity(pair.secret))
        assert pyrage.decrypt(sealed, [reader]) == plaintext


@pytest.mark.parametrize("size", SIZES)
def test_what_another_tool_sealed_is_read(size: int) -> None:
    plaintext = os.urandom(size)
    recipients = [pyrage.x25519.Recipient.from_str(p.public.strip()) for p in (BOB, ALICE)]
    sealed = pyrage.encrypt(plaintext, recipients)
    assert unseal(sealed, ALICE.secret) == plaintext
    assert unseal(sealed, BOB.secret) == plaintext


@pytest.mark.parametrize("size", SIZES)
def test_the_size_was_known_ahead(size: int) -> None:
    sealed = seal(bytes(size), ALICE.public)
    assert len(sealed) == FORM.sealed_size(len(FORM.make([ALICE.public]).header), size)


def test_nobody_else_reads_it() -> None:
    with pytest.raises(EnvelopeError, match="isn't sealed for"):
        unseal(seal(b"secret", ALICE.public, BOB.public), EVE.secret)


def test_recipients_are_named_by_fingerprint_and_count_once() -> None:
    made = FORM.make([BOB.public, ALICE.public, BOB.public])
    expected = tuple(fingerprint("age", age_public(pair.public)) for pair in (BOB, ALICE))
    assert made.fingerprints == expected
    assert made.header.count(b"-> X25519") == 2


def test_too_many_recipients_are_refused() -> None:
    with pytest.raises(RecipientError, match="at most 1024"):
        FORM.make([bech32.encode("age", os.urandom(31) + b"\0") for _ in range(1025)])


SEALED = seal(os.urandom(3 * SEGMENT), ALICE.public)
START = len(SEALED) - 3 * SEALED_SEGMENT
PIECES = [SEALED[START + n * SEALED_SEGMENT :][:SEALED_SEGMENT] for n in range(3)]


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param([], id="all lost"),
        pytest.param([0], id="cut at a boundary"),
        pytest.param([0, 1], id="last one lost"),
        pytest.param([1, 2], id="first one lost"),
        pytest.param([1, 0, 2], id="swapped"),
        pytest.param([0, 0, 1, 2], id="doubled"),
        pytest.param([0, 1, 2, 2], id="more behind the last"),
    ],
)
def test_segments_can_not_be_lost_or_moved(segments: list[int]) -> None:
    with pytest.raises(EnvelopeError, match="segment"):
        unseal(SEALED[:START] + b"".join(PIECES[n] for n in segments))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda sealed: sealed[:-1], id="last byte lost"),
        pytest.param(lambda sealed: sealed[: START + SEALED_SEGMENT + 10], id="cut inside a tag"),
        pytest.param(lambda sealed: sealed + b"x", id="a byte too many"),
        pytest.param(lambda sealed: sealed[: START - 1], id="cut inside the salt"),
        pytest.param(lambda sealed: sealed[:20], id="cut inside the header"),
    ],
)
def test_damage_is_noticed(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(EnvelopeError):
        unseal(damage(SEALED))


def test_an_empty_segment_ends_no_file_but_an_empty_one() -> None:
    key, header, _ = FORM.make([ALICE.public])
    full = bytearray(SEALED_SEGMENT)
    FORM.sealer(key, 2 * SEGMENT).seal_into(0, memoryview(bytes(SEGMENT)), memoryview(full))
    empty = ChaCha20Poly1305(key).encrypt((1 << 8 | 1).to_bytes(12, "big"), b"", None)
    with pytest.raises(EnvelopeError, match="segment 1"):
        unseal(header + bytes(full) + empty)


SMALL = seal(b"plaintext" * 10, ALICE.public, BOB.public)


@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_noticed(place: int, flip: int) -> None:
    damaged = bytearray(SMALL)
    damaged[place] ^= flip
    with pytest.raises(EnvelopeError):
        unseal(bytes(damaged))


@given(st.integers(0, len(SMALL) - 1))
def test_a_cut_anywhere_is_noticed(length: int) -> None:
    with pytest.raises(EnvelopeError):
        unseal(SMALL[:length])


@given(st.binary(max_size=300))
def test_any_bytes_after_the_first_line_end_in_a_clear_error(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        unseal(age_header.VERSION + b"\n" + data)


STANZA = b"-> X25519 " + b"A" * 43 + b"\n" + b"A" * 43 + b"\n"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "cut short"),
        (b"age-encryption.org/v2\n", "version 1"),
        (b"age-encryption.org/v1\r\n", "version 1"),
        (b"age-encryption.org/v1\n--- AAAA\n", "damaged line"),
        (b"age-encryption.org/v1\n-> \n\n", "damaged line"),
        (b"age-encryption.org/v1\n-> a  b\n\n", "damaged line"),
        (b"age-encryption.org/v1\n-> a\n" + b"A" * 65 + b"\n", "too long"),
        (b"age-encryption.org/v1\n-> a\nAB==\n", "damaged line"),
        (b"age-encryption.org/v1\n-> a\nAB\n--- AA\n", "damaged line"),
        (b"age-encryption.org/v1\n-> a\nAA\n---\n", "isn't sealed for"),
        (b"age-encryption.org/v1\n-> X25519\nAA\n--- AA\n", "damaged stanza"),
        (b"age-encryption.org/v1\n-> X25519 AA\nAA\n--- AA\n", "damaged stanza"),
        (b"age-encryption.org/v1\n" + STANZA + b"--- AA\n", "low-order"),
        (b"age-encryption.org/v1\n-> " + b"a" * 20_000, "too long"),
        (b"age-encryption.org/v1\n" + b"-> a\n\n" * 400_000, "header is too long"),
    ],
)
def test_hostile_headers_are_refused(header: bytes, message: str) -> None:
    with pytest.raises(EnvelopeError, match=message):
        unseal(header)


def test_stanzas_of_other_kinds_are_passed_over() -> None:
    # Written by a tool that knows more kinds of recipients, MAC included.
    file_key = os.urandom(16)
    ours = age_header.make_header(file_key, [age_public(ALICE.public)])
    body = b"-> grease two\n" + b"A" * 64 + b"\n\n"
    text = ours[: ours.rindex(b" ")].replace(b"v1\n", b"v1\n" + body, 1)
    mac = to_base64(age_header._mac(file_key, text))
    sealed = text + b" " + mac + b"\n"
    opened = age_header.open_header(
        io.BytesIO(sealed + b"rest"), unlock(age_secrets(ALICE.secret), None)
    )
    assert (opened.length, opened.file_key) == (len(sealed), file_key)
    assert opened.rest.read(10) == b"rest"


# Keys


def test_another_tool_reads_our_keys() -> None:
    theirs = pyrage.x25519.Identity.from_str(identity(ALICE.secret))
    assert str(theirs.to_public()) == ALICE.public.strip()
    assert ALICE.secret.startswith(f"# public key: {ALICE.public}")


def test_keys_of_another_tool_are_read() -> None:
    theirs = pyrage.x25519.Identity.generate()
    sealed = seal(b"hello", str(theirs.to_public()))
    assert unseal(sealed, f"# created: 2026-01-01\n\n{theirs}\n") == b"hello"


@pytest.mark.parametrize(
    "text",
    [
        ALICE.public,
        ALICE.public.strip(),
        ALICE.public.upper(),
        f"# alice\n\n  {ALICE.public}\n",
    ],
)
def test_a_recipient_is_its_line(text: str) -> None:
    assert age_public(text) == age_public(ALICE.public)


def mixed(text: str) -> str:
    return text[:20] + text[20:].upper()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not one line"),
        (ALICE.public + BOB.public, "not one line"),
        ("#" * 20_000, "not one line"),
        (identity(ALICE.secret), "a secret key"),
        (ALICE.secret, "a secret key"),
        ("ssh-ed25519 AAAA", "another kind"),
        ("-----BEGIN CRYPT4GH PUBLIC KEY-----", "another kind"),
        (mixed(ALICE.public), "mixed case"),
        (ALICE.public.strip()[:-1], "checksum"),
        (ALICE.public.strip() + "b", "no key has"),
        ("age1", "cut short"),
        (bech32.encode("age1pq", bytes(32)), "other than X25519"),
        (bech32.encode("age", bytes(31)), "31 bytes"),
        (bech32.encode("age", bytes(33)), "33 bytes"),
        (bech32.encode("age", b"\xff" * 32), "canonical"),
    ],
)
def test_what_is_no_recipient_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipientError, match=message):
        age_public(text)


def test_low_order_points_are_refused() -> None:
    with pytest.raises(RecipientError, match="low-order"):
        FORM.make([bech32.encode("age", bytes(32))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "hold a secret key"),
        ("# only a comment\n", "hold a secret key"),
        ("#" * 20_000, "too long"),
        (f"{ALICE.secret}AGE-PLUGIN-YUBIKEY-1QQQ\n", "no age secret key"),
        (ALICE.public, "no age secret key of"),
        (identity(ALICE.secret)[:-1], "checksum"),
        (bech32.encode("age-secret-key-", bytes(31)), "no age secret key of"),
    ],
)
def test_what_is_no_secret_key_is_refused(text: str, message: str) -> None:
    with pytest.raises(EnvelopeError, match=message):
        age_secrets(text)


@given(st.binary(max_size=60), st.sampled_from(["age", "age-secret-key-", "x1y"]))
def test_bech32_comes_back_as_it_was(data: bytes, prefix: str) -> None:
    assert bech32.decode(bech32.encode(prefix, data)) == (prefix, data)
    assert bech32.decode(bech32.encode(prefix, data).upper()) == (prefix, data)


@given(st.data())
def test_bech32_notices_a_mistyped_letter(data: st.DataObject) -> None:
    text = ALICE.public.strip()
    place = data.draw(st.integers(4, len(text) - 1))
    letter = data.draw(st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
    if letter != text[place]:
        with pytest.raises(ValueError, match="checksum"):
            bech32.decode(text[:place] + letter + text[place + 1 :])


def test_bech32_refuses_bits_that_are_left_over() -> None:
    values = bech32._remainder([*bech32._expand("age"), 1, *[0] * 6]) ^ 1
    checksum = [values >> 5 * (5 - n) & 31 for n in range(6)]
    text = "age1" + "".join(bech32._LETTERS[value] for value in [1, *checksum])
    with pytest.raises(ValueError, match="left over"):
        bech32.decode(text)

"""Fixed answers, files that others made, and what the formats promise of tampering."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
from pathlib import Path

import crypt4gh.lib
import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from pipeline import envelope
from pipeline.envelope import SEGMENT, bech32
from pipeline.envelope import crypt4gh_header as head
from pipeline.envelope.age import Age
from pipeline.envelope.age_keys import age_generate, age_secrets
from pipeline.envelope.armour import wrap
from pipeline.envelope.base import Passphrase
from pipeline.envelope.keyfiles import only_passphrase, read_secret
from pipeline.envelope.keys import PUBLIC_LABEL
from pipeline.envelope.opening import open_sealed
from pipeline.envelope.ranges import open_whole
from pipeline.envelope.x25519 import public_of
from pipeline.errors import EnvelopeError, RecipientError
from pipeline.messages import EnvelopeFormat
from tests.peers.cache import tool

SECRET = bytes(range(32))
TEXT = b"ACGT is all it takes.\n"
MIB = 1024 * 1024

# Of crypt4gh 1.8.6 and age 1.1.1, sealed for SECRET.
BY_CRYPT4GH = """
Y3J5cHQ0Z2gBAAAAAQAAAGwAAAAAAAAANYBy1jZYgNGu6jKa35EhODhR7SGijjt16WXQ0s0WYlTgKJA6QQqww5oYQBsWo4LA
xd9C+jZn4pMoR4CBOZl1C/e2X5ZIw9HxIz7bH3O/qjetXTGEfZi6ZhLsgIPe6GTfGugK5gBe1BRXxdVy71CGT/5ksxArYQik
7gfBGVawuGEla8CTgtny1CTbWUINf1ifg52SAb5b
"""
BY_AGE = """
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSAwQzBGVHlVeURWM3VXUUxFanNzeVBSYURQUTBEb3RPUCs2RzJXMkY4
VmswCjVRcCtEUWt2L0xUdDRWdXB1WGtHZHh5U3U1NTBETGNtN0ZrQmhUVlJLM2cKLS0tIFJIVkVnTmRDb3R2STh4WDhmd1lX
LzN4MWxjdWV2d1Q1emNkTCtRb0MwZlkKadHSk6pD8C43vbI0Zw4hPeUSIyC4POZRWomAKzTGi2GyRJrAjxPMpN8lF9cSRkte
KvUHDkqk
"""


def unseal(name: EnvelopeFormat, sealed: bytes, secret_key: bytes = SECRET) -> bytes:
    stream = envelope.by_format(name).open_stream(io.BytesIO(sealed), secret_key)
    return b"".join(map(bytes, stream))


def with_passphrase(sealed: bytes, passphrase: Passphrase) -> bytes:
    return b"".join(map(bytes, open_sealed(io.BytesIO(sealed), only_passphrase(passphrase))))


# Fixed answers


@pytest.mark.parametrize(("name", "file"), [("crypt4gh", BY_CRYPT4GH), ("age", BY_AGE)])
def test_files_that_others_made_once_are_read(name: EnvelopeFormat, file: str) -> None:
    assert unseal(name, base64.b64decode(file)) == TEXT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("crypt4gh", "783832109b925d0ec7f5d3bfa4fb5c4acd98c64568e1c7be5e5931e3e1bd0a6f"),
        ("age", "9ad429b8fc524d0293f8b6c4ce4d72e9137d5e7d4083cce835964a21dcbeb12f"),
    ],
)
def test_the_same_plaintext_is_sealed_to_the_same_bytes_by_every_version(
    name: EnvelopeFormat, expected: str
) -> None:
    # Parts that an older version sent are compared with what this one would send.
    blocks = (hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(4096))
    plaintext = b"".join(blocks) + b"tail!"
    form = envelope.by_format(name)
    out = bytearray(form.sealed_size(0, len(plaintext)))
    form.sealer(SECRET, len(plaintext)).seal_into(0, memoryview(plaintext), memoryview(out))
    assert hashlib.sha256(out).hexdigest() == expected


# Made by others now


def age(*arguments: str | Path, given: bytes) -> bytes:
    program = tool("age", "sealing for several recipients")
    command = [program, *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, check=True).stdout


@pytest.mark.parametrize("size", [0, 1, SEGMENT, SEGMENT + 1, MIB + 17])
def test_each_of_several_recipients_reads_what_age_sealed(size: int) -> None:
    pairs = [age_generate() for _ in range(3)]
    plaintext = os.urandom(size)
    flags = [word for pair in pairs for word in ("-r", pair.public.strip())]
    sealed = age(*flags, given=plaintext)
    for pair in pairs:
        assert unseal("age", sealed, age_secrets(pair.secret)[0]) == plaintext


def test_each_of_several_recipients_reads_what_crypt4gh_sealed_and_sealed_again() -> None:
    secrets = [os.urandom(32) for _ in range(3)]
    plaintext, first, again = os.urandom(MIB + 17), io.BytesIO(), io.BytesIO()
    keys = [(0, os.urandom(32), public_of(secret)) for secret in secrets]
    crypt4gh.lib.encrypt(keys[:2], io.BytesIO(plaintext), first)
    crypt4gh.lib.reencrypt([(0, secrets[0], None)], keys[2:], io.BytesIO(first.getvalue()), again)
    assert unseal("crypt4gh", first.getvalue(), secrets[1]) == plaintext
    assert unseal("crypt4gh", again.getvalue(), secrets[2]) == plaintext


@pytest.mark.parametrize(
    ("offset", "span"), [(5, 10), (SEGMENT - 1, 2), (70_000, 200_000), (0, 1), (3 * SEGMENT, None)]
)
def test_the_edit_lists_that_crypt4gh_makes_are_followed(offset: int, span: int | None) -> None:
    plaintext, whole, part = os.urandom(5 * SEGMENT + 17), io.BytesIO(), io.BytesIO()
    keys = [(0, SECRET, public_of(SECRET))]
    crypt4gh.lib.encrypt(keys, io.BytesIO(plaintext), whole)
    crypt4gh.lib.rearrange(keys, io.BytesIO(whole.getvalue()), part, offset=offset, span=span)
    expected = plaintext[offset:] if span is None else plaintext[offset : offset + span]
    assert unseal("crypt4gh", part.getvalue()) == expected


def test_a_file_of_several_identities_opens_what_any_of_them_can(tmp_path: Path) -> None:
    pairs = [age_generate() for _ in range(3)]
    path = tmp_path / "keys"
    path.write_text("# mine\n\n" + "\n# another\n".join(pair.secret for pair in pairs))
    sealed = age("-r", pairs[2].public.strip(), given=TEXT)
    assert age("-d", "-i", path, given=sealed) == TEXT
    secret = read_secret(path, bytes)
    assert b"".join(map(bytes, open_sealed(io.BytesIO(sealed), secret))) == TEXT


# Passphrases of age


def scrypt_file(
    passphrase: bytes, work: bytes = b"10", *, beside: str = "", plaintext: bytes = TEXT
) -> bytes:
    """What age makes with a passphrase, by hand and quickly."""
    file_key, salt, payload_salt = (os.urandom(16) for _ in range(3))
    wrap_key = hashlib.scrypt(
        passphrase, salt=b"age-encryption.org/v1/scrypt" + salt, n=2**10, r=8, p=1, dklen=32
    )
    body = ChaCha20Poly1305(wrap_key).encrypt(bytes(12), file_key, None)
    lines = [
        b"age-encryption.org/v1",
        b"-> scrypt " + unpadded(salt) + b" " + work,
        unpadded(body),
        *beside.encode().splitlines(),
        b"---",
    ]
    text = b"\n".join(lines)
    mac = hmac_sha256(hkdf(file_key, b"", b"header"), text)
    cipher = ChaCha20Poly1305(hkdf(file_key, payload_salt, b"payload"))
    payload = cipher.encrypt((1).to_bytes(12, "big"), plaintext, None)
    return text + b" " + unpadded(mac) + b"\n" + payload_salt + payload


def unpadded(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def hmac_sha256(key: bytes, text: bytes) -> bytes:
    """By its definition."""
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + text).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes, likewise."""
    return hmac_sha256(hmac_sha256(salt, key), info + b"\1")


def test_a_file_sealed_by_a_passphrase_opens_with_it() -> None:
    assert with_passphrase(scrypt_file(b"correct horse"), lambda: b"correct horse") == TEXT


def test_what_another_tool_sealed_by_a_passphrase_opens_too() -> None:
    sealed = pyrage.passphrase.encrypt(TEXT, "größe")
    assert with_passphrase(sealed, "größe".encode) == TEXT


def test_a_wrong_passphrase_is_told() -> None:
    with pytest.raises(EnvelopeError, match="wrong passphrase"):
        with_passphrase(scrypt_file(b"correct horse"), lambda: b"battery staple")


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (b"23", r"2\^23 of work"),
        *((work, "damaged stanza") for work in (b"", b"0", b"010", b"0x0a", b"+10", b"100", b"-1")),
    ],
)
def test_a_passphrase_that_would_cost_too_much_is_not_tried(work: bytes, message: str) -> None:
    def never() -> bytes:
        raise AssertionError("asked for a passphrase")

    with pytest.raises(EnvelopeError, match=message if work else "damaged"):
        with_passphrase(scrypt_file(b"words", work), never)


def test_a_passphrase_stands_alone() -> None:
    beside = "-> X25519 " + "A" * 43 + "\n" + "A" * 43
    with pytest.raises(EnvelopeError, match="beside other recipients"):
        with_passphrase(scrypt_file(b"words", beside=beside), lambda: b"words")


def test_a_key_does_not_open_what_a_passphrase_sealed_nor_the_other_way() -> None:
    with pytest.raises(EnvelopeError, match="sealed by a passphrase, not for a key"):
        unseal("age", scrypt_file(b"words"))
    with pytest.raises(EnvelopeError, match="sealed for a secret key, and none is given"):
        with_passphrase(base64.b64decode(BY_AGE), lambda: b"words")
    with pytest.raises(EnvelopeError, match="sealed by crypt4gh, and no secret key"):
        with_passphrase(base64.b64decode(BY_CRYPT4GH), lambda: b"words")


def test_a_key_file_may_be_sealed_by_a_passphrase(tmp_path: Path) -> None:
    pair = age_generate()
    path = tmp_path / "key.age"
    path.write_bytes(scrypt_file(b"words", plaintext=pair.secret.encode()))
    assert read_secret(path, lambda: b"words").keys == age_secrets(pair.secret)
    with pytest.raises(EnvelopeError, match="wrong passphrase"):
        read_secret(path, lambda: b"other words")


# What the formats promise of tampering

LETTERS = [bytes([number]) * SEGMENT for number in range(4)]


def sealed_segments(name: EnvelopeFormat) -> tuple[bytes, list[bytes]]:
    """A header, and four segments of which the last one is short."""
    form = envelope.by_format(name)
    recipient = bech32.encode("age", public_of(SECRET))
    if name == "crypt4gh":
        recipient = wrap(PUBLIC_LABEL, public_of(SECRET))
    key, header, _ = form.make([recipient])
    plaintext = b"".join(LETTERS)[:-100]
    out = bytearray(form.sealed_size(0, len(plaintext)))
    form.sealer(key, len(plaintext)).seal_into(0, memoryview(plaintext), memoryview(out))
    places = [form.sealed_offset(0, number * SEGMENT) for number in range(4)]
    ends = [*places[1:], len(out)]
    return header, [bytes(out[a:b]) for a, b in zip(places, ends, strict=True)]


AGE_HEADER, AGE_SEGMENTS = sealed_segments("age")


@given(st.lists(st.integers(0, 3), max_size=6).filter(lambda order: order != [0, 1, 2, 3]))
def test_age_refuses_every_other_order_of_its_segments(order: list[int]) -> None:
    with pytest.raises(EnvelopeError):
        unseal("age", AGE_HEADER + b"".join(AGE_SEGMENTS[number] for number in order))


@given(st.lists(st.integers(0, 3), max_size=6).filter(lambda order: order != [0, 1, 2, 3]))
def test_age_gives_nothing_but_a_beginning_before_it_refuses(order: list[int]) -> None:
    opened, rest = Age().open_header(
        io.BytesIO(AGE_HEADER + b"".join(AGE_SEGMENTS[number] for number in order)), [SECRET]
    )
    given_before = bytearray()
    views = open_whole(opened, rest)
    with pytest.raises(EnvelopeError):
        given_before.extend(byte for view in views for byte in view)
    assert b"".join(LETTERS).startswith(given_before)


@pytest.mark.parametrize("name", ["age", "crypt4gh"])
def test_segments_of_another_file_don_t_fit(name: EnvelopeFormat) -> None:
    header, own = sealed_segments(name)
    _, others = sealed_segments(name)
    with pytest.raises(EnvelopeError):
        unseal(name, header + own[0] + others[1] + b"".join(own[2:]))


def stanzas(header: bytes) -> list[bytes]:
    lines = header[: header.index(b"\n---")].split(b"\n")[1:]
    return [b"\n".join(lines[n : n + 2]) for n in range(0, len(lines), 2)]


def test_recipients_can_not_be_taken_out_added_or_moved_in_an_age_header() -> None:
    others = [age_generate().public for _ in range(2)]
    form = envelope.by_format("age")
    header = form.make([bech32.encode("age", public_of(SECRET)), *others]).header
    mine, second, third = stanzas(header)
    foreign = stanzas(form.make(others[:1]).header)[0]
    start, end = header.split(b"\n", 1)[0] + b"\n", header[header.index(b"\n---") :]
    for changed in ([mine, second], [second, mine, third], [mine, second, third, foreign]):
        with pytest.raises(EnvelopeError, match="the header was changed"):
            unseal("age", start + b"\n".join(changed) + end)


def test_a_mac_of_another_file_key_is_refused() -> None:
    form = envelope.by_format("age")
    recipient = bech32.encode("age", public_of(SECRET))
    one, other = form.make([recipient]).header, form.make([recipient]).header
    cut = one.index(b"\n---")
    with pytest.raises(EnvelopeError, match="the header was changed"):
        unseal("age", one[:cut] + other[other.index(b"\n---") :])


# Points that agree with everybody on a secret that everybody knows

PRIME = 2**255 - 19
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER = (0, 1, *ORDER_8, PRIME - 1)
NOT_CANONICAL = (PRIME, PRIME + 1, 2**255 - 1, 2**255, 2**255 + 1, 2**256 - 1)


@pytest.mark.parametrize("point", [*LOW_ORDER, *NOT_CANONICAL])
def test_a_point_that_is_no_key_is_no_recipient(point: int) -> None:
    raw = point.to_bytes(32, "little")
    with pytest.raises(RecipientError, match=r"low-order|canonical"):
        envelope.by_format("age").make([bech32.encode("age", raw)])
    with pytest.raises(RecipientError, match=r"low-order|canonical"):
        envelope.by_format("crypt4gh").make([wrap(PUBLIC_LABEL, raw)])


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_low_order_share_opens_nothing(point: int) -> None:
    raw = point.to_bytes(32, "little")
    header = b"age-encryption.org/v1\n-> X25519 %b\n%b\n--- %b\n" % (
        unpadded(raw),
        unpadded(bytes(32)),
        unpadded(bytes(32)),
    )
    with pytest.raises(EnvelopeError, match="low-order"):
        unseal("age", header)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_packet_of_a_low_order_writer_opens_nothing(point: int) -> None:
    raw = point.to_bytes(32, "little")
    # What the shared secret would be for anybody: zeros.
    shared = hashlib.blake2b(bytes(32) + public_of(SECRET) + raw).digest()[:32]
    sealed = ChaCha20Poly1305(shared).encrypt(bytes(12), head.data_key(bytes(32)), None)
    packet = bytes(4) + raw + bytes(12) + sealed
    header = head.join([(4 + len(packet)).to_bytes(4, "little") + packet])
    with pytest.raises(EnvelopeError, match="isn't sealed for the given key"):
        unseal("crypt4gh", header)
    honest = head.seal_packet(
        X25519PrivateKey.generate(), public_of(SECRET), head.data_key(bytes(32))
    )
    assert unseal("crypt4gh", head.join([honest])) == b""

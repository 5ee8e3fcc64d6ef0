"""Crypt4GH keys: those of the reference tool are read, ours it reads, hostile ones are refused."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import bcrypt
import crypt4gh.keys
import crypt4gh.keys.c4gh
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from pipeline import envelope
from pipeline.envelope.armour import wrap
from pipeline.envelope.keyfiles import SecretKey, read_secret, write_pair
from pipeline.envelope.keys import (
    PRIVATE_LABEL,
    PUBLIC_LABEL,
    crypt4gh_generate,
    crypt4gh_public,
    crypt4gh_secret,
)
from pipeline.envelope.x25519 import fingerprint, public_of
from pipeline.errors import EnvelopeError, RecipientError

PASSPHRASE = b"correct horse"
RAW = public_of(bytes(range(32)))
PRIME = 2**255 - 19
LOW_ORDER = (
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (PRIME - 1).to_bytes(32, "little"),
)


def unasked() -> bytes:
    raise AssertionError("no passphrase is needed")


def given_passphrase() -> bytes:
    return PASSPHRASE


def theirs(directory: Path, passphrase: bytes | None) -> tuple[Path, Path]:
    secret, public = directory / "key", directory / "key.pub"
    crypt4gh.keys.c4gh.generate(secret, public, passphrase, b"a comment")
    return secret, public


def container(kdf: bytes, rounds: int, derived: bytes, secret_key: bytes) -> str:
    """A protected key as older tools wrote them."""
    nonce = os.urandom(12)
    sealed = ChaCha20Poly1305(derived).encrypt(nonce, secret_key, None)
    strings = (kdf, rounds.to_bytes(4, "big") + b"salt", b"chacha20_poly1305", nonce + sealed)
    return wrap(PRIVATE_LABEL, b"c4gh-v1" + b"".join(map(string, strings)))


def string(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_keys_of_the_reference_tool_are_read(tmp_path: Path, passphrase: bytes | None) -> None:
    secret, public = theirs(tmp_path, passphrase)
    raw = crypt4gh_secret(secret.read_text(), given_passphrase if passphrase else unasked)
    assert public_of(raw) == crypt4gh_public(public.read_text())


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_the_reference_tool_reads_ours(tmp_path: Path, passphrase: bytes | None) -> None:
    secret, public = write_pair(crypt4gh_generate(passphrase), tmp_path / "key")
    raw = crypt4gh.keys.get_private_key(str(secret), PASSPHRASE.decode)
    assert raw == read_secret(secret, given_passphrase).raw
    assert crypt4gh.keys.get_public_key(str(public)) == public_of(raw)


def test_keys_protected_by_pbkdf2_are_read() -> None:
    derived = hashlib.pbkdf2_hmac("sha256", PASSPHRASE, b"salt", 1000)
    text = container(b"pbkdf2_hmac_sha256", 1000, derived, bytes(32))
    assert crypt4gh_secret(text, given_passphrase) == bytes(32)


def bcrypt_key() -> str:
    derived = bcrypt.kdf(PASSPHRASE, b"salt", 32, 5, ignore_few_rounds=True)
    return container(b"bcrypt", 5, derived, bytes(32))


def test_keys_protected_by_bcrypt_are_read() -> None:
    assert crypt4gh_secret(bcrypt_key(), given_passphrase) == bytes(32)


def test_without_bcrypt_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = bcrypt_key()
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(EnvelopeError, match="the package bcrypt isn't installed"):
        crypt4gh_secret(text, given_passphrase)


def test_a_wrong_passphrase_is_told() -> None:
    text = crypt4gh_generate(b"another").secret
    with pytest.raises(EnvelopeError, match="wrong passphrase"):
        crypt4gh_secret(text, given_passphrase)


SECRET = crypt4gh_generate().secret


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no Crypt4GH secret key"),
        ("AGE-SECRET-KEY-1", "no Crypt4GH secret key"),
        (wrap(PUBLIC_LABEL, RAW), "this is a public key"),
        (wrap("OPENSSH PRIVATE KEY", b"openssh-key-v1"), "no Crypt4GH secret key"),
        (SECRET.rsplit("-----END", 1)[0], "END line"),
        (SECRET.replace("=", "!"), "isn't base64"),
        (wrap(PRIVATE_LABEL, b"c4gh-v1"), "cut short"),
        (wrap(PRIVATE_LABEL, b"c4gh-v1\0\4none\0\4none\0\x20short"), "cut short"),
        (wrap(PRIVATE_LABEL, b"c4gh-v1\0\4none\0\4none\0\5short"), "5 bytes, expected 32"),
        (wrap(PRIVATE_LABEL, b"c4gh-v1\0\4none\0\3rot\0\5short"), "cipher that isn't known"),
        (
            wrap(PRIVATE_LABEL, b"c4gh-v1\0\6scrypt\0\0\0\x11chacha20_poly1305\0\1x"),
            "damaged",
        ),
        (container(b"bcrypt", 2**32 - 1, bytes(32), b""), "asks for 4294967295 rounds"),
        (container(b"bcrypt", 0, bytes(32), b""), "isn't known here"),
        (container(b"md5", 1, bytes(32), b""), "isn't known here"),
        ("x" * 20_000, "too long"),
    ],
)
def test_what_is_no_secret_key_is_refused(text: str, message: str) -> None:
    with pytest.raises(EnvelopeError, match=message):
        crypt4gh_secret(text, given_passphrase)


@given(st.binary(max_size=100))
def test_any_container_ends_in_a_clear_error(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        crypt4gh_secret(wrap(PRIVATE_LABEL, b"c4gh-v1" + data), given_passphrase)


@pytest.mark.parametrize(
    "text",
    [
        wrap(PUBLIC_LABEL, RAW),
        wrap(PUBLIC_LABEL, RAW).replace("\n", "\r\n"),
        "\n  " + wrap(PUBLIC_LABEL, RAW) + "\n\n",
        base64.b64encode(RAW).decode(),
        base64.b64encode(RAW).decode() + "\n",
    ],
)
def test_a_recipient_is_a_public_key_file_or_its_line(text: str) -> None:
    assert crypt4gh_public(text) == RAW
    assert envelope.by_format("crypt4gh").make([text]).fingerprints == (fingerprint("c4gh", RAW),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", "age or SSH"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA", "age or SSH"),
        (SECRET, "a secret key"),
        (wrap("PUBLIC KEY", RAW), "another kind"),
        (wrap(PUBLIC_LABEL, RAW[:31]), "31 bytes"),
        (wrap(PUBLIC_LABEL, RAW + b"\0"), "33 bytes"),
        (wrap(PUBLIC_LABEL, b""), "0 bytes"),
        ("key with spaces", "base64"),
        ("schlüssel", "base64"),
        ("A" * 20_000, "too long"),
        (wrap(PUBLIC_LABEL, RAW)[:-20], "END line"),
    ],
)
def test_what_is_no_public_key_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipientError, match=message):
        crypt4gh_public(text)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_points_are_refused(point: bytes) -> None:
    with pytest.raises(RecipientError, match="low-order"):
        envelope.by_format("crypt4gh").make([wrap(PUBLIC_LABEL, point)])


@pytest.mark.parametrize(
    "point",
    [
        pytest.param((PRIME + 9).to_bytes(32, "little"), id="not reduced"),
        pytest.param(RAW[:31] + bytes([RAW[31] | 0x80]), id="high bit set"),
        pytest.param(b"\xff" * 32, id="all ones"),
    ],
)
def test_a_key_that_its_owner_would_not_recognise_is_refused(point: bytes) -> None:
    # The owner computes the canonical encoding, and would never find the session key.
    with pytest.raises(RecipientError, match="canonical"):
        envelope.by_format("crypt4gh").make([wrap(PUBLIC_LABEL, point)])


@given(st.text(max_size=100))
def test_any_text_is_a_key_or_a_clear_error(text: str) -> None:
    with suppress(RecipientError):
        assert len(crypt4gh_public(text)) == 32


@pytest.mark.parametrize("parse", [crypt4gh_public, lambda text: crypt4gh_secret(text, unasked)])
def test_errors_never_repeat_a_key(parse: Callable[[str], bytes]) -> None:
    body = SECRET.splitlines()[1]
    for text in (SECRET.replace("PRIVATE", "PUBLIC"), body, body[:-1], SECRET + "x"):
        with pytest.raises((RecipientError, EnvelopeError)) as caught:
            parse(text)
        shown = f"{caught.value!r}{caught.value.__cause__!r}"
        assert not any(body[n : n + 12] in shown for n in range(len(body) - 12))


def test_keys_are_not_shown_by_repr() -> None:
    pair = crypt4gh_generate()
    assert pair.secret.splitlines()[1] not in repr(pair)
    assert "raw" not in repr(SecretKey("crypt4gh", bytes(32)))
    made = envelope.by_format("crypt4gh").make([pair.public])
    assert "key=" not in repr(made)
    assert repr(made.key) not in repr(made)


def test_only_its_owner_can_read_the_secret_key(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        secret, public = write_pair(crypt4gh_generate(), tmp_path / "key")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644


@pytest.mark.parametrize("there", ["key", "key.pub"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_key_is_never_overwritten(tmp_path: Path, there: str, dangling: bool) -> None:  # noqa: FBT001 - a parameter of the test
    if dangling:
        (tmp_path / there).symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / there).write_text("precious")
    with pytest.raises(FileExistsError):
        write_pair(crypt4gh_generate(), tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert dangling or (tmp_path / there).read_text() == "precious"


def test_half_a_pair_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_pair(crypt4gh_generate(), tmp_path / "key")
    assert list(tmp_path.iterdir()) == []

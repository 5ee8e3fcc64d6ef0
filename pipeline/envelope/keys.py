"""Crypt4GH key files: the public key, and the secret one in its c4gh-v1 container."""

from __future__ import annotations

import os
import struct
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pipeline.envelope.armour import unbase64, unwrap, wrap
from pipeline.envelope.base import Passphrase
from pipeline.envelope.segments import KEY, NONCE
from pipeline.envelope.x25519 import SIZE, check_public, public_of
from pipeline.errors import EnvelopeError, RecipientError

PUBLIC_LABEL: Final = "CRYPT4GH PUBLIC KEY"
PRIVATE_LABEL: Final = "CRYPT4GH PRIVATE KEY"

_MAGIC: Final = b"c4gh-v1"
_CIPHER: Final = b"chacha20_poly1305"
_NO: Final = b"none"
_SALT: Final = 16
_MAX_ROUNDS: Final = 10_000_000
_MAX_BCRYPT: Final = 1000
"""A round takes about 10 ms; crypt4gh makes keys with 100."""
_LENGTH = struct.Struct(">H")
_ROUNDS = struct.Struct(">I")


class KeyPair(msgspec.Struct, frozen=True, kw_only=True):
    """A new pair, as the texts of its two files."""

    secret: str
    public: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"KeyPair(public={self.public!r})"


def crypt4gh_public(text: str) -> bytes:
    """The raw key of a recipient: the text of a public key file, or its one line of base64.

    Raises RecipientError for anything else; its message never repeats the text, which may be a
    secret key given by mistake.
    """
    try:
        armoured = unwrap(text)
        if armoured is None:
            public_key = _bare(text.strip())
        elif armoured.label == PUBLIC_LABEL:
            public_key = armoured.data
        elif "PRIVATE" in armoured.label:
            raise RecipientError("a recipient is a secret key, expected the public one")
        else:
            raise RecipientError("a recipient's key is of another kind, expected a Crypt4GH one")
    except ValueError as error:
        raise RecipientError(f"a recipient is no Crypt4GH public key: {error}") from None
    check_public(public_key)
    return public_key


def _bare(text: str) -> bytes:
    if text.startswith(("age1", "ssh-")):
        raise RecipientError("a recipient is an age or SSH key, expected a Crypt4GH public key")
    if not text:
        raise RecipientError("a recipient is empty, expected a Crypt4GH public key")
    return unbase64(text)


def crypt4gh_generate(passphrase: bytes | None = None) -> KeyPair:
    """A new key pair; the secret key is protected where a passphrase is given."""
    secret_key = os.urandom(SIZE)
    if passphrase is None:
        container = _MAGIC + _string(_NO) + _string(_NO) + _string(secret_key)
    else:
        salt, nonce = os.urandom(_SALT), os.urandom(NONCE)
        sealed = ChaCha20Poly1305(_scrypt(passphrase, salt)).encrypt(nonce, secret_key, None)
        container = (
            _MAGIC
            + _string(b"scrypt")
            + _string(_ROUNDS.pack(0) + salt)
            + _string(_CIPHER)
            + _string(nonce + sealed)
        )
    return KeyPair(
        secret=wrap(PRIVATE_LABEL, container),
        public=wrap(PUBLIC_LABEL, public_of(secret_key)),
    )


def crypt4gh_secret(text: str, passphrase: Passphrase) -> bytes:
    """The raw secret key of a key file's text.

    Raises EnvelopeError for a file of another kind, a damaged one, a wrong passphrase, and a way
    of protection that isn't known here.
    """
    try:
        armoured = unwrap(text)
    except ValueError as error:
        raise EnvelopeError(f"no Crypt4GH secret key: {error}") from None
    if armoured is not None and armoured.label == PUBLIC_LABEL:
        raise EnvelopeError("this is a public key, expected the secret one")
    if armoured is None or not armoured.data.startswith(_MAGIC):
        raise EnvelopeError("no Crypt4GH secret key (c4gh-v1)")
    secret_key = _open_container(armoured.data[len(_MAGIC) :], passphrase)
    if len(secret_key) != SIZE:
        raise EnvelopeError(f"a secret key of {len(secret_key)} bytes, expected {SIZE}")
    return secret_key


def _open_container(data: bytes, passphrase: Passphrase) -> bytes:
    kdf, data = _take(data)
    options, data = (b"", data) if kdf == _NO else _take(data)
    cipher, data = _take(data)
    content, _ = _take(data)  # a comment may follow
    if kdf == _NO and cipher == _NO:
        return content
    if cipher != _CIPHER:
        raise EnvelopeError("the secret key is protected by a cipher that isn't known here")
    if len(options) <= _ROUNDS.size:
        raise EnvelopeError("the secret key's file is damaged")
    rounds, salt = _ROUNDS.unpack_from(options)[0], options[_ROUNDS.size :]
    derived = _derive(kdf, passphrase, rounds, salt)
    try:
        return ChaCha20Poly1305(derived).decrypt(content[:NONCE], content[NONCE:], None)
    except (InvalidTag, ValueError):
        raise EnvelopeError("wrong passphrase for the secret key, or its file is damaged") from None


def _derive(kdf: bytes, passphrase: Passphrase, rounds: int, salt: bytes) -> bytes:
    if rounds > _MAX_ROUNDS:
        raise EnvelopeError(f"the secret key asks for {rounds} rounds of key derivation")
    if kdf == b"scrypt":
        return _scrypt(passphrase(), salt)
    if kdf == b"pbkdf2_hmac_sha256" and rounds:
        return PBKDF2HMAC(SHA256(), KEY, salt, rounds).derive(passphrase())
    if kdf == b"bcrypt" and rounds:
        return _bcrypt(passphrase(), salt, rounds)
    raise EnvelopeError("the secret key is protected in a way that isn't known here")


def _scrypt(passphrase: bytes, salt: bytes) -> bytes:
    # The container has no place for these numbers: every tool uses the same.
    return Scrypt(salt=salt, length=KEY, n=2**14, r=8, p=1).derive(passphrase)


def _bcrypt(passphrase: bytes, salt: bytes, rounds: int) -> bytes:
    if not passphrase or rounds > _MAX_BCRYPT:
        raise EnvelopeError(f"a passphrase is missing, or bcrypt is asked for {rounds} rounds")
    try:
        import bcrypt  # noqa: PLC0415 - optional, for a few old keys only
    except ImportError:
        raise EnvelopeError(
            "the secret key is protected by bcrypt, and the package bcrypt isn't installed"
        ) from None
    return bcrypt.kdf(passphrase, salt, KEY, rounds, ignore_few_rounds=True)


def _string(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _take(data: bytes) -> tuple[bytes, bytes]:
    """The container's next string, and what follows it."""
    if len(data) < _LENGTH.size:
        raise EnvelopeError("the secret key's file is cut short")
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    if len(data) < end:
        raise EnvelopeError("the secret key's file is cut short")
    return data[_LENGTH.size : end], data[end:]

"""The stanzas of an age header: how each kind of recipient finds the file key."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pipeline.envelope.base import Passphrase
from pipeline.envelope.segments import KEY, NONCE, TAG
from pipeline.envelope.x25519 import SIZE, agree, public_of
from pipeline.errors import EnvelopeError

FILE_KEY: Final = 16
MAX_WORK: Final = 22
"""Most that a passphrase's stanza may ask for, as a power of 2: 4 GiB of memory. age itself asks
for 18, and takes no more than this either."""

_X25519, _SCRYPT = b"X25519", b"scrypt"
_WRAP_X25519: Final = b"age-encryption.org/v1/X25519"
_WRAP_SCRYPT: Final = b"age-encryption.org/v1/scrypt"
_SALT: Final = 16


class Stanza(NamedTuple):
    """What one recipient finds the file key in."""

    arguments: list[bytes]
    body: bytes


Unlock = Callable[[Sequence[Stanza]], bytes | None]
"""Finds the file key in the stanzas; None where none of them fits."""


def make_x25519(file_key: bytes, public_key: bytes) -> tuple[list[bytes], bytes]:
    """Arguments and body of the stanza that gives ``file_key`` to the owner of ``public_key``.

    Raises RecipientError for a low-order point.
    """
    share = X25519PrivateKey.generate()
    share_public = share.public_key().public_bytes_raw()
    wrap = _x25519_cipher(agree(share, public_key), share_public, public_key)
    return [_X25519, to_base64(share_public)], wrap.encrypt(bytes(NONCE), file_key, None)


def unlock(secret_keys: Sequence[bytes], passphrase: Passphrase | None) -> Unlock:
    """By X25519 secret keys, or by the passphrase of a file that is sealed by one.

    The passphrase is asked for only where it is needed. What is returned raises EnvelopeError
    for stanzas that are damaged, or that can't be opened by what was given.
    """

    def find(stanzas: Sequence[Stanza]) -> bytes | None:
        by_passphrase = [stanza for stanza in stanzas if stanza.arguments[0] == _SCRYPT]
        if by_passphrase:
            # Alone, or anybody who knows the passphrase could have added another recipient.
            if len(stanzas) > 1:
                raise EnvelopeError("the header has a passphrase beside other recipients")
            if passphrase is None:
                raise EnvelopeError("this file is sealed by a passphrase, not for a key")
            return _open_scrypt(by_passphrase[0], passphrase)
        if not secret_keys:
            raise EnvelopeError("this file is sealed for a secret key, and none is given")
        return _open_x25519(stanzas, secret_keys)

    return find


def _open_x25519(stanzas: Sequence[Stanza], secret_keys: Sequence[bytes]) -> bytes | None:
    readers = [(X25519PrivateKey.from_private_bytes(key), public_of(key)) for key in secret_keys]
    for stanza in stanzas:
        if stanza.arguments[0] != _X25519:
            continue
        share = from_base64(stanza.arguments[1]) if len(stanza.arguments) == 2 else b""  # noqa: PLR2004 - the kind and the share
        # The exact length matters: a longer body could be made to open with many keys.
        if len(share) != SIZE or len(stanza.body) != FILE_KEY + TAG:
            raise EnvelopeError("the header has a damaged stanza")
        for reader, public_key in readers:
            try:
                shared = reader.exchange(X25519PublicKey.from_public_bytes(share))
            except ValueError:
                raise EnvelopeError("the header has a low-order point for a share") from None
            cipher = _x25519_cipher(shared, share, public_key)
            try:
                return cipher.decrypt(bytes(NONCE), stanza.body, None)
            except InvalidTag:
                continue
    return None


def _open_scrypt(stanza: Stanza, passphrase: Passphrase) -> bytes:
    arguments = stanza.arguments
    salt = from_base64(arguments[1]) if len(arguments) == 3 else b""  # noqa: PLR2004 - the kind, the salt and the work
    if len(salt) != _SALT or len(stanza.body) != FILE_KEY + TAG:
        raise EnvelopeError("the header has a damaged stanza")
    derive = Scrypt(salt=_WRAP_SCRYPT + salt, length=KEY, n=2 ** _work(arguments[2]), r=8, p=1)
    try:
        key = derive.derive(passphrase())
    except MemoryError:
        raise EnvelopeError("there isn't enough memory for what the passphrase needs") from None
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(NONCE), stanza.body, None)
    except InvalidTag:
        raise EnvelopeError("wrong passphrase for the file, or its header is damaged") from None


def _work(argument: bytes) -> int:
    """A decimal number in its one form."""
    if not argument.isdigit() or argument.startswith(b"0") or len(argument) > 2:  # noqa: PLR2004 - 22 has two
        raise EnvelopeError("the header has a damaged stanza")
    if int(argument) > MAX_WORK:
        raise EnvelopeError(f"the passphrase asks for 2^{int(argument)} of work")
    return int(argument)


def _x25519_cipher(shared: bytes, share: bytes, public_key: bytes) -> ChaCha20Poly1305:
    # Each key wraps one file key only, so that its nonce can be zero.
    return ChaCha20Poly1305(derive(shared, share + public_key, _WRAP_X25519))


def derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes from a key, for one purpose."""
    return HKDF(SHA256(), KEY, salt, info).derive(key)


def to_base64(data: bytes) -> bytes:
    """Base64 without padding."""
    return base64.b64encode(data).rstrip(b"=")


def from_base64(text: bytes) -> bytes:
    """Bytes of base64 without padding, in its one canonical form. Raises EnvelopeError."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        data = b""
    if to_base64(data) != text:
        raise EnvelopeError("the header has a damaged line")
    return data

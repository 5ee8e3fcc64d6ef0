"""X25519 public keys as recipients give them, which may be hostile."""

from __future__ import annotations

import hashlib
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from pipeline.errors import RecipientError

SIZE: Final = 32
_PRIME: Final = 2**255 - 19


def fingerprint(kind: Literal["c4gh", "age"], public_key: bytes) -> str:
    """How a receipt names a recipient: the kind, and 128 bits of the raw key's SHA-256, as hex.

    To compute it by hand: decode the key to its 32 bytes, hash them with SHA-256, and take the
    first 32 hexadecimal digits.
    """
    return f"{kind}:{hashlib.sha256(public_key).hexdigest()[:32]}"


def public_of(secret_key: bytes) -> bytes:
    """The raw public key that belongs to a raw secret key."""
    return X25519PrivateKey.from_private_bytes(secret_key).public_key().public_bytes_raw()


def check_public(public_key: bytes) -> None:
    """Raise RecipientError for what is no public key that its owner could open anything with.

    Both formats hash the public key's bytes into the key that wraps the session key, and the
    owner hashes the canonical ones: an encoding that isn't canonical would seal for nobody.
    """
    if len(public_key) != SIZE:
        raise RecipientError(f"a recipient's key has {len(public_key)} bytes, expected {SIZE}")
    if int.from_bytes(public_key, "little") >= _PRIME:
        raise RecipientError("a recipient's key isn't an X25519 public key in canonical form")


def agree(secret_key: X25519PrivateKey, public_key: bytes) -> bytes:
    """The shared secret with a recipient. Raises RecipientError for a low-order point."""
    check_public(public_key)
    try:
        return secret_key.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError as error:
        raise RecipientError("a recipient's key is a low-order point, no public key") from error

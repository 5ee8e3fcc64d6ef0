"""Sealed files that fuzzers start from, and the one secret key that opens them."""

from __future__ import annotations

from base64 import b64encode
from typing import Final

from pipeline.envelope import by_format
from pipeline.envelope.bech32 import encode
from pipeline.envelope.x25519 import public_of

SECRET: Final = bytes(range(1, 33))
PLAINTEXT: Final = b"what was sealed"

_PUBLIC: Final = public_of(SECRET)
_CRYPT4GH: Final = (
    "-----BEGIN CRYPT4GH PUBLIC KEY-----\n"
    f"{b64encode(_PUBLIC).decode()}\n-----END CRYPT4GH PUBLIC KEY-----\n"
)


def _sealed(age: bool, plaintext: bytes) -> bytes:  # noqa: FBT001 - two formats there are
    layout = by_format("age" if age else "crypt4gh")
    made = layout.make((encode("age", _PUBLIC) if age else _CRYPT4GH,))
    sealer = layout.sealer(made.key, len(plaintext))
    out = bytearray(layout.sealed_size(len(made.header), len(plaintext)) - len(made.header))
    written = sealer.seal_into(0, memoryview(plaintext), memoryview(out))
    return made.header + bytes(out[:written])


SEALED: Final = tuple(
    _sealed(age, plaintext) for age in (False, True) for plaintext in (PLAINTEXT, b"")
)

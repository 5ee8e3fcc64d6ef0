"""Digests of plaintext, by the names that config, jobs and receipts have for them."""

from __future__ import annotations

import hashlib
from typing import Protocol

from pipeline.messages import DigestName


class Hasher(Protocol):
    """What :mod:`hashlib` and blake3 have in common."""

    def update(self, data: memoryview, /) -> object:
        """Take further bytes."""

    def hexdigest(self) -> str:
        """Of all bytes taken."""


def hasher(name: DigestName) -> Hasher:
    """A fresh hasher."""
    if name == "sha256":
        return hashlib.sha256()
    from blake3 import blake3  # noqa: PLC0415  # only who asks for it needs it in memory

    return blake3()

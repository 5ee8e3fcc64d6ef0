"""How an object is opened again by programs that others wrote, and what a receipt says of that."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, BinaryIO, Protocol

import crypt4gh.header
import crypt4gh.lib
from awscrt.checksums import crc64nvme
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

_deconstruct: Any = crypt4gh.header.deconstruct  # it has no types
_PIECE = 65536


class Opener(Protocol):
    """Whoever may read objects."""

    def open(self, source: BinaryIO) -> tuple[int, str]:
        """Size and SHA-256 of what an object holds, which is read to its end."""

    def session_keys(self, source: BinaryIO) -> Sequence[bytes]:
        """What nobody else may know of an object, which is read from its start."""

    def encryption(self, size: int) -> Mapping[str, Any]:
        """What the receipt of an object of so many bytes says of how it is sealed."""


class HashingWriter:
    """Takes bytes, and keeps their number and digest."""

    def __init__(self) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.sha256.update(data)
        return len(data)

    def take(self, source: BinaryIO) -> None:
        """All that a file has left."""
        while data := source.read(_PIECE):
            self.write(data)

    @property
    def found(self) -> tuple[int, str]:
        """Size and SHA-256 of what came."""
        return self.size, self.sha256.hexdigest()


def decrypted(source: BinaryIO, secret_key: bytes) -> tuple[int, str]:
    """Size and SHA-256 of what `crypt4gh`, which others wrote, makes of an object."""
    out = HashingWriter()
    crypt4gh.lib.decrypt([(0, secret_key, None)], source, out)
    return out.found


@dataclass(frozen=True)
class Crypt4gh:
    """The owner of a Crypt4GH key."""

    secret_key: bytes

    def open(self, source: BinaryIO) -> tuple[int, str]:
        return decrypted(source, self.secret_key)

    def session_keys(self, source: BinaryIO) -> Sequence[bytes]:
        keys, _ = _deconstruct(source, [(0, self.secret_key, None)])
        return tuple(keys)

    def encryption(self, size: int) -> Mapping[str, Any]:
        public = X25519PrivateKey.from_private_bytes(self.secret_key).public_key()
        recipient = _fingerprint("c4gh", public.public_bytes_raw())
        return {"format": "crypt4gh", "recipients": [recipient], "size": size}


@dataclass(frozen=True)
class Clear:
    """Anybody, where nothing is sealed."""

    def open(self, source: BinaryIO) -> tuple[int, str]:
        out = HashingWriter()
        out.take(source)
        return out.found

    def session_keys(self, source: BinaryIO) -> Sequence[bytes]:
        del source
        return ()

    def encryption(self, size: int) -> Mapping[str, Any]:
        return {"format": "none", "recipients": [], "size": size}


@dataclass(frozen=True)
class Age:
    """The owner of an age identity, by its own program."""

    identity: Path
    public: bytes
    """The raw key that objects are sealed for."""

    def open(self, source: BinaryIO) -> tuple[int, str]:
        out = HashingWriter()
        command = ["age", "-d", "-i", str(self.identity)]
        with Popen(command, stdin=PIPE, stdout=PIPE) as age:
            out.write(age.communicate(source.read())[0])
        assert age.returncode == 0, "age does not open it"
        return out.found

    def session_keys(self, source: BinaryIO) -> Sequence[bytes]:
        del source
        return ()

    def encryption(self, size: int) -> Mapping[str, Any]:
        recipient = _fingerprint("age", self.public)
        return {"format": "age", "recipients": [recipient], "size": size}


class SealedReader:
    """An object as it is read, with its size, CRC-64/NVME and MD5."""

    def __init__(self, source: BinaryIO) -> None:
        self.size = 0
        self._crc = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._source = source

    @property
    def crc64nvme(self) -> str:
        """As stores write it."""
        return base64.b64encode(self._crc.to_bytes(8, "big")).decode()

    @property
    def md5(self) -> str:
        """Hex."""
        return self._md5.hexdigest()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.size += len(data)
        self._crc = crc64nvme(data, self._crc)
        self._md5.update(data)
        return data

    def readinto(self, buffer: bytearray) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _fingerprint(kind: str, public: bytes) -> str:
    """By hand, as the documentation of receipts says."""
    return f"{kind}:{hashlib.sha256(public).hexdigest()[:32]}"

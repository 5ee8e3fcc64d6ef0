"""The record of a finished upload, and how plaintext is held against it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from pipeline.digests import Hasher, hasher
from pipeline.errors import ReceiptError, VerificationError
from pipeline.messages import DestinationSpec, DigestName, EnvelopeFormat, StoredObject, VerifyMode

MAX_SIZE: Final = 4 * 1024 * 1024
"""Bytes of a receipt's file; a longer one is none."""

_MODE: Final = 0o640  # file names are told to the group of operators, and to nobody else
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._+-]{0,199}")


class Encryption(msgspec.Struct, frozen=True, kw_only=True):
    """How the stored objects are sealed."""

    format: EnvelopeFormat
    recipients: tuple[str, ...]
    """Fingerprints of their public keys, see :func:`pipeline.envelope.x25519.fingerprint`."""
    size: int
    """Bytes of the whole sealed object."""


class DeliveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One destination's object, as it was verified."""

    destination: str
    type: str
    uri: str
    size: int
    etag: str
    checksum: dict[str, str]
    verified: VerifyMode
    stored_at: datetime


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one upload. ``size`` and ``digest`` (hex, by name) are the plaintext's."""

    version: Literal[1] = 1
    upload: str
    tus_id: str
    study: str
    filename: str
    size: int
    digest: dict[str, str]
    encryption: Encryption
    deliveries: tuple[DeliveryRecord, ...]
    received_at: datetime
    stored_at: datetime
    software: str


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The upload that a receipt is for. Times are seconds since the epoch."""

    upload: str
    tus_id: str
    study: str
    filename: str
    size: int
    digest: str
    """Of the plaintext, ``<name>:<hex>``."""
    received_at: float
    stored_at: float


def record(destination: DestinationSpec, stored: StoredObject, stored_at: float) -> DeliveryRecord:
    """What the receipt keeps of a finished delivery; nothing of the destination's secrets."""
    return DeliveryRecord(
        destination=destination.name,
        type=destination.type,
        uri=stored.uri,
        size=stored.size,
        etag=stored.etag,
        checksum=stored.checksum,
        verified=stored.verified,
        stored_at=_time(stored_at),
    )


def build(
    subject: Subject,
    encryption: Encryption,
    deliveries: Sequence[DeliveryRecord],
    software: str,
) -> Receipt:
    """The receipt of an upload. Raises ValueError for a digest of another shape."""
    name, separator, value = subject.digest.partition(":")
    if not (name and separator and value):
        raise ValueError("a digest is given as <name>:<hex>")
    return Receipt(
        upload=subject.upload,
        tus_id=subject.tus_id,
        study=subject.study,
        filename=subject.filename,
        size=subject.size,
        digest={name: value},
        encryption=encryption,
        deliveries=tuple(deliveries),
        received_at=_time(subject.received_at),
        stored_at=_time(subject.stored_at),
        software=software,
    )


def to_dict(receipt: Receipt) -> dict[str, Any]:
    """As it goes into the ``stored`` report; times become RFC 3339 UTC."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(receipt))
    return plain


def parse(data: bytes | dict[str, Any]) -> Receipt:
    """A receipt from a file's bytes or a report's body. Raises ReceiptError.

    Fields that this version doesn't know are let be.
    """
    try:
        if isinstance(data, dict):
            return msgspec.convert(data, Receipt)
        return msgspec.json.decode(data, type=Receipt)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReceiptError(f"no receipt: {error}") from None


def read(path: Path) -> Receipt:
    """A receipt from a file. Raises ReceiptError, and OSError where it can't be read."""
    with path.open("rb") as file:
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise ReceiptError(f"no receipt: longer than {MAX_SIZE} bytes")
    return parse(data)


def write(directory: Path, receipt: Receipt) -> Path:
    """Write ``<directory>/<upload>.json``, and give its path; durable when this returns.

    The file is never seen half-written. The same receipt again replaces it. Blocks; raises
    OSError, and ValueError for an upload's id that can't be a file name.
    """
    if not _NAME.fullmatch(receipt.upload):
        raise ValueError(f"an upload's id that is no file name: {receipt.upload!r}")
    path = directory / f"{receipt.upload}.json"
    # One name for each upload: what a crash leaves behind is overwritten by the next try.
    temporary = directory / f".{receipt.upload}.json.tmp"
    text = msgspec.json.format(msgspec.json.encode(receipt), indent=2) + b"\n"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path


def new_hash(name: str) -> Hasher:
    """The hash of that name. Raises ReceiptError where it isn't known or isn't installed."""
    known: tuple[DigestName, ...] = ("sha256", "blake3")
    for digest in known:
        if digest == name:
            try:
                return hasher(digest)
            except ImportError:
                raise ReceiptError(f"the package {name} isn't installed") from None
    raise ReceiptError(f"a digest that isn't known here: {name!r}")


class PlaintextCheck:
    """Holds plaintext against its receipt, as it comes by.

    Raises ReceiptError where the receipt has no digest, or one that can't be computed here.
    """

    def __init__(self, receipt: Receipt) -> None:
        if not receipt.digest:
            raise ReceiptError("the receipt has no digest to check")
        self._receipt = receipt
        self._hashes = {name: new_hash(name) for name in receipt.digest}
        self._size = 0

    def update(self, piece: memoryview) -> None:
        """Take the next bytes in."""
        self._size += len(piece)
        for digest in self._hashes.values():
            digest.update(piece)

    def finish(self) -> None:
        """Raise VerificationError where size or digest isn't the receipt's."""
        if self._size != self._receipt.size:
            raise VerificationError(
                f"{self._size} bytes of plaintext, the receipt says {self._receipt.size}"
            )
        for name, digest in self._hashes.items():
            found, expected = digest.hexdigest(), self._receipt.digest[name].lower()
            if found != expected:
                raise VerificationError(f"{name} {found}, the receipt says {expected}")


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

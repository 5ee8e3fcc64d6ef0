"""Files and stored objects, held against a receipt."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
from awscrt.checksums import crc64nvme

from daemon.settings import Destination
from pipeline.destinations import crc
from pipeline.destinations.looking import Standing, look, name_of
from pipeline.envelope import by_format
from pipeline.envelope.keyfiles import SecretKey
from pipeline.envelope.opening import MAGIC, open_sealed
from pipeline.errors import DropoffError
from pipeline.receipt import DeliveryRecord, PlaintextCheck, Receipt

_BLOCK = 1024 * 1024
_AT_ONCE = 4
_MD5 = "md5"
_KNOWN = (crc.NAME, _MD5)
_WHOLE_MD5 = re.compile(r"[0-9a-f]{32}")
"""Of a whole object; that of one made of parts can't be told from its bytes alone."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether something is as the receipt says."""

    subject: str
    """``receipt``, ``file``, or ``destination NAME``."""
    holds: bool
    message: str
    """By what it holds, or what is different."""


class _Counted:
    """A file being read, its size and checksums counted on the way."""

    def __init__(self, file: BinaryIO, *, md5: bool) -> None:
        self._file = file
        self._crc = 0
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None
        self.size = 0

    @property
    def sums(self) -> dict[str, str]:
        """Of what was read so far, by name, the strongest first."""
        sums = {crc.NAME: crc.text(self._crc)}
        return sums if self._md5 is None else {**sums, _MD5: self._md5.hexdigest()}

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self.size += len(data)
        self._crc = crc64nvme(data, self._crc)
        if self._md5 is not None:
            self._md5.update(data)
        return data


def check_itself(receipt: Receipt) -> list[Verdict]:
    """Whether the receipt agrees with itself: sizes, digest, deliveries."""
    said = _contradiction(receipt)
    return [Verdict(subject="receipt", holds=not said, message=said or "agrees with itself")]


def _contradiction(receipt: Receipt) -> str:
    """Where the receipt contradicts itself; empty where it doesn't."""
    sealing = receipt.encryption
    body = by_format(sealing.format).sealed_size(0, receipt.size)
    sealed = sealing.format != "none"
    wrong = {
        f"{receipt.size} bytes can't be sealed by {sealing.format} to {sealing.size}": (
            sealing.size <= body if sealed else sealing.size != receipt.size
        ),
        "it has no recipient": sealed and not sealing.recipients,
        "it has no digest": not receipt.digest,
        "it has no delivery": not receipt.deliveries,
        f"not every delivery has {sealing.size} bytes": any(
            delivery.size != sealing.size for delivery in receipt.deliveries
        ),
        "its deliveries have different checksums": any(
            len(_checksums(receipt, name)) > 1 for name in _KNOWN
        ),
    }
    return next((message for message, so in wrong.items() if so), "")


def check_file(receipt: Receipt, path: Path, secret: SecretKey | None) -> list[Verdict]:
    """Hold a file against the receipt; blocks for as long as reading it takes.

    A sealed one against size and checksum of the object, and with ``secret`` also what is in it
    against size and digest of the plaintext. The original file itself is held against these.
    Raises OSError where it can't be read.
    """
    with path.open("rb") as file:
        plain = _is_plain(receipt, file)
        # Ten times as dear as the CRC: only where that isn't known.
        needed = not _checksums(receipt, crc.NAME) and bool(_checksums(receipt, _MD5))
        counted = _Counted(file, md5=needed)
        found = [_by_digest(receipt, counted, secret, plain=plain)]
        while counted.read(_BLOCK):
            pass
    if not plain or receipt.encryption.format == "none":
        found.append(_by_checksum(receipt, counted))
    return [verdict for verdict in found if verdict is not None]


def _is_plain(receipt: Receipt, file: BinaryIO) -> bool:
    """Whether it can only be the plaintext, by its size and beginning."""
    name = receipt.encryption.format
    if name == "none":
        return True
    start = file.read(max(map(len, MAGIC)))
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    sealed = any(known == name and start.startswith(magic) for magic, known in MAGIC.items())
    return not sealed and size == receipt.size


def _by_digest(
    receipt: Receipt, source: _Counted, secret: SecretKey | None, *, plain: bool
) -> Verdict | None:
    """The plaintext's size and digest; None where it can't be seen."""
    try:
        if plain:
            check = PlaintextCheck(receipt)
            while data := source.read(_BLOCK):
                check.update(memoryview(data))
            check.finish()
        elif secret is not None:
            for _ in open_sealed(source, secret, receipt):
                pass
        else:
            return None
    except DropoffError as error:
        return Verdict(subject="file", holds=False, message=f"{error.code}: {error.message}")
    names = " and ".join(receipt.digest)
    return Verdict(
        subject="file", holds=True, message=f"the plaintext's size and {names} are right"
    )


def _by_checksum(receipt: Receipt, counted: _Counted) -> Verdict:
    """The object's size and, where a store or a read-back gave one, its checksum."""
    size = receipt.encryption.size
    if counted.size != size:
        message = f"{counted.size} bytes, the receipt says {size}"
        return Verdict(subject="file", holds=False, message=message)
    for name, found in counted.sums.items():
        expected = _checksums(receipt, name)
        if expected and expected != {found}:
            message = f"{name} {found}, the receipt says {', '.join(sorted(expected))}"
            return Verdict(subject="file", holds=False, message=message)
        if expected:
            message = f"the object's size and {name} are right"
            return Verdict(subject="file", holds=True, message=message)
    message = "the object's size is right; the receipt has no checksum of it: give --key"
    return Verdict(subject="file", holds=True, message=message)


async def check_deliveries(
    receipt: Receipt, destinations: Mapping[str, Destination]
) -> Sequence[Verdict]:
    """Hold what the destinations have against the receipt; nothing is changed there.

    An object is proved as it was when it was stored: by the store's own checksum, or by reading
    all of it. What stands in the way at one destination is that one's verdict.
    """
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(delivery: DeliveryRecord) -> Verdict:
        async with slots:
            try:
                holds, message = await _standing(delivery, destinations)
            except DropoffError as error:
                holds, message = False, f"{error.code}: {error.message}"
        subject = f"destination {delivery.destination}"
        return Verdict(subject=subject, holds=holds, message=message)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(delivery)) for delivery in receipt.deliveries]
    return [task.result() for task in tasks]


async def _standing(
    delivery: DeliveryRecord, destinations: Mapping[str, Destination]
) -> tuple[bool, str]:
    destination = destinations.get(delivery.destination)
    if destination is None:
        return False, "it is not in the configuration"
    spec = destination.spec
    name = name_of(spec, delivery.uri)
    expected = delivery.checksum.get(crc.NAME, "")
    reading = bool(expected) and (delivery.verified == "readback" or spec.type == "directory")
    found = await look(spec, name, read=reading)
    if found is not None and expected and not found.crc64nvme:
        reading = True  # the store no longer tells what it once counted
        found = await look(spec, name, read=True)
    if found is None:
        return False, f"{delivery.uri} is not there"
    if different := _difference(delivery, found):
        return False, f"{delivery.uri} has {different}"
    proof = "the size is right; the receipt has no checksum of it"
    if expected:
        how = "read" if reading else "told by the store"
        proof = f"size and {crc.NAME} are right, {how}"
    elif delivery.etag:
        proof = "size and ETag are right"
    return True, f"{delivery.uri}: {proof}"


def _difference(delivery: DeliveryRecord, found: Standing) -> str:
    """What an object has that the receipt says otherwise; empty where it agrees."""
    expected = delivery.checksum.get(crc.NAME, "")
    if found.size != delivery.size:
        return f"{found.size} bytes, the receipt says {delivery.size}"
    if expected and found.crc64nvme != expected:
        return f"{crc.NAME} {found.crc64nvme}, the receipt says {expected}"
    if not expected and delivery.etag and found.etag != delivery.etag:
        return f"ETag {found.etag}, the receipt says {delivery.etag}"
    return ""


def _checksums(receipt: Receipt, name: str) -> set[str]:
    """Those of the sealed object, as the deliveries have them: one, if all is well."""
    found = {each.checksum[name] for each in receipt.deliveries if name in each.checksum}
    return {value for value in found if name != _MD5 or _WHOLE_MD5.fullmatch(value)}

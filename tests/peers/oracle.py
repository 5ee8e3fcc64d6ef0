"""The oracle: whether what the destinations, the REST API and the disk hold is right.

Every test that lets dropoffd run whole, whatever it breaks meanwhile, asks here at the end: of what
went out by :func:`check_delivered`, of everything by :func:`judge`. What a daemon leaves on its own
disk, and shows of itself while it runs, is looked at by `tests.peers.traces`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import unquote

import crypt4gh.header
import crypt4gh.lib
from awscrt.checksums import crc64nvme
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.peers import traces
from tests.peers.dropoffd import Dropoffd
from tests.peers.seaweedfs import Weed
from tests.peers.verdicts import LostError, OrphanError, TwiceError, Verdict

UNFINISHED = ".dropoffd-part"
ORDER = ("receiving", "received", "processing", "stored")


@dataclass(frozen=True)
class Sent:
    """An upload as its client sent it."""

    tus_id: str
    study: str
    filename: str
    size: int
    sha256: str


class Store(Protocol):
    """What a destination holds, looked at from outside."""

    def names(self) -> list[str]:
        """Finished objects."""

    def open(self, name: str) -> BinaryIO:
        """One of them."""

    def etag(self, name: str) -> str:
        """Its entity tag; empty where it has none."""

    def unfinished(self) -> list[str]:
        """Whatever was begun and not ended."""


class Folder:
    """A directory destination."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        files = (path for path in self._root.rglob("*") if path.is_file())
        return [
            str(path.relative_to(self._root))
            for path in files
            if not path.name.endswith(UNFINISHED)
        ]

    def open(self, name: str) -> BinaryIO:
        return (self._root / name).open("rb")

    def etag(self, name: str) -> str:
        del name
        return ""

    def unfinished(self) -> list[str]:
        return [str(path) for path in self._root.rglob(f"*{UNFINISHED}")]


class Bucket:
    """A bucket of a real S3 server, or what is in it below a prefix."""

    def __init__(self, weed: Weed, bucket: str, prefix: str = "") -> None:
        self._client = weed.client()
        self._bucket = bucket
        self._prefix = prefix

    def names(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def open(self, name: str) -> BinaryIO:
        body: BinaryIO = self._client.get_object(Bucket=self._bucket, Key=name)["Body"]
        return body

    def etag(self, name: str) -> str:
        found: str = self._client.head_object(Bucket=self._bucket, Key=name)["ETag"]
        return found.strip('"')

    def unfinished(self) -> list[str]:
        listed = self._client.list_multipart_uploads(Bucket=self._bucket)
        keys = [entry["Key"] for entry in listed.get("Uploads", ())]
        return [key for key in keys if key.startswith(self._prefix)]


_deconstruct: Any = crypt4gh.header.deconstruct  # it has no types


class HashingWriter:
    """Takes bytes, and keeps their number and digest."""

    def __init__(self) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.sha256.update(data)
        return len(data)


def decrypted(source: BinaryIO, secret_key: bytes) -> tuple[int, str]:
    """Size and SHA-256 of what `crypt4gh`, which others wrote, makes of an object."""
    out = HashingWriter()
    crypt4gh.lib.decrypt([(0, secret_key, None)], source, out)
    return out.size, out.sha256.hexdigest()


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


@dataclass(frozen=True)
class Evidence:
    """What a verdict is made from; the daemon has stopped."""

    daemon: Dropoffd
    sent: Sequence[Sent]
    drops: Sequence[Mapping[str, Any]]
    """What the REST API was told, of these uploads only."""
    stores: Mapping[str, Store]
    secret_key: bytes
    """The recipient's."""
    secrets: Sequence[str]
    """What nobody may have written down."""
    failing: frozenset[str] = frozenset()
    """The tus ids of those that have to fail."""


def judge(found: Evidence) -> Verdict:
    """Hold everything against what it has to be once all uploads are over."""
    verdict = Verdict(uploads=len(found.sent), failed=len(found.failing))
    session_keys: list[bytes] = []
    receipts: dict[str, Mapping[str, Any]] = {}
    ids = traces.upload_ids(found.daemon)
    by_tus_id: Mapping[str, Mapping[str, Any]] = {}
    with verdict.noting():
        by_tus_id = _by_tus_id(found.drops)
    held = {name: store.names() for name, store in found.stores.items()}
    for upload in found.sent:
        with verdict.noting():
            _told(upload, by_tus_id)
            if upload.tus_id in found.failing:
                check_failed(upload, by_tus_id[upload.tus_id]["reports"], found.daemon)
                continue
            receipt = check_reports(upload, by_tus_id[upload.tus_id]["reports"])
            receipts[receipt["upload"]] = receipt
            session_keys += _check_held(upload, receipt, found.stores, held, found.secret_key)
    whole = len(found.sent) - len(found.failing)
    for name, store in found.stores.items():
        with verdict.noting():
            _check_counted(name, store, held[name], whole)
    reports = {drop["id"]: drop["reports"] for drop in found.drops}
    checks: list[Callable[[], object]] = [
        lambda: _check_ids(ids, found.sent),
        lambda: traces.check_receipts(found.daemon, receipts),
        lambda: traces.check_journal(found.daemon, reports),
        lambda: traces.check_audit(found.daemon, receipts),
        lambda: check_nothing_left(found.daemon, found.failing),
        lambda: traces.check_secrets(found.daemon, found.secrets, session_keys),
    ]
    for check in checks:
        with verdict.noting():
            check()
    return verdict


def check_delivered(
    sent: Sequence[Sent],
    drops: Iterable[Mapping[str, Any]],
    stores: Mapping[str, Store],
    secret_key: bytes,
) -> None:
    """Each upload is once in each store, decrypts to what was sent, and was reported in order."""
    by_tus_id = _by_tus_id(drops)
    held = {name: store.names() for name, store in stores.items()}
    for upload in sent:
        _told(upload, by_tus_id)
        receipt = check_reports(upload, by_tus_id[upload.tus_id]["reports"])
        _check_held(upload, receipt, stores, held, secret_key)
    for name, store in stores.items():
        _check_counted(name, store, held[name], len(sent))


def check_reports(upload: Sent, reports: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """A stored upload has all its reports in order, and one ``stored``; the receipt in that."""
    states = [report["state"] for report in reports]
    _check_order(upload, reports)
    if "stored" not in states:
        raise LostError(f"{upload} is never told to be stored: {states}")
    assert states == sorted(states, key=ORDER.index), f"{upload}: states go back: {states}"
    if states.count("stored") != 1:
        raise TwiceError(f"{upload}: {states}")
    last = reports[-1]
    assert (last["study"], last["filename"], last["size"]) == (
        upload.study,
        upload.filename,
        upload.size,
    )
    receipt: Mapping[str, Any] = last["receipt"]
    assert receipt["digest"] == {"sha256": upload.sha256}
    assert (receipt["tus_id"], receipt["study"], receipt["filename"], receipt["size"]) == (
        last["tus_id"],
        upload.study,
        upload.filename,
        upload.size,
    )
    return receipt


def check_failed(upload: Sent, reports: Sequence[Mapping[str, Any]], daemon: Dropoffd) -> None:
    """One that failed is told to have, once and for all, and its source is as it was sent."""
    _check_order(upload, reports)
    last = reports[-1]
    assert last["state"] == "failed", f"{upload}: {last['state']}"
    assert last["error"]["code"], f"{upload} failed for no reason"
    source = daemon.uploads / upload.tus_id
    there = source.exists() and source.with_name(f"{source.name}.info").exists()
    if not there or hashlib.sha256(source.read_bytes()).hexdigest() != upload.sha256:
        raise LostError(f"{upload} failed, and its source is not what it was")


def check_nothing_left(daemon: Dropoffd, failed: Iterable[str] = ()) -> None:
    """Sources and ``.info`` are gone but for those of ``failed``, spool and temporary files too."""
    kept = {name for tus_id in failed for name in (tus_id, f"{tus_id}.info")}
    left = [path.name for path in daemon.uploads.rglob("*") if path.is_file()]
    left = [name for name in left if name not in kept] + traces.leftovers(daemon)
    if left:
        raise OrphanError(f"left behind: {left[:10]}")


def _check_order(upload: Sent, reports: Sequence[Mapping[str, Any]]) -> None:
    sequences = [report["sequence"] for report in reports]
    assert sequences == list(range(1, len(reports) + 1)), (
        f"{upload}: reports out of order, or not all: {sequences}"
    )
    assert len({report["report"] for report in reports}) == len(reports), f"{upload}: same report"


def _check_held(
    upload: Sent,
    receipt: Mapping[str, Any],
    stores: Mapping[str, Store],
    held: Mapping[str, Sequence[str]],
    secret_key: bytes,
) -> list[bytes]:
    """It is once in each store, as it was sent, and as its receipt says. Its session keys."""
    session_keys: list[bytes] = []
    records = {record["destination"]: record for record in receipt["deliveries"]}
    if not len(records) == len(receipt["deliveries"]) == len(stores):
        raise TwiceError(f"{upload}: the receipt has other deliveries: {receipt['deliveries']}")
    for name, store in stores.items():
        mine = [key for key in held[name] if receipt["upload"] in key]
        if not mine:
            raise LostError(f"{upload} isn't in {name}")
        if len(mine) > 1:
            raise TwiceError(f"{upload} is {len(mine)} times in {name}: {mine}")
        with store.open(mine[0]) as source:
            sealed = SealedReader(source)
            found = decrypted(cast("BinaryIO", sealed), secret_key)
            assert not sealed.read(), "nothing follows"
        if found != (upload.size, upload.sha256):
            raise LostError(f"{name} holds other bytes: {mine[0]}")
        with store.open(mine[0]) as source:
            keys, _ = _deconstruct(source, [(0, secret_key, None)])
            session_keys += keys
        _check_record(records[name], mine[0], sealed, store.etag(mine[0]))
        assert receipt["encryption"] == {
            "format": "crypt4gh",
            "recipients": [_fingerprint(secret_key)],
            "size": sealed.size,
        }, f"{upload}: not how it was sealed: {receipt['encryption']}"
    return session_keys


def _check_record(record: Mapping[str, Any], key: str, sealed: SealedReader, etag: str) -> None:
    """What a receipt says of an object is true of it."""
    uri = record["uri"]
    assert uri.endswith(key) or unquote(uri).endswith(key), f"{key} is told to be {uri}"
    assert record["size"] == sealed.size, f"{key} has {sealed.size} bytes, not {record['size']}"
    assert record["etag"] in ("", etag), f"{key} has the ETag {etag}, not {record['etag']}"
    assert record["checksum"], f"{key} was never proved"
    for kind, value in record["checksum"].items():
        # Of an object of parts it is S3's own kind of MD5.
        md5 = etag if "-" in value else sealed.md5
        expected = {"crc64nvme": sealed.crc64nvme, "md5": md5}[kind]
        assert value == expected, f"{key} has the {kind} {expected}, not {value}"


def _check_counted(name: str, store: Store, keys: Sequence[str], uploads: int) -> None:
    if len(keys) != uploads:
        kind = OrphanError if len(keys) > uploads else LostError
        raise kind(f"{name} holds {len(keys)} objects for {uploads} uploads")
    if unfinished := store.unfinished():
        raise OrphanError(f"begun and not ended in {name}: {unfinished}")


def _check_ids(ids: Mapping[str, Sequence[str]], sent: Sequence[Sent]) -> None:
    """The journal knows each upload once."""
    for upload in sent:
        if len(ids.get(upload.tus_id, ())) != 1:
            kind = TwiceError if upload.tus_id in ids else LostError
            raise kind(f"{upload} is known as {ids.get(upload.tus_id)}")


def _fingerprint(secret_key: bytes) -> str:
    """By hand, as the documentation of receipts says."""
    public = X25519PrivateKey.from_private_bytes(secret_key).public_key().public_bytes_raw()
    return f"c4gh:{hashlib.sha256(public).hexdigest()[:32]}"


def _told(upload: Sent, by_tus_id: Mapping[str, object]) -> None:
    if upload.tus_id not in by_tus_id:
        raise LostError(f"the REST API never heard of {upload}")


def _by_tus_id(drops: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for drop in drops:
        for tus_id in {report["tus_id"] for report in drop["reports"] if report["tus_id"]}:
            if tus_id in found:
                raise TwiceError(f"{tus_id} was announced twice")
            found[tus_id] = drop
    return found

"""The oracle: whether what the destinations, the REST API and the disk hold is right.

Every test that lets dropoffd run whole, whatever it breaks meanwhile, asks here at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import crypt4gh.lib

from daemon.observe import audit
from tests.peers.dropoffd import Dropoffd
from tests.peers.seaweedfs import Weed

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

    def unfinished(self) -> list[str]:
        listed = self._client.list_multipart_uploads(Bucket=self._bucket)
        keys = [entry["Key"] for entry in listed.get("Uploads", ())]
        return [key for key in keys if key.startswith(self._prefix)]


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
        drop = by_tus_id[upload.tus_id]
        receipt = check_reports(upload, drop["reports"])
        for name, store in stores.items():
            mine = [key for key in held[name] if receipt["upload"] in key]
            assert len(mine) == 1, f"{upload} is {len(mine)} times in {name}: {mine}"
            with store.open(mine[0]) as source:
                found = decrypted(source, secret_key)
            assert found == (upload.size, upload.sha256), f"{name} holds other bytes: {mine[0]}"
    for name, keys in held.items():
        assert len(keys) == len(sent), f"{name} holds {len(keys)} objects for {len(sent)} uploads"
        assert stores[name].unfinished() == []


def check_reports(upload: Sent, reports: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """A stored upload has its reports in order, and one ``stored``; the receipt in that."""
    sequences = [report["sequence"] for report in reports]
    assert sequences == sorted(set(sequences)), f"{upload}: reports out of order: {sequences}"
    states = [report["state"] for report in reports]
    assert states == sorted(states, key=ORDER.index), f"{upload}: states go back: {states}"
    assert states.count("stored") == 1, f"{upload}: {states}"
    last = reports[-1]
    assert (last["study"], last["filename"], last["size"]) == (
        upload.study,
        upload.filename,
        upload.size,
    )
    receipt: Mapping[str, Any] = last["receipt"]
    assert receipt["digest"] == {"sha256": upload.sha256}
    assert receipt["size"] == upload.size
    return receipt


def check_nothing_left(daemon: Dropoffd) -> None:
    """Sources and ``.info`` are gone, spool and temporary files too, and session keys erased."""
    left = [path.name for path in daemon.uploads.rglob("*") if path.is_file()]
    assert left == [], f"in the upload directory: {left[:10]}"
    spooled = [str(path) for path in daemon.spool.rglob("*") if path.is_file()]
    assert spooled == [], f"in the spool: {spooled[:10]}"


def check_ended(daemon: Dropoffd, secrets: Iterable[str]) -> None:
    """No session key is kept, the audit chain is whole, and nobody wrote a secret down."""
    with contextlib.closing(sqlite3.connect(daemon.state / "journal.sqlite")) as journal:
        for table in ("uploads", "deliveries"):
            query = f"SELECT count(*) FROM {table} WHERE secret IS NOT NULL"  # noqa: S608 -- ours
            assert journal.execute(query).fetchone() == (0,), f"{table} keep secrets"
    audit.verify(daemon.state / audit.FILE)
    written = [daemon.log, *(path for path in daemon.state.rglob("*") if path.is_file())]
    for path in written:
        found = path.read_bytes()
        for secret in secrets:
            assert secret.encode() not in found, f"{path} holds a secret"
        receipt = path.parent.name == "receipts"
        assert not receipt or json.loads(found), f"{path} is no receipt"


def _by_tus_id(drops: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for drop in drops:
        for tus_id in {report["tus_id"] for report in drop["reports"] if report["tus_id"]}:
            assert tus_id not in found, f"{tus_id} was announced twice"
            found[tus_id] = drop
    return found

"""The oracle: whether what the destinations, the REST API and the disk hold is right.

Every test that lets dropoffd run whole, whatever it breaks meanwhile, asks here at the end: of what
went out by :func:`check_delivered`, of everything by :func:`judge`. What was killed amid its work
is judged by :mod:`tests.peers.so_far`. What a daemon leaves on its own disk, and shows of itself
while it runs, is looked at by :mod:`tests.peers.traces`; who opens objects is in
:mod:`tests.peers.openers`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from tests.peers import rows, traces
from tests.peers.openers import Crypt4gh, Opener, SealedReader
from tests.peers.rows import Known
from tests.peers.stores import Store
from tests.peers.traces import Ran
from tests.peers.verdicts import LostError, OrphanError, TwiceError, Verdict

ORDER = ("receiving", "received", "processing", "stored")
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Sent:
    """An upload as its client sent it."""

    tus_id: str
    study: str
    filename: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Failing:
    """How an upload has to fail."""

    code: str = ""
    """Empty: whichever."""
    begun: bool = False
    """Whether destinations may keep what was begun, for a `retry` to go on with."""


@dataclass(frozen=True)
class Evidence:
    """What a verdict is made from; whatever ran has stopped."""

    daemon: Ran
    sent: Sequence[Sent]
    drops: Sequence[Mapping[str, Any]] | None
    """What the REST API was told, of these uploads only; None where the studies are the config's,
    and nobody is told."""
    stores: Mapping[str, Store]
    opener: Opener
    secrets: Sequence[str] = ()
    """What nobody may have written down."""
    failing: Mapping[str, Failing] = field(default_factory=dict)
    """Those that have to fail, by tus id."""
    keys: Sequence[bytes] = ()
    """Session keys that no object tells of; they are secret, too."""
    bound: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Where the uploads of a study go; those of all others go to all stores."""

    def stores_of(self, upload: Sent) -> Sequence[str]:
        """Where it has to be."""
        return self.bound.get(upload.study, tuple(self.stores))


def judge(found: Evidence) -> Verdict:
    """Hold everything against what it has to be once all uploads are over."""
    verdict = Verdict(uploads=len(found.sent), failed=len(found.failing))
    session_keys: list[bytes] = [*found.keys]
    receipts: dict[str, Mapping[str, Any]] = {}
    known = rows.known(found.daemon)
    heard = _Heard(found, known)
    with verdict.noting():
        heard.listen()
    held = {name: Held(store) for name, store in found.stores.items()}
    for upload in found.sent:
        with verdict.noting():
            if upload.tus_id in found.failing:
                heard.check_failed(upload, found.failing[upload.tus_id])
                check_source(upload, found.daemon)
                continue
            receipt = heard.receipt(upload)
            receipts[receipt["upload"]] = receipt
            there = {name: held[name] for name in found.stores_of(upload)}
            session_keys += check_held(upload, receipt, there, found.opener)
    whole = [each for each in found.sent if each.tus_id not in found.failing]
    begun = {tus_id for tus_id, failing in found.failing.items() if failing.begun}
    kept = rows.begun(found.daemon, begun)
    for name, each in held.items():
        with verdict.noting():
            each.check_counted(name, sum(name in found.stores_of(upload) for upload in whole))
        with verdict.noting():
            each.check_unfinished(name, kept.get(name, ()))
    codes = {tus_id: failing.code for tus_id, failing in found.failing.items()}
    reports = {drop["id"]: drop["reports"] for drop in found.drops or ()}
    checks: list[Callable[[], object]] = [
        lambda: _check_known(known, found.sent),
        lambda: _check_strangers(known, found.sent),
        lambda: rows.check_states(known, [each.tus_id for each in found.sent], codes),
        lambda: traces.check_receipts(found.daemon, receipts),
        lambda: rows.check_journal(found.daemon, reports, begun),
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
    heard = by_tus_id(drops)
    held = {name: Held(store) for name, store in stores.items()}
    for upload in sent:
        receipt = check_reports(upload, _told(upload, heard))
        check_held(upload, receipt, held, Crypt4gh(secret_key))
    for name, each in held.items():
        each.check_counted(name, len(sent))
        each.check_unfinished(name)


def ids_in(name: str) -> set[str]:
    """The uploads' own ids that a name has, among other UUIDs."""
    return set(_ID.findall(name))


class Held:
    """What a store holds, as it was when it was looked into."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.names = store.names()
        self._of: dict[str, list[str]] = {}
        for name in self.names:
            for upload in ids_in(name):
                self._of.setdefault(upload, []).append(name)

    def of(self, upload: str) -> Sequence[str]:
        """The names that have an upload's own id in them."""
        return self._of.get(upload, ())

    def check_counted(self, name: str, uploads: int) -> None:
        """There are as many objects as uploads."""
        if len(self.names) != uploads:
            kind = OrphanError if len(self.names) > uploads else LostError
            raise kind(f"{name} holds {len(self.names)} objects for {uploads} uploads")

    def check_unfinished(self, name: str, begun: Iterable[str] = ()) -> None:
        """Nothing is there that is not an object, but one thing of each upload of ``begun``."""
        left = self.store.unfinished()
        for upload in begun:
            mine = [each for each in left if upload in each]
            left = [each for each in left if upload not in each] + mine[1:]
        if left:
            raise OrphanError(f"begun and not ended in {name}: {left}")


class _Heard:
    """What the REST API was told of each upload; nothing where there is none."""

    def __init__(self, found: Evidence, known: Mapping[str, Sequence[Known]]) -> None:
        self._found = found
        self._known = known
        self._drops: Mapping[str, Mapping[str, Any]] = {}

    def listen(self) -> None:
        """Take down what it was told."""
        self._drops = by_tus_id(self._found.drops or ())

    def receipt(self, upload: Sent) -> Mapping[str, Any]:
        """That of a stored upload, which was told in order."""
        if self._found.drops is not None:
            return check_reports(upload, _told(upload, self._drops))
        kept = [row.receipt for row in self._known.get(upload.tus_id, ()) if row.receipt]
        if not kept:
            raise LostError(f"{upload} has no receipt")
        check_receipt(upload, kept[0])
        return kept[0]

    def check_failed(self, upload: Sent, failing: Failing) -> None:
        """One that failed is told to have, once and for all."""
        if self._found.drops is not None:
            check_failed(upload, _told(upload, self._drops), failing)


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
    check_receipt(upload, receipt)
    return receipt


def check_receipt(upload: Sent, receipt: Mapping[str, Any]) -> None:
    """It is of that upload, as it was sent."""
    assert receipt["digest"] == {"sha256": upload.sha256}, f"{upload}: {receipt['digest']}"
    assert (receipt["tus_id"], receipt["study"], receipt["filename"], receipt["size"]) == (
        upload.tus_id,
        upload.study,
        upload.filename,
        upload.size,
    )


def check_failed(upload: Sent, reports: Sequence[Mapping[str, Any]], failing: Failing) -> None:
    """One that failed is told to have, once and for all, and why."""
    _check_order(upload, reports)
    *before, last = reports
    states = [report["state"] for report in before]
    assert last["state"] == "failed", f"{upload}: {last['state']}"
    assert states == sorted(states, key=ORDER[:-1].index), f"{upload}: states go back: {states}"
    code = last["error"]["code"]
    assert code, f"{upload} failed for no reason"
    assert code == (failing.code or code), f"{upload} failed by {code}, not {failing.code}"
    assert last.get("receipt") is None, f"{upload} failed, and has a receipt"


def check_source(upload: Sent, daemon: Ran) -> None:
    """It lies there, with its ``.info``, as it was sent."""
    source = daemon.uploads / upload.tus_id
    there = source.exists() and source.with_name(f"{source.name}.info").exists()
    if not there or hashlib.sha256(source.read_bytes()).hexdigest() != upload.sha256:
        raise LostError(f"{upload} is not stored, and its source is not what it was")


def check_nothing_left(daemon: Ran, failed: Iterable[str] = ()) -> None:
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


def check_held(
    upload: Sent, receipt: Mapping[str, Any], held: Mapping[str, Held], opener: Opener
) -> list[bytes]:
    """It is once in each store, as it was sent, and as its receipt says. Its session keys."""
    session_keys: list[bytes] = []
    records = {record["destination"]: record for record in receipt["deliveries"]}
    if not len(records) == len(receipt["deliveries"]) == len(held):
        raise TwiceError(f"{upload}: the receipt has other deliveries: {receipt['deliveries']}")
    for name, each in held.items():
        mine = each.of(receipt["upload"])
        if not mine:
            raise LostError(f"{upload} isn't in {name}")
        if len(mine) > 1:
            raise TwiceError(f"{upload} is {len(mine)} times in {name}: {mine}")
        sealed = check_object(upload, each.store, mine[0], opener)
        with each.store.open(mine[0]) as source:
            session_keys += opener.session_keys(source)
        _check_record(records[name], mine[0], sealed, each.store.etag(mine[0]))
        assert receipt["encryption"] == opener.encryption(sealed.size), (
            f"{upload}: not how it was sealed: {receipt['encryption']}"
        )
    return session_keys


def check_object(upload: Sent, store: Store, name: str, opener: Opener) -> SealedReader:
    """An object, opened, is what was sent. It as it was read."""
    with store.open(name) as source:
        sealed = SealedReader(source)
        found = opener.open(cast("BinaryIO", sealed))
        assert not sealed.read(), "nothing follows"
    if found != (upload.size, upload.sha256):
        raise LostError(f"other bytes are held: {name}")
    return sealed


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


def _check_known(known: Mapping[str, Sequence[Known]], sent: Sequence[Sent]) -> None:
    """The journal knows each upload once."""
    for upload in sent:
        if len(known.get(upload.tus_id, ())) != 1:
            kind = TwiceError if upload.tus_id in known else LostError
            raise kind(f"{upload} is known as {known.get(upload.tus_id)}")


def _check_strangers(known: Mapping[str, Sequence[Known]], sent: Sequence[Sent]) -> None:
    """It knows no other."""
    # What was announced and never came has no tus id.
    came = {tus_id for tus_id, each in known.items() if tus_id or each[0].state != "terminated"}
    if others := came - {upload.tus_id for upload in sent}:
        raise OrphanError(f"nobody sent {sorted(others)[:10]}")


def _told(upload: Sent, by_tus_id: Mapping[str, Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if upload.tus_id not in by_tus_id:
        raise LostError(f"the REST API never heard of {upload}")
    reports: Sequence[Mapping[str, Any]] = by_tus_id[upload.tus_id]["reports"]
    return reports


def by_tus_id(drops: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """What the REST API was told, by the ids of tus servers."""
    found: dict[str, Mapping[str, Any]] = {}
    for drop in drops:
        for tus_id in {report["tus_id"] for report in drop["reports"] if report["tus_id"]}:
            if tus_id in found:
                raise TwiceError(f"{tus_id} was announced twice")
            found[tus_id] = drop
    return found

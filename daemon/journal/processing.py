"""The way of an upload from received to done."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from daemon.errors import ConflictError
from daemon.journal.deliveries import deliveries_of
from daemon.journal.model import (
    Envelope,
    Error,
    Identity,
    NewDelivery,
    Standing,
    Trail,
    Upload,
    UploadState,
)
from daemon.journal.reports import drop_pending, queue_report, refresh_due
from daemon.journal.rows import purpose_of, strings_of, text_of, upload_of
from daemon.journal.transaction import (
    Transaction,
    erase_secrets,
    get_upload,
    move,
    require,
    upload_row,
)
from daemon.journal.wrapping import Wrapper, split_destination

_SESSION_KEY = "session key"


def announced(tx: Transaction, upload: str, api_id: str | None) -> None:
    """The broker took it."""
    get_upload(tx.connection, upload)
    tx.connection.execute(
        "UPDATE uploads SET announced = 1, api_id = ? WHERE id = ?", (api_id, upload)
    )
    if api_id is None:
        drop_pending(tx, upload)
    refresh_due(tx, upload)


def postpone(tx: Transaction, upload: str, error: Error, next_at: float) -> None:
    """Planning or cleaning up has to wait."""
    found = get_upload(tx.connection, upload)
    require(
        found,
        UploadState.RECEIVING,
        UploadState.RECEIVED,
        UploadState.PROCESSING,
        UploadState.STORED,
    )
    tx.connection.execute(
        "UPDATE uploads SET attempts = attempts + 1, error = ?, next_at = ? WHERE id = ?",
        (text_of(error), next_at, upload),
    )


def plan(  # noqa: PLR0913, PLR0917 - the border's arguments, and the transaction
    tx: Transaction,
    upload: str,
    envelope: Envelope,
    deliveries: Sequence[NewDelivery],
    identity: Identity,
    now: float,
) -> None:
    """Received → processing."""
    found = get_upload(tx.connection, upload)
    require(found, UploadState.RECEIVED)
    processing = move(tx, found, UploadState.PROCESSING, now)
    _fix(tx, upload, envelope, deliveries)
    _identify(tx, upload, identity)
    queue_report(tx, processing, now)


def follow(
    tx: Transaction,
    upload: str,
    envelope: Envelope,
    deliveries: Sequence[NewDelivery],
    trail: Trail,
) -> None:
    """Receiving, and delivered meanwhile."""
    found = get_upload(tx.connection, upload)
    require(found, UploadState.RECEIVING)
    if found.trail is not None:
        raise ConflictError(f"upload {upload} is followed already")
    _fix(tx, upload, envelope, deliveries)
    tx.connection.execute("UPDATE uploads SET trail = ? WHERE id = ?", (text_of(trail), upload))


def sealing(tx: Transaction, upload: str, end: int) -> None:
    """So far the bytes of a followed upload must not become others under its key."""
    found = get_upload(tx.connection, upload)
    require(found, UploadState.RECEIVING, UploadState.RECEIVED)
    if found.trail is None:
        raise ConflictError(f"upload {upload} is not followed")
    trail = msgspec.structs.replace(found.trail, sealed=max(found.trail.sealed, end))
    tx.connection.execute("UPDATE uploads SET trail = ? WHERE id = ?", (text_of(trail), upload))


def trust(tx: Transaction, upload: str, trail: Trail) -> None:
    """What went out early is the same in this file."""
    require(get_upload(tx.connection, upload), UploadState.RECEIVING)
    tx.connection.execute("UPDATE uploads SET trail = ? WHERE id = ?", (text_of(trail), upload))


def doubt(tx: Transaction, upload: str) -> None:
    """The past of a followed upload has to be read again before anything goes on."""
    found = get_upload(tx.connection, upload)
    require(found, UploadState.RECEIVING, UploadState.RECEIVED)
    if found.trail is not None:
        doubted = msgspec.structs.replace(found.trail, boot="")
        tx.connection.execute(
            "UPDATE uploads SET trail = ? WHERE id = ?", (text_of(doubted), upload)
        )


def go_on(tx: Transaction, upload: str, identity: Identity, now: float) -> None:
    """Received → processing, with what was fixed while it was received."""
    found = get_upload(tx.connection, upload)
    require(found, UploadState.RECEIVED)
    if found.trail is None:
        raise ConflictError(f"upload {upload} was not followed")
    processing = move(tx, found, UploadState.PROCESSING, now)
    # However often it was taken up while it came in, and for how long: its tries begin now.
    tx.connection.execute(
        "UPDATE deliveries SET attempts = 0, started_at = NULL WHERE upload = ?", (upload,)
    )
    _identify(tx, upload, identity)
    queue_report(tx, processing, now)


def _identify(tx: Transaction, upload: str, identity: Identity) -> None:
    tx.connection.execute(
        "UPDATE uploads SET identity = ? WHERE id = ?", (text_of(identity), upload)
    )


def _fix(
    tx: Transaction, upload: str, envelope: Envelope, deliveries: Sequence[NewDelivery]
) -> None:
    """Key, header and deliveries: from now on the same for as long as the source is."""
    secret = tx.wrapper.wrap(upload, _SESSION_KEY, envelope.key) if envelope.key else None
    tx.connection.execute(
        "UPDATE uploads SET format = ?, header = ?, fingerprints = ?, secret = ? WHERE id = ?",
        (envelope.format, envelope.header, text_of(envelope.fingerprints), secret, upload),
    )
    for position, delivery in enumerate(deliveries):
        _insert_delivery(tx, upload, position, delivery)


def start_over(tx: Transaction, upload: str, now: float) -> None:
    """Nothing is left of what was sealed; one that was processing is received again."""
    found = get_upload(tx.connection, upload)
    require(found, UploadState.RECEIVING, UploadState.RECEIVED, UploadState.PROCESSING)
    if found.state is UploadState.PROCESSING:
        move(tx, found, UploadState.RECEIVED, now)
    tx.connection.execute(
        "UPDATE uploads SET format = NULL, header = NULL, fingerprints = NULL, secret = NULL,"
        " digest = NULL, trail = NULL, restarts = restarts + 1 WHERE id = ?",
        (upload,),
    )
    tx.connection.execute("DELETE FROM deliveries WHERE upload = ?", (upload,))


def standing(connection: sqlite3.Connection, wrapper: Wrapper, upload: str) -> Standing:
    """All that the way of an upload goes on from."""
    row = upload_row(connection, upload)
    found = upload_of(row)
    if found.state is UploadState.PROCESSING:
        return Standing(
            upload=found,
            envelope=_envelope(row, wrapper),
            deliveries=tuple(deliveries_of(connection, wrapper, upload)),
        )
    stored = found.state is UploadState.STORED
    return Standing(upload=found, reported=stored and _reported(connection, found))


def envelope(connection: sqlite3.Connection, wrapper: Wrapper, upload: str) -> Envelope:
    """The envelope, its key unwrapped."""
    return _envelope(upload_row(connection, upload), wrapper)


def _envelope(row: sqlite3.Row, wrapper: Wrapper) -> Envelope:
    upload = row["id"]
    if row["format"] is None or (row["secret"] is None and row["format"] != "none"):
        raise ConflictError(f"upload {upload} is {row['state']} and has no session key")
    key = b"" if row["secret"] is None else wrapper.unwrap(upload, _SESSION_KEY, row["secret"])
    return Envelope(
        format=row["format"],
        key=key,
        header=row["header"],
        fingerprints=strings_of(row["fingerprints"]),
    )


def digested(tx: Transaction, upload: str, digest: str) -> None:
    """The plaintext's digest."""
    require(get_upload(tx.connection, upload), UploadState.PROCESSING)
    tx.connection.execute("UPDATE uploads SET digest = ? WHERE id = ?", (digest, upload))


def stored(tx: Transaction, upload: str, receipt: dict[str, Any], now: float) -> None:
    """Processing → stored, with the report."""
    left = tx.connection.execute(
        "SELECT count(*) FROM deliveries WHERE upload = ? AND state <> 'stored'", (upload,)
    ).fetchone()[0]
    if left:
        raise ConflictError(f"upload {upload} has {left} deliveries that are not stored")
    done = move(tx, get_upload(tx.connection, upload), UploadState.STORED, now)
    tx.connection.execute("UPDATE uploads SET receipt = ? WHERE id = ?", (text_of(receipt), upload))
    queue_report(tx, done, now, receipt=receipt)


def _reported(connection: sqlite3.Connection, upload: Upload) -> bool:
    """Whether the API has the ``stored`` report, or there is nobody to report to."""
    if upload.announced and upload.api_id is None:
        return True
    row = connection.execute(
        "SELECT 1 FROM reports WHERE upload = ? AND state = 'stored' AND status = 'acknowledged'",
        (upload.id,),
    ).fetchone()
    return row is not None


def receipt(connection: sqlite3.Connection, upload: str) -> dict[str, Any] | None:
    """The receipt that ``stored`` was given."""
    get_upload(connection, upload)
    text = connection.execute("SELECT receipt FROM uploads WHERE id = ?", (upload,)).fetchone()[0]
    return None if text is None else msgspec.json.decode(text, type=dict[str, Any])


def done(tx: Transaction, upload: str, now: float) -> None:
    """Stored → done."""
    found = get_upload(tx.connection, upload)
    require(found, UploadState.STORED)
    if not _reported(tx.connection, found):
        raise ConflictError(f"the API has not acknowledged that upload {upload} is stored")
    move(tx, found, UploadState.DONE, now)
    erase_secrets(tx, upload)


def fail(tx: Transaction, upload: str, error: Error, now: float) -> Upload:
    """→ failed, with its report."""
    failed = move(tx, get_upload(tx.connection, upload), UploadState.FAILED, now, error)
    queue_report(tx, failed, now, error=error)
    return failed


def any_wrapped(connection: sqlite3.Connection) -> tuple[str, str, bytes] | None:
    """One secret that the journal holds (upload, purpose, blob), to try the key on."""
    row = connection.execute(
        "SELECT id, secret FROM uploads WHERE secret IS NOT NULL LIMIT 1"
    ).fetchone()
    if row is not None:
        return row["id"], _SESSION_KEY, row["secret"]
    row = connection.execute(
        "SELECT upload, position, secret FROM deliveries WHERE secret IS NOT NULL LIMIT 1"
    ).fetchone()
    return None if row is None else (row["upload"], purpose_of(row["position"]), row["secret"])


def _insert_delivery(tx: Transaction, upload: str, position: int, delivery: NewDelivery) -> None:
    public, secret = split_destination(delivery.destination)
    wrapped = None if secret is None else tx.wrapper.wrap(upload, purpose_of(position), secret)
    tx.connection.execute(
        "INSERT INTO deliveries"
        " (upload, position, destination, secret, name, size, part_size, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 'pending')",
        (
            upload,
            position,
            public.decode(),
            wrapped,
            delivery.name,
            delivery.size,
            delivery.part_size,
        ),
    )

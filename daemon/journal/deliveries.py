"""One upload's ways to its destinations: tries, unfinished objects, parts."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from daemon.errors import ConflictError
from daemon.journal.model import Attempt, Delivery, DeliveryState, UploadState
from daemon.journal.rows import delivery_of, part_of, text_of, text_or_none
from daemon.journal.transaction import (
    Transaction,
    erase_secrets_if_clean,
    get_delivery,
    get_upload,
    require,
)
from daemon.journal.wrapping import Wrapper
from pipeline.messages import StoredObject, StoredPart

ATTEMPTS_KEPT = 100
"""For each delivery: a destination that stays away for days doesn't fill the disk."""

_UNDER_WAY = (UploadState.RECEIVING, UploadState.PROCESSING)
_RUNNING = (*_UNDER_WAY, UploadState.RECEIVED, UploadState.FAILED)
"""What comes back late from a worker is still true once the upload is complete, or has failed."""
_WITHDRAWN = (UploadState.TERMINATED, UploadState.DISCARDED)


def deliveries(
    connection: sqlite3.Connection, wrapper: Wrapper | None, upload: str
) -> Sequence[Delivery]:
    """The deliveries of an upload by position."""
    get_upload(connection, upload)
    return deliveries_of(connection, wrapper, upload)


def deliveries_of(
    connection: sqlite3.Connection, wrapper: Wrapper | None, upload: str
) -> Sequence[Delivery]:
    """Likewise, of one that is known to be there."""
    rows = connection.execute(
        "SELECT * FROM deliveries WHERE upload = ? ORDER BY position", (upload,)
    )
    return [delivery_of(row, wrapper) for row in rows]


def parts(connection: sqlite3.Connection, upload: str, position: int) -> dict[int, StoredPart]:
    """The parts that a delivery holds."""
    rows = connection.execute(
        "SELECT * FROM parts WHERE upload = ? AND position = ? ORDER BY number", (upload, position)
    )
    return {row["number"]: part_of(row) for row in rows}


def attempt(tx: Transaction, upload: str, position: int, now: float) -> Delivery:
    """A try begins."""
    require(get_upload(tx.connection, upload), *_UNDER_WAY)
    _pending(tx, upload, position)
    tx.connection.execute(
        "UPDATE deliveries SET attempts = attempts + 1, started_at = coalesce(started_at, ?)"
        " WHERE upload = ? AND position = ?",
        (now, upload, position),
    )
    return get_delivery(tx.connection, tx.wrapper, upload, position)


def begun(tx: Transaction, upload: str, position: int, reference: str) -> None:
    """The unfinished object is there.

    Also taken for an upload that was withdrawn meanwhile: the object must be removed, and only
    what the journal knows is.
    """
    require(get_upload(tx.connection, upload), *_RUNNING, *_WITHDRAWN)
    delivery = get_delivery(tx.connection, None, upload, position)
    if delivery.state is DeliveryState.STORED:
        raise ConflictError(f"delivery {position} of upload {upload} is stored")
    if delivery.reference == reference:
        return
    _forget_all_parts(tx, upload, position)
    _set_reference(tx, upload, position, reference)


def part_stored(tx: Transaction, upload: str, position: int, part: StoredPart) -> None:
    """A part is there."""
    require(get_upload(tx.connection, upload), *_RUNNING)
    delivery = get_delivery(tx.connection, None, upload, position)
    if delivery.state is DeliveryState.STORED or not delivery.reference:
        raise ConflictError(f"delivery {position} of upload {upload} has no unfinished object")
    tx.connection.execute(
        "INSERT INTO parts (upload, position, number, size, etag, crc64nvme, plaintext)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (upload, position, number) DO UPDATE SET size = excluded.size,"
        " etag = excluded.etag, crc64nvme = excluded.crc64nvme, plaintext = excluded.plaintext",
        (
            upload,
            position,
            part.number,
            part.size,
            part.etag,
            part.crc64nvme.to_bytes(8, "big"),
            part.plaintext,
        ),
    )


def forget_parts(
    tx: Transaction, upload: str, position: int, numbers: Sequence[int] | None
) -> None:
    """Parts must be sent again; None: all, and the reference with them."""
    require(get_upload(tx.connection, upload), *_RUNNING)
    get_delivery(tx.connection, None, upload, position)
    if numbers is None:
        _forget_all_parts(tx, upload, position)
        _set_reference(tx, upload, position, "")
        return
    tx.connection.executemany(
        "DELETE FROM parts WHERE upload = ? AND position = ? AND number = ?",
        [(upload, position, number) for number in numbers],
    )


def delivered(  # noqa: PLR0913, PLR0917 - the border's arguments, and the transaction
    tx: Transaction,
    upload: str,
    position: int,
    stored: StoredObject,
    tried: Attempt,
    now: float,
    digest: str | None,
) -> None:
    """The destination verified it."""
    found = get_upload(tx.connection, upload)
    require(found, *_RUNNING)
    if digest is not None and found.state is UploadState.PROCESSING:
        tx.connection.execute("UPDATE uploads SET digest = ? WHERE id = ?", (digest, upload))
    delivery = get_delivery(tx.connection, None, upload, position)
    if delivery.state is DeliveryState.STORED:
        return
    _record(tx, upload, tried)
    _forget_all_parts(tx, upload, position)
    tx.connection.execute(
        "UPDATE deliveries SET state = 'stored', reference = '', error = NULL, next_at = 0,"
        " stored = ?, stored_at = ? WHERE upload = ? AND position = ?",
        (text_of(stored), now, upload, position),
    )


def delivery_failed(  # noqa: PLR0913, PLR0917 - the border's arguments, and the transaction
    tx: Transaction,
    upload: str,
    position: int,
    tried: Attempt,
    state: DeliveryState,
    next_at: float,
) -> None:
    """A try failed."""
    if state is DeliveryState.STORED:
        raise ConflictError("a delivery that failed is pending or failed")
    require(get_upload(tx.connection, upload), *_RUNNING)
    _pending(tx, upload, position)
    _record(tx, upload, tried)
    tx.connection.execute(
        "UPDATE deliveries SET state = ?, error = ?, next_at = ? WHERE upload = ? AND position = ?",
        (state, text_or_none(tried.error), next_at, upload, position),
    )


def abandoned(connection: sqlite3.Connection, wrapper: Wrapper) -> Sequence[Delivery]:
    """Deliveries of withdrawn uploads that still have an unfinished object, or may have one."""
    rows = connection.execute(
        "SELECT * FROM deliveries d WHERE d.reference <> '' AND EXISTS"
        " (SELECT 1 FROM uploads u WHERE u.id = d.upload"
        "  AND u.state IN ('terminated', 'discarded'))"
        " ORDER BY d.upload, d.position"
    )
    return [delivery_of(row, wrapper) for row in rows]


def aborted(tx: Transaction, upload: str, position: int) -> None:
    """That unfinished object is gone."""
    found = get_upload(tx.connection, upload)
    get_delivery(tx.connection, None, upload, position)
    _forget_all_parts(tx, upload, position)
    _set_reference(tx, upload, position, "")
    if found.state in _WITHDRAWN:
        erase_secrets_if_clean(tx, upload)


def _pending(tx: Transaction, upload: str, position: int) -> None:
    delivery = get_delivery(tx.connection, None, upload, position)
    if delivery.state is not DeliveryState.PENDING:
        raise ConflictError(f"delivery {position} of upload {upload} is {delivery.state}")


def _set_reference(tx: Transaction, upload: str, position: int, reference: str) -> None:
    tx.connection.execute(
        "UPDATE deliveries SET reference = ? WHERE upload = ? AND position = ?",
        (reference, upload, position),
    )


def _forget_all_parts(tx: Transaction, upload: str, position: int) -> None:
    tx.connection.execute("DELETE FROM parts WHERE upload = ? AND position = ?", (upload, position))


def _record(tx: Transaction, upload: str, tried: Attempt) -> None:
    tx.connection.execute(
        "INSERT INTO attempts (upload, position, started_at, seconds, sent, error)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            upload,
            tried.position,
            tried.started_at,
            tried.seconds,
            tried.sent,
            text_or_none(tried.error),
        ),
    )
    tx.connection.execute(
        "DELETE FROM attempts WHERE number = (SELECT number FROM attempts"
        " WHERE upload = ? AND position = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (upload, tried.position, ATTEMPTS_KEPT),
    )

"""What people and the command line ask and do."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from daemon.errors import ConflictError, NotFoundError
from daemon.journal.deliveries import deliveries
from daemon.journal.model import (
    DeliveryState,
    Identity,
    ReportStatus,
    Upload,
    UploadDetails,
    UploadState,
)
from daemon.journal.reports import queue_report, refresh_due
from daemon.journal.rows import attempt_of, report_of, text_of, upload_of
from daemon.journal.transaction import (
    Transaction,
    abandon,
    get_upload,
    move,
    require,
)

_SHOWN = 5
"""So many candidates are named where a prefix fits several."""
_LOOKED_AT = 100
_LAST = "\U0010ffff"


def find(connection: sqlite3.Connection, text: str) -> Upload:
    """By own id, tus id (its newest generation), API's id, or a unique prefix of the first two."""
    for question in (
        "SELECT * FROM uploads WHERE id = ?",
        "SELECT * FROM uploads WHERE tus_id = ? AND tus_id <> '' ORDER BY number DESC LIMIT 1",
        "SELECT * FROM uploads WHERE api_id = ? ORDER BY number DESC LIMIT 1",
    ):
        row = connection.execute(question, (text,)).fetchone()
        if row is not None:
            return upload_of(row)
    return _find_prefix(connection, text)


def _find_prefix(connection: sqlite3.Connection, text: str) -> Upload:
    rows = connection.execute(
        "SELECT * FROM uploads WHERE ?1 <> ''"
        " AND ((id >= ?1 AND id < ?2) OR (tus_id >= ?1 AND tus_id < ?2))"
        " ORDER BY number DESC LIMIT ?3",
        (text, text + _LAST, _LOOKED_AT),
    )
    # Generations of one tus id are one candidate: the newest, which comes first.
    candidates: dict[tuple[str, str], Upload] = {}
    for row in rows:
        candidates.setdefault((row["directory"], row["tus_id"] or row["id"]), upload_of(row))
    if not candidates:
        raise NotFoundError(f"no upload has the id {text!r}, or one that begins with it")
    if len(candidates) > 1:
        names = [candidate.tus_id or candidate.id for candidate in candidates.values()]
        more = ", …" if len(names) > _SHOWN else ""
        raise NotFoundError(f"{text!r} fits several uploads: {', '.join(names[:_SHOWN])}{more}")
    return next(iter(candidates.values()))


def uploads(
    connection: sqlite3.Connection, state: UploadState | None, study: str | None, limit: int
) -> Sequence[Upload]:
    """Newest first."""
    if state is not None and study is not None:
        question = "SELECT * FROM uploads WHERE state = ?1 AND study = ?2"
    elif state is not None:
        question = "SELECT * FROM uploads WHERE state = ?1"
    elif study is not None:
        question = "SELECT * FROM uploads WHERE study = ?2"
    else:
        question = "SELECT * FROM uploads"
    rows = connection.execute(
        question + " ORDER BY number DESC LIMIT ?3", (state, study, max(limit, 0))
    )
    return [upload_of(row) for row in rows]


def details(connection: sqlite3.Connection, upload: str) -> UploadDetails:
    """One upload whole, without secrets."""
    found = get_upload(connection, upload)
    ways = tuple(deliveries(connection, None, upload))
    attempts = connection.execute(
        "SELECT * FROM attempts WHERE upload = ? ORDER BY number", (upload,)
    )
    reports = connection.execute(
        "SELECT * FROM reports WHERE upload = ? ORDER BY sequence", (upload,)
    )
    sent = connection.execute(
        "SELECT position, sum(size) FROM parts WHERE upload = ? GROUP BY position", (upload,)
    )
    parts = {way.position: way.stored.size if way.stored else 0 for way in ways}
    return UploadDetails(
        upload=found,
        deliveries=ways,
        attempts=tuple(attempt_of(row) for row in attempts),
        reports=tuple(report_of(row, found.api_id) for row in reports),
        parts=parts | {row[0]: row[1] for row in sent},
    )


def counts(connection: sqlite3.Connection) -> dict[UploadState, int]:
    """How many uploads are in each state."""
    rows = connection.execute("SELECT state, count(*) FROM uploads GROUP BY state")
    found = {row[0]: row[1] for row in rows}
    return {state: found.get(state.value, 0) for state in UploadState}


def report_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many reports are in each status."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM reports),"
        " (SELECT count(*) FROM reports WHERE status = 'pending'),"
        " (SELECT count(*) FROM reports WHERE status = 'parked')"
    ).fetchone()
    return {
        ReportStatus.PENDING.value: row[1],
        ReportStatus.ACKNOWLEDGED.value: row[0] - row[1] - row[2],
        ReportStatus.PARKED.value: row[2],
    }


def retry(tx: Transaction, upload: str, now: float) -> None:
    """Failed → as far back as it must; parked reports pending again."""
    found = get_upload(tx.connection, upload)
    unparked = tx.connection.execute(
        "UPDATE reports SET status = 'pending', next_at = ? WHERE upload = ? AND status = 'parked'",
        (now, upload),
    ).rowcount
    if found.state is UploadState.FAILED:
        _resume(tx, found, now)
    elif not unparked:
        raise ConflictError(
            f"upload {upload} is {found.state}, with no report parked: there is nothing to retry"
        )
    refresh_due(tx, upload)


def discard(tx: Transaction, upload: str, now: float, identity: Identity | None = None) -> None:
    """Failed → discarded, with the file that stands there now."""
    found = get_upload(tx.connection, upload)
    require(found, UploadState.FAILED)
    move(tx, found, UploadState.DISCARDED, now, found.error)
    if identity is not None:
        tx.connection.execute(
            "UPDATE uploads SET identity = ? WHERE id = ?", (text_of(identity), upload)
        )
    abandon(tx, upload)
    tx.tell_withdrawn(upload)


def _resume(tx: Transaction, upload: Upload, now: float) -> None:
    tx.connection.execute("UPDATE uploads SET restarts = 0 WHERE id = ?", (upload.id,))
    if _has_envelope(tx, upload.id):
        # How long to go on trying is counted anew; what is stored already stays.
        tx.connection.execute(
            "UPDATE deliveries SET state = ?, next_at = 0, error = NULL, started_at = NULL"
            " WHERE upload = ? AND state <> ?",
            (DeliveryState.PENDING, upload.id, DeliveryState.STORED),
        )
        state = UploadState.PROCESSING
    elif upload.received == upload.size:
        state = UploadState.RECEIVED
    else:
        state = UploadState.RECEIVING
    resumed = move(tx, upload, state, now)
    queue_report(tx, resumed, now)
    if state is not UploadState.RECEIVING:
        tx.tell_work(resumed)


def _has_envelope(tx: Transaction, upload: str) -> bool:
    row = tx.connection.execute("SELECT format FROM uploads WHERE id = ?", (upload,)).fetchone()
    return row["format"] is not None

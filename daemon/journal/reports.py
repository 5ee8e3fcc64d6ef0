"""Reports: made in the transaction of what they tell of, kept in order of their sequence."""

from __future__ import annotations

import sqlite3
import uuid
from datetime import UTC, datetime
from typing import Any

from daemon.journal.model import Error, ReportStatus, Upload, UploadState
from daemon.journal.rows import text_of
from daemon.journal.transaction import Transaction

HELD = 1.0
"""Seconds that a ``processing`` report waits: most uploads are small, and stored by then."""

_REPLACEABLE = frozenset({UploadState.RECEIVING.value, UploadState.PROCESSING.value})


def queue_report(
    tx: Transaction,
    upload: Upload,
    now: float,
    *,
    receipt: dict[str, Any] | None = None,
    error: Error | None = None,
) -> None:
    """Queue the report of an upload's present state.

    There is none for a study of the config. The last one in the queue is replaced, keeping its
    sequence, where nobody but us can have seen it and this one makes it needless.
    """
    if upload.announced and upload.api_id is None:
        return
    last = _last(tx, upload.id)
    replaced = last if last is not None and _is_needless(tx, last) else None
    sequence = 1 if last is None else int(last["sequence"]) + (replaced is None)
    report = str(uuid.uuid4())
    envelope = {"report": report, "sequence": sequence, "receipt": receipt, "error": error}
    body = text_of(_body(upload, now) | envelope | _delivered(tx, upload))
    due = now + HELD if upload.state is UploadState.PROCESSING else now
    if replaced is None:
        tx.connection.execute(
            "INSERT INTO reports (id, upload, sequence, state, body, status, next_at, created_at)"
            " VALUES (?, ?, ?, ?, ?, 'pending', ?, ?)",
            (report, upload.id, sequence, upload.state, body, due, now),
        )
    else:
        tx.connection.execute(
            "UPDATE reports SET id = ?, state = ?, body = ?, next_at = ?, created_at = ?"
            " WHERE number = ?",
            (report, upload.state, body, due, now, replaced["number"]),
        )
    refresh_due(tx, upload.id)


def refresh_due(tx: Transaction, upload: str) -> None:
    """Bring up to date when the upload's first pending report is due."""
    row = tx.connection.execute(
        "UPDATE uploads SET report_at = CASE WHEN api_id IS NULL THEN NULL ELSE"
        " (SELECT next_at FROM reports WHERE upload = uploads.id AND status = 'pending'"
        "  ORDER BY sequence LIMIT 1) END"
        " WHERE id = ? RETURNING report_at",
        (upload,),
    ).fetchone()
    if row is not None and row["report_at"] is not None:
        tx.tell_reports()


def drop_pending(tx: Transaction, upload: str) -> None:
    """Forget the reports of an upload that turned out to have nobody to report to."""
    tx.connection.execute("DELETE FROM reports WHERE upload = ? AND status = 'pending'", (upload,))


def _last(tx: Transaction, upload: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = tx.connection.execute(
        "SELECT number, id, sequence, state, status, attempts FROM reports"
        " WHERE upload = ? ORDER BY sequence DESC LIMIT 1",
        (upload,),
    ).fetchone()
    return row


def _is_needless(tx: Transaction, report: sqlite3.Row) -> bool:
    """Whether the last report can be left out where another follows."""
    if report["status"] != ReportStatus.PENDING or report["attempts"]:
        return False
    if report["state"] not in _REPLACEABLE:
        return False
    return not tx.handed.maybe_sent(report["number"], report["id"])


def _body(upload: Upload, now: float) -> dict[str, Any]:
    return {
        "state": upload.state.value,
        "at": rfc3339(now),
        "tus_id": upload.tus_id or None,
        "study": upload.study,
        "filename": upload.filename,
        "size": upload.size,
        "received": upload.received,
    }


def _delivered(tx: Transaction, upload: Upload) -> dict[str, int]:
    """How much of a followed upload every destination has by now, in sealed bytes."""
    if upload.trail is None or upload.state is not UploadState.RECEIVING:
        return {}
    row = tx.connection.execute(
        "SELECT min((SELECT coalesce(sum(p.size), 0) FROM parts p"
        "  WHERE p.upload = d.upload AND p.position = d.position))"
        " FROM deliveries d WHERE d.upload = ?",
        (upload.id,),
    ).fetchone()
    return {"delivered": int(row[0] or 0)}


def rfc3339(seconds: float) -> str:
    """A time as the REST API has it: UTC, with milliseconds and ``Z``."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"

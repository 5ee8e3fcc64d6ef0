"""What the outbox reads and writes: which report goes next, and what became of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from daemon.errors import NotFoundError
from daemon.journal.model import Error, Report, ReportStatus, UploadState
from daemon.journal.reports import refresh_due
from daemon.journal.rows import report_of, text_of
from daemon.journal.transaction import Transaction, get_upload


def due_reports(
    tx: Transaction, now: float, limit: int, excluding: frozenset[str]
) -> Sequence[Report]:
    """For each upload its first pending report, if that is due; longest due first.

    From here on they count as sent. That is why this runs among the writes: no report may be
    replaced between being read and being marked.
    """
    due: list[Report] = []
    uploads = tx.connection.execute(
        "SELECT id, api_id FROM uploads WHERE report_at <= ? ORDER BY report_at, number", (now,)
    )
    for upload, api_id in uploads:
        if len(due) >= limit:
            break
        if upload in excluding:
            continue
        row = tx.connection.execute(
            "SELECT * FROM reports WHERE upload = ? AND status = 'pending'"
            " ORDER BY sequence LIMIT 1",
            (upload,),
        ).fetchone()
        due.append(report_of(row, api_id))
    uploads.close()
    tx.handed.reports.update(report.id for report in due)
    return due


def next_report_at(connection: sqlite3.Connection) -> float | None:
    """When the next pending report is due."""
    row = connection.execute(
        "SELECT min(report_at) FROM uploads WHERE report_at IS NOT NULL"
    ).fetchone()
    return None if row[0] is None else float(row[0])


def acknowledged(tx: Transaction, report: str) -> None:
    """The API has it."""
    row = _get(tx.connection, report)
    if row["status"] == ReportStatus.ACKNOWLEDGED:
        return
    tx.connection.execute(
        "UPDATE reports SET status = 'acknowledged', attempts = attempts + 1, error = NULL,"
        " acknowledged_at = ? WHERE id = ?",
        (tx.clock(), report),
    )
    tx.handed.reports.discard(report)
    refresh_due(tx, row["upload"])
    if row["state"] == UploadState.STORED:
        upload = get_upload(tx.connection, row["upload"])
        if upload.state is UploadState.STORED:
            tx.tell_work(upload)


def report_failed(tx: Transaction, report: str, error: Error, next_at: float) -> None:
    """The API doesn't have it, or its answer was lost."""
    row = _get(tx.connection, report)
    if row["status"] != ReportStatus.PENDING:
        return
    tx.connection.execute(
        "UPDATE reports SET attempts = attempts + 1, error = ?, next_at = ? WHERE id = ?",
        (text_of(error), next_at, report),
    )
    refresh_due(tx, row["upload"])


def park(tx: Transaction, report: str, error: Error) -> None:
    """The API refused it for good."""
    row = _get(tx.connection, report)
    if row["status"] != ReportStatus.PENDING:
        return
    tx.connection.execute(
        "UPDATE reports SET status = 'parked', attempts = attempts + 1, error = ? WHERE id = ?",
        (text_of(error), report),
    )
    tx.handed.reports.discard(report)
    refresh_due(tx, row["upload"])


def _get(connection: sqlite3.Connection, report: str) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT upload, state, status FROM reports WHERE id = ?", (report,)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no report {report}")
    return row

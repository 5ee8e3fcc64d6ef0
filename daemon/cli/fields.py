"""Uploads as ``--json`` shows them. The names are the contract's words, and stable: more may come.

Times are RFC 3339 in UTC, sizes bytes; what isn't known is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from daemon.cli.output import moment
from daemon.journal.model import Attempt, Delivery, Error, Report, Upload, UploadDetails


def upload_fields(upload: Upload) -> dict[str, Any]:
    """An upload as ``--json`` shows it. The names are the contract's, and stable."""
    algorithm, _, digest = (upload.digest or "").partition(":")
    return {
        "upload": upload.id,
        "tus_id": upload.tus_id,
        "api_id": upload.api_id,
        "study": upload.study,
        "filename": upload.filename,
        "size": upload.size,
        "received": upload.received,
        "state": upload.state.value,
        "error": _error(upload.error),
        "digest": {algorithm: digest} if upload.digest else None,
        "server": upload.server,
        "announced": upload.announced,
        "planning_attempts": upload.attempts,
        "restarts": upload.restarts,
        "generation": upload.generation,
        "created_at": moment(upload.created_at),
        "received_at": moment(upload.received_at),
        "stored_at": moment(upload.stored_at),
        "done_at": moment(upload.done_at),
    }


def details_fields(details: UploadDetails) -> dict[str, Any]:
    """One upload whole as ``--json`` shows it: all of :func:`upload_fields`, and the rest."""
    upload = details.upload
    return {
        **upload_fields(upload),
        "directory": upload.directory,
        "path": upload.path,
        "info_path": upload.info_path,
        "metadata": upload.metadata,
        "partials": list(upload.partials),
        "next_at": _future(upload.next_at),
        "deliveries": [_delivery(delivery, details.parts) for delivery in details.deliveries],
        "attempts": [_attempt(attempt, details.deliveries) for attempt in details.attempts],
        "reports": [_report(report) for report in details.reports],
    }


def _delivery(delivery: Delivery, parts: Mapping[int, int]) -> dict[str, Any]:
    stored = delivery.stored
    return {
        "destination": delivery.destination.name,
        "type": delivery.destination.type,
        "name": delivery.name,
        "state": delivery.state.value,
        "size": delivery.size,
        "delivered": delivery.size if stored else parts.get(delivery.position, 0),
        "part_size": delivery.part_size,
        "attempts": delivery.attempts,
        "error": _error(delivery.error),
        "uri": stored.uri if stored else None,
        "etag": stored.etag if stored else None,
        "checksum": stored.checksum if stored else None,
        "verified": stored.verified if stored else None,
        "started_at": moment(delivery.started_at),
        "next_at": _future(delivery.next_at),
        "stored_at": moment(delivery.stored_at),
    }


def _attempt(attempt: Attempt, deliveries: Sequence[Delivery]) -> dict[str, Any]:
    names = {delivery.position: delivery.destination.name for delivery in deliveries}
    return {
        "destination": names.get(attempt.position),
        "started_at": moment(attempt.started_at),
        "seconds": attempt.seconds,
        "sent_bytes": attempt.sent,
        "error": _error(attempt.error),
    }


def _report(report: Report) -> dict[str, Any]:
    return {
        "report": report.id,
        "sequence": report.sequence,
        "state": report.state,
        "status": report.status.value,
        "attempts": report.attempts,
        "error": _error(report.error),
        "created_at": moment(report.created_at),
        "next_at": _future(report.next_at),
    }


def _future(next_at: float) -> str | None:
    """When something is due; None where nothing holds it back."""
    return moment(next_at) if next_at > 0 else None


def _error(error: Error | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {"code": error.code, "message": error.message, "retryable": error.retryable}

"""`dropoffd uploads` and `dropoffd show`, read from the journal, whether or not a daemon runs."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from daemon.cli import output
from daemon.cli.fields import details_fields, upload_fields
from daemon.cli.options import places
from daemon.cli.output import Column
from daemon.errors import NotFoundError
from daemon.journal.model import Attempt, Delivery, Error, Upload, UploadDetails, UploadState
from daemon.journal.sqlite import SqliteJournal

_ATTEMPTS = 10
"""So many of the last attempts are shown; ``--json`` has them all."""
_SHORT = 8
"""Of an id on a terminal: a prefix is enough to name an upload."""


def run_list(arguments: argparse.Namespace) -> int:
    """Run `dropoffd uploads`."""
    journal = SqliteJournal.open_readonly(places(arguments).state)
    state = UploadState(arguments.state) if arguments.state else None
    found = asyncio.run(journal.uploads(state, arguments.study, arguments.limit))
    if arguments.json:
        output.print_json([upload_fields(upload) for upload in found])
        return 0 if found else 3
    if not found:
        raise NotFoundError("no upload matches")
    output.print_table(
        (
            Column("UPLOAD", keep=True),
            Column("STATE", keep=True),
            Column("SIZE", right=True, keep=True),
            Column("AGE", right=True, keep=True),
            Column("FILE"),
            Column("ERROR"),
        ),
        [_row(upload, time.time()) for upload in found],
    )
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Run `dropoffd show`."""
    journal = SqliteJournal.open_readonly(places(arguments).state)

    async def ask() -> UploadDetails:
        return await journal.details((await journal.find(arguments.upload)).id)

    details = asyncio.run(ask())
    if arguments.json:
        output.print_json(details_fields(details))
    else:
        _show(details)
    return 0


def _row(upload: Upload, now: float) -> tuple[str, ...]:
    size = output.size(upload.size)
    if upload.state is UploadState.RECEIVING and upload.size:
        size = f"{output.share(upload.received, upload.size)} of {size}"
    return (
        upload.id[:_SHORT] if output.is_terminal() else upload.id,
        upload.state.value,
        size,
        output.duration(max(0.0, now - upload.created_at)),
        upload.filename,
        upload.error.code if upload.error else "",
    )


def _show(details: UploadDetails) -> None:
    upload = details.upload
    output.print_pairs(
        {
            "upload": upload.id,
            "tus id": upload.tus_id or output.EMPTY,
            "API's id": upload.api_id or output.EMPTY,
            "study": upload.study or output.EMPTY,
            "file": upload.filename,
            "size": _sizes(upload),
            "state": upload.state.value,
            "error": _error(upload.error),
            "digest": upload.digest or output.EMPTY,
            "server": upload.server,
            "first seen": output.when(upload.created_at),
            "received": output.when(upload.received_at),
            "stored": output.when(upload.stored_at),
            "done": output.when(upload.done_at),
        }
    )
    if details.deliveries:
        _heading("Deliveries")
        _show_deliveries(details)
    if details.attempts:
        _heading("Attempts")
        _show_attempts(details)
    if details.reports:
        _heading("Reports")
        _show_reports(details)


def _show_deliveries(details: UploadDetails) -> None:
    output.print_table(
        (
            Column("DESTINATION", keep=True),
            Column("STATE", keep=True),
            Column("THERE", right=True, keep=True),
            Column("TRIES", right=True, keep=True),
            Column("OBJECT"),
        ),
        [
            (
                delivery.destination.name,
                delivery.state.value,
                _progress(delivery, details.parts.get(delivery.position, 0)),
                str(delivery.attempts),
                delivery.stored.uri if delivery.stored else delivery.name,
            )
            for delivery in details.deliveries
        ],
    )
    # On lines of their own, where nothing is cut.
    told = {
        delivery.destination.name: _error(delivery.error)
        for delivery in details.deliveries
        if delivery.error
    }
    if told:
        output.print_pairs(told)


def _show_attempts(details: UploadDetails) -> None:
    names = {delivery.position: delivery.destination.name for delivery in details.deliveries}
    shown = details.attempts[-_ATTEMPTS:]
    output.print_table(
        (
            Column("DESTINATION", keep=True),
            Column("BEGAN", keep=True),
            Column("TOOK", right=True, keep=True),
            Column("SENT", right=True, keep=True),
            Column("RESULT"),
        ),
        [_attempt_row(attempt, names) for attempt in shown],
    )
    if len(shown) < len(details.attempts):
        sys.stdout.write(f"({len(details.attempts) - len(shown)} earlier ones)\n")


def _attempt_row(attempt: Attempt, names: dict[int, str]) -> tuple[str, ...]:
    return (
        names.get(attempt.position, str(attempt.position)),
        output.when(attempt.started_at),
        output.duration(attempt.seconds),
        output.size(attempt.sent),
        attempt.error.code if attempt.error else "ok",
    )


def _show_reports(details: UploadDetails) -> None:
    output.print_table(
        (
            Column("#", right=True, keep=True),
            Column("REPORT", keep=True),
            Column("STATUS", keep=True),
            Column("TRIES", right=True, keep=True),
            Column("MADE", keep=True),
            Column("ERROR"),
        ),
        [
            (
                str(report.sequence),
                report.state,
                report.status.value,
                str(report.attempts),
                output.when(report.created_at),
                _error(report.error) if report.error else "",
            )
            for report in details.reports
        ],
    )


def _heading(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")


def _sizes(upload: Upload) -> str:
    if upload.size is None:
        return f"not known yet; {output.size(upload.received)} received"
    exact = f"{output.size(upload.size)} ({upload.size} B)"
    if upload.received >= upload.size:
        return exact
    return f"{exact}, {output.share(upload.received, upload.size)} received"


def _progress(delivery: Delivery, there: int) -> str:
    if delivery.stored:
        return output.size(delivery.size)
    return f"{output.share(there, delivery.size)} of {output.size(delivery.size)}"


def _error(error: Error | None) -> str:
    if error is None:
        return output.EMPTY
    return f"{error.code}: {error.message}"

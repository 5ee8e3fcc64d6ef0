"""What every change of the journal has at hand, and the one way to change an upload's state."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from daemon.errors import ConflictError, NotFoundError
from daemon.journal.model import (
    OVER,
    SOME_REFERENCE,
    TRANSITIONS,
    Delivery,
    Error,
    Upload,
    UploadState,
)
from daemon.journal.protocol import Listener
from daemon.journal.rows import delivery_of, text_or_none, upload_of, work_of
from daemon.journal.wrapping import Wrapper
from daemon.ports import Clock

Notice = Callable[[Listener], None]
"""Something to tell the listeners once the change is committed."""


@dataclass(slots=True)
class Handed:
    """Which reports may have been sent: those never change any more.

    What happened before this process started isn't known, so all reports up to ``opened_at``
    (their row number) count.
    """

    opened_at: int
    reports: set[str] = field(default_factory=set)

    def maybe_sent(self, number: int, report: str) -> bool:
        """Whether the API may know a report."""
        return number <= self.opened_at or report in self.reports

    def copy(self) -> Handed:
        """As it is now, for a transaction that comes to nothing."""
        return Handed(self.opened_at, set(self.reports))


@dataclass(slots=True)
class Transaction:
    """One method's share of a transaction. Lives on the writer's thread."""

    connection: sqlite3.Connection
    wrapper: Wrapper
    handed: Handed
    clock: Clock
    notices: list[Notice] = field(default_factory=list)

    def tell_work(self, upload: Upload) -> None:
        """After the commit: ``upload`` can go on."""
        work = work_of(upload)
        self.notices.append(lambda listener: listener.on_work(work))

    def tell_reports(self) -> None:
        """After the commit: a report can go."""
        self.notices.append(lambda listener: listener.on_reports())

    def tell_withdrawn(self, upload: str) -> None:
        """After the commit: whatever runs for ``upload`` should stop."""
        self.notices.append(lambda listener: listener.on_withdrawn(upload))


def get_upload(connection: sqlite3.Connection, upload: str) -> Upload:
    """One upload by its own id."""
    return upload_of(upload_row(connection, upload))


def upload_row(connection: sqlite3.Connection, upload: str) -> sqlite3.Row:
    """Likewise, as it lies in the table."""
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM uploads WHERE id = ?", (upload,)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no upload {upload}")
    return row


def get_delivery(
    connection: sqlite3.Connection, wrapper: Wrapper | None, upload: str, position: int
) -> Delivery:
    """One delivery."""
    row = connection.execute(
        "SELECT * FROM deliveries WHERE upload = ? AND position = ?", (upload, position)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"upload {upload} has no delivery {position}")
    return delivery_of(row, wrapper)


def require(upload: Upload, *states: UploadState) -> None:
    """Raise ConflictError unless the upload is in one of ``states``."""
    if upload.state not in states:
        expected = " or ".join(states)
        raise ConflictError(f"upload {upload.id} is {upload.state}: expected {expected}")


def move(
    tx: Transaction, upload: Upload, state: UploadState, now: float, error: Error | None = None
) -> Upload:
    """Change an upload's state. Nothing else does.

    Raises ConflictError for a change that TRANSITIONS doesn't have. ``error`` replaces the one
    that stood there.
    """
    if state not in TRANSITIONS[upload.state]:
        raise ConflictError(f"upload {upload.id} is {upload.state} and can't become {state}")
    keeps_tries = state is UploadState.FAILED or state in OVER
    moved = msgspec.structs.replace(
        upload,
        state=state,
        error=error,
        attempts=upload.attempts if keeps_tries else 0,
        next_at=0.0,
        received_at=now if state is UploadState.RECEIVED else upload.received_at,
        stored_at=now if state is UploadState.STORED else upload.stored_at,
        done_at=now if state in OVER else upload.done_at,
    )
    tx.connection.execute(
        "UPDATE uploads SET state = ?, error = ?, attempts = ?, next_at = ?, received_at = ?,"
        " stored_at = ?, done_at = ? WHERE id = ?",
        (
            moved.state,
            text_or_none(moved.error),
            moved.attempts,
            moved.next_at,
            moved.received_at,
            moved.stored_at,
            moved.done_at,
            moved.id,
        ),
    )
    return moved


def erase_secrets(tx: Transaction, upload: str) -> None:
    """Forget the session key of an upload, and the secrets of its destinations."""
    tx.connection.execute("UPDATE uploads SET secret = NULL WHERE id = ?", (upload,))
    tx.connection.execute("UPDATE deliveries SET secret = NULL WHERE upload = ?", (upload,))


def erase_secrets_if_clean(tx: Transaction, upload: str) -> None:
    """Likewise, once no unfinished object is left that must still be removed."""
    left = tx.connection.execute(
        "SELECT 1 FROM deliveries WHERE upload = ? AND reference <> '' LIMIT 1", (upload,)
    ).fetchone()
    if left is None:
        erase_secrets(tx, upload)


def abandon(tx: Transaction, upload: str) -> None:
    """Have what a withdrawn upload left unfinished removed, and its secrets erased after that.

    A process that dies right after a try began an object never wrote down its reference.
    """
    tx.connection.execute(
        "UPDATE deliveries SET reference = ?"
        " WHERE upload = ? AND reference = '' AND attempts > 0 AND state <> 'stored'",
        (SOME_REFERENCE, upload),
    )
    erase_secrets_if_clean(tx, upload)

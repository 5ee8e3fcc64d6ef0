"""Deliveries that wait for a destination that is away."""

from __future__ import annotations

from daemon.journal.transaction import Transaction


def held(tx: Transaction, upload: str, position: int, now: float) -> None:
    """What was never tried counts as begun: how long it may wait is counted from here."""
    tx.connection.execute(
        "UPDATE deliveries SET started_at = ?"
        " WHERE upload = ? AND position = ? AND state = 'pending' AND started_at IS NULL",
        (now, upload, position),
    )

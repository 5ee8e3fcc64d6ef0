"""When things that wait are due, once the wall clock turned out to have gone back."""

from __future__ import annotations

from daemon.journal.transaction import Transaction

LONGEST_PAUSE = 3600.0
"""Seconds. Our own pauses are shorter; what the API or a destination asks for is heeded so far."""


def clock_went_back(tx: Transaction, seconds: float, now: float) -> None:
    """What is due later than ``now`` is due sooner. See the protocol."""
    sooner = "min(next_at - :back, :now + :longest)"
    values = {"back": seconds, "now": now, "longest": LONGEST_PAUSE}
    tx.connection.execute(
        f"UPDATE uploads SET next_at = {sooner} "  # noqa: S608 -- no value is in it
        # The index is of those that wait at all; the plus keeps from going through all states.
        " WHERE next_at > 0 AND next_at > :now"
        " AND +state IN ('receiving', 'received', 'processing', 'stored', 'failed')",
        values,
    )
    tx.connection.execute(
        f"UPDATE deliveries SET next_at = {sooner}"  # noqa: S608 -- likewise
        " WHERE next_at > 0 AND next_at > :now AND state = 'pending'"
        " AND (SELECT u.state FROM uploads u WHERE u.id = upload)"
        " IN ('receiving', 'received', 'processing')",
        values,
    )
    # A report that was never tried waits for nothing but its turn.
    tx.connection.execute(
        f"UPDATE reports SET next_at = CASE attempts WHEN 0 THEN :now ELSE {sooner} END"  # noqa: S608 -- likewise
        " WHERE status = 'pending' AND next_at > :now",
        values,
    )
    changed = tx.connection.execute(
        "UPDATE uploads SET report_at = (SELECT next_at FROM reports"
        "  WHERE upload = uploads.id AND status = 'pending' ORDER BY sequence LIMIT 1)"
        " WHERE report_at > ?",
        (now,),
    )
    if changed.rowcount:
        tx.tell_reports()

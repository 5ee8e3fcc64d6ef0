"""What pre-create asks the broker, kept from before the question until its answer is kept.

An announcement whose answer is lost would stay with the REST API for ever: nobody here knew its
id. What is found here once it is too old for anybody to wait for it is asked again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from daemon.journal.model import Asking
from daemon.journal.rows import check_size, check_texts
from daemon.journal.transaction import Transaction
from daemon.plan import Announcing

_announcing = msgspec.json.Decoder(Announcing)


def add(tx: Transaction, asking: Asking) -> None:
    """Remember a question. Raises InfoError where its answer could not be kept."""
    told = asking.announcing
    check_size(told.size)
    check_texts((told.filename, asking.tus_id or "", *told.metadata, *told.metadata.values()))
    tx.connection.execute(
        "INSERT INTO askings (id, announcing, tus_id, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id) DO NOTHING",
        (told.key, msgspec.json.encode(told).decode(), asking.tus_id, asking.created_at),
    )


def old(connection: sqlite3.Connection, before: float, now: float, limit: int) -> Sequence[Asking]:
    """Those from before that, and from the future of a clock that was set back; oldest first."""
    rows = connection.execute(
        "SELECT announcing, tus_id, created_at FROM askings"
        " WHERE created_at < ? OR created_at > ? ORDER BY created_at LIMIT ?",
        (before, now, limit),
    )
    return [
        Asking(announcing=_announcing.decode(row[0]), tus_id=row[1], created_at=row[2])
        for row in rows
    ]


def forget(tx: Transaction, asking: str) -> None:
    """It is settled."""
    tx.connection.execute("DELETE FROM askings WHERE id = ?", (asking,))

"""Long lists a little at a time: nobody has to hold all uploads of a journal in memory at once."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Sequence

from daemon.journal.model import Identity, UploadState, Work
from daemon.journal.rows import identity_of

_STATES = {state.value: state for state in UploadState}


def known_among(
    connection: sqlite3.Connection, directory: str, tus_ids: Sequence[str]
) -> dict[str, tuple[UploadState, Identity]]:
    """The newest generation of those of a directory's uploads that have one of these tus ids."""
    rows = connection.execute(
        "SELECT tus_id, state, identity FROM uploads WHERE directory = ?"
        " AND tus_id IN (SELECT value FROM json_each(?)) ORDER BY tus_id, generation",
        (directory, _json_of(tus_ids)),
    )
    return {row[0]: (_STATES[row[1]], identity_of(row[2])) for row in rows}


def incomplete(connection: sqlite3.Connection, directory: str) -> dict[str, Identity]:
    """The uploads of a directory that are being received, by tus id."""
    rows = connection.execute(
        "SELECT tus_id, identity FROM uploads WHERE state = 'receiving' AND directory = ?",
        (directory,),
    )
    return {row[0]: identity_of(row[1]) for row in rows}


def work_page(
    connection: sqlite3.Connection, state: UploadState, after: int, limit: int
) -> Sequence[tuple[int, Work]]:
    """What is left to do for uploads in a state, oldest first, each with its place in the list.

    One that is processing waits for the first of its deliveries that may go on. One that failed
    before it was announced has yet to be, so that its reports can go.
    """
    rows = connection.execute(
        "SELECT number, id, coalesce(study, ''), coalesce(size, received),"
        " CASE WHEN state = 'processing' THEN max(next_at, coalesce("
        "  (SELECT min(d.next_at) FROM deliveries d WHERE d.upload = id AND d.state = 'pending'),"
        "  0)) ELSE next_at END"
        " FROM uploads WHERE state = ? AND number > ?"
        " AND (state <> 'failed' OR (announced = 0 AND study IS NOT NULL))"
        " ORDER BY number LIMIT ?",
        (state, after, limit),
    )
    return [
        (
            row[0],
            Work(
                upload=row[1],
                study=sys.intern(row[2]),
                size=row[3],
                state=state,
                next_at=row[4],
            ),
        )
        for row in rows
    ]


def _json_of(texts: Sequence[str]) -> str:
    # Names that are no UTF-8 have no row, and no JSON that SQLite takes.
    return json.dumps([text for text in texts if _is_unicode(text)])


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

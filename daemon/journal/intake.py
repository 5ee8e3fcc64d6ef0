"""How uploads become known: announcements and sightings."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable, Sequence

import msgspec

from daemon.errors import InfoError
from daemon.journal import askings
from daemon.journal.model import (
    OVER,
    Announcement,
    Identity,
    Sighting,
    Trail,
    Upload,
    UploadState,
)
from daemon.journal.reports import queue_report
from daemon.journal.rows import (
    check_size,
    check_storable,
    check_texts,
    matching_metadata,
    strings_of,
    text_of,
    text_or_none,
    upload_of,
)
from daemon.journal.transaction import Transaction, abandon, get_upload, move

RECEIVING_REPORT_SECONDS = 5.0
"""At least so long between two ``receiving`` reports of one upload."""

_WITHDRAWABLE = frozenset(
    {
        UploadState.RECEIVING,
        UploadState.RECEIVED,
        UploadState.PROCESSING,
        UploadState.FAILED,
    }
)
_NOWHERE = Identity(device=0, inode=0, size=0, mtime_ns=0, ctime_ns=0)


def add_announcement(tx: Transaction, announcement: Announcement) -> None:
    """Remember that the broker took an announcement; a repeat changes nothing."""
    check_size(announcement.size)
    check_texts((announcement.filename, announcement.tus_id or "", *announcement.metadata.values()))
    tx.connection.execute(
        "INSERT INTO announcements"
        " (id, api_id, study, filename, size, metadata, tus_id, created_at)"
        " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8"
        " WHERE NOT EXISTS (SELECT 1 FROM uploads WHERE id = ?1)"
        " ON CONFLICT (id) DO NOTHING",
        (
            announcement.id,
            announcement.api_id,
            announcement.study,
            announcement.filename,
            announcement.size,
            matching_metadata(announcement.metadata),
            announcement.tus_id,
            announcement.created_at,
        ),
    )
    askings.forget(tx, announcement.id)


def sight(tx: Transaction, sighting: Sighting, now: float) -> Upload:
    """Take an upload as found on disk. See the protocol."""
    check_storable(sighting)
    upload = newest(tx.connection, sighting.directory, sighting.tus_id)
    if upload is None:
        return _add(tx, sighting, 1, now)
    if upload.state in OVER and not same_file(upload.identity, sighting.identity):
        return _add(tx, sighting, upload.generation + 1, now)
    if upload.state is UploadState.RECEIVING:
        return _sight_receiving(tx, upload, sighting, now)
    if upload.state is UploadState.FAILED and _grew(upload, sighting):
        return _store_progress(tx, upload, sighting)
    return upload


def terminate(tx: Transaction, directory: str, tus_id: str, now: float) -> Upload | None:
    """The client took the upload back; None where that makes no difference."""
    try:
        check_texts((directory, tus_id))
    except InfoError:
        return None
    upload = newest(tx.connection, directory, tus_id)
    if upload is None or upload.state not in _WITHDRAWABLE:
        return None
    return _withdraw(tx, upload, now)


def terminate_unseen(tx: Transaction, sighting: Sighting, now: float) -> Upload | None:
    """An announced upload was taken back before it was seen; None where it is no such one."""
    try:
        check_storable(sighting)
    except InfoError:
        return None
    if newest(tx.connection, sighting.directory, sighting.tus_id) is not None:
        return None
    announcement = _take_announcement(tx, sighting)
    if announcement is None:
        return None
    return _withdraw(tx, _insert(tx, sighting, 1, announcement, announcement["created_at"]), now)


def expire_announcements(tx: Transaction, before: float, now: float) -> int:
    """Give up announcements made before that no upload followed: each becomes a terminated one."""
    rows = tx.connection.execute(
        "SELECT * FROM announcements WHERE created_at < ? ORDER BY number", (before,)
    ).fetchall()
    for row in rows:
        sighting = Sighting(
            directory="",
            tus_id=row["tus_id"] or "",
            server="",
            path="",
            info_path="",
            size=row["size"],
            received=0,
            complete=False,
            metadata=msgspec.json.decode(row["metadata"], type=dict[str, str]),
            study=row["study"],
            filename=row["filename"],
            dropoff_id=None,
            identity=_NOWHERE,
        )
        last = newest(tx.connection, "", sighting.tus_id)
        generation = 1 if last is None else last.generation + 1
        upload = _insert(tx, sighting, generation, row, row["created_at"])
        tx.connection.execute("DELETE FROM announcements WHERE id = ?", (row["id"],))
        _withdraw(tx, upload, now)
    return len(rows)


def unneeded_partials(connection: sqlite3.Connection, upload: str) -> tuple[str, ...]:
    """Those of a concatenation's partials that no other one still needs."""
    whole = get_upload(connection, upload)
    others = connection.execute(
        "SELECT partials FROM uploads WHERE directory = ?1 AND id <> ?2 AND partials <> '[]'"
        " AND (state IN ('receiving', 'received', 'processing', 'failed')"
        # What several that are stored share goes with the last of them.
        " OR (state = 'stored' AND (stored_at, id) > (?3, ?2)))",
        (whole.directory, whole.id, whole.stored_at or 0.0),
    )
    needed = _named(others)
    return tuple(each for each in dict.fromkeys(whole.partials) if each not in needed)


def forsaken_partials(
    connection: sqlite3.Connection, directory: str
) -> Sequence[tuple[Upload, tuple[str, ...]]]:
    """What terminated concatenations kept back while others that are done now were cleaned up."""
    terminated = connection.execute(
        "SELECT * FROM uploads WHERE directory = ? AND partials <> '[]' AND state = 'terminated'",
        (directory,),
    )
    uploads = [upload_of(row) for row in terminated]
    if not uploads:
        return ()
    done = connection.execute(
        "SELECT partials FROM uploads WHERE directory = ? AND partials <> '[]' AND state = 'done'",
        (directory,),
    )
    needed = connection.execute(
        "SELECT partials FROM uploads WHERE directory = ? AND partials <> '[]'"
        " AND state IN ('receiving', 'received', 'processing', 'stored', 'failed')",
        (directory,),
    )
    free = _named(done) - _named(needed)
    found = [
        (upload, tuple(each for each in upload.partials if each in free)) for upload in uploads
    ]
    return [(upload, left) for upload, left in found if left]


def newest(connection: sqlite3.Connection, directory: str, tus_id: str) -> Upload | None:
    """The newest generation of a tus id."""
    row = connection.execute(
        "SELECT * FROM uploads WHERE directory = ? AND tus_id = ? ORDER BY generation DESC LIMIT 1",
        (directory, tus_id),
    ).fetchone()
    return None if row is None else upload_of(row)


def same_file(one: Identity, other: Identity) -> bool:
    """Whether two identities are of one file with the same content, as far as they tell."""
    return (one.device, one.inode, one.mtime_ns) == (other.device, other.inode, other.mtime_ns)


def _named(rows: Iterable[sqlite3.Row]) -> set[str]:
    return {tus_id for row in rows for tus_id in strings_of(row["partials"])}


def _add(tx: Transaction, sighting: Sighting, generation: int, now: float) -> Upload:
    announcement = _take_announcement(tx, sighting)
    upload = _insert(tx, sighting, generation, announcement, now)
    if sighting.complete:
        return _receive(tx, upload, now)
    _report_receiving(tx, upload, now)
    tx.tell_work(upload)
    return upload


def _insert(
    tx: Transaction,
    sighting: Sighting,
    generation: int,
    announcement: sqlite3.Row | None,
    created_at: float,
) -> Upload:
    upload = str(uuid.uuid4()) if announcement is None else str(announcement["id"])
    row = tx.connection.execute(
        "INSERT INTO uploads (id, api_id, announced, directory, tus_id, generation, server, path,"
        " info_path, study, filename, size, received, metadata, partials, identity, state,"
        " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'receiving', ?)"
        " RETURNING *",
        (
            upload,
            None if announcement is None else announcement["api_id"],
            announcement is not None,
            sighting.directory,
            sighting.tus_id,
            generation,
            sighting.server,
            sighting.path,
            sighting.info_path,
            sighting.study,
            sighting.filename,
            sighting.size,
            sighting.received,
            text_of(sighting.metadata),
            text_of(sighting.partials),
            text_of(sighting.identity),
            created_at,
        ),
    ).fetchone()
    return upload_of(row)


def _take_announcement(tx: Transaction, sighting: Sighting) -> sqlite3.Row | None:
    if sighting.study is None:
        return None
    row = _find_announcement(tx.connection, sighting, sighting.study)
    if row is not None:
        tx.connection.execute("DELETE FROM announcements WHERE number = ?", (row["number"],))
    return row


def _find_announcement(
    connection: sqlite3.Connection, sighting: Sighting, study: str
) -> sqlite3.Row | None:
    row: sqlite3.Row | None = None
    if sighting.dropoff_id is not None:
        row = connection.execute(
            "SELECT * FROM announcements WHERE id = ? AND study = ?", (sighting.dropoff_id, study)
        ).fetchone()
    if row is None:
        row = connection.execute(
            "SELECT * FROM announcements WHERE tus_id = ? AND study = ? ORDER BY number LIMIT 1",
            (sighting.tus_id, study),
        ).fetchone()
    if row is None:
        # One that is known to belong to another tus id is no match; one of exactly this size
        # goes before one whose size was not known.
        row = connection.execute(
            "SELECT * FROM announcements WHERE study = ?1 AND filename = ?2"
            " AND (size = ?3 OR size IS NULL OR ?3 IS NULL) AND metadata = ?4 AND tus_id IS NULL"
            " ORDER BY size IS NOT ?3, created_at, number LIMIT 1",
            (study, sighting.filename, sighting.size, matching_metadata(sighting.metadata)),
        ).fetchone()
    return row


def _sight_receiving(tx: Transaction, upload: Upload, sighting: Sighting, now: float) -> Upload:
    if (upload.study, upload.metadata) != (sighting.study, sighting.metadata):
        # The same tus id for something else: the first was taken back without our hearing of it,
        # and its study must not get what belongs to another.
        _withdraw(tx, upload, now)
        return _add(tx, sighting, upload.generation + 1, now)
    return _update(tx, upload, sighting, now)


def _update(tx: Transaction, upload: Upload, sighting: Sighting, now: float) -> Upload:
    changed = (upload.received, upload.size) != (sighting.received, sighting.size)
    if not (changed or sighting.complete) and upload.identity == sighting.identity:
        return upload
    updated = _store_progress(tx, upload, sighting)
    if sighting.complete:
        return _receive(tx, updated, now)
    if changed:
        _report_receiving(tx, updated, now)
        tx.tell_work(updated)
    return updated


def _store_progress(tx: Transaction, upload: Upload, sighting: Sighting) -> Upload:
    row = tx.connection.execute(
        "UPDATE uploads SET size = ?, received = ?, path = ?, info_path = ?, partials = ?,"
        " identity = ?, trail = ? WHERE id = ? RETURNING *",
        (
            sighting.size,
            sighting.received,
            sighting.path,
            sighting.info_path,
            text_of(sighting.partials),
            text_of(sighting.identity),
            text_or_none(_trail(upload, sighting)),
            upload.id,
        ),
    ).fetchone()
    return upload_of(row)


def _trail(upload: Upload, sighting: Sighting) -> Trail | None:
    """What is known of early parts' source. A file that shrank has another past."""
    if upload.trail is None or sighting.received >= upload.received:
        return upload.trail
    return msgspec.structs.replace(upload.trail, boot="")


def _grew(upload: Upload, sighting: Sighting) -> bool:
    # One that was complete once may have a session key, which belongs to the identity it had.
    if upload.received_at is not None:
        return False
    old, new = upload.identity, sighting.identity
    return (old.device, old.inode) == (new.device, new.inode) and old != new


def _receive(tx: Transaction, upload: Upload, now: float) -> Upload:
    received = move(tx, upload, UploadState.RECEIVED, now)
    queue_report(tx, received, now)
    tx.tell_work(received)
    return received


def _report_receiving(tx: Transaction, upload: Upload, now: float) -> None:
    row = tx.connection.execute(
        "SELECT receiving_at FROM uploads WHERE id = ?", (upload.id,)
    ).fetchone()
    last = row["receiving_at"]
    if last is not None and 0 <= now - last < RECEIVING_REPORT_SECONDS:
        return
    tx.connection.execute("UPDATE uploads SET receiving_at = ? WHERE id = ?", (now, upload.id))
    queue_report(tx, upload, now)


def _withdraw(tx: Transaction, upload: Upload, now: float) -> Upload:
    terminated = move(tx, upload, UploadState.TERMINATED, now, upload.error)
    queue_report(tx, terminated, now)
    abandon(tx, upload.id)
    tx.tell_withdrawn(upload.id)
    return terminated

"""Rows of the database as the journal's values, and back."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from daemon.errors import InfoError
from daemon.journal.model import (
    Attempt,
    Delivery,
    DeliveryState,
    Error,
    Identity,
    Report,
    ReportStatus,
    Sighting,
    Trail,
    Upload,
    UploadState,
    Work,
)
from daemon.journal.wrapping import Wrapper, join_destination
from pipeline.messages import StoredObject, StoredPart

DROPOFF_ID = "dropoff_id"
_LARGEST = 2**63 - 1

_identity = msgspec.json.Decoder(Identity)
_trail = msgspec.json.Decoder(Trail)
_error = msgspec.json.Decoder(Error)
_metadata = msgspec.json.Decoder(dict[str, str])
_strings = msgspec.json.Decoder(tuple[str, ...])
_stored = msgspec.json.Decoder(StoredObject)


def text_of(value: object) -> str:
    """A value as JSON text for a column, keys sorted: equal values give equal texts."""
    return msgspec.json.encode(value, order="sorted").decode()


def text_or_none(value: object | None) -> str | None:
    """Likewise; None stays NULL."""
    return None if value is None else text_of(value)


def identity_of(text: str) -> Identity:
    """An identity from its column."""
    return _identity.decode(text)


def strings_of(text: str) -> tuple[str, ...]:
    """Strings from their column."""
    return _strings.decode(text)


def matching_metadata(metadata: dict[str, str]) -> str:
    """Metadata as announcements are matched by: without what pre-create itself put in."""
    return text_of({name: value for name, value in metadata.items() if name != DROPOFF_ID})


def upload_of(row: sqlite3.Row) -> Upload:
    """An upload from a whole row."""
    fields = {name: row[name] for name in Upload.__struct_fields__}
    fields["announced"] = bool(fields["announced"])
    fields["metadata"] = _metadata.decode(fields["metadata"])
    fields["partials"] = _strings.decode(fields["partials"])
    fields["identity"] = _identity.decode(fields["identity"])
    fields["trail"] = None if fields["trail"] is None else _trail.decode(fields["trail"])
    fields["state"] = UploadState(fields["state"])
    fields["error"] = _error_of(fields["error"])
    return Upload(**fields)


def work_of(upload: Upload) -> Work:
    """What is left to do for an upload."""
    return Work(
        upload=upload.id,
        study=sys.intern(upload.study or ""),  # one for all the work that waits
        size=upload.received if upload.size is None else upload.size,
        state=upload.state,
        next_at=upload.next_at,
    )


def delivery_of(row: sqlite3.Row, wrapper: Wrapper | None) -> Delivery:
    """A delivery from a whole row; without ``wrapper``, the destination has no secrets."""
    fields: dict[str, Any] = {name: row[name] for name in Delivery.__struct_fields__}
    blob = row["secret"]
    secret = None
    if wrapper is not None and blob is not None:
        secret = wrapper.unwrap(row["upload"], purpose_of(row["position"]), blob)
    fields["destination"] = join_destination(row["destination"], secret)
    fields["state"] = DeliveryState(row["state"])
    fields["error"] = _error_of(row["error"])
    fields["stored"] = None if row["stored"] is None else _stored.decode(row["stored"])
    return Delivery(**fields)


def purpose_of(position: int) -> str:
    """What the wrapped secrets of a delivery are bound to, beside the upload."""
    return f"delivery {position}"


def report_of(row: sqlite3.Row, api_id: str | None) -> Report:
    """A report from a whole row."""
    fields: dict[str, Any] = {
        name: row[name] for name in Report.__struct_fields__ if name != "api_id"
    }
    fields["api_id"] = api_id or ""
    fields["body"] = msgspec.json.decode(row["body"])
    fields["status"] = ReportStatus(row["status"])
    fields["error"] = _error_of(row["error"])
    return Report(**fields)


def attempt_of(row: sqlite3.Row) -> Attempt:
    """A finished try from a whole row."""
    fields = {name: row[name] for name in Attempt.__struct_fields__}
    fields["error"] = _error_of(fields["error"])
    return Attempt(**fields)


def part_of(row: sqlite3.Row) -> StoredPart:
    """A part from a whole row."""
    return StoredPart(
        number=row["number"],
        size=row["size"],
        etag=row["etag"],
        crc64nvme=int.from_bytes(row["crc64nvme"], "big"),
        plaintext=row["plaintext"],
    )


def check_storable(sighting: Sighting) -> None:
    """Raise InfoError for numbers and texts that no database column and no JSON can hold."""
    check_size(sighting.size)
    check_size(sighting.received)
    check_texts(
        (
            sighting.directory,
            sighting.tus_id,
            sighting.path,
            sighting.info_path,
            sighting.filename,
            *sighting.metadata.keys(),
            *sighting.metadata.values(),
            *sighting.partials,
        )
    )


def check_size(size: int | None) -> None:
    """Raise InfoError for a size that no file can have."""
    if size is not None and not 0 <= size <= _LARGEST:
        raise InfoError(f"a size of {size} bytes: expected 0 to {_LARGEST}")


def check_texts(texts: Iterable[str]) -> None:
    """Raise InfoError for texts that are not Unicode (lone surrogates)."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError as error:
        raise InfoError(f"a name or value that is not Unicode: {error.object!a}") from error


def _error_of(text: str | None) -> Error | None:
    return None if text is None else _error.decode(text)

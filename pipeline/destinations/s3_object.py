"""What stands under a key of a bucket, and what is known of the bytes that were sent there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from pipeline.destinations import crc, s3_options
from pipeline.destinations.base import Body, Content
from pipeline.destinations.s3_client import Sent
from pipeline.destinations.s3_multipart import OWNER
from pipeline.errors import DestinationRefusedError, VerificationError
from pipeline.messages import StoredPart, Target

MD5: Final = re.compile(r"[0-9a-f]{32}")


class StandingObject(NamedTuple):
    """What HEAD tells."""

    size: int
    etag: str
    crc64nvme: str
    owner: str
    opaque_etag: bool
    tags: int
    lock_mode: str
    locked_until: datetime | None
    asked_until: datetime | None
    """Until when it was to be locked when it was created; None where that was not said."""
    held: bool


class Proved(NamedTuple):
    """What is known of the bytes that were sent."""

    crc64nvme: int
    counted: bool
    """Whether the store counted the CRC of each part by itself, and it was the same."""
    md5_etag: str
    """What the ETag is where it is made of MD5s; empty where unknown."""
    content: Content | None
    """What the object has to hold, where it is to be opened."""


def standing_of(answer: Mapping[str, Any]) -> StandingObject:
    """What an answer of botocore's to HEAD, or one filled up to that, says."""
    metadata = {str(k).lower(): str(v) for k, v in (answer.get("Metadata") or {}).items()}
    return StandingObject(
        size=int(answer["ContentLength"]),
        etag=str(answer.get("ETag") or "").strip('"'),
        crc64nvme=str(answer.get("ChecksumCRC64NVME") or ""),
        owner=metadata.get(OWNER, ""),
        opaque_etag=str(answer.get("ServerSideEncryption") or "").startswith("aws:kms")
        or bool(answer.get("SSECustomerAlgorithm")),
        tags=int(answer.get("TagCount") or 0),
        lock_mode=str(answer.get("ObjectLockMode") or ""),
        locked_until=answer.get("ObjectLockRetainUntilDate"),
        asked_until=_time_of(metadata.get(s3_options.UNTIL, "")),
        held=answer.get("ObjectLockLegalHoldStatus") == "ON",
    )


def _time_of(text: str) -> datetime | None:
    """A time that was written down with its offset; None for anything else."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def check_ours(target: Target, standing: StandingObject) -> None:
    """Raise DestinationRefusedError for another's object."""
    if standing.owner != target.upload:
        raise DestinationRefusedError(
            f"another object stands under {target.name}; it is left as it is"
        )


def check_part(number: int, sent: Sent, body: Body) -> None:
    """Raise VerificationError where the store has other bytes than were sent."""
    if sent.crc64nvme and sent.crc64nvme != crc.text(body.crc64nvme):
        raise VerificationError(f"the store's checksum of part {number} is another one")
    if body.md5 is None or sent.opaque_etag or not MD5.fullmatch(sent.etag):
        return
    if sent.etag != body.md5.hex():
        raise VerificationError(f"the ETag of part {number} is not the MD5 of what was sent")


def multipart_md5(parts: Sequence[StoredPart]) -> str:
    """The ETag of an object of parts whose ETags are MD5s; empty where they aren't."""
    if not all(MD5.fullmatch(part.etag) for part in parts):
        return ""
    joined = b"".join(bytes.fromhex(part.etag) for part in parts)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"

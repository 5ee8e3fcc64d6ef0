"""What is asked of a store for each object, beside its bytes: lock, tags, class, encryption.

It is said when an object is created, by PUT or as a multipart upload; only a customer's key goes
with everything that touches the object afterwards.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from pipeline.messages import DestinationSpec, Target

CREATING: Final = frozenset({"create_multipart_upload", "put_object"})
"""The operations that :func:`of_object` belongs to."""
TOUCHING: Final = CREATING | {
    "complete_multipart_upload",
    "get_object",
    "head_object",
    "list_parts",
    "upload_part",
}
"""Those that need the customer's key."""

_SERVER_SIDE: Final = {"sse-s3": "AES256", "sse-kms": "aws:kms"}


def of_object(spec: DestinationSpec, target: Target, now: datetime | None = None) -> dict[str, Any]:
    """Parameters of the request that creates an object.

    A lock counts from ``now``, which is when the delivery begins: stores want a date, and take it
    only then.
    """
    parameters: dict[str, Any] = {}
    if spec.sse in _SERVER_SIDE:
        parameters["ServerSideEncryption"] = _SERVER_SIDE[spec.sse]
    if spec.sse_kms_key:
        parameters["SSEKMSKeyId"] = spec.sse_kms_key
    if spec.storage_class:
        parameters["StorageClass"] = spec.storage_class
    if spec.tags:
        parameters["Tagging"] = urlencode(
            [(name, filled(value, target)) for name, value in spec.tags]
        )
    if spec.lock_mode:
        until = (now or datetime.now(UTC)) + timedelta(days=spec.lock_days)
        parameters["ObjectLockMode"] = spec.lock_mode
        parameters["ObjectLockRetainUntilDate"] = until.replace(microsecond=0)
    if spec.legal_hold:
        parameters["ObjectLockLegalHoldStatus"] = "ON"
    return parameters


def of_customer(spec: DestinationSpec) -> dict[str, Any]:
    """Parameters that carry the customer's key; none without one."""
    if spec.sse != "sse-c":
        return {}
    key = base64.b64decode(spec.sse_c_key)
    return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}


def locks(spec: DestinationSpec) -> bool:
    """Whether objects are locked, so that a store insists on checksums sent along."""
    return bool(spec.lock_mode) or spec.legal_hold


def without_traces(spec: DestinationSpec) -> DestinationSpec:
    """The same storage for an object that has to be read and removed again at once."""
    return msgspec.structs.replace(
        spec, storage_class="", lock_mode="", lock_days=0, legal_hold=False, tags=()
    )


def filled(value: str, target: Target) -> str:
    """A tag's value with its placeholders filled in."""
    return value.replace("{study}", target.study).replace("{upload}", target.upload)

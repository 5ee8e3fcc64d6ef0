"""What is asked of a store for each object, beside its bytes: lock, tags, class, encryption.

It is said when an object is created, by PUT or as a multipart upload; only a customer's key goes
with everything that touches the object afterwards.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
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

UNTIL: Final = "dropoffd-lock-until"
"""The metadata that says until when an object was to be locked: a store may forget the lock."""

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
        parameters["ObjectLockMode"] = spec.lock_mode
        parameters["ObjectLockRetainUntilDate"] = locked_until(spec, now or datetime.now(UTC))
    if spec.legal_hold:
        parameters["ObjectLockLegalHoldStatus"] = "ON"
    return parameters


def remembered(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Metadata that keep what of :func:`of_object` can't be worked out again."""
    until: datetime | None = parameters.get("ObjectLockRetainUntilDate")
    return {UNTIL: until.isoformat()} if until else {}


def locked_until(spec: DestinationSpec, begun: datetime) -> datetime:
    """When the lock of a delivery that began then ends."""
    return (begun + timedelta(days=spec.lock_days)).replace(microsecond=0)


def of_customer(spec: DestinationSpec) -> dict[str, Any]:
    """Parameters that carry the customer's key; none without one."""
    if spec.sse != "sse-c":
        return {}
    key = base64.b64decode(spec.sse_c_key)
    return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}


def locks(spec: DestinationSpec) -> bool:
    """Whether objects are locked, so that a store insists on checksums sent along."""
    return bool(spec.lock_mode) or spec.legal_hold


def named(spec: DestinationSpec) -> list[str]:
    """What is asked for, in the words of the configuration."""
    lock = " ".join([spec.lock_mode, "legal_hold"] if spec.legal_hold else [spec.lock_mode]).strip()
    found = {
        "sse": spec.sse,
        "sse_kms_key": spec.sse_kms_key,
        "storage_class": spec.storage_class,
        "object_lock": lock,
        "tags": " ".join(name for name, _ in spec.tags),
    }
    return [f"{key} {value}" for key, value in found.items() if value]


def without_traces(spec: DestinationSpec) -> DestinationSpec:
    """The same storage for an object that has to be read and removed again at once."""
    return msgspec.structs.replace(
        spec, storage_class="", lock_mode="", lock_days=0, legal_hold=False, tags=()
    )


def filled(value: str, target: Target) -> str:
    """A tag's value with its placeholders filled in."""
    return value.replace("{study}", target.study).replace("{upload}", target.upload)

"""What of ``[destinations.NAME]`` only S3 stores know: addressing, encryption, lock, tags."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

from daemon.config_checks import template_problem
from daemon.config_file import DestinationTable, Issues, Key, describe
from daemon.credentials import variable
from pipeline.destinations.webdav_urls import is_private
from pipeline.messages import DestinationSpec

MAX_TAGS: Final = 10
MAX_TAG_NAME: Final = 128
MAX_TAG_VALUE: Final = 256
MAX_LOCK_DAYS: Final = 36_500
SSE_C_KEY_SIZE: Final = 32

_TAG_FIELDS: Final = frozenset({"study", "upload"})
_TAG_ROOM: Final = {"{study}": "x" * 36, "{upload}": "x" * 36}
"""Placeholders, and as much as they may become."""
_TAG: Final = re.compile(r"[\w +\-=.:/@]*")
_HOST_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_ADDRESS: Final = re.compile(r"[0-9.]+|.*:.*")
_OFFLINE: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects can't be read before they are restored."""


def with_options(
    spec: DestinationSpec, table: DestinationTable, sse_c_key: str, key: Key, issues: Issues
) -> DestinationSpec:
    """``spec`` with what the table asks of the store for each object. What is wrong is noted."""
    _check_addressing(table, key, issues)
    _check_encryption(table, sse_c_key, key, issues)
    if table.verify == "readback" and table.storage_class in _OFFLINE:
        issues.add(
            (*key, "verify"), f'expected "checksum": what is {table.storage_class} can\'t be read'
        )
    lock = table.object_lock
    if lock is not None:
        if lock.mode and not 0 < lock.days <= MAX_LOCK_DAYS:
            issues.add(
                (*key, "object_lock", "days"),
                f"found {describe(lock.days)}, expected 1 to {MAX_LOCK_DAYS}",
            )
        if lock.days and not lock.mode:
            issues.add(
                (*key, "object_lock", "mode"), 'missing, expected "GOVERNANCE" or "COMPLIANCE"'
            )
    return msgspec.structs.replace(
        spec,
        addressing=table.addressing,
        sse=table.sse,
        sse_kms_key=table.sse_kms_key,
        sse_c_key=sse_c_key,
        storage_class=table.storage_class,
        lock_mode=lock.mode if lock else "",
        lock_days=lock.days if lock else 0,
        legal_hold=bool(lock and lock.legal_hold),
        tags=_tags(table, key, issues),
    )


def _check_addressing(table: DestinationTable, key: Key, issues: Issues) -> None:
    if table.addressing != "virtual":
        return
    host = urlsplit(table.endpoint).hostname or ""
    if _ADDRESS.fullmatch(host):
        issues.add((*key, "addressing"), 'expected "path": nothing can be put before an IP address')
    if not _HOST_LABEL.fullmatch(table.bucket) or ".." in table.bucket:
        issues.add(
            (*key, "addressing"), f'expected "path": {describe(table.bucket)} is no host\'s name'
        )


def _check_encryption(table: DestinationTable, sse_c_key: str, key: Key, issues: Issues) -> None:
    name = variable(key[-1], "SSE_C_KEY")
    if table.sse_kms_key and table.sse != "sse-kms":
        issues.add((*key, "sse_kms_key"), 'expected sse = "sse-kms" beside it')
    if sse_c_key and table.sse != "sse-c":
        issues.add((*key, "sse"), f'expected "sse-c" beside {name}')
    if table.sse != "sse-c":
        return
    if sse_c_key and not _is_key(sse_c_key):
        issues.add((*key, "sse"), f"{name} is not base64 of {SSE_C_KEY_SIZE} bytes")
    if table.endpoint and not is_private(table.endpoint):
        issues.add((*key, "endpoint"), "expected https://: the key is sent along")


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == SSE_C_KEY_SIZE
    except (binascii.Error, ValueError):
        return False


def _tags(table: DestinationTable, key: Key, issues: Issues) -> tuple[tuple[str, str], ...]:
    tags = tuple((table.tags or {}).items())
    if len(tags) > MAX_TAGS:
        issues.add((*key, "tags"), f"found {len(tags)} tags, stores take at most {MAX_TAGS}")
    for name, value in tags:
        place = (*key, "tags", name)
        longest = value
        for field, room in _TAG_ROOM.items():
            longest = longest.replace(field, room)
        if problem := template_problem(value, _TAG_FIELDS):
            issues.add(place, problem)
        elif not name or len(name) > MAX_TAG_NAME or len(longest) > MAX_TAG_VALUE:
            issues.add(
                place,
                f"too long, or without a name; expected a name of at most {MAX_TAG_NAME} and a "
                f"value of at most {MAX_TAG_VALUE} characters",
            )
        elif not _TAG.fullmatch(name) or not _TAG.fullmatch(longest):
            issues.add(place, "expected letters, digits, spaces and + - = . _ : / @")
    return tags

"""The names of objects: a template of the plan, filled with what the client may have made up."""

from __future__ import annotations

import re
import unicodedata

MAX_FILENAME = 150
"""Bytes of UTF-8. With suffix and the mark of a temporary name it stays below the 255 of a
directory entry."""

_FORBIDDEN = re.compile(r'[/\\\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069<>:"|?*]')
_FIELD = re.compile(r"\{(study|upload|filename|tus_id)\}")


def safe_filename(filename: str) -> str:
    """A client's file name as one harmless path component.

    Letters of every script stay. What would separate paths, steer a terminal, or trip a file
    system becomes ``_``; too long a name loses its middle and keeps its extension.
    """
    text = filename.encode("utf-8", "replace").decode("utf-8")
    text = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", text)).strip(" ")
    dots = len(text) - len(text.lstrip("."))
    if dots > 1 or text == ".":  # one is a hidden file's, more are on their way up
        text = "_" * dots + text[dots:]
    return _shortened(text or "upload")


def object_name(template: str, *, study: str, upload: str, filename: str, tus_id: str) -> str:
    """The template filled in. Only ``filename`` and ``tus_id`` come from outside."""
    values = {
        "study": study,
        "upload": upload,
        "filename": safe_filename(filename),
        "tus_id": "/".join(safe_filename(part) for part in tus_id.split("/") if part),
    }
    return _FIELD.sub(lambda match: values[match[1]], template).strip("/")


def _shortened(text: str) -> str:
    if len(text.encode()) <= MAX_FILENAME:
        return text
    stem, dot, extension = text.rpartition(".")
    tail = dot + extension if stem and len(extension.encode()) <= MAX_FILENAME // 4 else ""
    room = MAX_FILENAME - len(tail.encode())
    head = text.encode()[:room].decode("utf-8", "ignore")
    return head.rstrip(" ") + tail

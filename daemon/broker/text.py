"""Text of the REST API's on its way to people."""

from __future__ import annotations

import msgspec

LIMIT = 500


def clean(text: str, limit: int = LIMIT) -> str:
    """One printable line of at most ``limit`` characters."""
    printable = "".join(mark if mark.isprintable() else " " for mark in text[: 8 * limit])
    line = " ".join(printable.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def detail(status: int, body: bytes, content_type: str) -> str:
    """Why the API refused, in its own words where it has some.

    That is ``detail`` of a JSON object, else the object itself (validation errors by field, as
    Django has them), else plain text, else the status.
    """
    kind = content_type.partition(";")[0].strip().lower()
    said = ""
    if kind.endswith("json"):
        said = _from_json(body)
    elif kind == "text/plain":
        said = clean(body.decode("utf-8", "replace"))
    return said or f"HTTP status {status}"


def _from_json(body: bytes) -> str:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if isinstance(answer, dict) and isinstance(answer.get("detail"), str):
        return clean(answer["detail"])
    if not answer:
        return ""
    return clean(answer if isinstance(answer, str) else msgspec.json.encode(answer).decode())

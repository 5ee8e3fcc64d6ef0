"""One line of JSON out of anything, harmless wherever it is shown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime

MAX_LINE = 48_000
"""Characters of a line. journald cuts at 48 KiB, and then none of the pieces is JSON."""

_MAX_DEPTH = 8
_MAX_INTEGER_BITS = 64
_ALWAYS = ("ts", "level", "event", "outcome", "upload", "action", "by", "previous")


def encode(fields: Mapping[str, object], limit: int = MAX_LINE) -> str:
    """The fields as one line of JSON, ASCII only, at most ``limit`` characters; never raises.

    ASCII, because then no control character, bidirectional mark or broken surrogate of a hostile
    file name reaches whoever looks at the line. What JSON doesn't know becomes its text. Where the
    line is too long, long texts are cut, and ``cut`` says so.
    """
    line = _dump(fields, limit)
    for longest in (4096, 512, 64):
        if len(line) <= limit:
            return line
        line = _dump({**fields, "cut": True}, longest)
    if len(line) <= limit:
        return line
    return _dump({key: fields[key] for key in _ALWAYS if key in fields} | {"cut": True}, 64)


def harmless(text: str, keep: str = "") -> str:
    r"""Text that does nothing to a terminal: what can't be printed is told, as ``\x1b`` and such.

    Characters in ``keep`` stay.
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in keep
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds, of seconds since the epoch."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _dump(fields: Mapping[str, object], longest: int) -> str:
    return json.dumps(_plain(fields, longest, 0), separators=(",", ":"))


def _plain(value: object, longest: int, depth: int) -> object:
    """The value in JSON's own types."""
    match value:
        case None | bool():
            return value
        case int() if value.bit_length() <= _MAX_INTEGER_BITS:
            return int(value)
        case float() if math.isfinite(value):
            return value
        case Mapping() if depth < _MAX_DEPTH:
            return {
                _cut(str(key), longest): _plain(entry, longest, depth + 1)
                for key, entry in value.items()
            }
        case list() | tuple() | set() | frozenset() if depth < _MAX_DEPTH:
            return [_plain(entry, longest, depth + 1) for entry in value]
        case _:
            return _cut(_told(value), longest)


def _told(value: object) -> str:
    try:
        if isinstance(value, int):
            return hex(value)  # decimal ones of any length cost too much
        return str(value) if isinstance(value, (str, BaseException)) else repr(value)
    except Exception as error:  # noqa: BLE001 - a line is owed whatever a foreign __repr__ does
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _cut(text: str, longest: int) -> str:
    """At most ``longest`` characters, without the surrogates that JSON readers refuse."""
    if len(text) > longest:
        text = f"{text[:longest]}… ({len(text) - longest} more)"
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()

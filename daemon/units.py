"""Sizes and durations as people write them: ``16MiB``, ``30s``."""

from __future__ import annotations

import re

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", re.ASCII)
_SIZE_UNITS: dict[str, int] = {"b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgtpe", start=1)
    for suffix, base in (("ib", 1024), ("b", 1000))
}

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.ASCII)
_DURATION_UNITS = {
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 7 * 86400.0,
}

LARGEST_SIZE = 2**63 - 1
LONGEST_DURATION = 100 * 365 * 86400.0

SIZE_EXAMPLE = 'a size such as "16MiB" or "500MB"'
RATE_EXAMPLE = 'bytes a second such as "200MiB/s"'
DURATION_EXAMPLE = 'a duration such as "30s", "1h30m" or "7d"'


def parse_size(text: str) -> int:
    """Bytes of a size such as ``16MiB`` (binary), ``500MB`` (decimal) or ``10B``.

    Raises ValueError where it is none, has no unit, or is over 8 EiB.
    """
    found = _SIZE.fullmatch(text)
    factor = _SIZE_UNITS.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError(f"{text!r} is not {SIZE_EXAMPLE}")
    whole, _, fraction = found[1].partition(".")
    # In whole numbers throughout: a float would round sizes beyond 8 PiB.
    size: int = int(whole + fraction) * factor // 10 ** len(fraction)
    if size > LARGEST_SIZE:
        raise ValueError(f"{text!r} is too large")
    return size


def parse_rate(text: str) -> int:
    """Bytes a second of a rate such as ``200MiB/s`` or ``25MB/s``.

    Raises ValueError where it is none, or has no unit. Bits, as in ``200Mbit/s``, are none: too
    often they are taken for bytes.
    """
    size, _, second = text.rpartition("/")
    try:
        return parse_size(size if second.strip() == "s" else "")
    except ValueError:
        raise ValueError(f"{text!r} is not {RATE_EXAMPLE}") from None


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``30s``, ``500ms``, ``1h30m`` or ``7d``.

    Raises ValueError where it is none, has no unit, or is over a hundred years.
    """
    left = text.strip()
    seconds = 0.0
    if not left:
        raise ValueError(f"{text!r} is not {DURATION_EXAMPLE}")
    while left:
        found = _DURATION.match(left)
        factor = _DURATION_UNITS.get(found[2]) if found else None
        if found is None or factor is None:
            raise ValueError(f"{text!r} is not {DURATION_EXAMPLE}")
        seconds += float(found[1]) * factor
        left = left[found.end() :]
    if seconds > LONGEST_DURATION:
        raise ValueError(f"{text!r} is too long")
    return seconds


def format_size(size: float) -> str:
    """A size for people: ``0 B``, ``1.5 MiB``, ``5 TiB``. Three digits tell enough."""
    if abs(size) < 1024:  # noqa: PLR2004 - the first unit's end, told by the next line
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        size /= 1024
        # 1023.95 would print as 1024.0 of this unit where 1.0 of the next is meant.
        if abs(size) < 1023.95 or unit == "EiB":  # noqa: PLR2004 - told above
            text = f"{size:.0f}" if abs(size) >= 100 else f"{size:.1f}".removesuffix(".0")  # noqa: PLR2004 - three digits
            return f"{text} {unit}"
    raise AssertionError("the last unit takes every size")


def format_duration(seconds: float) -> str:
    """A duration for people: ``12 ms``, ``3.4 s``, ``2m 5s``, ``3h 10m``, ``7d 2h``."""
    if seconds < 0.9995:  # noqa: PLR2004 - below, rounding stays under 1000 ms
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:  # noqa: PLR2004 - likewise, under 60 s
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    left = round(seconds)
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        parts.append((count, unit))
    first = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count)

"""Counts of finished work as Prometheus reads them.

Names follow the Prometheus conventions: one prefix, base units, ``_total`` for counters. Labels are
only what is bounded: outcome, destination, error code, hook. Studies and uploads are found in the
metrics log.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TypeGuard

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MAX_SERIES = 5_000
"""More than the labels can make where all is well; beyond it new ones aren't counted."""

_PREFIX = "dropoffd"
_PLURALS = {"delivery": "deliveries"}
_LABELS = ("destination", "hook", "error_code")
_MAX_LABEL = 80
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0, 3600.0, 21600.0, 86400.0)

Labels = tuple[tuple[str, str], ...]


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is measured when asked for, e.g. uploads in each state."""

    name: str
    """Without the prefix, with its unit: ``uploads``, ``uptime_seconds``."""
    help: str
    values: Mapping[Labels, float]
    """By labels; one without is ``{(): 5}``."""


class _Kind(Enum):
    """What a field is counted as."""

    SUM = "sum"
    DURATION = "duration"
    NONE = "none"


class _Histogram:
    """Durations of one series."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(_BUCKETS, value)] += 1
        self.sum += value


class Counters:
    """All series since the start. Not for several threads at once: the owner locks."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}
        self._series = 0
        self._kinds: dict[tuple[str, str], tuple[_Kind, str]] = {}
        """What the fields of events are counted as, and under which name."""

    def add(self, event: str, outcome: str, fields: Mapping[str, object]) -> None:
        """Count one finished unit of work."""
        if not _NAME.fullmatch(event):
            return
        bounded = {"outcome": outcome} | {name: fields.get(name) for name in _LABELS}
        labels: Labels = tuple(
            (name, value[:_MAX_LABEL])
            for name, value in bounded.items()
            if isinstance(value, str) and value
        )
        self._count(f"{_PREFIX}_{_PLURALS.get(event, event + 's')}_total", labels, 1)
        narrow = tuple(label for label in labels if label[0] != "error_code")
        for name, value in fields.items():
            if not _is_amount(value):
                continue
            kind, full = self._kinds.get((event, name)) or self._learn(event, name)
            if kind is _Kind.SUM:
                self._count(full, narrow, value)
            elif kind is _Kind.DURATION:
                self._observe(full, narrow, value)

    def render(self, gauges: Iterable[Gauge] = ()) -> str:
        """The exposition text, gauges first."""
        lines: list[str] = []
        for gauge in gauges:
            name = f"{_PREFIX}_{gauge.name}"
            lines += (f"# HELP {name} {_escape(gauge.help)}", f"# TYPE {name} gauge")
            lines += (f"{name}{_labels(key)} {value:g}" for key, value in gauge.values.items())
        for name in sorted(self._counts):
            lines += (f"# HELP {name} {_help(name)}", f"# TYPE {name} counter")
            lines += (
                f"{name}{_labels(key)} {_number(value)}"
                for key, value in sorted(self._counts[name].items())
            )
        for name in sorted(self._histograms):
            lines += (f"# HELP {name} {_help(name)}", f"# TYPE {name} histogram")
            for key, histogram in sorted(self._histograms[name].items()):
                lines += _histogram_lines(name, key, histogram)
        return "\n".join(lines) + "\n"

    def _learn(self, event: str, name: str) -> tuple[_Kind, str]:
        kind, full = _Kind.NONE, f"{_PREFIX}_{event}_{name.removeprefix(f'{event}_')}"
        if not _NAME.fullmatch(name):
            return kind, full
        if name.endswith("_bytes") or name in {"bytes", "attempts"}:
            kind, full = _Kind.SUM, f"{full}_total"
        elif name.endswith("_seconds") or name == "seconds":
            kind = _Kind.DURATION
        if len(self._kinds) < MAX_SERIES:
            self._kinds[event, name] = kind, full
        return kind, full

    def _count(self, name: str, labels: Labels, amount: float) -> None:
        series = self._counts.setdefault(name, {})
        if labels in series or self._has_room():
            series[labels] = series.get(labels, 0) + amount

    def _observe(self, name: str, labels: Labels, value: float) -> None:
        series = self._histograms.setdefault(name, {})
        if labels not in series:
            if not self._has_room():
                return
            series[labels] = _Histogram()
        series[labels].add(value)

    def _has_room(self) -> bool:
        if self._series >= MAX_SERIES:
            return False
        self._series += 1
        return True


def _is_amount(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and value >= 0
        and math.isfinite(value)
    )


def _histogram_lines(name: str, labels: Labels, histogram: _Histogram) -> list[str]:
    lines = []
    total = 0
    for bound, count in zip((*_BUCKETS, math.inf), histogram.counts, strict=True):
        total += count
        shown = "+Inf" if math.isinf(bound) else f"{bound:g}"
        lines.append(f"{name}_bucket{_labels((*labels, ('le', shown)))} {total}")
    lines += (f"{name}_sum{_labels(labels)} {_number(histogram.sum)}",)
    lines += (f"{name}_count{_labels(labels)} {total}",)
    return lines


def _help(name: str) -> str:
    words = name.removeprefix(f"{_PREFIX}_").removesuffix("_total").replace("_", " ")
    return f"Finished work, by outcome: {words}."


def _labels(labels: Labels) -> str:
    inner = ",".join(f'{name}="{_escape(value)}"' for name, value in labels)
    return f"{{{inner}}}" if inner else ""


def _escape(text: str) -> str:
    clean = text.encode("utf-8", "backslashreplace").decode()
    return clean.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))

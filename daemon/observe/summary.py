"""What a metrics log comes to: counts, rates, percentiles and failures, in groups."""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from daemon.observe.reading import Record

By = Literal["study", "destination", "stage", "hour", "outcome"]

_HOUR = len("2026-01-31T12")


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took, in seconds. Percentiles are values that occurred."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Finished units of work of one kind, and of one group where groups were asked for."""

    group: str
    """The study, destination, hour (UTC) or outcome; empty without groups."""
    event: str
    count: int
    ok: int
    failed: int
    """Neither counts other outcomes, such as ``refused``."""
    outcomes: dict[str, int]
    error_codes: dict[str, int]
    attempts: int
    bytes: dict[str, int]
    """Sums by the fields' names, such as ``sent_bytes``."""
    bytes_per_second: float
    """Of what was sent (or else of the sizes), over the time from the first to the last line."""
    seconds: dict[str, Durations]
    """By stage: ``delivery`` for the field ``delivery_seconds``."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How often something failed for one reason."""

    event: str
    error_code: str
    destination: str
    count: int
    last: str
    """When it last did."""
    upload: str
    """To which upload it last did."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    first: str | None
    last: str | None
    lines: int
    unreadable: int
    groups: list[Group]
    failures: list[Failure]
    """The most frequent first."""


class _Tally:
    """What is gathered for one group."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.error_codes: Counter[str] = Counter()
        self.attempts = 0
        self.bytes: Counter[str] = Counter()
        self.seconds: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))

    def add(self, record: Record) -> None:
        self.outcomes[record["outcome"]] += 1
        code = record.get("error_code")
        if isinstance(code, str) and code:
            self.error_codes[code] += 1
        for name, value in record.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if name.endswith("_seconds"):
                self.seconds[name.removesuffix("_seconds")].append(value)
            elif name.endswith("_bytes"):
                self.bytes[name] += int(value)
            elif name == "attempts":
                self.attempts += int(value)

    def group(self, key: tuple[str, str], elapsed: float) -> Group:
        count = self.outcomes.total()
        moved = self.bytes["sent_bytes"] or self.bytes["size_bytes"]
        return Group(
            group=key[0],
            event=key[1],
            count=count,
            ok=self.outcomes["ok"],
            failed=self.outcomes["failed"],
            outcomes=dict(self.outcomes.most_common()),
            error_codes=dict(self.error_codes.most_common()),
            attempts=self.attempts,
            bytes={name: total for name, total in self.bytes.items() if total},
            bytes_per_second=moved / elapsed if elapsed > 0 else 0.0,
            seconds={stage: durations(values) for stage, values in sorted(self.seconds.items())},
        )


class _Failures:
    """What failed, and why."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._last: dict[tuple[str, str, str], tuple[str, str]] = {}

    def add(self, record: Record) -> None:
        code = record.get("error_code")
        if not code:
            return
        key = (record["event"], str(code), str(record.get("destination", "")))
        self._counts[key] += 1
        self._last[key] = (record["ts"], str(record.get("upload", "")))

    def listed(self) -> list[Failure]:
        return [
            Failure(
                event=key[0],
                error_code=key[1],
                destination=key[2],
                count=count,
                last=self._last[key][0],
                upload=self._last[key][1],
            )
            for key, count in self._counts.most_common()
        ]


def summarise(records: Iterable[Record], by: By | None = None) -> Summary:
    """Read all records once. ``unreadable`` is left at 0: the reader knows."""
    tallies: defaultdict[tuple[str, str], _Tally] = defaultdict(_Tally)
    failures = _Failures()
    first = last = None
    lines = 0
    for record in records:
        lines += 1
        first = record["ts"] if first is None else min(first, record["ts"])
        last = record["ts"] if last is None else max(last, record["ts"])
        tallies[_group(record, by), record["event"]].add(record)
        failures.add(record)
    elapsed = _between(first, last)
    return Summary(
        first=first,
        last=last,
        lines=lines,
        unreadable=0,
        groups=[tallies[key].group(key, elapsed) for key in sorted(tallies)],
        failures=failures.listed(),
    )


def durations(values: Sequence[float]) -> Durations:
    """Mean and percentiles of at least one value."""
    ordered = sorted(values)
    return Durations(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        p50=percentile(ordered, 50),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        max=ordered[-1],
    )


def percentile(ordered: Sequence[float], per_cent: int) -> float:
    """The smallest value that so many per cent of all don't exceed (nearest rank)."""
    rank = max(1, math.ceil(len(ordered) * per_cent / 100))
    return ordered[rank - 1]


def _group(record: Record, by: By | None) -> str:
    match by:
        case "study" | "destination" | "outcome":
            return str(record.get(by, ""))
        case "hour":
            return str(record["ts"])[:_HOUR] + ":00Z"
        case _:
            return ""


def _between(first: str | None, last: str | None) -> float:
    if first is None or last is None:
        return 0.0
    try:
        return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
    except (ValueError, TypeError):
        return 0.0  # other programs' times

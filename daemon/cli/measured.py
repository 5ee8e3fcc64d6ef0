"""`dropoffd metrics`: what the metrics log tells."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from daemon.cli import output
from daemon.cli.options import places
from daemon.cli.output import Column
from daemon.errors import NotFoundError
from daemon.observe.linefile import rotated
from daemon.observe.lines import harmless
from daemon.observe.metrics import FILE
from daemon.observe.reading import Reader, Record, follow
from daemon.observe.summary import By, Durations, Failure, Group, Summary, summarise

if TYPE_CHECKING:
    from collections.abc import Iterator

_FAILURES = 10
"""So many kinds of failures are shown; ``--json`` has them all."""


def run(arguments: argparse.Namespace) -> int:
    """Run `dropoffd metrics`."""
    since = None if arguments.since is None else time.time() - arguments.since
    if arguments.follow:
        return _follow(_followed(arguments), since, as_json=arguments.json)
    files = _files(arguments)
    reader = Reader()
    by: By | None = arguments.by
    summary = summarise(reader.records(files, since), by)
    summary = msgspec.structs.replace(summary, unreadable=reader.unreadable)
    if arguments.json:
        output.print_json({"by": by, **msgspec.to_builtins(summary)})
        return 0 if summary.lines else 3
    if not summary.lines:
        raise NotFoundError(f"no lines{' of that time' if since else ''} in {_named(files)}")
    _show(summary, by)
    return 0


def _files(arguments: argparse.Namespace) -> list[Path]:
    if arguments.files:
        named = [Path(name) for name in arguments.files]
        for path in named:
            path.stat()  # one that was named has to be there
        return named
    path = places(arguments).state / FILE
    files = rotated(path)
    if not files:
        raise NotFoundError(f"{path} isn't there: no daemon has written it yet")
    return files


def _followed(arguments: argparse.Namespace) -> Path:
    if arguments.files:
        return Path(arguments.files[-1])
    return places(arguments).state / FILE


def _follow(path: Path, since: float | None, *, as_json: bool) -> int:
    for record in follow(path, since):
        sys.stdout.write((json.dumps(record) if as_json else _told(record)) + "\n")
        sys.stdout.flush()
    return 0


def _told(record: Record) -> str:
    """One line of the log for people."""
    words = [record["ts"][11:19], f"{record['event']:<8}", f"{record['outcome']:<7}"]
    for name, value in record.items():
        if name in {"ts", "event", "outcome"}:
            continue
        words.append(f"{name}={_amount(name, value)}")
    return harmless(" ".join(words))


def _amount(name: str, value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name.endswith("_seconds"):
            return output.duration(value).replace(" ", "")
        if name.endswith("_bytes"):
            return output.size(int(value)).replace(" ", "")
    return str(value)


def _show(summary: Summary, by: By | None) -> None:
    torn = f", {summary.unreadable} unreadable" if summary.unreadable else ""
    sys.stdout.write(f"{summary.first} to {summary.last}: {summary.lines} lines{torn}\n\n")
    if by == "stage":
        _show_stages(summary.groups)
    else:
        _show_groups(summary.groups, by)
    if summary.failures:
        sys.stdout.write("\nFailures\n")
        _show_failures(summary.failures[:_FAILURES])
        if len(summary.failures) > _FAILURES:
            sys.stdout.write(f"({len(summary.failures) - _FAILURES} more kinds)\n")


def _show_groups(groups: list[Group], by: By | None) -> None:
    columns = [
        *([Column(by.upper())] if by else []),
        Column("EVENT", keep=True),
        Column("COUNT", right=True, keep=True),
        Column("FAILED", right=True, keep=True),
        Column("BYTES", right=True, keep=True),
        Column("RATE", right=True, keep=True),
        *(Column(title, right=True, keep=True) for title in ("P50", "P95", "MAX")),
    ]
    rows = [
        (
            *((group.group or output.EMPTY,) if by else ()),
            group.event,
            str(group.count),
            str(group.failed) if group.failed else "",
            *_volume(group),
            *_times(_main_stage(group)),
        )
        for group in groups
    ]
    output.print_table(columns, rows)


def _show_stages(groups: list[Group]) -> None:
    columns = (
        Column("EVENT", keep=True),
        Column("STAGE", keep=True),
        *(Column(title, right=True, keep=True) for title in ("COUNT", "MEAN", "P50", "P95")),
        *(Column(title, right=True, keep=True) for title in ("P99", "MAX")),
    )
    rows = [
        (group.event, stage, str(times.count), *_all_times(times))
        for group in groups
        for stage, times in group.seconds.items()
    ]
    output.print_table(columns, rows)


def _show_failures(failures: list[Failure]) -> None:
    columns = (
        Column("COUNT", right=True, keep=True),
        Column("EVENT", keep=True),
        Column("ERROR", keep=True),
        Column("DESTINATION"),
        Column("LAST", keep=True),
        Column("UPLOAD"),
    )
    rows = [
        (
            str(failure.count),
            failure.event,
            failure.error_code,
            failure.destination,
            failure.last[5:19].replace("T", " "),
            failure.upload[:8] if output.is_terminal() else failure.upload,
        )
        for failure in failures
    ]
    output.print_table(columns, rows)


def _volume(group: Group) -> tuple[str, str]:
    moved = group.bytes.get("sent_bytes") or group.bytes.get("size_bytes")
    if not moved:
        return "", ""
    return output.size(moved), output.rate(group.bytes_per_second)


def _main_stage(group: Group) -> Durations | None:
    """The stage that is the whole unit of work, or else the first one."""
    if group.event in group.seconds:
        return group.seconds[group.event]
    return next(iter(group.seconds.values()), None)


def _times(times: Durations | None) -> Iterator[str]:
    for name in ("p50", "p95", "max"):
        yield output.duration(getattr(times, name)) if times else ""


def _all_times(times: Durations) -> Iterator[str]:
    for name in ("mean", "p50", "p95", "p99", "max"):
        yield output.duration(getattr(times, name))


def _named(files: list[Path]) -> str:
    return ", ".join(str(path) for path in files)

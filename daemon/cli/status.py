"""`dropoffd status`: what the running daemon says of itself."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from daemon.cli import output
from daemon.cli.client import DaemonUnreachableError, ask
from daemon.cli.options import places
from daemon.cli.output import Column
from daemon.observe.lines import harmless
from daemon.observe.status import ActiveDelivery, Health, Status

if TYPE_CHECKING:
    from rich.console import RenderableType

_INTERVAL = 1.0
_SHOWN = 12
"""So many deliveries fit a terminal; ``--json`` has them all."""


def run(arguments: argparse.Namespace) -> int:
    """Run `dropoffd status`."""
    socket = places(arguments).hooks.socket
    if not arguments.watch:
        _print(_ask(socket), as_json=arguments.json)
    elif arguments.json or not output.is_terminal():
        _watch_lines(socket, as_json=arguments.json)
    else:
        _watch_screen(socket)
    return 0


def _ask(socket: Path) -> bytes:
    answer = ask(socket, "GET", "/status")
    if answer.status != 200:  # noqa: PLR2004 - HTTP's word for fine
        raise DaemonUnreachableError(f"the daemon at {socket} answers with {answer.status}")
    return answer.content


def _decode(content: bytes) -> Status:
    try:
        return msgspec.json.decode(content, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DaemonUnreachableError("the daemon's answer is no status") from None


def _print(content: bytes, *, as_json: bool) -> None:
    status = _decode(content)
    if as_json:
        # As it came: a newer daemon may know more than we do.
        output.print_json(msgspec.json.decode(content))
        return
    for line in _lines(status):
        sys.stdout.write(line + "\n")
    for title, columns, rows in _tables(status):
        sys.stdout.write(f"\n{title}\n")
        output.print_table(columns, rows)


def _watch_lines(socket: Path, *, as_json: bool) -> None:
    """One answer after the other, for scripts and pipes."""
    while True:
        _print(_ask(socket), as_json=as_json)
        sys.stdout.flush()
        time.sleep(_INTERVAL)


def _watch_screen(socket: Path) -> None:
    """One screen that stays up to date, also through a restart of the daemon."""
    from rich.live import Live  # noqa: PLC0415 - dear; only where something is shown

    shown: RenderableType = _screen(_decode(_ask(socket)))
    with Live(shown, console=output.console(), screen=True, auto_refresh=False) as live:
        while True:
            live.update(shown, refresh=True)
            time.sleep(_INTERVAL)
            try:
                shown = _screen(_decode(_ask(socket)))
            except DaemonUnreachableError as error:
                shown = harmless(error.message)


def _screen(status: Status) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    parts: list[RenderableType] = [Text(line) for line in _lines(status)]
    for title, columns, rows in _tables(status):
        parts += [Text(f"\n{title}", style="bold"), output.table(columns, rows)]
    return Group(*parts)


def _lines(status: Status) -> Iterator[str]:
    uptime = output.duration(status.uptime_seconds)
    yield f"dropoffd {harmless(status.version)}, {harmless(status.state)} for {uptime}"
    if status.pause:
        yield f"intake pauses: {harmless(status.pause)}"
    yield f"uploads   {_counts(status.uploads)}"
    yield f"reports   {_counts(status.reports)}"
    in_flight = output.size(status.bytes_in_flight)
    yield f"in flight {in_flight}, {output.rate(status.bytes_per_second)}"
    if status.workers:
        jobs = sum(worker.jobs for worker in status.workers)
        restarts = sum(worker.restarts for worker in status.workers)
        ended = f", {restarts} ended unasked" if restarts else ""
        yield f"workers   {len(status.workers)}, {jobs} jobs{ended}"


def _tables(status: Status) -> Iterator[tuple[str, tuple[Column, ...], list[tuple[str, ...]]]]:
    if status.deliveries:
        more = len(status.deliveries) - _SHOWN
        title = "Deliveries" + (f" ({more} more)" if more > 0 else "")
        columns = (
            Column("UPLOAD", keep=True),
            Column("DESTINATION", keep=True),
            Column("THERE", right=True, keep=True),
            Column("RATE", right=True, keep=True),
            Column("FILE"),
        )
        yield title, columns, [_delivery(way) for way in status.deliveries[:_SHOWN]]
    health = [*([status.api] if status.api else []), *status.destinations]
    if health:
        columns = (
            Column("NAME", keep=True),
            Column("TYPE", keep=True),
            Column("IS", keep=True),
            Column("SINCE", keep=True),
            Column("ERROR"),
        )
        yield "REST API and destinations", columns, [_health(entry) for entry in health]


def _counts(counts: dict[str, int]) -> str:
    shown = [f"{count} {harmless(name)}" for name, count in counts.items() if count]
    return ", ".join(shown) or "none"


def _delivery(way: ActiveDelivery) -> tuple[str, ...]:
    return (
        way.upload[:8],
        way.destination,
        f"{output.share(way.delivered, way.size)} of {output.size(way.size)}",
        output.rate(way.bytes_per_second),
        way.filename,
    )


def _health(entry: Health) -> tuple[str, ...]:
    words = {None: "not used yet", True: "ok", False: "failed"}
    error = f"{entry.error_code}: {entry.message}" if entry.error_code else ""
    return (entry.name, entry.type, words[entry.ok], entry.since, error)

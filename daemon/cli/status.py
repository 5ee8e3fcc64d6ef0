"""`dropoffd status`: what the running daemon says of itself.

A daemon of another version may say less or more: nothing here depends on more than its version.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from daemon.cli import output
from daemon.cli.client import DaemonUnreachableError, ask
from daemon.cli.options import places
from daemon.cli.output import Column
from daemon.observe.lines import harmless

if TYPE_CHECKING:
    from rich.console import RenderableType

_INTERVAL = 1.0
_SHOWN = 12
"""So many deliveries fit a terminal; ``--json`` has them all."""


class Problem(msgspec.Struct):
    """An error as it is reported."""

    code: str = ""
    message: str = ""


class ActiveDelivery(msgspec.Struct):
    """A delivery that is under way."""

    upload: str = ""
    destination: str = ""
    size_bytes: int = 0
    stored_bytes: int = 0


class Health(msgspec.Struct):
    """How the REST API or a destination was when it was last needed."""

    name: str = ""
    type: str = ""
    url: str | None = None
    healthy: bool | None = None
    """None: not needed yet."""
    error: Problem | None = None
    waiting_since: float | None = None
    clock_skew_seconds: float | None = None
    in_flight: int = 0
    """Parts and small uploads on their way."""
    limit: int | None = None
    """As many as it does well at once, as far as is known."""
    rate: float | None = None
    """Bytes a second that may go there; None: as many as go."""
    bytes_per_second: float = 0.0
    throttled_since: float | None = None


class AmqpHooks(msgspec.Struct):
    """How rustus' AMQP hooks are listened to."""

    connected: bool = False
    problem: str = ""
    failed: int = 0
    """Messages that nobody understood."""


class Intake(msgspec.Struct):
    """How uploads are found."""

    paused: bool = False
    """No space is left for the journal."""
    problems: int = 0
    """Uploads that can't be taken as they lie there."""
    problem_list: dict[str, Problem] = {}
    """Some of them, by path."""
    watch_problem: str = ""
    spool_failed: int = 0
    """Hooks' events that nobody understood."""
    spool_problem: str = ""
    amqp: AmqpHooks | None = None
    """None: no broker is configured."""


class Status(msgspec.Struct):
    """The whole daemon."""

    version: str
    state: str = ""
    uptime_seconds: float = 0.0
    uploads: dict[str, int] = {}
    reports: dict[str, int] = {}
    deliveries: list[ActiveDelivery] = []
    destinations: list[Health] = []
    api: Health | None = None
    intake: Intake = msgspec.field(default_factory=Intake)
    workers: list[dict[str, Any]] | dict[str, Any] = {}


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

    status = _decode(_ask(socket))
    shown = _screen(status, None)
    asked_at = time.monotonic()
    with Live(shown, console=output.console(), screen=True, auto_refresh=False) as live:
        while True:
            live.update(shown, refresh=True)
            time.sleep(_INTERVAL)
            before, before_at = status, asked_at
            try:
                status, asked_at = _decode(_ask(socket)), time.monotonic()
                shown = _screen(status, moved(before, status) / (asked_at - before_at))
            except DaemonUnreachableError as error:
                shown = harmless(error.message)


def moved(before: Status, now: Status) -> int:
    """Bytes that deliveries under way have gained between two answers."""
    there = {(way.upload, way.destination): way.stored_bytes for way in before.deliveries}
    return sum(
        max(0, way.stored_bytes - there.get((way.upload, way.destination), way.stored_bytes))
        for way in now.deliveries
    )


def _screen(status: Status, bytes_per_second: float | None) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    parts: list[RenderableType] = [Text(line) for line in _lines(status, bytes_per_second)]
    for title, columns, rows in _tables(status):
        parts += [Text(f"\n{title}", style="bold"), output.table(columns, rows)]
    return Group(*parts)


def _lines(status: Status, bytes_per_second: float | None = None) -> Iterator[str]:
    uptime = output.duration(status.uptime_seconds)
    yield f"dropoffd {harmless(status.version)}, {harmless(status.state)}, up for {uptime}"
    yield f"uploads    {_counts(status.uploads)}"
    yield f"reports    {_counts(status.reports)}"
    left = sum(max(0, way.size_bytes - way.stored_bytes) for way in status.deliveries)
    speed = "" if bytes_per_second is None else f", {output.rate(bytes_per_second)}"
    yield f"in flight  {len(status.deliveries)} under way, {output.size(left)} to go{speed}"
    yield f"intake     {_intake(status.intake)}"
    if isinstance(status.workers, list):
        yield f"workers    {len(status.workers)}"
    elif status.workers:
        yield f"workers    {_facts(status.workers)}"


def _tables(status: Status) -> Iterator[tuple[str, tuple[Column, ...], list[tuple[str, ...]]]]:
    if status.deliveries:
        more = len(status.deliveries) - _SHOWN
        title = "Deliveries" + (f" ({more} more)" if more > 0 else "")
        columns: tuple[Column, ...] = (
            Column("UPLOAD", keep=True),
            Column("DESTINATION", keep=True),
            Column("THERE", right=True, keep=True),
            Column("SIZE", right=True, keep=True),
        )
        yield title, columns, [_delivery(way) for way in status.deliveries[:_SHOWN]]
    health = list(status.destinations)
    if status.api is not None and status.api.url:
        health.insert(0, msgspec.structs.replace(status.api, name="REST API", type="HAWK"))
    if status.intake.problem_list:
        columns = (Column("UPLOAD"), Column("ERROR", keep=True), Column("MESSAGE"))
        rows: list[tuple[str, ...]] = [
            (path or "(the upload directory)", problem.code, problem.message)
            for path, problem in status.intake.problem_list.items()
        ]
        yield "Uploads that can't be taken", columns, rows
    if health:
        columns = (
            Column("NAME", keep=True),
            Column("TYPE", keep=True),
            Column("IS", keep=True),
            Column("SINCE", keep=True),
            Column("PARTS", right=True),
            Column("RATE", right=True),
            Column("ERROR"),
        )
        yield "REST API and destinations", columns, [_health(entry) for entry in health]


def _counts(counts: dict[str, int]) -> str:
    shown = [f"{count} {harmless(name)}" for name, count in counts.items() if count]
    return ", ".join(shown) or "none"


def _intake(intake: Intake) -> str:
    found = [
        "paused: no space for the journal" if intake.paused else "takes uploads",
        f"{intake.problems} that can't be taken" if intake.problems else "",
        f"{intake.spool_failed} events not understood" if intake.spool_failed else "",
        f"watching: {harmless(intake.watch_problem)}" if intake.watch_problem else "",
        f"spool: {harmless(intake.spool_problem)}" if intake.spool_problem else "",
        *_amqp(intake.amqp),
    ]
    return ", ".join(text for text in found if text)


def _amqp(amqp: AmqpHooks | None) -> Iterator[str]:
    if amqp is None:
        return
    if amqp.problem:
        yield f"AMQP hooks: {harmless(amqp.problem)}"
    elif amqp.connected:
        yield "AMQP hooks are listened to"
    if amqp.failed:
        yield f"{amqp.failed} AMQP messages not understood"


def _facts(facts: dict[str, Any]) -> str:
    """What a part says of itself, where it is short enough for a line."""
    shown = [
        f"{harmless(name).replace('_', ' ')} {harmless(str(value))}"
        for name, value in facts.items()
        if isinstance(value, (str, int, float)) and value != ""
    ]
    return ", ".join(shown)


def _delivery(way: ActiveDelivery) -> tuple[str, ...]:
    return (
        way.upload if not output.is_terminal() else way.upload[:8],
        way.destination,
        output.share(way.stored_bytes, way.size_bytes),
        output.size(way.size_bytes),
    )


def _health(entry: Health) -> tuple[str, ...]:
    words = {None: output.EMPTY, True: "ok", False: "failed"}
    throttles = entry.throttled_since is not None
    return (
        entry.name,
        entry.type,
        "throttles" if throttles else words[entry.healthy],
        output.when(entry.throttled_since if throttles else entry.waiting_since),
        output.EMPTY if entry.limit is None else f"{entry.in_flight} of {entry.limit}",
        _rate(entry),
        f"{entry.error.code}: {entry.error.message}" if entry.error else "",
    )


def _rate(entry: Health) -> str:
    """What goes there, and what may."""
    if entry.limit is None:
        return output.EMPTY
    now = output.rate(entry.bytes_per_second)
    return now if entry.rate is None else f"{now} of {output.rate(entry.rate)}"

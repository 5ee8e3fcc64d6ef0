"""How results look: tables for people, JSON for scripts.

Tables are fitted to a terminal, and plain and uncut elsewhere. Texts that came from clients (file
names, metadata) never reach a terminal as they are.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from daemon.observe.lines import harmless, timestamp
from daemon.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_GAP = 2
_NARROWEST = 4

EMPTY = "–"  # noqa: RUF001 - what stands where nothing is

STYLES = {
    "stored": "green",
    "done": "green",
    "ok": "green",
    "acknowledged": "green",
    "failed": "red",
    "parked": "red",
    "refused": "red",
    "error": "red",
    "warning": "yellow",
    "terminated": "dim",
    "discarded": "dim",
    "processing": "cyan",
    "received": "cyan",
    "receiving": "cyan",
}
"""The colours of words that say how something stands."""


class Column(msgspec.Struct, frozen=True):
    """A column of a table."""

    title: str
    right: bool = False
    """Numbers are right-aligned."""
    keep: bool = False
    """Never cut or wrapped, whatever the terminal's width."""


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether people look at the stream (stdout unless given) as it is written."""
    stream = sys.stdout if stream is None else stream
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def console(stream: TextIO | None = None) -> Console:
    """A rich console on stdout, or ``stream``: no markup, no guesses at what words mean."""
    from rich.console import Console  # noqa: PLC0415 - dear; only where something is shown

    return Console(
        file=sys.stdout if stream is None else stream,
        highlight=False,
        markup=False,
        emoji=False,
        no_color=True if "NO_COLOR" in os.environ else None,
    )


def print_json(value: object) -> None:
    """Print a value as JSON, ASCII only; msgspec structs by their fields."""
    plain = msgspec.to_builtins(value)
    sys.stdout.write(json.dumps(plain, indent=2) + "\n")


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of texts under their columns' titles."""
    if is_terminal():
        console().print(table(columns, rows))
        return
    lines = [[column.title for column in columns], *rows]
    shown = [[harmless(cell) for cell in line] for line in lines]
    widths = [max(len(line[index]) for line in shown) for index in range(len(columns))]
    for line in shown:
        cells = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None
) -> RenderableType:
    """The table for a terminal, at most ``width`` wide (the terminal's width unless given)."""
    from rich.cells import cell_len  # noqa: PLC0415 - see above
    from rich.table import Table  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    shown = [[harmless(cell) for cell in row] for row in rows]
    natural = [
        max([len(column.title), *(cell_len(row[index]) for row in shown)])
        for index, column in enumerate(columns)
    ]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column, cells in zip(columns, fit(columns, natural, width or console().width), strict=True):
        made.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=cells,
        )
    for row in shown:
        made.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return made


def fit(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """The columns' widths: those to keep as wide as they are, the rest shares what is left."""
    widths = list(natural)
    left = width - _GAP * (len(columns) - 1)
    left -= sum(cells for column, cells in zip(columns, natural, strict=True) if column.keep)
    # The narrowest first, so that what they don't need is there for the others.
    flexible = sorted(
        (index for index, column in enumerate(columns) if not column.keep), key=natural.__getitem__
    )
    for place, index in enumerate(flexible):
        fair = max(left // (len(flexible) - place), min(_NARROWEST, natural[index]))
        widths[index] = min(natural[index], fair)
        left -= widths[index]
    return widths


def print_pairs(pairs: Mapping[str, str]) -> None:
    """Print names and what belongs to them, one a line; nothing is cut."""
    width = max((len(name) for name in pairs), default=0)
    lines = [(name.ljust(width), harmless(text)) for name, text in pairs.items()]
    if not is_terminal():
        for name, text in lines:
            sys.stdout.write(f"{name}  {text}\n")
        return
    from rich.text import Text  # noqa: PLC0415 - see above

    screen = console()
    for name, text in lines:
        screen.print(Text.assemble((name, "bold"), "  ", (text, STYLES.get(text, ""))))


def size(count: int | None) -> str:
    """Bytes for people."""
    return EMPTY if count is None else format_size(count)


def duration(seconds: float | None) -> str:
    """Seconds for people."""
    return EMPTY if seconds is None else format_duration(seconds)


def rate(bytes_per_second: float) -> str:
    """Bytes per second for people."""
    return f"{format_size(bytes_per_second)}/s"


def when(seconds: float | None) -> str:
    """A moment for people, in their own time zone."""
    if seconds is None:
        return EMPTY
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def moment(seconds: float | None) -> str | None:
    """A moment for scripts: RFC 3339 in UTC."""
    return None if seconds is None else timestamp(seconds)


def share(part: float, whole: float | None) -> str:
    """How much of a whole, in per cent; it is 100 % only when all is there."""
    if not whole:
        return EMPTY
    return f"{min(int(100 * part / whole), 100)} %"


def without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}

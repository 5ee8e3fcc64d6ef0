"""The server matrix: what works with which tus server, as test_server_matrix.py saw it.

`python -m tests.matrix` writes what the last run of those tests saw into README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SEEN = ROOT / ".pytest_cache" / "d" / "server-matrix"
"""Where pytest keeps what its last run saw, a file for each cell."""
BEGIN = "<!-- The server matrix: made by `python -m tests.matrix` of what the tests saw. -->"
END = "<!-- The end of the server matrix. -->"

COLUMNS = {
    "whole": "whole uploads (0 B, 1 B, 3 MiB with a hostile name)",
    "resumed": "one that broke off and was resumed",
    "late_length": "one whose length came last",
    "of_parts": "one put together of parts",
    "url": "behind nginx the URL's study, and `Location` below it",
    "progress": "`receiving` reported",
    "taken_back": "`terminated` reported",
    "unknown": "unknown study: the client sees",
    "away": "dropoffd away: the client sees",
    "study_in_id": "study in the id",
    "foreign": "by another study's URL",
}
"""What is looked at, and how the README calls it, in its order."""
YES = "yes"
_NOTES = (
    "What works with which server, as the tests saw it. `DIR` is what `install hooks` wrote,",
    "`LISTEN` is `[hooks] listen`. tusd 1 needs its `-hooks-enabled-events`: a request that calls",
    "two hooks it doesn't wait for may end it, as it changes headers that it is just writing out.",
    "By AMQP alone rustus tells of uploads and asks nobody; with file or HTTP hooks beside it, it",
    "also asks.",
)


class Cell(msgspec.Struct, frozen=True):
    """What was seen of a tus server with a kind of hooks, on one way to it."""

    server: str
    hooks: str
    options: str
    """How the server is told of the hooks."""
    way: str
    """``nginx`` or ``direct``."""
    seen: dict[str, str]
    """By keys of :data:`COLUMNS`; whatever can't be on this way is missing."""

    @property
    def row(self) -> tuple[str, str]:
        """Of the table."""
        return self.server, self.hooks


def keep(directory: Path, number: int, cell: Cell) -> None:
    """Write a cell where :func:`kept` finds it."""
    text = msgspec.json.format(msgspec.json.encode(cell))
    (directory / f"{number:03}-{cell.way}.json").write_bytes(text)


def kept(directory: Path) -> list[Cell]:
    """The cells of a run, in its order."""
    files = sorted(directory.glob("*.json"))
    return [msgspec.json.decode(file.read_bytes(), type=Cell) for file in files]


def rendered(cells: Iterable[Cell]) -> str:
    """The cells as Markdown: what all rows share as a sentence, the rest as a table."""
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.row, []).append(cell)
    table = {row: {key: _value(key, found) for key in COLUMNS} for row, found in rows.items()}
    shared = [key for key in COLUMNS if {values[key] for values in table.values()} == {YES}]
    shown = [key for key in COLUMNS if key not in shared]
    lines = [
        "",
        *_NOTES,
        "",
        "All rows, behind nginx and direct: " + "; ".join(COLUMNS[key] for key in shared) + ".",
        "",
        _line(["tus server", "hooks", "its options", *(COLUMNS[key] for key in shown)]),
        _line(["---"] * (3 + len(shown))),
    ]
    for (server, hooks), values in table.items():
        options = rows[server, hooks][0].options
        code = f"`{options}`" if options else ""
        lines.append(_line([server, hooks, code, *(values[key] for key in shown)]))
    return "\n".join(lines) + "\n\n"


def spliced(readme: str, table: str) -> str:
    """The README with that matrix. Raises ValueError where it has no place for one."""
    before, begin, rest = readme.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for the server matrix between {BEGIN!r} and {END!r}")
    return before + begin + table + end + after


def _value(key: str, cells: Sequence[Cell]) -> str:
    values: Mapping[str, str] = {cell.way: cell.seen[key] for cell in cells if key in cell.seen}
    if not values:
        return "not seen"
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return "; ".join(f"{way}: {value}" for way, value in values.items())


def _line(values: Iterable[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def main() -> int:
    """Write the matrix into the README; 1 where no run saw anything."""
    cells = kept(SEEN)
    if not cells:
        sys.stderr.write("run tests/run tests/integration/test_server_matrix.py first\n")
        return 1
    README.write_text(spliced(README.read_text(), rendered(cells)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What came out: medians, what they are beside the bound and beside rclone, and the tables."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from daemon.units import format_size
from tests.bench.measure import Machine, Sample, median

BOUND = {True: "raw", False: "raw-clear"}
RCLONE = {True: "rclone", False: "rclone-copy"}
"""What others are held against, by whether they encrypt."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way with one load."""

    name: str
    title: str
    sealed: bool
    samples: tuple[Sample, ...] = ()
    """Of the timed runs, as they were."""
    peak_bytes: int = 0
    """In the run that was watched."""
    factor: float = 1.0
    """How many times the files that were tried the whole load has."""
    left_out: str = ""
    """Why there is nothing to tell; empty where there is."""

    @property
    def whole(self) -> Sample:
        """The medians, for the whole load: extrapolated where only some of it was tried."""
        middle = median(self.samples)
        return msgspec.structs.replace(
            middle,
            seconds=middle.seconds * self.factor,
            cpu_seconds=middle.cpu_seconds * self.factor,
            server_cpu_seconds=middle.server_cpu_seconds * self.factor,
            peak_bytes=self.peak_bytes,
        )

    @property
    def label(self) -> str:
        """The title, which says so where it was extrapolated."""
        return self.title if self.factor == 1 else f"{self.title} (× {self.factor:g}, extrapolated)"  # noqa: RUF001  # as people write it


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """All ways with one load over one scheme."""

    scheme: str
    load: str
    count: int
    size_bytes: int
    """Of each file."""
    rows: tuple[Row, ...]

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return self.count * self.size_bytes

    def faster(self, row: Row, others: dict[bool, str]) -> float | None:
        """How many times as fast as the other one of its kind it is; None where that is unknown."""
        for other in self.rows:
            if other.name == others[row.sealed] and other.samples and row.samples:
                return other.whole.seconds / row.whole.seconds
        return None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole measurement."""

    machine: Machine
    programs: dict[str, str]
    """Versions, by name."""
    runs: int
    tables: tuple[Table, ...]


def show(report: Report, *, markdown: bool) -> str:
    """The report for people."""
    machine = report.machine
    programs = ", ".join(f"{name} {version}" for name, version in report.programs.items())
    where = f"{machine.cores} cores ({machine.cpu}), which the S3 server shares"
    lines = [
        f"Medians of {report.runs} interleaved runs; {where}.",
        "Of the CPU: how busy client and server together kept all cores; 1 is its bound.",
        "MiB: peak of all the client's processes together (PSS), in a run of its own.",
        programs + ".",
    ]
    for table in report.tables:
        for sealed in (True, False):
            rows = [row for row in table.rows if row.sealed is sealed]
            if rows:
                lines += ["", *_shown(table, rows, machine.cores, sealed=sealed, markdown=markdown)]
    return "\n".join(lines)


def _shown(
    table: Table, rows: Sequence[Row], cores: int, *, sealed: bool, markdown: bool
) -> list[str]:
    what = "encrypted" if sealed else "without encryption"
    many = table.count > 1
    count = f"{table.count:,} × " if many else ""  # noqa: RUF001  # as people write it
    heads = ["way", "s", "GB/s", *(["files/s"] if many else []), "CPU s", "server CPU s"]
    heads += ["of the CPU", "MiB", "of the bound", "× rclone crypt" if sealed else "× rclone copy"]  # noqa: RUF001
    told = [row for row in rows if row.samples]
    cells = [[row.label, *_figures(table, row, cores, many=many)] for row in told]
    missing = [f"Left out: {row.title}: {row.left_out}" for row in rows if not row.samples]
    caption = f"{count}{format_size(table.size_bytes)}, {table.scheme}, {what}"
    shown = grid(heads, cells, markdown=markdown)
    return [f"**{caption}**" if markdown else caption, "", *shown, *missing]


def grid(heads: Sequence[str], cells: Sequence[Sequence[str]], *, markdown: bool) -> list[str]:
    """The lines of a table: the first column to the left, the others to the right."""
    return _markdown(heads, cells) if markdown else _plain(heads, cells)


def _figures(table: Table, row: Row, cores: int, *, many: bool) -> list[str]:
    whole = row.whole
    busy = (whole.cpu_seconds + whole.server_cpu_seconds) / (cores * whole.seconds)
    bound, rclone = table.faster(row, BOUND), table.faster(row, RCLONE)
    return [
        f"{whole.seconds:.2f}",
        f"{table.total_bytes / whole.seconds / 1e9:.2f}",
        *([f"{table.count / whole.seconds:,.0f}"] if many else []),
        f"{whole.cpu_seconds:.2f}",
        f"{whole.server_cpu_seconds:.2f}",
        f"{busy:.2f}",
        f"{whole.peak_bytes / 2**20:.0f}",
        "" if bound is None else f"{bound:.2f}",
        "" if rclone is None else f"{rclone:.1f}",
    ]


def _markdown(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(line)} |" for line in (heads, *cells)]
    return [lines[0], "|---" + "|---:" * (len(heads) - 1) + "|", *lines[1:], ""]


def _plain(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    return [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in (heads, *cells)
    ]

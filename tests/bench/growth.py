"""Whether time and memory grow with the size of an upload, and with how many come at once.

`python -m tests.bench.growth [--sizes 1GiB,2GiB,4GiB,8GiB,16GiB] [--at-once 1,2,4,8,16,32]
[--each 256MiB] [--pipeline TOML] [--directory DIR] [--json FILE] [--markdown]`

Each row is a daemon of its own, that delivers to an S3 server which discards what it gets. The
uploads are holes in sparse files, so no disk sets the pace. They lie in memory: on a disk's file
system (`--directory`) the kernel makes a page of zeros for each 4 KiB that is read, which can cost
as much as all that is measured. Memory is looked at four times a second: PSS counts a page that
processes share once in all, RSS once for each of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from daemon.units import format_size, parse_size
from tests.bench import laid_out, loads
from tests.bench.loads import Shape
from tests.bench.measure import Machine, Watch, cpu_seconds, family, memory_bytes
from tests.bench.outcome import grid
from tests.peers import cache
from tests.peers.dropoffd import Dropoffd
from tests.peers.null_s3 import NullS3

SETTLE = 2.0
"""Seconds until a daemon that was started does nothing more."""
INTERVAL = 0.25
WARM = 64 << 20
SLOWEST = 2e7
"""Bytes a second; what is slower is stuck."""


class Grown(msgspec.Struct, frozen=True, kw_only=True):
    """What one row found. Memory is the daemon's and its workers' together."""

    uploads: int
    size_bytes: int
    """Of each upload."""
    seconds: float
    cpu_seconds: float
    idle_cpu_seconds: float
    """That a second of doing nothing costs, before the first upload."""
    idle_pss_bytes: int
    """Before the first upload."""
    peak_pss_bytes: int
    """At one time."""
    peak_rss_bytes: int
    """Likewise, with what they share counted for each."""

    @property
    def total_bytes(self) -> int:
        """Of all uploads."""
        return self.uploads * self.size_bytes


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole measurement."""

    machine: Machine
    by_size: tuple[Grown, ...]
    by_number: tuple[Grown, ...]


def measure(shape: Shape, place: Path | None = None, pipeline: str = "") -> Grown:
    """All uploads of a shape at once. Raises RuntimeError where one isn't stored whole."""
    cache.say(f"{shape} …")
    with (
        tempfile.TemporaryDirectory(prefix="dropoffd-bench-", dir=place) as named,
        NullS3() as server,
    ):
        directory = Path(named)
        recipient = directory / "recipient.pub"
        laid_out.make_recipient(recipient)
        study = laid_out.study("crypt4gh", recipient)
        store = laid_out.Store(server.url)
        with laid_out.daemon(directory, store, study, pipeline=pipeline) as daemon:
            _warm_up(daemon)
            before = server.total()
            found = _watched(daemon, shape)
            after = server.total()
            daemon.stop()
            objects, sent = after.objects - before.objects, after.bytes - before.bytes
            if objects != shape.count or sent < shape.total:
                raise RuntimeError(f"{objects} of {shape.count} were stored: {daemon.tail()}")
            return found


def _warm_up(daemon: Dropoffd) -> None:
    """One upload ahead: what a process loads when it is first needed isn't part of any growth."""
    laid_out.make_holes(daemon.uploads / "warm", WARM)
    laid_out.lay_out(daemon.uploads, "warm", WARM)
    laid_out.wait_for_receipts(daemon, 1)


def _watched(daemon: Dropoffd, shape: Shape) -> Grown:
    names = [f"{number:032x}" for number in range(shape.count)]
    for name in names:
        laid_out.make_holes(daemon.uploads / name, shape.size)
    time.sleep(SETTLE)
    before = cpu_seconds(family(daemon.pid))
    time.sleep(SETTLE)
    idle = sum(memory_bytes(pid)["Pss"] for pid in family(daemon.pid))
    after = cpu_seconds(family(daemon.pid))
    with Watch(lambda: (daemon.pid,), interval=INTERVAL) as watch:
        begun = time.monotonic()
        for name in names:
            laid_out.lay_out(daemon.uploads, name, shape.size)
        laid_out.wait_for_receipts(daemon, 1 + shape.count, 60 + shape.total / SLOWEST)
        seconds = time.monotonic() - begun
    return Grown(
        uploads=shape.count,
        size_bytes=shape.size,
        seconds=seconds,
        cpu_seconds=cpu_seconds(family(daemon.pid)) - after,
        idle_cpu_seconds=(after - before) / SETTLE,
        idle_pss_bytes=idle,
        peak_pss_bytes=watch.peak_bytes,
        peak_rss_bytes=watch.peak_rss_bytes,
    )


def show(report: Report, *, markdown: bool) -> str:
    """The report for people: what each row is, and how many times the first one that is."""
    machine = report.machine
    where = f"dropoffd on {machine.cores} cores ({machine.cpu}), which the S3 server shares"
    lines = [f"{where}; memory in MiB, of daemon and workers together"]
    for caption, rows in (
        ("one upload, by its size", report.by_size),
        ("uploads at once, by their number", report.by_number),
    ):
        if rows:
            shown = grid(HEADS, [_cells(row, rows[0]) for row in rows], markdown=markdown)
            lines += ["", caption, "", *shown]
    return "\n".join(lines)


HEADS = [
    *("uploads", "s", "GB/s", "CPU s", "idle PSS", "peak PSS", "peak RSS"),
    *("× bytes", "× s", "× CPU", "× PSS", "× RSS"),  # noqa: RUF001  # as people write it
]


def _cells(row: Grown, first: Grown) -> list[str]:
    mib = (row.idle_pss_bytes, row.peak_pss_bytes, row.peak_rss_bytes)
    times = [
        row.total_bytes / first.total_bytes,
        row.seconds / first.seconds,
        row.cpu_seconds / first.cpu_seconds if first.cpu_seconds else 0.0,
        row.peak_pss_bytes / first.peak_pss_bytes,
        row.peak_rss_bytes / first.peak_rss_bytes,
    ]
    return [
        f"{row.uploads} × {format_size(row.size_bytes)}",  # noqa: RUF001  # as people write it
        f"{row.seconds:.2f}",
        f"{row.total_bytes / row.seconds / 1e9:.2f}",
        f"{row.cpu_seconds:.2f}",
        *(f"{value / 2**20:.0f}" for value in mib),
        *(f"{value:.2f}" for value in times),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(
        prog="tests.bench.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", default="1GiB,2GiB,4GiB,8GiB,16GiB", help="empty: none")
    parser.add_argument("--at-once", default="1,2,4,8,16,32", help="empty: none")
    parser.add_argument("--each", type=parse_size, default="256MiB")
    parser.add_argument("--pipeline", default="", help="TOML for the table [pipeline]")
    parser.add_argument(
        "--directory", type=Path, default=loads.memory(), help="of all files; default: in memory"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="for programs")
    parser.add_argument("--markdown", action="store_true", help="as the readme has it")
    given = parser.parse_args(arguments)
    try:
        by_size = [Shape("size", 1, parse_size(size)) for size in given.sizes.split(",") if size]
        by_number = [
            Shape("number", int(number), given.each)
            for number in given.at_once.split(",")
            if number
        ]
    except ValueError as error:
        parser.error(str(error))
    report = Report(
        machine=Machine.this(),
        by_size=tuple(measure(shape, given.directory, given.pipeline) for shape in by_size),
        by_number=tuple(measure(shape, given.directory, given.pipeline) for shape in by_number),
    )
    if given.json:
        given.json.write_bytes(msgspec.json.encode(report))
    print(show(report, markdown=given.markdown))  # noqa: T201  # this is a command
    return 0


if __name__ == "__main__":
    sys.exit(main())

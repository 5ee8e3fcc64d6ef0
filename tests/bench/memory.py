"""How much memory the whole daemon takes while it delivers several large uploads at once.

`python -m tests.bench.memory [--uploads 8] [--size 1GiB] [--json]`

The uploads are holes in sparse files, so no disk sets the pace. Memory is sampled twenty times a
second: PSS counts a page that processes share once in all, RSS once for each of them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from daemon.units import format_size, parse_size
from tests.bench import laid_out
from tests.bench.measure import Machine, Watch, cpu_seconds, family, memory_bytes
from tests.peers.dropoffd import Dropoffd
from tests.peers.null_s3 import NullS3

SETTLE = 2.0


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What one process held."""

    name: str
    idle_pss_bytes: int
    peak_pss_bytes: int
    peak_rss_bytes: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole measurement."""

    machine: Machine
    uploads: int
    size_bytes: int
    seconds: float
    gigabytes_per_second: float
    cpu_seconds: float
    idle_pss_bytes: int
    """Of all processes together, before the first upload."""
    peak_pss_bytes: int
    """Of all processes together, at one time."""
    peak_rss_bytes: int
    """The processes' own peaks added up, shared pages counted for each."""
    processes: list[Held]


def measure(uploads: int, size: int, pipeline: str) -> Report:
    """Deliver all at once, and watch."""
    directory = Path(tempfile.mkdtemp(prefix="dropoffd-bench-"))
    recipient = directory / "recipient.pub"
    laid_out.make_recipient(recipient)
    try:
        with (
            NullS3() as server,
            laid_out.daemon(directory, server.url, recipient, pipeline=pipeline) as daemon,
        ):
            report = _watched(daemon, uploads, size)
            daemon.stop()
            if len(server.count().objects) != uploads:
                raise RuntimeError(f"not every upload was stored: {daemon.tail()}")
            return report
    finally:
        shutil.rmtree(directory)


def _watched(daemon: Dropoffd, uploads: int, size: int) -> Report:
    time.sleep(SETTLE)
    idle = {pid: memory_bytes(pid)["Pss"] for pid in family(daemon.pid)}
    before = cpu_seconds(family(daemon.pid))
    with Watch(daemon.pid) as watch:
        begun = time.monotonic()
        for number in range(uploads):
            name = f"{number:032x}"
            laid_out.make_holes(daemon.uploads / name, size)
            laid_out.lay_out(daemon.uploads, name, size)
        laid_out.wait_for_receipts(daemon, uploads, 60 + uploads * size / 2e7)
        seconds = time.monotonic() - begun
        spent = cpu_seconds(family(daemon.pid)) - before
    return Report(
        machine=Machine.this(),
        uploads=uploads,
        size_bytes=size,
        seconds=seconds,
        gigabytes_per_second=uploads * size / seconds / 1e9,
        cpu_seconds=spent,
        idle_pss_bytes=sum(idle.values()),
        peak_pss_bytes=watch.peak_bytes,
        peak_rss_bytes=sum(peaks["Rss"] for peaks in watch.peaks.values()),
        processes=[
            Held(
                name=f"{'daemon' if pid == daemon.pid else 'worker'} {pid}",
                idle_pss_bytes=idle.get(pid, 0),
                peak_pss_bytes=peaks["Pss"],
                peak_rss_bytes=peaks["Rss"],
            )
            for pid, peaks in sorted(watch.peaks.items())
        ],
    )


def show(report: Report) -> str:
    """The report as a table."""
    machine = report.machine
    what = f"{report.uploads} uploads of {format_size(report.size_bytes)} at once"
    pace = f"{report.seconds:.1f} s, {report.gigabytes_per_second:.2f} GB/s"
    lines = [
        f"{what}, {pace}, {report.cpu_seconds:.1f} CPU s; {machine.cores} cores ({machine.cpu})",
        "",
        f"{'MiB':16} {'idle PSS':>9} {'peak PSS':>9} {'peak RSS':>9}",
    ]
    rows = [
        (held.name, held.idle_pss_bytes, held.peak_pss_bytes, held.peak_rss_bytes)
        for held in report.processes
    ]
    rows.append(("together", report.idle_pss_bytes, report.peak_pss_bytes, report.peak_rss_bytes))
    lines += [
        f"{name:16} {idle / 2**20:9.0f} {pss / 2**20:9.0f} {rss / 2**20:9.0f}"
        for name, idle, pss, rss in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="tests.bench.memory", description=__doc__)
    parser.add_argument("--uploads", type=int, default=8)
    parser.add_argument("--size", type=parse_size, default="1GiB")
    parser.add_argument("--pipeline", default="", help="TOML for the table [pipeline]")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    report = measure(given.uploads, given.size, given.pipeline)
    told = msgspec.json.encode(report).decode() if given.json else show(report)
    print(told)  # noqa: T201  # this is a command
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""dropoffd beside the bound and beside others, in one table for each load and scheme.

`python -m tests.bench.table [--loads one,medium,small] [--schemes http,https] [--runs 5]
[--ways raw,rclone,…] [--one 4GiB] [--medium 64x64MiB] [--small 2000x64KiB] [--directory DIR]
[--json FILE] [--markdown]`

Every way takes the same files, in memory (with `--directory` on a disk, synced and in its page
cache), to the same S3 server, which discards what it gets and shares the machine. Runs are
interleaved, each beginning with another way, and medians are told; a run ahead of them is not
timed, but watched for memory. What runs as a service is warm when it is measured; what is started
for each upload is measured from its start, with as many at once as there are cores, and of a load
of more than 100 files only 50 are tried and extrapolated, which the table says. After every run the
server must have all bytes, and the right number of objects. Nothing here passes or fails by its
speed: it is for people to read, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.bench import laid_out, loads, others, ours
from tests.bench.loads import Load, Shape
from tests.bench.measure import Machine, Sample
from tests.bench.outcome import Report, Row, Table, show
from tests.bench.ways import Bench, Run, Way
from tests.peers import cache, certificates
from tests.peers.null_s3 import NullS3

WAYS = {way.name: way for way in (*ours.WAYS, *others.WAYS, *ours.CLEAR_WAYS, *others.CLEAR_WAYS)}
SHAPES = {"one": "4GiB", "medium": "64x64MiB", "small": "2000x64KiB"}
SCHEMES = ("http", "https")
MANY = 100
"""Files; of more than that, only some are tried by what is started for each."""
SAMPLE = 50


class Ready(NamedTuple):
    """A way that has been started."""

    way: Way
    load: Load
    """Of which it delivers all in each run."""
    run: Run


class Group:
    """All ways with one load over one scheme."""

    def __init__(self, load: Load, scheme: str, ways: Sequence[Way]) -> None:
        self._load = load
        self._scheme = scheme
        self._ways = [way for way in ways if way.suits(load.shape)]
        self._peaks: dict[str, int] = {}
        self._samples: dict[str, list[Sample]] = {way.name: [] for way in self._ways}
        self._left_out: dict[str, str] = {}

    def measure(self, runs: int) -> Table:
        """Run by run in turn: first the one that is watched, then those that are timed."""
        with (
            tempfile.TemporaryDirectory(dir=self._load.directory.parent) as place,
            ExitStack() as s,
        ):
            directory = Path(place)
            certificate = key = None
            if self._scheme == "https":
                certificate, key = certificates.self_signed(directory)
            server = s.enter_context(NullS3(certificate=certificate, key=key))
            ready = self._started(s, directory, server.url, certificate)
            for run in range(runs + 1):
                first = run % max(1, len(ready))
                for each in (*ready[first:], *ready[:first]):
                    self._once(each, server, run, runs)
        return Table(
            scheme=self._scheme,
            load=self._load.shape.name,
            count=self._load.shape.count,
            size_bytes=self._load.shape.size,
            rows=tuple(self._row(way) for way in self._ways),
        )

    def _started(self, stack: ExitStack, directory: Path, url: str, ca: Path | None) -> list[Ready]:
        recipient = directory / "recipient.pub"
        laid_out.make_recipient(recipient)
        ready = []
        for way in self._ways:
            load = self._share(way)
            own = directory / way.name
            own.mkdir()
            bench = Bench(url, load, recipient, own, ca, Machine.this().cores)
            try:
                ready.append(Ready(way, load, stack.enter_context(way.start(bench))))
            except cache.PeerMissingError as error:
                self._left_out[way.name] = str(error)
        return ready

    def _once(self, ready: Ready, server: NullS3, run: int, runs: int) -> None:
        """One run of one way. One that fails is left out, and the others go on."""
        way = ready.way
        if way.name in self._left_out:
            return
        what = f"run {run} of {runs}" if run else "memory"
        cache.say(f"{self._load.shape}, {self._scheme}, {what}: {way.title} …")
        try:
            sample = counted(ready, server, f"{way.name}-{run}", watched=run == 0)
        except (RuntimeError, OSError) as error:
            self._left_out[way.name] = f"failed: {error}"
            cache.say(self._left_out[way.name])
            return
        if run:
            self._samples[way.name].append(sample)
        else:
            self._peaks[way.name] = sample.peak_bytes

    def _share(self, way: Way) -> Load:
        many = self._load.shape.count > MANY
        return self._load.first(SAMPLE) if many and way.one_by_one else self._load

    def _row(self, way: Way) -> Row:
        left_out = self._left_out.get(way.name, "")
        return Row(
            name=way.name,
            title=way.title,
            sealed=way.sealed,
            samples=() if left_out else tuple(self._samples[way.name]),
            peak_bytes=self._peaks.get(way.name, 0),
            factor=self._load.shape.count / self._share(way).shape.count,
            left_out=left_out,
        )


def counted(ready: Ready, server: NullS3, name: str, *, watched: bool) -> Sample:
    """A run, with the server's share. Raises RuntimeError where the server lacks something."""
    shape = ready.load.shape
    before = server.total()
    sample = ready.run(name, watched=watched)
    after = server.total()
    sent, made = after.bytes - before.bytes, after.objects - before.objects
    wanted = shape.total if ready.way.sends else 0
    if sent < wanted or made != ready.way.objects(shape):
        raise RuntimeError(
            f"{name} sent {sent} bytes of {wanted}, in {made} objects for"
            f" {ready.way.objects(shape)}"
        )
    spent = after.cpu_seconds - before.cpu_seconds
    return msgspec.structs.replace(sample, server_cpu_seconds=sample.server_cpu_seconds + spent)


def measure(
    shapes: Sequence[Shape],
    schemes: Sequence[str],
    runs: int,
    ways: Sequence[Way],
    place: Path | None = None,
) -> Report:
    """Everything, with the files in ``place`` or in memory; takes as long as the slowest."""
    tables = []
    for shape in shapes:
        with loads.made(shape, place) as load:
            tables += [Group(load, scheme, ways).measure(runs) for scheme in schemes]
    return Report(machine=Machine.this(), programs=programs(), runs=runs, tables=tuple(tables))


def programs() -> dict[str, str]:
    """Versions of what is compared, and of what most of the time is spent in."""
    packages = ("cryptography", "aiohttp", "crypt4gh")
    found = {"Python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in packages}
    for name, option in {"rclone": "--version", "age": "--version", "openssl": "version"}.items():
        try:
            said = subprocess.run(
                [cache.tool(name, "the table"), option], capture_output=True, text=True, check=True
            ).stdout
        except (cache.PeerMissingError, subprocess.CalledProcessError):
            continue
        words = said.split()
        found[name] = words[0] if len(words) == 1 else words[1]
    return found


def _chosen(parser: argparse.ArgumentParser, text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"not known: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and tell; 1 where a way failed."""
    parser = argparse.ArgumentParser(
        prog="tests.bench.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--loads", default=",".join(SHAPES))
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ways", default=",".join(WAYS), help="of " + ", ".join(WAYS))
    for name, shape in SHAPES.items():
        parser.add_argument(f"--{name}", default=shape, help=f"the load; {shape}")
    parser.add_argument(
        "--directory", type=Path, help="of the files, the journals, all; default: in memory"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample, for programs")
    parser.add_argument("--markdown", action="store_true", help="as the readme has it")
    given = parser.parse_args(arguments)
    if given.runs < 1:
        parser.error("--runs: at least one")
    try:
        shapes = [
            loads.parse(name, getattr(given, name))
            for name in _chosen(parser, given.loads, list(SHAPES))
        ]
    except ValueError as error:
        parser.error(str(error))
    schemes = _chosen(parser, given.schemes, SCHEMES)
    ways = [WAYS[name] for name in _chosen(parser, given.ways, list(WAYS))]
    report = measure(shapes, schemes, given.runs, ways, given.directory)
    if given.json:
        given.json.write_bytes(msgspec.json.encode(report))
    print(show(report, markdown=given.markdown))  # noqa: T201  # this is a command
    rows = [row for table in report.tables for row in table.rows]
    return 1 if any(row.left_out.startswith("failed") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

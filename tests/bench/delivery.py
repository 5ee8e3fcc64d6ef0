"""How fast one upload is sealed and stored, beside the bound and beside others.

`python -m tests.bench.delivery [--size 1GiB] [--runs 5] [--ways raw,pool,…] [--json]`

Every way takes the same file, in memory, to the same S3 server, which discards what it gets and
shares the machine. Runs are interleaved, and medians are told. What runs as a service is warm when
it is measured; what is started for each upload is measured from its start. Nothing here passes or
fails: it is for people to read, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from daemon.units import format_size, parse_size
from tests.bench import laid_out
from tests.bench.measure import (
    Machine,
    Sample,
    Steady,
    Watch,
    cpu_seconds,
    family,
    median,
    one_shot,
)
from tests.peers import cache
from tests.peers.null_s3 import NullS3


class Bench(NamedTuple):
    """What every way works with."""

    url: str
    file: Path
    recipient: Path
    directory: Path


PART = 16 << 20

Run = Callable[[str], Sample]
"""Delivers the file under the name given, and tells what it cost."""

Way = Callable[[Bench], AbstractContextManager[Run]]
"""Makes ready outside the measured time, and cleans up after all runs."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What came out for one way."""

    name: str
    title: str
    median: Sample
    gigabytes_per_second: float
    samples: list[Sample]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole measurement."""

    machine: Machine
    size_bytes: int
    runs: int
    ways: list[Told]


@contextmanager
def raw(bench: Bench) -> Iterator[Run]:
    """Two processes with plain sockets."""
    with Steady([sys.executable, "-m", "tests.bench.raw_bound", bench.url, bench.file]) as steady:
        yield steady.measure


def pool(digest: str) -> Way:
    """The worker processes, with a digest of the plaintext beside or without one."""

    @contextmanager
    def start(bench: Bench) -> Iterator[Run]:
        module = [sys.executable, "-m", "tests.bench.pooled"]
        with Steady([*module, bench.url, bench.file, bench.recipient, digest]) as steady:
            yield steady.measure

    return start


@contextmanager
def service(bench: Bench) -> Iterator[Run]:
    """The whole daemon, from the upload's `.info` to the receipt. Its journal is on tmpfs too."""
    with laid_out.daemon(bench.directory / "service", bench.url, bench.recipient) as daemon:
        laid_out.make_holes(daemon.uploads / "warm", 4 * PART)
        laid_out.lay_out(daemon.uploads, "warm", 4 * PART)
        laid_out.wait_for_receipts(daemon, 1)

        def run(name: str) -> Sample:
            data = daemon.uploads / name
            bench.file.rename(data)
            try:
                before = cpu_seconds(family(daemon.pid))
                wanted = laid_out.receipts(daemon) + 1
                with Watch(daemon.pid) as watch:
                    begun = time.monotonic()
                    laid_out.lay_out(daemon.uploads, name, data.stat().st_size)
                    laid_out.wait_for_receipts(daemon, wanted)
                    seconds = time.monotonic() - begun
                return Sample(
                    seconds=seconds,
                    cpu_seconds=cpu_seconds(family(daemon.pid)) - before,
                    peak_bytes=watch.peak_bytes,
                )
            finally:
                data.rename(bench.file)

        yield run
        daemon.stop()


def rclone(*options: str) -> Way:
    """`rclone copyto` to a crypt remote over S3."""

    @contextmanager
    def start(bench: Bench) -> Iterator[Run]:
        program = cache.tool("rclone", "rclone crypt")
        secret = cache.run([program, "obscure", "a password of the bench"]).strip()
        config = bench.directory / "rclone.conf"
        config.touch()
        environment = {
            **os.environ,
            "RCLONE_CONFIG": str(config),
            "RCLONE_CONFIG_STORE_TYPE": "s3",
            "RCLONE_CONFIG_STORE_PROVIDER": "Other",
            "RCLONE_CONFIG_STORE_ENDPOINT": bench.url,
            "RCLONE_CONFIG_STORE_ACCESS_KEY_ID": "bench" * 4,
            "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY": "bench" * 8,
            "RCLONE_CONFIG_STORE_NO_CHECK_BUCKET": "true",
            "RCLONE_CONFIG_SEALED_TYPE": "crypt",
            "RCLONE_CONFIG_SEALED_REMOTE": "store:rclone",
            "RCLONE_CONFIG_SEALED_PASSWORD": secret,
        }
        parts = ["--s3-chunk-size=16Mi", "--s3-upload-cutoff=16Mi", "--s3-upload-concurrency=4"]

        def run(name: str) -> Sample:
            command: list[str | Path] = [
                program,
                "copyto",
                bench.file,
                f"sealed:{name}",
                *parts,
                *options,
            ]
            return one_shot(command, env=environment)

        yield run

    return start


@contextmanager
def seed(bench: Bench) -> Iterator[Run]:
    """A Python process for each upload: encrypt to a file, upload it, report."""
    script = Path(__file__).with_name("seed_script.py")

    def run(name: str) -> Sample:
        return one_shot([sys.executable, script, bench.url, bench.file, name, bench.recipient])

    yield run


WAYS: dict[str, tuple[str, Way]] = {
    "raw": ("raw sockets, 2 processes: the bound", raw),
    "pool": ("dropoffd's workers, no digest", pool("none")),
    "pool-blake3": ("dropoffd's workers, BLAKE3 beside", pool("blake3")),
    "pool-sha256": ("dropoffd's workers, SHA-256 beside", pool("sha256")),
    "service": ("dropoffd, .info to receipt", service),
    "rclone": ("rclone crypt, 4 parts of 16 MiB", rclone()),
    "rclone-bare": (
        "rclone crypt, no checksums at all",
        rclone("--s3-disable-checksum", "--s3-use-unsigned-payload=true", "--ignore-checksum"),
    ),
    "seed": ("one Python script for each upload", seed),
}


def measure(size: int, runs: int, names: Sequence[str]) -> Report:
    """All ways, run by run in turn, each run starting with another way."""
    directory = Path(tempfile.mkdtemp(prefix="dropoffd-bench-", dir=_roomy(3 * size)))
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        server = stack.enter_context(NullS3())
        bench = Bench(server.url, directory / "file", directory / "recipient.pub", directory)
        _fill(bench.file, size)
        laid_out.make_recipient(bench.recipient)
        ready = {name: stack.enter_context(WAYS[name][1](bench)) for name in names}
        for run in range(runs):
            for at in range(len(names)):
                name = names[(run + at) % len(names)]
                cache.say(f"run {run + 1} of {runs}: {WAYS[name][0]} …")
                samples[name].append(_counted(server, size, ready[name], f"{name}-{run}"))
    return Report(
        machine=Machine.this(),
        size_bytes=size,
        runs=runs,
        ways=[_told(name, size, samples[name]) for name in names],
    )


def _told(name: str, size: int, samples: list[Sample]) -> Told:
    middle = median(samples)
    return Told(
        name=name,
        title=WAYS[name][0],
        median=middle,
        gigabytes_per_second=size / middle.seconds / 1e9,
        samples=samples,
    )


def _counted(server: NullS3, size: int, run: Run, name: str) -> Sample:
    """A run, with the server's share, and an error where it didn't get the whole file."""
    before = server.count()
    sample = run(name)
    after = server.count()
    if after.bytes - before.bytes < size:
        raise RuntimeError(f"{name} sent only {after.bytes - before.bytes} bytes of {size}")
    spent = after.cpu_seconds - before.cpu_seconds
    return msgspec.structs.replace(sample, server_cpu_seconds=spent)


def _roomy(size: int) -> Path:
    """A place in memory with that much room, or else the usual one for temporary files."""
    memory = Path("/dev/shm")  # noqa: S108  # what is made in it has a name of its own
    if memory.is_dir() and shutil.disk_usage(memory).free > size:
        return memory
    return Path(tempfile.gettempdir())


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for offset in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - offset)))


def show(report: Report) -> str:
    """The report as a table."""
    machine = report.machine
    seconds = {told.name: told.median.seconds for told in report.ways}
    where = f"{machine.cores} cores ({machine.cpu}), which the S3 server shares"
    columns = f"{'way':36} {'s':>7} {'GB/s':>6} {'CPU s':>6} {'server':>6} {'MiB':>6}"
    lines = [
        f"{format_size(report.size_bytes)}, medians of {report.runs} interleaved runs; {where}",
        "",
        f"{columns} {'of bound':>8} {'x rclone':>8}",
    ]
    for told in report.ways:
        middle = told.median
        ratios = [
            f"{seconds[name] / middle.seconds:8.2f}" if name in seconds else f"{'':8}"
            for name in ("raw", "rclone")
        ]
        lines.append(
            f"{told.title:36} {middle.seconds:7.2f} {told.gigabytes_per_second:6.2f}"
            f" {middle.cpu_seconds:6.2f} {middle.server_cpu_seconds:6.2f}"
            f" {middle.peak_bytes / 2**20:6.0f} {' '.join(ratios)}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="tests.bench.delivery", description=__doc__)
    parser.add_argument("--size", type=parse_size, default="1GiB")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ways", default=",".join(WAYS), help="of " + ", ".join(WAYS))
    parser.add_argument("--json", action="store_true", help="every sample, for programs")
    given = parser.parse_args(arguments)
    names = given.ways.split(",")
    if unknown := set(names) - set(WAYS):
        parser.error(f"no such way: {', '.join(sorted(unknown))}")
    report = measure(given.size, given.runs, names)
    told = msgspec.json.encode(report).decode() if given.json else show(report)
    print(told)  # noqa: T201  # this is a command
    return 0


if __name__ == "__main__":
    sys.exit(main())

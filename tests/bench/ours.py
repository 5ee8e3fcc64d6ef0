"""The bounds, and dropoffd: its workers alone, and the whole service."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from daemon.processing.prepare import WHOLE_LIMIT
from pipeline.messages import DigestName, EnvelopeFormat
from tests.bench import laid_out
from tests.bench.loads import Shape
from tests.bench.measure import Command, Sample, Steady, Watch, cpu_seconds, family
from tests.bench.raw_bound import PART
from tests.bench.ways import Bench, Run, Start, Way, none
from tests.peers.dropoffd import Dropoffd
from tests.peers.reference_api import ReferenceServer

TIMEOUT = 3600.0
"""Seconds for one run; a service that takes longer is stuck."""
_OVER = ("stored", "failed", "terminated")


def raw(how: str) -> Start:
    """Two processes with plain sockets; ``how`` is seal or clear."""

    @contextmanager
    def start(bench: Bench) -> Iterator[Run]:
        module = [sys.executable, "-m", "tests.bench.raw_bound"]
        command: Command = [*module, bench.url, bench.load.directory, how]
        with Steady(command, bench.environment) as steady:
            yield steady.measure

    return start


def digest_bound(name: DigestName) -> Start:
    """One process that reads and hashes, and sends nothing."""

    @contextmanager
    def start(bench: Bench) -> Iterator[Run]:
        module = [sys.executable, "-m", "tests.bench.digest_bound"]
        with Steady([*module, bench.load.directory, name], bench.environment) as steady:
            yield steady.measure

    return start


def pool(digest: str) -> Start:
    """The worker processes, with a digest of the plaintext beside or without one."""

    @contextmanager
    def start(bench: Bench) -> Iterator[Run]:
        module = [sys.executable, "-m", "tests.bench.pooled_files"]
        command: Command = [*module, bench.url, bench.load.directory, bench.recipient, digest]
        with Steady(command, bench.environment) as steady:
            yield steady.measure

    return start


class Acknowledged:
    """What the REST API has acknowledged, read from its database beside it."""

    def __init__(self, api: ReferenceServer) -> None:
        self._database = sqlite3.connect(api.state / "api.sqlite", isolation_level=None)
        self._after = 0

    def wait(self, count: int, daemon: Dropoffd) -> None:
        """Until ``count`` more uploads are stored. Raises RuntimeError where one is not."""
        # Looking at many often costs more than the few milliseconds that it can tell apart.
        pause = 0.005 if count == 1 else 0.02
        deadline = time.monotonic() + TIMEOUT
        while (states := self._states()).count("stored") < count:
            if "failed" in states or not daemon.running or time.monotonic() > deadline:
                raise RuntimeError(f"of {count} uploads: {states[:5]} …: {daemon.tail()}")
            time.sleep(pause)
        (self._after,) = self._database.execute("SELECT max(number) FROM drops").fetchone()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _states(self) -> list[str]:
        marks = ", ".join("?" * len(_OVER))
        query = f"SELECT state FROM drops WHERE number > ? AND state IN ({marks})"  # noqa: S608
        return [state for (state,) in self._database.execute(query, (self._after, *_OVER))]


def service(encrypt: EnvelopeFormat, digest: DigestName) -> Start:
    """The whole daemon: from `.info` files on disk to `stored` reports acknowledged.

    Its journal, and that of the REST API, are in memory if the load is.
    """

    @contextmanager
    def start(bench: Bench) -> Iterator[Run]:
        store = laid_out.Store(bench.url, bench.ca)
        tables = laid_out.study(encrypt, bench.recipient) + store.toml
        (bench.directory / "api").mkdir()
        with contextlib.ExitStack() as stack:
            api = stack.enter_context(ReferenceServer(bench.directory / "api", tables))
            daemon = stack.enter_context(
                laid_out.daemon(
                    bench.directory / "daemon",
                    store,
                    pipeline=f'digest = "{digest}"',
                    environment=api.asked_at(api.api.url),
                )
            )
            acknowledged = stack.enter_context(contextlib.closing(Acknowledged(api)))

            def run(name: str, *, watched: bool) -> Sample:
                names = [f"{name}-{file.stem}" for file in bench.load.files]
                size = bench.load.shape.size
                aside = bench.directory / "aside"
                waiting = laid_out.Waiting(daemon.uploads, aside, names, size)
                with _lent(bench.load.files, [daemon.uploads / each for each in names]):
                    with Watch(lambda: (daemon.pid,), on=watched) as watch:
                        ours = cpu_seconds(family(daemon.pid))
                        theirs = cpu_seconds(family(api.pid))
                        begun = time.monotonic()
                        waiting.appear()
                        acknowledged.wait(len(names), daemon)
                        seconds = time.monotonic() - begun
                        ours = cpu_seconds(family(daemon.pid)) - ours
                        theirs = cpu_seconds(family(api.pid)) - theirs
                    waiting.remove()
                return Sample(
                    seconds=seconds,
                    cpu_seconds=ours,
                    server_cpu_seconds=theirs,
                    peak_bytes=watch.peak_bytes,
                )

            yield run
            daemon.stop()

    return start


@contextmanager
def _lent(files: Sequence[Path], places: Sequence[Path]) -> Iterator[None]:
    """The files at other places for a while; hard links would be refused as sources."""
    for file, place in zip(files, places, strict=True):
        file.rename(place)
    try:
        yield
    finally:
        for file, place in zip(files, places, strict=True):
            place.rename(file)


def _parts(shape: Shape) -> int:
    """The bound sends each part as an object of its own."""
    return shape.count * -(-shape.size // PART)


def _large(shape: Shape) -> bool:
    """A small file goes out in one job, which takes the digest on its way."""
    return shape.size > WHOLE_LIMIT


WAYS = [
    Way("raw", "raw sockets, 2 processes: the bound", raw("seal"), objects=_parts),
    Way(
        "digest-sha256",
        "SHA-256 alone, 1 process: the digest's bound",
        digest_bound("sha256"),
        sends=False,
        objects=none,
    ),
    Way(
        "digest-blake3",
        "BLAKE3 alone, 1 process: the digest's bound",
        digest_bound("blake3"),
        sends=False,
        objects=none,
    ),
    Way("pool", "dropoffd's workers, no digest", pool("none"), suits=_large),
    Way("pool-blake3", "dropoffd's workers, BLAKE3", pool("blake3")),
    Way("pool-sha256", "dropoffd's workers, SHA-256", pool("sha256")),
    Way("service-blake3", "dropoffd, .info to report, BLAKE3", service("crypt4gh", "blake3")),
    Way("service-sha256", "dropoffd, .info to report, SHA-256", service("crypt4gh", "sha256")),
]
CLEAR_WAYS = [
    Way(
        "raw-clear",
        "raw sockets, 2 processes: the bound",
        raw("clear"),
        sealed=False,
        objects=_parts,
    ),
    Way(
        "service-clear-blake3",
        "dropoffd, .info to report, BLAKE3",
        service("none", "blake3"),
        sealed=False,
    ),
    Way(
        "service-clear-sha256",
        "dropoffd, .info to report, SHA-256",
        service("none", "sha256"),
        sealed=False,
    ),
]

"""Many uploads at once, and what a daemon is measured by while it has them."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.measure import family
from tests.peers.dropoffd import Dropoffd
from tests.peers.oracle import Sent
from tests.peers.tusd_files import lay_info, pre_create

MIB = 1024 * 1024
PAGE = os.sysconf("SC_PAGE_SIZE")
TEXT = b"sixteen letters\n"
"""What each of the uploads holds."""
SHA256 = hashlib.sha256(TEXT).hexdigest()


def study_named(number: int) -> str:
    """One study of many."""
    return f"{number:08x}-2222-4333-8444-555555555555"


def studies(count: int, destinations: Sequence[str]) -> str:
    """Studies that deliver in clear, TOML."""
    return "".join(study_of(number, destinations) for number in range(count))


def study_of(number: int, destinations: Sequence[str]) -> str:
    """One of them, TOML."""
    return (
        f'[studies."{study_named(number)}"]\nencrypt = "none"\n'
        f"destinations = {json.dumps(list(destinations))}\n"
    )


def folder(name: str, place: str) -> str:
    """A destination that is a directory beside the daemon's, TOML."""
    return f'[destinations.{name}]\ntype = "directory"\ndirectory = "{{directory}}/{place}"\n'


def lay(directory: Path, names: Iterable[str], study: str) -> list[Sent]:
    """Lay small complete uploads down that have these ids."""
    directory.mkdir(parents=True, exist_ok=True)
    laid = []
    for name in names:
        data = directory / name
        data.write_bytes(TEXT)
        sent = Sent(name, study, f"{name}.txt", len(TEXT), SHA256)
        lay_info(data, len(TEXT), {"filename": sent.filename, "study": study})
        laid.append(sent)
    return laid


def named(prefix: str, count: int) -> Iterator[str]:
    """Ids of so many uploads."""
    return (f"{prefix}-{number:06}" for number in range(count))


@dataclass
class Watch:
    """What was seen of a daemon while it was watched; times are seconds since it was started."""

    started: float = field(default_factory=time.monotonic)
    peak: int = 0
    """Bytes of memory that its processes had together, at the most: what they share counts each
    time."""
    ready_after: float | None = None
    """When pre-create was answered first."""
    answers: list[float] = field(default_factory=list)
    """Seconds that each further pre-create took."""
    stored_after: float | None = None
    """When something was in the store first."""

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    @property
    def p99(self) -> float:
        """Seconds within which pre-create was answered, but for one in a hundred."""
        return sorted(self.answers)[int(len(self.answers) * 0.99)] if self.answers else 0.0

    @property
    def peak_mib(self) -> float:
        """The most memory, in MiB."""
        return self.peak / MIB

    def __str__(self) -> str:
        """The figures."""
        return (
            f"first delivery after {_seconds(self.stored_after)} s, "
            f"first pre-create after {_seconds(self.ready_after)} s, "
            f"then median {statistics.median(self.answers or [0.0]) * 1000:.0f} ms, "
            f"p99 {self.p99 * 1000:.0f} ms, longest {max(self.answers, default=0) * 1000:.0f} ms "
            f"of {len(self.answers)}; peak {self.peak_mib:.0f} MiB"
        )


@contextmanager
def watched(daemon: Dropoffd, store: Path, study: str, *, pause: float = 0.1) -> Iterator[Watch]:
    """Start a daemon, and watch it until the block ends: its memory, its answers, its store."""
    stop = threading.Event()
    watch = Watch()
    daemon.start(wait=False)
    watchers: list[Callable[[], None]] = [
        lambda: _weigh(daemon, watch),
        lambda: _look(store, watch),
        lambda: _ask(daemon, study, watch),
    ]
    threads = [threading.Thread(target=_repeat, args=(each, stop, pause)) for each in watchers]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def shown(figures: str) -> None:
    """Tell people who measure (`pytest -s`)."""
    print(f"\n{figures}")  # noqa: T201  # that is what it is for


def memory_of(pid: int) -> int:
    """Resident bytes of a process and all that came from it."""
    total = 0
    for each in family(pid):
        try:
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):
            continue  # it has ended meanwhile
    return total


def stored_in(store: Path) -> set[str]:
    """Names of all finished objects."""
    return {path.name for path in store.rglob("*.txt")}


def _repeat(step: Callable[[], None], stop: threading.Event, pause: float) -> None:
    while not stop.is_set():
        step()
        stop.wait(pause)


def _weigh(daemon: Dropoffd, watch: Watch) -> None:
    watch.peak = max(watch.peak, memory_of(daemon.pid))


def _look(store: Path, watch: Watch) -> None:
    if watch.stored_after is None and any(store.rglob("*.txt")):
        watch.stored_after = watch.seconds


def _ask(daemon: Dropoffd, study: str, watch: Watch) -> None:
    began = time.monotonic()
    try:
        answer = pre_create(daemon, 1, {"filename": "asked.txt", "study": study})
    except OSError:
        return  # it doesn't listen yet
    if answer.get("RejectUpload"):
        return
    if watch.ready_after is None:
        watch.ready_after = watch.seconds
    else:
        watch.answers.append(time.monotonic() - began)


def _seconds(seconds: float | None) -> str:
    return "no" if seconds is None else f"{seconds:.2f}"

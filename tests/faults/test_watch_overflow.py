"""Events that the kernel had no room for: the rescan finds what they told of, and costs little.

The kernel drops what doesn't fit into a watcher's queue, and watchfiles doesn't tell of that. The
length of the queue is the whole machine's, and a watcher's from when it begins to watch. So the
short runs hold the daemon and fill its queue but for 64 entries; the long ones set the length to 64
while the daemon starts, where they may.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from daemon.intake.finder import Finder
from daemon.journal.sqlite import SqliteJournal
from tests.peers.dropoffd import Dropoffd
from tests.peers.intake import Recorded, settings_in
from tests.peers.openers import Clear
from tests.peers.oracle import Evidence, Sent, judge
from tests.peers.stores import Folder
from tests.peers.tusd_files import lay_info

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1800)]

STUDY = "11111111-2222-4333-8444-555555555555"
QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
SHORT = 64
"""Entries of the queue."""
USUAL = 16384
"""What it is where nobody changed it."""
LOCKS = ("a.lock", "b.lock")
"""Files that make events of no interest."""
CONFIG = (
    '[destinations.local]\ntype = "directory"\ndirectory = "{directory}/store"\n'
    f'[studies."{STUDY}"]\nencrypt = "none"\ndestinations = ["local"]\n'
)


class Drops:
    """A daemon whose watcher has a short queue, and the uploads that are laid down for it.

    Args:
        directory: Where all of it is.
        rescan: Of the daemon: so long nothing but events tells of uploads.
        shorten: Whether the kernel is to give it a short queue, where it may be told.
    """

    def __init__(self, directory: Path, rescan: str, *, shorten: bool = False) -> None:
        self.daemon = Dropoffd(directory / "daemon", CONFIG)
        text = self.daemon.config.read_text()
        self.daemon.config.write_text(text.replace('rescan = "2s"', f'rescan = "{rescan}"'))
        self.store = directory / "daemon" / "store"
        self.store.mkdir()
        self._sent: list[Sent] = []
        self._shorten = shorten
        self._length = 0
        """Of the queue that the daemon has now."""

    @property
    def count(self) -> int:
        """Uploads that were laid down."""
        return len(self._sent)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.daemon.running:
            self.daemon.kill()

    def start(self) -> None:
        """Start the daemon; it watches, and has scanned, when this returns."""
        with _short_queue() if self._shorten else contextlib.nullcontext():
            self._length = int(QUEUE.read_text())
            self.daemon.start()
            self.daemon.wait_for(self._has_scanned, 30, "a first scan")

    def lay(self, count: int) -> int:
        """Lay uploads down, and give how many of them the watcher can't hear of."""
        if self._length <= SHORT or not self.daemon.running:
            self._lay(count)
            return 0
        deaf = count // 2
        with self._held():
            self._fill(self._length - SHORT)
            self._lay(deaf)
        self._lay(count - deaf)
        return deaf - SHORT

    def end(self) -> None:
        """Stop the daemon, which has done all, and hold what it left against the oracle."""
        assert self.daemon.stop() == 0
        for name in LOCKS:
            (self.daemon.uploads / name).unlink(missing_ok=True)
        store = {"local": Folder(self.store)}
        judge(Evidence(self.daemon, self._sent, None, store, Clear())).hold()

    def rescanned(self) -> int:
        """Uploads that a daemon found by nothing but its later scans, where it never died."""
        lines = [line for line in self.daemon.metrics if line["event"] == "rescan"]
        return sum(line["looked"] for line in lines[1:])

    def _has_scanned(self) -> bool:
        status = self.daemon.status()
        return status is not None and bool(status["intake"]["scanned"])

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """It reads no events meanwhile."""
        self.daemon.signal(signal.SIGSTOP)
        # A thread that runs on for a moment would make room in the queue.
        self.daemon.wait_for(lambda: _is_held(self.daemon.pid), 10, "all its threads are held")
        try:
            yield
        finally:
            self.daemon.signal(signal.SIGCONT)

    def _fill(self, count: int) -> None:
        """Make events of no interest; two that are alike and in a row would be one."""
        files = [self.daemon.uploads / name for name in LOCKS]
        for file in files:
            file.touch()
        for number in range(count):
            os.utime(files[number % 2])

    def _lay(self, count: int) -> None:
        """As tusd does: empty data, its `.info`, and then the data grows."""
        for number in range(self.count, self.count + count):
            text = str(number)
            data = self.daemon.uploads / _tus_id(number)
            data.touch()
            lay_info(data, len(text), {"filename": f"{text}.txt", "study": STUDY})
            with data.open("a") as file:
                file.write(text)
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            self._sent.append(Sent(data.name, STUDY, f"{text}.txt", len(text), sha256))


def _is_held(pid: int) -> bool:
    """Whether each thread of a process is stopped."""
    stats = [task / "stat" for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)


def _tus_id(number: int) -> str:
    return f"upload-{number:05}"


@contextlib.contextmanager
def _short_queue() -> Iterator[None]:
    """Watchers that begin meanwhile have a short queue, where this may be said here."""
    lock = Path(tempfile.gettempdir()) / "dropoffd-inotify.lock"
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        # Whoever died here before left it short.
        before = max(int(QUEUE.read_text()), USUAL)
        try:
            _set_queue(SHORT)
            yield
        finally:
            _set_queue(before)


def _set_queue(length: int) -> None:
    """Only root may, and not in each container; others keep what they have, and fill it."""
    with contextlib.suppress(OSError):
        QUEUE.write_text(str(length))


def _loses_nothing(drops: Drops, uploads: int, kills: int) -> None:
    """Lay uploads down in as many bursts as there are kills, each with one in it or after it."""
    seed = int(os.environ.get("DROPOFFD_SEED", "0")) or random.SystemRandom().getrandbits(32)
    print(f"seed {seed}: {kills} kills, {uploads} uploads")  # noqa: T201 -- it replays
    generator = random.Random(seed)
    began = time.monotonic()
    with drops:
        for kill in range(kills):
            drops.lay(uploads * (kill + 1) // (kills + 1) - drops.count)
            time.sleep(generator.uniform(0.0, 1.0))
            drops.daemon.kill()
            drops.lay(generator.randrange(20))
            drops.start()
        drops.lay(uploads - drops.count)
        drops.daemon.wait_until_over(uploads, 1200)
        seconds = time.monotonic() - began
        drops.end()
    print(f"{uploads} uploads, {kills} kills: {seconds:.1f} s")  # noqa: T201 -- the suite tells it


def test_uploads_whose_events_were_lost_are_found_by_the_next_rescan(tmp_path: Path) -> None:
    with Drops(tmp_path, "3s") as drops:
        unheard = drops.lay(200)
        drops.daemon.wait_until_over(200, 60)
        drops.end()
    assert drops.rescanned() >= unheard > 0


def test_lost_events_and_three_kills_lose_none_of_1_000_uploads(tmp_path: Path) -> None:
    _loses_nothing(Drops(tmp_path, "4s"), 1_000, 3)


@pytest.mark.long
@pytest.mark.parametrize("kills", [0, 10])
def test_a_queue_of_64_entries_loses_none_of_10_000_uploads(tmp_path: Path, kills: int) -> None:
    drops = Drops(tmp_path, "10s", shorten=True)
    _loses_nothing(drops, 10_000, kills)
    if kills == 0:
        print(f"{drops.rescanned()} found by rescans only")  # noqa: T201 -- the suite tells it
        assert drops.rescanned() > 0, "no event was lost"


@pytest.mark.long
async def test_a_rescan_of_100_000_known_uploads_costs_under_a_second(tmp_path: Path) -> None:
    settings, metrics = settings_in(tmp_path), Recorded()
    _lay_empty(settings.uploads.directory, 100_000)
    async with await SqliteJournal.open(settings.state) as journal:
        finder = Finder(settings.uploads, journal, metrics)
        costs = [await _cost(finder) for _ in range(3)]
        again = [await _cost(Finder(settings.uploads, journal, metrics))]
    looked = [line["looked"] for line in metrics.of("rescan")]
    assert looked == [100_000, 0, 0, 100_000]
    print(f"CPU s: first {costs[0]:.1f}, again {costs[1:]}, after a restart {again}")  # noqa: T201
    assert max(costs[1:]) < 1


async def _cost(finder: Finder) -> float:
    """Seconds of CPU for a scan."""
    began = time.process_time()
    await finder._scan()
    return time.process_time() - began


def _lay_empty(directory: Path, count: int) -> None:
    for number in range(count):
        info = {
            "ID": _tus_id(number),
            "Size": 0,
            "SizeIsDeferred": False,
            "Offset": 0,
            "MetaData": {"study": STUDY},
            "IsPartial": False,
            "IsFinal": False,
            "PartialUploads": None,
            "Storage": None,
        }
        (directory / _tus_id(number)).touch()
        (directory / f"{_tus_id(number)}.info").write_text(json.dumps(info))

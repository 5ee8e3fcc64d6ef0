"""The daemon dies, or is stopped, in the middle; the next one goes on where it was."""

from __future__ import annotations

import hashlib
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.envelope import keys
from tests.peers.dropoffd import Dropoffd
from tests.peers.openers import decrypted
from tests.peers.proxy import CountingProxy
from tests.peers.seaweedfs import Weed
from tests.peers.sending import Wanted, made
from tests.peers.stores import Bucket
from tests.peers.tusd_files import lay_info

MIB, GIB = 1024**2, 1024**3
STUDY = "11111111-2222-4333-8444-555555555555"
PARTS = 64

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


class Station:
    """A daemon with a study of its own, delivering to a bucket through a proxy that counts."""

    def __init__(self, directory: Path, weed: Weed, proxy: CountingProxy) -> None:
        self.bucket = f"b{uuid.uuid4().hex[:12]}"
        weed.make_bucket(self.bucket)
        self.store = Bucket(weed, self.bucket)
        pair = keys.crypt4gh_generate()
        (directory / "recipient.pub").write_text(pair.public)
        self.secret_key = keys.crypt4gh_secret(pair.secret, lambda: b"")
        config = (
            f'[destinations.archive]\ntype = "s3"\nendpoint = "{proxy.endpoint}"\n'
            f'bucket = "{self.bucket}"\nregion = "us-east-1"\n'
            f'[studies."{STUDY}"]\nencrypt = "crypt4gh"\n'
            f'recipients = ["{directory}/recipient.pub"]\ndestinations = ["archive"]\n'
        )
        secrets = {
            "DROPOFF_ARCHIVE_ACCESS_KEY": weed.access_key,
            "DROPOFF_ARCHIVE_SECRET_KEY": weed.secret_key,
        }
        self.daemon = Dropoffd(directory / "daemon", config, secrets)

    def lay(self, size: int, seed: int) -> str:
        """Lay an upload down as tusd does, and give its SHA-256."""
        file, sha256 = made(Wanted(STUDY, "large.bam", size, seed))
        name = hashlib.md5(str(seed).encode(), usedforsecurity=False).hexdigest()
        path = self.daemon.uploads / name
        with file, path.open("wb") as out:
            while block := file.read(MIB):
                out.write(block)
        lay_info(path, size, {"filename": "large.bam", "study": STUDY})
        return sha256

    def check(self, size: int, sha256: str) -> None:
        (name,) = self.store.names()
        with self.store.open(name) as source:
            assert decrypted(source, self.secret_key) == (size, sha256)
        assert self.store.unfinished() == []


@pytest.fixture
def proxy(weed: Weed) -> Iterator[CountingProxy]:
    with CountingProxy(weed.endpoint) as proxy:
        yield proxy


@pytest.fixture
def station(tmp_path: Path, weed: Weed, proxy: CountingProxy) -> Iterator[Station]:
    station = Station(tmp_path, weed, proxy)
    yield station
    station.daemon.__exit__()


def test_parts_that_were_finished_before_kill_9_are_not_sent_again(
    station: Station, proxy: CountingProxy
) -> None:
    sha256 = station.lay(GIB, seed=1)
    station.daemon.start()
    station.daemon.wait_for(lambda: proxy.parts.total() >= 12, 60, "twelve parts are there")
    station.daemon.kill()
    before = set(proxy.parts)
    assert len(before) < PARTS, "the daemon was killed too late for this test to show anything"
    station.daemon.start()
    station.daemon.wait_until_over(1, 120)
    station.check(GIB, sha256)
    assert sorted(proxy.parts) == list(range(1, PARTS + 1))
    again = {number for number in before if proxy.parts[number] > 1}
    assert again == set(), "parts that the server had were sent again"


def test_sigterm_parks_what_is_in_flight_and_the_next_start_goes_on(
    station: Station, proxy: CountingProxy
) -> None:
    size = 400 * MIB
    sha256 = station.lay(size, seed=2)
    station.daemon.start()
    station.daemon.wait_for(lambda: proxy.parts.total() >= 8, 60, "eight parts are there")
    assert station.daemon.stop() == 0
    stopped_with = proxy.parts.copy()
    assert len(stopped_with) < size // (16 * MIB), "stopped too late for this test to show anything"
    station.daemon.start()
    station.daemon.wait_until_over(1, 120)
    station.check(size, sha256)
    again = {number: count for number, count in proxy.parts.items() if count > 1}
    assert again == {}, "parts were sent more than once"


def test_a_second_sigterm_ends_the_daemon_at_once(station: Station, proxy: CountingProxy) -> None:
    station.lay(200 * MIB, seed=3)
    station.daemon.start()
    station.daemon.wait_for(lambda: proxy.parts.total() >= 2, 60, "two parts are there")
    station.daemon.signal(signal.SIGTERM)
    station.daemon.wait_for(lambda: '"stopping"' in station.daemon.tail(), 10, "it stops")
    station.daemon.signal(signal.SIGTERM)
    assert station.daemon.wait(2) != 0


def test_workers_end_with_a_daemon_that_is_killed(station: Station) -> None:
    station.daemon.start()
    status = station.daemon.status()
    assert status is not None
    workers = [worker["pid"] for worker in status["workers"]]
    assert workers
    station.daemon.kill()
    deadline = time.monotonic() + 10
    while alive := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"workers live on: {alive}"
        time.sleep(0.05)

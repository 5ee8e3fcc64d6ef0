"""What the blocking hook adds to the creation of an upload, through a real tusd.

`python -m tests.bench.precreate [--creates 200] [--seed-creates 40] [--nice N]` creates uploads one
after the other, idle and while a delivery of hundreds of GiB keeps the data path busy, with: no
hook, the hooks that `dropoffd install hooks` writes (with curl, with python3), tusd's HTTP hook,
and a Python script that imports requests and a HAWK library and asks the REST API itself.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import os
import stat
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from daemon.cli.install import hooks
from daemon.config import load
from tests.bench.laid_out import make_holes, make_recipient
from tests.peers.dropoffd import Dropoffd
from tests.peers.null_s3 import NullS3
from tests.peers.reference_api import ReferenceServer
from tests.peers.tusd import Tusd, free_port

STUDY = "11111111-2222-4333-8444-555555555555"
SEED = "requests + HAWK (the seed's way)"
NONE = "no hook"
LOAD_BYTES = 400 * 1024**3
ROUNDS = 5
"""The ways take turns, so that no one has the machine's better minute."""


@dataclass
class Way:
    """One way to ask, and what it took."""

    name: str
    tusd: Tusd
    creates: int
    idle: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)


class Summary(msgspec.Struct, frozen=True):
    """Milliseconds."""

    median: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Summary:
        """Of what was measured."""
        found = sorted(1000 * each for each in seconds)
        return cls(statistics.median(found), found[max(0, -(-len(found) * 99 // 100) - 1)])


def create(port: int, count: int) -> list[float]:
    """Seconds that each creation took, one after the other on one connection."""
    values = {"study": STUDY, "filename": "reads.bam"}
    pairs = (f"{key} {base64.b64encode(text.encode()).decode()}" for key, text in values.items())
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "1", "Upload-Metadata": ",".join(pairs)}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found = []
    with contextlib.closing(connection):
        for _ in range(count):
            began = time.perf_counter()
            connection.request("POST", "/files/", headers=headers)
            answer = connection.getresponse()
            said = answer.read()
            found.append(time.perf_counter() - began)
            if answer.status != http.client.CREATED:
                raise RuntimeError(f"{answer.status}: {said.decode()}")
    return found


def write_hook(directory: Path, text: str) -> Path:
    """A hook directory with that pre-create only."""
    directory.mkdir()
    hook = directory / "pre-create"
    hook.write_text(text)
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    return directory


def ways(directory: Path, daemon: Dropoffd, api: ReferenceServer, listen: str) -> Iterator[Way]:
    """Each with a tusd of its own, whose uploads the daemon doesn't look at."""
    settings = load(daemon.config)
    seed = (Path(__file__).with_name("seed_pre_create.py")).read_text()
    texts = {
        "sh + curl": hooks(settings, "tusd", Path("/usr/bin/curl"))["pre-create"],
        "sh + python3 -IS": hooks(settings, "tusd", Path("/usr/bin/python3"))["pre-create"],
        SEED: f"#!{sys.executable}\n{seed}",
    }
    environment = {"SEED_URL": api.api.url, "SEED_KEY": api.key, "SEED_SECRET": api.secret}
    yield Way(NONE, Tusd(directory / "none"), 0)
    for number, (name, text) in enumerate(texts.items()):
        hook = write_hook(directory / f"hooks-{number}", text)
        uploads = directory / f"uploads-{number}"
        yield Way(name, Tusd(uploads, hook, environment=environment), 0)
    options = ["-hooks-http", f"http://{listen}/hooks", "-hooks-enabled-events", "pre-create"]
    yield Way("HTTP hook", Tusd(directory / "http", options=options), 0)


@contextlib.contextmanager
def service(directory: Path, s3: NullS3, listen: str) -> Iterator[tuple[Dropoffd, ReferenceServer]]:
    """The daemon and its REST API."""
    (directory / "api").mkdir()
    make_recipient(directory / "recipient.pub")
    store = f'type = "s3"\nendpoint = "{s3.url}"\nbucket = "bench"\nregion = "us-east-1"\n'
    store = f'[destinations.store]\n{store}verify = "size"\n'
    study = f'[studies."{STUDY}"]\nencrypt = "crypt4gh"\ndestinations = ["store"]\n'
    study += f'recipients = ["{directory}/recipient.pub"]\n'
    with ReferenceServer(directory / "api", store + study, path="/") as api:
        environment = {
            **api.asked_at(api.api.url),
            "DROPOFF_STORE_ACCESS_KEY": "bench" * 4,
            "DROPOFF_STORE_SECRET_KEY": "bench" * 8,
        }
        with Dropoffd(directory / "daemon", store, environment) as daemon:
            daemon.stop()
            text = daemon.config.read_text()
            daemon.config.write_text(
                text.replace("[hooks]\n", f'[hooks]\nlisten = "{listen}"\n', 1)
            )
            daemon.start()
            yield daemon, api


def saturate(daemon: Dropoffd, s3: NullS3) -> None:
    """Have the data path deliver, for longer than this takes, and wait until it does."""
    name = uuid.uuid4().hex
    make_holes(daemon.uploads / name, LOAD_BYTES)
    metadata = {"study": STUDY, "filename": "load.bin"}
    info = {"ID": name, "Size": LOAD_BYTES, "SizeIsDeferred": False, "MetaData": metadata}
    (daemon.uploads / f"{name}.info").write_bytes(msgspec.json.encode(info))
    daemon.wait_for(lambda: s3.count().bytes > 1024**3, 60, "the data path is busy")


def renice(daemon: Dropoffd, nice: int) -> None:
    """Give the workers another niceness than they have."""
    status = daemon.status()
    assert status is not None
    for worker in status["workers"]:
        os.setpriority(os.PRIO_PROCESS, worker["pid"], nice)


def measure(creates: int, seed_creates: int, nice: int | None) -> tuple[list[Way], float]:
    """All ways, and the bytes per second that the data path did under load."""
    listen = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as place, NullS3() as s3, contextlib.ExitStack() as stack:
        directory = Path(place)
        daemon, api = stack.enter_context(service(directory, s3, listen))
        if nice is not None:
            renice(daemon, nice)
        found = list(ways(directory, daemon, api, listen))
        for way in found:
            way.creates = (seed_creates if way.name == SEED else creates) // ROUNDS
            stack.enter_context(way.tusd)
            create(way.tusd.port, 3)
        for _ in range(ROUNDS):
            for way in found:
                way.idle += create(way.tusd.port, way.creates)
        saturate(daemon, s3)
        began, sent = time.monotonic(), s3.count().bytes
        for _ in range(ROUNDS):
            for way in found:
                way.loaded += create(way.tusd.port, way.creates)
        rate = (s3.count().bytes - sent) / (time.monotonic() - began)
        daemon.kill()
    return found, rate


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--creates", type=int, default=200)
    parser.add_argument("--seed-creates", type=int, default=40)
    parser.add_argument("--nice", type=int, help="of the workers; theirs unless given")
    arguments = parser.parse_args()
    found, rate = measure(arguments.creates, arguments.seed_creates, arguments.nice)
    base = Summary.of(next(way for way in found if way.name == NONE).idle).median
    base_loaded = Summary.of(next(way for way in found if way.name == NONE).loaded).median
    seed = Summary.of(next(way for way in found if way.name == SEED).idle).median - base
    above = ("idle", "", "added", "of the", "load", "", "added", "p99:")
    heads = ("median", "p99", "median", "seed", "median", "p99", "median", "l/i")
    lines = [
        f"milliseconds for one creation; under load {rate / 1e9:.2f} GB/s are delivered",
        *(" " * 34 + "".join(f"{head:>9}" for head in each) for each in (above, heads)),
    ]
    for way in found:
        idle, loaded = Summary.of(way.idle), Summary.of(way.loaded)
        added = idle.median - base
        lines.append(
            f"{way.name:34} {idle.median:8.1f} {idle.p99:8.1f} {added:8.1f}"
            f" {'' if way.name == NONE else f'1/{seed / added:.1f}':>8}"
            f" {loaded.median:8.1f} {loaded.p99:8.1f} {loaded.median - base_loaded:8.1f}"
            f" {loaded.p99 / idle.p99:8.1f}"
        )
    print("\n".join(lines))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()

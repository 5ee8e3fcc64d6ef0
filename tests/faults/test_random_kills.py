"""Kills and faults at random, of everything at once: the seed says which, and repeats them.

``DROPOFFD_SEED=<number>`` chooses the seed; without, each run takes a new one and prints it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from tests.peers import faulty
from tests.peers.dropoffd import Dropoffd
from tests.peers.faulty import FaultyHttp, Spoil
from tests.peers.reference_api import ReferenceServer
from tests.peers.scene import Recipient, Scene
from tests.peers.seaweedfs import Weed
from tests.peers.stores import Bucket, Folder, Store
from tests.peers.traces import spooled

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3000)]

KIB, MIB = 1024, 1024**2
SIZES = (0, 1, 64 * KIB, 100 * KIB, 300 * KIB + 1, 1 * MIB, 9 * MIB)
STUDY = str(uuid.uuid4())

S3_FAULTS: tuple[Callable[[], Spoil], ...] = (
    lambda: faulty.reset_in_body(50_000),
    lambda: faulty.answer(500),
    lambda: faulty.s3_error(503, "SlowDown", Retry_After="1"),
    lambda: faulty.done_but(500),
    faulty.lost_answer,
    faulty.half_answer,
)
API_FAULTS: tuple[Callable[[], Spoil], ...] = (
    lambda: faulty.answer(500),
    lambda: faulty.answer(503, Retry_After="1"),
    lambda: faulty.done_but(502),
    faulty.lost_answer,
    faulty.half_answer,
)


@dataclass
class Run:
    """How much of it there is."""

    kills: int
    uploads: int
    daemons: int = 0
    workers: int = 0


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


def _scene(
    directory: Path, weed: Weed, s3: FaultyHttp, recipient: Recipient, generator: random.Random
) -> Scene:
    bucket = f"random-{generator.randrange(16**10):010x}-{uuid.uuid4().hex[:6]}"
    weed.make_bucket(bucket)
    (directory / "store").mkdir()
    config = (
        '[pipeline]\nworkers = 2\npart_size = "5MiB"\n'
        f'[destinations.bucket]\ntype = "s3"\nendpoint = "{s3.url}"\n'
        f'bucket = "{bucket}"\nregion = "us-east-1"\n'
        f'[destinations.folder]\ntype = "directory"\ndirectory = "{directory}/store"\n'
    )
    secrets = {
        "DROPOFF_BUCKET_ACCESS_KEY": weed.access_key,
        "DROPOFF_BUCKET_SECRET_KEY": weed.secret_key,
    }
    stores: dict[str, Store] = {
        "bucket": Bucket(weed, bucket),
        "folder": Folder(directory / "store"),
    }
    return Scene(
        directory,
        STUDY,
        recipient,
        stores,
        config,
        secrets,
        ids=lambda: f"{generator.getrandbits(128):032x}",
    )


def _workers(daemon: Dropoffd) -> list[int]:
    status = daemon.status()
    return [worker["pid"] for worker in status["workers"]] if status else []


def _kill_something(scene: Scene, daemon: Dropoffd, run: Run, generator: random.Random) -> None:
    """The daemon, which is started again at once, or one of its workers."""
    scene.watch(daemon)
    if generator.random() < 0.4:
        run.workers += 1
        daemon.wait_for(lambda: bool(_workers(daemon)), 30, "it has workers")
        with contextlib.suppress(ProcessLookupError):
            os.kill(generator.choice(_workers(daemon)), signal.SIGKILL)
        return
    run.daemons += 1
    daemon.kill()
    daemon.start(wait=False)


def _lay(scene: Scene, generator: random.Random, count: int) -> None:
    for size in generator.choices(SIZES, k=count):
        scene.lay(size, told=generator.random() < 0.5)


async def _wreck(
    scene: Scene,
    daemon: Dropoffd,
    run: Run,
    generator: random.Random,
    proxies: tuple[FaultyHttp, FaultyHttp],
) -> None:
    """Uploads, faults and kills, until all were had."""
    s3, api = proxies

    def any_request(request: web.BaseRequest) -> bool:
        return request.method != "HEAD"

    for kill in range(run.kills):
        due = run.uploads * (kill + 1) // run.kills - len(scene.sent)
        await asyncio.to_thread(_lay, scene, generator, due)
        if generator.random() < 0.5:
            s3.spoil(any_request, generator.choice(S3_FAULTS)(), generator.randint(1, 3))
        if generator.random() < 0.5:
            api.spoil(any_request, generator.choice(API_FAULTS)(), generator.randint(1, 2))
        await asyncio.sleep(generator.uniform(0.0, 2.0))
        await asyncio.to_thread(_kill_something, scene, daemon, run, generator)


async def _survives(directory: Path, weed: Weed, run: Run) -> None:
    seed = int(os.environ.get("DROPOFFD_SEED", "0")) or random.SystemRandom().getrandbits(32)
    print(f"seed {seed}: {run.kills} kills, {run.uploads} uploads")  # noqa: T201 -- it replays
    began = time.monotonic()
    generator = random.Random(seed)
    recipient = Recipient(directory)
    (directory / "api").mkdir()
    studies = (
        '[destinations.bucket]\ntype = "s3"\nbucket = "x"\nregion = "us-east-1"\n'
        '[destinations.folder]\ntype = "directory"\ndirectory = "/x"\n'
    ) + recipient.study(STUDY, ["bucket", "folder"])
    with ReferenceServer(directory / "api", studies, path="/") as server:
        async with FaultyHttp(weed.endpoint) as s3, FaultyHttp(server.api.url) as api:
            scene = _scene(directory, weed, s3, recipient, generator)
            daemon = scene.daemon(api.url)
            with daemon:
                await _wreck(scene, daemon, run, generator, (s3, api))
                await asyncio.to_thread(daemon.wait_until_over, run.uploads, 600)
                await asyncio.to_thread(
                    daemon.wait_for, lambda: not spooled(daemon), 30, "the spool is empty"
                )
                assert await asyncio.to_thread(daemon.stop) == 0
            verdict = await asyncio.to_thread(scene.judge, daemon, server)
            made = s3.made + api.made
        unended = [drop["id"] for drop in server.drops() if not drop["reports"]]
    print(  # noqa: T201 -- the suite tells it
        f"seed {seed}: {run.daemons} daemons and {run.workers} workers killed, {made} faults,"
        f" {verdict}, in {time.monotonic() - began:.0f} s"
    )
    verdict.hold()
    assert unended == []


async def test_some_kills_and_faults_lose_nothing(tmp_path: Path, weed: Weed) -> None:
    await _survives(tmp_path, weed, Run(kills=15, uploads=40))


@pytest.mark.long
async def test_200_kills_over_300_uploads_lose_nothing(tmp_path: Path, weed: Weed) -> None:
    await _survives(tmp_path, weed, Run(kills=200, uploads=300))

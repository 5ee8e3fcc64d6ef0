"""The main job on real parts: tus client, tusd, dropoffd, SeaweedFS, a HAWK server of others."""

from __future__ import annotations

import asyncio
import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.envelope import keys
from tests.peers.dropoffd import Dropoffd
from tests.peers.hawk import HawkServer
from tests.peers.oracle import Sent, check_delivered, check_nothing_left
from tests.peers.reference_api import ReferenceServer
from tests.peers.seaweedfs import Weed
from tests.peers.sending import Wanted, send, send_all
from tests.peers.stores import Bucket, Folder, Store
from tests.peers.tusd import Tusd

KIB, MIB, GIB = 1024, 1024**2, 1024**3
SIZES = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 5 * MIB, 3 * MIB + 17, 200_000]
LARGE = [GIB, 100 * MIB, 100 * MIB, 20 * MIB + 1]
NAMES = [
    "sample.bam",
    "Größe ñ 数据 🧬.vcf.gz",
    "../../../etc/passwd",
    "..",
    "a/b\\c:d*e?.txt",
    "new\nline\tand\x1b[31mred",
    "x" * 400 + ".fastq.gz",
    "{study}/{upload}",
    " leading and trailing ",
    "'; DROP TABLE uploads; --",
]
STUDIES = [str(uuid.UUID(int=(number << 64) + 0x4000_8000_0000_0000_0001)) for number in range(8)]

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


class World:
    """Everything an upload meets, each a process of its own."""

    def __init__(self, directory: Path, weed: Weed, *, reference: bool) -> None:
        self.directory = directory
        self.bucket = f"archive-{uuid.uuid4().hex[:8]}"
        weed.make_bucket(self.bucket)
        self.weed = weed
        pair = keys.crypt4gh_generate()
        self.secret_key = keys.crypt4gh_secret(pair.secret, lambda: b"")
        (directory / "recipient.pub").write_text(pair.public)
        self.api: HawkServer | ReferenceServer
        if reference:
            self.api = ReferenceServer(make(directory / "api"), self._studies(), path="/")
        else:
            plan = {
                "open": True,
                "max_size": 2 * GIB,
                "encrypt": "crypt4gh",
                "recipients": [pair.public],
                "destinations": [
                    {"use": "archive"},
                    {"use": "local", "path": "in/{upload}-{filename}"},
                ],
            }
            self.api = HawkServer(directory / "api", dict.fromkeys(STUDIES, plan))
        self.folder = directory / "store"
        self.folder.mkdir()

    def _studies(self) -> str:
        """The studies as the reference API's config has them."""
        tables = [
            f'[studies."{study}"]\nencrypt = "crypt4gh"\nmax_size = "2GiB"\n'
            f'recipients = ["{self.directory}/recipient.pub"]\n'
            'destinations = ["archive", "local"]\n'
            for study in STUDIES
        ]
        archive = (
            '[destinations.archive]\ntype = "s3"\nbucket = "named-only"\nregion = "eu-west-1"\n'
        )
        return archive + "".join(tables)

    def daemon(self, directory: Path) -> Dropoffd:
        config = (
            f'[destinations.archive]\ntype = "s3"\nendpoint = "{self.weed.endpoint}"\n'
            f'bucket = "{self.bucket}"\nregion = "us-east-1"\n'
            f'[destinations.local]\ntype = "directory"\ndirectory = "{self.folder}"\n'
        )
        secrets = {
            "DROPOFF_ARCHIVE_ACCESS_KEY": self.weed.access_key,
            "DROPOFF_ARCHIVE_SECRET_KEY": self.weed.secret_key,
        }
        api = self.api.api
        hawk = {
            "WEBHOOK_URL": api.url,
            "DROPOFF_API_HAWK_KEY": api.hawk_key,
            "DROPOFF_API_HAWK_SECRET": api.hawk_secret,
        }
        return Dropoffd(directory, config, hawk | secrets)

    def check(self, daemon: Dropoffd, sent: list[Sent]) -> None:
        stores: dict[str, Store] = {
            "archive": Bucket(self.weed, self.bucket),
            "local": Folder(self.folder),
        }
        check_delivered(sent, self.api.drops(), stores, self.secret_key)
        check_nothing_left(daemon)


def make(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.fixture(params=["npm hawk"])
def world(tmp_path: Path, weed: Weed, request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(tmp_path, weed, reference=request.param == "dropoffd api")
    with world.api:
        yield world


def wanted_uploads(count: int, seed: int) -> list[Wanted]:
    generator = random.Random(seed)
    sizes = LARGE + [SIZES[number % len(SIZES)] for number in range(count - len(LARGE))]
    generator.shuffle(sizes)
    return [
        Wanted(STUDIES[number % len(STUDIES)], NAMES[number % len(NAMES)], size, seed + number)
        for number, size in enumerate(sizes)
    ]


def install_hooks(daemon: Dropoffd, directory: Path) -> Path:
    hooks = directory / "hooks"
    daemon.cli("install", "hooks", "--directory", str(hooks), "--server", "tusd")
    return hooks


@contextmanager
def shuffled_thrice(seen: Path, spool: Path) -> Iterator[None]:
    """Move what hooks write below ``seen`` to ``spool``: each three times, in random order."""
    generator = random.Random(1)
    over = threading.Event()

    def shuffle() -> None:
        held: list[tuple[str, bytes]] = []
        while not over.wait(0.02) or held or any((seen / "new").iterdir()):
            for path in list((seen / "new").iterdir()):
                held += [(path.name, path.read_bytes())] * 3
                path.unlink()
            generator.shuffle(held)
            keep = 0 if over.is_set() else generator.randrange(40)
            while len(held) > keep:
                name, data = held.pop()
                hook = name.partition(".")[0]
                temporary = spool / "tmp" / uuid.uuid4().hex
                temporary.write_bytes(data)
                temporary.rename(spool / "new" / f"{hook}.{uuid.uuid4().hex}.json")

    (seen / "new").mkdir(parents=True)
    (seen / "tmp").mkdir()
    thread = threading.Thread(target=shuffle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("world", "hooks"),
    [
        ("npm hawk", "all"),
        ("dropoffd api", "all"),
        ("npm hawk", "pre-create only"),
        ("npm hawk", "each thrice in random order"),
    ],
    indirect=["world"],
)
def test_200_uploads_from_8_studies_arrive_whole_at_two_destinations(
    world: World, tmp_path: Path, hooks: str
) -> None:
    wanted = wanted_uploads(200, seed=7)
    with world.daemon(tmp_path / "daemon") as daemon:
        hooks_directory = install_hooks(daemon, tmp_path)
        if hooks == "pre-create only":
            for hook in hooks_directory.glob("post-*"):
                hook.unlink()
        seen = tmp_path / "seen"
        if hooks.startswith("each"):
            for hook in hooks_directory.glob("post-*"):
                hook.write_text(hook.read_text().replace(str(daemon.spool), str(seen)))
        with (
            shuffled_thrice(seen, daemon.spool),
            Tusd(daemon.uploads, hooks=hooks_directory) as tusd,
        ):
            sent = asyncio.run(send_all(tusd.url, wanted))
        daemon.wait_until_over(len(sent), 300)
        daemon.wait_for(
            lambda: not list((daemon.spool / "new").iterdir()), 30, "the spool is empty"
        )
        world.check(daemon, sent)
        assert daemon.stop() == 0
    lines = daemon.metrics
    assert sum(line["event"] == "upload" and line["outcome"] == "ok" for line in lines) == 200
    assert sum(line["event"] == "delivery" and line["outcome"] == "ok" for line in lines) == 400


def test_an_upload_that_finished_while_the_daemon_was_away_is_delivered(
    world: World, tmp_path: Path
) -> None:
    daemon = world.daemon(tmp_path / "daemon")
    with Tusd(daemon.uploads) as tusd:
        sent = asyncio.run(send(tusd.url, Wanted(STUDIES[0], "late.bam", 9 * MIB, 1)))
    with daemon:
        daemon.wait_until_over(1, 60)
        world.check(daemon, [sent])

"""Uploads that tuspyserver takes, a server in Python without hooks of a process, are delivered."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import aiotus
import pytest
import yarl

from pipeline.envelope import keys
from tests.peers.dropoffd import Dropoffd
from tests.peers.oracle import Sent, check_delivered
from tests.peers.process import ServerProcess
from tests.peers.reference_api import ReferenceServer
from tests.peers.sending import Wanted, made
from tests.peers.stores import Folder
from tests.peers.tus_client import TusClient
from tests.peers.tus_js import TusJs
from tests.peers.tusd import free_port

MIB = 1024**2
STUDY = "11111111-2222-4333-8444-555555555555"
METADATA = {"study": STUDY, "filename": "reads.bam"}

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]


class World:
    """API, daemon and tuspyserver."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "store"
        self.store.mkdir()
        (directory / "api").mkdir()
        pair = keys.crypt4gh_generate()
        self._secret_key = keys.crypt4gh_secret(pair.secret, lambda: b"")
        (directory / "recipient.pub").write_text(pair.public)
        study = (
            f'[studies."{STUDY}"]\nencrypt = "crypt4gh"\ndestinations = ["local"]\n'
            f'recipients = ["{directory}/recipient.pub"]\n'
        )
        self.api = ReferenceServer(directory / "api", study, path="/")
        self.api.start()
        environment = {
            "WEBHOOK_URL": self.api.api.url,
            "DROPOFF_API_HAWK_KEY": self.api.key,
            "DROPOFF_API_HAWK_SECRET": self.api.secret,
        }
        config = f'[destinations.local]\ntype = "directory"\ndirectory = "{self.store}"\n'
        self.daemon = Dropoffd(directory / "daemon", config, environment)
        port = free_port()
        module = [sys.executable, "-m", "tests.peers.tuspyserver_app"]
        log = directory / "tuspyserver.log"
        self.server = ServerProcess([*module, str(self.daemon.uploads), str(port)], port, log)
        self.url = f"http://127.0.0.1:{port}/files/"

    def check(self, sent: list[Sent]) -> None:
        """Delivered once and reported; nothing is left but the server's own lock files."""
        self.daemon.wait_until_over(len(sent), 30)
        stores = {"local": Folder(self.store)}
        check_delivered(sent, self.api.drops(), stores, self._secret_key)
        left = [path.name for path in self.daemon.uploads.rglob("*") if path.is_file()]
        assert [name for name in left if not name.endswith(".lock")] == []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    try:
        with world.daemon, world.server:
            yield world
    finally:
        world.api.stop()


def write(wanted: Wanted, path: Path) -> str:
    """Make the file that is wanted, and give its SHA-256."""
    file, sha256 = made(wanted)
    with file:
        path.write_bytes(file.read())
    return sha256


def tus_id_of(url: object) -> str:
    return yarl.URL(str(url)).name


async def test_uploads_whose_info_is_replaced_by_renaming_are_delivered(
    world: World, tmp_path: Path
) -> None:
    wanted = Wanted(STUDY, "reads.bam", 9 * MIB + 1, 1)
    sha256 = write(wanted, tmp_path / "reads.bam")
    client = TusJs(tmp_path / "reads.bam", world.url, METADATA)
    sent = Sent(tus_id_of(await client.upload()), STUDY, "reads.bam", wanted.size, sha256)
    async with TusClient(world.url) as own:
        empty = await own.send(b"", METADATA | {"filename": "empty.bam"})
    nothing = hashlib.sha256().hexdigest()
    world.check([sent, Sent(empty, STUDY, "empty.bam", 0, nothing)])


async def test_an_upload_of_a_deferred_length_is_delivered(world: World, tmp_path: Path) -> None:
    wanted = Wanted(STUDY, "stream.bam", 2 * MIB + 5, 2)
    sha256 = write(wanted, tmp_path / "stream.bam")
    metadata = METADATA | {"filename": "stream.bam"}
    client = TusJs(tmp_path / "stream.bam", world.url, metadata, deferred=True)
    url = await client.upload()
    world.check([Sent(tus_id_of(url), STUDY, "stream.bam", wanted.size, sha256)])


async def test_parts_that_the_server_put_together_are_delivered_as_one(world: World) -> None:
    wanted = Wanted(STUDY, "whole.bam", 3 * MIB, 4)
    file, sha256 = made(wanted)
    with file:
        data = file.read()
    url = await aiotus.upload_multiple(
        world.url,
        [io.BytesIO(data[: len(data) // 2]), io.BytesIO(data[len(data) // 2 :])],
        {"study": STUDY.encode(), "filename": b"whole.bam"},
    )
    world.check([Sent(tus_id_of(url), STUDY, "whole.bam", wanted.size, sha256)])


async def test_bytes_after_a_crash_of_the_server_are_not_taken_for_the_upload(
    world: World,
) -> None:
    async with TusClient(world.url) as client:
        url = await client.create(10, METADATA)
        await client.patch(url, 0, b"hello")
        # The server dies after it wrote to the file, and before it noted how much.
        world.server.kill()
        data = world.daemon.uploads / tus_id_of(url)
        with data.open("ab") as file:
            file.write(b"world")
        info = json.loads(data.with_name(data.name + ".info").read_text())
        assert (info["offset"], info["size"], data.stat().st_size) == (5, 10, 10)
        world.daemon.wait_for(lambda: len(world.daemon.listed()) == 1, 20, "it is seen")
        assert world.daemon.listed()[0]["state"] == "receiving"
    # Back again, it has its client go on from what it noted, and appends: bytes twice.
    world.server.start()
    async with TusClient(world.url) as client:
        await client.patch(url, 5, b"world")
    world.daemon.wait_until_over(1, 30)
    (upload,) = world.daemon.listed()
    assert (upload["state"], upload["error"]["code"]) == ("failed", "source_changed")

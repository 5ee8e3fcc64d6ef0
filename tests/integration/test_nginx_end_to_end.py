"""Uploads behind nginx and direct, by each tus server and each kind of hooks, arrive once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import io
import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from tusclient.client import TusClient as Tuspy
from tusclient.exceptions import TusCommunicationError

from daemon.cli import main
from daemon.cli.install import RUSTUS_FILE
from pipeline.envelope import keys
from tests.peers.dropoffd import Dropoffd
from tests.peers.nginx import Nginx
from tests.peers.oracle import Folder, decrypted
from tests.peers.rustus import Rustus
from tests.peers.sending import Wanted, send
from tests.peers.tus_client import TusClient
from tests.peers.tusd import Tusd, free_port

VIRTUAL = "aaaaaaaa-2222-4333-8444-555555555555"
DIRECT = "bbbbbbbb-2222-4333-8444-555555555555"
OTHER = "cccccccc-2222-4333-8444-555555555555"
"""Nothing ever names it in a URL."""
PIECE = 100_000

pytestmark = [pytest.mark.peers, pytest.mark.timeout(180)]


@dataclass(frozen=True)
class Setup:
    """A tus server, and how it tells of uploads."""

    server: Literal["tusd", "tusd1", "rustus"]
    hooks: Literal["file", "dir", "http", "none"]
    study_ids: bool = False


SETUPS = [
    Setup("tusd", "file", study_ids=True),
    Setup("tusd", "http", study_ids=True),
    Setup("tusd", "file"),
    Setup("tusd", "none"),
    Setup("tusd1", "file"),
    Setup("tusd1", "http"),
    Setup("rustus", "file"),
    Setup("rustus", "dir"),
    Setup("rustus", "http"),
    Setup("rustus", "none"),
]


class World:
    """The daemon, a tus server and nginx, each a process of its own."""

    def __init__(self, directory: Path, setup: Setup) -> None:
        pair = keys.crypt4gh_generate()
        self.secret_key = keys.crypt4gh_secret(pair.secret, lambda: b"")
        (directory / "key.pub").write_text(pair.public)
        (directory / "store").mkdir()
        self.store = Folder(directory / "store")
        self.listen = f"127.0.0.1:{free_port()}"
        self.daemon = Dropoffd(directory / "daemon", self._config(directory, setup))
        self.infos = self.daemon.uploads
        if setup.server == "rustus":
            self._keep_infos_apart(directory / "infos")
        self.server = self._server(directory, setup)
        arguments = ["--server", setup.server, "--config", str(self.daemon.config)]
        self.nginx = Nginx(directory / "nginx", self.server.url, arguments)

    def _config(self, directory: Path, setup: Setup) -> str:
        hooks = f'listen = "{self.listen}"\nstudy_ids = {str(setup.study_ids).lower()}\n'
        store = f'[destinations.local]\ntype = "directory"\ndirectory = "{directory}/store"\n'
        studies = (
            f'[studies."{study}"]\nencrypt = "crypt4gh"\nrecipients = ["{directory}/key.pub"]\n'
            'destinations = ["local"]\n'
            for study in (VIRTUAL, DIRECT, OTHER)
        )
        return hooks + store + "".join(studies)

    def _keep_infos_apart(self, infos: Path) -> None:
        infos.mkdir()
        self.infos = infos
        text = self.daemon.config.read_text()
        told = f'[uploads]\ninfo_directory = "{infos}"\n'
        self.daemon.config.write_text(text.replace("[uploads]\n", told))

    def _server(self, directory: Path, setup: Setup) -> Tusd | Rustus:
        hooks = directory / "hooks"
        if setup.hooks in {"file", "dir"}:
            command = ["install", "hooks", "--directory", str(hooks), "--server", setup.server]
            assert main([*command, "--config", str(self.daemon.config)]) == 0
        url = f"http://{self.listen}/hooks"
        uploads = self.daemon.uploads
        if setup.server == "rustus":
            options = {
                "file": ["--hooks-file", str(hooks / RUSTUS_FILE)],
                "dir": ["--hooks-dir", str(hooks)],
                "http": ["--hooks-http-urls", url],
                "none": [],
            }
            return Rustus(uploads, self.infos, options=options[setup.hooks])
        return Tusd(
            uploads,
            hooks if setup.hooks == "file" else None,
            version=1 if setup.server == "tusd1" else 2,
            port=free_port(),
            options=["-hooks-http", url] if setup.hooks == "http" else [],
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            for each in (self.daemon, self.server, self.nginx):
                stack.enter_context(each)
            yield

    def counts(self) -> dict[str, int]:
        """How many uploads the daemon has, by state."""
        status = self.daemon.status()
        assert status is not None
        found: dict[str, int] = status["uploads"]
        return found

    def arrived(self) -> dict[str, tuple[str, int, str]]:
        """Study, size and SHA-256 of what is in the store, by file name."""
        found = {}
        for name in self.store.names():
            study, _, filename = name.split("/")
            assert filename not in found, f"{filename} arrived twice"
            with self.store.open(name) as source:
                found[filename.removesuffix(".c4gh")] = (study, *decrypted(source, self.secret_key))
        return found


@dataclass(frozen=True)
class Way:
    """Where uploads are made, what clients call their study there, and which it then is."""

    name: str
    url: str
    claimed: str
    study: str

    def metadata(self, filename: str) -> dict[str, str]:
        return {"filename": f"{self.name} {filename}", "study": self.claimed}


Arrived = dict[str, tuple[str, int, str]]


async def send_by_aiotus(way: Way) -> Arrived:
    sent = {}
    for number, size in enumerate((0, 1, 3 * PIECE)):
        wanted = Wanted(way.claimed, f"{way.name} whole {size}", size, number)
        done = await send(way.url, wanted)
        sent[done.filename] = (way.study, done.size, done.sha256)
    return sent


def send_interrupted(way: Way) -> Arrived:
    """A piece is sent, the next one breaks off, and another client goes on where that ended."""
    data = random.Random(way.name).randbytes(5 * PIECE)
    metadata = way.metadata("interrupted")
    first = Tuspy(way.url).uploader(
        file_stream=io.BytesIO(data), metadata=metadata, chunk_size=PIECE
    )
    first.upload_chunk()  # type: ignore[no-untyped-call]  # as tuspy has it
    upload = str(first.url)
    break_off(upload, PIECE, data[PIECE : 3 * PIECE])
    deadline = time.monotonic() + 20
    while True:
        try:
            Tuspy(way.url).uploader(
                file_stream=io.BytesIO(data), url=upload, chunk_size=2 * PIECE
            ).upload()
        except TusCommunicationError:
            # The broken request may hold the upload's lock for a moment.
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return {metadata["filename"]: arrives(way, data)}


def break_off(url: str, offset: int, data: bytes) -> None:
    """A PATCH that ends in the middle."""
    parts = urlsplit(url)
    head = (
        f"PATCH {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nTus-Resumable: 1.0.0\r\n"
        f"Content-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(head.encode() + data[: len(data) // 2])


async def send_step_by_step(way: Way) -> Arrived:
    """One of a length that is told at last, one that is taken back, one whole of two parts."""
    data = random.Random(way.name).randbytes(PIECE)
    async with TusClient(way.url) as client:
        deferred = way.metadata("deferred")
        upload = await client.create(None, deferred)
        await client.patch(upload, 0, data)
        await client.patch(upload, len(data), data, length=2 * len(data))
        upload = await client.create(2 * PIECE, way.metadata("taken back"))
        await client.patch(upload, 0, data)
        await client.terminate(upload)
        parts = []
        for each in (data, b"end"):
            parts.append(
                await client.create(len(each), way.metadata("part"), {"Upload-Concat": "partial"})
            )
            await client.patch(parts[-1], 0, each)
        whole = way.metadata("of parts")
        await client.concatenate(parts, whole)
    return {
        deferred["filename"]: arrives(way, data + data),
        whole["filename"]: arrives(way, data + b"end"),
    }


def arrives(way: Way, data: bytes) -> tuple[str, int, str]:
    return way.study, len(data), hashlib.sha256(data).hexdigest()


async def send_all(ways: list[Way]) -> Arrived:
    async with asyncio.TaskGroup() as group:
        tasks = []
        for way in ways:
            tasks.append(group.create_task(send_by_aiotus(way)))
            tasks.append(group.create_task(asyncio.to_thread(send_interrupted, way)))
            tasks.append(group.create_task(send_step_by_step(way)))
    return {name: found for task in tasks for name, found in task.result().items()}


def send_hostile(nginx: Nginx) -> Arrived:
    """Empty uploads that try to get to a study that their URL doesn't name."""
    claim = base64.b64encode(OTHER.encode()).decode()
    virtual, encoded = f"/uploads/{VIRTUAL}/", "".join(f"%{ord(each):02x}" for each in OTHER)
    tries = [
        (201, virtual, f"study {claim}"),
        (201, virtual.upper().replace("UPLOADS", "uploads"), f"STUDY {claim},Study {claim}"),
        (201, virtual, f"study {claim},study {claim}"),
        (400, virtual, f"\xc2\xa0study {claim}"),
        (400, virtual, f"study {claim} {claim}"),
        (400, virtual, f"big {base64.b64encode(bytes(1024 * 1024)).decode()}"),
        (404, f"/uploads/{encoded}/", ""),
        (404, f"/uploads/{VIRTUAL}/../{OTHER}/", f"study {claim}"),
        (404, f"/uploads/{VIRTUAL}%2f..%2f{OTHER}/", f"study {claim}"),
        (404, f"//uploads/{OTHER}/", f"study {claim}"),
        (404, f"/uploads//{OTHER}/", f"study {claim}"),
        (404, f"/uploads/{OTHER}%00/", f"study {claim}"),
        (404, "/files/", f"study {claim}"),
    ]
    arriving = {}
    for number, (status, path, metadata) in enumerate(tries):
        filename = base64.b64encode(f"hostile {number}".encode()).decode()
        pairs = ",".join(filter(None, (metadata, f"filename {filename}")))
        found = post(nginx, path, pairs)
        assert found == status or {found, status} <= {400, 404, 0}, (found, path, metadata[:80])
        if status == 201:
            arriving[f"hostile {number}"] = (VIRTUAL, 0, hashlib.sha256().hexdigest())
    assert post(nginx, virtual, "") == 201  # without even a file name
    return arriving


def post(nginx: Nginx, path: str, metadata: str) -> int:
    """The status of the answer to a POST that makes an empty upload; 0: no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=20)
    try:
        connection.putrequest("POST", path)
        connection.putheader("Tus-Resumable", "1.0.0")
        connection.putheader("Upload-Length", "0")
        connection.putheader("Upload-Metadata", metadata.encode("latin-1"))
        connection.endheaders()
        return connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        return 0  # it doesn't read a MiB of headers to their end
    finally:
        connection.close()


@pytest.fixture(params=SETUPS, ids=lambda each: f"{each.server} {each.hooks} {each.study_ids}")
def setup(request: pytest.FixtureRequest) -> Setup:
    found: Setup = request.param
    return found


def test_uploads_arrive_once_in_the_study_of_their_url(tmp_path: Path, setup: Setup) -> None:
    world = World(tmp_path, setup)
    with world.running():
        ways = [
            Way("virtual", world.nginx.url(VIRTUAL.upper()), OTHER, VIRTUAL),
            Way("direct", world.server.url, DIRECT.upper(), DIRECT),
        ]
        sent = asyncio.run(send_all(ways))
        sent |= send_hostile(world.nginx)
        daemon = world.daemon
        daemon.wait_for(lambda: world.counts()["done"] > len(sent), 60, "all are done")
        counts = world.counts()
        assert daemon.stop() == 0
    arrived = world.arrived()
    (name,) = arrived.keys() - sent.keys()
    assert arrived.pop(name) == (VIRTUAL, 0, hashlib.sha256().hexdigest())
    assert arrived == sent
    assert counts["done"] == len(sent) + 1
    assert {state for state, count in counts.items() if count} <= {"done", "terminated"}
    hooks = [line for line in daemon.metrics if line["event"] == "hook"]
    told = set() if setup.hooks == "none" else {"pre-create", "post-create", "post-finish"}
    assert {line["hook"] for line in hooks} >= told
    assert {line["outcome"] for line in hooks} <= ({"ok", "accepted"} if told else set())
    left = {path: json.loads(path.read_text()) for path in world.infos.rglob("*.info")}
    assert all(info.get("IsPartial", info.get("is_partial")) for info in left.values()), left

"""Uploads by clients that others wrote, through a real tusd, arrive whole and leave nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import aiotus
import pytest
import tusclient.client
import yarl

from pipeline.envelope import keys
from tests.peers.dropoffd import Dropoffd
from tests.peers.oracle import Sent, check_delivered
from tests.peers.reference_api import ReferenceServer
from tests.peers.sending import Wanted, made
from tests.peers.stores import Folder
from tests.peers.tus_client import RefusedError, TusClient
from tests.peers.tus_js import TusJs
from tests.peers.tusd import Tusd, Version, free_port

KIB, MIB = 1024, 1024**2
SIZE = 3 * MIB + 17
PIECE = 256 * KIB
STUDY = "11111111-2222-4333-8444-555555555555"
UNREACHABLE = "99999999-2222-4333-8444-555555555555"
"""A study whose destination is away: its uploads stay where they are."""

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]


class World:
    """API, daemon and tusd; what went through them is held against what was sent."""

    def __init__(self, directory: Path, version: Version) -> None:
        self.version: Version = version
        self.store = directory / "store"
        self.store.mkdir()
        (directory / "api").mkdir()
        pair = keys.crypt4gh_generate()
        self._secret_key = keys.crypt4gh_secret(pair.secret, lambda: b"")
        (directory / "recipient.pub").write_text(pair.public)
        away = f'[destinations.away]\ntype = "s3"\nendpoint = "http://127.0.0.1:{free_port()}"\n'
        away += 'bucket = "b"\nregion = "us-east-1"\n'
        studies = "".join(
            f'[studies."{study}"]\nencrypt = "crypt4gh"\ndestinations = ["{destination}"]\n'
            f'recipients = ["{directory}/recipient.pub"]\n'
            for study, destination in ((STUDY, "local"), (UNREACHABLE, "away"))
        )
        self.api = ReferenceServer(directory / "api", away + studies, path="/")
        self._local = f'[destinations.local]\ntype = "directory"\ndirectory = "{self.store}"\n'
        self._away = away
        self._directory = directory
        self._number = 0
        self.tusd_was_killed = False
        self.sent: list[Sent] = []
        self.terminated: set[str] = set()
        """Names of files whose upload was taken back."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with self.api:
            environment = {
                "WEBHOOK_URL": self.api.api.url,
                "DROPOFF_API_HAWK_KEY": self.api.key,
                "DROPOFF_API_HAWK_SECRET": self.api.secret,
                "DROPOFF_AWAY_ACCESS_KEY": "away",
                "DROPOFF_AWAY_SECRET_KEY": "away",
            }
            config = self._away + self._local
            with Dropoffd(self._directory / "daemon", config, environment) as daemon:
                hooks = self._directory / "hooks"
                server = "tusd" if self.version == 2 else "tusd1"
                daemon.cli("install", "hooks", "--directory", str(hooks), "--server", server)
                with Tusd(daemon.uploads, hooks=hooks, version=self.version) as tusd:
                    self.daemon, self.tusd = daemon, tusd
                    yield

    def file(self, study: str = STUDY, size: int = SIZE) -> OneFile:
        """A new file to send."""
        self._number += 1
        return OneFile(self, Wanted(study, f"reads-{self._number}.bam", size, self._number))

    def check(self) -> None:
        """All that was sent so far is delivered once; what was taken back is reported so."""
        self.daemon.wait_until_over(len(self.sent) + len(self.terminated), 30)
        # Neither hooks nor the outbox are waited for by anybody.
        self.daemon.wait_for(lambda: self._terminated() >= self.terminated, 30, "told so")
        with contextlib.suppress(AssertionError):
            self.daemon.wait_for(lambda: not self._left(), 30, "everything is removed")
        assert self._left() == []
        assert self._terminated() == self.terminated
        drops = self.api.drops()
        stores = {"local": Folder(self.store)}
        check_delivered(self.sent, drops, stores, self._secret_key)
        assert len(drops) == len(self.sent) + len(self.terminated)

    def _terminated(self) -> set[str]:
        last = [drop["reports"][-1] for drop in self.api.drops() if drop["reports"]]
        return {each["filename"] for each in last if each["state"] == "terminated"}

    def _left(self) -> list[Path]:
        places = (self.daemon.uploads, self.daemon.spool)
        left = [path for place in places for path in place.rglob("*") if path.is_file()]
        # Where tusd was killed, what it was just telling a hook may be cut.
        torn = self.daemon.spool / "failed" if self.tusd_was_killed else None
        return [path for path in left if path.parent != torn]


class OneFile:
    """A file of a world's, and how clients send it."""

    def __init__(self, world: World, wanted: Wanted) -> None:
        self.world = world
        self.wanted = wanted
        self.path = world._directory / wanted.filename
        file, self._sha256 = made(wanted)
        with file:
            self.path.write_bytes(file.read())
        self.metadata = {"study": wanted.study, "filename": wanted.filename}
        self.partial_headers = {"Upload-Metadata": f"study {b64(wanted.study)}"}

    @property
    def bytes_metadata(self) -> Mapping[str, bytes]:
        return {key: text.encode() for key, text in self.metadata.items()}

    def js(self, *, parallel: int = 1, deferred: bool = False) -> TusJs:
        return TusJs(self.path, self.world.tusd.url, self.metadata, parallel, deferred)

    def halves(self) -> list[io.BytesIO]:
        data = self.path.read_bytes()
        return [io.BytesIO(data[: len(data) // 2]), io.BytesIO(data[len(data) // 2 :])]

    def arrived(self, url: str) -> None:
        """It was sent, as that URL; check it."""
        tus_id = yarl.URL(url).path.removeprefix("/files/")
        wanted = self.wanted
        sent = Sent(tus_id, wanted.study, wanted.filename, wanted.size, self._sha256)
        self.world.sent.append(sent)
        self.world.check()

    def was_taken_back(self) -> None:
        self.world.terminated.add(self.wanted.filename)
        self.world.check()

    def tuspy(self, url: str | None = None) -> Any:  # noqa: ANN401 -- the library is untyped
        """An uploader of the whole file, or of what is missing at that URL."""
        client = tusclient.client.TusClient(self.world.tusd.url)
        return client.uploader(
            # By its path it would be opened for each chunk, and never closed; remembering URLs
            # by itself, tuspy closes what it is given.
            file_stream=io.BytesIO(self.path.read_bytes()),
            chunk_size=PIECE,
            metadata=self.metadata,
            url=url,
        )

    def wait_for_state(self, state: str) -> None:
        def reached() -> bool:
            listed = {each["filename"]: each["state"] for each in self.world.daemon.listed()}
            return listed.get(self.wanted.filename) == state

        self.world.daemon.wait_for(reached, 20, f"{self.wanted.filename} is {state}")


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Breaking(io.BytesIO):
    """A file during whose reading the tus server dies, and comes back."""

    def __init__(self, data: bytes, tusd: Tusd) -> None:
        super().__init__(data)
        self._tusd: Tusd | None = tusd

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 1 * MIB and self._tusd is not None:
            tusd, self._tusd = self._tusd, None
            tusd.kill()
            tusd.start()
        return super().read(size)


@pytest.fixture(scope="module")
def tusd2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("tusd2"), 2)
    with world.running():
        yield world


@pytest.fixture(scope="module")
def tusd1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("tusd1"), 1)
    with world.running():
        yield world


@pytest.fixture(params=["tusd2", "tusd1"])
def world(request: pytest.FixtureRequest) -> World:
    world: World = request.getfixturevalue(request.param)
    return world


# Interrupted and resumed ---------------------------------------------------------------------


async def test_tus_js_client_goes_on_after_its_process_was_killed(world: World) -> None:
    file = world.file()
    await file.js().die(after=1 * MIB)
    file.arrived(await file.js().upload())


async def test_tuspy_goes_on_from_the_url_that_it_remembered(world: World) -> None:
    file = world.file()
    begun = file.tuspy()
    await asyncio.to_thread(begun.upload, 1 * MIB)
    resumed = await asyncio.to_thread(file.tuspy, begun.url)
    assert resumed.offset == 1 * MIB
    await asyncio.to_thread(resumed.upload)
    file.arrived(str(resumed.url))


async def test_aiotus_goes_on_after_the_tus_server_was_killed(world: World) -> None:
    file = world.file()
    config = aiotus.RetryConfiguration(retry_attempts=5, max_retry_period_seconds=0.5)
    world.tusd_was_killed = True
    data = Breaking(file.path.read_bytes(), world.tusd)
    url = await aiotus.upload(
        world.tusd.url, data, file.bytes_metadata, config=config, chunksize=PIECE
    )
    file.arrived(str(url))


# Parallel ------------------------------------------------------------------------------------


async def test_tus_js_client_sends_parts_in_parallel(world: World) -> None:
    file = world.file()
    file.arrived(await file.js(parallel=3).upload())


async def test_tus_js_client_goes_on_with_parts_after_its_process_was_killed(world: World) -> None:
    file = world.file()
    await file.js(parallel=3).die(after=2 * MIB)
    file.arrived(await file.js(parallel=3).upload())


async def test_aiotus_sends_parts_in_parallel(world: World) -> None:
    file = world.file()
    url = await aiotus.upload_multiple(
        world.tusd.url,
        file.halves(),
        file.bytes_metadata,
        headers=file.partial_headers,
        chunksize=PIECE,
    )
    assert url is not None
    file.arrived(str(url))


async def test_tuspy_sends_parts_that_are_put_together(world: World) -> None:
    file = world.file()
    client = tusclient.client.TusClient(world.tusd.url, headers={"Upload-Concat": "partial"})
    study = {"study": file.wanted.study}
    parts = [
        client.uploader(file_stream=half, chunk_size=PIECE, metadata=study)
        for half in file.halves()
    ]
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(asyncio.to_thread(part.upload))
    async with TusClient(world.tusd.url) as own:
        url = await own.concatenate([str(part.url) for part in parts], file.metadata)
    file.arrived(url)


# Deferred length -----------------------------------------------------------------------------


async def test_tus_js_client_sends_a_stream_whose_length_it_learns_at_the_end(
    world: World,
) -> None:
    file = world.file()
    file.arrived(await file.js(deferred=True).upload())


# Terminated ----------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 3])
async def test_what_tus_js_client_takes_back_leaves_nothing(world: World, parallel: int) -> None:
    file = world.file()
    await file.js(parallel=parallel).take_back(after=1 * MIB)
    if parallel == 1:
        file.was_taken_back()
    else:
        # Parts are nobody's upload yet: nothing was announced.
        world.check()


@pytest.mark.parametrize("client", ["tuspy", "aiotus"])
async def test_an_upload_that_is_taken_back_while_it_is_received_is_terminated(
    world: World, client: str
) -> None:
    file = world.file()
    if client == "tuspy":
        uploader = file.tuspy()
        await asyncio.to_thread(uploader.upload, 1 * MIB)
        url = str(uploader.url)
    else:
        async with aiohttp.ClientSession() as session:
            whole = io.BytesIO(file.path.read_bytes())
            created = await aiotus.creation.create(
                session, yarl.URL(world.tusd.url), whole, file.bytes_metadata
            )
            url = str(created)
    await asyncio.to_thread(file.wait_for_state, "receiving")
    async with TusClient(world.tusd.url) as own:
        await own.terminate(url)
    file.was_taken_back()


async def test_an_upload_that_is_taken_back_while_it_is_processed_is_terminated(
    world: World,
) -> None:
    file = world.file(study=UNREACHABLE)
    url = await file.js().upload()
    await asyncio.to_thread(file.wait_for_state, "processing")
    async with TusClient(world.tusd.url) as own:
        await own.terminate(url)
    file.was_taken_back()


async def test_an_upload_that_is_taken_back_after_it_is_stored_stays_stored(world: World) -> None:
    file = world.file()
    url = await file.js().upload()
    file.arrived(url)
    async with TusClient(world.tusd.url) as own:
        with pytest.raises(RefusedError):
            await own.terminate(url)
    file.world.check()

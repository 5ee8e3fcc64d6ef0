"""Real rustus: what it leaves on disk is found, and its hooks are answered, however they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from daemon.cli.install import RUSTUS_FILE, hooks
from daemon.errors import StudyRefusedError
from daemon.intake.hooks import HookServer
from daemon.intake.intake import Intake
from daemon.journal.model import UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Settings
from tests.peers.dropoffd import Dropoffd
from tests.peers.intake import (
    STUDY,
    PlayedBroker,
    Recorded,
    running,
    settings_in,
    until,
    until_uploads,
    uploads_of,
)
from tests.peers.rustus import Rustus
from tests.peers.tus_client import RefusedError, TusClient
from tests.peers.tusd import free_port

METADATA = {"filename": "a b.txt", "study": STUDY.upper()}
WAYS = ["file", "dir", "http"]
FORMATS = ["default", "tusd", "v2"]
HOOKS = {"pre-create", "post-create", "post-receive", "post-finish", "post-terminate"}

pytestmark = pytest.mark.peers


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = settings_in(tmp_path, timeout=1.5)
    uploads = msgspec.structs.replace(settings.uploads, info_directory=tmp_path / "infos")
    uploads.info_directory.mkdir()
    listening = msgspec.structs.replace(settings.hooks, listen=f"127.0.0.1:{free_port()}")
    return msgspec.structs.replace(settings, uploads=uploads, hooks=listening)


@pytest.fixture
def intake(settings: Settings, journal: SqliteJournal, metrics: Recorded) -> Intake:
    return Intake(settings, journal, metrics)


@pytest.fixture
async def server(
    settings: Settings,
    broker: PlayedBroker,
    journal: SqliteJournal,
    metrics: Recorded,
    intake: Intake,
) -> AsyncIterator[HookServer]:
    async with HookServer(settings, broker, journal, metrics, lookout=intake) as started:
        yield started


def hook_options(settings: Settings, directory: Path, way: str) -> Sequence[str]:
    """How rustus is told of the hooks that `dropoffd install hooks --server rustus` writes."""
    if way == "http":
        return ["--hooks-http-urls", f"http://{settings.hooks.listen}/hooks"]
    directory.mkdir()
    for name, text in hooks(settings, "rustus").items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    if way == "dir":
        return ["--hooks-dir", str(directory)]
    return ["--hooks-file", str(directory / RUSTUS_FILE)]


def rustus(
    settings: Settings, tmp_path: Path, way: str | None = None, form: str = "default"
) -> Rustus:
    options = hook_options(settings, tmp_path / "hooks", way) if way else []
    uploads = settings.uploads
    options = [*options, "--hooks-format", form]
    return Rustus(uploads.directory, uploads.info_directory, options=options)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("server")
async def test_each_hook_is_understood_however_it_comes(
    settings: Settings,
    broker: PlayedBroker,
    journal: SqliteJournal,
    metrics: Recorded,
    intake: Intake,
    tmp_path: Path,
    way: str,
    form: str,
) -> None:
    async with running(intake):
        with rustus(settings, tmp_path, way, form) as server:
            async with TusClient(server.url) as client:
                upload = await client.create(5, METADATA)
                await client.patch(upload, 0, b"he")
                await client.patch(upload, 2, b"llo")
                taken_back = await client.create(5, METADATA)
                await client.terminate(taken_back)
            await until(
                lambda: {str(line["hook"]) for line in metrics.of("hook")} >= HOOKS,
                "all hooks are taken",
            )
        found = await until_uploads(
            journal, lambda all_: any(each.state is UploadState.RECEIVED for each in all_)
        )
    tus_id = client.tus_id(upload)
    (arrived,) = [each for each in found if each.state is UploadState.RECEIVED]
    assert (arrived.tus_id, arrived.received, arrived.server) == (tus_id, 5, "rustus")
    assert [each.tus_id for each in broker.announced] == [tus_id, client.tus_id(taken_back)]
    assert {each.server for each in broker.announced} == {"rustus"}
    assert arrived.api_id == "api-1"
    assert {line["outcome"] for line in metrics.of("hook")} <= {"ok", "accepted"}
    assert not any((settings.spool / "failed").iterdir())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("server")
async def test_a_refusal_reaches_the_client(
    settings: Settings, broker: PlayedBroker, tmp_path: Path, way: str
) -> None:
    broker.error = StudyRefusedError("the study is closed", 410)
    with rustus(settings, tmp_path, way) as server:
        async with TusClient(server.url) as client:
            with pytest.raises(RefusedError) as refused:
                await client.create(5, METADATA)
            log = server.tail()
    if way == "http":
        assert (refused.value.status, refused.value.text) == (410, "the study is closed\n")
    else:
        # That is all rustus says to the client of a hook that ended with an error.
        assert (refused.value.status, "Hook invocation failed" in refused.value.text) == (400, True)
        assert "the study is closed\n" in log
    assert list(settings.uploads.directory.iterdir()) == []
    assert list(settings.uploads.info_directory.iterdir()) == []


@pytest.mark.parametrize("way", WAYS)
async def test_without_the_daemon_every_upload_is_refused(
    settings: Settings, tmp_path: Path, way: str
) -> None:
    with rustus(settings, tmp_path, way) as server:
        async with TusClient(server.url) as client:
            with pytest.raises(RefusedError) as refused:
                await client.create(5, METADATA)
    assert refused.value.status in {400, 500}
    assert list(settings.uploads.directory.iterdir()) == []


@pytest.mark.usefixtures("server")
async def test_an_answer_that_comes_too_late_for_rustus_refuses(
    settings: Settings, broker: PlayedBroker, tmp_path: Path
) -> None:
    broker.pause = 30.0
    with rustus(settings, tmp_path, "http") as server:
        async with TusClient(server.url) as client:
            with pytest.raises(RefusedError) as refused:
                await client.create(5, METADATA)
    assert (refused.value.status, broker.announced) == (503, [])
    assert "try again later" in refused.value.text


async def test_a_hook_that_rustus_does_not_have_fails(settings: Settings, tmp_path: Path) -> None:
    hook_options(settings, tmp_path / "hooks", "file")
    for name in ("pre-mortem", "../hooks/pre-create", "", "-x"):
        process = await asyncio.create_subprocess_exec(
            tmp_path / "hooks" / RUSTUS_FILE, name, "{}", stderr=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 1


async def test_without_hooks_every_upload_is_found(
    settings: Settings, journal: SqliteJournal, intake: Intake, tmp_path: Path
) -> None:
    with rustus(settings, tmp_path) as server:
        async with TusClient(server.url) as client:
            before = await client.send(b"before", METADATA)
            async with running(intake):
                later = await client.send(b"x" * 300_000, METADATA)
                empty = await client.send(b"", METADATA)
                deferred = await client.create(None, METADATA)
                await client.patch(deferred, 0, b"hello ")
                await client.patch(deferred, 6, b"world", length=11)
                found = await until_uploads(
                    journal,
                    lambda all_: [each.state for each in all_] == [UploadState.RECEIVED] * 4,
                )
    ids = {before, later, empty, client.tus_id(deferred)}
    assert {upload.tus_id for upload in found} == ids
    assert sorted(upload.received for upload in found) == [0, 6, 11, 300_000]
    assert {(upload.study, upload.filename) for upload in found} == {(STUDY, "a b.txt")}


async def test_parts_are_no_uploads_and_the_whole_is_one(
    settings: Settings, journal: SqliteJournal, intake: Intake, tmp_path: Path
) -> None:
    with rustus(settings, tmp_path) as server:
        async with TusClient(server.url) as client:
            parts = []
            for data in (b"hello ", b"world"):
                part = await client.create(len(data), METADATA, {"Upload-Concat": "partial"})
                await client.patch(part, 0, data)
                parts.append(part)
            whole = client.tus_id(await client.concatenate(parts, METADATA))
    async with running(intake):
        (upload,) = await uploads_of(journal)
    assert (upload.tus_id, upload.received) == (whole, 11)
    assert upload.partials == tuple(client.tus_id(part) for part in parts)


async def test_directories_by_date_are_no_obstacle(
    settings: Settings, journal: SqliteJournal, intake: Intake
) -> None:
    uploads = settings.uploads
    structure = ["--dir-structure", "{year}/{month}"]
    with Rustus(uploads.directory, uploads.info_directory, options=structure) as server:
        async with TusClient(server.url) as client:
            await client.send(b"hello", METADATA)
    async with running(intake):
        (upload,) = await uploads_of(journal)
    assert (upload.state, upload.path.count("/")) == (UploadState.RECEIVED, 2)


async def test_bytes_that_rustus_knows_nothing_of_complete_nothing(
    settings: Settings, journal: SqliteJournal, intake: Intake, tmp_path: Path
) -> None:
    """As after a crash between writing the data and the ``.info``."""
    with rustus(settings, tmp_path) as server:
        async with TusClient(server.url) as client:
            upload = await client.create(10, METADATA)
            await client.patch(upload, 0, b"hello")
            server.kill()
            with (settings.uploads.directory / client.tus_id(upload)).open("ab") as data:
                data.write(b"world")
            async with running(intake):
                assert [each.state for each in await uploads_of(journal)] in (
                    [],
                    [UploadState.RECEIVING],
                )


def test_data_that_rustus_wrote_twice_is_never_delivered(tmp_path: Path) -> None:
    """After such a crash rustus goes on where its ``.info`` says, behind what it forgot of."""
    (tmp_path / "store").mkdir()
    config = (
        f'[destinations.local]\ntype = "directory"\ndirectory = "{tmp_path}/store"\n'
        f'[studies."{STUDY}"]\nencrypt = "none"\ndestinations = ["local"]\n'
    )
    daemon = Dropoffd(tmp_path / "daemon", config)
    server = Rustus(daemon.uploads)

    async def send() -> str:
        async with TusClient(server.url) as client:
            upload = await client.create(10, METADATA)
            await client.patch(upload, 0, b"hello")
            with (daemon.uploads / client.tus_id(upload)).open("ab") as data:
                data.write(b"world")
            await client.patch(upload, 5, b"world")
            good = await client.send(b"unharmed", METADATA)
            assert good
            return client.tus_id(upload)

    with daemon, server:
        tus_id = asyncio.run(send())
        daemon.wait_until_over(2, 60)
        shown = {each["tus_id"]: each for each in daemon.listed()}
        failed = daemon.show(tus_id)
    assert shown[tus_id]["state"] == "failed"
    assert failed["error"]["code"] == "source_changed"
    assert [path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()] == [
        b"unharmed"
    ]
    assert (daemon.uploads / tus_id).read_bytes() == b"helloworldworld"

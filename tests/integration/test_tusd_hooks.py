"""Real tusd 2 asks by the installed scripts whether an upload may be; the scripts by themselves."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from daemon.cli.install import hooks
from daemon.errors import ApiUnreachableError, ConfigError, StudyRefusedError
from daemon.intake.hooks import HookServer
from daemon.intake.intake import Intake
from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Settings
from tests.peers.intake import (
    STUDY,
    PlayedBroker,
    Recorded,
    running,
    settings_in,
    until_uploads,
)
from tests.peers.tus_client import RefusedError, TusClient
from tests.peers.tusd import Tusd

CLIENTS = [
    pytest.param(Path(found), id=name)
    for name in ("curl", "python3")
    if (found := shutil.which(name, path="/usr/bin:/usr/local/bin"))
]
METADATA = {"filename": "a b.txt", "study": STUDY.upper()}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, timeout=2.0)


@pytest.fixture
async def server(
    settings: Settings, broker: PlayedBroker, journal: SqliteJournal, metrics: Recorded
) -> AsyncIterator[HookServer]:
    async with HookServer(settings, broker, journal, metrics) as started:
        yield started


def scripts(settings: Settings, directory: Path, server: str, client: Path | None = None) -> Path:
    directory.mkdir()
    for name, text in hooks(settings, server, client).items():
        path = directory / name
        path.write_text(text)
        path.chmod(0o755)
    return directory


async def run(hook: Path, *arguments: str, stdin: bytes = b"") -> tuple[int | None, bytes, bytes]:
    """A hook as the server calls it: its exit code, what it says, what it complains of."""
    process = await asyncio.create_subprocess_exec(
        hook,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate(stdin)
    return process.returncode, said, complained


@pytest.fixture(params=CLIENTS)
def tusd2(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Tusd:
    return Tusd(
        settings.uploads.directory, scripts(settings, tmp_path / "hooks", "tusd", request.param)
    )


def received(settings: Settings) -> list[str]:
    return sorted(path.name for path in settings.uploads.directory.iterdir())


@pytest.mark.usefixtures("server")
async def test_an_upload_that_may_be_is_announced_and_marked(
    tusd2: Tusd,
    settings: Settings,
    broker: PlayedBroker,
    journal: SqliteJournal,
    metrics: Recorded,
) -> None:
    with tusd2:
        async with TusClient(tusd2.url) as client:
            tus_id = await client.send(b"hello", {**METADATA, "dropoff_id": "forged"})
    (announcing,) = broker.announced
    assert (announcing.study, announcing.filename, announcing.size) == (STUDY, "a b.txt", 5)
    assert announcing.metadata == METADATA
    assert (announcing.tus_id, announcing.client[:10]) == (None, "127.0.0.1:")
    async with running(Intake(settings, journal, metrics)):
        (upload,) = await until_uploads(journal, lambda found: len(found) == 1)
    assert (upload.tus_id, upload.id, upload.api_id) == (tus_id, announcing.key, "api-1")
    assert upload.metadata == {**METADATA, "dropoff_id": announcing.key}
    (line,) = [line for line in metrics.of("hook") if line["hook"] == "pre-create"]
    assert (line["outcome"], line["study"]) == ("accepted", STUDY)


@pytest.mark.usefixtures("server")
async def test_a_refusal_reaches_the_client_with_its_status_and_words(
    tusd2: Tusd, settings: Settings, broker: PlayedBroker
) -> None:
    broker.error = StudyRefusedError('the study "Ω" is closed;\nask $(its) `owner`', 410)
    with tusd2:
        async with TusClient(tusd2.url) as client:
            with pytest.raises(RefusedError) as refused:
                await client.create(5, METADATA)
    assert refused.value.status == 410
    assert refused.value.text == 'the study "Ω" is closed; ask $(its) `owner`\n'
    assert received(settings) == []


@pytest.mark.parametrize("metadata", [{}, {"study": "no uuid"}, {"Study": STUDY}])
@pytest.mark.usefixtures("server")
async def test_without_a_study_there_is_no_upload(
    tusd2: Tusd, settings: Settings, broker: PlayedBroker, metadata: dict[str, str]
) -> None:
    with tusd2:
        async with TusClient(tusd2.url) as client:
            with pytest.raises(RefusedError) as refused:
                await client.create(5, metadata)
    assert refused.value.status == 400
    assert "study" in refused.value.text
    assert (received(settings), broker.announced) == ([], [])


def _unreachable(broker: PlayedBroker) -> None:
    broker.error = ApiUnreachableError("secret internals")


def _defect(broker: PlayedBroker) -> None:
    broker.error = RuntimeError("secret internals")


def _slow(broker: PlayedBroker) -> None:
    broker.pause = 30.0


@pytest.mark.parametrize("spoil", [_unreachable, _defect, _slow])
@pytest.mark.usefixtures("server")
async def test_in_doubt_an_upload_is_refused_for_now(
    tusd2: Tusd, settings: Settings, broker: PlayedBroker, spoil: Callable[[PlayedBroker], None]
) -> None:
    spoil(broker)
    with tusd2:
        async with TusClient(tusd2.url) as client:
            with pytest.raises(RefusedError) as refused:
                await client.create(5, METADATA)
    assert refused.value.status == 503
    assert int(refused.value.headers["Retry-After"]) > 0
    assert refused.value.text == "upload service unavailable, try again later\n"
    assert received(settings) == []


async def test_without_the_daemon_every_upload_is_refused(tusd2: Tusd, settings: Settings) -> None:
    with tusd2:
        async with TusClient(tusd2.url) as client:
            with pytest.raises(RefusedError) as refused:
                await client.create(5, METADATA)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "30")
    assert received(settings) == []


@pytest.mark.usefixtures("server")
async def test_the_whole_of_a_concatenation_is_announced_and_no_part(
    tusd2: Tusd, broker: PlayedBroker
) -> None:
    with tusd2:
        async with TusClient(tusd2.url) as client:
            parts = []
            for data in (b"hello ", b"world"):
                part = await client.create(len(data), METADATA, {"Upload-Concat": "partial"})
                await client.patch(part, 0, data)
                parts.append(part)
            assert broker.announced == []
            await client.concatenate(parts, METADATA)
    assert [announcing.size for announcing in broker.announced] == [11]


async def test_the_post_script_never_fails_an_upload(settings: Settings, tmp_path: Path) -> None:
    directory = scripts(settings, tmp_path / "hooks", "tusd")
    assert await run(directory / "pre-finish", stdin=b"{}") == (0, b"", b"")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (StudyRefusedError("closed", 403), 1), (RuntimeError("internals"), 1)],
)
@pytest.mark.usefixtures("server")
async def test_rustus_gives_its_hooks_the_message_as_an_argument(
    settings: Settings,
    broker: PlayedBroker,
    tmp_path: Path,
    client: Path,
    error: Exception | None,
    code: int,
) -> None:
    broker.error = error
    directory = scripts(settings, tmp_path / "hooks", "rustus", client)
    upload = {"id": "abc", "offset": 0, "length": 5, "path": None, "metadata": METADATA}
    message = json.dumps({"upload": upload, "request": {"remote_addr": "192.0.2.7"}})
    ended, said, _ = await run(directory / "pre-create", message)
    assert ended == code
    if error is None:
        assert [each.tus_id for each in broker.announced] == ["abc"]
        assert said == b""
    else:
        assert said.count(b"\n") == 1
        assert b"internals" not in said


async def test_a_dead_daemons_socket_is_replaced_and_a_living_ones_not(
    settings: Settings, broker: PlayedBroker, journal: SqliteJournal
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(settings.hooks.socket))
    async with HookServer(settings, broker, journal, Recorded()):
        assert settings.hooks.socket.stat().st_mode & 0o777 == 0o660
        second = HookServer(settings, broker, journal, Recorded())
        with pytest.raises(ConfigError):
            await second.start()
        assert settings.hooks.socket.exists()
    assert not settings.hooks.socket.exists()


@pytest.mark.usefixtures("server")
async def test_too_long_a_message_is_refused(
    settings: Settings, broker: PlayedBroker, tmp_path: Path
) -> None:
    directory = scripts(settings, tmp_path / "hooks", "tusd")
    code, said, _ = await run(directory / "pre-create", stdin=b" " * (2 * 1024 * 1024))
    assert code == 0
    assert json.loads(said)["HTTPResponse"]["StatusCode"] == 503
    assert broker.announced == []


@pytest.mark.parametrize("client", CLIENTS)
async def test_half_an_answer_is_none(settings: Settings, tmp_path: Path, client: Path) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}")
        await writer.drain()
        writer.close()

    directory = scripts(settings, tmp_path / "hooks", "tusd", client)
    async with await asyncio.start_unix_server(half, settings.hooks.socket):
        code, said, _ = await run(directory / "pre-create", stdin=b"{}")
    assert code == 0
    assert json.loads(said)["RejectUpload"] is True

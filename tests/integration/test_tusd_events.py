"""Every hook that real tusd has, in both versions, is understood; progress is told now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from daemon.cli.install import hooks
from daemon.intake.hooks import HookServer
from daemon.intake.intake import Intake
from daemon.journal.model import Report, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Settings
from tests.peers.intake import (
    STUDY,
    PlayedBroker,
    Recorded,
    running,
    settings_in,
    until,
    until_uploads,
)
from tests.peers.tus_client import TusClient
from tests.peers.tusd import Tusd, Version, free_port

Form = Literal["file", "HTTP"]
METADATA = {"filename": "a.txt", "study": STUDY}
HOOKS: dict[Version, list[str]] = {
    1: ["pre-create", "post-create", "post-receive", "pre-finish", "post-finish", "post-terminate"],
}
HOOKS[2] = [*HOOKS[1], "pre-terminate"]
"""All that there are."""

pytestmark = pytest.mark.peers


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = settings_in(tmp_path)
    listening = msgspec.structs.replace(settings.hooks, listen=f"127.0.0.1:{free_port()}")
    return msgspec.structs.replace(settings, hooks=listening)


@pytest.fixture
async def intake(
    settings: Settings, broker: PlayedBroker, journal: SqliteJournal, metrics: Recorded
) -> AsyncIterator[Intake]:
    intake = Intake(settings, journal, metrics)
    async with HookServer(settings, broker, journal, metrics, lookout=intake), running(intake):
        yield intake


def tusd(settings: Settings, version: Version, form: Form, enabled: str) -> Tusd:
    """A tusd that calls only these hooks, and tells progress ten times a second if it can."""
    options = ["-hooks-enabled-events", enabled]
    if version == 2:
        options += ["-progress-hooks-interval", "100ms"]
    uploads = settings.uploads.directory
    if form == "HTTP":
        options += ["-hooks-http", f"http://{settings.hooks.listen}/hooks"]
        return Tusd(uploads, version=version, options=options)
    directory = uploads.with_name("hooks")
    directory.mkdir(exist_ok=True)
    for name, text in hooks(settings, "tusd" if version == 2 else "tusd1").items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return Tusd(uploads, directory, version=version, options=options)


@pytest.mark.parametrize("form", ["file", "HTTP"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.usefixtures("intake")
async def test_each_hook_of_both_versions_is_known_and_fails_no_upload(
    settings: Settings,
    journal: SqliteJournal,
    metrics: Recorded,
    version: Version,
    form: Form,
) -> None:
    # pre-terminate has no script: tusd does without.
    wanted = [hook for hook in HOOKS[version] if (form, hook) != ("file", "pre-terminate")]
    for hook in wanted:  # one by one: see STEADY
        with tusd(settings, version, form, hook) as server:
            async with TusClient(server.url) as client:
                await client.send(b"hello", METADATA)
                await client.terminate(await client.create(5, METADATA))
                await until(
                    lambda hook=hook: hook in {line["hook"] for line in metrics.of("hook")},  # type: ignore[misc]  # a loop's variable, bound
                    f"{hook} is told",
                )
    await until_uploads(journal, lambda found: len(found) == len(wanted))
    assert {line["hook"] for line in metrics.of("hook")} == set(wanted)
    assert {line["outcome"] for line in metrics.of("hook")} <= {"ok", "accepted"}
    assert not any((settings.spool / "failed").iterdir())


@pytest.mark.parametrize("form", ["file", "HTTP"])
async def test_all_hooks_of_tusd_2_at_once_let_uploads_come_and_go(
    settings: Settings, journal: SqliteJournal, intake: Intake, form: Form
) -> None:
    with tusd(settings, 2, form, "") as server:
        async with TusClient(server.url) as client:
            sent = [await client.send(data, METADATA) for data in (b"", b"hello")]
            await client.terminate(await client.create(5, METADATA))
        found = await until_uploads(
            journal,
            lambda all_: (
                [each.state for each in all_ if each.tus_id in sent] == [UploadState.RECEIVED] * 2
            ),
        )
    assert intake.describe()["problems"] == 0
    assert {each.api_id for each in found if each.tus_id in sent} <= {"api-1", "api-2", "api-3"}


async def test_progress_ten_times_a_second_is_reported_now_and_then(
    settings: Settings,
    journal: SqliteJournal,
    intake: Intake,
    metrics: Recorded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the pace is quicker here than a report each five seconds."""
    monkeypatch.setattr("daemon.intake.receiving.QUIET_SECONDS", 0.1)
    monkeypatch.setattr("daemon.intake.receiving.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("daemon.journal.intake.RECEIVING_REPORT_SECONDS", 1.0)
    assert intake.scanned.is_set()
    told: list[Report] = []
    outbox = asyncio.create_task(taking(journal, told))
    with tusd(settings, 2, "HTTP", "pre-create,post-receive") as server:
        async with TusClient(server.url) as client:
            upload = await client.create(25_000, METADATA)
            await drip(upload, bytes(1000), 25)
        await until(lambda: "received" in {each.state for each in told}, "it is there")
    outbox.cancel()
    progress = [line for line in metrics.of("hook") if line["hook"] == "post-receive"]
    assert len(progress) >= 10
    *receiving, _ = told
    assert {report.state for report in receiving} == {"receiving"}
    received = [report.body["received"] for report in receiving]
    assert received == sorted(set(received))
    times = [report.created_at for report in receiving]
    assert 2 <= len(times) <= 4
    assert all(later - one >= 1.0 for one, later in pairwise(times))


async def taking(journal: SqliteJournal, told: list[Report]) -> None:
    """Take reports as the REST API does: what is still to be sent makes way for what is newer."""
    while True:
        for report in await journal.due_reports(time.time(), 10):
            told.append(report)
            await journal.acknowledged(report.id)
        await asyncio.sleep(0.02)


async def drip(upload: str, piece: bytes, pieces: int) -> None:
    """Send it in one request, a piece each tenth of a second."""
    address, _, path = upload.removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"PATCH /{path} HTTP/1.1\r\nHost: {address}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        "Content-Type: application/offset+octet-stream\r\n"
        f"Content-Length: {pieces * len(piece)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode())
    for _ in range(pieces):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.1)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 204")
    writer.close()
    await writer.wait_closed()

"""What real tusd leaves on disk is found, whatever becomes of its hooks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from daemon.intake.finder import Finder
from daemon.intake.intake import Intake
from daemon.journal.model import UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Settings
from tests.peers.intake import (
    STUDY,
    Recorded,
    running,
    until,
    until_uploads,
    uploads_of,
)
from tests.peers.tus_client import TusClient
from tests.peers.tusd import Tusd, Version

METADATA = {"filename": "a.txt", "study": STUDY}
VERSIONS = pytest.mark.parametrize("version", [1, 2])


def keeping_hooks(directory: Path, kept: Path) -> Path:
    """Hooks that keep what they are told, to be delivered by the test as it likes."""
    directory.mkdir()
    kept.mkdir()
    for name in ("post-create", "post-receive", "post-finish"):
        hook = directory / name
        hook.write_text(f"#!/bin/sh\nexec cat >'{kept}'/{name}.$$.json\n")
        hook.chmod(0o755)
    return directory


def whole(kept: Path) -> list[Path]:
    """The messages that are written to their end."""
    return [path for path in kept.iterdir() if path.read_bytes().endswith(b"}")]


@VERSIONS
async def test_without_hooks_every_upload_is_found(
    settings: Settings, journal: SqliteJournal, version: Version
) -> None:
    with Tusd(settings.uploads.directory, version=version) as tusd:
        async with TusClient(tusd.url) as client:
            before = await client.send(b"before", METADATA)
            async with running(Intake(settings, journal, Recorded())):
                later = [await client.send(b"x" * size, METADATA) for size in (1, 100_000)]
                empty = await client.send(b"", METADATA)
                found = await until_uploads(
                    journal,
                    lambda all_: [each.state for each in all_] == [UploadState.RECEIVED] * 4,
                )
    assert {upload.tus_id for upload in found} == {before, *later, empty}
    assert sorted(upload.received for upload in found) == [0, 1, 6, 100_000]
    assert {(upload.study, upload.filename, upload.server) for upload in found} == {
        (STUDY, "a.txt", "tusd")
    }


@VERSIONS
async def test_hooks_thrice_and_in_any_order_make_each_upload_once(
    settings: Settings, journal: SqliteJournal, tmp_path: Path, version: Version
) -> None:
    kept = tmp_path / "kept"
    directory = keeping_hooks(tmp_path / "hooks", kept)
    async with running(Intake(settings, journal, Recorded())):
        # One of each request: see STEADY.
        options = ["-hooks-enabled-events", "post-create,post-finish"]
        with Tusd(settings.uploads.directory, directory, version=version, options=options) as tusd:
            async with TusClient(tusd.url) as client:
                sent = [await client.send(b"hello", METADATA) for _ in range(5)]
                await until(lambda: len(whole(kept)) >= 10, "all hooks ran")
        messages = whole(kept) * 3
        random.Random(3).shuffle(messages)
        for number, message in enumerate(messages):
            name, _, rest = message.name.partition(".")
            written = settings.spool / "tmp" / f"{number}"
            written.write_bytes(message.read_bytes())
            written.rename(settings.spool / "new" / f"{name}.{number}.{rest}")
        await until_uploads(
            journal, lambda _: not any((settings.spool / "new").iterdir()), seconds=20
        )
        found = await uploads_of(journal)
    assert sorted(upload.tus_id for upload in found) == sorted(sent)
    assert {(upload.state, upload.generation) for upload in found} == {(UploadState.RECEIVED, 1)}
    assert not any((settings.spool / "failed").iterdir())


async def test_an_id_with_directories_is_found(
    settings: Settings, journal: SqliteJournal, tmp_path: Path
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    hook = hooks / "pre-create"
    change = '{"ChangeFileInfo":{"ID":"project-1/x+y/%41","Storage":{"Path":"elsewhere/d.bin"}}}'
    hook.write_text(f"#!/bin/sh\necho '{change}'\n")
    hook.chmod(0o755)
    async with running(Intake(settings, journal, Recorded())):
        with Tusd(settings.uploads.directory, hooks) as tusd:
            async with TusClient(tusd.url) as client:
                await client.create(0, METADATA)
        (upload,) = await until_uploads(journal, lambda found: len(found) == 1)
    assert (upload.tus_id, upload.path) == ("project-1/x+y/%41", "elsewhere/d.bin")
    assert upload.state is UploadState.RECEIVED


@VERSIONS
async def test_a_deferred_length_is_complete_once_it_is_declared_and_there(
    settings: Settings, journal: SqliteJournal, version: Version
) -> None:
    with Tusd(settings.uploads.directory, version=version) as tusd:
        intake = Intake(settings, journal, Recorded())
        async with TusClient(tusd.url) as client, running(intake):
            upload = await client.create(None, METADATA)
            await client.patch(upload, 0, b"hello ")
            found = await until_uploads(journal, lambda all_: len(all_) == 1)
            assert (found[0].state, found[0].size) == (UploadState.RECEIVING, None)
            await client.patch(upload, 6, b"world", length=11)
            found = await until_uploads(journal, lambda all_: all_[0].state is UploadState.RECEIVED)
    assert (found[0].size, found[0].received) == (11, 11)


async def test_parts_are_no_uploads_and_the_whole_is_one(
    settings: Settings, journal: SqliteJournal
) -> None:
    with Tusd(settings.uploads.directory) as tusd:
        async with TusClient(tusd.url) as client:
            parts = []
            for data in (b"hello ", b"world"):
                part = await client.create(len(data), METADATA, {"Upload-Concat": "partial"})
                await client.patch(part, 0, data)
                parts.append(part)
            put_together = client.tus_id(await client.concatenate(parts, METADATA))
    async with running(Intake(settings, journal, Recorded())):
        (upload,) = await uploads_of(journal)
    assert (upload.tus_id, upload.received) == (put_together, 11)
    assert upload.partials == tuple(client.tus_id(part) for part in parts)


@VERSIONS
async def test_one_that_the_client_takes_back_is_terminated(
    settings: Settings, journal: SqliteJournal, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.intake.receiving.QUIET_SECONDS", 0.0)
    intake = Intake(settings, journal, Recorded())
    with Tusd(settings.uploads.directory, version=version) as tusd:
        async with TusClient(tusd.url) as client, running(intake):
            upload = await client.create(5, METADATA)
            await client.patch(upload, 0, b"he")
            await until_uploads(journal, lambda found: len(found) == 1)
            await client.terminate(upload)
            await intake.terminated(client.tus_id(upload))
            (seen,) = await uploads_of(journal)
    assert seen.state is UploadState.TERMINATED


async def test_a_killed_tusd_leaves_nothing_that_is_taken_too_early(
    settings: Settings, journal: SqliteJournal
) -> None:
    tusd = Tusd(settings.uploads.directory)
    finder = Finder(settings.uploads, journal, Recorded())
    with tusd:
        async with TusClient(tusd.url) as client:
            upload = await client.create(10, METADATA)
            await client.patch(upload, 0, b"hello")
        tusd.kill()
        await finder._scan()
        assert await uploads_of(journal) == []
        tusd.start()
        async with TusClient(tusd.url) as client:
            await client.patch(upload, 5, b"world")
        await finder._scan()
    (seen,) = await uploads_of(journal)
    assert (seen.state, seen.received) == (UploadState.RECEIVED, 10)

"""`[hooks] study_ids`: tusd keeps uploads below their study, where no other study's URL reaches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from daemon.cli import main
from daemon.errors import StudyRefusedError
from daemon.intake.hooks import HookServer
from daemon.intake.intake import Intake
from daemon.intake.study_places import make_place
from daemon.journal.model import UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Settings
from tests.peers.intake import STUDY, PlayedBroker, Recorded, running, settings_in, until_uploads
from tests.peers.nginx import Nginx
from tests.peers.tus_client import RefusedError, TusClient
from tests.peers.tusd import Tusd, Version, free_port

OTHER = "99999999-2222-4333-8444-555555555555"

pytestmark = pytest.mark.peers


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = settings_in(tmp_path)
    listen = f"127.0.0.1:{free_port()}"
    hooks = msgspec.structs.replace(settings.hooks, listen=listen, study_ids=True)
    return msgspec.structs.replace(settings, hooks=hooks)


@pytest.fixture
async def intake(
    settings: Settings, broker: PlayedBroker, journal: SqliteJournal
) -> AsyncIterator[Intake]:
    metrics = Recorded()
    intake = Intake(settings, journal, metrics)
    async with HookServer(settings, broker, journal, metrics, lookout=intake), running(intake):
        yield intake


def by_http(settings: Settings, version: Version = 2) -> Tusd:
    options = ["-hooks-http", f"http://{settings.hooks.listen}/hooks"]
    return Tusd(settings.uploads.directory, version=version, options=options)


@pytest.mark.usefixtures("intake")
async def test_another_studys_url_does_not_reach_an_upload(
    settings: Settings, journal: SqliteJournal, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[uploads]\ndirectory = "{tmp_path}/u"\n[hooks]\nstudy_ids = true\n')
    tusd = by_http(settings)
    tusd.port = free_port()
    nginx = Nginx(tmp_path / "nginx", tusd.url, ["--config", str(config)])
    with tusd, nginx:
        async with TusClient(nginx.url(STUDY)) as client:
            upload = await client.create(10, {"filename": "a"})
            await client.patch(upload, 0, b"hello")
            foreign = upload.replace(STUDY, OTHER)
            assert foreign != upload
            for attempt in (client.patch(foreign, 5, b"WORLD"), client.terminate(foreign)):
                with pytest.raises(RefusedError) as refused:
                    await attempt
                assert refused.value.status == 404
            await client.patch(upload, 5, b"world")
        (found,) = await until_uploads(
            journal, lambda all_: [each.state for each in all_] == [UploadState.RECEIVED]
        )
    assert (found.study, found.received) == (STUDY, 10)
    assert found.tus_id == f"{STUDY}/{upload.rpartition('/')[2]}"
    assert (settings.uploads.directory / found.tus_id).read_bytes() == b"helloworld"


@pytest.mark.parametrize("length", [10, 6000])
@pytest.mark.usefixtures("intake")
async def test_the_announcement_is_found_by_the_id_it_was_given(
    settings: Settings, journal: SqliteJournal, length: int
) -> None:
    """Also where tusd takes no metadata from an answer that is too long for it."""
    metadata = {"study": STUDY, "filename": "a", "note": "x" * length}
    with by_http(settings) as tusd:
        async with TusClient(tusd.url) as client:
            sent = [await client.send(b"hello", metadata) for _ in range(2)]
        found = await until_uploads(journal, lambda all_: len(all_) == 2)
    assert {upload.tus_id for upload in found} == set(sent)
    assert {upload.api_id for upload in found} == {"api-1", "api-2"}
    assert ("dropoff_id" in found[0].metadata) == (length == 10)


@pytest.mark.usefixtures("intake")
async def test_a_whole_and_its_parts_are_below_their_study(
    settings: Settings, journal: SqliteJournal
) -> None:
    with by_http(settings) as tusd:
        async with TusClient(tusd.url) as client:
            part = await client.create(5, {"study": STUDY}, {"Upload-Concat": "partial"})
            await client.patch(part, 0, b"hello")
            whole = client.tus_id(await client.concatenate([part], {"study": STUDY}))
        (found,) = await until_uploads(journal, lambda all_: len(all_) == 1)
    assert found.tus_id == whole
    assert found.partials == (client.tus_id(part),)
    assert {each.partition("/")[0] for each in (whole, *found.partials)} == {STUDY}


@pytest.mark.usefixtures("intake")
async def test_tusd_1_keeps_its_own_ids(settings: Settings) -> None:
    with by_http(settings, version=1) as tusd:
        async with TusClient(tusd.url) as client:
            assert "/" not in await client.send(b"hello", {"study": STUDY})


@pytest.mark.usefixtures("intake")
async def test_what_is_refused_leaves_no_trace(settings: Settings, broker: PlayedBroker) -> None:
    broker.error = StudyRefusedError("the study is closed", 410)
    with by_http(settings) as tusd:
        async with TusClient(tusd.url) as client:
            with pytest.raises(RefusedError):
                await client.create(5, {"study": STUDY})
    assert list(settings.uploads.directory.iterdir()) == []


@pytest.mark.usefixtures("intake")
async def test_a_place_that_can_not_be_made_is_left_to_tusd(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("daemon.intake.hooks.make_place", fail)
    with by_http(settings) as tusd:
        async with TusClient(tusd.url) as client:
            tus_id = await client.send(b"hello", {"study": STUDY})
    assert (settings.uploads.directory / tus_id).read_bytes() == b"hello"


@pytest.mark.parametrize("mode", [0o2770, 0o755])
def test_a_studys_place_is_open_to_whom_the_upload_directory_is(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    make_place(tmp_path, STUDY)
    make_place(tmp_path, STUDY)
    made, above = (tmp_path / STUDY).stat(), tmp_path.stat()
    assert made.st_mode & 0o7777 == mode
    assert (made.st_uid, made.st_gid) == (above.st_uid, above.st_gid)


def test_a_studys_place_that_leads_elsewhere_is_left(tmp_path: Path) -> None:
    uploads, elsewhere = tmp_path / "uploads", tmp_path / "elsewhere"
    uploads.mkdir(mode=0o755)
    elsewhere.mkdir(mode=0o700)
    (uploads / STUDY).symlink_to(elsewhere)
    make_place(uploads, STUDY)
    assert elsewhere.stat().st_mode & 0o777 == 0o700


def test_the_setting_has_to_be_true_or_false(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[hooks]\nstudy_ids = "yes"\n')
    command = ["install", "nginx", "--directory", str(tmp_path / "nginx")]
    assert main([*command, "--config", str(config)]) == 78

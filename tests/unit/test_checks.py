"""Checks by themselves: what they find, and that none of them can spoil the others."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.checks import hooks, places, records, remote, studies
from daemon.checks.findings import Check, Finding, Status, ok, run_checks, worst
from daemon.cli.install import hooks as hook_texts
from daemon.errors import ConfigError
from daemon.journal.model import Error
from daemon.journal.sqlite import SqliteJournal
from daemon.observe.audit import AuditLog
from daemon.settings import Api, Destination, Settings, Study
from pipeline.destinations.probe import PREFIX
from pipeline.destinations.s3_errors import MissingError
from pipeline.envelope import keys
from pipeline.errors import DestinationRefusedError, ForgottenError
from pipeline.messages import DestinationSpec, StoredObject, Target
from tests.peers.intake import settings_in
from tests.peers.journals import received

STUDY = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def statuses(findings: Sequence[Finding]) -> list[Status]:
    return [finding.status for finding in findings]


# Running ----------------------------------------------------------------------------------


def check(
    name: str, run: Callable[[], Awaitable[Sequence[Finding]]], timeout: float = 10.0
) -> Check:
    return Check(name=name, run=run, timeout=timeout)


async def fine() -> Sequence[Finding]:
    await asyncio.sleep(0)
    return [ok("fine", "all is well")]


@pytest.mark.parametrize(
    "trouble",
    [ConfigError("wrong"), OSError(28, "No space left", "/x"), ValueError("bug"), TimeoutError()],
)
async def test_a_check_that_breaks_is_a_line_of_its_own(trouble: Exception) -> None:
    async def breaks() -> Sequence[Finding]:
        await asyncio.sleep(0)
        raise trouble

    found = await run_checks([check("first", breaks), check("fine", fine)])
    assert [(each.check, each.status) for each in found] == [
        ("first", Status.ERROR),
        ("fine", Status.OK),
    ]


async def test_a_check_that_hangs_ends_in_time_and_delays_no_other() -> None:
    async def hangs() -> Sequence[Finding]:
        await asyncio.sleep(60)
        return []

    found = await run_checks([check("hangs", hangs, 0.05), check("fine", fine)])
    assert statuses(found) == [Status.ERROR, Status.OK]
    assert "0.05 s" in found[0].message


async def test_checks_run_side_by_side() -> None:
    meeting = asyncio.Barrier(3)

    async def meets() -> Sequence[Finding]:
        await meeting.wait()
        return await fine()

    assert worst(await run_checks([check(name, meets, 5) for name in "abc"])) is Status.OK


# Places -----------------------------------------------------------------------------------


def test_an_upload_directory_that_is_missing_is_an_error(settings: Settings) -> None:
    assert worst(places.uploads(settings)) is Status.OK
    settings.uploads.directory.rmdir()
    (found,) = places.uploads(settings)
    assert (found.status, found.subject) == (Status.ERROR, "directory")


def test_an_upload_directory_that_anybody_can_write_is_warned_of(settings: Settings) -> None:
    settings.uploads.directory.chmod(0o777)
    assert Status.WARNING in statuses(places.uploads(settings))


def test_places_that_are_not_there_yet_can_be_made(settings: Settings) -> None:
    assert statuses([*places.spool(settings), *places.state(settings)]) == [Status.OK] * 2
    assert not settings.spool.exists(), "looking makes nothing"
    assert not settings.state.exists()


def test_a_file_in_a_directory_s_place_is_an_error(settings: Settings) -> None:
    settings.spool.write_text("")
    settings.state.write_text("")
    assert worst(places.spool(settings)) is Status.ERROR
    assert worst(places.state(settings)) is Status.ERROR


def test_writing_is_tried_and_leaves_nothing(settings: Settings) -> None:
    for name in ("tmp", "new", "failed"):
        (settings.spool / name).mkdir(parents=True)
        (settings.spool / name).chmod(0o2770)
    settings.state.mkdir(0o700)
    assert worst([*places.spool(settings), *places.state(settings)]) is Status.OK
    assert [path for path in settings.spool.rglob("*") if path.is_file()] == []
    assert list(settings.state.iterdir()) == []


def test_what_can_t_be_written_is_an_error(settings: Settings) -> None:
    # Nobody makes files there, not even root.
    nowhere = msgspec.structs.replace(settings, state=Path("/proc"), spool=Path("/proc"))
    assert worst(places.state(nowhere)) is Status.ERROR
    assert worst(places.spool(nowhere)) is Status.ERROR


def test_events_that_nobody_understood_are_warned_of(settings: Settings) -> None:
    failed = settings.spool / "failed"
    failed.mkdir(parents=True)
    (failed / "post-create.1.json").write_text("?")
    assert "1 events" in next(
        each.message for each in places.spool(settings) if each.status is Status.WARNING
    )


def test_a_session_key_file_that_others_can_read_is_an_error(settings: Settings) -> None:
    settings.state.mkdir()
    (settings.state / "journal.key").write_bytes(bytes(32))
    (settings.state / "journal.key").chmod(0o644)
    assert worst(places.state(settings)) is Status.ERROR


@pytest.mark.parametrize(
    ("free", "status"),
    [(10 * 1024**3, Status.OK), (500 * 1024**2, Status.WARNING), (1024**2, Status.ERROR)],
)
def test_little_room_is_told_of(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, free: int, status: Status
) -> None:
    real = os.statvfs(settings.uploads.directory)

    def told(_: Path) -> os.statvfs_result:
        fields = list(real)
        fields[:5] = [4096, 4096, 10**9, free // 4096, free // 4096]
        return os.statvfs_result(fields)

    monkeypatch.setattr("daemon.checks.places.os.statvfs", told)
    assert worst(places.space(settings)) is status


def test_a_config_file_that_anybody_can_change_is_an_error(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("")
    named = msgspec.structs.replace(settings, file=file)
    file.chmod(0o640)
    assert worst(places.config_file(named)) is Status.OK
    file.chmod(0o666)
    assert worst(places.config_file(named)) is Status.ERROR


# Records ----------------------------------------------------------------------------------


async def test_no_journal_yet_is_fine_and_none_is_made(settings: Settings) -> None:
    assert worst(await records.journal(settings)) is Status.OK
    assert not settings.state.exists()


async def test_failed_uploads_and_parked_reports_are_warned_of(settings: Settings) -> None:
    async with await SqliteJournal.open(settings.state) as journal:
        upload = await received(journal)
        error = Error(code="study_refused", message="no", retryable=False)
        await journal.fail(upload.id, error, 101.0)
        for report in await journal.due_reports(1e12, 10):
            await journal.park(report.id, error)
        found = await records.journal(settings)
    assert [(each.check, each.status) for each in found] == [
        ("journal", Status.OK),
        ("failed uploads", Status.WARNING),
        ("parked reports", Status.WARNING),
    ]


async def test_a_journal_that_is_none_is_an_error(settings: Settings) -> None:
    settings.state.mkdir()
    (settings.state / "journal.sqlite").write_bytes(b"no database at all" * 100)
    found = await run_checks([check("journal", lambda: records.journal(settings))])
    assert statuses(found) == [Status.ERROR]


async def test_a_changed_audit_log_is_an_error(settings: Settings) -> None:
    settings.state.mkdir()
    path = settings.state / "audit.jsonl"
    log = AuditLog(path)
    for name in ("a", "b"):
        await log.record("retry", name, "olga")
    assert worst(await records.audit(settings)) is Status.OK
    path.write_text(path.read_text().replace("olga", "otto", 1))
    assert worst(await records.audit(settings)) is Status.ERROR


async def test_a_socket_without_a_daemon_is_warned_of(settings: Settings) -> None:
    assert worst(await records.daemon(settings)) is Status.WARNING
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(settings.hooks.socket))
    assert worst(await records.daemon(settings)) is Status.WARNING


# Studies ----------------------------------------------------------------------------------


def study(recipients: tuple[str, ...]) -> Study:
    return Study(id=STUDY, encrypt="crypt4gh", recipients=recipients, destinations=("local",))


def test_recipients_keys_are_tried(settings: Settings) -> None:
    good = study((keys.crypt4gh_generate().public,))
    (found,) = studies.recipients(msgspec.structs.replace(settings, studies={STUDY: good}))
    assert (found.status, found.subject) == (Status.OK, STUDY)
    assert "c4gh:" in found.message
    for bad in ((), ("age1qqq",), ("nonsense",)):
        wrong = msgspec.structs.replace(settings, studies={STUDY: study(bad)})
        assert worst(studies.recipients(wrong)) is Status.ERROR


# REST API ---------------------------------------------------------------------------------


class Elsewhere(BaseHTTPRequestHandler):
    """A web server that knows nothing of HAWK."""

    status = 404

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def elsewhere() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), type("Here", (Elsewhere,), {}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def with_api(settings: Settings, port: int) -> Settings:
    api = Api(url=f"http://127.0.0.1:{port}/", hawk_key="k", hawk_secret="s", timeout=5.0)
    return msgspec.structs.replace(settings, api=api)


@pytest.mark.parametrize(
    ("status", "found"),
    [(404, Status.WARNING), (200, Status.ERROR), (401, Status.ERROR), (500, Status.ERROR)],
)
async def test_another_server_in_the_api_s_place_is_told_of(
    settings: Settings, elsewhere: HTTPServer, status: int, found: Status
) -> None:
    handler: type[Elsewhere] = elsewhere.RequestHandlerClass  # type: ignore[assignment]
    handler.status = status
    answer, *_ = await remote.api(with_api(settings, elsewhere.server_port))
    assert (answer.check, answer.status) == ("api", found), answer


async def test_an_api_that_is_away_is_an_error(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert statuses(await remote.api(with_api(settings, port))) == [Status.ERROR]


async def test_no_api_and_no_study_is_an_error(settings: Settings) -> None:
    assert worst(await remote.api(settings)) is Status.ERROR
    some = msgspec.structs.replace(settings, studies={STUDY: study(())})
    assert worst(await remote.api(some)) is Status.OK


# Destinations -----------------------------------------------------------------------------


def directory(path: Path) -> Destination:
    return Destination(spec=DestinationSpec(name="local", type="directory", directory=str(path)))


def names_in(path: Path) -> list[str]:
    return [each.name for each in path.iterdir()]


async def test_a_directory_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "kept").write_text("kept")
    assert statuses(await remote.destination("local", directory(store))) == [Status.OK]
    assert names_in(store) == ["kept"]


async def test_a_directory_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing", tmp_path / "file"):
        (found,) = await remote.destination("local", directory(path))
        assert found.status is Status.ERROR
        assert "has to be removed" not in found.message


async def test_a_probe_that_is_cancelled_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = asyncio.Event()

    async def hangs(*_: object, **__: object) -> None:
        written.set()
        await asyncio.sleep(60)

    monkeypatch.setattr("pipeline.destinations.probe.look", hangs)
    task = asyncio.create_task(_destination(tmp_path))
    await written.wait()
    assert [name[: len(PREFIX)] for name in names_in(tmp_path)] == [PREFIX]
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert names_in(tmp_path) == []


async def _destination(path: Path) -> Sequence[Finding]:
    return await remote.destination("local", directory(path))


class Guarded:
    """A bucket in which some operations are not allowed."""

    def __init__(self, forbidden: set[str]) -> None:
        self.forbidden = forbidden
        self.written: list[str] = []

    async def call(self, operation: str, **_: object) -> dict[str, Any]:
        await asyncio.sleep(0)
        if operation in self.forbidden:
            raise DestinationRefusedError("the store answered 403 AccessDenied")
        if operation == "head_object":
            raise MissingError("the store answered 404")
        if operation == "abort_multipart_upload":
            raise ForgottenError("the store answered 404 NoSuchUpload")
        return {}

    async def put(self, target: Target, *_: object, **__: object) -> StoredObject:
        self.written.append(target.name)
        await asyncio.sleep(0)
        raise DestinationRefusedError("the store answered 403 AccessDenied")

    async def begin(self, target: Target, **_: object) -> str:
        self.written.append(target.name)
        await asyncio.sleep(0)
        return "begun"

    async def abort(self, target: Target, reference: str) -> None:
        assert reference == "begun"
        self.written.remove(target.name)

    async def aclose(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize(
    ("forbidden", "status"),
    [
        ({"delete_object"}, Status.WARNING),
        ({"delete_object", "abort_multipart_upload"}, Status.ERROR),
    ],
)
async def test_where_removing_is_forbidden_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, forbidden: set[str], status: Status
) -> None:
    bucket = Guarded(forbidden)
    monkeypatch.setattr("pipeline.destinations.s3_client.S3Client", lambda _: bucket)
    monkeypatch.setattr("pipeline.destinations.probe.open_destination", lambda _: bucket)
    spec = DestinationSpec(name="archive", type="s3", bucket="b", endpoint="http://127.0.0.1:9")
    (found,) = await remote.destination("archive", Destination(spec=spec))
    assert found.status is status
    assert bucket.written == []


# Hooks ------------------------------------------------------------------------------------


@pytest.fixture(params=["tusd", "tusd1", "rustus"])
def installed(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Path:
    place = tmp_path / "hooks"
    place.mkdir()
    for name, text in hook_texts(settings, request.param).items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return place


def test_the_installed_pre_create_is_seen_to_refuse(settings: Settings, installed: Path) -> None:
    first, *_ = hooks.installed(settings, installed)
    assert (first.status, first.message) == (Status.OK, "refuses while no daemon answers")


def test_one_that_lets_uploads_through_is_an_error(settings: Settings, installed: Path) -> None:
    hook = installed / "pre-create"
    lines = hook.read_text().splitlines(keepends=True)
    hook.write_text("".join([*lines[:1], *(x for x in lines if x[:7] in {"server=", "socket="})]))
    assert "exit" not in hook.read_text()
    first, *_ = hooks.installed(settings, installed)
    assert (first.status, "lets uploads through" in first.message) == (Status.ERROR, True)


def test_one_that_asks_elsewhere_or_can_t_run_or_is_missing_is_an_error(
    settings: Settings, installed: Path
) -> None:
    hook = installed / "pre-create"
    moved = msgspec.structs.replace(
        settings, hooks=msgspec.structs.replace(settings.hooks, socket=Path("/elsewhere.sock"))
    )
    assert worst(hooks.installed(moved, installed)) is Status.ERROR
    hook.chmod(stat.S_IMODE(hook.stat().st_mode) & ~0o111)
    assert worst(hooks.installed(settings, installed)) is Status.ERROR
    hook.unlink()
    assert worst(hooks.installed(settings, installed)) is Status.ERROR


def test_another_s_hook_is_not_run(settings: Settings, tmp_path: Path) -> None:
    hook = tmp_path / "pre-create"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/it-ran\n")
    hook.chmod(0o755)
    (found,) = hooks.installed(settings, tmp_path)
    assert found.status is Status.WARNING
    assert not (tmp_path / "it-ran").exists()

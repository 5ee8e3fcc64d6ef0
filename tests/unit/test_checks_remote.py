"""Checks of what is asked or run: the REST API, destinations, and the hook that is installed."""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.checks import hooks, remote
from daemon.checks.findings import Finding, Status, worst
from daemon.cli.install import hooks as hook_texts
from daemon.settings import Api, Destination, Settings, Study
from pipeline.destinations.probe import PREFIX
from pipeline.destinations.s3_errors import MissingError
from pipeline.errors import DestinationRefusedError, ForgottenError
from pipeline.messages import DestinationSpec, StoredObject, Target

STUDY = "11111111-2222-4333-8444-555555555555"


def statuses(findings: Sequence[Finding]) -> list[Status]:
    return [finding.status for finding in findings]


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
    study = Study(id=STUDY, encrypt="none", recipients=(), destinations=("local",))
    some = msgspec.structs.replace(settings, studies={STUDY: study})
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

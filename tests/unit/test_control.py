"""What retry and discard do, who may order them, and what a crash between two steps leaves."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from daemon.control import Control, DiscardOrder, Operator, Outcome, RetryOrder
from daemon.errors import StateFullError
from daemon.journal.model import Error, Identity, Upload, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.observe.audit import AuditLog
from daemon.opening import identify
from daemon.sources import FileSources
from tests.peers.intake import until
from tests.peers.journals import sighting, stored

WHO = Operator(1234, "olga")
REFUSED = Error(code="destination_refused", message="no such bucket", retryable=False)


class Desk:
    """A journal, its audit log, an upload directory with real files, and the control of them."""

    def __init__(self, directory: Path, journal: SqliteJournal) -> None:
        self.uploads = directory / "uploads"
        self.uploads.mkdir(exist_ok=True)
        self.journal = journal
        self.log = directory / "audit.jsonl"
        self.sources = FileSources(self.uploads)
        self.control = self.new_control()

    def new_control(self, *, keep_sources: bool = False) -> Control:
        audit = AuditLog(self.log)
        return Control(self.journal, self.sources, audit, lambda: 200.0, keep_sources=keep_sources)

    @property
    def audited(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    async def received(self, tus_id: str = "t1") -> Upload:
        (self.uploads / tus_id).write_bytes(b"x" * 1000)
        (self.uploads / f"{tus_id}.info").write_text("{}")
        sighted = sighting(
            tus_id,
            directory=str(self.uploads),
            info_path=str(self.uploads / f"{tus_id}.info"),
            identity=self.identity(tus_id),
        )
        return await self.journal.sight(sighted, 100.0)

    async def failed(self, tus_id: str = "t1") -> Upload:
        upload = await self.received(tus_id)
        await self.journal.fail(upload.id, REFUSED, 150.0)
        return await self.journal.upload(upload.id)

    async def discard(self, *uploads: str) -> list[Outcome]:
        order = DiscardOrder(uploads=uploads, reason="sent twice")
        return (await self.control.discard(order, WHO)).uploads

    async def retry(self, *uploads: str, failed: bool = False) -> list[Outcome]:
        order = RetryOrder(uploads=uploads, failed=failed)
        return (await self.control.retry(order, WHO)).uploads

    async def state(self, upload: Upload) -> UploadState:
        return (await self.journal.upload(upload.id)).state

    def identity(self, tus_id: str) -> Identity:
        return identify(self.uploads, tus_id)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.uploads.iterdir())


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with await SqliteJournal.open(tmp_path / "state") as journal:
        yield Desk(tmp_path, journal)


# Retry ------------------------------------------------------------------------------------


async def test_a_failed_upload_goes_on_after_a_retry(desk: Desk) -> None:
    upload = await desk.failed()
    (outcome,) = await desk.retry(upload.id[:6])
    assert (outcome.done, outcome.upload, outcome.state) == (True, upload.id, "received")
    assert [entry["action"] for entry in desk.audited] == ["retry"]
    assert desk.audited[0] | {"upload": upload.id, "by": "olga", "uid": 1234} == desk.audited[0]


async def test_one_that_did_not_fail_is_let_be_and_the_others_go_on(desk: Desk) -> None:
    fine, upload = await desk.received("t1"), await desk.failed("t2")
    refused, unknown, done = await desk.retry("t1", "nobody", "t2")
    assert (refused.error or {})["code"] == "conflict"
    assert (unknown.error or {})["code"] == "not_found"
    assert done.done
    assert await desk.state(fine) is UploadState.RECEIVED
    assert [entry["upload"] for entry in desk.audited] == [upload.id]


async def test_all_failed_are_retried_and_nothing_else(desk: Desk) -> None:
    await desk.received("t0")
    failed = {(await desk.failed(name)).id for name in ("t1", "t2", "t3")}
    outcomes = await desk.retry(failed=True)
    assert {outcome.upload for outcome in outcomes} == failed
    assert all(outcome.done for outcome in outcomes)
    assert await desk.retry(failed=True) == []


async def test_an_upload_named_twice_is_acted_upon_once(desk: Desk) -> None:
    upload = await desk.failed("t1")
    assert len(await desk.retry("t1", upload.id)) == 1


async def test_failed_takes_in_stored_uploads_whose_report_was_refused(desk: Desk) -> None:
    upload = await stored(desk.journal)
    while due := await desk.journal.due_reports(1e12, 10):
        for report in due:
            await desk.journal.park(report.id, REFUSED)
    assert (await desk.journal.report_counts())["parked"] > 0
    assert [outcome.upload for outcome in await desk.retry(failed=True)] == [upload.id]
    assert (await desk.journal.report_counts())["parked"] == 0


# Discard ----------------------------------------------------------------------------------


async def test_a_discarded_upload_s_file_goes_and_both_are_audited(desk: Desk) -> None:
    upload = await desk.failed()
    (outcome,) = await desk.discard("t1")
    assert (outcome.done, outcome.state, outcome.source) == (True, "discarded", "deleted")
    assert desk.files() == []
    ordered, deleted = desk.audited
    assert ordered["action"] == "discard"
    assert (ordered["upload"], ordered["by"], ordered["uid"]) == (upload.id, "olga", 1234)
    assert ordered["reason"] == "sent twice"
    assert deleted["action"] == "source_deleted"


async def test_only_what_has_failed_can_be_discarded(desk: Desk) -> None:
    upload = await desk.received()
    (outcome,) = await desk.discard("t1")
    assert (outcome.error or {})["code"] == "conflict"
    assert await desk.state(upload) is UploadState.RECEIVED
    assert desk.files() == ["t1", "t1.info"]
    assert not desk.log.exists()


async def test_sources_are_kept_where_the_configuration_says_so(desk: Desk) -> None:
    await desk.failed()
    desk.control = desk.new_control(keep_sources=True)
    (outcome,) = await desk.discard("t1")
    assert (outcome.done, outcome.source) == (True, "kept")
    assert desk.files() == ["t1", "t1.info"]
    await desk.control.finish_discarded()
    assert desk.files() == ["t1", "t1.info"]


async def test_a_changed_file_is_given_up_as_it_is_now_and_never_taken_again(desk: Desk) -> None:
    upload = await desk.failed()
    (desk.uploads / "t1").write_bytes(b"changed")
    desk.control = desk.new_control(keep_sources=True)
    assert (await desk.discard("t1"))[0].done
    seen = sighting(
        "t1",
        directory=str(desk.uploads),
        info_path=upload.info_path,
        identity=desk.identity("t1"),
    )
    assert (await desk.journal.sight(seen, 300.0)).id == upload.id, "no new upload"


async def test_a_replaced_file_is_deleted_with_its_discarded_upload(desk: Desk) -> None:
    await desk.failed()
    (desk.uploads / "new").write_bytes(b"other")
    (desk.uploads / "new").rename(desk.uploads / "t1")
    assert (await desk.discard("t1"))[0].source == "deleted"
    assert desk.files() == []


async def test_a_symlink_in_the_file_s_place_leads_nowhere(desk: Desk, tmp_path: Path) -> None:
    await desk.failed()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (desk.uploads / "t1").unlink()
    (desk.uploads / "t1").symlink_to(victim)
    await desk.discard("t1")
    assert victim.read_text() == "precious"


# Crashes ----------------------------------------------------------------------------------


async def test_a_crash_before_the_file_is_deleted_is_made_good_at_the_next_start(
    desk: Desk,
) -> None:
    upload = await desk.failed()
    await desk.journal.discard(upload.id, 200.0, desk.identity("t1"))
    async with desk.new_control().finishing():
        await until(lambda: not desk.files() and desk.log.exists(), "the file is gone")
    assert desk.audited[-1]["action"] == "source_deleted"


async def test_or_when_it_is_discarded_once_more(desk: Desk) -> None:
    upload = await desk.failed()
    await desk.journal.discard(upload.id, 200.0, desk.identity("t1"))
    (outcome,) = await desk.discard("t1")
    assert (outcome.done, outcome.source) == (True, "deleted")
    assert desk.files() == []
    (again,) = await desk.discard("t1")
    assert (again.error or {})["code"] == "conflict"


async def test_a_crash_between_the_data_and_its_info_leaves_no_info(desk: Desk) -> None:
    upload = await desk.failed()
    await desk.journal.discard(upload.id, 200.0, desk.identity("t1"))
    (desk.uploads / "t1").unlink()
    await desk.control.finish_discarded()
    assert desk.files() == []


async def test_a_new_upload_under_the_old_id_is_never_deleted(desk: Desk) -> None:
    await desk.failed()
    await desk.discard("t1")
    (desk.uploads / "t1").write_bytes(b"a new one")
    (desk.uploads / "t1.info").write_text("{}")
    await desk.control.finish_discarded()
    await desk.discard("t1")
    assert desk.files() == ["t1", "t1.info"]


async def test_an_order_that_the_journal_refuses_is_audited_as_failed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.failed()

    async def full(*_: object) -> None:
        await asyncio.sleep(0)
        raise StateFullError("no space left")

    monkeypatch.setattr(desk.journal, "discard", full)
    (outcome,) = await desk.discard("t1")
    assert (outcome.error or {})["code"] == "state_full"
    assert [entry["action"] for entry in desk.audited] == ["discard", "discard_failed"]
    assert desk.files() == ["t1", "t1.info"], "nothing is deleted that may still be wanted"


# Who may ----------------------------------------------------------------------------------

ASK = """
import os, socket, sys
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
connection = socket.socket(socket.AF_UNIX)
connection.connect("\\0" + sys.argv[1])
connection.sendall(b"POST /control/retry HTTP/1.0\\r\\nContent-Length: 15\\r\\n\\r\\n"
                   b'{"failed":true}')
print(connection.recv(4096).split()[1].decode())
"""


@asynccontextmanager
async def served(control: Control) -> AsyncIterator[tuple[str, int]]:
    """The routes on an abstract socket, which every user can reach, and on a TCP port."""
    app = web.Application()
    app.add_routes(control.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    name = f"dropoffd-test-{uuid.uuid4()}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + name)
    port_listener = socket.create_server(("127.0.0.1", 0))
    try:
        await web.SockSite(runner, listener).start()
        await web.SockSite(runner, port_listener).start()
        yield name, int(port_listener.getsockname()[1])
    finally:
        await runner.cleanup()


async def asked(name: str, *user: str) -> str:
    """The status that another process gets, as another user if need be."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-IS", "-c", ASK, name, *user],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return str(done.stdout.strip())


async def test_the_daemon_s_own_user_may(desk: Desk) -> None:
    async with served(desk.control) as (name, _):
        assert await asked(name) == "200"


async def test_another_user_may_not(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = await desk.failed()
    monkeypatch.setattr("daemon.control.os.geteuid", lambda: 4711)
    async with served(desk.control) as (name, _):
        assert await asked(name, *(["65534"] if os.getuid() == 0 else [])) == "403"
    assert await desk.state(upload) is UploadState.FAILED


async def test_nobody_may_over_tcp(desk: Desk) -> None:
    upload = await desk.failed()
    async with served(desk.control) as (_, port), aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}/control/retry"
        async with session.post(url, json={"failed": True}) as answer:
            assert answer.status == 404
    assert await desk.state(upload) is UploadState.FAILED


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("retry", b""),
        ("retry", b"[]"),
        ("retry", b"{}"),
        ("retry", b'{"uploads": "t1"}'),
        ("retry", b'{"uploads": ["t1"], "force": true}'),
        ("discard", b'{"uploads": ["t1"]}'),
        ("discard", b'{"uploads": ["t1"], "reason": "  "}'),
        ("discard", b'{"uploads": [], "reason": "why"}'),
        ("discard", b'{"uploads": ["t1"], "reason": "\xff"}'),
    ],
)
async def test_an_order_of_another_shape_does_nothing(desk: Desk, path: str, body: bytes) -> None:
    upload = await desk.failed()
    async with served(desk.control) as (name, _):
        connector = aiohttp.UnixConnector("\0" + name)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"http://localhost/control/{path}", data=body) as answer,
        ):
            assert answer.status == 400
    assert await desk.state(upload) is UploadState.FAILED

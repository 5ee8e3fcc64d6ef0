"""Checks by themselves: what they find, and that none of them can spoil the others."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from daemon.checks import places, records, studies
from daemon.checks.findings import Check, Finding, Status, ok, run_checks, worst
from daemon.errors import ConfigError
from daemon.journal.model import Error
from daemon.journal.sqlite import SqliteJournal
from daemon.observe.audit import AuditLog
from daemon.settings import Settings, Study
from pipeline.envelope import keys
from tests.peers.journals import received

STUDY = "11111111-2222-4333-8444-555555555555"


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

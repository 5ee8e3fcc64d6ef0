from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.observe.audit import FIRST, AuditBrokenError, AuditLog, verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def write(path: Path, count: int, start: int = 0) -> None:
    log = AuditLog(path, clock=lambda: 1_767_268_800.0)

    async def record() -> None:
        for number in range(start, start + count):
            await log.record("retry", f"u{number}", "root", reason="because")

    asyncio.run(record())


def test_each_entry_carries_the_hash_of_the_one_before(path: Path) -> None:
    write(path, 3)
    lines = path.read_bytes().splitlines()
    entries = [json.loads(line) for line in lines]
    assert entries[0] == {
        "ts": "2026-01-01T12:00:00.000Z",
        "action": "retry",
        "upload": "u0",
        "by": "root",
        "reason": "because",
        "previous": FIRST,
    }
    assert entries[1]["previous"] == hashlib.sha256(lines[0]).hexdigest()
    assert entries[2]["previous"] == hashlib.sha256(lines[1]).hexdigest()
    assert verify(path) == 3


def test_the_chain_goes_on_after_a_restart(path: Path) -> None:
    write(path, 2)
    write(path, 2, start=2)
    assert verify(path) == 4


def test_no_log_has_no_entries(path: Path) -> None:
    assert verify(path) == 0


def test_an_entry_belongs_to_its_owner_alone(path: Path) -> None:
    write(path, 1)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_changed_entry_is_found_with_its_line(path: Path, line: int) -> None:
    write(path, 4)
    lines = path.read_text().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace("because", "becuase")
    path.write_text("".join(lines))
    with pytest.raises(AuditBrokenError, match=rf"audit\.jsonl:{line + 1}:"):
        verify(path)


def test_an_entry_that_was_taken_out_is_found(path: Path) -> None:
    write(path, 4)
    lines = path.read_text().splitlines(keepends=True)
    del lines[1]
    path.write_text("".join(lines))
    with pytest.raises(AuditBrokenError, match=":2:"):
        verify(path)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_line_that_was_put_in_is_found(path: Path, place: int) -> None:
    write(path, 4)
    lines = path.read_text().splitlines(keepends=True)
    lines.insert(place, "not an entry\n")
    path.write_text("".join(lines))
    with pytest.raises(AuditBrokenError, match=f":{place + 1}:"):
        verify(path)


def test_a_line_that_nests_without_end_is_found(path: Path) -> None:
    write(path, 4)
    deep = '{"ts":"","why":' + "[" * 100_000 + "]" * 100_000 + "}\n"
    path.write_text(path.read_text() + deep + deep.replace("{", " {"))
    with pytest.raises(AuditBrokenError, match=":6:"):
        verify(path)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(torn=st.integers(1, 400), again=st.integers(1, 400))
def test_whatever_a_crash_tears_the_chain_goes_on(path: Path, torn: int, again: int) -> None:
    path.unlink(missing_ok=True)
    write(path, 3)
    whole = path.read_bytes()
    # The crash: the next write ends anywhere; and so does the one that would have recovered.
    for number, cut in ((3, torn), (4, again)):
        write(path, 1, start=number)
        grown = path.read_bytes()
        path.write_bytes(grown[: min(len(whole) + cut, len(grown))])
        assert verify(path) >= 3
        whole = path.read_bytes()
    write(path, 2, start=5)
    assert verify(path) >= 5
    uploads = [json.loads(text)["upload"] for text in _entries(path)]
    assert [name for name in uploads if name][:3] == ["u0", "u1", "u2"]
    assert uploads[-2:] == ["u5", "u6"]


def _entries(path: Path) -> list[str]:
    found = []
    for text in path.read_text().splitlines():
        try:
            json.loads(text)
        except ValueError:
            continue
        found.append(text)
    return found


def test_zeros_that_a_power_loss_left_are_torn_too(path: Path) -> None:
    write(path, 2)
    with path.open("ab") as file:
        file.write(bytes(100))
    assert verify(path) == 2
    write(path, 1, start=2)
    assert verify(path) == 4


def test_a_recovery_cannot_hide_an_entry_that_was_taken_out(path: Path) -> None:
    write(path, 3)
    path.write_bytes(path.read_bytes()[:-20])
    write(path, 1, start=3)
    assert verify(path) == 4  # two whole ones, the recovery, the new one
    lines = path.read_text().splitlines(keepends=True)
    del lines[1]
    path.write_text("".join(lines))
    with pytest.raises(AuditBrokenError, match=":2:"):
        verify(path)


async def test_entries_at_once_make_one_chain(path: Path) -> None:
    one, other = AuditLog(path), AuditLog(path)
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(one.record("retry", f"a{number}", "root"))
            group.create_task(other.record("retry", f"b{number}", "root"))
    assert verify(path) == 40


def test_a_long_reason_is_cut_and_not_the_chain(path: Path) -> None:
    log = AuditLog(path)
    asyncio.run(log.record("discard", "u1", "root", reason="x" * 5_000_000))
    asyncio.run(log.record("discard", "u2", "root", reason="short"))
    assert verify(path) == 2
    assert path.stat().st_size < 60_000


async def test_fields_cannot_forge_the_chain(path: Path) -> None:
    log = AuditLog(path)
    await log.record("retry", "u1", "root", reason='"}\n{"previous":"')
    await log.record("retry", "u2", "root", previous="0" * 64)
    assert verify(path) == 2


def test_a_full_disk_is_state_full_and_leaves_the_chain_whole(path: Path) -> None:
    # In a process of its own: the limit makes a short write and then EFBIG.
    script = """
import asyncio, resource, signal, sys
from pathlib import Path
from daemon.errors import StateFullError
from daemon.observe.audit import AuditLog, verify
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
log = AuditLog(path)
asyncio.run(log.record("retry", "u1", "root"))
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
try:
    asyncio.run(log.record("retry", "u2", "root"))
except StateFullError:
    assert path.stat().st_size == size
    assert verify(path) == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    asyncio.run(log.record("retry", "u3", "root"))
    assert verify(path) == 2
    sys.exit(5)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done.stderr

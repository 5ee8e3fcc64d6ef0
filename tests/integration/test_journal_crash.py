"""The journal under SIGKILL and on a full disk, in processes of their own."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

from daemon.journal.model import ReportStatus, UploadState
from daemon.journal.sqlite import SqliteJournal

ROOT = Path(__file__).parents[2]
SEED = 20_240_229
KILLS = 10
RANK = {"received": 1, "processing": 2, "stored": 3, "terminated": 4}
HAMMER = (sys.executable, "-m", "tests.peers.journal_hammer")


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*HAMMER, *arguments], cwd=ROOT, stdout=subprocess.PIPE)


def run_to_its_end(*arguments: str) -> tuple[int, list[bytes], bytes]:
    ended = subprocess.run(
        [*HAMMER, *arguments], cwd=ROOT, capture_output=True, check=False, timeout=60
    )
    return ended.returncode, ended.stdout.splitlines(), ended.stderr


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> list[list[Any]]:
    """What the process said until it was killed, ``seconds`` after its first line."""
    assert process.stdout is not None
    with process, process.stdout as lines:
        said = [lines.readline()]
        killer = threading.Timer(seconds, process.kill)
        killer.start()
        said += lines.readlines()
        killer.join()
    assert process.returncode == -9
    return [json.loads(line) for line in said if line.endswith(b"\n")]


async def test_what_was_acknowledged_survives_being_killed_at_any_moment(tmp_path: Path) -> None:
    moments = random.Random(SEED)
    states: dict[str, str] = {}
    parts: dict[str, set[int]] = defaultdict(set)
    acknowledged: dict[str, set[int]] = defaultdict(set)
    for run in range(KILLS):
        for fact, upload, value in kill_after(
            start("crash", str(tmp_path), str(run)), moments.uniform(0.0, 0.5)
        ):
            if fact == "state":
                states[upload] = value
            else:
                (parts if fact == "part" else acknowledged)[upload].add(value)
        check_integrity(tmp_path)
        async with await SqliteJournal.open(tmp_path) as journal:
            for upload, state in states.items():
                await check(journal, upload, state, parts[upload], acknowledged[upload])
    assert len(states) > KILLS * 10
    assert {"processing", "stored", "terminated"} <= set(states.values())


async def check(
    journal: SqliteJournal, upload: str, state: str, parts: set[int], acknowledged: set[int]
) -> None:
    details = await journal.details(upload)
    assert RANK[details.upload.state] >= RANK[state]
    if details.upload.state in {UploadState.PROCESSING, UploadState.TERMINATED}:
        assert parts <= (await journal.parts(upload, 0)).keys() or details.deliveries[0].stored
    kept = {
        report.sequence for report in details.reports if report.status is ReportStatus.ACKNOWLEDGED
    }
    assert acknowledged <= kept
    sequences = [report.sequence for report in details.reports]
    assert sequences == list(range(1, len(sequences) + 1))
    assert details.reports[-1].state == details.upload.state or not details.upload.announced


def check_integrity(directory: Path) -> None:
    connection = sqlite3.connect(directory / "journal.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


async def test_what_a_killed_daemon_left_can_be_looked_at_as_it_is(tmp_path: Path) -> None:
    said = kill_after(start("crash", str(tmp_path), "0"), 0.2)
    before = contents(tmp_path)
    assert before["journal.sqlite-wal"]
    reader = SqliteJournal.open_readonly(tmp_path)
    for upload in {upload for fact, upload, _ in said if fact == "state"}:
        assert (await reader.find(upload)).id == upload
    after = contents(tmp_path)
    # The index of the WAL is rebuilt by whoever opens it first.
    del before["journal.sqlite-shm"], after["journal.sqlite-shm"]
    assert after == before


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def test_a_full_disk_refuses_and_the_journal_works_again_when_there_is_space(
    tmp_path: Path,
) -> None:
    status, lines, _ = run_to_its_end("full", str(tmp_path))
    assert status == 0
    said: dict[str, list[Any]] = defaultdict(list)
    for line in lines:
        fact, value = json.loads(line)
        said[fact].append(value)
    assert len(said["refused"]) >= 6
    assert said["refused again"] == [True] * 3
    assert said["readable"] == [True]
    assert said["recovered"] == [True]
    check_integrity(tmp_path)
    async with await SqliteJournal.open(tmp_path) as journal:
        uploads = await journal.uploads(None, None, 100_000)
    assert {upload.tus_id for upload in uploads} == set(said["taken"])


async def test_a_second_process_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path):
        status, lines, errors = run_to_its_end("full", str(tmp_path))
    assert status != 0
    assert lines == []
    assert b"in use by another dropoffd" in errors

from __future__ import annotations

import asyncio
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from daemon.journal.model import (
    Attempt,
    DeliveryState,
    Envelope,
    Error,
    Identity,
    NewDelivery,
    Sighting,
)
from daemon.journal.sqlite import SqliteJournal
from pipeline.messages import DestinationSpec, StoredPart

STUDY = "11111111-2222-4333-8444-555555555555"
HOSTILE = "evil\x1b[31m\u202e.bam"
SECRET = "the-s3-secret"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text(
        '[uploads]\ndirectory = "up"\n[spool]\ndirectory = "spool"\n'
        '[state]\ndirectory = "state"\n[hooks]\nsocket = "s"\n'
    )
    (tmp_path / "state").mkdir()
    return tmp_path


@pytest.fixture
def run(place: Path) -> Run:
    def dropoffd(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "daemon", *arguments],
            env={**os.environ, "DROPOFFD_CONFIG": str(place / "config.toml"), "TZ": "UTC"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return dropoffd


@pytest.fixture
def journal(place: Path) -> None:
    asyncio.run(_fill(place / "state"))


async def _fill(state: Path) -> None:
    now = time.time()
    async with await SqliteJournal.open(state) as journal:
        for number, (filename, complete) in enumerate(
            [("plain.bam", True), (HOSTILE, True), ("half.bam", False)]
        ):
            upload = await journal.sight(_sighting(number, filename, complete=complete), now)
            await journal.announced(upload.id, f"api-{number}")
            if number == 0:
                await _try_to_deliver(journal, upload.id, upload.identity, now)
            if number == 1:
                error = Error(code="source_changed", message="too short", retryable=False)
                await journal.fail(upload.id, error, now)


def _sighting(number: int, filename: str, *, complete: bool) -> Sighting:
    return Sighting(
        directory="/srv/tusd",
        tus_id=f"tus-{number}",
        server="tusd",
        path=f"tus-{number}",
        info_path=f"/srv/tusd/tus-{number}.info",
        size=1000,
        received=1000 if complete else 300,
        complete=complete,
        metadata={"filename": filename, "study": STUDY},
        study=STUDY,
        filename=filename,
        dropoff_id=None,
        identity=Identity(device=1, inode=number + 1, size=1000, mtime_ns=1, ctime_ns=1),
    )


async def _try_to_deliver(
    journal: SqliteJournal, upload: str, identity: Identity, now: float
) -> None:
    envelope = Envelope(format="crypt4gh", key=bytes(32), header=b"h", fingerprints=("f",))
    destination = DestinationSpec(name="archive", type="s3", bucket="b", secret_key=SECRET)
    delivery = NewDelivery(destination=destination, name="a/plain.bam.c4gh", size=1200, part_size=0)
    await journal.plan(upload, envelope, [delivery], identity, now)
    await journal.attempt(upload, 0, now)
    await journal.begun(upload, 0, "reference")
    await journal.part_stored(upload, 0, StoredPart(number=1, size=600, crc64nvme=1))
    error = Error(code="destination_unreachable", message="503 from the store", retryable=True)
    attempt = Attempt(position=0, started_at=now, seconds=1.5, sent=600, error=error)
    await journal.delivery_failed(upload, 0, attempt, DeliveryState.PENDING, now + 60)


# uploads and show ---------------------------------------------------------------------------


@pytest.mark.usefixtures("journal")
def test_uploads_are_listed_newest_first(run: Run) -> None:
    listed = json.loads(run("uploads", "--json").stdout)
    assert [upload["tus_id"] for upload in listed] == ["tus-2", "tus-1", "tus-0"]
    assert [upload["state"] for upload in listed] == ["receiving", "failed", "processing"]
    assert listed[1]["error"] == {
        "code": "source_changed",
        "message": "too short",
        "retryable": False,
    }
    assert listed[2]["study"] == STUDY
    assert listed[2]["size"] == listed[2]["received"] == 1000
    assert listed[2]["created_at"].endswith("Z")


@pytest.mark.usefixtures("journal")
def test_the_list_for_people_shows_hostile_names_harmlessly(run: Run) -> None:
    done = run("uploads")
    assert done.returncode == 0
    assert "30 % of 1000 B" in done.stdout
    assert "evil\\x1b[31m\\u202e.bam" in done.stdout
    assert done.stdout.replace("\n", "").isprintable()


@pytest.mark.usefixtures("journal")
def test_the_list_is_narrowed(run: Run) -> None:
    failed = json.loads(run("uploads", "--state", "failed", "--json").stdout)
    assert [upload["tus_id"] for upload in failed] == ["tus-1"]
    of_study = json.loads(run("uploads", "--study", STUDY.upper(), "--limit", "2", "--json").stdout)
    assert len(of_study) == 2


@pytest.mark.usefixtures("journal")
def test_nothing_that_matches_is_3(run: Run) -> None:
    done = run("uploads", "--state", "done")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "dropoffd: not_found: no upload matches\n"
    as_json = run("uploads", "--state", "done", "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)) == (3, [])
    assert run("show", "nope").returncode == 3


def test_without_a_journal_there_is_nothing(run: Run) -> None:
    done = run("uploads")
    assert done.returncode == 3
    assert "holds no journal" in done.stderr


@pytest.mark.usefixtures("journal")
def test_one_upload_is_shown_whole_without_secrets(run: Run) -> None:
    done = run("show", "tus-0", "--json")
    shown = json.loads(done.stdout)
    (delivery,) = shown["deliveries"]
    assert delivery["destination"] == "archive"
    assert delivery["state"] == "pending"
    assert (delivery["delivered"], delivery["size"], delivery["attempts"]) == (600, 1200, 1)
    assert delivery["error"]["code"] == "destination_unreachable"
    (attempt,) = shown["attempts"]
    assert (attempt["destination"], attempt["seconds"], attempt["sent_bytes"]) == (
        "archive",
        1.5,
        600,
    )
    assert [report["state"] for report in shown["reports"]] == ["received", "processing"]
    assert shown["metadata"] == {"filename": "plain.bam", "study": STUDY}
    assert SECRET not in done.stdout


@pytest.mark.usefixtures("journal")
def test_one_upload_is_shown_to_people(run: Run) -> None:
    text = run("show", "tus-0").stdout
    for expected in ("plain.bam", "50 % of 1.2 KiB", "503 from the store", "received", "Reports"):
        assert expected in text
    assert SECRET not in text


@pytest.mark.usefixtures("journal")
def test_a_prefix_names_an_upload(run: Run) -> None:
    identifier = json.loads(run("show", "tus-1", "--json").stdout)["upload"]
    assert json.loads(run("show", identifier[:12], "--json").stdout)["tus_id"] == "tus-1"
    assert "several" in run("show", "tus-").stderr


def test_a_configuration_error_is_78_with_file_and_key(run: Run, place: Path) -> None:
    (place / "config.toml").write_text('[state]\ndirectry = "x"\n')
    done = run("uploads")
    assert done.returncode == 78
    expected = f"dropoffd: config_invalid: {place}/config.toml:2: state.directry: unknown key"
    assert done.stderr.startswith(expected)


# status -------------------------------------------------------------------------------------

STATUS = {
    "version": "0.1.0",
    "state": "running",
    "uptime_seconds": 125.0,
    "uploads": {"received": 0, "processing": 2, "failed": 1},
    "reports": {"pending": 3, "parked": 1},
    "deliveries": [
        {"upload": "u" * 36, "destination": "archive", "size_bytes": 2048, "stored_bytes": 1024}
    ],
    "destinations": [{"name": "archive", "type": "s3"}],
    "api": {
        "url": "https://api.example/",
        "healthy": False,
        "error": {"code": "api_unreachable", "message": "\u001b[31maway", "retryable": True},
    },
    "intake": {
        "paused": True,
        "problems": 1,
        "problem_list": {"sub/x": {"code": "source_unsafe", "message": "a link"}},
        "spool_failed": 2,
    },
    "workers": [{"pid": 1}, {"pid": 2}],
    "something_new": [1, 2, 3],
}


@contextmanager
def answering(socket: Path, body: bytes, status: int = 200) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/status"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: Any) -> None:  # noqa: ANN401 - as in the base class
            """Not into the tests' output."""

    with socketserver.ThreadingUnixStreamServer(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_the_daemons_status_is_shown(run: Run, place: Path) -> None:
    with answering(place / "s", json.dumps(STATUS).encode()):
        done = run("status")
        as_json = run("status", "--json")
    assert done.returncode == 0, done.stderr
    for expected in (
        "dropoffd 0.1.0, running, up for 2m 5s",
        "2 processing, 1 failed",
        "3 pending, 1 parked",
        "1 under way, 1 KiB to go",
        "50 %",
        "api_unreachable: \\x1b[31maway",
        "paused: no space for the journal, 1 that can't be taken, 2 events not understood",
        "sub/x   source_unsafe  a link",
    ):
        assert expected in done.stdout
    assert json.loads(as_json.stdout) == STATUS


def test_a_newer_daemon_that_says_less_is_shown(run: Run, place: Path) -> None:
    with answering(place / "s", b'{"version": "9"}'):
        assert "dropoffd 9" in run("status").stdout


def test_no_daemon_is_75(run: Run) -> None:
    done = run("status")
    assert (done.returncode, done.stdout) == (75, "")
    assert "daemon_unreachable: no daemon at" in done.stderr


@pytest.mark.parametrize(
    ("body", "status"), [(b"{}", 200), (b"<html>", 200), (b"\xff", 200), (b"{}", 503)]
)
def test_a_senseless_answer_is_75(run: Run, place: Path, body: bytes, status: int) -> None:
    with answering(place / "s", body, status):
        done = run("status", "--json")
    assert (done.returncode, done.stdout) == (75, "")


def test_watching_ends_quietly_with_ctrl_c(place: Path) -> None:
    with answering(place / "s", json.dumps(STATUS).encode()):
        watching = subprocess.Popen(
            [sys.executable, "-m", "daemon", "status", "--watch"],
            env={**os.environ, "DROPOFFD_CONFIG": str(place / "config.toml")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith("dropoffd 0.1.0")
        watching.send_signal(signal.SIGINT)
        _, told = watching.communicate(timeout=30)
    assert (watching.returncode, told) == (130, "")


# metrics ------------------------------------------------------------------------------------


def record(second: int, **fields: object) -> str:
    line = {"ts": f"2026-01-01T12:00:{second:02}.000Z", "event": "delivery", "outcome": "ok"}
    return json.dumps({**line, **fields}) + "\n"


@pytest.fixture
def metrics(place: Path) -> Path:
    path = place / "state" / "metrics.jsonl"
    lines = [
        record(second, destination="archive", delivery_seconds=float(second), sent_bytes=1024)
        for second in range(1, 21)
    ]
    path.with_name("metrics.jsonl.1").write_text("".join(lines[:10]))
    failed = record(30, outcome="failed", destination="mirror", error_code="destination_refused")
    path.write_text("".join(lines[10:]) + failed + '{"ts": "2026-')
    return path


@pytest.mark.usefixtures("metrics")
def test_the_metrics_log_is_summed_up_over_rotation_and_torn_lines(run: Run) -> None:
    done = run("metrics", "--json")
    summary = json.loads(done.stdout)
    assert (summary["lines"], summary["unreadable"], summary["by"]) == (21, 1, None)
    (group,) = summary["groups"]
    assert (group["event"], group["count"], group["ok"], group["failed"]) == ("delivery", 21, 20, 1)
    assert group["seconds"]["delivery"]["p50"] == 10.0
    assert group["bytes"] == {"sent_bytes": 20 * 1024}
    (failure,) = summary["failures"]
    assert (failure["error_code"], failure["destination"]) == ("destination_refused", "mirror")


@pytest.mark.usefixtures("metrics")
@pytest.mark.parametrize("by", ["study", "destination", "stage", "hour", "outcome"])
def test_metrics_are_shown_in_groups(run: Run, by: str) -> None:
    done = run("metrics", "--by", by)
    assert done.returncode == 0, done.stderr
    assert "destination_refused" in done.stdout
    assert by.upper() in done.stdout
    assert "10 s" in done.stdout


@pytest.mark.usefixtures("metrics")
def test_metrics_that_are_too_old_are_nothing(run: Run) -> None:
    done = run("metrics", "--since", "1h")
    assert done.returncode == 3
    assert "no lines of that time" in done.stderr


def test_a_metrics_log_can_be_named(run: Run, metrics: Path, place: Path) -> None:
    (place / "config.toml").unlink()
    assert json.loads(run("metrics", "--json", str(metrics)).stdout)["lines"] == 11
    assert run("metrics", str(place / "gone")).returncode == 1


def test_following_shows_lines_as_they_come(metrics: Path) -> None:
    following = subprocess.Popen(
        [sys.executable, "-m", "daemon", "metrics", "--follow", "--json", str(metrics)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    shown = [json.loads(following.stdout.readline()) for _ in range(9)]
    assert shown[-1]["error_code"] == "destination_refused"
    with metrics.open("a") as file:
        file.write("\n" + record(59, destination="late"))
    assert json.loads(following.stdout.readline())["destination"] == "late"
    following.send_signal(signal.SIGINT)
    _, told = following.communicate(timeout=30)
    assert (following.returncode, told) == (130, "")

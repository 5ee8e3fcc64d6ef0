"""Daemon and workers as processes: who may open what they make, and who may look inside."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.dropoffd import Dropoffd
from tests.peers.reference_api import ReferenceServer, study_table

ROOT = Path(__file__).parents[2]
STUDY = "11111111-2222-4333-8444-555555555555"
OTHERS = stat.S_IRWXO
GROUP_WRITES = stat.S_IWGRP
SECRETS = {
    "DROPOFF_LOCAL_ACCESS_KEY": "an-access-key-of-this-test",
    "DROPOFF_LOCAL_SECRET_KEY": "a-secret-key-of-this-test",
    "DROPOFF_API_HAWK_SECRET": ReferenceServer.secret,
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dropoffd]:
    """One that was started with a umask that lets everybody do everything, and has delivered."""
    directory = tmp_path_factory.mktemp("modes")
    (directory / "store").mkdir(mode=0o700)
    (directory / "api").mkdir()
    with ReferenceServer(directory / "api", study_table(STUDY), path="/") as api:
        config = f'[destinations.local]\ntype = "directory"\ndirectory = "{directory}/store"\n'
        hawk = {"WEBHOOK_URL": api.api.url, "DROPOFF_API_HAWK_KEY": api.key}
        daemon = Dropoffd(directory / "daemon", config, {**hawk, **SECRETS})
        (daemon.uploads / "u1").write_bytes(b"data")
        info = {"ID": "u1", "Size": 4, "MetaData": {"study": STUDY, "filename": "a"}}
        (daemon.uploads / "u1.info").write_text(json.dumps(info))
        before = os.umask(0)
        try:
            daemon.start()
        finally:
            os.umask(before)
        try:
            daemon.wait_until_over(1, 30)
            assert [row["state"] for row in daemon.listed()] == ["done"]
            (daemon.spool / "new" / "nonsense.json").write_text("{")
            daemon.wait_for(lambda: any((daemon.spool / "failed").iterdir()), 20, "it lies aside")
            yield daemon
        finally:
            daemon.kill()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_under_a_umask_of_nothing_all_is_as_closed_as_ever(daemon: Dropoffd) -> None:
    """Hook and control socket, state, journal, key, receipts, logs, spool and stored objects."""
    state = daemon.state
    expected = {
        daemon.socket: 0o660,
        state: 0o700,
        state / "receipts": 0o700,
        state / "journal.sqlite": 0o600,
        state / "audit.jsonl": 0o600,
        state / "metrics.jsonl": 0o640,
        daemon.spool: 0o2770,
        daemon.spool / "new": 0o2770,
        daemon.spool / "tmp": 0o2770,
        daemon.spool / "failed": 0o2770,
    }
    found = {path: oct(mode_of(path)) for path in expected}
    assert found == {path: oct(mode) for path, mode in expected.items()}
    made = [path for path in state.rglob("*") if path.is_file()]
    assert {path.suffix for path in made} >= {".sqlite", ".jsonl", ".json"}
    for path in made:
        assert not mode_of(path) & (OTHERS | GROUP_WRITES), path
    keys = [path for path in made if "key" in path.name]
    assert keys
    assert {mode_of(path) for path in keys} == {0o600}
    stored = [*(daemon.directory.parent / "store").rglob("*")]
    assert [path for path in stored if path.is_file()]
    for path in stored:
        assert not mode_of(path) & (OTHERS | GROUP_WRITES), path
    reasons = [path for path in (daemon.spool / "failed").iterdir() if path.suffix == ".reason"]
    assert reasons
    for path in reasons:
        assert not mode_of(path) & OTHERS


def workers_of(daemon: Dropoffd) -> list[int]:
    status = daemon.status()
    assert status is not None
    return [worker["pid"] for worker in status["workers"]]


def core_limit(pid: int) -> list[str]:
    """Soft and hard."""
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (core,) = (line.split() for line in limits if line.startswith("Max core file size"))
    return core[4:6]


def test_no_process_dumps_core_or_is_open_to_others_of_its_user(daemon: Dropoffd) -> None:
    pids = [daemon.pid, *workers_of(daemon)]
    assert len(pids) > 1
    for pid in pids:
        assert core_limit(pid) == ["0", "0"]
        # The kernel gives what belongs to a process that can't be dumped to root.
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0


def test_a_worker_closes_itself_whoever_started_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "pipeline.worker", str(theirs.fileno())]
        with subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()]) as worker:
            try:
                assert core_limit(worker.pid) == core_limit(os.getpid()) != ["0", "0"]
                deadline = time.monotonic() + 20
                while core_limit(worker.pid) != ["0", "0"]:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            finally:
                worker.kill()


def test_secrets_are_in_no_worker_s_environment_or_arguments(daemon: Dropoffd) -> None:
    for pid in workers_of(daemon):
        shown = b"".join(
            Path(f"/proc/{pid}/{what}").read_bytes() for what in ("environ", "cmdline")
        )
        for name, secret in SECRETS.items():
            assert secret.encode() not in shown
            assert name.encode() not in shown
        assert b"WEBHOOK_URL" not in shown
    arguments = Path(f"/proc/{daemon.pid}/cmdline").read_bytes()
    assert not [secret for secret in SECRETS.values() if secret.encode() in arguments]


def test_no_secret_is_in_anything_that_was_written_or_said(daemon: Dropoffd) -> None:
    written = [path for path in daemon.state.rglob("*") if path.is_file()]
    for path in (daemon.log, *written):
        held = path.read_bytes()
        for secret in SECRETS.values():
            assert secret.encode() not in held, path
    said = daemon.cli("status", "--json").stdout + daemon.cli("show", "u1", "--json").stdout
    assert not [secret for secret in SECRETS.values() if secret in said]


def test_a_process_closes_itself() -> None:
    text = (
        "import ctypes, resource\nfrom pipeline.hardening import keep_to_ourselves\n"
        "keep_to_ourselves()\n"
        "print(ctypes.CDLL(None).prctl(3), resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0 (0, 0)\n"

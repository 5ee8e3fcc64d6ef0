"""What a daemon leaves on its own disk, and shows of itself while it runs.

Part of the oracle, see :mod:`tests.peers.oracle`; each check raises AssertionError.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from daemon.observe import audit
from tests.bench.measure import family
from tests.peers.dropoffd import Dropoffd

STATE = re.compile(
    r"journal\.(sqlite(-wal|-shm)?|key|lock)|(metrics|audit)\.jsonl(\.\d+)?|stores\.json"
    r"|receipts/[A-Za-z0-9-]+\.json"
)
"""The files that a state directory has for good."""
SECRETS = (
    "SELECT count(*) FROM uploads WHERE secret IS NOT NULL AND state <> 'failed'",
    (
        "SELECT count(*) FROM deliveries AS d WHERE secret IS NOT NULL AND EXISTS"
        " (SELECT 1 FROM uploads WHERE id = d.upload AND state <> 'failed')"
    ),
)
"""What is kept of uploads that are over; one that failed may be tried again."""
NAMES = (b"DROPOFF_", b"WEBHOOK_URL", b"CREDENTIALS_DIRECTORY")
"""What the daemon's secrets are called in its environment."""


def upload_ids(daemon: Dropoffd) -> dict[str, list[str]]:
    """The ids of the uploads that the journal has, by tus id."""
    found: dict[str, list[str]] = {}
    with _journal(daemon) as journal:
        for tus_id, upload in journal.execute("SELECT tus_id, id FROM uploads"):
            found.setdefault(tus_id, []).append(upload)
    return found


def spooled(daemon: Dropoffd) -> list[Path]:
    """What hooks told and nobody took yet."""
    return list((daemon.spool / "new").iterdir())


def leftovers(daemon: Dropoffd) -> list[str]:
    """Files of the spool, and temporary ones of the state directory."""
    left = [str(path) for path in daemon.spool.rglob("*") if path.is_file()]
    state = (path for path in daemon.state.rglob("*") if path.is_file())
    names = (str(path.relative_to(daemon.state)) for path in state)
    return left + [name for name in names if not STATE.fullmatch(name)]


def check_receipts(daemon: Dropoffd, told: Mapping[str, Mapping[str, Any]]) -> None:
    """There is a file for each receipt that was ``told``, it says the same, and no other is."""
    kept = {path.stem: json.loads(path.read_bytes()) for path in _receipts(daemon)}
    assert kept == told, f"receipts differ: {sorted(kept.keys() ^ told.keys())[:10]}"


def check_journal(daemon: Dropoffd, told: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """It is whole, keeps no session key, waits for nothing, and told the REST API all reports.

    ``told`` has what the REST API heard, by its own ids.
    """
    with _journal(daemon) as journal:
        assert journal.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert journal.execute("PRAGMA foreign_key_check").fetchall() == []
        for query in SECRETS:
            assert journal.execute(query).fetchone() == (0,), f"secrets are kept: {query}"
        begun = "SELECT name FROM deliveries WHERE reference <> '' OR state = 'pending'"
        assert journal.execute(begun).fetchall() == [], "deliveries are under way"
        waiting = "SELECT count(*) FROM reports WHERE status <> 'acknowledged'"
        assert journal.execute(waiting).fetchone() == (0,), "reports wait"
        reports: dict[str, list[Any]] = {}
        for api_id, body in journal.execute(
            "SELECT api_id, body FROM reports JOIN uploads ON uploads.id = upload ORDER BY sequence"
        ):
            reports.setdefault(api_id, []).append(json.loads(body))
    for api_id, ours in reports.items():
        assert list(told.get(api_id, ())) == ours, f"{api_id} was told otherwise"


def check_audit(daemon: Dropoffd, stored: Iterable[str]) -> None:
    """The chain is whole, and has the deletion of each source whose upload is ``stored``."""
    log = daemon.state / audit.FILE
    try:
        audit.verify(log)
    except audit.AuditBrokenError as error:
        raise AssertionError(error.message) from error
    lines = log.read_bytes().splitlines() if log.exists() else []
    entries = []
    for line in lines:
        with contextlib.suppress(ValueError):  # a torn one, which the chain accounts for
            entries.append(json.loads(line))
    deleted = {entry["upload"] for entry in entries if entry["action"] == "source_deleted"}
    assert deleted == set(stored), f"other deletions are told: {deleted ^ set(stored)}"


def check_secrets(
    daemon: Dropoffd, secrets: Iterable[str], session_keys: Iterable[bytes] = ()
) -> None:
    """No secret is in a log, a row of the journal or any other file, and no session key is."""
    hidden = [secret.encode() for secret in secrets]
    for key in session_keys:
        hidden += [key, key.hex().encode(), base64.b64encode(key)]
    for path in (daemon.log, *_files(daemon.state), *_files(daemon.spool)):
        found = path.read_bytes()
        assert not any(each in found for each in hidden), f"{path} holds a secret"
    # A row may lie in pieces in the file.
    rows = b"\n".join(_values(daemon))
    assert not any(each in rows for each in hidden), "a row of the journal holds a secret"


def check_processes(daemon: Dropoffd, secrets: Iterable[str]) -> int:
    """No secret is in an argument of the daemon or its children, or in their environment.

    The daemon's own environment is where it has them from. How many processes were looked at.
    """
    hidden = [secret.encode() for secret in secrets]
    looked_at = 0
    for pid in family(daemon.pid):
        arguments, environment = _shown(pid, "cmdline"), _shown(pid, "environ")
        assert not any(each in arguments for each in hidden), f"{pid} has a secret as argument"
        if pid != daemon.pid:
            assert not any(each in environment for each in (*hidden, *NAMES)), (
                f"the environment of {pid}, a child, holds a secret"
            )
        looked_at += bool(arguments)
    return looked_at


def _shown(pid: int, what: str) -> bytes:
    # Of a process that has ended, or that was not yet started as another program, nothing.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{what}").read_bytes()
    return b""


def _receipts(daemon: Dropoffd) -> list[Path]:
    return sorted((daemon.state / "receipts").glob("*.json"))


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def _values(daemon: Dropoffd) -> Iterator[bytes]:
    """Whatever is in a row of the journal."""
    with _journal(daemon) as journal:
        tables = journal.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for row in journal.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 -- ours
                for value in row:
                    yield value if isinstance(value, bytes) else str(value).encode()


def _journal(daemon: Dropoffd) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(daemon.state / "journal.sqlite", timeout=10))

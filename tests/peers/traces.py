"""What a daemon leaves on its own disk, and shows of itself while it runs.

Part of the oracle, see :mod:`tests.peers.oracle`; each check raises AssertionError.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from daemon.observe import audit
from tests.bench.measure import family
from tests.peers.dropoffd import Dropoffd

STATE = re.compile(
    r"journal\.(sqlite(-wal|-shm)?|key|lock)|(metrics|audit)\.jsonl(\.\d+)?|stores\.json"
    r"|receipts/[A-Za-z0-9-]+\.json"
)
"""The files that a state directory has for good."""
NAMES = (b"DROPOFF_", b"WEBHOOK_URL", b"CREDENTIALS_DIRECTORY")
"""What the daemon's secrets are called in its environment."""


class Ran(Protocol):
    """Whatever ran, and where it left what."""

    @property
    def uploads(self) -> Path:
        """Where the sources are."""

    @property
    def spool(self) -> Path:
        """Where hooks tell of them."""

    @property
    def state(self) -> Path:
        """Its state directory."""

    @property
    def log(self) -> Path:
        """What it wrote to stdout."""


def journal_of(daemon: Ran) -> contextlib.closing[sqlite3.Connection]:
    """Its journal, to be read."""
    return contextlib.closing(sqlite3.connect(daemon.state / "journal.sqlite", timeout=10))


def spooled(daemon: Ran) -> list[Path]:
    """What hooks told and nobody took yet."""
    return list((daemon.spool / "new").iterdir())


def leftovers(daemon: Ran) -> list[str]:
    """Files of the spool, and temporary ones of the state directory."""
    left = [str(path) for path in daemon.spool.rglob("*") if path.is_file()]
    state = (path for path in daemon.state.rglob("*") if path.is_file())
    names = (str(path.relative_to(daemon.state)) for path in state)
    return left + [name for name in names if not STATE.fullmatch(name)]


def kept_receipts(daemon: Ran) -> dict[str, Any]:
    """The files of receipts, by upload."""
    files = (daemon.state / "receipts").glob("*.json")
    return {path.stem: json.loads(path.read_bytes()) for path in files}


def deletions(daemon: Ran) -> set[str]:
    """The uploads whose sources were deleted, as the audit log tells, whose chain is whole."""
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
    return {entry["upload"] for entry in entries if entry["action"] == "source_deleted"}


def check_receipts(daemon: Ran, told: Mapping[str, Mapping[str, Any]]) -> None:
    """There is a file for each receipt that was ``told``, it says the same, and no other is."""
    kept = kept_receipts(daemon)
    assert kept == told, f"receipts differ: {sorted(kept.keys() ^ told.keys())[:10]}"


def check_audit(daemon: Ran, stored: Iterable[str]) -> None:
    """The chain is whole, and has the deletion of each source whose upload is ``stored``."""
    deleted = deletions(daemon)
    assert deleted == set(stored), f"other deletions are told: {deleted ^ set(stored)}"


def check_secrets(daemon: Ran, secrets: Iterable[str], session_keys: Iterable[bytes] = ()) -> None:
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


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def _values(daemon: Ran) -> Iterator[bytes]:
    """Whatever is in a row of the journal."""
    with journal_of(daemon) as journal:
        tables = journal.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for row in journal.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 -- ours
                for value in row:
                    yield value if isinstance(value, bytes) else str(value).encode()

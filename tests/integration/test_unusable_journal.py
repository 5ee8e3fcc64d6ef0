"""A journal that can't be used: each command says what is wrong with it, and touches nothing."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.journal.database import SCHEMA_VERSION

CONFIG_WRONG = 78
AS_NOBODY_SPECIAL = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
"""Modes don't hold up root, unless its capabilities are dropped."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose state directory has a journal."""
    (tmp_path / "uploads").mkdir()
    (tmp_path / "store").mkdir()
    config = tmp_path / "config.toml"
    config.write_text(
        f'[uploads]\ndirectory = "{tmp_path}/uploads"\n[spool]\ndirectory = "{tmp_path}/spool"\n'
        f'[state]\ndirectory = "{tmp_path}/state"\n[hooks]\nsocket = "{tmp_path}/hooks.sock"\n'
        f'[destinations.local]\ntype = "directory"\ndirectory = "{tmp_path}/store"\n'
    )
    (tmp_path / "state").mkdir(mode=0o700)
    script = (
        "import asyncio, sys, pathlib; from daemon.journal.sqlite import SqliteJournal\n"
        "async def make():\n"
        "    await (await SqliteJournal.open(pathlib.Path(sys.argv[1]))).aclose()\n"
        "asyncio.run(make())"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "state")], check=True, timeout=30)
    return config


def dropoffd(config: Path, command: str) -> subprocess.CompletedProcess[str]:
    before = AS_NOBODY_SPECIAL if os.geteuid() == 0 else ()
    return subprocess.run(
        [*before, sys.executable, "-m", "daemon", command, "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={"PATH": os.environ["PATH"], "HOME": str(config.parent), "COLUMNS": "250"},
    )


def _unreadable(journal: Path) -> None:
    journal.chmod(0)


def _readonly(journal: Path) -> None:
    journal.chmod(0o400)


def _directory(journal: Path) -> None:
    journal.unlink()
    journal.mkdir(mode=0o700)


def _something_else(journal: Path) -> None:
    journal.write_bytes(b"something else" * 1000)


def _newer(journal: Path) -> None:
    database = sqlite3.connect(journal)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()


CASES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "unreadable": (_unreadable, "Permission denied", "Permission denied"),
    "read-only": (_readonly, "Permission denied", ""),
    "a directory": (_directory, "Is a directory", "it is no file"),
    "something else": (_something_else, "no SQLite database", "no SQLite database"),
    "newer": (_newer, "install that release again", "install that release again"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_with_a_journal_is_said_and_nothing_else(config: Path, case: str) -> None:
    spoil, said_by_run, said_to_readers = CASES[case]
    journal = config.parent / "state" / "journal.sqlite"
    spoil(journal)
    before = journal.lstat().st_mode, journal.lstat().st_size
    run = dropoffd(config, "run")
    assert run.returncode == CONFIG_WRONG
    assert str(journal) in run.stderr
    assert said_by_run in run.stderr
    for command in ("uploads", "check"):
        done = dropoffd(config, command)
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        assert "the check itself failed" not in said
        assert "there is none yet" not in said
        assert "no daemon has used it" not in said
        assert "state_full" not in said
        if said_to_readers:
            assert str(journal) in said
            assert said_to_readers in said
            assert done.returncode == (CONFIG_WRONG if command == "uploads" else 1)
    assert (journal.lstat().st_mode, journal.lstat().st_size) == before

"""The SQLite file: opening it, its schema, and who may use it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from pathlib import Path

from daemon.errors import ConfigError, StateFullError
from daemon.journal.wrapping import sync_directory

DATABASE_FILE = "journal.sqlite"
LOCK_FILE = "journal.lock"
SCHEMA_VERSION = 2
_MIGRATIONS: dict[int, str] = {1: "schema_2.sql"}
"""A version to the file, beside this one, that leads from it to the next."""

_BUSY_SECONDS = 10.0
_SETTINGS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "secure_delete = ON",
    "foreign_keys = ON",
    "cache_size = -16384",  # KiB: the indices of 100,000 uploads
    "journal_size_limit = 67108864",  # after a long reader let the WAL grow
)
_UNUSABLE = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


def is_unusable(error: sqlite3.Error) -> bool:
    """Whether the database as a whole can't be used now: full disk, I/O error, lock, damage."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _UNUSABLE


def state_full(error: BaseException) -> StateFullError:
    """The error to give to a caller whose transaction could not be made durable."""
    return StateFullError(f"the journal can't be used: {error}")


def connect(path: Path) -> sqlite3.Connection:
    """A connection that may write, and that one thread uses at a time."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    try:
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def connect_readonly(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """A connection that only reads.

    ``immutable`` is for a database that no process has open: SQLite then makes no files beside
    it.
    """
    flags = "mode=ro&immutable=1" if immutable else "mode=ro"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{flags}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.row_factory = sqlite3.Row
    return connection


def prepare(directory: Path) -> sqlite3.Connection:
    """Open the journal of a state directory; made where there is none.

    Raises ConfigError where the file is no journal, or one of a newer release.
    """
    path = directory / DATABASE_FILE
    _create(path)
    try:
        connection = connect(path)
    except sqlite3.Error as error:
        raise opening_failed(path, error) from error
    try:
        _migrate(path, connection)
    except sqlite3.Error as error:
        connection.close()
        raise opening_failed(path, error) from error
    except ConfigError:
        connection.close()
        raise
    return connection


def check_version(path: Path, connection: sqlite3.Connection) -> int:
    """The version of the schema that stands there. Raises ConfigError for one of the future."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"{path} was written by a newer release (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): install that release again, or restore an older journal"
        )
    return version


def lock(directory: Path) -> int:
    """Claim a state directory for this process; the descriptor holds the claim until closed.

    Raises ConfigError where another daemon has it.
    """
    path = directory / LOCK_FILE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_names(directory)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise not_accessible(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"{directory} is in use by another dropoffd: each needs a [state] directory of its own"
        ) from None
    return descriptor


def _sync_names(directory: Path) -> None:
    """Have a state directory and what was made in it survive a power loss, its own path too."""
    sync_directory(directory)
    for parent in directory.absolute().parents:
        # One that we may not read, or that can't be synced, was not made by us.
        with contextlib.suppress(OSError):
            sync_directory(parent)


def _create(path: Path) -> None:
    # SQLite gives the files beside the database the mode of the database.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_directory(path.parent)
    except FileExistsError:
        # SQLite says no more than that it can't; and reads on where it may not write.
        _try_to_open(path)
    except OSError as error:
        raise not_accessible(path, error) from error


def _try_to_open(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise not_accessible(path, error) from error


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    version = check_version(path, connection)
    while version < SCHEMA_VERSION:
        name = "schema.sql" if version == 0 else _MIGRATIONS[version]
        following = SCHEMA_VERSION if version == 0 else version + 1
        script = Path(__file__).with_name(name).read_text(encoding="utf-8")
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {following};\nCOMMIT;"
        )
        version = following


def opening_failed(path: Path, error: sqlite3.Error) -> ConfigError | StateFullError:
    """The error for a database that can't be opened."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM}:
        return state_full(error)
    return ConfigError(f"{path} can't be used as the journal: {_reason(path, error, code)}")


def _reason(path: Path, error: sqlite3.Error, code: int) -> str:
    """What SQLite means."""
    if code == sqlite3.SQLITE_NOTADB:
        return "it is no SQLite database; restore the journal from a backup"
    if code == sqlite3.SQLITE_CORRUPT:
        return f"it is damaged ({error}); restore it from a backup"
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
        return _obstacle(path) or str(error)
    return str(error)


def _obstacle(path: Path) -> str:
    """Which of the journal's files can't be had, and why."""
    for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        try:
            os.close(os.open(each, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except FileNotFoundError:
            continue
        except OSError as error:
            reason = error.strerror or str(error)
            return reason if each == path else f"{each.name}: {reason}"
    writable = os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True)
    return "" if writable else f"{path.parent} can't be written"


def not_accessible(path: Path, error: OSError) -> ConfigError | StateFullError:
    """The error for a file of the state directory that can't be opened or made."""
    if error.errno in _NO_SPACE:
        return state_full(error)
    return ConfigError(f"[state] directory: {path} can't be opened: {error.strerror}")

"""The journal for looking only: what the command line uses, whether or not a daemon runs."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from daemon.errors import ConfigError, NotFoundError, StateFullError
from daemon.journal import operators
from daemon.journal.database import (
    DATABASE_FILE,
    check_version,
    connect_readonly,
    opening_failed,
)
from daemon.journal.model import Upload, UploadDetails, UploadState
from daemon.journal.readers import read

T = TypeVar("T")

_TRIES = 5


class ReadonlyJournal:
    """The reading methods of :class:`daemon.journal.protocol.OperatorJournal`.

    Each question opens the database anew and sees everything committed before. Nothing is made
    or changed in the state directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / DATABASE_FILE
        if not self._path.exists():
            raise NotFoundError(f"{directory} holds no journal: no daemon has used it yet")
        if not self._path.is_file():
            raise ConfigError(f"{self._path} can't be used as the journal: it is no file")

    async def find(self, text: str) -> Upload:
        """By own id, tus id, API's id, or a unique prefix of the first two."""
        return await self._ask(lambda c: operators.find(c, text))

    async def uploads(
        self, state: UploadState | None, study: str | None, limit: int
    ) -> Sequence[Upload]:
        """Newest first."""
        return await self._ask(lambda c: operators.uploads(c, state, study, limit))

    async def details(self, upload: str) -> UploadDetails:
        """One upload whole."""
        return await self._ask(lambda c: operators.details(c, upload))

    async def counts(self) -> dict[UploadState, int]:
        """How many uploads are in each state."""
        return await self._ask(operators.counts)

    async def report_counts(self) -> dict[str, int]:
        """How many reports are in each status."""
        return await self._ask(operators.report_counts)

    async def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._answer, question)

    def _answer(self, question: Callable[[sqlite3.Connection], T]) -> T:
        # Without a WAL nobody has the database open, and SQLite would make one to look at it;
        # as an immutable file it is read as it lies there. Should a daemon start meanwhile, the
        # answer may mix old and new pages, so the question is asked again.
        for _ in range(_TRIES):
            before = self._signature()
            try:
                answer = self._read(question, immutable=before is not None)
            except (sqlite3.Error, StateFullError, NotFoundError) as error:
                if before is None or before == self._signature():
                    raise self._told(error) from error
                continue
            if before is None or before == self._signature():
                return answer
        raise StateFullError(f"{self._path} changes too fast to be read: try again")

    def _read(self, question: Callable[[sqlite3.Connection], T], *, immutable: bool) -> T:
        with contextlib.closing(connect_readonly(self._path, immutable=immutable)) as connection:
            return read(connection, lambda c: self._checked(c, question))

    def _told(self, error: Exception) -> Exception:
        """What somebody at a terminal is to be told of it."""
        found = error.__cause__ if isinstance(error, StateFullError) else error
        return opening_failed(self._path, found) if isinstance(found, sqlite3.Error) else error

    def _checked(
        self, connection: sqlite3.Connection, question: Callable[[sqlite3.Connection], T]
    ) -> T:
        if check_version(self._path, connection) == 0:
            raise NotFoundError(f"{self._path} is empty: no daemon has used it yet")
        return question(connection)

    def _signature(self) -> tuple[int, int, int] | None:
        """What tells that the closed database stayed as it was; None while it is open."""
        if self._path.with_name(self._path.name + "-wal").exists():
            return None
        status = self._path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns

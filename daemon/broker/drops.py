"""What the reference REST API remembers: data drops and their reports, in SQLite."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from daemon.hand import Hand

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS drops (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    key TEXT UNIQUE,
    announcement TEXT NOT NULL,
    study TEXT NOT NULL,
    announced_at REAL NOT NULL,
    state TEXT,
    sequence INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS drops_by_study ON drops (study, number);
CREATE TABLE IF NOT EXISTS reports (
    number INTEGER PRIMARY KEY,
    report TEXT NOT NULL UNIQUE,
    upload TEXT NOT NULL REFERENCES drops (id),
    sequence INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS reports_by_upload ON reports (upload, number);
"""


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """An announced upload."""

    id: str
    announcement: dict[str, Any]
    announced_at: float
    """Seconds since the epoch."""
    state: str | None
    """Of the report with the highest sequence."""
    reports: tuple[dict[str, Any], ...] = ()
    """In the order they came."""


class Taken(Enum):
    """What became of a report."""

    NEW = "new"
    REPEATED = "repeated"
    CONFLICT = "conflict"
    """Its UUID came before with another body, or for another upload."""
    UNKNOWN = "unknown"
    """No such upload."""


class Drops:
    """An async context manager around the database; one thread does all its work."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._hand: Hand | None = None
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        """Open the database, made where there is none. Raises OSError, sqlite3.Error."""
        self._hand = Hand("drops")
        await self._do(self._open)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        connection = self._connection
        if connection is not None:
            await self._do(connection.close)
        if self._hand is not None:
            await self._hand.aclose()

    async def known(self, key: str) -> str | None:
        """The id that an announcement with this Idempotency-Key was given before."""
        return await self._do(lambda: self._id_for(key))

    async def announce(
        self, key: str, announcement: dict[str, Any], now: float
    ) -> tuple[str, bool]:
        """Take an announcement and give its id, and whether that is new.

        It is the earlier one where the key came before.
        """
        return await self._do(lambda: self._announce(key, announcement, now))

    async def report(self, upload: str, body: dict[str, Any]) -> Taken:
        """Take a report with its fields ``report`` and ``sequence``."""
        return await self._do(lambda: self._report(upload, body))

    async def listed(self, study: str | None, limit: int) -> list[Drop]:
        """Drops, newest first, without their reports."""
        return await self._do(lambda: self._listed(study, limit))

    async def drop(self, upload: str) -> Drop | None:
        """One drop with its reports."""
        return await self._do(lambda: self._whole(upload))

    async def _do(self, work: Callable[[], T]) -> T:
        if self._hand is None:
            raise RuntimeError("Drops is used as an async context manager")
        return await self._hand.run(work)

    @property
    def _sql(self) -> sqlite3.Connection:
        if self._connection is None:
            raise RuntimeError("Drops is used as an async context manager")
        return self._connection

    def _open(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.touch(mode=0o600)
        self._connection = sqlite3.connect(self._file)
        self._connection.row_factory = sqlite3.Row
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.executescript(_SCHEMA)

    def _id_for(self, key: str) -> str | None:
        row = self._sql.execute("SELECT id FROM drops WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row["id"])

    def _announce(self, key: str, announcement: dict[str, Any], now: float) -> tuple[str, bool]:
        with self._sql:
            known = self._id_for(key) if key else None
            if known is not None:
                return known, False
            given = str(uuid.uuid4())
            self._sql.execute(
                "INSERT INTO drops (id, key, announcement, study, announced_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (given, key or None, _text(announcement), announcement["study"].lower(), now),
            )
            return given, True

    def _report(self, upload: str, body: dict[str, Any]) -> Taken:
        text, sequence = _text(body), body["sequence"]
        with self._sql:
            if self._row(upload) is None:
                return Taken.UNKNOWN
            earlier = self._sql.execute(
                "SELECT upload, body FROM reports WHERE report = ?", (body["report"],)
            ).fetchone()
            if earlier is not None:
                same = earlier["upload"] == upload and earlier["body"] == text
                return Taken.REPEATED if same else Taken.CONFLICT
            self._sql.execute(
                "INSERT INTO reports (report, upload, sequence, body) VALUES (?, ?, ?, ?)",
                (body["report"], upload, sequence, text),
            )
            self._sql.execute(
                "UPDATE drops SET state = ?, sequence = ?"
                " WHERE id = ? AND coalesce(sequence, -1) < ?",
                (body["state"], sequence, upload, sequence),
            )
            return Taken.NEW

    def _listed(self, study: str | None, limit: int) -> list[Drop]:
        rows = self._sql.execute(
            "SELECT * FROM drops WHERE ?1 IS NULL OR study = ?1 ORDER BY number DESC LIMIT ?2",
            (study, limit),
        )
        return [_drop(row, ()) for row in rows]

    def _whole(self, upload: str) -> Drop | None:
        row = self._row(upload)
        if row is None:
            return None
        reports = self._sql.execute(
            "SELECT body FROM reports WHERE upload = ? ORDER BY number", (upload,)
        )
        return _drop(row, tuple(msgspec.json.decode(report["body"]) for report in reports))

    def _row(self, upload: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._sql.execute(
            "SELECT * FROM drops WHERE id = ?", (upload,)
        ).fetchone()
        return row


def _text(value: object) -> str:
    """JSON that is equal for equal values, whatever the order of their fields was."""
    return msgspec.json.encode(value, order="sorted").decode()


def _drop(row: sqlite3.Row, reports: tuple[dict[str, Any], ...]) -> Drop:
    return Drop(
        id=row["id"],
        announcement=msgspec.json.decode(row["announcement"]),
        announced_at=row["announced_at"],
        state=row["state"],
        reports=reports,
    )

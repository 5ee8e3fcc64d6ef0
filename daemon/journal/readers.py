"""Threads that read the journal beside its writer."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from daemon.hand import Hand
from daemon.journal.database import is_unusable, state_full

T = TypeVar("T")
Question = Callable[[sqlite3.Connection], T]


class Readers:
    """Answers questions, each on one snapshot that holds everything committed before.

    One thread has the short ones, another those that go through many rows: a long list keeps
    nobody waiting who asks for one upload.
    """

    def __init__(self, short: sqlite3.Connection, long: sqlite3.Connection) -> None:
        """Take over both connections."""
        self._short = _Reader(short, "journal-reader")
        self._long = _Reader(long, "journal-lister")

    async def run(self, question: Question[T]) -> T:
        """Ask for a few rows. Raises StateFullError where the database can't be read."""
        return await self._short.ask(question)

    async def list(self, question: Question[T]) -> T:
        """Likewise, for any number of rows."""
        return await self._long.ask(question)

    async def aclose(self) -> None:
        """Let what was asked be answered, and close."""
        await self._short.aclose()
        await self._long.aclose()


class _Reader:
    """A thread with its connection."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._hand = Hand(name)

    async def ask(self, question: Question[T]) -> T:
        return await self._hand.run(lambda: read(self._connection, question))

    async def aclose(self) -> None:
        await self._hand.aclose()
        self._connection.close()


def read(connection: sqlite3.Connection, question: Question[T]) -> T:
    """Ask ``question`` on one snapshot."""
    try:
        connection.execute("BEGIN")
        try:
            return question(connection)
        finally:
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        if is_unusable(error):
            raise state_full(error) from error
        raise

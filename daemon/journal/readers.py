"""Threads that read the journal beside its writer."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from daemon.journal.asked import Asked, settle
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
    """A thread with its connection.

    To wake a thread and to be woken by it costs more than a short answer. So what is asked while it
    is at work is handed over together, and comes back together.
    """

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: list[Asked[Question[Any]]] = []
        self._busy = False
        self._closing = False

    async def ask(self, question: Question[T]) -> T:
        if self._closing:
            raise RuntimeError("the journal is closed")
        return await self._put(question)

    async def aclose(self) -> None:
        if self._closing:
            return
        self._closing = True
        await self._put(lambda _: None)  # the last one
        await asyncio.to_thread(self._thread.shutdown)
        self._connection.close()

    def _put(self, question: Question[T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(Asked(question, future))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._hand_over)
        return future

    def _hand_over(self) -> None:
        taken, self._waiting = self._waiting, []
        self._thread.submit(self._answer, taken)

    def _answer(self, taken: Sequence[Asked[Question[Any]]]) -> None:
        for asked in taken:
            try:
                asked.result = read(self._connection, asked.work)
            except Exception as error:  # noqa: BLE001 - whoever asked gets it
                asked.error = error
        # The loop may be gone, and with it whoever asked.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, taken)

    def _settle(self, taken: Sequence[Asked[Question[Any]]]) -> None:
        settle(taken)
        if self._waiting:
            self._hand_over()
        else:
            self._busy = False


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

"""Threads that read the journal beside its writer."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from daemon.journal.database import is_unusable, state_full

T = TypeVar("T")

THREADS = 2
"""A long list in one leaves the other to the short questions."""


class Readers:
    """Runs questions, each on one snapshot that holds everything committed before."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connections: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        for _ in range(THREADS):
            self._connections.put(connect())
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="journal-reader")

    async def run(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Ask ``question``. Raises StateFullError where the database can't be read."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._read, question
        )

    async def aclose(self) -> None:
        """Let the questions that run end, and close."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Likewise, for a thread that may wait."""
        self._executor.shutdown()
        with contextlib.suppress(queue.Empty):
            while True:
                self._connections.get_nowait().close()

    def _read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connections.get()
        try:
            return read(connection, question)
        finally:
            self._connections.put(connection)


def read(connection: sqlite3.Connection, question: Callable[[sqlite3.Connection], T]) -> T:
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

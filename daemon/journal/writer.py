"""The one thread that changes the journal, with group commit."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from daemon.hand import Asked, settle
from daemon.journal.database import is_unusable, state_full
from daemon.journal.protocol import Listener
from daemon.journal.transaction import Notice, Transaction

T = TypeVar("T")
Operation = Callable[[Transaction], T]

MOST_AT_ONCE = 500
"""Calls in one transaction: what comes first shouldn't wait for all of a large crowd."""


@dataclass(slots=True)
class _Call(Asked[Operation[Any]]):
    notices: Sequence[Notice] = ()


class _Closing:
    """Stands in the queue behind the last call."""


class Writer:
    """Runs operations one after the other, many in one transaction.

    One that raises takes back its own changes only, and its caller alone gets the error: all of
    that transaction then run once more, each within a savepoint, which would cost a quarter more
    where none raises. So an operation may run twice, and changes nothing but the database. One
    that was taken is finished, whether or not its caller still waits. Where the disk is full or
    fails, nothing of the transaction stays, each caller gets StateFullError, and the next
    transaction tries anew.
    """

    def __init__(
        self, transaction: Transaction, reconnect: Callable[[], sqlite3.Connection]
    ) -> None:
        self._transaction = transaction
        self._reconnect = reconnect
        self._broken = False
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Listener] = []
        self._gathered: list[_Call] = []
        """What was asked for since the loop came round: to wake the thread costs more than it."""
        self._queue: queue.SimpleQueue[Sequence[_Call] | _Closing] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="journal-writer", daemon=True)
        self._thread.start()

    def listen(self, listener: Listener) -> None:
        """Tell ``listener`` of what commits from now on."""
        self._listeners.append(listener)

    async def run(self, operation: Operation[T]) -> T:
        """Run ``operation``; its changes are durable when this returns."""
        if self._closing:
            raise RuntimeError("the journal is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._gathered.append(_Call(operation, future))
        if len(self._gathered) == 1:
            self._loop.call_soon(self._hand_over)
        return await future

    async def aclose(self) -> None:
        """Finish what was taken, move the WAL into the database, and close it."""
        if not self._closing:
            self._closing = True
            self._hand_over()
            self._queue.put(_Closing())
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        for start in range(0, len(gathered), MOST_AT_ONCE):
            self._queue.put(gathered[start : start + MOST_AT_ONCE])

    def _main(self) -> None:
        closing = False
        while not closing:
            calls, closing = self._take()
            if calls:
                self._commit(calls)
                # The loop may be gone; what was committed stays committed.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._settle, calls)
        self._shut()

    def _take(self) -> tuple[list[_Call], bool]:
        """What waits, some of it at least, and whether that is the last."""
        taken: list[_Call] = []
        item = self._queue.get()
        with contextlib.suppress(queue.Empty):
            while not isinstance(item, _Closing):
                taken += item
                if len(taken) >= MOST_AT_ONCE:
                    return taken, False
                item = self._queue.get_nowait()
            return taken, True
        return taken, False

    def _commit(self, calls: Sequence[_Call]) -> None:
        handed = self._transaction.handed.copy()
        try:
            if self._broken:
                self._reopen()
            if not self._all_at_once(calls):
                self._transaction.handed = handed.copy()
                self._one_by_one(calls)
        except sqlite3.Error as error:
            self._roll_back()
            self._transaction.handed = handed
            for call in calls:
                call.notices = ()
                call.error = state_full(error)
                call.error.__cause__ = error

    def _all_at_once(self, calls: Sequence[_Call]) -> bool:
        """Run and commit the calls. False, and nothing is left of it, where one raises."""
        connection = self._transaction.connection
        connection.execute("BEGIN IMMEDIATE")
        for call in calls:
            try:
                self._run(call)
            except Exception as error:
                if isinstance(error, sqlite3.Error) and is_unusable(error):
                    raise
                connection.execute("ROLLBACK")
                return False
        connection.execute("COMMIT")
        return True

    def _one_by_one(self, calls: Sequence[_Call]) -> None:
        """Run and commit the calls; one that raises gets its error, and has changed nothing."""
        connection = self._transaction.connection
        connection.execute("BEGIN IMMEDIATE")
        for call in calls:
            connection.execute("SAVEPOINT call")
            try:
                self._run(call)
            except Exception as error:
                if isinstance(error, sqlite3.Error) and is_unusable(error):
                    raise
                connection.execute("ROLLBACK TO call")
                call.error, call.notices = error, ()
            connection.execute("RELEASE call")
        connection.execute("COMMIT")

    def _run(self, call: _Call) -> None:
        self._transaction.notices = []
        call.result = call.work(self._transaction)
        call.notices = self._transaction.notices

    def _roll_back(self) -> None:
        # After a failed write or sync it is not certain what this connection believes to be on
        # disk; a fresh one reads it again.
        self._broken = True
        with contextlib.suppress(sqlite3.Error):
            self._transaction.connection.execute("ROLLBACK")

    def _reopen(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._transaction.connection.close()
        self._transaction.connection = self._reconnect()
        self._broken = False
        # Where space is short, what the WAL holds many times over fits into the database; the
        # WAL is then written from its start again.
        with contextlib.suppress(sqlite3.Error):
            self._transaction.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _settle(self, calls: Sequence[_Call]) -> None:
        for call in calls:
            for notice in call.notices:
                self._tell(notice)
        settle(calls)

    def _tell(self, notice: Notice) -> None:
        for listener in self._listeners:
            try:
                notice(listener)
            except Exception as error:  # noqa: BLE001 - a listener's fault is not the caller's
                self._loop.call_exception_handler(
                    {"message": "a listener of the journal failed", "exception": error}
                )

    def _shut(self) -> None:
        connection = self._transaction.connection
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        with contextlib.suppress(sqlite3.Error):
            connection.close()

"""The journal in SQLite: each method of the border as one operation of the writer or a reader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from daemon.journal import askings, deliveries, dues, intake, operators, outbox, processing
from daemon.journal.database import (
    DATABASE_FILE,
    connect,
    connect_readonly,
    lock,
    not_accessible,
    opening_failed,
    prepare,
)
from daemon.journal.held import held
from daemon.journal.model import (
    Announcement,
    Asking,
    Attempt,
    Delivery,
    DeliveryState,
    Envelope,
    Error,
    Identity,
    NewDelivery,
    Report,
    Sighting,
    Standing,
    Trail,
    Upload,
    UploadDetails,
    UploadState,
    Work,
)
from daemon.journal.pages import incomplete, known_among, work_page
from daemon.journal.protocol import Listener
from daemon.journal.readers import Readers
from daemon.journal.readonly import ReadonlyJournal
from daemon.journal.transaction import Handed, Transaction, get_upload
from daemon.journal.wrapping import KEY_FILE, Wrapper, load_key
from daemon.journal.writer import Writer
from daemon.ports import Clock
from pipeline.messages import StoredObject, StoredPart


class SqliteJournal:
    """:class:`daemon.journal.protocol.Journal` in one file of the state directory.

    Use :meth:`open`; the methods' meaning stands at the border.
    """

    def __init__(self, writer: Writer, readers: Readers, wrapper: Wrapper, claim: int) -> None:
        self._writer = writer
        self._readers = readers
        self._wrapper = wrapper
        self._claim = claim
        self._closed = False

    @classmethod
    async def open(cls, directory: Path, *, clock: Clock = time.time) -> Self:
        """Open the journal of a state directory; what is missing there is made.

        Raises ConfigError where another daemon has it, where it is of a newer release, or where
        its key is missing, another one or readable by others; StateFullError where there is no
        space.
        """
        claim, transaction, reading = await asyncio.to_thread(_open, directory, clock)
        path = directory / DATABASE_FILE
        writer = Writer(transaction, lambda: connect(path))
        return cls(writer, Readers(*reading), transaction.wrapper, claim)

    @staticmethod
    def open_readonly(directory: Path) -> ReadonlyJournal:
        """The journal for looking only, beside a daemon or without one; makes no file.

        Raises NotFoundError where there is no journal.
        """
        return ReadonlyJournal(directory)

    async def __aenter__(self) -> Self:
        """The journal itself; it is closed at the end of the block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.aclose()

    def listen(self, listener: Listener) -> None:
        """Tell ``listener`` from now on."""
        self._writer.listen(listener)

    async def aclose(self) -> None:
        """Write what is waiting, and close."""
        if self._closed:
            return
        self._closed = True
        await self._readers.aclose()
        await self._writer.aclose()
        os.close(self._claim)

    # Intake -----------------------------------------------------------------------------------

    async def add_announcement(self, announcement: Announcement) -> None:
        """Remember that the broker took an announcement."""
        await self._writer.run(lambda tx: intake.add_announcement(tx, announcement))

    async def add_asking(self, asking: Asking) -> None:
        """Remember what the broker is about to be asked."""
        await self._writer.run(lambda tx: askings.add(tx, asking))

    async def askings(self, before: float, now: float, limit: int) -> Sequence[Asking]:
        """Those from before that, and from the future; oldest first."""
        return await self._readers.run(lambda c: askings.old(c, before, now, limit))

    async def forget_asking(self, asking: str) -> None:
        """Nothing comes of it."""
        await self._writer.run(lambda tx: askings.forget(tx, asking))

    async def sight(self, sighting: Sighting, now: float) -> Upload:
        """Take an upload as found on disk; any number of times, in any order."""
        return await self._writer.run(lambda tx: intake.sight(tx, sighting, now))

    async def terminate(self, directory: str, tus_id: str, now: float) -> Upload | None:
        """The client took the upload back."""
        return await self._writer.run(lambda tx: intake.terminate(tx, directory, tus_id, now))

    async def terminate_unseen(self, sighting: Sighting, now: float) -> Upload | None:
        """The client took back an upload that was never sighted."""
        return await self._writer.run(lambda tx: intake.terminate_unseen(tx, sighting, now))

    async def expire_announcements(self, before: float, now: float) -> int:
        """Give up announcements made before that no upload followed."""
        return await self._writer.run(lambda tx: intake.expire_announcements(tx, before, now))

    async def known_among(
        self, directory: str, tus_ids: Sequence[str]
    ) -> dict[str, tuple[UploadState, Identity]]:
        """The newest generation of those that have one of these tus ids."""
        return await self._readers.list(lambda c: known_among(c, directory, tus_ids))

    async def incomplete(self, directory: str) -> dict[str, Identity]:
        """The uploads of a directory that are being received, by tus id."""
        return await self._readers.list(lambda c: incomplete(c, directory))

    async def unneeded_partials(self, upload: str) -> Sequence[str]:
        """Those that no other concatenation still needs."""
        return await self._readers.run(lambda c: intake.unneeded_partials(c, upload))

    async def forsaken_partials(self, directory: str) -> Sequence[tuple[Upload, Sequence[str]]]:
        """Those that terminated concatenations kept back from others."""
        return await self._readers.list(lambda c: intake.forsaken_partials(c, directory))

    # Processing -------------------------------------------------------------------------------

    async def work_page(
        self, state: UploadState, after: int, limit: int
    ) -> Sequence[tuple[int, Work]]:
        """Some of the uploads in a state that something is left to do for, each with its place."""
        return await self._readers.list(lambda c: work_page(c, state, after, limit))

    async def upload(self, upload: str) -> Upload:
        """One upload."""
        return await self._readers.run(lambda c: get_upload(c, upload))

    async def clock_went_back(self, seconds: float, now: float) -> None:
        """What waits for a time waits no longer for it."""
        await self._writer.run(lambda tx: dues.clock_went_back(tx, seconds, now))

    async def announced(self, upload: str, api_id: str | None) -> None:
        """The broker took it."""
        await self._writer.run(lambda tx: processing.announced(tx, upload, api_id))

    async def postpone(self, upload: str, error: Error, next_at: float) -> None:
        """Planning or cleaning up has to wait."""
        await self._writer.run(lambda tx: processing.postpone(tx, upload, error, next_at))

    async def plan(
        self,
        upload: str,
        envelope: Envelope,
        deliveries: Sequence[NewDelivery],
        identity: Identity,
        now: float,
    ) -> None:
        """Received → processing."""
        await self._writer.run(
            lambda tx: processing.plan(tx, upload, envelope, deliveries, identity, now)
        )

    async def follow(
        self, upload: str, envelope: Envelope, deliveries: Sequence[NewDelivery], trail: Trail
    ) -> None:
        """Receiving, and delivered meanwhile."""
        await self._writer.run(
            lambda tx: processing.follow(tx, upload, envelope, deliveries, trail)
        )

    async def sealing(self, upload: str, end: int) -> None:
        """Bytes before ``end`` are about to be sealed and sent."""
        await self._writer.run(lambda tx: processing.sealing(tx, upload, end))

    async def trust(self, upload: str, trail: Trail) -> None:
        """What went out early is the same in this file."""
        await self._writer.run(lambda tx: processing.trust(tx, upload, trail))

    async def doubt(self, upload: str) -> None:
        """The file of a followed upload did what a growing file doesn't."""
        await self._writer.run(lambda tx: processing.doubt(tx, upload))

    async def go_on(self, upload: str, identity: Identity, now: float) -> None:
        """Received → processing, with what was fixed while it was received."""
        await self._writer.run(lambda tx: processing.go_on(tx, upload, identity, now))

    async def start_over(self, upload: str, now: float) -> None:
        """Nothing is left of what was sealed."""
        await self._writer.run(lambda tx: processing.start_over(tx, upload, now))

    async def standing(self, upload: str) -> Standing:
        """All that the way of an upload goes on from."""
        return await self._readers.run(lambda c: processing.standing(c, self._wrapper, upload))

    async def envelope(self, upload: str) -> Envelope:
        """The envelope of one that is processing, its key unwrapped."""
        return await self._readers.run(lambda c: processing.envelope(c, self._wrapper, upload))

    async def deliveries(self, upload: str) -> Sequence[Delivery]:
        """Its deliveries by position."""
        return await self._readers.run(lambda c: deliveries.deliveries(c, self._wrapper, upload))

    async def parts(self, upload: str, position: int) -> dict[int, StoredPart]:
        """The parts that a delivery holds, by number."""
        return await self._readers.run(lambda c: deliveries.parts(c, upload, position))

    async def attempt(self, upload: str, position: int, now: float) -> Delivery:
        """A try of a delivery begins."""
        return await self._writer.run(lambda tx: deliveries.attempt(tx, upload, position, now))

    async def held(self, upload: str, position: int, now: float) -> None:
        """A delivery waits for a destination that is away."""
        await self._writer.run(lambda tx: held(tx, upload, position, now))

    async def begun(self, upload: str, position: int, reference: str) -> None:
        """The unfinished object is there."""
        await self._writer.run(lambda tx: deliveries.begun(tx, upload, position, reference))

    async def part_stored(self, upload: str, position: int, part: StoredPart) -> None:
        """A part is there."""
        await self._writer.run(lambda tx: deliveries.part_stored(tx, upload, position, part))

    async def forget_parts(self, upload: str, position: int, numbers: Sequence[int] | None) -> None:
        """Parts must be sent again."""
        await self._writer.run(lambda tx: deliveries.forget_parts(tx, upload, position, numbers))

    async def digested(self, upload: str, digest: str) -> None:
        """The plaintext's digest."""
        await self._writer.run(lambda tx: processing.digested(tx, upload, digest))

    async def delivered(  # noqa: PLR0913, PLR0917 - see the border
        self,
        upload: str,
        position: int,
        stored: StoredObject,
        attempt: Attempt,
        now: float,
        digest: str | None = None,
    ) -> None:
        """The destination verified it."""
        await self._writer.run(
            lambda tx: deliveries.delivered(tx, upload, position, stored, attempt, now, digest)
        )

    async def delivery_failed(
        self, upload: str, position: int, attempt: Attempt, state: DeliveryState, next_at: float
    ) -> None:
        """A try failed."""
        await self._writer.run(
            lambda tx: deliveries.delivery_failed(tx, upload, position, attempt, state, next_at)
        )

    async def stored(self, upload: str, receipt: dict[str, Any], now: float) -> None:
        """Processing → stored."""
        await self._writer.run(lambda tx: processing.stored(tx, upload, receipt, now))

    async def receipt(self, upload: str) -> dict[str, Any] | None:
        """The receipt of one that is stored or done."""
        return await self._readers.run(lambda c: processing.receipt(c, upload))

    async def done(self, upload: str, now: float) -> None:
        """Stored → done."""
        await self._writer.run(lambda tx: processing.done(tx, upload, now))

    async def fail(self, upload: str, error: Error, now: float) -> None:
        """→ failed, with its report."""
        await self._writer.run(lambda tx: processing.fail(tx, upload, error, now))

    async def abandoned(self) -> Sequence[Delivery]:
        """Deliveries of terminated, discarded uploads that still have an unfinished object."""
        return await self._readers.list(lambda c: deliveries.abandoned(c, self._wrapper))

    async def aborted(self, upload: str, position: int) -> None:
        """That unfinished object is gone."""
        await self._writer.run(lambda tx: deliveries.aborted(tx, upload, position))

    # Outbox -----------------------------------------------------------------------------------

    async def due_reports(
        self, now: float, limit: int, excluding: frozenset[str] = frozenset()
    ) -> Sequence[Report]:
        """For each upload (but those excluded), its first pending report if that is due."""
        return await self._writer.run(lambda tx: outbox.due_reports(tx, now, limit, excluding))

    async def next_report_at(self) -> float | None:
        """When the next pending report is due."""
        return await self._readers.run(outbox.next_report_at)

    async def acknowledged(self, report: str) -> None:
        """The API has it."""
        await self._writer.run(lambda tx: outbox.acknowledged(tx, report))

    async def report_failed(self, report: str, error: Error, next_at: float) -> None:
        """The API doesn't have it, or its answer was lost."""
        await self._writer.run(lambda tx: outbox.report_failed(tx, report, error, next_at))

    async def park(self, report: str, error: Error) -> None:
        """The API refused it for good."""
        await self._writer.run(lambda tx: outbox.park(tx, report, error))

    # Operators --------------------------------------------------------------------------------

    async def find(self, text: str) -> Upload:
        """By own id, tus id, API's id, or a unique prefix of the first two."""
        return await self._readers.run(lambda c: operators.find(c, text))

    async def uploads(
        self, state: UploadState | None, study: str | None, limit: int
    ) -> Sequence[Upload]:
        """Newest first."""
        return await self._readers.list(lambda c: operators.uploads(c, state, study, limit))

    async def details(self, upload: str) -> UploadDetails:
        """One upload whole."""
        return await self._readers.list(lambda c: operators.details(c, upload))

    async def counts(self) -> dict[UploadState, int]:
        """How many uploads are in each state."""
        return await self._readers.list(operators.counts)

    async def report_counts(self) -> dict[str, int]:
        """How many reports are in each status."""
        return await self._readers.list(operators.report_counts)

    async def retry(self, upload: str, now: float) -> None:
        """Failed → received, or parked reports pending again."""
        await self._writer.run(lambda tx: operators.retry(tx, upload, now))

    async def discard(self, upload: str, now: float, identity: Identity | None = None) -> None:
        """Failed → discarded."""
        await self._writer.run(lambda tx: operators.discard(tx, upload, now, identity))


def _open(
    directory: Path, clock: Clock
) -> tuple[int, Transaction, tuple[sqlite3.Connection, sqlite3.Connection]]:
    """What a journal consists of: its lock, what its writer has, and connections to read by."""
    path = directory / DATABASE_FILE
    with contextlib.ExitStack() as undo:
        claim = lock(directory)
        undo.callback(os.close, claim)
        connection = prepare(directory)
        undo.callback(connection.close)
        try:
            wrapper = _wrapper(directory, connection)
            last = connection.execute("SELECT coalesce(max(number), 0) FROM reports").fetchone()
            reading = connect_readonly(path), connect_readonly(path)
        except sqlite3.Error as error:
            raise opening_failed(path, error) from error
        undo.pop_all()
    return claim, Transaction(connection, wrapper, Handed(last[0]), clock), reading


def _wrapper(directory: Path, connection: sqlite3.Connection) -> Wrapper:
    wrapped = processing.any_wrapped(connection)
    try:
        wrapper = Wrapper(load_key(directory, needed=wrapped is not None))
    except OSError as error:
        raise not_accessible(directory / KEY_FILE, error) from error
    if wrapped is not None:
        wrapper.unwrap(*wrapped)
    return wrapper

"""The journal's border: what the rest of the service asks of it.

Each method is one transaction, durable when it returns. Only the daemon's one writer changes
anything; nothing outside this package knows what stands behind. Methods that change an upload
raise ConflictError where its state doesn't allow it, NotFoundError where there is none, and
StateFullError where no space is left. Times are seconds since the epoch (UTC).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

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
from pipeline.messages import StoredObject, StoredPart


class Listener(Protocol):
    """Who is told, on the event loop and after the commit, that something can go on."""

    def on_work(self, work: Work) -> None:
        """A sighting or a retry made an upload workable, or its stored report is acknowledged.

        What processing itself writes (``start_over``, ``postpone``, …) is not told back to it.
        """

    def on_reports(self) -> None:
        """A report was queued, or can go now."""

    def on_withdrawn(self, upload: str) -> None:
        """An upload was terminated or discarded: whatever runs for it should stop."""


class IntakeJournal(Protocol):
    """What intake writes."""

    async def add_announcement(self, announcement: Announcement) -> None:
        """Remember that the broker took an announcement; an asking with its id is settled."""

    async def add_asking(self, asking: Asking) -> None:
        """Remember what the broker is about to be asked. Raises InfoError for what can't be."""

    async def askings(self, before: float, now: float, limit: int) -> Sequence[Asking]:
        """Those from before that, and from the future of a clock that was set back; oldest first.

        Those that are asked about at the moment are among them, where they are old enough.
        """

    async def forget_asking(self, asking: str) -> None:
        """Nothing comes of it: the broker refused, or never heard of it."""

    async def sight(self, sighting: Sighting, now: float) -> Upload:
        """Take an upload as found on disk; any number of times, in any order.

        Finds the upload by directory and tus id, or makes it. A tus id whose upload is over and
        whose identity (device, inode, mtime) is another one is a new generation; the same
        identity is the finished upload again, and nothing happens. A new upload takes the
        matching announcement with it: by ``dropoff_id`` (same study only), by tus id, else by
        study, filename, size and metadata, oldest first; its id becomes the upload's.
        Complete: receiving becomes received, with a ``received`` report. Not complete: a new one
        is made as receiving, ``received`` is brought up to date, and a ``receiving`` report is
        queued, at most one for each 5 s. Never goes back from received.
        """

    async def terminate(self, directory: str, tus_id: str, now: float) -> Upload | None:
        """The client took the upload back: terminated, with its report.

        None where no such upload is known, or it is stored or over already.
        """

    async def terminate_unseen(self, sighting: Sighting, now: float) -> Upload | None:
        """The client took back an upload that was announced and never sighted.

        It is made from its announcement, found as :meth:`sight` finds it, and terminated with its
        report. None where nothing was announced, or the upload is known.
        """

    async def expire_announcements(self, before: float, now: float) -> int:
        """Give up announcements made before that no upload followed, each with a report."""

    async def known_among(
        self, directory: str, tus_ids: Sequence[str]
    ) -> dict[str, tuple[UploadState, Identity]]:
        """The newest generation of a directory's uploads that have one of these tus ids."""

    async def incomplete(self, directory: str) -> dict[str, Identity]:
        """The uploads of a directory that are being received, by tus id."""

    async def unneeded_partials(self, upload: str) -> Sequence[str]:
        """The partials that a concatenation, over but for its clean-up, was put together from.

        Without those that another one still needs, which then takes them with it: one that is not
        stored yet, or was stored after this one.
        """

    async def forsaken_partials(self, directory: str) -> Sequence[tuple[Upload, Sequence[str]]]:
        """Terminated concatenations, with those of their partials that must go now.

        Others that named them are done and left them for it; nobody needs them any more.
        """


class ProcessingJournal(Protocol):
    """What the way from received to done writes."""

    async def work_page(
        self, state: UploadState, after: int, limit: int
    ) -> Sequence[tuple[int, Work]]:
        """Up to ``limit`` uploads in a state that something is left to do for, each with its place.

        Something is for all that are received, processing or stored, and for those that failed
        before they were announced, though their study is known. Oldest first.
        ``after`` is the place of the last one that was asked for before; 0: from the first.
        """

    async def upload(self, upload: str) -> Upload:
        """One upload."""

    async def clock_went_back(self, seconds: float, now: float) -> None:
        """The clock was set back by so much: what waits for its next try is due sooner by as much.

        And nothing is due later than the longest pause there is from ``now``: with 0 seconds, what
        a process wrote whose clock was wrong. Times at which something happened stay.
        """

    async def announced(self, upload: str, api_id: str | None) -> None:
        """The broker took it. Reports that waited for the API's id can go."""

    async def postpone(self, upload: str, error: Error, next_at: float) -> None:
        """Planning or cleaning up has to wait; counts an attempt."""

    async def plan(
        self,
        upload: str,
        envelope: Envelope,
        deliveries: Sequence[NewDelivery],
        identity: Identity,
        now: float,
    ) -> None:
        """Received → processing: fixes key, header and deliveries, queues ``processing``."""

    async def follow(
        self,
        upload: str,
        envelope: Envelope,
        deliveries: Sequence[NewDelivery],
        trail: Trail,
    ) -> None:
        """Fixes key, header and deliveries of one that is still receiving, and goes on so."""

    async def sealing(self, upload: str, end: int) -> None:
        """Bytes before ``end`` are about to be sealed and sent; durable before they are."""

    async def trust(self, upload: str, trail: Trail) -> None:
        """What went out early was read again, and is the same in this file."""

    async def doubt(self, upload: str) -> None:
        """The file of a followed upload did what a growing file doesn't."""

    async def go_on(self, upload: str, identity: Identity, now: float) -> None:
        """Received → processing for one that was followed: what was fixed stays."""

    async def start_over(self, upload: str, now: float) -> None:
        """Key, header, digest, trail, deliveries and parts are thrown away.

        One that is processing becomes received again; one that is receiving stays so.
        """

    async def standing(self, upload: str) -> Standing:
        """All that the way of an upload goes on from, as it is at one moment."""

    async def envelope(self, upload: str) -> Envelope:
        """The envelope of one that is processing, its key unwrapped."""

    async def deliveries(self, upload: str) -> Sequence[Delivery]:
        """Its deliveries by position."""

    async def parts(self, upload: str, position: int) -> dict[int, StoredPart]:
        """The parts that a delivery holds, by number."""

    async def attempt(self, upload: str, position: int, now: float) -> Delivery:
        """A try of a delivery begins: counted, and durable before anything is sent."""

    async def held(self, upload: str, position: int, now: float) -> None:
        """A delivery waits for a destination that is away: from when on, where it was never tried.

        It is given up in as long a time as one that was.
        """

    async def begun(self, upload: str, position: int, reference: str) -> None:
        """The unfinished object is there. Another reference than before forgets all parts."""

    async def part_stored(self, upload: str, position: int, part: StoredPart) -> None:
        """A part is there."""

    async def forget_parts(self, upload: str, position: int, numbers: Sequence[int] | None) -> None:
        """Parts must be sent again; None: all, and the reference with them."""

    async def digested(self, upload: str, digest: str) -> None:
        """The plaintext's digest, ``<name>:<hex>``."""

    async def delivered(  # noqa: PLR0913, PLR0917 - one transaction
        self,
        upload: str,
        position: int,
        stored: StoredObject,
        attempt: Attempt,
        now: float,
        digest: str | None = None,
    ) -> None:
        """The destination verified it; ``digest`` where it was taken on the way."""

    async def delivery_failed(
        self,
        upload: str,
        position: int,
        attempt: Attempt,
        state: DeliveryState,
        next_at: float,
    ) -> None:
        """A try failed: pending again at ``next_at``, or failed for good (PENDING, FAILED)."""

    async def stored(self, upload: str, receipt: dict[str, Any], now: float) -> None:
        """Processing → stored, with the ``stored`` report that carries the receipt."""

    async def receipt(self, upload: str) -> dict[str, Any] | None:
        """The receipt that ``stored`` was given; None before."""

    async def done(self, upload: str, now: float) -> None:
        """Stored → done; session key and destinations' secrets are erased.

        ConflictError while the ``stored`` report is not acknowledged.
        """

    async def fail(self, upload: str, error: Error, now: float) -> None:
        """→ failed, with its report. Session key and parts stay for ``retry``."""

    async def abandoned(self) -> Sequence[Delivery]:
        """Deliveries of terminated, discarded uploads that still have an unfinished object."""

    async def aborted(self, upload: str, position: int) -> None:
        """That unfinished object is gone. With the last one, the session key is erased."""


class OutboxJournal(Protocol):
    """What the outbox reads and writes."""

    async def due_reports(
        self, now: float, limit: int, excluding: frozenset[str] = frozenset()
    ) -> Sequence[Report]:
        """For each upload (but those excluded), its first pending report if that is due."""

    async def next_report_at(self) -> float | None:
        """When the next pending report is due."""

    async def acknowledged(self, report: str) -> None:
        """The API has it."""

    async def report_failed(self, report: str, error: Error, next_at: float) -> None:
        """The API doesn't have it, or its answer was lost: again later."""

    async def park(self, report: str, error: Error) -> None:
        """The API refused it for good."""


class OperatorJournal(Protocol):
    """What people and the command line ask."""

    async def find(self, text: str) -> Upload:
        """By own id, tus id, API's id, or a unique prefix of the first two. NotFoundError."""

    async def uploads(
        self, state: UploadState | None, study: str | None, limit: int
    ) -> Sequence[Upload]:
        """Newest first."""

    async def details(self, upload: str) -> UploadDetails:
        """One upload whole."""

    async def counts(self) -> dict[UploadState, int]:
        """How many uploads are in each state; states without any are there with 0."""

    async def report_counts(self) -> dict[str, int]:
        """How many reports are in each status."""

    async def retry(self, upload: str, now: float) -> None:
        """Failed → as far back as it must; parked reports pending again.

        One whose key and deliveries are fixed goes on processing, what is stored already kept; one
        that was complete is received, another receiving. ConflictError where nothing is to retry.
        """

    async def discard(self, upload: str, now: float, identity: Identity | None = None) -> None:
        """Failed → discarded.

        ``identity`` is of the file that is given up with it, where that changed: it is not taken
        for a new upload, should it still be seen.
        """


class Journal(IntakeJournal, ProcessingJournal, OutboxJournal, OperatorJournal, Protocol):
    """All of it."""

    def listen(self, listener: Listener) -> None:
        """Tell ``listener`` from now on."""

    async def aclose(self) -> None:
        """Write what is waiting, and close."""

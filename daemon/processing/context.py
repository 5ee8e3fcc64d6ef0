"""What every step of processing is given."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

from daemon.backoff import Backoff
from daemon.journal.model import Identity, Upload
from daemon.journal.protocol import ProcessingJournal
from daemon.plan import Broker
from daemon.ports import Audit, Clock, Metrics, Workers
from daemon.processing.receipts import ReceiptFiles
from daemon.scheduling.slots import Slots
from daemon.settings import Settings
from daemon.stores import StoreMemory
from daemon.tasks import run_all
from pipeline.messages import DestinationSpec, Traits
from pipeline.running_digest import RunningDigest

Done = TypeVar("Done")


class OpenSource(Protocol):
    """A received file, open for reading. A context manager that closes it."""

    @property
    def fd(self) -> int:
        """The descriptor that is passed to workers."""

    @property
    def identity(self) -> Identity:
        """Of the open file, when it was opened."""

    def __enter__(self) -> Self:
        """The source itself."""

    def __exit__(self, *exc: object) -> None:
        """Close it."""


class Sources(Protocol):
    """Where the received bytes of an upload are: a file today."""

    async def open(self, upload: Upload) -> OpenSource:
        """Open it safely. Raises SourceUnsafeError, SourceMissingError."""

    async def remove(self, upload: Upload) -> None:
        """Delete the upload at its tus server. What is gone, or another one, is left alone."""


class StoppedError(Exception):
    """The service stops: whatever is under way goes on after the next start."""


@dataclass
class Progress:
    """What a delivery that is under way has done, for ``status``."""

    upload: str
    study: str
    destination: str
    size: int
    """Bytes of the sealed object."""
    stored: int
    """Bytes of the parts that are there."""
    sent: int = 0
    """Bytes sent in this try."""


@dataclass(frozen=True)
class Context:
    """The parts that processing works with."""

    journal: ProcessingJournal
    broker: Broker
    sources: Sources
    workers: Workers
    slots: Slots
    metrics: Metrics
    audit: Audit
    receipts: ReceiptFiles
    settings: Settings
    clock: Clock
    backoff: Backoff
    stopping: asyncio.Event
    digests: dict[str, RunningDigest] = field(default_factory=dict)
    """Digests of uploads that are followed, as far as they got."""
    active: dict[tuple[str, int], Progress] = field(default_factory=dict)
    """Deliveries under way, by upload and position."""
    stores: StoreMemory | None = None
    """What destinations were found to do; None: each worker finds out by itself."""

    def known_of(self, destination: DestinationSpec) -> Traits | None:
        """What is remembered of a destination."""
        return None if self.stores is None else self.stores.known(destination)

    async def unless_stopped(self, work: Coroutine[Any, Any, Done]) -> Done:
        """Do what leaves nothing behind when it is interrupted: given up as soon as we stop."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise StoppedError
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.wait((working, stopping))

    async def run_all(self, *steps: Coroutine[Any, Any, None]) -> None:
        """Run all at once. The first that fails ends the others, and its error is raised alone.

        One that sees that we stop leaves the others alone: they have parts in flight, and see it by
        themselves. StoppedError comes after all of them.
        """
        stopped = False

        async def ended(step: Coroutine[Any, Any, None]) -> None:
            nonlocal stopped
            try:
                await step
            except StoppedError:
                stopped = True

        try:
            await run_all(*(ended(step) for step in steps))
        finally:
            for step in steps:
                step.close()  # some may have been ended before they began
        if stopped:
            raise StoppedError

    def go_on(self) -> None:
        """Raise StoppedError once the service stops."""
        if self.stopping.is_set():
            raise StoppedError

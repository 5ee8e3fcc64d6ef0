"""A conductor with a real journal and real deliveries, that can be killed between any two steps."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import msgspec

from daemon.journal.model import Upload, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.plan import PlannedDestination
from daemon.ports import Workers
from daemon.processing.conductor import Conductor
from pipeline.channel import result_channel
from pipeline.envelope.armour import wrap
from pipeline.envelope.keys import PUBLIC_LABEL
from pipeline.envelope.x25519 import public_of
from pipeline.messages import DestinationSpec, EnvelopeFormat, Job, Result
from pipeline.worker import Destinations, Worker
from tests.peers.conducting import Bench
from tests.peers.deliveries import SECRET_KEY

RECIPIENT = wrap(PUBLIC_LABEL, public_of(SECRET_KEY))


class LocalWorkers:
    """A worker without a process of its own: its timeouts can be set, its bugs break the test."""

    slots = 4

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self._destinations = Destinations()
        self._channel = result_channel(theirs)
        self._worker = Worker(self._channel, self._destinations)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._destinations.aclose()
        self._channel.close()
        self._ours.close()

    async def run(self, job: Job, source: int | None = None) -> Result:
        return await self._worker._result(job, None if source is None else os.dup(source))


class KillingWorkers:
    """Workers whose results are told to ``kills`` first; once it says so, nobody hears of one."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.kills: Callable[[Job], bool] = lambda _: False
        self.killed = asyncio.Event()
        self.jobs: list[Job] = []

    @property
    def slots(self) -> int:
        return self._workers.slots

    async def run(self, job: Job, source: int | None = None) -> Result:
        result = await self._workers.run(job, source)
        self.jobs.append(job)
        if self.kills(job):
            self.killed.set()
        if self.killed.is_set():
            await asyncio.Event().wait()
        return result


class Line(Bench):
    """Uploads on their way to ``spec`` through ``workers``; Crypt4GH opens by ``SECRET_KEY``."""

    def __init__(
        self,
        directory: Path,
        journal: SqliteJournal,
        workers: Workers,
        spec: DestinationSpec,
        *,
        envelope: EnvelopeFormat = "crypt4gh",
        recipients: Sequence[str] = (RECIPIENT,),
    ) -> None:
        self._workers = workers
        super().__init__(directory, journal, destinations=1)
        self.broker.answer = msgspec.structs.replace(
            self.broker.answer,
            encrypt=envelope,
            recipients=tuple(recipients),
            destinations=(PlannedDestination(spec=spec, path="{upload}/{filename}"),),
        )
        journal.listen(self.conductor)

    def _conductor(self) -> Conductor:
        context = super()._conductor()._context
        return Conductor(dataclasses.replace(context, workers=self._workers))

    async def stored(self, upload: str) -> Upload:
        """Wait until it is stored, or failed."""
        return await self.until(upload, UploadState.STORED, UploadState.DONE, UploadState.FAILED)

    async def name(self, upload: str) -> str:
        """Of its object."""
        (delivery,) = await self.journal.deliveries(upload)
        return delivery.name

    async def killed(self, workers: KillingWorkers) -> None:
        """Run until ``workers`` say so, and go away without a word. Start anew by ``restart``."""
        task = asyncio.create_task(self.conductor.run())
        async with asyncio.timeout(30):
            await workers.killed.wait()
        task.cancel()
        await asyncio.wait([task])
        workers.killed.clear()
        workers.kills = lambda _: False
        self.restart()


@asynccontextmanager
async def line(
    directory: Path, workers: Workers, spec: DestinationSpec, **options: object
) -> AsyncIterator[Line]:
    """A line with a journal of its own."""
    journal = await SqliteJournal.open(directory)
    try:
        yield Line(directory, journal, workers, spec, **options)  # type: ignore[arg-type]
    finally:
        await journal.aclose()

"""A conductor with a real journal, workers in memory, and a clock that can be set."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from daemon.backoff import Backoff
from daemon.journal.model import Identity, Sighting, Upload, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.plan import Announcing, Plan, PlannedDestination
from daemon.processing.conductor import Conductor
from daemon.processing.context import Context
from daemon.processing.receipts import ReceiptFiles
from daemon.scheduling.slots import Slots
from daemon.settings import Api, Hooks, Pipeline, Settings, Uploads
from pipeline.envelope import keys
from pipeline.errors import (
    DropoffError,
    SourceMissingError,
)
from pipeline.messages import DestinationSpec, Job
from tests.peers.memory_workers import MemoryWorkers

MIB = 1024**2
STUDY = "11111111-2222-4333-8444-555555555555"
RECIPIENT = keys.crypt4gh_generate().public


class FileOnDisk:
    """A source that the test opened."""

    def __init__(self, path: Path) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise SourceMissingError("gone") from None
        self.identity = identity_of(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)


def identity_of(path: Path) -> Identity:
    stat = path.stat()
    return Identity(
        device=stat.st_dev,
        inode=stat.st_ino,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        ctime_ns=stat.st_ctime_ns,
    )


class FakeBroker:
    """Says yes, with the plan that the test sets, or raises what the test sets."""

    def __init__(self, plan: Plan) -> None:
        self.answer = plan
        self.error: DropoffError | None = None
        self.api_id: str | None = None
        self.announced: list[Announcing] = []

    async def announce(self, announcing: Announcing) -> str | None:
        if self.error is not None:
            raise self.error
        self.announced.append(announcing)
        return self.api_id

    async def plan(self, study: str) -> Plan:
        assert study == self.answer.study
        return self.answer


class Recorder:
    """Metrics and audit in lists."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def record(self, event: str, outcome: str, **fields: object) -> None:
        self.lines.append({"event": event, "outcome": outcome, **fields})

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


class QuietAudit:
    async def record(self, action: str, upload: str, by: str, **fields: object) -> None:
        """Nobody asks."""


class Bench:
    """A conductor with a real journal, workers in memory, and a clock that can be set."""

    def __init__(
        self,
        directory: Path,
        journal: SqliteJournal,
        destinations: int,
        *,
        follow: bool = True,
        follow_after: int = 64 * MIB,
        state: Path | None = None,
    ) -> None:
        self.uploads = directory / "uploads"
        self.uploads.mkdir()
        self.receipts = (state or directory) / "receipts"
        self.receipts.mkdir()
        self.journal = journal
        self.now = 1_000_000.0
        self.workers = MemoryWorkers()
        self.metrics = Recorder()
        plan = Plan(
            study=STUDY,
            max_size=None,
            encrypt="crypt4gh",
            recipients=(RECIPIENT,),
            destinations=tuple(
                PlannedDestination(
                    spec=DestinationSpec(name=f"d{number}", type="directory", directory="/d"),
                    path="{upload}/{filename}",
                )
                for number in range(destinations)
            ),
        )
        self.broker = FakeBroker(plan)
        pipeline = Pipeline(
            workers=2,
            part_size=5 * MIB,
            stop_timeout=5.0,
            follow=follow,
            follow_after=follow_after,
        )
        self.settings = Settings(
            file=None,
            uploads=Uploads(directory=self.uploads, info_directory=self.uploads),
            spool=directory / "spool",
            state=state or directory,
            hooks=Hooks(socket=directory / "s"),
            api=Api(),
            pipeline=pipeline,
            destinations={},
            studies={},
        )
        self.conductor = self._conductor()

    def _conductor(self) -> Conductor:
        context = Context(
            journal=self.journal,
            broker=self.broker,
            sources=self,
            workers=self.workers,
            slots=Slots(4),
            metrics=self.metrics,
            audit=QuietAudit(),
            receipts=ReceiptFiles(self.receipts),
            settings=self.settings,
            clock=lambda: self.now,
            backoff=Backoff(0.01, 0.02),
            stopping=asyncio.Event(),
        )
        return Conductor(context)

    async def open(self, upload: Upload) -> FileOnDisk:
        return FileOnDisk(self.uploads / upload.tus_id)

    async def remove(self, upload: Upload) -> None:
        (self.uploads / upload.tus_id).unlink(missing_ok=True)

    async def receive(self, size: int, name: str = "u1") -> str:
        """A complete upload, sighted; its own id."""
        path = self.uploads / name
        path.write_bytes(os.urandom(size))
        sighting = Sighting(
            directory=str(self.uploads),
            tus_id=name,
            server="tusd",
            path=name,
            info_path=str(path) + ".info",
            size=size,
            received=size,
            complete=True,
            metadata={"study": STUDY},
            study=STUDY,
            filename="f.bam",
            dropoff_id=None,
            identity=identity_of(path),
        )
        return (await self.journal.sight(sighting, self.now)).id

    async def until(self, upload: str, *states: UploadState) -> Upload:
        """Wait for one of the states, the clock running faster than the real one."""
        async with asyncio.timeout(20):
            while (found := await self.journal.upload(upload)).state not in states:
                self.now += 1.0
                await asyncio.sleep(0.005)
        return found

    def restart(self) -> None:
        """Another daemon on the same journal."""
        self.conductor = self._conductor()
        self.journal.listen(self.conductor)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.conductor.run())
        try:
            yield
        finally:
            self.conductor.stop()
            await task


def failing(kind: type[Job], error: DropoffError, times: int = 1) -> Callable[[Job], None]:
    """A fault that meets the first jobs of a kind."""
    left = times

    def fault(job: Job) -> None:
        nonlocal left
        if isinstance(job, kind) and left:
            left -= 1
            raise error

    return fault


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- what is waited for has no event of its own
            await asyncio.sleep(0.002)

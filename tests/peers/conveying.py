"""A conductor with a real journal and real deliveries, that can be killed between any two steps."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
import structlog

from daemon.backoff import Backoff
from daemon.broker.outbox import Outbox
from daemon.errors import ConflictError
from daemon.journal.model import Upload, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.observe import log
from daemon.observe.audit import AuditLog
from daemon.observe.metrics import MetricsLog
from daemon.plan import PlannedDestination
from daemon.ports import Workers
from daemon.processing.conductor import Conductor
from daemon.sources import FileSources
from pipeline.channel import result_channel
from pipeline.envelope.armour import wrap
from pipeline.envelope.keys import PUBLIC_LABEL
from pipeline.envelope.x25519 import public_of
from pipeline.messages import DestinationSpec, EnvelopeFormat, Job, Result
from pipeline.worker import Destinations, Worker
from tests.peers.conducting import STUDY, Bench
from tests.peers.deliveries import SECRET_KEY
from tests.peers.openers import Crypt4gh, Opener
from tests.peers.oracle import Evidence, Failing, Sent, judge
from tests.peers.stores import Looked, snapshot
from tests.peers.tusd_files import lay_info

RECIPIENT = wrap(PUBLIC_LABEL, public_of(SECRET_KEY))
STATE = "state"
LOG = "dropoffd.log"
"""Names in a line's directory."""


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


class Before:
    """Workers before whose jobs something happens."""

    def __init__(self, workers: Workers, happens: Callable[[Job], object]) -> None:
        self.slots = workers.slots
        self._workers = workers
        self._happens = happens

    async def run(self, job: Job, source: int | None = None) -> Result:
        self._happens(job)
        return await self._workers.run(job, source)


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


class Reporter:
    """Takes reports, as the REST API does."""

    def __init__(self) -> None:
        self._reports: dict[str, list[dict[str, Any]]] = {}

    async def report(self, api_id: str, body: dict[str, Any]) -> None:
        """Keep one; a second time it is the same."""
        reports = self._reports.setdefault(api_id, [])
        if body not in reports:
            reports.append(body)

    def drops(self) -> list[dict[str, Any]]:
        """What it was told, as :meth:`tests.peers.reference_api.ReferenceServer.drops`."""
        return [{"id": api_id, "reports": told} for api_id, told in self._reports.items()]


class Line(Bench):
    """Uploads on their way to ``spec`` through ``workers``, with all that a daemon keeps of them.

    Uploads lie as tusd leaves them, their reports are acknowledged, and their sources removed.

    Args:
        directory: Where all of it is.
        journal: Of ``directory / "state"``.
        workers: Do the jobs.
        spec: Where all goes; its secrets come with the study's plan.
        envelope: How objects are sealed.
        recipients: For whom.
        opener: Who opens them.
    """

    def __init__(
        self,
        directory: Path,
        journal: SqliteJournal,
        workers: Workers,
        spec: DestinationSpec,
        *,
        envelope: EnvelopeFormat = "crypt4gh",
        recipients: Sequence[str] = (RECIPIENT,),
        opener: Opener = Crypt4gh(SECRET_KEY),  # noqa: B008 -- it never changes
    ) -> None:
        self.state = directory / STATE
        self.spool = directory / "spool"
        self.log = directory / LOG
        self.reporter = Reporter()
        self.sent: dict[str, Sent] = {}
        """What came, by tus id."""
        self._workers = workers
        self._spec = spec
        self._opener = opener
        self._metrics_log = MetricsLog(self.state / "metrics.jsonl")
        self._metrics_log.start()
        super().__init__(directory, journal, destinations=1, state=self.state)
        self.broker.api_id = "drop-1"
        self.broker.answer = msgspec.structs.replace(
            self.broker.answer,
            encrypt=envelope,
            recipients=tuple(recipients),
            destinations=(PlannedDestination(spec=spec, path="{upload}/{filename}"),),
        )
        journal.listen(self.conductor)

    def _conductor(self) -> Conductor:
        context = dataclasses.replace(
            super()._conductor()._context,
            workers=self._workers,
            sources=FileSources(self.uploads),
            audit=AuditLog(self.state / "audit.jsonl", clock=lambda: self.now),
            metrics=self._metrics_log,
        )
        return Conductor(context)

    async def receive(self, size: int, name: str = "u1") -> str:
        upload = await super().receive(size, name)
        lay_info(self.uploads / name, size, {"study": STUDY, "filename": "f.bam"})
        self._remember(name, size)
        return upload

    def change(self, change: Callable[[Path], object], name: str = "u1") -> None:
        """Have something happen to a source: what it is then is what was sent."""
        change(self.uploads / name)
        self._remember(name, self.sent[name].size)

    def _remember(self, name: str, size: int) -> None:
        sha256 = hashlib.sha256((self.uploads / name).read_bytes()).hexdigest()
        self.sent[name] = Sent(name, STUDY, "f.bam", size, sha256)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        backoff = Backoff(0.01, 0.02)
        outbox = Outbox(self.journal, self.reporter, self._metrics_log, lambda: self.now, backoff)
        self.journal.listen(outbox)
        sending = asyncio.create_task(outbox.run())
        try:
            async with super().running():
                yield
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

    async def over(self, upload: str) -> Upload:
        """Wait until it is done, or failed, and that is told."""
        found = await self.until(upload, UploadState.DONE, UploadState.FAILED)
        async with asyncio.timeout(20):
            while await self.journal.next_report_at() is not None:
                self.now += 1.0
                await asyncio.sleep(0.005)
        return found

    async def judged(self, place: Looked, upload: str, failing: Failing | None = None) -> None:
        """Run until an upload is over, end, and hold all that is left against the oracle.

        It has to be done, or to fail as ``failing`` says.
        """
        async with self.running():
            over = await self.over(upload)
        keys = []
        if over.state is UploadState.FAILED:
            with contextlib.suppress(ConflictError):  # it has none
                keys = [(await self.journal.envelope(upload)).key]
        await self.aclose()
        evidence = Evidence(
            self,
            [self.sent[over.tus_id]],
            self.reporter.drops(),
            {self._spec.name: await snapshot(place, upload)},
            self._opener,
            secrets_of(self._spec),
            {} if failing is None else {over.tus_id: failing},
            keys,
        )
        (await asyncio.to_thread(judge, evidence)).hold()

    def receipt(self, upload: str) -> dict[str, Any]:
        """That of an upload that is stored."""
        kept: dict[str, Any] = json.loads((self.receipts / f"{upload}.json").read_bytes())
        return kept

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

    async def aclose(self) -> None:
        """Close what is open in the state directory."""
        await self._metrics_log.aclose()
        await self.journal.aclose()


def secrets_of(spec: DestinationSpec) -> list[str]:
    """What a destination is opened by; of a private key each line between its first and last."""
    key = Path(spec.key).read_text().splitlines()[1:-1] if spec.key else []
    return [each for each in (spec.access_key, spec.secret_key, spec.password, *key) if each]


@asynccontextmanager
async def line(
    directory: Path, workers: Workers, spec: DestinationSpec, **options: object
) -> AsyncIterator[Line]:
    """A line with a journal of its own; what is logged meanwhile is the line's."""
    with logged(directory / LOG):
        journal = await SqliteJournal.open(directory / STATE)
        made = Line(directory, journal, workers, spec, **options)  # type: ignore[arg-type]
        try:
            yield made
        finally:
            await made.aclose()


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """All that is logged in this process goes to a file, as a daemon writes it."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers, root.level
    with path.open("a") as stream:
        log.setup("debug", stream=stream, terminal=False)
        try:
            yield
        finally:
            structlog.configure(**before)
            root.handlers = handlers
            root.setLevel(level)


def grow(path: Path) -> None:
    """Somebody appends to a source."""
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    """Half of it is gone."""
    os.truncate(path, path.stat().st_size // 2)


def swap(path: Path) -> None:
    """Another one of that length is there in its place."""
    other = path.with_name("other")
    other.write_bytes(os.urandom(path.stat().st_size))
    other.rename(path)

"""One state and upload directory, a daemon's parts on it, and neighbours that fail when told to.

Journal, finder, hooks, conductor and outbox are real; destinations and the REST API are in memory,
and the clock is set by the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from daemon.backoff import Backoff
from daemon.broker.outbox import Outbox
from daemon.errors import ApiUnreachableError
from daemon.intake.askings import Askings
from daemon.intake.events import parse_event
from daemon.intake.finder import Finder
from daemon.intake.hooks import HookServer
from daemon.journal.model import Upload, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.plan import Announcing, Plan, PlannedDestination
from daemon.processing.conductor import Conductor
from daemon.processing.context import Context
from daemon.processing.receipts import ReceiptFiles
from daemon.scheduling.slots import Slots
from daemon.settings import Api, Hooks, Pipeline, Settings, Uploads
from daemon.sources import FileSources
from pipeline.envelope import keys
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    WorkerLostError,
)
from pipeline.messages import Begin, DestinationSpec, Finish, Job, Part, Result, Whole
from tests.peers.conducting import QuietAudit, Recorder
from tests.peers.memory_workers import MemoryWorkers
from tests.peers.tusd_files import info_of

STUDY = "11111111-2222-4333-8444-555555555555"
PAIR = keys.crypt4gh_generate()
SECRET_KEY = keys.crypt4gh_secret(PAIR.secret, lambda: b"")
DESTINATIONS = ("d0", "d1")
TAKES = 0.001
"""Seconds, before and after what a destination or the API does: time to die in."""
WAITING = {UploadState.RECEIVED, UploadState.PROCESSING, UploadState.STORED}
EVER = 1e12


class Stores(MemoryWorkers):
    """Destinations that fail as often as they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.refused: set[str] = set()
        """Uploads that a destination said no to."""

    async def run(self, job: Job, source: int | None = None) -> Result:
        sends = isinstance(job, Begin | Part | Finish | Whole)
        fault = self.faults.pop(0) if sends and self.faults else None
        if fault == "away":
            raise DestinationUnreachableError("away")
        if fault == "refused":
            assert isinstance(job, Begin | Part | Finish | Whole)
            self.refused.add(job.target.name.partition("/")[0])
            raise DestinationRefusedError("no")
        await asyncio.sleep(TAKES)
        result = await super().run(job, source)
        await asyncio.sleep(TAKES)
        if fault == "lost":
            raise WorkerLostError("it died with the answer")
        return result


class Memory:
    """A REST API that is away, or whose answers get lost, as often as it is told."""

    def __init__(self, plan: Plan) -> None:
        self.faults: list[str] = []
        self.ids: dict[str, str] = {}
        """By Idempotency-Key."""
        self.reports: dict[str, list[dict[str, Any]]] = {}
        """By id, each report once."""
        self._plan = plan

    async def announce(self, announcing: Announcing) -> str | None:
        async with self._faulty():
            self.ids.setdefault(announcing.key, f"api-{len(self.ids) + 1}")
        return self.ids[announcing.key]

    async def plan(self, study: str) -> Plan:
        assert study == STUDY
        async with self._faulty():
            pass
        return self._plan

    async def report(self, api_id: str, body: dict[str, Any]) -> None:
        async with self._faulty():
            assert api_id in self.ids.values()
            taken = self.reports.setdefault(api_id, [])
            same = [each for each in taken if each["report"] == body["report"]]
            assert same in ([], [body]), "a report never changes once it was sent"
            taken.extend([] if same else [body])

    @contextlib.asynccontextmanager
    async def _faulty(self) -> AsyncIterator[None]:
        fault = self.faults.pop(0) if self.faults else None
        if fault == "away":
            raise ApiUnreachableError("away")
        await asyncio.sleep(TAKES)
        yield
        await asyncio.sleep(TAKES)
        if fault == "lost":
            raise ApiUnreachableError("the answer was lost")


class World:
    """One state and upload directory, and the daemons that come and go there."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.uploads = self.directory / "uploads"
        for name in ("uploads", "receipts"):
            (self.directory / name).mkdir()
        self.now = 1_000_000.0
        destinations = tuple(
            PlannedDestination(
                spec=DestinationSpec(name=name, type="directory", directory="/d"),
                path="{upload}/{filename}",
            )
            for name in DESTINATIONS
        )
        self.api = Memory(
            Plan(
                study=STUDY,
                max_size=None,
                encrypt="crypt4gh",
                recipients=(PAIR.public,),
                destinations=destinations,
            )
        )
        self.stores = Stores()
        self.settings = Settings(
            file=None,
            uploads=Uploads(directory=self.uploads, info_directory=self.uploads),
            spool=self.directory / "spool",
            state=self.directory,
            hooks=Hooks(socket=self.directory / "s"),
            api=Api(),
            pipeline=Pipeline(workers=2, part_size=5 * 1024 * 1024, follow=False),
            destinations={},
            studies={},
        )

    async def start(self) -> None:
        """A daemon of which nothing runs yet."""
        metrics = Recorder()

        def clock() -> float:
            return self.now

        self.journal = await SqliteJournal.open(self.directory, clock=clock)
        context = Context(
            journal=self.journal,
            broker=self.api,
            sources=FileSources(self.uploads),
            workers=self.stores,
            slots=Slots(4),
            metrics=metrics,
            audit=QuietAudit(),
            receipts=ReceiptFiles(self.directory / "receipts"),
            settings=self.settings,
            clock=clock,
            backoff=Backoff(0.001, 0.002),
            stopping=asyncio.Event(),
        )
        self.conductor = Conductor(context)
        self.outbox = Outbox(self.journal, self.api, metrics, clock, Backoff(0.001, 0.002))
        self.finder = Finder(self.settings.uploads, self.journal, metrics, clock)
        self.hooks = HookServer(self.settings, self.api, self.journal, metrics, clock)
        self.askings = Askings(self.settings, self.journal, self.api, clock)
        self.journal.listen(self.conductor)
        self.journal.listen(self.outbox)
        await self.finder._remember()

    async def kill(self) -> None:
        """End it without telling any part of it, and start another."""
        await self.journal.aclose()
        await self.start()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        parts = [asyncio.create_task(part.run()) for part in (self.conductor, self.outbox)]
        try:
            yield
            assert not any(part.done() for part in parts)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def settle(self) -> None:
        """Find all that is there, and work until nothing is left that could be done."""
        await self.finder._scan()
        async with self.running(), asyncio.timeout(20):
            while not await self._quiet():
                # They look again after a minute, by a clock that doesn't run faster than it should.
                self.now += 60.0
                self.conductor._wake.set()
                self.outbox.poke()
                await self.askings.settle()
                await asyncio.sleep(0.002)
        # What a conductor was told it is told again after its end: here another one takes over.
        await self.kill()

    async def _quiet(self) -> bool:
        uploads = await self.all()
        if self.stores.faults or self.api.faults:
            # A fault that nothing meets is none.
            if not any(upload.state in WAITING for upload in uploads):
                self.stores.faults.clear()
                self.api.faults.clear()
            return False
        waits = any(upload.state in WAITING for upload in uploads) or await self.asked()
        # Those of one that was taken back before it was announced are nobody's to hear.
        return not waits and await self.journal.next_report_at() is None

    async def all(self) -> list[Upload]:
        return list(await self.journal.uploads(None, None, 1000))

    async def asked(self) -> list[str]:
        """The keys of what pre-create asked without an answer."""
        found = await self.journal.askings(EVER, EVER, 1000)
        return [asking.announcing.key for asking in found]

    async def announced(self) -> list[str]:
        """The keys of the announcements that no upload followed yet."""
        query = "SELECT id FROM announcements"
        return await self.journal._readers.run(lambda c: [row[0] for row in c.execute(query)])

    async def ask(self, size: int, metadata: dict[str, str]) -> str:
        """Ask pre-create for an upload; its ``dropoff_id``. Raises what speaks against it."""
        upload = info_of(Path(), size, metadata) | {"ID": "", "Storage": None}
        event = {"Upload": upload, "HTTPRequest": {"RemoteAddr": "c:1"}}
        message = json.dumps({"Type": "pre-create", "Event": event}).encode()
        return (await self.hooks._decide(parse_event(message, None), STUDY)).dropoff_id

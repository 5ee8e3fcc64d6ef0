"""Intake's neighbours as tests play them: what was recorded, a broker that is told what to say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from daemon.intake.intake import Intake
from daemon.journal.model import Upload
from daemon.journal.sqlite import SqliteJournal
from daemon.plan import Announcing, Plan
from daemon.settings import Api, Hooks, Pipeline, Settings, Uploads

STUDY = "11111111-2222-4333-8444-555555555555"


class Recorded:
    """A metrics log in memory."""

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []

    def record(self, event: str, outcome: str, **fields: object) -> None:
        self.lines.append({"event": event, "outcome": outcome, **fields})

    def of(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.lines if line["event"] == event]


class PlayedBroker:
    """A broker that takes everything, or raises `error`, after `pause` seconds."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.pause = 0.0
        self.announced: list[Announcing] = []

    async def announce(self, announcing: Announcing) -> str | None:
        await asyncio.sleep(self.pause)
        if self.error is not None:
            raise self.error
        self.announced.append(announcing)
        return f"api-{len(self.announced)}"

    async def plan(self, study: str) -> Plan:
        raise NotImplementedError(study)


def settings_in(directory: Path, *, rescan: float = 60.0, timeout: float = 5.0) -> Settings:
    """Settings whose places all lie in one directory."""
    uploads = directory / "uploads"
    uploads.mkdir(exist_ok=True)
    return Settings(
        file=None,
        uploads=Uploads(directory=uploads, info_directory=uploads, rescan=rescan),
        spool=directory / "spool",
        state=directory / "state",
        hooks=Hooks(socket=directory / "hooks.sock", timeout=timeout),
        api=Api(),
        pipeline=Pipeline(workers=1),
        destinations={},
        studies={},
    )


@asynccontextmanager
async def running(intake: Intake) -> AsyncIterator[Intake]:
    """Intake at work, its first scan behind it."""
    task = asyncio.create_task(intake.run())
    try:
        async with asyncio.timeout(20):
            await intake.scanned.wait()
        yield intake
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def uploads_of(journal: SqliteJournal) -> list[Upload]:
    """All that the journal knows."""
    return list(await journal.uploads(None, None, 1000))


async def until(condition: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    """Wait for something that tests can see at once."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        await asyncio.sleep(0.02)


async def until_uploads(
    journal: SqliteJournal, condition: Callable[[list[Upload]], bool], seconds: float = 15.0
) -> list[Upload]:
    """Wait for the journal's uploads to be so, and give them."""
    deadline = time.monotonic() + seconds
    while not condition(found := await uploads_of(journal)):
        assert time.monotonic() < deadline, f"not in {seconds} s: {found}"
        await asyncio.sleep(0.02)
    return found

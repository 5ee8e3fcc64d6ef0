"""The hook spool: what the hook scripts left there, in any order and any number of times.

Everybody in the tus server's group can write into it, so what is in it is read like anything else
from outside. A file goes only after its effect is committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from daemon.errors import SpoolError
from daemon.intake.events import Event, parse_event
from daemon.intake.hints import Lookout, follow
from daemon.intake.info import MAX_INFO
from daemon.intake.watch import Watcher
from daemon.opening import open_source
from daemon.ports import Metrics
from pipeline.crashpoints import Reached, nowhere
from pipeline.errors import DropoffError, SourceMissingError, SourceUnsafeError

log = structlog.get_logger()

POLL_SECONDS = 5.0
"""How often it is looked into where no hint says so."""
FULL_SECONDS = 5.0
STUCK_SECONDS = 30.0
"""A file that can't be read or put aside, as where its disk is full, is let be for so long."""
LEFTOVER_SECONDS = 86400.0
"""What lies in ``tmp/`` for so long belongs to a script that died."""
MODE = 0o2770
"""The tus server's group writes; what is made in it stays the group's."""

_BATCH = 500


@dataclass(frozen=True, slots=True)
class _Read:
    """A file of ``new/``, read."""

    name: str
    event: Event | SpoolError | OSError | None
    """None where it is gone meanwhile."""
    seconds: float = 0.0


class Spool:
    """Takes what hook scripts write into ``new/``.

    Args:
        directory: The spool; ``tmp/``, ``new/`` and ``failed/`` are made in it.
        lookout: Gets the hints.
        metrics: Gets a ``hook`` line for each file.
        reached: Is told of each removal, for tests that have us die there.
    """

    def __init__(
        self, directory: Path, lookout: Lookout, metrics: Metrics, reached: Reached = nowhere
    ) -> None:
        self.failed = 0
        """Files that could not be understood since the start."""
        self.problem: str | None = None
        """Why the spool can't be worked on at the moment."""
        self._directory = directory
        self._lookout = lookout
        self._reached = reached
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._stuck: dict[str, float] = {}
        """When to look at a file again, by ``time.monotonic``."""
        self._watcher = Watcher(directory / "new", lambda _: self._wake.set(), self._wake.set)

    async def run(self) -> None:
        """Work on the spool until cancelled."""
        # Hooks are hints: without room for a spool, uploads are found all the same.
        await asyncio.to_thread(_quietly(prepare), self._directory)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watcher.run())
            group.create_task(self._work())

    async def take(self) -> int:
        """Take one batch, and say how many files are in it. Raises StateFullError, OSError."""
        batch = await asyncio.to_thread(self._read_batch)
        events = [each.event for each in batch if isinstance(each.event, Event)]
        if events:
            await follow(self._lookout, events)
        for each in await asyncio.to_thread(self._clear, batch):
            self._record(each)
        return len(batch)

    async def _work(self) -> None:
        cleaned = 0.0
        while True:
            self._wake.clear()
            try:
                while await self.take():
                    pass
                if time.monotonic() - cleaned > LEFTOVER_SECONDS / 24:
                    cleaned = time.monotonic()
                    self._stuck.clear()
                    await asyncio.to_thread(_clean, self._directory / "tmp")
                self.problem = None
            except DropoffError as error:
                if self.problem != error.message:
                    log.warning("spool has to wait", code=error.code, error=error.message)
                self.problem = error.message
                await asyncio.sleep(FULL_SECONDS)
            except OSError as error:
                reason = f"{self._directory} can't be used: {error.strerror}"
                if self.problem != reason:
                    log.warning("spool in trouble", error=reason)
                self.problem = reason
                await asyncio.to_thread(_quietly(prepare), self._directory)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()

    def _read_batch(self) -> list[_Read]:
        names: list[str] = []
        now = time.monotonic()
        with os.scandir(self._directory / "new") as entries:
            for entry in entries:
                if self._stuck.get(entry.name, 0.0) <= now:
                    names.append(entry.name)
                if len(names) >= _BATCH:
                    break
        return [self._read(name) for name in names]

    def _read(self, name: str) -> _Read:
        began = time.monotonic()
        event: Event | SpoolError | OSError | None
        try:
            with open_source(self._directory / "new", name) as source:
                data = source.read(MAX_INFO + 1)
            event = parse_event(data, name.partition(".")[0])
        except SourceMissingError:
            event = None
        except SourceUnsafeError as error:
            event = SpoolError(error.message)
        except (SpoolError, OSError) as error:
            event = error
        return _Read(name, event, time.monotonic() - began)

    def _clear(self, batch: Iterable[_Read]) -> list[_Read]:
        """Those that are dealt with, and gone from ``new/``."""
        cleared = []
        for each in batch:
            try:
                if isinstance(each.event, Event):
                    self._reached("before spool.remove")
                    (self._directory / "new" / each.name).unlink(missing_ok=True)
                    self._reached("after spool.remove")
                elif isinstance(each.event, SpoolError):
                    self._put_aside(each.name, each.event)
                elif isinstance(each.event, OSError):
                    raise each.event
            except OSError as error:
                # Left where it is for a while: no endless loop.
                if each.name not in self._stuck:
                    log.warning("spool file stuck", file=_shown(each.name), error=error.strerror)
                self._stuck[each.name] = time.monotonic() + STUCK_SECONDS
            else:
                self._stuck.pop(each.name, None)
                cleared.append(each)
        return cleared

    def _put_aside(self, name: str, error: SpoolError) -> None:
        failed = self._directory / "failed"
        target = name if not os.path.lexists(failed / name) else f"{uuid.uuid4()}.{name[-150:]}"
        reason = failed / f"{target[:200]}.reason"
        text = f"{error.code}: {_shown(error.message)}\n"
        # The reason first: where there is no room for it, the file waits in its place.
        # Made anew, so that nothing that somebody laid there is followed or written to.
        reason.unlink(missing_ok=True)
        fd = os.open(reason, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o660)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            reason.unlink(missing_ok=True)
            raise
        self._reached("before spool.put_aside")
        (self._directory / "new" / name).rename(failed / target)
        self._reached("after spool.put_aside")

    def _record(self, read: _Read) -> None:
        match read.event:
            case Event() as event:
                self._metrics.record(
                    "hook",
                    "ok",
                    hook=event.hook,
                    tus_id=event.upload.tus_id,
                    hook_seconds=round(read.seconds, 6),
                )
            case SpoolError() as error:
                self.failed += 1
                log.warning(
                    "spool file not understood",
                    file=_shown(read.name),
                    code=error.code,
                    error=_shown(error.message),
                )
                self._metrics.record(
                    "hook",
                    "failed",
                    file=_shown(read.name),
                    error_code=error.code,
                    hook_seconds=round(read.seconds, 6),
                )
            case _:
                pass


def prepare(directory: Path) -> None:
    """Make the spool's directories; those that are there stay as they were set up."""
    for each in (directory, *(directory / name for name in ("tmp", "new", "failed"))):
        try:
            each.mkdir(parents=True)
        except FileExistsError:
            continue
        try:
            each.chmod(MODE)
        except PermissionError:
            # A hardened unit forbids the group bit; there, tmpfiles.d made the directories before.
            each.chmod(MODE & 0o777)


def _quietly(step: Callable[[Path], None]) -> Callable[[Path], None]:
    def quiet(directory: Path) -> None:
        with contextlib.suppress(OSError):
            step(directory)

    return quiet


def _clean(directory: Path) -> None:
    before = time.time() - LEFTOVER_SECONDS
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                if found.st_mtime < before and not stat.S_ISDIR(found.st_mode):
                    os.unlink(entry.path)  # noqa: PTH108 - entry.path is a str


def _shown(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()

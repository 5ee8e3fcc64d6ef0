"""Finds uploads on disk and tells the journal: by hints at once, by the rescan without fail."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog

from daemon.errors import InfoError, StateFullError
from daemon.intake.info import INFO_SUFFIX, Info
from daemon.intake.partials import Partials
from daemon.intake.problems import Problems, shown
from daemon.intake.receiving import Receiving
from daemon.intake.scan import Look, Outcome, Walk, look, unseen_upload
from daemon.intake.watch import Watcher
from daemon.journal.model import Error, Identity, Sighting, UploadState
from daemon.journal.protocol import IntakeJournal
from daemon.ports import Clock, Metrics
from daemon.settings import Uploads
from daemon.tasks import run_all
from pipeline.errors import DropoffError, SourceUnavailableError

log = structlog.get_logger()

SOON = 0.2
"""Seconds until a directory that appeared is looked into."""
FULL_SECONDS = 5.0
"""Pause where no space is left for the journal."""
ANNOUNCED_SECONDS = 86400.0
"""An announcement that no upload follows for so long is given up."""

_AT_ONCE = 32
"""Sightings under way together. The journal commits them as a group, and whoever else wants to
write, as pre-create, waits for that: so not too many."""
_LONGEST_PAUSE = 0.5


class Finder:
    """Looks at ``.info`` files and their data, and sights the uploads.

    Hints come from the file system, and by :meth:`check` from hooks; the rescan needs neither.

    Args:
        uploads: Where to look.
        journal: What is told.
        metrics: Gets a ``rescan`` line for each, and an ``upload`` line for each broken ``.info``.
        clock: Seconds since the epoch.
        follow_after: An upload of which so many bytes are there is sighted at once, so that its
            delivery can begin; otherwise only when it has been growing for a while.
    """

    def __init__(
        self,
        uploads: Uploads,
        journal: IntakeJournal,
        metrics: Metrics,
        clock: Clock = time.time,
        *,
        follow_after: float = math.inf,
    ) -> None:
        self.problems = Problems(metrics)
        """What can't be taken in."""
        self.paused = False
        """Whether intake waits for space for the journal."""
        self.scanned = asyncio.Event()
        """Set once a first scan went through."""
        self._uploads = uploads
        self._journal = journal
        self._metrics = metrics
        self._clock = clock
        self._partials = Partials(uploads, journal)
        self._settled: set[int] = set()
        self._due: dict[str, float] = {}
        self._receiving = Receiving(uploads.directory, self._due, follow_after)
        self._hints: dict[str, None] = {}
        """What to look at, what was heard of last at the end."""
        self._wake = asyncio.Event()
        self._rescan_at = 0.0
        self._scanned_at = 0.0
        self._scan_seconds = 0.0
        directories = {uploads.directory, uploads.info_directory}
        self._watchers = [Watcher(each, self._hint, self.rescan) for each in sorted(directories)]

    async def run(self) -> None:
        """Find uploads until cancelled."""
        await self._remember()
        async with asyncio.TaskGroup() as group:
            for watcher in self._watchers:
                group.create_task(watcher.run())
            # Each watcher says that it stands, or can't, before the first scan begins.
            await self._wake.wait()
            group.create_task(self._work())

    def rescan(self) -> None:
        """Scan as soon as possible."""
        self._rescan_at = 0.0
        self._wake.set()

    async def check(self, tus_ids: Iterable[str]) -> None:
        """Look at these uploads now; what was found is in the journal when this returns.

        An id that leads out of the directory has to be refused before. Raises StateFullError.
        """
        await self._take(list(tus_ids))

    async def terminated(self, tus_id: str, upload: Info | None = None) -> None:
        """A hook says that the client took an upload back.

        Where its files are still there the hook is of an earlier upload with that id, and wrong.
        One that was gone before it was seen is known by its announcement, if ``upload`` is what
        the hook says of it. Raises StateFullError.
        """
        found = await asyncio.to_thread(look, self._uploads, tus_id)
        if isinstance(found.found, Outcome) and found.found in {Outcome.GONE, Outcome.NO_DATA}:
            self._receiving.forget(tus_id)
            await self._terminate(tus_id)
            if upload is not None and not upload.is_partial:
                unseen = unseen_upload(self._uploads, tus_id, upload)
                await self._journal.terminate_unseen(unseen, self._clock())

    def status(self) -> dict[str, Any]:
        """What goes on, for people who ask."""
        watch = (each.problem for each in self._watchers if each.problem is not None)
        return {
            "scanned": self.scanned.is_set(),
            "paused": self.paused,
            "receiving": len(self._receiving),
            "watch_problem": "; ".join(watch),
        } | self.problems.status()

    # Turns ----------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            try:
                await self._turn()
            except StateFullError as error:
                if not self.paused:
                    log.warning("intake pauses", code=error.code, error=error.message)
                self.paused = True
                await asyncio.sleep(FULL_SECONDS)
                # Hints were lost with the turn that failed.
                self._rescan_at = 0.0
            else:
                self.paused = False
                await self._wait()

    async def _turn(self) -> None:
        now = time.monotonic()
        if now >= self._rescan_at:
            self._rescan_at = now + self._uploads.rescan
            await self._scan()
            self._scanned_at = time.monotonic()
            self._scan_seconds = self._scanned_at - now
        await self._take_hints()

    async def _wait(self) -> None:
        deadline = min([self._rescan_at, *self._due.values()])
        if self._hints or deadline <= time.monotonic():
            return
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._wake.wait()

    async def _take_hints(self) -> None:
        """Look at all that is to be looked at. Raises StateFullError."""
        while stems := self._drained():
            started = time.monotonic()
            await self._take(stems)
            if len(self._hints) > _AT_ONCE:
                # What was found before has to get on meanwhile.
                await asyncio.sleep(min((time.monotonic() - started) / 2, _LONGEST_PAUSE))

    def _drained(self) -> list[str]:
        """What to look at next: of what was heard of first, and as much of what came last.

        Where one study sends thousands at once, that of another doesn't wait behind all of them.
        """
        now = time.monotonic()
        for stem in [stem for stem, at in self._due.items() if at <= now]:
            del self._due[stem]
            self._hints[stem] = None
        last = [self._hints.popitem()[0] for _ in range(min(_AT_ONCE // 2, len(self._hints)))]
        first = list(itertools.islice(self._hints, _AT_ONCE // 2))
        for stem in first:
            del self._hints[stem]
        return last + first

    def _hint(self, paths: Iterable[str]) -> None:
        for path in paths:
            stem = self._stem(path)
            if stem is not None:
                self._hints[stem] = None
        self._wake.set()

    def _stem(self, path: str) -> str | None:
        name = path.rpartition("/")[2]
        if name.endswith((".lock", ".stop")) or ".lock." in name:
            return None
        if (stem := self._receiving.of_data(path)) is not None:
            return stem
        infos = f"{self._uploads.info_directory}/"
        if path.endswith(INFO_SUFFIX) and path.startswith(infos):
            return path[len(infos) :].removesuffix(INFO_SUFFIX) or None
        data = f"{self._uploads.directory}/"
        return path[len(data) :] or None if path.startswith(data) else None

    # Scanning -------------------------------------------------------------------------------

    def _scan_soon(self) -> None:
        """Scan before it is time to, but never so often that scanning is all that is done."""
        soon = max(time.monotonic(), self._scanned_at) + max(SOON, 10 * self._scan_seconds)
        self._rescan_at = min(self._rescan_at, soon)

    async def _remember(self) -> None:
        """What the journal knows to be incomplete: to be missed if it is gone."""
        now = time.monotonic()
        found = await self._journal.incomplete(str(self._uploads.directory))
        for tus_id, identity in found.items():
            self._receiving.remember(tus_id, identity.device, now)

    async def _known_among(self, stems: Sequence[str]) -> dict[str, Identity]:
        """Those that the journal has from before the start, past receiving."""
        if self.scanned.is_set() or not stems:
            return {}
        found = await self._journal.known_among(str(self._uploads.directory), stems)
        early = (UploadState.RECEIVING, UploadState.FAILED)
        return {
            tus_id: identity for tus_id, (state, identity) in found.items() if state not in early
        }

    async def _scan(self) -> None:
        began = time.monotonic()
        walk = Walk(self._uploads.info_directory, frozenset(self._settled))
        looked = 0
        try:
            while not walk.done:
                started = time.monotonic()
                stems = await asyncio.to_thread(walk.batch, _AT_ONCE)
                looked += len(stems)
                await self._take(stems, await self._known_among(stems))
                await self._leave_room((time.monotonic() - started) / 2)
        except OSError as error:
            self.problems.trouble("", error)
            self._record_scan("failed", began, walk, looked, error_code=SourceUnavailableError.code)
            return
        except StateFullError as error:
            self._record_scan("failed", began, walk, looked, error_code=error.code)
            raise
        self._settled -= walk.settled - walk.met
        self.problems.walked(walk.problems)
        if not self.scanned.is_set():
            await self._sweep()
        self.scanned.set()
        self._record_scan("ok", began, walk, looked)
        now = self._clock()
        await self._journal.expire_announcements(now - ANNOUNCED_SECONDS, now)

    async def _leave_room(self, seconds: float) -> None:
        """Let deliveries and pre-create have so much time to themselves.

        Hints are heeded meanwhile. Raises StateFullError.
        """
        until = time.monotonic() + min(seconds, _LONGEST_PAUSE)
        await self._take_hints()
        while (left := until - time.monotonic()) > 0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()
            await self._take_hints()

    def _record_scan(
        self, outcome: str, began: float, walk: Walk, looked: int, **fields: str
    ) -> None:
        self._metrics.record(
            "rescan",
            outcome,
            rescan_seconds=round(time.monotonic() - began, 6),
            infos=walk.infos,
            looked=looked,
            receiving=len(self._receiving),
            problems=len(self.problems),
            **fields,
        )

    # Looking --------------------------------------------------------------------------------

    async def _take(
        self, stems: Sequence[str], known: Mapping[str, Identity] | None = None
    ) -> None:
        """Look at some, and tell the journal. Raises StateFullError.

        ``known`` is of the data of those that the journal has, past receiving.
        """
        for start in range(0, len(stems), _AT_ONCE):
            some = stems[start : start + _AT_ONCE]
            looks = await asyncio.to_thread(self._look, some, known or {})
            await run_all(*(self._judge(each) for each in looks))

    def _look(self, stems: Iterable[str], known: Mapping[str, Identity]) -> list[Look]:
        return [self._look_at(stem, known.get(stem)) for stem in stems]

    def _look_at(self, stem: str, known: Identity | None) -> Look:
        return look(
            self._uploads,
            stem,
            self._receiving.seen(stem),
            known,
            whole=self._receiving.is_due(stem, time.monotonic()),
        )

    async def _judge(self, found: Look) -> None:
        stem = found.stem
        match found.found:
            case Sighting() as sighting:
                self.problems.readable(stem)
                await self._sighted(found, sighting)
            case InfoError() as error:
                self._unreadable(stem, found.stamp, error)
            case OSError() as error:
                self.problems.trouble(stem, error)
            case Outcome.GROWING:
                self._receiving.grew(stem, found.received)
            case Outcome.SETTLED | Outcome.ASIDE:
                self.problems.readable(stem)
                self._settle(found)
            case Outcome.FOLDER:
                self._scan_soon()
            case Outcome.GONE | Outcome.NO_DATA:
                self.problems.readable(stem)
                await self._missed(stem)

    async def _sighted(self, found: Look, sighting: Sighting) -> None:
        if sighting.complete:
            if await self._sight(sighting):
                self._settle(found)
            return
        now = time.monotonic()
        if self._receiving.put(found, sighting, now) and await self._sight(sighting):
            self._receiving.told(found.stem, found.received, now)

    async def _sight(self, sighting: Sighting) -> bool:
        """Tell the journal; False where it can't take this one. Raises StateFullError."""
        stem = sighting.tus_id
        try:
            await self._journal.sight(sighting, self._clock())
        except StateFullError:
            raise
        except DropoffError as error:
            self.problems.add(stem, Error(code=error.code, message=error.message, retryable=True))
            return False
        except Exception:
            # One upload's oddity must not keep the others out.
            log.exception("upload can't be taken in", tus_id=shown(stem))
            message = "it can't be taken in; the log tells why"
            self.problems.add(stem, Error(code="internal", message=message, retryable=True))
            return False
        self.problems.solved(stem)
        return True

    def _settle(self, found: Look) -> None:
        self._settled.add(found.stamp)
        self._receiving.forget(found.stem)

    async def _missed(self, stem: str) -> None:
        """An upload that isn't there. An incomplete one that we knew was taken back, in the end."""
        if await self._receiving.was_taken_back(stem, time.monotonic()):
            await self._terminate(stem)

    async def _terminate(self, stem: str) -> None:
        upload = await self._journal.terminate(str(self._uploads.directory), stem, self._clock())
        if upload is not None and upload.partials:
            await self._sweep()

    async def _sweep(self) -> None:
        try:
            await self._partials.sweep()
        except SourceUnavailableError as error:
            log.warning("partials_left", code=error.code, error=error.message)

    def _unreadable(self, stem: str, stamp: int, error: InfoError) -> None:
        again = self.problems.unreadable(stem, stamp, error, time.monotonic())
        if again is not None:
            self._due[stem] = again

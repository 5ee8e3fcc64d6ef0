"""Hints from the file system. They are quick and may be lost: the rescan is what finds all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog
from watchfiles import Change, awatch

from daemon.backoff import Backoff

log = structlog.get_logger()

_DEBOUNCE_MS = 20
"""While events come without a pause, so long what is new waits to be told of with the rest."""
_STEP_MS = 20
_LINKS_OF_FLAT = 2
_TICK_MS = 2_000
"""How often a quiet directory is checked for still being the same one."""

Changes = set[tuple[Change, str]]


class Watcher:
    """Watches one directory with everything below it, for as long as :meth:`run` runs.

    The watch is renewed after an error, and when the directory was replaced or was not there.

    Args:
        directory: What to watch.
        on_paths: Told of changed paths, absolute.
        on_doubt: Told that hints may have been lost: time to scan. Called once the watch stands,
            too, so that a scan never runs before its watch.
    """

    def __init__(
        self,
        directory: Path,
        on_paths: Callable[[Iterable[str]], None],
        on_doubt: Callable[[], None],
    ) -> None:
        self.problem: str | None = None
        """Why there are no hints at the moment."""
        self._directory = directory
        self._on_paths = on_paths
        self._on_doubt = on_doubt
        self._backoff = Backoff(0.5, 30.0)
        self._failures = 0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self._watch()
            except Exception as error:  # noqa: BLE001 - its native part raises all kinds of errors
                self._failures += 1
                self.problem = f"{self._directory} can't be watched: {_reason(error)}"
                log.warning("watch failed", directory=str(self._directory), error=_reason(error))
                self._on_doubt()
                await asyncio.sleep(self._backoff.delay(self._failures))

    async def _watch(self) -> None:
        """Watch until the directory is another one. Raises what the watcher raises."""
        watched = await asyncio.to_thread(_place, self._directory)
        changes = awatch(
            self._directory,
            recursive=not watched.flat,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=_TICK_MS,
            yield_on_timeout=True,
        )
        first = asyncio.ensure_future(anext(changes))
        try:
            # The native watch is set up in the generator's first step, before it waits.
            await asyncio.sleep(0)
            if not first.done():
                self.problem = None
                self._on_doubt()
            self._tell(await first)
            self._failures = 0
            await self._follow(changes, watched)
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await _close(changes)

    async def _follow(self, changes: AsyncIterator[Changes], watched: _Place) -> None:
        async for batch in changes:
            self._tell(batch)
            now = _place(self._directory)
            if now.identity != watched.identity:
                log.warning("watched directory replaced", directory=str(self._directory))
                self._on_doubt()
                return
            if watched.flat and not now.flat:
                return  # the next watch has the directories in it, and a scan of its own

    def _tell(self, batch: Changes) -> None:
        if batch:
            self._on_paths(path for _, path in batch)


async def _close(changes: AsyncIterator[Changes]) -> None:
    aclose = getattr(changes, "aclose", None)
    if aclose is not None:
        await aclose()


@dataclass(frozen=True, slots=True)
class _Place:
    """A directory, as it was found."""

    identity: tuple[int, int]
    flat: bool
    """It has no directories in it for sure. To watch what is below looks at every file first, and
    holds the interpreter meanwhile: half a second for 100,000 uploads."""


def _place(directory: Path) -> _Place:
    found = directory.stat()
    # Links of a directory are its name, its own dot and the two dots of each directory in it; file
    # systems that count otherwise have less than two.
    return _Place((found.st_dev, found.st_ino), flat=found.st_nlink == _LINKS_OF_FLAT)


def _reason(error: Exception) -> str:
    if isinstance(error, ExceptionGroup):
        return _reason(error.exceptions[0])
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__

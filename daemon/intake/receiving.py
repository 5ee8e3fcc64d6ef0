"""Incomplete uploads: when the journal hears of them again, and when they were taken back."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path

from daemon.intake.scan import Look, Seen
from daemon.journal.model import Sighting

QUIET_SECONDS = 2.0
"""An upload younger than this is sighted only when complete, so that small ones cost one row."""
PROGRESS_SECONDS = 5.0
"""At least so long between two sightings of an incomplete upload."""
VANISH_SECONDS = 60.0
"""An incomplete upload whose files are gone for so long was taken back."""

_UNSEEN = Seen(stamp=0, path="", size=None, received=-1)


@dataclass(slots=True)
class _Open:
    """An incomplete upload."""

    seen: Seen
    device: int
    first: float
    told: float | None = None
    """When the journal last heard of it."""
    large: bool = False
    """Whether so much of it is there that the journal should know at once."""
    needs_partials: bool = False
    """Whether it is being put together: the journal keeps its partials once it knows of it."""
    missing: float | None = None
    """Since when its files are gone."""

    def is_due(self, now: float) -> bool:
        if self.told is None:
            return self.large or self.needs_partials or now - self.first >= QUIET_SECONDS
        return now - self.told >= PROGRESS_SECONDS

    @property
    def due(self) -> float:
        """When it is."""
        if self.told is not None:
            return self.told + PROGRESS_SECONDS
        return self.first + (0 if self.large else QUIET_SECONDS)


class Receiving:
    """The uploads that are coming in, by the path of their ``.info`` without its suffix.

    All times are of a monotonic clock.

    Args:
        directory: Where their data is.
        due: Is told when to look again at which.
        follow_after: The journal should know at once of one of which so many bytes are there.
    """

    def __init__(
        self, directory: Path, due: MutableMapping[str, float], follow_after: float
    ) -> None:
        self._directory = directory
        self._due = due
        self._follow_after = follow_after
        self._open: dict[str, _Open] = {}
        self._by_data: dict[str, str] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._open)

    def remember(self, stem: str, device: int, now: float) -> None:
        """The journal knows one from before: it is missed if it is gone."""
        self._open[stem] = _Open(_UNSEEN, device, now, told=now, missing=now)
        self._due[stem] = now + VANISH_SECONDS

    def of_data(self, path: str) -> str | None:
        """Whose data an absolute path is, where it lies elsewhere than its ``.info``."""
        return self._by_data.get(path)

    def seen(self, stem: str) -> Seen | None:
        """What the last look at it found."""
        was = self._open.get(stem)
        return None if was is None else was.seen

    def is_due(self, stem: str, now: float) -> bool:
        """Whether the journal should hear of it, if there is news."""
        was = self._open.get(stem)
        return was is None or was.is_due(now)

    def put(self, found: Look, sighting: Sighting, now: float) -> bool:
        """It was looked at. Gives whether the journal is to hear of that now; if not, it is due."""
        stem = found.stem
        was = self._open.get(stem)
        if was is None:
            was = self._open[stem] = _Open(_UNSEEN, sighting.identity.device, now)
        elif was.seen.stamp == 0:
            was.told = None  # from before the start: it is there
        if sighting.path != stem:
            self._by_data[str(self._directory / sighting.path)] = stem
        was.seen = Seen(found.stamp, sighting.path, sighting.size, was.seen.received)
        was.device, was.missing = sighting.identity.device, None
        was.large = found.received >= self._follow_after
        was.needs_partials = bool(sighting.partials)
        if was.is_due(now):
            return True
        self._due[stem] = was.due
        return False

    def told(self, stem: str, received: int, now: float) -> None:
        """The journal heard of so many bytes."""
        was = self._open.get(stem)
        if was is not None:
            was.told = now
            was.seen = replace(was.seen, received=received)

    def grew(self, stem: str, received: int) -> None:
        """It is there, with so many bytes."""
        was = self._open.get(stem)
        if was is not None:
            was.missing = None
            if received != was.seen.received:
                was.large = received >= self._follow_after
                self._due[stem] = was.due

    async def was_taken_back(self, stem: str, now: float) -> bool:
        """Its files aren't there. Whether that is its end, which the journal has to hear of.

        One that the journal never heard of is forgotten; another is waited for first.
        """
        was = self._open.get(stem)
        if was is None or was.told is None:
            self.forget(stem)
            return False
        if was.missing is None:
            was.missing = now
        if now - was.missing < VANISH_SECONDS:
            self._due[stem] = was.missing + VANISH_SECONDS
        elif await asyncio.to_thread(_device, self._directory) == was.device:
            self.forget(stem)
            return True
        else:
            # Another file system is there, or none: that says nothing about the upload.
            self._due[stem] = now + VANISH_SECONDS
        return False

    def forget(self, stem: str) -> None:
        """It is no longer incomplete, or no longer there."""
        was = self._open.pop(stem, None)
        if was is not None:
            self._by_data.pop(str(self._directory / was.seen.path), None)
        self._due.pop(stem, None)


def _device(directory: Path) -> int | None:
    try:
        return directory.stat().st_dev
    except OSError:
        return None

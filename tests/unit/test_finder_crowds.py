"""Thousands of uploads at once: the one that comes among them doesn't wait for all of them."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from daemon.intake.finder import Finder
from daemon.journal.model import Sighting, Upload
from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Settings
from tests.peers.intake import STUDY, Recorded
from tests.peers.load import lay, named

CROWD = 600
SOON = 100
"""Sightings."""


class Order:
    """In which order uploads are sighted, and what comes once the first was."""

    def __init__(self, journal: SqliteJournal, finder: Finder, directory: Path) -> None:
        self.seen: list[str] = []
        self._sight = journal.sight
        self._finder = finder
        self._directory = directory
        journal.sight = self.sight  # type: ignore[method-assign]  # to look on

    async def sight(self, sighting: Sighting, now: float) -> Upload:
        if not self.seen:
            await asyncio.to_thread(lay, self._directory, ["late"], STUDY)
            self._finder._hint([str(self._directory / "late.info")])
        self.seen.append(sighting.tus_id)
        return await self._sight(sighting, now)


@pytest.fixture
def finder(settings: Settings, journal: SqliteJournal) -> Finder:
    return Finder(settings.uploads, journal, Recorded())


@pytest.fixture
def order(settings: Settings, journal: SqliteJournal, finder: Finder) -> Order:
    """Of a crowd that is there."""
    lay(settings.uploads.directory, named("crowd", CROWD), STUDY)
    return Order(journal, finder, settings.uploads.directory)


async def test_an_upload_that_comes_among_thousands_is_taken_in_before_most_of_them(
    settings: Settings, finder: Finder, order: Order
) -> None:
    directory = settings.uploads.directory
    finder._hint([str(directory / f"{name}.info") for name in named("crowd", CROWD)])
    await finder._take_hints()
    assert order.seen.index("late") < SOON
    assert len(order.seen) == CROWD + 1


async def test_an_upload_that_comes_during_a_long_scan_is_taken_in_before_most_of_it(
    finder: Finder, order: Order
) -> None:
    await finder._scan()
    assert order.seen.index("late") < SOON
    assert set(order.seen) == {*named("crowd", CROWD), "late"}


async def test_what_was_heard_of_first_is_looked_at_while_more_and_more_comes(
    settings: Settings, finder: Finder
) -> None:
    waiting = {f"{settings.uploads.directory}/first-{number}.info" for number in range(CROWD)}
    finder._hint(waiting)
    looked: set[str] = set()
    rounds = 0
    while not all(Path(path).stem in looked for path in waiting):
        looked |= set(finder._drained())
        rounds += 1
        assert rounds <= CROWD
        more = random.Random(rounds).getrandbits(64)
        finder._hint([f"{settings.uploads.directory}/more-{more}-{n}.info" for n in range(100)])

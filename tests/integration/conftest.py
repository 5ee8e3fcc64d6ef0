"""What several integration tests stand on; a module that needs another kind defines its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Settings
from daemon.workers import WorkerPool
from pipeline.messages import DestinationSpec
from tests.peers.deliveries import Drop, dropped
from tests.peers.intake import PlayedBroker, Recorded, settings_in
from tests.peers.virtual_url import STUDY_IDS, Way, way_in


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a daemon whose places are all below the test's directory."""
    return settings_in(tmp_path)


@pytest.fixture
def broker() -> PlayedBroker:
    return PlayedBroker()


@pytest.fixture
def metrics() -> Recorded:
    return Recorded()


@pytest.fixture
async def journal(settings: Settings) -> AsyncIterator[SqliteJournal]:
    async with await SqliteJournal.open(settings.state) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[WorkerPool]:
    """A worker of its own for each module."""
    async with WorkerPool(1) as started:
        yield started


@pytest.fixture
def drop(pool: WorkerPool, spec: DestinationSpec, tmp_path: Path) -> Iterator[Drop]:
    """An upload that goes to the module's ``spec``."""
    with dropped(pool, spec, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """To a server that keeps all uploads in one place."""
    with way_in(tmp_path_factory.mktemp("flat")) as way:
        yield way
        check_log(way)


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """To one that keeps them below their studies."""
    with way_in(tmp_path_factory.mktemp("nested"), STUDY_IDS) as way:
        yield way
        check_log(way)


def check_log(way: Way) -> None:
    """Nothing that was asked troubled nginx."""
    assert not {"[error]", "[alert]", "[crit]"} & set(way.nginx.errors.split())

"""Very many uploads wait when the daemon starts: it delivers at once, answers, and stays small.

The full sizes, with their figures: `pytest -m long -s tests/faults/test_load.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.intake.scan import look
from daemon.journal.model import Sighting
from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Uploads
from tests.peers.dropoffd import Dropoffd
from tests.peers.load import Watch, folder, lay, named, shown, studies, study_named, watched
from tests.peers.openers import Clear
from tests.peers.oracle import Evidence
from tests.peers.reference_api import ReferenceServer
from tests.peers.so_far import judge_so_far
from tests.peers.stores import Folder

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1200)]

PENDING, ASKED = study_named(1), study_named(0)
LOCAL = folder("local", "store")
SMALL = 1500
FULL = 100_000
AT_ONCE = 400
"""Sightings that the journal commits together."""


@dataclass(frozen=True)
class Bounds:
    """What is asserted. The figures that we hold ourselves to stand in the README."""

    first_delivery: float = 25.0
    first_answer: float = 10.0
    p99: float = 2.0
    memory: float = 300.0
    answers: int = 20
    """So many pre-creates are asked while it works."""


BOUNDS = {SMALL: Bounds(), FULL: Bounds(answers=300)}
COUNTS = [
    pytest.param(SMALL, id=f"{SMALL}"),
    pytest.param(FULL, id=f"{FULL}", marks=pytest.mark.long),
]


Told = Callable[[], list[dict[str, Any]] | None]
"""What the REST API was told; None where there is none."""


@contextmanager
def with_local_studies(directory: Path) -> Iterator[tuple[Dropoffd, Told]]:
    """A daemon that knows the studies by itself."""
    yield Dropoffd(directory / "daemon", LOCAL + studies(2, ["local"])), lambda: None


@contextmanager
def with_the_api(directory: Path) -> Iterator[tuple[Dropoffd, Told]]:
    """A daemon that asks `dropoffd api` for them."""
    (directory / "api").mkdir()
    with ReferenceServer(directory / "api", studies(2, ["local"])) as server:
        daemon = Dropoffd(directory / "daemon", LOCAL, server.asked_at(server.api.url))
        yield daemon, server.drops


def fill_journal(daemon: Dropoffd, names: list[str]) -> None:
    """Have the journal know uploads that are there, as a daemon that died before it began them."""
    uploads = Uploads(directory=daemon.uploads, info_directory=daemon.uploads)

    async def fill() -> None:
        async with await SqliteJournal.open(daemon.state) as journal:
            for start in range(0, len(names), AT_ONCE):
                looks = [look(uploads, name).found for name in names[start : start + AT_ONCE]]
                found = [each for each in looks if isinstance(each, Sighting)]
                await asyncio.gather(*(journal.sight(each, time.time()) for each in found))

    asyncio.run(fill())


def watch_start(daemon: Dropoffd, answers: int) -> Watch:
    """Start a daemon and watch it until it delivered and was asked often enough."""
    store = daemon.directory / "store"
    store.mkdir()
    with watched(daemon, store, ASKED) as watch:
        daemon.wait_for(
            lambda: watch.stored_after is not None and len(watch.answers) >= answers,
            300,
            f"a delivery, and {answers} answers: {watch}",
        )
    return watch


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
@pytest.mark.parametrize("studies_of", [with_local_studies, with_the_api])
def test_a_start_with_very_many_uploads_delivers_answers_and_stays_small(
    tmp_path: Path,
    studies_of: Callable[[Path], AbstractContextManager[tuple[Dropoffd, Told]]],
    count: int,
    *,
    known: bool,
) -> None:
    bounds = BOUNDS[count]
    with studies_of(tmp_path) as (daemon, told):
        sent = lay(daemon.uploads, named("u", count), PENDING)
        if known:
            fill_journal(daemon, list(named("u", count)))
        with daemon_ended(daemon):
            watch = watch_start(daemon, bounds.answers)
        stores = {"local": Folder(daemon.directory / "store")}
        secrets = [ReferenceServer.secret]
        judge_so_far(Evidence(daemon, sent, told(), stores, Clear(), secrets)).hold()
    shown(f"{count} uploads {'in the journal' if known else 'on disk'}: {watch}")
    assert watch.stored_after is not None
    assert watch.stored_after < bounds.first_delivery
    assert watch.ready_after is not None
    assert watch.ready_after < bounds.first_answer
    assert watch.p99 < bounds.p99
    assert watch.peak_mib < bounds.memory


@contextmanager
def daemon_ended(daemon: Dropoffd) -> Iterator[None]:
    """It is no more afterwards."""
    try:
        yield
    finally:
        if daemon.running:
            daemon.kill()

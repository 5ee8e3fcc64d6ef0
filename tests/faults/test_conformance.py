"""Every store gets every size right, however often it took: fresh, resumed after a kill, repeated.

Objects are opened by decryptors that others wrote.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from daemon.processing import prepare
from daemon.workers import WorkerPool
from pipeline.destinations import limits_of
from pipeline.envelope import SEGMENT
from pipeline.envelope.age_keys import age_generate, age_public
from pipeline.messages import Finish, Job, Part, Whole
from tests.peers.conveying import KillingWorkers, Line, line
from tests.peers.deliveries import MIB
from tests.peers.openers import Age
from tests.peers.places import OPTIONAL, PLACES, Place

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="module")]

PART = 5 * MIB
SIZES = {
    "0": 0,
    "1": 1,
    "segment-1": SEGMENT - 1,
    "segment": SEGMENT,
    "segment+1": SEGMENT + 1,
    "part-1": PART - 1,
    "part": PART,
    "part+1": PART + 1,
    "3 parts": 3 * PART,
}
EVERY = [
    *PLACES,
    *(pytest.param(name, marks=getattr(pytest.mark, name.lower())) for name in OPTIONAL),
]
AGE_SIZES = ("0", "segment", "segment+1", "part+1", "3 parts")
IN_PARTS = PART - 2
"""From here on uploads go out in parts where the store takes them."""


@pytest.fixture(scope="module")
def cells(request: pytest.FixtureRequest) -> Iterator[set[str]]:
    """What came out right, told at the end."""
    right: set[str] = set()
    yield right
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        sys.stdout.write(f"\nconformance: {len(right)} cells are right\n")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[WorkerPool]:
    async with WorkerPool(2, complain=lambda _: None) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=EVERY)
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    async with {**PLACES, **OPTIONAL}[request.param](tmp_path_factory.mktemp("place")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def workers(pool: WorkerPool) -> KillingWorkers:
    return KillingWorkers(pool)


@pytest_asyncio.fixture(loop_scope="module")
async def conveyor(
    tmp_path: Path, place: Place, workers: KillingWorkers, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Line]:
    monkeypatch.setattr(prepare, "WHOLE_LIMIT", IN_PARTS)
    async with line(tmp_path, workers, place.spec) as made:
        yield made


@pytest.fixture(autouse=True)
def cell(request: pytest.FixtureRequest, cells: set[str]) -> Iterator[None]:
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed == failed:
        cells.add(request.node.name)


@pytest.mark.parametrize("size", SIZES)
async def test_fresh(conveyor: Line, place: Place, size: str) -> None:
    await conveyor.judged(place, await conveyor.receive(SIZES[size]))


@pytest.mark.parametrize("size", SIZES)
async def test_resumed_after_a_kill(
    conveyor: Line, place: Place, workers: KillingWorkers, pool: WorkerPool, size: str
) -> None:
    upload = await conveyor.receive(SIZES[size])
    parts = (
        -(-SIZES[size] // PART) if SIZES[size] >= IN_PARTS and limits_of(place.spec).parts else 0
    )
    workers.kills = after(Part, parts - 1) if parts > 1 else after((Part, Whole), 1)
    await conveyor.killed(workers)
    if size == "3 parts":
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
    await conveyor.judged(place, upload)


@pytest.mark.parametrize("size", SIZES)
async def test_repeated_because_the_first_time_was_forgotten(
    conveyor: Line, place: Place, workers: KillingWorkers, size: str
) -> None:
    upload = await conveyor.receive(SIZES[size])
    workers.kills = after((Finish, Whole), 1)
    await conveyor.killed(workers)
    name = await conveyor.name(upload)
    first = await place.read(name)
    await conveyor.judged(place, upload)
    assert await place.read(name) == first


@pytest.mark.parametrize("size", AGE_SIZES)
async def test_age_opens_what_is_sealed_for_it(
    tmp_path: Path,
    place: Place,
    workers: KillingWorkers,
    monkeypatch: pytest.MonkeyPatch,
    size: str,
) -> None:
    monkeypatch.setattr(prepare, "WHOLE_LIMIT", IN_PARTS)
    pair = age_generate()
    key = tmp_path / "key.txt"
    key.write_text(f"{pair.secret}\n")
    opener = Age(key, age_public(pair.public))
    async with line(
        tmp_path, workers, place.spec, envelope="age", recipients=[pair.public], opener=opener
    ) as conveyor:
        await conveyor.judged(place, await conveyor.receive(SIZES[size]))


def after(kinds: type[Job] | tuple[type[Job], ...], times: int) -> Callable[[Job], bool]:
    """Whether ``times`` jobs of these kinds are done."""
    left = times

    def kills(job: Job) -> bool:
        nonlocal left
        left -= isinstance(job, kinds)
        return left <= 0

    return kills

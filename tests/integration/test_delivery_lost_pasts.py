"""What went out early and is no longer so: lost tails, swapped files, deaths, forgetful stores."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.peers.arrivals import HALF, PART, SIZE, Arrivals, Arriving, arrivals
from tests.peers.deliveries import MIB
from tests.peers.seaweedfs import Weed

WITHIN = PART + 2 * MIB
"""Where a tail begins of which parts went out already."""
BEYOND = 2 * PART + MIB
"""Where one begins of which none did."""
ONCE = {1: 1, 2: 1, 3: 1, 4: 1}
AGAIN = {1: 2, 2: 2, 3: 1, 4: 1}

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture
async def world(tmp_path: Path, weed: Weed) -> AsyncIterator[Arrivals]:
    async with arrivals(tmp_path, weed) as running:
        yield running


def cut(path: Path, start: int) -> None:
    """The tail was never written."""
    os.truncate(path, start)


def zeroed(path: Path, start: int) -> None:
    """The file's size was written, the tail's bytes were not."""
    os.truncate(path, start)
    os.truncate(path, HALF)


def replaced(path: Path, start: int) -> None:
    """Other bytes are where the tail was."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(random.Random("other").randbytes(HALF - start))


def parts_sent(world: Arrivals) -> dict[int, int]:
    """How often the bucket took each part."""
    return dict(world.stores.proxy.parts)


async def test_a_tail_that_tusd_lost_in_a_crash_is_taken_from_the_client_again(
    world: Arrivals,
) -> None:
    arriving = await world.half()
    world.tusd.kill()
    cut(world.path(arriving), WITHIN)
    await world.until(lambda: "shrank" in world.daemon.tail(), "the daemon saw it")
    world.tusd.start()
    assert await world.client.offset(arriving.url) == WITHIN
    arriving.data = arriving.data[:WITHIN] + random.Random("new").randbytes(SIZE - WITHIN)
    await arriving.send(SIZE)
    await world.done()
    assert parts_sent(world) == AGAIN


async def test_a_lost_tail_of_which_nothing_went_out_costs_nothing(world: Arrivals) -> None:
    arriving = await world.half()
    world.tusd.kill()
    cut(world.path(arriving), BEYOND)
    await world.until(lambda: "shrank" in world.daemon.tail(), "the daemon saw it")
    world.tusd.start()
    arriving.data = arriving.data[:BEYOND] + random.Random("new").randbytes(SIZE - BEYOND)
    await arriving.send(SIZE)
    await world.done()
    assert parts_sent(world) == ONCE


@pytest.mark.parametrize(
    ("spoil", "start", "sent"),
    [(cut, WITHIN, AGAIN), (cut, BEYOND, ONCE), (zeroed, WITHIN, AGAIN), (replaced, WITHIN, AGAIN)],
    ids=["cut within parts", "cut beyond parts", "zeroed", "replaced"],
)
async def test_after_a_power_loss_the_object_is_what_the_client_and_the_disk_make_of_it(
    world: Arrivals, spoil: Callable[[Path, int], None], start: int, sent: dict[int, int]
) -> None:
    arriving = await world.half()
    world.tusd.kill()
    world.daemon.kill()
    world.reboot()
    spoil(world.path(arriving), start)
    await resumed(world, arriving)
    world.daemon.start()
    await arriving.send(SIZE)
    await world.done()
    assert parts_sent(world) == sent


@pytest.mark.parametrize("spoil", [cut, zeroed, replaced])
async def test_a_tail_that_changed_while_the_daemon_was_away_is_found_without_a_reboot(
    world: Arrivals, spoil: Callable[[Path, int], None]
) -> None:
    arriving = await world.half()
    world.tusd.kill()
    world.daemon.kill()
    spoil(world.path(arriving), WITHIN)
    await resumed(world, arriving)
    await arriving.send(SIZE)
    world.daemon.start()
    await world.done()
    assert parts_sent(world) == AGAIN


async def resumed(world: Arrivals, arriving: Arriving) -> None:
    """Start tusd again, and have the client go on with other bytes from where it is."""
    world.tusd.start()
    offset = await world.client.offset(arriving.url)
    kept = world.path(arriving).read_bytes()
    assert len(kept) == offset
    arriving.data = kept + random.Random("new").randbytes(SIZE - offset)


async def test_an_upload_whose_file_is_swapped_half_way_is_delivered_as_it_is_at_the_end(
    world: Arrivals,
) -> None:
    arriving = await world.half()
    path = world.path(arriving)
    other = random.Random("other").randbytes(HALF)
    path.with_name("other").write_bytes(other)
    path.with_name("other").replace(path)
    arriving.data = other + arriving.data[HALF:]
    await arriving.send(SIZE)
    await world.done()
    assert parts_sent(world) == AGAIN


async def test_parts_that_were_there_before_kill_9_are_not_sent_again(world: Arrivals) -> None:
    arriving = await world.half()
    world.daemon.kill()
    await arriving.send(3 * PART + MIB)
    world.daemon.start()
    await world.parts(3)
    assert world.stores.finished() == []
    await arriving.send(SIZE)
    await world.done()
    assert parts_sent(world) == ONCE
    assert sorted(world.stores.chunks_sent()) == ["00001", "00002", "00003", "00004"]


async def test_stores_that_forgot_what_was_unfinished_get_it_anew_while_it_still_arrives(
    world: Arrivals,
) -> None:
    arriving = await world.half()
    world.stores.forget()
    await arriving.send(3 * PART + MIB)
    await world.parts(3)
    assert world.stores.finished() == []
    await arriving.send(SIZE)
    await world.done()
    assert parts_sent(world) == {1: 2, 2: 2, 3: 1, 4: 1}

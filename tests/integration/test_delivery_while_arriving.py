"""Delivery while it arrives: from a tus client through tusd to all stores that can bear it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.peers.arrivals import HALF, PART, SIZE, Arrivals, Arriving, arrivals
from tests.peers.deliveries import MIB
from tests.peers.four_stores import NAMES
from tests.peers.seaweedfs import Weed

PIECE = 256 * 1024
EVERYWHERE = dict.fromkeys(NAMES, 1)
NOWHERE = dict.fromkeys(NAMES, 0)

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture
async def world(tmp_path: Path, weed: Weed) -> AsyncIterator[Arrivals]:
    async with arrivals(tmp_path, weed) as running:
        yield running


async def slowly(data: bytes, go_on: asyncio.Event) -> AsyncIterator[bytes]:
    """Piece after piece, the last one only when the test says so."""
    for start in range(0, len(data) - PIECE, PIECE):
        yield data[start : start + PIECE]
        await asyncio.sleep(0.001)
    await go_on.wait()
    yield data[-(len(data) % PIECE or PIECE) :]


async def test_whole_parts_are_at_every_destination_before_the_request_that_sends_them_has_ended(
    world: Arrivals,
) -> None:
    arriving = await world.begin()
    go_on = asyncio.Event()
    data = slowly(arriving.data, go_on)
    sending = asyncio.create_task(world.client.patch(arriving.url, 0, data))
    await world.parts(3)
    assert world.stores.finished() == []
    assert world.stores.unfinished() == EVERYWHERE
    parts, beginnings = world.stores.uploaded(), world.stores.beginnings()
    assert sorted(parts) == [1, 2, 3]
    go_on.set()
    await sending
    await world.done()
    whole = [store.open(store.names()[0]) for store in world.stores.all.values()]
    objects = [file.read() for file in whole]
    for file in whole:
        file.close()
    assert len(set(objects)) == 1, "one key, one object: all destinations have the same bytes"
    for name, beginning in beginnings.items():
        there = beginning[: sum(parts.values())]
        assert objects[0].startswith(there), f"{name} held other bytes before the end"


async def test_once_the_last_byte_is_there_only_the_last_part_is_left_to_send(
    world: Arrivals,
) -> None:
    arriving = await world.begin()
    await arriving.send(SIZE - 1)
    await world.parts(3)
    await arriving.send(SIZE)
    await world.done()
    tries = [line for line in world.daemon.metrics if line["event"] == "delivery"]
    assert [line["outcome"] for line in tries] == ["ok"] * len(NAMES)
    assert max(line["sent_bytes"] for line in tries) < PART
    assert dict(world.stores.proxy.parts) == {1: 1, 2: 1, 3: 1, 4: 1}
    assert sorted(world.stores.chunks_sent()) == ["00001", "00002", "00003", "00004"]


async def test_reports_of_what_is_received_tell_how_much_every_destination_has(
    world: Arrivals,
) -> None:
    arriving = await world.half()
    end = HALF
    while not (told := delivered(world, arriving)):
        end += 1000
        await arriving.send(end)
        await asyncio.sleep(0.5)
    assert 2 * PART < told[-1] <= HALF
    await arriving.send(SIZE)
    await world.done()
    assert all("delivered" not in report for report in world.reports(arriving)[-2:])


def delivered(world: Arrivals, arriving: Arriving) -> list[int]:
    """What reports told of, where anything had gone out."""
    reports = [report for report in world.reports(arriving) if report["state"] == "receiving"]
    return [report["delivered"] for report in reports if report.get("delivered")]


async def test_an_upload_that_is_taken_back_half_way_leaves_nothing_anywhere(
    world: Arrivals,
) -> None:
    arriving = await world.half()
    assert world.stores.unfinished() == EVERYWHERE
    await world.client.terminate(arriving.url)
    await world.until(lambda: world.stores.unfinished() == NOWHERE, "nothing unfinished is left")
    await world.until(lambda: world.counts() == {"terminated": 1}, "it is terminated")
    await world.until(
        lambda: world.reports(arriving)[-1]["state"] == "terminated", "that is reported"
    )
    await world.until(lambda: not world.key_is_kept(), "its key is erased")
    assert world.stores.finished() == []


async def test_others_go_through_while_one_stalls_and_that_goes_on_where_it_was(
    world: Arrivals,
) -> None:
    stalled = await world.half()
    for number, size in enumerate((1, 100_000, PART, SIZE)):
        other = await world.begin(size, f"other{number}.bam")
        await other.send(size)
    await world.until(lambda: world.counts() == {"receiving": 1, "done": 4}, "the others are done")
    assert world.in_flight() == 0, "it has a worker while it waits"
    assert world.stores.unfinished() == EVERYWHERE
    await stalled.send(SIZE)
    await world.done()


async def test_one_that_is_never_finished_holds_no_worker_and_no_end_of_the_service(
    world: Arrivals,
) -> None:
    await world.half()
    assert world.in_flight() == 0
    assert await asyncio.to_thread(world.daemon.stop) == 0
    world.daemon.start()
    await world.until(lambda: world.counts() == {"receiving": 1}, "it is waited for")
    assert world.in_flight() == 0
    assert world.stores.finished() == []
    assert world.stores.unfinished() == EVERYWHERE


async def test_an_upload_of_deferred_length_is_followed_once_its_length_is_declared(
    world: Arrivals,
) -> None:
    arriving = await world.begin(None)
    await arriving.send(HALF)
    await world.until(lambda: bool(world.reports(arriving)), "the daemon knows of it")
    assert world.reports(arriving)[0]["size"] is None
    assert world.stores.unfinished() == NOWHERE
    piece = arriving.data[HALF : HALF + MIB]
    await world.client.patch(arriving.url, HALF, piece, length=SIZE)
    await world.parts(2)
    assert world.stores.finished() == []
    await arriving.send(SIZE)
    await world.done()


async def test_partials_are_not_followed_and_what_is_put_together_of_them_is_delivered(
    world: Arrivals,
) -> None:
    data = (await world.begin()).data
    partial = {"Upload-Concat": "partial"}
    metadata = {"study": world.study, "filename": "partial.bam"}
    halves = []
    for half in (data[:HALF], data[HALF:]):
        halves.append(await world.client.create(len(half), metadata, partial))
        await world.client.patch(halves[-1], 0, half)
    whole = world.uploads.pop()
    await world.client.terminate(whole.url)
    await world.until(lambda: bool(world.reports(whole)), "the daemon looked meanwhile")
    assert world.stores.finished() == []
    assert world.stores.unfinished() == NOWHERE
    metadata = {"study": world.study, "filename": whole.filename}
    whole.url = await world.client.concatenate(halves, metadata)
    whole.tus_id = world.client.tus_id(whole.url)
    world.uploads.append(whole)
    await world.done()


async def test_one_destination_that_is_away_gets_its_parts_when_it_is_back_and_others_at_once(
    world: Arrivals,
) -> None:
    world.stores.ssh.kill()
    arriving = await world.begin()
    await arriving.send(HALF)
    others = set(NAMES) - {"inbox"}

    def there() -> bool:
        stored = world.stored()
        return all(stored.get(name, 0) >= 2 * PART for name in others)

    await world.until(there, "the others have their parts")
    world.stores.ssh.start()
    await world.parts(2)
    await arriving.send(SIZE)
    await world.done()

"""``verify = "readback"``: what a store gives back is opened; anything else is never stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from pipeline.messages import DestinationSpec, Finish, Job
from tests.peers.conveying import Before, Line, LocalWorkers, line
from tests.peers.deliveries import MIB
from tests.peers.faulty import Exchange, FaultyHttp, Spoil, other_byte_read, spoiled
from tests.peers.oracle import Failing
from tests.peers.places import PLACES, Bucket, Place

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="module")]

PARTS = 10 * MIB + 1
HTTP = ("SeaweedFS", "rclone serve webdav", "nextcloud_like")
FILES = ("directory", "OpenSSH")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    async with PLACES[request.param](tmp_path_factory.mktemp("place")) as running:
        yield running


@asynccontextmanager
async def conveyor(
    spec: DestinationSpec,
    directory: Path,
    *,
    url: str = "",
    happens: Callable[[Job], object] = lambda _: None,
) -> AsyncIterator[Line]:
    """A line to a destination that is read back, by way of ``url`` where it has one."""
    spec = msgspec.structs.replace(spec, verify="readback")
    if url:
        changed = {"endpoint": url} if spec.type == "s3" else {"url": url}
        spec = msgspec.structs.replace(spec, **changed)
    async with AsyncExitStack() as stack:
        workers = Before(await stack.enter_async_context(LocalWorkers()), happens)
        yield await stack.enter_async_context(line(directory, workers, spec))


def address(spec: DestinationSpec) -> str:
    return spec.endpoint or spec.url


async def arrived(made: Line, place: Place, upload: str) -> None:
    """It is stored, by being read back."""
    await made.judged(place, upload)
    (record,) = made.receipt(upload)["deliveries"]
    assert (record["verified"], list(record["checksum"])) == ("readback", ["crc64nvme"])


async def never_stored(made: Line, place: Place, upload: str) -> None:
    """It failed, and there is nothing of it."""
    await made.judged(place, upload, Failing("verification_failed"))


@pytest.mark.parametrize("place", [*HTTP, *FILES], indirect=True)
@pytest.mark.parametrize("size", [0, 70_000, PARTS])
async def test_what_was_stored_is_opened(place: Place, tmp_path: Path, size: int) -> None:
    async with conveyor(place.spec, tmp_path) as made:
        upload = await made.receive(size)
        await arrived(made, place, upload)


@pytest.mark.parametrize("place", HTTP, indirect=True)
@pytest.mark.parametrize("size", [70_000, PARTS])
async def test_one_wrong_byte_that_is_read_makes_it_anew(
    place: Place, tmp_path: Path, size: int
) -> None:
    async with (
        FaultyHttp(address(place.spec)) as proxy,
        conveyor(place.spec, tmp_path, url=proxy.url) as made,
    ):
        proxy.spoil(is_read, other_byte_read())
        upload = await made.receive(size)
        await arrived(made, place, upload)
        assert proxy.made == 1


@pytest.mark.parametrize("place", HTTP, indirect=True)
@pytest.mark.parametrize("size", [70_000, PARTS])
async def test_what_never_reads_back_is_never_stored(
    place: Place, tmp_path: Path, size: int
) -> None:
    async with (
        FaultyHttp(address(place.spec)) as proxy,
        conveyor(place.spec, tmp_path, url=proxy.url) as made,
    ):
        proxy.spoil(is_read, other_byte_read(0.9), times=1000)
        await never_stored(made, place, await made.receive(size))


@pytest.mark.parametrize("place", FILES, indirect=True)
@pytest.mark.parametrize("times", [1, 1000])
async def test_a_file_that_somebody_changed_before_it_got_its_name(
    place: Place, tmp_path: Path, times: int
) -> None:
    left = times

    def tamper(job: Job) -> None:
        nonlocal left
        if isinstance(job, Finish) and left:
            left -= 1
            (hidden,) = Path(place.spec.directory).rglob(f".*{job.target.upload}*")
            hidden.write_bytes(spoiled(hidden.read_bytes()))

    async with conveyor(place.spec, tmp_path, happens=tamper) as made:
        upload = await made.receive(PARTS)
        if times == 1:
            await arrived(made, place, upload)
        else:
            await never_stored(made, place, upload)


@pytest.mark.parametrize("place", ["SeaweedFS"], indirect=True)
@pytest.mark.parametrize("size", [70_000, PARTS])
@pytest.mark.parametrize("times", [1, 1000])
async def test_an_object_replaced_between_storing_and_reading_is_not_taken_for_a_refusal(
    place: Place, tmp_path: Path, size: int, times: int
) -> None:
    assert isinstance(place, Bucket)
    async with (
        FaultyHttp(place.spec.endpoint) as proxy,
        conveyor(place.spec, tmp_path, url=proxy.url) as made,
    ):
        proxy.spoil(is_read, replaced(place), times)
        upload = await made.receive(size)
        if times == 1:
            await arrived(made, place, upload)
        else:
            await never_stored(made, place, upload)


def is_read(request: web.BaseRequest) -> bool:
    return request.method == "GET" and not {"uploads", "uploadId"} & set(request.query)


def replaced(bucket: Bucket) -> Spoil:
    """Somebody with the same rights writes other bytes under the name."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        name = exchange.request.path.removeprefix(f"/{bucket.spec.bucket}/")
        bucket.write(name, spoiled(await bucket.read(name)))
        return await exchange.give(await exchange.ask())

    return spoil

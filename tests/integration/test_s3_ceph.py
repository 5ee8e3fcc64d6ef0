"""Deliveries to Ceph's gateway. Not in the default run: it needs 300 MB of Debian packages.

apt-get install --no-install-recommends radosgw ceph-mon ceph-osd
.venv/bin/python -m pytest -m ceph tests/integration/test_s3_ceph.py
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from daemon.workers import WorkerPool
from pipeline.destinations.probe import probed
from pipeline.errors import DestinationRefusedError
from pipeline.messages import DestinationSpec, Traits
from tests.peers.ceph import Ceph
from tests.peers.deliveries import MIB, Drop, decrypted, file_of

pytestmark = [pytest.mark.ceph, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

DATA = os.urandom(11 * MIB + 3)


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    with Ceph(tmp_path_factory.mktemp("ceph")) as server:
        server.make_bucket("store")
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[WorkerPool]:
    async with WorkerPool(1) as started:
        yield started


@pytest.fixture
def spec(ceph: Ceph) -> DestinationSpec:
    return DestinationSpec(
        name="store",
        type="s3",
        endpoint=ceph.endpoint,
        bucket="store",
        access_key=ceph.access_key,
        secret_key=ceph.secret_key,
    )


@pytest.fixture
def drop(pool: WorkerPool, spec: DestinationSpec, tmp_path: Path) -> Iterator[Drop]:
    upload = str(uuid.uuid4())
    with file_of(tmp_path / "data", DATA) as fd:
        yield Drop(pool, spec, fd, upload=upload, name=f"study/{upload}/a name+ü?.bin")


def stored(ceph: Ceph, drop: Drop) -> bytes:
    data: bytes = ceph.client().get_object(Bucket="store", Key=drop.target.name)["Body"].read()
    return data


async def test_a_fresh_upload_arrives_proved_by_md5(ceph: Ceph, drop: Drop) -> None:
    found = await drop.deliver()
    assert (found.verified, list(found.checksum)) == ("checksum", ["md5"])
    assert decrypted(stored(ceph, drop)) == DATA


async def test_a_small_upload_arrives_in_one_request(ceph: Ceph, drop: Drop) -> None:
    found = (await drop.deliver_whole()).stored
    assert (found.verified, list(found.checksum)) == ("checksum", ["md5"])
    assert decrypted(stored(ceph, drop)) == DATA


async def test_a_delivery_goes_on_with_the_parts_that_are_there(ceph: Ceph, drop: Drop) -> None:
    reference = (await drop.begin()).reference
    first = await drop.send(reference, drop.spans[1])
    begun = await drop.begin(reference)
    assert begun.held is not None
    assert [(part.number, part.etag) for part in begun.held] == [(2, first.etag)]
    assert await drop.prove(reference, drop.spans[1], begun.held[0]) == first
    await drop.finish(reference, await drop.send_all(reference))
    assert decrypted(stored(ceph, drop)) == DATA


async def test_finishing_twice_is_finishing_once(ceph: Ceph, drop: Drop) -> None:
    reference = (await drop.begin()).reference
    parts = await drop.send_all(reference)
    assert await drop.finish(reference, parts) == await drop.finish(reference, parts)
    assert decrypted(stored(ceph, drop)) == DATA


async def test_anothers_object_is_not_replaced_though_the_store_would(
    ceph: Ceph, drop: Drop
) -> None:
    reference = (await drop.begin()).reference
    parts = await drop.send_all(reference)
    ceph.client().put_object(Bucket="store", Key=drop.target.name, Body=b"theirs")
    with pytest.raises(DestinationRefusedError, match="another object"):
        await drop.finish(reference, parts)
    assert stored(ceph, drop) == b"theirs"


async def test_tags_arrive(ceph: Ceph, drop: Drop) -> None:
    drop.destination = msgspec.structs.replace(drop.destination, tags=(("a", "{upload}"),))
    await drop.deliver()
    found = ceph.client().get_object_tagging(Bucket="store", Key=drop.target.name)["TagSet"]
    assert found == [{"Key": "a", "Value": drop.target.upload}]


async def test_a_probe_tells_what_the_gateway_lacks(spec: DestinationSpec) -> None:
    found = await probed(spec, uuid.uuid4().hex)
    assert found.left_out == []
    assert found.traits is not None
    assert found.proof == "md5"
    assert found.traits == Traits(counts=False, conditional=False)

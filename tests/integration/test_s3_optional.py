"""What holds for every S3 store that isn't part of the default run; each has a mark of its own.

.venv/bin/python -m pytest -m "ceph or minio" tests/integration/test_s3_optional.py
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from botocore.client import BaseClient

from pipeline.errors import DestinationRefusedError
from pipeline.messages import DestinationSpec
from tests.peers.deliveries import DATA, WAYS, Drop, Way, decrypted
from tests.peers.places import BUCKET, OPTIONAL, Place
from tests.peers.seaweedfs import s3_client

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(3600)]

STORES = [pytest.param(name, marks=getattr(pytest.mark, name.lower())) for name in OPTIONAL]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=STORES)
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    async with OPTIONAL[request.param](tmp_path_factory.mktemp("place")) as running:
        yield running


@pytest.fixture
def spec(place: Place) -> DestinationSpec:
    return place.spec


@pytest.fixture
def client(spec: DestinationSpec) -> BaseClient:
    return s3_client(spec.endpoint, spec.access_key, spec.secret_key)


async def test_a_delivery_goes_on_with_the_parts_that_are_there(place: Place, drop: Drop) -> None:
    reference = (await drop.begin()).reference
    first = await drop.send(reference, drop.spans[1])
    begun = await drop.begin(reference)
    assert begun.held is not None
    assert [(part.number, part.etag) for part in begun.held] == [(2, first.etag)]
    assert await drop.prove(reference, drop.spans[1], begun.held[0]) == first
    await drop.finish(reference, await drop.send_all(reference))
    assert decrypted(await place.read(drop.target.name)) == DATA


async def test_finishing_twice_is_finishing_once(place: Place, drop: Drop) -> None:
    reference = (await drop.begin()).reference
    parts = await drop.send_all(reference)
    assert await drop.finish(reference, parts) == await drop.finish(reference, parts)
    assert decrypted(await place.read(drop.target.name)) == DATA


async def test_anothers_object_is_not_replaced_whether_or_not_the_store_heeds_conditions(
    place: Place, drop: Drop, client: BaseClient
) -> None:
    reference = (await drop.begin()).reference
    parts = await drop.send_all(reference)
    client.put_object(Bucket=BUCKET, Key=drop.target.name, Body=b"theirs")
    with pytest.raises(DestinationRefusedError, match="another object"):
        await drop.finish(reference, parts)
    assert await place.read(drop.target.name) == b"theirs"


@WAYS
async def test_tags_arrive(way: Way, drop: Drop, client: BaseClient) -> None:
    drop.destination = msgspec.structs.replace(drop.destination, tags=(("a", "{upload}"),))
    await way(drop)
    found = client.get_object_tagging(Bucket=BUCKET, Key=drop.target.name)["TagSet"]
    assert found == [{"Key": "a", "Value": drop.target.upload}]

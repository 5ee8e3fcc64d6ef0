"""Deliveries to MinIO. Not in the default run: its build takes minutes, and gigabytes of sources.

.venv/bin/python -m pytest -m minio tests/integration/test_s3_minio.py
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from daemon.workers import WorkerPool
from pipeline.destinations.probe import PREFIX, probed
from pipeline.errors import DestinationRefusedError
from pipeline.messages import DestinationSpec, Traits
from tests.peers.deliveries import MIB, Drop, Way, decrypted, file_of, in_parts, whole
from tests.peers.minio import KMS_KEY, Minio

pytestmark = [
    pytest.mark.minio,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(3600),
]

DATA = os.urandom(11 * MIB + 3)


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        server.make_bucket("store")
        server.make_bucket("locked", locks=True)
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[WorkerPool]:
    async with WorkerPool(1) as started:
        yield started


@pytest.fixture
def spec(minio: Minio) -> DestinationSpec:
    return DestinationSpec(
        name="store",
        type="s3",
        endpoint=minio.endpoint,
        bucket="store",
        access_key=minio.access_key,
        secret_key=minio.secret_key,
    )


@pytest.fixture
def drop(pool: WorkerPool, spec: DestinationSpec, tmp_path: Path) -> Iterator[Drop]:
    upload = str(uuid.uuid4())
    with file_of(tmp_path / "data", DATA) as fd:
        yield Drop(pool, spec, fd, upload=upload, name=f"study/{upload}/a name+ü.bin")


WAYS = pytest.mark.parametrize("way", [in_parts, whole])


def stored(minio: Minio, drop: Drop) -> bytes:
    data: bytes = minio.client().get_object(Bucket="store", Key=drop.target.name)["Body"].read()
    return data


def about(minio: Minio, drop: Drop) -> dict[str, Any]:
    found: dict[str, Any] = minio.client().head_object(
        Bucket=drop.destination.bucket, Key=drop.target.name
    )
    return found


@pytest.mark.parametrize(("way", "proof"), [(in_parts, "crc64nvme"), (whole, "md5")])
async def test_an_upload_arrives_proved_by_the_store_s_own_checksum(
    way: Way, proof: str, minio: Minio, drop: Drop
) -> None:
    found = await way(drop)
    assert (found.verified, list(found.checksum)) == ("checksum", [proof])
    assert decrypted(stored(minio, drop)) == DATA


async def test_a_delivery_goes_on_with_the_parts_that_are_there(minio: Minio, drop: Drop) -> None:
    reference = (await drop.begin()).reference
    first = await drop.send(reference, drop.spans[1])
    begun = await drop.begin(reference)
    assert begun.held is not None
    assert [(part.number, part.etag) for part in begun.held] == [(2, first.etag)]
    assert await drop.prove(reference, drop.spans[1], begun.held[0]) == first
    await drop.finish(reference, await drop.send_all(reference))
    assert decrypted(stored(minio, drop)) == DATA


async def test_finishing_twice_is_finishing_once(minio: Minio, drop: Drop) -> None:
    reference = (await drop.begin()).reference
    parts = await drop.send_all(reference)
    assert await drop.finish(reference, parts) == await drop.finish(reference, parts)
    assert decrypted(stored(minio, drop)) == DATA


async def test_anothers_object_is_not_replaced(minio: Minio, drop: Drop) -> None:
    reference = (await drop.begin()).reference
    parts = await drop.send_all(reference)
    minio.client().put_object(Bucket="store", Key=drop.target.name, Body=b"theirs")
    with pytest.raises(DestinationRefusedError, match="another object"):
        await drop.finish(reference, parts)
    assert stored(minio, drop) == b"theirs"


@WAYS
async def test_tags_arrive(way: Way, minio: Minio, drop: Drop) -> None:
    drop.destination = msgspec.structs.replace(drop.destination, tags=(("a", "{upload}"),))
    await way(drop)
    found = minio.client().get_object_tagging(Bucket="store", Key=drop.target.name)["TagSet"]
    assert found == [{"Key": "a", "Value": drop.target.upload}]


@WAYS
async def test_objects_are_locked_as_they_were_asked_to_be(
    way: Way, minio: Minio, drop: Drop
) -> None:
    drop.destination = msgspec.structs.replace(
        drop.destination, bucket="locked", lock_mode="COMPLIANCE", lock_days=2, legal_hold=True
    )
    await way(drop)
    found = about(minio, drop)
    assert (found["ObjectLockMode"], found["ObjectLockLegalHoldStatus"]) == ("COMPLIANCE", "ON")
    ends = found["ObjectLockRetainUntilDate"] - datetime.now(UTC)
    assert timedelta(days=1, hours=23) < ends < timedelta(days=2)


@WAYS
@pytest.mark.parametrize("kind", ["sse-s3", "sse-kms"])
async def test_what_the_store_encrypts_is_read_as_it_was_sent(
    kind: str, way: Way, minio: Minio, drop: Drop
) -> None:
    asked = {"sse": kind} | ({"sse_kms_key": KMS_KEY} if kind == "sse-kms" else {})
    drop.destination = msgspec.structs.replace(drop.destination, **asked)
    result = await way(drop)
    assert result.verified in {"checksum", "readback"}
    assert decrypted(stored(minio, drop)) == DATA
    encryption = about(minio, drop)["ServerSideEncryption"]
    assert encryption == ("aws:kms" if kind == "sse-kms" else "AES256")


async def test_a_probe_tells_what_the_store_can_and_leaves_nothing(
    minio: Minio, spec: DestinationSpec
) -> None:
    found = await probed(spec, uuid.uuid4().hex)
    assert (found.left_out, found.proof) == ([], "crc64nvme")
    assert found.traits == Traits(counts=True, insists=True, conditional=True)
    listed = minio.client().list_objects_v2(Bucket="store", Prefix=PREFIX)
    assert listed["KeyCount"] == 0

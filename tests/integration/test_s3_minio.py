"""Deliveries to MinIO. Not in the default run: its build takes minutes, and gigabytes of sources.

.venv/bin/python -m pytest -m minio tests/integration/test_s3_minio.py
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from pipeline.destinations.probe import PREFIX, probed
from pipeline.messages import DestinationSpec, Traits
from tests.peers.deliveries import DATA, WAYS, Drop, Way, decrypted, in_parts, whole
from tests.peers.minio import KMS_KEY, Minio
from tests.peers.places import bucket_of

pytestmark = [
    pytest.mark.minio,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        server.make_bucket("store")
        server.make_bucket("locked", locks=True)
        yield server


@pytest.fixture
def spec(minio: Minio) -> DestinationSpec:
    return bucket_of("store", minio).spec


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

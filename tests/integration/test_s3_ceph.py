"""Deliveries to Ceph's gateway. Not in the default run: it needs 300 MB of Debian packages.

apt-get install --no-install-recommends radosgw ceph-mon ceph-osd
.venv/bin/python -m pytest -m ceph tests/integration/test_s3_ceph.py
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from pipeline.destinations.probe import PREFIX, probed
from pipeline.destinations.reading import opened
from pipeline.errors import DestinationRefusedError
from pipeline.messages import DestinationSpec, Traits
from tests.peers.ceph import KMS_KEY, STORAGE_CLASS, Ceph
from tests.peers.deliveries import DATA, WAYS, Drop, Way, decrypted
from tests.peers.places import bucket_of

pytestmark = [pytest.mark.ceph, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    with Ceph(tmp_path_factory.mktemp("ceph")) as server:
        server.make_bucket("store")
        client = server.client()
        client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        client.create_bucket(Bucket="locking", ObjectLockEnabledForBucket=True)
        rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
        client.put_object_lock_configuration(
            Bucket="locking",
            ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
        )
        server.make_bucket("versioned")
        client.put_bucket_versioning(
            Bucket="versioned", VersioningConfiguration={"Status": "Enabled"}
        )
        server.make_bucket("full")
        server.limit_bucket("full", 4096)
        yield server


@pytest.fixture
def spec(ceph: Ceph) -> DestinationSpec:
    return bucket_of("store", ceph).spec


def about(ceph: Ceph, drop: Drop, **key: object) -> dict[str, Any]:
    found: dict[str, Any] = ceph.client().head_object(
        Bucket=drop.destination.bucket, Key=drop.target.name, **key
    )
    return found


def left(ceph: Ceph, bucket: str) -> list[str]:
    """Every version, marker and unfinished upload of probes."""
    client = ceph.client()
    found = client.list_object_versions(Bucket=bucket, Prefix=PREFIX)
    growing = client.list_multipart_uploads(Bucket=bucket, Prefix=PREFIX)
    lists = (found.get("Versions"), found.get("DeleteMarkers"), growing.get("Uploads"))
    return [str(each["Key"]) for some in lists for each in some or ()]


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


async def test_a_probe_tells_what_the_gateway_lacks(spec: DestinationSpec) -> None:
    found = await probed(spec, uuid.uuid4().hex)
    assert found.left_out == []
    assert found.traits is not None
    assert found.proof == "md5"
    assert found.traits == Traits(counts=False, conditional=False)


@WAYS
async def test_a_lock_that_the_gateway_forgets_for_parts_is_there_when_it_is_stored(
    way: Way, ceph: Ceph, drop: Drop
) -> None:
    drop.destination = msgspec.structs.replace(
        drop.destination, bucket="locked", lock_mode="COMPLIANCE", lock_days=2, legal_hold=True
    )
    await way(drop)
    found = about(ceph, drop)
    assert (found["ObjectLockMode"], found["ObjectLockLegalHoldStatus"]) == ("COMPLIANCE", "ON")
    ends = found["ObjectLockRetainUntilDate"] - datetime.now(UTC)
    assert timedelta(days=1, hours=23) < ends < timedelta(days=2)
    versions = ceph.client().list_object_versions(Bucket="locked", Prefix=drop.target.name)
    assert len(versions["Versions"]) == 1


@WAYS
async def test_a_lock_is_the_one_that_was_asked_for_where_the_bucket_gives_another(
    way: Way, ceph: Ceph, drop: Drop
) -> None:
    drop.destination = msgspec.structs.replace(
        drop.destination, bucket="locking", lock_mode="GOVERNANCE", lock_days=9
    )
    await way(drop)
    ends = about(ceph, drop)["ObjectLockRetainUntilDate"] - datetime.now(UTC)
    assert timedelta(days=8, hours=23) < ends < timedelta(days=9)


@WAYS
async def test_a_bucket_without_locks_takes_nothing_that_has_to_be_locked(
    way: Way, ceph: Ceph, drop: Drop
) -> None:
    drop.destination = msgspec.structs.replace(drop.destination, legal_hold=True)
    with pytest.raises(DestinationRefusedError, match="keeps no locks"):
        await way(drop)
    found = ceph.client().list_objects_v2(Bucket="store", Prefix=drop.target.name)
    assert found["KeyCount"] == 0


@WAYS
@pytest.mark.parametrize("kind", ["sse-c", "sse-kms"])
async def test_what_the_gateway_encrypts_is_read_as_it_was_sent(
    kind: str, way: Way, ceph: Ceph, drop: Drop
) -> None:
    key = bytes(range(32))
    asked: dict[str, Any] = {"sse": "sse-kms", "sse_kms_key": KMS_KEY}
    needed: dict[str, str | bytes] = {}
    if kind == "sse-c":
        asked = {"sse": "sse-c", "sse_c_key": base64.b64encode(key).decode()}
        needed = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}
    drop.destination = msgspec.structs.replace(drop.destination, **asked)
    result = await way(drop)
    assert result.verified in {"checksum", "readback"}
    async with opened(drop.destination, drop.target.name) as found:
        data = b"".join([piece async for piece in found.read(0, found.size)])
    assert hashlib.sha256(decrypted(data)).digest() == hashlib.sha256(DATA).digest()
    head = about(ceph, drop, **needed)
    assert head.get("ServerSideEncryption" if kind == "sse-kms" else "SSECustomerAlgorithm")


@WAYS
async def test_objects_are_of_the_storage_class_that_was_asked_for(
    way: Way, ceph: Ceph, drop: Drop
) -> None:
    drop.destination = msgspec.structs.replace(drop.destination, storage_class=STORAGE_CLASS)
    await way(drop)
    listed = ceph.client().list_objects_v2(Bucket="store", Prefix=drop.target.name)["Contents"]
    assert [found["StorageClass"] for found in listed] == [STORAGE_CLASS]
    assert decrypted(stored(ceph, drop)) == DATA


@WAYS
async def test_a_full_bucket_refuses(way: Way, drop: Drop) -> None:
    drop.destination = msgspec.structs.replace(drop.destination, bucket="full")
    with pytest.raises(DestinationRefusedError, match="QuotaExceeded"):
        await way(drop)


@pytest.mark.parametrize("bucket", ["versioned", "locked"])
async def test_a_probe_leaves_no_version_though_the_gateway_heeds_no_condition(
    bucket: str, ceph: Ceph, spec: DestinationSpec
) -> None:
    found = await probed(msgspec.structs.replace(spec, bucket=bucket), uuid.uuid4().hex)
    assert (found.left_out, found.proof) == ([], "md5")
    assert left(ceph, bucket) == []


async def test_a_probe_writes_nothing_that_the_bucket_would_lock(
    ceph: Ceph, spec: DestinationSpec
) -> None:
    found = await probed(msgspec.structs.replace(spec, bucket="locking"), uuid.uuid4().hex)
    assert found.left_out == ["the bucket locks every object by itself, so none was written"]
    assert left(ceph, "locking") == []


async def test_a_probe_finds_out_that_the_bucket_keeps_no_locks(spec: DestinationSpec) -> None:
    asking = msgspec.structs.replace(spec, lock_mode="GOVERNANCE", lock_days=1)
    with pytest.raises(DestinationRefusedError, match="keeps no locks"):
        await probed(asking, uuid.uuid4().hex)


async def test_a_refused_probe_names_what_was_asked_for(spec: DestinationSpec) -> None:
    asking = msgspec.structs.replace(spec, storage_class="NO_SUCH_CLASS")
    with pytest.raises(DestinationRefusedError, match="asked for: storage_class NO_SUCH_CLASS"):
        await probed(asking, uuid.uuid4().hex)

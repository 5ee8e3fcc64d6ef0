"""What is asked of S3 stores for each object: lock, tags, class, encryption."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from daemon.checks import remote
from daemon.settings import Destination
from daemon.stores import StoreMemory
from pipeline.destinations.looking import look
from pipeline.destinations.probe import probed
from pipeline.destinations.reading import opened
from pipeline.destinations.s3 import S3Destination
from pipeline.errors import DestinationRefusedError
from pipeline.messages import DestinationSpec, Target, Traits, VerifyMode
from tests.peers.s3_between import (
    Between,
)
from tests.peers.s3_recorder import (
    PIECES,
    Way,
    asking_of,
    deliver,
    deliver_whole,
    headers_of,
    recording,
)
from tests.peers.seaweedfs import Weed

pytestmark = pytest.mark.peers

KEY = bytes(range(32))
CUSTOMER = "x-amz-server-side-encryption-customer-"
CUSTOMER_HEADERS = {
    f"{CUSTOMER}algorithm": "AES256",
    f"{CUSTOMER}key": base64.b64encode(KEY).decode(),
    f"{CUSTOMER}key-MD5": base64.b64encode(hashlib.md5(KEY).digest()).decode(),  # noqa: S324  # S3's own
}


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        server.make_bucket("store")
        server.client().create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        yield server


@pytest.fixture
def spec(weed: Weed) -> DestinationSpec:
    return DestinationSpec(
        name="store",
        type="s3",
        endpoint=weed.endpoint,
        bucket="locked",
        access_key=weed.access_key,
        secret_key=weed.secret_key,
    )


@pytest.fixture
def target() -> Target:
    upload = str(uuid.uuid4())
    size = sum(map(len, PIECES))
    return Target(upload=upload, name=f"{upload}/x", size=size, study="a study")


WAYS = pytest.mark.parametrize("way", [deliver, deliver_whole], ids=["parts", "whole"])


@WAYS
async def test_what_is_locked_cannot_be_deleted(
    way: Way, spec: DestinationSpec, target: Target, weed: Weed
) -> None:
    spec = msgspec.structs.replace(spec, lock_mode="COMPLIANCE", lock_days=2)
    stored = await way(spec, target)
    assert stored.verified == "checksum"
    client = weed.client()
    found = client.head_object(Bucket="locked", Key=target.name)
    assert found["ObjectLockMode"] == "COMPLIANCE"
    left = found["ObjectLockRetainUntilDate"] - datetime.now(UTC)
    assert timedelta(days=1, hours=23) < left < timedelta(days=2)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket="locked", Key=target.name, VersionId=found["VersionId"])


@pytest.mark.parametrize("verify", ["checksum", "readback"])
@pytest.mark.parametrize(
    "asked",
    [
        {"sse": "sse-s3"},
        {"sse": "sse-kms", "sse_kms_key": "the-key"},
        {"sse": "sse-c", "sse_c_key": CUSTOMER_HEADERS[f"{CUSTOMER}key"]},
    ],
    ids=["sse-s3", "sse-kms", "sse-c"],
)
@WAYS
async def test_what_the_store_encrypts_is_verified_and_read_as_it_was_sent(
    way: Way, asked: dict[str, Any], verify: VerifyMode, spec: DestinationSpec, target: Target
) -> None:
    spec = msgspec.structs.replace(spec, bucket="store", verify=verify, **asked)
    stored = await way(spec, target)
    assert stored.verified in {"checksum", "readback"}
    async with opened(spec, target.name) as found:
        read = b"".join([piece async for piece in found.read(0, found.size)])
    assert read == b"".join(PIECES)


@WAYS
async def test_tags_have_their_placeholders_filled_in(
    way: Way, spec: DestinationSpec, target: Target, weed: Weed
) -> None:
    tags = (("project", "a & b = c"), ("from", "{study}/{upload}"))
    await way(msgspec.structs.replace(spec, bucket="store", tags=tags), target)
    found = weed.client().get_object_tagging(Bucket="store", Key=target.name)["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in found} == {
        "project": "a & b = c",
        "from": f"a study/{target.upload}",
    }


async def test_a_bucket_without_locks_is_refused_or_found_out_by_the_probe(
    spec: DestinationSpec,
) -> None:
    spec = msgspec.structs.replace(spec, bucket="store", lock_mode="GOVERNANCE", lock_days=1)
    with pytest.raises(DestinationRefusedError):
        await probed(spec, uuid.uuid4().hex)


async def test_a_probe_leaves_nothing_where_objects_are_locked(
    spec: DestinationSpec, weed: Weed
) -> None:
    token = uuid.uuid4().hex
    locked = msgspec.structs.replace(spec, lock_mode="COMPLIANCE", lock_days=9, legal_hold=True)
    found = await probed(locked, token)
    assert (found.left_out, found.proof) == ([], "crc64nvme")
    versions = weed.client().list_object_versions(
        Bucket="locked", Prefix=f".dropoffd-check-{token}"
    )
    assert not versions.get("Versions")


async def test_a_probe_writes_nothing_that_the_bucket_would_lock(
    spec: DestinationSpec, weed: Weed
) -> None:
    client = weed.client()
    client.create_bucket(Bucket="locking", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket="locking", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    found = await probed(msgspec.structs.replace(spec, bucket="locking"), uuid.uuid4().hex)
    assert found.left_out == ["the bucket locks every object by itself, so none was written"]
    assert not client.list_object_versions(Bucket="locking").get("Versions")


async def test_a_probe_tells_what_the_store_can_do(spec: DestinationSpec) -> None:
    found = await probed(msgspec.structs.replace(spec, bucket="store"), uuid.uuid4().hex)
    assert found.proof == "crc64nvme"
    assert found.traits is not None
    assert (found.traits.counts, found.traits.conditional) == (True, True)


async def test_check_shows_the_proof_and_the_daemon_needs_no_try_of_its_own(
    spec: DestinationSpec, target: Target, weed: Weed, tmp_path: Path
) -> None:
    spec = msgspec.structs.replace(spec, bucket="store")
    found = await remote.destination(
        "store", Destination(spec=spec), StoreMemory(tmp_path, lambda: 1.0)
    )
    assert [finding.message for finding in found] == [
        (
            "written, read back, deleted; proof: CRC-64/NVME that the store counts; "
            "conditional writes: yes"
        )
    ]
    remembered = StoreMemory(tmp_path, lambda: 2.0)
    await remembered.load()
    traits = remembered.known(spec)
    assert traits == Traits(counts=True, conditional=True)
    async with Between(weed.endpoint) as between:
        store = S3Destination(msgspec.structs.replace(spec, endpoint=between.url))
        try:
            store.remember(traits)
            await store.begin(target, stale=False)
        finally:
            await store.aclose()
    assert [seen.method for seen in between.seen] == ["HEAD", "POST"]


# A store that only writes down what it is asked -----------------------------------------------


@pytest.fixture
async def fake(target: Target) -> AsyncIterator[Between]:
    async with recording(target) as server:
        yield server


@pytest.fixture
def asking(fake: Between) -> DestinationSpec:
    return asking_of(fake)


def has(found: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(found.get(name.lower()) == value for name, value in wanted.items())


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"sse": "sse-s3"}, {"x-amz-server-side-encryption": "AES256"}),
        (
            {"sse": "sse-kms", "sse_kms_key": "the-key"},
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "the-key",
            },
        ),
        ({"storage_class": "STANDARD_IA"}, {"x-amz-storage-class": "STANDARD_IA"}),
        ({"legal_hold": True}, {"x-amz-object-lock-legal-hold": "ON"}),
        ({"lock_mode": "GOVERNANCE", "lock_days": 1}, {"x-amz-object-lock-mode": "GOVERNANCE"}),
        ({"tags": (("a", "{upload}"),)}, {"x-amz-tagging": "a={upload}"}),
    ],
    ids=["sse-s3", "sse-kms", "class", "hold", "lock", "tags"],
)
@WAYS
async def test_what_is_asked_for_goes_with_the_request_that_creates_the_object(
    way: Way,
    asked: dict[str, object],
    wanted: dict[str, str],
    fake: Between,
    asking: DestinationSpec,
    target: Target,
) -> None:
    wanted = {name: value.format(upload=target.upload) for name, value in wanted.items()}
    await way(msgspec.structs.replace(asking, **asked), target)
    created = headers_of(fake, "POST", "uploads") if way is deliver else headers_of(fake, "PUT", "")
    assert created
    for found in created:
        assert has(found, wanted)
    for method, query in (("PUT", "partNumber"), ("POST", "uploadId"), ("HEAD", "")):
        for found in headers_of(fake, method, query) if way is deliver else []:
            assert not any(name.lower() in found for name in wanted)


@WAYS
async def test_a_customers_key_goes_with_everything_that_touches_the_object(
    way: Way, fake: Between, asking: DestinationSpec, target: Target
) -> None:
    spec = msgspec.structs.replace(
        asking, sse="sse-c", sse_c_key=CUSTOMER_HEADERS[f"{CUSTOMER}key"]
    )
    await way(spec, target)
    await look(spec, target.name, read=True)
    async with opened(spec, target.name) as stored:
        async for _ in stored.read(0, stored.size):
            break
    touching = [seen for seen in fake.seen if seen.method != "DELETE"]
    assert {seen.method for seen in touching} >= {"HEAD", "PUT", "GET"}
    for seen in touching:
        found = {name.lower(): value for name, value in seen.headers.items()}
        assert has(found, CUSTOMER_HEADERS), seen.method
        assert CUSTOMER_HEADERS[f"{CUSTOMER}key"] not in str(seen.query)


async def test_locked_parts_carry_their_checksum(
    fake: Between, asking: DestinationSpec, target: Target
) -> None:
    await deliver(msgspec.structs.replace(asking, legal_hold=True), target)
    sent = [found.get("content-md5") for found in headers_of(fake, "PUT", "partNumber")]
    digests = [hashlib.md5(piece).digest() for piece in PIECES]  # noqa: S324  # S3's own
    assert sent == [base64.b64encode(digest).decode() for digest in digests]

"""What S3 stores forget of what they were asked at an object's creation is set afterwards."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import datetime

import msgspec
import pytest

from pipeline.destinations import probe
from pipeline.destinations.s3_afterwards import make_good
from pipeline.destinations.s3_client import S3Client
from pipeline.destinations.s3_multipart import OWNER
from pipeline.destinations.s3_object import StandingObject, standing_of
from pipeline.errors import VerificationError
from pipeline.messages import DestinationSpec, Target
from tests.peers.s3_between import ERROR, HEAD, Between, operation
from tests.peers.s3_recorder import (
    LOCKS,
    PIECES,
    TAGS,
    Way,
    asking_of,
    deliver,
    deliver_whole,
    headers_of,
    recording,
)

WAYS = pytest.mark.parametrize("way", [deliver, deliver_whole], ids=["parts", "whole"])


@pytest.fixture
def target() -> Target:
    upload = str(uuid.uuid4())
    size = sum(map(len, PIECES))
    return Target(upload=upload, name=f"{upload}/x", size=size, study="a study")


@pytest.fixture
async def fake(target: Target) -> AsyncIterator[Between]:
    async with recording(target) as server:
        yield server


@pytest.fixture
def asking(fake: Between) -> DestinationSpec:
    return asking_of(fake)


async def test_tags_that_a_store_forgets_are_set_afterwards(
    fake: Between, asking: DestinationSpec, target: Target
) -> None:
    fake.strip(HEAD, "x-amz-tagging-count")
    tagging = operation("PUT", query="tagging")
    fake.answer(tagging, 200)
    await deliver(msgspec.structs.replace(asking, tags=(("a", "{upload}"),)), target)
    assert len(headers_of(fake, "PUT", "tagging")) == 1


async def test_a_store_that_answers_for_its_tags_with_the_object_is_not_told_any(
    fake: Between, asking: DestinationSpec, target: Target
) -> None:
    fake.strip(HEAD, "x-amz-tagging-count")
    fake.answer(TAGS, 206, "x", ahead=True)
    await deliver(msgspec.structs.replace(asking, tags=(("a", "{upload}"),)), target)
    assert headers_of(fake, "GET", "tagging")
    assert headers_of(fake, "PUT", "tagging") == []


async def test_an_object_that_its_tags_replaced_is_not_stored(
    fake: Between, asking: DestinationSpec, target: Target
) -> None:
    fake.answer(operation("PUT", query="tagging"), 200, ahead=True)
    before = standing_of({"ContentLength": target.size, "ETag": '"whole"'})
    client = S3Client(msgspec.structs.replace(asking, tags=(("a", "b"),)))

    async def look() -> StandingObject:
        return before._replace(size=9, etag="another")

    try:
        with pytest.raises(VerificationError, match="replaced"):
            await make_good(client, target, before, look)
    finally:
        await client.aclose()


FORGOTTEN = (
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-object-lock-legal-hold",
)


@WAYS
async def test_a_lock_that_a_store_forgets_is_set_afterwards(
    way: Way, fake: Between, asking: DestinationSpec, target: Target
) -> None:
    for header in FORGOTTEN:
        fake.strip(HEAD, header)
    fake.answer(operation("PUT", query="retention"), 200)
    fake.answer(operation("PUT", query="legal-hold"), 200)
    locked = msgspec.structs.replace(asking, lock_mode="COMPLIANCE", lock_days=3, legal_hold=True)
    await way(locked, target)
    assert len(headers_of(fake, "PUT", "retention")) == 1
    assert len(headers_of(fake, "PUT", "legal-hold")) == 1


async def test_a_lock_that_counts_from_the_beginning_is_written_beside_the_object(
    fake: Between, asking: DestinationSpec, target: Target
) -> None:
    locked = msgspec.structs.replace(asking, lock_mode="COMPLIANCE", lock_days=3)
    await deliver(locked, target)
    for created in headers_of(fake, "POST", "uploads"):
        until = created["x-amz-object-lock-retain-until-date"]
        written = created["x-amz-meta-dropoffd-lock-until"]
        assert datetime.fromisoformat(written) == datetime.fromisoformat(until)


async def test_a_lock_that_can_not_be_seen_is_believed(
    fake: Between, asking: DestinationSpec, target: Target
) -> None:
    for header in FORGOTTEN:
        fake.strip(HEAD, header)
    fake.answer(LOCKS, 403, ERROR.format("AccessDenied"), times=2, ahead=True)
    await deliver(msgspec.structs.replace(asking, legal_hold=True), target)
    assert headers_of(fake, "PUT", "legal-hold") == []


async def test_every_version_of_a_probe_is_removed() -> None:
    async with Between() as server:
        for version in ("two", "one"):
            server.answer(HEAD, 200, headers={"x-amz-version-id": version})
        server.answer(HEAD, 404)
        server.answer(operation("DELETE"), 204, times=3)
        spec = DestinationSpec(
            name="fake", type="s3", endpoint=server.url, bucket="b", access_key="k", secret_key="s"
        )
        client = S3Client(spec)
        try:
            await probe._delete(client, "probe")
        finally:
            await client.aclose()
        removed = [seen.query.get("versionId") for seen in server.seen if seen.method == "DELETE"]
    assert removed == ["two", "one"]


async def test_a_lock_that_a_death_left_out_is_set_by_the_next_try(
    fake: Between, asking: DestinationSpec, target: Target
) -> None:
    ours = {f"x-amz-meta-{OWNER}": target.upload, "ETag": '"whole"'}
    fake.answer(HEAD, 200, "x" * target.size, times=2, headers=ours, ahead=True)
    fake.answer(operation("PUT", query="legal-hold"), 200, ahead=True)
    await deliver_whole(msgspec.structs.replace(asking, legal_hold=True), target)
    assert [seen.query for seen in fake.seen if seen.method == "PUT"] == [{"legal-hold": ""}]

"""Deliveries to ``rclone serve s3``, which counts nothing, and heeds no condition."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from daemon.workers import WorkerPool
from pipeline.destinations.probe import probed
from pipeline.errors import DestinationRefusedError
from pipeline.messages import DestinationSpec, Traits, VerifyMode
from tests.peers.deliveries import MIB, Drop, decrypted, file_of
from tests.peers.places import bucket_of
from tests.peers.rclone_s3 import RcloneS3
from tests.peers.seaweedfs import s3_client

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="module")]

SIZE = 11 * MIB + 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneS3]:
    with RcloneS3(tmp_path_factory.mktemp("rclone")) as started:
        started.make_bucket("store")
        yield started


@pytest.fixture
def spec(server: RcloneS3) -> DestinationSpec:
    return bucket_of("store", server).spec


@pytest.fixture
def data() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def source(tmp_path: Path, data: bytes) -> Iterator[int]:
    with file_of(tmp_path / "data", data) as fd:
        yield fd


def drop_of(pool: WorkerPool, spec: DestinationSpec, source: int) -> Drop:
    upload = str(uuid.uuid4())
    return Drop(pool, spec, source, upload=upload, name=f"study/{upload}/data.bin")


def stored(server: RcloneS3, drop: Drop) -> bytes:
    return (server.directory / "store" / drop.target.name).read_bytes()


@pytest.mark.parametrize("verify", ["checksum", "readback", "size"])
async def test_parts_arrive_and_what_is_claimed_was_done(
    verify: VerifyMode,
    pool: WorkerPool,
    spec: DestinationSpec,
    source: int,
    data: bytes,
    server: RcloneS3,
) -> None:
    drop = drop_of(pool, msgspec.structs.replace(spec, verify=verify), source)
    begun = await drop.begin()
    assert begun.reference.partition(":")[0] == ("md5" if verify == "checksum" else "none")
    result = await drop.finish(begun.reference, await drop.send_all(begun.reference))
    assert decrypted(stored(server, drop)) == data
    assert result.size == drop.target.size
    match result.verified:
        case "checksum":
            assert result.checksum.keys() == {"md5"}
        case "readback":
            assert verify in {"checksum", "readback"}
            assert result.checksum.keys() == {"crc64nvme"}
        case "size":
            assert verify == "size"
            assert result.checksum == {}


async def test_a_small_upload_is_proved_by_its_md5(
    pool: WorkerPool, spec: DestinationSpec, tmp_path: Path, server: RcloneS3
) -> None:
    with file_of(tmp_path / "small", b"a few bytes") as source:
        drop = drop_of(pool, spec, source)
        result = (await drop.deliver_whole()).stored
    sealed = stored(server, drop)
    assert decrypted(sealed) == b"a few bytes"
    md5 = hashlib.md5(sealed, usedforsecurity=False).hexdigest()
    assert (result.verified, result.etag) == ("checksum", md5)
    # It repeats a CRC as it was sent, without counting: that proves nothing.
    assert result.checksum == {"md5": md5}


async def test_anothers_object_is_not_replaced_though_the_store_would(
    pool: WorkerPool, spec: DestinationSpec, source: int, server: RcloneS3
) -> None:
    drop = drop_of(pool, spec, source)
    client = s3_client(server.endpoint, server.access_key, server.secret_key)
    key = {"Bucket": "store", "Key": drop.target.name}
    client.put_object(**key, Body=b"theirs")
    with pytest.raises(DestinationRefusedError, match="left as it is"):
        await drop.begin()
    client.delete_object(**key)
    begun = await drop.begin()
    parts = await drop.send_all(begun.reference)
    client.put_object(**key, Body=b"theirs")
    with pytest.raises(DestinationRefusedError, match="left as it is"):
        await drop.finish(begun.reference, parts)
    assert client.get_object(**key)["Body"].read() == b"theirs"
    await drop.abort(begun.reference)


async def test_held_parts_are_listed_and_proved(
    pool: WorkerPool, spec: DestinationSpec, source: int, data: bytes, server: RcloneS3
) -> None:
    drop = drop_of(pool, spec, source)
    begun = await drop.begin()
    first = await drop.send(begun.reference, drop.spans[0])
    held = (await drop.begin(begun.reference)).held
    assert held is not None
    assert [(part.number, part.size, part.etag) for part in held] == [(1, first.size, first.etag)]
    assert await drop.prove(begun.reference, drop.spans[0], held[0]) == first
    rest = [await drop.send(begun.reference, span) for span in drop.spans[1:]]
    await drop.finish(begun.reference, [first, *rest])
    assert decrypted(stored(server, drop)) == data


async def test_a_probe_tells_that_the_store_heeds_no_condition(spec: DestinationSpec) -> None:
    found = await probed(spec, uuid.uuid4().hex)
    assert found.proof == "md5"
    assert found.traits == Traits(counts=False, conditional=False)


@pytest.mark.parametrize("whole", [False, True], ids=["parts", "whole"])
async def test_tags_that_the_store_does_not_know_do_not_replace_the_object(
    whole: bool,  # noqa: FBT001  # a parameter of the test
    pool: WorkerPool,
    spec: DestinationSpec,
    source: int,
    data: bytes,
    server: RcloneS3,
) -> None:
    drop = drop_of(pool, msgspec.structs.replace(spec, tags=(("a", "b"),)), source)
    await (drop.deliver_whole() if whole else drop.deliver())
    assert decrypted(stored(server, drop)) == data


async def test_a_probe_tells_that_the_store_keeps_no_tags(spec: DestinationSpec) -> None:
    found = await probed(msgspec.structs.replace(spec, tags=(("a", "b"),)), uuid.uuid4().hex)
    assert found.lacks == ["the store keeps no tags"]


@pytest.mark.parametrize("whole", [False, True], ids=["parts", "whole"])
async def test_a_lock_that_the_store_only_repeats_is_refused(
    whole: bool,  # noqa: FBT001  # a parameter of the test
    pool: WorkerPool,
    spec: DestinationSpec,
    source: int,
    server: RcloneS3,
) -> None:
    locked = msgspec.structs.replace(spec, lock_mode="COMPLIANCE", lock_days=1)
    drop = drop_of(pool, locked, source)
    with pytest.raises(DestinationRefusedError, match="keeps no locks"):
        await (drop.deliver_whole() if whole else drop.deliver())
    assert not (server.directory / "store" / drop.target.name).exists()

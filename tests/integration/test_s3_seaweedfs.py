"""Deliveries to a SeaweedFS, which counts CRC-64/NVME and heeds conditions."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from botocore.exceptions import ClientError

from daemon.workers import WorkerPool
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    ForgottenError,
    SourceChangedError,
    VerificationError,
    WorkerLostError,
)
from pipeline.messages import DestinationSpec, EnvelopeFormat, VerifyMode
from tests.peers.deliveries import MIB, Drop, decrypted, file_of
from tests.peers.places import BUCKET, bucket_of
from tests.peers.seaweedfs import Weed, free_ports

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="module")]

SEGMENT = 65536
Make = Callable[..., Drop]


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[WorkerPool]:
    async with WorkerPool(2) as started:
        yield started


@pytest.fixture
def spec(weed: Weed) -> DestinationSpec:
    return bucket_of("store", weed).spec


@pytest.fixture
def drop(pool: WorkerPool, spec: DestinationSpec, tmp_path: Path) -> Iterator[Make]:
    """Makes an upload of the given bytes, under a key of its own."""
    with ExitStack() as stack:

        def make(
            data: bytes,
            *,
            upload: str = "",
            key: str = "",
            destination: DestinationSpec = spec,
            envelope: EnvelopeFormat = "crypt4gh",
        ) -> Drop:
            upload = upload or str(uuid.uuid4())
            return Drop(
                pool,
                destination,
                stack.enter_context(file_of(tmp_path / str(uuid.uuid4()), data)),
                upload=upload,
                name=key or f"study/{upload}/a name+ü?.bin",
                envelope=envelope,
            )

        yield make


def stored(weed: Weed, drop: Drop) -> bytes:
    answer = weed.client().get_object(Bucket=BUCKET, Key=drop.target.name)
    data: bytes = answer["Body"].read()
    return data


def unfinished(weed: Weed, drop: Drop) -> list[str]:
    answer = weed.client().list_multipart_uploads(Bucket=BUCKET, Prefix=drop.target.name)
    return [found["UploadId"] for found in answer.get("Uploads", ())]


def put_foreign(weed: Weed, drop: Drop) -> None:
    weed.client().put_object(Bucket=BUCKET, Key=drop.target.name, Body=b"theirs")


# All sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("envelope", ["crypt4gh", "none"])
@pytest.mark.parametrize(
    "size", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 17]
)
async def test_a_small_upload_arrives_in_one_request(
    size: int, envelope: EnvelopeFormat, drop: Make, weed: Weed
) -> None:
    data = os.urandom(size)
    upload = drop(data, envelope=envelope)
    result = await upload.deliver_whole()
    assert result.digest == hashlib.sha256(data).hexdigest()
    assert result.stored.verified == "checksum"
    assert result.stored.checksum == {"md5": result.stored.etag}
    sealed = stored(weed, upload)
    assert (decrypted(sealed) if envelope == "crypt4gh" else sealed) == data


@pytest.mark.parametrize("verify", ["checksum", "readback", "size"])
@pytest.mark.parametrize(
    "size", [5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 10 * MIB, 10 * MIB + SEGMENT + 1, 12 * MIB + 5]
)
async def test_an_upload_in_parts_arrives(
    size: int, verify: VerifyMode, drop: Make, spec: DestinationSpec, weed: Weed
) -> None:
    data = os.urandom(size)
    upload = drop(data, destination=msgspec.structs.replace(spec, verify=verify))
    result = await upload.deliver()
    assert result.verified == verify
    assert result.size == upload.target.size
    assert result.uri == f"s3://{BUCKET}/{upload.target.name}"
    assert decrypted(stored(weed, upload)) == data
    assert unfinished(weed, upload) == []


# Going on -------------------------------------------------------------------------------------


async def test_a_delivery_goes_on_with_the_parts_that_are_there(drop: Make, weed: Weed) -> None:
    data = os.urandom(15 * MIB + 5)
    upload = drop(data)
    begun = await upload.begin()
    first = await upload.send(begun.reference, upload.spans[0])
    third = await upload.send(begun.reference, upload.spans[2])
    again = await upload.begin(begun.reference)
    assert again.held is not None
    assert [(part.number, part.size, part.etag) for part in again.held] == [
        (part.number, part.size, part.etag) for part in (first, third)
    ]
    rest = [await upload.send(begun.reference, upload.spans[number]) for number in (1, 3)]
    parts = sorted([first, third, *rest], key=lambda part: part.number)
    await upload.finish(begun.reference, parts)
    assert decrypted(stored(weed, upload)) == data


async def test_a_part_sent_twice_is_one_part(drop: Make, weed: Weed) -> None:
    data = os.urandom(6 * MIB)
    upload = drop(data)
    begun = await upload.begin()
    once = await upload.send_all(begun.reference)
    assert await upload.send_all(begun.reference) == once
    await upload.finish(begun.reference, once)
    assert decrypted(stored(weed, upload)) == data


async def test_a_part_whose_answer_was_lost_is_proved_and_not_sent_again(drop: Make) -> None:
    upload = drop(os.urandom(6 * MIB))
    begun = await upload.begin()
    sent = await upload.send(begun.reference, upload.spans[0])
    held = (await upload.begin(begun.reference)).held
    assert held
    assert await upload.prove(begun.reference, upload.spans[0], held[0]) == sent
    other = msgspec.structs.replace(held[0], etag="0" * 32)
    assert await upload.prove(begun.reference, upload.spans[0], other) is None
    assert await upload.prove(begun.reference, upload.spans[1], held[0]) is None


async def test_parts_of_more_than_one_page_are_all_listed(drop: Make, weed: Weed) -> None:
    upload = drop(os.urandom(10))
    begun = await upload.begin()
    client = weed.client()
    for number in range(1, 1003):
        client.upload_part(
            Bucket=BUCKET,
            Key=upload.target.name,
            UploadId=begun.reference.partition(":")[2],
            PartNumber=number,
            Body=b"x",
        )
    held = (await upload.begin(begun.reference)).held
    assert held is not None
    assert [part.number for part in held] == list(range(1, 1003))
    await upload.abort(begun.reference)


async def test_finishing_twice_is_finishing_once(drop: Make) -> None:
    upload = drop(os.urandom(6 * MIB))
    begun = await upload.begin()
    parts = await upload.send_all(begun.reference)
    first = await upload.finish(begun.reference, parts)
    assert await upload.finish(begun.reference, parts) == first
    assert (await upload.begin(begun.reference)).finished


async def test_a_whole_upload_sent_twice_is_one_object(drop: Make) -> None:
    upload = drop(b"some bytes")
    first = await upload.deliver_whole()
    assert await upload.deliver_whole(stale=True) == first


async def test_a_forgotten_upload_is_told(drop: Make) -> None:
    upload = drop(os.urandom(6 * MIB))
    begun = await upload.begin()
    parts = await upload.send_all(begun.reference)
    await upload.abort(begun.reference)
    with pytest.raises(ForgottenError):
        await upload.begin(begun.reference)
    with pytest.raises(ForgottenError):
        await upload.send(begun.reference, upload.spans[0])
    with pytest.raises(ForgottenError):
        await upload.finish(begun.reference, parts)


# Cleaning up ----------------------------------------------------------------------------------


async def test_an_abort_leaves_nothing_and_may_be_repeated(drop: Make, weed: Weed) -> None:
    upload = drop(os.urandom(6 * MIB))
    begun = await upload.begin()
    await upload.send(begun.reference, upload.spans[0])
    await upload.abort(begun.reference)
    await upload.abort(begun.reference)
    assert unfinished(weed, upload) == []


async def test_an_abort_of_what_nobody_knows_the_reference_of_takes_all_of_the_upload(
    drop: Make, weed: Weed
) -> None:
    upload = drop(os.urandom(6 * MIB))
    neighbour = drop(b"x", upload=upload.target.upload, key=upload.target.name + ".more")
    kept = await neighbour.begin()
    for _ in range(2):
        await upload.begin()
    await upload.abort("")
    await upload.abort("")
    assert unfinished(weed, upload) == [kept.reference.partition(":")[2]]
    await neighbour.abort(kept.reference)


async def test_a_new_try_removes_what_an_earlier_one_left(drop: Make, weed: Weed) -> None:
    upload = drop(os.urandom(6 * MIB))
    neighbour = drop(b"x", upload=upload.target.upload, key=upload.target.name + ".more")
    await upload.begin()
    kept = await neighbour.begin()
    begun = await upload.begin(stale=True)
    mine = [begun.reference.partition(":")[2]]
    assert sorted(unfinished(weed, upload)) == sorted([*mine, kept.reference.partition(":")[2]])
    await upload.abort(begun.reference)
    await neighbour.abort(kept.reference)


async def test_what_a_dead_workers_late_request_began_is_removed_at_the_end(
    drop: Make, weed: Weed
) -> None:
    upload = drop(os.urandom(6 * MIB))
    begun = await upload.begin(stale=True)
    await upload.begin()
    parts = await upload.send_all(begun.reference)
    await upload.finish(begun.reference, parts, stale=True)
    assert unfinished(weed, upload) == []


async def test_unfinished_uploads_of_others_under_a_shared_key_are_left(
    drop: Make, weed: Weed
) -> None:
    upload = drop(os.urandom(10), key=f"shared/{uuid.uuid4()}")
    theirs = await upload.begin()
    begun = await upload.begin(stale=True)
    assert len(unfinished(weed, upload)) == 2
    await upload.abort(begun.reference)
    await upload.abort(theirs.reference)


async def test_an_object_of_ours_that_nobody_remembers_makes_way(drop: Make, weed: Weed) -> None:
    old = drop(os.urandom(6 * MIB))
    await old.deliver()
    data = os.urandom(6 * MIB)
    new = drop(data, upload=old.target.upload, key=old.target.name)
    await new.deliver()
    assert decrypted(stored(weed, new)) == data


# Another's object -----------------------------------------------------------------------------


async def test_anothers_object_is_never_replaced(drop: Make, weed: Weed) -> None:
    small, large = drop(b"ours"), drop(os.urandom(6 * MIB))
    for upload in (small, large):
        put_foreign(weed, upload)
    with pytest.raises(DestinationRefusedError, match="left as it is"):
        await small.deliver_whole(stale=True)
    with pytest.raises(DestinationRefusedError, match="left as it is"):
        await large.begin(stale=True)
    assert stored(weed, small) == stored(weed, large) == b"theirs"


async def test_an_object_that_comes_up_meanwhile_is_not_replaced(drop: Make, weed: Weed) -> None:
    upload = drop(os.urandom(6 * MIB))
    begun = await upload.begin()
    parts = await upload.send_all(begun.reference)
    put_foreign(weed, upload)
    with pytest.raises(DestinationRefusedError, match="left as it is"):
        await upload.finish(begun.reference, parts)
    assert stored(weed, upload) == b"theirs"


# Wrong bytes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["checksum", "readback"])
async def test_a_part_with_other_bytes_is_noticed(
    verify: VerifyMode, drop: Make, spec: DestinationSpec, weed: Weed
) -> None:
    upload = drop(os.urandom(6 * MIB), destination=msgspec.structs.replace(spec, verify=verify))
    begun = await upload.begin()
    parts = await upload.send_all(begun.reference)
    answer = weed.client().upload_part(
        Bucket=BUCKET,
        Key=upload.target.name,
        UploadId=begun.reference.partition(":")[2],
        PartNumber=2,
        Body=b"y" * parts[1].size,
    )
    parts[1] = msgspec.structs.replace(parts[1], etag=answer["ETag"].strip('"'))
    with pytest.raises(VerificationError):
        await upload.finish(begun.reference, parts)
    with pytest.raises(ClientError, match="NoSuchKey"):
        stored(weed, upload)


async def test_a_source_that_shrinks_sends_no_short_part(drop: Make) -> None:
    upload = drop(os.urandom(6 * MIB))
    begun = await upload.begin()
    os.truncate(f"/proc/self/fd/{upload._source}", 6 * MIB - 1)
    with pytest.raises(SourceChangedError):
        await upload.send(begun.reference, upload.spans[1])
    assert (await upload.begin(begun.reference)).held == ()
    await upload.abort(begun.reference)


# Refused, and away ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [{"access_key": "nobody"}, {"secret_key": "wrong"}, {"bucket": "no-such-bucket"}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_a_refusal_is_told_without_secrets(
    wrong: dict[str, str], drop: Make, spec: DestinationSpec
) -> None:
    spec = msgspec.structs.replace(spec, **wrong)
    small, large = drop(b"x", destination=spec), drop(os.urandom(6 * MIB), destination=spec)
    with pytest.raises(DestinationRefusedError) as of_small:
        await small.deliver_whole()
    with pytest.raises(DestinationRefusedError) as of_large:
        await large.begin()
    for caught in (of_small, of_large):
        assert spec.secret_key not in str(caught.value)
        assert "Signature=" not in str(caught.value)


async def test_a_closed_port_is_unreachable(drop: Make, spec: DestinationSpec) -> None:
    (port,) = free_ports(1)
    away = msgspec.structs.replace(spec, endpoint=f"http://127.0.0.1:{port}")
    with pytest.raises(DestinationUnreachableError):
        await drop(b"x", destination=away).deliver_whole()
    upload = drop(os.urandom(6 * MIB))
    begun = await upload.begin()
    upload.destination = away
    with pytest.raises(DestinationUnreachableError) as caught:
        await upload.send(begun.reference, upload.spans[0])
    assert "Signature" not in str(caught.value)
    upload.destination = spec
    await upload.abort(begun.reference)


async def test_an_upload_survives_the_death_of_its_workers(
    drop: Make, pool: WorkerPool, weed: Weed
) -> None:
    data = os.urandom(40 * MIB)
    upload = drop(data)
    begun = await upload.begin()
    sending = [asyncio.create_task(upload.send(begun.reference, span)) for span in upload.spans]
    await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    done = await asyncio.gather(*sending, return_exceptions=True)
    assert any(isinstance(result, WorkerLostError) for result in done)
    again = await upload.begin(begun.reference)
    assert again.held is not None
    held = {part.number: part for part in again.held}
    parts = []
    for span in upload.spans:
        part = None
        if span.number in held:
            part = await upload.prove(begun.reference, span, held[span.number])
        parts.append(part or await upload.send(begun.reference, span))
    await upload.finish(begun.reference, parts)
    assert decrypted(stored(weed, upload)) == data

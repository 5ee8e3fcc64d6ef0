"""What an S3 store may answer, or fail to answer, at the worst moment."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from aiohttp import web

from pipeline.destinations.base import PartPlace
from pipeline.destinations.s3 import S3Destination
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    ForgottenError,
    VerificationError,
)
from pipeline.messages import DestinationSpec, StoredObject, StoredPart, Target, Traits
from tests.peers.deliveries import MIB, BytesBody
from tests.peers.s3_between import COMPLETE, CREATE, ERROR, PARTS, PUT, Between, Meets, operation
from tests.peers.seaweedfs import Weed

pytestmark = pytest.mark.peers

BUCKET = "store"
PIECES = [os.urandom(5 * MIB), os.urandom(100)]

PART = operation("PUT", query="partNumber=2")


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
async def between(weed: Weed) -> AsyncIterator[Between]:
    async with Between(weed.endpoint) as spoiler:
        yield spoiler


@pytest.fixture
async def store(between: Between, weed: Weed) -> AsyncIterator[S3Destination]:
    destination = S3Destination(
        DestinationSpec(
            name="store",
            type="s3",
            endpoint=between.url,
            bucket=BUCKET,
            access_key=weed.access_key,
            secret_key=weed.secret_key,
        )
    )
    yield destination
    await destination.aclose()


@pytest.fixture
def target() -> Target:
    upload = str(uuid.uuid4())
    return Target(upload=upload, name=f"{upload}/x", size=sum(map(len, PIECES)))


def unfinished(weed: Weed, target: Target) -> int:
    found = weed.client().list_multipart_uploads(Bucket=BUCKET, Prefix=target.name)
    return len(found.get("Uploads", ()))


async def send(store: S3Destination, target: Target, reference: str) -> list[StoredPart]:
    return [
        await store.put_part(
            target,
            reference,
            PartPlace(number=number, offset=0, size=len(piece)),
            BytesBody(piece),
        )
        for number, piece in enumerate(PIECES, 1)
    ]


async def deliver(store: S3Destination, target: Target, *, stale: bool = False) -> StoredObject:
    reference = await store.begin(target, stale=stale)
    return await store.finish(target, reference, await send(store, target, reference))


def check(weed: Weed, target: Target, stored: StoredObject) -> None:
    answer = weed.client().get_object(Bucket=BUCKET, Key=target.name)
    assert answer["Body"].read() == b"".join(PIECES)
    assert (stored.size, stored.verified) == (target.size, "checksum")
    assert unfinished(weed, target) == 0


@pytest.mark.parametrize("meets", [CREATE, PART, COMPLETE], ids=["create", "part", "complete"])
@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "SlowDown"), (500, "InternalError"), (429, ""), (408, "RequestTimeout"), (502, "")],
)
async def test_short_disturbances_are_waited_out(
    status: int,
    code: str,
    meets: Meets,
    between: Between,
    store: S3Destination,
    target: Target,
    weed: Weed,
) -> None:
    between.answer(meets, status, ERROR.format(code) if code else "<html>no S3</html>", times=2)
    check(weed, target, await deliver(store, target))
    assert between.spoiled == 2


@pytest.mark.parametrize("meets", [CREATE, PART, COMPLETE], ids=["create", "part", "complete"])
async def test_a_lost_answer_costs_nothing(
    meets: Meets, between: Between, store: S3Destination, target: Target, weed: Weed
) -> None:
    between.lose(meets)
    check(weed, target, await deliver(store, target))
    assert between.spoiled == 1


async def test_a_complete_whose_answers_are_all_lost_is_found_done(
    between: Between, store: S3Destination, target: Target, weed: Weed
) -> None:
    between.lose(COMPLETE, times=10)
    check(weed, target, await deliver(store, target))


async def test_an_error_inside_a_good_answer_is_an_error(
    between: Between, store: S3Destination, target: Target, weed: Weed
) -> None:
    between.answer(COMPLETE, 200, ERROR.format("InternalError"))
    check(weed, target, await deliver(store, target))
    assert between.spoiled == 1


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "BadDigest", VerificationError),
        (400, "InvalidPart", ForgottenError),
        (404, "NoSuchUpload", ForgottenError),
        (409, "ConditionalRequestConflict", ForgottenError),
        (403, "AccessDenied", DestinationRefusedError),
        (403, "QuotaExceeded", DestinationRefusedError),
        (403, "RequestTimeTooSkewed", DestinationUnreachableError),
        (307, "TemporaryRedirect", DestinationRefusedError),
    ],
)
async def test_what_complete_may_answer(
    status: int,
    code: str,
    expected: type[Exception],
    between: Between,
    store: S3Destination,
    target: Target,
) -> None:
    between.answer(COMPLETE, status, ERROR.format(code), times=10)
    with pytest.raises(expected) as caught:
        await deliver(store, target)
    assert type(caught.value) is expected
    assert code in str(caught.value)


async def test_a_store_that_stays_down_is_unreachable(
    between: Between, store: S3Destination, target: Target
) -> None:
    reference = await store.begin(target, stale=False)
    between.answer(PART, 503, ERROR.format("SlowDown"), times=100)
    with pytest.raises(DestinationUnreachableError, match="503 SlowDown"):
        await send(store, target, reference)
    assert 2 <= between.spoiled <= 8


async def test_a_store_that_knows_no_checksums_is_proved_by_etags(
    between: Between, store: S3Destination, target: Target, weed: Weed
) -> None:
    between.answer(CREATE, 501, ERROR.format("NotImplemented"))
    stored = await deliver(store, target)
    check(weed, target, stored)
    assert stored.checksum == {"md5": stored.etag}


def without_sum(request: web.BaseRequest) -> bool:
    sums = ("x-amz-checksum-crc64nvme", "Content-MD5")
    return PARTS(request) and not any(name in request.headers for name in sums)


async def test_a_store_that_wants_checksums_sent_along_gets_them(
    between: Between, store: S3Destination, target: Target, weed: Weed
) -> None:
    between.answer(without_sum, 400, ERROR.format("InvalidRequest"), times=100)
    stored = await deliver(store, target)
    check(weed, target, stored)
    assert list(stored.checksum) == ["crc64nvme"]
    assert store.traits == Traits(counts=True, insists=True)


async def test_a_store_that_wants_checksums_sent_along_is_told_them_again_at_the_end(
    between: Between, store: S3Destination, target: Target
) -> None:
    between.answer(without_sum, 400, ERROR.format("InvalidRequest"), times=100)
    stored = await deliver(store, target)
    parts = between.posted[-1]
    assert parts.count(b"<Part>") == len(PIECES)
    assert parts.count(b"<ChecksumCRC64NVME>") == len(PIECES)
    assert list(stored.checksum) == ["crc64nvme"]


async def test_a_store_that_only_wants_md5_sent_along_gets_that(
    between: Between, store: S3Destination, target: Target, weed: Weed
) -> None:
    between.answer(without_sum, 400, ERROR.format("InvalidRequest"), times=100)
    between.answer(
        lambda request: "x-amz-checksum-crc64nvme" in request.headers and PARTS(request),
        400,
        ERROR.format("InvalidRequest"),
        times=100,
    )
    stored = await deliver(store, target)
    check(weed, target, stored)
    assert stored.checksum == {"md5": stored.etag}
    assert store.traits == Traits(counts=False, insists=True)


async def test_a_store_that_was_known_to_count_and_no_longer_does_starts_over(
    between: Between, store: S3Destination, target: Target, weed: Weed
) -> None:
    store.remember(Traits(counts=True))
    between.strip(PARTS, "x-amz-checksum-crc64nvme")
    with pytest.raises(ForgottenError):
        await deliver(store, target)
    stored = await deliver(store, target, stale=True)
    check(weed, target, stored)
    assert stored.checksum == {"md5": stored.etag}


async def test_a_small_object_whose_answer_was_lost_is_found(
    between: Between, store: S3Destination, target: Target, weed: Weed
) -> None:
    between.lose(PUT)
    stored = await store.put(target, BytesBody(b"".join(PIECES)), stale=False)
    check(weed, target, stored)
    assert between.spoiled == 1


async def test_the_first_try_of_a_small_object_is_one_request(
    between: Between, store: S3Destination, target: Target, weed: Weed
) -> None:
    between.answer(operation("HEAD"), 500)
    stored = await store.put(target, BytesBody(b"".join(PIECES)), stale=False)
    assert between.spoiled == 0
    check(weed, target, stored)


async def test_whoever_may_not_list_may_still_deliver(
    between: Between, store: S3Destination, target: Target, weed: Weed
) -> None:
    between.answer(operation("HEAD"), 403)
    stored = await store.put(target, BytesBody(b"".join(PIECES)), stale=True)
    check(weed, target, stored)
    assert between.spoiled == 1


async def test_errors_are_short_printable_and_show_no_signature(
    between: Between, store: S3Destination, target: Target
) -> None:
    reference = await store.begin(target, stale=False)
    between.answer(PART, 403, ERROR.format("Evil\n\x1b[31m" + "x" * 5000), times=10)
    with pytest.raises(DestinationRefusedError) as caught:
        await send(store, target, reference)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 600
    assert "Signature" not in text


async def test_a_store_behind_an_address_that_is_none_is_refused(target: Target) -> None:
    spec = DestinationSpec(name="x", type="s3", endpoint="no address", bucket=BUCKET)
    for wrong in (spec, msgspec.structs.replace(spec, endpoint="http://127.0.0.1:1", bucket="a b")):
        store = S3Destination(wrong)
        with pytest.raises(DestinationRefusedError):
            await store.begin(target, stale=False)
        await store.aclose()

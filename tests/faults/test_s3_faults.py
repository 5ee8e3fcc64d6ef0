"""An S3 store that fails in every way, at the worst moment: the delivery ends right, or says why.

The upload is real, the journal and the store are, and the fault is made between us and the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from pipeline.messages import DestinationSpec, VerifyMode
from tests.peers import faulty
from tests.peers.conveying import Line, LocalWorkers, grow, line, shrink, swap
from tests.peers.deliveries import MIB
from tests.peers.faulty import FaultyHttp, Meets, Spoil, s3_error
from tests.peers.faulty_tcp import FaultyTcp
from tests.peers.hasty import make_hasty
from tests.peers.oracle import Failing
from tests.peers.places import Bucket, seaweedfs

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]

SIZE = 10 * MIB + 1
"""Three parts, and no second more than that takes."""


def operation(method: str, query: str = "") -> Meets:
    def meets(request: web.BaseRequest) -> bool:
        return request.method == method and query in request.query_string

    return meets


PART = operation("PUT", "partNumber=2&")
CREATE = operation("POST", "uploads")
COMPLETE = operation("POST", "uploadId=")
READ = operation("GET")

PASSING: dict[str, tuple[Meets, Spoil]] = {
    "reset in the body": (PART, faulty.reset_in_body()),
    "stall in the body": (PART, faulty.stall_in_body()),
    "no answer to a part": (PART, faulty.silent_after_body()),
    "500 after the last byte": (PART, faulty.answer(500)),
    "500 though it is done": (PART, faulty.done_but(500)),
    "503 SlowDown with Retry-After": (PART, s3_error(503, "SlowDown", Retry_After="1")),
    "429 with Retry-After": (PART, s3_error(429, "TooManyRequests", Retry_After="1")),
    "403 ExpiredToken": (PART, s3_error(403, "ExpiredToken")),
    "wrong ETag": (PART, faulty.other_header("ETag", '"0123456789abcdef0123456789abcdef"')),
    "wrong checksum header": (
        PART,
        faulty.other_header("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
    ),
    "another byte stored": (PART, faulty.other_byte_stored()),
    "a part that the store lost": (PART, faulty.swallow()),
    "a body in drips": (PART, faulty.slow_body()),
    "no answer to create": (CREATE, faulty.silent_after_body()),
    "expired at create": (CREATE, s3_error(403, "ExpiredToken")),
    "half an answer to create": (CREATE, faulty.half_answer()),
    "200 with an Error": (COMPLETE, s3_error(200, "InternalError")),
    "InvalidPart": (COMPLETE, s3_error(400, "InvalidPart")),
    "500 to a done complete": (COMPLETE, faulty.done_but(500)),
    "no answer to complete": (COMPLETE, faulty.silent_after_body()),
    "half an answer to complete": (COMPLETE, faulty.half_answer()),
    "an answer to complete in drips": (COMPLETE, faulty.slow_answer()),
    "lost answer to complete": (COMPLETE, faulty.lost_answer()),
    "429 at complete": (COMPLETE, s3_error(429, "TooManyRequests")),
    "SlowDown at complete": (COMPLETE, s3_error(503, "SlowDown", Retry_After="1")),
}
"""What happens once, and must not be seen in the end."""

CHANGES_AT = ("reset in the body", "500 though it is done", "wrong checksum header", "InvalidPart")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bucket(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bucket]:
    async with seaweedfs(tmp_path_factory.mktemp("weed")) as place:
        assert isinstance(place, Bucket)
        yield place


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(bucket: Bucket) -> AsyncIterator[FaultyHttp]:
    async with FaultyHttp(bucket.spec.endpoint) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def conveyor(
    bucket: Bucket, proxy: FaultyHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Line]:
    make_hasty(monkeypatch)
    async with to(bucket.spec, proxy.url, tmp_path) as made:
        yield made


@asynccontextmanager
async def to(
    spec: DestinationSpec, url: str, directory: Path, verify: VerifyMode = "checksum"
) -> AsyncIterator[Line]:
    """A line to that bucket, by way of ``url``."""
    spec = msgspec.structs.replace(spec, endpoint=url, verify=verify)
    async with LocalWorkers() as workers, line(directory, workers, spec) as made:
        yield made


async def begun_of(bucket: Bucket, upload: str) -> list[str]:
    return [found for found in await bucket.files() if upload in found]


@pytest.mark.parametrize("fault", PASSING)
async def test_what_happens_once_is_not_seen_in_the_end(
    fault: str, conveyor: Line, bucket: Bucket, proxy: FaultyHttp
) -> None:
    proxy.spoil(*PASSING[fault])
    await conveyor.judged(bucket, await conveyor.receive(SIZE))
    assert proxy.made == 1


async def test_a_store_that_takes_no_connections_for_a_while(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_hasty(monkeypatch)
    host, port = bucket.spec.endpoint.removeprefix("http://").split(":")
    async with (
        FaultyTcp(host, int(port)) as proxy,
        to(bucket.spec, f"http://127.0.0.1:{proxy.port}", tmp_path) as conveyor,
    ):
        upload = await conveyor.receive(SIZE)
        async with conveyor.running():
            while not await conveyor.journal.parts(upload, 0):  # noqa: ASYNC110  # has no event
                await asyncio.sleep(0.005)
            await proxy.refuse()
            await asyncio.sleep(1)
            await proxy.listen()
            await conveyor.over(upload)
        await conveyor.judged(bucket, upload)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ((PART, faulty.other_byte_stored()), "verification_failed"),
        ((PART, s3_error(403, "AccessDenied")), "destination_refused"),
        ((COMPLETE, s3_error(403, "QuotaExceeded")), "destination_refused"),
        ((COMPLETE, s3_error(400, "BadDigest")), "verification_failed"),
    ],
    ids=["another byte", "no permission", "quota", "BadDigest"],
)
async def test_what_goes_on_is_told_and_nothing_stands_under_the_name(
    fault: tuple[Meets, Spoil], code: str, conveyor: Line, bucket: Bucket, proxy: FaultyHttp
) -> None:
    proxy.spoil(*fault, times=1000)
    upload = await conveyor.receive(SIZE)
    kept = code == "destination_refused"  # for a `retry` to go on with
    await conveyor.judged(bucket, upload, Failing(code, begun=kept))
    assert await begun_of(bucket, upload) == ([f"{upload}/f.bam.c4gh (unfinished)"] if kept else [])


@pytest.mark.parametrize("change", [grow, shrink], ids=["grows", "shrinks"])
@pytest.mark.parametrize("fault", CHANGES_AT)
async def test_a_source_that_changes_its_length_meanwhile_is_told(
    fault: str,
    change: Callable[[Path], None],
    conveyor: Line,
    bucket: Bucket,
    proxy: FaultyHttp,
) -> None:
    proxy.spoil(*PASSING[fault])
    proxy.on_fault = lambda: conveyor.change(change)
    upload = await conveyor.receive(SIZE)
    await conveyor.judged(bucket, upload, Failing("source_changed", begun=True))


@pytest.mark.parametrize("fault", CHANGES_AT)
async def test_a_source_that_is_swapped_meanwhile_starts_over_with_a_new_key(
    fault: str, conveyor: Line, bucket: Bucket, proxy: FaultyHttp
) -> None:
    proxy.spoil(*PASSING[fault])
    proxy.on_fault = lambda: conveyor.change(swap)
    await conveyor.judged(bucket, await conveyor.receive(SIZE))

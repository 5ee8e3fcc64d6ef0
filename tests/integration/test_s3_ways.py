"""The ways to S3 stores: regions, addresses, credentials, and stores that are busy."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
from aiohttp import web

from pipeline.destinations.base import PartPlace
from pipeline.destinations.s3 import S3Destination
from pipeline.destinations.s3_client import S3Client
from pipeline.errors import DestinationRefusedError, DestinationUnreachableError
from pipeline.messages import DestinationSpec, Target
from tests.peers.deliveries import BytesBody
from tests.peers.s3_between import ERROR, PARTS, PUT, Between, operation
from tests.peers.s3_recorder import PIECES, deliver
from tests.peers.seaweedfs import Weed

pytestmark = pytest.mark.peers

BUCKET = "store"
SECOND = operation("PUT", query="partNumber=2")


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
async def between(weed: Weed) -> AsyncIterator[Between]:
    async with Between(weed.endpoint) as server:
        yield server


@pytest.fixture
def spec(between: Between, weed: Weed) -> DestinationSpec:
    return DestinationSpec(
        name="store",
        type="s3",
        endpoint=between.url,
        bucket=BUCKET,
        access_key=weed.access_key,
        secret_key=weed.secret_key,
    )


@pytest.fixture
def target() -> Target:
    upload = str(uuid.uuid4())
    return Target(upload=upload, name=f"{upload}/x", size=sum(map(len, PIECES)))


class Signed(Protocol):
    """A request, or what was written down of it."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def query(self) -> Mapping[str, str]: ...


def region_of(seen: Signed) -> str:
    """That a request was signed for, in its header or its address."""
    said = seen.headers.get("Authorization", "") + seen.query.get("X-Amz-Credential", "")
    found = re.search(r"/([a-z0-9-]+)/s3/aws4_request", said)
    return found[1] if found else ""


# Regions --------------------------------------------------------------------------------------


def signed_elsewhere(request: web.BaseRequest) -> bool:
    return region_of(request) != "eu-north-7"


MALFORMED = (
    "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region is wrong</Message>"
    "<Region>eu-north-7</Region></Error>"
)


@pytest.mark.parametrize("configured", ["", "us-west-2"])
async def test_a_region_that_a_store_asks_for_is_taken(
    configured: str, between: Between, spec: DestinationSpec, target: Target
) -> None:
    between.answer(signed_elsewhere, 400, MALFORMED, times=100)
    stored = await deliver(msgspec.structs.replace(spec, region=configured), target)
    assert stored.verified == "checksum"
    assert {region_of(seen) for seen in between.seen[between.spoiled :]} == {"eu-north-7"}
    assert len([seen for seen in between.seen if "partNumber" in seen.query]) == 3


async def test_a_redirect_tells_the_region_in_its_header(
    between: Between, spec: DestinationSpec, target: Target
) -> None:
    between.answer(
        signed_elsewhere,
        301,
        ERROR.format("PermanentRedirect"),
        times=100,
        headers={"x-amz-bucket-region": "eu-north-7"},
    )
    assert (await deliver(spec, target)).verified == "checksum"


async def test_a_part_that_meets_another_region_is_sent_again(
    between: Between, spec: DestinationSpec, target: Target
) -> None:
    between.answer(
        lambda request: PARTS(request) and signed_elsewhere(request), 400, MALFORMED, times=100
    )
    assert (await deliver(spec, target)).verified == "checksum"


async def test_a_store_that_asks_for_one_region_after_the_other_is_refused(
    between: Between, spec: DestinationSpec, target: Target
) -> None:
    for number in range(100):
        body = MALFORMED.replace("eu-north-7", f"eu-north-{number}")
        between.answer(lambda _: True, 400, body)
    with pytest.raises(DestinationRefusedError, match="AuthorizationHeaderMalformed"):
        await deliver(spec, target)


# Addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "addressing", "bucket", "host", "path"),
    [
        ("https://s3.example.org", "auto", "store", "s3.example.org", "/store/a/b"),
        ("https://s3.example.org", "path", "store", "s3.example.org", "/store/a/b"),
        ("https://s3.example.org", "virtual", "store", "store.s3.example.org", "/a/b"),
        ("https://192.0.2.1:9000", "auto", "store", "192.0.2.1", "/store/a/b"),
        ("https://oss-x.aliyuncs.com", "auto", "store", "store.oss-x.aliyuncs.com", "/a/b"),
        ("https://oss-x.aliyuncs.com", "auto", "a.dot", "oss-x.aliyuncs.com", "/a.dot/a/b"),
        ("", "auto", "store", "store.s3.eu-west-1.amazonaws.com", "/a/b"),
        ("", "path", "store", "s3.eu-west-1.amazonaws.com", "/store/a/b"),
        ("", "auto", "a.dot", "s3.eu-west-1.amazonaws.com", "/a.dot/a/b"),
    ],
)
async def test_a_bucket_stands_where_the_endpoint_wants_it(
    endpoint: str, addressing: str, bucket: str, host: str, path: str
) -> None:
    spec = msgspec.convert(
        {
            "name": "store",
            "type": "s3",
            "endpoint": endpoint,
            "bucket": bucket,
            "region": "eu-west-1",
            "addressing": addressing,
            "access_key": "key",
            "secret_key": "secret",
        },
        DestinationSpec,
    )
    client = S3Client(spec)
    try:
        async with client._connections.use() as at:
            signed = await client._signed(at, "get_object", {"Key": "a/b"})
    finally:
        await client.aclose()
    assert (signed.url.host, signed.url.path) == (host, path)


@pytest.fixture
async def proxied(
    between: Between, spec: DestinationSpec, monkeypatch: pytest.MonkeyPatch
) -> DestinationSpec:
    """Everything goes to ``between`` as a proxy, so that no name has to be known."""
    monkeypatch.setenv("http_proxy", between.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return msgspec.structs.replace(spec, endpoint="http://s3.example.org")


async def test_a_store_that_wants_the_bucket_in_the_host_gets_it_there(
    between: Between, proxied: DestinationSpec, target: Target
) -> None:
    between.answer(
        lambda request: request.headers["Host"] == "s3.example.org",
        403,
        ERROR.format("SecondLevelDomainForbidden"),
        times=100,
    )
    between.answer(PUT, 200, headers={"ETag": '"e"'})
    between.answer(operation("HEAD"), 404)
    client = S3Client(proxied)
    try:
        await client.call("put_object", Key=target.name, Body=b"x")
    finally:
        await client.aclose()
    assert [seen.host for seen in between.seen] == ["s3.example.org", "store.s3.example.org"]


async def test_an_address_that_was_chosen_is_kept(
    between: Between, proxied: DestinationSpec, target: Target
) -> None:
    between.answer(lambda _: True, 403, ERROR.format("SecondLevelDomainForbidden"), times=100)
    client = S3Client(msgspec.structs.replace(proxied, addressing="path"))
    try:
        with pytest.raises(DestinationRefusedError, match='addressing = "virtual"'):
            await client.call("put_object", Key=target.name, Body=b"x")
    finally:
        await client.aclose()


# Credentials ----------------------------------------------------------------------------------


def write_keys(file: Path, access: str, secret: str) -> None:
    file.write_text(f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that AWS credentials come from."""
    file = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return file


@pytest.mark.parametrize("code", ["ExpiredToken", "TokenRefreshRequired", "RequestTimeTooSkewed"])
async def test_credentials_that_expire_between_parts_are_taken_from_the_chain_again(
    code: str, between: Between, spec: DestinationSpec, target: Target, chain: Path, weed: Weed
) -> None:
    write_keys(chain, weed.access_key, weed.secret_key)
    store = S3Destination(msgspec.structs.replace(spec, access_key="", secret_key=""))
    try:
        reference = await store.begin(target, stale=False)
        first, second = (
            (PartPlace(number=n, offset=0, size=len(piece)), BytesBody(piece))
            for n, piece in enumerate(PIECES, 1)
        )
        parts = [await store.put_part(target, reference, *first)]
        between.answer(SECOND, 403, ERROR.format(code))
        parts.append(await store.put_part(target, reference, *second))
        stored = await store.finish(target, reference, parts)
    finally:
        await store.aclose()
    assert stored.verified == "checksum"
    assert between.spoiled == 1


async def test_new_keys_in_the_credentials_file_are_used_once_the_old_ones_expired(
    between: Between, spec: DestinationSpec, target: Target, chain: Path, weed: Weed
) -> None:
    write_keys(chain, "old-key", "old-secret")
    client = S3Client(msgspec.structs.replace(spec, access_key="", secret_key=""))

    def old(request: web.BaseRequest) -> bool:
        if "old-key/" not in request.headers.get("Authorization", ""):
            return False
        write_keys(chain, weed.access_key, weed.secret_key)
        return True

    between.answer(old, 400, ERROR.format("ExpiredToken"), times=100)
    try:
        await client.call("put_object", Key=target.name, Body=b"new keys")
    finally:
        await client.aclose()
    assert between.spoiled == 1


async def test_credentials_that_cannot_be_renewed_are_an_error_that_may_pass(
    between: Between, spec: DestinationSpec, target: Target
) -> None:
    between.answer(SECOND, 403, ERROR.format("ExpiredToken"), times=100)
    with pytest.raises(DestinationUnreachableError, match="credentials have expired") as caught:
        await deliver(spec, target)
    assert caught.value.code == "destination_unreachable"
    assert not caught.value.throttled


async def test_an_address_that_was_used_too_late_is_signed_again(
    between: Between, spec: DestinationSpec, target: Target
) -> None:
    body = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    between.answer(SECOND, 403, body)
    assert (await deliver(spec, target)).verified == "checksum"


# Busy stores ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "headers", "retry_after"),
    [
        (503, ERROR.format("SlowDown"), {}, None),
        (503, ERROR.format("SlowDown"), {"Retry-After": "90"}, 90.0),
        (429, "", {"Retry-After": "7"}, 7.0),
        (503, "<html>busy</html>", {"Retry-After": "30"}, 30.0),
        (400, ERROR.format("RequestThrottled"), {}, None),
    ],
)
async def test_a_store_that_asks_to_be_sent_less_is_told_as_such(
    status: int,
    body: str,
    headers: dict[str, str],
    retry_after: float | None,
    between: Between,
    spec: DestinationSpec,
    target: Target,
) -> None:
    between.answer(SECOND, status, body, times=100, headers=headers)
    with pytest.raises(DestinationUnreachableError) as caught:
        await deliver(spec, target)
    assert (caught.value.throttled, caught.value.retry_after) == (True, retry_after)


async def test_calls_are_told_to_be_throttled_like_parts(
    between: Between, spec: DestinationSpec, target: Target
) -> None:
    between.answer(operation("HEAD"), 503, times=100, headers={"Retry-After": "90"})
    with pytest.raises(DestinationUnreachableError) as caught:
        await deliver(spec, target)
    assert (caught.value.throttled, caught.value.retry_after) == (True, 90.0)
    assert between.spoiled == 1


async def test_a_pause_that_a_store_asks_for_and_is_short_is_made(
    between: Between, spec: DestinationSpec, target: Target
) -> None:
    between.answer(SECOND, 503, ERROR.format("SlowDown"), headers={"Retry-After": "1"})
    assert (await deliver(spec, target)).verified == "checksum"


async def test_a_store_that_is_only_down_does_not_throttle(
    between: Between, spec: DestinationSpec, target: Target
) -> None:
    between.answer(SECOND, 503, ERROR.format("ServiceUnavailable"), times=100)
    with pytest.raises(DestinationUnreachableError) as caught:
        await deliver(spec, target)
    assert not caught.value.throttled

"""A small object's PUT, made by hand: it is what botocore would send."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict

from pipeline.destinations.s3_client import S3Client
from pipeline.destinations.s3_errors import StandsError
from pipeline.errors import DestinationRefusedError, DestinationUnreachableError
from pipeline.messages import DestinationSpec

OF_BOTOCORE_ALONE = {"amz-sdk-invocation-id", "amz-sdk-request"}
OF_ITS_TIME = {"authorization", "x-amz-date"}
OF_THE_PROGRAM = {"user-agent"}
EVERYTHING: dict[str, object] = {
    "IfNoneMatch": "*",
    "Metadata": {"dropoffd-upload": "u1", "dropoffd-lock-until": "2030-01-02T03:04:05+00:00"},
    "ChecksumCRC64NVME": "AAAAAAAAAAA=",
    "ContentMD5": "jXd/OF09/siBXSD3SWAm3A==",
    "ServerSideEncryption": "aws:kms",
    "SSEKMSKeyId": "some-key",
    "StorageClass": "GLACIER_IR",
    "Tagging": "kind=raw+data&study=%C3%BC",
    "ObjectLockMode": "GOVERNANCE",
    "ObjectLockRetainUntilDate": datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
    "ObjectLockLegalHoldStatus": "ON",
}


class Store:
    """Keeps what it is asked, and answers as it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes, CIMultiDict[str]]] = []
        self.status = 200
        self.answer = b""
        self.headers: dict[str, str] = {}

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.seen.append((request.method, request.raw_path, body, CIMultiDict(request.headers)))
        return web.Response(status=self.status, body=self.answer, headers=self.headers)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def endpoint(store: Store) -> AsyncIterator[str]:
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", store.handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


@pytest.fixture
async def client(endpoint: str, request: pytest.FixtureRequest) -> AsyncIterator[S3Client]:
    spec = DestinationSpec(
        name="store",
        type="s3",
        endpoint=endpoint,
        bucket="bucket",
        region="eu-west-1",
        access_key="AK",
        secret_key="SK",
        session_token="TOKEN",
    )
    made = S3Client(msgspec.structs.replace(spec, **getattr(request, "param", {})))
    yield made
    await made.aclose()


def told_of(headers: CIMultiDict[str]) -> dict[str, str]:
    """What a request's headers say, whoever made it and when."""
    left_out = OF_BOTOCORE_ALONE | OF_ITS_TIME | OF_THE_PROGRAM
    return {name.lower(): value for name, value in headers.items() if name.lower() not in left_out}


def signed_of(headers: CIMultiDict[str]) -> tuple[str, set[str]]:
    """For whom and what it was signed, and which headers."""
    found = re.search(r"Credential=([^,]+), ?SignedHeaders=([^,]+)", headers["Authorization"])
    assert found
    who, _, place = found[1].partition("/")
    return f"{who} {place.partition('/')[2]}", set(found[2].split(";")) - OF_BOTOCORE_ALONE


CUSTOMER = {"sse": "sse-c", "sse_c_key": base64.b64encode(bytes(32)).decode()}


@pytest.mark.parametrize("client", [{}, CUSTOMER, {"session_token": ""}], indirect=True)
@pytest.mark.parametrize("key", ["a/b.c4gh", "ä b+c=d&e~f", "//x/./y", "a%2Fb?c#d"])
async def test_it_is_what_botocore_would_send(client: S3Client, store: Store, key: str) -> None:
    await client.call("put_object", Key=key, Body=b"data", **EVERYTHING)
    await client.put(key, b"data", **EVERYTHING)
    theirs, ours = store.seen
    assert ours[:3] == theirs[:3]
    assert told_of(ours[3]) == told_of(theirs[3])
    assert signed_of(ours[3]) == signed_of(theirs[3])


async def test_an_object_of_more_than_a_mebibyte_goes_out_whole(
    client: S3Client, store: Store
) -> None:
    data = bytes(range(256)) * 6000
    await client.put("key", data)
    assert [body for _, _, body, _ in store.seen] == [data]
    assert store.seen[0][3]["Content-Length"] == str(len(data))


async def test_what_an_answer_says_of_the_object_is_told_as_botocore_does(
    client: S3Client, store: Store
) -> None:
    store.headers = {
        "ETag": '"8d777f385d3dfec8815d20f7496026dc"',
        "x-amz-checksum-crc64nvme": "AAAAAAAAAAA=",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-customer-algorithm": "AES256",
    }
    ours = await client.put("key", b"data")
    theirs = await client.call("put_object", Key="key", Body=b"data")
    assert ours == {name: value for name, value in theirs.items() if name in ours}
    assert len(ours) == len(store.headers)


async def test_a_refusal_is_the_one_that_the_store_means(client: S3Client, store: Store) -> None:
    store.status = 412
    store.answer = b"<Error><Code>PreconditionFailed</Code></Error>"
    with pytest.raises(StandsError):
        await client.put("key", b"data", IfNoneMatch="*")


async def test_an_answer_that_does_not_end_is_not_read_on(client: S3Client, store: Store) -> None:
    store.answer = b"x" * 1024 * 1024
    with pytest.raises(DestinationUnreachableError, match="ClientPayloadError"):
        await client.put("key", b"data")


@pytest.mark.parametrize("status", [301, 307])
async def test_a_redirect_is_not_followed(client: S3Client, store: Store, status: int) -> None:
    store.status, store.headers = status, {"Location": "http://127.0.0.1:9/elsewhere"}
    with pytest.raises(DestinationRefusedError):
        await client.put("key", b"data")
    assert {method for method, *_ in store.seen} <= {"PUT", "GET"}

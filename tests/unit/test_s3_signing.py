"""Addresses of parts are what botocore would have signed, without being asked for each."""

from __future__ import annotations

import msgspec
import pytest
from aiobotocore.credentials import AioCredentials
from yarl import URL

from pipeline.destinations.s3_client import S3Client
from pipeline.destinations.s3_connection import Connection
from pipeline.destinations.s3_signing import KEPT, Pattern, Patterns, pattern_of, sign
from pipeline.messages import DestinationSpec

AT_HOME = DestinationSpec(
    name="store",
    type="s3",
    endpoint="http://127.0.0.1:9000",
    bucket="study",
    access_key="access",
    secret_key="secret",
)
WAYS = {
    "path": AT_HOME,
    "virtual host": msgspec.structs.replace(
        AT_HOME,
        endpoint="https://s3.example.org:443",
        addressing="virtual",
        region="eu-west-1",
        session_token="token/+=",
    ),
    "Amazon": msgspec.structs.replace(AT_HOME, endpoint=""),
    "IPv6": msgspec.structs.replace(AT_HOME, endpoint="http://[::1]:9000"),
}


async def botocores(at: Connection, key: str, upload: str, number: int) -> URL:
    """What botocore signs by itself."""
    text = await at.client.generate_presigned_url(
        "upload_part",
        Params={"Bucket": "study", "Key": key, "UploadId": upload, "PartNumber": number},
        ExpiresIn=3600,
    )
    return URL(text, encoded=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", ["a", "11-22/a name+ü?&=%.bin", "a//b/../c"])
@pytest.mark.parametrize("upload", ["2~abc", "a==&partNumber=7 é"])
async def test_a_later_part_has_the_address_that_botocore_gives_it(
    way: str, key: str, upload: str
) -> None:
    client = S3Client(WAYS[way])
    try:
        async with client._connections.use() as at:
            assert at.credentials is not None
            pattern = pattern_of(await botocores(at, key, upload, 1))
            assert pattern is not None
            expected, found = URL(), URL("?X-Amz-Date=0")
            # Both have the time in them, and a second may pass between.
            while found.query["X-Amz-Date"] != expected.query.get("X-Amz-Date"):
                expected = await botocores(at, key, upload, 9999)
                found = await sign(pattern, 9999, at.credentials)
            assert str(found) == str(expected)
    finally:
        await client.aclose()


@pytest.mark.parametrize(
    "change",
    [
        ("SignedHeaders=host", "SignedHeaders=content-md5%3Bhost"),
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        ("%2Fs3%2F", "%2Fs3express%2F"),
        ("X-Amz-Credential", "Credential"),
    ],
)
async def test_what_is_signed_in_another_way_is_left_to_botocore(change: tuple[str, str]) -> None:
    client = S3Client(AT_HOME)
    try:
        async with client._connections.use() as at:
            signed = str(await botocores(at, "key", "upload", 1))
    finally:
        await client.aclose()
    assert change[0] in signed
    assert pattern_of(URL(signed.replace(*change), encoded=True)) is None


async def test_credentials_that_changed_sign_from_then_on() -> None:
    pattern = Pattern("http://h", "h", "/b/k?uploadId=u&", "us-east-1", 3600)
    before, after = AioCredentials("old", "secret"), AioCredentials("new", "secret", "token")
    assert (await sign(pattern, 1, before)).query["X-Amz-Credential"].startswith("old/")
    found = (await sign(pattern, 1, after)).query
    assert found["X-Amz-Credential"].startswith("new/")
    assert found["X-Amz-Security-Token"] == "token"


async def test_no_more_patterns_are_kept_than_are_of_use() -> None:
    patterns = Patterns()
    address = URL(
        "http://h/b/k?uploadId=u&partNumber=1&X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=a%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Expires=60"
        "&X-Amz-SignedHeaders=host&X-Amz-Signature=0",
        encoded=True,
    )
    for number in range(KEPT + 1):
        patterns.learn("k", str(number), address)
    assert patterns.find("k", "0") is None
    assert patterns.find("k", "1") is not None
    assert patterns.find("k", str(KEPT)) is not None

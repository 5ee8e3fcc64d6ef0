"""The S3 server that measurements rely on counts what it gets, and keeps to the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import aiobotocore.session
import botocore.exceptions
import pytest

from tests.peers.null_s3 import NullS3, SentPart

pytestmark = pytest.mark.peers

PLACE = {"Bucket": "bucket", "Key": "study/a name"}


@pytest.fixture
def server() -> Iterator[NullS3]:
    with NullS3() as running:
        yield running


@pytest.fixture
async def client(server: NullS3) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(
            aiobotocore.session.get_session().create_client(
                "s3",
                endpoint_url=server.url,
                region_name="us-east-1",
                aws_access_key_id="any",
                aws_secret_access_key="any",
            )
        )


async def test_parts_are_counted_and_make_up_the_object(server: NullS3, client: Any) -> None:  # noqa: ANN401  # botocore's
    begun = await client.create_multipart_upload(**PLACE, Metadata={"upload": "u1"})
    part = {**PLACE, "UploadId": begun["UploadId"]}
    await client.upload_part(**part, PartNumber=2, Body=b"b" * 10)
    for _ in range(2):
        await client.upload_part(**part, PartNumber=1, Body=b"a" * 1000)
    listed = (await client.list_parts(**part))["Parts"]
    assert [(entry["PartNumber"], entry["Size"]) for entry in listed] == [(1, 1000), (2, 10)]
    parts = [{"PartNumber": entry["PartNumber"], "ETag": entry["ETag"]} for entry in listed]
    await client.complete_multipart_upload(**part, MultipartUpload={"Parts": parts})

    head = await client.head_object(**PLACE)
    assert (head["ContentLength"], head["Metadata"]) == (1010, {"upload": "u1"})
    (upload,) = server.count().uploads.values()
    assert upload.state == "complete"
    assert upload.parts == {"1": SentPart(1000, 2), "2": SentPart(10, 1)}


async def test_an_aborted_upload_is_forgotten(server: NullS3, client: Any) -> None:  # noqa: ANN401  # botocore's
    begun = await client.create_multipart_upload(**PLACE)
    part = {**PLACE, "UploadId": begun["UploadId"]}
    await client.abort_multipart_upload(**part)
    with pytest.raises(botocore.exceptions.ClientError, match="NoSuchUpload"):
        await client.upload_part(**part, PartNumber=1, Body=b"late")
    assert server.count().objects == {}


async def test_a_condition_keeps_an_object(server: NullS3, client: Any) -> None:  # noqa: ANN401  # botocore's
    await client.put_object(**PLACE, Body=b"first")
    with pytest.raises(botocore.exceptions.ClientError, match="PreconditionFailed"):
        await client.put_object(**PLACE, Body=b"second one", IfNoneMatch="*")
    assert server.count().objects["bucket/study/a name"].bytes == 5


async def test_an_upload_is_listed_while_it_is_open(client: Any) -> None:  # noqa: ANN401  # botocore's
    begun = await client.create_multipart_upload(**PLACE)
    await client.create_multipart_upload(Bucket="bucket", Key="other/name")
    listed = await client.list_multipart_uploads(Bucket="bucket", Prefix="study/")
    (only,) = listed["Uploads"]
    assert (only["Key"], only["UploadId"]) == (PLACE["Key"], begun["UploadId"])
    await client.abort_multipart_upload(**PLACE, UploadId=begun["UploadId"])
    listed = await client.list_multipart_uploads(Bucket="bucket", Prefix="study/")
    assert "Uploads" not in listed

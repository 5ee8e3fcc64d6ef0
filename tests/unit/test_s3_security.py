"""A store that is hostile, or taken over: what it answers leads nowhere and fills nothing."""

from __future__ import annotations

import contextlib
import gzip
import resource
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.destinations.base import Body
from pipeline.destinations.s3_client import S3Client, Sent
from pipeline.destinations.s3_connection import Connection
from pipeline.destinations.s3_http import LONGEST_ANSWER
from pipeline.errors import DestinationError, DestinationUnreachableError
from pipeline.messages import DestinationSpec

MIB = 1024 * 1024
CALLS: list[tuple[str, dict[str, object]]] = [
    ("head_object", {"Key": "k"}),
    ("create_multipart_upload", {"Key": "k"}),
    ("list_parts", {"Key": "k", "UploadId": "u"}),
    ("put_object", {"Key": "k", "Body": b"data"}),
    ("abort_multipart_upload", {"Key": "k", "UploadId": "u"}),
    ("delete_object", {"Key": "k"}),
]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def store(handler: Handler) -> AsyncIterator[S3Client]:
    """A client of a bucket whose every answer is ``handler``'s."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        client = S3Client(spec_of(str(server.make_url("/"))))
        try:
            yield client
        finally:
            await client.aclose()


def spec_of(endpoint: str) -> DestinationSpec:
    return DestinationSpec(
        name="inline-1",
        type="s3",
        endpoint=endpoint,
        bucket="bucket",
        region="eu-west-1",
        access_key="AK",
        secret_key="SK",
    )


class Bytes(Body):
    """A short body."""

    size = 4
    crc64nvme = 0
    md5 = None

    def with_md5(self) -> None:
        pass

    async def count(self) -> None:
        pass

    def __aiter__(self) -> AsyncIterator[memoryview]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[memoryview]:
        yield memoryview(b"data")


REDIRECTS = [301, 302, 303, 307, 308]


async def refused(client: S3Client, operation: str, **parameters: object) -> DestinationError:
    """What a call comes to that can't go well."""
    with pytest.raises(DestinationError) as caught:
        await client.call_once(operation, **parameters)
    return caught.value


async def test_a_store_s_redirect_is_followed_to_no_other_server() -> None:
    """Redirects were followed by botocore's session, so a store could send us anywhere."""
    met: list[str] = []
    answers: list[tuple[int, str]] = []

    async def trap(request: web.Request) -> web.Response:
        met.append(request.path)
        return web.Response(text="what only this machine may know")

    async def handler(request: web.Request) -> web.Response:
        status, there = answers[-1]
        if request.path == "/latest/meta-data":
            met.append(request.path)
        return web.Response(status=status, headers={"Location": there})

    inside = web.Application()
    inside.router.add_route("*", "/{path:.*}", trap)
    async with TestServer(inside) as metadata, store(handler) as client:
        there = str(metadata.make_url("/latest/meta-data"))
        for number, status in enumerate(REDIRECTS):
            answers.append((status, there if number % 2 == 0 else "/latest/meta-data"))
            for operation, parameters in CALLS:
                await refused(client, operation, **parameters)
            with pytest.raises(DestinationError):
                await client.send_part("k", "u", 1, Bytes())
            with pytest.raises(DestinationError):
                async for _ in client.read("k", "", 4):
                    pass
    assert met == []


async def test_a_store_that_answers_all_with_a_redirect_is_asked_once() -> None:
    """Such a store was asked for the bucket's region by botocore until its stack was full."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.method)
        return web.Response(status=302, headers={"Location": "/"})

    async with store(handler) as client:
        await refused(client, "head_object", Key="k")
    assert asked == ["HEAD"]


async def test_a_store_s_word_for_its_region_is_no_host() -> None:
    regions = ["evil.example/", "evil.example#", "@evil", "x" * 64, "..", "a\tb", "ü", "1", "-a"]
    said: list[str] = []

    async def handler(_: web.Request) -> web.Response:
        text = f"<Error><Code>PermanentRedirect</Code><Region>{said[-1]}</Region></Error>"
        return web.Response(status=301, text=text, content_type="application/xml")

    async with store(handler) as client:
        for region in regions:
            said.append(region)
            await refused(client, "list_objects_v2")


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "application/xml"})
    await answer.prepare(request)
    with contextlib.suppress(ConnectionError):
        await answer.write(b"<ListBucketResult>")
        for _ in range(200):
            await answer.write(b" " * MIB)
    return answer


async def test_an_endless_answer_of_a_store_is_cut_off_in_bounded_memory() -> None:
    async with store(endless) as client:
        await refused(client, "delete_object", Key="k")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for operation in ("list_objects_v2", "list_multipart_uploads"):
            assert isinstance(await refused(client, operation), DestinationUnreachableError)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 4 * LONGEST_ANSWER


async def test_an_endless_answer_to_a_part_is_cut_off() -> None:
    async with store(endless) as client:

        async def send(at: Connection) -> Sent:
            return await client._send(await client._signed_part(at, "k", "u", 1, None), Bytes())

        with pytest.raises(DestinationUnreachableError):
            await client._settled(send)


async def test_a_packed_answer_of_a_store_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(100 * MIB), 1)

    async def handler(_: web.Request) -> web.Response:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/xml"}
        return web.Response(body=bomb, headers=headers)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with store(handler) as client:
        with pytest.raises(DestinationError):
            await client.call_once("list_objects_v2")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 50 * MIB


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha">'
    + "".join(f'<!ENTITY b{n} "{f"&b{n - 1};" * 10}">' for n in range(1, 9)).replace("&b0;", "&b;")
    + "]>"
)


TYPED = [
    LAUGHS + "<ListBucketResult><Name>&b8;</Name></ListBucketResult>",
    '<!DOCTYPE a SYSTEM "file:///etc/passwd"><ListBucketResult/>',
    '<!-- a --><?b?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Error>&x;</Error>',
]


async def test_a_store_s_document_type_is_refused() -> None:
    said: list[tuple[int, bytes]] = []

    async def handler(_: web.Request) -> web.Response:
        status, body = said[-1]
        return web.Response(status=status, body=body, content_type="application/xml")

    async with store(handler) as client:
        for text in TYPED:
            for encoding in ("utf-8", "utf-8-sig", "utf-16"):
                for status in (200, 400):
                    said.append((status, text.encode(encoding)))
                    error = await refused(client, "list_objects_v2")
                    assert isinstance(error, DestinationUnreachableError)


async def test_a_store_s_answer_may_be_nested_however_deep() -> None:
    said: list[int] = []

    async def handler(_: web.Request) -> web.Response:
        body = b"<Error>" * 20_000 + b"</Error>" * 20_000
        return web.Response(status=said[-1], body=body, content_type="application/xml")

    async with store(handler) as client:
        for status in (200, 400, 503):
            said.append(status)
            with contextlib.suppress(DestinationError):
                await client.call_once("list_parts", Key="k", UploadId="u")


BODIES = [
    b"",
    b"<",
    b"\xff\xfe",
    bytes(100),
    b"not xml",
    b"<a></b>",
    b"<ListPartsResult><Part><PartNumber>x</PartNumber></Part></ListPartsResult>",
    b"<ListPartsResult><Part><Size>" + b"9" * 5000 + b"</Size></Part></ListPartsResult>",
    b"<ListPartsResult><Part><LastModified>x</LastModified></Part></ListPartsResult>",
    b'<?xml version="1.0" encoding="x-nowhere"?><a/>',
    b"<InitiateMultipartUploadResult><UploadId>\n\r</UploadId></InitiateMultipartUploadResult>",
    b"<Error><Code>SlowDown\x1b[31m</Code></Error>",
    b"<Error><Code>&#27;[31m</Code><Message>\xff</Message></Error>",
]


async def test_whatever_a_store_says_is_an_answer_or_a_destination_s_error() -> None:
    said: list[tuple[int, bytes]] = []
    told: list[str] = []

    async def handler(_: web.Request) -> web.Response:
        status, body = said[-1]
        return web.Response(status=status, body=body, content_type="application/xml")

    async with store(handler) as client:
        for body in BODIES:
            for status in (200, 206, 400, 403, 500):
                said.append((status, body))
                for operation, parameters in CALLS:
                    try:
                        await client.call_once(operation, **parameters)
                    except DestinationError as error:
                        told.append(error.message)
    assert told
    assert all(message.isprintable() for message in told)

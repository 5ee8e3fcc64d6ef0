"""One bucket, spoken to: control calls by aiobotocore, bytes by aiohttp on signed addresses.

botocore would sign or count every body, hold it in memory, and send trailers that many stores
refuse; a signed address leaves the bytes alone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.parsers import ResponseParserError
from botocore.utils import get_environ_proxies
from yarl import URL

from pipeline.destinations import crc, s3_errors, s3_options
from pipeline.destinations.base import Body
from pipeline.destinations.feed import Feed, Senders
from pipeline.destinations.retry import steadily
from pipeline.destinations.s3_connection import (
    CONNECTIONS,
    SILENCE_TIMEOUT,
    Connection,
    Connections,
)
from pipeline.destinations.s3_http import limited
from pipeline.destinations.s3_put import is_plain, told
from pipeline.destinations.s3_signing import sign
from pipeline.destinations.wording import printable
from pipeline.errors import (
    DestinationError,
    DestinationRefusedError,
    DestinationUnreachableError,
)
from pipeline.messages import DestinationSpec

SIGNED_FOR: Final = 3600
"""Seconds; counts for the start of a request."""
LONGEST_ERROR: Final = 16 * 1024
READ: Final = 1024 * 1024
FIRST: Final = 1024
"""Bytes of an answer that tell what it is."""

_TRANSPORT: Final = (aiohttp.ClientError, TimeoutError, OSError)
_CHANGES: Final = 4
"""How often one request may find that bucket or credentials are not as they were thought to be."""

_CUSTOMER: Final = "x-amz-server-side-encryption-customer-"
_SUMS: Final = {"ChecksumCRC64NVME": "x-amz-checksum-crc64nvme", "ContentMD5": "Content-MD5"}

T = TypeVar("T")


class Sent(NamedTuple):
    """What the store said of a part."""

    etag: str
    crc64nvme: str
    """Base64, as the store counted it; empty where it doesn't."""
    opaque_etag: bool
    """Whether the ETag can't be an MD5, because the store encrypts with a key of its own."""


class Signed(NamedTuple):
    """An address to send to, and the headers that were signed with it."""

    url: URL
    headers: dict[str, str]


class S3Client:
    """The calls that a delivery needs, with the bucket filled in, and the customer's key.

    Every error is of :mod:`pipeline.errors`; short disturbances are retried. Another region, a
    refused way of addressing and expired credentials are found out and followed.
    """

    def __init__(self, spec: DestinationSpec) -> None:
        self.spec = spec
        self._connections = Connections(spec)
        self._customer = s3_options.of_customer(spec)
        self._proxies: dict[str, str | None] = {}
        self._senders = Senders(CONNECTIONS, SILENCE_TIMEOUT)

    async def call(self, operation: str, **parameters: object) -> dict[str, Any]:
        """Call an operation of botocore's client by its method's name."""
        return await steadily(lambda: self.call_once(operation, **parameters))

    async def call_once(self, operation: str, **parameters: object) -> dict[str, Any]:
        """Likewise, without a second try."""
        return await self._settled(lambda at: self._call(at, operation, parameters))

    async def put(self, key: str, data: bytes, **parameters: object) -> dict[str, Any]:
        """As ``call("put_object")``, at a third of what that costs."""
        if not is_plain(self.spec.bucket):
            return await self.call("put_object", Key=key, Body=data, **parameters)
        return await steadily(
            lambda: self._settled(lambda at: self._put(at, key, data, parameters))
        )

    async def send_part(
        self, key: str, upload: str, number: int, body: Body, sums: Mapping[str, str] | None = None
    ) -> Sent:
        """PUT one part. The body is read afresh for each try.

        ``sums`` are checksums of it as botocore's parameters, for stores that want them sent along.
        """

        async def send(at: Connection) -> Sent:
            return await self._send(await self._signed_part(at, key, upload, number, sums), body)

        return await steadily(lambda: self._settled(send))

    def read(self, key: str, etag: str, size: int) -> AsyncGenerator[bytes, None]:
        """The object's bytes, going on after disturbances, as long as its ETag stays the same."""
        return self._read(key, etag, 0, size, None)

    def read_range(self, key: str, etag: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Likewise, bytes ``start`` to before ``stop``."""
        return self._read(key, etag, start, stop, stop)

    async def first_bytes(self, operation: str, key: str) -> tuple[int, bytes]:
        """Status and first bytes of an answer of which only the first one is asked for.

        Where the operation is not known, the object itself answers, and that may be large.
        """

        async def ask(at: Connection) -> tuple[int, bytes]:
            signed = await self._signed(at, operation, {"Key": key})
            async with self._http.get(
                signed.url,
                headers={"Range": "bytes=0-0", **signed.headers},
                allow_redirects=False,
                proxy=self._proxy(signed.url),
            ) as answer:
                if answer.status not in {200, 206}:
                    raise await _refusal(answer)
                start = b""
                while len(start) < FIRST and not answer.content.at_eof():
                    start += await answer.content.read(FIRST)
                return answer.status, start

        return await steadily(lambda: self._settled(ask))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connections.aclose()
        self._senders.close()

    async def _read(
        self, key: str, etag: str, done: int, size: int, stop: int | None
    ) -> AsyncGenerator[bytes, None]:
        failures = 0
        while done < size:
            before = done
            try:
                async for piece in self._read_from(key, etag, done, stop):
                    done += len(piece)
                    failures = 0
                    yield piece
                if done == before:
                    raise DestinationUnreachableError("the store answered with no bytes")  # noqa: TRY301  # tried again like any other
            except DestinationUnreachableError:
                failures += 1
                if failures >= 4:  # noqa: PLR2004  # as often as other calls
                    raise
                await asyncio.sleep(0.2 * 2**failures)

    async def _read_from(
        self, key: str, etag: str, start: int, stop: int | None
    ) -> AsyncIterator[bytes]:
        ranged = bool(start) or stop is not None
        headers = {"Accept-Encoding": "identity"}
        if etag:
            headers["If-Match"] = f'"{etag}"'
        if ranged:
            headers["Range"] = f"bytes={start}-" + ("" if stop is None else str(stop - 1))

        async def ask(at: Connection) -> aiohttp.ClientResponse:
            signed = await self._signed(at, "get_object", {"Key": key})
            response = await self._http.get(
                signed.url,
                headers=headers | signed.headers,
                allow_redirects=False,
                proxy=self._proxy(signed.url),
            )
            if response.status != (206 if ranged else 200):
                async with response:
                    raise await _refusal(response)
            return response

        try:
            async with await self._settled(ask) as answer:
                async for piece in answer.content.iter_chunked(READ):
                    yield piece
        except _TRANSPORT as error:  # an answer cut short is one of them
            raise s3_errors.of_transport(error) from None

    async def _call(
        self, at: Connection, operation: str, parameters: Mapping[str, object]
    ) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await getattr(at.client, operation)(
                Bucket=self.spec.bucket, **parameters, **self._key_for(operation)
            )
        except ClientError as error:
            raise s3_errors.of_client_error(error) from None
        return answer

    async def _put(
        self, at: Connection, key: str, data: bytes, parameters: Mapping[str, object]
    ) -> dict[str, Any]:
        customer = _headers_of(self._customer)
        put = await at.putting.request(self.spec.bucket, key, data, parameters, customer)
        async with self._http.put(
            put.url,
            data=put.data,
            headers=put.headers,
            skip_auto_headers=("Content-Type",),
            allow_redirects=False,
            proxy=self._proxy(put.url),
        ) as answer:
            if answer.status >= 300:  # noqa: PLR2004  # HTTP's own border
                raise await _refusal(answer)
            await limited(answer, LONGEST_ERROR)
            return told(answer.headers)

    async def _send(self, signed: Signed, body: Body) -> Sent:
        feed = Feed(body, self._senders)
        headers = {"Content-Length": str(body.size), "Content-Type": "application/octet-stream"}
        try:
            async with self._http.put(
                signed.url,
                data=feed,
                headers=headers | signed.headers,
                allow_redirects=False,
                proxy=self._proxy(signed.url),
            ) as answer:
                if answer.status != 200:  # noqa: PLR2004  # the only good answer to a part
                    raise await _refusal(answer)
                await limited(answer, LONGEST_ERROR)
                return _sent(answer.headers)
        except _TRANSPORT as error:
            if feed.error is not None:
                raise feed.error from None
            raise s3_errors.of_transport(error) from None

    async def _signed(
        self, at: Connection, operation: str, parameters: Mapping[str, object]
    ) -> Signed:
        text = await at.client.generate_presigned_url(
            operation,
            Params={"Bucket": self.spec.bucket, **parameters, **self._key_for(operation)},
            ExpiresIn=SIGNED_FOR,
        )
        return Signed(URL(text, encoded=True), _headers_of({**parameters, **self._customer}))

    async def _signed_part(
        self, at: Connection, key: str, upload: str, number: int, sums: Mapping[str, str] | None
    ) -> Signed:
        pattern = at.patterns.find(key, upload)
        if pattern and at.credentials and not sums and not self._customer:
            return Signed(await sign(pattern, number, at.credentials), {})
        place = {"Key": key, "UploadId": upload, "PartNumber": number, **(sums or {})}
        signed = await self._signed(at, "upload_part", place)
        at.patterns.learn(key, upload, signed.url)
        return signed

    async def _settled(self, request: Callable[[Connection], Awaitable[T]]) -> T:
        """The answer to ``request``, made again where the way to the bucket was not the right one.

        What is unreachable comes out: whether that is tried again, the caller decides.
        """
        for left in reversed(range(_CHANGES)):
            with _translated():
                async with self._connections.use() as at:
                    try:
                        return await request(at)
                    except s3_errors.ExpiredError:
                        await self._connections.renew(at)
                        raise
                    except s3_errors.ElsewhereError as error:
                        region = error.region or await self._region(at)
                        if not left or not region or not await self._connections.move(at, region):
                            raise DestinationRefusedError(error.message) from None
                    except s3_errors.AddressingError as error:
                        if not left or not await self._connections.readdress(at):
                            raise DestinationRefusedError(
                                f'{error.message}; see `addressing = "virtual"`'
                            ) from None
        raise AssertionError("unreachable")

    async def _region(self, at: Connection) -> str:
        """Where the bucket is; empty where the store doesn't tell.

        HEAD has no text that could say so; a list has. It is asked for by hand, as botocore would
        follow a redirection by itself and keep what it learned.
        """
        signed = await self._signed(at, "list_objects_v2", {"MaxKeys": 1})
        async with self._http.get(
            signed.url, allow_redirects=False, proxy=self._proxy(signed.url)
        ) as answer:
            error = await _refusal(answer)
        return error.region if isinstance(error, s3_errors.ElsewhereError) else ""

    def _key_for(self, operation: str) -> dict[str, Any]:
        return self._customer if operation in s3_options.TOUCHING else {}

    @property
    def _http(self) -> aiohttp.ClientSession:
        return self._connections.http

    def _proxy(self, url: URL) -> str | None:
        origin = str(url.origin())
        if origin not in self._proxies:
            self._proxies[origin] = get_environ_proxies(origin).get(url.scheme)
        return self._proxies[origin]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """What botocore, aiohttp and the system raise becomes an error of ours."""
    try:
        yield
    except (BotoCoreError, HTTPClientError, *_TRANSPORT) as error:
        raise s3_errors.of_transport(error) from None
    except ResponseParserError:
        raise DestinationUnreachableError("the store's answer is not understood") from None
    except RecursionError:
        raise DestinationUnreachableError("the store's answer is nested too deeply") from None
    except ValueError as error:
        raise DestinationRefusedError(
            f"the request can't be made: {printable(str(error))}"
        ) from None


def _sent(headers: Mapping[str, str]) -> Sent:
    encrypted = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    customer = "x-amz-server-side-encryption-customer-algorithm" in headers
    return Sent(
        etag=headers.get("ETag", "").strip('"'),
        crc64nvme=headers.get("x-amz-checksum-crc64nvme", ""),
        opaque_etag=encrypted or customer,
    )


def _headers_of(parameters: Mapping[str, object]) -> dict[str, str]:
    """Parameters that are headers: a signed address only says which of them were signed."""
    headers = {
        header: str(parameters[name]) for name, header in _SUMS.items() if name in parameters
    }
    key = parameters.get("SSECustomerKey")
    if isinstance(key, bytes):
        md5 = hashlib.md5(key, usedforsecurity=False).digest()
        headers |= {
            f"{_CUSTOMER}algorithm": "AES256",
            f"{_CUSTOMER}key": base64.b64encode(key).decode(),
            f"{_CUSTOMER}key-MD5": crc.md5_text(md5),
        }
    return headers


async def _refusal(answer: aiohttp.ClientResponse) -> DestinationError:
    """What an answer that is no good one stands for; what is longer is no S3 error."""
    text = await answer.content.read(LONGEST_ERROR)
    return s3_errors.of_body(answer.status, text, answer.headers)

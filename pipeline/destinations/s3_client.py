"""One bucket, spoken to: control calls by aiobotocore, bytes by aiohttp on signed addresses.

botocore would sign or count every body, hold it in memory, and send trailers that many stores
refuse; a signed address leaves the bytes alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.handlers import add_expect_header
from botocore.utils import get_environ_proxies
from yarl import URL

from pipeline.destinations import s3_errors
from pipeline.destinations.base import Body
from pipeline.destinations.retry import steadily
from pipeline.destinations.wording import printable
from pipeline.errors import DestinationRefusedError, DestinationUnreachableError, DropoffError
from pipeline.messages import DestinationSpec

CONNECT_TIMEOUT: Final = 10.0
SILENCE_TIMEOUT: Final = 120.0
"""Seconds without a byte, either way."""
CONNECTIONS: Final = 32
SIGNED_FOR: Final = 3600
"""Seconds; counts for the start of a request."""
LONGEST_ERROR: Final = 16 * 1024
READ: Final = 1024 * 1024

_TRANSPORT: Final = (aiohttp.ClientError, TimeoutError, OSError)


class Sent(NamedTuple):
    """What the store said of a part."""

    etag: str
    crc64nvme: str
    """Base64, as the store counted it; empty where it doesn't."""
    opaque_etag: bool
    """Whether the ETag can't be an MD5, because the store encrypts with a key of its own."""


class S3Client:
    """The calls that a delivery needs, with the bucket filled in.

    Every error is of :mod:`pipeline.errors`; short disturbances are retried.
    """

    def __init__(self, spec: DestinationSpec) -> None:
        self._spec = spec
        self._opening = asyncio.Lock()
        self._stack = contextlib.AsyncExitStack()
        self._client: Any = None
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, str | None] = {}

    async def call(self, operation: str, **parameters: object) -> dict[str, Any]:
        """Call an operation of botocore's client by its method's name."""
        return await steadily(lambda: self.call_once(operation, **parameters))

    async def call_once(self, operation: str, **parameters: object) -> dict[str, Any]:
        """Likewise, without a second try."""
        try:
            client = await self._opened()
            answer: dict[str, Any] = await getattr(client, operation)(
                Bucket=self._spec.bucket, **parameters
            )
        except ClientError as error:
            raise s3_errors.of_client_error(error) from None
        except (BotoCoreError, HTTPClientError, *_TRANSPORT) as error:
            raise s3_errors.of_transport(error) from None
        except ValueError as error:
            raise DestinationRefusedError(
                f"the request can't be made: {printable(str(error))}"
            ) from None
        return answer

    async def send_part(self, key: str, upload: str, number: int, body: Body) -> Sent:
        """PUT one part. The body is read afresh for each try."""

        async def once() -> Sent:
            url = await self._signed("upload_part", Key=key, UploadId=upload, PartNumber=number)
            return await self._put(url, body)

        return await steadily(once)

    def read(self, key: str, etag: str, size: int) -> AsyncGenerator[bytes, None]:
        """The object's bytes, going on after disturbances, as long as its ETag stays the same."""
        return self._read(key, etag, 0, size, None)

    def read_range(self, key: str, etag: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Likewise, bytes ``start`` to before ``stop``."""
        return self._read(key, etag, start, stop, stop)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._stack.aclose()

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
        url = await self._signed("get_object", Key=key)
        headers = {"Accept-Encoding": "identity"}
        if etag:
            headers["If-Match"] = f'"{etag}"'
        ranged = bool(start) or stop is not None
        if ranged:
            headers["Range"] = f"bytes={start}-" + ("" if stop is None else str(stop - 1))
        try:
            async with self._http.get(
                url, headers=headers, allow_redirects=False, proxy=self._proxy(url)
            ) as answer:
                if answer.status != (206 if ranged else 200):
                    raise s3_errors.of_body(answer.status, await _error_text(answer))
                async for piece in answer.content.iter_chunked(READ):
                    yield piece
        except _TRANSPORT as error:  # an answer cut short is one of them
            raise s3_errors.of_transport(error) from None

    async def _put(self, url: URL, body: Body) -> Sent:
        feed = _Feed(body)
        headers = {"Content-Length": str(body.size), "Content-Type": "application/octet-stream"}
        try:
            async with self._http.put(
                url, data=feed, headers=headers, allow_redirects=False, proxy=self._proxy(url)
            ) as answer:
                if answer.status != 200:  # noqa: PLR2004  # the only good answer to a part
                    raise s3_errors.of_body(answer.status, await _error_text(answer))
                await answer.read()
                return _sent(answer.headers)
        except _TRANSPORT as error:
            if feed.error is not None:
                raise feed.error from None
            raise s3_errors.of_transport(error) from None

    async def _signed(self, operation: str, **parameters: object) -> URL:
        client = await self._opened()
        try:
            text = await client.generate_presigned_url(
                operation,
                Params={"Bucket": self._spec.bucket, **parameters},
                ExpiresIn=SIGNED_FOR,
            )
        except BotoCoreError as error:
            raise s3_errors.of_transport(error) from None
        return URL(text, encoded=True)

    @property
    def _http(self) -> aiohttp.ClientSession:
        assert self._session is not None  # noqa: S101  # opened with the client
        return self._session

    async def _opened(self) -> Any:  # noqa: ANN401  # botocore makes its classes when it runs
        async with self._opening:
            if self._client is None:
                await self._open()
            return self._client

    async def _open(self) -> None:
        spec = self._spec
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                _session().create_client(
                    "s3",
                    endpoint_url=spec.endpoint or None,
                    region_name=spec.region or ("us-east-1" if spec.endpoint else None),
                    aws_access_key_id=spec.access_key or None,
                    aws_secret_access_key=spec.secret_key or None,
                    aws_session_token=spec.session_token or None,
                    verify=spec.ca_file or None,
                    config=_config(custom=bool(spec.endpoint)),
                )
            )
            # A small body costs less than the round trip that asks whether it may be sent, and
            # what stands in between may never answer that.
            client.meta.events.unregister("before-call.s3", add_expect_header)
            self._session = await stack.enter_async_context(self._http_session())
            self._client = client
            self._stack = stack.pop_all()

    def _http_session(self) -> aiohttp.ClientSession:
        secure = not self._spec.endpoint.startswith("http:")
        trust = ssl.create_default_context(cafile=self._spec.ca_file or None) if secure else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=trust),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE_TIMEOUT
            ),
            auto_decompress=False,
        )

    def _proxy(self, url: URL) -> str | None:
        origin = str(url.origin())
        if origin not in self._proxies:
            self._proxies[origin] = get_environ_proxies(origin).get(url.scheme)
        return self._proxies[origin]


class _Feed:
    """A body on its way into a request, which remembers why it ended early."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self.error: DropoffError | None = None

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        try:
            async for view in self._body:
                yield view
        except DropoffError as error:
            self.error = error
            raise


@lru_cache(maxsize=1)
def _session() -> AioSession:
    """The models that botocore has of S3 take 15 MiB: one session for the process."""
    return get_session()


def _config(*, custom: bool) -> AioConfig:
    return AioConfig(
        signature_version="s3v4",
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=SILENCE_TIMEOUT,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="dropoffd",
        s3={
            "payload_signing_enabled": False,
            "addressing_style": "path" if custom else "auto",
        },
    )


def _sent(headers: Mapping[str, str]) -> Sent:
    encrypted = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    customer = "x-amz-server-side-encryption-customer-algorithm" in headers
    return Sent(
        etag=headers.get("ETag", "").strip('"'),
        crc64nvme=headers.get("x-amz-checksum-crc64nvme", ""),
        opaque_etag=encrypted or customer,
    )


async def _error_text(answer: aiohttp.ClientResponse) -> bytes:
    """The beginning of an error's body; what is longer is no S3 error."""
    return await answer.content.read(LONGEST_ERROR)

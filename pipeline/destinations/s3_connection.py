"""The way to one bucket: endpoint, region, credentials, and how its address is written.

All of it may turn out otherwise than configured while it is used: the bucket is in another region,
credentials expire. Then a new client takes over, and the old one goes with its last user.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession, get_session
from botocore.handlers import add_expect_header

from pipeline.destinations.s3_http import CautiousSession, stay_there
from pipeline.destinations.s3_put import Putting
from pipeline.destinations.s3_signing import Patterns
from pipeline.messages import DestinationSpec

CONNECT_TIMEOUT: Final = 10.0
SILENCE_TIMEOUT: Final = 120.0
"""Seconds without a byte, either way."""
CONNECTIONS: Final = 32
DEFAULT_REGION: Final = "us-east-1"
"""What a store of its own is signed for until it says otherwise; most don't look at it."""

_AMAZON: Final = re.compile(r"\.amazonaws\.com(\.cn)?$")
_HOST_STYLE: Final = re.compile(r"\.(aliyuncs|myqcloud|volces)\.com$")
"""Stores that refuse to find the bucket in the path."""
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{1,61}[a-z0-9])")


class Connection:
    """A botocore client, as it is set up for now."""

    def __init__(
        self,
        client: Any,  # noqa: ANN401  # botocore makes its classes when it runs
        stack: contextlib.AsyncExitStack,
        region: str,
        style: str,
        credentials: AioCredentials | None,
    ) -> None:
        self.client = client
        self.region = region
        self.style = style
        self.credentials = credentials
        """That the client signs with."""
        self.patterns = Patterns()
        self.putting = Putting(client, credentials)
        self.users = 0
        self.stack = stack


class Connections:
    """The current connection of one destination, made when it is first used."""

    def __init__(self, spec: DestinationSpec) -> None:
        self._spec = spec
        self._changing = asyncio.Lock()
        self._stack = contextlib.AsyncExitStack()
        self._current: Connection | None = None
        self._http: aiohttp.ClientSession | None = None
        # What a session found in the chain, it keeps.
        self._session = _shared_session() if spec.access_key else _new_session()

    @property
    def http(self) -> aiohttp.ClientSession:
        """For requests at signed addresses; there once a connection was used."""
        assert self._http is not None  # noqa: S101  # opened with the first connection
        return self._http

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """The connection that is current now; it stays open for as long as the block runs."""
        async with self._changing:
            if self._current is None:
                spec = self._spec
                region = spec.region or (DEFAULT_REGION if spec.endpoint else "")
                self._current = await self._open(region, style_of(spec))
            connection = self._current
            connection.users += 1
        try:
            yield connection
        finally:
            connection.users -= 1
            if connection is not self._current and not connection.users:
                await connection.stack.aclose()

    async def move(self, seen: Connection, region: str) -> bool:
        """Go on in another region than that of ``seen``. False where that is no change."""
        if region == seen.region:
            return False
        await self._replace(seen, region, seen.style)
        return True

    async def readdress(self, seen: Connection) -> bool:
        """Go on with the bucket in the host's name. False where that is not ours to choose."""
        if self._spec.addressing != "auto" or seen.style == "virtual":
            return False
        await self._replace(seen, seen.region, "virtual")
        return True

    async def renew(self, seen: Connection) -> bool:
        """Take credentials anew from where they come from. False where they are fixed."""
        if self._spec.access_key:
            return False
        self._session = _new_session()
        await self._replace(seen, seen.region, seen.style)
        return True

    async def aclose(self) -> None:
        """Close everything."""
        current, self._current = self._current, None
        if current is not None:
            await current.stack.aclose()
        await self._stack.aclose()

    async def _replace(self, seen: Connection, region: str, style: str) -> None:
        async with self._changing:
            if self._current is not seen:
                return  # somebody else met the same, and was first
            self._current = await self._open(region, style)

    async def _open(self, region: str, style: str) -> Connection:
        spec = self._spec
        if self._http is None:
            self._http = await self._stack.enter_async_context(_http_session(spec))
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                self._session.create_client(
                    "s3",
                    endpoint_url=_endpoint(spec, region) or None,
                    region_name=region or None,
                    aws_access_key_id=spec.access_key or None,
                    aws_secret_access_key=spec.secret_key or None,
                    aws_session_token=spec.session_token or None,
                    verify=spec.ca_file or None,
                    config=_config(style),
                )
            )
            # A small body costs less than the round trip that asks whether it may be sent, and
            # what stands in between may never answer that.
            client.meta.events.unregister("before-call.s3", add_expect_header)
            client.meta.events.register("before-call.s3", stay_there)
            credentials = await self._credentials()
            return Connection(client, stack.pop_all(), client.meta.region_name, style, credentials)
        raise AssertionError("unreachable")

    async def _credentials(self) -> AioCredentials | None:
        spec = self._spec
        if spec.access_key:
            return AioCredentials(spec.access_key, spec.secret_key, spec.session_token or None)
        found: AioCredentials | None = await self._session.get_credentials()  # it keeps them
        return found


def style_of(spec: DestinationSpec) -> str:
    """How the bucket is addressed, in botocore's words.

    Where it is left open: as Amazon does at Amazon, in the host's name at stores that are known
    to take nothing else, and in the path everywhere else, which needs no DNS.
    """
    if spec.addressing != "auto":
        return spec.addressing
    host = (urlsplit(spec.endpoint).hostname or "") if spec.endpoint else ""
    # Said in so many words: left to itself, botocore signs addresses for one region of Amazon's.
    in_host = not spec.endpoint or _AMAZON.search(host) or _HOST_STYLE.search(host)
    return "virtual" if in_host and fits_host(spec.bucket) else "path"


def fits_host(bucket: str) -> bool:
    """Whether a bucket's name can stand in a host's, certificates with a ``*.`` included."""
    return bool(_LABEL.fullmatch(bucket))


def _endpoint(spec: DestinationSpec, region: str) -> str:
    """Where requests go: Amazon has an endpoint for each region, and serves no other's buckets."""
    host = urlsplit(spec.endpoint).hostname or ""
    elsewhere = region != (spec.region or DEFAULT_REGION)
    return "" if elsewhere and _AMAZON.search(host) else spec.endpoint


def _http_session(spec: DestinationSpec) -> aiohttp.ClientSession:
    secure = not spec.endpoint.startswith("http:")
    trust = ssl.create_default_context(cafile=spec.ca_file or None) if secure else True
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=trust),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE_TIMEOUT
        ),
        auto_decompress=False,
    )


@lru_cache(maxsize=1)
def _shared_session() -> AioSession:
    """The models that botocore has of S3 take 15 MiB: one session for the process."""
    return get_session()


def _new_session() -> AioSession:
    """One that knows no credentials yet, with the models of the shared one."""
    session = get_session()
    session.register_component("data_loader", _shared_session().get_component("data_loader"))
    return session


def _config(style: str) -> AioConfig:
    return AioConfig(
        signature_version="s3v4",
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=SILENCE_TIMEOUT,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="dropoffd",
        http_session_cls=CautiousSession,
        s3={"payload_signing_enabled": False, "addressing_style": style},
    )

"""A tus client that can stop anywhere: each step of the protocol is a call of its own."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterable, Mapping, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import urljoin

import aiohttp

VERSION = {"Tus-Resumable": "1.0.0"}


class RefusedError(RuntimeError):
    """The server said no."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text
        self.headers = dict(headers)


class TusClient:
    """Speaks with one tus server; use it as an async context manager."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session: aiohttp.ClientSession | None = None

    async def create(
        self,
        size: int | None,
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Make an upload (of a deferred length where there is none), and give its URL."""
        length = {"Upload-Defer-Length": "1"} if size is None else {"Upload-Length": str(size)}
        return await self._post({**length, **_metadata(metadata), **(headers or {})})

    async def concatenate(
        self, parts: Sequence[str], metadata: Mapping[str, str] | None = None
    ) -> str:
        """Make an upload of partial ones."""
        concat = {"Upload-Concat": "final;" + " ".join(parts)}
        return await self._post({**concat, **_metadata(metadata)})

    async def offset(self, upload: str) -> int:
        """How much of an upload the server has."""
        return int((await self._request("HEAD", upload, {}))["Upload-Offset"])

    async def patch(
        self,
        upload: str,
        offset: int,
        data: bytes | AsyncIterable[bytes],
        length: int | None = None,
    ) -> None:
        """Send bytes; `length` declares a deferred one."""
        headers = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
        if length is not None:
            headers["Upload-Length"] = str(length)
        await self._request("PATCH", upload, headers, data)

    async def terminate(self, upload: str) -> None:
        """Take it back."""
        await self._request("DELETE", upload, {})

    async def send(self, data: bytes, metadata: Mapping[str, str] | None = None) -> str:
        """A whole upload, and its tus id."""
        upload = await self.create(len(data), metadata)
        if data:
            await self.patch(upload, 0, data)
        return self.tus_id(upload)

    def tus_id(self, upload: str) -> str:
        """The id in an upload's URL."""
        return upload.removeprefix(self.url)

    async def _post(self, headers: Mapping[str, str]) -> str:
        answer = await self._request("POST", self.url, headers)
        return urljoin(self.url, answer["Location"])

    async def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes | AsyncIterable[bytes] | None = None,
    ) -> Mapping[str, str]:
        assert self._session is not None
        async with self._session.request(
            method, url, headers={**VERSION, **headers}, data=data
        ) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise RefusedError(answer.status, text, answer.headers)
            return answer.headers

    async def __aenter__(self) -> Self:
        # A connection for each request: one that is kept may be closed by the server just when a
        # PATCH goes out on it, and that can't be sent again.
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()


def _metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    if not metadata:
        return {}
    pairs = (f"{key} {base64.b64encode(text.encode()).decode()}" for key, text in metadata.items())
    return {"Upload-Metadata": ",".join(pairs)}

"""A proxy that spoils HTTP exchanges, by named faults.

It runs in the loop of the test, is told which faults to make while it runs, and counts those that
it made. What isn't told passes unchanged (the Host header too, which S3 requests sign).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
import yarl
from aiohttp import web
from awscrt.checksums import crc64nvme

from pipeline.destinations import crc
from tests.peers.proxy import HOP

Meets = Callable[[web.BaseRequest], bool]
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that has a closed connection end by RST."""


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes


class Exchange:
    """One request that is to be spoiled, and what can be done with it."""

    def __init__(self, request: web.BaseRequest, ask: Asking) -> None:
        self.request = request
        self._ask = ask

    async def read(self, most: int | None = None) -> bytes:
        """The request's body, or its beginning."""
        if most is None:
            return await self.request.content.read()
        data = b""
        while len(data) < most and (piece := await self.request.content.read(most - len(data))):
            data += piece
        return data

    async def ask(self, body: bytes | None = None) -> Answer:
        """Have the server do it, with this very body or another one."""
        return await self._ask(self.request, await self.read() if body is None else body)

    def hang_up(self) -> web.Response:
        """Reset the connection."""
        transport = self.request.transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            transport.abort()
        return web.Response()

    async def give(self, answer: Answer) -> web.StreamResponse:
        """Answer in the server's words."""
        if self.request.method == "HEAD":
            return web.Response(status=answer.status, headers=answer.headers)
        headers = {k: v for k, v in answer.headers.items() if k.lower() != "content-length"}
        return web.Response(status=answer.status, headers=headers, body=answer.body)


Asking = Callable[[web.BaseRequest, bytes], Awaitable[Answer]]
Spoil = Callable[[Exchange], Awaitable[web.StreamResponse]]


# Faults ---------------------------------------------------------------------------------------


def reset_in_body(after: int = 200_000) -> Spoil:
    """The connection is reset while the body is sent."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        await exchange.read(after)
        return exchange.hang_up()

    return spoil


def stall_in_body(after: int = 200_000) -> Spoil:
    """Nothing more of the body is taken, and nothing is said."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        await exchange.read(after)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    return spoil


def silent_after_body() -> Spoil:
    """The server does it, and never answers."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        await exchange.ask()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    return spoil


def answer(status: int, body: str = "", **headers: str) -> Spoil:
    """The whole body is taken, nothing is done, and this is the answer.

    ``_`` in a header's name stands for ``-``.
    """

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        await exchange.read()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=body, headers=named)

    return spoil


def s3_error(status: int, code: str, **headers: str) -> Spoil:
    """Likewise, as S3 words its errors."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return answer(status, body, **headers)


def done_but(status: int) -> Spoil:
    """The server does it, and something between says that it failed."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        await exchange.ask()
        return web.Response(status=status)

    return spoil


def lost_answer() -> Spoil:
    """The server does it, and the connection ends before the answer."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        await exchange.ask()
        return exchange.hang_up()

    return spoil


def half_answer() -> Spoil:
    """The answer ends in its middle."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        answered = await exchange.ask()
        response = web.StreamResponse(status=answered.status, headers=answered.headers)
        response.content_length = max(2, len(answered.body))
        await response.prepare(exchange.request)
        await response.write(answered.body[: len(answered.body) // 2])
        await asyncio.sleep(0.05)
        exchange.hang_up()
        return response

    return spoil


def slow_answer(seconds: float = 1.0, pieces: int = 20) -> Spoil:
    """The answer drips."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        answered = await exchange.ask()
        response = web.StreamResponse(status=answered.status, headers=answered.headers)
        response.content_length = len(answered.body)
        await response.prepare(exchange.request)
        step = len(answered.body) // pieces + 1
        for start in range(0, len(answered.body), step):
            await asyncio.sleep(seconds / pieces)
            await response.write(answered.body[start : start + step])
        return response

    return spoil


def slow_body(seconds: float = 1.0, pieces: int = 20) -> Spoil:
    """The body is taken in drips."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        step = (exchange.request.content_length or 0) // pieces + 1
        body = b""
        while piece := await exchange.read(step):
            body += piece
            await asyncio.sleep(seconds / pieces)
        return await exchange.give(await exchange.ask(body))

    return spoil


def other_header(name: str, value: str) -> Spoil:
    """The server does it, and one header of its answer is another one."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        answered = await exchange.ask()
        kept = {k: v for k, v in answered.headers.items() if k.lower() != name.lower()}
        return await exchange.give(answered._replace(headers={**kept, name: value}))

    return spoil


def swallow() -> Spoil:
    """The server loses a part that it says it has, checksums and all."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        body = await exchange.read()
        md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
        sums = {"ETag": f'"{md5}"', "x-amz-checksum-crc64nvme": crc.text(crc64nvme(body))}
        return web.Response(status=200, headers=sums)

    return spoil


def other_byte_stored(place: float = 0.5) -> Spoil:
    """One byte of the body is another one when the server gets it."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        return await exchange.give(await exchange.ask(spoiled(await exchange.read(), place)))

    return spoil


def other_byte_read(place: float = 0.5) -> Spoil:
    """One byte of the answer's body is another one."""

    async def spoil(exchange: Exchange) -> web.StreamResponse:
        answered = await exchange.ask()
        return await exchange.give(answered._replace(body=spoiled(answered.body, place)))

    return spoil


def spoiled(data: bytes, place: float = 0.5) -> bytes:
    """``data`` with one byte changed."""
    changed = bytearray(data)
    changed[int(place * len(data))] ^= 1
    return bytes(changed)


# Proxies --------------------------------------------------------------------------------------


@dataclass
class _Planned:
    meets: Meets
    spoil: Spoil
    left: int


class FaultyHttp:
    """Stands before an HTTP server. An async context manager.

    ``on_fault``, where set, is called at the first fault, before it is made.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.upstream = f"{parts.scheme}://{parts.netloc}"
        self.url = ""
        """Where the server is reached through here, the path of ``upstream`` included."""
        self.made = 0
        """Faults so far."""
        self.passed: list[str] = []
        """Requests that were answered well and unspoiled: method, path and query."""
        self.on_fault: Callable[[], object] | None = None
        self._path = parts.path
        self._planned: list[_Planned] = []
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None), shutdown_timeout=0.1
        )

    def spoil(self, meets: Meets, fault: Spoil, times: int = 1) -> None:
        """Make a fault of the next requests that meet."""
        self._planned.append(_Planned(meets, fault, times))

    def be_good(self) -> None:
        """Make no more faults."""
        self._planned.clear()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}{self._path}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        exchange = Exchange(request, self._ask)
        for planned in self._planned:
            if planned.left and planned.meets(request):
                planned.left -= 1
                self.made += 1
                if self.made == 1 and self.on_fault is not None:
                    self.on_fault()
                return await planned.spoil(exchange)
        try:
            answered = await exchange.ask()
            if answered.status < HTTPStatus.BAD_REQUEST:
                self.passed.append(f"{request.method} {request.raw_path}")
            return await exchange.give(answered)
        except (aiohttp.ClientError, ConnectionError):
            return exchange.hang_up()

    async def _ask(self, request: web.BaseRequest, body: bytes) -> Answer:
        url = yarl.URL(self.upstream + request.raw_path, encoded=True)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP}
        async with self._session.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as answered:
            passed = {k: v for k, v in answered.headers.items() if k.lower() not in HOP}
            return Answer(answered.status, passed, await answered.read())

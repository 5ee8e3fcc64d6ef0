"""A proxy before an S3 server that counts what passes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Self

import aiohttp
import yarl
from aiohttp import web

SMALLEST_PART = 65536
SLOW_DOWN = "<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect"}


class CountingProxy:
    """Passes every request on, unchanged (the Host header too, which is signed)."""

    def __init__(self, upstream: str) -> None:
        self.endpoint = ""
        self.parts: Counter[int] = Counter()
        """Parts by number that the server said it has."""
        self.came: list[tuple[float, str, int]] = []
        """Bytes of bodies: when, for which path, how many."""
        self.throttling = threading.Event()
        """While set, whatever is sent is refused with 503 SlowDown and a Retry-After of 1 s."""
        self.refused = 0
        self._upstream = upstream.rstrip("/")
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._pass)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            self._session = session
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._started.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        if request.method == "PUT" and self.throttling.is_set():
            self.refused += 1
            return web.Response(status=503, text=SLOW_DOWN, headers={"Retry-After": "1"})
        url = yarl.URL(f"{self._upstream}{request.raw_path}", encoded=True)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP}
        body = self._body(request) if request.can_read_body else None
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as answer:
                self._count(request, answer.status)
                content = await answer.read()
                passed = {k: v for k, v in answer.headers.items() if k.lower() not in HOP}
                if request.method == "HEAD":
                    return web.Response(status=answer.status, headers=passed)
                passed.pop("Content-Length", None)
                return web.Response(status=answer.status, headers=passed, body=content)
        except (aiohttp.ClientError, ConnectionError) as error:
            return web.Response(status=502, text=str(error))

    async def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        async for chunk in request.content.iter_any():
            self.came.append((time.monotonic(), request.path, len(chunk)))
            yield chunk

    def _count(self, request: web.Request, status: int) -> None:
        # A few bytes are no part: a store is asked so whether it counts checksums.
        whole = (request.content_length or 0) >= SMALLEST_PART
        if request.method == "PUT" and whole and status == web.HTTPOk.status_code:
            number = request.query.get("partNumber")
            if number is not None:
                self.parts[int(number)] += 1

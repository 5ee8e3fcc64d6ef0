"""A WebDAV server that is hostile: what it answers fills nothing and leads nowhere."""

from __future__ import annotations

import contextlib
import gzip
import resource
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.destinations.webdav_client import LONGEST_ANSWER, WebDavClient
from pipeline.errors import DestinationError, DestinationUnreachableError
from pipeline.messages import DestinationSpec

MIB = 1024 * 1024
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[tuple[WebDavClient, str]]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as running:
        url = str(running.make_url("/dav"))
        client = WebDavClient(DestinationSpec(name="dav", type="webdav", url=url))
        try:
            yield client, url
        finally:
            await client.aclose()


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try tells enough."""
    monkeypatch.setattr("pipeline.destinations.retry.TRIES", 1)


async def test_an_endless_listing_is_cut_off_in_bounded_memory() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=207)
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                await answer.write(b" " * MIB)
        return answer

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with server(handler) as (client, url):
        with pytest.raises(DestinationUnreachableError):
            await client.members(url)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 6 * LONGEST_ANSWER


async def test_a_packed_listing_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(100 * MIB), 1)

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=207, body=bomb, headers={"Content-Encoding": "gzip"})

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with server(handler) as (client, url):
        with pytest.raises(DestinationUnreachableError):
            await client.members(url)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 50 * MIB


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_leads_to_no_other_server(status: int) -> None:
    met: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        if "elsewhere" in request.path:
            met.append(request.method)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with server(handler) as (client, url):
        for method in ("PROPFIND", "MKCOL", "MOVE", "DELETE", "HEAD", "GET"):
            with pytest.raises(DestinationError):
                await client.request(method, f"{url}/a")
    assert met == []

"""A server in this process that answers as a test wants: :func:`strange_api`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from aiohttp.test_utils import TestServer

from daemon.broker.guard import Guard
from daemon.settings import Api

KEY, SECRET = "strange", "a strange secret"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def strange_api(handler: Handler, base: str = "/") -> AsyncIterator[Api]:
    """Settings that reach a server whose every answer is ``handler``'s."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        url = str(server.make_url(base))
        yield Api(url=url, hawk_key=KEY, hawk_secret=SECRET, timeout=2.0)


async def signed(request: web.Request, body: bytes, kind: str = "application/json") -> web.Response:
    """An answer with a valid signature."""
    url = f"http://{request.host}{request.raw_path}"
    content = await request.read()
    guard = Guard(KEY, SECRET, clock=lambda: float(_stated(request)))
    header, sent = request.headers["Authorization"], request.headers.get("Content-Type", "")
    admission = guard.admit(header, request.method, [url], content, sent)
    headers = {"Content-Type": kind, "Server-Authorization": admission.sign(body, kind)}
    return web.Response(body=body, headers=headers)


def _stated(request: web.Request) -> str:
    """The time that the client signed."""
    found = re.search(r'\bts="(\d+)"', request.headers["Authorization"])
    assert found is not None
    return found[1]

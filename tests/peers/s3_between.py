"""A stand-in for an S3 store's moods: it stands between us and a real one, or behind nobody.

It writes down what it was asked, and answers by itself what it is told to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import aiohttp
from aiohttp import web
from yarl import URL

ERROR = '<?xml version="1.0"?><Error><Code>{0}</Code><Message>{0} it is</Message></Error>'

Meets = Callable[[web.BaseRequest], bool]


def operation(method: str, *, query: str = "") -> Meets:
    return lambda request: request.method == method and query in request.query_string


COMPLETE = operation("POST", query="uploadId=")
CREATE = operation("POST", query="uploads")
PARTS = operation("PUT", query="partNumber=")
HEAD = operation("HEAD")
GET = operation("GET")


def PUT(request: web.BaseRequest) -> bool:  # noqa: N802  # an operation like the others
    return request.method == "PUT" and "partNumber" not in request.query_string


class Seen(NamedTuple):
    """A request as it came in."""

    method: str
    host: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


class _Spoil(NamedTuple):
    meets: Meets
    make: Callable[[], web.Response] | None
    """None: the store does it, and the answer is lost."""


class Between:
    """A server on a free port; use it as an asynchronous context manager.

    Args:
        behind: The real store's endpoint; empty: what it isn't told to answer is an error.
    """

    def __init__(self, behind: str = "") -> None:
        self._behind = behind
        self._spoils: list[_Spoil] = []
        self._strips: list[tuple[Meets, str]] = []
        self._runner = web.ServerRunner(web.Server(self._handle))
        self.spoiled = 0
        self.seen: list[Seen] = []
        self.posted: list[bytes] = []
        """Bodies of POSTs: that of a Complete names the parts."""
        self.url = ""

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    def answer(
        self,
        meets: Meets,
        status: int,
        body: str = "",
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        *,
        ahead: bool = False,
    ) -> None:
        """Answer without asking the store; ``ahead`` of what was told before."""

        def make() -> web.Response:
            return web.Response(status=status, text=body, headers=headers)

        place = 0 if ahead else len(self._spoils)
        self._spoils[place:place] = [_Spoil(meets, make)] * times

    def lose(self, meets: Meets, times: int = 1) -> None:
        """Have the store do it, and hang up."""
        self._spoils += [_Spoil(meets, None)] * times

    def strip(self, meets: Meets, header: str) -> None:
        """Take a header out of every such answer."""
        self._strips.append((meets, header))

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(
            Seen(
                request.method,
                request.headers.get("Host", ""),
                request.path,
                dict(request.query),
                request.headers.copy(),
            )
        )
        spoil = next((spoil for spoil in self._spoils if spoil.meets(request)), None)
        body = await request.content.read()
        if request.method == "POST":
            self.posted.append(body)
        if spoil is not None:
            self._spoils.remove(spoil)
            self.spoiled += 1
            if spoil.make is not None:
                made = spoil.make()
                for meets, name in self._strips:
                    if meets(request):
                        made.headers.popall(name, None)
                return made
        if not self._behind:
            return web.Response(status=500, text=ERROR.format("InternalError"))
        return await self._asked(request, body, lost=spoil is not None)

    async def _asked(
        self, request: web.BaseRequest, body: bytes, *, lost: bool
    ) -> web.StreamResponse:
        url = URL(self._behind + request.raw_path, encoded=True)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, url, headers=request.headers, data=body, allow_redirects=False
            ) as answer,
        ):
            data = await answer.read()
            if lost:
                assert request.transport is not None
                request.transport.abort()
            headers = answer.headers.copy()
            if request.method != "HEAD":
                headers.popall("Content-Length", None)
            for meets, name in self._strips:
                if meets(request):
                    headers.popall(name, None)
            return web.Response(status=answer.status, body=data, headers=headers)

"""How a WebDAV server is reached: TLS, redirects, passwords, silence, and answers of any kind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from pipeline.destinations import open_destination
from pipeline.destinations.retry import TRIES
from pipeline.destinations.webdav import WebDavDestination
from pipeline.errors import (
    DestinationError,
    DestinationRefusedError,
    DestinationUnreachableError,
    VerificationError,
)
from pipeline.messages import DestinationSpec, StoredObject, Target
from tests.peers.certificates import self_signed
from tests.peers.deliveries import BytesBody
from tests.peers.webdav import RcloneWebDav

pytestmark = [pytest.mark.peers]

TARGET = Target(upload="0190", name="0190/x", size=10)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.destinations.retry.LONGEST_PAUSE", 0.05)


async def put(spec: DestinationSpec) -> StoredObject:
    destination = open_destination(spec)
    try:
        return await destination.put(TARGET, BytesBody(b"0123456789"), stale=False)
    finally:
        await destination.aclose()


@contextlib.asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[DestinationSpec]:
    """A server that answers everything alike."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        yield DestinationSpec(
            name="dav", type="webdav", url=f"http://127.0.0.1:{port}", user="u", password="s3cr3t"
        )
    finally:
        await runner.cleanup()


async def test_only_a_certificate_that_is_trusted_is_spoken_to(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with RcloneWebDav(tmp_path, certificate=certificate, key=key) as server:
        spec = DestinationSpec(
            name="dav", type="webdav", url=server.url, user=server.user, password=server.password
        )
        with pytest.raises(DestinationUnreachableError, match="certificate isn't trusted"):
            await put(spec)
        stored = await put(msgspec.structs.replace(spec, ca_file=str(certificate)))
        assert stored.verified == "readback"
        assert (server.directory / TARGET.name).read_bytes() == b"0123456789"


@pytest.mark.parametrize(
    "url",
    ["http://dav.example", "http://10.0.0.1/dav", "http://[fe80::1]/", "http://127.0.0.1.nip"],
)
def test_a_password_is_never_sent_over_an_open_line(url: str) -> None:
    spec = DestinationSpec(name="dav", type="webdav", url=url, user="u", password="s3cr3t")
    with pytest.raises(DestinationRefusedError, match="only sent by https"):
        WebDavDestination(spec)


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.0.0.7", "http://[::1]:80/a"])
def test_within_the_machine_it_is(url: str) -> None:
    WebDavDestination(
        DestinationSpec(name="dav", type="webdav", url=url, user="u", password="s3cr3t")
    )


async def test_a_redirect_is_not_followed() -> None:
    asked: list[str] = []

    async def redirect(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with answering(redirect) as spec:
        with pytest.raises(DestinationRefusedError, match="elsewhere"):
            await put(spec)
    assert asked == ["/0190/x"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, DestinationRefusedError),
        (403, DestinationRefusedError),
        (413, DestinationRefusedError),
        (423, DestinationUnreachableError),
        (429, DestinationUnreachableError),
        (500, DestinationUnreachableError),
        (502, DestinationUnreachableError),
        (507, DestinationRefusedError),
    ],
)
async def test_an_answer_has_its_code(status: int, kind: type[DestinationError]) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="<s:message>why\x1b[31m &amp; how</s:message>")

    async with answering(answer) as spec:
        with pytest.raises(kind, match=rf"{status}: why \[31m & how$") as caught:
            await put(spec)
    assert type(caught.value) is kind
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(("status", "asked"), [(429, None), (429, "90"), (503, "90")])
async def test_a_server_that_wants_less_is_left_alone_for_as_long_as_it_asks(
    status: int, asked: str | None
) -> None:
    requests = 0

    async def busy(_: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        return web.Response(status=status, headers={"Retry-After": asked} if asked else {})

    async with answering(busy) as spec:
        with pytest.raises(DestinationUnreachableError) as caught:
            await put(spec)
    assert caught.value.throttled
    assert caught.value.retry_after == (float(asked) if asked else None)
    assert requests == (1 if asked else TRIES)


async def test_a_web_server_that_is_none_of_webdav_is_refused() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>Welcome</html>")

    async with answering(answer) as spec:
        with pytest.raises(DestinationRefusedError, match="no WebDAV server"):
            await put(spec)


async def test_a_server_that_takes_no_bytes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.destinations.webdav_client.SILENCE_TIMEOUT", 0.3)
    monkeypatch.setattr("pipeline.destinations.retry.TRIES", 1)

    async def silent(request: web.Request) -> web.StreamResponse:
        if request.method == "PROPFIND":
            raise web.HTTPNotFound
        if request.method == "PUT":
            await asyncio.sleep(5)
        return web.Response(status=201)

    async with answering(silent) as spec:
        with pytest.raises(DestinationUnreachableError, match="in time"):
            await put(spec)


async def test_a_server_that_keeps_something_else_is_found_out() -> None:
    names: set[str] = set()

    async def forgetful(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            names.add(request.path)
            return web.Response(status=201)
        if request.method == "DELETE":
            names.discard(request.path)
            return web.Response(status=204)
        if request.method == "GET":
            return web.Response(body=b"0123456780")
        if request.method == "PROPFIND":
            if request.path not in names:
                raise web.HTTPNotFound
            return web.Response(status=207, body=listing(request.path, 10))
        return web.Response(status=201)

    async with answering(forgetful) as spec:
        with pytest.raises(VerificationError, match="reads back differently"):
            await put(spec)
    assert names == set()


def listing(path: str, size: int) -> bytes:
    return (
        f'<multistatus xmlns="DAV:"><response><href>{path}</href><propstat><prop>'
        f"<getcontentlength>{size}</getcontentlength></prop><status>HTTP/1.1 200 OK</status>"
        "</propstat></response></multistatus>"
    ).encode()

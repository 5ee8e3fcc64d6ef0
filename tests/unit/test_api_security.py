"""The REST API, or whoever stands before it: what it says is proved, and leads nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from daemon.broker.broker import StudyBroker
from daemon.broker.client import ApiClient
from daemon.broker.guard import Guard, UnauthorizedError
from daemon.broker.hawk import Signature, Signer
from daemon.errors import ApiUnreachableError, PlanError
from tests.faults.cases.plans import ENDPOINTS
from tests.peers.intake import STUDY, settings_in
from tests.peers.strange_api import KEY, SECRET, signed, strange_api

URL = "https://api.example.org/uploads/"
JSON = "application/json"
BODY = b'{"id":"1"}'
Alter = Callable[[web.Response], web.Response]


@dataclasses.dataclass
class Trap:
    """A listener that counts who connects."""

    port: int = 0
    met: int = 0


@contextlib.asynccontextmanager
async def trap() -> AsyncIterator[Trap]:
    set_ = Trap()

    async def catch(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        set_.met += 1
        writer.close()

    server = await asyncio.start_server(catch, "127.0.0.1", 0)
    async with server:
        set_.port = server.sockets[0].getsockname()[1]
        yield set_


async def test_a_plan_leads_to_no_endpoint_that_is_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the client, the broker and the plan as they are; no name is even looked up."""
    said: list[str] = []
    looked_up: list[object] = []

    async def handler(request: web.Request) -> web.Response:
        place = {
            "type": "s3",
            "endpoint": said[-1],
            "bucket": "bucket",
            "access_key": "AK",
            "secret_key": "SK",
        }
        body = msgspec.json.encode({"encrypt": "none", "destinations": [place]})
        return await signed(request, body)

    async with trap() as caught, strange_api(handler) as api:
        port = caught.port
        forms = [
            f"http://127.0.0.1:{port}", f"http://localhost:{port}", f"HTTP://LOCALHOST:{port}",
            f"http://2130706433:{port}", f"http://0x7f000001:{port}", f"http://0177.0.0.1:{port}",
            f"http://127.1:{port}", f"http://[::1]:{port}", f"http://[::ffff:127.0.0.1]:{port}",
            f"http://[::ffff:7f00:1]:{port}", f"http://0:{port}", f"http://0.0.0.0:{port}",
            f"https://s3.example.org@127.0.0.1:{port}", f"http://127.0.0.1:{port}#s3.example.org",
            f"http://127.0.0.1:{port}?https://s3.example.org", f"http://127.0.0.1.nip.io:{port}",
            *(case.endpoint for case in ENDPOINTS if not case.allowed),
        ]  # fmt: skip
        settings = msgspec.structs.replace(
            settings_in(tmp_path),
            api=msgspec.structs.replace(
                api,
                inline_destinations=(
                    "https://s3.example.org",
                    "https://gateway.example.org:8443/tenants/a/",
                ),
            ),
        )
        known = socket.getaddrinfo

        def notice(host: object, *more: object, **options: object) -> object:
            looked_up.append(host)
            return known(host, *more, **options)  # type: ignore[arg-type]  # as it came

        monkeypatch.setattr(socket, "getaddrinfo", notice)
        async with ApiClient(settings.api, clock=time.time) as client:
            for form in forms:
                said.append(form)
                broker = StudyBroker(settings, client, clock=time.time)
                with pytest.raises(PlanError) as refused:
                    await broker.plan(STUDY)
                assert "SK" not in str(refused.value)
    assert caught.met == 0
    assert set(looked_up) <= {"127.0.0.1", b"127.0.0.1"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_api_s_redirect_leads_to_no_other_server(status: int) -> None:
    async with trap() as caught:

        async def handler(_: web.Request) -> web.Response:
            there = f"http://127.0.0.1:{caught.port}/"
            return web.Response(status=status, headers={"Location": there})

        async with strange_api(handler) as api, ApiClient(api, clock=time.time) as client:
            with pytest.raises(ApiUnreachableError):
                await client.study(STUDY)
            with pytest.raises(ApiUnreachableError):
                await client.report("1", {"report": "r"})
    assert caught.met == 0


def unsigned(answer: web.Response) -> web.Response:
    del answer.headers["Server-Authorization"]
    return answer


def another_body(answer: web.Response) -> web.Response:
    answer.body = b'{"encrypt":"none","destinations":[{"use":"evil"}]}'
    return answer


def another_type(answer: web.Response) -> web.Response:
    answer.headers["Content-Type"] = "text/plain"
    return answer


def no_hash(answer: web.Response) -> web.Response:
    header = answer.headers["Server-Authorization"]
    kept = [part for part in header.split(", ") if "hash=" not in part]
    answer.headers["Server-Authorization"] = ", ".join(kept)
    return answer


def another_mac(answer: web.Response) -> web.Response:
    header = answer.headers["Server-Authorization"]
    at = header.index('mac="') + 5
    letter = "A" if header[at] != "A" else "B"
    answer.headers["Server-Authorization"] = header[:at] + letter + header[at + 1 :]
    return answer


@pytest.mark.parametrize("alter", [unsigned, another_body, another_type, no_hash, another_mac])
async def test_an_answer_altered_on_its_way_is_not_believed(alter: Alter) -> None:
    async def handler(request: web.Request) -> web.Response:
        return alter(await signed(request, b'{"encrypt":"none"}'))

    async with strange_api(handler) as api, ApiClient(api, clock=time.time) as client:
        with pytest.raises(ApiUnreachableError, match="not believed"):
            await client.study(STUDY)


async def test_an_answer_that_was_signed_before_is_not_believed_again() -> None:
    """Neither for the same question asked once more, nor for another one."""
    heard: list[web.Response] = []

    async def handler(request: web.Request) -> web.Response:
        if not heard:
            heard.append(await signed(request, b'{"encrypt":"none"}'))
            return heard[0]
        return web.Response(body=b'{"encrypt":"none"}', headers=heard[0].headers)

    async with strange_api(handler) as api, ApiClient(api, clock=time.time) as client:
        await client.study(STUDY)
        for study in (STUDY, STUDY.replace("1", "2")):
            with pytest.raises(ApiUnreachableError, match="not believed"):
                await client.study(study)


async def test_an_answer_signed_with_another_secret_is_not_believed() -> None:
    async def handler(request: web.Request) -> web.Response:
        url = f"http://{request.host}{request.raw_path}"
        # Who doesn't know the secret takes whatever comes, and signs with one of its own.
        forged = Signer(KEY, "another secret").sign("GET", url, b"", "", int(time.time()))
        guard = Guard(KEY, "another secret", clock=time.time)
        body = b'{"encrypt":"none"}'
        proof = guard.admit(forged.header, "GET", [url], b"", "").sign(body, JSON)
        return web.Response(
            body=body, headers={"Content-Type": JSON, "Server-Authorization": proof}
        )

    async with strange_api(handler) as api, ApiClient(api, clock=time.time) as client:
        with pytest.raises(ApiUnreachableError, match="not believed"):
            await client.study(STUDY)


def sign(now: float, *, method: str = "POST", url: str = URL, body: bytes = BODY) -> Signature:
    return Signer(KEY, SECRET).sign(method, url, body, JSON, int(now))


def admit(
    signature: str, *, method: str = "POST", url: str = URL, body: bytes = BODY, kind: str = JSON
) -> None:
    Guard(KEY, SECRET, clock=time.time).admit(signature, method, [url], body, kind)


def test_what_was_signed_is_let_in() -> None:
    admit(sign(time.time()).header)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"url": URL + "?x=1"},
        {"url": "https://api.example.org/studies/"},
        {"url": "https://evil.example.org/uploads/"},
        {"url": "https://api.example.org:8443/uploads/"},
        {"url": "http://api.example.org/uploads/"},
        {"body": b'{"id":"2"}'},
        {"body": b""},
        {"body": BODY + b" "},
        {"kind": "text/plain"},
    ],
    ids=str,
)
def test_a_request_altered_on_its_way_is_not_let_in(change: dict[str, object]) -> None:
    header = sign(time.time()).header
    with pytest.raises(UnauthorizedError):
        admit(header, **change)  # type: ignore[arg-type]  # each is of its parameter's type


@pytest.mark.parametrize("off", [-86400, -3600, -120, 120, 3600, 86400])
def test_a_stale_request_is_not_let_in(off: int) -> None:
    with pytest.raises(UnauthorizedError):
        admit(sign(time.time() + off).header)


def test_a_request_with_another_nonce_or_time_is_not_let_in() -> None:
    header = sign(time.time()).header
    for name in ("nonce", "ts", "id", "hash"):
        at = header.index(f'{name}="') + len(name) + 2
        letter = "1" if header[at] != "1" else "2"
        with pytest.raises(UnauthorizedError):
            admit(header[:at] + letter + header[at + 1 :])

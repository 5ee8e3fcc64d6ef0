"""`dropoffd api` as people and machines meet it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from daemon.broker import serving
from daemon.broker.client import ApiClient
from daemon.broker.hawk import Signer
from daemon.config import load
from daemon.errors import ApiRefusedError
from daemon.plan import Announcing
from tests.peers.reference_api import ReferenceServer, study_table

OPEN = "11111111-2222-4333-8444-555555555555"
HOSTILE = "<script>alert('x')</script>&amp;\u202e.bam"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceServer]:
    with ReferenceServer(tmp_path_factory.mktemp("api"), study_table(OPEN)) as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ReferenceServer]:
    """A server of the test's own, that it may end."""
    with ReferenceServer(tmp_path, study_table(OPEN)) as running:
        yield running


@contextlib.asynccontextmanager
async def client(server: ReferenceServer) -> AsyncIterator[ApiClient]:
    async with ApiClient(server.api, clock=time.time) as asked:
        yield asked


def announcing(filename: str = "reads.bam", key: str = "") -> Announcing:
    return Announcing(
        key=key or str(uuid.uuid4()),
        study=OPEN.upper(),
        filename=filename,
        size=5 * 1024**2,
        metadata={},
        client="",
        server="rustus",
        tus_id="t1",
    )


def report(state: str, sequence: int) -> dict[str, Any]:
    return {"report": str(uuid.uuid4()), "sequence": sequence, "state": state}


async def get(server: ReferenceServer, path: str, *, signed: bool) -> tuple[int, Any]:
    """Status and JSON of a GET."""
    url = server.api.url + path
    signer = Signer(server.key, server.secret)
    signature = signer.sign("GET", url, b"", "", int(time.time()))
    headers = {"Authorization": signature.header} if signed else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        body = await answer.read()
        if signed:
            kind = answer.headers["Content-Type"]
            signature.verify(answer.headers.get("Server-Authorization"), body, kind)
        return answer.status, msgspec.json.decode(body)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_success(own: ReferenceServer, number: signal.Signals) -> None:
    assert own.stop(number) == 0


async def test_an_idle_connection_does_not_hold_up_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than any test: one that waits for the connection would not come to its end.
    monkeypatch.setattr(serving, "_LAST_ANSWERS_WITHIN", 3600.0)
    laid_out = ReferenceServer(tmp_path, study_table(OPEN))
    settings = load(tmp_path / "config.toml", laid_out.environment())
    ready: asyncio.Queue[str] = asyncio.Queue()
    served = asyncio.create_task(serving.serve(settings, "127.0.0.1", 0, ready.put_nowait))
    port = urlsplit(await ready.get()).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    os.kill(os.getpid(), signal.SIGTERM)
    await served
    assert await reader.read() == b""
    writer.close()


def test_without_credentials_it_does_not_start(tmp_path: Path) -> None:
    server = ReferenceServer(tmp_path, study_table(OPEN))
    environment = server.environment()
    del environment["DROPOFF_API_HAWK_SECRET"]
    done = subprocess.run(
        server.command("127.0.0.1:0"), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 78
    assert "DROPOFF_API_HAWK_SECRET" in done.stderr
    assert server.key not in done.stderr


def test_a_port_in_use_is_told(server: ReferenceServer) -> None:
    done = subprocess.run(
        server.command(f"127.0.0.1:{server.port}"),
        env=server.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "in use" in done.stderr


@pytest.mark.parametrize("listen", ["8120", "127.0.0.1:", "127.0.0.1:65536", "host:1:2"])
def test_a_listen_address_of_another_shape_is_wrong_usage(tmp_path: Path, listen: str) -> None:
    server = ReferenceServer(tmp_path, study_table(OPEN))
    done = subprocess.run(
        server.command(listen),
        env=server.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "HOST:PORT" in done.stderr


async def test_drops_and_reports_outlive_a_kill(own: ReferenceServer) -> None:
    upload, received = announcing(), report("received", 1)
    async with client(own) as asked:
        given = await asked.announce(upload)
        await asked.report(given, received)
        own.stop(signal.SIGKILL)
        own.start()
        assert await asked.announce(upload) == given
        await asked.report(given, received)
        with pytest.raises(ApiRefusedError) as refused:
            await asked.report(given, received | {"sequence": 2})
        assert refused.value.status == 409
    with contextlib.closing(sqlite3.connect(own.state / "api.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM drops").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM reports").fetchone() == (1,)


async def test_the_same_announcement_many_times_at_once_is_one_drop(
    server: ReferenceServer,
) -> None:
    upload = announcing()
    async with client(server) as asked:
        given = await asyncio.gather(*(asked.announce(upload) for _ in range(20)))
    assert len(set(given)) == 1


async def test_a_report_of_another_upload_under_a_known_uuid_is_a_conflict(
    server: ReferenceServer,
) -> None:
    body = report("received", 1)
    async with client(server) as asked:
        await asked.report(await asked.announce(announcing()), body)
        other = await asked.announce(announcing())
        with pytest.raises(ApiRefusedError) as refused:
            await asked.report(other, body)
    assert refused.value.status == 409


async def test_a_report_of_no_upload_is_refused(server: ReferenceServer) -> None:
    async with client(server) as asked:
        with pytest.raises(ApiRefusedError, match="No such upload") as refused:
            await asked.report("nobody", report("received", 1))
    assert refused.value.status == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"report": "", "sequence": 1, "state": "stored"},
        report("eaten", 1),
        report("stored", -1),
    ],
)
async def test_a_report_of_another_shape_is_refused(
    server: ReferenceServer, body: dict[str, Any]
) -> None:
    async with client(server) as asked:
        given = await asked.announce(announcing())
        with pytest.raises(ApiRefusedError, match="not understood") as refused:
            await asked.report(given, body)
    assert refused.value.status == 400


async def test_the_list_and_one_upload_come_signed(server: ReferenceServer) -> None:
    async with client(server) as asked:
        first, second = await asked.announce(announcing()), await asked.announce(announcing())
        sent = [report("received", 1), report("stored", 3), report("processing", 2)]
        for body in sent:
            await asked.report(first, body)
    status, listed = await get(server, f"uploads/?limit=2&study={OPEN}", signed=True)
    assert status == 200
    assert [one["id"] for one in listed["uploads"]] == [second, first]
    status, shown = await get(server, f"uploads/{first}/", signed=True)
    assert status == 200
    assert shown["reports"] == sent
    assert shown["state"] == "stored"
    assert shown["filename"] == "reads.bam"


@pytest.mark.parametrize("path", ["uploads/", f"studies/{OPEN}/", "uploads/1/"])
async def test_strangers_see_nothing(server: ReferenceServer, path: str) -> None:
    status, said = await get(server, path, signed=False)
    assert status == 401
    assert said == {"detail": "HAWK authentication is needed."}


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=-1"])
async def test_a_list_without_end_is_refused(server: ReferenceServer, query: str) -> None:
    status, _ = await get(server, f"uploads/?{query}", signed=True)
    assert status == 400


async def test_the_overview_shows_hostile_names_as_text(server: ReferenceServer) -> None:
    async with client(server) as asked:
        await asked.announce(announcing(HOSTILE))
    async with aiohttp.ClientSession() as session, session.get(server.api.url) as answer:
        page = await answer.text()
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;amp;" in page
    assert "5.0 MiB" in page
    assert OPEN.upper() in page


async def test_the_description_is_openapi_and_names_every_request(server: ReferenceServer) -> None:
    url = server.api.url + "openapi.json"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        described = await answer.json()
    assert described["openapi"] == "3.1.0"
    requests = {(path, method) for path, item in described["paths"].items() for method in item}
    assert {
        ("/v1/uploads/", "post"),
        ("/v1/studies/{study}/", "get"),
        ("/v1/uploads/{upload}/reports/", "post"),
    } <= requests
    text = msgspec.json.encode(described).decode()
    names = {part.split('"')[0] for part in text.split('"#/components/')[1:]}
    for name in names:
        kind, _, leaf = name.partition("/")
        assert leaf in described["components"][kind]


async def test_its_files_are_nobody_elses(server: ReferenceServer) -> None:
    async with client(server) as asked:
        await asked.announce(announcing())
    files = list(server.state.glob("api.sqlite*"))
    assert files
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)

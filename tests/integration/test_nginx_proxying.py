"""What else nginx tells the tus server, and how bytes go through it."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import subprocess
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.peers import cache
from tests.peers.certificates import self_signed
from tests.peers.intake import until
from tests.peers.nginx import Nginx
from tests.peers.recorder import Recorder
from tests.peers.tus_client import TusClient
from tests.peers.tusd import Tusd, free_port
from tests.peers.virtual_url import BASE64, CREATE, STUDY, UPLOAD, Way, metadata

pytestmark = pytest.mark.peers


def test_the_server_is_told_who_asks_and_how(flat: Way) -> None:
    request = flat.passed(
        "POST", CREATE, ("Forwarded", "host=evil"), ("X-Forwarded-Host", "evil"), ("Origin", "x")
    )
    host = f"127.0.0.1:{flat.nginx.port}"
    assert request.header("host") == [host]
    assert request.header("x-forwarded-host") == [host]
    assert request.header("x-forwarded-proto") == ["http"]
    assert request.header("x-forwarded-for") == ["127.0.0.1"]
    assert (request.header("forwarded"), request.header("origin")) == ([], ["x"])


def test_the_hosts_lines_for_tls_work_and_its_locations_say_https(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    trusting = ssl.create_default_context(cafile=certificate[0])
    with (
        Recorder() as server,
        Nginx(tmp_path / "nginx", server.url, certificate=certificate) as nginx,
    ):
        host = f"127.0.0.1:{nginx.port}"
        server.answer = {"Location": f"http://{host}/files/a1"}
        connection = http.client.HTTPSConnection(host, timeout=20, context=trusting)
        connection.request("POST", CREATE)
        with connection.getresponse() as answer:
            assert answer.headers["Location"] == f"https://{host}{CREATE}a1"
        connection.close()
        (request,) = server.taken()
    assert request.header("x-forwarded-proto") == ["https"]


def test_http_2_carries_one_study_and_one_location(tmp_path: Path) -> None:
    curl = cache.tool("curl", "HTTP/2")
    certificate = self_signed(tmp_path)
    with (
        Recorder() as server,
        Nginx(tmp_path / "nginx", server.url, certificate=certificate) as nginx,
    ):
        server.answer = {"Location": f"http://127.0.0.1:{nginx.port}/files/a1"}
        url = nginx.url(STUDY).replace("http:", "https:")
        options = ["--silent", "--http2", "--cacert", str(certificate[0]), "--dump-header", "-"]
        options += ["--request", "POST", "--header", "Upload-Metadata: a YQ==,Study eA=="]
        said = subprocess.run(
            [curl, *options, url], capture_output=True, text=True, check=True
        ).stdout
        (request,) = server.taken()
    first, *lines = said.splitlines()
    locations = [line for line in lines if line.lower().startswith("location:")]
    assert first.startswith("HTTP/2 201")
    assert metadata(request) == f"a YQ==,study {BASE64}"
    assert locations == [f"location: {url}a1"]


async def test_bytes_are_on_the_servers_disk_while_they_still_come(tmp_path: Path) -> None:
    uploads = tmp_path / "uploads"
    tusd = Tusd(uploads, port=free_port())
    with tusd, Nginx(tmp_path / "nginx", tusd.url) as nginx:
        async with TusClient(nginx.url(STUDY)) as client:
            path = urlsplit(await client.create(10_000_000)).path
            head = (
                f"PATCH {path} HTTP/1.1\r\nHost: h\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
                "Content-Type: application/offset+octet-stream\r\nContent-Length: 10000000\r\n\r\n"
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port)
            writer.write(head.encode() + bytes(3_000_000))
            await writer.drain()
            data = uploads / path.rpartition("/")[2]
            await until(lambda: data.stat().st_size == 3_000_000, "all of it is there")
            writer.close()
            assert reader.at_eof() is False


def test_bodies_go_through_whole(flat: Way) -> None:
    body = uuid.uuid4().bytes * 300_000
    status, _ = flat.ask("PATCH", CREATE + UPLOAD, (), body)
    (request,) = flat.server.taken()
    assert (status, request.body == body) == (201, True)
    assert not any((flat.nginx.directory / "body").iterdir())

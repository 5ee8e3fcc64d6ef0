"""The REST API over TLS: only with a certificate that is trusted."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from daemon.broker.client import ApiClient
from daemon.errors import ApiUnreachableError, ConfigError
from daemon.settings import Api


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "api of the tests")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, None)
    )
    certificate_file, key_file = directory / "api.pem", directory / "api.key"
    certificate_file.write_bytes(made.public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key_file.write_bytes(secret)
    return certificate_file, key_file


@contextlib.asynccontextmanager
async def https(directory: Path, ca_file: str) -> AsyncIterator[Api]:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=b"{}")

    app = web.Application()
    app.router.add_get("/studies/s/", handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate(directory))
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    try:
        yield Api(
            url=f"https://127.0.0.1:{server.port}/",
            hawk_key="key",
            hawk_secret="secret",
            unsigned_answers=True,
            timeout=5.0,
            ca_file=ca_file,
        )
    finally:
        await server.close()


async def test_a_certificate_of_the_configured_authority_is_trusted(tmp_path: Path) -> None:
    ca_file = str(tmp_path / "api.pem")
    async with https(tmp_path, ca_file) as api, ApiClient(api, clock=time.time) as client:
        assert await client.study("s") == b"{}"


async def test_a_certificate_of_nobody_known_is_not(tmp_path: Path) -> None:
    async with https(tmp_path, "") as api, ApiClient(api, clock=time.time) as client:
        with pytest.raises(ApiUnreachableError, match="certificate"):
            await client.study("s")


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_an_authority_that_can_not_be_read_is_told(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    api = Api(url="https://h/", hawk_key="key", hawk_secret="secret", ca_file=str(file))
    with pytest.raises(ConfigError, match=r"ca_file.*ca\.pem"):
        async with ApiClient(api, clock=time.time):
            pytest.fail("was opened")

"""MinIO: an S3 server that many institutes run, built from its last source by Go.

No suite builds or starts it, which takes minutes and gigabytes of sources: `pytest -m minio` does.
"""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Self

import botocore.client

from tests.peers import cache
from tests.peers.process import ServerProcess
from tests.peers.seaweedfs import free_ports, s3_client

VERSION = "20260212"
KMS_KEY = "the-key"
"""A key that the server has for SSE-KMS and SSE-S3."""
_MODULE = Path(__file__).with_name("minio_server")
_PACKAGE = "github.com/minio/minio"


def program() -> Path:
    """The program's path, built first if need be. Raises PeerMissingError."""
    go = cache.tool("go", "MinIO")

    def build(place: Path) -> None:
        # Go writes a go.sum beside go.mod: the checkout stays as it is.
        source = place / "source"
        shutil.copytree(_MODULE, source)
        environment = {"GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "0"}
        cache.run(
            [go, "build", "-o", place / "minio", _PACKAGE],
            cwd=source,
            env=environment,
            timeout=3600,
        )

    made_of: list[Path | str] = [_MODULE / "go.mod", _MODULE / "tools.go", _PACKAGE]
    return cache.built(f"minio-{VERSION}", made_of, build) / "minio"


class Minio:
    """A server of its own, on one directory; use it as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.access_key = "tests-access-key"
        self.secret_key = "tests-secret-key-0123456789"
        directory.mkdir(parents=True, exist_ok=True)
        port, console = free_ports(2)
        self.endpoint = f"http://127.0.0.1:{port}"
        key = base64.b64encode(bytes(range(32))).decode()
        self._process = ServerProcess(
            [
                *(str(program()), "server", str(directory / "data"), "--quiet"),
                *("--address", f"127.0.0.1:{port}", "--console-address", f"127.0.0.1:{console}"),
            ],
            port,
            directory / "minio.log",
            {
                "HOME": str(directory),
                "MINIO_ROOT_USER": self.access_key,
                "MINIO_ROOT_PASSWORD": self.secret_key,
                "MINIO_KMS_SECRET_KEY": f"{KMS_KEY}:{key}",
                "MINIO_BROWSER": "off",
                "MINIO_UPDATE": "off",
            },
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()

    def client(self) -> botocore.client.BaseClient:
        return s3_client(self.endpoint, self.access_key, self.secret_key)

    def make_bucket(self, name: str, *, locks: bool = False) -> None:
        """Make a bucket, with object locks where they are asked for."""
        self.client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=locks)

"""Every kind of storage as a running server, and one way to look into all of them.

:data:`PLACES` is the axis of the tests that have to hold for all: who has another store adds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pipeline.messages import DestinationSpec
from tests.peers.ceph import Ceph
from tests.peers.minio import Minio
from tests.peers.rclone_s3 import RcloneS3
from tests.peers.remote_stores import running
from tests.peers.seaweedfs import Weed, s3_client
from tests.peers.stores import Looked, unfinished

BUCKET = "store"


class Place(Looked, Protocol):
    """A running store."""

    @property
    def spec(self) -> DestinationSpec:
        """How it is reached."""


@dataclass(frozen=True)
class Bucket:
    """A bucket, looked into by a client of others."""

    spec: DestinationSpec

    async def read(self, name: str) -> bytes:
        client = self._client

        def read() -> bytes:
            data: bytes = client.get_object(Bucket=self.spec.bucket, Key=name)["Body"].read()
            return data

        return await asyncio.to_thread(read)

    async def files(self) -> list[str]:
        client = self._client

        def look() -> list[str]:
            objects = client.list_objects_v2(Bucket=self.spec.bucket).get("Contents", ())
            try:
                growing = client.list_multipart_uploads(Bucket=self.spec.bucket).get("Uploads", ())
            except client.exceptions.NoSuchUpload:  # rclone's word for none
                growing = ()
            names = [str(found["Key"]) for found in objects]
            return sorted([*names, *(unfinished(found["Key"]) for found in growing)])

        return await asyncio.to_thread(look)

    async def etag(self, name: str) -> str:
        found = await asyncio.to_thread(self._client.head_object, Bucket=self.spec.bucket, Key=name)
        return str(found["ETag"]).strip('"')

    def write(self, name: str, data: bytes) -> None:
        """Replace an object's bytes behind our back, and leave all else as it was."""
        client = self._client
        there = client.head_object(Bucket=self.spec.bucket, Key=name)
        client.put_object(Bucket=self.spec.bucket, Key=name, Body=data, Metadata=there["Metadata"])

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401  # botocore makes its classes when it runs
        return s3_client(self.spec.endpoint, self.spec.access_key, self.spec.secret_key)


@dataclass(frozen=True)
class Folder:
    """A directory of this machine."""

    spec: DestinationSpec

    async def read(self, name: str) -> bytes:
        return (Path(self.spec.directory) / name).read_bytes()

    async def files(self) -> list[str]:
        root = self.spec.directory
        found = [Path(at) / name for at, _, names in os.walk(root) for name in names]
        return sorted(str(path.relative_to(root)) for path in found)

    async def etag(self, name: str) -> str:
        del name
        return ""


@contextlib.asynccontextmanager
async def seaweedfs(directory: Path) -> AsyncIterator[Place]:
    with Weed(directory) as server:
        server.make_bucket(BUCKET)
        yield bucket_of("seaweedfs", server)


@contextlib.asynccontextmanager
async def rclone_s3(directory: Path) -> AsyncIterator[Place]:
    server = RcloneS3(directory)
    server.make_bucket(BUCKET)
    with server:
        yield bucket_of("rclone-s3", server)


@contextlib.asynccontextmanager
async def ceph(directory: Path) -> AsyncIterator[Place]:
    with Ceph(directory) as server:
        server.make_bucket(BUCKET)
        yield bucket_of("ceph", server)


@contextlib.asynccontextmanager
async def minio(directory: Path) -> AsyncIterator[Place]:
    with Minio(directory) as server:
        server.make_bucket(BUCKET)
        yield bucket_of("minio", server)


@contextlib.asynccontextmanager
async def folder(directory: Path) -> AsyncIterator[Place]:
    yield Folder(DestinationSpec(name="folder", type="directory", directory=str(directory)))


def bucket_of(name: str, server: Weed | RcloneS3 | Ceph | Minio) -> Bucket:
    """The one that every server here has, as a destination of that name."""
    return Bucket(
        DestinationSpec(
            name=name,
            type="s3",
            endpoint=server.endpoint,
            bucket=BUCKET,
            access_key=server.access_key,
            secret_key=server.secret_key,
        )
    )


def _remote(kind: str) -> Opens:
    return lambda directory: running(kind, directory)


Opens = Callable[[Path], AbstractAsyncContextManager[Place]]

PLACES: dict[str, Opens] = {
    "SeaweedFS": seaweedfs,
    "rclone serve s3": rclone_s3,
    "directory": folder,
    "rclone serve webdav": _remote("webdav"),
    "nextcloud_like": _remote("nextcloud"),
    "OpenSSH": _remote("openssh"),
    "rclone serve sftp": _remote("rclone sftp"),
}
"""By name, what starts one in a directory of its own."""

OPTIONAL: dict[str, Opens] = {"Ceph": ceph, "MinIO": minio}
"""Likewise, of what no suite starts: each has a mark of its name."""

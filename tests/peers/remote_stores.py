"""The storages that a delivery reaches by the names of files, one way to look into all of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import aiohttp
import asyncssh

from pipeline.messages import DestinationSpec
from tests.peers.deliveries import MIB
from tests.peers.nextcloud_like import NextcloudLike
from tests.peers.sftp import OpenSsh, RcloneSftp
from tests.peers.stores import unfinished
from tests.peers.webdav import RcloneWebDav

KINDS = ("nextcloud", "webdav", "openssh", "rclone sftp")


@dataclass(frozen=True)
class Store:
    """A running server, and what it stores."""

    spec: DestinationSpec
    root: Path
    part: int = MIB
    """Bytes of a part, the shortest that it takes."""
    chunks: Path | None = None

    async def read(self, name: str) -> bytes:
        """An object's bytes, from the server's own disk."""
        return (self.root / name).read_bytes()

    def lay(self, name: str, data: bytes) -> None:
        """Put a file there without asking the server."""
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(data)

    async def files(self) -> list[str]:
        """Everything that is there, unfinished or not."""
        found = [path for path in self.root.rglob("*") if path.is_file()]
        names = [str(path.relative_to(self.root)) for path in found]
        if self.chunks is not None:
            names += [unfinished(folder.name) for folder in self.chunks.iterdir()]
        return sorted(names)

    async def etag(self, name: str) -> str:
        """As a WebDAV server tells it; empty where nobody does."""
        if not self.spec.url:
            return ""
        url = f"{self.spec.url.rstrip('/')}/{quote(name)}"
        login = aiohttp.encode_basic_auth(self.spec.user, self.spec.password)
        asked = aiohttp.request("HEAD", url, headers={"Authorization": login})
        async with asked as answer:
            answer.raise_for_status()
            return answer.headers.get("ETag", "").removeprefix("W/").strip('"')


@dataclass(frozen=True, kw_only=True)
class AskedStore(Store):
    """Likewise, of a server that has to be asked."""

    server: RcloneSftp

    async def read(self, name: str) -> bytes:
        async with self.server.session() as session, session.open(name, "rb") as file:
            data: bytes = await file.read()
            return data

    async def files(self) -> list[str]:
        async with self.server.session() as session:
            found = await session.glob_sftpname("**")
            return sorted(
                str(each.filename)
                for each in found
                if each.attrs.type == asyncssh.FILEXFER_TYPE_REGULAR
            )


@contextlib.asynccontextmanager
async def running(kind: str, directory: Path) -> AsyncIterator[Store]:
    """A server of that kind."""
    async with contextlib.AsyncExitStack() as stack:
        if kind == "nextcloud":
            cloud = await stack.enter_async_context(NextcloudLike(directory))
            spec = DestinationSpec(
                name=kind, type="webdav", url=cloud.url, user=cloud.user, password=cloud.password
            )
            yield Store(spec, cloud.files, 5 * MIB, cloud.uploads)
        elif kind == "webdav":
            dav = stack.enter_context(RcloneWebDav(directory))
            spec = DestinationSpec(
                name=kind, type="webdav", url=dav.url, user=dav.user, password=dav.password
            )
            yield Store(spec, dav.directory)
        elif kind == "openssh":
            ssh = stack.enter_context(OpenSsh(directory))
            spec = DestinationSpec(
                name=kind,
                type="sftp",
                host="127.0.0.1",
                port=ssh.port,
                user=ssh.user,
                key=str(ssh.key_file),
                host_keys=str(ssh.known_hosts(directory / "known_hosts")),
                directory=str(ssh.directory),
            )
            yield Store(spec, ssh.directory)
        else:
            sftp = stack.enter_context(RcloneSftp(directory))
            spec = DestinationSpec(
                name="rclone",
                type="sftp",
                host="127.0.0.1",
                port=sftp.port,
                user=sftp.user,
                password=sftp.password,
                host_keys=sftp.host_key,
            )
            yield AskedStore(spec, sftp.directory, server=sftp)

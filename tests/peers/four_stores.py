"""The four kinds of storage that hold unfinished parts out of sight, side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.peers.nextcloud_like import NextcloudLike
from tests.peers.proxy import CountingProxy
from tests.peers.seaweedfs import Weed
from tests.peers.sftp import OpenSsh
from tests.peers.stores import UNFINISHED, Bucket, Folder, Store

BUCKET = "followed"
NAMES = ("archive", "folder", "inbox", "cloud")


class Cloud(Folder):
    """What a user's files are, and the chunks that are none yet."""

    def __init__(self, cloud: NextcloudLike) -> None:
        super().__init__(cloud.files)
        self._cloud = cloud

    def etag(self, name: str) -> str:
        return self._cloud.etag(name)

    def unfinished(self) -> list[str]:
        return super().unfinished() + [folder.name for folder in self._cloud.uploads.iterdir()]


class FourStores:
    """A bucket, a directory, an SFTP server's directory and a cloud; an async context manager.

    ``weed`` runs already, and is spoken to by way of :attr:`proxy`, which counts. It has no room
    for many buckets: in that of all tests ``prefix`` is what their names begin with here.
    """

    def __init__(self, directory: Path, weed: Weed, prefix: str) -> None:
        self.folder = directory / "folder"
        for name in ("folder", "ssh", "cloud"):
            (directory / name).mkdir()
        self.ssh = OpenSsh(directory / "ssh")
        self.cloud = NextcloudLike(directory / "cloud")
        self.proxy = CountingProxy(weed.endpoint)
        self._weed = weed
        self._prefix = prefix
        self._client: Any = weed.client()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        with contextlib.suppress(self._client.exceptions.BucketAlreadyOwnedByYou):
            self._client.create_bucket(Bucket=BUCKET)
        self._stack.enter_context(self.ssh)
        self._stack.enter_context(self.proxy)
        await self._stack.enter_async_context(self.cloud)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def config(self) -> str:
        """The destinations' tables, TOML."""
        return (
            f'[destinations.archive]\ntype = "s3"\nendpoint = "{self.proxy.endpoint}"\n'
            f'bucket = "{BUCKET}"\nregion = "us-east-1"\n'
            f'[destinations.folder]\ntype = "directory"\ndirectory = "{self.folder}"\n'
            f'[destinations.inbox]\ntype = "sftp"\nhost = "127.0.0.1"\nport = {self.ssh.port}\n'
            f'user = "{self.ssh.user}"\nhost_keys = "{self.ssh.host_key}"\n'
            f'directory = "{self.ssh.directory}"\n'
            f'[destinations.cloud]\ntype = "webdav"\nurl = "{self.cloud.url}"\n'
            f'user = "{self.cloud.user}"\n'
        )

    @property
    def secrets(self) -> Mapping[str, str]:
        """What the daemon's environment has to hold for them."""
        return {
            "DROPOFF_ARCHIVE_ACCESS_KEY": self._weed.access_key,
            "DROPOFF_ARCHIVE_SECRET_KEY": self._weed.secret_key,
            "DROPOFF_INBOX_KEY_FILE": str(self.ssh.key_file),
            "DROPOFF_CLOUD_PASSWORD": self.cloud.password,
        }

    @property
    def all(self) -> Mapping[str, Store]:
        """What each of them holds."""
        return {
            "archive": Bucket(self._weed, BUCKET, self._prefix),
            "folder": Folder(self.folder),
            "inbox": Folder(self.ssh.directory),
            "cloud": Cloud(self.cloud),
        }

    def finished(self) -> list[str]:
        """Everything that has its final name, wherever."""
        return [name for store in self.all.values() for name in store.names()]

    def unfinished(self) -> dict[str, int]:
        """How many unfinished objects each has."""
        return {name: len(store.unfinished()) for name, store in self.all.items()}

    def beginnings(self) -> dict[str, bytes]:
        """What is there of the only unfinished object, where it can be read."""
        chunks = sorted(path for path in self.cloud.uploads.rglob("*") if path.name.isdigit())
        return {
            "folder": _hidden(self.folder).read_bytes(),
            "inbox": _hidden(self.ssh.directory).read_bytes(),
            "cloud": b"".join(chunk.read_bytes() for chunk in chunks),
        }

    def uploaded(self) -> dict[int, int]:
        """The sizes of the parts of the bucket's only multipart upload, by number."""
        (upload,) = self._multiparts()
        listed = self._client.list_parts(
            Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"]
        )
        return {part["PartNumber"]: part["Size"] for part in listed.get("Parts", ())}

    def chunks_sent(self) -> list[str]:
        """The names of the chunks that the cloud was sent, in order."""
        sent = [seen for seen in self.cloud.requests if seen.startswith("PUT ")]
        return [path.rpartition("/")[2] for path in sent if "/uploads/" in path]

    def forget(self) -> None:
        """Each of them loses whatever is unfinished."""
        for upload in self._multiparts():
            self._client.abort_multipart_upload(
                Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"]
            )
        _hidden(self.folder).unlink()
        _hidden(self.ssh.directory).unlink()
        self.cloud.forget_uploads()

    def _multiparts(self) -> list[dict[str, Any]]:
        listed = self._client.list_multipart_uploads(Bucket=BUCKET)
        found: list[dict[str, Any]] = listed.get("Uploads", [])
        return [each for each in found if each["Key"].startswith(self._prefix)]


def _hidden(root: Path) -> Path:
    (found,) = root.rglob(f"*{UNFINISHED}")
    return found

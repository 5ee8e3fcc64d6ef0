"""What destinations hold, looked at from outside."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from tests.peers.seaweedfs import Weed

UNFINISHED = ".dropoffd-part"
_MARK = " (unfinished)"


def unfinished(name: str) -> str:
    """How something is listed that was begun, and of which nobody sees a file."""
    return f"{name}{_MARK}"


class Store(Protocol):
    """What a destination holds, looked at from outside."""

    def names(self) -> list[str]:
        """Finished objects."""

    def open(self, name: str) -> BinaryIO:
        """One of them."""

    def etag(self, name: str) -> str:
        """Its entity tag; empty where it has none."""

    def unfinished(self) -> list[str]:
        """Whatever was begun and not ended."""


class Folder:
    """A directory destination."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        files = (path for path in self._root.rglob("*") if path.is_file())
        return [
            str(path.relative_to(self._root))
            for path in files
            if not path.name.endswith(UNFINISHED)
        ]

    def open(self, name: str) -> BinaryIO:
        return (self._root / name).open("rb")

    def etag(self, name: str) -> str:
        del name
        return ""

    def unfinished(self) -> list[str]:
        return [str(path) for path in self._root.rglob(f"*{UNFINISHED}")]


class Bucket:
    """A bucket of a real S3 server, or what is in it below a prefix."""

    def __init__(self, weed: Weed, bucket: str, prefix: str = "") -> None:
        self._client = weed.client()
        self._bucket = bucket
        self._prefix = prefix

    def names(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def open(self, name: str) -> BinaryIO:
        body: BinaryIO = self._client.get_object(Bucket=self._bucket, Key=name)["Body"]
        return body

    def etag(self, name: str) -> str:
        found: str = self._client.head_object(Bucket=self._bucket, Key=name)["ETag"]
        return found.strip('"')

    def unfinished(self) -> list[str]:
        listed = self._client.list_multipart_uploads(Bucket=self._bucket)
        keys = [entry["Key"] for entry in listed.get("Uploads", ())]
        return [key for key in keys if key.startswith(self._prefix)]


@dataclass(frozen=True)
class Snapshot:
    """What a store had of one upload at some time."""

    objects: Mapping[str, bytes]
    etags: Mapping[str, str]
    begun: Sequence[str]

    def names(self) -> list[str]:
        return list(self.objects)

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.objects[name])

    def etag(self, name: str) -> str:
        return self.etags[name]

    def unfinished(self) -> list[str]:
        return list(self.begun)


class Looked(Protocol):
    """A store that is looked into while the test's event loop runs."""

    async def read(self, name: str) -> bytes:
        """An object's bytes, by another way than ours."""

    async def files(self) -> list[str]:
        """Everything that is there, unfinished or not."""

    async def etag(self, name: str) -> str:
        """An object's entity tag, by another way than ours; empty where there is none."""


async def snapshot(store: Looked, upload: str) -> Snapshot:
    """Whatever a store has that has an upload's own id in its name."""
    there = [name for name in await store.files() if upload in name]
    begun = [name for name in there if name.endswith((_MARK, UNFINISHED))]
    names = [name for name in there if name not in begun]
    return Snapshot(
        {name: await store.read(name) for name in names},
        {name: await store.etag(name) for name in names},
        begun,
    )

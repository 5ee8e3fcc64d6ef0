"""Nextcloud's chunked uploads: a collection of numbered files that the server puts together."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final, NamedTuple

from pipeline.destinations.base import Body
from pipeline.destinations.webdav_answers import bare
from pipeline.destinations.webdav_client import WebDavClient
from pipeline.destinations.webdav_errors import (
    BadRequestError,
    MissingError,
    NoParentError,
    UnsupportedError,
)
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    ForgottenError,
)
from pipeline.messages import HeldPart, StoredPart

_FOLDER: Final = re.compile(r"dropoffd-[0-9a-zA-Z-]+")
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_GONE: Final = "the unfinished upload is gone"


class Growing(NamedTuple):
    """What chunks will be put together to."""

    upload: str
    to: str
    """The address of the whole."""
    size: int

    @property
    def prefix(self) -> str:
        """How the names of its collections begin: an upload may go to two places on one server."""
        place = hashlib.sha256(self.to.encode()).hexdigest()[:12]
        return f"dropoffd-{re.sub('[^0-9a-zA-Z]', '-', self.upload)}-{place}-"

    @property
    def headers(self) -> dict[str, str]:
        """What every request about its chunks has to tell."""
        return {"Destination": self.to, "OC-Total-Length": str(self.size)}


class Chunks:
    """The collections of chunks below ``root``; each one's name is the upload's reference.

    What is gone is a ForgottenError.
    """

    def __init__(self, client: WebDavClient, root: str) -> None:
        self._client = client
        self._root = root

    async def begin(self, growing: Growing) -> str:
        """Make a collection."""
        reference = f"{growing.prefix}{secrets.token_hex(8)}"
        try:
            await self._client.make_collection(self._folder(reference), growing.headers)
        except (MissingError, NoParentError, UnsupportedError) as error:
            raise DestinationRefusedError(
                f"it takes no chunked uploads (chunks = false sends whole objects): {error.message}"
            ) from error
        return reference

    async def held(self, reference: str) -> tuple[HeldPart, ...]:
        """What a collection holds."""
        try:
            listed = await self._client.members(self._folder(reference))
        except MissingError as error:
            raise ForgottenError(_GONE) from error
        return tuple(
            HeldPart(number=int(chunk.name), size=chunk.size, etag=bare(chunk.etag))
            for chunk in listed
            if chunk.name.isascii() and chunk.name.isdigit() and chunk.size is not None
        )

    async def put(self, growing: Growing, reference: str, number: int, body: Body) -> str:
        """Send a chunk, named so that chunks sort as they follow each other; its ETag."""
        url = f"{self._folder(reference)}/{number:05}"
        try:
            answer = await self._client.put(url, body, growing.headers)
            etag = answer.headers.get("OC-ETag") or answer.headers.get("ETag", "")
            if not etag:
                # What the listing will show for it: known again later by that.
                standing = await self._client.look(url)
                etag = standing.etag if standing is not None else ""
        except (MissingError, NoParentError) as error:
            raise ForgottenError(_GONE) from error
        except DestinationUnreachableError as error:
            # A server that won't read on may close so soon that its answer is lost.
            if await self._client.look(self._folder(reference)) is None:
                raise ForgottenError(_GONE) from error
            raise
        return bare(etag)

    async def assemble(self, growing: Growing, reference: str) -> None:
        """Have the server put the chunks together; what stands there then decides."""
        try:
            await self._client.move(
                f"{self._folder(reference)}/.file",
                growing.to,
                overwrite=True,
                size=growing.size,
                headers=growing.headers,
            )
        except BadRequestError as error:
            # Chunks that it had are gone: all has to be sent again.
            raise ForgottenError(error.message) from error
        except (MissingError, NoParentError, DestinationUnreachableError) as error:
            whole = await self._client.look(growing.to)
            if whole is not None and whole.size == growing.size:
                return
            if isinstance(error, DestinationUnreachableError):
                raise
            raise ForgottenError(_GONE) from error

    async def remove(self, reference: str) -> None:
        """Remove a collection. Nothing there is fine."""
        if _FOLDER.fullmatch(reference):
            await self._client.delete(self._folder(reference))

    async def remove_leftovers(self, growing: Growing) -> None:
        """Remove all collections of an object."""
        try:
            listed = await self._client.members(self._root)
        except MissingError:
            return
        for folder in listed:
            if folder.name.startswith(growing.prefix):
                await self.remove(folder.name)

    def _folder(self, reference: str) -> str:
        if not _FOLDER.fullmatch(reference):
            raise ForgottenError("the unfinished upload is none of this kind")
        return f"{self._root}/{reference}"


async def proved(number: int, body: Body, held: HeldPart | None) -> StoredPart | None:
    """A chunk whose ETag is the MD5 of what would be sent, as it is on S3; they can't be read."""
    if held is None or held.size != body.size or not _MD5.fullmatch(held.etag):
        return None
    body.with_md5()
    await body.count()
    if body.md5 is None or held.etag != body.md5.hex():
        return None
    return StoredPart(number=number, size=body.size, etag=held.etag, crc64nvme=body.crc64nvme)

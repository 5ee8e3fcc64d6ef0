"""A collection on a WebDAV server; Nextcloud and ownCloud are also sent parts.

An object grows under a hidden name beside its final one, and is moved there once it is whole and
verified. Only servers that offer Nextcloud's chunked uploads can hold parts (as a collection of
files that the server puts together); to all others an object goes in one request, whatever its
size.

A server's checksum counts only where it must have made it itself: none is ever sent along that it
could repeat. Anything else is read back.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Final, NamedTuple

from pipeline.delivery import combined_crc
from pipeline.destinations import crc, webdav_urls
from pipeline.destinations.base import Body, Content, PartPlace, Readable
from pipeline.destinations.webdav_answers import Resource, bare
from pipeline.destinations.webdav_chunks import Chunks, Growing, proved
from pipeline.destinations.webdav_client import WebDavClient
from pipeline.destinations.webdav_errors import MissingError, StandsError
from pipeline.destinations.webdav_file import WebDavFile
from pipeline.errors import (
    DestinationError,
    DestinationRefusedError,
    DestinationUnreachableError,
    DropoffError,
    ForgottenError,
    VerificationError,
)
from pipeline.messages import (
    Begun,
    DestinationSpec,
    HeldPart,
    StoredObject,
    StoredPart,
    Target,
    VerifyMode,
)
from pipeline.readback import ReadBack

HASH: Final = "X-Hash"
"""Asks Nextcloud to count what it is sent; the answer is in ``X-Hash-MD5``."""


class _Expected(NamedTuple):
    """What the object has to be."""

    size: int
    crc: int
    md5: str = ""
    """Hex; empty where it wasn't counted."""
    content: Content | None = None
    """What it has to hold, where it is to be opened."""


class _Proof(NamedTuple):
    """What was shown of the stored bytes."""

    verified: VerifyMode
    checksum: dict[str, str]


class WebDavDestination:
    """See :class:`pipeline.destinations.base.Destination`."""

    def __init__(self, spec: DestinationSpec) -> None:
        self._base = spec.url.rstrip("/")
        self._verify: VerifyMode = spec.verify
        self._client = WebDavClient(spec)
        root = webdav_urls.chunks_root(spec)
        self._chunks = Chunks(self._client, root) if root else None
        self._counts = webdav_urls.counts(spec)
        """Whether an MD5 of ours is worth its price: the server has one to hold it against."""

    async def begin(self, target: Target, *, stale: bool) -> str:
        """Make a collection for the chunks; its name is the reference."""
        growing = self._growing(target)
        if stale:
            await self._chunked.remove_leftovers(growing)
        if await self._standing(target) is not None:
            # Ours, of a try that the journal knows nothing of any more: wrong, or sealed anew.
            await self._client.delete(self._final(target))
        await self._make_parents(target)
        await self._client.delete(self._hidden(target))
        return await self._chunked.begin(growing)

    async def resume(self, target: Target, reference: str) -> Begun:
        """List the chunks that the server has."""
        try:
            held = await self._chunked.held(reference)
        except ForgottenError:
            if not await self._is_whole(target):
                raise
            return Begun(reference=reference, finished=True)
        return Begun(reference=reference, held=held)

    async def put_part(
        self, target: Target, reference: str, part: PartPlace, body: Body
    ) -> StoredPart:
        """Send one chunk."""
        etag = await self._chunked.put(self._growing(target), reference, part.number, body)
        return StoredPart(number=part.number, size=body.size, etag=etag, crc64nvme=body.crc64nvme)

    async def prove_part(
        self, target: Target, reference: str, part: PartPlace, body: Body, held: HeldPart | None
    ) -> StoredPart | None:
        """Hold the listed ETag against what would be sent."""
        del target, reference
        return await proved(part.number, body, held)

    async def finish(
        self,
        target: Target,
        reference: str,
        parts: Sequence[StoredPart],
        content: Content | None = None,
    ) -> StoredObject:
        """Have the chunks put together under the hidden name, verify, and move."""
        expected = _Expected(sum(part.size for part in parts), combined_crc(parts), content=content)
        standing = await self._client.look(self._final(target))
        if standing is not None and (proof := await self._same(target, standing, expected)):
            with contextlib.suppress(DestinationError):
                await self.abort(target, reference)
            return self._stored(self._final(target), standing, proof)
        self._check_ours(target, standing)
        hidden = await self._client.look(self._hidden(target))
        if hidden is None or hidden.size != expected.size:
            await self._chunked.assemble(self._growing(target), reference)
        return await self._verify_and_publish(target, expected)

    async def put(
        self, target: Target, body: Body, *, stale: bool, content: Content | None = None
    ) -> StoredObject:
        """Send an object of any size in one request."""
        del stale  # what an earlier try stored is met under the hidden or the final name
        standing = await self._client.look(self._final(target))
        if standing is not None and standing.size != target.size:
            self._check_ours(target, standing)  # before all of it is sent for nothing
        await self._make_parents(target)
        if self._counts and self._verify == "checksum":
            body.with_md5()
        try:
            answer = await self._client.put(
                self._hidden(target), body, {HASH: "md5"} if self._counts else {}
            )
            md5 = body.md5.hex() if body.md5 else ""
            expected = _Expected(body.size, body.crc64nvme, md5, content)
            counted = answer.headers.get("X-Hash-MD5", "").lower()
            return await self._verify_and_publish(target, expected, counted)
        except DestinationUnreachableError:
            raise  # the next try writes over it
        except DropoffError:  # the source's, too
            with contextlib.suppress(DestinationError):
                await self._client.delete(self._hidden(target))
            raise

    async def find(self, target: Target) -> StoredObject | None:
        """Our finished object."""
        standing = await self._standing(target)
        if standing is None:
            return None
        return self._stored(self._final(target), standing, _Proof("size", {}))

    async def abort(self, target: Target, reference: str) -> None:
        """Remove the chunks, and what they were put together to."""
        if self._chunks is not None and reference:
            await self._chunks.remove(reference)
        elif self._chunks is not None:
            await self._chunks.remove_leftovers(self._growing(target))
        await self._client.delete(self._hidden(target))

    async def aclose(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def show(self, name: str) -> StoredObject | None:
        """See :class:`pipeline.destinations.remote.Remote`."""
        url = webdav_urls.object_url(self._base, name)
        standing = await self._client.look(url)
        if standing is None or standing.collection:
            return None
        return self._stored(url, standing, _Proof("size", {}))

    @contextlib.asynccontextmanager
    async def opened(self, name: str) -> AsyncGenerator[Readable]:
        """See :class:`pipeline.destinations.remote.Remote`."""
        url = webdav_urls.object_url(self._base, name)
        standing = await self._client.look(url)
        if standing is None or standing.collection:
            raise DestinationRefusedError(f"{name} is not there")
        yield WebDavFile(self._client, url, standing.size or 0)

    async def remove(self, target: Target) -> None:
        """See :class:`pipeline.destinations.remote.Remote`."""
        await self._client.delete(self._hidden(target))
        await self._client.delete(self._final(target))

    # Names ------------------------------------------------------------------------------------

    async def _verify_and_publish(
        self, target: Target, expected: _Expected, counted: str = ""
    ) -> StoredObject:
        """Hold what grew under the hidden name against what was sent, and give it its own."""
        hidden = await self._client.look(self._hidden(target))
        if hidden is None:
            raise DestinationUnreachableError("the object isn't there after it was stored")
        try:
            proof = await self._proof(self._hidden(target), hidden, expected, counted)
        except VerificationError:
            with contextlib.suppress(DestinationError):
                await self._client.delete(self._hidden(target))
            raise
        await self._publish(target, expected)
        standing = await self._client.look(self._final(target))
        if standing is None:
            raise DestinationUnreachableError("the object isn't there after it was moved")
        if standing.size != expected.size:
            raise VerificationError(f"{standing.size} bytes stand there instead of {expected.size}")
        return self._stored(self._final(target), standing, proof)

    async def _publish(self, target: Target, expected: _Expected) -> None:
        """Give the verified object its final name, never at the cost of another's."""
        hidden, final = self._hidden(target), self._final(target)
        try:
            await self._client.move(hidden, final, overwrite=False, size=expected.size)
        except StandsError:
            await self._settle(target, expected)
        except DestinationError as error:
            # Perhaps only the answer was lost: then it has gone from here, and is there. What a
            # second try is told then differs (404, or rclone's 403).
            left = await self._client.look(hidden)
            standing = await self._client.look(final)
            if left is None and standing is not None and standing.size == expected.size:
                return
            if not isinstance(error, MissingError | DestinationUnreachableError):
                raise
            raise DestinationUnreachableError(
                f"the object could not be moved: {error.message}"
            ) from error

    async def _settle(self, target: Target, expected: _Expected) -> None:
        """An object stands under the final name: ours and old, equal, or another's."""
        hidden, final = self._hidden(target), self._final(target)
        standing = await self._client.look(final)
        if standing is not None and not _is_ours(target, standing):
            if not await self._same(target, standing, expected):
                self._check_ours(target, standing)
            await self._client.delete(hidden)
            return
        if await self._client.look(hidden) is None:
            # It was moved, and a second try, whose answer came through, met it there.
            if standing is None or not await self._same(target, standing, expected):
                raise DestinationUnreachableError("the object is gone before it got its name")
            return
        await self._client.move(hidden, final, overwrite=True, size=expected.size)

    async def _standing(self, target: Target) -> Resource | None:
        """Our object under the final name. Raises DestinationRefusedError for another's."""
        standing = await self._client.look(self._final(target))
        self._check_ours(target, standing)
        return standing

    async def _is_whole(self, target: Target) -> bool:
        """Whether the chunks were put together already."""
        for url in (self._final(target), self._hidden(target)):
            standing = await self._client.look(url)
            if standing is not None and standing.size == target.size:
                return True
        return False

    def _check_ours(self, target: Target, standing: Resource | None) -> None:
        """Raise DestinationRefusedError for what may be another's."""
        if standing is not None and not _is_ours(target, standing):
            raise DestinationRefusedError(
                f"another object stands under {target.name}; it is left as it is"
            )

    async def _make_parents(self, target: Target) -> None:
        parent = self._final(target).rpartition("/")[0]
        if parent != self._base:
            await self._client.make_collections(self._base, parent)

    @property
    def _chunked(self) -> Chunks:
        if self._chunks is None:
            raise DestinationRefusedError("this server can't be sent an object in parts")
        return self._chunks

    def _growing(self, target: Target) -> Growing:
        return Growing(upload=target.upload, to=self._hidden(target), size=target.size)

    def _final(self, target: Target) -> str:
        return webdav_urls.object_url(self._base, target.name)

    def _hidden(self, target: Target) -> str:
        return webdav_urls.object_url(self._base, webdav_urls.beside(target.name, target.upload))

    # Verifying --------------------------------------------------------------------------------

    async def _same(self, target: Target, standing: Resource, expected: _Expected) -> _Proof | None:
        """The proof that what stands there is the very object; None where it isn't.

        Its size alone never is one: what was sealed with another key has the same.
        """
        if standing.collection or standing.size != expected.size:
            return None
        try:
            return await self._read_back(self._final(target), standing, expected)
        except VerificationError:
            return None

    async def _proof(
        self, url: str, standing: Resource, expected: _Expected, counted: str = ""
    ) -> _Proof:
        """What can be shown, as the configuration wants it. Raises VerificationError."""
        if standing.size != expected.size:
            raise VerificationError(f"{standing.size} bytes are stored instead of {expected.size}")
        counted = counted or standing.md5
        self._counts = self._counts or bool(counted)
        if expected.md5 and counted and counted != expected.md5:
            raise VerificationError("the server's checksum of the object is another one")
        if self._verify == "size":
            return _Proof("size", {})
        if self._verify == "checksum" and expected.md5 and counted:
            return _Proof("checksum", {"md5": counted})
        return await self._read_back(url, standing, expected)

    async def _read_back(self, url: str, standing: Resource, expected: _Expected) -> _Proof:
        check = ReadBack(expected.size, expected.crc, expected.content)
        file = WebDavFile(self._client, url, standing.size or 0)
        async with contextlib.aclosing(file.read(0, file.size)) as pieces:
            async for piece in pieces:
                check.update(piece)
        check.finish()
        return _Proof("readback", {crc.NAME: crc.text(expected.crc)})

    def _stored(self, url: str, standing: Resource, proof: _Proof) -> StoredObject:
        return StoredObject(
            uri=url,
            size=standing.size or 0,
            etag=bare(standing.etag),
            checksum=proof.checksum,
            verified=proof.verified,
        )


def _is_ours(target: Target, standing: Resource) -> bool:
    """Whether it has to be this upload's, by the name that it stands under."""
    return target.upload in target.name and not standing.collection

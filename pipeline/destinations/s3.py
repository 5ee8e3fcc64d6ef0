"""An S3 bucket, of Amazon or of anybody who speaks alike.

What a store claims is believed only as far as it must have counted for itself: the CRC of parts
that were sent without one, or an ETag that is the MD5 of what was sent. Anything else is read back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from pipeline.delivery import combined_crc
from pipeline.destinations import crc, s3_afterwards, s3_options
from pipeline.destinations.base import Body, Content, PartPlace
from pipeline.destinations.s3_client import S3Client
from pipeline.destinations.s3_errors import (
    ConflictingError,
    MissingError,
    StandsError,
    UnsupportedError,
)
from pipeline.destinations.s3_multipart import OWNER, Multipart, parse
from pipeline.destinations.s3_object import (
    MD5,
    Proved,
    StandingObject,
    check_ours,
    check_part,
    multipart_md5,
    standing_of,
)
from pipeline.errors import (
    DestinationError,
    DestinationRefusedError,
    DestinationUnreachableError,
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
    Traits,
    VerifyMode,
)
from pipeline.readback import ReadBack

_SMALL: Final = 1024 * 1024
"""Bytes whose MD5 costs less than to ask the store once more."""


class S3Destination:
    """See :class:`pipeline.destinations.base.Destination`."""

    def __init__(self, spec: DestinationSpec) -> None:
        self._bucket = spec.bucket
        self._verify: VerifyMode = spec.verify
        self._client = S3Client(spec)
        self._multipart = Multipart(self._client)
        self._locks = not s3_options.locks(spec)

    @property
    def traits(self) -> Traits | None:
        """See :class:`pipeline.destinations.base.Learning`."""
        return self._multipart.traits

    def remember(self, traits: Traits) -> None:
        """Likewise."""
        if self._multipart.traits is None:
            self._multipart.traits = traits

    async def begin(self, target: Target, *, stale: bool) -> str:
        """Begin a multipart upload."""
        if stale:
            await self._multipart.abort_leftovers(target)
        standing = await self._look(target, or_unreadable=True)
        if standing is not None:
            # Ours, of a try that the journal knows nothing of any more: wrong, or sealed anew.
            check_ours(target, standing)
            await self._client.call("delete_object", Key=target.name)
        await self._check_locks()
        return await self._multipart.begin(target, "md5" if self._verify == "checksum" else "none")

    async def resume(self, target: Target, reference: str) -> Begun:
        """List the parts that the store has."""
        _, upload = parse(reference)
        try:
            return Begun(reference=reference, held=await self._multipart.held(target, upload))
        except ForgottenError:
            standing = await self._look(target)
            if standing is None:
                raise
            check_ours(target, standing)
            if standing.size != target.size:
                raise ForgottenError("an object of another size stands there") from None
            return Begun(reference=reference, finished=True)

    async def put_part(
        self, target: Target, reference: str, part: PartPlace, body: Body
    ) -> StoredPart:
        """Send one part, and hold the store's sum of it against ours."""
        proof, upload = parse(reference)
        if proof.startswith("md5"):
            body.with_md5()
        sums = await _sums_ahead(body) if proof.endswith("-sent") else None
        try:
            sent = await self._client.send_part(target.name, upload, part.number, body, sums)
        except MissingError as error:
            raise ForgottenError(error.message) from error
        if proof.startswith("crc64nvme") and not sent.crc64nvme:
            self._multipart.traits = None
            raise ForgottenError("the store no longer tells the checksum of a part")
        check_part(part.number, sent, body)
        return StoredPart(
            number=part.number, size=body.size, etag=sent.etag, crc64nvme=body.crc64nvme
        )

    async def prove_part(
        self, target: Target, reference: str, part: PartPlace, body: Body, held: HeldPart | None
    ) -> StoredPart | None:
        """Hold the listed ETag against the MD5 of what would be sent."""
        del target, reference
        if held is None or held.size != body.size or not MD5.fullmatch(held.etag):
            return None
        body.with_md5()
        await body.count()
        if body.md5 is None or held.etag != body.md5.hex():
            return None
        return StoredPart(
            number=part.number, size=body.size, etag=held.etag, crc64nvme=body.crc64nvme
        )

    async def finish(
        self,
        target: Target,
        reference: str,
        parts: Sequence[StoredPart],
        content: Content | None = None,
    ) -> StoredObject:
        """Complete the multipart upload; whatever the answer, what stands there then decides."""
        proof, _ = parse(reference)
        proved = Proved(
            crc64nvme=combined_crc(parts),
            counted=proof.startswith("crc64nvme"),
            md5_etag=multipart_md5(parts) if proof.startswith("md5") else "",
            content=content,
        )
        standing = await self._look(target, or_unreadable=True)
        if standing is None:
            standing = await self._complete(target, reference, parts, proved)
        check_ours(target, standing)
        stored = await self._verified_or_removed(target, standing, proved)
        await self._make_good(target, standing)
        return stored

    async def put(
        self, target: Target, body: Body, *, stale: bool, content: Content | None = None
    ) -> StoredObject:
        """Send a small object in one request. It is held in memory.

        The first try of an object that has the upload's id in its name asks for nothing else, where
        the store's answer proves what it holds: no object can stand there yet.
        """
        if self._verify == "checksum" or body.size <= _SMALL:
            body.with_md5()
        data = b"".join([bytes(view) async for view in body])
        # A CRC that is sent along may be repeated without being counted; an ETag is counted.
        md5 = body.md5.hex() if body.md5 else ""
        proved = Proved(body.crc64nvme, counted=False, md5_etag=md5, content=content)
        standing = None
        if stale or target.upload not in target.name:
            standing = await self._look(target, or_unreadable=True)
        if standing is not None:
            check_ours(target, standing)
            try:
                stored = await self._verified(target, standing, proved)
            except VerificationError:
                await self._client.call("delete_object", Key=target.name)
            else:
                await self._make_good(target, standing)
                return stored
        await self._check_locks()
        standing = await self._put(target, data, proved)
        check_ours(target, standing)
        stored = await self._verified_or_removed(target, standing, proved)
        await self._make_good(target, standing)
        return stored

    async def find(self, target: Target) -> StoredObject | None:
        """Our finished object."""
        standing = await self._look(target)
        if standing is None:
            return None
        check_ours(target, standing)
        return StoredObject(
            uri=self._uri(target), size=standing.size, etag=standing.etag, verified="size"
        )

    async def abort(self, target: Target, reference: str) -> None:
        """Abort the multipart upload."""
        if not reference:
            await self.sweep(target)
            return
        with contextlib.suppress(ForgottenError):
            await self._multipart.abort(target, parse(reference)[1])

    async def sweep(self, target: Target) -> None:
        """See :class:`pipeline.destinations.base.Sweeping`."""
        await self._multipart.abort_leftovers(target)

    async def aclose(self) -> None:
        """Close connections."""
        await self._client.aclose()

    # Writing ----------------------------------------------------------------------------------

    async def _complete(
        self, target: Target, reference: str, parts: Sequence[StoredPart], proved: Proved
    ) -> StandingObject:
        """Complete, and give what stands there. An answer that was lost is found out by that."""
        try:
            await self._multipart.complete(target, reference, parts, proved.crc64nvme)
        except (ForgottenError, MissingError, ConflictingError) as error:
            standing = await self._look(target)
            if standing is None:
                # Nothing can be completed any more: all has to be sent again.
                raise ForgottenError(error.message) from error
            return standing
        except (StandsError, DestinationUnreachableError):
            standing = await self._look(target)
            if standing is None:
                raise
            return standing
        return await self._just_written(target)

    async def _put(self, target: Target, data: bytes, proved: Proved) -> StandingObject:
        """PUT, and give what stands there. Likewise."""
        asked = s3_options.of_object(self._client.spec, target)
        metadata = {OWNER: target.upload, **s3_options.remembered(asked)}
        parameters: dict[str, Any] = {
            "Metadata": metadata,
            "ChecksumCRC64NVME": crc.text(proved.crc64nvme),
            **asked,
        }
        if proved.md5_etag:
            parameters["ContentMD5"] = crc.md5_text(bytes.fromhex(proved.md5_etag))
        try:
            try:
                answer = await self._client.put(target.name, data, IfNoneMatch="*", **parameters)
            except UnsupportedError:
                answer = await self._client.put(target.name, data, **parameters)
        except (StandsError, ConflictingError, DestinationUnreachableError):
            standing = await self._look(target)
            if standing is None:
                raise
            return standing
        told = standing_of({"ContentLength": len(data), "Metadata": metadata, **answer})
        counted = proved.md5_etag and told.etag == proved.md5_etag and not told.opaque_etag
        if counted and not self._client.spec.tags and not s3_options.locks(self._client.spec):
            return told
        return await self._just_written(target)

    async def _check_locks(self) -> None:
        """See that the bucket gives the lock that is asked for: some stores only repeat it."""
        if not self._locks:
            await s3_afterwards.check_locks(self._client)
            self._locks = True

    async def _make_good(self, target: Target, standing: StandingObject) -> None:
        await s3_afterwards.make_good(self._client, target, standing, lambda: self._look(target))

    async def _just_written(self, target: Target) -> StandingObject:
        standing = await self._look(target)
        if standing is None:
            raise DestinationUnreachableError("the object isn't there after it was stored")
        return standing

    # Looking ----------------------------------------------------------------------------------

    async def _look(self, target: Target, *, or_unreadable: bool = False) -> StandingObject | None:
        """What stands under the key.

        With ``or_unreadable``, a store that won't say (403: whoever may not list isn't told what
        is missing either) counts as one where nothing stands; the write's condition still holds.
        """
        try:
            answer = await self._client.call("head_object", Key=target.name, ChecksumMode="ENABLED")
        except MissingError:
            return None
        except DestinationRefusedError:
            if or_unreadable:
                return None
            raise
        return standing_of(answer)

    async def _verified_or_removed(
        self, target: Target, standing: StandingObject, proved: Proved
    ) -> StoredObject:
        """Verify, and leave no wrong object of ours for others to find."""
        try:
            return await self._verified(target, standing, proved)
        except VerificationError:
            with contextlib.suppress(DestinationError):
                now = await self._look(target)  # another's may stand there by now
                if now is not None and now.owner == target.upload:
                    await self._client.call("delete_object", Key=target.name)
            raise

    async def _verified(
        self, target: Target, standing: StandingObject, proved: Proved
    ) -> StoredObject:
        """Hold what stands there against what was sent, as the configuration wants it."""
        if standing.size != target.size:
            raise VerificationError(f"{standing.size} bytes are stored instead of {target.size}")
        expected = crc.text(proved.crc64nvme)
        if standing.crc64nvme and standing.crc64nvme != expected:
            raise VerificationError("the store's checksum of the object is another one")
        verified = self._verify
        checksum: dict[str, str] = {}
        if proved.counted and standing.crc64nvme:
            checksum = {crc.NAME: expected}
        elif proved.md5_etag and proved.md5_etag == standing.etag and not standing.opaque_etag:
            checksum = {"md5": standing.etag}
        if verified == "readback" or (verified == "checksum" and not checksum):
            await self._read_back(target, standing, proved)
            verified, checksum = "readback", {crc.NAME: expected}
        return StoredObject(
            uri=self._uri(target),
            size=standing.size,
            etag=standing.etag,
            checksum=checksum,
            verified=verified,
        )

    async def _read_back(self, target: Target, standing: StandingObject, proved: Proved) -> None:
        check = ReadBack(target.size, proved.crc64nvme, proved.content)
        pieces = self._client.read(target.name, standing.etag, standing.size)
        try:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    check.update(piece)
        except (StandsError, MissingError) as error:  # its ETag is another one, or it is gone
            raise VerificationError("the object changed while it was read back") from error
        check.finish()

    def _uri(self, target: Target) -> str:
        return f"s3://{self._bucket}/{target.name}"


async def _sums_ahead(body: Body) -> dict[str, str]:
    """The checksum of a body before it is sent, as a parameter of botocore's."""
    await body.count()
    if body.md5 is not None:
        return {"ContentMD5": crc.md5_text(body.md5)}
    return {"ChecksumCRC64NVME": crc.text(body.crc64nvme)}

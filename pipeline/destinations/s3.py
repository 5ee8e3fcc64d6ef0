"""An S3 bucket, of Amazon or of anybody who speaks alike.

How an object's bytes can be proved differs from store to store, and has to be the same for all of
its parts, whichever worker sends them. So the reference of an unfinished object is
``<proof>:<upload id>``, with the proof settled when it is made.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, cast, get_args

from awscrt.checksums import crc64nvme

from pipeline.delivery import combined_crc
from pipeline.destinations import crc
from pipeline.destinations.base import Body, PartPlace
from pipeline.destinations.retry import steadily
from pipeline.destinations.s3_client import S3Client, Sent
from pipeline.destinations.s3_errors import (
    ConflictingError,
    MissingError,
    StandsError,
    UnsupportedError,
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
    VerifyMode,
)

OWNER: Final = "dropoffd-upload"
"""The metadata that says whose an object is."""

Proof = Literal["crc64nvme", "md5", "none"]
"""``crc64nvme``: the store counts it for each part and for the whole. ``md5``: ETags are held
against the MD5 of what was sent. ``none``: nothing is asked for, or it is read back.
"""

_MD5: Final = re.compile(r"[0-9a-f]{32}")


class _Object(NamedTuple):
    """What HEAD tells."""

    size: int
    etag: str
    crc64nvme: str
    owner: str
    opaque_etag: bool


class S3Destination:
    """See :class:`pipeline.destinations.base.Destination`."""

    def __init__(self, spec: DestinationSpec) -> None:
        self._bucket = spec.bucket
        self._verify: VerifyMode = spec.verify
        self._client = S3Client(spec)
        self._counts_crc: bool | None = None
        """Whether the store does CRC-64/NVME; None until it had an occasion to show it."""

    async def begin(self, target: Target, *, stale: bool) -> str:
        """Start a multipart upload."""
        if stale:
            await self._abort_leftovers(target)
        standing = await self._look(target, or_unreadable=True)
        if standing is not None:
            # Ours, of a try that the journal knows nothing of any more: wrong, or sealed anew.
            _check_ours(target, standing)
            await self._client.call("delete_object", Key=target.name)
        proof, upload = await self._create(target)
        return f"{proof}:{upload}"

    async def resume(self, target: Target, reference: str) -> Begun:
        """List the parts that the store has."""
        _, upload = _parse(reference)
        held: list[HeldPart] = []
        marker: dict[str, Any] = {}
        try:
            while True:
                answer = await self._client.call(
                    "list_parts", Key=target.name, UploadId=upload, **marker
                )
                held += [_held(part) for part in answer.get("Parts") or ()]
                if not answer.get("IsTruncated"):
                    return Begun(reference=reference, held=tuple(held))
                marker = {"PartNumberMarker": int(answer["NextPartNumberMarker"])}
        except (ForgottenError, MissingError):
            standing = await self._look(target)
            if standing is None:
                raise ForgottenError("the store no longer knows the multipart upload") from None
            _check_ours(target, standing)
            if standing.size != target.size:
                raise ForgottenError("an object of another size stands there") from None
            return Begun(reference=reference, finished=True)

    async def put_part(
        self, target: Target, reference: str, part: PartPlace, body: Body
    ) -> StoredPart:
        """Send one part, and hold the store's sum of it against ours."""
        proof, upload = _parse(reference)
        if proof == "md5":
            body.with_md5()
        try:
            sent = await self._client.send_part(target.name, upload, part.number, body)
        except MissingError as error:
            raise ForgottenError("the store no longer knows the multipart upload") from error
        _check_part(part.number, sent, body)
        return StoredPart(
            number=part.number, size=body.size, etag=sent.etag, crc64nvme=body.crc64nvme
        )

    async def prove_part(
        self, target: Target, reference: str, part: PartPlace, body: Body, held: HeldPart | None
    ) -> StoredPart | None:
        """Hold the listed ETag against the MD5 of what would be sent."""
        del target, reference
        if held is None or held.size != body.size or not _MD5.fullmatch(held.etag):
            return None
        body.with_md5()
        async for _ in body:
            pass
        if body.md5 is None or held.etag != body.md5.hex():
            return None
        return StoredPart(
            number=part.number, size=body.size, etag=held.etag, crc64nvme=body.crc64nvme
        )

    async def finish(
        self, target: Target, reference: str, parts: Sequence[StoredPart]
    ) -> StoredObject:
        """Complete the multipart upload; whatever the answer, what stands there then decides."""
        proof, upload = _parse(reference)
        whole_crc = combined_crc(parts)
        standing = await self._look(target, or_unreadable=True)
        if standing is None:
            await self._complete(target, proof, upload, parts, whole_crc)
            standing = await self._look(target)
        if standing is None:
            raise DestinationUnreachableError("the object isn't there after it was completed")
        _check_ours(target, standing)
        etag = _multipart_md5(parts) if proof == "md5" else ""
        return await self._verified_or_removed(target, standing, whole_crc, etag)

    async def put(self, target: Target, body: Body, *, stale: bool) -> StoredObject:
        """Send a small object in one request. It is held in memory."""
        del stale  # what an earlier try stored is met under its name
        with_md5 = self._verify == "checksum" and not self._counts_crc
        if with_md5:
            body.with_md5()
        data = b"".join([bytes(view) async for view in body])
        md5 = body.md5.hex() if with_md5 and body.md5 else ""
        standing = await self._look(target, or_unreadable=True)
        if standing is not None:
            _check_ours(target, standing)
            try:
                return await self._verified(target, standing, body.crc64nvme, md5)
            except VerificationError:
                await self._client.call("delete_object", Key=target.name)
        standing = await self._put(target, data, body.crc64nvme, md5)
        return await self._verified_or_removed(target, standing, body.crc64nvme, md5)

    async def find(self, target: Target) -> StoredObject | None:
        """Our finished object."""
        standing = await self._look(target)
        if standing is None:
            return None
        _check_ours(target, standing)
        return StoredObject(
            uri=self._uri(target), size=standing.size, etag=standing.etag, verified="size"
        )

    async def abort(self, target: Target, reference: str) -> None:
        """Abort the multipart upload."""
        await self._abort(target, _parse(reference)[1])

    async def aclose(self) -> None:
        """Close connections."""
        await self._client.aclose()

    # Multipart --------------------------------------------------------------------------------

    async def _create(self, target: Target) -> tuple[Proof, str]:
        parameters: dict[str, Any] = {"Key": target.name, "Metadata": {OWNER: target.upload}}
        sums = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
        tries = 0

        async def create(**further: str) -> dict[str, Any]:
            nonlocal tries
            tries += 1
            return await self._client.call_once("create_multipart_upload", **parameters, **further)

        try:
            answer = await steadily(lambda: create(**sums))
        except UnsupportedError:
            answer = await steadily(create)
        upload = str(answer["UploadId"])
        if tries > 1:
            # A try without an answer may have made one as well.
            await self._abort_leftovers(target, but=upload)
        if answer.get("ChecksumAlgorithm") == "CRC64NVME":
            return "crc64nvme", upload
        return ("md5" if self._verify == "checksum" else "none"), upload

    async def _complete(
        self,
        target: Target,
        proof: Proof,
        upload: str,
        parts: Sequence[StoredPart],
        whole_crc: int,
    ) -> None:
        sums: dict[str, Any] = {}
        if proof == "crc64nvme":
            sums = {"ChecksumCRC64NVME": crc.text(whole_crc), "ChecksumType": "FULL_OBJECT"}
        listed = [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]
        parameters: dict[str, Any] = {
            "Key": target.name,
            "UploadId": upload,
            "MultipartUpload": {"Parts": listed},
            **sums,
        }
        try:
            try:
                await self._client.call("complete_multipart_upload", IfNoneMatch="*", **parameters)
            except UnsupportedError:
                await self._client.call("complete_multipart_upload", **parameters)
        except (ForgottenError, MissingError, ConflictingError) as error:
            # Either an answer was lost and it is there, or all has to be sent again.
            if await self._look(target) is None:
                raise ForgottenError(error.message) from error
        except (StandsError, DestinationUnreachableError):
            if await self._look(target) is None:
                raise

    async def _abort(self, target: Target, upload: str) -> None:
        try:
            await self._client.call("abort_multipart_upload", Key=target.name, UploadId=upload)
        except (ForgottenError, MissingError):
            return

    async def _abort_leftovers(self, target: Target, but: str = "") -> None:
        """Abort unfinished uploads under this very key, if the key says that they are ours."""
        if target.upload not in target.name:
            return
        marker: dict[str, Any] = {}
        while True:
            try:
                answer = await self._client.call(
                    "list_multipart_uploads", Prefix=target.name, **marker
                )
            except DestinationRefusedError:
                return  # not allowed, or not known: a rule of the bucket has to clear them away
            for found in answer.get("Uploads") or ():
                if found["Key"] == target.name and found["UploadId"] != but:
                    await self._abort(target, found["UploadId"])
            if not answer.get("IsTruncated"):
                return
            marker = {
                "KeyMarker": answer.get("NextKeyMarker", ""),
                "UploadIdMarker": answer.get("NextUploadIdMarker", ""),
            }

    # In one go --------------------------------------------------------------------------------

    async def _put(self, target: Target, data: bytes, whole_crc: int, md5: str) -> _Object:
        sums = {"ChecksumCRC64NVME": crc.text(whole_crc)}
        if md5:
            sums["ContentMD5"] = base64.b64encode(bytes.fromhex(md5)).decode()
        parameters: dict[str, Any] = {
            "Key": target.name,
            "Body": data,
            "Metadata": {OWNER: target.upload},
            **sums,
        }
        try:
            try:
                await self._client.call("put_object", IfNoneMatch="*", **parameters)
            except UnsupportedError:
                await self._client.call("put_object", **parameters)
        except (StandsError, ConflictingError, DestinationUnreachableError):
            # A lost answer's object, or another's: what stands there tells.
            standing = await self._look(target)
            if standing is None:
                raise
        else:
            standing = await self._look(target)
            if standing is None:
                raise DestinationUnreachableError("the object isn't there after it was stored")
        _check_ours(target, standing)
        return standing

    # Looking ----------------------------------------------------------------------------------

    async def _look(self, target: Target, *, or_unreadable: bool = False) -> _Object | None:
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
        standing = _object(answer)
        if standing.crc64nvme:
            self._counts_crc = True
        return standing

    async def _verified_or_removed(
        self, target: Target, standing: _Object, whole_crc: int, md5_etag: str
    ) -> StoredObject:
        """Likewise, and leave no wrong object of ours for others to find."""
        try:
            return await self._verified(target, standing, whole_crc, md5_etag)
        except VerificationError:
            with contextlib.suppress(DestinationError):
                await self._client.call("delete_object", Key=target.name)
            raise

    async def _verified(
        self, target: Target, standing: _Object, whole_crc: int, md5_etag: str
    ) -> StoredObject:
        """Hold what stands there against what was sent, as the configuration wants it.

        ``md5_etag`` is what the ETag has to be where it is made of MD5s; empty where unknown.
        """
        if standing.size != target.size:
            raise VerificationError(f"{standing.size} bytes are stored instead of {target.size}")
        expected = crc.text(whole_crc)
        if standing.crc64nvme and standing.crc64nvme != expected:
            raise VerificationError("the store's checksum of the object is another one")
        verified = self._verify
        checksum = {crc.NAME: standing.crc64nvme} if standing.crc64nvme else {}
        if verified == "checksum" and not checksum:
            if md5_etag and standing.etag == md5_etag and not standing.opaque_etag:
                checksum = {"md5": md5_etag}
            else:
                verified = "readback"
        if verified == "readback":
            await self._read_back(target, standing, whole_crc)
            checksum = {crc.NAME: expected}
        return StoredObject(
            uri=self._uri(target),
            size=standing.size,
            etag=standing.etag,
            checksum=checksum,
            verified=verified,
        )

    async def _read_back(self, target: Target, standing: _Object, whole_crc: int) -> None:
        found = size = 0
        async for piece in self._client.read(target.name, standing.etag, standing.size):
            found = crc64nvme(piece, found)
            size += len(piece)
        if (size, found) != (standing.size, whole_crc):
            raise VerificationError("the object reads back differently")

    def _uri(self, target: Target) -> str:
        return f"s3://{self._bucket}/{target.name}"


def _parse(reference: str) -> tuple[Proof, str]:
    proof, _, upload = reference.partition(":")
    if proof not in get_args(Proof) or not upload:
        raise ForgottenError("the reference is none of a multipart upload")
    return cast("Proof", proof), upload


def _check_part(number: int, sent: Sent, body: Body) -> None:
    """Raise VerificationError where the store has other bytes than were sent."""
    if sent.crc64nvme and sent.crc64nvme != crc.text(body.crc64nvme):
        raise VerificationError(f"the store's checksum of part {number} is another one")
    if body.md5 is None or sent.opaque_etag or not _MD5.fullmatch(sent.etag):
        return
    if sent.etag != body.md5.hex():
        raise VerificationError(f"the ETag of part {number} is not the MD5 of what was sent")


def _check_ours(target: Target, standing: _Object) -> None:
    """Raise DestinationRefusedError for another's object."""
    if standing.owner != target.upload:
        raise DestinationRefusedError(
            f"another object stands under {target.name}; it is left as it is"
        )


def _multipart_md5(parts: Sequence[StoredPart]) -> str:
    """The ETag of an object of parts whose ETags are MD5s; empty where they aren't."""
    if not all(_MD5.fullmatch(part.etag) for part in parts):
        return ""
    joined = b"".join(bytes.fromhex(part.etag) for part in parts)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _held(part: Mapping[str, Any]) -> HeldPart:
    return HeldPart(
        number=int(part["PartNumber"]),
        size=int(part["Size"]),
        etag=str(part.get("ETag") or "").strip('"'),
    )


def _object(answer: Mapping[str, Any]) -> _Object:
    metadata = {str(k).lower(): str(v) for k, v in (answer.get("Metadata") or {}).items()}
    return _Object(
        size=int(answer["ContentLength"]),
        etag=str(answer.get("ETag") or "").strip('"'),
        crc64nvme=str(answer.get("ChecksumCRC64NVME") or ""),
        owner=metadata.get(OWNER, ""),
        opaque_etag=str(answer.get("ServerSideEncryption") or "").startswith("aws:kms")
        or bool(answer.get("SSECustomerAlgorithm")),
    )

"""Multipart uploads: begun, listed, completed, aborted.

How an object's bytes can be proved differs from store to store, and has to be the same for all of
its parts, whichever worker sends them. So the reference of an unfinished object is
``<proof>:<upload id>``, with the proof settled when it is made. What a store can do is found out
with a few bytes that are never completed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal, cast, get_args

from awscrt.checksums import crc64nvme

from pipeline.destinations import crc, s3_options
from pipeline.destinations.retry import steadily
from pipeline.destinations.s3_client import S3Client
from pipeline.destinations.s3_errors import MissingError, UnsupportedError
from pipeline.errors import DestinationRefusedError, ForgottenError, VerificationError
from pipeline.messages import HeldPart, StoredPart, Target, Traits

OWNER: Final = "dropoffd-upload"
"""The metadata that says whose an object is."""

Proof = Literal["crc64nvme", "crc64nvme-sent", "md5", "md5-sent", "none"]
"""``crc64nvme``: the store counts it for each part and for the whole. ``md5``: ETags are held
against the MD5 of what was sent. ``none``: nothing is asked for, or it is read back. With
``-sent``, each part's checksum goes along with it, which costs one more pass over its bytes.
"""

_PROBE: Final = b"dropoffd"
_COUNTED: Final = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
_REFUSALS: Final = (DestinationRefusedError, VerificationError)


class Multipart:
    """The multipart uploads of one bucket."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self.traits: Traits | None = None
        """What the store can do; None until it was tried or told."""

    async def begin(self, target: Target, otherwise: Literal["md5", "none"]) -> str:
        """Begin one, proved by the store's CRC or else ``otherwise``, and give its reference."""
        if self.traits is None:
            self.traits = await self.learn(target)
        if self.traits.counts:
            answer = await self._create_counted(target)
            if answer is not None:
                proof = "crc64nvme-sent" if self.traits.insists else "crc64nvme"
                return f"{proof}:{answer['UploadId']}"
            self.traits = Traits(counts=False, insists=self.traits.insists)
        answer = await self._create(target)
        return f"{'md5-sent' if self.traits.insists else otherwise}:{answer['UploadId']}"

    async def learn(self, target: Target) -> Traits:
        """Find out which proof the store has, by way of an upload that is aborted again.

        The few bytes must not stay: SeaweedFS lists a replaced part beside the new one.
        """
        locks = s3_options.locks(self._client.spec)
        answer = await self._create_counted(target)
        if answer is None:
            return Traits(counts=False, insists=locks)
        upload = str(answer["UploadId"])
        try:
            if not locks:
                with contextlib.suppress(*_REFUSALS):
                    return Traits(counts=await self._try(target, upload))
            if await self._checks(target, upload):
                return Traits(counts=True, insists=True)
        finally:
            await self.abort(target, upload)
        return Traits(counts=False, insists=locks or await self._insists(target))

    async def held(self, target: Target, upload: str) -> tuple[HeldPart, ...]:
        """The parts that the store has. Raises ForgottenError where it doesn't know the upload."""
        held: list[HeldPart] = []
        marker: dict[str, Any] = {}
        while True:
            try:
                answer = await self._client.call(
                    "list_parts", Key=target.name, UploadId=upload, **marker
                )
            except MissingError as error:
                raise ForgottenError(error.message) from error
            held += [_held(part) for part in answer.get("Parts") or ()]
            if not answer.get("IsTruncated"):
                return tuple(held)
            marker = {"PartNumberMarker": int(answer["NextPartNumberMarker"])}

    async def complete(
        self, target: Target, reference: str, parts: Sequence[StoredPart], whole_crc: int
    ) -> None:
        """Put the parts together, where no object stands under the key.

        Errors as the store has them: whatever they say, what stands there afterwards decides.
        """
        proof, upload = parse(reference)
        parameters: dict[str, Any] = {
            "Key": target.name,
            "UploadId": upload,
            "MultipartUpload": {"Parts": [_named(part, proof) for part in parts]},
        }
        if proof.startswith("crc64nvme"):
            parameters |= {
                "ChecksumCRC64NVME": crc.text(whole_crc),
                "ChecksumType": "FULL_OBJECT",
            }
        try:
            await self._client.call("complete_multipart_upload", IfNoneMatch="*", **parameters)
        except UnsupportedError:
            await self._client.call("complete_multipart_upload", **parameters)

    async def abort(self, target: Target, upload: str) -> None:
        """Abort one. None there is fine."""
        try:
            await self._client.call("abort_multipart_upload", Key=target.name, UploadId=upload)
        except (ForgottenError, MissingError):
            return

    async def abort_leftovers(self, target: Target, but: str = "") -> None:
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
                    await self.abort(target, found["UploadId"])
            if not answer.get("IsTruncated"):
                return
            marker = {
                "KeyMarker": answer.get("NextKeyMarker", ""),
                "UploadIdMarker": answer.get("NextUploadIdMarker", ""),
            }

    async def _create_counted(self, target: Target) -> dict[str, Any] | None:
        """Begin one whose CRC the store is asked to count; None where it can't or doesn't say."""
        try:
            answer = await self._create(target, **_COUNTED)
        except UnsupportedError:
            return None
        if answer.get("ChecksumAlgorithm") == "CRC64NVME":
            return answer
        await self.abort(target, str(answer["UploadId"]))
        return None

    async def _create(self, target: Target, **sums: str) -> dict[str, Any]:
        tries = 0
        asked = s3_options.of_object(self._client.spec, target)

        async def create() -> dict[str, Any]:
            nonlocal tries
            tries += 1
            return await self._client.call_once(
                "create_multipart_upload",
                Key=target.name,
                Metadata={OWNER: target.upload, **s3_options.remembered(asked)},
                **asked,
                **sums,
            )

        answer = await steadily(create)
        if tries > 1:
            # A try whose answer was lost may have begun one as well.
            await self.abort_leftovers(target, but=str(answer["UploadId"]))
        return answer

    async def _try(self, target: Target, upload: str, **sums: str) -> bool:
        """Whether the store answers a part with the right CRC. Raises what it refuses it with."""
        sent = await self._client.send_part(target.name, upload, 1, _Probe(), sums)
        return sent.crc64nvme == crc.text(_Probe.crc64nvme)

    async def _checks(self, target: Target, upload: str) -> bool:
        """Whether it counts what it is told: some only repeat a CRC that is sent along."""
        try:
            await self._try(target, upload, ChecksumCRC64NVME=crc.text(_Probe.crc64nvme ^ 1))
        except _REFUSALS:
            with contextlib.suppress(*_REFUSALS):
                return await self._try(target, upload, ChecksumCRC64NVME=crc.text(_Probe.crc64nvme))
        return False

    async def _insists(self, target: Target) -> bool:
        """Whether it takes parts with an MD5 and none without: a bucket that locks by itself."""
        upload = str((await self._create(target))["UploadId"])
        try:
            with contextlib.suppress(*_REFUSALS):
                await self._try(target, upload)
                return False
            with contextlib.suppress(*_REFUSALS):
                await self._try(target, upload, ContentMD5=_Probe.md5_text)
                return True
        finally:
            await self.abort(target, upload)
        return False


def _named(part: StoredPart, proof: Proof) -> dict[str, object]:
    """A part, as Complete names it.

    MinIO, which wants checksums sent along, wants them here once more: without them it says
    ``InvalidPart``.
    """
    sums = {"ChecksumCRC64NVME": crc.text(part.crc64nvme)} if proof == "crc64nvme-sent" else {}
    return {"PartNumber": part.number, "ETag": f'"{part.etag}"', **sums}


class _Probe:
    """A few bytes as a body."""

    size = len(_PROBE)
    crc64nvme = crc64nvme(_PROBE)
    md5 = None
    md5_text = crc.md5_text(hashlib.md5(_PROBE, usedforsecurity=False).digest())

    def with_md5(self) -> None:
        """Not counted."""

    async def count(self) -> None:
        """Known already."""

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        yield memoryview(_PROBE)


def parse(reference: str) -> tuple[Proof, str]:
    """Proof and upload id. Raises ForgottenError for anything else, which starts it over."""
    proof, _, upload = reference.partition(":")
    if proof not in get_args(Proof) or not upload:
        raise ForgottenError("the reference is none of a multipart upload")
    return cast("Proof", proof), upload


def _held(part: Mapping[str, Any]) -> HeldPart:
    return HeldPart(
        number=int(part["PartNumber"]),
        size=int(part["Size"]),
        etag=str(part.get("ETag") or "").strip('"'),
    )

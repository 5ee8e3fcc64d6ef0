"""Multipart uploads: begun, listed, completed, aborted.

How an object's bytes can be proved differs from store to store, and has to be the same for all of
its parts, whichever worker sends them. So the reference of an unfinished object is
``<proof>:<upload id>``, with the proof settled when it is made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal, cast, get_args

from awscrt.checksums import crc64nvme

from pipeline.destinations import crc
from pipeline.destinations.retry import steadily
from pipeline.destinations.s3_client import S3Client
from pipeline.destinations.s3_errors import MissingError, UnsupportedError
from pipeline.errors import DestinationRefusedError, ForgottenError
from pipeline.messages import HeldPart, StoredPart, Target

OWNER: Final = "dropoffd-upload"
"""The metadata that says whose an object is."""

Proof = Literal["crc64nvme", "md5", "none"]
"""``crc64nvme``: the store counts it for each part and for the whole. ``md5``: ETags are held
against the MD5 of what was sent. ``none``: nothing is asked for, or it is read back.
"""

_PROBE: Final = b"dropoffd"


class Multipart:
    """The multipart uploads of one bucket."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._counts: bool | None = None
        """Whether the store counts CRC-64/NVME; None until it was tried."""

    async def begin(self, target: Target, otherwise: Proof) -> str:
        """Begin one, proved by the store's CRC or else ``otherwise``, and give its reference."""
        if self._counts is not False:
            sums = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
            try:
                answer = await self._create(target, **sums)
            except UnsupportedError:
                self._counts = False
            else:
                upload = str(answer["UploadId"])
                if answer.get("ChecksumAlgorithm") != "CRC64NVME":
                    return f"{otherwise}:{upload}"
                if self._counts:
                    return f"crc64nvme:{upload}"
                self._counts = await self._try_counting(target, upload)
                # The few bytes must not stay: SeaweedFS lists a replaced part beside the new one.
                await self.abort(target, upload)
                if self._counts:
                    answer = await self._create(target, **sums)
                    return f"crc64nvme:{answer['UploadId']}"
        return f"{otherwise}:{(await self._create(target))['UploadId']}"

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
            "MultipartUpload": {
                "Parts": [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]
            },
        }
        if proof == "crc64nvme":
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

    async def _create(self, target: Target, **sums: str) -> dict[str, Any]:
        tries = 0

        async def create() -> dict[str, Any]:
            nonlocal tries
            tries += 1
            return await self._client.call_once(
                "create_multipart_upload",
                Key=target.name,
                Metadata={OWNER: target.upload},
                **sums,
            )

        answer = await steadily(create)
        if tries > 1:
            # A try whose answer was lost may have begun one as well.
            await self.abort_leftovers(target, but=str(answer["UploadId"]))
        return answer

    async def _try_counting(self, target: Target, upload: str) -> bool:
        """Whether the store takes a part without a checksum, and answers with the right one.

        Some say that they do, and then want it sent along, or repeat what they were told.
        """
        try:
            sent = await self._client.send_part(target.name, upload, 1, _Probe())
        except DestinationRefusedError:
            return False
        return sent.crc64nvme == crc.text(_Probe.crc64nvme)


class _Probe:
    """A few bytes as a body."""

    size = len(_PROBE)
    crc64nvme = crc64nvme(_PROBE)
    md5 = None

    def with_md5(self) -> None:
        """Not counted."""

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

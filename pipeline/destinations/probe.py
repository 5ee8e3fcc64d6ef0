"""Whether a destination takes what it will be given: an object is written, read and removed.

Nothing is left behind, whatever happens: where removing isn't allowed, nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
from awscrt.checksums import crc64nvme

from pipeline.destinations import below, crc, limits_of, open_destination
from pipeline.destinations.base import Learning
from pipeline.destinations.looking import look, on_files
from pipeline.destinations.remote import open_remote
from pipeline.errors import (
    DestinationError,
    DestinationRefusedError,
    ForgottenError,
    VerificationError,
)
from pipeline.messages import DestinationSpec, StoredObject, Target, Traits

if TYPE_CHECKING:
    from pipeline.destinations.s3_client import S3Client

PREFIX = ".dropoffd-check-"
"""How the names of probes begin."""

_SIZE = 1024
_VERSIONS = 4
"""How many versions of a probe are removed; it makes two at most."""
_REMOVE_WITHIN = 15.0
"""Seconds for removing the probe, which goes on when all else was cancelled."""


class ProbeBody:
    """Some bytes as a :class:`pipeline.destinations.base.Body`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._wants_md5 = False

    @property
    def size(self) -> int:
        """Of the bytes."""
        return len(self._data)

    @property
    def crc64nvme(self) -> int:
        """Of the bytes."""
        return int(crc64nvme(self._data))

    @property
    def md5(self) -> bytes | None:
        """Of the bytes; None unless asked for before."""
        if not self._wants_md5:
            return None
        return hashlib.md5(self._data, usedforsecurity=False).digest()

    def with_md5(self) -> None:
        """Ask for :attr:`md5`."""
        self._wants_md5 = True

    async def count(self) -> None:
        """Known already."""

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        """The bytes."""
        yield memoryview(self._data)


_Proof = Literal["crc64nvme", "md5", "readback", ""]


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found."""

    left_out: list[str] = []
    """What may not be done there and was therefore not tried; empty where all went well."""
    traits: Traits | None = None
    """For S3: what the store can do; None where that could not be found out."""
    proof: _Proof = ""
    """For S3: what proves an object there without its being read, or that it has to be read."""
    lacks: list[str] = []
    """What deliveries there will go without."""


async def probe(spec: DestinationSpec, token: str, prefix: str = "") -> list[str]:
    """As :func:`probed`, for what was left out alone."""
    return (await probed(spec, token, prefix)).left_out


async def probed(spec: DestinationSpec, token: str, prefix: str = "") -> Tried:
    """Write, read back and remove an object; begin and abort an unfinished one.

    Args:
        spec: The storage.
        token: Makes the name unique.
        prefix: What names begin with there, ``/`` included; for S3 only.

    Raises:
        DestinationError: It does not take what it is given, or the probe could not be removed.
    """
    if spec.type == "s3":
        return await _probe_s3(spec, f"{prefix}{PREFIX}{token}", token)
    if spec.type == "directory":
        await _probe_directory(spec, f"{PREFIX}{token}", token)
    else:
        await _probe_remote(spec, Target(upload=token, name=f"{PREFIX}{token}", size=_SIZE))
    return Tried()


async def _probe_directory(spec: DestinationSpec, name: str, token: str) -> None:
    async def remove() -> None:
        await on_files(spec, lambda: _unlink(spec, name, token))

    async with _removing(name, remove):
        await _write(spec, Target(upload=token, name=name, size=_SIZE))


async def _probe_remote(spec: DestinationSpec, target: Target) -> None:
    """Both ways of an upload, for a storage that is reached by the names of files."""
    remote = open_remote(spec)
    try:
        async with _removing(target.name, lambda: remote.remove(target)):
            await _write(spec, target)
            if limits_of(spec).parts:
                reference = await remote.begin(target, stale=True)
                await remote.abort(target, reference)
    finally:
        await remote.aclose()


async def _probe_s3(spec: DestinationSpec, name: str, token: str) -> Tried:
    from pipeline.destinations import s3_afterwards, s3_options  # noqa: PLC0415  # dear; only for S3
    from pipeline.destinations.s3_client import S3Client  # noqa: PLC0415  # likewise

    # What is locked can't be removed again: the object has no lock, only the unfinished one asks.
    plain = s3_options.without_traces(spec)
    target = Target(upload=token, name=name, size=_SIZE, study=token)
    client = S3Client(plain)
    try:
        # A removal of what isn't there shows whether it is allowed, before anything is written.
        deleting = await _refusal(lambda: _delete(client, name))
        unknown = {"Key": name, "UploadId": "dropoffd-check"}
        aborting = await _refusal(lambda: client.call("abort_multipart_upload", **unknown))
        if deleting is not None and aborting is not None:
            raise deleting
        locking = await s3_afterwards.locking(client)
        if locking == "none" and s3_options.locks(spec):
            raise DestinationRefusedError(s3_afterwards.NO_LOCKS)
        lacks: list[str] = []
        traits: Traits | None = None
        proof: _Proof = ""
        conditional: bool | None = None
        if aborting is None:
            with _naming(s3_options.named(spec)):
                traits = await _begin(spec, client, target)
        if deleting is None and locking != "always":
            async with _removing(name, lambda: _delete(client, name)):
                with _naming(s3_options.named(plain)):
                    stored = await _write(plain, target)
                if spec.tags and not await s3_afterwards.knows_tags(client, name, _SIZE):
                    lacks.append("the store keeps no tags")
                proof = "md5" if "md5" in stored.checksum else "readback"
                if aborting is None:
                    conditional = await _conditional(client, target)
        if traits is not None:
            proof = "crc64nvme" if traits.counts else proof
            traits = msgspec.structs.replace(traits, conditional=conditional)
        refused = {"objects may not be deleted": deleting, "uploads may not be aborted": aborting}
        left_out = [f"{what}: {error.message}" for what, error in refused.items() if error]
        if locking == "always":
            left_out.append("the bucket locks every object by itself, so none was written")
        return Tried(left_out=left_out, traits=traits, proof=proof, lacks=lacks)
    finally:
        await client.aclose()


@contextlib.contextmanager
def _naming(asked: Sequence[str]) -> Iterator[None]:
    """Have a refusal name what was asked for beside the bytes: stores seldom say what they mind."""
    try:
        yield
    except DestinationRefusedError as error:
        if asked:
            message = f"{error.message}; asked for: {', '.join(asked)}"
            raise DestinationRefusedError(message) from error
        raise


async def _conditional(client: S3Client, target: Target) -> bool | None:
    """Whether completing heeds ``If-None-Match``, tried on the probe; None where it won't say."""
    from pipeline.destinations.s3_errors import (  # noqa: PLC0415  # with S3 only
        StandsError,
        UnsupportedError,
    )
    from pipeline.destinations.s3_multipart import Multipart  # noqa: PLC0415  # likewise

    multipart = Multipart(client)
    multipart.traits = Traits(counts=False)
    upload = (await multipart.begin(target, "none")).partition(":")[2]
    try:
        sent = await client.send_part(target.name, upload, 1, ProbeBody(os.urandom(target.size)))
        await client.call(
            "complete_multipart_upload",
            Key=target.name,
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": f'"{sent.etag}"'}]},
            IfNoneMatch="*",
        )
    except StandsError:
        return True
    except UnsupportedError:
        return False
    except (DestinationRefusedError, ForgottenError):
        return None
    finally:
        await multipart.abort(target, upload)
    return False


async def _write(spec: DestinationSpec, target: Target) -> StoredObject:
    """The way of a small upload, and a read of all of it."""
    body = ProbeBody(os.urandom(target.size))
    destination = open_destination(spec)
    try:
        stored = await destination.put(target, body, stale=False)
    finally:
        await destination.aclose()
    standing = await look(spec, target.name, read=True)
    if standing is None:
        raise VerificationError(f"{stored.uri} is not there after it was written")
    if (standing.size, standing.crc64nvme) != (body.size, crc.text(body.crc64nvme)):
        raise VerificationError(f"{stored.uri} reads back differently")
    return stored


async def _begin(spec: DestinationSpec, client: S3Client, target: Target) -> Traits | None:
    """The beginning of a large upload, taken back, and what it showed of the store."""
    from pipeline.destinations.s3_multipart import Multipart  # noqa: PLC0415  # with S3 only

    destination = open_destination(spec)
    try:
        reference = await destination.begin(target, stale=False)
        await destination.abort(target, reference)
        return destination.traits if isinstance(destination, Learning) else None
    except BaseException:
        # It may have begun without our knowing its reference.
        with contextlib.suppress(DestinationError, TimeoutError):
            async with asyncio.timeout(_REMOVE_WITHIN):
                await Multipart(client).abort_leftovers(target)
        raise
    finally:
        await destination.aclose()


@contextlib.asynccontextmanager
async def _removing(name: str, remove: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Have the probe removed at the end, also where it is not known whether it was written."""
    try:
        yield
    except DestinationError as error:
        left = await _left(remove)
        if left:
            message = f"{error.message}; {name} may have to be removed: {left}"
            raise type(error)(message) from error
        raise
    except BaseException:
        await _left(remove)
        raise
    left = await _left(remove)
    if left:
        raise DestinationRefusedError(f"{name} is left and has to be removed: {left}")


async def _left(remove: Callable[[], Awaitable[None]]) -> str:
    """Why it could not be removed; empty where it is gone."""
    try:
        async with asyncio.timeout(_REMOVE_WITHIN):
            await remove()
    except DestinationError as error:
        return error.message
    except TimeoutError:
        return "no answer in time"
    return ""


async def _refusal(request: Callable[[], Awaitable[object]]) -> DestinationRefusedError | None:
    """What the store has against a request for something that isn't there; None: nothing."""
    from pipeline.destinations.s3_errors import (  # noqa: PLC0415  # with S3 only
        MissingError,
        UnsupportedError,
    )

    try:
        await request()
    except (ForgottenError, MissingError, UnsupportedError):
        return None
    except DestinationRefusedError as error:
        return error
    return None


async def _delete(client: S3Client, name: str) -> None:
    """Delete an object, and its versions where the bucket keeps versions: no trace is left.

    A store that heeds no condition has made a second one; what stands there is always the latest.
    """
    removed = False
    for _ in range(_VERSIONS):
        version = await _version(client, name)
        if not version:
            break
        await client.call("delete_object", Key=name, VersionId=version)
        removed = True
    if removed:
        return
    answer = await client.call("delete_object", Key=name)
    if answer.get("DeleteMarker") and answer.get("VersionId"):
        await client.call("delete_object", Key=name, VersionId=answer["VersionId"])


async def _version(client: S3Client, name: str) -> str:
    """The version that stands there; empty where none does, or the bucket keeps none."""
    try:
        standing = await client.call("head_object", Key=name)
    except DestinationRefusedError:
        return ""
    version = str(standing.get("VersionId") or "")
    return "" if version == "null" else version


def _unlink(spec: DestinationSpec, name: str, token: str) -> None:
    with (
        contextlib.suppress(FileNotFoundError),
        below.directory(spec.directory, [], create=False) as root,
    ):
        for each in (below.temporary_name(name, token), name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(each, dir_fd=root)

"""Objects that were written to try a destination, taken away again."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pipeline.destinations import open_destination
from pipeline.destinations.looking import on_files
from pipeline.destinations.probe import _delete, _unlink
from pipeline.errors import DestinationRefusedError
from pipeline.messages import DestinationSpec, Target


@runtime_checkable
class Remover(Protocol):
    """A destination that can do so by itself."""

    async def remove(self, target: Target) -> None:
        """Remove what stands under a name, and what is unfinished there."""


async def remove(spec: DestinationSpec, target: Target) -> None:
    """Remove an object of ours, and what is unfinished of it.

    ``target.upload`` is in its name. Nothing there is fine. Raises DestinationError.
    """
    if spec.type == "s3":
        await _remove_s3(spec, target)
    elif spec.type == "directory":
        await on_files(spec, lambda: _unlink(spec, target.name, target.upload))
    else:
        destination = open_destination(spec)
        try:
            if not isinstance(destination, Remover):
                raise DestinationRefusedError(f"objects of type {spec.type} can't be removed")
            await destination.remove(target)
        finally:
            await destination.aclose()


async def _remove_s3(spec: DestinationSpec, target: Target) -> None:
    from pipeline.destinations.s3_client import S3Client  # noqa: PLC0415  # dear; only for S3
    from pipeline.destinations.s3_multipart import Multipart  # noqa: PLC0415  # likewise

    client = S3Client(spec)
    try:
        await Multipart(client).abort_leftovers(target)
        await _delete(client, target.name)
    finally:
        await client.aclose()

"""Storages, each behind :class:`pipeline.destinations.base.Destination`."""

from __future__ import annotations

from pipeline.destinations import webdav_urls
from pipeline.destinations.base import Destination, Limits
from pipeline.destinations.remote import open_remote
from pipeline.messages import DestinationSpec


def open_destination(spec: DestinationSpec) -> Destination:
    """The storage that ``spec`` describes; nothing is asked of it yet.

    Each kind's libraries are loaded when the first of its kind is opened: a worker that only
    writes to directories doesn't carry those for S3.
    """
    if spec.type == "s3":
        from pipeline.destinations.s3 import S3Destination  # noqa: PLC0415  # see above

        return S3Destination(spec)
    if spec.type == "directory":
        from pipeline.destinations.directory import DirectoryDestination  # noqa: PLC0415  # likewise

        return DirectoryDestination(spec)
    return open_remote(spec)


def limits_of(spec: DestinationSpec) -> Limits:
    """What a storage of that kind asks of parts."""
    if spec.type == "webdav":
        if not webdav_urls.chunks_root(spec):
            return Limits(parts=False)
        return Limits(min_part=5 * 1024 * 1024, max_part=5 * 1000**3)
    return Limits(min_part=5 * 1024 * 1024) if spec.type == "s3" else Limits()

"""The files that a tus server received, as the sources of uploads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from daemon.hand import Hand
from daemon.journal.model import Upload
from daemon.opening import (
    OpenedSource,
    components,
    identify,
    open_source,
    remove_source,
    sync_removal,
)
from pipeline.crashpoints import Reached, nowhere
from pipeline.errors import SourceMissingError, SourceUnavailableError


class FileSources:
    """Opens and removes them, never by a path that a client could have bent.

    Args:
        info_directory: Where the ``.info`` files are.
        roots: Further directories that absolute paths may lie in.
        remove_partials: Removes what a concatenation was put together from.
        reached: Is told of each removal, for tests that have us die there.
    """

    def __init__(
        self,
        info_directory: Path,
        roots: Sequence[Path] = (),
        remove_partials: Callable[[Upload], Awaitable[None]] | None = None,
        *,
        reached: Reached = nowhere,
    ) -> None:
        self._info_directory = info_directory
        self._roots = tuple(roots)
        self._remove_partials = remove_partials
        self._reached = reached
        self._opening: Hand | None = None

    async def open(self, upload: Upload) -> OpenedSource:
        """The upload's file, open for reading.

        Raises SourceUnsafeError, SourceMissingError, and SourceUnavailableError where the machine
        is in trouble (the file system isn't mounted, a disk fails, no descriptor is left).
        """
        if self._opening is None:
            self._opening = Hand("sources")  # every upload is opened twice, for a moment each
        return await self._opening.run(lambda: self._open(upload))

    async def remove(self, upload: Upload) -> None:
        """Delete data and ``.info``, in this order. Another file in its place is left alone.

        The ``.info`` goes last: as long as it is there a rescan finds what is left to do. That
        both are gone is on the disk when this returns: who calls it may forget the upload, and
        until then does this again. Partials that no other upload needs follow.
        """
        await asyncio.to_thread(self._remove, upload)
        if self._remove_partials is not None:
            await self._remove_partials(upload)

    def _open(self, upload: Upload) -> OpenedSource:
        for partial in upload.partials:
            components(partial)
        try:
            return open_source(Path(upload.directory), upload.path, self._roots)
        except OSError as error:
            raise _unavailable(error) from error

    def _remove(self, upload: Upload) -> None:
        try:
            ours = remove_source(Path(upload.directory), upload.path, upload.identity, self._roots)
            if ours:
                self._reached("after sources.remove_data")
                self._remove_info(upload.info_path)
                self._reached("after sources.remove_info")
                self._sync(upload)
        except OSError as error:
            raise _unavailable(error) from error

    def _remove_info(self, info_path: str) -> None:
        path = os.path.relpath(info_path, self._info_directory)
        try:
            identity = identify(self._info_directory, path)
        except SourceMissingError:
            return
        remove_source(self._info_directory, path, identity)

    def _sync(self, upload: Upload) -> None:
        data = Path(upload.directory, upload.path)
        sync_removal(Path(upload.directory), upload.path, self._roots)
        if Path(upload.info_path).parent != data.parent:
            info = os.path.relpath(upload.info_path, self._info_directory)
            sync_removal(self._info_directory, info)


def _unavailable(error: OSError) -> SourceUnavailableError:
    return SourceUnavailableError(f"the upload directory can't be used: {error.strerror}")

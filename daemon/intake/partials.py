"""Partial uploads go when the uploads that were put together from them are over.

No tus server asks for them then: tusd keeps them for ever, rustus unless it is told otherwise.
Partials that nothing was made of are left to the server, which may have an expiry of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from daemon.intake.scan import find_partial
from daemon.journal.model import Upload
from daemon.journal.protocol import IntakeJournal
from daemon.opening import remove_source, sync_removal
from daemon.settings import Uploads
from pipeline.errors import SourceUnavailableError, SourceUnsafeError

log = structlog.get_logger()


class Partials:
    """Removes them, data and ``.info``. Doing so again after a crash is fine."""

    def __init__(self, uploads: Uploads, journal: IntakeJournal) -> None:
        self._uploads = uploads
        self._journal = journal

    async def remove(self, whole: Upload) -> None:
        """Remove those of an upload, itself stored or given up, that no other one needs.

        Raises SourceUnavailableError where the upload directory can't be used.
        """
        if whole.partials:
            await self._remove(whole, await self._journal.unneeded_partials(whole.id))

    async def sweep(self) -> None:
        """Remove what uploads left for another one that was then taken back. Raises likewise."""
        if self._uploads.delete_after is None:
            return
        for whole, left in await self._journal.forsaken_partials(str(self._uploads.directory)):
            await self._remove(whole, left)

    async def _remove(self, whole: Upload, partials: Iterable[str]) -> None:
        removed = await asyncio.to_thread(self._remove_all, whole, tuple(partials))
        if removed:
            log.info("partials_deleted", upload=whole.id, partials=removed)

    def _remove_all(self, whole: Upload, partials: Iterable[str]) -> int:
        try:
            return sum(self._remove_one(whole, each) for each in partials)
        except OSError as error:
            message = f"the upload directory can't be used: {error.strerror}"
            raise SourceUnavailableError(message) from error

    def _remove_one(self, whole: Upload, tus_id: str) -> bool:
        try:
            partial = find_partial(self._uploads, tus_id)
        except SourceUnsafeError as error:
            log.warning("partial_left", upload=whole.id, code=error.code, error=error.message)
            return False
        # Whoever knows an id can name it in an upload of another study.
        if partial is None or partial.study not in {None, whole.study}:
            return False
        uploads = self._uploads
        if partial.data is not None and not remove_source(
            uploads.directory, partial.path, partial.data, uploads.roots
        ):
            return False
        # The .info goes last: as long as it is there, what is left of the partial is found again.
        removed = remove_source(uploads.info_directory, partial.info_path, partial.info)
        sync_removal(uploads.directory, partial.path, uploads.roots)
        sync_removal(uploads.info_directory, partial.info_path)
        return removed

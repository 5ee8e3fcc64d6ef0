"""What a finder meets: uploads on a disk, and a journal that only remembers what it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daemon.errors import StateFullError
from daemon.journal.model import Sighting, Upload
from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Uploads
from tests.peers.intake import (
    STUDY,
)
from tests.peers.tusd_files import info_of


def lay(uploads: Uploads, tus_id: str, data: bytes = b"12345", **fields: Any) -> None:  # noqa: ANN401 -- JSON
    """An upload as tusd 2 leaves it."""
    path = uploads.directory / tus_id
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    info = info_of(path, 5, {"filename": "a.txt", "study": STUDY}) | {"ID": tus_id}
    Path(f"{path}.info").write_text(json.dumps(info | fields))


class RecordingJournal(SqliteJournal):
    """Only remembers what it is told; what a sighting becomes is another test's matter."""

    def __init__(self) -> None:
        self.sighted: list[Sighting] = []
        self.error: StateFullError | None = None
        self.bad = ""

    async def sight(self, sighting: Sighting, now: float) -> Upload:
        del now
        if self.error is not None:
            raise self.error
        if sighting.tus_id == self.bad:
            raise ValueError("odd")
        self.sighted.append(sighting)
        return None  # type: ignore[return-value]  # nobody looks at it

    async def incomplete(self, directory: str) -> dict[str, Any]:
        del directory
        return {}

    async def known_among(self, directory: str, tus_ids: Sequence[str]) -> dict[str, Any]:
        del directory, tus_ids
        return {}

    async def expire_announcements(self, before: float, now: float) -> int:
        del before, now
        return 0

    async def forsaken_partials(self, directory: str) -> list[tuple[Upload, tuple[str, ...]]]:
        del directory
        return []

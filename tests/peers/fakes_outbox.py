"""An outbox journal in memory, and a REST API that fails as a test wants."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from daemon.journal.model import Error, Report, ReportStatus

DONE = ReportStatus.ACKNOWLEDGED


class MemoryOutbox:
    """Reports by upload, in order; see :class:`~daemon.journal.protocol.OutboxJournal`."""

    def __init__(self) -> None:
        self.reports: dict[str, list[Report]] = defaultdict(list)
        self.asked = 0
        self.broken: Exception | None = None

    def add(self, upload: str, count: int = 1) -> None:
        """Queue reports."""
        for _ in range(count):
            sequence = len(self.reports[upload]) + 1
            name = f"{upload}/{sequence}"
            self.reports[upload].append(
                Report(
                    id=name,
                    upload=upload,
                    api_id=f"api-{upload}",
                    sequence=sequence,
                    state="received",
                    body={"report": name, "study": "s"},
                    status=ReportStatus.PENDING,
                    attempts=0,
                    next_at=0.0,
                    error=None,
                    created_at=0.0,
                )
            )

    def all(self, status: ReportStatus) -> list[Report]:
        """Every report in that status."""
        return [one for queue in self.reports.values() for one in queue if one.status is status]

    async def due_reports(
        self, now: float, limit: int, excluding: frozenset[str] = frozenset()
    ) -> Sequence[Report]:
        self.asked += 1
        heads = (self._head(upload) for upload in self.reports if upload not in excluding)
        due = [head for head in heads if head is not None and head.next_at <= now]
        return sorted(due, key=lambda head: head.next_at)[:limit]

    async def next_report_at(self) -> float | None:
        heads = (self._head(upload) for upload in self.reports)
        return min((head.next_at for head in heads if head is not None), default=None)

    async def acknowledged(self, report: str) -> None:
        self._change(report, status=DONE)

    async def report_failed(self, report: str, error: Error, next_at: float) -> None:
        self._change(report, error=error, next_at=next_at)

    async def park(self, report: str, error: Error) -> None:
        self._change(report, status=ReportStatus.PARKED, error=error)

    def _head(self, upload: str) -> Report | None:
        pending = (one for one in self.reports[upload] if one.status is ReportStatus.PENDING)
        return next(pending, None)

    def _change(self, report: str, **fields: Any) -> None:  # noqa: ANN401 -- of a struct
        if self.broken is not None:
            raise self.broken
        queue = self.reports[report.partition("/")[0]]
        place = next(number for number, one in enumerate(queue) if one.id == report)
        more = {"attempts": queue[place].attempts + 1, **fields}
        queue[place] = msgspec.structs.replace(queue[place], **more)


class FakeReporter:
    """Takes reports; ``errors`` says what becomes of which."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.tried: list[str] = []
        self.taken: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.down: Exception | None = None
        self.most_at_once = 0
        self._seconds = seconds
        self._now: list[str] = []

    async def report(self, api_id: str, body: dict[str, Any]) -> None:
        upload = api_id.removeprefix("api-")
        assert upload not in self._now, "two reports of one upload at once"
        self._now.append(upload)
        self.most_at_once = max(self.most_at_once, len(self._now))
        self.tried.append(body["report"])
        try:
            await asyncio.sleep(self._seconds)
            error = self.down or self.errors.get(body["report"])
            if error is not None:
                raise error
            self.taken.append(body["report"])
        finally:
            self._now.remove(upload)


class Recorded:
    """Metrics as a list."""

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []

    def record(self, event: str, outcome: str, **fields: object) -> None:
        self.lines.append({"event": event, "outcome": outcome, **fields})

"""Small borders that many parts share. What stands behind them is passed in by the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pipeline.messages import Job, Result

Clock = Callable[[], float]
"""Seconds since the epoch (UTC), as ``time.time``."""


class Metrics(Protocol):
    """The metrics log: one wide line for each finished unit of work."""

    def record(self, event: str, outcome: str, **fields: object) -> None:
        """Write a line; never blocks, never raises.

        ``event`` is one of hook, upload, delivery, report, rescan; ``outcome`` is ``ok`` or
        ``failed`` (or the event's own word, e.g. ``refused``). Durations end in ``_seconds``,
        sizes in ``_bytes``; ``error_code`` where there is one.
        """


class Audit(Protocol):
    """The audit log: who did what to which upload."""

    async def record(self, action: str, upload: str, by: str, **fields: object) -> None:
        """Append an entry; durable when this returns."""


class Workers(Protocol):
    """The pipeline's processes."""

    @property
    def slots(self) -> int:
        """How many jobs can make good use of the machine at once."""

    async def run(self, job: Job, source: int | None = None) -> Result:
        """Have a worker do a job; ``source`` is the open file's descriptor where it needs one.

        The descriptor stays the caller's. A ``Failed`` result comes back as the exception of its
        code; a worker that dies raises WorkerLostError. Cancelling ends the job in its worker.
        """

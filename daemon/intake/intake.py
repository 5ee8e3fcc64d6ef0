"""All of intake but pre-create: what finds uploads, and what hooks say of them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from daemon.intake.finder import Finder
from daemon.intake.info import Info
from daemon.intake.spool import Spool
from daemon.journal.protocol import IntakeJournal
from daemon.ports import Clock, Metrics
from daemon.settings import Settings
from pipeline.crashpoints import Reached, nowhere

if TYPE_CHECKING:
    from daemon.intake.amqp import AmqpHooks


class Intake:
    """Finds uploads until it is cancelled. Hooks over HTTP give it their hints, too."""

    def __init__(
        self,
        settings: Settings,
        journal: IntakeJournal,
        metrics: Metrics,
        clock: Clock = time.time,
        *,
        reached: Reached = nowhere,
    ) -> None:
        pipeline = settings.pipeline
        self._finder = Finder(
            settings.uploads,
            journal,
            metrics,
            clock,
            follow_after=pipeline.follow_after if pipeline.follow else math.inf,
        )
        self._spool = Spool(settings.spool, self._finder, metrics, reached)
        self._amqp: AmqpHooks | None = None
        if settings.hooks.amqp is not None:
            from daemon.intake.amqp import AmqpHooks  # noqa: PLC0415 - its library is optional

            self._amqp = AmqpHooks(settings.hooks.amqp, self._finder, metrics)

    @property
    def scanned(self) -> asyncio.Event:
        """Set once everything on disk was looked at for the first time."""
        return self._finder.scanned

    async def run(self) -> None:
        """Take in until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._finder.run())
            group.create_task(self._spool.run())
            if self._amqp is not None:
                group.create_task(self._amqp.run())

    async def check(self, tus_ids: Iterable[str]) -> None:
        """Look at these uploads now. Raises StateFullError."""
        await self._finder.check(tus_ids)

    async def terminated(self, tus_id: str, upload: Info | None = None) -> None:
        """The client took an upload back. Raises StateFullError."""
        await self._finder.terminated(tus_id, upload)

    def describe(self) -> dict[str, Any]:
        """How it is, for ``dropoffd status``."""
        return self._finder.status() | {
            "spool_failed": self._spool.failed,
            "spool_problem": self._spool.problem or "",
            "amqp": None if self._amqp is None else self._amqp.describe(),
        }

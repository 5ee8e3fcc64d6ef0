"""Announcements whose answer was lost: asked again, so that somebody here ends them one day."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import structlog

from daemon.backoff import Backoff
from daemon.errors import ApiUnreachableError, StudyRefusedError
from daemon.journal.model import Asking
from daemon.journal.protocol import IntakeJournal
from daemon.plan import Broker
from daemon.ports import Clock
from daemon.settings import Settings
from pipeline.errors import DropoffError

log = structlog.get_logger()

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds between tries while the API is away."""
_BATCH = 100


def may_be_taken(error: DropoffError) -> bool:
    """Whether the API may know of an announcement that ended in this error."""
    if isinstance(error, StudyRefusedError):
        return False
    return not (isinstance(error, ApiUnreachableError) and error.undone)


class Askings:
    """Settles what pre-create asked and got no answer to: was refused, or is an announcement.

    The question is repeated with its own Idempotency-Key, so whoever took it before gives the
    same id again. The announcement ends as any other that no upload follows.

    Args:
        settings: How long pre-create itself waits, and how often it is time to look.
        journal: Where the askings are.
        broker: Is asked again.
        clock: Seconds since the epoch.
        backoff: While the API is away; 1 s to 5 min unless given.
    """

    def __init__(
        self,
        settings: Settings,
        journal: IntakeJournal,
        broker: Broker,
        clock: Clock = time.time,
        backoff: Backoff | None = None,
    ) -> None:
        self._patience = settings.hooks.timeout
        self._interval = settings.uploads.rescan
        self._journal = journal
        self._broker = broker
        self._clock = clock
        self._backoff = backoff or Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._started = clock()
        self._failures = 0
        self._failed: Counter[str] = Counter()
        """How often each was asked in vain: who fails alone must not hold up the others."""

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            pause = await self.settle()
            await asyncio.sleep(pause)

    async def settle(self) -> float:
        """Ask again what nobody waits for any more; seconds until it is time again."""
        try:
            while asked := await self._old():
                for asking in asked:
                    await self._ask(asking)
        except Exception as error:  # noqa: BLE001 - whatever it is may pass; the row stays
            self._failures += 1
            code = error.code if isinstance(error, DropoffError) else "internal"
            log.warning("asking not settled", code=code, error=str(error))
            asked_for = error.retry_after if isinstance(error, ApiUnreachableError) else None
            return max(self._backoff.delay(self._failures), asked_for or 0.0)
        self._failures = 0
        return self._interval

    async def _old(self) -> list[Asking]:
        now = self._clock()
        # Nobody waits for what a process asked that is gone.
        before = max(now - self._patience, min(self._started, now))
        found = await self._journal.askings(before, now, _BATCH)
        return sorted(found, key=lambda asking: self._failed[asking.announcing.key])

    async def _ask(self, asking: Asking) -> None:
        key = asking.announcing.key
        self._failed[key] += 1
        try:
            api_id = await self._broker.announce(asking.announcing)
        except StudyRefusedError as refusal:
            log.info("asking refused", upload=key, code=refusal.code, error=refusal.message)
            await self._journal.forget_asking(key)
        else:
            await self._journal.add_announcement(asking.answered(api_id))
            log.info("asking settled", upload=key)
        del self._failed[key]

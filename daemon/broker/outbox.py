"""The outbox: reports on their way to the REST API, in order, for as long as it takes."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

import structlog

from daemon.backoff import Backoff
from daemon.broker.circuit import Circuit
from daemon.errors import ApiRefusedError, ApiUnreachableError
from daemon.journal.model import Error, Report, Work
from daemon.journal.protocol import OutboxJournal
from daemon.ports import Clock, Metrics
from pipeline.errors import DropoffError

AT_ONCE = 16
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
_LOOK_AGAIN = 60.0
"""Seconds. The wall clock may jump: no sleep that follows it is longer."""
_LOOK_AGAIN_WHILE_SENDING = 1.0
_GATHER = 0.01
"""Seconds. Where many reports come and go, to look for each by itself costs more than it does."""


class Reporter(Protocol):
    """Who takes reports; see :class:`~daemon.broker.client.ApiClient`."""

    async def report(self, api_id: str, body: dict[str, Any]) -> None:
        """Send one; ApiRefusedError, ApiUnreachableError."""


class Outbox:
    """Sends the journal's reports, each until it is acknowledged or refused for good.

    Several uploads' reports go out side by side, one upload's strictly one after the other. What
    is sent and not yet marked is sent again after a crash; the API knows it by its UUID. While
    the API is away all reports wait together, and one at a time tries whether it is back.

    It is a :class:`~daemon.journal.protocol.Listener` of the journal.

    Args:
        journal: Where the reports are.
        api: Who takes them.
        metrics: One ``report`` line for each try.
        clock: As ``time.time``.
        backoff: Between tries; 1 s to 5 min unless given.
    """

    def __init__(
        self,
        journal: OutboxJournal,
        api: Reporter,
        metrics: Metrics,
        clock: Clock,
        backoff: Backoff | None = None,
    ) -> None:
        self._journal = journal
        self._api = api
        self._metrics = metrics
        self._clock = clock
        self._log = structlog.get_logger(__name__)
        self._backoff = backoff or Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._circuit = Circuit(self._backoff, clock)
        self._sending: set[str] = set()
        self._tried_last: str | None = None
        self._wake = asyncio.Event()

    @property
    def healthy(self) -> bool:
        """Whether the last try got through."""
        return self._circuit.closed

    @property
    def last_error(self) -> Error | None:
        """Why the API can't be reached; None while it can."""
        return self._circuit.error

    @property
    def waiting_since(self) -> float | None:
        """Since when it can't, seconds since the epoch."""
        return self._circuit.since

    def poke(self) -> None:
        """Look for reports now; call it on the event loop."""
        self._wake.set()

    def on_reports(self) -> None:
        """A report was queued, or can go now."""
        self.poke()

    def on_work(self, work: Work) -> None:
        """Nothing to do with reports."""

    def on_withdrawn(self, upload: str) -> None:
        """Nothing to do either: its reports go out all the same."""

    async def run(self) -> None:
        """Send reports until cancelled. What was on its way then is sent again later."""
        async with asyncio.TaskGroup() as tries:
            while True:
                self._wake.clear()
                try:
                    for report in await self._due():
                        self._sending.add(report.upload)
                        tries.create_task(self._try(report), name=f"report {report.id}")
                    pause = await self._pause()
                except DropoffError as error:
                    self._log.warning("outbox_stalled", error_code=error.code, error=str(error))
                    pause = FIRST_PAUSE
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(_GATHER)

    async def _due(self) -> list[Report]:
        """What may go out now: all that is due, or one where the API was away."""
        sending = frozenset(self._sending)
        if self._circuit.closed:
            limit = AT_ONCE - len(sending)
            if limit <= 0:
                return []
            return list(await self._journal.due_reports(self._clock(), limit, sending))
        if sending or self._circuit.remaining() > 0:
            return []
        # Another upload's first: it may be this one's report alone that the API stumbles over.
        others = sending if self._tried_last is None else sending | {self._tried_last}
        found = await self._journal.due_reports(self._clock(), 1, others)
        return list(found or await self._journal.due_reports(self._clock(), 1, sending))

    async def _pause(self) -> float:
        """How long nothing will be due unless something wakes us."""
        if not self._circuit.closed:
            remaining = self._circuit.remaining()
            if self._sending:  # what is on its way wakes us
                return _LOOK_AGAIN
            if remaining > 0:
                return remaining
        if len(self._sending) >= AT_ONCE:
            return _LOOK_AGAIN
        due = await self._journal.next_report_at()
        if due is None:
            return _LOOK_AGAIN
        least = _LOOK_AGAIN_WHILE_SENDING if self._sending else 0.0
        return min(max(due - self._clock(), least), _LOOK_AGAIN)

    async def _try(self, report: Report) -> None:
        """Send one report and note what became of it; raises only when cancelled."""
        seen = self._circuit.failures
        began = time.monotonic()
        outcome, error = "ok", None
        try:
            try:
                await self._api.report(report.api_id, report.body)
            except ApiRefusedError as refusal:
                outcome, error = "refused", _error(refusal, f"{refusal.status}: {refusal}")
                await self._journal.park(report.id, error)
            else:
                await self._journal.acknowledged(report.id)
            self._circuit.succeeded()
        except Exception as failure:  # noqa: BLE001 -- one report's trouble is not the others'
            outcome, error = "failed", self._failed(failure, seen)
            await self._postpone(report, error)
        finally:
            self._tried_last = report.upload
            self._sending.discard(report.upload)
            self._wake.set()
        self._tell(report, outcome, error, time.monotonic() - began)

    def _failed(self, failure: Exception, seen: int) -> Error:
        """What to remember of a failure, which makes all reports wait."""
        pause = None
        if isinstance(failure, DropoffError):
            error = _error(failure, failure.message)
            if isinstance(failure, ApiUnreachableError):
                pause = failure.retry_after
        else:
            self._log.error("report_broke", exc_info=failure)
            error = Error(code="internal", message=type(failure).__name__, retryable=True)
        self._circuit.failed(error, seen, pause)
        return error

    async def _postpone(self, report: Report, error: Error) -> None:
        pause = max(self._backoff.delay(report.attempts + 1), self._circuit.remaining())
        try:
            await self._journal.report_failed(report.id, error, self._clock() + pause)
        except DropoffError as failure:  # still pending there, which is all that matters
            self._log.warning("outbox_stalled", error_code=failure.code, error=str(failure))

    def _tell(self, report: Report, outcome: str, error: Error | None, seconds: float) -> None:
        log = self._log.bind(upload=report.upload, state=report.state, sequence=report.sequence)
        if error is None:
            log.debug("report_sent")
        elif outcome == "refused":
            log.error("report_parked", error_code=error.code, error=error.message)
        else:
            log.warning("report_failed", error_code=error.code, error=error.message)
        fields = {} if error is None else {"error_code": error.code}
        self._metrics.record(
            "report",
            outcome,
            upload=report.upload,
            study=report.body.get("study"),
            state=report.state,
            sequence=report.sequence,
            attempts=report.attempts + 1,
            send_seconds=seconds,
            waited_seconds=max(0.0, self._clock() - report.created_at),
            **fields,
        )


def _error(failure: DropoffError, message: str) -> Error:
    return Error(code=failure.code, message=message, retryable=failure.retryable)

"""What operators tell the running daemon over its socket: ``retry`` and ``discard``.

Only the daemon's own user and root may, as the kernel names them; nobody may over TCP. An order is
in the audit log before anything is done about it, and what became of it after that where it was
refused. A discarded upload's source goes once the journal has it as discarded: who dies between
the two finds it again at the next start, or is told to discard it once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
import structlog
from aiohttp import web

from daemon.errors import ConflictError
from daemon.journal.model import Identity, ReportStatus, Upload, UploadState
from daemon.journal.protocol import OperatorJournal
from daemon.ports import Audit, Clock
from daemon.processing.context import Sources
from pipeline.errors import DropoffError, SourceError, SourceMissingError, SourceUnsafeError
from pipeline.libc import peer_of

AT_ONCE = 10_000
"""Uploads that one request acts on at the most."""
LONGEST_REASON = 1000

log = structlog.get_logger(__name__)


class RetryOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /control/retry``."""

    uploads: tuple[str, ...] = ()
    failed: bool = False
    """All that have failed, and those whose ``stored`` report the REST API refused."""


class DiscardOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /control/discard``."""

    uploads: tuple[str, ...]
    reason: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one upload that was asked for."""

    asked: str
    """As the operator named it."""
    upload: str | None = None
    """Its own id; None where nothing fits."""
    done: bool = False
    state: str | None = None
    """After the order."""
    source: str | None = None
    """``deleted`` or ``kept``, for a discarded one."""
    error: dict[str, str] | None = None
    """``code`` and ``message`` of what stood in the way."""


class Outcomes(msgspec.Struct, frozen=True):
    """The answer."""

    uploads: list[Outcome]
    more: bool = False
    """There were more than :data:`AT_ONCE`."""


class OperatedJournal(OperatorJournal, Protocol):
    """What operators may do, and a look at what came of it."""

    async def upload(self, upload: str) -> Upload:
        """One upload."""


Order = TypeVar("Order", RetryOrder, DiscardOrder)


@dataclass(frozen=True)
class Operator:
    """Who gives an order."""

    uid: int
    name: str
    """The user's, or ``uid:<number>`` where it has none."""


class Control:
    """Does what operators order, one order after the other.

    Args:
        journal: Finds uploads, and changes them.
        sources: Deletes the files of discarded ones.
        audit: Is told of each order first.
        clock: Seconds since the epoch.
        keep_sources: Whether the configuration says that no source is ever deleted.
    """

    def __init__(
        self,
        journal: OperatedJournal,
        sources: Sources,
        audit: Audit,
        clock: Clock,
        *,
        keep_sources: bool = False,
    ) -> None:
        self._journal = journal
        self._sources = sources
        self._audit = audit
        self._clock = clock
        self._keep_sources = keep_sources
        self._one_by_one = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """For the hook socket."""
        return [
            web.post("/control/retry", self._on_retry),
            web.post("/control/discard", self._on_discard),
        ]

    @contextlib.asynccontextmanager
    async def finishing(self) -> AsyncIterator[None]:
        """While this is open, delete what a discard before a crash left."""
        task = asyncio.create_task(self.finish_discarded())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def finish_discarded(self) -> None:
        """Delete the sources of discarded uploads that are still there, unchanged."""
        if self._keep_sources:
            return
        try:
            for upload in await self._journal.uploads(UploadState.DISCARDED, None, AT_ONCE):
                await self._finish(upload)
        except (DropoffError, OSError) as error:
            log.warning("discarded_left", error=str(error))

    async def _finish(self, upload: Upload) -> None:
        try:
            if await self._delete_unchanged(upload):
                await self._deleted(upload)
        except SourceError as error:
            log.warning("discarded_left", upload=upload.id, error=error.message)

    async def retry(self, order: RetryOrder, operator: Operator) -> Outcomes:
        """Have uploads go on; see :meth:`OperatorJournal.retry`."""

        async def act(upload: Upload) -> Outcome:
            await self._check_retriable(upload)
            now = self._clock()
            async with self._audited("retry", upload, operator):
                await self._journal.retry(upload.id, now)
            return Outcome(asked=upload.id, done=True)

        async with self._one_by_one:
            asked = list(order.uploads)
            if order.failed:
                asked += [upload.id for upload in await self._all_failed()]
            return await self._each(asked, act)

    async def discard(self, order: DiscardOrder, operator: Operator) -> Outcomes:
        """Give failed uploads up, and delete their sources."""

        async def act(upload: Upload) -> Outcome:
            if upload.state is UploadState.DISCARDED:
                return await self._discard_again(upload)
            if upload.state is not UploadState.FAILED:
                raise ConflictError(f"it is {upload.state}: only what has failed can be discarded")
            # What is given up is the file as it stands there, also where it was changed.
            identity = await self._standing(upload)
            now = self._clock()
            async with self._audited("discard", upload, operator, reason=order.reason):
                await self._journal.discard(upload.id, now, identity)
            return await self._delete(await self._journal.upload(upload.id))

        async with self._one_by_one:
            return await self._each(order.uploads, act)

    # Steps ----------------------------------------------------------------------------------

    async def _each(
        self, asked: Sequence[str], act: Callable[[Upload], Awaitable[Outcome]]
    ) -> Outcomes:
        """Do it for each upload once, however often it is named; one's trouble is its own."""
        outcomes: list[Outcome] = []
        seen: set[str] = set()
        for text in asked[:AT_ONCE]:
            outcome = Outcome(asked=text)
            try:
                upload = await self._journal.find(text)
                if upload.id in seen:
                    continue
                seen.add(upload.id)
                outcome = Outcome(asked=text, upload=upload.id, state=upload.state.value)
                acted = await act(upload)
                now = await self._journal.upload(upload.id)
                outcome = msgspec.structs.replace(
                    acted, asked=text, upload=upload.id, state=now.state.value
                )
            except DropoffError as error:
                outcome = msgspec.structs.replace(outcome, done=False, error=_told(error))
            outcomes.append(outcome)
        return Outcomes(outcomes, more=len(asked) > AT_ONCE)

    async def _all_failed(self) -> list[Upload]:
        found = list(await self._journal.uploads(UploadState.FAILED, None, AT_ONCE + 1))
        counts = await self._journal.report_counts()
        if counts[ReportStatus.PARKED.value]:
            stored = await self._journal.uploads(UploadState.STORED, None, AT_ONCE)
            found += [upload for upload in stored if await self._has_parked(upload)]
        return found

    async def _check_retriable(self, upload: Upload) -> None:
        if upload.state is not UploadState.FAILED and not await self._has_parked(upload):
            raise ConflictError(f"it is {upload.state}, and no report of it is parked")

    async def _has_parked(self, upload: Upload) -> bool:
        details = await self._journal.details(upload.id)
        return any(report.status is ReportStatus.PARKED for report in details.reports)

    @contextlib.asynccontextmanager
    async def _audited(
        self, action: str, upload: Upload, operator: Operator, **fields: object
    ) -> AsyncIterator[None]:
        """Write the order down, durably, before it is done; and its failure, should it fail."""
        by = operator.name
        await self._audit.record(action, upload.id, by, uid=operator.uid, **fields)
        try:
            yield
        except DropoffError as error:
            await self._audit.record(
                f"{action}_failed", upload.id, by, uid=operator.uid, error_code=error.code
            )
            raise
        log.info(action, upload=upload.id, by=by)

    async def _standing(self, upload: Upload) -> Identity | None:
        """The identity of the source as it is now; None where it can't be opened."""
        try:
            with await self._sources.open(upload) as source:
                return source.identity
        except SourceError:
            return None

    async def _delete(self, upload: Upload) -> Outcome:
        """The source of one that the journal has as discarded."""
        if self._keep_sources:
            return Outcome(asked=upload.id, done=True, source="kept")
        try:
            await self._sources.remove(upload)
            if await self._standing(upload) is not None:
                raise SourceUnsafeError("another file stands in its place")
        except DropoffError as error:
            log.warning("discarded_left", upload=upload.id, error=error.message)
            return Outcome(asked=upload.id, source="kept", error=_told(error))
        return await self._deleted(upload)

    async def _discard_again(self, upload: Upload) -> Outcome:
        """What an earlier discard did not get done."""
        if self._keep_sources:
            raise ConflictError("it is discarded already, and sources are kept by configuration")
        if not await self._delete_unchanged(upload):
            raise ConflictError("it is discarded already")
        return await self._deleted(upload)

    async def _deleted(self, upload: Upload) -> Outcome:
        await self._audit.record("source_deleted", upload.id, "dropoffd")
        return Outcome(asked=upload.id, done=True, source="deleted")

    async def _delete_unchanged(self, upload: Upload) -> bool:
        """Delete a source only if it is the very file that was discarded.

        A new upload may have come to its name, and even to its inode, meanwhile.
        """
        try:
            with await self._sources.open(upload) as source:
                if source.identity != upload.identity:
                    return False
        except SourceMissingError:
            await self._sources.remove(upload)  # what may be left beside it
            return False
        await self._sources.remove(upload)
        return True

    # Requests -------------------------------------------------------------------------------

    async def _on_retry(self, request: web.Request) -> web.Response:
        operator = await _operator(request)
        order = _decoded(await request.read(), RetryOrder)
        if not order.uploads and not order.failed:
            raise web.HTTPBadRequest(text="expected uploads, or failed\n")
        return _answer(await self._obeyed(self.retry(order, operator)))

    async def _on_discard(self, request: web.Request) -> web.Response:
        operator = await _operator(request)
        order = _decoded(await request.read(), DiscardOrder)
        if not order.uploads or not 0 < len(order.reason.strip()) <= LONGEST_REASON:
            raise web.HTTPBadRequest(
                text=f"expected uploads, and a reason of 1 to {LONGEST_REASON} characters\n"
            )
        return _answer(await self._obeyed(self.discard(order, operator)))

    async def _obeyed(self, orders: Awaitable[Outcomes]) -> Outcomes:
        """The outcome; 503 where not even the journal or the audit log can be asked."""
        try:
            return await orders
        except DropoffError as error:
            raise web.HTTPServiceUnavailable(text=f"{error.code}: {error.message}\n") from error
        except OSError as error:
            raise web.HTTPServiceUnavailable(text=f"audit log: {error.strerror}\n") from error


async def _operator(request: web.Request) -> Operator:
    """Who asks. Raises 404 over TCP, and 403 for anybody but root and the daemon's own user."""
    transport = request.transport
    peer = None if transport is None else transport.get_extra_info("socket")
    if peer is None or peer.family != socket.AF_UNIX:
        raise web.HTTPNotFound
    uid = peer_of(peer).uid
    if uid not in {0, os.geteuid()}:
        raise web.HTTPForbidden(text="only root and dropoffd's own user may act on uploads\n")
    return Operator(uid, await asyncio.to_thread(_user_name, uid))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid:{uid}"


def _decoded(body: bytes, kind: type[Order]) -> Order:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from None


def _answer(outcomes: Outcomes) -> web.Response:
    return web.Response(body=msgspec.json.encode(outcomes), content_type="application/json")


def _told(error: DropoffError) -> dict[str, str]:
    return {"code": error.code, "message": error.message}

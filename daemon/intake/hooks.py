"""The hook socket: pre-create asks here whether an upload may be, and waits for the answer.

The same is served on a TCP address for tus servers that call hooks over HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import time
import uuid
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Self

import structlog
from aiohttp import web

from daemon.errors import (
    ApiUnreachableError,
    ConfigError,
    SpoolError,
    StoppingError,
    StudyMissingError,
    StudyRefusedError,
)
from daemon.intake.answers import Admission, Refusal, accept, refuse, unavailable
from daemon.intake.askings import may_be_taken
from daemon.intake.events import Event, parse_event
from daemon.intake.hints import Lookout, follow
from daemon.intake.info import MAX_INFO
from daemon.intake.study_places import id_below, make_place
from daemon.journal.model import Asking
from daemon.journal.protocol import IntakeJournal
from daemon.plan import Announcing, Broker
from daemon.ports import Clock, Metrics
from daemon.settings import Settings
from pipeline.errors import DropoffError

log = structlog.get_logger()

SOCKET_MODE = 0o660
_CLOSE_SECONDS = 5.0


class HookServer:
    """Answers hooks while :meth:`run` runs; or use it as an async context manager.

    Args:
        settings: Where to listen, how long an answer may take, where the study's UUID is.
        broker: Says whether an upload may be.
        journal: Remembers what was let through before the answer goes out.
        metrics: Gets a ``hook`` line for each.
        clock: Seconds since the epoch.
        lookout: Gets the hints of other hooks that come over HTTP; None: they are left to the
            rescan.
        routes: Whatever else is served there, such as ``/status`` and ``/metrics``.
    """

    def __init__(  # noqa: PLR0913 - each is a part of the service that it stands on
        self,
        settings: Settings,
        broker: Broker,
        journal: IntakeJournal,
        metrics: Metrics,
        clock: Clock = time.time,
        *,
        lookout: Lookout | None = None,
        routes: Sequence[web.RouteDef] = (),
    ) -> None:
        self.ready = asyncio.Event()
        """Set while it listens."""
        self._hooks = settings.hooks
        self._uploads = settings.uploads
        self._broker = broker
        self._journal = journal
        self._lookout = lookout
        self._metrics = metrics
        self._routes = tuple(routes)
        self._clock = clock
        self._runner: web.AppRunner | None = None
        self._place: tuple[int, int] | None = None
        self._remembering: set[asyncio.Task[None]] = set()
        self._deciding: set[asyncio.Task[Admission]] = set()
        self._stopping = False

    async def run(self) -> None:
        """Answer until cancelled. Raises ConfigError where an address can't be had."""
        async with self:
            await asyncio.Event().wait()

    async def start(self) -> None:
        """Listen. Raises ConfigError where an address is taken or can't be had."""
        self._stopping = False
        app = web.Application(client_max_size=MAX_INFO)
        app.add_routes(
            [
                web.post("/hooks", self._handle),
                web.post("/hooks/{hook}", self._handle),
                *self._routes,
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
        await runner.setup()
        self._runner = runner
        try:
            await self._listen(runner)
        except OSError as error:
            await self.aclose()
            raise ConfigError(
                f"hooks can't be listened for: {error.strerror or error}; "
                f"expected [hooks] socket and listen to be free and permitted"
            ) from error
        except BaseException:
            await self.aclose()
            raise
        self.ready.set()

    async def aclose(self) -> None:
        """Stop listening. Who waits for a decision is told to come again; other answers go out."""
        self.ready.clear()
        self._stopping = True
        for deciding in self._deciding:
            deciding.cancel()
        runner, self._runner = self._runner, None
        if runner is not None:
            place, self._place = self._place, None
            # Another daemon may have taken the place of the socket: its file stays.
            with contextlib.suppress(OSError):
                if place is not None and _place(self._hooks.socket) == place:
                    self._hooks.socket.unlink()
            await runner.cleanup()
        if self._remembering:
            await asyncio.wait(self._remembering)

    async def __aenter__(self) -> Self:
        """Start, and give the server."""
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        await self.aclose()

    async def _listen(self, runner: web.AppRunner) -> None:
        path = self._hooks.socket
        listener = await asyncio.to_thread(_bind, path)
        self._place = _place(path)
        await web.SockSite(runner, listener).start()
        if self._hooks.listen:
            host, _, port = self._hooks.listen.rpartition(":")
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()

    # Requests -------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.Response:
        began = time.monotonic()
        hook = request.match_info.get("hook") or request.headers.get("Hook-Name")
        data = await request.read()
        try:
            event = parse_event(data, hook)
        except SpoolError as error:
            log.warning("hook not understood", code=error.code, error=error.message)
            self._record(began, "failed", hook=hook or "", error_code=error.code)
            return refuse(None, unavailable())
        if event.hook == "pre-create":
            return await self._pre_create(event, began, over_http=_is_over_http(request))
        return await self._hint(event, began)

    async def _hint(self, event: Event, began: float) -> web.Response:
        try:
            if self._lookout is not None:
                await follow(self._lookout, [event])
        except DropoffError as error:
            self._record(began, "failed", hook=event.hook, error_code=error.code)
            return web.Response(status=503, text=unavailable().line)
        self._record(began, "ok", hook=event.hook, tus_id=event.upload.tus_id)
        return web.Response(text="{}", content_type="application/json")

    async def _pre_create(self, event: Event, began: float, *, over_http: bool) -> web.Response:
        study = event.upload.study(self._uploads.study_key)
        try:
            admission = await self._unless_stopped(self._decide(event, study))
        except (StudyMissingError, StudyRefusedError) as error:
            self._record_decision(began, "refused", event, study, error)
            status = error.status if isinstance(error, StudyRefusedError) else 400
            return refuse(event, Refusal(status, error.message))
        except (DropoffError, TimeoutError) as error:
            self._record_decision(began, "failed", event, study, error)
            pause = error.retry_after if isinstance(error, ApiUnreachableError) else None
            return refuse(event, unavailable(pause))
        except Exception as error:
            # Whatever went wrong: an upload that nobody said yes to is never let through.
            log.exception("pre-create failed")
            self._record_decision(began, "failed", event, study, error)
            return refuse(event, unavailable())
        self._record_decision(began, "accepted", event, study, None)
        return accept(event, admission, over_http=over_http)

    async def _unless_stopped(self, decision: Coroutine[Any, Any, Admission]) -> Admission:
        """The decision. Raises StoppingError as soon as the service stops."""
        deciding = asyncio.create_task(decision)
        self._deciding.add(deciding)
        if self._stopping:
            deciding.cancel()
        try:
            return await deciding
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._stopping or (task is not None and task.cancelling()):
                raise
            raise StoppingError("the service stops") from None
        finally:
            self._deciding.discard(deciding)

    async def _decide(self, event: Event, study: str | None) -> Admission:
        """Announce the upload. Raises whatever speaks against it."""
        if study is None:
            key = self._uploads.study_key
            raise StudyMissingError(f"the metadata {key!r} must hold the study's UUID")
        below = self._hooks.study_ids and event.shape == "tusd"
        admission = Admission(str(uuid.uuid4()), id_below(study) if below else None)
        async with asyncio.timeout(self._hooks.timeout):
            # A part is not announced: the whole is, once it is put together.
            if not event.upload.is_partial:
                await self._announce(event, study, admission)
            if below:
                await self._make_place(study)
        return admission

    async def _announce(self, event: Event, study: str, admission: Admission) -> None:
        announcing = self._announcing(event, study, admission.dropoff_id)
        asking = Asking(
            announcing=announcing,
            tus_id=admission.tus_id or announcing.tus_id,
            created_at=self._clock(),
        )
        await self._note(asking)
        try:
            api_id = await self._broker.announce(announcing)
        except DropoffError as error:
            if not may_be_taken(error):
                self._beside(self._forget(announcing.key))
            raise
        # Once the API knows of it the journal has to, even if the answer comes too late.
        remembering = self._beside(self._journal.add_announcement(asking.answered(api_id)))
        await asyncio.shield(remembering)

    async def _note(self, asking: Asking) -> None:
        """Remember what is about to be asked. Who is cancelled here has not asked."""
        try:
            await self._journal.add_asking(asking)
        except asyncio.CancelledError:
            self._beside(self._forget(asking.announcing.key))
            raise

    async def _forget(self, asking: str) -> None:
        try:
            await self._journal.forget_asking(asking)
        except DropoffError as error:
            # It is asked once more than it had to be, and ends as one that no upload followed.
            log.warning("asking stays", code=error.code, error=error.message)

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have something done that goes on whoever is cancelled meanwhile."""
        task = asyncio.create_task(work)
        self._remembering.add(task)
        task.add_done_callback(self._remembering.discard)
        return task

    async def _make_place(self, study: str) -> None:
        try:
            await asyncio.to_thread(make_place, self._uploads.directory, study)
        except OSError as error:
            # tusd makes it, or refuses the upload itself.
            log.warning("no place for a study", study=study, error=error.strerror)

    def _announcing(self, event: Event, study: str, dropoff_id: str) -> Announcing:
        upload = event.upload
        return Announcing(
            key=dropoff_id,
            study=study,
            filename=upload.filename,
            size=upload.size,
            metadata={key: text for key, text in upload.metadata.items() if key != "dropoff_id"},
            client=event.client,
            server=upload.server,
            tus_id=upload.tus_id or None,
        )

    def _record_decision(
        self,
        began: float,
        outcome: str,
        event: Event,
        study: str | None,
        error: BaseException | None,
    ) -> None:
        fields: dict[str, object] = {"hook": event.hook, "study": study, "server": event.shape}
        if isinstance(error, DropoffError):
            fields["error_code"] = error.code
            log.info("pre-create", outcome=outcome, code=error.code, error=error.message)
        elif error is not None:
            fields["error_code"] = "timeout" if isinstance(error, TimeoutError) else "internal"
        self._record(began, outcome, **fields)

    def _record(self, began: float, outcome: str, **fields: object) -> None:
        seconds = round(time.monotonic() - began, 6)
        self._metrics.record("hook", outcome, hook_seconds=seconds, **fields)


def _is_over_http(request: web.Request) -> bool:
    transport = request.transport
    found = None if transport is None else transport.get_extra_info("socket")
    return found is None or found.family != socket.AF_UNIX


def _bind(path: Path) -> socket.socket:
    """A listening Unix socket at ``path``; one that nobody answers on is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"[hooks] socket: {path} is no socket, expected a free path")
        if _answers(path):
            raise ConfigError(f"[hooks] socket: another process answers on {path}")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        # Before bind: the kernel makes the file with no more than this mode.
        os.fchmod(listener.fileno(), SOCKET_MODE)
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        listener.listen(512)
    except BaseException:
        listener.close()
        raise
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True


def _place(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino

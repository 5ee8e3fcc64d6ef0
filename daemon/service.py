"""The service: builds the parts, starts them, and ends them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from aiohttp import web

from daemon import __version__
from daemon.backoff import Backoff
from daemon.broker.broker import StudyBroker
from daemon.broker.client import ApiClient
from daemon.broker.outbox import Outbox
from daemon.config import load
from daemon.control import Control
from daemon.errors import ConfigError, StateFullError
from daemon.intake.askings import Askings
from daemon.intake.hooks import HookServer
from daemon.intake.intake import Intake
from daemon.intake.partials import Partials
from daemon.journal.model import UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.notify import Notifier
from daemon.observe.audit import AuditLog
from daemon.observe.metrics import MetricsLog
from daemon.observe.prometheus import CONTENT_TYPE
from daemon.ports import Clock
from daemon.processing.conductor import Conductor
from daemon.processing.context import Context
from daemon.processing.receipts import ReceiptFiles
from daemon.scheduling.slots import Slots
from daemon.settings import Settings
from daemon.sources import FileSources
from daemon.status import StatusBoard
from daemon.stores import StoreMemory
from daemon.workers import WorkerPool
from pipeline.crashpoints import CrashPoints

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds between tries of a destination or of planning."""
HEARTBEAT = 5.0


UNDER_WAY = (UploadState.RECEIVED, UploadState.PROCESSING, UploadState.STORED)


@dataclass(frozen=True)
class Parts:
    """What runs side by side."""

    journal: SqliteJournal
    conductor: Conductor
    broker: StudyBroker
    outbox: Outbox | None
    """None where no REST API is configured."""
    intake: Intake
    askings: Askings
    hooks: HookServer
    slots: Slots


class Service:
    """`dropoffd run`, from start to end."""

    def __init__(self, settings: Settings, *, clock: Clock = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._log = structlog.get_logger(__name__)
        self._notifier = Notifier()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self) -> None:
        """Run until a signal says stop, and return once everything is parked.

        Raises ConfigError where the places that the settings name can't be used. A part that
        dies takes the service down with its error.
        """
        self._handle_signals()
        async with AsyncExitStack() as stack:
            await self._serve(await self._build(stack))
        self._log.info("stopped")

    async def _build(self, stack: AsyncExitStack) -> Parts:
        """The parts, in the order in which they need each other; the stack closes them."""
        settings, clock = self._settings, self._clock
        await asyncio.to_thread(_make_places, settings)
        points = CrashPoints(os.environ)
        journal = points.watched(await SqliteJournal.open(settings.state, clock=clock), "journal")
        stack.push_async_callback(journal.aclose)
        metrics = MetricsLog(settings.state / "metrics.jsonl", clock=clock)
        metrics.start()
        stack.push_async_callback(metrics.aclose)
        workers = points.watched(
            await stack.enter_async_context(WorkerPool(settings.pipeline.workers)), "workers"
        )
        client = None
        if settings.api.url:
            client = points.watched(
                await stack.enter_async_context(ApiClient(settings.api, clock=clock)), "api"
            )
        broker = StudyBroker(settings, client, clock=clock)
        stores = StoreMemory(settings.state, clock)
        await stores.load()
        partials = Partials(settings.uploads, journal)
        context = Context(
            journal=journal,
            broker=broker,
            sources=points.watched(
                FileSources(
                    settings.uploads.info_directory,
                    settings.uploads.roots,
                    partials.remove,
                    reached=points.reached,
                ),
                "sources",
            ),
            workers=workers,
            slots=Slots(
                workers.slots,
                memory=settings.pipeline.memory,
                part_size=settings.pipeline.part_size,
                destinations=settings.destinations,
            ),
            metrics=metrics,
            audit=points.watched(AuditLog(settings.state / "audit.jsonl", clock=clock), "audit"),
            receipts=points.watched(ReceiptFiles(settings.state / "receipts"), "receipts"),
            settings=settings,
            clock=clock,
            backoff=Backoff(FIRST_PAUSE, LONGEST_PAUSE),
            stopping=asyncio.Event(),
            stores=stores,
        )
        conductor = Conductor(context)
        journal.listen(conductor)
        outbox = None
        if client is not None:
            outbox = Outbox(journal, client, metrics, clock)
            journal.listen(outbox)
        intake = Intake(settings, journal, metrics, clock, reached=points.reached)
        board = StatusBoard(
            journal=journal,
            settings=settings,
            clock=clock,
            started_at=clock(),
            active=context.active,
            parts={
                "api": lambda: _api_state(settings, outbox, client),
                "intake": intake.describe,
                "workers": lambda: [{"pid": pid} for pid in workers.pids],
            },
            stopping=self._stop.is_set,
            traffic=context.slots.describe,
        )
        control = Control(
            journal,
            context.sources,
            context.audit,
            clock,
            keep_sources=settings.uploads.delete_after is None,
        )
        await stack.enter_async_context(control.finishing())
        hooks = HookServer(
            settings,
            broker,
            journal,
            metrics,
            clock,
            lookout=intake,
            routes=[*_routes(board, metrics), *control.routes()],
        )
        askings = Askings(settings, journal, broker, clock)
        return Parts(journal, conductor, broker, outbox, intake, askings, hooks, context.slots)

    async def _serve(self, parts: Parts) -> None:
        """Run the parts until told to stop; then end them, those that take work in first."""
        async with AsyncExitStack() as answering, asyncio.TaskGroup() as group:
            # Clients wait for hooks, so these are answered before anything else is looked at.
            await answering.enter_async_context(parts.hooks)
            taking_in = group.create_task(parts.intake.run())
            conducting = group.create_task(parts.conductor.run())
            others = [
                group.create_task(self._beat(parts.journal)),
                group.create_task(self._reload_when_asked(parts)),
                group.create_task(parts.askings.run()),
            ]
            if parts.outbox is not None:
                others.append(group.create_task(parts.outbox.run()))
            self._log.info("running", version=__version__, pid=os.getpid())
            self._notifier.ready("running")
            await self._stop.wait()
            self._log.info("stopping")
            self._notifier.stopping("finishing or parking what is in flight")
            await answering.aclose()
            taking_in.cancel()
            parts.conductor.stop()
            await asyncio.wait([conducting])
            for task in others:
                task.cancel()

    async def _beat(self, journal: SqliteJournal) -> None:
        """Tell systemd how it goes; the watchdog is fed only while the journal answers."""
        interval = min(self._notifier.watchdog_interval or HEARTBEAT, HEARTBEAT)
        while True:
            try:
                counts = await journal.counts()
            except StateFullError as error:
                # It may pass; a watchdog that is set judges how long that may take.
                self._log.warning("heartbeat_missed", error_code=error.code, error=error.message)
                self._notifier.status(error.message)
            else:
                self._notifier.watchdog()
                waiting = sum(counts[state] for state in UNDER_WAY)
                failed = counts[UploadState.FAILED]
                self._notifier.status(f"{waiting} uploads under way, {failed} failed")
            await asyncio.sleep(interval)

    async def _reload_when_asked(self, parts: Parts) -> None:
        """On SIGHUP, take studies and destinations from the file again; the rest needs a restart.

        A file with mistakes changes nothing.
        """
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._notifier.reloading()
            try:
                settings = await asyncio.to_thread(load, self._settings.file)
            except ConfigError as error:
                self._log.error("reload_refused", error_code=error.code, error=error.message)
            else:
                parts.broker.use(settings)
                parts.slots.use(settings.destinations)
                self._log.info("reloaded", restart_for=_needing_restart(self._settings, settings))
            self._notifier.ready()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            # At once: every commit is durable, and workers end with their channel.
            os._exit(128 + number)
        self._stop.set()


def _make_places(settings: Settings) -> None:
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (settings.state / "receipts").mkdir(mode=0o700, exist_ok=True)
        settings.hooks.socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{error.filename} can't be made: {error.strerror}") from error


def _needing_restart(old: Settings, new: Settings) -> list[str]:
    """The tables of the file that changed and that a reload doesn't take over."""
    names = ("uploads", "spool", "state", "hooks", "api", "pipeline")
    return [name for name in names if getattr(old, name) != getattr(new, name)]


def _api_state(
    settings: Settings, outbox: Outbox | None, client: ApiClient | None
) -> dict[str, Any]:
    if outbox is None or client is None:
        return {"url": None}
    error = outbox.last_error
    return {
        "url": settings.api.url,
        "healthy": outbox.healthy,
        "waiting_since": outbox.waiting_since,
        "error": msgspec.to_builtins(error) if error else None,
        "clock_skew_seconds": client.skew,
    }


def _routes(board: StatusBoard, metrics: MetricsLog) -> list[web.RouteDef]:
    async def status(_: web.Request) -> web.Response:
        return web.json_response(await board.describe())

    async def prometheus(_: web.Request) -> web.Response:
        text = metrics.render(await board.gauges())
        return web.Response(text=text, headers={"Content-Type": CONTENT_TYPE})

    return [web.get("/status", status), web.get("/metrics", prometheus)]

"""What the daemon remembers: the journal, the audit log, and what failed so far."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

import msgspec

from daemon import __version__
from daemon.checks.findings import Finding, error, ok, warning
from daemon.cli.client import DaemonUnreachableError, ask
from daemon.errors import NotFoundError
from daemon.journal.model import ReportStatus, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.observe.audit import FILE, AuditBrokenError, verify
from daemon.settings import Settings


class _Running(msgspec.Struct):
    """Of the answer to ``GET /status``."""

    version: str


async def journal(settings: Settings) -> Sequence[Finding]:
    """Whether it can be read by this release, and what in it waits for an operator."""
    try:
        reader = await asyncio.to_thread(SqliteJournal.open_readonly, settings.state)
        uploads = await reader.counts()
        reports = await reader.report_counts()
    except NotFoundError:
        return [ok("journal", "there is none yet: it is made at the first start")]
    found = [ok("journal", f"{sum(uploads.values())} uploads")]
    if failed := uploads[UploadState.FAILED]:
        found.append(
            warning(
                "failed uploads",
                f"{failed} failed; their files are kept",
                "dropoffd uploads --state failed; then dropoffd retry --failed, or discard",
            )
        )
    if parked := reports[ReportStatus.PARKED.value]:
        found.append(
            warning(
                "parked reports",
                f"the REST API refused {parked} reports",
                "dropoffd show UPLOAD tells why; then dropoffd retry UPLOAD, or retry --failed",
            )
        )
    return found


async def audit(settings: Settings) -> Sequence[Finding]:
    """Whether the audit log is the chain that was written."""
    path = settings.state / FILE
    try:
        entries = await asyncio.to_thread(verify, path)
    except AuditBrokenError as broken:
        return [
            error(
                "audit",
                broken.message,
                "it was changed by somebody, or the disk is damaged: compare it with a backup",
            )
        ]
    return [ok("audit", f"{entries} entries, the chain is whole")]


async def daemon(settings: Settings) -> Sequence[Finding]:
    """Whether hooks will be answered, and by the release that is installed."""
    socket = settings.hooks.socket
    try:
        answer = await asyncio.to_thread(ask, socket, "GET", "/status")
    except DaemonUnreachableError as failure:
        return [
            warning(
                "daemon",
                failure.message,
                "start dropoffd; until then pre-create refuses every upload",
            )
        ]
    try:
        running = msgspec.json.decode(answer.content, type=_Running)
    except (msgspec.DecodeError, UnicodeDecodeError):
        running = None
    if answer.status != HTTPStatus.OK or running is None:
        return [
            error(
                "daemon",
                f"what answers on {socket} is no dropoffd",
                "set [hooks] socket to a path of its own",
            )
        ]
    if running.version != __version__:
        return [
            warning(
                "daemon",
                f"version {running.version} runs, {__version__} is installed",
                "restart dropoffd",
            )
        ]
    return [ok("daemon", f"version {running.version} answers on {socket}")]

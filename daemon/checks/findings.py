"""A check, what it finds, and how checks run side by side without harm to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

import msgspec

from pipeline.errors import DropoffError


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, or will; somebody should look at it."""
    ERROR = "error"
    """Uploads would be refused, fail, or wait."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the result."""

    check: str
    """What was looked at; stable."""
    subject: str = ""
    """Which one of them, such as a destination's name."""
    status: Status = Status.OK
    message: str
    """What was found."""
    advice: str = ""
    """What to do about it; empty where all is well."""


def ok(check: str, message: str, subject: str = "") -> Finding:
    """All is well."""
    return Finding(check=check, subject=subject, message=message)


def warning(check: str, message: str, advice: str, subject: str = "") -> Finding:
    """It works, and should be looked at."""
    return Finding(
        check=check, subject=subject, status=Status.WARNING, message=message, advice=advice
    )


def error(check: str, message: str, advice: str, subject: str = "") -> Finding:
    """It does not work."""
    return Finding(
        check=check, subject=subject, status=Status.ERROR, message=message, advice=advice
    )


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """Something to look at."""

    name: str
    subject: str = ""
    run: Callable[[], Awaitable[Sequence[Finding]]]
    timeout: float = 30.0
    """Seconds."""


async def run_checks(checks: Sequence[Check]) -> list[Finding]:
    """Run them all at once; their findings in the order of the checks.

    What a check doesn't survive is its own finding, and nobody else's.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(check)) for check in checks]
    return [finding for task in tasks for finding in task.result()]


def worst(findings: Sequence[Finding]) -> Status:
    """The worst of them; ``ok`` where there are none."""
    found = {finding.status for finding in findings}
    return next((each for each in (Status.ERROR, Status.WARNING) if each in found), Status.OK)


async def _run(check: Check) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(check.timeout):
            return await check.run()
    except TimeoutError:
        message = f"no answer within {check.timeout:g} s"
        advice = "see whether the machine or the service behind it hangs"
    except DropoffError as failure:
        message, advice = failure.message, ""
    except OSError as failure:
        message = str(failure.strerror or failure)
        if failure.filename is not None:
            message = f"{failure.filename}: {message}"
        advice = ""
    except Exception as failure:  # noqa: BLE001 - a bug met by one check must not hide the others
        message, advice = f"the check itself failed: {type(failure).__name__}: {failure}", ""
    return [error(check.name, message, advice, check.subject)]

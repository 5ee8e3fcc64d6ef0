"""Every check that a configuration asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from daemon.checks import hooks, places, records, remote, studies
from daemon.checks.findings import Check, Finding
from daemon.settings import Settings
from daemon.stores import StoreMemory

_NETWORK_TIMEOUT = 60.0
"""Seconds. Short disturbances are waited out inside, so that only real ones are told of."""


def checks_for(settings: Settings, hooks_directory: Path | None) -> list[Check]:
    """What to look at, in the order in which it is shown."""
    memory = StoreMemory(settings.state, time.time)
    found = [
        _blocking("user", partial(places.user, settings)),
        _blocking("config", partial(places.config_file, settings)),
        _blocking("uploads", partial(places.uploads, settings)),
        _blocking("spool", partial(places.spool, settings)),
        _blocking("state", partial(places.state, settings)),
        _blocking("space", partial(places.space, settings)),
        Check(name="journal", run=partial(records.journal, settings)),
        Check(name="audit", run=partial(records.audit, settings), timeout=300.0),
        Check(name="daemon", run=partial(records.daemon, settings)),
    ]
    if hooks_directory is not None:
        found.append(_blocking("hooks", partial(hooks.installed, settings, hooks_directory)))
    if settings.hooks.amqp is not None:
        from daemon.checks.amqp import broker  # noqa: PLC0415 - its library is optional

        found.append(
            Check(name="amqp", run=partial(broker, settings.hooks.amqp), timeout=_NETWORK_TIMEOUT)
        )
    found.append(
        Check(
            name="api",
            run=partial(remote.api, settings),
            timeout=2 * settings.api.timeout + _NETWORK_TIMEOUT,
        )
    )
    found.extend(
        Check(
            name="destination",
            subject=name,
            run=partial(remote.destination, name, destination, memory),
            timeout=_NETWORK_TIMEOUT,
        )
        for name, destination in settings.destinations.items()
    )
    found.append(_blocking("recipients", partial(studies.recipients, settings)))
    return found


def _blocking(name: str, look: Callable[[], Sequence[Finding]]) -> Check:
    def run() -> Awaitable[Sequence[Finding]]:
        return asyncio.to_thread(look)

    return Check(name=name, run=run)

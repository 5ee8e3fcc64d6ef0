"""The reference REST API as a process: from its socket to its end by a signal."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

from aiohttp import web

from daemon.broker.drops import Drops
from daemon.broker.server import ReferenceApi
from daemon.settings import Settings

DATABASE = "api.sqlite"
_LAST_ANSWERS_WITHIN = 5.0


async def serve(settings: Settings, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: As for :class:`~daemon.broker.server.ReferenceApi`; the database lies in
            ``[state] directory``.
        host: To listen on.
        port: Likewise; 0 takes a free one.
        ready: Is told the API's URL once it answers.

    Raises:
        ConfigError: HAWK key or secret are missing.
        OSError: Address or directory can't be used.
        sqlite3.Error: Nor can the database.
    """
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    async with Drops(settings.state / DATABASE) as drops:
        api = ReferenceApi(settings, drops, clock=time.time)
        runner = web.AppRunner(
            api.application(), access_log=None, shutdown_timeout=_LAST_ANSWERS_WITHIN
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            ready(f"http://{_address(host, runner.addresses[0][1])}{api.base}")
            await end.wait()
        finally:
            await runner.cleanup()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

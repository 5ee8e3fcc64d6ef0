"""The data path never makes a client wait: its processes yield to those that answer."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from daemon.workers import NICENESS, WorkerPool


async def test_workers_are_nicer_than_the_daemon_in_all_their_threads() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    async with WorkerPool(1) as pool:
        async with asyncio.timeout(20):
            while not pool.pids:
                await asyncio.sleep(0.05)
        threads = [int(each.name) for each in Path(f"/proc/{pool.pids[0]}/task").iterdir()]
        found = {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
    assert found == {min(19, own + NICENESS)}

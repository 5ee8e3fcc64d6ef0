"""The data path never makes a client wait: its processes yield to those that answer."""

from __future__ import annotations

import os
from pathlib import Path

from daemon.workers import NICENESS, WorkerPool
from tests.peers.intake import until


def niceness_of_threads(pid: int) -> set[int]:
    threads = [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    return {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}


async def test_workers_are_nicer_than_the_daemon_in_all_their_threads() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    async with WorkerPool(1) as pool:
        await until(lambda: len(pool.pids) == 1, "a worker is ready", 20)
        assert niceness_of_threads(pool.pids[0]) == {min(19, own + NICENESS)}

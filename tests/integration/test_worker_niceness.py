"""The data path never makes a client wait: its processes yield to those that answer."""

from __future__ import annotations

import os
from pathlib import Path

from daemon.workers import READING_NICENESS, SENDING_NICENESS, WorkerPool
from pipeline.messages import Digest
from tests.peers.intake import until


def niceness_of_threads(pid: int) -> set[int]:
    threads = [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    return {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}


async def test_workers_are_nicer_than_the_daemon_in_all_their_threads() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    async with WorkerPool(1) as pool:
        await until(lambda: len(pool.pids) == 1, "a worker is ready", 20)
        assert niceness_of_threads(pool.pids[0]) == {min(19, own + SENDING_NICENESS)}


async def test_digests_have_a_process_of_their_own_that_senders_yield_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"whole")
    own = os.getpriority(os.PRIO_PROCESS, 0)
    async with WorkerPool(1) as pool:
        with (tmp_path / "file").open("rb") as file:
            await pool.run(Digest(digest="blake3", size=5), file.fileno())
        assert pool.pids[1:] == pool.reading_pids
        assert niceness_of_threads(pool.reading_pids[0]) == {min(19, own + READING_NICENESS)}

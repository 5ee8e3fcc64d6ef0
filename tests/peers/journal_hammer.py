"""A process that writes to a journal as fast as it can, and says what it was promised.

``python -m tests.peers.journal_hammer crash DIRECTORY RUN`` goes on until it is killed.
``… full DIRECTORY`` runs into a limit on the size of files, and out of it again.
Each line on stdout is a JSON list: what the journal has acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
import sys
from pathlib import Path

from daemon.errors import StateFullError
from daemon.journal.sqlite import SqliteJournal
from tests.peers.journals import (
    DIRECTORY,
    RECEIPT,
    acknowledge_all,
    attempt,
    envelope,
    identity,
    new_delivery,
    part,
    sighting,
    stored_object,
)

WRITERS = 20


def say(*facts: object) -> None:
    """One write for a line, past all buffers: what was said survives the killing."""
    os.write(1, json.dumps(facts).encode() + b"\n")


async def crash(directory: Path, run: str) -> None:
    """Take uploads the whole way, many side by side."""
    async with await SqliteJournal.open(directory) as journal, asyncio.TaskGroup() as group:
        count = itertools.count()
        for _ in range(WRITERS):
            group.create_task(_write(journal, run, count))
        group.create_task(_report(journal))


async def _write(journal: SqliteJournal, run: str, count: itertools.count[int]) -> None:
    for number in count:
        tus_id = f"{run}-{number}"
        upload = (await journal.sight(sighting(tus_id), 100.0)).id
        say("state", upload, "received")
        await journal.announced(upload, f"api-{upload}")
        await journal.plan(upload, envelope(), [new_delivery()], identity(), 101.0)
        say("state", upload, "processing")
        if number % 7 == 0:
            await journal.terminate(DIRECTORY, tus_id, 102.0)
            say("state", upload, "terminated")
            continue
        await journal.attempt(upload, 0, 102.0)
        await journal.begun(upload, 0, "ref")
        for part_number in range(1, 4):
            await journal.part_stored(upload, 0, part(part_number))
            say("part", upload, part_number)
        if number % 5 == 0:
            continue
        await journal.delivered(upload, 0, stored_object(), attempt(), 103.0)
        await journal.stored(upload, RECEIPT, 104.0)
        say("state", upload, "stored")


async def _report(journal: SqliteJournal) -> None:
    while True:
        for report in await acknowledge_all(journal):
            say("acknowledged", report.upload, report.sequence)
        await asyncio.sleep(0)


async def full(directory: Path) -> None:
    """Write until nothing can be written, look around, and go on when there is space."""
    async with await SqliteJournal.open(directory) as journal:
        await _sight(journal, "before", 20)
        _limit(_largest(directory) + 256 * 1024)
        # Refused for the first time, the journal makes room by moving its WAL into the database;
        # in the end that can't grow either.
        refused = 0
        for number in itertools.count():
            refused = 0 if await _sight(journal, f"filling-{number}", 1) else refused + 1
            if refused == 3:
                break
        for number in range(3):
            say("refused again", not await _sight(journal, f"full-{number}", 1))
        say("readable", (await journal.find("before-0")).tus_id == "before-0")
        _limit(resource.RLIM_INFINITY)
        say("recovered", await _sight(journal, "after", 20))


async def _sight(journal: SqliteJournal, name: str, count: int) -> bool:
    """Sight ``count`` uploads at once; whether all were taken."""
    tus_ids = [f"{name}-{number}" for number in range(count)]
    results = await asyncio.gather(
        *(journal.sight(sighting(tus_id), 100.0) for tus_id in tus_ids), return_exceptions=True
    )
    for tus_id, result in zip(tus_ids, results, strict=True):
        if isinstance(result, StateFullError):
            say("refused", tus_id)
        elif isinstance(result, BaseException):
            raise result
        else:
            say("taken", tus_id)
    return not any(isinstance(result, StateFullError) for result in results)


def _largest(directory: Path) -> int:
    return max(path.stat().st_size for path in directory.iterdir())


def _limit(size: int) -> None:
    # Python ignores SIGXFSZ: a write beyond the limit fails with EFBIG, as on a full disk.
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def main(mode: str, directory: str, *rest: str) -> None:
    """Run one of the modes."""
    asyncio.run(crash(Path(directory), *rest) if mode == "crash" else full(Path(directory)))


if __name__ == "__main__":
    main(*sys.argv[1:])

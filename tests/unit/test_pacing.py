"""Bytes to a destination with a rate: so many a second, evenly, over all workers together."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.delivery import SealedBody
from pipeline.messages import Pace, Seal
from pipeline.pacing import HORIZON, SLACK, PacedBody, Timetable, make_timetable
from pipeline.parts import whole
from pipeline.source import Source
from tests.peers.virtual_time import run_virtually

KIB = 1024
MIB = 1024**2


@contextmanager
def timetables(count: int) -> Iterator[list[Timetable]]:
    """As many processes would have; only that here time is the loop's."""
    fd = make_timetable()
    made = [Timetable(fd, lambda: asyncio.get_running_loop().time()) for _ in range(count)]
    os.close(fd)
    try:
        yield made
    finally:
        for timetable in made:
            timetable.close()


class Zeros:
    """A body without anything to seal, in views of a mebibyte."""

    crc64nvme = 0
    md5 = None

    def __init__(self, size: int) -> None:
        self.size = size

    def with_md5(self) -> None:
        """Nobody asks."""

    async def count(self) -> None:
        """Known already."""

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for start in range(0, self.size, MIB):
            yield memoryview(bytes(min(MIB, self.size - start)))


Sent = list[tuple[float, int, int]]
"""When, by whom, how much."""


async def send(sent: Sent, who: int, body: PacedBody) -> None:
    async for view in body:
        sent.append((asyncio.get_running_loop().time(), who, len(view)))


def sent_by(rate: float, sizes: list[int], *, workers: int = 2) -> Sent:
    """What goes out when bodies of these sizes are sent side by side."""
    sent: Sent = []
    pace = Pace(lane=3, rate=rate)

    async def run(tables: list[Timetable]) -> None:
        async with asyncio.TaskGroup() as group:
            for who, size in enumerate(sizes):
                body = PacedBody(Zeros(size), tables[who % len(tables)], pace)
                group.create_task(send(sent, who, body))

    with timetables(workers) as tables:
        run_virtually(run(tables))
    return sent


@given(
    st.floats(16 * KIB, 400 * MIB),
    st.lists(st.integers(1, 8 * MIB), min_size=1, max_size=6),
    st.integers(1, 3),
)
@settings(deadline=None, max_examples=40)
def test_no_second_ever_sees_more_than_the_rate_allows(
    rate: float, sizes: list[int], workers: int
) -> None:
    sizes = [min(size, int(rate * 10)) for size in sizes]
    sent = sent_by(rate, sizes, workers=workers)
    assert sum(size for _, _, size in sent) == sum(sizes)
    turn = max(size for _, _, size in sent)
    done = 0
    first = 0
    for at, (time, _, size) in enumerate(sent):
        done += size
        while sent[first][0] < time - 1.0:
            done -= sent[first][2]
            first += 1
        assert done <= rate * (1.0 + SLACK) + 2 * turn, at


def test_a_rate_is_used_to_the_full_however_few_bodies_there_are() -> None:
    for bodies in (1, 2, 5):
        sent = sent_by(MIB, [4 * MIB // bodies] * bodies)
        assert 3.7 <= sent[-1][0] <= 4.1


def test_bytes_that_are_only_counted_take_nothing_of_the_rate() -> None:
    sent: Sent = []

    async def run(table: Timetable) -> None:
        body = PacedBody(Zeros(4 * MIB), table, Pace(lane=0, rate=MIB))
        await body.count()
        await send(sent, 0, body)

    with timetables(1) as (table,):
        run_virtually(run(table))
    assert sent[-1][0] <= 4.1


def test_bodies_that_go_out_side_by_side_get_equal_shares() -> None:
    sent = sent_by(MIB, [8 * MIB, 2 * MIB, 2 * MIB], workers=2)
    shares = [sum(size for time, who, size in sent if time < 5 and who == w) for w in range(3)]
    assert max(shares) - min(shares) <= 2 * MIB / 20


def test_low_rates_are_even_too() -> None:
    sent = sent_by(64 * KIB, [MIB])
    gaps = [later[0] - sooner[0] for sooner, later in pairwise(sent)]
    assert max(gaps) <= 0.1


def test_time_in_which_nothing_was_sent_is_not_made_up_for() -> None:
    sent: Sent = []

    async def run(table: Timetable) -> None:
        body = PacedBody(Zeros(MIB), table, Pace(lane=0, rate=MIB))
        await send(sent, 0, body)
        await asyncio.sleep(60)
        await send(sent, 0, body)

    with timetables(1) as (table,):
        run_virtually(run(table))
    assert sent[-1][0] >= 60 + 1.8 - SLACK


def test_destinations_do_not_share_a_rate() -> None:
    times: dict[int, float] = {}

    async def one(table: Timetable, lane: int) -> None:
        await send([], 0, PacedBody(Zeros(MIB), table, Pace(lane=lane, rate=MIB)))
        times[lane] = asyncio.get_running_loop().time()

    async def run(table: Timetable) -> None:
        async with asyncio.TaskGroup() as group:
            for lane in (0, 1):
                group.create_task(one(table, lane))

    with timetables(1) as (table,):
        run_virtually(run(table))
    assert all(time <= 1.1 for time in times.values())


def test_nonsense_in_the_shared_memory_holds_nobody_up() -> None:
    for nonsense in (float("nan"), float("inf"), 1e18, HORIZON * 2):
        fd = make_timetable()
        os.pwrite(fd, struct.pack("=d", nonsense), 0)
        table = Timetable(fd, lambda: asyncio.get_running_loop().time())
        os.close(fd)

        async def run(table: Timetable) -> float:
            await table.turn(Pace(lane=0, rate=MIB), MIB)
            return asyncio.get_running_loop().time()

        try:
            assert run_virtually(run(table)) == 0
        finally:
            table.close()


def test_a_lock_that_another_process_holds_is_waited_for_without_blocking() -> None:
    fd = make_timetable()
    table = Timetable(fd)
    hold = f"import fcntl, time; fcntl.lockf({fd}, 2); print(flush=True); time.sleep(0.3)"
    holder = subprocess.Popen([sys.executable, "-c", hold], pass_fds=(fd,), stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()

    async def run() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        await table.turn(Pace(lane=0, rate=MIB), 1)
        ticking.cancel()
        return ticks

    assert asyncio.run(run()) >= 5
    holder.communicate()
    os.close(fd)
    table.close()


async def test_a_paced_body_gives_the_same_bytes_and_sums(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(os.urandom(3 * MIB + 5))
    seal = Seal(format="crypt4gh", key=bytes(32), header=b"header", size=3 * MIB + 5)
    with Source(os.open(file, os.O_RDONLY)) as source, timetables(1) as (table,):
        body = SealedBody(source, seal, whole(seal))
        plain = b"".join([bytes(view) async for view in body])
        paced = PacedBody(body, table, Pace(lane=0, rate=64.0 * MIB))
        paced.with_md5()
        got = b"".join([bytes(view) async for view in paced])
        assert got == plain
        assert paced.size == len(plain)
        assert (paced.crc64nvme, paced.md5) == (body.crc64nvme, body.md5)

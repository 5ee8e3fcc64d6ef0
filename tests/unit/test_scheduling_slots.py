"""Who may send now: within memory, fair, and nobody held up by another destination's trouble."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.scheduling import costs
from daemon.scheduling.places import Places
from daemon.scheduling.slots import Errand, Slots
from daemon.settings import Destination
from pipeline.errors import DestinationUnreachableError
from pipeline.messages import DestinationSpec, Pace
from tests.peers.virtual_time import run_virtually

MIB = 1024**2
LARGE = 16 * MIB


def spec(name: str) -> DestinationSpec:
    return DestinationSpec(name=name, type="s3", endpoint="https://s3.example", bucket="b")


def to(name: str, *, delivery: str = "", size: int = LARGE, memory: int = costs.PART) -> Errand:
    return Errand(destination=spec(name), delivery=delivery, size=size, memory=memory)


def throttled(retry_after: float | None = None) -> DestinationUnreachableError:
    return DestinationUnreachableError("slow down", throttled=True, retry_after=retry_after)


def now() -> float:
    return asyncio.get_running_loop().time()


async def do(
    slots: Slots,
    errand: Errand,
    log: list[str],
    name: str = "",
    *,
    study: str = "s",
    small: bool = False,
    seconds: float = 1.0,
) -> None:
    async with slots.take(study, small=small, errand=errand):
        log.append(name)
        await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Job:
    study: str
    destination: str
    delivery: str
    small: bool
    memory: int
    seconds: float
    fails: bool


JOBS = st.builds(
    Job,
    study=st.sampled_from("xyz"),
    destination=st.sampled_from("ABCD"),
    delivery=st.sampled_from("pq"),
    small=st.booleans(),
    memory=st.integers(1, 24 * MIB),
    seconds=st.floats(0.01, 100),
    fails=st.integers(0, 9).map(lambda number: number == 0),
)


@given(st.lists(JOBS, max_size=40), st.integers(MIB, 96 * MIB), st.integers(1, 8))
@settings(deadline=None, max_examples=150)
def test_the_memory_budget_is_never_overdrawn_and_every_job_has_its_turn(
    jobs: list[Job], memory: int, count: int
) -> None:
    held: Counter[int] = Counter()

    async def one(slots: Slots, number: int, job: Job) -> None:
        errand = to(job.destination, delivery=job.delivery, memory=job.memory)
        try:
            async with slots.take(job.study, small=job.small, errand=errand):
                held[number] = job.memory
                assert held.total() <= memory or len(held) == 1
                await asyncio.sleep(job.seconds)
                del held[number]
                if job.fails:
                    raise throttled(retry_after=job.seconds)
        except DestinationUnreachableError:
            assert job.fails

    async def run() -> None:
        slots = Slots(
            count, memory=memory, destinations={n: Destination(spec=spec(n)) for n in "AB"}
        )
        async with asyncio.TaskGroup() as group:
            for number, job in enumerate(jobs):
                group.create_task(one(slots, number, job))

    run_virtually(run())
    assert not held


@given(
    st.dictionaries(st.sampled_from("vwxyz"), st.integers(1, 12), min_size=2),
    st.integers(1, 4),
)
@settings(deadline=None)
def test_no_study_gets_ahead_of_another_that_waits_by_more_than_a_turn(
    counts: dict[str, int], count: int
) -> None:
    log: list[str] = []

    async def run() -> None:
        slots = Slots(count)
        async with asyncio.TaskGroup() as group:
            for study, jobs in counts.items():
                for _ in range(jobs):
                    group.create_task(do(slots, to("A"), log, study, study=study))

    run_virtually(run())
    turns: Counter[str] = Counter()
    for study in log[count:]:  # before these nobody had to wait
        turns[study] += 1
        left = [s for s in counts if turns[s] + log[:count].count(s) < counts[s]]
        assert all(turns[study] <= turns[other] + 1 for other in left)


def test_deliveries_of_a_study_take_turns_however_many_parts_one_of_them_has() -> None:
    log: list[str] = []

    async def run() -> None:
        slots = Slots(1)
        async with asyncio.TaskGroup() as group:
            for name in ["many"] * 6 + ["few"] * 2:
                group.create_task(do(slots, to("A", delivery=name), log, name))

    run_virtually(run())
    assert log == ["many", "many", "few", "many", "few", "many", "many", "many"]


def test_a_destination_that_hangs_holds_up_nobody_else() -> None:
    log: list[str] = []

    async def run() -> None:
        slots = Slots(4, memory=64 * MIB)
        async with asyncio.TaskGroup() as group:
            hanging = [
                group.create_task(do(slots, to("hangs"), [], seconds=1e6)) for _ in range(100)
            ]
            await asyncio.sleep(1)
            async with asyncio.TaskGroup() as others:
                for number in range(20):
                    others.create_task(do(slots, to(f"fine-{number % 4}"), log))
            assert now() <= 1 + 20 / 2  # at least two at once, as long as the other hangs
            for task in hanging:
                task.cancel()

    run_virtually(run())
    assert len(log) == 20


@pytest.mark.parametrize("limit", [2, 4])
def test_a_small_upload_finds_a_place_however_many_large_ones_are_on_their_way(limit: int) -> None:
    async def run() -> None:
        slots, log = Slots(limit, memory=64 * MIB), list[str]()
        large = [asyncio.create_task(do(slots, to("A"), [], seconds=1e6)) for _ in range(50)]
        await asyncio.sleep(1)
        for _ in range(3):
            memory = costs.of_whole(spec("A"), 8 * MIB - 1)
            await do(slots, to("A", memory=memory), log, small=True)
        assert now() == pytest.approx(4)
        for task in large:
            task.cancel()
        await asyncio.wait(large)

    run_virtually(run())


@pytest.mark.parametrize("count", [1, 4])
def test_large_uploads_get_on_while_small_ones_flood(count: int) -> None:
    log: list[str] = []

    async def flood(slots: Slots, number: int) -> None:
        while len(log) < 10:
            memory = costs.of_whole(spec("A"), MIB)
            await do(
                slots, to("A", size=MIB, memory=memory), [], str(number), small=True, seconds=0.1
            )

    async def run() -> None:
        slots = Slots(count, memory=32 * MIB)
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(flood(slots, number))
            await asyncio.sleep(1)
            for _ in range(10):
                group.create_task(do(slots, to("A"), log, "large"))
        assert now() <= 60

    run_virtually(run())


def test_a_budget_too_small_for_a_part_lets_parts_go_one_by_one() -> None:
    log: list[str] = []
    under_way = most = 0

    async def one(slots: Slots, name: str) -> None:
        nonlocal under_way, most
        async with slots.take("s", small=False, errand=to(name)):
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(1)
            log.append(name)
            under_way -= 1

    async def run() -> None:
        slots = Slots(4, memory=MIB)
        async with asyncio.TaskGroup() as group:
            for name in "AAAABBBB":
                group.create_task(one(slots, name))

    run_virtually(run())
    assert most == 1
    assert sorted(log) == list("AAAABBBB")
    assert abs(log[:4].count("A") - log[:4].count("B")) <= 2


def test_a_job_that_takes_much_memory_is_not_starved_by_a_stream_of_little_ones() -> None:
    async def stream(slots: Slots, name: str, over: asyncio.Event) -> None:
        while not over.is_set():
            await do(slots, to(name, size=MIB, memory=costs.PART), [])

    async def run() -> None:
        slots, over = Slots(4, memory=32 * MIB), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(stream(slots, f"d{number % 3}", over))
            await asyncio.sleep(10.5)
            async with asyncio.timeout(20):
                await do(slots, to("d3", memory=16 * MIB), [])
            over.set()

    run_virtually(run())


def test_retry_after_is_kept_to_and_other_destinations_go_on() -> None:
    times: dict[str, float] = {}

    async def once(slots: Slots, name: str) -> None:
        async with slots.take("s", small=False, errand=to(name)):
            times[name] = now()

    async def run() -> None:
        slots = Slots(4)
        with pytest.raises(DestinationUnreachableError):
            async with slots.take("s", small=False, errand=to("busy")):
                raise throttled(retry_after=30)
        assert slots.describe("busy")["limit"] == 2
        assert slots.describe("busy")["throttled_for_seconds"] == 0
        async with asyncio.TaskGroup() as group:
            group.create_task(once(slots, "busy"))
            group.create_task(once(slots, "fine"))
            async with slots.reach(spec("busy")):
                times["control"] = now()
        assert slots.describe("busy")["throttled_for_seconds"] is None
        assert slots.describe("fine")["limit"] == 4

    run_virtually(run())
    assert times == {"busy": 30.0, "fine": 0.0, "control": 30.0}


def test_a_destination_that_says_no_time_is_left_alone_for_longer_and_longer() -> None:
    starts: list[float] = []

    async def run() -> None:
        slots = Slots(4)
        for _ in range(10):
            with suppress(DestinationUnreachableError):
                async with slots.take("s", small=False, errand=to("busy")):
                    starts.append(now())
                    raise throttled()
        assert slots.describe("busy")["limit"] == 1

    run_virtually(run())
    pauses = [later - sooner for sooner, later in pairwise(starts)]
    assert all(0.75 * 2**n <= pause <= 2**n for n, pause in enumerate(pauses[:6]))
    assert all(45 <= pause <= 60 for pause in pauses[6:])


def test_a_destination_that_throttles_for_a_day_is_still_asked_each_minute() -> None:
    async def run() -> float:
        slots = Slots(4)
        for _ in range(1500):
            with suppress(DestinationUnreachableError):
                async with slots.take("s", small=False, errand=to("busy")):
                    raise throttled()
        return now()

    assert 1400 * 45 < run_virtually(run()) < 1500 * 60


def test_throttling_that_was_waited_out_halves_the_limit_too() -> None:
    async def run() -> None:
        slots = Slots(8)
        async with slots.take("s", small=False, errand=to("A")) as turn:
            turn.throttled = True
        told = slots.describe("A")
        assert (told["limit"], told["throttled_for_seconds"]) == (4, 0)
        await do(slots, to("A"), [])
        assert slots.describe("A")["throttled_for_seconds"] is None

    run_virtually(run())


@pytest.mark.parametrize("asked", [-5.0, math.inf, 1e12])
def test_a_retry_after_without_sense_does_not_end_everything(asked: float) -> None:
    async def run() -> None:
        slots = Slots(4)
        with pytest.raises(DestinationUnreachableError):
            async with slots.take("s", small=False, errand=to("busy")):
                raise throttled(retry_after=asked)
        await do(slots, to("busy"), [])
        assert now() <= 3601

    run_virtually(run())


def test_when_the_service_stops_nobody_waits_any_longer() -> None:
    async def run() -> None:
        slots, log = Slots(1, memory=MIB), list[str]()
        with pytest.raises(DestinationUnreachableError):
            async with slots.take("s", small=False, errand=to("busy")):
                raise throttled(retry_after=600)
        names: Iterable[str] = ("busy", "busy", "fine", "fine")
        waiting = [asyncio.create_task(do(slots, to(name), log, name)) for name in names]
        await asyncio.sleep(0)
        slots.stop()
        async with slots.reach(spec("busy")):
            pass
        await do(slots, to("busy"), log)
        await asyncio.wait(waiting)
        assert now() <= 3
        assert len(log) == 5

    run_virtually(run())


def test_a_waiter_that_is_cancelled_leaves_nothing_behind() -> None:
    async def run() -> None:
        slots, log = Slots(2, memory=8 * MIB), list[str]()
        tasks = [asyncio.create_task(do(slots, to("A"), log, str(n))) for n in range(20)]
        await asyncio.sleep(0)
        for task in tasks[1:19]:
            task.cancel()
        await asyncio.wait(tasks)
        assert log[-1] == "19"
        await asyncio.gather(*(do(slots, to("A"), []) for _ in range(2)))
        assert slots.describe("A")["in_flight"] == slots.describe("A")["waiting"] == 0

    run_virtually(run())


def test_a_rate_becomes_a_pace_and_fewer_parts_at_once() -> None:
    async def run() -> None:
        archive = Destination(spec=spec("archive"), rate=MIB)
        mirror = Destination(spec=spec("mirror"), rate=400 * MIB)
        slots = Slots(8, destinations={"archive": archive, "mirror": mirror})
        async with slots.take("s", small=False, errand=to("archive")) as turn:
            assert turn.pace == Pace(lane=0, rate=MIB)
        assert slots.describe("archive")["limit"] == 2
        assert slots.describe("mirror")["limit"] == 8
        slots.use({"mirror": mirror, "archive": Destination(spec=spec("archive"))})
        async with slots.take("s", small=False, errand=to("archive")) as turn:
            assert turn.pace is None
        async with slots.take("s", small=False, errand=to("mirror")) as turn:
            assert turn.pace == Pace(lane=1, rate=400 * MIB)

    run_virtually(run())


def test_what_goes_to_a_destination_is_told() -> None:
    async def run() -> None:
        slots = Slots(4)
        for _ in range(30):
            await do(slots, to("A", size=10 * MIB), [])
        told = slots.describe("A")
        assert told["bytes_per_second"] == pytest.approx(10 * MIB, rel=0.1)
        await asyncio.sleep(60)
        assert slots.describe("A")["bytes_per_second"] == 0

    run_virtually(run())


def test_places_at_a_destination_are_not_those_at_another() -> None:
    async def run() -> None:
        places, log = Places(1), list[str]()

        async def hold(name: str, study: str) -> None:
            async with places.take(spec(name), study):
                log.append(f"{name}{study}")
                await asyncio.sleep(10)

        async with asyncio.TaskGroup() as group:
            for name, study in ("Ax", "Ax", "Ay", "Bx"):
                group.create_task(hold(name, study))
            await asyncio.sleep(1)
            assert log == ["Ax", "Bx"]
        assert log == ["Ax", "Bx", "Ax", "Ay"]

    run_virtually(run())

"""A destination that is away is asked now and then, however many uploads wait for it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from daemon.scheduling.away import IN_A_ROW, LET_GO, Away
from daemon.scheduling.pauses import LONGEST_PAUSE
from daemon.scheduling.slots import Errand, Slots
from pipeline.errors import DestinationUnreachableError
from pipeline.messages import DestinationSpec
from tests.peers.virtual_time import run_virtually

AWAY = DestinationSpec(name="away", type="directory", directory="/away")
OTHER = DestinationSpec(name="other", type="directory", directory="/other")
DAY = 86400.0


class Crowd:
    """Uploads that want to go to one destination, and come again as often as they are let go."""

    def __init__(self, slots: Slots, count: int) -> None:
        self.back = False
        self.tries: list[float] = []
        self.done: dict[str, float] = {}
        self._slots = slots
        self._tasks: set[asyncio.Task[None]] = set()
        slots.listen(self.come)
        for number in range(count):
            self.come(f"u{number}")

    def come(self, upload: str) -> None:
        task = asyncio.get_running_loop().create_task(self._try(upload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try(self, upload: str) -> None:
        if not self._slots.admits(AWAY, upload):
            return
        errand = Errand(destination=AWAY, delivery=upload, size=1, memory=1)
        try:
            async with self._slots.take("s", small=True, errand=errand):
                now = asyncio.get_running_loop().time()
                self.tries.append(now)
                await asyncio.sleep(0.1)
                self._arrive()
        except DestinationUnreachableError:
            await asyncio.sleep(1)
            self.come(upload)
        else:
            self.done[upload] = asyncio.get_running_loop().time()

    def _arrive(self) -> None:
        if not self.back:
            raise DestinationUnreachableError("away")


def test_a_destination_that_is_away_for_a_day_is_asked_by_one_upload_at_a_time() -> None:
    async def day() -> Crowd:
        crowd = Crowd(Slots(4), 0)
        for number in range(20):
            crowd.come(f"first-{number}")
        await asyncio.sleep(10)
        for number in range(2000):
            crowd.come(f"later-{number}")
        await asyncio.sleep(DAY)
        return crowd

    crowd = run_virtually(day())
    after_an_hour = [at for at in crowd.tries if at > 3600]
    assert len(crowd.tries) < 20 + 60 + DAY / (0.75 * LONGEST_PAUSE)
    assert len(after_an_hour) > DAY / LONGEST_PAUSE - 120
    pauses = [after - at for at, after in itertools.pairwise(after_an_hour)]
    assert min(pauses) > 0.7 * LONGEST_PAUSE


def test_all_that_wait_follow_soon_once_one_got_through() -> None:
    async def day() -> tuple[Crowd, float]:
        crowd = Crowd(Slots(4), 3000)
        await asyncio.sleep(DAY)
        crowd.back = True
        came_back = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        return crowd, came_back

    crowd, came_back = run_virtually(day())
    assert len(crowd.done) == 3000
    first = min(crowd.done.values())
    assert first - came_back < LONGEST_PAUSE + 1
    # 0.1 s each, and four at once when it goes well.
    assert max(crowd.done.values()) - first < 2 * 3000 * 0.1


def test_the_other_destinations_are_not_asked_to_wait() -> None:
    async def some() -> bool:
        slots = Slots(4)
        Crowd(slots, 100)
        await asyncio.sleep(3600)
        return slots.admits(OTHER, "u1")

    assert run_virtually(some())


def test_what_waits_for_a_destination_that_is_away_is_told() -> None:
    async def some() -> dict[str, object]:
        slots = Slots(4)
        Crowd(slots, 100)
        await asyncio.sleep(100)
        return slots.describe("away")

    told = run_virtually(some())
    assert told["away"] is True
    assert told["held"] in {99, 100}
    assert told["waiting"] == 0


def test_one_upload_that_stumbles_again_and_again_holds_up_nobody() -> None:
    away = Away()
    for now in range(100):
        away.failed(float(now), "stumbles")
    assert away.admits("other")


def test_failures_that_others_got_through_between_hold_up_nobody() -> None:
    away = Away()
    for number in range(100):
        away.failed(float(number), f"u{number}")
        away.succeeded()
    assert away.admits("other")


@pytest.mark.parametrize("failures", [IN_A_ROW, 50])
def test_who_asked_in_vain_waits_behind_all_others(failures: int) -> None:
    away = Away()
    for number in range(failures):
        away.failed(0.0, f"first-{number}")
    assert not any(away.admits(upload) for upload in ("a", "b", "c"))
    for expected in ("a", "b", "c", "a", "b"):
        assert away.let_go(away.asks_at) == [expected]
        assert away.admits(expected)
        away.failed(away.asks_at, expected)
        assert not away.admits(expected)


def test_those_who_get_through_bring_others_with_them() -> None:
    away = Away()
    for number in range(IN_A_ROW):
        away.failed(0.0, f"first-{number}")
    for number in range(100):
        away.admits(f"u{number}")
    away.succeeded()
    assert len(away.let_go(1.0)) == LET_GO
    assert len(away) == 100 - LET_GO


def test_a_destination_that_asks_for_an_hour_s_rest_has_nobody_s_place() -> None:
    async def some() -> tuple[bool, list[str]]:
        slots = Slots(4)
        told: list[str] = []
        slots.listen(told.append)
        error = DestinationUnreachableError("slow down", throttled=True, retry_after=3600.0)
        with pytest.raises(DestinationUnreachableError):
            async with slots.take("s", small=True, errand=Errand(destination=AWAY)):
                raise error
        admitted = slots.admits(AWAY, "u1")
        await asyncio.sleep(3599)
        assert told == []
        await asyncio.sleep(2)
        return admitted, told

    assert run_virtually(some()) == (False, ["u1"])

"""The outbox: in order, side by side, for as long as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from daemon.backoff import Backoff
from daemon.broker.outbox import AT_ONCE, Outbox
from daemon.errors import ApiRefusedError, ApiUnreachableError, StateFullError
from daemon.journal.model import ReportStatus
from daemon.journal.protocol import Listener
from tests.peers.fakes_outbox import DONE, FakeReporter, MemoryOutbox, Recorded

AWAY = ApiUnreachableError("away")


class World:
    """Pauses are 20 to 100 ms in place of 1 s to 5 min."""

    def __init__(self, seconds: float = 0.0, longest: float = 0.1) -> None:
        self.journal = MemoryOutbox()
        self.api = FakeReporter(seconds)
        self.metrics = Recorded()
        self.backoff = Backoff(0.02, longest)
        self.outbox = Outbox(self.journal, self.api, self.metrics, time.time, self.backoff)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.outbox.run())
        try:
            yield
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- of others' lists, that set no event
            await asyncio.sleep(0.005)


async def test_reports_of_one_upload_go_out_in_order() -> None:
    world = World(0.001)
    for upload in "abc":
        world.journal.add(upload, 20)
    async with world.running():
        await until(lambda: len(world.journal.all(DONE)) == 60)
    for upload in "abc":
        sent = [name for name in world.api.taken if name.startswith(upload)]
        assert sent == [f"{upload}/{number}" for number in range(1, 21)]


async def test_uploads_go_side_by_side_but_not_all_at_once() -> None:
    world = World(0.01)
    for number in range(40):
        world.journal.add(f"u{number}")
    async with world.running():
        await until(lambda: len(world.api.taken) == 40)
    assert world.api.most_at_once == AT_ONCE


async def test_a_slow_report_does_not_hold_up_other_uploads() -> None:
    world = World()
    gate = asyncio.Event()
    taken: list[str] = []

    class Slow:
        async def report(self, api_id: str, body: dict[str, object]) -> None:
            if api_id == "api-slow":
                await gate.wait()
            taken.append(str(body["report"]))

    world.outbox = Outbox(world.journal, Slow(), world.metrics, time.time)
    world.journal.add("slow")
    async with world.running():
        await asyncio.sleep(0.02)
        world.journal.add("other", 3)
        world.outbox.poke()
        await until(lambda: len(taken) == 3)
        gate.set()
        await until(lambda: len(taken) == 4)
    assert taken[-1] == "slow/1"


async def test_a_poke_makes_a_new_report_go_at_once() -> None:
    world = World()
    listener: Listener = world.outbox
    async with world.running():
        await asyncio.sleep(0.02)
        world.journal.add("a")
        listener.on_reports()
        await until(lambda: world.api.taken == ["a/1"])


async def test_a_report_is_tried_again_until_it_is_taken() -> None:
    world = World()
    world.api.down = AWAY
    world.journal.add("a", 2)
    async with world.running():
        await until(lambda: len(world.api.tried) >= 4)
        assert set(world.api.tried) == {"a/1"}
        world.api.down = None
        await until(lambda: world.api.taken == ["a/1", "a/2"])
    outcomes = [(line["event"], line["outcome"], line["attempts"]) for line in world.metrics.lines]
    assert outcomes[0] == ("report", "failed", 1)
    assert outcomes[1] == ("report", "failed", 2)
    assert outcomes[-1] == ("report", "ok", 1)
    assert len(outcomes) == len(world.api.tried)


async def test_while_the_api_is_away_one_at_a_time_tries() -> None:
    world = World(0.001)
    world.api.down = AWAY
    for number in range(1000):
        world.journal.add(f"u{number}")
    async with world.running():
        await asyncio.sleep(0.5)
        assert len(world.api.tried) < AT_ONCE + 0.5 / 0.02
        probes = world.api.tried[AT_ONCE:]
        assert len(set(probes)) > 1
        assert not world.outbox.healthy
        assert world.outbox.waiting_since == pytest.approx(time.time(), abs=5)
        error = world.outbox.last_error
        assert error is not None
        assert (error.code, error.message) == ("api_unreachable", "away")
        asked = world.journal.asked
        for _ in range(100):
            world.outbox.poke()
            await asyncio.sleep(0)
        assert world.journal.asked < asked + 20
        world.api.down = None
        await until(lambda: len(world.api.taken) == 1000)
    state = world.outbox.healthy, world.outbox.last_error, world.outbox.waiting_since
    assert state == (True, None, None)


async def test_one_report_that_the_api_stumbles_over_holds_up_its_own_upload_only() -> None:
    world = World()
    world.api.errors["bad/1"] = ApiUnreachableError("500")
    world.journal.add("bad", 2)
    for number in range(30):
        world.journal.add(f"u{number}", 2)
    async with world.running():
        await until(lambda: len(world.api.taken) == 60)
        assert not any(name.startswith("bad") for name in world.api.taken)
        del world.api.errors["bad/1"]
        await until(lambda: len(world.api.taken) == 62)


async def test_the_api_is_left_alone_for_as_long_as_it_asks() -> None:
    world = World(longest=0.02)
    world.api.down = ApiUnreachableError("throttled", retry_after=0.4)
    world.journal.add("a")
    async with world.running():
        began = time.monotonic()
        await until(lambda: len(world.api.tried) == 2)
        assert time.monotonic() - began >= 0.39


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422])
async def test_a_refused_report_is_parked_and_the_next_one_goes(status: int) -> None:
    world = World()
    world.api.errors["a/1"] = ApiRefusedError("No.", status)
    world.journal.add("a", 2)
    async with world.running():
        await until(lambda: world.api.taken == ["a/2"])
    (parked,) = world.journal.all(ReportStatus.PARKED)
    assert parked.error is not None
    assert (parked.error.code, parked.error.message) == ("api_refused", f"{status}: No.")
    assert world.outbox.healthy
    assert [line["outcome"] for line in world.metrics.lines] == ["refused", "ok"]


async def test_a_bug_with_one_report_ends_nothing() -> None:
    world = World()
    world.api.errors["a/1"] = ZeroDivisionError("oh")
    world.journal.add("a")
    world.journal.add("b")
    async with world.running():
        await until(lambda: world.api.taken == ["b/1"])
    (line,) = (line for line in world.metrics.lines if line["upload"] == "a")
    assert line["error_code"] == "internal"


async def test_a_full_disk_sends_reports_again_once_there_is_space() -> None:
    world = World()
    world.journal.broken = StateFullError("no space")
    world.journal.add("a")
    async with world.running():
        await until(lambda: len(world.api.tried) >= 2)
        assert not world.outbox.healthy
        world.journal.broken = None
        await until(lambda: len(world.journal.all(DONE)) == 1)


async def test_it_ends_when_cancelled_and_marks_nothing_that_was_on_its_way() -> None:
    world = World(60.0)
    world.journal.add("a")
    async with world.running():
        await until(lambda: world.api.tried == ["a/1"])
    assert len(world.journal.all(ReportStatus.PENDING)) == 1


async def test_each_try_is_one_line_of_metrics() -> None:
    world = World()
    world.journal.add("a")
    async with world.running():
        await until(lambda: bool(world.metrics.lines))
    (line,) = world.metrics.lines
    assert line.items() >= {"event": "report", "outcome": "ok", "upload": "a", "study": "s"}.items()
    assert line.items() >= {"state": "received", "sequence": 1, "attempts": 1}.items()
    assert isinstance(line["send_seconds"], float)
    assert "error_code" not in line


@pytest.mark.parametrize("attempts", [0, 1, 2, 10, 1000, 10**9])
def test_pauses_widen_with_jitter_between_their_bounds(attempts: int) -> None:
    backoff = Backoff(1.0, 300.0)
    pauses = [backoff.delay(attempts) for _ in range(200)]
    assert min(pauses) >= 1.0
    assert max(pauses) <= min(300.0, 2.0 ** max(1, attempts) if attempts < 100 else 300.0)
    assert len(set(pauses)) > 100

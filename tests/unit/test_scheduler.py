"""What runs next: fair between studies, small beside large."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from daemon.scheduling.fair import FairQueue, Lately
from daemon.scheduling.slots import Slots


def drain(queue: FairQueue[str], now: float = 0.0) -> list[str]:
    items = []
    while (item := queue.pop(now)) is not None:
        items.append(item)
    return items


def test_studies_take_turns_however_many_items_one_of_them_has() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.push("flooding", f"f{number}")
    queue.push("quiet", "q0")
    assert drain(queue) == ["f0", "q0", "f1", "f2", "f3"]


def test_an_item_waits_for_its_time() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("s", "later", ready_at=10.0)
    queue.push("s", "now")
    assert drain(queue, now=9.9) == ["now"]
    assert queue.next_at() == 10.0
    assert drain(queue, now=10.0) == ["later"]
    assert queue.next_at() is None


def test_an_item_pushed_twice_comes_out_once() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("s", "a")
    queue.push("s", "a")
    assert drain(queue) == ["a"]


def test_an_item_pushed_again_may_become_ready_sooner_but_not_later() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("s", "a", ready_at=10.0)
    queue.push("s", "a", ready_at=5.0)
    queue.push("s", "a", ready_at=20.0)
    assert drain(queue, now=5.0) == ["a"]
    assert drain(queue, now=30.0) == []


def test_a_discarded_item_never_comes_out() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("s", "a")
    queue.push("s", "b", ready_at=1.0)
    queue.discard("a")
    queue.discard("b")
    assert drain(queue, now=2.0) == []
    assert len(queue) == 0


def test_a_study_is_alone_until_another_has_something_to_do_and_again_some_time_later() -> None:
    lately = Lately(5.0)
    lately.came("a", 0.0)
    assert lately.is_alone("a", 0.0)
    assert not lately.is_alone("b", 0.0)
    lately.came("b", 1.0)
    lately.came("a", 4.0)
    assert not lately.is_alone("a", 5.0)
    assert lately.is_alone("a", 6.1)
    assert lately.is_alone("b", 9.1)


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 50)), unique=True))
def test_every_item_comes_out_once_and_in_its_study_s_order(pushed: list[tuple[str, int]]) -> None:
    queue: FairQueue[str] = FairQueue()
    for study, number in pushed:
        queue.push(study, f"{study}{number}")
    out = drain(queue)
    assert sorted(out) == sorted(f"{study}{number}" for study, number in pushed)
    for letter in "xyz":
        mine = [f"{study}{number}" for study, number in pushed if study == letter]
        assert [item for item in out if item.startswith(letter)] == mine


async def hold(slots: Slots, study: str, log: list[str], name: str, *, small: bool) -> None:
    async with slots.take(study, small=small):
        log.append(name)
        await asyncio.sleep(0)


async def test_no_more_jobs_run_at_once_than_there_are_slots() -> None:
    slots = Slots(2)
    running = most = 0

    async def job() -> None:
        nonlocal running, most
        async with slots.take("s", small=False):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(job())
    assert most == 2


async def test_small_jobs_pass_large_ones_but_do_not_starve_them() -> None:
    slots, log = Slots(1), list[str]()
    async with asyncio.TaskGroup() as group, slots.take("a", small=False):
        for number in range(2):
            group.create_task(hold(slots, "a", log, f"L{number}", small=False))
        for number in range(5):
            group.create_task(hold(slots, "b", log, f"s{number}", small=True))
        await asyncio.sleep(0)
    assert log == ["s0", "s1", "s2", "L0", "s3", "s4", "L1"]


async def test_a_cancelled_waiter_gives_its_turn_away() -> None:
    slots, log = Slots(1), list[str]()
    async with slots.take("s", small=False):
        first = asyncio.create_task(hold(slots, "s", log, "cancelled", small=False))
        second = asyncio.create_task(hold(slots, "s", log, "second", small=False))
        await asyncio.sleep(0)
        first.cancel()
    await asyncio.wait([first, second])
    assert log == ["second"]
    await hold(slots, "s", log, "third", small=True)
    assert log == ["second", "third"]


async def test_a_waiter_cancelled_just_as_its_turn_comes_does_not_keep_the_slot() -> None:
    slots, log = Slots(1), list[str]()
    async with slots.take("s", small=False):
        waiter = asyncio.create_task(hold(slots, "s", log, "never", small=False))
        await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait([waiter])
    async with asyncio.timeout(1):
        await hold(slots, "s", log, "next", small=False)
    assert log == ["next"]

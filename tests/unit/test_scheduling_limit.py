"""How many jobs at once: more while that helps, fewer where it doesn't, half where it fails."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.scheduling.limit import Limit

MIB = 1024**2


def knee(at: int) -> Callable[[int], float]:
    """Jobs a second of a destination that gets faster with each job at once, up to ``at``."""
    return lambda jobs: 2.0 * min(jobs, at)


def work(
    limit: Limit,
    speed: Callable[[int], float],
    seconds: float,
    now: float = 0.0,
    *,
    full: bool = True,
) -> tuple[float, list[int]]:
    """Keep the destination as busy as the limit allows: the time then, and all limits."""
    seen = []
    end = now + seconds
    while now < end:
        now += 1 / speed(limit.value)
        if full:
            limit.wanted()
        limit.succeeded(now, 16 * MIB)
        seen.append(limit.value)
    return now, seen


def test_the_limit_grows_while_that_makes_it_faster() -> None:
    limit = Limit(4, 64)
    _, seen = work(limit, knee(12), 600)
    assert 11 <= seen[-1] <= 13
    assert max(seen) <= 13


def test_the_limit_stays_where_more_at_once_brings_nothing() -> None:
    limit = Limit(4, 64)
    _, seen = work(limit, knee(4), 600)
    assert set(seen) <= {4, 5}
    assert seen.count(5) < len(seen) / 4


def test_a_limit_that_became_too_high_comes_down_again() -> None:
    limit = Limit(4, 64)
    now, _ = work(limit, knee(16), 300)
    assert limit.value >= 15
    work(limit, knee(6), 3600, now)
    assert limit.value <= 8


def test_what_was_not_kept_busy_tells_nothing() -> None:
    limit = Limit(4, 64)
    _, seen = work(limit, knee(12), 600, full=False)
    assert set(seen) == {4}


def test_a_failure_halves_the_limit_once_for_all_that_was_under_way() -> None:
    limit = Limit(8, 64)
    assert limit.failed(1.0, generation=0)
    assert not limit.failed(1.1, generation=0)
    assert (limit.value, limit.generation) == (4, 1)
    assert limit.failed(2.0, generation=1)
    assert limit.value == 2


def test_after_a_failure_the_limit_rests_and_then_grows_again_one_by_one() -> None:
    limit = Limit(8, 64)
    limit.failed(0.0, 0)
    now, seen = work(limit, knee(8), 4)
    assert set(seen) == {4}
    _, seen = work(limit, knee(8), 60, now)
    assert limit.value >= 8
    assert all(later - sooner <= 1 for sooner, later in pairwise(seen))


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_limit_keeps_below_its_ceiling(most: int) -> None:
    limit = Limit(4, most)
    _, seen = work(limit, knee(64), 120)
    assert set(seen) == {most}


def test_a_lower_ceiling_counts_at_once() -> None:
    limit = Limit(8, 64)
    limit.bound(3)
    assert limit.value == 3


@given(st.lists(st.tuples(st.floats(0.001, 10), st.booleans(), st.integers(0, 64 * MIB))))
def test_whatever_happens_the_limit_is_between_one_and_its_ceiling(
    events: list[tuple[float, bool, int]],
) -> None:
    limit, now = Limit(4, 12), 0.0
    for wait, good, size in events:
        now += wait
        limit.wanted()
        if good:
            limit.succeeded(now, size)
        else:
            limit.failed(now, limit.generation)
        assert 1 <= limit.value <= 12

"""What a bench makes of its samples."""

from __future__ import annotations

import math

import pytest

from daemon.bench.figures import GIB, Figure, Sample, narrowest, sentence
from daemon.bench.usage import Moment, moment


def figure(name: str, *rates: float, needed: bool = True, busy: float = 0.0) -> Figure:
    samples = tuple(Sample(int(rate * 1e9), 1.0, 0.5 * rate, busy) for rate in rates)
    return Figure(name=name, subject="x", title=f"the {name}", samples=samples, needed=needed)


def test_the_median_counts_and_the_spread_is_kept() -> None:
    found = figure("seal", 1.0, 5.0, 2.0)
    assert (found.rate, found.lowest, found.highest) == (2e9, 1e9, 5e9)
    assert math.isclose(found.cpu_seconds_per_gib, 0.5 * GIB / 1e9)


def test_the_narrowest_is_what_lets_through_the_least() -> None:
    wide, narrow = figure("seal", 3.0), figure("read", 0.5)
    least, close = narrowest([wide, narrow])
    assert (least, close) == (narrow, [])
    assert sentence([wide, narrow]) == "The narrowest part is the read, 0.50 GB/s."


def test_what_an_upload_need_not_pass_does_not_count() -> None:
    assert narrowest([figure("digest", 0.1, needed=False), figure("seal", 1.0)])[0] is not None
    assert narrowest([figure("digest", 0.1, needed=False)]) == (None, [])


def test_what_could_not_be_measured_does_not_count() -> None:
    broken = Figure(name="destination", subject="a", title="the way to a", error="away")
    assert narrowest([broken, figure("seal", 1.0)])[0] == figure("seal", 1.0)
    assert sentence([broken]) == "Nothing could be measured that an upload has to pass."


def test_spreads_that_overlap_are_not_told_apart() -> None:
    figures = [figure("read", 0.9, 1.0, 1.3), figure("seal", 1.2, 1.5, 1.6), figure("write", 1.4)]
    assert sentence(figures) == (
        "The narrowest part is the read, 1.00 GB/s; too close to tell apart: the seal."
    )


@pytest.mark.parametrize(("busy", "told"), [(0.5, False), (0.95, True)])
def test_busy_processors_are_told_beside_a_destination(busy: float, told: bool) -> None:  # noqa: FBT001 - the expected value
    text = sentence([figure("destination", 0.2, busy=busy), figure("seal", 3.0)])
    assert ("95% busy" in text) is told


def test_a_slow_destination_has_digits_enough() -> None:
    assert "0.0012 GB/s" in sentence([figure("destination", 0.0012)])


def test_what_others_used_is_what_was_used_beyond_ours() -> None:
    before = Moment(seconds=0.0, own=0.0, busy=10.0, total=100.0)
    after = Moment(seconds=5.0, own=0.0, busy=16.0, total=110.0)
    assert math.isclose(after.busy_since(before), 0.6)
    assert math.isclose(after.others_since(before, 4.0), 0.2)
    assert after.others_since(before, 8.0) == 0.0
    assert before.busy_since(before) == before.others_since(before, 1.0) == 0.0


def test_processes_that_have_ended_count_for_nothing() -> None:
    assert moment([2**22 + 1]).total > 0

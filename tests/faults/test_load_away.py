"""Very many uploads wait for a destination that is away: they cost little, and follow later on.

The full size, with its figures: `pytest -m long -s tests/faults/test_load_away.py`. A whole day of
it passes in no time in tests/unit/test_scheduling_away.py.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.bench.measure import cpu_seconds, family
from tests.peers.dropoffd import Dropoffd
from tests.peers.load import (
    folder,
    lay,
    memory_of,
    named,
    shown,
    stored_in,
    studies,
    study_named,
    study_of,
    watched,
)
from tests.peers.openers import Clear
from tests.peers.oracle import Evidence, judge
from tests.peers.stores import Folder

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]

HELD, FREE = study_named(1), study_named(2)
CONFIG = (
    folder("away", "away")
    + folder("local", "store")
    + studies(2, ["away"])
    + study_of(2, ["local"])
)
OTHERS = 20
PROBES = 60
"""Tries that a destination is asked by while it is away; far fewer than uploads wait."""


def tries_of(daemon: Dropoffd, destination: str) -> int:
    """Failed tries to reach it."""
    lines = (each for each in daemon.metrics if each["event"] == "delivery")
    return sum(each["destination"] == destination and each["outcome"] == "failed" for each in lines)


def held_at(daemon: Dropoffd, destination: str) -> int:
    """Uploads that wait for it without a try."""
    status = daemon.status()
    found = status["destinations"] if status else []
    return sum(each["held"] for each in found if each["name"] == destination)


@pytest.mark.parametrize(
    ("count", "seconds", "drain"),
    [
        pytest.param(400, 3.0, 120.0, id="400"),
        pytest.param(50_000, 60.0, 3000.0, id="50000", marks=pytest.mark.long),
    ],
)
def test_uploads_for_a_destination_that_is_away_cost_nobody_anything_and_follow_once_it_is_back(
    tmp_path: Path, count: int, seconds: float, drain: float
) -> None:
    daemon = Dropoffd(tmp_path, CONFIG)
    store, away = tmp_path / "store", tmp_path / "away"
    store.mkdir()
    sent = lay(daemon.uploads, named("held", count), HELD)
    try:
        with watched(daemon, store, FREE, pause=0.5) as watch:
            daemon.wait_for(lambda: held_at(daemon, "away") > count - 40, 1800, "all wait")
            waiting_after = watch.seconds
            tries, cpu, began = (
                tries_of(daemon, "away"),
                cpu_seconds(family(daemon.pid)),
                time.monotonic(),
            )
            sent += lay(daemon.uploads, named("free", OTHERS), FREE)
            daemon.wait_for(lambda: len(stored_in(store)) == OTHERS, 30, "the others are stored")
            others = time.monotonic() - began
            time.sleep(seconds)
            busy = (cpu_seconds(family(daemon.pid)) - cpu) / (time.monotonic() - began)
            asked = tries_of(daemon, "away")
            resident = memory_of(daemon.pid)
            away.mkdir()
            began = time.monotonic()
            daemon.wait_for(lambda: any(away.rglob("*.txt")), 90, "it is back")
            first = time.monotonic() - began
            daemon.wait_for(lambda: held_at(daemon, "away") == 0, drain, "nobody waits any more")
            daemon.wait_until_over(count + OTHERS, drain)
            drained = time.monotonic() - began
        assert daemon.stop() == 0
    finally:
        if daemon.running:
            daemon.kill()
    shown(
        f"{count} uploads wait after {waiting_after:.0f} s, with {asked} tries, {asked - tries} of "
        f"them later; {resident / 2**20:.0f} MiB, at the most {watch.peak_mib:.0f} MiB; "
        f"{busy:.1%} of a processor; {OTHERS} others stored in {others:.1f} s; back after "
        f"{first:.1f} s, all stored after {drained:.0f} s ({count / drained:.0f} a second)"
    )
    stores = {"away": Folder(away), "local": Folder(store)}
    bound = {HELD: ["away"], FREE: ["local"]}
    judge(Evidence(daemon, sent, None, stores, Clear(), bound=bound)).hold()
    assert asked <= PROBES + seconds
    assert busy < 0.9
    assert others < 20
    assert watch.peak_mib < 300

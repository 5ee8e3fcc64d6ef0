"""Whatever the bytes, they are read or refused: the fuzzers' targets, shortly in every run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.fuzz_targets import SEEDS, TARGETS

SHORT = 3000
COUNTS = {"config": 40, "keys": 60}
NAMES = sorted(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_every_written_case_is_read_or_refused(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", NAMES)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    short = [seed for seed in SEEDS[name] if len(seed) <= SHORT]

    @settings(
        max_examples=COUNTS.get(name, 150),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(data=st.binary(max_size=200) | changed(short))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A written case with a piece cut out, and another's or any bytes put in."""
    seed = draw(st.sampled_from(seeds))
    start = draw(st.integers(0, len(seed)))
    stop = draw(st.integers(start, min(len(seed), start + 40)))
    other = draw(st.binary(max_size=10) | st.sampled_from(seeds).map(lambda text: text[:40]))
    return seed[:start] + other + seed[stop:]


@pytest.mark.fuzz
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_fuzzer_finds_nothing_in_a_minute(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.faults.fuzz", "--minutes", "1"),
            *("--target", name, "--findings", str(tmp_path)),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout

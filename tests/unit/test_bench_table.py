"""The tables of the measurements say what was measured."""

from __future__ import annotations

import pytest

from tests.bench import loads
from tests.bench.growth import Grown
from tests.bench.growth import Report as GrowthReport
from tests.bench.growth import show as show_growth
from tests.bench.loads import Shape
from tests.bench.measure import Machine, Sample, median
from tests.bench.outcome import BOUND, RCLONE, Report, Row, Table, show

MACHINE = Machine(cpu="a CPU", cores=2, memory_bytes=1, kernel="6")


def row(name: str, *seconds: float, sealed: bool = True, factor: float = 1.0) -> Row:
    samples = tuple(Sample(seconds=s, cpu_seconds=2 * s, server_cpu_seconds=s / 2) for s in seconds)
    return Row(name=name, title=name, sealed=sealed, samples=samples, factor=factor, peak_bytes=7)


def table(*rows: Row) -> Table:
    return Table(scheme="http", load="small", count=2000, size_bytes=1000, rows=rows)


def test_the_median_of_each_value_is_told_by_itself() -> None:
    samples = [
        Sample(seconds=1.0, cpu_seconds=30.0, peak_bytes=5),
        Sample(seconds=2.0, cpu_seconds=10.0, peak_bytes=9),
        Sample(seconds=9.0, cpu_seconds=20.0, peak_bytes=7),
    ]
    assert median(samples) == Sample(seconds=2.0, cpu_seconds=20.0, peak_bytes=9)


def test_times_of_some_files_are_extrapolated_to_all_and_memory_is_not() -> None:
    whole = row("seed", 1.0, 3.0, factor=40).whole
    assert whole == Sample(seconds=80.0, cpu_seconds=160.0, server_cpu_seconds=40.0, peak_bytes=7)


def test_an_extrapolated_row_says_so() -> None:
    assert row("seed", 1.0, factor=40).label == "seed (× 40, extrapolated)"  # noqa: RUF001
    assert row("seed", 1.0).label == "seed"


def test_a_way_is_held_against_those_that_do_the_same() -> None:
    found = table(
        row("raw", 1.0),
        row("rclone", 8.0),
        row("raw-clear", 0.5, sealed=False),
        row("seed", 0.1, factor=40),
        row("seed-clear", 2.0, sealed=False),
    )
    seed, clear = found.rows[3], found.rows[4]
    assert found.faster(seed, BOUND) == pytest.approx(0.25)
    assert found.faster(seed, RCLONE) == pytest.approx(2.0)
    assert found.faster(clear, BOUND) == pytest.approx(0.25)
    assert found.faster(clear, RCLONE) is None


def test_the_table_tells_files_a_second_and_what_was_left_out() -> None:
    missing = Row(name="ghga", title="GHGA", sealed=True, left_out="no network")
    found = table(row("raw", 4.0), row("rclone", 8.0), missing)
    report = Report(machine=MACHINE, programs={"age": "1"}, runs=5, tables=(found,))
    told = show(report, markdown=True)
    assert "| raw | 4.00 | 0.00 | 500 | 8.00 | 2.00 | 1.25 | 0 | 1.00 | 2.0 |" in told
    assert "Left out: GHGA: no network" in told
    assert "without encryption" not in told
    assert "GHGA: no network" in show(report, markdown=False)


@pytest.mark.parametrize(
    ("text", "count", "size"),
    [("4GiB", 1, 4 << 30), ("64x64MiB", 64, 64 << 20), ("2000 × 64KiB", 2000, 64 << 10)],  # noqa: RUF001
)
def test_a_load_is_a_size_or_a_number_of_them(text: str, count: int, size: int) -> None:
    assert loads.parse("any", text) == Shape("any", count, size)


@pytest.mark.parametrize("text", ["", "x", "4", "0x1MiB", "3x", "x1MiB", "2x2x2MiB", "0MiB"])
def test_what_is_no_load_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        loads.parse("any", text)


def test_growth_is_told_relative_to_the_first_row() -> None:
    def grown(uploads: int, seconds: float) -> Grown:
        return Grown(
            uploads=uploads,
            size_bytes=1 << 30,
            seconds=seconds,
            cpu_seconds=2 * seconds,
            idle_cpu_seconds=0.0,
            idle_pss_bytes=1 << 20,
            peak_pss_bytes=2 << 20,
            peak_rss_bytes=3 << 20,
        )

    report = GrowthReport(machine=MACHINE, by_size=(), by_number=(grown(1, 2.0), grown(4, 6.0)))
    cells = "6.00 | 0.72 | 12.00 | 1 | 2 | 3 | 4.00 | 3.00 | 3.00 | 1.00 | 1.00"
    assert f"| 4 × 1 GiB | {cells} |" in show_growth(report, markdown=True)  # noqa: RUF001

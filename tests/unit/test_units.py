from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.units import (
    LARGEST_SIZE,
    format_duration,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("1B", 1),
        ("16MiB", 16 * 1024**2),
        ("16 mib", 16 * 1024**2),
        (" 500MB ", 500 * 1000**2),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("5TiB", 5 * 1024**4),
        ("0.1kB", 100),
        ("9007199254740993B", 2**53 + 1),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "16", "MiB", "-1MiB", "1e3B", "16MiB16", "1,5GiB", "٣MiB", "8EiB", "1XiB"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size such as|too large"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("30s", 30.0),
        ("500ms", 0.5),
        ("1h30m", 5400.0),
        ("1h 30min", 5400.0),
        ("7d", 604800.0),
        ("2w", 1209600.0),
        ("0.5s", 0.5),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1y", "1h30", "∞s", "1s,", "999999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration such as|too long"):
        parse_duration(text)


@given(st.text(max_size=30))
def test_no_text_makes_reading_fail_otherwise(text: str) -> None:
    for parse in (parse_size, parse_duration):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1 MiB"),
        (150 * 1024**2, "150 MiB"),
        (LARGEST_SIZE, "8 EiB"),
    ],
)
def test_sizes_are_shown_with_three_digits(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0124, "12 ms"),
        (0.9996, "1 s"),
        (3.44, "3.4 s"),
        (59.99, "1m"),
        (125, "2m 5s"),
        (3600, "1h"),
        (11400, "3h 10m"),
        (3605, "1h"),
        (612000, "7d 2h"),
    ],
)
def test_durations_are_shown_with_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, LARGEST_SIZE))
def test_a_shown_size_is_near_the_size(size: int) -> None:
    assert parse_size(format_size(min(size, 7 * 1024**6))) == pytest.approx(
        min(size, 7 * 1024**6), rel=0.05
    )


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("200MiB/s", 200 * 1024**2),
        ("25MB/s", 25 * 1000**2),
        ("0.5 GiB / s", 512 * 1024**2),
        ("16kib/s", 16 * 1024),
    ],
)
def test_rates_are_read(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "200MiB", "200", "200/s", "/s", "200MiB/min", "200Mbit/s", "-1MiB/s", "200MiBps"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r'bytes a second such as "200MiB/s"'):
        parse_rate(text)

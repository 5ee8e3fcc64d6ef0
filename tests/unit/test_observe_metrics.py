from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.observe.linefile import LineFile, rotated
from daemon.observe.metrics import MetricsLog
from daemon.observe.prometheus import MAX_SERIES, Counters, Gauge
from daemon.observe.reading import Reader, follow
from daemon.observe.summary import durations, summarise

NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("it never came true")


# Writing ------------------------------------------------------------------------------------


def test_each_unit_of_work_is_one_wide_line(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl", clock=lambda: NOON + 0.25)
    metrics.start()
    metrics.record("delivery", "ok", destination="archive", delivery_seconds=1.5, error_code=None)
    metrics.record("report", "failed", error_code="api_unreachable")
    metrics.close()
    assert written(tmp_path / "metrics.jsonl") == [
        {
            "ts": "2026-01-01T12:00:00.250Z",
            "event": "delivery",
            "outcome": "ok",
            "destination": "archive",
            "delivery_seconds": 1.5,
        },
        {
            "ts": "2026-01-01T12:00:00.250Z",
            "event": "report",
            "outcome": "failed",
            "error_code": "api_unreachable",
        },
    ]


def test_a_torn_last_line_stays_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"ts":"2026-01-01T')
    metrics = MetricsLog(path)
    metrics.start()
    metrics.record("rescan", "ok")
    metrics.close()
    reader = Reader()
    assert [record["event"] for record in reader.records([path])] == ["rescan"]
    assert reader.unreadable == 1


def test_the_log_is_rotated_by_size_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for number in range(30):
        metrics = MetricsLog(path, max_bytes=200, keep=3)
        metrics.start()
        metrics.record("hook", "ok", number=number)
        metrics.close()
    files = rotated(path)
    assert [file.name for file in files] == [
        "metrics.jsonl.3",
        "metrics.jsonl.2",
        "metrics.jsonl.1",
        "metrics.jsonl",
    ]
    assert all(file.stat().st_size <= 200 for file in files)
    numbers = [record["number"] for record in Reader().records(files)]
    assert numbers == list(range(numbers[0], 30))


def test_a_log_that_others_rotated_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsLog(path)
    metrics.start()
    metrics.record("hook", "ok")
    wait_until(lambda: path.exists() and path.stat().st_size > 0)
    path.rename(tmp_path / "elsewhere")
    metrics.record("hook", "refused")
    metrics.close()
    assert [line["outcome"] for line in written(path)] == ["refused"]


def test_lines_beyond_the_backlog_are_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsLog(path, backlog=5)
    for _ in range(12):
        metrics.record("hook", "ok")
    metrics.start()
    metrics.close()
    *taken, told = written(path)
    assert len(taken) == 5
    assert (told["event"], told["outcome"], told["lines"]) == ("metrics", "dropped", 7)
    assert "dropoffd_metrics_lines_lost 7" in metrics.render()
    assert 'dropoffd_hooks_total{outcome="ok"} 12' in metrics.render()


def test_a_place_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "later" / "metrics.jsonl"
    metrics = MetricsLog(path, retry_seconds=0.01)
    metrics.start()
    metrics.record("hook", "ok")
    time.sleep(0.05)
    path.parent.mkdir()
    metrics.record("hook", "refused")
    wait_until(lambda: path.exists() and len(path.read_bytes().splitlines()) == 2)
    metrics.close()
    assert [line["outcome"] for line in written(path)] == ["ok", "refused"]


async def test_closing_does_not_wait_for_a_place_that_stays_away() -> None:
    metrics = MetricsLog(Path("/dev/null/metrics.jsonl"), retry_seconds=60)
    metrics.start()
    metrics.record("hook", "ok")
    began = time.monotonic()
    await metrics.aclose()
    assert time.monotonic() - began < 4


def test_a_line_half_written_to_a_full_disk_is_finished_later(tmp_path: Path) -> None:
    # In a process of its own: the limit makes a short write and then EFBIG.
    script = """
import resource, signal, sys
from pathlib import Path
from daemon.observe.linefile import LineFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30, resource.RLIM_INFINITY))
file = LineFile(Path(sys.argv[1]), 1 << 20, 3)
file.append(b"0123456789 first\\n")
try:
    file.append(b"0123456789 second\\n")
except OSError:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    file.append()
    file.append(b"third\\n")
"""
    path = tmp_path / "lines"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert path.read_text() == "0123456789 first\n0123456789 second\nthird\n"


def test_recording_from_many_threads_loses_nothing(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    metrics.start()

    def record() -> None:
        for _ in range(200):
            metrics.record("hook", "ok")

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics.close()
    assert len(written(tmp_path / "metrics.jsonl")) == 1600
    assert 'dropoffd_hooks_total{outcome="ok"} 1600' in metrics.render()


def test_a_link_in_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        LineFile(tmp_path / "metrics.jsonl", 100, 2).append(b"x\n")
    assert not (tmp_path / "victim").exists()


# Prometheus ---------------------------------------------------------------------------------

SAMPLE = re.compile(
    r'[a-z_][a-z0-9_]*(\{[a-z_]+="(\\.|[^"\\\n])*"(,[a-z_]+="(\\.|[^"\\\n])*")*\})? [0-9.e+-]+'
)


def test_counts_follow_the_conventions_of_prometheus() -> None:
    counters = Counters()
    fields: dict[str, object] = {
        "upload": "u1",
        "study": "s1",
        "destination": 'a"b\\c\nd',
        "delivery_seconds": 0.2,
        "sent_bytes": 10,
        "attempts": 2,
        "verified": "checksum",
    }
    counters.add("delivery", "ok", fields)
    counters.add("delivery", "failed", {**fields, "error_code": "destination_refused"})
    text = counters.render([Gauge(name="uploads", help="x", values={(("state", "done"),): 3})])
    assert 'dropoffd_uploads{state="done"} 3\n' in text
    assert (
        'dropoffd_deliveries_total{outcome="failed",destination="a\\"b\\\\c\\nd",'
        'error_code="destination_refused"} 1\n'
    ) in text
    assert "dropoffd_delivery_sent_bytes_total" in text
    assert (
        'dropoffd_delivery_seconds_bucket{outcome="ok",destination="a\\"b\\\\c\\nd",le="0.5"} 1'
        in text
    )
    assert "u1" not in text
    assert "s1" not in text
    for line in text.splitlines():
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line


def test_a_histogram_counts_upwards_to_all() -> None:
    counters = Counters()
    for seconds in (0.001, 0.2, 7.0, 1e6):
        counters.add("rescan", "ok", {"seconds": seconds})
    found = re.findall(r"dropoffd_rescan_seconds_bucket.* (\d+)", counters.render())
    assert [int(count) for count in found] == sorted(int(count) for count in found)
    assert found[-1] == "4"
    assert 'dropoffd_rescan_seconds_count{outcome="ok"} 4' in counters.render()


def test_series_are_bounded() -> None:
    counters = Counters()
    for number in range(MAX_SERIES + 100):
        counters.add("hook", f"outcome{number}", {})
    assert counters.render().count("\ndropoffd_hooks_total{") == MAX_SERIES


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, True, "5"])
def test_what_is_no_amount_is_not_counted(value: object) -> None:
    counters = Counters()
    counters.add("hook", "ok", {"wait_seconds": value, "sent_bytes": value})
    assert "wait" not in counters.render()
    assert "sent" not in counters.render()


# Reading ------------------------------------------------------------------------------------


def line(ts: str, event: str = "delivery", outcome: str = "ok", **fields: object) -> str:
    return json.dumps({"ts": ts, "event": event, "outcome": outcome, **fields}) + "\n"


def test_only_what_is_young_enough_is_read_over_all_files(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    (tmp_path / "metrics.jsonl.2").write_text(line("2026-01-01T11:59:59.999Z"))
    (tmp_path / "metrics.jsonl.1").write_text(line("2026-01-01T12:00:00.000Z"))
    path.write_text(line("2026-01-01T12:00:01.000Z") + '{"ts": "2026-01-01T12:')
    reader = Reader()
    assert [record["ts"][17:] for record in reader.records(rotated(path), NOON)] == [
        "00.000Z",
        "01.000Z",
    ]
    assert reader.unreadable == 1


@pytest.mark.parametrize(
    "bad", [b"\xff\xfe\n", b"[]\n", b'"x"\n', b"{}\n", b"\0" * 5000 + b"\n", b"[" * 100_000 + b"\n"]
)
def test_lines_that_are_no_records_are_passed_over(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    good = line("2026-01-01T12:00:00.000Z").encode()
    path.write_bytes(good + bad + good)
    reader = Reader()
    assert len(list(reader.records([path]))) == 2
    assert reader.unreadable == 1


@pytest.mark.parametrize("name", ["delivery_seconds", "sent_bytes", "attempts"])
def test_a_line_with_a_number_beyond_all_counting_is_no_record(tmp_path: Path, name: str) -> None:
    path = tmp_path / "metrics.jsonl"
    told = '{"ts":"2026-01-01T12:00:0%d.000Z","event":"delivery","outcome":"ok","%s":%s}\n'
    path.write_text(told % (0, name, "9" * 400) + told % (1, name, "1.7e308") + told % (2, name, 1))
    reader = Reader()
    assert summarise(reader.records([path])).lines == 1
    assert reader.unreadable == 2


def test_following_goes_along_with_rotation(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(f"2026-01-01T12:00:{second:02}.000Z") for second in range(20)))
    late = line("2026-01-01T12:01:00.000Z")

    def append(text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    steps: Iterator[Callable[[], object]] = iter(
        [
            lambda: append(late[:9]),
            lambda: append(late[9:]),
            lambda: path.rename(tmp_path / "metrics.jsonl.1"),
            lambda: append(line("2026-01-01T12:02:00.000Z")),
        ]
    )
    following = follow(path, sleep=lambda _: next(steps)())
    seen = [next(following)["ts"][14:19] for _ in range(12)]
    following.close()
    assert seen == [*(f"00:{second:02}" for second in range(10, 20)), "01:00", "02:00"]


def test_a_summary_has_counts_rates_percentiles_and_failures() -> None:
    records = [
        {
            "ts": f"2026-01-01T12:00:{number:02}.000Z",
            "event": "delivery",
            "outcome": "failed" if number % 10 == 0 else "ok",
            "destination": "archive" if number < 40 else "mirror",
            "delivery_seconds": float(number),
            "sent_bytes": 100,
            "attempts": 2,
            "upload": f"u{number}",
        }
        | ({"error_code": "destination_unreachable"} if number % 10 == 0 else {})
        for number in range(51)
    ]
    summary = summarise(records, "destination")
    archive, mirror = summary.groups
    assert (archive.group, archive.count, archive.ok, archive.failed) == ("archive", 40, 36, 4)
    assert archive.attempts == 80
    assert archive.bytes == {"sent_bytes": 4000}
    assert archive.bytes_per_second == 4000 / 50
    assert archive.seconds["delivery"] == durations([float(number) for number in range(40)])
    assert mirror.error_codes == {"destination_unreachable": 2}
    first, second = summary.failures
    assert (first.destination, first.count, first.upload) == ("archive", 4, "u30")
    assert (second.destination, second.last) == ("mirror", "2026-01-01T12:00:50.000Z")


def test_percentiles_are_values_that_occurred() -> None:
    found = durations([float(number) for number in range(1, 101)])
    assert (found.p50, found.p95, found.p99, found.max, found.mean) == (50, 95, 99, 100, 50.5)
    assert durations([3.0]).p99 == 3.0


def test_the_log_belongs_to_its_owner_and_group_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        LineFile(tmp_path / "metrics.jsonl", 100, 2).append(b"x\n")
    finally:
        os.umask(before)
    assert (tmp_path / "metrics.jsonl").stat().st_mode & 0o777 == 0o640

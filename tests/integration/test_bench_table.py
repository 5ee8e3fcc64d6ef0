"""The command that measures dropoffd beside others runs, and checks what it measures."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tests.bench import growth, loads, table
from tests.bench.loads import Shape
from tests.bench.measure import Sample, Watch
from tests.bench.outcome import Report
from tests.bench.table import Ready, counted
from tests.bench.ways import Way
from tests.peers.null_s3 import NullS3

pytestmark = pytest.mark.peers


def measured(tmp_path: Path, *arguments: str) -> Report:
    file = tmp_path / "table.json"
    assert table.main([*arguments, "--runs", "1", "--json", str(file)]) == 0
    return msgspec.json.decode(file.read_bytes(), type=Report)


def names(report: Report) -> list[Sequence[str]]:
    return [[row.name for row in found.rows if row.samples] for found in report.tables]


def test_the_table_is_made_over_http_and_https(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = "raw,digest-sha256,rclone,raw-clear"
    report = measured(tmp_path, "--loads", "small", "--small", "3x64KiB", "--ways", ways)
    assert names(report) == [ways.split(",")] * 2
    assert [found.scheme for found in report.tables] == ["http", "https"]
    assert all(row.peak_bytes and not row.left_out for t in report.tables for row in t.rows)
    told = capsys.readouterr().out
    assert "3 × 64 KiB, https, encrypted" in told  # noqa: RUF001
    assert "3 × 64 KiB, https, without encryption" in told  # noqa: RUF001


def test_dropoffd_is_measured_over_https(tmp_path: Path) -> None:
    ways = ["--ways", "pool-blake3,service-blake3", "--schemes", "https"]
    report = measured(tmp_path, "--loads", "small", "--small", "3x64KiB", *ways)
    assert names(report) == [["pool-blake3", "service-blake3"]]


def test_what_is_started_for_each_file_is_tried_with_some_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MANY", 3)
    monkeypatch.setattr(table, "SAMPLE", 2)
    ways = ["--ways", "raw,age", "--schemes", "http"]
    report = measured(tmp_path, "--loads", "small", "--small", "4x64KiB", *ways)
    raw, age = report.tables[0].rows
    assert (raw.factor, age.factor) == (1.0, 2.0)
    assert not age.left_out


def test_a_run_that_lacks_bytes_or_objects_does_not_count() -> None:
    def nothing(_: str, *, watched: bool) -> Sample:
        assert not watched
        return Sample(seconds=1.0, cpu_seconds=1.0)

    def start(_: object) -> object:
        raise AssertionError

    with NullS3() as server, loads.made(Shape("one", 1, 1000)) as load:
        ready = Ready(Way("it", "it", start), load, nothing)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="it-1 sent 0 bytes of 1000, in 0 objects for 1"):
            counted(ready, server, "it-1", watched=False)


def test_growth_is_measured() -> None:
    found = growth.measure(Shape("number", 2, 9 << 20))
    assert found.uploads == 2
    assert found.peak_rss_bytes > found.peak_pss_bytes > found.idle_pss_bytes // 2 > 0


def test_memory_is_looked_at_only_where_that_is_wanted() -> None:
    with Watch(lambda: (os.getpid(),), on=False) as unwatched:
        pass
    with Watch(lambda: (os.getpid(),)) as watched:
        pass
    assert unwatched.peak_bytes == 0
    assert watched.peak_bytes > 1 << 20


def test_a_connection_that_waited_for_its_first_request_is_not_ended() -> None:
    with NullS3() as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
        connection.connect()
        time.sleep(10.5)  # once, it was ended after 10 s
        connection.request("PUT", "/bucket/late", body=b"late")
        assert connection.getresponse().status == 200
        connection.close()
        assert server.total().objects == 1

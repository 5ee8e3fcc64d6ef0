"""`dropoffd bench`: the machine and its destinations measured, and nothing of it left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.seaweedfs import Weed

QUICK = ("--seconds", "0.06", "--size", "6MiB")
MACHINE = [
    ("seal", "one core"),
    ("seal", "all cores"),
    ("digest", "sha256"),
    ("digest", "blake3"),
]
PLACES = (
    '[uploads]\ndirectory = "{0}/up"\n[spool]\ndirectory = "{0}/spool"\n'
    '[state]\ndirectory = "{0}/state"\n[hooks]\nsocket = "{0}/hooks.sock"\n'
    '[pipeline]\nworkers = 1\npart_size = "5MiB"\ndigest = "blake3"\n'
)


def start(directory: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "daemon", "bench", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), **_importable(), **environment},
    )


def _importable() -> dict[str, str]:
    """Whatever directory it starts in, it is this checkout that runs."""
    return {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}


def bench(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    process = start(directory, *arguments, **environment)
    out, said = process.communicate(timeout=100)
    return subprocess.CompletedProcess(process.args, process.returncode, out, said)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A directory that is a destination, in a configuration of its own."""
    for name in ("store", "up"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.toml").write_text(
        PLACES.format(tmp_path)
        + f'[destinations.local]\ntype = "directory"\ndirectory = "{tmp_path}/store"\n'
    )
    return tmp_path / "store"


def names(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [(figure["name"], figure["subject"]) for figure in told["measurements"]]


def test_without_a_configuration_the_machine_is_measured(tmp_path: Path) -> None:
    result = bench(tmp_path, *QUICK, "--json", TMPDIR=str(tmp_path))
    assert result.returncode == 0
    assert "only the machine is measured" in result.stderr
    told = json.loads(result.stdout)
    disk = [("write", str(tmp_path)), ("read", str(tmp_path))]
    assert names(told) == [*MACHINE, *disk]
    for figure in told["measurements"]:
        low, high = figure["lowest_bytes_per_second"], figure["highest_bytes_per_second"]
        assert 0 < low <= figure["bytes_per_second"] <= high
        assert (figure["repetitions"], figure["error"]) == (3, None)
    needed = {figure["subject"]: figure["needed"] for figure in told["measurements"]}
    assert (needed["sha256"], needed["blake3"], needed["one core"]) == (True, False, False)
    assert told["narrowest"]["name"] in {"seal", "digest", "read", "write"}
    assert told["sentence"].startswith("The narrowest part is ")
    assert list(tmp_path.iterdir()) == []


def test_a_destination_gets_deliveries_of_which_nothing_stays(store: Path) -> None:
    result = bench(store.parent, *QUICK, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    up = str(store.parent / "up")
    assert names(told) == [*MACHINE, ("write", up), ("read", up), ("destination", "local")]
    delivered = told["measurements"][-1]
    assert (delivered["repetitions"], delivered["needed"]) == (3, True)
    assert delivered["cpu_seconds_per_gib"] > 0
    assert list(store.iterdir()) == list((store.parent / "up").iterdir()) == []


def test_for_people_there_is_a_table_and_one_sentence(store: Path) -> None:
    result = bench(store.parent, *QUICK)
    lines = result.stdout.splitlines()
    assert lines[0].endswith("cores")
    assert lines[2].split() == ["MEASURED", "GB/S", "FROM-TO", "CPU", "S/GIB", "NOTE"]
    assert any(line.startswith("the way to destination local") for line in lines)
    assert sum(line.startswith("The narrowest part is ") for line in lines) == 1


def test_a_destination_that_fails_leaves_the_others_measured(store: Path) -> None:
    with (store.parent / "config.toml").open("a") as file:
        file.write('[destinations.gone]\ntype = "directory"\ndirectory = "/nowhere/at/all"\n')
    result = bench(store.parent, *QUICK, "--json")
    assert result.returncode == 1
    *_, local, gone = json.loads(result.stdout)["measurements"]
    assert (local["subject"], local["error"]) == ("local", None)
    assert gone["error"].startswith("destination_")
    assert "bytes_per_second" not in gone
    assert list(store.iterdir()) == []


def test_an_upload_directory_that_is_not_there_is_told(store: Path) -> None:
    (store.parent / "up").rmdir()
    result = bench(store.parent, *QUICK, "--json")
    assert result.returncode == 1
    told = json.loads(result.stdout)
    assert "No such file or directory" in told["measurements"][-1]["error"]
    assert told["narrowest"]["name"] in {"seal", "digest"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_is_interrupted_leaves_nothing(store: Path, number: signal.Signals) -> None:
    process = start(store.parent, "--seconds", "0.06", "--size", "512MiB")
    deadline = time.monotonic() + 60
    while not any(store.glob(".*dropoffd-bench-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert any(store.glob(".*dropoffd-bench-*"))
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(store.iterdir()) == list((store.parent / "up").iterdir()) == []


def test_one_in_a_shell_s_background_is_ended_by_sigterm_all_the_same(store: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which is inherited
    try:
        process = start(store.parent, "--seconds", "0.06", "--size", "512MiB")
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 60
    while not any(store.glob(".*dropoffd-bench-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(store.iterdir()) == list((store.parent / "up").iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [("--size", "big"), ("--size", "1KiB"), ("--seconds", "0"), ("--seconds", "nan")],
)
def test_what_can_not_be_measured_is_wrong_usage(
    tmp_path: Path, arguments: tuple[str, str]
) -> None:
    result = bench(tmp_path, *arguments)
    assert (result.returncode, result.stdout) == (2, "")


def test_a_wrong_configuration_is_no_missing_one(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[uploads]\ndirektory = 1\n")
    result = bench(tmp_path, *QUICK)
    assert (result.returncode, result.stdout) == (78, "")


# S3 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        server.make_bucket("store")
        yield server


@pytest.mark.peers
def test_nothing_stays_in_a_bucket_either(weed: Weed, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "config.toml").write_text(
        PLACES.format(tmp_path)
        + f'[destinations.far]\ntype = "s3"\nendpoint = "{weed.endpoint}"\nbucket = "store"\n'
        + 'path = "in/{study}/{filename}"\n'
    )
    keys = {
        "DROPOFF_FAR_ACCESS_KEY": weed.access_key,
        "DROPOFF_FAR_SECRET_KEY": weed.secret_key,
    }
    result = bench(tmp_path, *QUICK, "--json", **keys)
    assert (result.returncode, result.stderr) == (0, "")
    delivered = json.loads(result.stdout)["measurements"][-1]
    assert (delivered["name"], delivered["subject"]) == ("destination", "far")
    assert delivered["bytes_per_second"] > 0
    client = weed.client()
    assert client.list_objects_v2(Bucket="store").get("Contents", []) == []
    assert client.list_multipart_uploads(Bucket="store").get("Uploads", []) == []


@pytest.mark.peers
def test_a_bucket_that_takes_nothing_is_told(weed: Weed, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "config.toml").write_text(
        PLACES.format(tmp_path)
        + f'[destinations.far]\ntype = "s3"\nendpoint = "{weed.endpoint}"\nbucket = "store"\n'
    )
    keys = {"DROPOFF_FAR_ACCESS_KEY": "nobody", "DROPOFF_FAR_SECRET_KEY": "nothing"}
    result = bench(tmp_path, *QUICK, **keys)
    assert result.returncode == 1
    assert "destination_refused" in result.stdout
    assert "nothing" not in result.stdout + result.stderr

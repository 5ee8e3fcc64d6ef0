"""What is remembered of destinations."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from daemon.stores import FILE, VALID_FOR, StoreMemory
from pipeline.messages import DestinationSpec, Traits

SPEC = DestinationSpec(
    name="far", type="s3", endpoint="https://s3.example", bucket="store", secret_key="hidden-key"
)
COUNTS = Traits(counts=True, conditional=True)
DIES = """
import asyncio, os, pathlib, signal, sys
from daemon.stores import StoreMemory
from pipeline.messages import DestinationSpec, Traits

pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
memory = StoreMemory(pathlib.Path(sys.argv[1]), lambda: 0.0)
asyncio.run(memory.learn(DestinationSpec(name="far", type="s3"), Traits(counts=True)))
"""


async def loaded(state: Path, now: float = 0.0) -> StoreMemory:
    memory = StoreMemory(state, lambda: now)
    await memory.load()
    return memory


async def test_what_was_learned_outlives_the_process(tmp_path: Path) -> None:
    await (await loaded(tmp_path)).learn(SPEC, COUNTS)
    assert (await loaded(tmp_path)).known(SPEC) == COUNTS
    assert "hidden-key" not in (tmp_path / FILE).read_text()


@pytest.mark.parametrize(
    "change",
    [{"bucket": "other"}, {"endpoint": "https://new.example"}, {"lock_mode": "COMPLIANCE"}],
)
async def test_a_changed_destination_is_a_new_one(tmp_path: Path, change: dict[str, str]) -> None:
    memory = await loaded(tmp_path)
    await memory.learn(SPEC, COUNTS)
    assert memory.known(msgspec.structs.replace(SPEC, **change)) is None


async def test_new_credentials_change_nothing(tmp_path: Path) -> None:
    memory = await loaded(tmp_path)
    await memory.learn(SPEC, COUNTS)
    assert memory.known(msgspec.structs.replace(SPEC, secret_key="renewed")) == COUNTS


async def test_a_delivery_that_did_not_try_conditions_leaves_what_a_check_found(
    tmp_path: Path,
) -> None:
    memory = await loaded(tmp_path)
    await memory.learn(SPEC, COUNTS)
    await memory.learn(SPEC, Traits(counts=False))
    assert memory.known(SPEC) == Traits(counts=False, conditional=True)


async def test_what_another_process_learned_stays(tmp_path: Path) -> None:
    daemon, check = await loaded(tmp_path), await loaded(tmp_path)
    other = msgspec.structs.replace(SPEC, bucket="other")
    await check.learn(other, COUNTS)
    await daemon.learn(SPEC, Traits(counts=False))
    assert (await loaded(tmp_path)).known(other) == COUNTS


async def test_what_was_learned_long_ago_is_found_out_again(tmp_path: Path) -> None:
    await (await loaded(tmp_path)).learn(SPEC, COUNTS)
    assert (await loaded(tmp_path, VALID_FOR + 1)).known(SPEC) is None


async def test_what_turned_out_wrong_is_forgotten(tmp_path: Path) -> None:
    memory = await loaded(tmp_path)
    await memory.learn(SPEC, COUNTS)
    await memory.forget(SPEC)
    assert memory.known(SPEC) is None
    assert (await loaded(tmp_path)).known(SPEC) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": {"traits": 1}}'])
async def test_a_damaged_file_counts_as_empty(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    memory = await loaded(tmp_path)
    assert memory.known(SPEC) is None
    await memory.learn(SPEC, COUNTS)
    assert (await loaded(tmp_path)).known(SPEC) == COUNTS


async def test_a_directory_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    memory = await loaded(tmp_path / "missing")
    await memory.learn(SPEC, COUNTS)
    assert memory.known(SPEC) == COUNTS


def test_what_a_death_amid_writing_left_behind_does_not_stay(tmp_path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir())
    asyncio.run(StoreMemory(tmp_path, lambda: 0.0).learn(SPEC, COUNTS))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_what_a_death_amid_writing_left_behind_goes_at_the_next_start_though_nothing_is_learned(
    tmp_path: Path,
) -> None:
    died = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir())
    asyncio.run(StoreMemory(tmp_path, lambda: 0.0).load())
    assert list(tmp_path.iterdir()) == []

"""The hook spool: what is in it has its effect and goes; what nobody understands is put aside."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from daemon.errors import StateFullError
from daemon.intake import spool as spool_module
from daemon.intake.info import Info
from daemon.intake.spool import POLL_SECONDS, STUCK_SECONDS, Spool, prepare
from tests.peers.intake import Recorded, until


class Lookout:
    """Remembers the hints."""

    def __init__(self) -> None:
        self.checked: list[str] = []
        self.gone: list[str] = []
        self.full = False

    async def check(self, tus_ids: Iterable[str]) -> None:
        if self.full:
            raise StateFullError("no space left")
        self.checked += tus_ids

    async def terminated(self, tus_id: str, upload: Info | None = None) -> None:
        del upload
        if self.full:
            raise StateFullError("no space left")
        self.gone.append(tus_id)


@pytest.fixture
def lookout() -> Lookout:
    return Lookout()


@pytest.fixture
def metrics() -> Recorded:
    return Recorded()


@pytest.fixture
def spool(tmp_path: Path, lookout: Lookout, metrics: Recorded) -> Spool:
    prepare(tmp_path)
    return Spool(tmp_path, lookout, metrics)


def upload(tus_id: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 -- JSON
    return {"ID": tus_id, "Size": 1, "MetaData": {}, "IsPartial": False} | fields


def put(directory: Path, name: str, message: object) -> Path:
    path = directory / "new" / name
    path.write_text(json.dumps(message))
    return path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_a_hint_has_its_effect_and_goes(
    tmp_path: Path, spool: Spool, lookout: Lookout, metrics: Recorded
) -> None:
    put(tmp_path, "x.json", {"Type": "post-finish", "Event": {"Upload": upload("two")}})
    put(tmp_path, "post-finish.1.json", {"Upload": upload("one")})
    rustus = {"id": "three", "offset": 1, "length": 1, "metadata": {}}
    put(tmp_path, "post-receive.2.json", {"upload": rustus, "request": {}})
    assert await spool.take() == 3
    assert sorted(lookout.checked) == ["one", "three", "two"]
    assert names(tmp_path / "new") == []
    assert sorted(str(line["hook"]) for line in metrics.of("hook")) == [
        "post-finish",
        "post-finish",
        "post-receive",
    ]


async def test_a_farewell_is_told_as_such(tmp_path: Path, spool: Spool, lookout: Lookout) -> None:
    put(tmp_path, "post-finish.1.json", {"Upload": upload("one")})
    put(tmp_path, "post-terminate.1.json", {"Upload": upload("one")})
    await spool.take()
    assert (lookout.checked, lookout.gone) == ([], ["one"])


async def test_what_hooks_say_of_partials_is_no_hint(
    tmp_path: Path, spool: Spool, lookout: Lookout
) -> None:
    put(tmp_path, "post-finish.1.json", {"Upload": upload("part", IsPartial=True)})
    await spool.take()
    assert lookout.checked == []
    assert names(tmp_path / "new") == []


async def test_a_file_stays_until_its_effect_is_committed(
    tmp_path: Path, spool: Spool, lookout: Lookout
) -> None:
    put(tmp_path, "post-finish.1.json", {"Upload": upload("one")})
    lookout.full = True
    with pytest.raises(StateFullError):
        await spool.take()
    assert names(tmp_path / "new") == ["post-finish.1.json"]
    lookout.full = False
    await spool.take()
    assert names(tmp_path / "new") == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("post-finish.1.json", b""),
        ("post-finish.1.json", b'{"Upload":{"ID":"on'),
        ("post-finish.1.json", b"\x00\xff"),
        ("post-finish.1.json", b"[]"),
        ("post-finish.1.json", b'{"Upload":{"ID":"../../etc/passwd","Size":1}}'),
        ("post-finish.1.json", b'{"Upload":{"ID":"a","Size":1,"MetaData":{"a":1}}}'),
        ("post-finish.1.json", b"[" * 100_000),
        ("post-finish.1.json", b" " * (1024 * 1024 + 1)),
        ("no-such-hook.1.json", b'{"Upload":{"ID":"a","Size":1}}'),
        (".hidden", b'{"Upload":{"ID":"a","Size":1}}'),
    ],
)
async def test_what_nobody_understands_is_put_aside_with_the_reason(
    tmp_path: Path, spool: Spool, lookout: Lookout, metrics: Recorded, name: str, data: bytes
) -> None:
    (tmp_path / "new" / name).write_bytes(data)
    put(tmp_path, "post-finish.sound.json", {"Upload": upload("sound")})
    await spool.take()
    assert lookout.checked == ["sound"]
    assert names(tmp_path / "new") == []
    assert names(tmp_path / "failed") == sorted([name, f"{name}.reason"])
    assert (tmp_path / "failed" / name).read_bytes() == data
    assert (tmp_path / "failed" / f"{name}.reason").read_text().startswith("spool_invalid: ")
    assert [line["error_code"] for line in metrics.of("hook") if line["outcome"] == "failed"] == [
        "spool_invalid"
    ]


async def test_what_is_no_plain_file_is_put_aside_and_never_opened(
    tmp_path: Path, spool: Spool, lookout: Lookout
) -> None:
    sound = tmp_path / "elsewhere.json"
    sound.write_text(json.dumps({"Upload": upload("one")}))
    new = tmp_path / "new"
    (new / "post-finish.link.json").symlink_to(sound)
    (new / "post-finish.hard.json").hardlink_to(sound)
    os.mkfifo(new / "post-finish.fifo.json")
    (new / "post-finish.dir.json").mkdir()
    assert await spool.take() == 4
    assert lookout.checked == []
    assert names(new) == []
    assert len([name for name in names(tmp_path / "failed") if name.endswith(".reason")]) == 4


async def test_a_reason_is_not_written_through_a_link(tmp_path: Path, spool: Spool) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "failed" / "x.json.reason").symlink_to(precious)
    (tmp_path / "new" / "x.json").write_text("nonsense")
    await spool.take()
    assert precious.read_text() == "precious"


async def test_two_bad_files_of_one_name_are_both_kept(tmp_path: Path, spool: Spool) -> None:
    for text in ("first", "second"):
        (tmp_path / "new" / "x.json").write_text(text)
        await spool.take()
    kept = [path for path in (tmp_path / "failed").iterdir() if path.suffix != ".reason"]
    assert sorted(path.read_text() for path in kept) == ["first", "second"]


async def test_any_order_and_any_number_of_times(
    tmp_path: Path, spool: Spool, lookout: Lookout
) -> None:
    hooks = ["post-create", "post-receive", "pre-finish", "post-finish"] * 3
    random.Random(2).shuffle(hooks)
    for number, hook in enumerate(hooks):
        put(tmp_path, f"{hook}.{number}.json", {"Upload": upload("one")})
    while await spool.take():
        pass
    assert set(lookout.checked) == {"one"}
    assert names(tmp_path / "failed") == []


async def test_it_is_worked_on_as_files_come(
    tmp_path: Path, spool: Spool, lookout: Lookout
) -> None:
    task = asyncio.create_task(spool.run())
    try:
        for number in range(3):
            await asyncio.sleep(0.3)
            put(tmp_path, f"post-finish.{number}.json", {"Upload": upload(f"u{number}")})
        await until(lambda: len(lookout.checked) == 3, "all are taken", 4.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_file_that_was_stuck_is_put_aside_within_a_minute_once_there_is_room(
    tmp_path: Path, spool: Spool, metrics: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert STUCK_SECONDS + POLL_SECONDS <= 60.0
    monkeypatch.setattr(spool_module, "STUCK_SECONDS", 0.3)
    monkeypatch.setattr(spool_module, "POLL_SECONDS", 0.1)
    (tmp_path / "new" / "post-finish.1.json").write_bytes(b"torn")
    monkeypatch.setattr(spool_module, "prepare", lambda _: None)
    (tmp_path / "failed").rmdir()
    task = asyncio.create_task(spool.run())
    try:
        await until(lambda: bool(spool._stuck), "it is stuck")
        await asyncio.sleep(0.5)
        assert names(tmp_path / "new") == ["post-finish.1.json"]
        assert (spool.failed, metrics.of("hook")) == (0, []), "nothing is told before it is so"
        prepare(tmp_path)
        await until(lambda: names(tmp_path / "new") == [], "it is put aside", 3.0)
        await until(lambda: spool.failed == 1, "it is told of")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(metrics.of("hook")) == 1


async def test_a_stuck_file_does_not_hold_up_the_others_or_keep_the_loop_busy(
    tmp_path: Path, spool: Spool, lookout: Lookout
) -> None:
    (tmp_path / "new" / "post-finish.1.json").write_bytes(b"torn")
    (tmp_path / "failed").rmdir()
    put(tmp_path, "post-finish.2.json", {"Upload": upload("sound")})
    assert await spool.take() == 2
    assert await spool.take() == 0
    assert lookout.checked == ["sound"]
    assert names(tmp_path / "new") == ["post-finish.1.json"]


async def test_directories_that_are_there_keep_their_modes(tmp_path: Path) -> None:
    (tmp_path / "failed").mkdir(mode=0o700)
    prepare(tmp_path)
    assert (tmp_path / "failed").stat().st_mode & 0o7777 == 0o700
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o2770


@given(st.binary(max_size=60))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_no_bytes_stop_the_loop(tmp_path: Path, data: bytes) -> None:
    prepare(tmp_path)
    (tmp_path / "new" / "post-finish.x.json").write_bytes(data)
    asyncio.run(Spool(tmp_path, Lookout(), Recorded()).take())
    assert names(tmp_path / "new") == []

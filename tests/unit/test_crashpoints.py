"""Named steps, and dying at them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from pipeline.crashpoints import AT, MARK, TRACE, CrashPoints

DIES = """
import asyncio, sys
from pipeline.crashpoints import CrashPoints
import os

class Part:
    async def take(self): print("taken", flush=True)

part = CrashPoints(os.environ).watched(Part(), "part")
async def main():
    for _ in range(3): await part.take()
asyncio.run(main())
"""


class Part:
    """Has a bit of everything."""

    size = 3

    async def take(self, what: str) -> str:
        return what.upper()

    def count(self) -> int:
        return self.size


async def test_without_being_asked_for_a_part_is_itself() -> None:
    part = Part()
    assert CrashPoints({}).watched(part, "part") is part


async def test_a_watched_part_does_what_it_did(tmp_path: Path) -> None:
    part = CrashPoints({TRACE: str(tmp_path / "trace")}).watched(Part(), "part")
    assert await part.take("this") == "THIS"
    assert part.count() == part.size == 3
    assert (tmp_path / "trace").read_text() == "before part.take\nafter part.take\n"


def _run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DIES], capture_output=True, text=True, check=False, env=environment
    )


def test_it_dies_at_the_step_that_was_asked_for() -> None:
    before, after = (_run({AT: f"{when} part.take#2"}) for when in ("before", "after"))
    assert before.returncode == after.returncode == -signal.SIGKILL
    assert (before.stdout.count("taken"), after.stdout.count("taken")) == (1, 2)


def test_for_one_mark_it_dies_once(tmp_path: Path) -> None:
    environment = {AT: "before part.take#1", MARK: str(tmp_path / "mark")}
    assert _run(environment).returncode == -signal.SIGKILL
    again = _run(environment)
    assert (again.returncode, again.stdout.count("taken")) == (0, 3)

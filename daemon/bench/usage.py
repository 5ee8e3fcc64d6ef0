"""Processor time: of some processes, and of the whole machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

_TICK: Final[int] = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")
_IDLE: Final = slice(3, 5)
"""Of the machine's times: idle, and waiting for a disk."""
_ALL: Final = slice(0, 8)
_USED: Final = slice(11, 13)
"""Of a process's: user and system, counted from its state on."""


class Moment(NamedTuple):
    """What was used up to now."""

    seconds: float
    """Of a clock that never goes back."""
    own: float
    """Processor seconds of this process and the given ones."""
    busy: float
    """Processor seconds of the machine that were in use."""
    total: float
    """Processor seconds of the machine."""

    def busy_since(self, before: Moment) -> float:
        """Share of all processors in use; 0 where too little time has passed to tell."""
        total = self.total - before.total
        return min(1.0, (self.busy - before.busy) / total) if total > 0 else 0.0

    def others_since(self, before: Moment, ours: float) -> float:
        """Share of all processors that others used, while we used ``ours`` seconds."""
        total = self.total - before.total
        return max(0.0, (self.busy - before.busy - ours) / total) if total > 0 else 0.0


def moment(pids: Iterable[int] = ()) -> Moment:
    """Now. Processes that have ended count for nothing."""
    ticks = [int(each) for each in (_PROC / "stat").read_text().split(maxsplit=9)[1:9]][_ALL]
    total = sum(ticks) / _TICK
    own = time.process_time() + sum(map(_used, pids))
    return Moment(time.perf_counter(), own, total - sum(ticks[_IDLE]) / _TICK, total)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def model() -> str:
    """What the processors call themselves."""
    lines = (_PROC / "cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else os.uname().machine


def _used(pid: int) -> float:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = text[text.rindex(")") + 2 :].split()
    return sum(map(int, fields[_USED])) / _TICK

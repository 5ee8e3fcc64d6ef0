"""What processes and all that they started cost: seconds of work, and memory at its peak.

Read from /proc while the processes live, because a daemon's workers don't end when the work does.
Looking at memory costs the kernel a walk over all pages, so it is done in a run of its own, and the
runs that are timed are not looked at.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

_TICK: int = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    seconds: float
    """From the start signal to the end of the work."""
    cpu_seconds: float
    """Of the client, all its processes together, user and system."""
    server_cpu_seconds: float = 0.0
    """Of the servers that it speaks with."""
    peak_bytes: int = 0
    """Most memory that the client's processes held at one time: the sum of their PSS; 0 where the
    run was timed, and not watched."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str

    @classmethod
    def this(cls) -> Self:
        """The one that runs this."""
        lines = (_PROC / "cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return cls(
            cpu=models[0] if models else os.uname().machine,
            cores=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            kernel=os.uname().release,
        )


def family(*roots: int) -> list[int]:
    """The processes and all their living descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found = list(roots)
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """What the processes have used so far, with the children that they outlived."""
    ticks = sum(sum(map(int, stat[11:15])) for pid in pids if (stat := _stat(pid)))
    return ticks / _TICK


def memory_bytes(pid: int) -> dict[str, int]:
    """The process's ``Rss`` and ``Pss`` in bytes; zeros where it has ended."""
    found = {"Rss": 0, "Pss": 0}
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return found
    for line in lines:
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return found


def median(samples: Sequence[Sample]) -> Sample:
    """The median of each value by itself; the peak is the highest."""

    def middle(name: str) -> float:
        return float(statistics.median(getattr(sample, name) for sample in samples))

    return Sample(
        seconds=middle("seconds"),
        cpu_seconds=middle("cpu_seconds"),
        server_cpu_seconds=middle("server_cpu_seconds"),
        peak_bytes=max(sample.peak_bytes for sample in samples),
    )


class Watch:
    """Samples the memory of families of processes from a thread, as a context manager.

    Args:
        roots: Gives the processes to look at, with their descendants, each time it is asked.
        on: False: looks at nothing, and costs nothing.
        interval: Seconds between two looks.
    """

    def __init__(
        self, roots: Callable[[], Iterable[int]], *, on: bool = True, interval: float = 0.05
    ) -> None:
        self.peak_bytes = 0
        """Of the sum of all their PSS."""
        self.peak_rss_bytes = 0
        """Of the sum of all their RSS."""
        self._roots = roots
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True) if on else None

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread:
            self._stop.set()
            self._thread.join()

    def _sample(self) -> None:
        while True:
            held = [memory_bytes(pid) for pid in family(*self._roots())]
            self.peak_bytes = max(self.peak_bytes, sum(each["Pss"] for each in held))
            self.peak_rss_bytes = max(self.peak_rss_bytes, sum(each["Rss"] for each in held))
            if self._stop.wait(self._interval):
                return


Command = Sequence[str | Path]


def one_shots(
    commands: Sequence[Command], env: Mapping[str, str], *, at_once: int, watched: bool
) -> Sample:
    """Commands, each from its start to its end, ``at_once`` of them at a time.

    Raises RuntimeError where one fails.
    """
    living: set[int] = set()

    def run(command: Command) -> float:
        words = [str(word) for word in command]
        process = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL)
        living.add(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        living.discard(process.pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{Path(words[0]).name} ended with {process.returncode}")
        return usage.ru_utime + usage.ru_stime

    with Watch(lambda: tuple(living), on=watched) as watch, ThreadPoolExecutor(at_once) as pool:
        begun = time.monotonic()
        spent = sum(pool.map(run, commands))
        seconds = time.monotonic() - begun
    return Sample(seconds=seconds, cpu_seconds=spent, peak_bytes=watch.peak_bytes)


class Steady:
    """A program of ours that is started and warm before it is measured, as a daemon would be.

    It prints a line when it is ready, does the work that a line on its standard input names,
    prints a line when that is done, and ends with its standard input.
    """

    def __init__(self, command: Command, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [str(word) for word in command],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._await()

    def measure(self, name: str, *, watched: bool) -> Sample:
        """Have it do the work under that name. Raises RuntimeError where it fails."""
        assert self._process.stdin is not None
        root = self._process.pid
        with Watch(lambda: (root,), on=watched) as watch:
            before = cpu_seconds(family(root))
            begun = time.monotonic()
            self._process.stdin.write(name + "\n")
            self._process.stdin.flush()
            self._await()
            seconds = time.monotonic() - begun
            after = cpu_seconds(family(root))
        return Sample(seconds=seconds, cpu_seconds=after - before, peak_bytes=watch.peak_bytes)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _await(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"the measured program ended with {self._process.wait()}")


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on: 1 is the parent, 11 to 14 are the times."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()

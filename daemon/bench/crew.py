"""Processes that seal and digest at once, as the workers do; see :mod:`daemon.bench.member`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Final, Self

import daemon
from daemon.bench.figures import Sample
from pipeline.errors import WorkerLostError

_END_TIMEOUT: Final = 5.0


class Crew:
    """Some processes, used as a context manager. Everything blocks."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._stack = contextlib.ExitStack()
        self._members: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        """Start them, and wait until they are ready. Raises WorkerLostError where one ends."""
        with contextlib.ExitStack() as stack:
            for _ in range(self._count):
                member = _start()
                stack.callback(_end, member)
                self._members.append(member)
            for member in self._members:
                _answer(member)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        """End them."""
        self._stack.close()

    def measure(self, work: str, seconds: float, members: int) -> Sample:
        """Have some of them do the same at once. Raises WorkerLostError where one ends."""
        at_work = self._members[:members]
        for member in at_work:
            _tell(member, f"{work} {seconds}")
        answers = [_answer(member).split() for member in at_work]
        return Sample(
            size=sum(int(size) for size, _, _ in answers),
            seconds=max(float(passed) for _, passed, _ in answers),
            cpu_seconds=sum(float(cpu) for _, _, cpu in answers),
        )


def _start() -> subprocess.Popen[str]:
    here = str(Path(daemon.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "daemon.bench.member"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))},
        process_group=0,  # Ctrl-C is for the command, which ends them
    )


def _tell(member: subprocess.Popen[str], line: str) -> None:
    stream = _pipe(member.stdin)
    try:
        stream.write(line + "\n")
        stream.flush()
    except BrokenPipeError:
        raise WorkerLostError("a process that measures has ended") from None


def _answer(member: subprocess.Popen[str]) -> str:
    line = _pipe(member.stdout).readline()
    if not line:
        raise WorkerLostError("a process that measures has ended")
    return line


def _end(member: subprocess.Popen[str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        _pipe(member.stdin).close()
    try:
        member.wait(_END_TIMEOUT)
    except subprocess.TimeoutExpired:
        member.kill()
        member.wait()
    finally:
        _pipe(member.stdout).close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # noqa: S101  # both were asked for
    return stream

"""Dying at a named step, on purpose: how it is proved that no death loses anything.

Every call that crosses one of the watched borders is two steps, ``before <part>.<method>`` and
``after <part>.<method>``; a part that does several things to the disk in one of them names each.
Three environment variables, for tests and for nothing else:

* ``DROPOFFD_CRASH_AT``: ``<step>#<n>``; the process kills itself when it gets there the n-th time;
* ``DROPOFFD_CRASH_MARK``: a file that is made first; where it exists already, nobody dies;
* ``DROPOFFD_CRASH_TRACE``: a file to which each step that is reached is appended, one a line.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

Part = TypeVar("Part")
Reached = Callable[[str], None]
"""Is told of a step."""

AT: Final = "DROPOFFD_CRASH_AT"
MARK: Final = "DROPOFFD_CRASH_MARK"
TRACE: Final = "DROPOFFD_CRASH_TRACE"


def nowhere(step: str) -> None:
    """A step that nobody dies at."""


class CrashPoints:
    """Counts steps, and dies at the one that was asked for.

    Args:
        environment: Where the three variables are looked for.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._step, _, times = environment.get(AT, "").rpartition("#")
        self._times = int(times or 0)
        self._mark = environment.get(MARK, "")
        self._trace = environment.get(TRACE, "")
        self._reached: Counter[str] = Counter()

    def watched(self, part: Part, name: str) -> Part:
        """``part``, with steps around each of its coroutine methods; itself where none counts."""
        if not (self._step or self._trace):
            return part
        return cast("Part", _Watched(part, name, self))

    def reached(self, step: str) -> None:
        """Count a step, and die if it is the one."""
        if self._trace:
            _append(self._trace, step)
        self._reached[step] += 1
        if step == self._step and self._reached[step] == self._times and self._first():
            os.kill(os.getpid(), signal.SIGKILL)

    def _first(self) -> bool:
        """Whether nobody died for this mark yet."""
        if not self._mark:
            return True
        try:
            os.close(os.open(self._mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True


class _Watched:
    """Stands before a part; whatever isn't a coroutine method passes through."""

    def __init__(self, part: object, name: str, points: CrashPoints) -> None:
        self._part = part
        self._name = name
        self._points = points

    def __getattr__(self, attribute: str) -> Any:  # noqa: ANN401  # whatever the part has
        found = getattr(self._part, attribute)
        if not inspect.iscoroutinefunction(found):
            return found
        points, step = self._points, f"{self._name}.{attribute}"

        @functools.wraps(found)
        async def stepped(*arguments: object, **named: object) -> object:
            points.reached(f"before {step}")
            result = await found(*arguments, **named)
            points.reached(f"after {step}")
            return result

        return stepped


def _append(path: str, line: str) -> None:
    file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)

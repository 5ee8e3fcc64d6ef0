"""What can't be taken in, and why: shown to people until it can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import structlog

from daemon.errors import InfoError
from daemon.journal.model import Error
from daemon.ports import Metrics
from pipeline.errors import SourceUnavailableError

log = structlog.get_logger()

SETTLE_SECONDS = 5.0
"""An ``.info`` that stays unreadable and unchanged for so long is really broken."""

_SHOWN = 100
"""Problems that the status lists; the count tells of the others."""


@dataclass(slots=True)
class _Torn:
    """An ``.info`` that can't be read."""

    stamp: int
    since: float
    reported: bool = False


class Problems:
    """What stands in the way of intake.

    Args:
        metrics: Gets an ``upload`` line for each broken ``.info``.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.found: dict[str, Error] = {}
        """By path below the info directory; empty path: all of it."""
        self._metrics = metrics
        self._torn: dict[str, _Torn] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self.found)

    def unreadable(self, stem: str, stamp: int, error: InfoError, now: float) -> float | None:
        """An ``.info`` can't be read: torn, or broken once it has stayed so for a while.

        Gives when it is to be read again; None where there is no use before it changes.
        """
        torn = self._torn.get(stem)
        if torn is None or torn.stamp != stamp:
            torn = self._torn[stem] = _Torn(stamp, now)
        if now - torn.since < SETTLE_SECONDS:
            return min(now + SETTLE_SECONDS / 10, torn.since + SETTLE_SECONDS)
        if not torn.reported:
            torn.reported = True
            self._metrics.record("upload", "failed", tus_id=shown(stem), error_code=error.code)
            self.add(stem, Error(code=error.code, message=error.message, retryable=False))
        return None

    def readable(self, stem: str) -> None:
        """An ``.info`` can be read, or there is none any more."""
        self._torn.pop(stem, None)
        problem = self.found.get(shown(stem))
        if problem is not None and problem.code in {InfoError.code, SourceUnavailableError.code}:
            del self.found[shown(stem)]

    def trouble(self, path: str, error: OSError) -> None:
        """The file system says no."""
        message = error.strerror or str(error)
        self.add(path, Error(code=SourceUnavailableError.code, message=message, retryable=True))

    def add(self, path: str, error: Error) -> None:
        """Keep one, and log it where it is news."""
        if self.found.get(shown(path)) != error:
            self.found[shown(path)] = error
            log.warning("problem at intake", path=shown(path), code=error.code, error=error.message)

    def solved(self, stem: str) -> None:
        """An upload was taken in after all."""
        self.found.pop(shown(stem), None)

    def walked(self, failures: Mapping[str, OSError]) -> None:
        """A scan came to its end, and those directories could not be read; all others can."""
        for path in [path for path in self.found if path == "" or path.endswith("/")]:
            if path not in failures:
                del self.found[path]
        for path, failure in failures.items():
            self.trouble(path, failure)

    def status(self) -> dict[str, Any]:
        """Their number and the first of them, for people who ask."""
        return {
            "problems": len(self.found),
            "problem_list": {
                path: {"code": error.code, "message": error.message}
                for path, error in islice(self.found.items(), _SHOWN)
            },
        }


def shown(path: str) -> str:
    """A path as text that can be logged and sent, whatever bytes it is made of."""
    return path.encode("utf-8", "backslashreplace").decode()

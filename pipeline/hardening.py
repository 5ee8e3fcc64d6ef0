"""What a process that holds secrets does first, so that nobody gets at its memory."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Final

from pipeline import libc

_PR_SET_DUMPABLE: Final = 4
_OTHERS_WRITE: Final = 0o022


def keep_to_ourselves() -> None:
    """Neither dump core nor let other processes of the same user look inside.

    Whoever runs as the same user could else attach, or read ``/proc/PID/environ`` and ``mem``; root
    still can. Starting another program undoes it, so each process calls this for itself.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc.call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def let_nobody_else_write() -> None:
    """Have all that is made from now on writable for its owner alone, unless a mode is set."""
    os.umask(os.umask(_OTHERS_WRITE) | _OTHERS_WRITE)

"""Threads that take turns with the CPU, and give theirs away while they wait.

Python lets one thread at a time run its code, but sealing lets that right go and takes it again
every 64 KiB. Two threads that seal side by side hand it to each other each time, which costs a
tenth of what they do. More of them than one in a process gain nothing: there is a process for each
core.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Self

Waiting = Callable[[], AbstractContextManager[None]]
"""What it gives is entered for as long as one waits."""


class Turn:
    """Held by the one thread that works. Enter it to wait for the turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """It is this thread's from here on."""
        self._lock.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        """It is another's."""
        self._lock.release()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let others work until the end of the block. Only for who holds the turn."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()

"""What Python has no call of its own for."""

from __future__ import annotations

import contextlib
import ctypes


def call(name: str, *arguments: int) -> None:
    """Call a function of the C library, where it has that one."""
    with contextlib.suppress(OSError, AttributeError):
        getattr(ctypes.CDLL(None), name)(*arguments)

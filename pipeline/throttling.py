"""What a job met on its way that its result alone doesn't tell: a store that asked to be sent less.

Short wishes of that kind are waited out where they happen. Whoever decides how much is sent at
once wants to know of them all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Notes:
    """Of one job."""

    def __init__(self) -> None:
        self.throttled = False
        """Whether the destination asked for less at least once."""


_notes: ContextVar[Notes | None] = ContextVar("throttling_notes", default=None)


@contextmanager
def noting() -> Iterator[Notes]:
    """Note what is met in here, and in the tasks that are begun in here."""
    notes = Notes()
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def note() -> None:
    """The destination asked to be sent less."""
    notes = _notes.get()
    if notes is not None:
        notes.throttled = True

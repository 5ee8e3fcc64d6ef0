"""A destination that is away: it is asked now and then whether it is back, not by each upload.

It counts as away once several uploads in a row could not reach it. From then on uploads wait
without a try of their own, and one at a time asks, after longer and longer pauses. When one gets
through, those that wait follow in ever larger crowds: the more get through, the more are let go.
"""

from __future__ import annotations

from typing import Final

from daemon.scheduling.pauses import widening

IN_A_ROW: Final = 3
"""Uploads; one alone may stumble over something of its own."""
LET_GO: Final = 8
"""Uploads that follow each one that got through."""
SOON: Final = 1.0
"""Seconds after which as many follow where none of those that were let go came to anything."""


class Away:
    """Of one destination. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self.since: float | None = None
        """Since when it is away; None where it isn't, as far as is known."""
        self.asks_at = 0.0
        """When the next upload is let go."""
        self._failed: set[str] = set()
        self._asked = 0
        self._may_ask = False
        self._held: dict[str, None] = {}

    def __len__(self) -> int:
        """How many uploads wait for it."""
        return len(self._held)

    def failed(self, now: float, upload: str) -> None:
        """An upload could not reach it."""
        self._failed.add(upload)
        if self.since is None and len(self._failed) >= IN_A_ROW:
            self.since = now
            self._asked = 0
            self._may_ask = False
            self.asks_at = now + widening(self._asked)

    def succeeded(self) -> None:
        """Something got through."""
        self._failed.clear()
        self.since = None

    def admits(self, upload: str) -> bool:
        """Whether an upload may be tried; one that may not is held until it is let go."""
        self._held.pop(upload, None)
        if self.since is None:
            return True
        if self._may_ask:
            self._may_ask = False
            return True
        self.hold(upload)
        return False

    def hold(self, upload: str) -> None:
        """Let an upload wait."""
        self._held[upload] = None

    def let_go(self, now: float) -> list[str]:
        """Who goes now: one to ask, or a crowd where it isn't away any more."""
        if self.since is None:
            self.asks_at = now + SOON
            return self._first(LET_GO)
        self._asked += 1
        self._may_ask = True
        self.asks_at = now + widening(self._asked)
        return self._first(1)

    def _first(self, count: int) -> list[str]:
        first = [upload for upload, _ in zip(self._held, range(count), strict=False)]
        for upload in first:
            del self._held[upload]
        return first

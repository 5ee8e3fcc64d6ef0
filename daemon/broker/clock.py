"""The REST API's clock as far as it matters: HAWK allows no more than a minute between clocks.

Nothing here touches the system's clock. What is learned is an offset, used for this server only.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Protocol

from daemon.broker.hawk import Signer, is_silent
from daemon.ports import Clock

MAX_UNPROVEN = 86400.0
"""Seconds. ``Date`` is not signed: who forges it gets requests signed for another time, which is
bounded here."""
_WORTH_A_TRY = 30.0
"""Seconds. A clock nearer than that was not the reason for the refusal."""
_LONGEST_RETRY_AFTER = 3600.0


class Refusal(Protocol):
    """What is known of an answer of 401."""

    @property
    def challenges(self) -> tuple[str, ...]:
        """Each ``WWW-Authenticate``."""

    @property
    def date(self) -> str | None:
        """``Date``."""

    @property
    def offset(self) -> float:
        """That the request was signed with."""


class ServerClock:
    """How far the server's clock is from ours, and how that is found out."""

    def __init__(self, now: Clock, signer: Signer) -> None:
        self._now = now
        self._signer = signer
        self._proven = False
        self._seen: float | None = None
        self.offset = 0.0
        """Seconds to add to our time when signing."""

    @property
    def skew(self) -> float | None:
        """Seconds the server is ahead, by its last ``Date``; None before the first."""
        return self._seen

    def observe(self, date: str | None) -> None:
        """Note an answer's ``Date``."""
        moment = _moment(date)
        if moment is not None:
            self._seen = moment - self._now()

    def learn(self, refusal: Refusal) -> bool:
        """Whether the refused request may do better with the offset that is now in use.

        A time with a valid ``tsm`` is believed. Where the server says nothing but ``Hawk``, its
        ``Date`` is all there is.
        """
        stated = self._signer.stated_time(refusal.challenges)
        if stated is not None:
            self.offset, self._proven = stated - self._now(), True
            return True
        moment = _moment(refusal.date)
        if moment is None or not is_silent(refusal.challenges):
            return False
        offset = moment - self._now()
        if abs(offset) > MAX_UNPROVEN or abs(offset - refusal.offset) < _WORTH_A_TRY:
            return False
        self.offset, self._proven = offset, False
        return True

    def doubt(self, former: float) -> None:
        """The new offset did not help: go back, unless the server proved it."""
        if not self._proven:
            self.offset = former


def retry_after(header: str | None, now: float) -> float | None:
    """``Retry-After`` in seconds, whichever way it is written; at most an hour."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        moment = _moment(text)
        if moment is None:
            return None
        seconds = moment - now
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


@lru_cache(maxsize=16)  # all answers of a second have the same
def _moment(date: str | None) -> float | None:
    if date is None:
        return None
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None

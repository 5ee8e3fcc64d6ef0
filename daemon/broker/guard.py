"""HAWK for the side that is asked: who may come in, and signed answers for them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mohawk import Receiver
from mohawk.exc import HawkFail, TokenExpired
from mohawk.util import calculate_ts_mac

from daemon.broker.hawk import ALGORITHM, MOHAWK_ERRORS, content, hush_mohawk
from daemon.ports import Clock

WINDOW = 60
"""Seconds that two clocks may be apart."""


class UnauthorizedError(Exception):
    """The request isn't let in; ``challenge`` is what to answer in ``WWW-Authenticate``."""

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class Nonces:
    """The nonces of the last minutes. Asking and remembering is one step on the event loop.

    Only requests with a valid MAC get here, so strangers can't fill it.
    """

    def __init__(self, keep: float = 3 * WINDOW) -> None:
        self._keep = keep
        self._seen: dict[tuple[str, str, str], float] = {}

    def seen(self, key: str, nonce: str, stated: str) -> bool:
        """Whether it came before; from now on it did."""
        now = time.monotonic()
        while self._seen and next(iter(self._seen.values())) < now:
            del self._seen[next(iter(self._seen))]
        before = (key, nonce, stated) in self._seen
        self._seen.setdefault((key, nonce, stated), now + self._keep)
        return before


class Admission:
    """A request that was let in: signs its answer."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def sign(self, body: bytes, content_type: str) -> str:
        """The answer's ``Server-Authorization``."""
        return str(self._receiver.respond(content=content(body), content_type=content_type))


class Guard:
    """Lets in who signs with the one pair of credentials."""

    def __init__(self, key: str, secret: str, *, clock: Clock) -> None:
        self._key = key
        self._secret = secret
        self._clock = clock
        self._nonces = Nonces()
        hush_mohawk()

    def admit(
        self, header: str | None, method: str, urls: Sequence[str], body: bytes, content_type: str
    ) -> Admission:
        """Let a request in whose MAC fits one of ``urls``, the ways its own URL may be known.

        Raises UnauthorizedError; its text gives nothing away.
        """
        if header is None:
            raise UnauthorizedError("HAWK authentication is needed.", "Hawk")
        for url in urls:
            try:
                receiver = Receiver(
                    self._credentials,
                    header,
                    url,
                    method,
                    content=content(body),
                    content_type=content_type,
                    seen_nonce=self._nonces.seen,
                    localtime_offset_in_seconds=self._clock() - time.time(),
                    timestamp_skew_in_seconds=WINDOW,
                )
            except TokenExpired:
                raise self._stale() from None
            except MOHAWK_ERRORS:
                continue
            return Admission(receiver)
        raise UnauthorizedError("HAWK authentication failed.", 'Hawk error="Authentication failed"')

    def _credentials(self, key: str) -> dict[str, str]:
        if key != self._key:
            raise HawkFail
        return {"id": self._key, "key": self._secret, "algorithm": ALGORITHM}

    def _stale(self) -> UnauthorizedError:
        """The right time, with the proof that we know the secret."""
        now = int(self._clock())
        proof = calculate_ts_mac(now, self._credentials(self._key)).decode()
        return UnauthorizedError(
            "The request's time is not ours.",
            f'Hawk ts="{now}", tsm="{proof}", error="Stale timestamp"',
        )

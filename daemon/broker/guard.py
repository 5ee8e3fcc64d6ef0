"""HAWK for the side that is asked: who may come in, and signed answers for them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from daemon.broker.mac import (
    HawkError,
    Message,
    attributes_of,
    is_signed,
    mac,
    payload_hash,
    place_of,
    time_mac,
)
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

    def __init__(self, secret: bytes, message: Message) -> None:
        self._secret = secret
        self._message = message

    def sign(self, body: bytes, content_type: str) -> str:
        """The answer's ``Server-Authorization``."""
        payload = payload_hash(body, content_type)
        signed = mac(self._secret, "response", self._message, payload)
        return f'Hawk mac="{signed}", hash="{payload}"'


class Guard:
    """Lets in who signs with the one pair of credentials."""

    def __init__(self, key: str, secret: str, *, clock: Clock) -> None:
        self._key = key
        self._secret = secret.encode()
        self._clock = clock
        self._nonces = Nonces()

    def admit(
        self, header: str | None, method: str, urls: Sequence[str], body: bytes, content_type: str
    ) -> Admission:
        """Let a request in whose MAC fits one of ``urls``, the ways its own URL may be known.

        Raises UnauthorizedError; its text gives nothing away.
        """
        if header is None:
            raise UnauthorizedError("HAWK authentication is needed.", "Hawk")
        try:
            said = attributes_of(header)
            message: Message | None = self._signed(said, method, urls, body, content_type)
            if self._nonces.seen(said["id"], said["nonce"], said["ts"]):
                message = None
            late = abs(int(said["ts"]) - int(self._clock())) > WINDOW
        except (HawkError, KeyError, ValueError):
            message, late = None, False
        if message is None:
            raise UnauthorizedError(
                "HAWK authentication failed.", 'Hawk error="Authentication failed"'
            )
        if late:
            raise self._stale()
        return Admission(self._secret, message)

    def _signed(
        self,
        said: Mapping[str, str],
        method: str,
        urls: Sequence[str],
        body: bytes,
        content_type: str,
    ) -> Message:
        """What was signed by who knows the secret. Raises HawkError where that was another one."""
        if said["id"] != self._key:
            raise HawkError("another id")
        app, dlg = said.get("app", ""), said.get("dlg", "")
        for url in urls:
            try:
                place = place_of(url)
            except ValueError:
                continue  # whoever asks says what its host is
            message = Message(said["ts"], said["nonce"], method.upper(), place, app, dlg)
            if is_signed(self._secret, "header", message, said, body, content_type):
                return message
        raise HawkError("signed for another place, or by another secret")

    def _stale(self) -> UnauthorizedError:
        """The right time, with the proof that we know the secret."""
        now = str(int(self._clock()))
        proof = time_mac(self._secret, now)
        return UnauthorizedError(
            "The request's time is not ours.",
            f'Hawk ts="{now}", tsm="{proof}", error="Stale timestamp"',
        )

"""HAWK for the side that asks: signing a try, verifying its answer, reading the server's clock."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable

from daemon.broker.mac import (
    HawkError,
    Message,
    attributes_of,
    is_signed,
    is_value,
    mac,
    payload_hash,
    place_of,
    time_mac,
)
from daemon.errors import ConfigError


class AnswerNotSignedError(Exception):
    """The answer carries no valid signature of the server's."""


class Signature:
    """One signed try: its header, and what its answer is verified with."""

    def __init__(self, secret: bytes, message: Message, header: str) -> None:
        self._secret = secret
        self._message = message
        self.header = header
        """The value of ``Authorization``."""

    def verify(self, header: str | None, body: bytes, content_type: str) -> None:
        """Check ``Server-Authorization``, payload hash included; AnswerNotSignedError."""
        if header is None:
            raise AnswerNotSignedError("the answer has no Server-Authorization")
        try:
            said = attributes_of(header)
            signed = is_signed(self._secret, "response", self._message, said, body, content_type)
        except (HawkError, UnicodeError):
            signed = False
        if not signed:
            raise AnswerNotSignedError(
                "the answer's Server-Authorization is wrong: another secret, or changed on its way"
            )


class Signer:
    """Signs with one pair of credentials.

    Raises ConfigError where key or secret can't be used in HAWK at all.
    """

    def __init__(self, key: str, secret: str) -> None:
        if not key or not secret:
            raise ConfigError(
                "DROPOFF_API_HAWK_KEY and DROPOFF_API_HAWK_SECRET: expected both, as the REST API "
                "gave them"
            )
        if not is_value(key) or not secret.isascii():
            raise ConfigError(
                "DROPOFF_API_HAWK_KEY, DROPOFF_API_HAWK_SECRET: expected printable ASCII"
            )
        self._key = key
        self._secret = secret.encode()

    def sign(self, method: str, url: str, body: bytes, content_type: str, now: int) -> Signature:
        """Sign one try; each has a nonce of its own, so none is sent twice.

        ``url`` is the one that goes on the wire, ``now`` the server's time in whole seconds.
        """
        try:
            message = Message(str(now), secrets.token_urlsafe(9), method.upper(), place_of(url))
            payload = payload_hash(body, content_type)
            signed = mac(self._secret, "header", message, payload)
        except ValueError:
            raise ConfigError(f"[api] url: {url!r} can't be signed") from None
        header = (
            f'Hawk mac="{signed}", hash="{payload}", id="{self._key}", ts="{message.ts}", '
            f'nonce="{message.nonce}"'
        )
        return Signature(self._secret, message, header)

    def stated_time(self, challenges: Iterable[str]) -> int | None:
        """The server's time, where a challenge states one and proves it knows the secret."""
        for attributes in _hawk(challenges):
            stated, proof = attributes.get("ts", ""), attributes.get("tsm", "")
            if not re.fullmatch(r"[0-9]{1,12}", stated):
                continue
            if hmac.compare_digest(time_mac(self._secret, stated), proof):
                return int(stated)
        return None


def is_silent(challenges: Iterable[str]) -> bool:
    """Whether a challenge asks for HAWK without any word on why, as Django's packages do."""
    return any(not attributes for attributes in _hawk(challenges))


def _hawk(challenges: Iterable[str]) -> Iterable[dict[str, str]]:
    for challenge in challenges:
        scheme, _, rest = challenge.strip().partition(" ")
        if scheme.lower() != "hawk":
            continue
        if not rest.strip():
            yield {}
            continue
        try:
            yield attributes_of(challenge.strip())
        except HawkError:
            continue

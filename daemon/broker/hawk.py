"""HAWK for the side that asks: signing a try, verifying its answer, reading the server's clock.

mohawk does the arithmetic. It promises ``HawkFail`` and raises much else besides (``ValueError``
for a bare ``Hawk`` challenge, ``KeyError``, ``UnicodeError``), so every call is wrapped here, and
what it says is not passed on: its messages quote MACs.
"""

from __future__ import annotations

import hmac
import io
import logging
import re
import secrets
from collections.abc import Iterable

import mohawk.base
import mohawk.util
from mohawk import Sender
from mohawk.exc import HawkFail
from mohawk.util import calculate_ts_mac, parse_authorization_header

from daemon.errors import ConfigError

ALGORITHM = "sha256"
_ANY_AGE = 1e12
"""Seconds. Time and nonce of an answer are those of our own request: its MAC alone says all."""

MOHAWK_ERRORS = (HawkFail, ValueError, KeyError, TypeError, AttributeError)


class AnswerNotSignedError(Exception):
    """The answer carries no valid signature of the server's."""


def content(body: bytes) -> io.BytesIO | str:
    """A body as mohawk takes it quickly: bytes it would format for its debug log."""
    return io.BytesIO(body) if body else ""


class _Unprinted:
    """In place of :mod:`pprint`, by which mohawk lays out for its debug log all that it hashes.

    It does so whether or not that log is on, and it is a third of what a signature costs.
    """

    @staticmethod
    def pformat(_: object) -> str:
        """Nothing: the log is off."""
        return ""


def _is_same(ours: str | bytes, theirs: str | bytes) -> bool:
    """In place of mohawk's own comparison, which goes byte by byte through Python.

    It is made for each MAC and each hash, and is a quarter of what checking an answer costs.
    """
    one, other = (s.encode() if isinstance(s, str) else s for s in (ours, theirs))
    return hmac.compare_digest(one, other)


def hush_mohawk() -> None:
    """Keep mohawk's log quiet: it warns of each answer whose nonce it can't check. And make haste.

    What it is slow at is the standard library's to do.
    """
    logging.getLogger("mohawk").setLevel(logging.ERROR)
    for module in (mohawk.base, mohawk.util):
        module.pprint = _Unprinted
    mohawk.base.strings_match = _is_same


class Signature:
    """One signed try: its header, and what its answer is verified with."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    @property
    def header(self) -> str:
        """The value of ``Authorization``."""
        return str(self._sender.request_header)

    def verify(self, header: str | None, body: bytes, content_type: str) -> None:
        """Check ``Server-Authorization``, payload hash included; AnswerNotSignedError."""
        if header is None:
            raise AnswerNotSignedError("the answer has no Server-Authorization")
        try:
            self._sender.accept_response(
                header,
                content=content(body),
                content_type=content_type,
                timestamp_skew_in_seconds=_ANY_AGE,
            )
        except MOHAWK_ERRORS:
            raise AnswerNotSignedError(
                "the answer's Server-Authorization is wrong: another secret, or changed on its way"
            ) from None


class Signer:
    """Signs with one pair of credentials.

    Raises ConfigError where key or secret can't be used in HAWK at all.
    """

    def __init__(self, key: str, secret: str) -> None:
        self._key = key
        self._secret = secret
        hush_mohawk()
        if not key or not secret:
            raise ConfigError(
                "DROPOFF_API_HAWK_KEY and DROPOFF_API_HAWK_SECRET: expected both, as the REST API "
                "gave them"
            )
        try:
            self.sign("GET", "http://localhost/", b"", "", 1)
        except ConfigError:
            raise ConfigError(
                "DROPOFF_API_HAWK_KEY, DROPOFF_API_HAWK_SECRET: expected printable ASCII"
            ) from None

    def sign(self, method: str, url: str, body: bytes, content_type: str, now: int) -> Signature:
        """Sign one try; each has a nonce of its own, so none is sent twice.

        ``url`` is the one that goes on the wire, ``now`` the server's time in whole seconds.
        """
        try:
            return Signature(
                Sender(
                    self._credentials(),
                    url,
                    method,
                    content=content(body),
                    content_type=content_type,
                    nonce=secrets.token_urlsafe(9),
                    _timestamp=now,
                )
            )
        except MOHAWK_ERRORS:
            raise ConfigError(f"[api] url: {url!r} can't be signed") from None

    def stated_time(self, challenges: Iterable[str]) -> int | None:
        """The server's time, where a challenge states one and proves it knows the secret."""
        for attributes in _hawk(challenges):
            stated, proof = attributes.get("ts", ""), attributes.get("tsm", "")
            if not re.fullmatch(r"[0-9]{1,12}", stated):
                continue
            expected = calculate_ts_mac(stated, self._credentials())
            if hmac.compare_digest(expected, proof.encode("utf-8", "replace")):
                return int(stated)
        return None

    def _credentials(self) -> dict[str, str]:
        # A new one for each call, since mohawk keeps and changes what it is given.
        return {"id": self._key, "key": self._secret, "algorithm": ALGORITHM}


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
            yield dict(parse_authorization_header(challenge.strip()))
        except MOHAWK_ERRORS:
            continue

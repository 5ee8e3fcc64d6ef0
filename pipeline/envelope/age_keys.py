"""age keys of the X25519 kind: recipients (``age1…``) and secret keys (``AGE-SECRET-KEY-1…``)."""

from __future__ import annotations

import os
from typing import Final

from pipeline.envelope import bech32
from pipeline.envelope.armour import MAX_TEXT
from pipeline.envelope.keys import KeyPair
from pipeline.envelope.x25519 import SIZE, check_public, public_of
from pipeline.errors import EnvelopeError, RecipientError

IDENTITY_PREFIX: Final = "age-secret-key-"
PUBLIC_PREFIX: Final = "age"


def age_public(text: str) -> bytes:
    """The raw key of a recipient: its ``age1…`` line, with comments or empty lines around it.

    Raises RecipientError for anything else; its message never repeats the text, which may be a
    secret key given by mistake.
    """
    line = _line(text)
    if line is None:
        raise RecipientError("a recipient is not one line, expected an age recipient (age1…)")
    if line.lower().startswith(IDENTITY_PREFIX):
        raise RecipientError("a recipient is a secret key, expected the public one (age1…)")
    if not line.lower().startswith(f"{PUBLIC_PREFIX}1"):
        raise RecipientError("a recipient's key is of another kind, expected an age one (age1…)")
    try:
        prefix, public_key = bech32.decode(line)
    except ValueError as error:
        raise RecipientError(f"a recipient is no age key: {error}") from None
    if prefix != PUBLIC_PREFIX:
        raise RecipientError("a recipient's key is an age one of a kind other than X25519")
    check_public(public_key)
    return public_key


def age_secrets(text: str) -> tuple[bytes, ...]:
    """The raw secret keys of an identity file: one a line, comments and empty lines between them.

    Raises EnvelopeError where there is none, or a line is of another kind; its message never
    repeats the text.
    """
    if len(text) > MAX_TEXT:
        raise EnvelopeError("too long for an age key file")
    found = tuple(dict.fromkeys(map(_secret, _lines(text))))
    if not found:
        raise EnvelopeError("an age key file must hold a secret key")
    return found


def is_age_secret(text: str) -> bool:
    """Whether the text of a key file looks like an age identity."""
    return any(line.strip().lower().startswith(IDENTITY_PREFIX) for line in text.splitlines())


def age_generate() -> KeyPair:
    """A new key pair, in the files' form that age itself has."""
    secret_key = os.urandom(SIZE)
    public = bech32.encode(PUBLIC_PREFIX, public_of(secret_key))
    secret = bech32.encode(IDENTITY_PREFIX, secret_key).upper()
    return KeyPair(secret=f"# public key: {public}\n{secret}\n", public=f"{public}\n")


def _secret(line: str) -> bytes:
    try:
        prefix, secret_key = bech32.decode(line)
    except ValueError as error:
        raise EnvelopeError(f"no age secret key: {error}") from None
    if prefix != IDENTITY_PREFIX or len(secret_key) != SIZE:
        raise EnvelopeError("no age secret key of the X25519 kind")
    return secret_key


def _line(text: str) -> str | None:
    """The one line that is no comment; None where there is none, or more than one."""
    lines = _lines(text) if len(text) <= MAX_TEXT else []
    return lines[0] if len(lines) == 1 else None


def _lines(text: str) -> list[str]:
    """The lines that are no comments."""
    return [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"]

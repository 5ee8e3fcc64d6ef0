"""What servers and the system say, made fit for a line of log."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Final

LONGEST: Final = 200


def printable(text: str) -> str:
    """One short line of a foreign text."""
    line = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(line.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def reason(error: BaseException | None) -> str:
    """The operating system's word, found in the causes of ``error``; empty where it said none."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return printable(cause.strerror)
    return ""


def insecure(error: BaseException) -> str:
    """Why TLS came to nothing: a certificate may be mended, a broken handshake passes."""
    for cause in _causes(error):
        # aiohttp's own is one by its kind alone; it has the real one as its cause.
        if isinstance(cause, ssl.SSLCertVerificationError) and hasattr(cause, "verify_message"):
            why = printable(cause.verify_message)
            return f"no secure connection: the certificate isn't trusted ({why})"
    return "no secure connection: the handshake broke"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(5):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__

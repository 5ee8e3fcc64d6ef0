"""What servers and the system say, made fit for a line of log."""

from __future__ import annotations

from typing import Final

LONGEST: Final = 200


def printable(text: str) -> str:
    """One short line of a foreign text."""
    line = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(line.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def reason(error: BaseException | None) -> str:
    """The operating system's word, found in the causes of ``error``; empty where it said none."""
    for _ in range(5):
        if error is None:
            break
        if isinstance(error, OSError) and error.strerror:
            return printable(error.strerror)
        error = error.__cause__ or error.__context__
    return ""

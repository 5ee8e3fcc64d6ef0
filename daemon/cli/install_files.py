"""Files that `dropoffd install` writes: filled templates, never over what others wrote."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

MARK = "Written by `dropoffd install"
"""Stands in each file that we may replace."""

PLAIN_PATH = re.compile(r"[\w./+-]+", re.ASCII)
"""Paths that need no quoting wherever they stand."""


def filled(template: Traversable, fields: Mapping[str, str]) -> str:
    """A template's text with each ``@NAME@`` replaced by the field of that name."""
    text = template.read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda match: fields[match[1]], text)


def is_ours(path: Path, text: str) -> bool:
    """Whether ``text`` may be written there: nothing is, or a file of ours, or the same."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        there = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return True
    return there == text or MARK in there


def write(path: Path, text: str, mode: int) -> None:
    """Replace a file as a whole: a tus server may call the hook at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, making = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        Path(making).replace(path)
    except BaseException:
        Path(making).unlink(missing_ok=True)
        raise

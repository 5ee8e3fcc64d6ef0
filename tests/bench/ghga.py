"""GHGA's data steward kit, in a virtual environment of its own beside the other peers."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.peers import cache

VERSION = "2.0.0"
WANTED = (f"ghga-datasteward-kit=={VERSION}", "pynacl==1.6.2")
"""The kit uses PyNaCl and counts on crypt4gh to bring it, which newer ones don't."""


def python() -> Path:
    """The Python that has the kit, installed where it isn't yet: minutes, the first time.

    Raises PeerMissingError where it can't be had.
    """

    def build(place: Path) -> None:
        cache.run([sys.executable, "-m", "venv", place])
        cache.run([place / "bin" / "python", "-m", "pip", "install", "--quiet", *WANTED])

    return cache.built("ghga", [*WANTED, sys.version], build) / "bin" / "python"

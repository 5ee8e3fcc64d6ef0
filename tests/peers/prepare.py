"""Builds every real peer that the tests use: `python -m tests.peers.prepare`.

Each module below has `prepare()`, which builds what is not in the cache yet. Tests call it
themselves too; doing it ahead keeps the minutes that a build takes out of a test's time limit.
A toolchain that is missing is said here, and its tests are skipped with the same words.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time

from tests.peers import cache

PEERS = ("null_s3", "tusd", "hawk")


def main() -> int:
    """Prepare all; 1 where one could not be had."""
    cache.say(f"real peers for the tests, in {cache.directory()}")
    missing = 0
    for name in PEERS:
        if importlib.util.find_spec(f"tests.peers.{name}") is None:
            cache.say(f"{name}: no such peer")
            missing += 1
            continue
        begun = time.monotonic()
        try:
            importlib.import_module(f"tests.peers.{name}").prepare()
        except cache.PeerMissingError as error:
            cache.say(f"{name}: {error}; its tests will be skipped")
            missing += 1
        else:
            cache.say(f"{name}: ready ({time.monotonic() - begun:.0f} s)")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

"""Builds every real peer that the tests use: `python -m tests.peers.prepare`.

Tests build them too where they have to; doing it ahead keeps the minutes that a build takes out
of a test's time limit. A toolchain that is missing is said here, and the tests that need it are
skipped for the same reason.
"""

from __future__ import annotations

import importlib
import sys
import time

import pytest

from tests.peers import cache

PEERS = {
    "null_s3": "prepare",
    "tusd": "prepare",
    "rustus": "prepare",
    "hawk": "installed",
    "tus_js": "installed",
    "age_vectors": "installed",
    "rabbitmq": "installed",
}
"""Modules beside this one, and the function in each that builds what isn't in the cache yet."""


def main() -> int:
    """Prepare all; 1 where one could not be had."""
    cache.say(f"real peers for the tests, in {cache.directory()}")
    missing = 0
    for name, function in PEERS.items():
        begun = time.monotonic()
        try:
            getattr(importlib.import_module(f"tests.peers.{name}"), function)()
        except (cache.PeerMissingError, pytest.skip.Exception, pytest.fail.Exception) as error:
            cache.say(f"  {name}: {error}; its tests will be skipped")
            missing += 1
        else:
            cache.say(f"  {name}: ready ({time.monotonic() - begun:.0f} s)")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

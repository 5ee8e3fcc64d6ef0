"""A process that seals or digests as fast as it can, for as long as it is told.

``python -m daemon.bench.member`` prints a line once it is ready. Each line on its standard input,
``seal``, ``sha256`` or ``blake3`` and seconds, is answered by bytes, seconds and processor
seconds. It ends with its standard input.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from pipeline.digests import hasher
from pipeline.envelope import by_format
from pipeline.parts import CHUNK

_ENDLESS = 1 << 50
"""Bytes of an upload that never ends."""


def main() -> int:
    """Run until standard input ends."""
    plaintext = memoryview(bytearray(os.urandom(CHUNK)))
    works = {"seal": _sealing(plaintext)} | {
        name: _digesting(name, plaintext) for name in ("sha256", "blake3")
    }
    for work in works.values():
        work()
    _say("ready")
    for line in sys.stdin:
        name, seconds = line.split()
        _say(" ".join(map(str, _measure(works[name], float(seconds)))))
    return 0


def _sealing(plaintext: memoryview) -> Callable[[], object]:
    layout = by_format("crypt4gh")
    sealer = layout.sealer(os.urandom(32), _ENDLESS)
    out = memoryview(bytearray(layout.sealed_size(0, CHUNK)))
    # The same segments again and again: what comes out is thrown away.
    return lambda: sealer.seal_into(0, plaintext, out)


def _digesting(name: str, plaintext: memoryview) -> Callable[[], object]:
    digest = hasher("sha256" if name == "sha256" else "blake3")
    return lambda: digest.update(plaintext)


def _measure(work: Callable[[], object], seconds: float) -> tuple[int, float, float]:
    size, cpu, started = 0, time.process_time(), time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or not size:
        work()
        size += CHUNK
    passed = time.perf_counter() - started
    return size, passed, time.process_time() - cpu


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

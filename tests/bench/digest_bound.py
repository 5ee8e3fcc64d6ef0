"""The other bound: no digest of a file is there before one process has read and hashed all of it.

`python -m tests.bench.digest_bound DIRECTORY sha256|blake3` is driven by `Steady`. Nothing is sent.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipeline.digests import hasher
from pipeline.messages import DigestName

PIECE = 1 << 19
DIGESTS: dict[str, DigestName] = {"sha256": "sha256", "blake3": "blake3"}


def digest(file: Path, name: DigestName, buffer: memoryview) -> str:
    """The file's, hex, by way of ``buffer``."""
    found = hasher(name)
    source = os.open(file, os.O_RDONLY)
    try:
        offset = 0
        while count := os.preadv(source, [buffer], offset):
            found.update(buffer[:count])
            offset += count
    finally:
        os.close(source)
    return found.hexdigest()


def main(directory: str, name: str) -> int:
    """Take all files' once for each line on standard input, until it ends."""
    files = sorted(Path(directory).iterdir())
    buffer = memoryview(bytearray(PIECE))
    print("ready", flush=True)  # noqa: T201  # this is how Steady is spoken to
    for _ in sys.stdin:
        for file in files:
            digest(file, DIGESTS[name], buffer)
        print("done", flush=True)  # noqa: T201  # likewise
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

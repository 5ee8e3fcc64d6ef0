"""The bound: what the machine gives where nothing but the work itself is done.

Two processes read, seal and send over plain or TLS sockets that stay open, part by part. No
retries, no checksums, no signatures, no event loop.
`python -m tests.bench.raw_bound URL DIRECTORY seal|clear` is driven by `Steady`.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import ssl
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

PART = 16 << 20
PIECE = 1 << 20
SEGMENT = 1 << 16
NONCE = 12
TAG = 16
SEALED = NONCE + SEGMENT + TAG
PROCESSES = 2


class Unit(NamedTuple):
    """What goes out in one request: a part, or a file that is no larger than one."""

    file: Path
    start: int
    end: int
    name: str


def units(files: list[Path]) -> list[Unit]:
    """All that is to be sent."""
    return [
        Unit(file, start, min(start + PART, size), f"{file.name}-{start // PART}")
        for file in files
        for size in [file.stat().st_size]
        for start in range(0, size, PART)
    ]


class Sender:
    """One process's connection, buffers and cipher."""

    def __init__(self, url: str, key: bytes | None) -> None:
        self._cipher = ChaCha20Poly1305(key) if key else None
        self._plain = memoryview(bytearray(PIECE))
        self._sealed = memoryview(bytearray(PIECE // SEGMENT * SEALED))
        parts = urlsplit(url)
        host = parts.hostname or "127.0.0.1"
        plain = socket.create_connection((host, parts.port or 80))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._connection = tls.wrap_socket(plain, server_hostname=host) if tls else plain
        self._answers = self._connection.makefile("rb")

    def send(self, name: str, unit: Unit) -> None:
        """Send it, and wait for the answer. Raises RuntimeError where that isn't 200."""
        length = unit.end - unit.start
        if self._cipher:
            length += -(-length // SEGMENT) * (NONCE + TAG)
        line = f"PUT /raw/{name}/{unit.name} HTTP/1.1\r\nHost: null\r\n"
        self._connection.sendall(f"{line}Content-Length: {length}\r\n\r\n".encode())
        file = os.open(unit.file, os.O_RDONLY)
        try:
            for offset in range(unit.start, unit.end, PIECE):
                piece = self._plain[: min(PIECE, unit.end - offset)]
                os.preadv(file, [piece], offset)
                self._connection.sendall(self._seal(offset, piece) if self._cipher else piece)
        finally:
            os.close(file)
        status = self._answers.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"the server said {status!r}")
        while self._answers.readline() not in {b"\r\n", b""}:
            pass

    def _seal(self, offset: int, plain: memoryview) -> memoryview:
        """Nonce, ciphertext and tag of each segment, as Crypt4GH has them."""
        assert self._cipher is not None
        out, at = self._sealed, 0
        for start in range(0, len(plain), SEGMENT):
            segment = plain[start : start + SEGMENT]
            nonce = ((offset + start) // SEGMENT).to_bytes(NONCE, "big")
            out[at : at + NONCE] = nonce
            end = at + NONCE + len(segment) + TAG
            self._cipher.encrypt_into(nonce, segment, None, out[at + NONCE : end])
            at = end
        return out[:at]


def send_share(url: str, share: list[Unit], key: bytes | None, work: Connection) -> None:
    """All of ``share``, once for each name that comes over ``work``."""
    sender = Sender(url, key)
    work.send("ready")
    while name := work.recv():
        for unit in share:
            sender.send(name, unit)
        work.send("done")


def main(url: str, directory: str, how: str) -> int:
    """Take names from standard input until it ends."""
    key = os.urandom(32) if how == "seal" else None
    todo = units(sorted(Path(directory).iterdir()))
    fork = multiprocessing.get_context("fork")
    ends: list[Connection] = []
    for number in range(PROCESSES):
        ours, theirs = fork.Pipe()
        share = todo[number::PROCESSES]
        fork.Process(target=send_share, args=(url, share, key, theirs), daemon=True).start()
        theirs.close()
        ends.append(ours)
    for end in ends:
        end.recv()
    print("ready", flush=True)  # noqa: T201  # this is how Steady is spoken to
    for line in sys.stdin:
        for end in ends:
            end.send(line.strip())
        for end in ends:
            end.recv()
        print("done", flush=True)  # noqa: T201  # likewise
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

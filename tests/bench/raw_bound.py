"""The bound: what the machine gives where nothing but the work itself is done.

Two processes read, seal and send over plain sockets, part by part. No retries, no checksums, no
signatures, no event loop. `python -m tests.bench.raw_bound URL FILE` is driven by `Steady`.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

PART = 16 << 20
PIECE = 1 << 20
SEGMENT = 1 << 16
NONCE = 12
TAG = 16
SEALED = NONCE + SEGMENT + TAG
PROCESSES = 2


def send_parts(address: tuple[str, int], path: Path, key: bytes, work: Connection) -> None:
    """Every PROCESSES-th part, once for each name of an object that comes over ``work``."""
    cipher = ChaCha20Poly1305(key)
    plain = memoryview(bytearray(PIECE))
    sealed = memoryview(bytearray(PIECE // SEGMENT * SEALED))
    file = os.open(path, os.O_RDONLY)
    total = os.fstat(file).st_size
    connection = socket.create_connection(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answers = connection.makefile("rb")
    work.send("ready")
    while name := work.recv():
        first: int = work.recv()
        for start in range(first * PART, total, PROCESSES * PART):
            end = min(start + PART, total)
            connection.sendall(_request(name, start // PART + 1, _sealed_size(end - start)))
            for offset in range(start, end, PIECE):
                piece = plain[: min(PIECE, end - offset)]
                os.preadv(file, [piece], offset)
                connection.sendall(sealed[: _seal(cipher, offset, piece, sealed)])
            status = answers.readline()
            if b" 200 " not in status:
                raise RuntimeError(f"the server said {status!r}")
            while answers.readline() not in {b"\r\n", b""}:
                pass
        work.send("done")


def _sealed_size(size: int) -> int:
    return size + -(-size // SEGMENT) * (NONCE + TAG)


def _seal(cipher: ChaCha20Poly1305, offset: int, plain: memoryview, out: memoryview) -> int:
    """The bytes written: nonce, ciphertext and tag of each segment, as Crypt4GH has them."""
    at = 0
    for start in range(0, len(plain), SEGMENT):
        segment = plain[start : start + SEGMENT]
        nonce = ((offset + start) // SEGMENT).to_bytes(NONCE, "big")
        out[at : at + NONCE] = nonce
        end = at + NONCE + len(segment) + TAG
        cipher.encrypt_into(nonce, segment, None, out[at + NONCE : end])
        at = end
    return at


def _request(name: str, number: int, size: int) -> bytes:
    return (
        f"PUT /raw/{name}-{number} HTTP/1.1\r\nHost: null\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


def main(url: str, file: str) -> int:
    """Take names of objects from standard input until it ends."""
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    key = os.urandom(32)
    fork = multiprocessing.get_context("fork")
    ends: list[Connection] = []
    for _ in range(PROCESSES):
        ours, theirs = fork.Pipe()
        fork.Process(
            target=send_parts, args=(address, Path(file), key, theirs), daemon=True
        ).start()
        ends.append(ours)
    for end in ends:
        end.recv()
    print("ready", flush=True)  # noqa: T201  # this is how Steady is spoken to
    for line in sys.stdin:
        for index, end in enumerate(ends):
            end.send(line.strip())
            end.send(index)
        for end in ends:
            end.recv()
        print("done", flush=True)  # noqa: T201  # likewise
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

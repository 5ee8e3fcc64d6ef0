"""CRC-64/NVME as stores write it, and over files."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from typing import Final

from awscrt.checksums import crc64nvme

NAME: Final = "crc64nvme"
_BLOCK: Final = 1024 * 1024


def text(crc: int) -> str:
    """As S3 shows it: base64 of eight bytes, highest first."""
    return base64.b64encode(crc.to_bytes(8, "big")).decode()


def md5_text(digest: bytes) -> str:
    """An MD5 as a Content-MD5 header shows it."""
    return base64.b64encode(digest).decode()


def of_file(fd: int) -> tuple[int, int]:
    """The CRC and the number of bytes of an open file, read from its start. Blocks."""
    crc = size = 0
    for piece in pieces(fd):
        crc = crc64nvme(piece, crc)
        size += len(piece)
    return crc, size


def pieces(fd: int) -> Iterator[memoryview]:
    """The bytes of an open file from its start, each view valid until the next one. Blocks."""
    buffer = memoryview(bytearray(_BLOCK))
    offset = 0
    while count := os.preadv(fd, [buffer], offset):
        yield buffer[:count]
        offset += count

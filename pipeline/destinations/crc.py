"""CRC-64/NVME as stores write it, and over files."""

from __future__ import annotations

import base64
import os
from typing import Final

from awscrt.checksums import crc64nvme

NAME: Final = "crc64nvme"
_BLOCK: Final = 1024 * 1024


def text(crc: int) -> str:
    """As S3 shows it: base64 of eight bytes, highest first."""
    return base64.b64encode(crc.to_bytes(8, "big")).decode()


def of_file(fd: int) -> tuple[int, int]:
    """The CRC and the number of bytes of an open file, read from its start. Blocks."""
    buffer = memoryview(bytearray(_BLOCK))
    crc = offset = 0
    while count := os.preadv(fd, [buffer], offset):
        crc = crc64nvme(buffer[:count], crc)
        offset += count
    return crc, offset

"""What a job takes of the machine's memory while it is under way, in bytes.

Derived from what the data path holds, and held against measurements. A body that is sealed has
three buffers of a chunk, or of all it is where that is less: the plaintext, and two sealed ones in
turn. One chunk more waits in the transport for the kernel, and with TLS a second time, sealed. The
kernel's send buffer comes to about a megabyte for each connection. Small uploads go to S3 in one
piece, which is put together from its chunks and so is held twice.
"""

from __future__ import annotations

from typing import Final

from pipeline.delivery import CHUNK
from pipeline.messages import DestinationSpec

SOCKET: Final = 1024 * 1024
"""The kernel's send buffer of a connection."""
BUFFERS: Final = 4
"""Chunks that a body holds on its way: three of its own, one in the transport."""
PART: Final = BUFFERS * CHUNK + SOCKET
"""The most that a part takes, however large it is."""


def of_part(size: int) -> int:
    """Of a part of ``size`` bytes that is sealed and sent."""
    return BUFFERS * min(CHUNK, size) + SOCKET


def of_whole(destination: DestinationSpec, size: int) -> int:
    """Of an upload of ``size`` bytes that is sent in one request."""
    held = 2 * size if destination.type == "s3" else 0
    return held + of_part(size)


def of_reading(size: int) -> int:
    """Of a part that is only read, or sealed to be compared."""
    return (BUFFERS - 1) * min(CHUNK, size)

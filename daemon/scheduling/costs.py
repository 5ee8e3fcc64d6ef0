"""What a job takes of the machine's memory while it is under way, in bytes.

Measured with one worker and 1 to 8 parts of 16 MiB on their way to a server that reads slowly: each
further part added 4.0 to 4.5 chunks to the process, and its connection had 2.9 to 3.2 MiB waiting
in the kernel, with Linux's own limits (``tcp_wmem``). That is what a body holds: three buffers of a
chunk, for the plaintext and for two sealed ones in turn, and one more that the transport copied.
One that a thread sends, straight to a bare socket, holds two.
Small uploads go to S3 in one piece, which is put together from its chunks and so is held twice.
"""

from __future__ import annotations

from typing import Final

from pipeline.messages import DestinationSpec
from pipeline.parts import CHUNK

SOCKET: Final = 3 * 1024 * 1024
"""What waits in the kernel for a server that reads slowly."""
CONNECTION: Final = 64 * 1024
"""Everything else that a request has."""
BUFFERS: Final = 4
"""Chunks that a body holds on its way: three of its own, one in the transport."""
PART: Final = BUFFERS * CHUNK + SOCKET + CONNECTION
"""The most that a part takes, however large it is."""


def of_part(size: int) -> int:
    """Of a part of ``size`` bytes that is sealed and sent."""
    return BUFFERS * min(CHUNK, size) + min(SOCKET, size) + CONNECTION


def of_whole(destination: DestinationSpec, size: int) -> int:
    """Of an upload of ``size`` bytes that is sent in one request."""
    held = 2 * size if destination.type == "s3" else 0
    return held + of_part(size)


def of_reading(size: int) -> int:
    """Of a part that is only read, or sealed to be compared."""
    return (BUFFERS - 1) * min(CHUNK, size)

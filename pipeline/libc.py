"""What Python has no call of its own for."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from typing import Final, NamedTuple

_CREDENTIALS: Final = struct.Struct("3i")
"""As ``struct ucred``."""


class Peer(NamedTuple):
    """Who is at the other end of a Unix socket, as the kernel knows it (``unix(7)``)."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket) -> Peer:
    """Who connected, or listened; of a pair of sockets, who made it."""
    told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(told))


def call(name: str, *arguments: int) -> None:
    """Call a function of the C library, where it has that one."""
    with contextlib.suppress(OSError, AttributeError):
        getattr(ctypes.CDLL(None), name)(*arguments)

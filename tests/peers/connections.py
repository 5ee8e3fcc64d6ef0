"""Whether a server on this machine is done with what was asked on connections that are closed."""

from __future__ import annotations

import time
from pathlib import Path

_TABLE = Path("/proc/net/tcp")
_CLOSED_HERE_ONLY = {"04", "05"}
"""FIN_WAIT1 and FIN_WAIT2: the client's end is closed, the server's is not yet."""
_LOOK_EVERY = 0.02


def wait_until_done(port: int, seconds: float) -> None:
    """Wait until a server on the loopback has closed every connection that its client closed.

    It does that when it is done with the request, also with one that broke off in the middle,
    which no answer tells of.
    """
    deadline = time.monotonic() + seconds
    while clients := _closed_by_clients(port):
        if time.monotonic() > deadline:
            raise AssertionError(f"port {port} still holds what ports {clients} closed")
        time.sleep(_LOOK_EVERY)


def _closed_by_clients(port: int) -> list[int]:
    """The clients' ports of connections that a server holds though the client closed them."""
    found = []
    for line in _TABLE.read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state in _CLOSED_HERE_ONLY and _port(remote) == port:
            found.append(_port(local))
    return found


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)

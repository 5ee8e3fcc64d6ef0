"""What the service manager is told, by systemd's notification protocol (sd_notify)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

_SEND_SECONDS = 0.5
_MICROSECONDS = 1_000_000


class Notifier:
    """Tells systemd how the service is. Without ``$NOTIFY_SOCKET`` nothing happens.

    A message that can't be sent is lost: each method says so with False, and never raises.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """``environ`` is the process's own environment unless given."""
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        # A path, or an abstract socket, which begins with @; there is nothing else on one machine.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = _watchdog_seconds(environ)

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between calls of :meth:`watchdog`: half of what is allowed. None: not asked."""
        return self._watchdog / 2 if self._address and self._watchdog else None

    def ready(self, status: str = "") -> bool:
        """The service is up, or done with reloading."""
        return self._send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``."""
        return self._send(*_status(text))

    def reloading(self) -> bool:
        """A reload begins; :meth:`ready` ends it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self, status: str = "") -> bool:
        """The service is on its way down."""
        return self._send("STOPPING=1", *_status(status))

    def watchdog(self) -> bool:
        """The service is alive, and gets on."""
        return self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> bool:
        """Starting or stopping needs up to this much longer, counted from now."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * _MICROSECONDS)}")

    def _send(self, *assignments: str) -> bool:
        if not self._address or not assignments:
            return False
        message = "\n".join(assignments).encode("utf-8", "backslashreplace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_SECONDS)
                sender.connect(self._address)
                sender.sendall(message)
        except (OSError, ValueError):
            return False
        return True


def _status(text: str) -> tuple[str, ...]:
    # One line: a line of its own would be taken for an assignment.
    return (f"STATUS={' '.join(text.split())}",) if text else ()


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """What systemd allows between two signs of life, if it is us whom it watches."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    microseconds = int(text) if text.isascii() and text.isdigit() else 0
    return microseconds / _MICROSECONDS or None

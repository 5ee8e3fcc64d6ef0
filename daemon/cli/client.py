"""Asks the running daemon over its hook socket."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from pipeline.errors import DropoffError

TIMEOUT = 10.0
_MAX_ANSWER = 16 * 1024 * 1024


class DaemonUnreachableError(DropoffError):
    """No daemon answers on the hook socket, or it gives no sensible answer."""

    code: ClassVar[str] = "daemon_unreachable"
    retryable: ClassVar[bool] = True


class Answer(msgspec.Struct, frozen=True):
    """What the daemon answered."""

    status: int
    content: bytes

    def json(self) -> Any:  # noqa: ANN401 - any JSON
        """The content as JSON. Raises DaemonUnreachableError where it is none."""
        try:
            return msgspec.json.decode(self.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise DaemonUnreachableError("the daemon's answer is not JSON") from None


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    path: Path,
    method: str,
    target: str,
    body: object = None,
    *,
    timeout: float = TIMEOUT,
) -> Answer:
    """Send one request; ``body`` goes as JSON.

    Raises DaemonUnreachableError where nobody listens, or no answer comes within ``timeout``
    seconds for any step.
    """
    connection = _Connection(path, timeout)
    content = None if body is None else msgspec.json.encode(body)
    headers = {} if content is None else {"Content-Type": "application/json"}
    try:
        connection.request(method, target, body=content, headers=headers)
        response = connection.getresponse()
        answer = Answer(response.status, response.read(_MAX_ANSWER))
    except TimeoutError:
        raise DaemonUnreachableError(f"the daemon at {path} does not answer") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DaemonUnreachableError(f"no daemon at {path}: {reason}") from None
    finally:
        connection.close()
    return answer

"""What an SFTP server's answers, and its silence, mean for a delivery."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncssh

from pipeline.destinations.wording import printable, reason
from pipeline.errors import (
    DestinationError,
    DestinationRefusedError,
    DestinationUnreachableError,
)


class MissingError(DestinationRefusedError):
    """Nothing under that name."""


ALL: Final = (asyncssh.Error, OSError, TimeoutError, asyncio.IncompleteReadError)
"""What asyncssh raises."""
LOST: Final = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.DisconnectError)
"""After one of these the connection is of no more use."""

_MISSING: Final = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)
_REFUSING: Final = (
    asyncssh.HostKeyNotVerifiable,
    asyncssh.IllegalUserName,
    asyncssh.KeyExchangeFailed,
    asyncssh.PermissionDenied,
    asyncssh.ProtocolNotSupported,
    asyncssh.SFTPCannotDelete,
    asyncssh.SFTPFileIsADirectory,
    asyncssh.SFTPInvalidFilename,
    asyncssh.SFTPLinkLoop,
    asyncssh.SFTPNotADirectory,
    asyncssh.SFTPOpUnsupported,
    asyncssh.SFTPPermissionDenied,
    asyncssh.SFTPQuotaExceeded,
    asyncssh.SFTPWriteProtect,
)


def of(error: Exception) -> DestinationError:
    """The error that one of ``ALL`` stands for."""
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return DestinationRefusedError(
                f"the server's host key is none of the expected ones: {printable(error.reason)}"
            )
        case asyncssh.PermissionDenied():
            return DestinationRefusedError("the server takes neither this user's key nor password")
        case asyncssh.DisconnectError() | asyncssh.SFTPError() | asyncssh.ChannelOpenError():
            kind: type[DestinationError] = DestinationUnreachableError
            if isinstance(error, _MISSING):
                kind = MissingError
            elif isinstance(error, _REFUSING):
                kind = DestinationRefusedError
            said = printable(error.reason) or type(error).__name__
            return kind(f"the server said: {said}")
        case TimeoutError():
            return DestinationUnreachableError("the server didn't answer in time")
    said = reason(error)
    return DestinationUnreachableError(
        f"no connection, or one that broke: {type(error).__name__}" + (f" ({said})" if said else "")
    )

"""One connection to an SFTP server, made when it is needed and again when it broke.

SSH asks by itself whether the other side lives; but sshd answers that, while what is behind it may
hang on a disk that is gone. So each request has its time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import asyncssh

from pipeline.blocking import in_thread
from pipeline.destinations import sftp_errors
from pipeline.destinations.retry import steadily
from pipeline.errors import DestinationRefusedError
from pipeline.messages import DestinationSpec

CONNECT_TIMEOUT: Final = 20.0
"""Seconds until the server has let us in."""
ALIVE_INTERVAL: Final = 30.0
SILENCE_TIMEOUT: Final = 120.0
"""Seconds without an answer."""

_CIPHERS: Final = (
    # AES in hardware costs half of what ChaCha20 does; what is sent is sealed in any case.
    *("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"),
    *("aes256-ctr", "aes192-ctr", "aes128-ctr"),
)
_NO_KEY: Final = (asyncssh.KeyImportError, asyncssh.KeyEncryptionError)
_KEY_TYPES: Final = ("ssh-", "ecdsa-", "sk-")

_NO_ATTRIBUTES: Final = asyncssh.SFTPAttrs()

T = TypeVar("T")


class Session:
    """A session whose requests are answered in time, or raise TimeoutError.

    Paths are absolute, or below where the user starts.
    """

    def __init__(self, session: asyncssh.SFTPClient) -> None:
        self._session = session

    @property
    def limits(self) -> asyncssh.SFTPLimits:
        """What the server takes at once."""
        return self._session.limits

    async def open(
        self, path: str, flags: int, attributes: asyncssh.SFTPAttrs = _NO_ATTRIBUTES
    ) -> asyncssh.SFTPClientFile:
        """A file of bytes."""
        return await _in_time(
            self._session.open(path, flags, attributes, encoding=None, block_size=0)
        )

    async def lstat(self, path: str) -> asyncssh.SFTPAttrs:
        """What stands there, links not followed."""
        return await _in_time(self._session.lstat(path))

    async def isdir(self, path: str) -> bool:
        """Whether a directory is there."""
        return await _in_time(self._session.isdir(path))

    async def mkdir(self, path: str, attributes: asyncssh.SFTPAttrs) -> None:
        """Make a directory."""
        await _in_time(self._session.mkdir(path, attributes))

    async def remove(self, path: str) -> None:
        """Remove a file."""
        await _in_time(self._session.remove(path))

    async def rename(self, path: str, to: str) -> None:
        """Give a file another name, which none has."""
        await _in_time(self._session.rename(path, to))

    async def posix_rename(self, path: str, to: str) -> None:
        """Likewise, in place of what has it."""
        await _in_time(self._session.posix_rename(path, to))


async def _in_time(request: Awaitable[T]) -> T:
    async with asyncio.timeout(SILENCE_TIMEOUT):
        return await request


class SftpClient:
    """The session that all work for one destination shares.

    Every error that comes out of :meth:`run` is of :mod:`pipeline.errors`.
    """

    def __init__(self, spec: DestinationSpec) -> None:
        self._spec = spec
        self._opening = asyncio.Lock()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._session: Session | None = None

    async def run(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do some work on the server. Short disturbances are waited out; then it starts anew."""
        return await steadily(lambda: self._once(work))

    async def aclose(self) -> None:
        """Close the connection."""
        connection, self._connection, self._session = self._connection, None, None
        if connection is not None:
            connection.abort()
            with contextlib.suppress(*sftp_errors.ALL):
                await connection.wait_closed()

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncGenerator[Session]:
        """The session, for one try of some work."""
        session = None
        try:
            session = await self._opened()
            yield session
        except sftp_errors.ALL as error:
            lost = isinstance(error, (*sftp_errors.LOST, OSError))
            if lost and session is not None and session is self._session:
                await self.aclose()
            raise sftp_errors.of(error) from None

    async def _once(self, work: Callable[[Session], Awaitable[T]]) -> T:
        async with self.session() as session:
            return await work(session)

    async def _opened(self) -> Session:
        async with self._opening:
            if self._session is None or self._connection is None or self._connection.is_closed():
                await self.aclose()
                self._connection = await self._connect()
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    self._session = Session(await self._connection.start_sftp_client())
            return self._session

    async def _connect(self) -> asyncssh.SSHClientConnection:
        spec = self._spec
        keys, password = await in_thread(_credentials, spec)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await asyncssh.connect(
                spec.host,
                spec.port,
                username=spec.user,
                password=password or None,
                client_keys=keys or None,
                known_hosts=await in_thread(_known_hosts, spec),
                # Nothing of the account that the service runs in.
                config=None,
                agent_path=None,
                gss_host=None,
                x509_trusted_certs=None,
                preferred_auth=("publickey", "keyboard-interactive", "password"),
                encryption_algs=_CIPHERS,
                compression_algs=None,
                client_version="dropoffd",
                keepalive_interval=ALIVE_INTERVAL,
            )


def _credentials(spec: DestinationSpec) -> tuple[list[asyncssh.SSHKey], str]:
    """The private key, and the password where it isn't the key's own. Blocks."""
    if not spec.key:
        return [], spec.password
    text = _read(spec.key, "private key") if spec.key.startswith("/") else spec.key
    with contextlib.suppress(*_NO_KEY):
        return [asyncssh.import_private_key(text)], spec.password
    try:
        # A passphrase is never offered to the server.
        return [asyncssh.import_private_key(text, spec.password)], ""
    except _NO_KEY as error:
        raise DestinationRefusedError(
            "the private key is none, of a kind not known, or encrypted with another passphrase"
        ) from error


def _known_hosts(spec: DestinationSpec) -> asyncssh.SSHKnownHosts:
    """The host keys that are trusted. Blocks."""
    text = spec.host_keys
    if text.startswith("/"):
        text = _read(text, "file of host keys")
    elif text.startswith(_KEY_TYPES):
        text = f"* {text}\n"
    else:
        raise DestinationRefusedError("it has no host key that its server could be known by")
    try:
        return asyncssh.import_known_hosts(text)
    except ValueError as error:
        raise DestinationRefusedError("the host keys are none, or of a kind not known") from error


def _read(path: str, what: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DestinationRefusedError(f"{path}: the {what} can't be read") from error

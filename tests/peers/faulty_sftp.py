"""An SFTP server that makes faults of single requests, which a proxy can't see in what SSH hides.

It runs in the loop of the test. Faults are told by the names that :class:`asyncssh.SFTPServer` has
for requests, and are counted when they are made.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import asyncssh
from asyncssh.connection import SSHConnection

from pipeline.messages import DestinationSpec
from tests.peers.sftp import new_key

Ask = Callable[[], Awaitable[Any]]
SftpFault = Callable[[Ask, SSHConnection], Awaitable[Any]]


# Faults ---------------------------------------------------------------------------------------


def failing(error: Callable[[str], asyncssh.SFTPError] = asyncssh.SFTPFailure) -> SftpFault:
    """Nothing is done, and this is the answer."""

    async def fault(_: Ask, __: SSHConnection) -> Any:  # noqa: ANN401  # any answer
        raise error("on purpose")

    return fault


def silent(*, done: bool) -> SftpFault:
    """Nothing is answered, though it may be done; the connection lives on."""

    async def fault(ask: Ask, _: SSHConnection) -> Any:  # noqa: ANN401  # any answer
        if done:
            await ask()
        await asyncio.Event().wait()

    return fault


def done_but_failing() -> SftpFault:
    """It is done, and the answer says that it isn't."""

    async def fault(ask: Ask, _: SSHConnection) -> Any:  # noqa: ANN401  # any answer
        await ask()
        raise asyncssh.SFTPFailure("on purpose")

    return fault


def lost_answer() -> SftpFault:
    """It is done, and the connection ends before the answer."""

    async def fault(ask: Ask, at: SSHConnection) -> Any:  # noqa: ANN401  # any answer
        await ask()
        at.abort()

    return fault


def slow(seconds: float) -> SftpFault:
    """It takes its time."""

    async def fault(ask: Ask, _: SSHConnection) -> Any:  # noqa: ANN401  # any answer
        await asyncio.sleep(seconds)
        return await ask()

    return fault


def other_byte() -> SftpFault:
    """Of what is read, one byte is another one."""

    async def fault(ask: Ask, _: SSHConnection) -> Any:  # noqa: ANN401  # any answer
        read = await ask()
        return bytes([read[0] ^ 1]) + read[1:]

    return fault


# The server -----------------------------------------------------------------------------------


@dataclass
class _Planned:
    operation: str
    fault: SftpFault
    left: int


class FaultySftp:
    """Serves ``directory / "store"`` to the user ``tests`` by key. An async context manager."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "store"
        self.root.mkdir()
        self.made = 0
        """Faults so far."""
        self.passed: list[tuple[str, int]] = []
        """Requests that were done unspoiled, and of those to write, where."""
        self.opened: list[Any] = []
        """Files: what hangs is never told to close its own."""
        self._planned: list[_Planned] = []
        self._key = directory / "client_key"
        self._authorized = directory / "authorized_keys"
        self._authorized.write_text(new_key(self._key) + "\n")
        self._host_key = directory / "host_key"
        self.host_key = new_key(self._host_key)

    @property
    def spec(self) -> DestinationSpec:
        """How it is reached."""
        return DestinationSpec(
            name="sftp",
            type="sftp",
            host="127.0.0.1",
            port=self._server.get_port(),
            user="tests",
            key=str(self._key),
            host_keys=self.host_key,
        )

    async def read(self, name: str) -> bytes:
        """A file's bytes."""
        return await asyncio.to_thread((self.root / name).read_bytes)

    async def files(self) -> list[str]:
        """All of them, unfinished or not."""
        found = [path for path in self.root.rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self.root)) for path in found)

    async def etag(self, name: str) -> str:
        """There is none."""
        del name
        return ""

    def spoil(self, operation: str, fault: SftpFault, times: int = 1) -> None:
        """Make a fault of the next requests of that name."""
        self._planned.append(_Planned(operation, fault, times))

    def be_good(self) -> None:
        """Make no more faults."""
        self._planned.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[str(self._host_key)],
            authorized_client_keys=str(self._authorized),
            sftp_factory=lambda channel: _Server(channel, self),
            config=None,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for file in self.opened:
            file.close()

    async def answer(self, operation: str, ask: Ask, at: SSHConnection, place: int) -> Any:  # noqa: ANN401  # whatever the request is answered with
        """Do it, or make the fault that is planned."""
        for planned in self._planned:
            if planned.left and planned.operation == operation:
                planned.left -= 1
                self.made += 1
                return await planned.fault(ask, at)
        answered = await ask()
        self.passed.append((operation, place))
        return answered


def _spoiled(operation: str) -> Callable[..., Awaitable[Any]]:
    async def request(self: _Server, *arguments: Any) -> Any:  # noqa: ANN401  # passed on
        async def ask() -> Any:  # noqa: ANN401  # likewise
            answered = getattr(asyncssh.SFTPServer, operation)(self, *arguments)
            if inspect.isawaitable(answered):
                answered = await answered
            if operation == "open":
                self.peer.opened.append(answered)
            return answered

        place = arguments[1] if operation == "write" else 0
        return await self.peer.answer(operation, ask, self.at, place)

    return request


class _Server(asyncssh.SFTPServer):
    """One session."""

    def __init__(self, channel: asyncssh.SSHServerChannel[Any], peer: FaultySftp) -> None:
        super().__init__(channel, chroot=bytes(peer.root))
        self.peer = peer
        self.at = channel.get_connection()


for _name in ("open", "close", "read", "write", "lstat", "mkdir", "rename", "remove", "fsync"):
    setattr(_Server, _name, _spoiled(_name))

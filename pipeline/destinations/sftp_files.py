"""Files on an SFTP server: looked at, made, written and read with many requests under way.

Errors are asyncssh's own, as they come; :class:`~pipeline.destinations.sftp_client.SftpClient`
makes them those of a destination.
"""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, Final, NamedTuple, Self, TypeVar

import asyncssh
from awscrt.checksums import crc64nvme

from pipeline.destinations import below, sftp_errors
from pipeline.destinations.base import Body, Content
from pipeline.destinations.sftp_client import SILENCE_TIMEOUT, Session, SftpClient
from pipeline.errors import ForgottenError, VerificationError
from pipeline.readback import ReadBack

CLOSE_TIMEOUT: Final = 5.0
"""Seconds without an answer, after something went wrong already."""
SLOWEST: Final = 20 * 1000**2
"""Bytes a second that a server's disk takes at least."""
IN_FLIGHT: Final = 4 * 1024 * 1024
"""Bytes that are under way for one part, or one file that is read."""
LONGEST_BLOCK: Final = 256 * 1024
MISSING: Final = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)

_FILE: Final = asyncssh.SFTPAttrs(permissions=below.FILE_MODE)
_ANY: Final = asyncssh.SFTPAttrs()

File = asyncssh.SFTPClientFile
Attributes = asyncssh.SFTPAttrs
T = TypeVar("T")


class Sums(NamedTuple):
    """What is told of bytes."""

    size: int
    crc: int


async def look(session: Session, path: str) -> Attributes | None:
    """What stands there, links not followed; None where nothing does."""
    try:
        return await session.lstat(path)
    except MISSING:
        return None


async def remove(session: Session, path: str) -> None:
    """Remove a file. Nothing there is fine."""
    with contextlib.suppress(*MISSING):
        await session.remove(path)


async def sync(file: File, size: int) -> None:
    """Have it, all ``size`` bytes, on the server's disk, where the server can be asked for that."""
    with contextlib.suppress(asyncssh.SFTPOpUnsupported):
        async with asyncio.timeout(SILENCE_TIMEOUT + size / SLOWEST):
            await file.fsync()


def is_file(standing: Attributes) -> bool:
    """Whether it is a plain file, as far as the server tells."""
    mode = standing.permissions
    return mode is None or stat.S_IFMT(mode) in {0, stat.S_IFREG}


@contextlib.asynccontextmanager
async def made(session: Session, path: str) -> AsyncGenerator[File]:
    """A file, made anew and open for writing."""
    await remove(session, path)
    flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
    async with opened(session, path, flags, _FILE) as file:
        yield file


@contextlib.asynccontextmanager
async def unfinished(session: Session, path: str, flags: int) -> AsyncGenerator[File]:
    """A file that was made before, open. Raises ForgottenError where it is gone."""
    try:
        async with opened(session, path, flags) as file:
            yield file
    except MISSING as error:
        raise ForgottenError("the unfinished file is gone") from error


async def sums(session: Session, file: File, offset: int, size: int) -> Sums:
    """Of the bytes that are there from ``offset`` on, up to ``size`` of them."""
    found = count = 0
    async with contextlib.aclosing(read(session, file, offset, size)) as pieces:
        async for piece in pieces:
            found = crc64nvme(piece, found)
            count += len(piece)
    return Sums(size=count, crc=found)


async def read_back(session: Session, file: File, expected: Sums, content: Content | None) -> None:
    """Read all of an object. Raises VerificationError where it is another one."""
    check = ReadBack(expected.size, expected.crc, content)
    async with contextlib.aclosing(read(session, file, 0, expected.size)) as pieces:
        async for piece in pieces:
            check.update(piece)
    check.finish()


async def holds(
    session: Session,
    path: str,
    standing: Attributes,
    expected: Sums,
    content: Content | None = None,
) -> bool:
    """Whether the very object stands there, by reading it."""
    if not is_file(standing) or standing.size != expected.size:
        return False
    try:
        async with opened(session, path, asyncssh.FXF_READ) as file:
            await read_back(session, file, expected, content)
    except VerificationError:
        return False
    return True


class SftpFile:
    """See :class:`pipeline.destinations.base.Readable`."""

    def __init__(self, client: SftpClient, path: str, size: int) -> None:
        self._client = client
        self._path = path
        self.size = size

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes]:
        """Bytes ``start`` to before ``stop``."""
        async with (
            self._client.session() as session,
            opened(session, self._path, asyncssh.FXF_READ) as file,
            contextlib.aclosing(read(session, file, start, stop - start)) as pieces,
        ):
            async for piece in pieces:
                start += len(piece)
                yield piece
        if start < stop:
            raise VerificationError(f"the file ends at byte {start} while it is read")


@contextlib.asynccontextmanager
async def opened(
    session: Session, path: str, flags: int, attributes: Attributes = _ANY
) -> AsyncGenerator[File]:
    """An open file. A server may tell only when it is closed that a write failed."""
    file = await session.open(path, flags, attributes)
    try:
        yield file
    except BaseException:
        with contextlib.suppress(*sftp_errors.ALL):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await file.close()
        raise
    async with asyncio.timeout(SILENCE_TIMEOUT):
        await file.close()


async def write(session: Session, file: File, body: Body, offset: int) -> None:
    """Write a body at ``offset``, with many requests under way."""
    block = min(session.limits.max_write_len, LONGEST_BLOCK)
    async with _Window(IN_FLIGHT // block) as window:
        async for view in body:
            for start in range(0, len(view), block):
                data = bytes(view[start : start + block])  # the view doesn't live that long
                await window.add(file.write(data, offset))
                offset += len(data)


async def read(session: Session, file: File, offset: int, size: int) -> AsyncGenerator[bytes]:
    """The bytes from ``offset`` on, ``size`` of them or up to the end, likewise.

    To be used up, or closed: requests are under way while it isn't.
    """
    block = min(session.limits.max_read_len, LONGEST_BLOCK)
    end = offset + size
    asked: deque[tuple[int, asyncio.Task[bytes]]] = deque()
    try:
        while True:
            while offset < end and len(asked) < max(1, IN_FLIGHT // block):
                length = min(block, end - offset)
                asked.append((length, asyncio.ensure_future(_read_all(file, offset, length))))
                offset += length
            if not asked:
                return
            length, task = asked[0]
            async with asyncio.timeout(SILENCE_TIMEOUT):
                data = await task
            asked.popleft()
            if data:
                yield data
            if len(data) < length:
                return
    finally:
        await _end([task for _, task in asked])


async def _read_all(file: File, offset: int, length: int) -> bytes:
    """A block; shorter only at the end of the file."""
    pieces: list[bytes] = []
    while length:
        data: bytes = await file.read(length, offset)
        if not data:
            break
        pieces.append(data)
        offset += len(data)
        length -= len(data)
    return b"".join(pieces)


class _Window:
    """So many requests at once; leaving it waits for all of them."""

    def __init__(self, size: int) -> None:
        self._size = max(1, size)
        self._tasks: deque[asyncio.Task[int]] = deque()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while kind is None and self._tasks:
                await self._oldest()
        finally:
            await _end(self._tasks)

    async def add(self, request: Coroutine[Any, Any, int]) -> None:
        """Start a request, once there is room."""
        try:
            if len(self._tasks) >= self._size:
                await self._oldest()
        except BaseException:
            request.close()  # it is never made
            raise
        self._tasks.append(asyncio.ensure_future(request))

    async def _oldest(self) -> None:
        async with asyncio.timeout(SILENCE_TIMEOUT):
            await self._tasks[0]
        self._tasks.popleft()


async def _end(tasks: Iterable[asyncio.Task[T]]) -> None:
    """Give up requests that nobody waits for any more."""
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)

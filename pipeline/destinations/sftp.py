"""A directory on an SSH server, by SFTP.

An object grows in a hidden file beside its final name, each part at its place, and gets that name
once it is complete, verified and, where the server can be asked for that, on its disk. SFTP has no
checksums: what was stored is read back.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote

import asyncssh

from pipeline.delivery import combined_crc
from pipeline.destinations import below, crc, sftp_files
from pipeline.destinations.base import Body, Content, PartPlace, Readable
from pipeline.destinations.remote import sftp_root
from pipeline.destinations.sftp_client import Session, SftpClient
from pipeline.destinations.sftp_files import SftpFile, Sums, holds, is_file, look
from pipeline.errors import (
    DestinationError,
    DestinationRefusedError,
    DestinationUnreachableError,
    DropoffError,
    ForgottenError,
    VerificationError,
)
from pipeline.messages import (
    Begun,
    DestinationSpec,
    HeldPart,
    StoredObject,
    StoredPart,
    Target,
    VerifyMode,
)

_DIRECTORY: Final = asyncssh.SFTPAttrs(permissions=below.DIRECTORY_MODE)


class _Names(NamedTuple):
    """Where an object is on the server."""

    directories: list[str]
    """Those below the destination's own, one in the other."""
    final: str
    hidden: str


class SftpDestination:
    """See :class:`pipeline.destinations.base.Destination`."""

    def __init__(self, spec: DestinationSpec) -> None:
        self._base = spec.directory.rstrip("/") if spec.directory != "/" else "/"
        self._verify: VerifyMode = spec.verify
        self._root = sftp_root(spec)
        self._client = SftpClient(spec)

    async def begin(self, target: Target, *, stale: bool) -> str:
        """Make the hidden file anew; its name is the reference."""
        del stale  # what is left of an earlier try goes in any case
        names = self._names(target.name, target.upload)

        async def begin(session: Session) -> str:
            await self._make_directories(session, names)
            standing = await look(session, names.final)
            _check_ours(target, standing)
            if standing is not None:
                # Ours, of a try that the journal knows nothing of any more.
                await session.remove(names.final)
            async with sftp_files.made(session, names.hidden):
                pass
            return names.hidden.rpartition("/")[2]

        return await self._client.run(begin)

    async def resume(self, target: Target, reference: str) -> Begun:
        """Parts can't be listed here: each has to be proved."""
        names = self._names(target.name, target.upload)

        async def resume(session: Session) -> Begun:
            if await look(session, names.hidden) is not None:
                return Begun(reference=reference, held=None)
            standing = await look(session, names.final)
            if standing is None or standing.size != target.size:
                raise ForgottenError("the unfinished file is gone")
            return Begun(reference=reference, held=None, finished=True)

        return await self._client.run(resume)

    async def put_part(
        self, target: Target, reference: str, part: PartPlace, body: Body
    ) -> StoredPart:
        """Write the part where it belongs in the hidden file."""
        del reference
        names = self._names(target.name, target.upload)

        async def put(session: Session) -> None:
            async with sftp_files.unfinished(session, names.hidden, asyncssh.FXF_WRITE) as file:
                await sftp_files.write(session, file, body, part.offset)

        await self._client.run(put)
        return StoredPart(number=part.number, size=body.size, crc64nvme=body.crc64nvme)

    async def prove_part(
        self, target: Target, reference: str, part: PartPlace, body: Body, held: HeldPart | None
    ) -> StoredPart | None:
        """Read the part back, and hold its checksum against that of what would be sent."""
        del reference, held
        names = self._names(target.name, target.upload)

        async def sums(session: Session) -> Sums:
            async with sftp_files.unfinished(session, names.hidden, asyncssh.FXF_READ) as file:
                return await sftp_files.sums(session, file, part.offset, part.size)

        there = await self._client.run(sums)
        if there.size != body.size:
            return None
        await body.count()
        if there.crc != body.crc64nvme:
            return None
        return StoredPart(number=part.number, size=body.size, crc64nvme=body.crc64nvme)

    async def finish(
        self,
        target: Target,
        reference: str,
        parts: Sequence[StoredPart],
        content: Content | None = None,
    ) -> StoredObject:
        """Verify the hidden file, and give it the final name."""
        del reference
        names = self._names(target.name, target.upload)
        expected = Sums(sum(part.size for part in parts), combined_crc(parts))

        async def finish(session: Session) -> StoredObject:
            with contextlib.suppress(ForgottenError):  # perhaps it has its name already
                async with sftp_files.unfinished(session, names.hidden, asyncssh.FXF_WRITE) as file:
                    await sftp_files.sync(file, expected.size)
            return await self._finish(session, target, expected, content)

        return await self._client.run(finish)

    async def put(
        self, target: Target, body: Body, *, stale: bool, content: Content | None = None
    ) -> StoredObject:
        """Write, verify and name a small object."""
        del stale  # what an earlier try stored is met, and compared, under the final name
        names = self._names(target.name, target.upload)

        async def put(session: Session) -> StoredObject:
            await self._make_directories(session, names)
            async with sftp_files.made(session, names.hidden) as file:
                await sftp_files.write(session, file, body, 0)
                await sftp_files.sync(file, body.size)
            return await self._finish(session, target, Sums(body.size, body.crc64nvme), content)

        try:
            return await self._client.run(put)
        except DestinationUnreachableError:
            raise  # the next try makes it anew
        except DropoffError:  # the source's, too
            with contextlib.suppress(DestinationError):
                await self.abort(target, "")
            raise

    async def find(self, target: Target) -> StoredObject | None:
        """Our finished file."""
        names = self._names(target.name, target.upload)
        standing = await self._client.run(lambda session: look(session, names.final))
        _check_ours(target, standing)
        if standing is None:
            return None
        return StoredObject(uri=self._uri(target.name), size=standing.size or 0, verified="size")

    async def abort(self, target: Target, reference: str) -> None:
        """Remove the hidden file."""
        del reference
        names = self._names(target.name, target.upload)
        await self._client.run(lambda session: sftp_files.remove(session, names.hidden))

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def show(self, name: str) -> StoredObject | None:
        """See :class:`pipeline.destinations.remote.Remote`."""
        names = self._names(name, "")
        standing = await self._client.run(lambda session: look(session, names.final))
        if standing is None or not is_file(standing):
            return None
        return StoredObject(uri=self._uri(name), size=standing.size or 0, verified="size")

    @contextlib.asynccontextmanager
    async def opened(self, name: str) -> AsyncGenerator[Readable]:
        """See :class:`pipeline.destinations.remote.Remote`."""
        standing = await self.show(name)
        if standing is None:
            raise DestinationRefusedError(f"{name} is not there")
        yield SftpFile(self._client, self._names(name, "").final, standing.size)

    async def remove(self, target: Target) -> None:
        """See :class:`pipeline.destinations.remote.Remote`."""
        names = self._names(target.name, target.upload)

        async def remove(session: Session) -> None:
            await sftp_files.remove(session, names.hidden)
            await sftp_files.remove(session, names.final)

        await self._client.run(remove)

    # Finishing --------------------------------------------------------------------------------

    async def _finish(
        self, session: Session, target: Target, expected: Sums, content: Content | None
    ) -> StoredObject:
        names = self._names(target.name, target.upload)
        hidden = await look(session, names.hidden)
        if hidden is None:
            standing = await look(session, names.final)
            if standing is None or not await holds(
                session, names.final, standing, expected, content
            ):
                raise ForgottenError("the unfinished file is gone")
        else:
            await self._check(session, names, hidden, expected, content)
            await self._publish(session, target, names, expected)
        return self._stored(target, expected)

    async def _check(
        self,
        session: Session,
        names: _Names,
        hidden: asyncssh.SFTPAttrs,
        expected: Sums,
        content: Content | None,
    ) -> None:
        """Hold what is there against what was sent."""
        if hidden.size != expected.size:
            raise VerificationError(f"{hidden.size} bytes were written instead of {expected.size}")
        if self._verify == "size":
            return
        # Some servers give no bytes to who may write.
        async with sftp_files.unfinished(session, names.hidden, asyncssh.FXF_READ) as file:
            await sftp_files.read_back(session, file, expected, content)

    async def _publish(
        self, session: Session, target: Target, names: _Names, expected: Sums
    ) -> None:
        """Give the checked file its final name, never at the cost of another file."""
        standing = await look(session, names.final)
        if standing is None:
            try:
                # Plain renaming takes no name that is there, whoever was faster than our look.
                await session.rename(names.hidden, names.final)
            except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
                standing = await look(session, names.final)
                if standing is None:
                    raise
        if standing is not None:
            await self._settle(session, target, names, standing, expected)
        found = await look(session, names.final)
        if found is None or found.size != expected.size:
            raise VerificationError("another file stands there after it got its name")

    async def _settle(
        self,
        session: Session,
        target: Target,
        names: _Names,
        standing: asyncssh.SFTPAttrs,
        expected: Sums,
    ) -> None:
        """A file stands under the final name: equal, ours and old, or another's."""
        if await holds(session, names.final, standing, expected):
            await sftp_files.remove(session, names.hidden)
            return
        _check_ours(target, standing)
        try:
            await session.posix_rename(names.hidden, names.final)
        except asyncssh.SFTPOpUnsupported:
            await sftp_files.remove(session, names.final)
            await session.rename(names.hidden, names.final)

    def _stored(self, target: Target, expected: Sums) -> StoredObject:
        read = self._verify != "size"
        return StoredObject(
            uri=self._uri(target.name),
            size=expected.size,
            checksum={crc.NAME: crc.text(expected.crc)} if read else {},
            verified="readback" if read else "size",
        )

    # Names ------------------------------------------------------------------------------------

    async def _make_directories(self, session: Session, names: _Names) -> None:
        """Have the directories below the destination's own, which has to be there."""
        if not names.directories or await session.isdir(names.directories[-1]):
            return
        if not await session.isdir(self._base or "."):
            raise DestinationUnreachableError(f"{self._base or '.'} is no directory on the server")
        for directory in names.directories:
            if not await session.isdir(directory):
                try:
                    await session.mkdir(directory, _DIRECTORY)
                except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
                    if not await session.isdir(directory):  # another may have been faster
                        raise

    def _names(self, name: str, upload: str) -> _Names:
        directories, last = below.components(name)
        paths = [self._path("/".join(directories[: n + 1])) for n in range(len(directories))]
        hidden = "/".join([*directories, below.temporary_name(last, upload)])
        return _Names(directories=paths, final=self._path(name), hidden=self._path(hidden))

    def _path(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}" if self._base else name

    def _uri(self, name: str) -> str:
        return f"{self._root}{quote(name)}"


def _check_ours(target: Target, standing: asyncssh.SFTPAttrs | None) -> None:
    """Raise DestinationRefusedError for what may be another's."""
    if standing is None or (target.upload in target.name and is_file(standing)):
        return
    raise DestinationRefusedError(
        f"{target.name}: something that isn't this upload's stands there; it is left as it is"
    )

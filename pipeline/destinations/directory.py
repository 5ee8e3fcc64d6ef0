"""A directory, of a local or a mounted file system.

An object grows in a hidden file beside its final name, and gets that name once it is complete,
verified and on the disk. Names are never followed through links.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from pipeline.blocking import in_thread
from pipeline.delivery import combined_crc
from pipeline.destinations import below, crc
from pipeline.destinations.base import Body, Content, PartPlace
from pipeline.errors import (
    DestinationError,
    DestinationRefusedError,
    DestinationUnreachableError,
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
from pipeline.readback import ReadBack

ATTRIBUTE: Final = "user.dropoffd-upload"
"""Says whose an object is, where the file system keeps such attributes."""

_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_REFUSALS: Final = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.EISDIR),
        *(errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG, errno.ENXIO),
    }
)
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

T = TypeVar("T")


class _Expected(NamedTuple):
    """What the finished file has to be."""

    size: int
    crc: int
    content: Content | None


class DirectoryDestination:
    """See :class:`pipeline.destinations.base.Destination`."""

    def __init__(self, spec: DestinationSpec) -> None:
        self._root = spec.directory
        self._verify: VerifyMode = spec.verify

    async def begin(self, target: Target, *, stale: bool) -> str:
        """Make the hidden file anew; its inode is the reference."""
        del stale  # what is left of an earlier try goes in any case
        return await self._run(target, lambda: self._begin(target))

    async def resume(self, target: Target, reference: str) -> Begun:
        """Parts can't be listed here: each has to be proved."""

        def look() -> Begun:
            with self._parent(target) as (parent, name):
                try:
                    os.close(_open_unfinished(parent, name, target, reference, os.O_RDONLY))
                except ForgottenError:
                    standing = _standing(parent, name, target)
                    if standing is None or standing.st_size != target.size:
                        raise
                    return Begun(reference=reference, held=None, finished=True)
            return Begun(reference=reference, held=None)

        return await self._run(target, look)

    async def put_part(
        self, target: Target, reference: str, part: PartPlace, body: Body
    ) -> StoredPart:
        """Write the part where it belongs in the hidden file."""

        def opened() -> int:
            with self._parent(target) as (parent, name):
                return _open_unfinished(parent, name, target, reference, os.O_WRONLY)

        fd = await self._run(target, opened)
        try:
            await self._write(target, fd, body, part.offset)
        finally:
            os.close(fd)
        return StoredPart(number=part.number, size=body.size, crc64nvme=body.crc64nvme)

    async def prove_part(
        self, target: Target, reference: str, part: PartPlace, body: Body, held: HeldPart | None
    ) -> StoredPart | None:
        """Compare the hidden file with the part, byte for byte."""
        del held

        def opened() -> int:
            with self._parent(target) as (parent, name):
                return _open_unfinished(parent, name, target, reference, os.O_RDONLY)

        fd = await self._run(target, opened)
        offset = part.offset
        buffer = memoryview(bytearray())
        try:
            async for view in body:
                if len(buffer) < len(view):
                    buffer = memoryview(bytearray(len(view)))
                there = buffer[: len(view)]
                count = await self._run(target, os.preadv, fd, [there], offset)
                if count < len(view) or there != view:
                    return None
                offset += count
        finally:
            os.close(fd)
        return StoredPart(number=part.number, size=body.size, crc64nvme=body.crc64nvme)

    async def finish(
        self,
        target: Target,
        reference: str,
        parts: Sequence[StoredPart],
        content: Content | None = None,
    ) -> StoredObject:
        """Verify the hidden file, and give it the final name."""
        expected = _Expected(sum(part.size for part in parts), combined_crc(parts), content)

        def finish() -> StoredObject:
            with self._parent(target) as (parent, name):
                try:
                    fd = _open_unfinished(parent, name, target, reference, os.O_RDONLY)
                except ForgottenError:
                    if not self._stands(parent, name, expected):
                        raise
                    # Who gave it that name may have died before it was on the disk.
                    os.fsync(parent)
                else:
                    with _closing(fd):
                        self._check(fd, expected)
                        self._publish(parent, name, target, fd, expected)
            return self._stored(target, expected)

        return await self._run(target, finish)

    async def put(
        self, target: Target, body: Body, *, stale: bool, content: Content | None = None
    ) -> StoredObject:
        """Write, verify and name a small object."""
        del stale  # what an earlier try stored is met, and compared, under the final name

        def make() -> str:
            with self._parent(target, create=True) as (parent, name):
                return _make_unfinished(parent, name, target)

        reference = await self._run(target, make)
        place = PartPlace(number=1, offset=0, size=body.size)
        try:
            part = await self.put_part(target, reference, place, body)
            return await self.finish(target, reference, [part], content)
        except BaseException:
            with contextlib.suppress(DestinationError):
                await self.abort(target, reference)
            raise

    async def find(self, target: Target) -> StoredObject | None:
        """Our finished file."""

        def look() -> StoredObject | None:
            try:
                with self._parent(target) as (parent, name):
                    standing = _standing(parent, name, target)
                    if standing is not None:
                        os.fsync(parent)  # its name may be newer than the last sync
            except ForgottenError:
                return None
            if standing is None:
                return None
            return StoredObject(uri=self._uri(target), size=standing.st_size, verified="size")

        return await self._run(target, look)

    async def abort(self, target: Target, reference: str) -> None:
        """Remove the hidden file."""
        del reference

        def remove() -> None:
            with contextlib.suppress(ForgottenError), self._parent(target) as (parent, name):
                _unlink(parent, below.temporary_name(name, target.upload))

        await self._run(target, remove)

    async def aclose(self) -> None:
        """Nothing is kept open."""

    # Blocking ---------------------------------------------------------------------------------

    def _begin(self, target: Target) -> str:
        with self._parent(target, create=True) as (parent, name):
            if _standing(parent, name, target) is not None:
                # Ours, of a try that the journal knows nothing of any more.
                os.unlink(name, dir_fd=parent)
            return _make_unfinished(parent, name, target)

    @contextlib.contextmanager
    def _parent(self, target: Target, *, create: bool = False) -> Iterator[tuple[int, str]]:
        names, last = below.components(target.name)
        with contextlib.ExitStack() as stack:
            try:
                parent = stack.enter_context(below.directory(self._root, names, create=create))
            except FileNotFoundError as error:
                if not Path(self._root).is_dir():
                    raise
                raise ForgottenError("the directory of the unfinished file is gone") from error
            yield parent, last

    def _check(self, fd: int, expected: _Expected) -> None:
        """Have the file on the disk, and hold what is there against what was sent."""
        os.fsync(fd)
        size = os.fstat(fd).st_size
        if size != expected.size:
            raise VerificationError(f"{size} bytes were written instead of {expected.size}")
        if self._verify == "size":
            return
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # read the disk, not our own memory
        _read_back(fd, expected)

    def _publish(
        self, parent: int, name: str, target: Target, fd: int, expected: _Expected
    ) -> None:
        """Give the checked file its final name, never at the cost of another file."""
        temporary = below.temporary_name(name, target.upload)
        try:
            os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            self._settle(parent, name, target, fd, expected)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._rename(parent, name, target, fd, expected)
        _unlink(parent, temporary)
        os.fsync(parent)

    def _settle(self, parent: int, name: str, target: Target, fd: int, expected: _Expected) -> None:
        """A file stands under the final name: ours and equal, ours and old, or another's."""
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if os.path.samestat(there, os.fstat(fd)) or self._stands(parent, name, expected):
            return
        _standing(parent, name, target)
        temporary = below.temporary_name(name, target.upload)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)

    def _rename(self, parent: int, name: str, target: Target, fd: int, expected: _Expected) -> None:
        """Where there are no hard links: look, then rename."""
        temporary = below.temporary_name(name, target.upload)
        try:
            os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        else:
            self._settle(parent, name, target, fd, expected)

    def _stands(self, parent: int, name: str, expected: _Expected) -> bool:
        """Whether the very object is under the final name."""
        try:
            fd = below.open_regular(parent, name, os.O_RDONLY)
        except (FileNotFoundError, DestinationRefusedError):
            return False
        except OSError as error:
            if error.errno == errno.ELOOP:
                return False
            raise
        with _closing(fd):
            if os.fstat(fd).st_size != expected.size:
                return False
            try:
                _read_back(fd, expected)
            except VerificationError:
                return False
            return True

    def _stored(self, target: Target, expected: _Expected) -> StoredObject:
        checksum = {} if self._verify == "size" else {crc.NAME: crc.text(expected.crc)}
        return StoredObject(
            uri=self._uri(target), size=expected.size, checksum=checksum, verified=self._verify
        )

    def _uri(self, target: Target) -> str:
        return (Path(self._root) / target.name).as_uri()

    # ------------------------------------------------------------------------------------------

    async def _write(self, target: Target, fd: int, body: Body, offset: int) -> None:
        async for view in body:
            await self._run(target, below.write_all, fd, view, offset)
            offset += len(view)

    async def _run(self, target: Target, function: Callable[..., T], *args: object) -> T:
        """Do file work in a thread, and speak of its errors as a destination's."""
        try:
            return await in_thread(function, *args)
        except OSError as error:
            kind = (
                DestinationRefusedError if error.errno in _REFUSALS else DestinationUnreachableError
            )
            reason = f"{self._root}: {target.name}: {error.strerror}"
            if error.errno in _FULL:
                reason += "; the delivery goes on by itself once there is room"
            raise kind(reason) from error


def _read_back(fd: int, expected: _Expected) -> None:
    """Raise VerificationError where the file's bytes aren't the object's."""
    check = ReadBack(expected.size, expected.crc, expected.content)
    for piece in crc.pieces(fd):
        check.update(piece)
    check.finish()


def _make_unfinished(parent: int, name: str, target: Target) -> str:
    temporary = below.temporary_name(name, target.upload)
    _unlink(parent, temporary)
    with _closing(
        below.open_regular(parent, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    ) as fd:
        with contextlib.suppress(OSError):
            os.setxattr(fd, ATTRIBUTE, target.upload.encode())
        return str(os.fstat(fd).st_ino)


def _open_unfinished(parent: int, name: str, target: Target, reference: str, flags: int) -> int:
    """The hidden file. Raises ForgottenError where it is gone, or another one."""
    try:
        fd = below.open_regular(parent, below.temporary_name(name, target.upload), flags)
    except FileNotFoundError as error:
        raise ForgottenError("the unfinished file is gone") from error
    if str(os.fstat(fd).st_ino) != reference:
        os.close(fd)
        raise ForgottenError("the unfinished file was replaced")
    return fd


def _standing(parent: int, name: str, target: Target) -> os.stat_result | None:
    """Our file under the final name. Raises DestinationRefusedError for anything else there."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found.st_mode) and (
        target.upload in target.name or _says(parent, name, target.upload)
    ):
        return found
    raise DestinationRefusedError(f"{target.name}: something that isn't this upload's stands there")


def _says(parent: int, name: str, upload: str) -> bool:
    fd = below.open_regular(parent, name, os.O_RDONLY)
    with _closing(fd), contextlib.suppress(OSError):
        return os.getxattr(fd, ATTRIBUTE) == upload.encode()
    return False


def _unlink(parent: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)

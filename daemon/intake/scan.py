"""Looking at what a tus server left on disk. Everything here blocks and is run in threads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import msgspec

from daemon.errors import InfoError
from daemon.intake.info import INFO_SUFFIX, MAX_INFO, Info, parse
from daemon.journal.model import Identity, Sighting
from daemon.opening import components, identify, open_source
from daemon.settings import Uploads
from pipeline.errors import SourceMissingError, SourceUnsafeError

NOWHERE = Identity(device=0, inode=0, size=0, mtime_ns=0, ctime_ns=0)
"""Of data that can't be opened safely. Processing meets the same trouble, and tells of it."""

_STEPS = 20_000
"""Directory entries after which a walk without finds lets others go on."""


class Outcome(Enum):
    """What a look found where it found no upload."""

    GONE = "gone"
    """There is no ``.info``."""
    FOLDER = "folder"
    """A directory: what was put into it before it was watched gave no hint."""
    ASIDE = "aside"
    """A partial, or data that merely bears such a name: no upload by itself, now or later."""
    NO_DATA = "no data"
    """The data isn't there: being created, or being removed."""
    SETTLED = "settled"
    """The journal already has it, past receiving and unchanged."""
    GROWING = "growing"
    """An incomplete one; :attr:`Look.received` is its size now."""


@dataclass(frozen=True, slots=True)
class Look:
    """What stands on disk for one ``.info`` file. ``stem`` is its path without the suffix."""

    stem: str
    found: Sighting | InfoError | OSError | Outcome
    stamp: int = 0
    """Changes whenever the ``.info`` does."""
    received: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of an incomplete upload from an earlier look."""

    stamp: int
    path: str
    size: int | None
    received: int
    """Bytes when the journal last heard of it; -1 where it hasn't."""


@dataclass(slots=True)
class Walk:
    """One walk over the info directory. :meth:`batch` goes on with it."""

    directory: Path
    settled: frozenset[int]
    """Stamps of ``.info`` files that need no further look."""
    met: set[int] = field(default_factory=set)
    """Those of them that are still there."""
    infos: int = 0
    problems: dict[str, OSError] = field(default_factory=dict)
    """Directories that can't be read, by their path."""
    done: bool = False
    _finds: Iterator[str | None] | None = None

    def batch(self, count: int) -> list[str]:
        """Up to ``count`` stems to look at. Sets :attr:`done` at the end. Raises OSError."""
        if self._finds is None:
            self._finds = self._walk()
        stems: list[str] = []
        for stem in self._finds:
            if stem is None:
                return stems
            stems.append(stem)
            if len(stems) >= count:
                return stems
        self.done = True
        return stems

    def _walk(self) -> Iterator[str | None]:
        steps = 0
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            try:
                entries = os.scandir(self.directory / prefix)
            except OSError as error:
                if not prefix:
                    raise
                if not isinstance(error, FileNotFoundError):
                    self.problems[prefix] = error
                continue
            with entries:
                for entry in entries:
                    steps += 1
                    if steps % _STEPS == 0:
                        yield None
                    name = entry.name
                    if name.endswith(INFO_SUFFIX) and name != INFO_SUFFIX:
                        self.infos += 1
                        if not self._is_settled(prefix + name, entry):
                            yield prefix + name.removesuffix(INFO_SUFFIX)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{prefix}{name}/")

    def _is_settled(self, path: str, entry: os.DirEntry[str]) -> bool:
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            return False
        stamp = _stamp(path, found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp not in self.settled:
            return False
        self.met.add(stamp)
        return True


def look(
    uploads: Uploads,
    stem: str,
    seen: Seen | None = None,
    known: Identity | None = None,
    *,
    whole: bool = True,
) -> Look:
    """What stands on disk for one ``.info`` file.

    Args:
        uploads: Where to look.
        stem: The ``.info`` file's path below the info directory, without the suffix.
        seen: What an earlier look found; without ``whole`` an upload that is still incomplete
            then costs no reading.
        known: Of its data, where the journal has it and it is past receiving.
        whole: Whether the caller wants a sighting of an incomplete one, too.
    """
    try:
        return _look(uploads, stem, seen, known, whole=whole)
    except SourceMissingError:
        folder = _is_folder(uploads.info_directory / stem)
        return Look(stem, Outcome.FOLDER if folder else Outcome.GONE)
    except SourceUnsafeError as error:
        if not os.path.lexists(uploads.info_directory / (stem + INFO_SUFFIX)):
            # A hook's id that no file can have. What isn't there is nothing to keep in mind.
            return Look(stem, Outcome.GONE)
        # Symlinks, FIFOs and the like in place of the .info itself.
        return Look(stem, InfoError(error.message))
    except OSError as error:
        return Look(stem, error)


def _look(
    uploads: Uploads, stem: str, seen: Seen | None, known: Identity | None, *, whole: bool
) -> Look:
    info_path = stem + INFO_SUFFIX
    stamp = _stamp_of(info_path, identify(uploads.info_directory, info_path))
    if known is not None and _is_known(uploads, stem, known):
        return Look(stem, Outcome.SETTLED, stamp)
    if seen is not None and seen.stamp == stamp:
        data = _identity(uploads.directory, seen.path, uploads.roots)
        if data is not None and _is_no_news(seen, data.size, whole=whole):
            return Look(stem, Outcome.GROWING, stamp, data.size)
    with open_source(uploads.info_directory, info_path) as source:
        # Of what is read: an .info that changes meanwhile has another stamp at the next look.
        stamp = _stamp_of(info_path, source.identity)
        text = source.read(MAX_INFO + 1)
    if _is_data(uploads, info_path):
        return Look(stem, Outcome.ASIDE, stamp)
    try:
        info = parse(text, stem)
    except InfoError as error:
        return Look(stem, error, stamp)
    if info.is_partial:
        return Look(stem, Outcome.ASIDE, stamp)
    return _sight(uploads, stem, stamp, info)


def _sight(uploads: Uploads, stem: str, stamp: int, info: Info) -> Look:
    path = data_path(uploads, stem, info)
    try:
        components(info.tus_id)
        identity = identify(uploads.directory, path, uploads.roots)
    except SourceMissingError:
        return Look(stem, Outcome.NO_DATA, stamp)
    except SourceUnsafeError:
        return Look(stem, _sighting(uploads, stem, info, path, NOWHERE), stamp)
    return Look(stem, _sighting(uploads, stem, info, path, identity), stamp, identity.size)


@dataclass(frozen=True, slots=True)
class Partial:
    """A partial upload on disk."""

    study: str | None
    path: str
    """Of the data, as in a sighting."""
    data: Identity | None
    """None where it is gone already."""
    info_path: str
    """Below the info directory."""
    info: Identity


def find_partial(uploads: Uploads, tus_id: str) -> Partial | None:
    """A partial upload of that id; None where there is none, or an upload that is none.

    Raises SourceUnsafeError for an id that leads elsewhere, and for what is no plain file.
    """
    components(tus_id)
    info_path = tus_id + INFO_SUFFIX
    try:
        with open_source(uploads.info_directory, info_path) as source:
            info = parse(source.read(MAX_INFO + 1), tus_id)
    except (SourceMissingError, InfoError):
        return None
    if not info.is_partial or _is_data(uploads, info_path):
        return None
    path = data_path(uploads, tus_id, info)
    try:
        data = identify(uploads.directory, path, uploads.roots)
    except SourceMissingError:
        data = None
    study = info.study(uploads.study_key)
    return Partial(study, path, data, info_path, source.identity)


def unseen_upload(uploads: Uploads, tus_id: str, info: Info) -> Sighting:
    """An upload that was gone before it was found, as its server tells of it."""
    gone = _sighting(uploads, tus_id, info, tus_id, NOWHERE)
    return msgspec.structs.replace(gone, complete=False)


def is_complete(info: Info, received: int) -> bool:
    """Whether everything is on disk.

    More than everything is complete as well: processing compares the sizes, and tells of it.
    """
    if info.size is None or received < info.size:
        return False
    return info.offset is None or info.offset >= info.size


def data_path(uploads: Uploads, stem: str, info: Info) -> str:
    """Where the data is: relative to the upload directory if it can be, else absolute.

    The server may see its directory by another path than we do (a container, a symlink), so what
    it calls its own directory is taken for ours.
    """
    if info.tus_id != stem:
        return info.tus_id  # leads elsewhere; what opens it refuses it
    if info.path is None:
        return stem
    theirs = [str(uploads.directory), os.path.realpath(uploads.directory)]
    own_info = "/" + stem + INFO_SUFFIX
    if info.info_path is not None and info.info_path.endswith(own_info):
        theirs.append(info.info_path.removesuffix(own_info))
    for directory in theirs:
        if info.path.startswith(directory.rstrip("/") + "/"):
            return info.path[len(directory.rstrip("/")) + 1 :]
    return info.path


def _sighting(uploads: Uploads, stem: str, info: Info, path: str, identity: Identity) -> Sighting:
    return Sighting(
        directory=str(uploads.directory),
        tus_id=stem,
        server=info.server,
        path=path,
        info_path=str(uploads.info_directory / (stem + INFO_SUFFIX)),
        size=info.size,
        received=identity.size,
        # What can't be opened is handed on at once: processing fails it where people see it.
        complete=identity is NOWHERE or is_complete(info, identity.size),
        metadata=info.metadata,
        study=info.study(uploads.study_key),
        filename=info.filename,
        dropoff_id=info.dropoff_id,
        partials=info.partials,
        identity=identity,
    )


def _is_known(uploads: Uploads, stem: str, known: Identity) -> bool:
    found = _identity(uploads.directory, stem)
    return found is not None and (found.device, found.inode, found.mtime_ns) == (
        known.device,
        known.inode,
        known.mtime_ns,
    )


def _is_no_news(seen: Seen, received: int, *, whole: bool) -> bool:
    if seen.size is not None and received >= seen.size and received != seen.received:
        return False
    return not whole or received == seen.received


def _is_folder(path: Path) -> bool:
    # Step by step a name may be longer than the kernel takes at once; then it is none of ours.
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_data(uploads: Uploads, info_path: str) -> bool:
    """Whether an id that itself ends in ``.info`` makes this the data of another upload."""
    return _identity(uploads.info_directory, info_path + INFO_SUFFIX) is not None


def _identity(directory: Path, path: str, roots: Sequence[Path] = ()) -> Identity | None:
    try:
        return identify(directory, path, roots)
    except (SourceMissingError, SourceUnsafeError):
        return None


def _stamp_of(path: str, identity: Identity) -> int:
    return _stamp(path, identity.inode, identity.mtime_ns, identity.size)


def _stamp(path: str, inode: int, mtime_ns: int, size: int) -> int:
    # One number for each known .info keeps 100,000 of them in a few MiB.
    return hash((path, inode, mtime_ns, size))

"""The directories that dropoffd reads and writes, and the room in them. All of this blocks."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from daemon.checks.findings import Finding, error, ok, warning
from daemon.settings import Settings
from daemon.units import format_size

MIB = 1024 * 1024
LEAST_FREE = 64 * MIB
"""Bytes; below that a place counts as full."""
LITTLE_FREE = 1024 * MIB
FEW_INODES = 10_000
_SAMPLE = 200
"""Files of the upload directory that are looked at."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def user(settings: Settings) -> list[Finding]:
    """Whether the one who checks is the one who runs, as the state's owner tells."""
    if os.geteuid() != 0 or (settings.state.exists() and settings.state.stat().st_uid == 0):
        return []
    return [
        warning(
            "user",
            "root may do everything: permissions are not seen as the service will see them",
            "check as the service's user, e.g. runuser -u dropoffd -- dropoffd check",
        )
    ]


def config_file(settings: Settings) -> list[Finding]:
    """Whether others can change where data goes."""
    file = settings.file
    if file is None:
        return []
    if file.stat().st_mode & stat.S_IWOTH:
        return [
            error("config", f"{file} can be changed by anybody", f"chmod o-w {file}", str(file))
        ]
    return [ok("config", f"{file} is understood")]


def uploads(settings: Settings) -> list[Finding]:
    """The upload directory: to be read, and to be tidied where sources are deleted."""
    deletes = settings.uploads.delete_after is not None
    found: list[Finding] = []
    places = {settings.uploads.directory: "directory"}
    places.setdefault(settings.uploads.info_directory, "info_directory")
    for root in settings.uploads.roots:
        places.setdefault(root, "roots")
    for place, key in places.items():
        found += _upload_directory(place, key, deletes=deletes)
    return found


def _upload_directory(place: Path, key: str, *, deletes: bool) -> Iterator[Finding]:
    if not place.is_dir():
        yield error(
            "uploads",
            f"{place} is no directory",
            f"make it, or set [uploads] {key} to where the tus server writes",
            key,
        )
        return
    mode = os.R_OK | os.X_OK | (os.W_OK if deletes else 0)
    if not _may(place, mode):
        verbs = "read and written" if deletes else "read"
        yield error(
            "uploads",
            f"{place} can't be {verbs} by {_me()}",
            f'give {_me()} the tus server\'s group, or set [uploads] delete = "never"'
            if deletes
            else f"give {_me()} the tus server's group",
            key,
        )
        return
    found = place.stat()
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        yield warning("uploads", f"{place} can be written by anybody", f"chmod o-w {place}", key)
    if deletes and found.st_mode & stat.S_ISVTX and os.geteuid() not in {0, found.st_uid}:
        yield error(
            "uploads",
            f"{place} is sticky: the tus server's files can't be deleted",
            f'chmod -t {place}, or set [uploads] delete = "never"',
            key,
        )
    unreadable = _unreadable(place)
    if unreadable:
        yield error(
            "uploads",
            f"{unreadable} can't be read by {_me()}",
            "have the tus server write with a umask of 027, in a group of both",
            key,
        )
    else:
        yield ok("uploads", f"{place} can be {'read and written' if deletes else 'read'}", key)


def _unreadable(place: Path) -> str:
    with os.scandir(place) as entries:
        for entry in islice(entries, _SAMPLE):
            if entry.is_file(follow_symlinks=False) and not _may(Path(entry.path), os.R_OK):
                return entry.path
    return ""


def spool(settings: Settings) -> list[Finding]:
    """The spool: hooks write into it, the daemon takes from it."""
    place = settings.spool
    if not place.exists():
        return [_not_yet("spool", place)]
    found: list[Finding] = []
    for each in (place, place / "tmp", place / "new", place / "failed"):
        if not each.exists():
            continue
        if trouble := _unwritable(each):
            found.append(
                error("spool", trouble, f"chown it to {_me()}, with the tus server's group")
            )
        elif each.name in {"tmp", "new"} and not each.stat().st_mode & stat.S_IWGRP:
            found.append(
                warning(
                    "spool",
                    f"{each} can't be written by its group",
                    f"chmod g+ws {each}, so that hooks of the tus server can leave events there",
                )
            )
    failed = place / "failed"
    if failed.is_dir() and (count := sum(1 for each in failed.glob("*.json"))):
        found.append(
            warning(
                "spool",
                f"{count} events of hooks were not understood",
                f"see the .reason files in {failed}; uploads are found without them",
            )
        )
    return found or [ok("spool", f"{place} can be written")]


def state(settings: Settings) -> list[Finding]:
    """The state directory and the receipts: ours alone."""
    place = settings.state
    if not place.exists():
        return [_not_yet("state", place)]
    directories = [each for each in (place, place / "receipts") if each.exists()]
    found = [
        error("state", trouble, f"chown -R {_me()} {place}")
        for each in directories
        if (trouble := _unwritable(each))
    ]
    mode = place.stat().st_mode
    if mode & stat.S_IWOTH:
        found.append(error("state", f"{place} can be written by anybody", f"chmod 700 {place}"))
    secret = place / "journal.key"
    for each in (secret, place / "journal.sqlite"):
        if each.exists():
            found += _own_file(each)
    return found or [ok("state", f"{place} can be written")]


def _own_file(path: Path) -> list[Finding]:
    """A file of the state directory that is to be ours alone."""
    if not path.is_file():
        return [error("state", f"{path} is no file", "move it away, or restore it from a backup")]
    status = path.stat()
    found = []
    if status.st_mode & _OTHERS:
        found.append(error("state", f"{path} can be used by others", f"chmod 600 {path}"))
    if not _may(path, os.R_OK | os.W_OK):
        owned = status.st_uid == os.geteuid()
        advice = f"chmod 600 {path}" if owned else f"chown {_me()} {path}"
        found.append(error("state", f"{path} can't be read and written by {_me()}", advice))
    return found


def space(settings: Settings) -> list[Finding]:
    """The room that is left, once for each file system."""
    places = {
        "uploads": settings.uploads.directory,
        "spool": settings.spool,
        "state": settings.state,
    }
    for name, destination in settings.destinations.items():
        if destination.spec.type == "directory":
            places[name] = Path(destination.spec.directory)
    seen: dict[int, list[str]] = {}
    for name, place in places.items():
        there = _nearest(place)
        seen.setdefault(there.stat().st_dev, []).append(name)
    return [_space(", ".join(names), _nearest(places[names[0]])) for names in seen.values()]


def _space(names: str, place: Path) -> Finding:
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    whole = found.f_blocks * found.f_frsize
    message = f"{format_size(free)} of {format_size(whole)} free at {place}"
    advice = "make room: uploads are refused once the journal can't be written"
    if free < LEAST_FREE:
        return error("space", message, advice, names)
    if found.f_files and found.f_favail < FEW_INODES:
        return warning("space", f"{found.f_favail} files more fit at {place}", advice, names)
    if free < LITTLE_FREE:
        return warning("space", message, advice, names)
    return ok("space", message, names)


def _not_yet(check: str, place: Path) -> Finding:
    """A directory that `dropoffd run` will make, if it can."""
    parent = _nearest(place)
    if _may(parent, os.W_OK | os.X_OK):
        return ok(check, f"{place} will be made at the first start")
    return error(
        check,
        f"{place} is not there, and {parent} can't be written by {_me()}",
        f"install -d -o {_me()} {place}",
    )


def _unwritable(place: Path) -> str:
    """What stands against making files there; empty where that works, as it is tried."""
    if not place.is_dir():
        return f"{place} is no directory"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"dropoffd")
            file.flush()
            os.fsync(file.fileno())
    except OSError as trouble:
        return f"{place} can't be written by {_me()}: {trouble.strerror}"
    return ""


def _nearest(place: Path) -> Path:
    """The place itself, or the nearest directory above it that is there."""
    return next(each for each in (place, *place.parents) if each.exists())


def _may(place: Path, mode: int) -> bool:
    return os.access(place, mode, effective_ids=True)


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())

"""Where tusd keeps uploads below their study: `[hooks] study_ids`."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path


def id_below(study: str) -> str:
    """A new tus id, which nobody can guess, below a study."""
    return f"{study}/{uuid.uuid4().hex}"


def make_place(directory: Path, study: str) -> None:
    """Make a study's directory in the upload directory, for those who may write into that one.

    Made by tusd it would have tusd's owner and umask, and we could not remove what is in it once
    it is delivered. Blocks. Raises OSError.
    """
    above = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            os.mkdir(study, 0o700, dir_fd=above)
        except FileExistsError:
            return
        place = os.open(study, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        try:
            _open_as(place, os.fstat(above))
        finally:
            os.close(place)
    finally:
        os.close(above)


def _open_as(place: int, above: os.stat_result) -> None:
    found = os.fstat(place)
    if found.st_gid != above.st_gid:
        os.fchown(place, -1, above.st_gid)
    if found.st_uid != above.st_uid and os.geteuid() == 0:
        os.fchown(place, above.st_uid, -1)
    mode = stat.S_IMODE(above.st_mode)
    try:
        os.fchmod(place, mode)
    except PermissionError:
        # A hardened unit forbids the group bit; what tusd makes is its own group's all the same.
        os.fchmod(place, mode & 0o777)

"""What is delivered: one large file, some, or many small ones."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from daemon.units import format_size, parse_size

_PIECE = 1 << 20


@dataclass(frozen=True)
class Shape:
    """How many files of which size."""

    name: str
    count: int
    size: int
    """Bytes of each."""

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return self.count * self.size

    def __str__(self) -> str:
        """As people say it."""
        size = format_size(self.size)
        return f"one file of {size}" if self.count == 1 else f"{self.count:,} files of {size}"


class Load(NamedTuple):
    """Files that exist, all of one size and alone in their directory."""

    shape: Shape
    files: tuple[Path, ...]

    @property
    def directory(self) -> Path:
        """Where they lie."""
        return self.files[0].parent

    def first(self, count: int) -> Load:
        """The same load with at most that many of its files."""
        files = self.files[:count]
        return Load(replace(self.shape, count=len(files)), files)


def parse(name: str, text: str) -> Shape:
    """The shape that ``4GiB`` or ``64x64MiB`` means. Raises ValueError where it means none."""
    found = re.fullmatch(r"(?:(\d+)\s*[x×]\s*)?(.+)", text)  # noqa: RUF001  # both are written
    count, size = (int(found[1] or 1), parse_size(found[2])) if found else (0, 0)
    if not count or not size:
        raise ValueError(f"{text!r} is not a load such as 4GiB or 64x64MiB")
    return Shape(name, count, size)


@contextmanager
def made(shape: Shape, place: Path | None = None) -> Iterator[Load]:
    """The files, of random bytes: synced and cached in ``place``, or else in memory.

    Where that has no room for them twice they lie where temporary files do.
    """
    with tempfile.TemporaryDirectory(prefix="dropoffd-bench-", dir=place or _roomy(shape)) as named:
        load = Path(named) / "load"
        load.mkdir()
        files = tuple(load / f"{number:06}.bin" for number in range(shape.count))
        for file in files:
            _fill(file, shape.size)
        yield Load(shape, files)


def memory() -> Path | None:
    """A directory whose files lie in memory, where the system has one."""
    found = Path("/dev/shm")  # noqa: S108  # what is made in it has a name of its own
    return found if found.is_dir() else None


def _roomy(shape: Shape) -> Path:
    found = memory()
    if found is not None and shutil.disk_usage(found).free > 2.5 * shape.total:
        return found
    return Path(tempfile.gettempdir())


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for offset in range(0, size, _PIECE):
            file.write(os.urandom(min(_PIECE, size - offset)))
        file.flush()
        os.fsync(file.fileno())  # or it would be written while something else is measured

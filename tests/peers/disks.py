"""Disks that are full or fail, for real: small file systems, and calls that the kernel refuses.

A :class:`SmallDisk` is a tmpfs with a few hundred KiB: what is written there meets a real ENOSPC.
:func:`failing` lets strace answer system calls of running processes with any error, for a while.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self

import pytest

from tests.peers.cache import PeerMissingError, tool

_PATIENCE = 20.0
_BLOCK = bytes(4096)


class SmallDisk:
    """A tmpfs of ``size`` bytes, mounted at ``place``, which is made.

    Raises PeerMissingError on entering where this process may not mount.
    """

    def __init__(self, place: Path, size: int) -> None:
        self.place = place
        self._size = size
        self._ballast = place / "ballast"

    def __enter__(self) -> Self:
        self.place.mkdir(parents=True, exist_ok=True)
        mount = shutil.which("mount", path=f"{os.environ['PATH']}:/usr/bin:/bin")
        if mount is None:
            raise PeerMissingError("mount is missing, which small disks need")
        done = subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={self._size},mode=0770", "small", self.place],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PeerMissingError(f"no small disk can be mounted here: {done.stderr.strip()}")
        return self

    def __exit__(self, *exc: object) -> None:
        # Lazily: a process that is about to end may still have a file open there.
        subprocess.run(["umount", "--lazy", self.place], check=True, capture_output=True)

    def fill(self, *, but: int = 0) -> None:
        """Take all the space there is, and leave ``but`` bytes."""
        with self._ballast.open("ab", buffering=0) as file:
            with pytest.raises(OSError, match="No space left on device"):
                _write_on(file)
            if but:
                file.truncate(max(0, file.tell() - but))

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def failing(pids: Iterable[int], error: str, calls: Sequence[str], *paths: Path) -> Iterator[None]:
    """While this lasts, ``calls`` of those processes fail with ``error``, such as ``EDQUOT``.

    Only those that concern ``paths``, if any are given: calls on a descriptor of such a file or
    directory, or by that very name. The processes go on undisturbed afterwards.
    """
    command = [tool("strace", "lets system calls fail"), "-f", "-qq", "-o", "/dev/null"]
    command += ["-e", f"trace={','.join(calls)}", "-e", f"inject={','.join(calls)}:error={error}"]
    for path in paths:
        command += ["-P", str(path)]
    pids = list(pids)
    for pid in pids:
        command += ["-p", str(pid)]
    strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert strace.stderr is not None
    try:
        deadline = time.monotonic() + _PATIENCE
        while not all(map(_traced, pids)):
            if strace.poll() is not None:
                raise PeerMissingError(f"strace can't trace: {_said(strace)}")
            assert time.monotonic() < deadline, f"strace is not there: {_said(strace)}"
            time.sleep(0.01)
        yield
    finally:
        strace.terminate()
        strace.wait(_PATIENCE)
        strace.stderr.close()


def _write_on(file: BinaryIO) -> None:
    while file.write(_BLOCK):
        pass


def _said(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    ready, _, _ = select.select([process.stderr], [], [], 0.1)
    return os.read(process.stderr.fileno(), 4096).decode(errors="replace") if ready else ""


def _traced(pid: int) -> bool:
    """Whether all threads of a process are traced."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "\nTracerPid:\t0\n" in (task / "status").read_text():
                return False
    return True

"""Where the tests keep what they build: real peers, outside the checkout, built once.

`DROPOFFD_PEERS` names the directory; without it, it is `dropoffd-peers` in the user's cache. What
is built is named after everything it was built from, so a new version never meets an old build,
and several test runs on one machine can share the directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class PeerMissingError(RuntimeError):
    """A peer can't be had on this machine; the message says what it needs.

    A test that meets it is skipped with that reason (see tests/conftest.py).
    """


def directory() -> Path:
    """The cache, made if need be."""
    named = os.environ.get("DROPOFFD_PEERS")
    if named:
        path = Path(named).resolve()
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dropoffd-peers"
    path.mkdir(parents=True, exist_ok=True)
    return path


def tool(name: str, why: str) -> str:
    """A program's path. Raises PeerMissingError where it is not installed."""
    # What the tests' own environment brings stands beside its Python, on PATH or not.
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        raise PeerMissingError(f"no `{name}` on PATH, which {why} needs")
    return path


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 900.0,
) -> str:
    """Run a build step and give its standard output; `env` is added to the environment.

    Raises PeerMissingError with the end of what it said where it fails.
    """
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerMissingError(f"`{command[0]}` took over {timeout:.0f} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout)[-800:].strip()
        raise PeerMissingError(f"`{command[0]}` ended with {done.returncode}: {said}")
    return done.stdout


def built(name: str, sources: Sequence[Path | str], build: Callable[[Path], None]) -> Path:
    """A directory with what `build` put into it, from an earlier run where there is one.

    Args:
        name: The peer's name, for people who look into the cache.
        sources: Everything that the build depends on: files by their bytes, texts as they are.
        build: Fills the empty directory that it is given. Where it raises, nothing is kept.
    """
    digest = hashlib.sha256()
    for source in sources:
        data = source.read_bytes() if isinstance(source, Path) else source.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    place = directory() / f"{name}-{digest.hexdigest()[:16]}"
    if place.is_dir():
        return place
    with _locked(place.with_suffix(".lock")):
        if place.is_dir():
            return place
        unfinished = place.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        begun = time.monotonic()
        say(f"building {name} …")
        build(unfinished)
        unfinished.rename(place)
        say(f"built {name} in {time.monotonic() - begun:.0f} s")
    return place


def say(text: str) -> None:
    """Tell the person who waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

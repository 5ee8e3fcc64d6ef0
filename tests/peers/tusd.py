"""tusd, the real one, in both of its major versions: built from source, started for a test.

`prepare()` (or `python tests/peers/tusd.py`) builds them; :class:`Tusd` runs one.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from os import environ
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.peers import cache

Version = Literal[1, 2]

READY_TIMEOUT = 20.0
_HERE = Path(__file__).parent
_BUILDS: dict[Version, tuple[str, str]] = {
    1: ("tusd-1.13.0", "github.com/tus/tusd/cmd/tusd"),
    2: ("tusd-2.10.0", "github.com/tus/tusd/v2/cmd/tusd"),
}


def prepare(version: Version | None = None) -> None:
    """Build that version, or both, where they aren't built yet.

    Raises PeerMissingError where there is no Go, or no way to the modules.
    """
    for wanted in (version,) if version else _BUILDS:
        program(wanted)


def program(version: Version = 2) -> Path:
    """The program's path, built first if need be (a few minutes). Raises PeerMissingError."""
    name, package = _BUILDS[version]
    module = _HERE / f"tusd{version}"
    go = cache.tool("go", "tusd")

    def build(place: Path) -> None:
        # Go writes a go.sum beside go.mod: the checkout stays as it is.
        source = place / "source"
        shutil.copytree(module, source)
        environment = {"GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "0"}
        cache.run([go, "build", "-o", place / "tusd", package], cwd=source, env=environment)

    return cache.built(name, [module / "go.mod", module / "tools.go", package], build) / "tusd"


class Tusd:
    """A running tusd on a free port of the loopback; use it as a context manager.

    Args:
        directory: The upload directory, made if need be.
        hooks: The directory of its file hooks; None: no hooks.
        version: 1 or 2.
        options: Further command line arguments.
        environment: Further environment variables, which its hooks see too.
        port: The port to listen on; 0: a free one, kept from one start to the next.
    """

    def __init__(
        self,
        directory: Path,
        hooks: Path | None = None,
        *,
        version: Version = 2,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self.directory = directory
        self.hooks = hooks
        self.version = version
        self.port = port
        self.log = directory.with_name(directory.name + ".tusd.log")
        self._program = program(version)
        self._options = tuple(options)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where uploads are made."""
        return f"http://127.0.0.1:{self.port}/files/"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.port:
            self.port = free_port()
        command = [str(self._program), "-host", "127.0.0.1", "-port", str(self.port)]
        command += ["-base-path", "/files/", "-upload-dir", str(self.directory)]
        if self.hooks is not None:
            command += ["-hooks-dir", str(self.hooks)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environ, **self._environment},
            )
        deadline = time.monotonic() + READY_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"tusd did not start: {self.tail()}")
            time.sleep(0.02)

    def stop(self, timeout: float = 20.0) -> None:
        """SIGTERM, and wait; what is not gone by then is killed."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """SIGKILL, as in a crash."""
        self._end(signal.SIGKILL, 20.0)

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def _end(self, number: signal.Signals, timeout: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    prepare()

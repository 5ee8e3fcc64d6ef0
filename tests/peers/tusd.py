"""tusd, the real one, in both of its major versions: built from source, started for a test.

`prepare()` (or `python tests/peers/tusd.py`) builds them; :class:`Tusd` runs one.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tests.peers import cache
from tests.peers.process import ServerProcess

Version = Literal[1, 2]

VERSIONS: dict[Version, str] = {1: "1.13.0", 2: "2.10.0"}
STEADY = ("-hooks-enabled-events", "pre-create,post-finish,post-terminate")
"""Options without which tusd 1 may die of an upload: while it tells one hook of a request's
headers it changes them for the next. So no request may call two that it doesn't wait for."""

_HERE = Path(__file__).parent
_PACKAGES: dict[Version, str] = {
    1: "github.com/tus/tusd/cmd/tusd",
    2: "github.com/tus/tusd/v2/cmd/tusd",
}


def prepare(version: Version | None = None) -> None:
    """Build that version, or both, where they aren't built yet.

    Raises PeerMissingError where there is no Go, or no way to the modules.
    """
    for wanted in (version,) if version else VERSIONS:
        program(wanted)


def program(version: Version = 2) -> Path:
    """The program's path, built first if need be (a few minutes). Raises PeerMissingError."""
    package = _PACKAGES[version]
    module = _HERE / f"tusd{version}"
    go = cache.tool("go", "tusd")

    def build(place: Path) -> None:
        # Go writes a go.sum beside go.mod: the checkout stays as it is.
        source = place / "source"
        shutil.copytree(module, source)
        environment = {"GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "0"}
        cache.run([go, "build", "-o", place / "tusd", package], cwd=source, env=environment)

    return (
        cache.built(
            f"tusd-{VERSIONS[version]}", [module / "go.mod", module / "tools.go", package], build
        )
        / "tusd"
    )


class Tusd(ServerProcess):
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
        log = directory.with_name(directory.name + ".tusd.log")
        super().__init__((), port, log, environment)
        self._program = program(version)
        self._options = tuple(options)

    @property
    def url(self) -> str:
        """Where uploads are made."""
        return f"http://127.0.0.1:{self.port}/files/"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.port:
            self.port = free_port()
        command = [str(self._program), "-host", "127.0.0.1", "-port", str(self.port)]
        command += ["-base-path", "/files/", "-upload-dir", str(self.directory)]
        if self.hooks is not None:
            command += ["-hooks-dir", str(self.hooks)]
        self._command = [*command, *self._options]
        super().start()


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    prepare()

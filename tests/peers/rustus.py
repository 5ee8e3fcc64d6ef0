"""rustus, the real one: built from source, started for a test.

`prepare()` builds it; :class:`Rustus` runs one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.peers import cache
from tests.peers.process import ServerProcess
from tests.peers.tusd import free_port

VERSION = "0.5.10"
FEATURES = "http_notifier,amqp_notifier,hashers"
"""Without them it calls no hooks but files."""
MAX_BODY = 64 * 1024 * 1024
"""Bytes that it takes in one request; it holds them all in memory."""


def prepare() -> None:
    """Build it where it isn't built yet (some minutes).

    Raises PeerMissingError where there is no Rust, or no way to the crates.
    """
    program()


def program() -> Path:
    """The program's path, built first if need be. Raises PeerMissingError."""

    def build(place: Path) -> None:
        cargo = cache.tool("cargo", "rustus")
        command: list[str | Path] = [cargo, "install", "rustus", "--version", VERSION, "--locked"]
        cache.run([*command, "--features", FEATURES, "--root", place], timeout=1800)

    return cache.built(f"rustus-{VERSION}", [VERSION, FEATURES], build) / "bin" / "rustus"


class Rustus(ServerProcess):
    """A running rustus on a free port of the loopback; use it as a context manager.

    Args:
        directory: Where it keeps the data, made if need be.
        infos: Where it keeps ``.info`` files; None: beside the data.
        options: Further command line arguments, such as its hooks.
        environment: Further environment variables, which its hooks see too.
        port: The port to listen on; 0: a free one, kept from one start to the next.
    """

    def __init__(
        self,
        directory: Path,
        infos: Path | None = None,
        *,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self.directory = directory
        self.infos = infos or directory
        port = port or free_port()
        command = [str(program()), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        command += ["--data-dir", str(directory), "--info-dir", str(self.infos)]
        command += ["--url", "/files", "--max-body-size", str(MAX_BODY)]
        log = directory.with_name(directory.name + ".rustus.log")
        super().__init__([*command, *options], port, log, environment)

    @property
    def url(self) -> str:
        """Where uploads are made."""
        return f"http://127.0.0.1:{self.port}/files/"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.infos.mkdir(parents=True, exist_ok=True)
        super().start()


if __name__ == "__main__":
    prepare()

"""``rclone serve webdav``: a server that holds no parts, and is told who we are by a password."""

from __future__ import annotations

from pathlib import Path

from tests.peers import cache
from tests.peers.process import ServerProcess
from tests.peers.seaweedfs import free_ports


class RcloneWebDav(ServerProcess):
    """Serves ``directory / "store"``; with ``certificate`` and its ``key`` by TLS."""

    def __init__(
        self, directory: Path, *, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        self.directory = directory / "store"
        self.directory.mkdir()
        self.user = "tests"
        self.password = "tests-password"
        (port,) = free_ports(1)
        secure = ["--cert", str(certificate), "--key", str(key)] if certificate else []
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
        command = [
            *(cache.tool("rclone", "rclone serve webdav"), "serve", "webdav", "--config", ""),
            *("--user", self.user, "--pass", self.password),
            *("--addr", f"127.0.0.1:{port}", *secure, str(self.directory)),
        ]
        super().__init__(command, port, directory / "rclone.log")

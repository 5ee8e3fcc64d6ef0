"""``rclone serve s3``: a store without checksums, that heeds no condition and replaces nothing."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.peers import cache
from tests.peers.seaweedfs import free_ports

START_TIMEOUT = 20.0


class RcloneS3:
    """A server of its own; buckets are the directories below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.access_key = "tests-access-key-012"
        self.secret_key = "tests-secret-key-01234567"
        self.directory = directory
        self._program = cache.tool("rclone", "rclone serve s3")
        (self._port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def make_bucket(self, name: str) -> None:
        (self.directory / name).mkdir(parents=True)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                *(self._program, "serve", "s3", "--config", ""),
                *("--auth-key", f"{self.access_key},{self.secret_key}"),
                *("--addr", f"127.0.0.1:{self._port}", str(self.directory)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline:
                    self.__exit__()
                    raise
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *exc: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

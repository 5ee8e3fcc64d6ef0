"""The null S3 server: discards bodies, counts them, costs a client next to nothing."""

from __future__ import annotations

import json
import select
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tests.peers import cache

_SOURCE = Path(__file__).parent / "null_s3_server"


def prepare() -> Path:
    """Build it where it isn't built yet, and give the program's path.

    Raises PeerMissingError where there is no Go.
    """
    go = cache.tool("go", "the null S3 server")
    env = {
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false",
    }

    def build(place: Path) -> None:
        cache.run([go, "build", "-o", place / "null_s3", "."], cwd=_SOURCE, env=env)

    return cache.built("null-s3", [_SOURCE / "go.mod", _SOURCE / "main.go"], build) / "null_s3"


class SentPart(msgspec.Struct, frozen=True):
    """A part as it was sent last, and how often it was sent."""

    bytes: int
    requests: int


class SeenUpload(msgspec.Struct, frozen=True):
    """A multipart upload: `state` is open, complete or aborted."""

    key: str
    state: str
    parts: dict[str, SentPart]


class SeenObject(msgspec.Struct, frozen=True):
    """A finished object."""

    bytes: int
    etag: str


class Count(msgspec.Struct, frozen=True):
    """All that the server saw. Keys of objects begin with the bucket."""

    requests: int
    bytes: int
    uploads: dict[str, SeenUpload]
    objects: dict[str, SeenObject]
    cpu_seconds: float


class Total(msgspec.Struct, frozen=True):
    """How much the server saw so far; `objects` is how many it holds now."""

    requests: int
    bytes: int
    objects: int
    cpu_seconds: float


class NullS3:
    """A running null S3 server on a free port of the loopback; use it as a context manager.

    Any bucket exists, any credentials do. With `certificate` and `key` (PEM files) it speaks HTTPS.
    """

    def __init__(self, *, certificate: Path | None = None, key: Path | None = None) -> None:
        self._command = [str(prepare())]
        self._scheme = "http"
        if certificate is not None and key is not None:
            self._command += ["-cert", str(certificate), "-key", str(key)]
            self._scheme = "https"
        self._process: subprocess.Popen[str] | None = None
        self.host = "127.0.0.1"
        self.port = 0

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"{self._scheme}://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def count(self) -> Count:
        """What came in so far, by name."""
        return msgspec.convert(self._ask("/_count"), Count)

    def total(self) -> Total:
        """What came in so far, at a cost that doesn't grow with it."""
        return msgspec.convert(self._ask("/_total"), Total)

    def _ask(self, path: str) -> object:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with urllib.request.urlopen(  # noqa: S310  # our own server on the loopback
            f"{self.url}{path}", timeout=10, context=context if self._scheme == "https" else None
        ) as answer:
            found: object = json.load(answer)
            return found

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 10.0)
        address = self._process.stdout.readline().strip() if ready else ""
        if not address:
            self.__exit__(None, None, None)
            raise RuntimeError("the null S3 server did not start")
        self.port = int(address.rpartition(":")[2])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        deadline = time.monotonic() + 5.0
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

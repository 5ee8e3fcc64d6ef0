"""An HTTP server that keeps what it is asked, byte for byte, and answers as it is told."""

from __future__ import annotations

import socketserver
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Request:
    """What came in."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    """Names in lower case, values as they were sent, as Latin-1."""
    body: bytes

    def header(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key == name]


class Recorder:
    """Listens on the loopback, in a thread; use it as a context manager."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: dict[str, str] = {}
        """Headers of the answers."""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.recorder = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Where it takes uploads, if it is asked."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/files/"

    def taken(self) -> list[Request]:
        """What came in since the last call."""
        taken, self.requests = self.requests, []
        return taken

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    recorder: Recorder


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        first = self.rfile.readline().decode("latin-1").split()
        if len(first) != 3:
            return
        headers: list[tuple[str, str]] = []
        while (line := self.rfile.readline().decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = line.partition(": ")
            headers.append((name.lower(), value))
        body = self.rfile.read(int(dict(headers).get("content-length", "0")))
        recorder = self.server.recorder
        recorder.requests.append(Request(first[0], first[1], tuple(headers), body))
        told = "".join(f"{name}: {value}\r\n" for name, value in recorder.answer.items())
        answer = f"HTTP/1.1 201 Created\r\n{told}Content-Length: 0\r\nConnection: close\r\n\r\n"
        self.wfile.write(answer.encode("latin-1"))

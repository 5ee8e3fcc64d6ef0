"""The virtual URL from outside: nginx, and behind it a server that keeps what it is asked."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.nginx import Nginx
from tests.peers.recorder import Recorder, Request

STUDY = "11111111-2222-4333-8444-55555555abcd"
OTHER = "99999999-2222-4333-8444-555555555555"
CREATE = f"/uploads/{STUDY}/"
UPLOAD = "0123456789abcdef0123456789abcdef"
STUDY_IDS = "[hooks]\nstudy_ids = true\n"
BASE64 = base64.b64encode(STUDY.encode()).decode()


@dataclass(frozen=True)
class Way:
    """nginx, and the server behind it that keeps what it is asked."""

    nginx: Nginx
    server: Recorder

    def ask(
        self, method: str, path: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
    ) -> tuple[int, http.client.HTTPMessage]:
        """Ask exactly so; the answer's status and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.nginx.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value.encode("latin-1"))
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers
        finally:
            connection.close()

    def answer(self, method: str, path: str, name: str, told: str) -> str | None:
        """What becomes of a header of the server's answer."""
        self.server.answer = {name: told}
        try:
            return self.ask(method, path)[1][name]
        finally:
            self.server.answer = {}
            self.server.taken()

    def passed(self, method: str, path: str, *headers: tuple[str, str]) -> Request:
        """The request as the server got it."""
        status, _ = self.ask(method, path, headers)
        (request,) = self.server.taken()
        assert status == 201
        return request

    def refused(self, path: str, *headers: tuple[str, str], method: str = "POST") -> int:
        """The status of an answer that the server knows nothing of."""
        status, _ = self.ask(method, path, headers)
        assert self.server.taken() == []
        return status


@contextmanager
def way_in(directory: Path, config: str = "", *options: str) -> Iterator[Way]:
    file = directory / "config.toml"
    file.write_text(f'[uploads]\ndirectory = "{directory}/uploads"\n{config}')
    with Recorder() as server:
        arguments = ["--config", str(file), *options]
        with Nginx(directory / "nginx", server.url, arguments) as nginx:
            yield Way(nginx, server)


def metadata(request: Request) -> str:
    (sent,) = request.header("upload-metadata")
    return sent

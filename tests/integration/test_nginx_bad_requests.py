"""No request through nginx makes an upload at a real tus server in a study its URL doesn't name."""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.intake.info import parse
from tests.peers.nginx import Nginx
from tests.peers.rustus import Rustus
from tests.peers.tusd import Tusd, free_port
from tests.peers.virtual_url import CREATE, OTHER, STUDY

CLAIM = base64.b64encode(OTHER.encode()).decode()
ENCODED = "".join(f"%{ord(each):02x}" for each in OTHER)
MEBIBYTE = base64.b64encode(bytes(1024 * 1024)).decode()
KEY = "Upload-Metadata"

pytestmark = pytest.mark.peers


@dataclass(frozen=True)
class Entrance:
    """nginx, and a real tus server behind it that has no hooks."""

    nginx: Nginx
    uploads: Path

    def post(self, path: str, *headers: str, version: str = "1.1") -> int:
        """The status of the answer to a POST that makes an empty upload; 0: no answer."""
        lines = [f"POST {path} HTTP/{version}", "Host: h", "Tus-Resumable: 1.0.0"]
        lines += ["Upload-Length: 0", "Connection: close", *headers, "", ""]
        with socket.create_connection(("127.0.0.1", self.nginx.port), timeout=20) as connection:
            # What is too long is not read to its end.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall("\r\n".join(lines).encode("latin-1"))
            try:
                answer = connection.recv(1024)
            except ConnectionResetError:
                return 0
        return int(answer.split()[1]) if answer else 0

    def made(self) -> list[str | None]:
        """The studies of all uploads at the server, which then are removed."""
        studies = []
        for path in list(self.uploads.rglob("*.info")):
            stem = str(path.relative_to(self.uploads)).removesuffix(".info")
            studies.append(parse(path.read_bytes(), stem).study("study"))
            path.unlink()
        return studies


@pytest.fixture(scope="module", params=["tusd 2", "tusd 1", "rustus"])
def entrance(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Entrance]:
    directory = tmp_path_factory.mktemp("entrance")
    uploads = directory / "uploads"
    server: Tusd | Rustus
    if request.param == "rustus":
        server = Rustus(uploads)
    else:
        server = Tusd(uploads, version=1 if request.param == "tusd 1" else 2, port=free_port())
    with server, Nginx(directory / "nginx", server.url) as nginx:
        yield Entrance(nginx, uploads)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (f"{KEY}:",),
        (f"{KEY}: study {CLAIM}",),
        (f"{KEY}: STUDY {CLAIM},Study {CLAIM}",),
        (f"{KEY}: study {CLAIM},filename YQ==,study {CLAIM}",),
        (f"{KEY}: filename YQ==", f"{KEY}: study {CLAIM}"),
        (f"upload-METADATA: study {CLAIM}",),
        (f"Upload_Metadata: study {CLAIM}",),
        (f"{KEY}:", f"{KEY}: study {CLAIM}", f"{KEY}:"),
        (f"X-HTTP-Method-Override: POST\r\n{KEY}: study {CLAIM}",),
        (f"Connection: {KEY}", f"{KEY}: study {CLAIM}"),
        (f"X-Original-URL: /uploads/{OTHER}/", f"X-Rewrite-URL: /uploads/{OTHER}/"),
    ],
    ids=lambda told: repr(told)[:60],
)
def test_metadata_never_leads_away_from_the_urls_study(
    entrance: Entrance, headers: tuple[str, ...]
) -> None:
    assert entrance.post(CREATE, *headers) == 201
    assert entrance.made() == [STUDY]


@pytest.mark.parametrize(
    ("path", "version"),
    [
        (CREATE.rstrip("/"), "1.1"),
        (f"/uploads/{STUDY.upper()}/", "1.1"),
        (f"{CREATE}?study={OTHER}&/uploads/{OTHER}/", "1.1"),
        (f"http://h{CREATE}", "1.1"),
        (f"http://{OTHER}{CREATE}", "1.1"),
        (CREATE, "1.0"),
    ],
)
def test_a_studys_url_in_other_words_is_that_studys(
    entrance: Entrance, path: str, version: str
) -> None:
    assert entrance.post(path, f"{KEY}: study {CLAIM}", version=version) == 201
    assert entrance.made() == [STUDY]


@pytest.mark.parametrize(
    "header",
    [
        f"{KEY}: \xa0study {CLAIM}",
        f"{KEY}: \xc2\xa0study {CLAIM}",
        f"{KEY}: study\t{CLAIM}",
        f"{KEY}: study {CLAIM} {CLAIM}",
        f"{KEY}: filename YQ==\r\n ,study {CLAIM}",
        f"{KEY}: filename YQ==,,study {CLAIM}",
        f"{KEY}: study {CLAIM},big {MEBIBYTE}",
        f"{KEY}: big {MEBIBYTE},study {CLAIM}",
    ],
    ids=lambda told: repr(told)[:60],
)
def test_metadata_that_servers_may_read_in_two_ways_makes_no_upload(
    entrance: Entrance, header: str
) -> None:
    assert entrance.post(CREATE, header) in {400, 413, 431, 0}
    assert entrance.made() == []


@pytest.mark.parametrize(
    "path",
    [
        f"/uploads/{ENCODED}/",
        f"/uploads/{STUDY}%2f..%2f{OTHER}/",
        f"/uploads/{STUDY}/../{OTHER}/",
        f"/uploads/{STUDY}/%2e%2e/{OTHER}/",
        f"/uploads/{STUDY}/..;/{OTHER}/",
        f"/uploads/{STUDY}/..\\{OTHER}/",
        f"//uploads/{OTHER}/",
        f"/uploads//{OTHER}/",
        f"/uploads/{OTHER}//",
        f"/uploads/{STUDY}/{OTHER}/",
        f"/uploads/{OTHER}%00/",
        f"/uploads/{OTHER}%20/",
        f"/uploads/{OTHER} /",
        f"http://h/files/#{CREATE}",
        f"http://h//uploads/{OTHER}/",
        f"/files/?/uploads/{OTHER}/",
        "/files/",
        "*",
    ],
)
def test_a_path_that_is_no_studys_makes_no_upload(entrance: Entrance, path: str) -> None:
    assert entrance.post(path, f"{KEY}: study {CLAIM}") in {400, 404}
    assert entrance.made() == []


@pytest.mark.parametrize(
    "framing",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 0", "Content-Length: 200"),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding : chunked",),
    ],
)
def test_no_second_request_is_hidden_in_a_first(
    entrance: Entrance, framing: tuple[str, ...]
) -> None:
    hidden = "0\r\n\r\nPOST /files/ HTTP/1.1\r\nHost: h\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 0"
    hidden += f"\r\n{KEY}: study {CLAIM}"
    # Whatever the status of the first: what follows it is never a request to the tus server.
    entrance.post(CREATE, *framing, "", hidden)
    assert set(entrance.made()) <= {STUDY}

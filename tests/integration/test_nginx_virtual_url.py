"""A study is where its URL says: what nginx lets through, and what it makes of it."""

from __future__ import annotations

import asyncio
import base64
import http.client
import re
import ssl
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.peers import cache
from tests.peers.certificates import self_signed
from tests.peers.intake import until
from tests.peers.nginx import Nginx
from tests.peers.recorder import Recorder, Request
from tests.peers.tus_client import TusClient
from tests.peers.tusd import Tusd, free_port

STUDY = "11111111-2222-4333-8444-55555555abcd"
OTHER = "99999999-2222-4333-8444-555555555555"
CREATE = f"/uploads/{STUDY}/"
UPLOAD = "0123456789abcdef0123456789abcdef"
STUDY_IDS = "[hooks]\nstudy_ids = true\n"
BASE64 = base64.b64encode(STUDY.encode()).decode()

pytestmark = pytest.mark.peers


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


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Way, Way]]:
    """To a server that keeps all uploads in one place, and to one that keeps them by study."""
    flat, nested = tmp_path_factory.mktemp("flat"), tmp_path_factory.mktemp("nested")
    with way_in(flat) as first, way_in(nested, STUDY_IDS) as second:
        yield first, second
        for each in (first, second):
            assert not {"[error]", "[alert]", "[crit]"} & set(each.nginx.errors.split())


@pytest.fixture(scope="module")
def way(ways: tuple[Way, Way]) -> Way:
    return ways[0]


@pytest.fixture(scope="module")
def nested(ways: tuple[Way, Way]) -> Way:
    return ways[1]


def metadata(request: Request) -> str:
    (sent,) = request.header("upload-metadata")
    return sent


def test_the_files_stand_nginxs_own_test(way: Way) -> None:
    assert "test is successful" in way.nginx.test()


def test_a_broken_file_doesnt(tmp_path: Path) -> None:
    nginx = Nginx(tmp_path, "http://127.0.0.1:1/files/")
    module = nginx.installed / "dropoff_tus.js"
    module.write_text(module.read_text().replace("function verdict(r) {", "function verdict(r) "))
    with pytest.raises(subprocess.CalledProcessError):
        nginx.test()


# The path ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CREATE, CREATE.rstrip("/"), f"/uploads/{STUDY.upper()}/"])
def test_a_studys_url_is_where_its_uploads_are_made(way: Way, path: str) -> None:
    request = way.passed("POST", path)
    assert (request.target, metadata(request)) == ("/files/", f"study {BASE64}")


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE", "GET", "OPTIONS", "POST"])
def test_an_uploads_url_is_stripped(way: Way, nested: Way, method: str) -> None:
    assert way.passed(method, CREATE + UPLOAD).target == f"/files/{UPLOAD}"
    assert nested.passed(method, CREATE + UPLOAD).target == f"/files/{STUDY}/{UPLOAD}"


def test_a_query_goes_on(way: Way) -> None:
    assert (
        way.passed("PATCH", f"{CREATE}{UPLOAD}?a=%2e%2e/b").target == f"/files/{UPLOAD}?a=%2e%2e/b"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/uploads",
        "/uploads/",
        "/uploads/nothing",
        f"/uploads/{STUDY}0/",
        f"/uploads/{STUDY[:-1]}/",
        f"/uploads/{STUDY.replace('-', '')}/",
        f"/uploads/{{{STUDY}}}/",
        f"/uploads/{STUDY[:-1]}g/",
        f"/uploads/{STUDY},{OTHER}/",
        f"/uploads/{STUDY}%0a/",
        f"/uploads/{STUDY}%00",
        f"/uploads/%31{STUDY[1:]}/",
        f"/uploads%2f{STUDY}/",
        f"/%75ploads/{STUDY}/",
        f"/uploads/{STUDY}%2f{UPLOAD}",
        f"/uploads//{STUDY}/",
        f"//uploads/{STUDY}/",
        f"/uploads/{STUDY}//",
        f"/uploads/{STUDY}//{UPLOAD}",
        f"/uploads/{STUDY}/{UPLOAD}/",
        f"/uploads/{STUDY}/{UPLOAD}/{UPLOAD}",
        f"/uploads/{STUDY}/{OTHER}/{UPLOAD}",
        f"/uploads/{STUDY}/..",
        f"/uploads/{STUDY}/.",
        f"/uploads/{STUDY}/../{OTHER}/",
        f"/uploads/{OTHER}/../{STUDY}/{UPLOAD}",
        f"/uploads/./{STUDY}/",
        f"/uploads/../uploads/{STUDY}/",
        f"/other/../uploads/{STUDY}/",
        f"/uploads/{STUDY}/%2e%2e/{UPLOAD}",
        f"/uploads/{STUDY}/%2e%2e%2f{OTHER}%2f{UPLOAD}",
        f"/uploads/{STUDY}/..%5c{UPLOAD}",
        f"/uploads/{STUDY}/\\{UPLOAD}",
        f"/uploads/{STUDY}/{UPLOAD}%00",
        f"/uploads/{STUDY}/{UPLOAD}#x",
        f"/uploads/{STUDY}/{UPLOAD};x",
        f"/uploads/{STUDY}/{'x' * 129}",
        f"/uploads/{STUDY};/",
        f"/Uploads/{STUDY}/",
        f"/files/{UPLOAD}",
        "/files/",
        "/metrics",
        "/",
    ],
)
def test_whatever_is_no_studys_url_never_reaches_the_server(
    way: Way, nested: Way, path: str
) -> None:
    for each in (way, nested):
        for method in ("POST", "PATCH"):
            # nginx itself answers 400 to what is no path at all.
            assert each.refused(path, method=method) in ({400, 404} if "%00" in path else {404})


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [STUDY, STUDY.upper(), OTHER, UPLOAD, "/", "/", "..", ".", "%2f", "%2e", "%", "?", "-"]
        )
        | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=4),
        max_size=7,
    ).map("".join)
)
def test_the_server_only_sees_the_study_and_upload_that_a_path_names(
    nested: Way, rest: str
) -> None:
    status, _ = nested.ask("PATCH", f"/uploads/{rest}")
    seen = nested.server.taken()
    named = re.match(
        r"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?:/([^/?#%]*))?", rest
    )
    if not seen:
        assert status in {400, 404}
    else:
        assert named is not None
        study, upload = named[1].lower(), named[2] or ""
        target = seen[0].target.partition("?")[0]
        assert target == (f"/files/{study}/{upload}" if upload else "/files/")
        assert metadata(seen[0]) == f"study {base64.b64encode(study.encode()).decode()}"


# Upload-Metadata -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("filename YS50eHQ=", "filename YS50eHQ=,"),
        (f"study {base64.b64encode(OTHER.encode()).decode()}", ""),
        ("study", ""),
        ("STUDY eA==,Study eQ==,sTuDy", ""),
        ("study eA==,filename YQ==,study eQ==", "filename YQ==,"),
        ("filename YQ==, study eA==", "filename YQ==,"),
        (" a,b YQ== , c", "a,b YQ== , c,"),
        ("studyx eA==,xstudy eA==,study/ eA==", "studyx eA==,xstudy eA==,study/ eA==,"),
        ("__proto__ eA==,constructor,toString", "__proto__ eA==,constructor,toString,"),
        ("a!#$%&'*+.^_`|~\"()/:;<=>?@[]{}\\ eA==", "a!#$%&'*+.^_`|~\"()/:;<=>?@[]{}\\ eA==,"),
        ("", ""),
    ],
)
def test_the_urls_study_takes_the_place_of_the_clients(way: Way, sent: str, kept: str) -> None:
    request = way.passed("POST", CREATE, ("Upload-Metadata", sent))
    assert metadata(request) == f"{kept}study {BASE64}"


def test_several_headers_are_one(way: Way) -> None:
    pairs = ("a YQ==", "", "study eA==", "b Yg==,STUDY eQ==")
    request = way.passed("POST", CREATE, *(("upload-METADATA", pair) for pair in pairs))
    assert metadata(request) == f"a YQ==,b Yg==,study {BASE64}"


def test_a_method_in_disguise_changes_nothing(way: Way) -> None:
    disguise = ("X-HTTP-Method-Override", "POST")
    spoofed = ("Upload-Metadata", "study eA==")
    for method in ("GET", "PATCH", "OPTIONS"):
        assert metadata(way.passed(method, CREATE, disguise, spoofed)) == f"study {BASE64}"


@pytest.mark.parametrize(
    "sent",
    [
        ",",
        "a YQ==,",
        ",a YQ==",
        "a YQ==,,b",
        "a  YQ==",
        "a YQ== YQ==",
        "a\tYQ==",
        "a YQ",
        "a YQ=",
        "a YQ===",
        "a Y=Q=",
        "a YQ-_",
        "a ä",
        "Größe YQ==",
        "\xc2\xa0study YQ==",
        "\xa0study YQ==",
        "\x0bstudy YQ==",
        "study YQ",
        "a YQ==,a Yg==",
    ],
)
def test_what_tus_forbids_is_refused(way: Way, sent: str) -> None:
    assert way.refused(CREATE, ("Upload-Metadata", sent)) == 400


def test_a_mebibyte_of_metadata_is_refused(way: Way) -> None:
    sent = "a " + base64.b64encode(bytes(1024 * 1024)).decode()
    try:
        assert way.refused(CREATE, ("Upload-Metadata", sent)) in {400, 413, 431}
    except (BrokenPipeError, ConnectionResetError):
        assert way.server.taken() == []


KEYS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","),
    min_size=1,
    max_size=8,
) | st.sampled_from(["study", "STUDY", "Study", "filename"])
PAIRS = st.lists(
    st.tuples(KEYS, st.none() | st.binary(max_size=12)), unique_by=lambda pair: pair[0]
)


@settings(max_examples=150, deadline=None)
@given(PAIRS)
def test_every_other_pair_is_kept_byte_for_byte(
    way: Way, pairs: list[tuple[str, bytes | None]]
) -> None:
    told = [
        key if value is None else f"{key} {base64.b64encode(value).decode()}"
        for key, value in pairs
    ]
    request = way.passed("POST", CREATE, ("Upload-Metadata", ",".join(told)))
    others = [text for text, (key, _) in zip(told, pairs, strict=True) if key.lower() != "study"]
    found = metadata(request).split(",")
    assert found[-1] == f"study {BASE64}"
    # Blanks at the ends of the header are not the header's.
    assert ",".join(found[:-1]).strip() == ",".join(others).strip()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["study", "STUDY", " ", ",", "\t", "=", "eA==", "\xa0", "\xc2\x85", "a"]),
        max_size=8,
    ).map("".join)
)
def test_no_metadata_names_another_study(way: Way, sent: str) -> None:
    status, _ = way.ask("POST", CREATE, [("Upload-Metadata", sent)])
    seen = way.server.taken()
    if not seen:
        assert status == 400
    else:
        pairs = [pair.split() for pair in metadata(seen[0]).split(",")]
        studies = [pair for pair in pairs if pair[0].strip("\xa0\x85\xc2").lower() == "study"]
        assert studies == [["study", BASE64]]


def test_another_key_can_hold_the_study(tmp_path: Path) -> None:
    with way_in(tmp_path, 'study_key = "Project\\"\\\\ID"\n', "--prefix", "/in/tus") as way:
        request = way.passed(
            "POST", f"/in/tus/{STUDY}/", ("Upload-Metadata", 'project"\\id eA==,study eA==')
        )
        assert metadata(request) == f'study eA==,Project"\\ID {BASE64}'


# Upload-Concat -------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["", "http://uploads.example.org", "HTTPS://h:1"])
def test_the_parts_of_a_whole_are_named_as_the_server_knows_them(
    way: Way, nested: Way, origin: str
) -> None:
    virtual = f"final;{origin}{CREATE}a1 {origin}/uploads/{STUDY.upper()}/b2"
    sent = ("Upload-Concat", virtual)
    assert way.passed("POST", CREATE, sent).header("upload-concat") == ["final;/files/a1 /files/b2"]
    (found,) = nested.passed("POST", CREATE, sent).header("upload-concat")
    assert found == f"final;/files/{STUDY}/a1 /files/{STUDY}/b2"


def test_a_part_is_told_as_such(way: Way) -> None:
    request = way.passed("POST", CREATE, ("Upload-Concat", "partial"))
    assert request.header("upload-concat") == ["partial"]
    assert way.passed("POST", CREATE).header("upload-concat") == []


@pytest.mark.parametrize(
    "sent",
    [
        f"final;/uploads/{OTHER}/a1",
        f"final;{CREATE}a1 /uploads/{OTHER}/b2",
        f"final;/files/{UPLOAD}",
        f"final;{UPLOAD}",
        f"final;{CREATE}",
        f"final;{CREATE}../{OTHER}/a1",
        f"final;{CREATE}%61",
        f"final;{CREATE}a1?x",
        f"final;//evil.example.org{CREATE}a1",
        f"Final;/uploads/{OTHER}/a1",
        f"partial;/uploads/{OTHER}/a1",
        "final;",
        "final",
        "whole",
    ],
)
def test_a_whole_has_no_parts_of_others(way: Way, sent: str) -> None:
    assert way.refused(CREATE, ("Upload-Concat", sent)) == 400


def test_two_wholes_at_once_are_refused(way: Way) -> None:
    twice = ("Upload-Concat", f"final;{CREATE}a1")
    assert way.refused(CREATE, twice, twice) == 400


# Answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("/files/a1", f"{CREATE}a1"),
        ("http://{host}/files/a1", f"http://{{host}}{CREATE}a1"),
        ("http://uploads.example.org/files/a1", f"http://uploads.example.org{CREATE}a1"),
        ("/elsewhere/a1", "/elsewhere/a1"),
    ],
)
def test_a_location_comes_back_below_the_studys_url(
    way: Way, nested: Way, said: str, seen: str
) -> None:
    for each, inner in ((way, "/files/"), (nested, f"/files/{STUDY}/")):
        host = f"127.0.0.1:{each.nginx.port}"
        told = said.format(host=host).replace("/files/", inner)
        found = each.answer("POST", f"/uploads/{STUDY.upper()}/", "Location", told)
        assert found == seen.format(host=host)


def test_the_parts_of_a_whole_come_back_as_well(way: Way, nested: Way) -> None:
    for each, inner in ((way, "/files/"), (nested, f"/files/{STUDY}/")):
        for blank in ("", " "):
            told = f"final;{blank}{inner}a1 http://h{inner}b2"
            found = each.answer("HEAD", CREATE + UPLOAD, "Upload-Concat", told)
            assert found == f"final;{blank}{CREATE}a1 http://h{CREATE}b2"


def test_an_id_that_is_not_below_its_study_is_told_in_the_log(tmp_path: Path) -> None:
    with way_in(tmp_path, STUDY_IDS) as way:
        way.answer("POST", CREATE, "Location", "/files/a1")
    assert "doesn't fit [hooks] study_ids" in way.nginx.errors


# What else the server is told, and how bytes go ----------------------------------------------


def test_the_server_is_told_who_asks_and_how(way: Way) -> None:
    request = way.passed(
        "POST", CREATE, ("Forwarded", "host=evil"), ("X-Forwarded-Host", "evil"), ("Origin", "x")
    )
    host = f"127.0.0.1:{way.nginx.port}"
    assert request.header("host") == [host]
    assert request.header("x-forwarded-host") == [host]
    assert request.header("x-forwarded-proto") == ["http"]
    assert request.header("x-forwarded-for") == ["127.0.0.1"]
    assert (request.header("forwarded"), request.header("origin")) == ([], ["x"])


def test_the_hosts_lines_for_tls_work_and_its_locations_say_https(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    trusting = ssl.create_default_context(cafile=certificate[0])
    with (
        Recorder() as server,
        Nginx(tmp_path / "nginx", server.url, certificate=certificate) as nginx,
    ):
        host = f"127.0.0.1:{nginx.port}"
        server.answer = {"Location": f"http://{host}/files/a1"}
        connection = http.client.HTTPSConnection(host, timeout=20, context=trusting)
        connection.request("POST", CREATE)
        with connection.getresponse() as answer:
            assert answer.headers["Location"] == f"https://{host}{CREATE}a1"
        connection.close()
        (request,) = server.taken()
    assert request.header("x-forwarded-proto") == ["https"]


def test_http_2_carries_one_study_and_one_location(tmp_path: Path) -> None:
    curl = cache.tool("curl", "HTTP/2")
    certificate = self_signed(tmp_path)
    with (
        Recorder() as server,
        Nginx(tmp_path / "nginx", server.url, certificate=certificate) as nginx,
    ):
        server.answer = {"Location": f"http://127.0.0.1:{nginx.port}/files/a1"}
        url = nginx.url(STUDY).replace("http:", "https:")
        options = ["--silent", "--http2", "--cacert", str(certificate[0]), "--dump-header", "-"]
        options += ["--request", "POST", "--header", "Upload-Metadata: a YQ==,Study eA=="]
        said = subprocess.run(
            [curl, *options, url], capture_output=True, text=True, check=True
        ).stdout
        (request,) = server.taken()
    first, *lines = said.splitlines()
    locations = [line for line in lines if line.lower().startswith("location:")]
    assert first.startswith("HTTP/2 201")
    assert metadata(request) == f"a YQ==,study {BASE64}"
    assert locations == [f"location: {url}a1"]


async def test_bytes_are_on_the_servers_disk_while_they_still_come(tmp_path: Path) -> None:
    uploads = tmp_path / "uploads"
    tusd = Tusd(uploads, port=free_port())
    with tusd, Nginx(tmp_path / "nginx", tusd.url) as nginx:
        async with TusClient(nginx.url(STUDY)) as client:
            path = urlsplit(await client.create(10_000_000)).path
            head = (
                f"PATCH {path} HTTP/1.1\r\nHost: h\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
                "Content-Type: application/offset+octet-stream\r\nContent-Length: 10000000\r\n\r\n"
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port)
            writer.write(head.encode() + bytes(3_000_000))
            await writer.drain()
            data = uploads / path.rpartition("/")[2]
            await until(lambda: data.stat().st_size == 3_000_000, "all of it is there")
            writer.close()
            assert reader.at_eof() is False


def test_bodies_go_through_whole(way: Way) -> None:
    body = uuid.uuid4().bytes * 300_000
    status, _ = way.ask("PATCH", CREATE + UPLOAD, (), body)
    (request,) = way.server.taken()
    assert (status, request.body == body) == (201, True)
    assert not any((way.nginx.directory / "body").iterdir())

"""Which URLs get through nginx to the tus server, and as what."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.peers.nginx import Nginx
from tests.peers.virtual_url import BASE64, CREATE, OTHER, STUDY, UPLOAD, Way, metadata

pytestmark = pytest.mark.peers


def test_the_files_stand_nginxs_own_test(flat: Way) -> None:
    assert "test is successful" in flat.nginx.test()


def test_a_broken_file_doesnt(tmp_path: Path) -> None:
    nginx = Nginx(tmp_path, "http://127.0.0.1:1/files/")
    module = nginx.installed / "dropoff_tus.js"
    module.write_text(module.read_text().replace("function verdict(r) {", "function verdict(r) "))
    with pytest.raises(subprocess.CalledProcessError):
        nginx.test()


@pytest.mark.parametrize("path", [CREATE, CREATE.rstrip("/"), f"/uploads/{STUDY.upper()}/"])
def test_a_studys_url_is_where_its_uploads_are_made(flat: Way, path: str) -> None:
    request = flat.passed("POST", path)
    assert (request.target, metadata(request)) == ("/files/", f"study {BASE64}")


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE", "GET", "OPTIONS", "POST"])
def test_an_uploads_url_is_stripped(flat: Way, nested: Way, method: str) -> None:
    assert flat.passed(method, CREATE + UPLOAD).target == f"/files/{UPLOAD}"
    assert nested.passed(method, CREATE + UPLOAD).target == f"/files/{STUDY}/{UPLOAD}"


def test_a_query_goes_on(flat: Way) -> None:
    assert (
        flat.passed("PATCH", f"{CREATE}{UPLOAD}?a=%2e%2e/b").target == f"/files/{UPLOAD}?a=%2e%2e/b"
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
    flat: Way, nested: Way, path: str
) -> None:
    for each in (flat, nested):
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

"""What a WebDAV server may send back, from the plain to the hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.destinations import webdav_urls
from pipeline.destinations.remote import remote_name, sftp_root
from pipeline.destinations.webdav_answers import Resource, bare, resources
from pipeline.errors import DestinationRefusedError, DestinationUnreachableError
from pipeline.messages import DestinationSpec

MD5 = "d41d8cd98f00b204e9800998ecf8427e"
NAMES = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4).map("/".join)


def test_a_listing_tells_of_files_and_collections() -> None:
    body = f"""<?xml version="1.0"?>
    <D:multistatus xmlns:D="DAV:" xmlns:oc="http://owncloud.org/ns">
      <D:response><D:href>https://dav.example/a%20b/</D:href>
        <D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop>
          <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
      <D:response><D:href>/a%20b/%C3%BC</D:href>
        <D:propstat><D:prop><D:getcontentlength>17</D:getcontentlength>
          <D:getetag>"x&amp;y"</D:getetag><D:resourcetype/>
          <oc:checksums><oc:checksum>SHA1:ab MD5:{MD5} ADLER32:1</oc:checksum></oc:checksums>
          </D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
        <D:propstat><D:prop><D:getcontentlength>99</D:getcontentlength></D:prop>
          <D:status>HTTP/1.1 404 Not Found</D:status></D:propstat></D:response>
    </D:multistatus>"""
    assert resources(body.encode()) == [
        Resource(path="/a b", collection=True),
        Resource(path="/a b/ü", size=17, etag='"x&y"', md5=MD5),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Welcome",
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><multistatus>&b;</multistatus>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><multistatus xmlns="DAV:"/>',
        b'<multistatus xmlns="DAV:"><response></multistatus>',
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_listing_is_an_error_and_no_entity_is_ever_looked_up(body: bytes) -> None:
    with pytest.raises(DestinationUnreachableError):
        resources(body)


@given(st.text(max_size=40), st.text(max_size=20))
def test_no_value_in_a_listing_breaks_the_reading(length: str, etag: str) -> None:
    def safe(text: str) -> str:
        plain = "".join(c for c in text if c.isprintable() or c == " ")
        return plain.replace("&", "&amp;").replace("<", "&lt;")

    body = (
        '<multistatus xmlns="DAV:"><response><href>/x</href><propstat><prop>'
        f"<getcontentlength>{safe(length)}</getcontentlength><getetag>{safe(etag)}</getetag>"
        "</prop><status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"
    )
    (found,) = resources(body.encode("utf-8", "replace"))
    assert found.size is None or found.size >= 0


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading(body: bytes) -> None:
    try:
        resources(body)
    except DestinationUnreachableError:
        return


@pytest.mark.parametrize(
    ("etag", "inside"), [('"ab"', "ab"), ('W/"ab"', "ab"), ("ab", "ab"), ("", "")]
)
def test_an_etag_is_kept_without_its_quotes(etag: str, inside: str) -> None:
    assert bare(etag) == inside


@given(NAMES)
def test_an_address_leads_back_to_its_name(name: str) -> None:
    base = "https://dav.example/a%20b"
    try:
        url = webdav_urls.object_url(base, name)
    except DestinationRefusedError:
        return
    assert url.isascii()
    assert webdav_urls.name_of(base + "/", url) == name
    assert webdav_urls.name_of("https://dav.example/a", url) == ""


@pytest.mark.parametrize(
    ("directory", "port", "root"),
    [
        ("", 22, "sftp://host/~/"),
        ("in box", 22, "sftp://host/~/in%20box/"),
        ("/srv/in/", 2222, "sftp://host:2222/srv/in/"),
        ("/", 22, "sftp://host/"),
    ],
)
def test_an_sftp_address_leads_back_to_its_name(directory: str, port: int, root: str) -> None:
    spec = DestinationSpec(name="s", type="sftp", host="host", port=port, directory=directory)
    assert sftp_root(spec) == root
    assert remote_name(spec, f"{root}a%20b/%C3%BC") == "a b/ü"
    assert remote_name(spec, "sftp://other/~/a") == ""

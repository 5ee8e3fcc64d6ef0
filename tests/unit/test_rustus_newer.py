"""What rustus 1.1 writes and sends, by its source: the same as 0.5.10, and a few things more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.errors import InfoError
from daemon.intake.events import parse_event
from daemon.intake.info import Info, parse

TUS_ID = "0b8c6b38-9b63-4d0c-a2a7-3f4a4f1d1f10"


def info(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 -- JSON
    """As `FileInfo` of 1.1.4 is written, key by key."""
    usual: dict[str, Any] = {
        "id": TUS_ID,
        "offset": 5,
        "length": 5,
        "path": f"/data/2026/11/{TUS_ID}",
        "created_at": 1795335221,
        "deferred_size": False,
        "is_partial": False,
        "is_final": False,
        "parts": None,
        "storage": "file_storage",
        "metadata": {"filename": "a b.txt"},
    }
    return usual | fields


def read(fields: dict[str, Any]) -> Info:
    return parse(json.dumps(fields).encode(), TUS_ID)


def test_its_info_is_read() -> None:
    found = read(info())
    assert (found.server, found.tus_id, found.size, found.offset) == ("rustus", TUS_ID, 5, 5)
    assert (found.path, found.filename) == (f"/data/2026/11/{TUS_ID}", "a b.txt")


def test_its_wholes_name_their_parts() -> None:
    found = read(info(is_final=True, parts=["a", "b"]))
    assert (found.is_final, found.partials) == (True, ("a", "b"))
    assert read(info(is_partial=True)).is_partial


def test_an_upload_whose_length_is_not_told_yet_has_no_size() -> None:
    assert read(info(length=None, deferred_size=True, offset=0)).size is None


@pytest.mark.parametrize("storage", ["s3_storage", "s3"])
def test_what_it_keeps_elsewhere_is_refused(storage: str) -> None:
    """`hybrid-s3` and `s3`: there is no file to take."""
    with pytest.raises(InfoError, match=storage):
        read(info(storage=storage, metadata={"_s3_upload_id": "1", "_s3_parts": "{}"}))


@pytest.mark.parametrize("uri", ["URI", "uri"], ids=["default", "v2"])
def test_its_own_hook_formats_are_understood(uri: str) -> None:
    request = {uri: "/files/", "method": "PATCH", "remote_addr": "192.0.2.1", "headers": {"a": "b"}}
    body = json.dumps({"upload": info(), "request": request}).encode()
    event = parse_event(body, "post-finish")
    assert (event.shape, event.client) == ("rustus", "192.0.2.1")
    assert (event.upload.tus_id, event.upload.offset) == (TUS_ID, 5)


@pytest.mark.parametrize("size", [5, None])
def test_its_tusd_hook_format_is_understood(size: int | None) -> None:
    upload = {
        "ID": TUS_ID,
        "Offset": 5,
        "Size": size,
        "IsFinal": False,
        "IsPartial": False,
        "PartialUploads": None,
        "SizeIsDeferred": size is None,
        "MetaData": {"filename": "a b.txt"},
        "Storage": {"Type": "file_storage", "Path": f"/data/{TUS_ID}"},
    }
    request = {"URI": "/", "Method": "POST", "RemoteAddr": "192.0.2.1", "Header": {"a": ["b"]}}
    body = json.dumps({"Upload": upload, "HTTPRequest": request}).encode()
    event = parse_event(body, "post-finish")
    assert (event.shape, event.client) == ("tusd1", "192.0.2.1")
    assert (event.upload.server, event.upload.size) == ("rustus", size)

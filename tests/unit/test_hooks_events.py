"""What tus servers send to hooks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import SpoolError
from daemon.intake.events import parse_event

UPLOAD: dict[str, Any] = {
    "ID": "abc",
    "Size": 5,
    "SizeIsDeferred": False,
    "Offset": 5,
    "MetaData": {"filename": "a"},
    "IsPartial": False,
    "IsFinal": False,
    "PartialUploads": None,
    "Storage": None,
}
REQUEST = {"Method": "POST", "URI": "/files/", "RemoteAddr": "192.0.2.1:99", "Header": {"A": ["b"]}}
TUSD1 = {"Upload": UPLOAD, "HTTPRequest": REQUEST}
TUSD2 = {"Type": "post-finish", "Event": TUSD1}
RUSTUS = {
    "upload": {
        "id": "abc",
        "offset": 5,
        "length": 5,
        "path": None,
        "created_at": 1,
        "deferred_size": False,
        "metadata": {"filename": "a"},
    },
    "request": {"URI": "/files", "method": "POST", "remote_addr": "192.0.2.1", "headers": {}},
}
RUSTUS_AS_TUSD = {
    "Upload": UPLOAD | {"Size": None, "SizeIsDeferred": True, "Storage": {"Type": "file_storage"}},
    "HTTPRequest": REQUEST,
}


@pytest.mark.parametrize(
    ("message", "shape", "client"),
    [
        (TUSD2, "tusd", "192.0.2.1:99"),
        (TUSD1, "tusd1", "192.0.2.1:99"),
        (RUSTUS, "rustus", "192.0.2.1"),
        (RUSTUS_AS_TUSD, "tusd1", "192.0.2.1:99"),
    ],
)
def test_each_server_is_understood(message: dict[str, Any], shape: str, client: str) -> None:
    event = parse_event(json.dumps(message).encode(), "post-finish")
    assert (event.hook, event.shape, event.client) == ("post-finish", shape, client)
    assert (event.upload.tus_id, event.upload.filename) == ("abc", "a")


def test_tusd_2_names_the_hook_itself() -> None:
    assert parse_event(json.dumps(TUSD2).encode(), "post-create").hook == "post-finish"


def test_a_hook_without_a_name_is_refused() -> None:
    with pytest.raises(SpoolError):
        parse_event(json.dumps(TUSD1).encode(), None)


def test_pre_create_has_no_id_yet() -> None:
    upload = UPLOAD | {"ID": ""}
    message = {"Type": "pre-create", "Event": {"Upload": upload, "HTTPRequest": REQUEST}}
    assert parse_event(json.dumps(message).encode(), None).upload.tus_id == ""


@pytest.mark.parametrize("tus_id", ["", "../a", "/etc/passwd", "a//b", "a/..", ".", "a\0b"])
def test_an_id_that_leaves_the_directory_is_refused(tus_id: str) -> None:
    message = {"Upload": UPLOAD | {"ID": tus_id}, "HTTPRequest": REQUEST}
    with pytest.raises(SpoolError):
        parse_event(json.dumps(message).encode(), "post-finish")


@given(
    st.binary(max_size=100)
    | st.sampled_from([TUSD1, TUSD2, RUSTUS]).map(lambda message: json.dumps(message).encode()[:-9])
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(SpoolError):
        parse_event(data, "post-finish")

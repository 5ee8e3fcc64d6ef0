"""What `.info` files of tus servers mean, and which are refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import InfoError
from daemon.intake.info import MAX_INFO, Info, parse

STUDY = "11111111-2222-4333-8444-55555555abcd"


def tusd(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 -- JSON
    usual: dict[str, Any] = {
        "ID": "abc",
        "Size": 5,
        "SizeIsDeferred": False,
        "Offset": 0,
        "MetaData": {"filename": "a.txt", "study": STUDY},
        "IsPartial": False,
        "IsFinal": False,
        "PartialUploads": None,
        "Storage": {
            "InfoPath": "/srv/abc.info",
            "Path": "/srv/abc",
            "Type": "filestore",
        },
    }
    return usual | fields


def rustus(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 -- JSON
    usual: dict[str, Any] = {
        "id": "abc",
        "offset": 3,
        "length": 5,
        "path": "/srv/2026/1/abc",
        "created_at": 1700000000,
        "deferred_size": False,
        "is_partial": False,
        "is_final": False,
        "parts": None,
        "storage": "file_storage",
        "metadata": {"name": "b.txt"},
    }
    return usual | fields


def read(fields: dict[str, Any], stem: str = "abc") -> Info:
    return parse(json.dumps(fields).encode(), stem)


def test_tusd_2_names_id_size_and_path() -> None:
    info = read(tusd())
    assert (info.server, info.tus_id, info.size, info.path) == ("tusd", "abc", 5, "/srv/abc")
    assert info.offset is None


def test_tusd_1_is_read_where_it_is_and_not_where_its_storage_says() -> None:
    assert read(tusd(Storage={"Path": "/elsewhere", "Type": "filestore"})).path is None


def test_rustus_names_length_and_offset() -> None:
    info = read(rustus())
    assert (info.server, info.size, info.offset, info.path) == ("rustus", 5, 3, "/srv/2026/1/abc")


def test_tuspyserver_takes_its_id_from_the_files_name() -> None:
    fields = {"metadata": {}, "size": 7, "offset": 0, "defer_length": False, "is_final": False}
    info = read(fields, "its-name")
    assert (info.server, info.tus_id, info.size) == ("tuspyserver", "its-name", 7)


@pytest.mark.parametrize(
    "fields", [tusd(Size=0, SizeIsDeferred=True), rustus(length=None, deferred_size=True)]
)
def test_a_deferred_length_is_no_size(fields: dict[str, Any]) -> None:
    assert read(fields).size is None


def test_zero_bytes_are_a_size() -> None:
    assert read(tusd(Size=0)).size == 0


@pytest.mark.parametrize(
    ("metadata", "filename"),
    [
        ({"filename": "a", "name": "b"}, "a"),
        ({"name": "b"}, "b"),
        ({"filename": "", "name": "b"}, "b"),
        ({}, "abc"),
    ],
)
def test_the_file_name_is_filename_then_name_then_the_id(
    metadata: dict[str, str], filename: str
) -> None:
    assert read(tusd(MetaData=metadata)).filename == filename


@pytest.mark.parametrize(
    ("text", "study"),
    [
        (STUDY, STUDY),
        (STUDY.upper(), STUDY),
        (f"{{{STUDY}}}", None),
        (STUDY.replace("-", ""), None),
        (f" {STUDY}", None),
        (f"{STUDY}\n", None),
        ("urn:uuid:" + STUDY, None),
        ("", None),
    ],
)
def test_only_a_canonical_uuid_is_a_study(text: str, study: str | None) -> None:
    assert read(tusd(MetaData={"study": text})).study("study") == study


@pytest.mark.parametrize(
    "fields",
    [
        tusd(Size="5"),
        tusd(Size=-1),
        tusd(Size=2**63),
        tusd(Size=None),
        tusd(Size=True),
        tusd(MetaData=[]),
        tusd(MetaData={"a": 1}),
        tusd(ID=7),
        tusd(ID="other"),
        tusd(Storage={"InfoPath": 1, "Path": "x"}),
        tusd(Storage={"InfoPath": "/srv/abc.info", "Path": "a\0b"}),
        tusd(IsPartial="no"),
        tusd(PartialUploads=["a\0"]),
        rustus(length=-1),
        rustus(offset=None),
        rustus(storage="s3"),
        {},
        {"id": "abc"},
    ],
)
def test_another_shape_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InfoError):
        read(fields)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'{"ID":"abc","Si',
        b"\xff\xfe{}",
        b'{"ID":"\xff"}',
        b"[" * 500_000,
        b'{"ID":' * 100_000,
        b"\xef\xbb\xbf{}",
        b" " * (MAX_INFO + 1),
        b'{"ID":"abc","Size":1e400}',
        b'{"ID":"\\ud800"}',
    ],
)
def test_what_is_no_such_json_is_refused(data: bytes) -> None:
    with pytest.raises(InfoError):
        parse(data, "abc")


def test_an_id_that_leads_elsewhere_is_for_the_opening_to_refuse() -> None:
    assert read(tusd(ID="../abc")).tus_id == "../abc"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(InfoError):
        parse(data, "abc")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.sampled_from([tusd(), rustus()]), st.data())
def test_any_field_may_be_anything(fields: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(fields)))
    try:
        info = read(fields | {key: data.draw(JSON)})
    except InfoError:
        return
    assert info.size is None or 0 <= info.size < 2**63
    assert all(isinstance(text, str) for text in info.metadata.values())
    assert info.filename


@given(st.sampled_from([tusd(), rustus()]), st.integers(min_value=0))
def test_a_torn_file_is_refused(fields: dict[str, Any], cut: int) -> None:
    data = json.dumps(fields).encode()
    with pytest.raises(InfoError):
        parse(data[: cut % len(data)], "abc")

"""Uploads' URLs in headers: below the study outside, as the tus server knows them inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.virtual_url import CREATE, OTHER, STUDY, STUDY_IDS, UPLOAD, Way, way_in

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("origin", ["", "http://uploads.example.org", "HTTPS://h:1"])
def test_the_parts_of_a_whole_are_named_as_the_server_knows_them(
    flat: Way, nested: Way, origin: str
) -> None:
    virtual = f"final;{origin}{CREATE}a1 {origin}/uploads/{STUDY.upper()}/b2"
    sent = ("Upload-Concat", virtual)
    assert flat.passed("POST", CREATE, sent).header("upload-concat") == [
        "final;/files/a1 /files/b2"
    ]
    (found,) = nested.passed("POST", CREATE, sent).header("upload-concat")
    assert found == f"final;/files/{STUDY}/a1 /files/{STUDY}/b2"


def test_a_part_is_told_as_such(flat: Way) -> None:
    request = flat.passed("POST", CREATE, ("Upload-Concat", "partial"))
    assert request.header("upload-concat") == ["partial"]
    assert flat.passed("POST", CREATE).header("upload-concat") == []


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
def test_a_whole_has_no_parts_of_others(flat: Way, sent: str) -> None:
    assert flat.refused(CREATE, ("Upload-Concat", sent)) == 400


def test_two_wholes_at_once_are_refused(flat: Way) -> None:
    twice = ("Upload-Concat", f"final;{CREATE}a1")
    assert flat.refused(CREATE, twice, twice) == 400


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
    flat: Way, nested: Way, said: str, seen: str
) -> None:
    for each, inner in ((flat, "/files/"), (nested, f"/files/{STUDY}/")):
        host = f"127.0.0.1:{each.nginx.port}"
        told = said.format(host=host).replace("/files/", inner)
        found = each.answer("POST", f"/uploads/{STUDY.upper()}/", "Location", told)
        assert found == seen.format(host=host)


def test_the_parts_of_a_whole_come_back_as_well(flat: Way, nested: Way) -> None:
    for each, inner in ((flat, "/files/"), (nested, f"/files/{STUDY}/")):
        for blank in ("", " "):
            told = f"final;{blank}{inner}a1 http://h{inner}b2"
            found = each.answer("HEAD", CREATE + UPLOAD, "Upload-Concat", told)
            assert found == f"final;{blank}{CREATE}a1 http://h{CREATE}b2"


def test_an_id_that_is_not_below_its_study_is_told_in_the_log(tmp_path: Path) -> None:
    with way_in(tmp_path, STUDY_IDS) as flat:
        flat.answer("POST", CREATE, "Location", "/files/a1")
    assert "doesn't fit [hooks] study_ids" in flat.nginx.errors

"""A study is where its URL says, whatever the client writes into its metadata."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.peers.virtual_url import BASE64, CREATE, OTHER, STUDY, Way, metadata, way_in

pytestmark = pytest.mark.peers


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
def test_the_urls_study_takes_the_place_of_the_clients(flat: Way, sent: str, kept: str) -> None:
    request = flat.passed("POST", CREATE, ("Upload-Metadata", sent))
    assert metadata(request) == f"{kept}study {BASE64}"


def test_several_headers_are_one(flat: Way) -> None:
    pairs = ("a YQ==", "", "study eA==", "b Yg==,STUDY eQ==")
    request = flat.passed("POST", CREATE, *(("upload-METADATA", pair) for pair in pairs))
    assert metadata(request) == f"a YQ==,b Yg==,study {BASE64}"


def test_a_method_in_disguise_changes_nothing(flat: Way) -> None:
    disguise = ("X-HTTP-Method-Override", "POST")
    spoofed = ("Upload-Metadata", "study eA==")
    for method in ("GET", "PATCH", "OPTIONS"):
        assert metadata(flat.passed(method, CREATE, disguise, spoofed)) == f"study {BASE64}"


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
def test_what_tus_forbids_is_refused(flat: Way, sent: str) -> None:
    assert flat.refused(CREATE, ("Upload-Metadata", sent)) == 400


def test_a_mebibyte_of_metadata_is_refused(flat: Way) -> None:
    sent = "a " + base64.b64encode(bytes(1024 * 1024)).decode()
    try:
        assert flat.refused(CREATE, ("Upload-Metadata", sent)) in {400, 413, 431}
    except (BrokenPipeError, ConnectionResetError):
        assert flat.server.taken() == []


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
    flat: Way, pairs: list[tuple[str, bytes | None]]
) -> None:
    told = [
        key if value is None else f"{key} {base64.b64encode(value).decode()}"
        for key, value in pairs
    ]
    request = flat.passed("POST", CREATE, ("Upload-Metadata", ",".join(told)))
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
def test_no_metadata_names_another_study(flat: Way, sent: str) -> None:
    status, _ = flat.ask("POST", CREATE, [("Upload-Metadata", sent)])
    seen = flat.server.taken()
    if not seen:
        assert status == 400
    else:
        pairs = [pair.split() for pair in metadata(seen[0]).split(",")]
        studies = [pair for pair in pairs if pair[0].strip("\xa0\x85\xc2").lower() == "study"]
        assert studies == [["study", BASE64]]


def test_another_key_can_hold_the_study(tmp_path: Path) -> None:
    with way_in(tmp_path, 'study_key = "Project\\"\\\\ID"\n', "--prefix", "/in/tus") as flat:
        request = flat.passed(
            "POST", f"/in/tus/{STUDY}/", ("Upload-Metadata", 'project"\\id eA==,study eA==')
        )
        assert metadata(request) == f'study eA==,Project"\\ID {BASE64}'

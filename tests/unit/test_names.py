"""Names of objects: what a client made up can't leave its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.processing.names import MAX_FILENAME, object_name, safe_filename


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("scan.bam", "scan.bam"),
        ("Größe ñ 数据.vcf", "Größe ñ 数据.vcf"),
        ("../../etc/passwd", "___.._etc_passwd"),
        (".bashrc", ".bashrc"),
        (".", "_"),
        ("..", "__"),
        ("", "upload"),
        ("   ", "upload"),
        ("a\x00b\nc\x1b[31m", "a_b_c_[31m"),
        ("C:\\data\\x.txt", "C__data_x.txt"),
        ("invoice\u202egpj.exe", "invoice_gpj.exe"),
        ("\ud800lone", "?lone".replace("?", "_")),
    ],
)
def test_a_file_name_becomes_one_harmless_component(given_name: str, expected: str) -> None:
    assert safe_filename(given_name) == expected


def test_a_name_that_is_too_long_keeps_its_extension() -> None:
    name = safe_filename("ü" * 300 + ".fastq.gz")
    assert name.endswith(".gz")
    assert len(name.encode()) <= MAX_FILENAME


@given(st.text())
def test_no_file_name_separates_paths_or_is_too_long(name: str) -> None:
    safe = safe_filename(name)
    assert safe not in {"", ".", ".."}
    assert not set(safe) & set("/\\\x00\n\r\x1b")
    assert len(safe.encode()) <= MAX_FILENAME
    assert safe_filename(safe) == safe


def test_a_template_is_filled_in() -> None:
    name = object_name(
        "in/{study}/{upload}/{filename}", study="s", upload="u", filename="a/b", tus_id="t"
    )
    assert name == "in/s/u/a_b"


def test_a_file_name_that_looks_like_a_field_is_not_filled_in_again() -> None:
    name = object_name("{filename}/{upload}", study="s", upload="u", filename="{study}", tus_id="t")
    assert name == "{study}/u"


def test_a_nested_tus_id_keeps_its_folders_and_nothing_else() -> None:
    name = object_name("{tus_id}", study="s", upload="u", filename="f", tus_id="a//../b")
    assert name == "a/__/b"

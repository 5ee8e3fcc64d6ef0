"""S3 destinations of config.toml: addressing, encryption, locks and tags."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.config import load
from daemon.errors import ConfigError
from daemon.journal.wrapping import split_destination
from pipeline.messages import DestinationSpec

SSE_C_KEY = base64.b64encode(bytes(range(32))).decode()
STORE = 'type = "s3"\nendpoint = "https://s3.example"\nbucket = "store"\n'

Loads = Callable[..., DestinationSpec]


@pytest.fixture
def loads(tmp_path: Path) -> Loads:
    def load_table(text: str, **environ: str) -> DestinationSpec:
        file = tmp_path / "config.toml"
        file.write_text(f"[destinations.far]\n{text}")
        return load(file, environ).destinations["far"].spec

    return load_table


def test_a_plain_store_asks_for_nothing_special(loads: Loads) -> None:
    assert loads(STORE) == DestinationSpec(
        name="far", type="s3", endpoint="https://s3.example", bucket="store"
    )


def test_a_store_may_be_asked_for_everything(loads: Loads, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("pem")
    found = loads(
        STORE
        + 'addressing = "virtual"\nca_bundle = "ca.pem"\nstorage_class = "STANDARD_IA"\n'
        + 'sse = "sse-kms"\nsse_kms_key = "arn:aws:kms:eu-west-1:1:key/2"\n'
        + 'object_lock = {mode = "COMPLIANCE", days = 30, legal_hold = true}\n'
        + 'tags = {project = "demo", from = "{study}/{upload}"}\n'
    )
    assert found == DestinationSpec(
        name="far",
        type="s3",
        endpoint="https://s3.example",
        bucket="store",
        ca_file=str(tmp_path / "ca.pem"),
        addressing="virtual",
        sse="sse-kms",
        sse_kms_key="arn:aws:kms:eu-west-1:1:key/2",
        storage_class="STANDARD_IA",
        lock_mode="COMPLIANCE",
        lock_days=30,
        legal_hold=True,
        tags=(("project", "demo"), ("from", "{study}/{upload}")),
    )


def test_a_customers_key_is_a_secret_and_never_shown(loads: Loads) -> None:
    found = loads(STORE + 'sse = "sse-c"\n', DROPOFF_FAR_SSE_C_KEY=SSE_C_KEY)
    assert (found.sse, found.sse_c_key) == ("sse-c", SSE_C_KEY)
    assert SSE_C_KEY not in repr(found)
    public, wrapped = split_destination(found)
    assert SSE_C_KEY.encode() not in public
    assert wrapped is not None
    assert SSE_C_KEY.encode() in wrapped


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('addressing = "host"', 'found "host", expected one of "auto", "path", "virtual"'),
        ('addressing = "virtual"\nbucket = "Upper_Case"', 'addressing: expected "path"'),
        ('sse = "aes"', 'found "aes", expected one of'),
        ('sse_kms_key = "k"', 'sse_kms_key: expected sse = "sse-kms" beside it'),
        ('sse = "sse-c"', "sse: set, but DROPOFF_FAR_SSE_C_KEY is missing"),
        ('sse_c_key = "x"', "secrets are never in config.toml; expected DROPOFF_FAR_SSE_C_KEY"),
        ('object_lock = {mode = "GOVERNANCE"}', "days: found the number 0, expected 1 to 36500"),
        ('object_lock = {mode = "LEGAL", days = 1}', 'found "LEGAL", expected one of'),
        ("object_lock = {days = 1}", 'mode: missing, expected "GOVERNANCE" or "COMPLIANCE"'),
        ("object_lock = {years = 1}", "unknown key; known here: mode, days, legal_hold"),
        ('tags = {a = "{filename}"}', 'placeholder "{filename}", expected: {study}, {upload}'),
        ('tags = {a = "what?"}', "tags.a: expected letters, digits"),
        (f'tags = {{a = "{"x" * 220}{{upload}}{{study}}"}}', "tags.a: too long"),
        (
            "tags = {" + ", ".join(f'k{number} = "v"' for number in range(11)) + "}",
            "found 11 tags, stores take at most 10",
        ),
        ('verify = "readback"\nstorage_class = "GLACIER"', 'verify: expected "checksum"'),
        ('ca_bundle = "gone.pem"', "far.ca_bundle: "),
        ('ca_bundle = "a.pem"\nca_file = "b.pem"', "ca_bundle: means the same as ca_file"),
    ],
)
def test_what_no_store_could_do_is_told(loads: Loads, text: str, expected: str) -> None:
    own_bucket = "bucket" in text
    store = STORE.replace('bucket = "store"\n', "") if own_bucket else STORE
    with pytest.raises(ConfigError) as caught:
        loads(store + text + "\n")
    assert expected in caught.value.message


@pytest.mark.parametrize(
    ("endpoint", "text", "environ", "expected"),
    [
        ("http://127.0.0.1:9000", 'addressing = "virtual"', {}, "nothing can be put before an IP"),
        (
            "http://s3.example",
            'sse = "sse-c"',
            {"DROPOFF_FAR_SSE_C_KEY": SSE_C_KEY},
            "expected https://: the key is sent along",
        ),
        (
            "https://s3.example",
            'sse = "sse-c"',
            {"DROPOFF_FAR_SSE_C_KEY": "c2hvcnQ="},
            "DROPOFF_FAR_SSE_C_KEY is not base64 of 32 bytes",
        ),
        (
            "https://s3.example",
            "",
            {"DROPOFF_FAR_SSE_C_KEY": SSE_C_KEY},
            'expected "sse-c" beside DROPOFF_FAR_SSE_C_KEY',
        ),
    ],
)
def test_a_key_or_a_name_in_the_wrong_place_is_told(
    loads: Loads, endpoint: str, text: str, environ: dict[str, str], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(f'type = "s3"\nendpoint = "{endpoint}"\nbucket = "store"\n{text}\n', **environ)
    assert expected in caught.value.message
    assert SSE_C_KEY not in caught.value.message


def test_other_storages_take_none_of_it(loads: Loads) -> None:
    with pytest.raises(ConfigError) as caught:
        loads('type = "directory"\ndirectory = "/srv"\ntags = {a = "b"}\nstorage_class = "X"\n')
    for key in ("tags", "storage_class"):
        assert f'far.{key}: not used by type = "directory"' in caught.value.message
    assert "object_lock" not in caught.value.message

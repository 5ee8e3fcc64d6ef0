"""`dropoffd decrypt`: ranges of files, objects where they are stored, and what opens them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyrage
import pytest

from daemon import SOFTWARE
from pipeline import receipt as receipts
from pipeline.envelope import SEGMENT, by_format
from pipeline.envelope.age_keys import age_generate
from pipeline.envelope.keys import KeyPair, crypt4gh_generate
from pipeline.messages import DestinationSpec, EnvelopeFormat
from tests.peers.deliveries import stored_at
from tests.peers.seaweedfs import Weed

PLAINTEXT = os.urandom(20 * SEGMENT + 17)
SIZE = len(PLAINTEXT)
UPLOAD = str(uuid.uuid4())
FORMATS: tuple[EnvelopeFormat, ...] = ("crypt4gh", "age", "none")
ACROSS = f"{SEGMENT - 3}-{2 * SEGMENT + 1}"
ACROSS_BYTES = PLAINTEXT[SEGMENT - 3 : 2 * SEGMENT + 2]

Result = subprocess.CompletedProcess[bytes]


@dataclass
class Case:
    """A sealed upload, what opens it, and where it was delivered."""

    directory: Path
    sealed: Path
    key: list[object]
    receipt: Path
    uris: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)

    def decrypt(self, *arguments: object, given: bytes = b"") -> Result:
        return subprocess.run(
            [sys.executable, "-m", "daemon", "decrypt", *map(str, arguments)],
            input=given,
            capture_output=True,
            check=False,
            timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory), **self.environment},
        )

    def remote(self, *arguments: object) -> Result:
        config = self.directory / "config.toml"
        return self.decrypt("--config", config, "--receipt", self.receipt, *self.key, *arguments)


def make(directory: Path, form: EnvelopeFormat, specs: list[DestinationSpec]) -> Case:
    pair: KeyPair = age_generate() if form == "age" else crypt4gh_generate()
    layout = by_format(form)
    made = layout.make([pair.public])
    out = bytearray(layout.sealed_size(0, SIZE))
    layout.sealer(made.key, SIZE).seal_into(0, memoryview(PLAINTEXT), memoryview(out))
    data = made.header + bytes(out)
    (directory / "sealed").write_bytes(data)
    (directory / "key").write_text(pair.secret)
    (directory / "key").chmod(0o600)
    stored = {spec.name: stored_at(spec, UPLOAD, f"a b/{UPLOAD}/ä%.bam", data) for spec in specs}
    now = time.time()
    subject = receipts.Subject(
        upload=UPLOAD,
        tus_id="t1",
        study=str(uuid.uuid4()),
        filename="ä%.bam",
        size=SIZE,
        digest=f"sha256:{hashlib.sha256(PLAINTEXT).hexdigest()}",
        received_at=now,
        stored_at=now,
    )
    receipt = receipts.build(
        subject,
        receipts.Encryption(format=form, recipients=made.fingerprints, size=len(data)),
        [receipts.record(spec, stored[spec.name], now) for spec in specs],
        SOFTWARE,
    )
    return Case(
        directory,
        directory / "sealed",
        [] if form == "none" else ["--key", directory / "key"],
        receipts.write(directory, receipt),
        {name: each.uri for name, each in stored.items()},
    )


PLACES = (
    '[uploads]\ndirectory = "{0}/up"\n[spool]\ndirectory = "{0}/spool"\n'
    '[state]\ndirectory = "{0}/state"\n[hooks]\nsocket = "{0}/hooks.sock"\n'
)


def case_of(directory: Path, form: EnvelopeFormat) -> Case:
    """Delivered to a directory."""
    store = directory / "store"
    store.mkdir()
    (directory / "config.toml").write_text(
        PLACES.format(directory)
        + f'[destinations.local]\ntype = "directory"\ndirectory = "{store}"\n'
    )
    spec = DestinationSpec(name="local", type="directory", directory=str(store))
    return make(directory, form, [spec])


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return case_of(tmp_path, "crypt4gh")


# Files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_range_of_a_file(form: EnvelopeFormat, tmp_path: Path) -> None:
    case = case_of(tmp_path, form)
    proof = ["--receipt", case.receipt]
    for text, expected in (
        (ACROSS, ACROSS_BYTES),
        (f"{SIZE - 5}-", PLAINTEXT[-5:]),
        ("-70000", PLAINTEXT[-70000:]),
    ):
        result = case.decrypt(case.sealed, *case.key, *proof, "--range", text)
        assert (result.returncode, result.stderr) == (0, b"")
        assert result.stdout == expected


def test_a_range_goes_to_a_file_too(case: Case) -> None:
    out = case.directory / "out"
    result = case.decrypt(case.sealed, *case.key, "--range", ACROSS, "-o", out)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert out.read_bytes() == ACROSS_BYTES


@pytest.mark.parametrize("text", ["5", "9-3", "-0", "1KiB-2KiB", str(SIZE) + "-"])
def test_a_wrong_range_is_wrong_usage_and_writes_nothing(case: Case, text: str) -> None:
    out = case.directory / "out"
    result = case.decrypt(case.sealed, *case.key, "--range", text, "-o", out)
    assert (result.returncode, result.stdout) == (2, b"")
    assert b"argument --range: " in result.stderr
    assert not out.exists()


def test_a_pipe_has_no_ranges(case: Case) -> None:
    given = case.sealed.read_bytes()
    result = case.decrypt("-", *case.key, "--range", "0-9", given=given)
    assert result.returncode == 2
    assert b"any place" in result.stderr


def test_a_file_that_was_cut_off_gives_no_range_with_its_receipt(case: Case) -> None:
    data = case.sealed.read_bytes()
    case.sealed.write_bytes(data[: 124 + 3 * (SEGMENT + 28)])
    proof = ["--receipt", case.receipt]
    result = case.decrypt(case.sealed, *case.key, *proof, "--range", "0-9")
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"verification_failed" in result.stderr


# What opens them --------------------------------------------------------------------------


def test_nothing_to_open_it_with_is_told(case: Case) -> None:
    result = case.decrypt(case.sealed)
    assert result.returncode == 1
    assert b"sealed by crypt4gh, and no secret key is given" in result.stderr


def test_neither_file_nor_receipt_is_wrong_usage(case: Case) -> None:
    result = case.decrypt(*case.key)
    assert result.returncode == 2
    assert b"neither FILE nor --receipt" in result.stderr


def test_an_age_file_of_a_passphrase_opens_with_its_first_line(case: Case) -> None:
    words = case.directory / "words"
    words.write_text("correct horse\n")
    words.chmod(0o600)
    case.sealed.write_bytes(pyrage.passphrase.encrypt(PLAINTEXT, "correct horse"))
    without = case.decrypt(case.sealed)
    assert without.returncode == 1
    assert b"give --passphrase-file" in without.stderr
    result = case.decrypt(case.sealed, "--passphrase-file", words, "--range", ACROSS)
    assert (result.returncode, result.stdout) == (0, ACROSS_BYTES)


def test_a_file_of_several_age_identities_opens_it(tmp_path: Path) -> None:
    case = case_of(tmp_path, "age")
    key = tmp_path / "key"
    key.write_text(f"# an old one\n{age_generate().secret}\n{key.read_text()}")
    result = case.decrypt(case.sealed, *case.key, "--receipt", case.receipt)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == PLAINTEXT


# Where they are stored --------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_the_receipt_s_object_is_read_from_a_directory(
    form: EnvelopeFormat, tmp_path: Path
) -> None:
    case = case_of(tmp_path, form)
    whole = case.remote()
    assert (whole.returncode, whole.stderr) == (0, b"")
    assert whole.stdout == PLAINTEXT
    part = case.remote("--destination", "local", "--range", ACROSS)
    assert (part.returncode, part.stdout) == (0, ACROSS_BYTES)


def test_its_uri_names_an_object_too(case: Case) -> None:
    config = ["--config", case.directory / "config.toml"]
    result = case.decrypt(case.uris["local"], *config, *case.key, "--range", ACROSS)
    assert (result.returncode, result.stdout) == (0, ACROSS_BYTES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--destination", "other"], b"one of the receipt's: local"),
        (["file:///elsewhere/x"], b"in none of the configuration's destinations (local)"),
        (["file:///elsewhere/x", "--destination", "other"], b"destinations (local)"),
        (["sealed", "--destination", "local"], b"not with a file"),
    ],
)
def test_a_place_that_is_not_known_is_wrong_usage(
    case: Case, arguments: list[str], message: bytes
) -> None:
    result = case.remote(*arguments)
    assert result.returncode == 2
    assert message in result.stderr


def test_an_object_that_is_gone_is_told(case: Case) -> None:
    for path in (case.directory / "store").rglob("*.bam"):
        path.unlink()
    result = case.remote()
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"destination_refused" in result.stderr
    assert b"is not there" in result.stderr


def test_a_stored_object_that_was_changed_is_told(case: Case) -> None:
    (path,) = (case.directory / "store").rglob("*.bam")
    data = bytearray(path.read_bytes())
    data[124 + SEGMENT + 28 :] = data[124 + 2 * (SEGMENT + 28) :]
    path.write_bytes(data)
    assert b"verification_failed" in case.remote().stderr
    assert b"verification_failed" in case.remote("--range", "0-9").stderr


# S3 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        server.make_bucket("store")
        yield server


@pytest.mark.peers
def test_objects_are_read_from_s3_by_ranges(weed: Weed, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (tmp_path / "config.toml").write_text(
        PLACES.format(tmp_path)
        + f'[destinations.local]\ntype = "directory"\ndirectory = "{store}"\n'
        + f'[destinations.far]\ntype = "s3"\nendpoint = "{weed.endpoint}"\nbucket = "store"\n'
    )
    far = DestinationSpec(
        name="far",
        type="s3",
        endpoint=weed.endpoint,
        bucket="store",
        access_key=weed.access_key,
        secret_key=weed.secret_key,
    )
    case = make(
        tmp_path,
        "age",
        [DestinationSpec(name="local", type="directory", directory=str(store)), far],
    )
    case.environment = {
        "DROPOFF_FAR_ACCESS_KEY": weed.access_key,
        "DROPOFF_FAR_SECRET_KEY": weed.secret_key,
    }
    either = case.remote()
    assert either.returncode == 2
    assert b"one of the receipt's: local, far" in either.stderr
    whole = case.remote("--destination", "far")
    assert (whole.returncode, whole.stderr) == (0, b"")
    assert whole.stdout == PLAINTEXT
    part = case.remote("--destination", "far", "--range", ACROSS)
    assert (part.returncode, part.stdout) == (0, ACROSS_BYTES)
    last = case.remote(case.uris["far"], "--range=-5")
    assert (last.returncode, last.stdout) == (0, PLAINTEXT[-5:])
    weed.client().delete_object(Bucket="store", Key=case.uris["far"].split("/", 3)[3])
    gone = case.remote("--destination", "far")
    assert (gone.returncode, gone.stdout) == (1, b"")
    assert b"is not there" in gone.stderr

"""`dropoffd verify`: a receipt held against files and against what destinations really hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon import SOFTWARE
from pipeline import receipt as receipts
from pipeline.envelope import by_format, keys
from pipeline.messages import DestinationSpec
from tests.peers.deliveries import stored_at
from tests.peers.seaweedfs import Weed

SIZE = 200_000
UPLOAD = str(uuid.uuid4())


@dataclass
class Case:
    """A receipt, a copy of the object, the original, and the key to it."""

    directory: Path
    receipt: Path
    sealed: Path
    original: Path
    key: Path
    environment: dict[str, str]

    def verify(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "daemon", "verify", str(self.receipt), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory), **self.environment},
        )

    def remote(self) -> subprocess.CompletedProcess[str]:
        return self.verify("--remote", "--config", self.directory / "config.toml")

    def change(self, **fields: object) -> None:
        """Change the receipt's first delivery."""
        told = json.loads(self.receipt.read_text())
        told["deliveries"][0] |= fields
        self.receipt.write_text(json.dumps(told))


def make(directory: Path, spec: DestinationSpec, encrypt: str = "crypt4gh") -> Case:
    """An upload that was delivered to ``spec``."""
    name = f"päth/{UPLOAD}/a b%.bam"
    original = os.urandom(SIZE)
    pair = keys.crypt4gh_generate()
    layout = by_format("crypt4gh" if encrypt == "crypt4gh" else "none")
    made = layout.make([pair.public] if encrypt == "crypt4gh" else [])
    sealed = bytearray(layout.sealed_size(0, SIZE))
    layout.sealer(made.key, SIZE).seal_into(0, memoryview(original), memoryview(sealed))
    data = made.header + bytes(sealed)
    digest = receipts.new_hash("sha256")
    digest.update(memoryview(original))
    now = time.time()
    receipt = receipts.build(
        receipts.Subject(
            upload=UPLOAD,
            tus_id="t1",
            study=str(uuid.uuid4()),
            filename="a.bam",
            size=SIZE,
            digest=f"sha256:{digest.hexdigest()}",
            received_at=now,
            stored_at=now,
        ),
        receipts.Encryption(
            format="crypt4gh" if encrypt == "crypt4gh" else "none",
            recipients=made.fingerprints,
            size=len(data),
        ),
        [receipts.record(spec, stored_at(spec, UPLOAD, name, data), now)],
        SOFTWARE,
    )
    case = Case(
        directory,
        receipts.write(directory, receipt),
        directory / "copy",
        directory / "original",
        directory / "key",
        {},
    )
    case.sealed.write_bytes(data)
    case.original.write_bytes(original)
    case.key.write_text(pair.secret)
    case.key.chmod(0o600)
    return case


PLACES = (
    '[uploads]\ndirectory = "{0}/up"\n[spool]\ndirectory = "{0}/spool"\n'
    '[state]\ndirectory = "{0}/state"\n[hooks]\nsocket = "{0}/hooks.sock"\n'
)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    store = tmp_path / "store"
    store.mkdir()
    (tmp_path / "config.toml").write_text(
        PLACES.format(tmp_path)
        + f'[destinations.local]\ntype = "directory"\ndirectory = "{store}"\n'
    )
    return make(tmp_path, DestinationSpec(name="local", type="directory", directory=str(store)))


def object_of(case: Case) -> Path:
    (path,) = [path for path in (case.directory / "store").rglob("*") if path.is_file()]
    return path


# Files ------------------------------------------------------------------------------------


def test_a_copy_of_the_object_holds_with_and_without_the_key(case: Case) -> None:
    plain = case.verify("--file", case.sealed)
    assert (plain.returncode, "crc64nvme" in plain.stdout) == (0, True)
    inside = case.verify("--file", case.sealed, "--key", case.key)
    assert (inside.returncode, "sha256" in inside.stdout) == (0, True)


def test_the_original_file_holds_too(case: Case) -> None:
    assert case.verify("--file", case.original).returncode == 0
    data = bytearray(case.original.read_bytes())
    data[5] ^= 1
    case.original.write_bytes(data)
    assert case.verify("--file", case.original).returncode == 1


@pytest.mark.parametrize("key", [False, True], ids=["checksum", "key"])
@pytest.mark.parametrize("place", [0, 20, 130, SIZE // 2, SIZE])
def test_one_changed_bit_is_found(case: Case, place: int, key: bool) -> None:  # noqa: FBT001 - a parameter of the test
    data = bytearray(case.sealed.read_bytes())
    data[place] ^= 1
    case.sealed.write_bytes(data)
    options: list[str | Path] = ["--key", case.key] if key else []
    done = case.verify("--file", case.sealed, *options)
    assert (done.returncode, "FAILED" in done.stdout) == (1, True)


@pytest.mark.parametrize("length", [0, 10, 124, 65536 + 28 + 124, SIZE])
def test_a_copy_that_was_cut_is_found(case: Case, length: int) -> None:
    case.sealed.write_bytes(case.sealed.read_bytes()[:length])
    assert case.verify("--file", case.sealed).returncode == 1
    assert case.verify("--file", case.sealed, "--key", case.key).returncode == 1


def test_another_key_does_not_open_it(case: Case) -> None:
    case.key.write_text(keys.crypt4gh_generate().secret)
    done = case.verify("--file", case.sealed, "--key", case.key)
    assert done.returncode == 1
    assert "envelope_invalid" in done.stdout


def test_an_object_that_is_not_encrypted_is_held_against_the_digest(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    spec = DestinationSpec(name="local", type="directory", directory=str(tmp_path / "store"))
    case = make(tmp_path, spec, encrypt="none")
    done = case.verify("--file", case.sealed)
    assert (done.returncode, "sha256" in done.stdout) == (0, True)
    case.sealed.write_bytes(bytes(SIZE))
    assert case.verify("--file", case.sealed).returncode == 1


def test_results_are_json_for_scripts(case: Case) -> None:
    told: dict[str, Any] = json.loads(case.verify("--file", case.sealed, "--json").stdout)
    assert (told["upload"], told["holds"]) == (UPLOAD, True)
    assert {verdict["subject"] for verdict in told["verdicts"]} == {"receipt", "file"}


# Receipts ---------------------------------------------------------------------------------


def test_a_receipt_that_contradicts_itself_does_not_hold(case: Case) -> None:
    assert case.verify().returncode == 0
    case.change(size=7)
    assert case.verify().returncode == 1


def test_what_is_no_receipt_or_not_there_is_an_error(case: Case) -> None:
    case.receipt.write_text('{"version": 2}')
    done = case.verify()
    assert (done.returncode, done.stderr.startswith("dropoffd: receipt_invalid")) == (1, True)
    case.receipt.unlink()
    assert case.verify().returncode == 1


def test_a_key_without_a_file_is_wrong_usage(case: Case) -> None:
    assert case.verify("--key", case.key).returncode == 2


# Destinations -----------------------------------------------------------------------------


def test_an_untouched_directory_holds(case: Case) -> None:
    done = case.remote()
    assert (done.returncode, "crc64nvme are right, read" in done.stdout) == (0, True), done


def test_a_changed_cut_or_missing_object_in_a_directory_is_found(case: Case) -> None:
    stored = object_of(case)
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert case.remote().returncode == 1
    stored.write_bytes(whole[:-1])
    assert f"{len(whole) - 1} bytes" in case.remote().stdout
    stored.unlink()
    assert "is not there" in case.remote().stdout


def test_a_link_in_the_object_s_place_is_not_followed(case: Case) -> None:
    stored = object_of(case)
    stored.rename(case.directory / "elsewhere")
    stored.symlink_to(case.directory / "elsewhere")
    assert case.remote().returncode == 1


@pytest.mark.parametrize(
    "uri", ["file:///etc/passwd", "file://{0}/store/../copy", "s3://x/y", "", "file://{0}/store"]
)
def test_a_receipt_leads_nowhere_but_into_its_destination(case: Case, uri: str) -> None:
    case.change(uri=uri.format(case.directory))
    done = case.remote()
    assert (done.returncode, "destination_refused" in done.stdout) == (1, True), done


def test_a_destination_that_is_not_configured_does_not_hold(case: Case) -> None:
    case.change(destination="gone")
    assert "not in the configuration" in case.remote().stdout


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture
def in_bucket(tmp_path: Path, weed: Weed) -> tuple[Case, str]:
    bucket = f"verify-{uuid.uuid4().hex[:8]}"
    weed.make_bucket(bucket)
    spec = DestinationSpec(
        name="archive",
        type="s3",
        endpoint=weed.endpoint,
        bucket=bucket,
        access_key=weed.access_key,
        secret_key=weed.secret_key,
    )
    (tmp_path / "config.toml").write_text(
        PLACES.format(tmp_path)
        + f'[destinations.archive]\ntype = "s3"\nendpoint = "{weed.endpoint}"\n'
        f'bucket = "{bucket}"\n'
    )
    case = make(tmp_path, spec)
    case.environment |= {
        "DROPOFF_ARCHIVE_ACCESS_KEY": weed.access_key,
        "DROPOFF_ARCHIVE_SECRET_KEY": weed.secret_key,
    }
    return case, bucket


@pytest.mark.peers
def test_an_untouched_bucket_holds_and_a_changed_one_does_not(
    in_bucket: tuple[Case, str], weed: Weed
) -> None:
    case, bucket = in_bucket
    done = case.remote()
    assert done.returncode == 0, done
    client = weed.client()
    (entry,) = client.list_objects_v2(Bucket=bucket)["Contents"]
    whole = case.sealed.read_bytes()
    client.put_object(Bucket=bucket, Key=entry["Key"], Body=whole[:-1] + b"?")
    assert case.remote().returncode == 1
    client.put_object(Bucket=bucket, Key=entry["Key"], Body=whole[:-1])
    assert f"{len(whole) - 1} bytes" in case.remote().stdout
    client.delete_object(Bucket=bucket, Key=entry["Key"])
    assert "is not there" in case.remote().stdout


@pytest.mark.peers
def test_wrong_credentials_do_not_hold_and_are_not_shown(in_bucket: tuple[Case, str]) -> None:
    case, _ = in_bucket
    case.environment["DROPOFF_ARCHIVE_SECRET_KEY"] = "not-the-secret-key"
    done = case.remote()
    assert done.returncode == 1
    assert "destination_refused" in done.stdout
    assert "not-the-secret-key" not in done.stdout + done.stderr

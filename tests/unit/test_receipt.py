"""Receipts: the contract's shape, written whole or not at all, and held against plaintext."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from pipeline import envelope, receipt
from pipeline.envelope import SEGMENT
from pipeline.envelope.keyfiles import SecretKey
from pipeline.envelope.keys import crypt4gh_generate, crypt4gh_secret
from pipeline.envelope.opening import open_sealed
from pipeline.errors import EnvelopeError, ReceiptError, VerificationError
from pipeline.messages import DestinationSpec, EnvelopeFormat, StoredObject
from pipeline.receipt import Encryption, Receipt, Subject

PLAINTEXT = os.urandom(3 * SEGMENT + 5)
PAIR = crypt4gh_generate()
SECRET = SecretKey("crypt4gh", crypt4gh_secret(PAIR.secret, bytes))
DESTINATION = DestinationSpec(name="archive", type="s3", access_key="AK", secret_key="hush")
STORED = StoredObject(
    uri="s3://archive/a", size=1049152, etag='"e"', checksum={"crc64nvme": "x"}, verified="checksum"
)


def made(
    digest: str = "", size: int = len(PLAINTEXT), form: EnvelopeFormat = "crypt4gh"
) -> Receipt:
    return receipt.build(
        Subject(
            upload="0f3a",
            tus_id="abc",
            study="11111111-2222-4333-8444-555555555555",
            filename="réads.bam",
            size=size,
            digest=digest or f"sha256:{hashlib.sha256(PLAINTEXT).hexdigest()}",
            received_at=1_700_000_000.25,
            stored_at=1_700_000_009.0,
        ),
        Encryption(format=form, recipients=("c4gh:00",), size=1049152),
        [receipt.record(DESTINATION, STORED, 1_700_000_008.5)],
        "dropoffd 0.1.0",
    )


def test_it_has_the_shape_of_the_contract() -> None:
    assert receipt.to_dict(made("sha256:ab")) == {
        "version": 1,
        "upload": "0f3a",
        "tus_id": "abc",
        "study": "11111111-2222-4333-8444-555555555555",
        "filename": "réads.bam",
        "size": len(PLAINTEXT),
        "digest": {"sha256": "ab"},
        "encryption": {"format": "crypt4gh", "recipients": ["c4gh:00"], "size": 1049152},
        "deliveries": [
            {
                "destination": "archive",
                "type": "s3",
                "uri": "s3://archive/a",
                "size": 1049152,
                "etag": '"e"',
                "checksum": {"crc64nvme": "x"},
                "verified": "checksum",
                "stored_at": "2023-11-14T22:13:28.500000Z",
            }
        ],
        "received_at": "2023-11-14T22:13:20.250000Z",
        "stored_at": "2023-11-14T22:13:29Z",
        "software": "dropoffd 0.1.0",
    }


def test_no_secret_of_a_destination_gets_into_it() -> None:
    assert "hush" not in str(receipt.to_dict(made()))
    assert "AK" not in str(receipt.to_dict(made()))


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = receipt.write(tmp_path, made())
    assert path == tmp_path / "0f3a.json"
    assert receipt.read(path) == made()
    assert receipt.parse(receipt.to_dict(made())) == made()
    assert not stat.S_IMODE(path.stat().st_mode) & 0o007


def test_writing_it_again_replaces_it_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".0f3a.json.tmp").write_text("left by a crash")
    receipt.write(tmp_path, made("sha256:ab"))
    receipt.write(tmp_path, made("sha256:cd"))
    assert [path.name for path in tmp_path.iterdir()] == ["0f3a.json"]
    assert receipt.read(tmp_path / "0f3a.json").digest == {"sha256": "cd"}


def test_a_full_disk_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt.write(tmp_path, made("sha256:ab"))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device", str(descriptor))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        receipt.write(tmp_path, made("sha256:cd"))
    assert receipt.read(tmp_path / "0f3a.json").digest == {"sha256": "ab"}


@pytest.mark.parametrize("upload", ["", ".", "..", "../a", "a/b", "a\0", ".hidden", "x" * 201])
def test_an_id_that_leaves_the_directory_is_refused(tmp_path: Path, upload: str) -> None:
    with pytest.raises(ValueError, match="no file name"):
        receipt.write(tmp_path, msgspec.structs.replace(made(), upload=upload))
    assert list(tmp_path.iterdir()) == []


def test_fields_of_later_versions_are_let_be() -> None:
    assert receipt.parse({**receipt.to_dict(made()), "colour": "blue"}) == made()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"size": "1"},
        {"digest": None},
        {"deliveries": {}},
        {"stored_at": "yesterday"},
        {"encryption": {"format": "rot13", "recipients": [], "size": 1}},
    ],
)
def test_what_is_no_receipt_is_told(change: dict[str, Any]) -> None:
    with pytest.raises(ReceiptError, match="no receipt"):
        receipt.parse(json.dumps({**receipt.to_dict(made()), **change}).encode())


@given(st.binary(max_size=100))
def test_any_bytes_end_in_a_clear_error(data: bytes) -> None:
    with pytest.raises(ReceiptError):
        receipt.parse(data)


def test_a_deeply_nested_file_is_no_receipt() -> None:
    with pytest.raises(ReceiptError):
        receipt.parse(b'{"x":' + b"[" * 100_000)


def test_an_endless_file_is_no_receipt(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ReceiptError, match="longer than"):
        receipt.read(path)


def sealed() -> tuple[bytes, list[bytes]]:
    """An upload's header and its segments."""
    form = envelope.by_format("crypt4gh")
    key, header, _ = form.make([PAIR.public])
    out = bytearray(form.sealed_size(0, len(PLAINTEXT)))
    form.sealer(key, len(PLAINTEXT)).seal_into(0, memoryview(PLAINTEXT), memoryview(out))
    places = [form.sealed_offset(0, n * SEGMENT) for n in range(4)]
    return header, [bytes(out[a:b]) for a, b in zip(places, [*places[1:], None], strict=True)]


def opened(header: bytes, segments: list[bytes], against: Receipt) -> bytes:
    source = io.BytesIO(header + b"".join(segments))
    return b"".join(bytes(piece) for piece in open_sealed(source, SECRET, against))


@pytest.mark.parametrize(
    "digest",
    [
        f"sha256:{hashlib.sha256(PLAINTEXT).hexdigest()}",
        f"sha256:{hashlib.sha256(PLAINTEXT).hexdigest().upper()}",
        f"blake3:{blake3(PLAINTEXT).hexdigest()}",
    ],
)
def test_the_right_plaintext_passes(digest: str) -> None:
    assert opened(*sealed(), made(digest)) == PLAINTEXT


def test_segments_cut_off_at_a_boundary_are_found() -> None:
    header, segments = sealed()
    with pytest.raises(VerificationError, match="bytes of plaintext"):
        opened(header, segments[:2], made())


def test_an_object_without_its_segments_is_found() -> None:
    header, _ = sealed()
    with pytest.raises(VerificationError, match="0 bytes of plaintext"):
        opened(header, [], made())


def test_swapped_segments_are_found() -> None:
    header, (first, second, *rest) = sealed()
    with pytest.raises(VerificationError, match="sha256"):
        opened(header, [second, first, *rest], made())


def test_a_doubled_segment_is_found() -> None:
    header, (first, *rest) = sealed()
    with pytest.raises(VerificationError, match="bytes of plaintext"):
        opened(header, [first, first, *rest], made())


def test_a_receipt_of_another_format_is_told() -> None:
    with pytest.raises(ReceiptError, match="the receipt says none"):
        opened(*sealed(), made(form="none"))


@pytest.mark.parametrize("digest", ["", "sha256", "sha256:", ":ab"])
def test_a_receipt_is_not_made_of_half_a_digest(digest: str) -> None:
    with pytest.raises(ValueError, match="<name>:<hex>"):
        made(digest or ":")


def test_a_receipt_with_nothing_to_check_checks_nothing() -> None:
    with pytest.raises(ReceiptError, match="no digest"):
        receipt.PlaintextCheck(msgspec.structs.replace(made(), digest={}))


def test_a_digest_that_is_not_known_is_told() -> None:
    with pytest.raises(ReceiptError, match="'crc32'"):
        receipt.PlaintextCheck(made("crc32:00"))


def test_without_blake3_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blake3", None)
    with pytest.raises(ReceiptError, match="the package blake3 isn't installed"):
        receipt.PlaintextCheck(made("blake3:00"))


@pytest.mark.parametrize("start", [b"", b"PK", b"crypt4g", b"age-encryption.org/v"])
def test_a_file_of_no_known_format_is_told(start: bytes) -> None:
    with pytest.raises(EnvelopeError, match="no Crypt4GH and no age"):
        open_sealed(io.BytesIO(start), SECRET)

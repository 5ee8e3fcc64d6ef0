"""A daemon for measurements, and uploads laid out as tusd leaves them, without a tus server."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.peers.dropoffd import Dropoffd

STUDY = "11111111-2222-4333-8444-555555555555"


def daemon(directory: Path, endpoint: str, recipient: Path, *, pipeline: str = "") -> Dropoffd:
    """One that seals for `recipient`, stores at `endpoint` and keeps the received files.

    `pipeline` is TOML for that table.
    """
    made = Dropoffd(
        directory,
        "",
        {"DROPOFF_STORE_ACCESS_KEY": "bench" * 4, "DROPOFF_STORE_SECRET_KEY": "bench" * 8},
    )
    made.config.write_text(
        f"""\
[uploads]
directory = "{made.uploads}"
rescan = "2s"
delete = "never"
[spool]
directory = "{made.spool}"
[state]
directory = "{made.state}"
[hooks]
socket = "{made.socket}"
[pipeline]
{pipeline}
[destinations.store]
type = "s3"
endpoint = "{endpoint}"
bucket = "bench"
region = "us-east-1"
verify = "size"
[studies."{STUDY}"]
encrypt = "crypt4gh"
recipients = ["{recipient}"]
destinations = ["store"]
"""
    )
    return made


def make_recipient(file: Path) -> None:
    """A public key that nobody can open anything for: its secret half is thrown away."""
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    kind = "CRYPT4GH PUBLIC KEY-----"
    file.write_text(f"-----BEGIN {kind}\n{b64encode(public).decode()}\n-----END {kind}\n")


def lay_out(uploads: Path, name: str, size: int) -> None:
    """The `.info` of an upload whose data, all of it, lies at `uploads / name` already."""
    info = {
        "ID": name,
        "Size": size,
        "SizeIsDeferred": False,
        "Offset": 0,
        "MetaData": {"filename": f"{name}.bin", "study": STUDY},
        "IsPartial": False,
        "IsFinal": False,
        "PartialUploads": None,
        "Storage": {
            "InfoPath": str(uploads / f"{name}.info"),
            "Path": str(uploads / name),
            "Type": "filestore",
        },
    }
    (uploads / f"{name}.info").write_text(json.dumps(info))


def make_holes(file: Path, size: int) -> None:
    """A file of that size which takes no room."""
    with file.open("wb") as data:
        data.truncate(size)


def receipts(made: Dropoffd) -> int:
    """How many uploads are stored and verified."""
    return len(list((made.state / "receipts").glob("*.json")))


def wait_for_receipts(made: Dropoffd, count: int, timeout: float = 600.0) -> None:
    """Until that many uploads are stored. Raises RuntimeError where it takes too long."""
    deadline = time.monotonic() + timeout
    while receipts(made) < count:
        if not made.running or time.monotonic() > deadline:
            raise RuntimeError(f"no receipt for upload {count}: {made.tail()}")
        time.sleep(0.005)

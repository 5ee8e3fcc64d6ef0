"""A daemon for measurements, and uploads laid out as tusd leaves them, without a tus server."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pipeline.messages import EnvelopeFormat
from tests.peers.dropoffd import Dropoffd
from tests.peers.tusd_files import info_of

STUDY = "11111111-2222-4333-8444-555555555555"


class Store(NamedTuple):
    """An S3 server of ours: its endpoint, and whom to trust where that is HTTPS."""

    url: str
    ca: Path | None = None

    @property
    def toml(self) -> str:
        """The table of the destination `store`. Sizes are all that a null server can be asked."""
        trust = f'ca_file = "{self.ca}"\n' if self.ca else ""
        return (
            f'[destinations.store]\ntype = "s3"\nendpoint = "{self.url}"\nbucket = "bench"\n'
            f'region = "us-east-1"\nverify = "size"\n{trust}'
        )


def study(encrypt: EnvelopeFormat, recipient: Path) -> str:
    """The table of the study that all uploads belong to."""
    recipients = "" if encrypt == "none" else f'"{recipient}"'
    return (
        f'[studies."{STUDY}"]\nencrypt = "{encrypt}"\nrecipients = [{recipients}]\n'
        'destinations = ["store"]\n'
    )


def daemon(
    directory: Path,
    store: Store,
    tables: str = "",
    *,
    pipeline: str = "",
    environment: Mapping[str, str] | None = None,
) -> Dropoffd:
    """One that stores at ``store`` and keeps the received files.

    Args:
        directory: Where all of it lies.
        store: Where it delivers to.
        tables: Further TOML: the study, where no REST API knows it.
        pipeline: TOML for that table.
        environment: For the daemon: the REST API and its secrets.
    """
    secrets = {"DROPOFF_STORE_ACCESS_KEY": "bench" * 4, "DROPOFF_STORE_SECRET_KEY": "bench" * 8}
    made = Dropoffd(directory, "", {**secrets, **(environment or {})})
    made.config.write_text(
        f"""\
[uploads]
directory = "{made.uploads}"
delete = "never"
[spool]
directory = "{made.spool}"
[state]
directory = "{made.state}"
[hooks]
socket = "{made.socket}"
[pipeline]
{pipeline}
{store.toml}{tables}"""
    )
    return made


def make_recipient(file: Path) -> None:
    """A public key that nobody can open anything for: its secret half is thrown away."""
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    kind = "CRYPT4GH PUBLIC KEY-----"
    file.write_text(f"-----BEGIN {kind}\n{b64encode(public).decode()}\n-----END {kind}\n")


def info(uploads: Path, name: str, size: int) -> str:
    """The `.info` of an upload whose data, all of it, lies at `uploads / name` already."""
    metadata = {"filename": f"{name}.bin", "study": STUDY}
    return json.dumps(info_of(uploads / name, size, metadata))


def lay_out(uploads: Path, name: str, size: int) -> None:
    """Write that file."""
    (uploads / f"{name}.info").write_text(info(uploads, name, size))


class Waiting:
    """The `.info` files of uploads, written aside: :meth:`appear` puts all in their place at once.

    Writing thousands would be measured with what is to be measured.
    """

    def __init__(self, uploads: Path, aside: Path, names: Sequence[str], size: int) -> None:
        aside.mkdir(exist_ok=True)
        self._moves = [(aside / name, uploads / f"{name}.info") for name in names]
        for name, (file, _) in zip(names, self._moves, strict=True):
            file.write_text(info(uploads, name, size))

    def appear(self) -> None:
        """Have the daemon see them."""
        for aside, place in self._moves:
            aside.rename(place)

    def remove(self) -> None:
        """Have the next scan find less."""
        for _, place in self._moves:
            place.unlink(missing_ok=True)


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

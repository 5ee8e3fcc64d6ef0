"""`dropoffd retry` and `dropoffd discard` upon a real daemon, and what they make of failures."""

from __future__ import annotations

import hashlib
import json
import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.observe.audit import verify
from pipeline.envelope import keys
from pipeline.envelope.keyfiles import SecretKey
from pipeline.envelope.opening import open_sealed
from tests.peers.dropoffd import Dropoffd
from tests.peers.seaweedfs import Weed
from tests.peers.tusd_files import lay_info

STUDY = str(uuid.uuid4())
MIB = 1024**2
CONFIG = f"""
[pipeline]
part_size = "1MiB"
[destinations.good]
type = "directory"
directory = "{{directory}}/good"
path = "{{study}}/{{upload}}/file"
[destinations.bad]
type = "directory"
directory = "{{directory}}/bad"
path = "{{study}}/{{upload}}/file"
[studies."{STUDY}"]
encrypt = "crypt4gh"
recipients = ["{{directory}}/key.pub"]
destinations = ["good", "bad"]
"""


def lay(daemon: Dropoffd, data: bytes) -> str:
    """An upload as tusd leaves it; its tus id."""
    name = uuid.uuid4().hex
    (daemon.uploads / name).write_bytes(data)
    lay_info(daemon.uploads / name, len(data), {"study": STUDY, "filename": "a.bam"})
    return name


def audited(daemon: Dropoffd) -> list[dict[str, Any]]:
    path = daemon.state / "audit.jsonl"
    assert verify(path) > 0
    return [json.loads(line) for line in path.read_text().splitlines()]


class Site:
    """A daemon whose second destination is no directory, so that every upload fails."""

    def __init__(self, directory: Path) -> None:
        pair = keys.crypt4gh_generate()
        self.secret = SecretKey("crypt4gh", keys.crypt4gh_secret(pair.secret, lambda: b""))
        self.good, self.bad = directory / "good", directory / "bad"
        self.good.mkdir()
        self.bad.write_text("in the way")
        (directory / "key.pub").write_text(pair.public)
        self.daemon = Dropoffd(directory, CONFIG.replace("{directory}", str(directory)))

    def failed(self, size: int = 3 * MIB) -> tuple[str, bytes]:
        """An upload that failed: its tus id, and what it holds."""
        data = random.Random(size).randbytes(size)
        name = lay(self.daemon, data)
        self.daemon.wait_for(
            lambda: any(
                upload["tus_id"] == name and upload["state"] == "failed"
                for upload in self.daemon.listed()
            ),
            30,
            "the upload fails",
        )
        return name, data

    def repair(self) -> None:
        self.bad.unlink()
        self.bad.mkdir()

    def stored(self, root: Path) -> Path:
        (path,) = [path for path in root.rglob("*") if path.is_file()]
        return path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    with site.daemon:
        yield site


@pytest.mark.parametrize("size", [5, 20 * MIB + 3], ids=["whole", "parts"])
def test_after_a_retry_only_what_failed_is_delivered_with_the_same_key(
    site: Site, size: int
) -> None:
    name, data = site.failed(size)
    assert site.daemon.show(name)["error"]["code"] == "destination_refused"
    assert (site.daemon.uploads / name).exists()
    before = site.stored(site.good).stat()

    site.repair()
    done = site.daemon.cli("retry", name)
    site.daemon.wait_until_over(1, 30)

    shown = site.daemon.show(name)
    assert done.stdout == f"{shown['upload']}  processing\n"
    assert [delivery["attempts"] for delivery in shown["deliveries"]] == [1, 2]
    good, bad = site.stored(site.good), site.stored(site.bad)
    assert (good.stat().st_ino, good.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert good.read_bytes() == bad.read_bytes()
    with bad.open("rb") as sealed:
        opened = b"".join(bytes(piece) for piece in open_sealed(sealed, site.secret))
    assert hashlib.sha256(opened).digest() == hashlib.sha256(data).digest()
    assert not (site.daemon.uploads / name).exists()
    assert [entry["action"] for entry in audited(site.daemon)] == ["retry", "source_deleted"]


def test_all_that_failed_are_retried_at_once(site: Site) -> None:
    for size in (1, 2, 3):
        site.failed(size)
    site.repair()
    told = json.loads(site.daemon.cli("retry", "--failed", "--json").stdout)
    assert [outcome["done"] for outcome in told["uploads"]] == [True] * 3
    site.daemon.wait_until_over(3, 30)
    assert {upload["state"] for upload in site.daemon.listed()} == {"done"}


def test_a_retry_in_vain_fails_again_and_keeps_the_file(site: Site) -> None:
    name, _ = site.failed()
    site.daemon.cli("retry", name)
    site.daemon.wait_for(lambda: site.daemon.show(name)["state"] == "failed", 30, "it fails again")
    assert (site.daemon.uploads / name).exists()


def test_a_discarded_upload_s_file_is_deleted_and_never_taken_again(site: Site) -> None:
    name, _ = site.failed()
    done = site.daemon.cli("discard", name, "--reason", "sent by mistake")
    upload = site.daemon.show(name)["upload"]
    assert done.stdout == f"{upload}  discarded\n"
    assert list(site.daemon.uploads.iterdir()) == []
    order = audited(site.daemon)[0]
    assert (order["action"], order["upload"], order["uid"]) == ("discard", upload, os.getuid())
    assert order["reason"] == "sent by mistake"
    assert site.daemon.cli("retry", name, check=False).returncode == 1
    assert len(site.daemon.listed()) == 1


def test_a_discard_that_a_crash_cut_short_is_finished_at_the_next_start(site: Site) -> None:
    name, _ = site.failed()
    info = site.daemon.uploads / f"{name}.info"
    kept = info.read_text()
    site.daemon.cli("discard", name, "--reason", "sent by mistake")
    site.daemon.kill()
    info.write_text(kept)  # as if it had died before the last step
    site.daemon.start()
    site.daemon.wait_for(lambda: not info.exists(), 20, "the rest is deleted")
    assert [upload["state"] for upload in site.daemon.listed()] == ["discarded"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("retry", "nobody"), 3),
        (("discard", "nobody", "--reason", "why"), 3),
        (("retry", "--failed"), 3),
        (("retry",), 2),
        (("retry", "x", "--failed"), 2),
        (("discard", "x"), 2),
        (("discard", "x", "--reason", " "), 2),
    ],
)
def test_the_exit_code_tells_why_nothing_was_done(
    site: Site, arguments: tuple[str, ...], code: int
) -> None:
    done = site.daemon.cli(*arguments, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr != ""


def test_where_only_some_could_be_done_the_exit_code_is_1(site: Site) -> None:
    name, _ = site.failed()
    done = site.daemon.cli("retry", name, "nobody", check=False)
    assert done.returncode == 1
    assert "processing" in done.stdout
    assert "not_found" in done.stderr


def test_without_a_daemon_it_is_to_be_tried_again_later(site: Site) -> None:
    site.daemon.kill()
    for arguments in (("retry", "--failed"), ("discard", "x", "--reason", "why")):
        assert site.daemon.cli(*arguments, check=False).returncode == 75


@pytest.mark.peers
def test_a_bucket_that_was_missing_is_made_and_the_upload_goes_on(tmp_path: Path) -> None:
    with Weed(tmp_path / "weed") as weed:
        config = (
            f'[destinations.archive]\ntype = "s3"\nendpoint = "{weed.endpoint}"\n'
            f'bucket = "later"\n[studies."{STUDY}"]\nencrypt = "none"\n'
            f'destinations = ["archive"]\n'
        )
        secrets = {
            "DROPOFF_ARCHIVE_ACCESS_KEY": weed.access_key,
            "DROPOFF_ARCHIVE_SECRET_KEY": weed.secret_key,
        }
        with Dropoffd(tmp_path / "daemon", config, secrets) as daemon:
            name = lay(daemon, bytes(20 * MIB))
            daemon.wait_until_over(1, 60)
            assert daemon.show(name)["error"]["code"] == "destination_refused"
            weed.make_bucket("later")
            daemon.cli("retry", "--failed")
            daemon.wait_until_over(1, 60)
            assert daemon.show(name)["state"] == "done"

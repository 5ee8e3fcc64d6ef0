"""`dropoffd check` beside real daemons, REST APIs and destinations, and without any of them."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.envelope import keys
from tests.peers.dropoffd import Dropoffd
from tests.peers.hawk import HawkServer
from tests.peers.reference_api import ReferenceServer, study_table
from tests.peers.seaweedfs import Weed
from tests.peers.tusd_files import lay_info

STUDY = str(uuid.uuid4())
LOCAL = '[destinations.local]\ntype = "directory"\ndirectory = "{directory}/store"\n'
ENCRYPTED = (
    f'[studies."{STUDY}"]\nencrypt = "crypt4gh"\nrecipients = ["key.pub"]\n'
    'destinations = ["local"]\n'
)


class Site(Dropoffd):
    """A daemon that need not run."""

    def __init__(self, directory: Path, config: str, **environment: str) -> None:
        super().__init__(directory, config, environment)
        (directory / "store").mkdir()
        (directory / "key.pub").write_text(keys.crypt4gh_generate().public)

    def check(self, *arguments: str | Path, code: int = 0) -> dict[str, list[str]]:
        """Each check's subjects and statuses."""
        done = self.cli("check", "--json", *map(str, arguments), check=False)
        assert done.returncode == code, done
        assert done.stderr == ""
        told: dict[str, Any] = json.loads(done.stdout)
        found: dict[str, list[str]] = {}
        for each in told["findings"]:
            name = f"{each['check']} {each['subject']}".rstrip()
            found.setdefault(name, []).append(each["status"])
            assert each["message"]
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, LOCAL + ENCRYPTED)
    yield site
    if site.running:
        site.kill()


def test_before_the_first_start_only_the_daemon_is_missing(site: Site) -> None:
    before = sorted(path.relative_to(site.directory) for path in site.directory.rglob("*"))
    found = site.check()
    assert found.pop("daemon") == ["warning"]
    found.pop("user", None)
    assert set(found) >= {"config", "uploads directory", "spool", "state", "journal", "audit"}
    assert set(found) >= {"api", "destination local", f"recipients {STUDY}"}
    assert {status for statuses in found.values() for status in statuses} == {"ok"}
    after = sorted(path.relative_to(site.directory) for path in site.directory.rglob("*"))
    assert after == before, "a check leaves nothing"


def test_beside_a_running_daemon_all_is_well(site: Site) -> None:
    site.start()
    assert site.check()["daemon"] == ["ok"]
    assert site.stop() == 0


def test_people_are_told_what_to_do(site: Site) -> None:
    (site.directory / "store").rmdir()
    done = site.cli("check", check=False)
    assert done.returncode == 1
    table, _, advice = done.stdout.partition("\nWhat to do\n")
    assert "error    destination local" in table
    assert "destination local: " in advice
    assert "mounted" in advice


def test_a_configuration_error_is_exit_code_78(site: Site) -> None:
    site.config.write_text(site.config.read_text() + "[uploadz]\n")
    done = site.cli("check", check=False)
    assert (done.returncode, done.stdout) == (78, "")
    assert "uploadz" in done.stderr
    assert site.check(code=78) == {"config": ["error"]}


def test_what_has_failed_and_a_changed_audit_log_are_shown(site: Site) -> None:
    site.start()
    name = uuid.uuid4().hex
    (site.uploads / name).write_bytes(b"x")
    lay_info(site.uploads / name, 1, {})
    site.wait_until_over(1, 20)
    assert site.check()["failed uploads"] == ["warning"]
    site.cli("discard", name, "--reason", "no study")
    assert "failed uploads" not in site.check()
    audit = site.state / "audit.jsonl"
    audit.write_text(audit.read_text().replace("no study", "no steak"))
    assert site.check(code=1)["audit"] == ["error"]


def test_the_installed_hooks_are_tried_without_asking_the_daemon(site: Site) -> None:
    site.start()
    hooks = site.directory / "hooks"
    site.cli("install", "hooks", "--directory", str(hooks))
    assert site.check("--hooks", hooks)["hooks pre-create"] == ["ok"]
    assert not [line for line in site.metrics if line["event"] == "hook"]
    (hooks / "pre-create").unlink()
    assert site.check("--hooks", hooks, code=1)["hooks"] == ["error"]


def test_another_user_s_permissions_are_what_counts(tmp_path: Path) -> None:
    """As root everything may be written, so the check says that it can't tell."""
    site = Site(tmp_path, LOCAL + ENCRYPTED)
    found = site.check()
    assert found.get("user") == (["warning"] if os.geteuid() == 0 else None)


# REST API ---------------------------------------------------------------------------------


def credentials(key: str, secret: str) -> dict[str, str]:
    return {"DROPOFF_API_HAWK_KEY": key, "DROPOFF_API_HAWK_SECRET": secret}


def test_the_reference_api_knows_us(tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    with ReferenceServer(tmp_path / "api", study_table(STUDY)) as server:
        config = f'[api]\nurl = "{server.api.url}"\n'
        site = Site(tmp_path / "site", config + LOCAL, **credentials(server.key, server.secret))
        found = site.check()
        assert (found["api"], found["clock"]) == (["ok"], ["ok"])
        wrong = Site(tmp_path / "wrong", config + LOCAL, **credentials(server.key, "another"))
        assert wrong.check(code=1)["api"] == ["error"]
    assert site.check(code=1)["api"] == ["error"], "it is away"


@pytest.mark.peers
@pytest.mark.parametrize(("offset", "status"), [(0.0, "ok"), (300.0, "warning")])
def test_a_wrong_clock_is_warned_of(tmp_path: Path, offset: float, status: str) -> None:
    (tmp_path / "api").mkdir()
    with HawkServer(tmp_path / "api", {}, clock_offset=offset) as server:
        config = f'[api]\nurl = "{server.url}"\n'
        site = Site(tmp_path / "site", config + LOCAL, **credentials(server.key, server.secret))
        found = site.check()
        assert found["api"] != ["error"]
        assert found["clock"] == [status]


# Buckets ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


def bucket_site(directory: Path, weed: Weed, bucket: str, secret_key: str) -> Site:
    config = (
        f'[destinations.archive]\ntype = "s3"\nendpoint = "{weed.endpoint}"\nbucket = "{bucket}"\n'
        'path = "in/{study}/{upload}"\n'
    )
    environment = {
        "DROPOFF_ARCHIVE_ACCESS_KEY": weed.access_key,
        "DROPOFF_ARCHIVE_SECRET_KEY": secret_key,
    }
    return Site(directory, LOCAL + ENCRYPTED + config, **environment)


@pytest.mark.peers
@pytest.mark.parametrize("versions", [False, True])
def test_a_bucket_is_written_read_and_left_empty(
    tmp_path: Path,
    weed: Weed,
    versions: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    bucket = f"check-{uuid.uuid4().hex[:8]}"
    weed.make_bucket(bucket)
    client = weed.client()
    if versions:
        enabled = {"Status": "Enabled"}
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=enabled)
    site = bucket_site(tmp_path, weed, bucket, weed.secret_key)
    assert site.check()["destination archive"] == ["ok"]
    left = client.list_object_versions(Bucket=bucket)
    assert not left.get("Versions")
    assert not left.get("DeleteMarkers")
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")


@pytest.mark.peers
def test_a_missing_bucket_and_a_wrong_secret_are_errors_and_none_is_shown(
    tmp_path: Path, weed: Weed
) -> None:
    missing = bucket_site(tmp_path / "a", weed, "nowhere", weed.secret_key)
    found = missing.check(code=1)
    assert found["destination archive"] == ["error"]
    assert found["destination local"] == ["ok"], "one's trouble is not the other's"
    wrong = bucket_site(tmp_path / "b", weed, "ready", "not-the-secret-key")
    done = wrong.cli("check", check=False)
    assert (done.returncode, "error    destination archive" in done.stdout) == (1, True)
    assert "not-the-secret-key" not in done.stdout + done.stderr


def test_a_store_that_nobody_answers_for_delays_no_other(tmp_path: Path) -> None:
    config = '[destinations.away]\ntype = "s3"\nendpoint = "http://127.0.0.1:9"\nbucket = "b"\n'
    environment = {"DROPOFF_AWAY_ACCESS_KEY": "a", "DROPOFF_AWAY_SECRET_KEY": "b"}
    site = Site(tmp_path, LOCAL + ENCRYPTED + config, **environment)
    found = site.check(code=1)
    assert found["destination away"] == ["error"]
    assert found["destination local"] == ["ok"]

"""Destinations of config.toml that are reached by the names of files: WebDAV and SFTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.config import load
from daemon.errors import ConfigError
from daemon.settings import Destination
from pipeline.destinations import limits_of
from pipeline.messages import DestinationSpec

NEXTCLOUD = "https://cloud.example/remote.php/dav/files/alice/In"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPrTnbqRDsTuTT6Sv9VLDBvfi9OfSTzgjBBuKqBqBbOk a host"
PRIVATE_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"

Loads = Callable[..., Destination]
Fails = Callable[..., str]


@pytest.fixture
def loads(tmp_path: Path) -> Loads:
    def load_table(text: str, **environ: str) -> Destination:
        file = tmp_path / "config.toml"
        file.write_text(f"[destinations.far]\n{text}")
        return load(file, environ).destinations["far"]

    return load_table


@pytest.fixture
def fails(loads: Loads) -> Fails:
    def message(text: str, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            loads(text, **environ)
        return caught.value.message

    return message


def webdav(url: str = NEXTCLOUD, more: str = "") -> str:
    return f'type = "webdav"\nurl = "{url}"\nuser = "alice"\n{more}'


def sftp(more: str = f'host_keys = "{HOST_KEY}"') -> str:
    return f'type = "sftp"\nhost = "sftp.example"\nuser = "alice"\n{more}'


def test_a_webdav_destination_has_its_password_from_the_secrets(loads: Loads) -> None:
    found = loads(webdav(f"{NEXTCLOUD}/"), DROPOFF_FAR_PASSWORD="s3cr3t")
    assert found.path == "{study}/{upload}/{filename}"
    assert found.spec == DestinationSpec(
        name="far", type="webdav", url=NEXTCLOUD, user="alice", password="s3cr3t"
    )
    assert "s3cr3t" not in repr(found)


@pytest.mark.parametrize(
    ("url", "more", "parts"),
    [
        (NEXTCLOUD, "", True),
        (NEXTCLOUD, "chunks = false", False),
        ("https://cloud.example/sub/dir/remote.php/dav/files/alice", "", True),
        ("https://dav.example/files/alice", "", False),
        ("https://cloud.example/remote.php/webdav", "", False),
    ],
)
def test_parts_go_where_the_address_is_one_that_offers_chunks(
    loads: Loads, url: str, more: str, *, parts: bool
) -> None:
    found = loads(webdav(url, more), DROPOFF_FAR_PASSWORD="s3cr3t")
    assert limits_of(found.spec).parts == parts


def test_an_sftp_destination_has_its_defaults(loads: Loads, tmp_path: Path) -> None:
    key = tmp_path / "id"
    key.write_text(PRIVATE_KEY)
    key.chmod(0o600)
    found = loads(sftp(), DROPOFF_FAR_KEY_FILE="id")
    assert found.spec == DestinationSpec(
        name="far",
        type="sftp",
        host="sftp.example",
        port=22,
        user="alice",
        key=str(key),
        host_keys=HOST_KEY,
    )


def test_a_credential_may_hold_the_private_key_itself(loads: Loads) -> None:
    found = loads(sftp(), DROPOFF_FAR_KEY_FILE=PRIVATE_KEY, DROPOFF_FAR_PASSWORD="passphrase")
    assert (found.spec.key, found.spec.password) == (PRIVATE_KEY, "passphrase")
    assert "AAAA" not in repr(found).replace(HOST_KEY, "")
    assert "passphrase" not in repr(found)


def test_host_keys_may_be_a_file_beside_the_config(loads: Loads, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(f"sftp.example {HOST_KEY}\n")
    found = loads(sftp('host_keys = "known_hosts"'), DROPOFF_FAR_PASSWORD="x")
    assert found.spec.host_keys == str(tmp_path / "known_hosts")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('type = "webdav"\n', "far.url: missing, expected the URL of a collection"),
        (webdav("dav.example"), "far.url: not a web address"),
        (webdav("https://u:p@dav.example"), "far.url: holds a user or password"),
        (webdav("http://dav.example"), "far.url: expected https://"),
        (webdav(more='bucket = "b"'), 'far.bucket: not used by type = "webdav"'),
        (webdav(more='ca_file = "gone.pem"'), "gone.pem: no such file"),
        (webdav(more='password = "x"'), "secrets are never in config.toml; expected DROPOFF_FAR_"),
        (f'type = "webdav"\nurl = "{NEXTCLOUD}"\n', "far.user: missing, expected beside DROPOFF_"),
        ('type = "sftp"\nuser = "a"\n', "far.host: missing, expected a server"),
        ('type = "sftp"\nhost = "sftp://x"\n', 'far.host: found "sftp://x", expected a server'),
        (sftp("port = 0"), "far.port: found the number 0, expected 1 to 65535"),
        (sftp(""), "far.host_keys: missing, expected the server's public key"),
        (sftp('host_keys = "gone"'), "gone: no such file, expected host keys"),
        (sftp('url = "https://x"'), 'far.url: not used by type = "sftp"'),
        (sftp("chunks = false"), 'far.chunks: not used by type = "sftp"'),
        ('type = "directory"\ndirectory = "/d"\nhost = "x"\n', "far.host: not used by type"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_what_is_expected(
    fails: Fails, text: str, expected: str
) -> None:
    told = fails(text, DROPOFF_FAR_PASSWORD="s3cr3t")
    assert expected in told
    assert "s3cr3t" not in told


def test_missing_secrets_are_told_by_name(fails: Fails) -> None:
    assert "far.user: set, but DROPOFF_FAR_PASSWORD is missing" in fails(webdav())
    assert "expected DROPOFF_FAR_KEY_FILE or DROPOFF_FAR_PASSWORD" in fails(sftp())


def test_a_private_key_that_others_can_read_is_refused(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "id").write_text(PRIVATE_KEY)
    (tmp_path / "id").chmod(0o644)
    assert "is open to others" in fails(sftp(), DROPOFF_FAR_KEY_FILE="id")
    assert "No such file" in fails(sftp(), DROPOFF_FAR_KEY_FILE="gone")


def test_sftp_without_its_library_is_told(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.destinations.remote.SFTP_LIBRARY", "not_installed_here")
    assert "pip install dropoffd[sftp]" in fails(sftp(), DROPOFF_FAR_PASSWORD="x")


def test_a_directory_on_a_server_is_none_of_this_machine(loads: Loads) -> None:
    found = loads(
        sftp(f'host_keys = "{HOST_KEY}"\ndirectory = "/srv/tusd/in"'), DROPOFF_FAR_PASSWORD="x"
    )
    assert found.spec.directory == "/srv/tusd/in"


def test_a_rate_is_what_may_go_there_in_bytes_a_second(loads: Loads) -> None:
    here = 'type = "directory"\ndirectory = "/srv/store"\n'
    assert loads(here).rate == 0
    assert loads(f'{here}rate = "200MiB/s"').rate == 200 * 1024**2


@pytest.mark.parametrize("rate", ['"200MiB"', "200", '"200Mbit/s"', '"0MiB/s"', '"1KiB/s"'])
def test_a_rate_that_is_none_is_refused(fails: Fails, rate: str) -> None:
    message = fails(f'type = "directory"\ndirectory = "/srv/store"\nrate = {rate}')
    assert "destinations.far.rate" in message
    assert 'bytes a second such as "200MiB/s"' in message or 'at least "16KiB/s"' in message

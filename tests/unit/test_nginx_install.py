"""`dropoffd install nginx` writes files that fit the config, and leaves its owner's alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.cli import main


def install(directory: Path, *more: str) -> int:
    return main(["install", "nginx", "--directory", str(directory), *more])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(
        f'[uploads]\ndirectory = "{tmp_path}/uploads"\nstudy_key = "Project-ID"\n'
        f'[spool]\ndirectory = "{tmp_path}/spool"\n[state]\ndirectory = "{tmp_path}/state"\n'
        "[hooks]\nstudy_ids = true\n"
    )
    return file


def test_its_files_are_written_and_listed(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(tmp_path / "nginx", "--config", str(config), "--json") == 0
    written = [Path(path) for path in json.loads(capsys.readouterr().out)["written"]]
    assert sorted(written) == sorted((tmp_path / "nginx").iterdir())
    assert {path.stat().st_mode & 0o777 for path in written} == {0o644}
    assert not any("@" in path.read_text() for path in written)


def test_the_config_says_which_key_holds_the_study(tmp_path: Path, config: Path) -> None:
    install(tmp_path / "nginx", "--config", str(config))
    assert 'KEY = "Project-ID";' in (tmp_path / "nginx/dropoff_tus.js").read_text()


@pytest.mark.parametrize(
    ("server", "nested"), [("tusd", "true"), ("tusd1", "false"), ("rustus", "false")]
)
def test_only_tusd_2_keeps_ids_below_a_study(
    tmp_path: Path, config: Path, server: str, nested: str
) -> None:
    install(tmp_path / "nginx", "--config", str(config), "--server", server)
    text = (tmp_path / "nginx/dropoff_tus.js").read_text()
    assert f"STUDY_IDS = {nested};" in text


def test_no_config_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DROPOFFD_CONFIG", raising=False)
    monkeypatch.setattr("daemon.config.SYSTEM_FILE", tmp_path / "none.toml")
    assert install(tmp_path / "nginx") == 0
    assert 'KEY = "study";' in (tmp_path / "nginx/dropoff_tus.js").read_text()


def test_the_owners_host_is_left_and_the_rest_is_replaced(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path / "nginx", "--config", str(config))
    vhost = tmp_path / "nginx/tus.vhost.conf"
    vhost.write_text(vhost.read_text().replace("listen 80;", "listen 8080;"))
    assert install(tmp_path / "nginx", "--config", str(config), "--prefix", "/in/tus") == 0
    assert "listen 8080;" in vhost.read_text()
    assert "is left as it is" in capsys.readouterr().err
    assert "location ^~ /in/tus/ {" in (tmp_path / "nginx/tus.location.inc").read_text()


def test_files_of_others_stay(tmp_path: Path, config: Path) -> None:
    (tmp_path / "nginx").mkdir()
    (tmp_path / "nginx/dropoff_tus.js").write_text("export default {};\n")
    assert install(tmp_path / "nginx", "--config", str(config)) == 1
    assert [path.name for path in (tmp_path / "nginx").iterdir()] == ["dropoff_tus.js"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--prefix", "/"),
        ("--prefix", "uploads"),
        ("--prefix", "/a/../b"),
        ("--prefix", "/a b"),
        ("--prefix", "/$host"),
        ("--upstream", "https://127.0.0.1:1080/files/"),
        ("--upstream", "127.0.0.1:1080"),
        ("--upstream", "http://127.0.0.1:1080/files/;#"),
        ("--upstream", "http://user:word@127.0.0.1:1080/files/"),
        ("--upstream", "http://127.0.0.1:1080/$x/"),
    ],
)
def test_what_nginx_would_misread_is_refused(
    tmp_path: Path, config: Path, arguments: tuple[str, str]
) -> None:
    assert install(tmp_path / "nginx", "--config", str(config), *arguments) == 78
    assert not (tmp_path / "nginx").exists()


@pytest.mark.parametrize("key", ["two words", "a,b", "Größe"])
def test_a_key_that_tus_forbids_is_refused(tmp_path: Path, config: Path, key: str) -> None:
    config.write_text(config.read_text().replace("Project-ID", key))
    assert install(tmp_path / "nginx", "--config", str(config)) == 78


def test_a_directory_that_nginx_would_misread_is_refused(tmp_path: Path, config: Path) -> None:
    assert install(tmp_path / "it's; $here", "--config", str(config)) == 78

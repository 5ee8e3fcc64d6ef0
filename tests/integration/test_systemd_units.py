from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from daemon.config import load
from daemon.units import parse_duration
from tests.peers.cache import PeerMissingError

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "dropoffd.service"
TMPFILES = ROOT / "systemd" / "tmpfiles.d" / "dropoffd.conf"
SYSUSERS = ROOT / "systemd" / "sysusers.d" / "dropoffd.conf"


def systemd(tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    if shutil.which(tool) is None:
        raise PeerMissingError(f"{tool} is not on this machine")
    return subprocess.run(
        [tool, *map(str, arguments)],
        env={**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def settings_of(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        if setting := re.match(r"(\w+)=(.*)", line):
            found.setdefault(setting[1], []).append(setting[2])
    return found


@pytest.fixture
def unit() -> dict[str, list[str]]:
    return settings_of(UNIT.read_text())


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "dropoffd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = UNIT.read_text().replace("/opt/dropoffd/bin/dropoffd", str(program))
    (tmp_path / "dropoffd.service").write_text(text)
    done = systemd("systemd-analyze", "verify", tmp_path / "dropoffd.service")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_the_unit_is_exposed_by_no_more_than_two(tmp_path: Path) -> None:
    offline = ("systemd-analyze", "security", "--offline=true")
    done = systemd(*offline, "--threshold=20", UNIT)
    assert done.returncode == 0, done.stdout
    # The check does find an open one.
    text = UNIT.read_text().replace("CapabilityBoundingSet=\n", "")
    (tmp_path / "dropoffd.service").write_text(text)
    assert systemd(*offline, "--threshold=20", tmp_path / "dropoffd.service").returncode == 1


def test_stopping_may_take_longer_than_the_daemon_waits(
    unit: dict[str, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "config.toml").touch()
    waits = load(tmp_path / "config.toml", {}).pipeline.stop_timeout
    assert parse_duration(unit["TimeoutStopSec"][0]) >= waits + 10
    assert unit["KillMode"] == ["mixed"]


def test_the_unit_may_write_where_the_daemon_does_by_default(
    unit: dict[str, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "config.toml").touch()
    settings = load(tmp_path / "config.toml", {})
    writable = {Path(path.lstrip("-")) for path in unit["ReadWritePaths"][0].split()}
    writable.add(Path("/var/lib") / unit["StateDirectory"][0])
    writable.add(Path("/run") / unit["RuntimeDirectory"][0])
    needed = {settings.uploads.directory, settings.spool, settings.state}
    assert writable == {*needed, settings.hooks.socket.parent}


def test_a_configuration_error_is_not_tried_again(unit: dict[str, list[str]]) -> None:
    assert unit["RestartPreventExitStatus"] == ["78"]
    assert unit["Restart"] == ["on-failure"]


def test_credentials_may_be_missing(unit: dict[str, list[str]]) -> None:
    # With an absolute path systemd wants the file to be there; without one it looks in credstore.
    names = {"WEBHOOK_URL", "DROPOFF_API_HAWK_KEY", "DROPOFF_API_HAWK_SECRET"}
    assert set(unit["LoadCredential"]) == names


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        raise PeerMissingError("giving directories away needs root")
    (tmp_path / "etc").mkdir()
    done = systemd("systemd-sysusers", f"--root={tmp_path}", SYSUSERS)
    assert done.returncode == 0, done.stderr
    done = systemd("systemd-tmpfiles", "--create", f"--root={tmp_path}", TMPFILES)
    assert (done.returncode, done.stderr) == (0, "")
    return tmp_path


def test_the_service_has_a_user_in_the_tus_servers_group(
    installed: Path, unit: dict[str, list[str]]
) -> None:
    passwd = (installed / "etc/passwd").read_text()
    group = (installed / "etc/group").read_text()
    assert re.search(rf"^{unit['User'][0]}:.*:/usr/sbin/nologin$", passwd, re.MULTILINE)
    assert re.search(rf"^{unit['Group'][0]}:.*:dropoffd$", group, re.MULTILINE)


def test_hooks_may_write_where_they_must_and_nowhere_else(installed: Path) -> None:
    tusd = _group(installed, "tusd")
    for name, mode in {
        "srv/tusd": 0o2770,
        "var/spool/dropoffd": 0o2750,
        "var/spool/dropoffd/tmp": 0o2770,
        "var/spool/dropoffd/new": 0o2770,
        "run/dropoffd": 0o750,
    }.items():
        status = (installed / name).stat()
        assert (name, oct(stat.S_IMODE(status.st_mode)), status.st_gid) == (name, oct(mode), tusd)
    failed = (installed / "var/spool/dropoffd/failed").stat()
    assert stat.S_IMODE(failed.st_mode) == 0o700


def test_the_configuration_is_read_by_the_service_alone(installed: Path) -> None:
    status = (installed / "etc/dropoffd").stat()
    assert stat.S_IMODE(status.st_mode) == 0o750
    assert (status.st_uid, status.st_gid) == (0, _group(installed, "dropoffd"))


def _group(root: Path, name: str) -> int:
    for line in (root / "etc/group").read_text().splitlines():
        found, _, number, _ = line.split(":")
        if found == name:
            return int(number)
    raise AssertionError(name)

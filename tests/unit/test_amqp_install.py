"""What `dropoffd install hooks --server rustus` writes for AMQP hooks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from daemon.cli import main
from daemon.cli.install_amqp import RUSTUS_ENVIRONMENT

FILE = """\
[hooks.amqp]
url = "amqps://al%40ice@mq.example/a%2Fb"
exchange = "it's $HOME"
routing_key = "one"
celery = true
durable_exchange = false
"""


def installed(tmp_path: Path, table: str, server: str = "rustus") -> Path:
    (tmp_path / "config.toml").write_text(table)
    command = ["install", "hooks", "--directory", str(tmp_path / "hooks"), "--server", server]
    assert main([*command, "--config", str(tmp_path / "config.toml")]) == 0
    return tmp_path / "hooks" / RUSTUS_ENVIRONMENT


def by_a_shell(file: Path) -> dict[str, str]:
    done = subprocess.run(
        ["sh", "-c", f"set -a; . '{file}'; env -0"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = (each.partition("=") for each in done.stdout.split("\0") if each)
    return {name: value for name, _, value in pairs if name.startswith("RUSTUS_")}


def test_rustus_is_told_the_same_names(tmp_path: Path) -> None:
    file = installed(tmp_path, FILE)
    assert by_a_shell(file) == {
        "RUSTUS_HOOKS_AMQP_EXCHANGE": "it's $HOME",
        "RUSTUS_HOOKS_AMQP_EXCHANGE_KIND": "topic",
        "RUSTUS_HOOKS_AMQP_QUEUES_PREFIX": "rustus",
        "RUSTUS_HOOKS_AMQP_ROUTING_KEY": "one",
        "RUSTUS_HOOKS_AMQP_DECLARE_EXCHANGE": "yes",
        "RUSTUS_HOOKS_AMQP_DECLARE_QUEUES": "yes",
        "RUSTUS_HOOKS_AMQP_DURABLE_QUEUES": "yes",
        "RUSTUS_HOOKS_AMQP_CELERY": "yes",
    }
    assert "=amqps://al%40ice:PASSWORD@mq.example:5671/a%2Fb\n" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o644


def test_the_password_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPOFF_AMQP_PASSWORD", "s3cr3t")
    file = installed(tmp_path, '[hooks.amqp]\nurl = "amqp://alice@mq"\n')
    assert all("s3cr3t" not in path.read_text() for path in file.parent.iterdir())


def test_the_brokers_own_exchange_is_not_declared(tmp_path: Path) -> None:
    found = by_a_shell(installed(tmp_path, '[hooks.amqp]\nurl = "amqp://a@mq"\nexchange = ""\n'))
    assert not any("DECLARE" in name for name in found)
    assert found["RUSTUS_HOOKS_AMQP_EXCHANGE"] == ""


@pytest.mark.parametrize(
    ("table", "server"),
    [("", "rustus"), ('[hooks.amqp]\nurl = "amqp://a@mq"\n', "tusd")],
)
def test_nobody_else_is_told_of_it(tmp_path: Path, table: str, server: str) -> None:
    assert not installed(tmp_path, table, server).exists()

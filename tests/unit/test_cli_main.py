from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import daemon.cli
from daemon import SOFTWARE
from daemon.cli import main
from daemon.cli.client import DaemonUnreachableError
from daemon.errors import (
    ApiUnreachableError,
    ConfigError,
    ConflictError,
    NotFoundError,
)

FORBIDDEN = ("aiohttp", "rich", "botocore", "aiobotocore", "cryptography", "sqlite3", "structlog")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], None]:
    """Makes `dropoffd test` do something."""

    def install(do: Callable[[], int]) -> None:
        module = ModuleType("daemon.cli.test")

        def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
            commands.add_parser("test").set_defaults(run=lambda _: do())

        vars(module)["add"] = add
        monkeypatch.setitem(sys.modules, "daemon.cli.test", module)
        monkeypatch.setattr(daemon.cli, "GROUPS", ("test",))

    return install


def raising(error: BaseException) -> Callable[[], int]:
    def do() -> int:
        raise error

    return do


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("a\nb"), 78, "dropoffd: config_invalid: a\ndropoffd: config_invalid: b\n"),
        (ApiUnreachableError("away"), 75, "dropoffd: api_unreachable: away\n"),
        (DaemonUnreachableError("no"), 75, "dropoffd: daemon_unreachable: no\n"),
        (NotFoundError("none"), 3, "dropoffd: not_found: none\n"),
        (ConflictError("not now"), 1, "dropoffd: conflict: not now\n"),
        (ConflictError("\x1b[31m"), 1, "dropoffd: conflict: \\x1b[31m\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "dropoffd: /x: Permission denied\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_exit_codes_and_messages(
    command: Callable[[Callable[[], int]], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    told: str,
) -> None:
    command(raising(error))
    assert main(["test"]) == code
    captured = capsys.readouterr()
    assert captured.err == told
    assert captured.out == ""


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_commands_own_code_is_the_exit_code(
    command: Callable[[Callable[[], int]], None], code: int
) -> None:
    command(lambda: code)
    assert main(["test"]) == code


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: dropoffd" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["nonsense"])
    assert ended.value.code == 2


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{SOFTWARE}\n"


def test_help_is_quick_and_loads_nothing_dear() -> None:
    script = """
import sys
from daemon.cli import main
try:
    main(["--help"])
finally:
    sys.stderr.write(" ".join(sys.modules))
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = set(done.stderr.split())
    assert "daemon.cli.look" in loaded
    assert loaded.isdisjoint(FORBIDDEN)
    # 0.15 s on an idle machine; this one may be busy.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    for name in ("uploads", "show", "status", "metrics"):
        assert f"\n    {name} " in done.stdout


def test_who_stops_reading_ends_it_without_a_word(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    record = '{"ts":"2026-01-01T12:00:00.000Z","event":"hook","outcome":"ok"}\n'
    metrics.write_text(record)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "daemon", "metrics", str(metrics)],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")

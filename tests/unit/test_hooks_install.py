"""`dropoffd install` writes what works as it is, and replaces nothing of others."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from daemon.cli import main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    place = tmp_path / "it's $(touch pwned) `x`"
    place.mkdir()
    file = tmp_path / "config.toml"
    file.write_text(
        f'[uploads]\ndirectory = "{place}/uploads"\n'
        f'[spool]\ndirectory = "{place}/spool"\n'
        f'[state]\ndirectory = "{place}/state"\n'
        f'[hooks]\nsocket = "{place}/s"\n'
    )
    for name in ("tmp", "new"):
        (place / "spool" / name).mkdir(parents=True)
    return file


def install(directory: Path, config: Path, *more: str) -> int:
    return main(["install", "hooks", "--directory", str(directory), "--config", str(config), *more])


@pytest.mark.parametrize("server", ["tusd", "tusd1", "rustus"])
def test_hooks_are_written_and_listed(
    tmp_path: Path, config: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(tmp_path / "hooks", config, "--server", server, "--json") == 0
    written = [Path(path) for path in json.loads(capsys.readouterr().out)["written"]]
    assert sorted(written) == sorted((tmp_path / "hooks").iterdir())
    assert {path.stat().st_mode & 0o777 for path in written} == {0o755}
    assert {"pre-create", "post-finish", "post-terminate"} <= {path.name for path in written}


def test_hooks_of_others_stay(tmp_path: Path, config: Path) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "post-finish").write_text("#!/bin/sh\necho mine\n")
    assert install(hooks, config) == 1
    assert [path.name for path in hooks.iterdir()] == ["post-finish"]
    assert "mine" in (hooks / "post-finish").read_text()


def test_a_symlink_is_nothing_of_ours(tmp_path: Path, config: Path) -> None:
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "pre-create").symlink_to(tmp_path / "elsewhere")
    assert install(tmp_path / "hooks", config) == 1
    assert not (tmp_path / "elsewhere").exists()


def test_our_own_hooks_are_replaced(tmp_path: Path, config: Path) -> None:
    assert install(tmp_path / "hooks", config) == 0
    assert install(tmp_path / "hooks", config, "--server", "tusd1") == 0
    assert "server=tusd1" in (tmp_path / "hooks" / "pre-create").read_text()


def test_paths_are_never_code(tmp_path: Path, config: Path) -> None:
    install(tmp_path / "hooks", config)
    for name in ("pre-create", "post-finish"):
        done = subprocess.run(
            [tmp_path / "hooks" / name],
            input=b'{"Upload":{}}',
            capture_output=True,
            check=True,
            cwd=tmp_path,
            timeout=20,
        )
        assert (b"RejectUpload" in done.stdout) is (name == "pre-create")
    (left,) = tmp_path.glob("it*/spool/new/*")
    assert left.name.startswith("post-finish.")
    assert left.suffix == ".json"
    assert left.read_bytes() == b'{"Upload":{}}'
    assert left.stat().st_mode & 0o777 == 0o660
    assert not list(tmp_path.rglob("pwned"))


def test_a_post_hook_without_a_spool_fails_nothing(tmp_path: Path, config: Path) -> None:
    install(tmp_path / "hooks", config)
    os.rename(next(tmp_path.glob("it*")), tmp_path / "away")  # noqa: PTH104 -- an odd name
    done = subprocess.run(
        [tmp_path / "hooks" / "post-finish"],
        input=b"{}",
        capture_output=True,
        check=False,
        timeout=20,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_server_that_dies_before_it_tells_anything_leaves_nothing_in_the_spool(
    tmp_path: Path, config: Path
) -> None:
    install(tmp_path / "hooks", config)
    spool = next(tmp_path.glob("it*")) / "spool"
    for told, left in ((b"", 0), (b"{}", 1)):
        subprocess.run([tmp_path / "hooks" / "post-create"], input=told, check=True, timeout=20)
        assert len(list((spool / "new").iterdir())) == left
    assert list((spool / "tmp").iterdir()) == []


def test_units_name_the_config(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[uploads]\ndirectory = "{tmp_path}/uploads"\n[state]\ndirectory = "{tmp_path}/state"\n'
    )
    target = ["--directory", str(tmp_path / "units"), "--config", str(config)]
    assert main(["install", "systemd", *target]) == 0
    unit = (tmp_path / "units" / "dropoffd.service").read_text()
    assert f"run --config {config}\n" in unit
    assert f"ReadWritePaths=-{tmp_path}/uploads -" in unit
    (tmp_path / "units" / "dropoffd.service").write_text("[Unit]\n")
    assert main(["install", "systemd", *target]) == 1

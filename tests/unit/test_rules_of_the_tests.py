"""The rules that hold for all tests hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.peers import cache

ROOT = Path(__file__).parents[2]

MISSING = "from tests.peers.cache import PeerMissingError\n"
SKIPS = {
    "mark": "import pytest\n@pytest.mark.skip(reason='the mark')\ndef test_it(): pass\n",
    "call": "import pytest\ndef test_it(): pytest.skip('the call')\n",
    "module": "import pytest\npytest.skip('the module', allow_module_level=True)\n",
    "peer": f"{MISSING}def test_it(): raise PeerMissingError('the peer')\n",
    "async": f"{MISSING}async def test_it(): raise PeerMissingError('the async')\n",
    "fixture": (
        f"{MISSING}import pytest\n@pytest.fixture\n"
        "def peer(): raise PeerMissingError('the fixture')\ndef test_it(peer): pass\n"
    ),
}
XFAIL = "import pytest\n@pytest.mark.xfail\ndef test_it(): assert False\n"


def run(directory: Path, modules: Mapping[str, str], *, ci: str) -> str:
    """The summary of a run of pytest under our rules."""
    for name, text in modules.items():
        (directory / f"test_{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-rA", "-c", os.devnull]
    options = ["-o", "asyncio_mode=auto", "--rootdir", ".", "--continue-on-collection-errors"]
    done = subprocess.run(
        [*command, *options, "."],
        cwd=directory,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_a_skip_is_a_failure_in_ci_and_tells_its_reason(tmp_path: Path) -> None:
    told = run(tmp_path, {**SKIPS, "xfail": XFAIL}, ci="true")
    last = told.splitlines()[-1]
    assert "skipped" not in last
    assert "passed" not in last
    assert "1 xfailed" in last
    for name in SKIPS:
        assert re.search(rf"^(FAILED|ERROR) test_{name}\.py", told, re.MULTILINE), told
        assert re.search(rf"no success here: .*the {name}", told), told


def test_a_skip_is_a_skip_elsewhere(tmp_path: Path) -> None:
    told = run(tmp_path, SKIPS, ci="")
    assert re.search(rf"^=+ {len(SKIPS)} skipped in", told.splitlines()[-1]), told
    for name in SKIPS:
        assert re.search(rf"^SKIPPED .*the {name}", told, re.MULTILINE), told


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DROPOFFD_PEERS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("own_cache")
def test_a_peer_is_built_once_for_each_version() -> None:
    builds: list[Path] = []

    def build(place: Path) -> None:
        builds.append(place)
        (place / "program").write_text(str(len(builds)))

    first = cache.built("peer", ["1.0"], build)
    again = cache.built("peer", ["1.0"], build)
    other = cache.built("peer", ["1.1"], build)
    assert first == again != other
    assert (first / "program").read_text() == "1"
    assert (other / "program").read_text() == "2"


def test_of_a_failed_build_nothing_is_kept(own_cache: Path) -> None:
    def fail(place: Path) -> None:
        (place / "half").touch()
        cache.run([sys.executable, "-c", "import sys; sys.exit('the compiler is cross')"])

    with pytest.raises(cache.PeerMissingError, match="the compiler is cross"):
        cache.built("peer", ["1.0"], fail)

    place = cache.built("peer", ["1.0"], lambda place: (place / "program").touch())
    assert [path.name for path in place.iterdir()] == ["program"]
    assert place.parent == own_cache

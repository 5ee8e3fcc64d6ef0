"""What is installed is what was looked at: every dependency is pinned, and by its exact version."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "tests" / "constraints.txt"
EXTRAS = ("amqp", "sftp")
"""Those that reach users; what only tests need is pinned as well, but never shipped."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    """Exact versions by name."""
    found: dict[str, str] = {}
    for line in CONSTRAINTS.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, exact, version = line.partition("==")
            assert exact, f"not an exact version: {line}"
            assert re.fullmatch(r"[0-9][0-9A-Za-z.+!]*", version), line
            assert canonical(name) not in found, f"there twice: {line}"
            found[canonical(name)] = version
    return found


def named(requirement: str) -> tuple[str, str]:
    """A requirement's name, and the marker it counts under."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return canonical(match[0]), requirement.partition(";")[2]


def needed() -> set[str]:
    """The names of all that dropoffd and its extras bring along here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    waiting = [*project["dependencies"], *(one for extra in EXTRAS for one in optional[extra])]
    seen: set[str] = set()
    while waiting:
        name, marker = named(waiting.pop())
        if name in seen or "extra ==" in marker.replace("'", '"'):
            continue
        try:
            more = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # another Python's, or another system's
        seen.add(name)
        waiting += more
    return seen


def test_everything_that_comes_along_is_pinned() -> None:
    found = needed()
    assert {"aiohttp", "cryptography", "msgspec", "yarl"} <= found
    assert found - pinned().keys() == set()


def test_what_is_installed_is_what_is_pinned() -> None:
    versions = pinned()
    others = {
        name: (importlib.metadata.version(name), versions[name])
        for name in needed()
        if name in versions and importlib.metadata.version(name) != versions[name]
    }
    assert others == {}


@pytest.mark.network
def test_no_pinned_version_has_a_known_weakness() -> None:
    """Asks the package index by pip-audit, which is to be installed beside: needs the network."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--no-deps", "-r", str(CONSTRAINTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

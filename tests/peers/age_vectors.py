"""The age files of C2SP's test kit, good and bad, to hold every implementation against."""

from __future__ import annotations

import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

from tests.peers import cache

HERE = Path(__file__).parent / "age_vectors_kit"


@dataclass(frozen=True)
class Vector:
    """One file, and what reading it should come to."""

    name: str
    file: bytes
    expect: str
    """``success``, or what kind of failure."""
    payload_sha256: str
    """Of the plaintext, hex; empty where there is none."""
    identities: tuple[str, ...]
    passphrase: str
    armoured: bool


def installed() -> Path:
    """A directory with the kit's files; PeerMissingError without npm."""
    npm, node = (cache.tool(name, "C2SP's age files") for name in ("npm", "node"))
    sources = [HERE / "package.json", HERE / "unpack.js"]

    def install(into: Path) -> None:
        for source in sources:
            shutil.copy(source, into)
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock"]
        cache.run([*command, "--ignore-scripts"], cwd=into)
        cache.run([node, "unpack.js", "files"], cwd=into)

    return cache.built("age-vectors", sources, install) / "files"


def vectors() -> list[Vector]:
    """All of them, by name."""
    return [_vector(path) for path in sorted(installed().iterdir())]


def _vector(path: Path) -> Vector:
    """A file of the kit: lines of what it is, an empty one, and the age file."""
    head, _, file = path.read_bytes().partition(b"\n\n")
    told: dict[str, list[str]] = {}
    for line in head.decode().splitlines():
        key, _, value = line.partition(": ")
        told.setdefault(key, []).append(value)
    return Vector(
        name=path.name,
        file=zlib.decompress(file) if told.get("compressed") == ["zlib"] else file,
        expect=told["expect"][0],
        payload_sha256=told.get("payload", [""])[0],
        identities=tuple(told.get("identity", ())),
        passphrase=told.get("passphrase", [""])[0],
        armoured="armored" in told,
    )

"""tusd 2 keeps uploads where its pre-create says: they are delivered from there, or refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.peers.dropoffd import Dropoffd
from tests.peers.tus_client import TusClient
from tests.peers.tusd import Tusd

STUDY = "11111111-2222-4333-8444-555555555555"
DATA = b"kept elsewhere"

pytestmark = pytest.mark.peers


@dataclass(frozen=True)
class Kept:
    """A daemon, and a tusd whose pre-create answers what a file says."""

    directory: Path
    daemon: Dropoffd
    tusd: Tusd

    def send(self, change: dict[str, Any]) -> str:
        """Send an upload whose file info is changed so; its id."""
        (self.directory / "answer.json").write_text(json.dumps({"ChangeFileInfo": change}))
        return asyncio.run(self._send())

    async def _send(self) -> str:
        async with TusClient(self.tusd.url) as client:
            return await client.send(DATA, {"study": STUDY, "filename": "a.bin"})

    def over(self, tus_id: str) -> dict[str, Any]:
        """The upload, once it is over."""
        self.daemon.wait_until_over(1, 30)
        return self.daemon.show(tus_id)

    def stored(self) -> list[bytes]:
        """What is in the store, which then is emptied."""
        found = [path for path in (self.directory / "store").rglob("*") if path.is_file()]
        contents = [path.read_bytes() for path in found]
        for path in found:
            path.unlink()
        return contents

    def left(self) -> list[str]:
        """The files in the upload directory."""
        uploads = self.daemon.uploads
        return sorted(
            str(path.relative_to(uploads)) for path in uploads.rglob("*") if path.is_file()
        )


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    (tmp_path / "store").mkdir()
    config = (
        f'[destinations.local]\ntype = "directory"\ndirectory = "{tmp_path}/store"\n'
        f'[studies."{STUDY}"]\nencrypt = "none"\ndestinations = ["local"]\n'
    )
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    hook = hooks / "pre-create"
    hook.write_text(f"#!/bin/sh\nexec cat '{tmp_path}/answer.json'\n")
    hook.chmod(0o755)
    daemon = Dropoffd(tmp_path / "daemon", config)
    with daemon, Tusd(daemon.uploads, hooks) as tusd:
        yield Kept(tmp_path, daemon, tusd)


def test_uploads_are_delivered_from_wherever_they_are_and_leave_nothing_there(kept: Kept) -> None:
    inside = kept.daemon.uploads / "data" / "absolute.bin"
    changes: list[dict[str, Any]] = [
        {"ID": "flat"},
        {"ID": "project-1/run+2/x:@y"},
        {"ID": "not-an.info"},
        {"ID": f"{STUDY}/by-study"},
        {"ID": "nested/id", "Storage": {"Path": "data/relative.bin"}},
        {"Storage": {"Path": "data/of an own id.bin"}},
        {"ID": "absolute", "Storage": {"Path": str(inside)}},
    ]
    ids = [kept.send(change) for change in changes]
    kept.daemon.wait_until_over(len(ids), 30)
    assert {each["state"] for each in kept.daemon.listed()} == {"done"}
    assert {each["tus_id"] for each in kept.daemon.listed()} == set(ids)
    assert ids[:2] == ["flat", "project-1/run+2/x:@y"]
    assert kept.stored() == [DATA] * len(ids)
    assert kept.left() == []


@pytest.mark.parametrize("place", ["absolute", "by dots"])
def test_data_outside_the_upload_directory_is_never_touched(kept: Kept, place: str) -> None:
    outside = kept.directory / "outside.bin"
    path = str(outside) if place == "absolute" else "../../outside.bin"
    tus_id = kept.send({"ID": "leads-out", "Storage": {"Path": path}})
    assert outside.read_bytes() == DATA
    shown = kept.over(tus_id)
    assert (shown["state"], shown["error"]["code"]) == ("failed", "source_unsafe")
    assert kept.stored() == []
    assert outside.read_bytes() == DATA
    assert kept.left() == ["leads-out.info"]
    good = kept.send({"ID": "unharmed"})
    kept.daemon.wait_until_over(2, 30)
    assert kept.daemon.show(good)["state"] == "done"

"""What a tus client is told when its upload isn't wanted: and nothing is created then."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.peers.dropoffd import Dropoffd
from tests.peers.hawk import HawkServer
from tests.peers.tusd import Tusd

OPEN, CLOSED = str(uuid.uuid4()), str(uuid.uuid4())

pytestmark = pytest.mark.peers


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    retry_after: str | None


@dataclass
class Entrance:
    """tusd with dropoffd's hooks before it, and a HAWK server behind."""

    api: HawkServer
    daemon: Dropoffd
    tusd: Tusd

    def create(self, study: str | None, size: int) -> Answer:
        return asyncio.run(self._create(study, size))

    async def _create(self, study: str | None, size: int) -> Answer:
        metadata = {"filename": "a.bam"} | ({"study": study} if study is not None else {})
        pairs = (f"{k} {base64.b64encode(v.encode()).decode()}" for k, v in metadata.items())
        headers = {
            "Tus-Resumable": "1.0.0",
            "Upload-Length": str(size),
            "Upload-Metadata": ",".join(pairs),
        }
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.tusd.url, headers=headers) as answer,
        ):
            text = await answer.text()
            return Answer(answer.status, text, answer.headers.get("Retry-After"))

    def nothing_created(self) -> bool:
        return not list(self.daemon.uploads.iterdir())


@pytest.fixture
def entrance(tmp_path: Path) -> Iterator[Entrance]:
    plan = {"encrypt": "none", "recipients": [], "destinations": [{"use": "local"}]}
    plans: dict[str, dict[str, Any]] = {
        OPEN: {**plan, "open": True, "max_size": 1000},
        CLOSED: {**plan, "open": False, "max_size": None},
    }
    (tmp_path / "store").mkdir()
    config = f'[destinations.local]\ntype = "directory"\ndirectory = "{tmp_path}/store"\n'
    with HawkServer(tmp_path / "api", plans) as api:
        daemon = Dropoffd(tmp_path / "daemon", config, api.environment)
        with daemon:
            hooks = tmp_path / "hooks"
            daemon.cli("install", "hooks", "--directory", str(hooks), "--server", "tusd")
            with Tusd(daemon.uploads, hooks=hooks) as tusd:
                yield Entrance(api, daemon, tusd)


def test_an_unknown_study_is_refused_with_the_api_s_words(entrance: Entrance) -> None:
    study = str(uuid.uuid4())
    answer = entrance.create(study, 10)
    assert (answer.status, answer.text) == (404, f"Study {study} is not known here.\n")
    assert entrance.nothing_created()


def test_a_closed_study_is_refused_with_the_api_s_words(entrance: Entrance) -> None:
    answer = entrance.create(CLOSED, 10)
    assert (answer.status, answer.text) == (403, f"Study {CLOSED} is closed.\n")
    assert entrance.nothing_created()


def test_an_oversized_upload_is_refused_with_the_api_s_words(entrance: Entrance) -> None:
    answer = entrance.create(OPEN, 1001)
    assert answer.status == 413
    assert "1000 bytes" in answer.text
    assert entrance.nothing_created()


@pytest.mark.parametrize("study", [None, "", "not-a-uuid", f"{OPEN}/../{CLOSED}"])
def test_an_upload_without_a_study_is_refused(entrance: Entrance, study: str | None) -> None:
    answer = entrance.create(study, 10)
    assert answer.status == 400
    assert "study" in answer.text
    assert entrance.nothing_created()


def test_a_stopped_api_refuses_with_503_for_later(entrance: Entrance) -> None:
    entrance.api.stop()
    answer = entrance.create(OPEN, 10)
    assert answer.status == 503
    assert answer.retry_after is not None
    assert str(entrance.api.port) not in answer.text, "internals are nobody's business"
    assert entrance.nothing_created()


def test_a_stopped_daemon_refuses_with_503_for_later(entrance: Entrance) -> None:
    entrance.daemon.kill()
    answer = entrance.create(OPEN, 10)
    assert answer.status == 503
    assert answer.retry_after is not None
    assert str(entrance.daemon.directory) not in answer.text
    assert entrance.nothing_created()


def test_after_all_the_refusals_an_upload_that_is_wanted_is_taken(entrance: Entrance) -> None:
    entrance.create(CLOSED, 10)
    entrance.create(None, 10)
    assert entrance.create(OPEN, 10).status == 201

"""The REST API takes an announcement, and its answer is lost: somebody ends it all the same."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.peers import announcements, faulty
from tests.peers.dropoffd import Dropoffd
from tests.peers.faulty import FaultyHttp, Spoil
from tests.peers.openers import Clear
from tests.peers.oracle import Evidence, judge
from tests.peers.reference_api import ReferenceServer
from tests.peers.scene import Recipient
from tests.peers.stores import Folder
from tests.peers.tusd_files import pre_create

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

STUDY = str(uuid.uuid4())
METADATA = {"filename": "asked.bam", "study": STUDY}
TWICE = 2
"""An answer that is lost with its connection is asked for again at once; others again later."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReferenceServer]:
    (tmp_path / "api").mkdir()
    recipient = Recipient(tmp_path)
    with ReferenceServer(
        tmp_path / "api", recipient.study(STUDY, ["local"]), path="/"
    ) as reference:
        yield reference


def _daemon(directory: Path, url: str) -> Dropoffd:
    hawk = ReferenceServer.asked_at(url)
    config = '[api]\ntimeout = "1s"\n'
    config += '[destinations.local]\ntype = "directory"\ndirectory = "{directory}/store"\n'
    daemon = Dropoffd(directory, config, hawk)
    # Nobody waits for pre-create's answer any longer than this.
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[hooks]\n", '[hooks]\ntimeout = "2s"\n'))
    return daemon


def _is_announcement(request: web.BaseRequest) -> bool:
    return request.path == "/uploads/"


def _refused(daemon: Dropoffd) -> bool:
    answer: dict[str, Any] = pre_create(daemon, 1, METADATA)
    return bool(answer["HTTPResponse"]["StatusCode"] == 503)


def _told(server: ReferenceServer) -> list[list[str]]:
    return [[report["state"] for report in drop["reports"]] for drop in server.drops()]


def _judge(daemon: Dropoffd, server: ReferenceServer) -> None:
    """Nothing was sent, and nothing is anywhere."""
    store = {"local": Folder(daemon.directory / "store")}
    secrets = [ReferenceServer.secret]
    judge(Evidence(daemon, [], server.drops(), store, Clear(), secrets)).hold()


@pytest.mark.parametrize(
    "fault",
    [
        faulty.lost_answer,
        faulty.silent_after_body,
        lambda: faulty.done_but(502),
    ],
    ids=["cut", "never given", "replaced by a gateway's"],
)
async def test_an_announcement_whose_answer_was_lost_is_reported_terminated_after_a_day(
    tmp_path: Path, server: ReferenceServer, fault: Callable[[], Spoil]
) -> None:
    async with FaultyHttp(server.api.url) as proxy:
        proxy.spoil(_is_announcement, fault(), TWICE)
        daemon = _daemon(tmp_path / "world", proxy.url)
        with daemon:
            assert await asyncio.to_thread(_refused, daemon)
            await asyncio.to_thread(
                daemon.wait_for, lambda: _told(server) == [[]], 10, "the API knows of it"
            )
            await asyncio.to_thread(
                daemon.wait_for, lambda: announcements.announced(daemon) == 1, 30, "it is found"
            )
            assert announcements.asked(daemon) == 0
            assert await asyncio.to_thread(daemon.stop) == 0
        assert _told(server) == [[]], "a day is not over"
        announcements.age(daemon)
        with daemon:
            await asyncio.to_thread(
                daemon.wait_for, lambda: announcements.are_over(daemon), 30, "it is ended"
            )
            assert await asyncio.to_thread(daemon.stop) == 0
        assert _told(server) == [["terminated"]]
        _judge(daemon, server)


async def test_pre_creates_while_the_api_is_not_there_announce_nothing_later(
    tmp_path: Path, server: ReferenceServer
) -> None:
    async with FaultyHttp(server.api.url) as proxy:
        url = proxy.url
    daemon = _daemon(tmp_path / "world", url)
    with daemon:
        for _ in range(5):
            assert await asyncio.to_thread(_refused, daemon)
        await asyncio.to_thread(
            daemon.wait_for, lambda: announcements.asked(daemon) == 0, 10, "nothing is left to ask"
        )
        assert await asyncio.to_thread(daemon.stop) == 0
    _judge(daemon, server)

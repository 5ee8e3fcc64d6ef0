"""The REST API at its worst, at each of its requests: all is reported, in order, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.peers import faulty
from tests.peers.dropoffd import Dropoffd
from tests.peers.faulty import FaultyHttp, Meets, Spoil
from tests.peers.faulty_tcp import FaultyTcp
from tests.peers.reference_api import ReferenceServer
from tests.peers.scene import Recipient, Scene
from tests.peers.stores import Folder
from tests.peers.tls import Certificate, TlsBefore
from tests.peers.tusd_files import pre_create

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

STUDY = str(uuid.uuid4())
NO_NAME = ".".join(["a" * 60] * 5)
"""Longer than a name can be: nobody is asked for it."""
STOPS_WITHIN = 15.0
"""Seconds; the API has 30 for an answer, and as many has a part that is under way."""

FAULTS: tuple[Callable[[], Spoil], ...] = (
    lambda: faulty.answer(429, Retry_After="1"),
    lambda: faulty.answer(500),
    lambda: faulty.answer(503, Retry_After="1"),
    lambda: faulty.done_but(502),
    lambda: faulty.reset_in_body(0),
    faulty.lost_answer,
    faulty.half_answer,
    faulty.stall_in_body,
    faulty.silent_after_body,
    lambda: faulty.other_header("Server-Authorization", 'Hawk mac="AAAA", hash="AAAA"'),
    lambda: faulty.other_header("Server-Authorization", ""),
    lambda: faulty.slow_answer(1.0),  # a good one: the last plan that is asked for
)


def is_announcement(request: web.BaseRequest) -> bool:
    return request.path == "/uploads/"


def is_plan(request: web.BaseRequest) -> bool:
    return request.path.startswith("/studies/")


def is_report(request: web.BaseRequest) -> bool:
    return request.path.endswith("/reports/")


def every_other(meets: Meets) -> Meets:
    """Half of them: a fault upon a fault is waited for longer and longer."""
    met = 0
    last: web.BaseRequest | None = None

    def odd(request: web.BaseRequest) -> bool:
        nonlocal met, last
        if meets(request) and request is not last:
            met, last = met + 1, request
        return meets(request) and met % 2 == 1

    return odd


@dataclass
class World:
    """A daemon's way to the REST API: name, TCP, TLS, HTTP, and the scene that it works in."""

    scene: Scene
    server: ReferenceServer
    tls: TlsBefore
    tcp: FaultyTcp
    http: FaultyHttp
    url: str

    def daemon(self, url: str | None = None) -> Dropoffd:
        return self.scene.daemon(url or self.url)

    async def met(self, faults: int) -> None:
        async with asyncio.timeout(30):
            while self.http.made < faults:  # noqa: ASYNC110 -- the proxy has no event for it
                await asyncio.sleep(0.02)

    async def over(self, daemon: Dropoffd) -> None:
        await asyncio.to_thread(daemon.wait_until_over, len(self.scene.sent), 60)

    def check(self, daemon: Dropoffd, unanswered: int = 0) -> None:
        """``unanswered``: how many lost answers there may be of announcements nobody followed."""
        self.scene.check(daemon, self.server)
        drops = self.server.drops()
        followed = [drop for drop in drops if drop["reports"]]
        assert len(followed) == len(self.scene.sent)
        assert len(drops) - len(followed) <= unanswered


@pytest.fixture(scope="module")
def recipient(tmp_path_factory: pytest.TempPathFactory) -> Recipient:
    return Recipient(tmp_path_factory.mktemp("recipient"))


@pytest.fixture
def server(tmp_path: Path, recipient: Recipient) -> Iterator[ReferenceServer]:
    (tmp_path / "api").mkdir()
    with ReferenceServer(
        tmp_path / "api", recipient.study(STUDY, ["local"]), path="/"
    ) as reference:
        yield reference


@contextlib.asynccontextmanager
async def world(
    directory: Path, server: ReferenceServer, recipient: Recipient, patience: str
) -> AsyncIterator[World]:
    async with (
        FaultyHttp(server.api.url) as http_proxy,
        TlsBefore(directory, urlsplit(http_proxy.url).port or 0) as tls,
        FaultyTcp("127.0.0.1", tls.port) as tcp,
    ):
        (directory / "store").mkdir()
        config = (
            f'[api]\ntimeout = "{patience}"\nca_file = "{tls.authority}"\n'
            f'[destinations.local]\ntype = "directory"\ndirectory = "{directory}/store"\n'
        )
        stores = {"local": Folder(directory / "store")}
        scene = Scene(directory, STUDY, recipient, stores, config, {})
        yield World(scene, server, tls, tcp, http_proxy, f"https://127.0.0.1:{tcp.port}/")


def ask(daemon: Dropoffd, size: int) -> dict[str, Any]:
    """Ask whether an upload may be, as tusd 2 does; its answer."""
    return pre_create(daemon, size, {"filename": f"{size}.bam", "study": STUDY}, "/hooks")


async def test_each_fault_of_each_request_is_outlived(
    tmp_path: Path, server: ReferenceServer, recipient: Recipient
) -> None:
    async with world(tmp_path, server, recipient, "2s") as there:
        for meets in (every_other(is_announcement), is_plan, every_other(is_report)):
            for fault in FAULTS:
                there.http.spoil(meets, fault())
        await asyncio.to_thread(there.scene.lay, *range(1000, 1000 + len(FAULTS)))
        daemon = there.daemon()
        with daemon:
            await there.met(2 * len(FAULTS))
            await there.tcp.refuse()
            await asyncio.sleep(1.5)
            there.tcp.reset_after(0)
            there.tcp.reset_after(600)
            await there.tcp.listen()
            await asyncio.to_thread(there.scene.lay, *range(2000, 2000 + len(FAULTS)))
            await there.over(daemon)
            assert await asyncio.to_thread(daemon.stop) == 0
        assert there.http.made == 3 * len(FAULTS)
        there.check(daemon)


async def test_pre_create_refuses_while_the_api_fails_and_announces_once_it_does_not(
    tmp_path: Path, server: ReferenceServer, recipient: Recipient
) -> None:
    async with world(tmp_path, server, recipient, "1s") as there:
        daemon = there.daemon()
        with daemon:

            async def refused(fault: Spoil, times: int = 1) -> dict[str, Any]:
                there.http.spoil(is_announcement, fault, times)
                answer = await asyncio.to_thread(ask, daemon, 5000)
                assert answer["RejectUpload"] is True
                assert answer["HTTPResponse"]["StatusCode"] == 503
                headers: dict[str, Any] = answer["HTTPResponse"]["Header"]
                return headers

            assert (await refused(faulty.answer(429, Retry_After="7")))["Retry-After"] == "7"
            assert (await refused(faulty.answer(503, Retry_After="8")))["Retry-After"] == "8"
            for fault in (faulty.answer(500), faulty.stall_in_body(0)):
                assert "Retry-After" in await refused(fault)
            await refused(faulty.reset_in_body(0), times=2)
            await there.tcp.refuse()
            await refused(faulty.answer(500), times=0)
            await there.tcp.listen()
            # An answer that is lost with its connection is asked for again at once.
            there.http.spoil(is_announcement, faulty.lost_answer())
            answer = await asyncio.to_thread(ask, daemon, 5000)
            assert "dropoff_id" in answer["ChangeFileInfo"]["MetaData"]
            await asyncio.to_thread(there.scene.lay, 5000)
            await there.over(daemon)
            assert await asyncio.to_thread(daemon.stop) == 0
        there.check(daemon, unanswered=3)


@pytest.mark.parametrize("certificate", ["of nobody known", "expired", "of another host"])
async def test_nothing_is_said_to_an_api_whose_certificate_is_wrong_until_it_is_right(
    certificate: Certificate, tmp_path: Path, server: ReferenceServer, recipient: Recipient
) -> None:
    async with world(tmp_path, server, recipient, "2s") as there:
        await there.tls.show(certificate)
        await asyncio.to_thread(there.scene.lay, 5000)
        daemon = there.daemon()
        with daemon:
            answer = await asyncio.to_thread(ask, daemon, 6000)
            assert answer["HTTPResponse"]["StatusCode"] == 503
            await asyncio.to_thread(
                daemon.wait_for, lambda: _waits(daemon), 20, "an upload waits for the API"
            )
            assert there.tls.served == 0
            await there.tls.show("right")
            await there.over(daemon)
            assert await asyncio.to_thread(daemon.stop) == 0
        there.check(daemon)


@pytest.mark.parametrize("place", [100, 300], ids=["the client's hello", "the server's hello"])
async def test_a_handshake_that_ends_in_its_middle_is_outlived(
    place: int, tmp_path: Path, server: ReferenceServer, recipient: Recipient
) -> None:
    async with world(tmp_path, server, recipient, "2s") as there:
        for _ in range(3):
            (there.tcp.close_after if place == 100 else there.tcp.close_after_answer)(place)
        await asyncio.to_thread(there.scene.lay, 5000)
        daemon = there.daemon()
        with daemon:
            await there.over(daemon)
            assert await asyncio.to_thread(daemon.stop) == 0
        assert there.tcp.made == 3
        there.check(daemon)


async def test_a_stop_amid_each_request_is_in_time_and_the_next_start_goes_on(
    tmp_path: Path, server: ReferenceServer, recipient: Recipient
) -> None:
    async with world(tmp_path, server, recipient, "30s") as there:
        await asyncio.to_thread(there.scene.lay, 3000)
        nowhere = there.daemon(f"http://{NO_NAME}/")
        with nowhere:
            await asyncio.to_thread(
                nowhere.wait_for, lambda: _waits(nowhere), 20, "an upload waits for the API"
            )
            assert await _stopped(nowhere) == 0
        daemon = there.daemon()
        for amid, fault in (
            (is_announcement, faulty.silent_after_body()),
            (is_plan, faulty.stall_in_body(0)),
            (is_report, faulty.silent_after_body()),
        ):
            made = there.http.made
            there.http.spoil(amid, fault)
            with daemon:
                await there.met(made + 1)
                assert await _stopped(daemon) == 0
        made = there.http.made
        there.http.spoil(is_announcement, faulty.stall_in_body(0))
        with daemon:
            asking = asyncio.create_task(asyncio.to_thread(ask, daemon, 1))
            await there.met(made + 1)
            assert await _stopped(daemon) == 0
            assert (await asking)["HTTPResponse"]["StatusCode"] == 503
        with daemon:
            await there.over(daemon)
            assert await asyncio.to_thread(daemon.stop) == 0
        there.check(daemon, unanswered=1)


async def test_an_upload_that_fails_before_the_api_knows_of_it_is_reported_once_it_is_back(
    tmp_path: Path, server: ReferenceServer, recipient: Recipient
) -> None:
    async with world(tmp_path, server, recipient, "2s") as there:
        await asyncio.to_thread(there.scene.lay, 4000)
        (sent,) = there.scene.sent
        daemon = there.daemon()
        data = daemon.uploads / sent.tus_id
        data.rename(tmp_path / "elsewhere")
        data.symlink_to(tmp_path / "elsewhere")
        await there.tcp.refuse()
        with daemon:
            await there.over(daemon)
            assert await asyncio.to_thread(daemon.stop) == 0
            assert server.drops() == []
        await there.tcp.listen()
        with daemon:
            await asyncio.to_thread(
                daemon.wait_for, lambda: _told(server)[-1:] == ["failed"], 30, "it is told"
            )
            assert await asyncio.to_thread(daemon.stop) == 0
        (drop,) = server.drops()
        assert _told(server) == ["received", "failed"]
        assert drop["reports"][-1]["error"]["code"] == "source_unsafe"
        assert data.is_symlink(), "kept until retry or discard"


def _told(server: ReferenceServer) -> list[str]:
    return [report["state"] for drop in server.drops() for report in drop["reports"]]


def _waits(daemon: Dropoffd) -> bool:
    return any((each["error"] or {}).get("code") == "api_unreachable" for each in daemon.listed())


async def _stopped(daemon: Dropoffd) -> int:
    """Its exit code, asked for in time."""
    began = time.monotonic()
    code = await asyncio.to_thread(daemon.stop, STOPS_WITHIN + 20)
    assert time.monotonic() - began < STOPS_WITHIN
    return code

"""WebDAV and SFTP servers that fail at the worst moment: the delivery ends right, or says why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from pipeline.messages import DestinationSpec
from tests.peers import faulty
from tests.peers.conveying import Line, LocalWorkers, grow, line, shrink, swap
from tests.peers.deliveries import MIB
from tests.peers.faulty import FaultyHttp, Meets, Spoil
from tests.peers.faulty_tcp import FaultyTcp
from tests.peers.hasty import make_hasty
from tests.peers.oracle import Failing
from tests.peers.places import PLACES, Place

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]

SIZE = 10 * MIB + 1
WEBDAV = ("rclone serve webdav", "nextcloud_like")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    async with PLACES[request.param](tmp_path_factory.mktemp("place")) as running:
        yield running


@asynccontextmanager
async def through(spec: DestinationSpec, directory: Path, **reached: object) -> AsyncIterator[Line]:
    """A line to a destination that is reached in another way."""
    spec = msgspec.structs.replace(spec, **reached)
    async with LocalWorkers() as workers, line(directory, workers, spec) as made:
        yield made


# WebDAV ---------------------------------------------------------------------------------------


def sends(request: web.BaseRequest) -> bool:
    return request.method == "PUT"


def moves(request: web.BaseRequest) -> bool:
    return request.method == "MOVE"


def reads(request: web.BaseRequest) -> bool:
    return request.method == "GET"


PASSING: dict[str, tuple[Meets, Spoil]] = {
    "reset in the body": (sends, faulty.reset_in_body()),
    "stall in the body": (sends, faulty.stall_in_body()),
    "no answer to the body": (sends, faulty.silent_after_body()),
    "500 after the last byte": (sends, faulty.answer(500)),
    "500 though it is stored": (sends, faulty.done_but(500)),
    "503 with Retry-After": (sends, faulty.answer(503, Retry_After="1")),
    "429 with Retry-After": (sends, faulty.answer(429, Retry_After="1")),
    "half an answer to the body": (sends, faulty.half_answer()),
    "another byte stored": (sends, faulty.other_byte_stored()),
    "a body in drips": (sends, faulty.slow_body()),
    "no answer to the move": (moves, faulty.lost_answer()),
    "half an answer to the move": (moves, faulty.half_answer()),
    "429 to the move": (moves, faulty.answer(429)),
    "500 though it is moved": (moves, faulty.done_but(502)),
    "500 to the move": (moves, faulty.answer(500)),
    "another byte read": (reads, faulty.other_byte_read()),
    "half of it read": (reads, faulty.half_answer()),
    "read in drips": (reads, faulty.slow_answer()),
}
"""What happens once, and must not be seen in the end."""


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(place: Place) -> AsyncIterator[FaultyHttp]:
    async with FaultyHttp(place.spec.url) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def webdav(
    place: Place, proxy: FaultyHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Line]:
    make_hasty(monkeypatch)
    async with through(place.spec, tmp_path, url=proxy.url) as made:
        yield made


@pytest.mark.parametrize("place", WEBDAV, indirect=True)
@pytest.mark.parametrize("fault", PASSING)
async def test_what_happens_once_at_a_webdav_server_is_not_seen_in_the_end(
    fault: str, webdav: Line, place: Place, proxy: FaultyHttp
) -> None:
    proxy.spoil(*PASSING[fault])
    await webdav.judged(place, await webdav.receive(SIZE))
    assert proxy.made == 1


@pytest.mark.parametrize("place", WEBDAV, indirect=True)
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ((sends, faulty.other_byte_stored()), "verification_failed"),
        ((reads, faulty.other_byte_read()), "verification_failed"),
        ((sends, faulty.answer(507)), "destination_refused"),
        ((moves, faulty.answer(403)), "destination_refused"),
    ],
    ids=["another byte stored", "another byte read", "no quota", "no right to move"],
)
async def test_what_goes_on_at_a_webdav_server_is_told_and_nothing_has_the_name(
    fault: tuple[Meets, Spoil], code: str, webdav: Line, place: Place, proxy: FaultyHttp
) -> None:
    proxy.spoil(*fault, times=1000)
    failing = Failing(code, begun=code == "destination_refused")  # for a `retry` to go on with
    await webdav.judged(place, await webdav.receive(SIZE), failing)


@pytest.mark.parametrize("place", WEBDAV, indirect=True)
async def test_a_webdav_server_that_takes_no_connections_for_a_while(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_hasty(monkeypatch)
    origin, slash, path = place.spec.url.removeprefix("http://").partition("/")
    host, port = origin.split(":")
    async with FaultyTcp(host, int(port)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}{slash}{path}"
        async with through(place.spec, tmp_path, url=url) as made:
            await away_for_a_while(made, place, proxy)


# SFTP -----------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module")
async def tunnel(place: Place) -> AsyncIterator[FaultyTcp]:
    async with FaultyTcp(place.spec.host, place.spec.port) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def sftp(
    place: Place, tunnel: FaultyTcp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Line]:
    make_hasty(monkeypatch)
    hosts = tmp_path / "hosts"
    known = place.spec.host_keys
    key = (await asyncio.to_thread(Path(known).read_text)).partition(" ")[2]
    hosts.write_text(f"[127.0.0.1]:{tunnel.port} {key}")
    async with through(place.spec, tmp_path, port=tunnel.port, host_keys=str(hosts)) as made:
        yield made


@pytest.mark.parametrize("place", ["OpenSSH"], indirect=True)
@pytest.mark.parametrize("after", [100, 30_000, 3 * MIB, SIZE - MIB])
async def test_an_ssh_connection_that_is_reset_is_made_again(
    after: int, sftp: Line, place: Place, tunnel: FaultyTcp
) -> None:
    tunnel.reset_after(after)
    await sftp.judged(place, await sftp.receive(SIZE))
    assert tunnel.made == 1


@pytest.mark.parametrize("place", ["OpenSSH"], indirect=True)
@pytest.mark.parametrize("after", [100, 3 * MIB])
async def test_an_ssh_connection_that_stalls_is_given_up(
    after: int, sftp: Line, place: Place, tunnel: FaultyTcp
) -> None:
    tunnel.stall_after(after)
    await sftp.judged(place, await sftp.receive(SIZE))
    assert tunnel.made == 1


@pytest.mark.parametrize("place", ["OpenSSH"], indirect=True)
async def test_an_ssh_connection_that_drips_is_waited_for(
    sftp: Line, place: Place, tunnel: FaultyTcp
) -> None:
    tunnel.drip(65_536, 0.005)
    await sftp.judged(place, await sftp.receive(SIZE))


@pytest.mark.parametrize("place", ["OpenSSH"], indirect=True)
async def test_an_ssh_server_that_takes_no_connections_for_a_while(
    sftp: Line, place: Place, tunnel: FaultyTcp
) -> None:
    await away_for_a_while(sftp, place, tunnel)


async def away_for_a_while(made: Line, place: Place, proxy: FaultyTcp) -> None:
    upload = await made.receive(SIZE)
    async with made.running():
        while not await made.journal.deliveries(upload):  # noqa: ASYNC110  # has no event
            await asyncio.sleep(0.005)
        await proxy.refuse()
        await asyncio.sleep(1)
        await proxy.listen()
        await made.over(upload)
    await made.judged(place, upload)


# The source -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", WEBDAV, indirect=True)
@pytest.mark.parametrize("change", [grow, shrink], ids=["grows", "shrinks"])
async def test_a_source_that_changes_its_length_while_a_webdav_server_fails(
    change: Callable[[Path], None], webdav: Line, place: Place, proxy: FaultyHttp
) -> None:
    proxy.spoil(*PASSING["reset in the body"])
    proxy.on_fault = lambda: webdav.change(change)
    failing = Failing("source_changed", begun=True)
    await webdav.judged(place, await webdav.receive(SIZE), failing)


@pytest.mark.parametrize("place", ["OpenSSH"], indirect=True)
@pytest.mark.parametrize("change", [grow, shrink], ids=["grows", "shrinks"])
async def test_a_source_that_changes_its_length_while_an_ssh_connection_breaks(
    change: Callable[[Path], None], sftp: Line, place: Place, tunnel: FaultyTcp
) -> None:
    tunnel.reset_after(3 * MIB)
    tunnel.on_fault = lambda: sftp.change(change)
    failing = Failing("source_changed", begun=True)
    await sftp.judged(place, await sftp.receive(SIZE), failing)


@pytest.mark.parametrize("place", WEBDAV, indirect=True)
@pytest.mark.parametrize("fault", ["reset in the body", "500 though it is stored"])
async def test_a_source_that_is_swapped_while_a_webdav_server_fails_starts_over(
    fault: str, webdav: Line, place: Place, proxy: FaultyHttp
) -> None:
    proxy.spoil(*PASSING[fault])
    proxy.on_fault = lambda: webdav.change(swap)
    await webdav.judged(place, await webdav.receive(SIZE))

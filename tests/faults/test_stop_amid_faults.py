"""SIGTERM to a real daemon amid each kind of fault: it ends in time, and the next start goes on.

Faults are of what stands between us and the store: its name, TCP, TLS and HTTP, or SSH.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from pipeline.envelope.base import SEGMENT
from tests.peers import faulty, faulty_sftp
from tests.peers.deliveries import MIB
from tests.peers.dropoffd import Dropoffd
from tests.peers.faulty import Spoil
from tests.peers.faulty_sftp import FaultySftp, SftpFault
from tests.peers.faulty_tcp import FaultyTcp
from tests.peers.four_stores import Cloud
from tests.peers.names import HOST, Names
from tests.peers.nextcloud_like import NextcloudLike
from tests.peers.reference_api import ReferenceServer
from tests.peers.scene import Recipient, Scene
from tests.peers.seaweedfs import Weed
from tests.peers.stores import Bucket, Folder, Store
from tests.peers.way import Way, way

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

STUDY = str(uuid.uuid4())
SIZE = 10 * MIB + 1
"""Three parts."""
PARKING = 3.0
"""Seconds that a stop waits for parts."""
STOPS_WITHIN = PARKING + 12
FOR_EVER = 1000
HEADER = 124
"""Bytes of Crypt4GH's header for one recipient."""

PIPELINE = f'[pipeline]\nworkers = 1\npart_size = "5MiB"\nstop_timeout = "{PARKING:.0f}s"\n'


@dataclass(frozen=True)
class Neighbour:
    """A store that can be made to fail, and a daemon's scene before it."""

    scene: Scene
    environment: dict[str, str]
    faults: Callable[[], int]
    """How many there were."""
    parts: Callable[[], list[int]]
    """The numbers of parts of which it took something, in order."""
    finished: Callable[[Dropoffd], set[int]]
    """Those of which it has all, and the daemon may know that."""


@pytest.fixture(scope="module")
def recipient(tmp_path_factory: pytest.TempPathFactory) -> Recipient:
    return Recipient(tmp_path_factory.mktemp("recipient"))


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, recipient: Recipient
) -> Iterator[ReferenceServer]:
    far = '[destinations.far]\ntype = "directory"\ndirectory = "/nowhere"\n'
    studies = far + recipient.study(STUDY, ["far"])
    with ReferenceServer(tmp_path_factory.mktemp("api"), studies) as server:
        yield server


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("weed")) as server:
        server.make_bucket("far")
        yield server


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110  # nobody has an event for it
            await asyncio.sleep(0.05)


def waits(daemon: Dropoffd) -> bool:
    """Whether a delivery was told to be in vain for now."""
    return b"destination_unreachable" in daemon.log.read_bytes()


async def stops_and_goes_on(
    there: Neighbour,
    api: ReferenceServer,
    amid: Callable[[Dropoffd], object],
    mend: Callable[[], Awaitable[None]],
    *,
    anew: bool = False,
) -> None:
    """SIGTERM once it is ``amid`` a fault; after ``mend`` the next start brings it to its end.

    ``anew``: parts that are there may be thrown away, and none of them trusted any more.
    """
    await asyncio.to_thread(there.scene.lay, SIZE)
    daemon = there.scene.daemon(api.api.url, **there.environment)
    with daemon:
        await until(lambda: amid(daemon))
        began = time.monotonic()
        assert await asyncio.to_thread(daemon.stop, STOPS_WITHIN + 20) == 0
        assert time.monotonic() - began < STOPS_WITHIN
    finished, sent = there.finished(daemon), len(there.parts())
    await mend()
    with daemon:
        await asyncio.to_thread(daemon.wait_until_over, 1, 60)
        assert await asyncio.to_thread(daemon.stop) == 0
    await asyncio.to_thread(there.scene.check, daemon, api)
    again = finished.intersection(there.parts()[sent:])
    assert anew or not again, "parts that were there were sent again"


# S3 and WebDAV --------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module", params=["S3", "WebDAV"])
async def secure(
    request: pytest.FixtureRequest, tmp_path: Path, weed: Weed, recipient: Recipient
) -> AsyncIterator[tuple[Way, Neighbour]]:
    async with contextlib.AsyncExitStack() as stack:
        store: Store
        if request.param == "S3":
            there = await stack.enter_async_context(way(tmp_path, weed.endpoint))
            prefix = f"{tmp_path.name}/"
            store = Bucket(weed, "far", prefix)
            table = (
                f'type = "s3"\nendpoint = "{there.url}"\nbucket = "far"\nregion = "us-east-1"\n'
                f'path = "{prefix}{{upload}}/{{filename}}"\n'
            )
            secrets = {"ACCESS_KEY": weed.access_key, "SECRET_KEY": weed.secret_key}
        else:
            cloud = await stack.enter_async_context(NextcloudLike(tmp_path))
            there = await stack.enter_async_context(way(tmp_path, cloud.url))
            store = Cloud(cloud)
            table = f'type = "webdav"\nurl = "{there.url}"\nuser = "{cloud.user}"\n'
            secrets = {"PASSWORD": cloud.password}
        config = f'{PIPELINE}[destinations.far]\nca_file = "{there.tls.authority}"\n{table}'
        scene = Scene(
            tmp_path,
            STUDY,
            recipient,
            {"far": store},
            config,
            {f"DROPOFF_FAR_{name}": value for name, value in secrets.items()},
        )
        yield (
            there,
            Neighbour(
                scene,
                there.names.environment,
                lambda: there.http.made + there.tcp.made,
                lambda: numbers(there.http.passed),
                lambda _: set(numbers(there.http.passed)),
            ),
        )


PART_NUMBER = re.compile(r"PUT .*(?:partNumber=|dropoffd-[^/]*/0*)(\d+)")
"""Of what S3 and Nextcloud are asked."""


def numbers(requests: Sequence[str]) -> list[int]:
    return [int(found[1]) for line in requests if (found := PART_NUMBER.match(line))]


def sends(request: web.BaseRequest) -> bool:
    """The second part."""
    return numbers([f"{request.method} {request.raw_path}"]) == [2]


def ends(request: web.BaseRequest) -> bool:
    completes = request.method == "POST" and "uploadId=" in request.query_string
    return completes or request.method == "MOVE"


AMID_A_PART: dict[str, Spoil] = {
    "resets": faulty.reset_in_body(),
    "a stall": faulty.stall_in_body(),
    "no answer": faulty.silent_after_body(),
    "half answers": faulty.half_answer(),
    "429": faulty.answer(429, Retry_After="1"),
    "500": faulty.answer(500),
    "503": faulty.answer(503, Retry_After="1"),
    "damage": faulty.other_byte_stored(),
    "a drip that ends in time": faulty.slow_body(1.5),
    "a drip without end": faulty.slow_body(1000, 2000),
}

AMID_THE_END: dict[str, Spoil] = {
    "a stall": faulty.stall_in_body(0),
    "no answer though it is done": faulty.silent_after_body(),
    "a lost answer": faulty.lost_answer(),
    "an answer in drips": faulty.slow_answer(1000, 2000),
    "500": faulty.answer(500),
}


@pytest.mark.parametrize("fault", AMID_A_PART)
async def test_a_stop_amid_a_part(
    fault: str, secure: tuple[Way, Neighbour], api: ReferenceServer
) -> None:
    there, neighbour = secure
    there.http.spoil(sends, AMID_A_PART[fault], FOR_EVER)

    async def mend() -> None:
        there.http.be_good()

    await stops_and_goes_on(
        neighbour, api, lambda _: neighbour.faults(), mend, anew=fault == "damage"
    )


@pytest.mark.parametrize("fault", AMID_THE_END)
async def test_a_stop_amid_the_last_request(
    fault: str, secure: tuple[Way, Neighbour], api: ReferenceServer
) -> None:
    there, neighbour = secure
    there.http.spoil(ends, AMID_THE_END[fault], FOR_EVER)
    sent: list[int] = []

    async def mend() -> None:
        there.http.be_good()
        sent.extend(neighbour.parts())

    await stops_and_goes_on(neighbour, api, lambda _: neighbour.faults(), mend)
    assert neighbour.parts() == sent, "all parts were there"


async def close_many(there: Way) -> None:
    for _ in range(FOR_EVER):
        there.tcp.close_after_answer(300)


async def lose_name(there: Way) -> None:
    there.names.go()


async def expire(there: Way) -> None:
    await there.tls.show("expired")


async def refuse(there: Way) -> None:
    await there.tcp.refuse()


UNREACHABLE: dict[str, Callable[[Way], Awaitable[None]]] = {
    "TLS that ends": close_many,
    "a name that is gone": lose_name,
    "a certificate that expired": expire,
    "no connections": refuse,
}


@pytest.mark.parametrize("fault", UNREACHABLE)
async def test_a_stop_while_a_store_cannot_be_reached(
    fault: str, secure: tuple[Way, Neighbour], api: ReferenceServer
) -> None:
    there, neighbour = secure
    await UNREACHABLE[fault](there)

    async def mend() -> None:
        there.tcp.be_good()
        there.names.come()
        await there.tls.show("right")
        if fault == "no connections":
            await there.tcp.listen()

    await stops_and_goes_on(neighbour, api, waits, mend)


# SFTP -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SshWay:
    """A name, TCP and an SFTP server."""

    names: Names
    tcp: FaultyTcp
    server: FaultySftp


@pytest_asyncio.fixture(loop_scope="module")
async def ssh(tmp_path: Path, recipient: Recipient) -> AsyncIterator[tuple[SshWay, Neighbour]]:
    (tmp_path / "server").mkdir()
    names = Names(tmp_path)
    names.come()
    async with (
        FaultySftp(tmp_path / "server") as server,
        FaultyTcp("127.0.0.1", server.spec.port) as tcp,
    ):
        config = (
            f'{PIPELINE}[destinations.far]\ntype = "sftp"\nhost = "{HOST}"\nport = {tcp.port}\n'
            f'user = "tests"\nhost_keys = "{server.host_key}"\n'
        )
        key = {"DROPOFF_FAR_KEY_FILE": server.spec.key}
        scene = Scene(tmp_path, STUDY, recipient, {"far": Folder(server.root)}, config, key)
        yield (
            SshWay(names, tcp, server),
            Neighbour(
                scene,
                names.environment,
                lambda: server.made + tcp.made,
                lambda: [number_at(place) for name, place in server.passed if name == "write"],
                known_parts,
            ),
        )


def number_at(place: int) -> int:
    """Of the part that has the byte at ``place`` in the sealed file."""
    sealed_part = 5 * MIB // SEGMENT * (SEGMENT + 28)
    return max(0, place - HEADER) // sealed_part + 1


def known_parts(daemon: Dropoffd) -> set[int]:
    """Those that were journaled: of others nobody can tell by looking that they are whole."""
    with contextlib.closing(sqlite3.connect(daemon.state / "journal.sqlite")) as journal:
        return {number for (number,) in journal.execute("SELECT number FROM parts")}


def spoiled(operation: str, fault: SftpFault) -> Callable[[SshWay], None]:
    return lambda at: at.server.spoil(operation, fault, FOR_EVER)


def reset_many(at: SshWay) -> None:
    for _ in range(FOR_EVER):
        at.tcp.reset_after(30_000)


SSH_FAULTS: dict[str, Callable[[SshWay], None]] = {
    "failing writes": spoiled("write", faulty_sftp.failing()),
    "a stall in writes": spoiled("write", faulty_sftp.silent(done=False)),
    "writes in drips": spoiled("write", faulty_sftp.slow(0.5)),
    "lost answers to writes": spoiled("write", faulty_sftp.lost_answer()),
    "another byte read": spoiled("read", faulty_sftp.other_byte()),
    "a stall in a read": spoiled("read", faulty_sftp.silent(done=False)),
    "a stall at rename": spoiled("rename", faulty_sftp.silent(done=False)),
    "no answer to a done rename": spoiled("rename", faulty_sftp.silent(done=True)),
    "a connection that stalls": lambda at: at.tcp.stall_after(3 * MIB),
    "a connection that drips": lambda at: at.tcp.drip(1000, 0.5),
    "resets": reset_many,
    "a name that is gone": lambda at: at.names.go(),
}


@pytest.mark.parametrize("fault", SSH_FAULTS)
async def test_a_stop_amid_a_fault_of_an_sftp_server(
    fault: str, ssh: tuple[SshWay, Neighbour], api: ReferenceServer
) -> None:
    there, neighbour = ssh
    SSH_FAULTS[fault](there)

    async def mend() -> None:
        there.server.be_good()
        there.tcp.be_good()
        there.names.come()

    def amid(daemon: Dropoffd) -> bool:
        return neighbour.faults() > 0 or waits(daemon)

    await stops_and_goes_on(neighbour, api, amid, mend)

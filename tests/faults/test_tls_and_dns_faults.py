"""Names that are gone, TLS that ends and certificates that change, on the way to a store.

None of it fails a delivery, and no byte goes to a server that couldn't prove who it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from tests.peers import faulty
from tests.peers.conveying import Line, LocalWorkers, line
from tests.peers.deliveries import MIB
from tests.peers.hasty import make_hasty
from tests.peers.names import HOST, Names
from tests.peers.places import PLACES, Place
from tests.peers.tls import Certificate
from tests.peers.way import Way, way

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

SIZE = 10 * MIB + 1
SECURE = ("SeaweedFS", "rclone serve webdav")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    async with PLACES[request.param](tmp_path_factory.mktemp("place")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def there(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Way]:
    async with way(tmp_path, place.spec.endpoint or place.spec.url) as made:
        made.names.answer_here(monkeypatch)
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def conveyor(
    place: Place, there: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Line]:
    make_hasty(monkeypatch)
    reached = {"endpoint" if place.spec.type == "s3" else "url": there.url}
    spec = msgspec.structs.replace(place.spec, ca_file=str(there.tls.authority), **reached)
    async with LocalWorkers() as workers, line(tmp_path, workers, spec) as made:
        yield made


def sends(request: web.BaseRequest) -> bool:
    return request.method == "PUT" and request.query.get("partNumber", "2") == "2"


def ends(request: web.BaseRequest) -> bool:
    completes = request.method == "POST" and "uploadId=" in request.query_string
    return completes or request.method == "MOVE"


TLS_ENDS: dict[str, Callable[[Way], None]] = {
    "in the client's hello": lambda there: there.tcp.close_after(100),
    "in the server's hello": lambda there: there.tcp.close_after_answer(300),
    "in a body": lambda there: there.http.spoil(sends, faulty.reset_in_body()),
    "before the last answer": lambda there: there.http.spoil(ends, faulty.lost_answer()),
    "in the last answer": lambda there: there.http.spoil(ends, faulty.half_answer()),
}
"""Without a word of TLS that this was all."""


@pytest.mark.parametrize("place", SECURE, indirect=True)
@pytest.mark.parametrize("where", TLS_ENDS)
async def test_tls_that_ends_is_begun_again(
    where: str, conveyor: Line, place: Place, there: Way
) -> None:
    TLS_ENDS[where](there)
    await conveyor.judged(place, await conveyor.receive(SIZE))
    assert there.http.made + there.tcp.made == 1


@pytest.mark.parametrize("place", SECURE, indirect=True)
@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        ("of nobody known", "self-signed certificate"),
        ("expired", "certificate has expired"),
        ("of another host", "certificate is not valid for"),
    ],
)
async def test_a_certificate_that_is_wrong_meanwhile_is_told_and_nothing_is_sent_to_it(
    certificate: Certificate, why: str, conveyor: Line, place: Place, there: Way
) -> None:
    there.http.spoil(ends, faulty.answer(500), times=1000)
    upload = await conveyor.receive(SIZE)
    async with conveyor.running():
        while not there.http.made:  # noqa: ASYNC110  # has no event
            await asyncio.sleep(0.01)
        await there.tls.show(certificate)
        there.http.be_good()
        served = there.tls.served
        await told(conveyor, upload, why)
        assert there.tls.served == served
        await there.tls.show("right")
        await conveyor.over(upload)
    await conveyor.judged(place, upload)


@pytest.mark.parametrize("place", SECURE, indirect=True)
async def test_a_host_that_no_name_server_knows_for_a_while(
    conveyor: Line, place: Place, there: Way
) -> None:
    there.names.go()
    upload = await conveyor.receive(SIZE)
    async with conveyor.running():
        await told(conveyor, upload, "not known")
        there.names.come()
        await conveyor.over(upload)
    await conveyor.judged(place, upload)


@pytest.mark.parametrize("place", ["OpenSSH"], indirect=True)
async def test_an_ssh_host_that_no_name_server_knows_for_a_while(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_hasty(monkeypatch)
    names = Names(tmp_path)
    names.answer_here(monkeypatch)
    known = await asyncio.to_thread(Path(place.spec.host_keys).read_text)
    spec = msgspec.structs.replace(place.spec, host=HOST, host_keys=known.partition(" ")[2])
    async with LocalWorkers() as workers, line(tmp_path, workers, spec) as conveyor:
        upload = await conveyor.receive(SIZE)
        async with conveyor.running():
            await told(conveyor, upload, "not known")
            names.come()
            await conveyor.over(upload)
        await conveyor.judged(place, upload)


async def told(conveyor: Line, upload: str, why: str) -> None:
    """Wait until that is told of the delivery."""
    async with asyncio.timeout(20):
        while not any(
            each.error and why in each.error.message
            for each in await conveyor.journal.deliveries(upload)
        ):
            conveyor.now += 1.0
            await asyncio.sleep(0.01)

"""What tus clients do at a site, each scenario by itself, all at once: :func:`visit`."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import aiohttp
from tusclient.client import TusClient as Tuspy

from tests.peers.connections import wait_until_done
from tests.peers.oracle import Sent
from tests.peers.sending import Wanted, send
from tests.peers.servers import OTHER, Site, Way
from tests.peers.tus_client import VERSION, RefusedError, TusClient

UNKNOWN = "dddddddd-2222-4333-8444-555555555555"
"""A study that the REST API knows nothing of."""
HOSTILE = "../../{study}/a b\\c\n数据 \x1b[31m'\"; $(rm -rf .) `x`.bam"
SIZES = (0, 1, 3 * 1024 * 1024 + 17)
PIECE = 100_000
PATIENCE = 20.0
UNTOLD = 3.0
"""Seconds after which the REST API would know of an upload if it were told of it as it comes in."""


@dataclass(frozen=True)
class Answer:
    """What a client was told when it wanted to make an upload."""

    status: int
    text: str
    retry_after: str | None
    location: str | None


@dataclass(frozen=True)
class Slow:
    """An upload that took its time."""

    sent: Sent
    location: str
    reported: int | None
    """Bytes that a report told of while it was coming in; None: there was no report."""
    foreign: int | None
    """The status of a HEAD by another study's URL; None where there are no such URLs."""


@dataclass(frozen=True)
class TakenBack:
    """An upload that its client terminated half way."""

    tus_id: str
    known: bool
    """Whether the REST API had heard of it."""
    told: bool
    """Whether it then heard of its end, at once."""


@dataclass(frozen=True)
class Visit:
    """What the clients of one way did and saw."""

    whole: list[Sent]
    resumed: Sent
    late_length: Sent
    of_parts: Sent
    slow: Slow
    taken_back: TakenBack
    unknown: Answer
    """To one that wants to upload to a study that isn't known."""

    @property
    def sent(self) -> list[Sent]:
        """All that has to arrive."""
        return [*self.whole, self.resumed, self.late_length, self.of_parts, self.slow.sent]


async def visit(site: Site, way: Way) -> Visit:
    """Do all of it. Raises whatever went wrong first."""
    async with asyncio.TaskGroup() as group:
        whole = group.create_task(_whole(way))
        resumed = group.create_task(asyncio.to_thread(_resumed, site, way))
        late_length = group.create_task(_late_length(way))
        of_parts = group.create_task(_of_parts(way))
        slow = group.create_task(_slow(site, way))
        taken_back = group.create_task(_taken_back(site, way))
        unknown = group.create_task(ask(_unknown(site, way), UNKNOWN))
    return Visit(
        whole.result(),
        resumed.result(),
        late_length.result(),
        of_parts.result(),
        slow.result(),
        taken_back.result(),
        unknown.result(),
    )


async def ask(url: str, study: str) -> Answer:
    """Ask for an upload of nothing, which is complete at once where it may be."""
    async with TusClient(url) as client:
        try:
            location = await client.create(0, {"study": study, "filename": "asked for"})
        except RefusedError as error:
            return Answer(error.status, error.text, error.headers.get("Retry-After"), None)
    return Answer(201, "", None, location)


def _unknown(site: Site, way: Way) -> str:
    """Where an upload is made to the unknown study: behind nginx the URL names it."""
    return site.nginx.url(UNKNOWN) if way.name == "nginx" else way.url


async def _whole(way: Way) -> list[Sent]:
    sent = []
    for number, size in enumerate(SIZES):
        wanted = Wanted(way.claimed, f"{way.name} {size} {HOSTILE}", size, number)
        # The id is told relative to where the upload was made.
        done = await send(way.url, wanted)
        tus_id = way.tus_id(urlsplit(way.url).path + done.tus_id)
        sent.append(replace(done, tus_id=tus_id, study=way.study))
    return sent


def _resumed(site: Site, way: Way) -> Sent:
    """A piece is sent, the next one breaks off, and another client goes on where that ended."""
    data = random.Random(way.name).randbytes(5 * PIECE)
    metadata = _metadata(way, "interrupted")
    first = Tuspy(way.url).uploader(
        file_stream=io.BytesIO(data), metadata=metadata, chunk_size=PIECE
    )
    first.upload_chunk()  # type: ignore[no-untyped-call]  # as tuspy has it
    upload = str(first.url)
    _break_off(upload, PIECE, data[PIECE : 3 * PIECE])
    # Until then tusd refuses others by its lock. rustus has none: it takes what came of the broken
    # request and what is sent again, both behind each other.
    for port in (urlsplit(way.url).port, site.server.port):
        assert port is not None
        wait_until_done(port, PATIENCE)
    Tuspy(way.url).uploader(file_stream=io.BytesIO(data), url=upload, chunk_size=2 * PIECE).upload()
    return _sent(way, upload, metadata, data)


def _break_off(url: str, offset: int, data: bytes) -> None:
    """A PATCH that ends in the middle."""
    parts = urlsplit(url)
    head = (
        f"PATCH {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nTus-Resumable: 1.0.0\r\n"
        f"Content-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE) as connection:
        connection.sendall(head.encode() + data[: len(data) // 2])


async def _late_length(way: Way) -> Sent:
    data = random.Random(way.study).randbytes(PIECE)
    metadata = _metadata(way, "deferred")
    async with TusClient(way.url) as client:
        upload = await client.create(None, metadata)
        await client.patch(upload, 0, data)
        await client.patch(upload, len(data), data, length=2 * len(data))
    return _sent(way, upload, metadata, data + data)


async def _of_parts(way: Way) -> Sent:
    data = random.Random(way.url).randbytes(PIECE)
    metadata = _metadata(way, "of parts")
    async with TusClient(way.url) as client:
        parts = []
        for each in (data, b"end"):
            part = _metadata(way, "part")
            parts.append(await client.create(len(each), part, {"Upload-Concat": "partial"}))
            await client.patch(parts[-1], 0, each)
        upload = await client.concatenate(parts, metadata)
    return _sent(way, upload, metadata, data + b"end")


async def _slow(site: Site, way: Way) -> Slow:
    """Half of it, until a report tells of that; then the rest."""
    data = random.Random(way.base).randbytes(2 * PIECE)
    metadata = _metadata(way, "slow")
    async with TusClient(way.url) as client:
        upload = await client.create(len(data), metadata)
        await client.patch(upload, 0, data[:PIECE])
        reported = await _reported(site, way.tus_id(upload))
        foreign = None
        if way.name == "nginx":
            foreign = await _head(upload.replace(way.study, OTHER))
        await client.patch(upload, PIECE, data[PIECE:])
    return Slow(_sent(way, upload, metadata, data), upload, reported, foreign)


async def _taken_back(site: Site, way: Way) -> TakenBack:
    async with TusClient(way.url) as client:
        upload = await client.create(2 * PIECE, _metadata(way, "taken back"))
        await client.patch(upload, 0, bytes(PIECE))
        tus_id = way.tus_id(upload)
        known = await _reported(site, tus_id) is not None
        await client.terminate(upload)
        assert await _head(upload) in {404, 410}
    told = known and await _told(lambda: site.states(tus_id)[-1] == "terminated", PATIENCE)
    return TakenBack(tus_id, known, told)


async def _reported(site: Site, tus_id: str) -> int | None:
    """Wait for a report of an upload's bytes: how many it tells of; None: there is none.

    One that was seen before its first byte came may have been reported with none.
    """

    def received() -> int:
        drop = site.drop(tus_id)
        return 0 if drop is None else max(report["received"] for report in drop["reports"])

    patience = PATIENCE if site.asks else UNTOLD
    if not await _told(lambda: received() > 0, patience):
        return None
    return await asyncio.to_thread(received)


async def _told(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True


async def _head(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.head(url, headers=VERSION) as answer:
        return answer.status


def _metadata(way: Way, filename: str) -> dict[str, str]:
    return {"filename": f"{way.name} {filename}", "study": way.claimed}


def _sent(way: Way, upload: str, metadata: dict[str, str], data: bytes) -> Sent:
    sha256 = hashlib.sha256(data).hexdigest()
    return Sent(way.tus_id(upload), way.study, metadata["filename"], len(data), sha256)
